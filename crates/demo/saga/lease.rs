//! Why a distributed lock alone does not guard stock, and what a fencing token adds.
//!
//! A lease ends by itself, since its holder may have died. But a holder that only paused (a collection of garbage, a
//! machine that was suspended, a request that was slow on its way) does not know that it ended, and writes what it
//! decided before. No length of lease and no look at the clock before the write changes that: the pause may come behind
//! the look. What helps is that the place that is written to can tell: every lease has a number that grows, the row
//! remembers the highest that wrote it, and refuses lower ones.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio_postgres::Client;

use crate::database::Database;

/// Takes the lease if nobody has it or it has ended; gives its token.
pub async fn acquire(client: &Client, name: &str, holder: &str, milliseconds: i32) -> Result<Option<i64>> {
    let row = client
        .query_opt(
            "INSERT INTO lease AS l VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 millisecond')
             ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, token = l.token + 1, expires_at = excluded.expires_at
             WHERE l.expires_at < clock_timestamp() RETURNING token",
            &[&name, &holder, &f64::from(milliseconds)],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// What a buyer does under a lease: look, then write what follows from what was seen.
async fn look(client: &Client, sku: &str) -> Result<i32> {
    Ok(client.query_one("SELECT on_hand FROM stock WHERE sku = $1", &[&sku]).await?.get(0))
}

async fn write_unguarded(client: &Client, sku: &str, on_hand: i32) -> Result<bool> {
    let sql = "UPDATE stock SET on_hand = $2 WHERE sku = $1";
    Ok(client.execute(sql, &[&sku, &on_hand]).await? == 1)
}

/// Refused where a younger lease has written.
async fn write_fenced(client: &Client, sku: &str, on_hand: i32, token: i64) -> Result<bool> {
    let sql = "UPDATE stock SET on_hand = $2, fence = $3 WHERE sku = $1 AND fence <= $3";
    Ok(client.execute(sql, &[&sku, &on_hand, &token]).await? == 1)
}

/// The row's own lock: look and write are one statement.
async fn take_one(client: &Client, sku: &str) -> Result<bool> {
    let sql = "UPDATE stock SET on_hand = on_hand - 1 WHERE sku = $1 AND on_hand >= 1";
    Ok(client.execute(sql, &[&sku]).await? == 1)
}

/// How many of one piece two buyers are sold.
#[derive(Debug, PartialEq, Serialize)]
pub struct Sold {
    pub by_plain_lock: u32,
    pub by_fenced_lease: u32,
    pub by_row_lock: u32,
}

/// Two buyers, one piece, and the first one pauses between its look and its write, for longer than its lease.
pub async fn two_buyers(database: &Database, other: &Database) -> Result<Sold> {
    let (first, second) = (database.client().await?, other.client().await?);
    // also what an earlier time left behind when it was cut off
    let stock = "DELETE FROM lease; DELETE FROM stock WHERE sku IN ('lease', 'fence', 'row');
                 INSERT INTO stock VALUES ('lease', 1), ('fence', 1), ('row', 1)";
    first.batch_execute(stock).await?;
    let mut sold = Sold { by_plain_lock: 0, by_fenced_lease: 0, by_row_lock: 0 };
    for sku in ["lease", "fence"] {
        let token = acquire(&first, sku, "first", 60_000).await?.context("the lease is free")?;
        let seen = look(&first, sku).await?;
        ensure!(acquire(&second, sku, "second", 60_000).await?.is_none(), "two holders at a time");
        // the pause: for as long as it takes the lease to end
        first.execute("UPDATE lease SET expires_at = '-infinity' WHERE name = $1", &[&sku]).await?;
        let younger = acquire(&second, sku, "second", 60_000).await?.context("the lease has ended")?;
        let seen_by_second = look(&second, sku).await?;
        ensure!(younger > token && seen == 1 && seen_by_second == 1, "both see the piece");
        if sku == "lease" {
            sold.by_plain_lock += u32::from(write_unguarded(&second, sku, seen_by_second - 1).await?);
            sold.by_plain_lock += u32::from(write_unguarded(&first, sku, seen - 1).await?);
        } else {
            sold.by_fenced_lease += u32::from(write_fenced(&second, sku, seen_by_second - 1, younger).await?);
            sold.by_fenced_lease += u32::from(write_fenced(&first, sku, seen - 1, token).await?);
        }
    }
    let (one, two) = tokio::join!(take_one(&first, "row"), take_one(&second, "row"));
    sold.by_row_lock = u32::from(one?) + u32::from(two?);
    first.batch_execute("DELETE FROM stock WHERE sku IN ('lease', 'fence', 'row')").await?;
    Ok(sold)
}
