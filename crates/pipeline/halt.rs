//! Why a pipeline can't go on, told to a person: what happened, what to do, and an exit code for machines.

use std::fmt;

/// The process' exit codes. They are an interface: documented in `docs/OPERATIONS.md`, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Stopped as asked.
    Success = 0,
    /// Something that has no code of its own; a bug, most likely.
    Unexpected = 1,
    /// The command line, a configuration file or an environment variable is wrong.
    Configuration = 2,
    /// Postgres refused the login, or the role lacks a right.
    PostgresRights = 20,
    /// The server can't do logical replication as configured (`wal_level`, slots, encoding).
    PostgresNotReady = 21,
    /// A publication is missing, or was missing at the slot's position.
    PublicationMissing = 22,
    /// Postgres reported an error that repeating will not mend.
    PostgresError = 23,
    /// A slot exists, and no checkpoint says that it is ours.
    SlotWithoutCheckpoint = 30,
    /// A checkpoint exists, and its slot is gone.
    SlotMissing = 31,
    /// The slot has confirmed more than the checkpoint: recreated, or advanced by somebody else.
    SlotAhead = 32,
    /// The server is another one than the checkpoint's.
    OtherSystem = 33,
    /// The server's history is older than the checkpoint's: a restored backup, or a standby promoted too early.
    TimelineBackwards = 34,
    /// The connection is to another database than the checkpoint's.
    OtherDatabase = 35,
    /// Postgres has removed WAL that the slot needed.
    SlotLost = 36,
    /// Creating the slot took longer than `slot_create_timeout`.
    SlotCreateTimeout = 37,
    /// The slot is not a permanent logical slot of pgoutput for this database.
    SlotUnsuitable = 38,
    /// The checkpoint can't be read, or a newer version of headwater wrote it.
    Checkpoint = 39,
    /// The registry refuses a schema as incompatible.
    SchemaIncompatible = 40,
    /// The registry refuses for another reason: rights, an invalid schema.
    RegistryRefused = 41,
    /// A change is larger than `pipeline.max_row_bytes`.
    RowTooLarge = 42,
    /// A value can't be written truthfully.
    ValueUnencodable = 43,
    /// Bytes from Postgres that are not pgoutput as documented.
    Protocol = 44,
    /// An outbox row or message that can't be routed.
    OutboxInvalid = 45,
    /// Two tables would share a topic, or a table's names can't be made into a schema.
    TableUnsuitable = 46,
    /// A table was truncated, and its configuration refuses that.
    TruncateRefused = 47,
    /// A table can't be copied: rights, row-level security, no key, or it changed under the copy.
    SnapshotRefused = 49,
    /// The statement given to `schema plan` fails, or may not be run on the source.
    StatementRefused = 48,
    /// Kafka refused for a reason that repeating will not mend: rights, configuration.
    KafkaRefused = 50,
    /// A table was added to the publication, and `snapshot.on_new_table` is `halt`.
    NewTable = 53,
    /// A topic is missing and may not be created, or has an unsuitable configuration.
    TopicUnsuitable = 51,
    /// The broker refuses a record as too large.
    RecordTooLarge = 52,
    /// The stdout or file sink, or the local checkpoint file, can't be written.
    LocalOutput = 60,
    /// `import-debezium` did its work, and something of the connector has no equivalent.
    ImportIncomplete = 70,
    /// The position of another connector can't be taken over as things are.
    TakeOverRefused = 71,
    /// `apply`: a target table is missing or doesn't fit its topic, and may not be made or altered.
    TargetUnsuitable = 80,
    /// `apply`: a record that can't be applied.
    RecordUnusable = 81,
    /// `apply`: the offsets or positions in the target database don't fit the topic.
    OffsetsUnusable = 82,
}

impl ExitCode {
    /// The number given to the operating system.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Why the pipeline stopped for good. Displayed once, by the command that ran it.
#[derive(Debug)]
pub struct Halt {
    /// For machines.
    pub code: ExitCode,
    /// What happened and where: table, LSN, topic. Never a row's values.
    pub what: String,
    /// What a person can do about it.
    pub advice: String,
}

impl Halt {
    /// A halt with its advice.
    pub fn new(code: ExitCode, what: impl Into<String>, advice: impl Into<String>) -> Halt {
        Halt { code, what: what.into(), advice: advice.into() }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.advice.is_empty() {
            write!(f, "\n  what to do: {}", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for Halt {}
