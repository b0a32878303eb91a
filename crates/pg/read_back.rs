//! Reads rows back by key, with what is needed to tell whether a row is still the one that a transaction left behind.
//!
//! One string of statements in one transaction, so one round trip. The order matters:
//! 1. which of the transactions are visible; each later statement takes a later snapshot, which sees them as well;
//! 2. where the operators of the key's types are, since nothing but `pg_catalog` is searched otherwise;
//! 3. the rows, as text of the types' output functions (the simple protocol has no other); this also locks the table
//!    against DDL until the end of the transaction;
//! 4. what the catalog says of table and columns, which is therefore what held when the rows were read.

use std::collections::HashMap;
use std::fmt::Write;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_core::Stream;
use headwater_pgoutput::RelationId;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use crate::catalog::{quote_identifier, quote_literal};
use crate::{Client, Error, ErrorKind};

/// What to read.
#[derive(Clone, Debug)]
pub struct ReadBack {
    /// The table's oid.
    pub relation: RelationId,
    /// Its schema and name when the rows were written.
    pub table: (String, String),
    /// The columns of its key.
    pub key: Vec<String>,
    /// The columns to read.
    pub columns: Vec<String>,
    /// The keys of the rows, as text, and the transaction whose row each is.
    pub rows: Vec<(Vec<String>, u32)>,
    /// The slot that the rows came through.
    pub slot: String,
    /// Its publications.
    pub publications: Vec<String>,
    /// Whether values that another transaction wrote are of use.
    pub newer: bool,
    /// Bytes of values that are kept at most; the first row is kept whatever it has.
    pub bytes_max: u64,
    /// And of that row, at most so many.
    pub row_bytes_max: u64,
}

/// What was read.
#[derive(Debug, Default)]
pub struct ReadRows {
    /// For each row that was asked for.
    pub rows: Vec<ReadRow>,
    /// For each column: it is the one that it was, created before any transaction that the slot has not confirmed, or
    /// with its table.
    pub same_column: Vec<bool>,
    /// Every INSERT is published, so that none can have replaced a row unseen.
    pub inserts_published: bool,
}

/// One row that was asked for.
#[derive(Debug)]
pub enum ReadRow {
    /// Nothing more was kept: ask again.
    NotRead,
    /// There is none of that key, or not one.
    Gone,
    /// The row was written by another transaction, and its values are not wanted.
    Newer,
    /// Its values are too large to be kept.
    TooLarge,
    /// Its transaction is not visible to others yet: what would be read is the row before.
    NotVisible,
    /// The row that is there.
    Found {
        /// Written by the transaction that was named, itself and not in a savepoint.
        own: bool,
        /// The values; none for NULL.
        values: Vec<Option<String>>,
    },
}

/// Why there is nothing to read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The table, or a column, is no longer what it was.
    Changed,
    /// It took longer than it may, or the table is locked.
    Timeout,
}

/// Prepares a connection for reading back: what stands here must not be undone by the role's or the database's settings.
///
/// # Errors
/// Those of the connection.
pub async fn prepare(client: &Client, timeout: Duration) -> Result<(), Error> {
    // As the walsender has it, which decides how regclass and its kin are written. Without row_security = off a policy
    // would make rows look deleted.
    let sql = format!(
        "SET statement_timeout = {}; SET search_path = pg_catalog; SET row_security = off;
         SET default_transaction_read_only = on",
        timeout.as_millis()
    );
    Ok(client.batch_execute(&sql).await?)
}

/// Reads rows back. `silence_max` bounds the whole: a server that doesn't keep its own timeout is gone.
///
/// # Errors
/// Those of the connection, and what the server refuses for another reason than that the table has changed or that it
/// took too long. The connection can't be used again then.
pub async fn read_back(
    client: &Client,
    wanted: &ReadBack,
    silence_max: Duration,
) -> Result<Result<ReadRows, Unreadable>, Error> {
    let reading = async {
        match read(client, wanted).await {
            Ok(rows) => Ok(Ok(rows)),
            Err(error) => match error.sqlstate().and_then(unreadable) {
                Some(unreadable) => {
                    client.batch_execute("ROLLBACK").await?;
                    Ok(Err(unreadable))
                }
                None => Err(error),
            },
        }
    };
    match tokio::time::timeout(silence_max, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "Postgres does not answer while rows are read back")),
    }
}

