//! `headwater run`: the pipeline, its endpoints and the two signals.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use headwater_pipeline::sent::sent_events;
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::snapshot::control::SnapshotControl;
use headwater_pipeline::{ExitCode, Halt, Metrics, ShutdownStage, Status};
use prometheus::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::schema;
use crate::Shared;
use crate::config::Config;
use crate::http::{self, Sources};
use crate::snapshot_text::{clear_bars, show_bars};

/// What is said of one start only, and so is no setting.
#[derive(Args)]
pub struct Arguments {
    /// Take over a slot that no checkpoint of this configuration belongs to, at the position it has confirmed.
    #[arg(long)]
    adopt_slot: bool,
}

/// How long the last statuses of outbox rows may take at the end.
const STATUSES_LIMIT: Duration = Duration::from_secs(3);

/// Runs until told to stop (exit code 0) or until it can't go on (the halt's code).
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut config = super::prepare(shared)?;
    config.settings.adopt_slot = arguments.adopt_slot;
    super::block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry));
    let status = Arc::new(Status::new(&config.settings.slot));
    let snapshots = Arc::new(SnapshotControl::default());
    if let Some(listen) = config.listen {
        let listener = http::bind(listen).await?;
        tracing::info!(%listen, "serving /metrics, /healthz, /readyz and /status");
        tokio::spawn(http::serve(
            listener,
            Sources { status: Arc::clone(&status), registry, snapshots: Arc::clone(&snapshots) },
        ));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        server = %config.settings.postgres.host,
        database = config.settings.postgres.database,
        slot = config.settings.slot,
        publications = config.settings.publications.join(","),
        "starting"
    );
    let bars = may_show_bars(&config).then(|| tokio::spawn(show_bars(Arc::clone(&snapshots))));
    let shutdown = watch_signals("finishing the open transaction; a second signal exits at once")?;
    if let Err(halt) = schema::check_registered(&config.settings).await {
        return halted(halt);
    }
    let (sent, statuses) = match config.outbox {
        None => (None, None),
        Some(outbox) => {
            let (log, events) = sent_events();
            let keeping = headwater_outbox::run(outbox, events, Arc::clone(&status), Arc::clone(&metrics));
            (Some(log), Some(tokio::spawn(keeping)))
        }
    };
    let ended = headwater_pipeline::run(config.settings, metrics, status, snapshots, sent, shutdown).await;
    if let Some(statuses) = statuses {
        // What is not marked in time is found again at the next start.
        drop(tokio::time::timeout(STATUSES_LIMIT, statuses).await);
    }
    if let Some(bars) = bars {
        bars.abort();
        clear_bars();
    }
    match ended {
        Ok(()) => Ok(ExitCode::Success),
        Err(halt) => halted(halt),
    }
}

/// Lines of the stdout sink on the same terminal would garble them.
fn may_show_bars(config: &Config) -> bool {
    let is_ours = !matches!(config.settings.sink, SinkSettings::Stdout) || !std::io::stdout().is_terminal();
    std::io::stderr().is_terminal() && is_ours
}

/// A machine reads the log: the halt is a line of it. A person gets the sentence that `main` prints.
pub fn halted(halt: Halt) -> anyhow::Result<ExitCode> {
    if std::io::stderr().is_terminal() {
        return Err(halt.into());
    }
    let Halt { code, what, advice } = halt;
    tracing::error!(code = code.number(), advice, "halted: {what}");
    Ok(code)
}

/// The first SIGTERM or SIGINT asks to stop, and says so, the second ends the process.
pub fn watch_signals(says: &'static str) -> anyhow::Result<watch::Receiver<ShutdownStage>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let (stage, shutdown) = watch::channel(ShutdownStage::Running);
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if asked {
                tracing::warn!(
                    signal = name,
                    "second signal: exiting at once; what was not confirmed comes again"
                );
                // As a shell reports a process that a signal ended.
                std::process::exit(128 + number);
            }
            asked = true;
            tracing::info!(signal = name, "{says}");
            // Nobody listens only when the pipeline has ended already.
            let _ = stage.send(ShutdownStage::Graceful);
        }
    });
    Ok(shutdown)
}
