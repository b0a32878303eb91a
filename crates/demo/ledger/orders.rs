//! The order service: a command is decided on the folded state and appended as an event, or refused.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};

use super::order::{Command, Order};
use super::store::{self, Appended};
use crate::database::Database;
use crate::service::{self, Failure, Stop};

/// How often a command is decided again when others were faster.
const TRIES: usize = 50;

/// Runs until SIGTERM.
pub async fn run(listen: SocketAddr, database_url: &str) -> Result<()> {
    // two sessions, so that commands really compete
    let databases = Arc::new([Database::new(database_url)?, Database::new(database_url)?]);
    let router = Router::new().route("/orders/{id}", get(look).post(command)).with_state(databases);
    service::serve(listen, router, Stop::at_signals()?).await
}

type Databases = Arc<[Database; 2]>;

async fn look(State(databases): State<Databases>, Path(id): Path<String>) -> Result<Json<Order>, Failure> {
    let client = databases[0].client().await?;
    Ok(Json(store::load(&*client, &id).await?))
}

/// An answer may be lost on its way, and then the caller sends its command again. With the header `Idempotency-Key`, a
/// UUID of its choice, it is the same command and is done once: the key is the id of the event.
async fn command(
    State(databases): State<Databases>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(command): Json<Command>,
) -> Result<Json<Order>, Failure> {
    let key = headers.get("Idempotency-Key").map(|key| key.to_str()).transpose();
    let key = key.map_err(|_| Failure::conflict("the key is no UUID"))?;
    for _ in 0..TRIES {
        let mut client = databases[fastrand::usize(..2)].client().await?;
        if let Some(key) = key
            && store::is_done(&*client, key).await?
        {
            return Ok(Json(store::load(&*client, &id).await?));
        }
        let order = store::load(&*client, &id).await?;
        let event = order.decide(command.clone()).map_err(Failure::conflict)?;
        if store::append(&mut client, &id, &order, &event, key).await? == Appended::Done {
            return Ok(Json(store::load(&*client, &id).await?));
        }
    }
    Err(Failure::conflict("others are always faster"))
}
