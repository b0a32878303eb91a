//! The user service: it owns the profiles, and says so when one changes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::routing::put;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;

use crate::consume::emit;
use crate::database::Database;
use crate::service::{self, Failure, Stop};

/// Runs until SIGTERM.
pub async fn run(listen: SocketAddr, database_url: &str) -> Result<()> {
    let database = Arc::new(Database::new(database_url)?);
    let router = Router::new().route("/users/{id}", put(change)).with_state(database);
    service::serve(listen, router, Stop::at_signals()?).await
}

#[derive(Deserialize)]
struct Profile {
    /// Nothing keeps it from being left out, which is this service's mistake.
    email: Option<String>,
    name: String,
}

async fn change(
    State(database): State<Arc<Database>>,
    Path(id): Path<String>,
    Json(profile): Json<Profile>,
) -> Result<Json<Value>, Failure> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let row = transaction
        .query_one(
            "INSERT INTO users AS u VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE
             SET email = $2, name = $3, version = u.version + 1 RETURNING json_strip_nulls(to_json(u))::text",
            &[&id, &profile.email, &profile.name],
        )
        .await?;
    let user: Value = serde_json::from_str(row.get(0))?;
    emit(&transaction, "profile", &id, "ProfileUpdated", &user).await?;
    transaction.commit().await?;
    Ok(Json(user))
}
