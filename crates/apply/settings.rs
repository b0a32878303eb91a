//! What `headwater apply` is told.

use std::time::Duration;

use headwater_avro::registry::RegistrySettings;
use headwater_pg::ConnectSettings;

/// Everything, validated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database with the target tables.
    pub postgres: ConnectSettings,
    /// The cluster with the topics.
    pub kafka: headwater_kafka::Settings,
    /// The registry that the topics' schemas are in.
    pub registry: RegistrySettings,
    /// The consumer group; offsets are kept under its name.
    pub group: String,
    /// A name that stays across restarts of one instance (static membership).
    pub instance: Option<String>,
    /// Topics of tables: names, patterns with `*` and `?`, or regular expressions that begin with `^`.
    pub topics: Vec<String>,
    /// The target of a topic: `{schema}` and `{table}` are the last two parts of its name.
    pub target: String,
    /// What differs for some topics; the first that matches counts.
    pub tables: Vec<TableRule>,
    /// Whether a missing table is created.
    pub create_tables: bool,
    /// Whether columns are added that a schema has and the table lacks.
    pub alter_tables: bool,
    /// Where a partition begins that was never read.
    pub start: StartAt,
    /// Forget the offsets and read again.
    pub replay: Option<Replay>,
    /// Records in a transaction, at most.
    pub batch_rows: usize,
    /// Bytes of rows in a transaction, at most.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// Stands for an unchanged TOAST value.
    pub placeholder: String,
    /// What becomes of a record that can't be applied.
    pub on_poison: OnPoison,
    /// Where such a record goes: `{topic}` is its own.
    pub dead_letter_topic: String,
    /// How long deleted keys are remembered.
    pub deleted_retention: Duration,
    /// How long a shutdown may take.
    pub shutdown_timeout: Duration,
    /// Outbox events handled in SQL.
    pub events: Option<EventSettings>,
}

/// What differs for some topics.
#[derive(Clone, Debug, Default)]
pub struct TableRule {
    /// The topics, with `*` and `?`.
    pub topics: Vec<String>,
    /// The target, `schema.table`.
    pub target: Option<String>,
    /// Columns to take, by their names in the topic, with `*` and `?`; none is all.
    pub include: Vec<String>,
    /// Columns to leave out.
    pub exclude: Vec<String>,
    /// Column in the topic and column in the table.
    pub renames: Vec<(String, String)>,
    /// What becomes of a record that can't be applied.
    pub on_poison: Option<OnPoison>,
}

/// Where a partition begins that was never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record.
    Beginning,
    /// Behind the newest one.
    End,
}

impl StartAt {
    /// The words of the configuration.
    pub const WORDS: &'static [(&'static str, StartAt)] =
        &[("beginning", StartAt::Beginning), ("end", StartAt::End)];
}

/// From where a replay reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The oldest records that are there.
    Beginning,
    /// Records of this time and later, in milliseconds since 1970.
    Since(i64),
}

/// What becomes of a record that can't be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPoison {
    /// Nothing goes on until a person has looked at it.
    Halt,
    /// It goes to the dead letter topic, and what comes behind it goes on.
    DeadLetter,
}

impl OnPoison {
    /// The words of the configuration.
    pub const WORDS: &'static [(&'static str, OnPoison)] =
        &[("halt", OnPoison::Halt), ("dead_letter", OnPoison::DeadLetter)];
}

/// How answers to events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackFormat {
    /// A JSON object.
    Json,
    /// Avro, under a schema that is registered.
    Avro,
}

impl FeedbackFormat {
    /// The words of the configuration.
    pub const WORDS: &'static [(&'static str, FeedbackFormat)] =
        &[("json", FeedbackFormat::Json), ("avro", FeedbackFormat::Avro)];
}

/// Outbox events.
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// Their topics: names, or patterns with `*` and `?`.
    pub topics: Vec<String>,
    /// Type and statement.
    pub handlers: Vec<(String, String)>,
    /// Where the answers go, if anywhere.
    pub feedback_topic: Option<String>,
    /// How they are written.
    pub feedback_format: FeedbackFormat,
    /// How long handled events are remembered.
    pub inbox_retention: Duration,
}

impl Settings {
    /// What is wrong with these settings, each with the key that says so.
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.topics.is_empty() && self.events.is_none() {
            problems.push(("apply.topics", "names no topic; write topics = [\"shop.public.*\"]".to_owned()));
        }
        if !self.target.contains("{table}") {
            problems.push(("apply.target", "lacks {table}: all topics would go to one table".to_owned()));
        }
        if !self.dead_letter_topic.contains("{topic}") {
            problems.push(("apply.dead_letter_topic", "lacks {topic}".to_owned()));
        }
        if self.dead_letter_topic == "{topic}" {
            let message = "is the topic that the records come from: they would come back";
            problems.push(("apply.dead_letter_topic", message.to_owned()));
        }
        for topic in self.events.iter().flat_map(|events| &events.topics) {
            if topic.starts_with('^') {
                let message = "takes names and patterns with * and ?, no regular expressions";
                problems.push(("apply.event_topics", message.to_owned()));
            }
        }
        for rule in &self.tables {
            if rule.target.as_deref().is_some_and(|target| !target.contains('.')) {
                problems.push(("apply_table.target", "is not schema.table".to_owned()));
            }
        }
        problems
    }
}
