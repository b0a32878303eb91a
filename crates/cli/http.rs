//! The endpoints: metrics to scrape, probes for whoever keeps the process running, a status for people.
//!
//! In: the pipeline's status and the registry of metrics. `/healthz` fails only when nothing moved and nobody said why
//! for a minute: a restart helps then and only then. `/readyz` says what the instance does. All of them only read but
//! for `/snapshot/…` and `/dead_letters/…`, which take commands from this machine only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use headwater_pgoutput::Lsn;
use headwater_pipeline::snapshot::control::{Command, SnapshotControl, TablePattern};
use headwater_pipeline::status::Readiness;
use headwater_pipeline::{ExitCode, Halt, Status};
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

/// How long nothing may move, with no reason given, before `/healthz` asks for a restart.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What the endpoints read.
#[derive(Clone)]
pub struct Sources {
    /// The pipeline's word on itself.
    pub status: Arc<Status>,
    /// All metrics.
    pub registry: Registry,
    /// The way to the pipeline's snapshots.
    pub snapshots: Arc<SnapshotControl>,
}

/// Binds the address; before anything else is started, so that a taken port is a plain message.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, Halt> {
    TcpListener::bind(listen).await.map_err(|error| {
        Halt::new(
            ExitCode::Configuration,
            format!("can't listen on http.listen {listen}: {error}"),
            "choose another port in [http] listen, or stop what listens there",
        )
    })
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, sources: Sources) {
    if let Err(error) =
        axum::serve(listener, router(sources).into_make_service_with_connect_info::<SocketAddr>()).await
    {
        tracing::error!(%error, "the http endpoint stopped");
    }
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/wait", get(wait))
        .route("/snapshot", get(snapshot))
        .route("/snapshot/{verb}", post(command))
        .route("/dead_letters/replay", post(replay))
        .with_state(sources)
}

async fn metrics(State(sources): State<Sources>) -> Response {
    metrics_text(&sources.registry)
}

/// All metrics in Prometheus' text format.
pub fn metrics_text(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(sources): State<Sources>) -> Response {
    let still = sources.status.since_progress();
    if still > STALLED_AFTER {
        let text = format!("nothing has moved and no reason was given for {} s\n", still.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    "ok\n".into_response()
}

#[derive(serde::Deserialize)]
struct Role {
    role: Option<String>,
}

async fn readyz(State(sources): State<Sources>, Query(Role { role }): Query<Role>) -> Response {
    let healthy = sources.status.since_progress() <= STALLED_AFTER;
    let (code, body) = readiness(&sources.status.snapshot().readiness, healthy, role.as_deref());
    (code, body).into_response()
}

/// The answer of `/readyz`: the state in one word, then what it is about.
fn readiness(readiness: &Readiness, healthy: bool, role: Option<&str>) -> (StatusCode, String) {
    let (ready, body) = match readiness {
        Readiness::Streaming => (true, "streaming".to_owned()),
        Readiness::Standby { owner } => (role != Some("active"), format!("standby: {owner} owns the slot")),
        Readiness::Starting { doing } => (false, format!("starting: {doing}")),
        Readiness::Waiting { reason } => (false, format!("waiting: {reason}")),
        Readiness::Stopping => (false, "stopping".to_owned()),
        Readiness::Halted { reason } => (false, format!("halted: {reason}")),
    };
    match (ready, healthy) {
        (true, true) => (StatusCode::OK, body + "\n"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, format!("stalled: {body}, but nothing moves\n")),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, body + "\n"),
    }
}

async fn status(State(sources): State<Sources>) -> Response {
    match serde_json::to_string(&sources.status.snapshot()) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// How long `/wait` waits if it is not told, and at most.
const WAIT_SECONDS: (u64, u64) = (30, 300);

/// How often it looks; the pipeline says every 100 ms how far it is.
const WAIT_LOOK: Duration = Duration::from_millis(20);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Waited {
    lsn: String,
    timeout_seconds: Option<u64>,
}

/// Answers when everything up to a position is acknowledged.
async fn wait(
    State(sources): State<Sources>,
    Query(Waited { lsn, timeout_seconds }): Query<Waited>,
) -> Response {
    let Ok(lsn) = lsn.parse::<Lsn>() else {
        return (StatusCode::BAD_REQUEST, "lsn is no position such as 0/16B3748\n").into_response();
    };
    let limit = Duration::from_secs(timeout_seconds.unwrap_or(WAIT_SECONDS.0).min(WAIT_SECONDS.1));
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let acknowledged = sources.status.acknowledged();
        if acknowledged >= lsn {
            return format!("{acknowledged}\n").into_response();
        }
        if tokio::time::Instant::now() >= deadline {
            let text = format!("{lsn} is not acknowledged within {} s; {acknowledged} is\n", limit.as_secs());
            return (StatusCode::GATEWAY_TIMEOUT, text).into_response();
        }
        tokio::time::sleep(WAIT_LOOK).await;
    }
}

async fn snapshot(State(sources): State<Sources>) -> Response {
    Json(sources.snapshots.status()).into_response()
}

/// What may be said of a snapshot; which of it counts depends on the verb.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    id: Option<String>,
    #[serde(default)]
    tables: Vec<String>,
    #[serde(default)]
    filters: Vec<(String, String)>,
}

