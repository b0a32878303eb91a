//! What is written into the backlog: the inventory of the demo, wide rows, and rows with documents of 10 kB.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::{backlog, database};

/// Rows per transaction of the loads that aren't measured by it.
const PER_TRANSACTION: i64 = 10;

/// One line of the report.
#[derive(Clone, Copy)]
pub enum Load {
    /// Changes of `inventory`.
    Inventory { per_transaction: i64 },
    /// Changes of a table with fifty columns.
    Wide,
    /// Changes of a table with a jsonb or a text of 10 kB in each row.
    Documents,
}

impl Load {
    pub fn name(self) -> String {
        match self {
            Load::Inventory { per_transaction } => format!("inventory, {per_transaction} per transaction"),
            Load::Wide => format!("50 columns, {PER_TRANSACTION} per transaction"),
            Load::Documents => format!("10 kB documents, {PER_TRANSACTION} per transaction"),
        }
    }

    pub fn table(self) -> &'static str {
        match self {
            Load::Inventory { .. } => "inventory",
            Load::Wide => "bench_wide",
            Load::Documents => "bench_document",
        }
    }

    /// Makes sure that its table is there, published and empty. Vacuum would write WAL of its own into the backlog.
    pub async fn prepare(self, client: &Client) -> Result<()> {
        let table = self.table();
        let definition = match self {
            Load::Inventory { .. } => String::new(),
            Load::Wide => wide_table(),
            Load::Documents => {
                "CREATE TABLE public.bench_document (id bigint PRIMARY KEY, body jsonb, page text, at timestamptz);"
                    .to_owned()
            }
        };
        if !definition.is_empty() {
            client
                .batch_execute(&format!(
                    "DROP TABLE IF EXISTS public.{table}; {definition} ALTER PUBLICATION shop ADD TABLE public.{table}"
                ))
                .await
                .with_context(|| format!("cannot create {table}"))?;
        }
        let empty =
            format!("ALTER TABLE public.{table} SET (autovacuum_enabled = off); TRUNCATE public.{table}");
        client.batch_execute(&empty).await.with_context(|| format!("cannot empty {table}"))
    }

    /// Writes `changes` of them, half inserts and half updates; returns the end of the WAL.
    pub async fn write(self, client: &Client, changes: i64) -> Result<String> {
        match self {
            Load::Inventory { per_transaction } => backlog::write(client, changes, per_transaction).await,
            Load::Wide => rows(client, self.table(), changes, &wide_values(), WIDE_UPDATE).await,
            Load::Documents => rows(client, self.table(), changes, DOCUMENT_VALUES, DOCUMENT_UPDATE).await,
        }
    }
}

/// Every other row a jsonb of 200 keys, and a text that doesn't compress; each is about 10 kB.
const DOCUMENT_VALUES: &str =
    "id, CASE WHEN id % 2 = 0 THEN (SELECT jsonb_object_agg('key-' || n, md5(id || '-' || n)) FROM generate_series(1, 220) n) END,
     CASE WHEN id % 2 = 1 THEN (SELECT string_agg(md5(id || '-' || n), ' ') FROM generate_series(1, 310) n) END, now()";
/// Both kinds are written anew: an unchanged document would not be sent.
const DOCUMENT_UPDATE: &str = "body = body || '{\"changed\": true}', page = page || '.', at = now()";
const WIDE_UPDATE: &str = "c1 = c1 + 1, c3 = 'changed', c5 = now()";

/// Types of the wide table with an expression of `id` for each, four columns of each but the last two.
const WIDE: [(&str, &str); 13] = [
    ("integer", "(id % 100000)::int"),
    ("bigint", "id * 1000003"),
    ("numeric(12,2)", "(id % 1000000) / 100.0"),
    ("text", "'some text of row ' || id"),
    ("varchar(40)", "md5(id::text)"),
    ("timestamptz", "timestamptz '2024-02-29 12:34:56.789+00' + id * interval '1 s'"),
    ("timestamp", "timestamp '2024-02-29 12:34:56.789' + id * interval '1 s'"),
    ("date", "date '2024-02-29' + (id % 9999)::int"),
    ("boolean", "id % 3 = 0"),
    ("double precision", "id / 7.0"),
    ("uuid", "md5(id::text)::uuid"),
    ("jsonb", "jsonb_build_object('id', id, 'tags', ARRAY['a', 'b'])"),
    ("integer[]", "ARRAY[id % 100, NULL, 3]::int[]"),
];
const WIDE_COLUMNS: usize = 50;

fn wide_columns() -> impl Iterator<Item = (usize, &'static (&'static str, &'static str))> {
    (1..WIDE_COLUMNS).map(|column| (column, &WIDE[column % WIDE.len()]))
}

fn wide_table() -> String {
    let mut sql = "CREATE TABLE public.bench_wide (id bigint PRIMARY KEY".to_owned();
    for (column, (type_name, _)) in wide_columns() {
        let _ = write!(sql, ", c{column} {type_name}");
    }
    sql + ");"
}

/// One column in ten is NULL.
fn wide_values() -> String {
    let mut sql = "id".to_owned();
    for (column, (_, value)) in wide_columns() {
        let _ = write!(sql, ", CASE WHEN (id + {column}) % 10 <> 0 THEN {value} END");
    }
    sql
}

/// Transactions that each insert some rows and update those.
async fn rows(client: &Client, table: &str, changes: i64, values: &str, update: &str) -> Result<String> {
    let (rows, last) = (PER_TRANSACTION / 2, changes / 2);
    client.batch_execute("SET synchronous_commit = off").await?;
    client
        .batch_execute(&format!(
            "DO $$
             DECLARE low bigint := 1;
             BEGIN
                 WHILE low <= {last} LOOP
                     INSERT INTO public.{table} SELECT {values} FROM generate_series(low, low + {rows} - 1) AS id;
                     UPDATE public.{table} SET {update} WHERE id BETWEEN low AND low + {rows} - 1;
                     COMMIT;
                     low := low + {rows};
                 END LOOP;
             END $$"
        ))
        .await
        .with_context(|| format!("cannot fill {table}"))?;
    backlog::flush(client).await?;
    database::wal_end(client).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wide_table_is_fifty_columns_wide() {
        assert_eq!(
            wide_table().matches(',').count() - wide_table().matches("(12,2)").count(),
            WIDE_COLUMNS - 1
        );
    }
}
