//! What the ledger's page shows, and what its buttons do.

use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_postgres::IsolationLevel;

use super::order::{Command, Order};
use super::store::{self, SNAPSHOT_EVERY};
use super::{Ledger, race};
use crate::page::ask;
use crate::service::Failure;

/// The orders that something happened to last.
const ORDERS: &str = "SELECT coalesce(json_agg(o.order_id), '[]')::text FROM (
    SELECT order_id FROM order_event GROUP BY order_id ORDER BY max(at) DESC, order_id LIMIT 20) o";
/// The newest events of one order.
const EVENTS: &str = "SELECT coalesce(json_agg(e), '[]')::text FROM (
    SELECT version, type, payload, to_char(at, 'HH24:MI:SS') AS at FROM order_event WHERE order_id = $1
    ORDER BY version DESC LIMIT 10) e";

pub fn buttons() -> Router<Arc<Ledger>> {
    Router::new()
        .route("/orders/{id}", post(command))
        .route("/orders/{id}/race", post(race))
        .route("/rebuild", post(rebuild))
}

/// The order `of`, or the newest: its events, what they make, its snapshot, and what the view says.
pub async fn state(ledger: &Ledger, of: Option<&str>) -> Result<Value> {
    let ids: Vec<String> = serde_json::from_str(&ledger.orders.text(ORDERS).await?)?;
    let chosen = of.or(ids.first().map(String::as_str)).unwrap_or("order-1");
    // the view first: it may be behind the events, and never ahead of them
    let seen = ledger.projection.number("SELECT coalesce(sum(version), 0)::bigint FROM order_view").await?;
    let view = "SELECT state::text FROM order_view WHERE order_id = $1";
    let view = ledger.projection.client().await?.query_opt(view, &[&chosen]).await?;
    let view: Option<Order> = view.map(|row| serde_json::from_str(row.get(0))).transpose()?;

    // one snapshot for all that is read of the events
    let mut client = ledger.orders.client().await?;
    let level = IsolationLevel::RepeatableRead;
    let client = client.build_transaction().isolation_level(level).read_only(true).start().await?;
    let events = client.query_one(EVENTS, &[&chosen]).await?;
    let order = store::fold(&client, chosen, Order::default()).await?;
    let snapshot = "SELECT version, state::text FROM order_snapshot WHERE order_id = $1";
    let snapshot = client.query_opt(snapshot, &[&chosen]).await?.map(|row| {
        let state: Value = serde_json::from_str(row.get(1)).unwrap_or_default();
        json!({ "version": row.get::<_, i32>(0), "state": state })
    });
    let all = client.query_one("SELECT count(*) FROM order_event", &[]).await?.get::<_, i64>(0);
    let from_snapshot = store::load(&client, chosen).await?;
    Ok(json!({
        "orders": ids,
        "chosen": chosen,
        "events": serde_json::from_str::<Value>(events.get(0))?,
        "order": order,
        "snapshot": snapshot,
        "snapshot_every": SNAPSHOT_EVERY,
        "snapshot_agrees": from_snapshot == order,
        "equal": view.as_ref() == Some(&order) || (view.is_none() && order.version == 0),
        "view": view,
        "behind": all - seen,
        "all": all,
    }))
}

async fn command(
    State(ledger): State<Arc<Ledger>>,
    Path(id): Path<String>,
    Json(command): Json<Command>,
) -> Result<Json<Value>, Failure> {
    ask("order service", ledger.command_request(&id, &command)).await.map(Json)
}

async fn race(
    State(ledger): State<Arc<Ledger>>,
    Path(id): Path<String>,
) -> Result<Json<[race::Runner; 2]>, Failure> {
    race::run(&ledger.orders, &ledger.rival, &id).await.map(Json)
}

async fn rebuild(State(ledger): State<Arc<Ledger>>) -> Result<(), Failure> {
    Ok(ledger.rebuild().await?)
}
