//! Every metric, its name and its help, in one place; `docs/METRICS.md` is tested against it.
//!
//! Labels are tables, topics, operations and classes: never values of rows.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

/// Typed handles of all metrics, registered once.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Bytes of the replication stream.
    pub received_bytes: IntCounter,
    /// Committed transactions read to their end.
    pub transactions: IntCounter,
    /// Transactions skipped at a start because the checkpoint covers them.
    pub repeated_transactions: IntCounter,
    /// Records offered to the sink, by table (or event topic) and operation.
    pub records: IntCounterVec,
    /// Records acknowledged by the sink.
    pub acknowledged: IntCounter,
    /// Changes left out on purpose, by table and reason.
    pub skipped: IntCounterVec,
    /// Trace contexts that are none, by table.
    pub malformed_traces: IntCounterVec,
    /// Rows of snapshots that were acknowledged, by table.
    pub snapshot_rows: IntCounterVec,
    /// Bytes read for them, by table.
    pub snapshot_bytes: IntCounterVec,
    /// Chunks of snapshots that were acknowledged, by table.
    pub snapshot_chunks: IntCounterVec,
    /// Rows that the present snapshot has read, by table.
    pub snapshot_rows_read: IntGaugeVec,
    /// Rows that it expects, by table.
    pub snapshot_rows_estimated: IntGaugeVec,
    /// Time spent on each of its tables.
    pub snapshot_seconds: GaugeVec,
    /// 1 for the present state of each of its tables.
    pub snapshot_table_state: IntGaugeVec,
    /// Age of the transaction that it copies under.
    pub snapshot_transaction_age_seconds: Gauge,
    /// Tables of the present snapshot that are not copied yet.
    pub snapshot_tables_left: IntGauge,
    /// Tables that were added to the publication and wait for open transactions.
    pub snapshot_new_tables_waiting: IntGauge,
    /// Signals, by channel and outcome.
    pub signals: IntCounterVec,
    /// Notifications written, by type.
    pub notifications: IntCounterVec,
    /// Rows and records that were set aside, by table and stage.
    pub dead_letters: IntCounterVec,
    /// Keys that are blocked, by table.
    pub blocked_keys: IntGaugeVec,
    /// Rows read back for unchanged TOAST values, by table and outcome.
    pub reselected: IntCounterVec,
    /// Bytes between socket and acknowledgement.
    pub in_flight_bytes: IntGauge,
    /// Records between offer and acknowledgement.
    pub in_flight_records: IntGauge,
    /// End of what was received.
    pub received_lsn: IntGauge,
    /// End of what was acknowledged without a gap.
    pub acknowledged_lsn: IntGauge,
    /// What was checkpointed and reported to Postgres.
    pub confirmed_lsn: IntGauge,
    /// WAL the server has and the slot has not confirmed.
    pub lag_bytes: IntGauge,
    /// Age of the oldest transaction not acknowledged.
    pub lag_seconds: Gauge,
    /// From commit to the last acknowledgement of the transaction.
    pub commit_to_ack_seconds: Histogram,
    /// WAL kept for the slot.
    pub slot_retained_wal_bytes: IntGauge,
    /// WAL left until the slot is lost.
    pub slot_safe_wal_bytes: IntGauge,
    /// Checkpoints acknowledged.
    pub checkpoints: IntCounter,
    /// Sessions ended and begun again.
    pub restarts: IntCounterVec,
    /// Calls of the schema registry by outcome.
    pub registry_calls: IntCounterVec,
    /// Outbox rows whose status was written, by table and what was written.
    pub outbox_rows: IntCounterVec,
    /// Answers of consumers, by table and what they made of the row.
    pub outbox_answers: IntCounterVec,
    /// Messages to people, by outcome.
    pub outbox_notifications: IntCounterVec,
    /// Events of outbox tables that were sent and wait for their rows to say so.
    pub outbox_waiting: IntGauge,
    /// Those that did not fit in memory and are found again in the table.
    pub outbox_forgotten: IntCounter,
    /// Errors by class.
    pub errors: IntCounterVec,
    /// 1 for the present role: active or standby.
    pub role: IntGaugeVec,
    /// 1, with the build's facts as labels.
    pub build: IntGaugeVec,
}

