//! What a pipeline needs to know, validated: the command line turns files, environment and flags into these.
//!
//! Nothing here is optional by accident: a sink that needs a registry carries its registry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use headwater_avro::registry::RegistrySettings;
use headwater_avro::{OnError, legal_in_topic};
use headwater_pg::ConnectSettings;

pub use crate::outbox_settings::{CloudEvents, OnUpdate, OutboxRoute, OutboxTable, PayloadFormat};
use crate::records::{RecordRules, TableChoice};
use crate::route::TopicRoute;

/// Everything `run` needs. Build it with [`Settings`]' public fields; [`Settings::validate`] checks what types can't.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How both the replication and the SQL connection are made.
    pub postgres: ConnectSettings,
    /// Publications whose tables are followed; at least one.
    pub publications: Vec<String>,
    /// The logical replication slot, `[a-z0-9_]{1,63}`.
    pub slot: String,
    /// How long creating the slot may wait for transactions that were open before it (default 90 s).
    pub slot_create_timeout: Duration,
    /// Take over a slot that no checkpoint of this instance belongs to, at the position it confirmed.
    pub adopt_slot: bool,
    /// Longest time between two status messages to Postgres (default 10 s); shortened to a third of `wal_sender_timeout`.
    pub status_interval: Duration,
    /// Emit a logical message this often, so that an idle database's slot moves. Off by default.
    pub heartbeat_interval: Option<Duration>,
    /// The statement to run instead of emitting that message.
    pub heartbeat_sql: Option<String>,
    /// The one memory knob: bytes between the Postgres socket and the broker's acknowledgement.
    pub max_in_flight_bytes: u64,
    /// A single change larger than this halts the pipeline with its table and LSN (default 64 MiB).
    pub max_row_bytes: u64,
    /// How rows are read back for unchanged TOAST values, where a table asks for that.
    pub reselect: ReselectSettings,
    /// How long a graceful stop may take before the rest is dropped, to be repeated at the next start (default 8 s).
    pub shutdown_timeout: Duration,
    /// Names and shape of the topics of tables.
    pub topics: TopicSettings,
    /// How rows become records, table by table.
    pub records: RecordRules,
    /// Where the checkpoint and the schema history live.
    pub checkpoint: CheckpointSettings,
    /// Outbox tables; their rows go to event topics.
    pub outbox: Vec<OutboxTable>,
    /// Topics beside those of this pipeline that no row's content may choose.
    pub reserved_topics: Vec<String>,
    /// Transactional logical messages with prefix `outbox.<aggregatetype>`.
    pub outbox_messages: OutboxRoute,
    /// Other logical messages.
    pub messages: MessageSettings,
    /// BEGIN and END of each transaction.
    pub transactions: TransactionSettings,
    /// What is copied of the rows that are there already.
    pub snapshot: SnapshotSettings,
    /// Who may ask for snapshots beside the administrator.
    pub signals: SignalSettings,
    /// Who is told of them.
    pub notifications: NotificationSettings,
    /// What is set aside, and where.
    pub dead_letters: DeadLetterSettings,
    /// Where records go.
    pub sink: SinkSettings,
    /// Write a tombstone after each delete (default true).
    pub tombstones_on_delete: bool,
}

/// Where rows go that can't be delivered. Which of them do is said table by table (`on_error`).
#[derive(Clone, Debug)]
pub struct DeadLetterSettings {
    /// The topic, by its whole name.
    pub topic: String,
    /// Keys that may be blocked at a time.
    pub blocked_keys_max: usize,
    /// What becomes of a letter that the topic does not take either.
    pub oversized: Oversized,
}

/// What becomes of a letter that is too large for the topic of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversized {
    /// Nothing goes on.
    Halt,
    /// It has everything but its value; the row is still in its table, as it is now.
    LeaveValueOut,
}

impl Oversized {
    /// As configurations write them.
    pub const WORDS: &[(&str, Oversized)] =
        &[("halt", Oversized::Halt), ("leave_value_out", Oversized::LeaveValueOut)];
}

