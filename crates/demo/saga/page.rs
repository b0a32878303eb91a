//! What the saga's page shows, and what its buttons do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::script::{ARTICLES, Wish, wish};
use super::verdict::verdict;
use super::{Saga, lease};
use crate::database::Database;
use crate::page::ask;
use crate::service::Failure;

/// How many orders are shown, and how many the button for many of them places.
const SHOWN: i64 = 18;
const MANY: usize = 20;

pub fn buttons() -> Router<Arc<Saga>> {
    Router::new()
        .route("/orders", post(order))
        .route("/orders/many", post(many))
        .route("/two_buyers", post(two_buyers))
}

/// The newest orders by each of the three services, the stock, and what happened to the order `of`, or to the newest.
pub async fn state(saga: &Saga, of: Option<&str>) -> Result<Value> {
    // the orders first: see `verdict`
    let rows = saga
        .orders
        .client()
        .await?
        .query(
            "SELECT id, to_char(placed_at, 'HH24:MI:SS'), sku, quantity, state, reason FROM purchase
             ORDER BY placed_at DESC LIMIT $1",
            &[&SHOWN],
        )
        .await?;
    let ids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let payments = states(&saga.payments, "payment", &ids).await?;
    let reservations = states(&saga.stock, "reservation", &ids).await?;
    let none = || "none".to_owned();
    let orders: Vec<_> = rows
        .iter()
        .map(|row| {
            let (id, order): (&str, &str) = (row.get(0), row.get(4));
            let payment = payments.get(id).cloned().unwrap_or_else(none);
            let reservation = reservations.get(id).cloned().unwrap_or_else(none);
            let verdict = verdict(order, &payment, &reservation);
            json!({
                "id": id, "at": row.get::<_, &str>(1), "sku": row.get::<_, &str>(2), "quantity": row.get::<_, i32>(3),
                "order": order, "reason": row.get::<_, Option<&str>>(5),
                "payment": payment, "reservation": reservation, "verdict": verdict,
            })
        })
        .collect();
    let chosen = of.or(ids.first().copied());
    let timeline = match chosen {
        Some(id) => timeline(saga, id).await?,
        None => Vec::new(),
    };
    let count = saga.orders.number("SELECT count(*) FROM purchase").await?;
    let stock: Value = serde_json::from_str(&saga.stock.text(&stock_sql()).await?)?;
    Ok(json!({ "count": count, "orders": orders, "stock": stock, "chosen": chosen, "timeline": timeline }))
}

async fn states(database: &Database, table: &str, ids: &[&str]) -> Result<HashMap<String, String>> {
    let sql = format!("SELECT order_id, state FROM {table} WHERE order_id = ANY ($1::text[])");
    let rows = database.client().await?.query(&sql, &[&ids]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Pieces on hand, held for orders that are under way, and sold.
fn stock_sql() -> String {
    let sum = |state| {
        format!(
            "(SELECT coalesce(sum(quantity), 0) FROM reservation r WHERE r.sku = s.sku AND r.state = '{state}')"
        )
    };
    let (reserved, sold) = (sum("RESERVED"), sum("SOLD"));
    // not the pieces of `two_buyers`
    let skus = ARTICLES.map(|sku| format!("'{sku}'")).join(", ");
    format!(
        "SELECT coalesce(json_agg(t ORDER BY sku), '[]')::text FROM (
             SELECT sku, on_hand, {reserved} AS reserved, {sold} AS sold FROM stock s WHERE sku IN ({skus})) t"
    )
}

/// The events of one order from the outboxes of all three services, in the order in which they were written. They run on
/// one server here, and so by one clock.
async fn timeline(saga: &Saga, id: &str) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    for (service, database) in [("order", &saga.orders), ("stock", &saga.stock), ("payment", &saga.payments)]
    {
        let rows = database
            .client()
            .await?
            .query(
                "SELECT (extract(epoch FROM created_at) * 1000)::bigint, type, status FROM headwater.outbox
                 WHERE aggregateid = $1",
                &[&id],
            )
            .await?;
        for row in rows {
            let (at_ms, kind, status): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
            events.push((at_ms, service, kind, status));
        }
    }
    events.sort();
    let first = events.first().map_or(0, |event| event.0);
    let shown = events.into_iter().map(|(at_ms, service, kind, status)| {
        json!({ "after_ms": at_ms - first, "service": service, "event": kind, "status": status })
    });
    Ok(shown.collect())
}

#[derive(Deserialize)]
struct Order {
    sku: String,
    quantity: i32,
    card: String,
    deliverable: bool,
    /// How long the customer waits.
    seconds: u32,
}

/// The caller of the order service chooses the id.
fn next_id() -> String {
    static PLACED: AtomicU32 = AtomicU32::new(0);
    format!("order-{}", PLACED.fetch_add(1, Ordering::Relaxed) + 1)
}

async fn order(State(saga): State<Arc<Saga>>, Json(order): Json<Order>) -> Result<Json<Value>, Failure> {
    let id = next_id();
    let wish = Wish {
        sku: &order.sku,
        quantity: order.quantity,
        card: &order.card,
        deliverable: order.deliverable,
        patience_ms: order.seconds.saturating_mul(1000),
    };
    ask("order service", saga.order_request(&id, &wish)).await?;
    Ok(Json(json!({ "id": id })))
}

async fn many(State(saga): State<Arc<Saga>>) -> Result<(), Failure> {
    for _ in 0..MANY {
        ask("order service", saga.order_request(&next_id(), &wish())).await?;
    }
    Ok(())
}

async fn two_buyers(State(saga): State<Arc<Saga>>) -> Result<Json<lease::Sold>, Failure> {
    let other = Database::new(&saga.stage.own_url(&saga.stage.named("stock"))?)?;
    Ok(Json(lease::two_buyers(&saga.stock, &other).await?))
}