impl Metrics {
    /// Creates and registers all metrics.
    ///
    /// # Panics
    /// When called twice for the same registry: names are unique by construction.
    pub fn new(registry: &Registry) -> Metrics {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let metrics = Metrics {
            received_bytes: counter(
                "headwater_received_bytes_total",
                "Bytes of the replication stream received from Postgres",
            ),
            transactions: counter(
                "headwater_transactions_total",
                "Committed transactions read to their Commit",
            ),
            repeated_transactions: counter(
                "headwater_repeated_transactions_total",
                "Transactions that Postgres sent again and that were skipped because the checkpoint covers them",
            ),
            records: counters(
                "headwater_records_total",
                "Records offered to the sink, by table (or event topic) and operation (c, r, u, d, t, tombstone, event, m)",
                &["table", "op"],
            ),
            acknowledged: counter("headwater_records_acknowledged_total", "Records acknowledged by the sink"),
            skipped: counters(
                "headwater_skipped_total",
                "Changes left out on purpose, by table and reason (truncate, outbox_update, outbox_delete, outbox_not_new, message, filter, flat_delete)",
                &["table", "reason"],
            ),
            malformed_traces: counters(
                "headwater_malformed_traces_total",
                "Columns and logical messages that hold no trace context where one is configured, by table (message for messages)",
                &["table"],
            ),
            snapshot_rows: counters(
                "headwater_snapshot_rows_total",
                "Rows of snapshots that were acknowledged, by table",
                &["table"],
            ),
            snapshot_bytes: counters(
                "headwater_snapshot_bytes_total",
                "Bytes read from Postgres for acknowledged chunks of snapshots, by table",
                &["table"],
            ),
            snapshot_chunks: counters(
                "headwater_snapshot_chunks_total",
                "Chunks of snapshots that were acknowledged, by table",
                &["table"],
            ),
            snapshot_rows_read: gauges(
                "headwater_snapshot_rows_read",
                "Rows that the present or last snapshot has read, acknowledged or not, by table",
                &["table"],
            ),
            snapshot_rows_estimated: gauges(
                "headwater_snapshot_rows_estimated",
                "Rows that the present or last snapshot expects, by table; corrected as it goes",
                &["table"],
            ),
            snapshot_seconds: register(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "headwater_snapshot_seconds",
                        "Seconds that this process spent on the present or last snapshot, by table",
                    ),
                    &["table"],
                ),
            ),
            snapshot_table_state: gauges(
                "headwater_snapshot_table_state",
                "1 for the state of each table of the present or last snapshot (waiting, copying, done, failed)",
                &["table", "state"],
            ),
            snapshot_transaction_age_seconds: register(
                registry,
                Gauge::new(
                    "headwater_snapshot_transaction_age_seconds",
                    "Age of the transaction that the first copy runs under, which keeps the server from cleaning up; 0 without one",
                ),
            ),
            snapshot_tables_left: gauge(
                "headwater_snapshot_tables_left",
                "Tables of the present snapshot that are not copied yet",
            ),
            snapshot_new_tables_waiting: gauge(
                "headwater_snapshot_new_tables_waiting",
                "Tables that were added to the publication and are copied once the transactions that were open then are over",
            ),
            signals: counters(
                "headwater_signals_total",
                "Signals that came, by channel (table, topic) and outcome (taken, refused, repeated after a crash, other: not for this instance)",
                &["channel", "outcome"],
            ),
            notifications: counters(
                "headwater_notifications_total",
                "Notifications written to notifications.topic, by type",
                &["type"],
            ),
            dead_letters: counters(
                "headwater_dead_letters_total",
                "Rows and records that went to the dead letter topic, by table and stage (encode, schema, outbox, size, blocked)",
                &["table", "stage"],
            ),
            blocked_keys: gauges(
                "headwater_blocked_keys",
                "Keys whose changes go to the dead letter topic until they are replayed or dropped, by table",
                &["table"],
            ),
            reselected: counters(
                "headwater_reselected_rows_total",
                "Rows with unchanged TOAST values under unchanged_toast = \"reselect\", by table and outcome: sent with the value of that change (exact), with a newer one (newer), with a placeholder (marked)",
                &["table", "outcome"],
            ),
            in_flight_bytes: gauge(
                "headwater_in_flight_bytes",
                "Bytes between the Postgres socket and the acknowledgement",
            ),
            in_flight_records: gauge(
                "headwater_producer_queue_records",
                "Records offered to the sink and not yet acknowledged",
            ),
            received_lsn: gauge("headwater_received_lsn", "End of the WAL received, as a number"),
            acknowledged_lsn: gauge(
                "headwater_acknowledged_lsn",
                "End of the WAL acknowledged by the sink without a gap",
            ),
            confirmed_lsn: gauge(
                "headwater_confirmed_lsn",
                "Position stored in the checkpoint and reported to Postgres",
            ),
            lag_bytes: gauge(
                "headwater_lag_bytes",
                "WAL that the server has and the slot has not confirmed, in bytes",
            ),
            lag_seconds: register(
                registry,
                Gauge::new(
                    "headwater_lag_seconds",
                    "Age of the oldest commit that is not acknowledged, in seconds; 0 when none is",
                ),
            ),
            commit_to_ack_seconds: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "headwater_commit_to_ack_seconds",
                        "From a transaction's commit to the acknowledgement of its last record, in seconds",
                    )
                    .buckets(vec![
                        0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
                        2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
                    ]),
                ),
            ),
            slot_retained_wal_bytes: gauge(
                "headwater_slot_retained_wal_bytes",
                "WAL that the server keeps for the slot, in bytes",
            ),
            slot_safe_wal_bytes: gauge(
                "headwater_slot_safe_wal_bytes",
                "WAL that can be written before the slot is lost, in bytes; -1 without max_slot_wal_keep_size",
            ),
            checkpoints: counter("headwater_checkpoints_total", "Checkpoints stored and acknowledged"),
            restarts: counters(
                "headwater_reconnects_total",
                "Sessions that ended with a passing error and were begun again, by peer",
                &["peer"],
            ),
            registry_calls: counters(
                "headwater_registry_calls_total",
                "Calls of the schema registry, by outcome",
                &["outcome"],
            ),
            outbox_rows: counters(
                "headwater_outbox_rows_total",
                "Rows of outbox tables whose status was written, by table and what became of them (sent, found_sent, sent_again, released, set_aside)",
                &["table", "outcome"],
            ),
            outbox_answers: counters(
                "headwater_outbox_answers_total",
                "Answers of consumers to outbox events, by table and what became of them (processed, noted, failed, dead, ignored, silent, unknown, unreadable)",
                &["table", "outcome"],
            ),
            outbox_notifications: counters(
                "headwater_outbox_notifications_total",
                "Messages about outbox events that were given up, by outcome (sent, failed)",
                &["outcome"],
            ),
            outbox_waiting: gauge(
                "headwater_outbox_waiting",
                "Events of outbox tables that were read from the stream and whose rows are not SENT yet",
            ),
            outbox_forgotten: counter(
                "headwater_outbox_forgotten_total",
                "Events whose rows could not be marked SENT in time and are found again in the table",
            ),
            errors: counters(
                "headwater_errors_total",
                "Errors, by class (restart, halt, registry, sink, heartbeat, snapshot, signal)",
                &["class"],
            ),
            role: gauges(
                "headwater_role",
                "1 for the present role of this instance (active, standby, starting)",
                &["role"],
            ),
            build: gauges("headwater_build_info", "1, with the facts of the build as labels", &["version"]),
        };
        metrics.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    pub(crate) fn set_role(&self, role: &str) {
        for each in ["starting", "standby", "active"] {
            self.role.with_label_values(&[each]).set(i64::from(each == role));
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("metric names and labels are constants");
    registry.register(Box::new(metric.clone())).expect("each metric is registered once");
    metric
}
