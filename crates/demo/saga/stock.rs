//! The stock service of the saga: it reserves, and gives back.
//!
//! Concurrent buyers of one article are kept apart by the row's lock: `UPDATE … WHERE on_hand >= n` takes it, looks and
//! writes under it. Nothing weaker does (lease.rs shows why).

use anyhow::{Context, Result, ensure};
use axum::Router;
use serde_json::json;
use tokio_postgres::Transaction;

use super::Service;
use crate::consume::{Event, consume, emit, subscribe};
use crate::database::Database;
use crate::service::{self, Stop};

/// Runs until SIGTERM.
pub async fn run(service: &Service) -> Result<()> {
    let stop = Stop::at_signals()?;
    let consumer = subscribe(
        &service.bootstrap,
        &service.group("stock"),
        Some("one"),
        &[&service.topic("order"), &service.topic("payment")],
    )?;
    let database = Database::new(&service.database_url)?;
    tokio::try_join!(
        service::serve(service.listen, Router::new(), stop.clone()),
        consume(&consumer, &database, &stop, handle),
    )?;
    Ok(())
}

pub(super) async fn handle(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    match event.kind.as_str() {
        "OrderPlaced" => reserve(transaction, event).await,
        "PaymentRefused" | "PaymentReturned" => release(transaction, &event.key).await,
        "OrderConfirmed" => {
            let sold = "UPDATE reservation SET state = 'SOLD' WHERE order_id = $1 AND state = 'RESERVED'";
            transaction.execute(sold, &[&event.key]).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn reserve(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    let sku = event.payload["sku"].as_str().context("an order without an article")?;
    let quantity = event.payload["quantity"].as_i64().context("an order without a quantity")?;
    let quantity = i32::try_from(quantity)?;
    ensure!(quantity > 0, "an order of nothing");
    let new = transaction
        .execute(
            "INSERT INTO reservation VALUES ($1, $2, $3, 'RESERVED') ON CONFLICT DO NOTHING",
            &[&event.key, &sku, &quantity],
        )
        .await?;
    if new == 0 {
        // given up before it came here
        return Ok(());
    }
    let taken = transaction
        .execute(
            "UPDATE stock SET on_hand = on_hand - $2 WHERE sku = $1 AND on_hand >= $2",
            &[&sku, &quantity],
        )
        .await?;
    if taken == 1 {
        let payload = json!({ "card": event.payload["card"] });
        return emit(transaction, "stock", &event.key, "StockReserved", &payload).await;
    }
    let rejected = "UPDATE reservation SET state = 'REJECTED', quantity = 0 WHERE order_id = $1";
    transaction.execute(rejected, &[&event.key]).await?;
    emit(transaction, "stock", &event.key, "StockRejected", &json!({})).await
}

/// Undoes `reserve`, whether it has happened or is still to come: the row that is left keeps it from happening.
async fn release(transaction: &Transaction<'_>, order: &str) -> Result<()> {
    // waits for another instance that is reserving for this order just now, and then finds its row
    let first = transaction
        .execute(
            "INSERT INTO reservation VALUES ($1, NULL, 0, 'RELEASED', clock_timestamp()) ON CONFLICT DO NOTHING",
            &[&order],
        )
        .await?;
    if first == 0 {
        let row = transaction
            .query_one(
                "SELECT state, sku, quantity FROM reservation WHERE order_id = $1 FOR UPDATE",
                &[&order],
            )
            .await?;
        match row.get(0) {
            "RELEASED" | "SOLD" => return Ok(()),
            "RESERVED" => {
                let (sku, quantity): (&str, i32) = (row.get(1), row.get(2));
                let back = "UPDATE stock SET on_hand = on_hand + $2 WHERE sku = $1";
                transaction.execute(back, &[&sku, &quantity]).await?;
            }
            _ => {}
        }
        let released =
            "UPDATE reservation SET state = 'RELEASED', released_at = clock_timestamp() WHERE order_id = $1";
        transaction.execute(released, &[&order]).await?;
    }
    emit(transaction, "stock", order, "StockReleased", &json!({})).await
}
