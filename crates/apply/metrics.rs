//! Every metric of `headwater apply`, its name and its help; `docs/METRICS.md` is tested against it.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Typed handles, registered once.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Records read, by topic.
    pub records: IntCounterVec,
    /// Rows written, by table and outcome.
    pub rows: IntCounterVec,
    /// Transactions committed.
    pub batches: IntCounter,
    /// From the first statement of a batch to its commit.
    pub batch_seconds: Histogram,
    /// Records of a partition that are not applied yet.
    pub lag_records: IntGaugeVec,
    /// Age of the newest record applied, when it was applied.
    pub lag_seconds: Gauge,
    /// Partitions that are this instance's.
    pub partitions: IntGauge,
    /// Records sent to a dead letter topic, by topic.
    pub dead_letters: IntCounterVec,
    /// Outbox events, by type and outcome.
    pub events: IntCounterVec,
    /// Sessions ended and begun again, by reason.
    pub restarts: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Metrics {
        let counter = |name, help| registered(registry, IntCounter::new(name, help).expect("a name"));
        let counters = |name, help, labels: &[&str]| {
            registered(
                registry,
                IntCounterVec::new(Opts::new(name, help), labels).expect("a name and labels"),
            )
        };
        let gauge = |name, help| registered(registry, IntGauge::new(name, help).expect("a name"));
        Metrics {
            records: counters("headwater_apply_records_total", "records read, by topic", &["topic"]),
            rows: counters(
                "headwater_apply_rows_total",
                "rows, by table and outcome: upserted, deleted, or older than what is there",
                &["table", "outcome"],
            ),
            batches: counter(
                "headwater_apply_batches_total",
                "transactions committed in the target database",
            ),
            batch_seconds: registered(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "headwater_apply_batch_seconds",
                        "one transaction in the target database",
                    )
                    .buckets(vec![0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]),
                )
                .expect("a name and buckets"),
            ),
            lag_records: registered(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "headwater_apply_lag_records",
                        "records of a partition that are not applied yet",
                    ),
                    &["topic", "partition"],
                )
                .expect("a name and labels"),
            ),
            lag_seconds: registered(
                registry,
                Gauge::new(
                    "headwater_apply_lag_seconds",
                    "age of the newest record of the last transaction, at its commit",
                )
                .expect("a name"),
            ),
            partitions: gauge("headwater_apply_partitions", "partitions assigned to this instance"),
            dead_letters: counters(
                "headwater_apply_dead_letters_total",
                "records sent to a dead letter topic, by topic and stage",
                &["topic", "stage"],
            ),
            events: counters(
                "headwater_apply_events_total",
                "outbox events, by type and outcome: success, failed, duplicate",
                &["type", "outcome"],
            ),
            restarts: counters(
                "headwater_apply_restarts_total",
                "sessions begun again, by reason",
                &["reason"],
            ),
        }
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}
