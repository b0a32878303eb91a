//! What every service here has: a log, an HTTP server with `/healthz`, and an end in good order at SIGTERM.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

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
    let router = router.route("/healthz", get(async || "ok\n"));
    tracing::info!(%listen, "serving");
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.wanted().await })
        .await
        .context("the HTTP server failed")
}

/// An answer that is no success: what the caller did wrong, or a 503 for whatever broke on our side.
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
