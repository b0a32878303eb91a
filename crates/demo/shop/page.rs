//! The page: one HTML file, its state as JSON, and a POST for each button.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::http::header;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Shop;
use crate::service::{Failure, JsonText};

/// Rows of the outbox that are shown, the newest first.
const EVENTS: &str = "SELECT coalesce(json_agg(e), '[]')::text FROM (
    SELECT id, to_char(created_at, 'HH24:MI:SS') AS at, aggregateid AS sku, payload->'quantity' AS quantity, status, attempt,
           reason, ceil(extract(epoch FROM next_attempt_at - clock_timestamp())) AS retry_in
    FROM headwater.outbox ORDER BY created_at DESC LIMIT 14) e";
const PURCHASES: &str = "SELECT coalesce(json_agg(p), '[]')::text FROM (
    SELECT sku, quantity, accepted, to_char(at, 'HH24:MI:SS') AS at FROM purchase ORDER BY id DESC LIMIT 5) p";
const TROUBLE: &str = "SELECT coalesce(max(sku), '') FROM trouble";

/// Serves from now on, in the background.
pub async fn serve(shop: Arc<Shop>, address: &str) -> Result<()> {
    let router = Router::new()
        .route("/", get(page))
        .route("/state", get(state))
        .route("/stock", post(stock))
        .route("/orders", post(order))
        .route("/trouble", post(trouble))
        .route("/processes/{name}/{action}", post(process))
        .route("/events/{id}/{action}", post(event))
        .with_state(Arc::clone(&shop));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    shop.stage.say(format!("the page: http://{address}/"));
    let server = axum::serve(listener, router);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the page failed");
        }
    });
    Ok(())
}

async fn page() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("page.html"))
}

/// All that the page shows.
async fn state(State(shop): State<Arc<Shop>>) -> Result<Json<Value>, Failure> {
    let (inventory, copy) = shop.tables().await?;
    let parsed = |text: &str| serde_json::from_str::<Value>(text);
    let processes: Vec<_> = shop
        .processes
        .iter()
        .map(|process| json!({ "name": process.name, "what": process.what, "pid": process.pid() }))
        .collect();
    let mut mails = shop.mailbox.mails()?;
    mails.reverse();
    Ok(Json(json!({
        "equal": inventory == copy,
        "inventory": parsed(&inventory)?,
        "copy": parsed(&copy)?,
        "events": parsed(&shop.product.text(EVENTS).await?)?,
        "counts": shop.statuses().await?,
        "orders": parsed(&shop.orders.text(PURCHASES).await?)?,
        "trouble": shop.orders.text(TROUBLE).await?,
        "processes": processes,
        "mails": mails,
        "said": shop.stage.said(12),
    })))
}

#[derive(Deserialize)]
struct Stock {
    sku: String,
    name: Option<String>,
    quantity: i32,
}

async fn stock(State(shop): State<Arc<Shop>>, Json(stock): Json<Stock>) -> Result<Json<Value>, Failure> {
    let changed = shop.set_stock(&stock.sku, stock.name.as_deref(), stock.quantity).await;
    changed.map(Json).map_err(|_| Failure::conflict("The product service does not answer. Is it running?"))
}

async fn order(State(shop): State<Arc<Shop>>, Json(stock): Json<Stock>) -> Result<Json<Value>, Failure> {
    let placed = shop.place_order(&stock.sku, stock.quantity).await;
    placed.map(Json).map_err(|_| Failure::conflict("The order service does not answer. Is it running?"))
}

#[derive(Deserialize)]
struct Trouble {
    /// Empty for none, `*` for all.
    sku: String,
}

async fn trouble(State(shop): State<Arc<Shop>>, Json(trouble): Json<Trouble>) -> Result<(), Failure> {
    Ok(shop.trouble(Some(trouble.sku.as_str()).filter(|sku| !sku.is_empty())).await?)
}

async fn process(
    State(shop): State<Arc<Shop>>,
    Path((name, action)): Path<(String, String)>,
) -> Result<(), Failure> {
    let process = shop.process(&name).map_err(|_| Failure::not_found("no such process"))?;
    match action.as_str() {
        "start" => process.start()?,
        "stop" => {
            process.stop().await?;
        }
        "kill" => process.kill(),
        _ => return Err(Failure::not_found("start, stop or kill")),
    }
    Ok(())
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
