//! What can go wrong between slot and sink, with where it happened. What to do about it is decided in `recovery`.

use headwater_avro::registry::RegistryError;
use headwater_avro::{EncodeError, SchemaError};
use headwater_pgoutput::{CopyTextError, DecodeError, Lsn, RelationId};

use crate::halt::Halt;

/// The stage of a row that is sound, and whose key is blocked.
pub(crate) const BLOCKED: &str = "blocked";

/// An error of one stage of the pipeline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("{doing}")]
    Postgres { doing: &'static str, source: headwater_pg::Error },
    #[error("{doing}")]
    Kafka { doing: String, source: headwater_kafka::Error },
    #[error("registering the schemas of {table} under {subject}")]
    Registry { table: String, subject: String, source: RegistryError },
    #[error("reading the replication stream at {lsn}")]
    Decode { lsn: Lsn, source: DecodeError },
    #[error("the replication stream breaks its own order at {lsn}: {what}")]
    Order { lsn: Lsn, what: String },
    #[error("making the schema of {table}")]
    Schema { table: String, source: SchemaError },
    #[error("a row of {table} in the transaction committed at {commit_lsn}")]
    Encode { table: String, commit_lsn: Lsn, lsn: Lsn, source: EncodeError },
    #[error("copying {table} for a snapshot")]
    Copy { table: String, source: headwater_pg::Error },
    #[error("a row of {table} that COPY sent for the snapshot at {lsn}")]
    CopyRow { table: String, lsn: Lsn, source: CopyTextError },
    #[error("a row for {topic} takes {bytes} bytes")]
    RowTooLarge { topic: String, bytes: u64, limit: u64, commit_lsn: Lsn },
    #[error("an outbox event from {origin} in the transaction committed at {commit_lsn}: {what}")]
    Outbox { origin: String, commit_lsn: Lsn, what: String },
    #[error("relation {relation} has rows at {lsn} before its Relation message")]
    UnknownRelation { relation: RelationId, lsn: Lsn },
    #[error("writing {path}")]
    Local { path: String, source: std::io::Error },
    #[error("the process stood still for {stood_still_ms} ms, longer than its lease on the slot")]
    Frozen { stood_still_ms: u64 },
    #[error("{whom} has not answered for {seconds} s")]
    Silent { whom: &'static str, seconds: u64 },
    #[error("the producer has delivered nothing for {seconds} s, though the brokers answer")]
    Stuck { seconds: u64 },
    #[error("{source}")]
    TooLarge { refused: Vec<headwater_kafka::Refused>, source: headwater_kafka::Error },
    #[error("{records} records are larger than topic {topic} takes: they go to the dead letter topic")]
    LearnedTooLarge { records: usize, topic: String },
    #[error("a record of {table} is larger than topic {topic} takes")]
    Refused { table: String, topic: String },
    #[error("a row of {table}, of whose key a change that was committed at {since} was set aside")]
    KeyBlocked { table: String, since: Lsn },
    #[error("the rows of {table} have no schema: {reason}")]
    Unplanned { table: String, reason: String },
    /// An error of one row that its policy would set aside, and can't.
    #[error("{why}")]
    NotAside { why: String, advice: &'static str, source: Box<StageError> },
    #[error("{0}")]
    Halt(Halt),
    /// Another stage failed first, or a second stop came; not an error of its own.
    #[error("stopped")]
    Stopped,
}

impl StageError {
    /// Whether the error lies in what was read: the sink is sound, and so is everything before it.
    pub(crate) fn is_of_content(&self) -> bool {
        match self {
            StageError::Registry { .. }
            | StageError::Decode { .. }
            | StageError::Order { .. }
            | StageError::Schema { .. }
            | StageError::Encode { .. }
            | StageError::CopyRow { .. }
            | StageError::RowTooLarge { .. }
            | StageError::Outbox { .. }
            | StageError::UnknownRelation { .. }
            | StageError::Refused { .. }
            | StageError::KeyBlocked { .. }
            | StageError::Unplanned { .. }
            | StageError::NotAside { .. }
            | StageError::Halt(_) => true,
            StageError::Postgres { .. }
            | StageError::Copy { .. }
            | StageError::Kafka { .. }
            | StageError::TooLarge { .. }
            | StageError::LearnedTooLarge { .. }
            | StageError::Local { .. }
            | StageError::Frozen { .. }
            | StageError::Silent { .. }
            | StageError::Stuck { .. }
            | StageError::Stopped => false,
        }
    }

    /// Where it went wrong, if it is about one row or one table and not about everything: then a policy may set the row
    /// aside.
    pub(crate) fn stage_of_row(&self) -> Option<&'static str> {
        match self {
            StageError::Encode { .. } => Some("encode"),
            StageError::Outbox { .. } => Some("outbox"),
            StageError::RowTooLarge { .. } | StageError::Refused { .. } => Some("size"),
            StageError::KeyBlocked { .. } => Some(BLOCKED),
            StageError::Schema { .. } | StageError::Unplanned { .. } => Some("schema"),
            StageError::Registry { source, .. } => match source {
                RegistryError::Incompatible { .. } | RegistryError::NotRegistered { .. } => Some("schema"),
                RegistryError::Rejected { .. } | RegistryError::Unavailable { .. } => None,
            },
            StageError::Postgres { .. }
            | StageError::Kafka { .. }
            | StageError::Decode { .. }
            | StageError::Order { .. }
            | StageError::Copy { .. }
            | StageError::CopyRow { .. }
            | StageError::UnknownRelation { .. }
            | StageError::Local { .. }
            | StageError::Frozen { .. }
            | StageError::Silent { .. }
            | StageError::Stuck { .. }
            | StageError::TooLarge { .. }
            | StageError::LearnedTooLarge { .. }
            | StageError::NotAside { .. }
            | StageError::Halt(_)
            | StageError::Stopped => None,
        }
    }

    pub(crate) fn postgres(doing: &'static str) -> impl FnOnce(headwater_pg::Error) -> StageError {
        move |source| StageError::Postgres { doing, source }
    }

    pub(crate) fn kafka(doing: impl Into<String>) -> impl FnOnce(headwater_kafka::Error) -> StageError {
        let doing = doing.into();
        move |source| StageError::Kafka { doing, source }
    }
}

/// The whole chain in one line: "what: why: why that".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
