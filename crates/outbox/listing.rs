//! What people ask of outbox rows: lists, one row, counts, and what they decide about them.

use headwater_pg::{Client, Error};

use crate::reconcile::open_from;
use crate::resend::{Again, write_again};
use crate::table::Table;

/// Rows of one statement that a person asked for.
const ROWS_MAX: usize = 500;

/// Which rows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A status.
    pub status: Option<String>,
    /// An event type.
    pub event_type: Option<String>,
    /// An aggregate's id.
    pub aggregateid: Option<String>,
}

/// Rows as JSON objects, the newest first.
///
/// # Errors
/// The server's.
pub async fn list(client: &Client, table: &Table, filter: &Filter, limit: i64) -> Result<Vec<String>, Error> {
    // Of the statuses that a search by `failed_at` finds, the index has few rows; the newest of others come soon.
    let failing = matches!(filter.status.as_deref(), Some("FAILED" | "DEAD" | "BLOCKED"));
    let from = match filter.status.as_deref() {
        Some("NEW" | "SENT") => open_from(client, table).await?,
        _ => "0".to_owned(),
    };
    let sql = format!(
        "SELECT row_to_json(r)::text FROM (SELECT o.{id}::text AS id, o.status, o.attempt, o.{event_type}::text AS type, \
           o.{kind}::text AS aggregatetype, o.{aggregate}::text AS aggregateid, o.created_at, o.sent_at, \
           o.processed_at, o.next_attempt_at, o.failed_by, o.reason FROM {t} o \
         WHERE ($1::text IS NULL OR o.status = $1) AND ($2::text IS NULL OR o.{event_type}::text = $2) \
           AND ($3::text IS NULL OR o.{aggregate}::text = $3) AND o.txid >= $5::text::xid8 {failing} ORDER BY o.txid DESC, o.lsn DESC LIMIT $4) r",
        id = table.id,
        event_type = table.event_type,
        kind = table.aggregatetype,
        aggregate = table.aggregateid,
        t = table.sql,
        failing = if failing { "AND o.failed_at IS NOT NULL" } else { "" },
    );
    let rows =
        client.query(&sql, &[&filter.status, &filter.event_type, &filter.aggregateid, &limit, &from]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// All of one row, if it is there.
///
/// # Errors
/// The server's, also when the text can't be an id.
pub async fn show(client: &Client, table: &Table, id: &str) -> Result<Option<String>, Error> {
    let sql = format!(
        "SELECT row_to_json(o)::text FROM {t} o WHERE o.{id} = ($1::text)::{id_type}",
        t = table.sql,
        id = table.id,
        id_type = table.id_type,
    );
    Ok(client.query_opt(&sql, &[&id]).await?.map(|row| row.get(0)))
}

/// Counts by status. NEW, FAILED, DEAD and BLOCKED are exact and quick; `all` counts the others too, by reading all.
///
/// # Errors
/// The server's.
pub async fn stats(client: &Client, table: &Table, all: bool) -> Result<String, Error> {
    let from = open_from(client, table).await?;
    let young = "o.txid >= $3::text::xid8 AND o.status = 'NEW'";
    let condition = if all { "true".to_owned() } else { format!("o.failed_at IS NOT NULL OR {young}") };
    let sql = format!(
        "SELECT json_build_object('outbox', $1::text, 'estimated_rows', (SELECT greatest(sum(c.reltuples), 0)::bigint FROM \
             pg_partition_tree(to_regclass($2)) p JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'r'), \
           'statuses', (SELECT coalesce(json_object_agg(status, count), '{{}}') FROM (SELECT o.status, count(*) FROM {t} o \
             WHERE {condition} GROUP BY 1) s), \
           'oldest_new', (SELECT min(o.created_at) FROM {t} o WHERE {young}))::text",
        t = table.sql,
    );
    Ok(client.query_one(&sql, &[&&*table.name, &table.sql, &from]).await?.get(0))
}

/// Sends rows again that failed; gives how many.
///
/// # Errors
/// The server's.
pub async fn retry(client: &Client, table: &Table, ids: &[String]) -> Result<u64, Error> {
    let mut rows = 0;
    for ids in ids.chunks(ROWS_MAX) {
        rows += write_again(client, table, Again::Retried(ids)).await?;
    }
    Ok(rows)
}

/// Sends rows of a time again, whatever became of them, in the order in which they were written; gives how many.
///
/// # Errors
/// The server's.
pub async fn replay(
    client: &Client,
    table: &Table,
    from: &str,
    to: &str,
    event_type: Option<&str>,
) -> Result<u64, Error> {
    let sql = format!(
        "SELECT o.{id}::text FROM {t} o WHERE o.created_at >= $1::text::timestamptz AND o.created_at < $2::text::timestamptz \
           AND ($3::text IS NULL OR o.{event_type}::text = $3) AND o.status <> 'NEW' ORDER BY o.lsn, o.txid",
        id = table.id,
        event_type = table.event_type,
        t = table.sql,
    );
    let rows = client.query(&sql, &[&from, &to, &event_type]).await?;
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut rows = 0;
    for ids in ids.chunks(ROWS_MAX) {
        rows += write_again(client, table, Again::Replayed(ids)).await?;
    }
    Ok(rows)
}

/// Gives rows up that are not PROCESSED; what is NEW is on its way. Gives how many.
///
/// # Errors
/// The server's.
pub async fn cancel(client: &Client, table: &Table, ids: &[String]) -> Result<u64, Error> {
    let sql = format!(
        "UPDATE {t} o SET status = 'CANCELLED', failed_at = NULL, next_attempt_at = NULL \
         WHERE o.{id} = ANY ($1::text[]::{id_type}[]) AND o.status IN ('SENT', 'FAILED', 'DEAD', 'BLOCKED')",
        t = table.sql,
        id = table.id,
        id_type = table.id_type,
    );
    Ok(client.execute(&sql, &[&ids]).await?)
}

/// Ids of rows in a status, at most so many.
///
/// # Errors
/// The server's.
pub async fn ids_in(client: &Client, table: &Table, status: &str, limit: i64) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT o.{id}::text FROM {t} o WHERE o.failed_at IS NOT NULL AND o.status = $1 ORDER BY o.lsn LIMIT $2",
        id = table.id,
        t = table.sql,
    );
    let rows = client.query(&sql, &[&status, &limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Takes rows away that are at their end and were written more than so many days ago: days of `headwater.outbox` as
/// whole partitions, rows of other tables one by one. Says what was taken.
///
/// # Errors
/// The server's.
pub async fn clean_up(
    client: &Client,
    table: &Table,
    days: i32,
    sent_is_the_end: bool,
) -> Result<Vec<String>, Error> {
    if &*table.name == "headwater.outbox" {
        let sql =
            "SELECT headwater.outbox_drop_partitions((now() AT TIME ZONE 'UTC')::date - $1::int, $2::bool)";
        let rows = client.query(sql, &[&days, &sent_is_the_end]).await?;
        return Ok(rows.iter().map(|row| row.get(0)).collect());
    }
    let ends = if sent_is_the_end { "'PROCESSED', 'CANCELLED', 'SENT'" } else { "'PROCESSED', 'CANCELLED'" };
    let sql = format!(
        "DELETE FROM {t} o WHERE o.created_at < now() - $1 * interval '1 day' AND o.status IN ({ends})",
        t = table.sql
    );
    let rows = client.execute(&sql, &[&f64::from(days)]).await?;
    Ok(if rows == 0 { Vec::new() } else { vec![format!("{rows} rows of {}", table.name)] })
}
