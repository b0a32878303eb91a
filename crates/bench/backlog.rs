//! A backlog of inventory changes, half inserts and half updates, written by the server itself.

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use crate::database;

/// Writes `changes` changes, `per_transaction` in each transaction; returns the end of the WAL.
///
/// With one row per transaction, an insert and the update of its row alternate; else each transaction inserts half of
/// its rows and updates those. Commits are not waited for: how fast a backlog was written is not measured.
pub async fn write(client: &Client, changes: i64, per_transaction: i64) -> Result<String> {
    ensure!(per_transaction == 1 || per_transaction % 2 == 0, "rows per transaction: 1 or an even number");
    ensure!(changes % per_transaction.max(2) == 0, "changes must fill their transactions, in pairs");
    let rows = (per_transaction / 2).max(1);
    let first: i64 =
        client.query_one("SELECT coalesce(max(id), 0) + 1 FROM public.inventory", &[]).await?.get(0);
    let separate = if per_transaction == 1 { "COMMIT;" } else { "" };
    let last = first + changes / 2 - 1;
    client.batch_execute("SET synchronous_commit = off").await?;
    client
        .batch_execute(&format!(
            "DO $$
             DECLARE low bigint := {first};
             BEGIN
                 WHILE low <= {last} LOOP
                     INSERT INTO public.inventory (id, sku, name, quantity, price)
                     SELECT id, 'SKU-' || id, 'backlog item number ' || id, id % 1000, (id % 100000) / 100.0
                     FROM generate_series(low, low + {rows} - 1) AS id;
                     {separate}
                     UPDATE public.inventory SET quantity = quantity + 1, updated_at = clock_timestamp()
                     WHERE id BETWEEN low AND low + {rows} - 1;
                     COMMIT;
                     low := low + {rows};
                 END LOOP;
             END $$"
        ))
        .await?;
    flush(client).await?;
    database::wal_end(client).await
}

/// Puts everything on disk: with a commit that is waited for.
pub async fn flush(client: &Client) -> Result<()> {
    client.batch_execute("SET synchronous_commit = on").await?;
    client
        .batch_execute(
            "CREATE TEMP TABLE IF NOT EXISTS flushed (at timestamptz); INSERT INTO flushed VALUES (now())",
        )
        .await?;
    Ok(())
}
