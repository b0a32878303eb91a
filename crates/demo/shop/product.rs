//! The product service: it owns the inventory. Each change of a row writes an event beside it, in one transaction.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::Deserialize;

use crate::database::Database;
use crate::service::{self, Failure, JsonText, Stop};

/// Runs until SIGTERM.
pub async fn run(listen: SocketAddr, database_url: &str) -> Result<()> {
    let database = Arc::new(Database::new(database_url)?);
    let router = Router::new()
        .route("/inventory", get(inventory))
        .route("/inventory/{sku}", put(change))
        .with_state(database);
    service::serve(listen, router, Stop::at_signals()?).await
}

async fn inventory(State(database): State<Arc<Database>>) -> Result<JsonText, Failure> {
    let sql = "SELECT coalesce(json_agg(i ORDER BY sku), '[]')::text FROM inventory i";
    Ok(JsonText(database.text(sql).await?))
}

#[derive(Deserialize)]
struct Change {
    /// Of a new article; otherwise the name that it has stays.
    name: Option<String>,
    quantity: u16,
}

/// The pattern: the row and the event are committed together, or neither is.
async fn change(
    State(database): State<Arc<Database>>,
    Path(sku): Path<String>,
    Json(change): Json<Change>,
) -> Result<JsonText, Failure> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let row = transaction
        .query_one(
            "INSERT INTO inventory AS i VALUES ($1, coalesce($2, $1), $3) ON CONFLICT (sku) DO UPDATE
             SET name = coalesce($2, i.name), quantity = $3, version = i.version + 1
             RETURNING to_json(i)::text",
            &[&sku, &change.name, &i32::from(change.quantity)],
        )
        .await?;
    let article: String = row.get(0);
    transaction
        .execute(
            "SELECT headwater.outbox_put('inventory', $1, 'InventoryChanged', $2::text::jsonb)",
            &[&sku, &article],
        )
        .await?;
    transaction.commit().await?;
    Ok(JsonText(article))
}
