//! Events of orders in Postgres: appended under an expected version, read back as a fold.

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use super::order::{Event, Order};

/// An order gets a snapshot every so many events.
pub const SNAPSHOT_EVERY: i32 = 20;

/// What became of an append.
#[derive(Debug, PartialEq)]
pub enum Appended {
    Done,
    /// Somebody else has appended since, or this same command: look again, decide again.
    Conflict,
}

/// The state, from the newest snapshot and what came behind it.
pub async fn load(client: &impl GenericClient, order_id: &str) -> Result<Order> {
    let snapshot =
        client.query_opt("SELECT state::text FROM order_snapshot WHERE order_id = $1", &[&order_id]).await?;
    let order = match snapshot {
        Some(row) => serde_json::from_str(row.get(0)).context("a snapshot that can't be read")?,
        None => Order::default(),
    };
    fold(client, order_id, order).await
}

/// `order` with the events behind it: of the default, the whole history.
pub async fn fold(client: &impl GenericClient, order_id: &str, mut order: Order) -> Result<Order> {
    let rows = client
        .query(
            "SELECT type, payload::text FROM order_event WHERE order_id = $1 AND version > $2 ORDER BY version",
            &[&order_id, &order.version],
        )
        .await?;
    for row in rows {
        order.apply(&parse(row.get(0), row.get(1))?);
    }
    Ok(order)
}

/// An event from its two columns, or from header and value of its record.
pub fn parse(kind: &str, payload: &str) -> Result<Event> {
    let payload: Json = serde_json::from_str(payload).context("a payload that is no JSON")?;
    serde_json::from_value(json!({ "type": kind, "payload": payload }))
        .with_context(|| format!("an event of type {kind} that can't be read"))
}

/// Whether the command of this key has become an event.
pub async fn is_done(client: &impl GenericClient, key: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM order_event WHERE id = $1::text::uuid)";
    Ok(client.query_one(sql, &[&key]).await?.get(0))
}

/// Appends `event` to the order that `before` was loaded of, if nothing was appended since: optimistic concurrency. No
/// lock is held while the command is thought about; the unique index decides. `key`: the event's id, if the caller has one.
pub async fn append(
    client: &mut Client,
    order_id: &str,
    before: &Order,
    event: &Event,
    key: Option<&str>,
) -> Result<Appended> {
    let stored = serde_json::to_value(event)?;
    let mut after = before.clone();
    after.apply(event);
    let transaction = client.transaction().await?;
    let inserted = transaction
        .execute(
            "INSERT INTO order_event (id, order_id, version, type, payload)
             VALUES (coalesce($5::text::uuid, gen_random_uuid()), $1, $2, $3, $4::text::jsonb)",
            &[&order_id, &after.version, &stored["type"].as_str(), &stored["payload"].to_string(), &key],
        )
        .await;
    match inserted {
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => return Ok(Appended::Conflict),
        other => other?,
    };
    if after.version % SNAPSHOT_EVERY == 0 {
        transaction
            .execute(
                "INSERT INTO order_snapshot VALUES ($1, $2, $3::text::jsonb) ON CONFLICT (order_id) DO UPDATE
                 SET version = excluded.version, state = excluded.state",
                &[&order_id, &after.version, &serde_json::to_string(&after)?],
            )
            .await?;
    }
    transaction.commit().await?;
    Ok(Appended::Done)
}
