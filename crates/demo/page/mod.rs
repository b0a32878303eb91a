//! What the pages of all scenarios share: style and script, what runs with its buttons, mails and what was said. A
//! scenario brings its own HTML, what it shows and a POST for each of its buttons.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::run::Scenario;
use crate::service::Failure;

/// How many of the newest mails are shown.
const MAILS: usize = 10;

/// Serves from now on, in the background.
pub async fn serve<S: Scenario>(scenario: &Arc<S>, address: &str) -> Result<()> {
    let router = Router::new()
        .route("/", get(async || ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], S::PAGE)))
        .route("/style.css", get(async || ([(header::CONTENT_TYPE, "text/css")], include_str!("style.css"))))
        .route(
            "/page.js",
            get(async || ([(header::CONTENT_TYPE, "text/javascript")], include_str!("page.js"))),
        )
        .route("/state", get(state::<S>))
        .route("/processes/{name}/{action}", post(process::<S>))
        .merge(S::buttons())
        .with_state(Arc::clone(scenario));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    scenario.stage().say(format!("the page: http://{address}/"));
    let server = axum::serve(listener, router);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the page failed");
        }
    });
    Ok(())
}

#[derive(Deserialize)]
struct Chosen {
    /// What the person has picked on the page, an order for example.
    of: Option<String>,
}

/// All that the page shows.
async fn state<S: Scenario>(
    State(scenario): State<Arc<S>>,
    Query(chosen): Query<Chosen>,
) -> Result<Json<Value>, Failure> {
    let mut state = scenario.state(chosen.of.as_deref()).await?;
    let processes = scenario.processes().iter();
    let processes = processes.map(|it| json!({ "name": it.name, "what": it.what, "pid": it.pid() }));
    state["processes"] = processes.collect();
    state["said"] = json!(scenario.stage().said(12));
    if let Some(mailbox) = scenario.mailbox() {
        let mails = mailbox.mails()?;
        state["mail_count"] = json!(mails.len());
        state["mails"] = json!(mails.iter().rev().take(MAILS).collect::<Vec<_>>());
    }
    Ok(Json(state))
}

async fn process<S: Scenario>(
    State(scenario): State<Arc<S>>,
    Path((name, action)): Path<(String, String)>,
) -> Result<(), Failure> {
    let process = scenario.process(&name).map_err(|_| Failure::not_found("no such process"))?;
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

/// Does what a button asks of a service, as the service's users would. What goes wrong is put so that whoever pressed the
/// button understands it.
pub async fn ask(service: &str, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
    let unreachable = || Failure::conflict(format!("The {service} does not answer. Is it running?"));
    let answer = request.send().await.map_err(|_| unreachable())?;
    let status = answer.status();
    let text = answer.text().await.map_err(|_| unreachable())?;
    match status.as_u16() {
        // a service that answers with nothing has done it
        200..300 => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
        400 | 422 => Err(Failure::conflict(format!(
            "The {service} can't read this. Is a field empty, or a number too large?"
        ))),
        500.. => Err(Failure::conflict(format!("The {service} can't do it just now: {}", text.trim()))),
        _ => Err(Failure::conflict(format!("The {service} refuses: {}.", text.trim()))),
    }
}
