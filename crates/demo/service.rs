//! What every service here has: an HTTP server with `/healthz` and `/metrics`, and an end in good order at SIGTERM.

use std::net::SocketAddr;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, IntCounterVec, Opts, TextEncoder, register_int_counter_vec};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::database::is_refusal;

/// Told once, when the process should end.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens for SIGTERM and SIGINT from now on.
    pub fn at_signals() -> Result<Stop> {
        let (say, hear) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            say.send_replace(true);
        });
        Ok(Stop(hear))
    }

    /// Returns when it is time; at once when it was before. Cancel-safe.
    pub async fn wanted(&self) {
        // an error means that nobody can say it any more, which is an end too
        self.0.clone().wait_for(|stop| *stop).await.ok();
    }

    /// Whether it is time.
    pub fn is_wanted(&self) -> bool {
        *self.0.borrow()
    }
}

/// Serves until `stop`; requests that have begun are answered.
pub async fn serve(listen: SocketAddr, router: Router, stop: Stop) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let router = router
        .layer(middleware::from_fn(count))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics));
    tracing::info!(%listen, "serving");
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.wanted().await })
        .await
        .context("the HTTP server failed")
}

/// Requests by the status of their answers: what a caller sees of this service.
static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("service_requests_total", "Requests that were answered, by status.");
    register_int_counter_vec!(opts, &["status"]).expect("registered once, with a valid name")
});

async fn count(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    REQUESTS.with_label_values(&[response.status().as_str()]).inc();
    response
}

async fn metrics() -> Result<String, Failure> {
    // present from the start, so that a rate has a beginning
    REQUESTS.with_label_values(&["200"]);
    let mut text = Vec::new();
    TextEncoder::new().encode(&prometheus::gather(), &mut text)?;
    Ok(String::from_utf8(text)?)
}

/// An answer that is no success: what the caller did wrong, or a 503 for whatever broke on our side and may pass.
pub struct Failure(StatusCode, String);

impl Failure {
    /// There is no such thing.
    pub fn not_found(what: impl Into<String>) -> Failure {
        Failure(StatusCode::NOT_FOUND, what.into())
    }

    /// It contradicts what is there.
    pub fn conflict(why: impl Into<String>) -> Failure {
        Failure(StatusCode::CONFLICT, why.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        tracing::warn!(error = format!("{error:#}"), "a request failed");
        // 503 would have the caller try again, for ever
        if is_refusal(&error) {
            return Failure(StatusCode::BAD_REQUEST, "this can't be stored".to_owned());
        }
        Failure(StatusCode::SERVICE_UNAVAILABLE, "try again later".to_owned())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

/// JSON that Postgres wrote.
pub struct JsonText(pub String);

impl IntoResponse for JsonText {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}
