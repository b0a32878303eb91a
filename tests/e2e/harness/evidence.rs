//! What the checker judges: plain facts, collected elsewhere, so that a test can fabricate them.

use std::collections::{BTreeMap, HashMap};

use super::cell::Cell;

/// A row as Postgres renders it: column name to text or NULL.
pub type Row = BTreeMap<String, Option<String>>;

/// A row as decoded from Avro, columns in schema order.
pub type Cells = Vec<(String, Cell)>;

/// Identity of a record: commit LSN and ordinal within the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The transaction's commit LSN.
    pub commit_lsn: u64,
    /// Position in the transaction.
    pub ordinal: u64,
}

/// What a trigger saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// INSERT or COPY.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// TRUNCATE; no record is expected for it.
    Truncate,
}

/// One row change as recorded by a trigger in its own transaction.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// Top-level transaction, low 32 bits.
    pub xid: u32,
    /// `schema.table`.
    pub relation: String,
    /// What happened.
    pub operation: Operation,
    /// The row before.
    pub old: Option<Row>,
    /// The row after.
    pub new: Option<Row>,
    /// The table as it was then, where that was noted.
    pub spec: Option<TableSpec>,
}

/// A committed transaction as the server's decoder tells it on the checker's own slot.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// Start of the commit record.
    pub commit_lsn: u64,
    /// Its end.
    pub end_lsn: u64,
    /// When it committed.
    pub unix_micros: i64,
}

/// Which columns of the old row the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// All.
    Full,
    /// These.
    Columns(Vec<String>),
}

/// A captured table.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The columns of the record key, in key order; none for a table without a key.
    pub key: Vec<String>,
    /// What the old row holds.
    pub identity: Identity,
}

/// The envelope of a record's value, decoded.
#[derive(Clone, Debug)]
pub struct Change {
    /// `c`, `u`, `d`.
    pub op: String,
    /// The row before.
    pub before: Option<Cells>,
    /// The row after.
    pub after: Option<Cells>,
    /// `source.db`.
    pub database: String,
    /// `source.schema` and `source.table`.
    pub relation: String,
    /// `source.txId`.
    pub xid: u32,
    /// `source.sequence`.
    pub sequence: String,
    /// `source.lsn`.
    pub lsn: u64,
    /// Every time of the envelope in microseconds: `source.ts_ms`, `source.ts_us`, `source.ts_ns`, `ts_ms`, `ts_us`, `ts_ns`.
    pub times_micros: Vec<i64>,
}

/// One record of a table's topic.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// `headwater.id`.
    pub id: Id,
    /// Key bytes.
    pub key_bytes: Option<Vec<u8>>,
    /// Value bytes; none is a tombstone.
    pub value_bytes: Option<Vec<u8>>,
    /// All headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The key decoded.
    pub key: Option<Cells>,
    /// The value decoded; none is a tombstone.
    pub change: Option<Change>,
}

/// The slot's position at a moment, and how far Kafka's partitions reached right after it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `confirmed_flush_lsn`.
    pub confirmed: u64,
    /// Next offset of every partition known by then.
    pub ends: std::sync::Arc<HashMap<(String, i32), i64>>,
}

/// Everything about one run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Prefix of topics.
    pub prefix: String,
    /// Name of the database.
    pub database: String,
    /// Captured tables by `schema.table`.
    pub tables: BTreeMap<String, TableSpec>,
    /// What the triggers recorded, in order.
    pub audit: Vec<AuditRow>,
    /// Committed transactions by id.
    pub commits: HashMap<u32, Commit>,
    /// Tables whose topics don't fold to them: renamed, or made anew under the name of another.
    pub unfolded: Vec<String>,
    /// Tables whose unchanged TOAST values are read back.
    pub reselected: std::collections::BTreeSet<String>,
    /// The tables' rows at the start of the stream.
    pub initial: BTreeMap<String, Vec<Row>>,
    /// The tables' rows at the end.
    pub last: BTreeMap<String, Vec<Row>>,
    /// The records of all table topics; of one partition in offset order.
    pub records: Vec<Record>,
    /// Positions sampled during the run.
    pub samples: Vec<Sample>,
}