/// By SQLSTATE (Postgres manual, appendix A).
fn unreadable(code: &str) -> Option<Unreadable> {
    match code {
        // undefined table, column, schema, function (of a comparison); a key that doesn't fit the column's type of today
        "42P01" | "42703" | "3F000" | "42883" | "42804" | "42809" => Some(Unreadable::Changed),
        code if code.starts_with("22") => Some(Unreadable::Changed),
        // statement timeout; lock timeout; conflict with recovery on a standby, or a deadlock
        "57014" | "55P03" | "40001" | "40P01" => Some(Unreadable::Timeout),
        _ => None,
    }
}

async fn read(client: &Client, wanted: &ReadBack) -> Result<ReadRows, Error> {
    let mut result = ReadRows {
        rows: wanted.rows.iter().map(|_| ReadRow::Gone).collect(),
        same_column: vec![false; wanted.columns.len()],
        inserts_published: false,
    };
    let mut collected = Collected::new(wanted);
    let mut stream = pin!(client.simple_query_raw(&statements(wanted)).await?);
    let mut statement = 0;
    while let Some(message) = next(&mut stream).await {
        match message? {
            SimpleQueryMessage::CommandComplete(_) => statement += 1,
            SimpleQueryMessage::Row(row) => match statement {
                VISIBLE => collected.visible(&row),
                ROWS => collected.row(wanted, &row, &mut result),
                TABLE => collected.table(&row, &mut result),
                COLUMNS => collected.column(wanted, &row, &mut result),
                _ => {}
            },
            _ => {}
        }
    }
    collected.judge(wanted, &mut result);
    Ok(result)
}

/// The stream has no other interface than that of futures' `Stream`.
async fn next(
    stream: &mut Pin<&mut SimpleQueryStream>,
) -> Option<Result<SimpleQueryMessage, tokio_postgres::Error>> {
    std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

/// How many statements are complete when a row of each comes.
const VISIBLE: usize = 1;
const ROWS: usize = 3;
const TABLE: usize = 4;
const COLUMNS: usize = 5;

fn statements(wanted: &ReadBack) -> String {
    let mut sql = "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY;".to_owned();
    for statement in [visible(wanted), search_path(wanted), rows(wanted), table(wanted), columns(wanted)] {
        sql.push_str(&statement);
        sql.push_str(";\n");
    }
    sql.push_str("COMMIT");
    sql
}

/// WAL names a transaction by 32 bits; the server's counter has 64, and the transaction is the one of these 32 bits that is
/// nearest to it.
fn visible(wanted: &ReadBack) -> String {
    let mut xids: Vec<u32> = wanted.rows.iter().map(|(_, xid)| *xid).collect();
    xids.sort_unstable();
    xids.dedup();
    let xids: Vec<String> = xids.iter().map(u32::to_string).collect();
    format!(
        "SELECT x.xid, txid_visible_in_snapshot(
                s.next + ((x.xid - s.next + 2147483648) & 4294967295) - 2147483648, s.snapshot)
           FROM unnest('{{{}}}'::bigint[]) x (xid),
                (SELECT n.snapshot, txid_snapshot_xmax(n.snapshot) AS next
                   FROM (SELECT txid_current_snapshot() AS snapshot) n) s",
        xids.join(",")
    )
}

/// A type of an extension brings its own operators: without them citext would be compared as text, past its index.
fn search_path(wanted: &ReadBack) -> String {
    format!(
        "SELECT set_config('search_path', concat_ws(', ', 'pg_catalog', (
             SELECT string_agg(DISTINCT quote_ident(n.nspname), ', ')
               FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
              WHERE a.attrelid = {} AND a.attname IN ({}) AND n.nspname <> 'pg_catalog')), true)",
        wanted.relation.0,
        literals(&wanted.key)
    )
}