/// Limits of reading rows back.
#[derive(Clone, Debug)]
pub struct ReselectSettings {
    /// Bytes of changes that may wait for a Commit (default 8 MiB); at most half of `max_in_flight_bytes`.
    pub max_bytes: u64,
    /// How long one read may take, and how long a commit may take to become visible (default 5 s).
    pub timeout: Duration,
}

impl Default for ReselectSettings {
    fn default() -> ReselectSettings {
        ReselectSettings { max_bytes: 8 << 20, timeout: Duration::from_secs(5) }
    }
}

/// Names and shape of the topics that tables go to.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Topics are `<prefix>.<schema>.<table>` unless configured otherwise; also `source.name` of the envelope.
    pub prefix: String,
    /// Create missing topics; without it a missing topic halts with advice.
    pub create: bool,
    /// Partitions of a created topic.
    pub partitions: i32,
    /// Replication factor of a created topic; -1 leaves it to the broker's default.
    pub replication_factor: i32,
    /// Topic configuration of a created topic (`cleanup.policy`, `retention.ms`, …).
    pub config: BTreeMap<String, String>,
    /// Which of the published tables have one. Outbox tables are taken in any case.
    pub tables: TableChoice,
    /// What makes other names of them, one after the other.
    pub routes: Vec<TopicRoute>,
}

/// Where the checkpoint and the schema history live.
#[derive(Clone, Debug)]
pub struct CheckpointSettings {
    /// For the Kafka sink: a compacted topic with one partition.
    pub topic: String,
    /// For the stdout and file sinks: a local file, written atomically.
    pub file: PathBuf,
}

/// When tables are copied as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotMode {
    /// When the slot is created.
    Initial,
    /// Never, unless asked.
    Never,
    /// When the slot is created, and at each later start.
    Always,
    /// When the slot is created; then stop.
    Only,
    /// When the slot is created, also in the place of one that was lost.
    WhenNeeded,
}

impl SnapshotMode {
    /// As configurations write them.
    pub const WORDS: &[(&str, SnapshotMode)] = &[
        ("initial", SnapshotMode::Initial),
        ("never", SnapshotMode::Never),
        ("always", SnapshotMode::Always),
        ("only", SnapshotMode::Only),
        ("when_needed", SnapshotMode::WhenNeeded),
    ];
}

/// What is copied of the rows that are there already, and how.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// When.
    pub mode: SnapshotMode,
    /// Which of the published tables.
    pub tables: TableChoice,
    /// Patterns over `schema.table`; tables that match the first are copied first, those that match none last.
    pub order: Vec<String>,
    /// Conditions in SQL by pattern over `schema.table`; of several that match the last one holds.
    pub filters: Vec<(String, String)>,
    /// How many tables, or parts of one, are copied at a time under the slot's own snapshot.
    pub workers: usize,
    /// How old the transaction of that snapshot may grow before the rest is copied beside the stream.
    pub max_transaction_age: Duration,
    /// Bytes of a chunk that is copied beside the stream, as an aim.
    pub chunk_bytes: u64,
    /// Whether the copy beside the stream rests between its chunks while transactions come.
    pub gives_way: bool,
    /// Rows that are read in a second, by all workers together; 0 is no limit.
    pub max_rows_per_second: u64,
    /// Bytes that are read in a second, by all workers together; 0 is no limit.
    pub max_bytes_per_second: u64,
    /// How long a copy waits for a lock before it lets go and tries again; zero is no limit.
    pub lock_timeout: Duration,
    /// How long a chunk beside the stream may take on the server; zero is no limit.
    pub statement_timeout: Duration,
    /// What becomes of the rows that a table has when it is added to a publication.
    pub on_new_table: OnNewTable,
}

/// What becomes of the rows that a table has when it is added to a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNewTable {
    /// They are copied, beside the stream.
    Snapshot,
    /// They are not.
    StreamOnly,
    /// Somebody has to decide.
    Halt,
}

impl OnNewTable {
    /// As configurations write them.
    pub const WORDS: &[(&str, OnNewTable)] = &[
        ("snapshot", OnNewTable::Snapshot),
        ("stream_only", OnNewTable::StreamOnly),
        ("halt", OnNewTable::Halt),
    ];
}