/// A command has to come as JSON, which a page in somebody's browser can't send here unasked.
async fn command(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    State(sources): State<Sources>,
    Path(verb): Path<String>,
    Json(Asked { id, tables, filters }): Json<Asked>,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "commands are taken from this machine only\n").into_response();
    }
    let command = match verb.as_str() {
        "start" if tables.is_empty() => {
            return (StatusCode::BAD_REQUEST, "name the tables to copy\n").into_response();
        }
        "start" => Command::Start {
            id,
            tables: TablePattern::globs(tables),
            filters: filters.into_iter().map(|(table, filter)| (TablePattern::Glob(table), filter)).collect(),
        },
        "pause" => Command::Pause,
        "resume" => Command::Resume,
        "cancel" => Command::Cancel { tables: TablePattern::globs(tables) },
        _ => return (StatusCode::NOT_FOUND, "there are start, pause, resume and cancel\n").into_response(),
    };
    match sources.snapshots.ask(command).await {
        Ok(done) => (StatusCode::OK, done + "\n").into_response(),
        Err(why) => (StatusCode::CONFLICT, why + "\n").into_response(),
    }
}

/// Rows to be read again and written as they are now.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Replayed {
    schema: String,
    table: String,
    keys: Vec<BTreeMap<String, String>>,
    attempt: u32,
}

/// Answers with the name of the job, which `/snapshot` tells of.
async fn replay(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    State(sources): State<Sources>,
    Json(Replayed { schema, table, keys, attempt }): Json<Replayed>,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "commands are taken from this machine only\n").into_response();
    }
    match sources.snapshots.ask(Command::Replay { table: (schema, table), keys, attempt }).await {
        Ok(id) => (StatusCode::OK, id).into_response(),
        Err(why) => (StatusCode::CONFLICT, why + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_which() {
        let standby = Readiness::Standby { owner: "pid 7".to_owned() };
        let starting = Readiness::Starting { doing: "connecting".to_owned() };
        for (state, healthy, role, code, body) in [
            (&Readiness::Streaming, true, None, 200, "streaming\n"),
            (&Readiness::Streaming, true, Some("active"), 200, "streaming\n"),
            (&Readiness::Streaming, false, None, 503, "stalled: streaming, but nothing moves\n"),
            (&standby, true, None, 200, "standby: pid 7 owns the slot\n"),
            (&standby, true, Some("active"), 503, "standby: pid 7 owns the slot\n"),
            (&starting, true, None, 503, "starting: connecting\n"),
        ] {
            let (got, text) = readiness(state, healthy, role);
            assert_eq!((got.as_u16(), text.as_str()), (code, body), "{state:?} {role:?}");
        }
    }
}