/// Rows of tables that inherit from this one are others' rows, those of partitions are its own.
fn rows(wanted: &ReadBack) -> String {
    let column = |name: &String| format!("t.{}", quote_identifier(name));
    let key: Vec<String> = wanted.key.iter().map(column).collect();
    let mut sql = "SELECT t.xmin".to_owned();
    for name in key.iter().cloned().chain(wanted.columns.iter().map(column)) {
        push(&mut sql, format_args!(", {name}"));
    }
    let (schema, table) = (quote_identifier(&wanted.table.0), quote_identifier(&wanted.table.1));
    let relation = wanted.relation.0;
    push(
        &mut sql,
        format_args!(
            " FROM {schema}.{table} AS t
             WHERE (t.tableoid = {relation} OR (SELECT c.relkind FROM pg_class c WHERE c.oid = {relation}) = 'p') AND ({}) IN (",
            key.join(", ")
        ),
    );
    for (position, (values, _)) in wanted.rows.iter().enumerate() {
        let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
        push(&mut sql, format_args!("{}({})", if position > 0 { ", " } else { "" }, values.join(", ")));
    }
    sql.push(')');
    sql
}

/// Whether the name still means the table, and whether all INSERTs are published.
fn table(wanted: &ReadBack) -> String {
    let (schema, table) = (quote_literal(&wanted.table.0), quote_literal(&wanted.table.1));
    format!(
        "SELECT (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = {schema} AND c.relname = {table}) = {},
                (SELECT bool_and(p.pubinsert) FROM pg_publication p WHERE p.pubname IN ({}))",
        wanted.relation.0,
        literals(&wanted.publications)
    )
}

/// A column is described by a row of the catalog whose xmin is the transaction that made it what it is. Every change of a
/// table's columns excludes writers, so if that transaction ended before any that the slot has not confirmed, the column
/// was the same when the row was written: all xids before the slot's `catalog_xmin` ended before the position that the
/// slot has confirmed. The same holds if the table itself was created with the column; its system columns tell by whom.
fn columns(wanted: &ReadBack) -> String {
    let names: Vec<String> = wanted.key.iter().chain(&wanted.columns).cloned().collect();
    format!(
        "SELECT a.attname, a.xmin = s.xmin
                OR coalesce(age(a.xmin) > (SELECT age(r.catalog_xmin) FROM pg_replication_slots r
                                            WHERE r.slot_name = {}), false)
           FROM pg_attribute a
           JOIN pg_attribute s ON s.attrelid = a.attrelid AND s.attnum = -1
          WHERE a.attrelid = {} AND a.attname IN ({}) AND NOT a.attisdropped",
        quote_literal(&wanted.slot),
        wanted.relation.0,
        literals(&names)
    )
}

fn literals(texts: &[String]) -> String {
    texts.iter().map(|text| quote_literal(text)).collect::<Vec<_>>().join(", ")
}

fn push(sql: &mut String, text: std::fmt::Arguments<'_>) {
    sql.write_fmt(text).expect("writing to memory does not fail");
}

/// What came so far.
struct Collected<'a> {
    /// Which of the rows that were asked for have this key: the same one can be of several transactions.
    by_key: HashMap<&'a [String], Vec<usize>>,
    visible: Vec<u32>,
    seen: Vec<bool>,
    same_key: Vec<bool>,
    same_table: bool,
    bytes: u64,
}

