//! The endpoints of `headwater apply`: metrics, probes and a status, as those of `headwater run`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Held;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use headwater_apply::{State, Status};
use prometheus::Registry;
use tokio::net::TcpListener;

use crate::http;

/// How long nothing may move, with no reason given, before `/healthz` asks for a restart. One transaction is that long
/// only if something is wrong.
const STALLED_AFTER: Duration = Duration::from_secs(120);

#[derive(Clone)]
struct Sources {
    status: Arc<Status>,
    registry: Registry,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, status: Arc<Status>, registry: Registry) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(report))
        .with_state(Sources { status, registry });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the http endpoint stopped");
    }
}

async fn metrics(Held(sources): Held<Sources>) -> Response {
    http::metrics_text(&sources.registry)
}

async fn healthz(Held(sources): Held<Sources>) -> Response {
    let still = sources.status.since_progress();
    if still > STALLED_AFTER {
        let text = format!("nothing has moved and no reason was given for {} s\n", still.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    "ok\n".into_response()
}

async fn readyz(Held(sources): Held<Sources>) -> Response {
    let state = sources.status.state();
    let (word, reason) = state.words();
    let text = reason.map_or_else(|| format!("{word}\n"), |reason| format!("{word}: {reason}\n"));
    let code = if state == State::Applying { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

async fn report(Held(sources): Held<Sources>) -> Response {
    Json(sources.status.report()).into_response()
}
