//! Replication slots as the server sees them.

use headwater_pgoutput::Lsn;

use crate::{Client, Error, ErrorKind};

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

/// Columns that only some versions have are read through the row's JSON form, where a missing one is NULL.
/// The end of WAL is asked of the receiver on a standby, where the other function is an error.
const SLOT_STATE: &str = "
    SELECT s.slot_name::text, coalesce(s.plugin::text, ''), s.slot_type, s.database::text, s.active_pid, s.temporary,
           s.two_phase, s.restart_lsn::text, s.confirmed_flush_lsn::text, s.wal_status, s.safe_wal_size,
           pg_catalog.pg_wal_lsn_diff(e.lsn, s.restart_lsn)::bigint,
           CASE WHEN r.json ->> 'invalidation_reason' IS NOT NULL THEN r.json ->> 'invalidation_reason'
                WHEN (r.json ->> 'conflicting')::boolean THEN 'conflicting'
                WHEN s.wal_status = 'lost' THEN 'wal_removed' END
      FROM pg_catalog.pg_replication_slots s
     CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(s) AS json) r
     CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
                             THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
                             ELSE pg_catalog.pg_current_wal_lsn() END AS lsn) e
     WHERE s.slot_name = $1::text";

/// Looks a slot up, on a primary or a standby.
pub async fn slot_state(client: &Client, name: &str) -> Result<Option<SlotState>, Error> {
    let Some(row) = client.query_opt(SLOT_STATE, &[&name]).await? else { return Ok(None) };
    Ok(Some(SlotState {
        name: row.try_get(0)?,
        plugin: row.try_get(1)?,
        slot_type: row.try_get(2)?,
        database: row.try_get(3)?,
        active_pid: row.try_get(4)?,
        temporary: row.try_get(5)?,
        two_phase: row.try_get(6)?,
        restart_lsn: lsn(row.try_get(7)?)?,
        confirmed_flush_lsn: lsn(row.try_get(8)?)?,
        wal_status: row.try_get(9)?,
        safe_wal_size: row.try_get(10)?,
        retained_wal_bytes: row.try_get(11)?,
        invalidation: row.try_get(12)?,
    }))
}

fn lsn(text: Option<&str>) -> Result<Option<Lsn>, Error> {
    text.map(|text| text.parse::<Lsn>())
        .transpose()
        .map_err(|cause| Error::because(ErrorKind::Protocol, "a position of a slot is not an LSN", cause))
}

/// Only transactions with an id of their own are waited for. The state and start of other roles' sessions are hidden
/// from a role without `pg_read_all_stats`; that a transaction is there is not.
/// A transaction that has written holds a lock on its own id, which every role may see; `backend_xid` of
/// `pg_stat_activity` is hidden from a role without `pg_read_all_stats` (manual, 54.12 pg_locks).
const CREATION_BLOCKERS: &str = "
    SELECT a.pid, coalesce(a.datname::text, ''), coalesce(a.usename::text, ''), coalesce(a.state, ''),
           greatest(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::float8 AS age,
           pg_catalog.format('transaction %s of %s', l.xid,
                             coalesce(nullif(a.application_name, ''), 'an unnamed application'))
      FROM (SELECT pid, pg_catalog.min(transactionid::text::bigint) AS xid
              FROM pg_catalog.pg_locks
             WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
               AND pid <> pg_catalog.pg_backend_pid()
             GROUP BY pid) l
      JOIN pg_catalog.pg_stat_activity a USING (pid)
     UNION ALL
    SELECT 0, p.database::text, p.owner::text, 'prepared',
           greatest(extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared), 0)::float8,
           pg_catalog.format('prepared transaction %L', p.gid)
      FROM pg_catalog.pg_prepared_xacts p
     ORDER BY age DESC NULLS LAST";

/// Transactions in any database, prepared ones included, that the creation of a slot waits for; oldest first.
pub async fn creation_blockers(client: &Client) -> Result<Vec<Blocker>, Error> {
    let rows = client.query(CREATION_BLOCKERS, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(Blocker {
                pid: row.try_get(0)?,
                database: row.try_get(1)?,
                user: row.try_get(2)?,
                state: row.try_get(3)?,
                age_seconds: row.try_get::<_, Option<f64>>(4)?.unwrap_or(0.0),
                what: row.try_get(5)?,
            })
        })
        .collect()
}

/// Whether Postgres would take the name: 1 to 63 of `a-z`, `0-9` and `_`.
pub fn valid_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names() {
        let long = "a".repeat(64);
        for (name, valid) in [
            ("headwater", true),
            ("a_1", true),
            (&long[..63], true),
            (&long, false),
            ("", false),
            ("A", false),
            ("a-b", false),
            ("a b", false),
            ("é", false),
        ] {
            assert_eq!(valid_slot_name(name), valid, "{name}");
        }
    }
}