/// Where commands come from, beside the administrative interface.
#[derive(Clone, Debug, Default)]
pub struct SignalSettings {
    /// A published table, schema and name, whose inserted rows are commands.
    pub table: Option<(String, String)>,
    /// A topic whose records are.
    pub topic: Option<String>,
    /// Whether they may carry conditions, which are SQL.
    pub allow_filters: bool,
}

impl SignalSettings {
    /// Whether this is the table of signals.
    pub fn is_table(&self, schema: &str, table: &str) -> bool {
        self.table.as_ref().is_some_and(|(of, name)| of == schema && name == table)
    }
}

/// Who is told how snapshots go.
#[derive(Clone, Debug, Default)]
pub struct NotificationSettings {
    /// The topic; none are written without.
    pub topic: Option<String>,
    /// Whether they are also lines of the log.
    pub log: bool,
}

impl NotificationSettings {
    /// Whether anybody is told.
    pub fn is_on(&self) -> bool {
        self.log || self.topic.is_some()
    }
}

impl Default for SnapshotSettings {
    fn default() -> SnapshotSettings {
        SnapshotSettings {
            mode: SnapshotMode::Initial,
            tables: TableChoice { include: vec!["*".to_owned()], exclude: Vec::new() },
            order: Vec::new(),
            filters: Vec::new(),
            workers: 2,
            max_transaction_age: Duration::from_secs(30 * 60),
            chunk_bytes: 128 << 10,
            gives_way: true,
            max_rows_per_second: 0,
            max_bytes_per_second: 0,
            lock_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(300),
            on_new_table: OnNewTable::Snapshot,
        }
    }
}

/// Logical messages that are no outbox events.
#[derive(Clone, Debug)]
pub struct MessageSettings {
    /// Prefixes, as patterns with `*`, whose messages become records. None by default.
    pub include: Vec<String>,
    /// Those of them that do not.
    pub exclude: Vec<String>,
    /// Their topic, behind the topics' prefix and a dot.
    pub topic: String,
    /// The prefix of messages that give the trace context of what follows in their transaction.
    pub traceparent_prefix: Option<String>,
}

/// Transaction metadata.
#[derive(Clone, Debug)]
pub struct TransactionSettings {
    /// Whether each change carries its place in its transaction, and BEGIN and END are records.
    pub metadata: bool,
    /// Their topic, behind the topics' prefix and a dot.
    pub topic: String,
}

/// Where records go.
#[derive(Clone, Debug)]
pub enum SinkSettings {
    /// Kafka.
    Kafka {
        /// The producer's and the admin client's settings.
        kafka: headwater_kafka::Settings,
        /// The schema registry; needed for what is written as Avro.
        registry: Option<RegistrySettings>,
    },
    /// Lines of JSON on the standard output.
    Stdout,
    /// Nowhere: records are made as for Kafka, in Avro with made-up schema ids, and thrown away.
    Discard,
    /// Lines of JSON appended to a file.
    File {
        /// The file, created if it does not exist.
        path: PathBuf,
    },
}

