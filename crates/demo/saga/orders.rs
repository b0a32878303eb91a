//! The order service of the saga: it begins it, confirms at its end, and gives up what takes too long.
//!
//! ```text
//! OrderPlaced -> StockReserved -> PaymentTaken -> OrderConfirmed
//!             -> StockRejected                                                (nothing to undo)
//!                               -> PaymentRefused -> StockReleased
//! OrderCancelled (too late, or not confirmed) -> PaymentReturned -> StockReleased
//! ```
//! Nobody directs this: each service knows its own step and how to undo it, and undoing goes backward.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::routing::put;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio_postgres::Transaction;

use super::Service;
use crate::consume::{Event, consume, emit, subscribe};
use crate::database::Database;
use crate::service::{self, Failure, Stop};

/// How often it looks for orders that take too long.
const LOOK: Duration = Duration::from_millis(200);

/// Runs until SIGTERM. `timeout_ms`: how long an order may be pending.
pub async fn run(service: &Service, timeout_ms: i32) -> Result<()> {
    let stop = Stop::at_signals()?;
    let database = Arc::new(Database::new(&service.database_url)?);
    let consumer = subscribe(
        &service.bootstrap,
        &service.group("orders"),
        Some("one"),
        &[&service.topic("stock"), &service.topic("payment")],
    )?;
    let router = Router::new().route("/orders/{id}", put(place)).with_state(Arc::clone(&database));
    // a session of its own for each of the three, so that none waits for another
    let (events, timeouts) = (Database::new(&service.database_url)?, Database::new(&service.database_url)?);
    tokio::try_join!(
        service::serve(service.listen, router, stop.clone()),
        consume(&consumer, &events, &stop, handle),
        give_up(&timeouts, timeout_ms, &stop),
    )?;
    Ok(())
}

#[derive(Deserialize)]
struct Order {
    sku: String,
    quantity: u16,
    /// What the card will do: `pays`, `refuses`, or `silent`, which never answers.
    card: String,
    /// Whether the last step will confirm it.
    deliverable: bool,
    /// How long the customer waits before the order is given up; what the service was started with, if not said.
    patience_ms: Option<u32>,
}

/// The caller chooses the id, so that a call that it repeats is the same order.
async fn place(
    State(database): State<Arc<Database>>,
    Path(id): Path<String>,
    Json(order): Json<Order>,
) -> Result<(), Failure> {
    let patience_ms = order.patience_ms.map(f64::from);
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let new = transaction
        .execute(
            "INSERT INTO purchase (id, sku, quantity, deliverable, patience_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
            &[&id, &order.sku, &i32::from(order.quantity), &order.deliverable, &patience_ms],
        )
        .await?;
    if new == 1 {
        let payload = json!({ "sku": order.sku, "quantity": order.quantity, "card": order.card });
        emit(&transaction, "order", &id, "OrderPlaced", &payload).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn handle(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    match event.kind.as_str() {
        "PaymentTaken" => confirm(transaction, &event.key).await?,
        // nothing was done that had to be undone
        "StockRejected" => {
            moved(transaction, &event.key, "PENDING", "CANCELLED", Some("out of stock")).await?;
        }
        // the stock service hears it too, and gives the stock back
        "PaymentRefused" => {
            moved(transaction, &event.key, "PENDING", "CANCELLING", Some("payment refused")).await?;
        }
        "StockReleased" => {
            moved(transaction, &event.key, "CANCELLING", "CANCELLED", None).await?;
            // the refusal of the payment may still be on its way, in another topic
            moved(transaction, &event.key, "PENDING", "CANCELLED", Some("payment refused")).await?;
        }
        _ => {}
    }
    let line = "INSERT INTO timeline (event_id, order_id, kind) VALUES ($1, $2, $3)";
    transaction.execute(line, &[&event.id, &event.key, &event.kind]).await?;
    Ok(())
}

/// The last step. Where it fails, money is returned first and stock given back then.
async fn confirm(transaction: &Transaction<'_>, order: &str) -> Result<()> {
    let sql = "SELECT deliverable FROM purchase WHERE id = $1 FOR UPDATE";
    let row =
        transaction.query_opt(sql, &[&order]).await?.context("a payment for an order that nobody placed")?;
    if row.get(0) {
        if moved(transaction, order, "PENDING", "CONFIRMED", None).await? {
            emit(transaction, "order", order, "OrderConfirmed", &json!({})).await?;
        }
    } else if moved(transaction, order, "PENDING", "CANCELLING", Some("not deliverable")).await? {
        emit(transaction, "order", order, "OrderCancelled", &json!({})).await?;
    }
    Ok(())
}

/// One step of the state machine; false where the order has left that state.
async fn moved(
    transaction: &Transaction<'_>,
    order: &str,
    from: &str,
    to: &str,
    reason: Option<&str>,
) -> Result<bool> {
    let rows = transaction
        .execute(
            "UPDATE purchase SET state = $3, reason = coalesce($4, reason) WHERE id = $1 AND state = $2",
            &[&order, &from, &to, &reason],
        )
        .await?;
    Ok(rows == 1)
}

/// Whoever does not answer must not hold an order for ever.
async fn give_up(database: &Database, timeout_ms: i32, stop: &Stop) -> Result<()> {
    loop {
        if let Err(error) = give_up_once(database, timeout_ms).await {
            tracing::warn!(error = format!("{error:#}"), "cannot look for late orders");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.wanted() => return Ok(()),
        }
    }
}

async fn give_up_once(database: &Database, timeout_ms: i32) -> Result<()> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let late = transaction
        .query(
            "UPDATE purchase SET state = 'CANCELLING', reason = 'took too long' WHERE state = 'PENDING'
             AND placed_at < now() - coalesce(patience_ms, $1) * interval '1 millisecond' RETURNING id",
            &[&f64::from(timeout_ms)],
        )
        .await?;
    for row in &late {
        emit(&transaction, "order", row.get(0), "OrderCancelled", &json!({})).await?;
    }
    transaction.commit().await?;
    Ok(())
}
