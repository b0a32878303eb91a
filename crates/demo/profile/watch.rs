//! What the e-mail service shows of itself: what became of events, and how far it is behind.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Result;
use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, Opts, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::topic_partition_list::Offset;

use crate::service::Stop;

/// How often the lag is measured.
const EVERY: Duration = Duration::from_secs(1);

/// Events by outcome: `mail`, `skipped`, `dead_letter`.
pub static EVENTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("mailer_events_total", "Events that were handled, by what became of them.");
    register_int_counter_vec!(opts, &["outcome"]).expect("registered once, with a valid name")
});

/// Whether an operator has paused it.
pub static PAUSED: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "1 while reading is paused by an operator.";
    register_int_gauge!("mailer_paused", help).expect("registered once, with a valid name")
});

/// Records of a partition that were not read yet.
static LAG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let opts = Opts::new("mailer_consumer_lag_records", "Records of the partition that were not read yet.");
    register_int_gauge_vec!(opts, &["partition"]).expect("registered once, with a valid name")
});

/// Measures the lag once a second until `stop`.
pub async fn measure(consumer: &StreamConsumer, stop: &Stop) -> Result<()> {
    for outcome in ["mail", "skipped", "dead_letter"] {
        // present from the start, so that a rate has a beginning
        EVENTS.with_label_values(&[outcome]);
    }
    PAUSED.set(0);
    while !stop.is_wanted() {
        if let Err(error) = tokio::task::block_in_place(|| lag(consumer)) {
            tracing::warn!(error = format!("{error:#}"), "the lag can't be measured");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.wanted() => {}
        }
    }
    Ok(())
}

/// The end of each partition that is ours, less where we are.
fn lag(consumer: &StreamConsumer) -> Result<()> {
    LAG.reset();
    let limit = Duration::from_secs(5);
    let read = consumer.position()?;
    for partition in consumer.committed(limit)?.elements() {
        let (topic, number) = (partition.topic(), partition.partition());
        let (first, end) = consumer.fetch_watermarks(topic, number, limit)?;
        let read = read.find_partition(topic, number).map(|partition| partition.offset());
        let next = match (read, partition.offset()) {
            (Some(Offset::Offset(next)), _) | (_, Offset::Offset(next)) => next,
            _ => first,
        };
        LAG.with_label_values(&[&number.to_string()]).set(end - next);
    }
    Ok(())
}
