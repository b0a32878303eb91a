//! What a consumer shows of itself at `/metrics`: what became of events, and how far it is behind.
//!
//! The lag is asked of Kafka from the outside of the loop that handles events, so that it grows whatever keeps that loop:
//! an event that can't be handled, a pause, a database that is away.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Result;
use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, Opts, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::service::Stop;

/// How often the lag is measured.
const EVERY: Duration = Duration::from_secs(1);

/// How long Kafka may take for a question.
const LIMIT: Duration = Duration::from_secs(5);

/// What became of an event.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It was new, and is done.
    Handled,
    /// It came again, or was older than what is known: nothing was done.
    SeenBefore,
    /// An attempt failed; it stays the next one, and counts once for each attempt.
    NotYet,
    /// It can't be used, and was set aside.
    DeadLetter,
}

impl Outcome {
    const ALL: [Outcome; 4] = [Outcome::Handled, Outcome::SeenBefore, Outcome::NotYet, Outcome::DeadLetter];

    fn label(self) -> &'static str {
        match self {
            Outcome::Handled => "handled",
            Outcome::SeenBefore => "seen_before",
            Outcome::NotYet => "not_yet",
            Outcome::DeadLetter => "dead_letter",
        }
    }
}

static EVENTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("service_events_total", "Events of a topic, by what became of them.");
    register_int_counter_vec!(opts, &["topic", "outcome"]).expect("registered once, with a valid name")
});

static LAG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let opts = Opts::new("service_consumer_lag_records", "Records of a partition that were not read yet.");
    register_int_gauge_vec!(opts, &["topic", "partition"]).expect("registered once, with a valid name")
});

/// Shows zeros before anything comes, so that a rate has a beginning.
pub fn expect(topics: &[&str]) {
    for topic in topics {
        for outcome in Outcome::ALL {
            EVENTS.with_label_values(&[topic, outcome.label()]);
        }
    }
}

/// An event came to an outcome.
pub fn count(topic: &str, outcome: Outcome) {
    EVENTS.with_label_values(&[topic, outcome.label()]).inc();
}

static PAUSED: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "1 while an operator has paused reading.";
    register_int_gauge!("service_consumer_paused", help).expect("registered once, with a valid name")
});

/// An operator has paused reading, or let it go on.
pub fn paused(paused: bool) {
    PAUSED.set(paused.into());
}

/// By topic and partition.
type Lag = BTreeMap<(String, i32), i64>;

/// Measures the lag once a second until `stop`.
pub async fn measure(consumer: &Arc<StreamConsumer>, stop: &Stop) -> Result<()> {
    let mut shown = Lag::new();
    while !stop.is_wanted() {
        let consumer = Arc::clone(consumer);
        // on a thread of its own: while a broker is away, neither events nor /metrics wait for its answer
        match tokio::task::spawn_blocking(move || lag(&consumer)).await? {
            Ok(lag) => shown = show(&shown, lag),
            // what was measured last stays: a lag that is not known is not gone
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the lag can't be measured"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.wanted() => {}
        }
    }
    Ok(())
}

/// The end of each partition that is ours, less where we are.
fn lag(consumer: &StreamConsumer) -> Result<Lag> {
    let assigned = consumer.assignment()?;
    if assigned.count() == 0 {
        return Ok(Lag::new());
    }
    let (read, committed) = (consumer.position()?, consumer.committed_offsets(assigned.clone(), LIMIT)?);
    let mut lag = Lag::new();
    for partition in assigned.elements() {
        let (topic, number) = (partition.topic(), partition.partition());
        let (first, end) = consumer.fetch_watermarks(topic, number, LIMIT)?;
        let of = |list: &TopicPartitionList| {
            list.find_partition(topic, number).map(|partition| partition.offset())
        };
        // before the first record came: where it was told to begin, or where the group is
        let known = [of(&read), Some(partition.offset()), of(&committed)].into_iter().flatten();
        let mut known = known.filter_map(|offset| match offset {
            Offset::Offset(next) => Some(next),
            _ => None,
        });
        // what is gone from the topic waits for nobody
        let next = known.next().unwrap_or(first).max(first);
        lag.insert((topic.to_owned(), number), (end - next).max(0));
    }
    Ok(lag)
}

/// Shows what is ours now; partitions that others have taken over are theirs to show.
fn show(before: &Lag, lag: Lag) -> Lag {
    for (topic, number) in before.keys().filter(|partition| !lag.contains_key(partition)) {
        // an error means that it is not shown
        LAG.remove_label_values(&[topic, &number.to_string()]).ok();
    }
    for ((topic, number), records) in &lag {
        LAG.with_label_values(&[topic, &number.to_string()]).set(*records);
    }
    lag
}