impl<'a> Collected<'a> {
    fn new(wanted: &'a ReadBack) -> Collected<'a> {
        let mut by_key: HashMap<&[String], Vec<usize>> = HashMap::new();
        for (at, (key, _)) in wanted.rows.iter().enumerate() {
            by_key.entry(key).or_default().push(at);
        }
        Collected {
            by_key,
            visible: Vec::new(),
            seen: vec![false; wanted.rows.len()],
            same_key: vec![false; wanted.key.len()],
            same_table: false,
            bytes: 0,
        }
    }

    fn visible(&mut self, row: &SimpleQueryRow) {
        if is_true(row, 1) {
            self.visible.extend(text(row, 0).and_then(|xid| xid.parse::<u32>().ok()));
        }
    }

    /// A key that has two rows has none that could be told.
    fn row(&mut self, wanted: &ReadBack, row: &SimpleQueryRow, result: &mut ReadRows) {
        let Some(xmin) = text(row, 0).and_then(|xmin| xmin.parse::<u32>().ok()) else { return };
        let first = 1 + wanted.key.len();
        let key: Option<Vec<String>> = (1..first).map(|at| text(row, at).map(str::to_owned)).collect();
        let Some(places) = key.and_then(|key| self.by_key.get(&key[..])) else { return };
        let values = || (first..first + wanted.columns.len()).map(|at| text(row, at));
        let bytes: usize = values().flatten().map(str::len).sum();
        for &place in places {
            let own = xmin == wanted.rows[place].1;
            let is_first = self.bytes == 0;
            result.rows[place] = if std::mem::replace(&mut self.seen[place], true) {
                ReadRow::Gone
            } else if !own && !wanted.newer {
                ReadRow::Newer
            } else if bytes as u64 > wanted.row_bytes_max {
                ReadRow::TooLarge
            } else if !is_first && self.bytes + bytes as u64 > wanted.bytes_max {
                ReadRow::NotRead
            } else {
                self.bytes += bytes as u64;
                ReadRow::Found { own, values: values().map(|value| value.map(str::to_owned)).collect() }
            };
        }
    }

    fn table(&mut self, row: &SimpleQueryRow, result: &mut ReadRows) {
        self.same_table = is_true(row, 0);
        result.inserts_published = is_true(row, 1);
    }

    fn column(&mut self, wanted: &ReadBack, row: &SimpleQueryRow, result: &mut ReadRows) {
        let same = is_true(row, 1);
        let Some(name) = text(row, 0) else { return };
        let known = |names: &[String]| names.iter().position(|known| known == name);
        known(&wanted.key).into_iter().for_each(|at| self.same_key[at] = same);
        known(&wanted.columns).into_iter().for_each(|at| result.same_column[at] = same);
    }

    fn judge(&self, wanted: &ReadBack, result: &mut ReadRows) {
        for ((_, xid), row) in wanted.rows.iter().zip(&mut result.rows) {
            if !self.visible.contains(xid) {
                *row = ReadRow::NotVisible;
            }
        }
        // Another table under that name, or another key: these are other rows.
        if !self.same_table || self.same_key.contains(&false) {
            result.same_column.fill(false);
        }
    }
}

/// A value that isn't UTF-8, which the session's encoding rules out, counts as none.
fn text(row: &SimpleQueryRow, at: usize) -> Option<&str> {
    row.try_get(at).ok().flatten()
}

fn is_true(row: &SimpleQueryRow, at: usize) -> bool {
    text(row, at) == Some("t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> ReadBack {
        ReadBack {
            relation: RelationId(16_400),
            table: ("my schema".to_owned(), "t\"x".to_owned()),
            key: vec!["a".to_owned(), "B".to_owned()],
            columns: vec!["body".to_owned()],
            rows: vec![
                (vec!["1".to_owned(), "it's".to_owned()], 7),
                (vec!["2".to_owned(), "a\\b".to_owned()], u32::MAX),
                (vec!["3".to_owned(), String::new()], 7),
            ],
            slot: "headwater".to_owned(),
            publications: vec!["one".to_owned(), "two".to_owned()],
            newer: false,
            bytes_max: 1,
            row_bytes_max: 1,
        }
    }

    #[test]
    fn names_and_keys_are_quoted() {
        let sql = statements(&wanted());
        for part in [
            r#"SELECT t.xmin, t."a", t."B", t."body" FROM "my schema"."t""x" AS t"#,
            r#"(t."a", t."B") IN (('1', 'it''s'), ('2', E'a\\b'), ('3', ''))"#,
            "'{7,4294967295}'::bigint[]",
            "IN ('one', 'two')",
        ] {
            assert!(sql.contains(part), "{part}\n{sql}");
        }
    }
}
