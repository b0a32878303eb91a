//! Sending again: the row is written again, in the same statement that takes the old one away, with the same id and all
//! that the service wrote, and the number of its next attempt. So it goes the way of the first time, through WAL, encoder
//! and checkpoint, and its order among later events is that of the log.

use headwater_pg::{Client, Error};

use crate::table::Table;

/// Rows of one statement.
pub(crate) const ROWS_MAX: u64 = 500;

/// Which rows are written again.
#[derive(Clone, Copy, Debug)]
pub enum Again<'a> {
    /// Whose next attempt is due.
    Due,
    /// Who waited for another event of their aggregate that fails no more.
    Released,
    /// These, if they are FAILED, DEAD, CANCELLED or SENT: with all their attempts before them. Who has succeeded
    /// is not asked again.
    Retried(&'a [String]),
    /// These, as if nobody had ever answered.
    Replayed(&'a [String]),
}

/// Writes rows again; gives how many. Less than [`ROWS_MAX`] means that there are no more.
pub async fn write_again(client: &Client, table: &Table, again: Again<'_>) -> Result<u64, Error> {
    let t = &table.sql;
    let (condition, first_attempt, failed_at) = match again {
        Again::Due => (
            "o.next_attempt_at <= clock_timestamp() AND o.status = 'FAILED'".to_owned(),
            "first_attempt",
            "failed_at",
        ),
        Again::Released => (
            format!(
                "o.failed_at IS NOT NULL AND o.status = 'BLOCKED' AND NOT EXISTS (SELECT FROM {t} f \
                 WHERE f.{kind} = o.{kind} AND f.{aggregate} = o.{aggregate} AND f.failed_at IS NOT NULL \
                 AND f.status <> 'BLOCKED')",
                kind = table.aggregatetype,
                aggregate = table.aggregateid,
            ),
            "first_attempt",
            "NULL::timestamptz",
        ),
        Again::Retried(_) | Again::Replayed(_) => (
            format!(
                "o.{id} = ANY ($2::text[]::{id_type}[]) AND o.status IN ({statuses})",
                id = table.id,
                id_type = table.id_type,
                statuses = match again {
                    Again::Replayed(_) => "'FAILED', 'DEAD', 'CANCELLED', 'SENT', 'PROCESSED'",
                    _ => "'FAILED', 'DEAD', 'CANCELLED', 'SENT'",
                },
            ),
            "attempt + 1",
            "failed_at",
        ),
    };
    // A released row was never sent.
    let step = if matches!(again, Again::Released) { 0 } else { 1 };
    let processed_by = if matches!(again, Again::Replayed(_)) { "NULL::text[]" } else { "processed_by" };
    let sql = format!(
        "WITH taken AS (DELETE FROM {t} WHERE ({id}, created_at) IN \
           (SELECT o.{id}, o.created_at FROM {t} o WHERE {condition} ORDER BY o.lsn LIMIT $1 FOR UPDATE SKIP LOCKED) \
           RETURNING *) \
         INSERT INTO {t} ({written}, attempt, first_attempt, origin_lsn, processed_by, failed_at, failed_by, reason) \
         OVERRIDING SYSTEM VALUE \
         SELECT {written}, attempt + {step}, {first_attempt}, coalesce(origin_lsn, lsn), {processed_by}, {failed_at}, failed_by, reason \
         FROM taken ORDER BY lsn",
        id = table.id,
        written = table.written,
    );
    match again {
        Again::Retried(ids) | Again::Replayed(ids) => {
            Ok(client.execute(&sql, &[&(ids.len() as i64), &ids]).await?)
        }
        Again::Due | Again::Released => Ok(client.execute(&sql, &[&(ROWS_MAX as i64)]).await?),
    }
}
