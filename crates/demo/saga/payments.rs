//! The payment service of the saga: it takes money once the stock is reserved, and returns it.

use anyhow::Result;
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
        &service.group("payments"),
        Some("one"),
        &[&service.topic("order"), &service.topic("stock")],
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
        "StockReserved" => take(transaction, event).await,
        "OrderCancelled" => give_back(transaction, &event.key).await,
        _ => Ok(()),
    }
}

async fn take(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    let (state, said) = match event.payload["card"].as_str() {
        Some("pays") => ("TAKEN", Some("PaymentTaken")),
        Some("silent") => ("ASKED", None),
        _ => ("REFUSED", Some("PaymentRefused")),
    };
    let new = transaction
        .execute("INSERT INTO payment VALUES ($1, $2) ON CONFLICT DO NOTHING", &[&event.key, &state])
        .await?;
    match said {
        Some(kind) if new == 1 => emit(transaction, "payment", &event.key, kind, &json!({})).await,
        // given up before it came here, or the card says nothing
        _ => Ok(()),
    }
}

/// Undoes `take`, whether it has happened or is still to come.
async fn give_back(transaction: &Transaction<'_>, order: &str) -> Result<()> {
    let rows = transaction
        .execute(
            "INSERT INTO payment AS p VALUES ($1, 'VOIDED', clock_timestamp()) ON CONFLICT (order_id) DO UPDATE
             SET state = CASE p.state WHEN 'TAKEN' THEN 'REFUNDED' ELSE 'VOIDED' END, returned_at = clock_timestamp()
             WHERE p.state IN ('TAKEN', 'ASKED')",
            &[&order],
        )
        .await?;
    if rows == 1 {
        emit(transaction, "payment", order, "PaymentReturned", &json!({})).await?;
    }
    Ok(())
}
