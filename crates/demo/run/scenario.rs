//! What all scenarios have in common: a script, a page, and how they begin and end.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use clap::Args;
use serde_json::Value as Json;

use super::{Mailbox, Process, Servers, Stage};
use crate::page;

/// What every scenario is called with.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    pub servers: Servers,
    #[command(flatten)]
    pub playing: Playing,
}

/// How it is played.
#[derive(Args)]
pub struct Playing {
    /// The long form: minutes instead of seconds.
    #[arg(long)]
    pub long: bool,
    /// Serve the page here, host:port.
    #[arg(long)]
    pub page: Option<String>,
    /// Play only the first step: the rest is for whoever has the page open.
    #[arg(long)]
    pub page_only: bool,
    /// Leave everything up behind the script, for the page, until SIGTERM or Ctrl-C.
    #[arg(long, requires = "page")]
    pub stay: bool,
}

/// Services that run, with their script and their page.
pub trait Scenario: Send + Sync + 'static {
    /// HTML that brings `/style.css` and `/page.js` in.
    const PAGE: &'static str;

    fn stage(&self) -> &Stage;

    /// What a person may start, stop and kill; ended in this order.
    fn processes(&self) -> &[Process];

    /// Where mails arrive, if any are sent.
    fn mailbox(&self) -> Option<&Mailbox> {
        None
    }

    /// What the page shows: an object. `of` is what the person has chosen there.
    fn state(&self, of: Option<&str>) -> impl Future<Output = Result<Json>> + Send;

    /// A POST for each button.
    fn buttons() -> Router<Arc<Self>>;

    /// The script, or with `page_only` its first step.
    fn play(&self, playing: &Playing) -> impl Future<Output = Result<()>>;

    fn process(&self, name: &str) -> Result<&Process> {
        let found = self.processes().iter().find(|process| process.name == name);
        found.with_context(|| format!("no process {name}"))
    }
}

/// Serves the page, plays the script, stays if it should, and ends all of it.
pub async fn perform(scenario: impl Scenario, playing: &Playing) -> Result<()> {
    let scenario = Arc::new(scenario);
    let stage = scenario.stage();
    if let Some(address) = &playing.page {
        page::serve(&scenario, address).await?;
    }
    let result = stage.play(scenario.play(playing)).await;
    if playing.stay && result.is_ok() {
        stage.say("the script is at its end; everything stays up until Ctrl-C");
        stage.stop.wanted().await;
    }
    stage.end(scenario.processes(), result).await
}