/// One impossible value or combination, for the caller to attach to the key it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsProblem {
    /// The key as written in the configuration, for example `pipeline.max_row_bytes`.
    pub key: &'static str,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Settings {
    /// All impossible values and combinations at once; empty when the settings can be run.
    pub fn validate(&self) -> Vec<SettingsProblem> {
        let mut problems = Vec::new();
        let mut problem = |key, message: String| problems.push(SettingsProblem { key, message });
        if self.publications.is_empty() {
            problem("postgres.publication", "at least one publication is needed".to_owned());
        }
        if !headwater_pg::slot::valid_slot_name(&self.slot) {
            problem(
                "postgres.slot",
                format!("'{}' is not a slot name: 1 to 63 of a-z, 0-9 and _", self.slot),
            );
        }
        if self.max_in_flight_bytes < 1 << 20 {
            problem("pipeline.max_in_flight_bytes", "at least 1MiB is needed".to_owned());
        }
        if self.max_row_bytes < 1 << 10 || self.max_row_bytes > 1 << 30 {
            problem("pipeline.max_row_bytes", "between 1KiB and 1GiB".to_owned());
        }
        if self.reselect.timeout < Duration::from_millis(1) {
            problem("pipeline.reselect_timeout", "at least 1ms".to_owned());
        }
        if self.topics.prefix.is_empty() || !self.topics.prefix.chars().all(legal_in_topic) {
            problem("topics.prefix", "one or more of A-Z, a-z, 0-9, '.', '_' and '-'".to_owned());
        }
        if self.topics.partitions < 1 {
            problem("topics.partitions", "at least 1".to_owned());
        }
        if self.topics.replication_factor == 0 || self.topics.replication_factor < -1 {
            problem("topics.replication_factor", "at least 1, or -1 for the broker's default".to_owned());
        }
        for route in self.outbox.iter().map(|table| &table.route).chain([&self.outbox_messages]) {
            if let Some(what) = route.topic_problem() {
                problem("outbox.topic", what);
            }
        }
        for (key, topic) in
            [("messages.topic", &self.messages.topic), ("transactions.topic", &self.transactions.topic)]
        {
            if topic.is_empty() || !topic.chars().all(legal_in_topic) {
                problem(key, "one or more of A-Z, a-z, 0-9, '.', '_' and '-'".to_owned());
            }
        }
        if let Some(prefix) = &self.messages.traceparent_prefix
            && ["headwater.", "outbox."].iter().any(|own| prefix.starts_with(own))
        {
            problem(
                "messages.traceparent_prefix",
                format!(
                    "'{prefix}' has a meaning of its own; choose a prefix that begins with neither headwater. nor outbox."
                ),
            );
        }
        for (key, topic) in
            [("signals.topic", &self.signals.topic), ("notifications.topic", &self.notifications.topic)]
        {
            if topic.as_ref().is_some_and(|topic| topic.is_empty() || !topic.chars().all(legal_in_topic)) {
                problem(key, "a Kafka topic name: A-Z, a-z, 0-9, '.', '_' and '-'".to_owned());
            }
        }
        self.validate_dead_letters(&mut problem);
        if self.signals.topic.is_some() && !matches!(self.sink, SinkSettings::Kafka { .. }) {
            problem("signals.topic", "needs the Kafka sink, whose brokers it is read from".to_owned());
        }
        if matches!(self.sink, SinkSettings::Kafka { .. })
            && !self.checkpoint.topic.chars().all(legal_in_topic)
        {
            problem("checkpoint.topic", "a Kafka topic name: A-Z, a-z, 0-9, '.', '_' and '-'".to_owned());
        }
        problems
    }

    fn validate_dead_letters(&self, problem: &mut impl FnMut(&'static str, String)) {
        let topic = &self.dead_letters.topic;
        if topic.is_empty() || !topic.chars().all(legal_in_topic) {
            problem("dead_letter.topic", "a Kafka topic name: A-Z, a-z, 0-9, '.', '_' and '-'".to_owned());
        }
        let overrides = self.records.tables.iter().filter_map(|rule| rule.overrides.on_error);
        let is_used = overrides.chain([self.records.all.on_error]).any(|policy| policy != OnError::Halt);
        if is_used && !matches!(self.sink, SinkSettings::Kafka { .. }) {
            problem(
                "records.on_error",
                "only the Kafka sink has a dead letter topic; write \"halt\"".to_owned(),
            );
        }
        for outbox in self.outbox.iter().filter(|outbox| outbox.status) {
            let on_error = self.records.records_for(&outbox.schema, &outbox.table).on_error;
            if on_error == OnError::DeadLetterAndBlockKey {
                problem(
                    "table.on_error",
                    format!(
                        "the outbox {}.{} has status = true, and then it is the table that makes events wait for an earlier \
                         one: write on_error = \"dead_letter\" for it, and SELECT headwater.outbox_block_aggregates(true)",
                        outbox.schema, outbox.table
                    ),
                );
            }
        }
    }

    /// Whether a table's rows become records.
    pub fn takes_table(&self, schema: &str, table: &str) -> bool {
        let is_outbox = self.outbox.iter().any(|outbox| outbox.schema == schema && outbox.table == table);
        is_outbox || self.topics.tables.takes(schema, table)
    }
}
