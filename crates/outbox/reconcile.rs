//! Rows that are NEW although their events were sent: a crash came between the confirmation and the UPDATE, or the
//! UPDATE was forgotten.
//!
//! A pass reads the NEW rows in one snapshot, then the position L where WAL is written. What the snapshot sees was
//! committed before L; so when L is confirmed, each of these rows has been sent. Rows from before the pipeline began
//! (or from a gap that a person accepted) may not have been, and are left alone.

use headwater_pg::{Client, Error};
use headwater_pgoutput::Lsn;

use crate::mark_sent::mark;
use crate::table::Table;

/// Rows of one pass.
const ROWS_MAX: i64 = 10_000;

/// Rows that are SENT when a position is confirmed.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) confirmed_at: Lsn,
    rows: Vec<(String, i32)>,
    /// Where the next pass begins.
    next_from: String,
    /// There are more.
    pub(crate) is_full: bool,
}

/// Since when statuses are kept here; `gap` is where a slot was begun anew by this process.
pub(crate) async fn begin(
    client: &Client,
    table: &Table,
    slot: &str,
    confirmed: Lsn,
    gap: Option<Lsn>,
) -> Result<(), Error> {
    // A gap that lies before what was known is that of another server (restored, or built anew): its transactions are
    // counted from elsewhere too.
    const SQL: &str = "INSERT INTO headwater.outbox_relay AS r (slot, outbox, since, looked_from) \
        VALUES ($1, $2, $3::text::pg_lsn, '0') ON CONFLICT (slot, outbox) DO UPDATE SET since = excluded.since, \
        looked_from = CASE WHEN r.since > excluded.since THEN '0' ELSE r.looked_from END, \
        open_from = CASE WHEN r.since > excluded.since THEN '0' ELSE r.open_from END WHERE $4";
    let since = gap.unwrap_or(confirmed).to_string();
    client.execute(SQL, &[&slot, &&*table.name, &since, &gap.is_some()]).await?;
    Ok(())
}

/// From which transaction on there are rows that are NEW or SENT, by what every pipeline of this table remembers.
///
/// # Errors
/// The server's.
pub async fn open_from(client: &Client, table: &Table) -> Result<String, Error> {
    const SQL: &str = "SELECT coalesce(min(open_from::text::numeric), 0)::text FROM headwater.outbox_relay WHERE outbox = $1";
    Ok(client.query_one(SQL, &[&&*table.name]).await?.get(0))
}

/// Moves that on; what was found at its place stays there, so this is one look at an index, most of the time.
async fn move_open_from(client: &Client, table: &Table, slot: &str) -> Result<(), Error> {
    const FROM: &str = "SELECT open_from::text FROM headwater.outbox_relay WHERE slot = $1 AND outbox = $2";
    const SQL: &str = "UPDATE headwater.outbox_relay SET open_from = $3::text::xid8 \
        WHERE slot = $1 AND outbox = $2 AND open_from < $3::text::xid8";
    let sql = format!(
        "SELECT least((SELECT o.txid FROM {table} o WHERE o.txid >= $1::text::xid8 AND o.status IN ('NEW', 'SENT') \
           ORDER BY o.txid LIMIT 1), pg_snapshot_xmin(pg_current_snapshot()))::text",
        table = table.sql,
    );
    let from: String = client.query_one(FROM, &[&slot, &&*table.name]).await?.get(0);
    let open: String = client.query_one(&sql, &[&from]).await?.get(0);
    client.execute(SQL, &[&slot, &&*table.name, &open]).await?;
    Ok(())
}

/// Reads the rows that are left behind, if there are any.
pub(crate) async fn look(client: &Client, table: &Table, slot: &str) -> Result<Option<Pass>, Error> {
    // As parameters and not by a join: only then does the planner know that few rows are that young.
    const FROM: &str =
        "SELECT looked_from::text, since::text FROM headwater.outbox_relay WHERE slot = $1 AND outbox = $2";
    let sql = format!(
        "SELECT o.{id}::text, o.attempt, o.txid::text FROM {table} o WHERE o.txid >= $1::text::xid8 \
         AND o.status = 'NEW' AND o.lsn >= $2::text::pg_lsn ORDER BY o.txid LIMIT $3",
        id = table.id,
        table = table.sql,
    );
    move_open_from(client, table, slot).await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    let xmin = client.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]).await?;
    let from = client.query_one(FROM, &[&slot, &&*table.name]).await?;
    let (looked_from, since): (String, String) = (from.get(0), from.get(1));
    let rows = client.query(&sql, &[&looked_from, &since, &ROWS_MAX]).await?;
    client.batch_execute("COMMIT").await?;
    let is_full = rows.len() as i64 == ROWS_MAX;
    let next_from: String = match rows.last().filter(|_| is_full) {
        Some(last) => last.get(2),
        None => xmin.get(0),
    };
    if rows.is_empty() {
        looked(client, table, slot, &next_from).await?;
        return Ok(None);
    }
    // A message and not a mere question: in a database that stands still, the stream comes to its end for certain.
    let sql = "SELECT pg_logical_emit_message(false, 'headwater.outbox', '')::text";
    let confirmed_at: String = client.query_one(sql, &[]).await?.get(0);
    Ok(Some(Pass {
        confirmed_at: confirmed_at.parse().unwrap_or(Lsn(u64::MAX)),
        rows: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
        next_from,
        is_full,
    }))
}

/// The position of the pass is confirmed: what is still NEW of it is SENT. Gives how many rows were.
pub(crate) async fn finish(client: &Client, table: &Table, slot: &str, pass: &Pass) -> Result<u64, Error> {
    let rows: Vec<(&str, i32)> = pass.rows.iter().map(|(id, attempt)| (id.as_str(), *attempt)).collect();
    let marked = mark(client, table, &rows).await?;
    looked(client, table, slot, &pass.next_from).await?;
    Ok(marked)
}

async fn looked(client: &Client, table: &Table, slot: &str, from: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE headwater.outbox_relay SET looked_from = $3::text::xid8 \
        WHERE slot = $1 AND outbox = $2 AND looked_from < $3::text::xid8";
    client.execute(SQL, &[&slot, &&*table.name, &from]).await?;
    Ok(())
}
