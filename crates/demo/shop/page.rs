//! What the shop's page shows, and what its buttons do.

use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shop;
use crate::page::ask;
use crate::service::{Failure, JsonText};

/// Rows of the outbox that are shown, the newest first.
const EVENTS: &str = "SELECT coalesce(json_agg(e), '[]')::text FROM (
    SELECT id, to_char(created_at, 'HH24:MI:SS') AS at, aggregateid AS sku, payload->'quantity' AS quantity, status, attempt,
           reason, ceil(extract(epoch FROM next_attempt_at - clock_timestamp())) AS retry_in
    FROM headwater.outbox ORDER BY created_at DESC LIMIT 14) e";
const PURCHASES: &str = "SELECT coalesce(json_agg(p), '[]')::text FROM (
    SELECT sku, quantity, accepted, to_char(at, 'HH24:MI:SS') AS at FROM purchase ORDER BY id DESC LIMIT 5) p";
const TROUBLE: &str = "SELECT coalesce(max(sku), '') FROM trouble";

pub fn buttons() -> Router<Arc<Shop>> {
    Router::new()
        .route("/stock", post(stock))
        .route("/orders", post(order))
        .route("/trouble", post(trouble))
        .route("/events/{id}/{action}", post(event))
}

/// Both tables, the outbox, and what orders became.
pub async fn state(shop: &Shop) -> Result<Value> {
    let (inventory, copy) = shop.tables().await?;
    let parsed = |text: &str| serde_json::from_str::<Value>(text);
    Ok(json!({
        "equal": inventory == copy,
        "inventory": parsed(&inventory)?,
        "copy": parsed(&copy)?,
        "events": parsed(&shop.product.text(EVENTS).await?)?,
        "counts": shop.statuses().await?,
        "orders": parsed(&shop.orders.text(PURCHASES).await?)?,
        "trouble": shop.orders.text(TROUBLE).await?,
    }))
}

#[derive(Deserialize)]
struct Stock {
    sku: String,
    name: Option<String>,
    quantity: i32,
}

async fn stock(State(shop): State<Arc<Shop>>, Json(stock): Json<Stock>) -> Result<Json<Value>, Failure> {
    let request = shop.stock_request(&stock.sku, stock.name.as_deref(), stock.quantity);
    ask("product service", request).await.map(Json)
}

async fn order(State(shop): State<Arc<Shop>>, Json(stock): Json<Stock>) -> Result<Json<Value>, Failure> {
    ask("order service", shop.order_request(&stock.sku, stock.quantity)).await.map(Json)
}

#[derive(Deserialize)]
struct Trouble {
    /// Empty for none, `*` for all.
    sku: String,
}

async fn trouble(State(shop): State<Arc<Shop>>, Json(trouble): Json<Trouble>) -> Result<(), Failure> {
    Ok(shop.trouble(Some(trouble.sku.as_str()).filter(|sku| !sku.is_empty())).await?)
}

async fn event(
    State(shop): State<Arc<Shop>>,
    Path((id, action)): Path<(String, String)>,
) -> Result<JsonText, Failure> {
    if !matches!(action.as_str(), "retry" | "cancel") {
        return Err(Failure::not_found("retry or cancel"));
    }
    Ok(JsonText(shop.outbox(&[&action, &id, "--json"]).await?))
}
