//! The order service: it takes orders by its own copy of the inventory, and never asks the product service.
//!
//! Its copy is kept by `headwater apply`, which runs `inventory_changed` (orders.sql) and answers for it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::database::Database;
use crate::service::{self, Failure, JsonText, Stop};

/// Runs until SIGTERM.
pub async fn run(listen: SocketAddr, database_url: &str) -> Result<()> {
    let database = Arc::new(Database::new(database_url)?);
    let router =
        Router::new().route("/inventory", get(inventory)).route("/orders", post(order)).with_state(database);
    service::serve(listen, router, Stop::at_signals()?).await
}

async fn inventory(State(database): State<Arc<Database>>) -> Result<JsonText, Failure> {
    let sql = "SELECT coalesce(json_agg(c ORDER BY sku), '[]')::text FROM inventory_copy c";
    Ok(JsonText(database.text(sql).await?))
}

#[derive(Deserialize)]
struct Order {
    sku: String,
    quantity: u16,
}

/// Accepted if the copy has enough of it: as good as the copy is, and without waiting for another service.
async fn order(State(database): State<Arc<Database>>, Json(order): Json<Order>) -> Result<JsonText, Failure> {
    let client = database.client().await?;
    let row = client
        .query_opt(
            "INSERT INTO purchase (sku, quantity, accepted)
             SELECT sku, $2, quantity >= $2 FROM inventory_copy WHERE sku = $1 RETURNING to_json(purchase)::text",
            &[&order.sku, &i32::from(order.quantity)],
        )
        .await?;
    let Some(row) = row else { return Err(Failure::not_found(format!("no article {}", order.sku))) };
    Ok(JsonText(row.get(0)))
}
