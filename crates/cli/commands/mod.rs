//! The subcommands, one file each.

pub mod run;

pub mod apply;

pub mod check;

pub mod init;

pub mod tail;

pub mod snapshot;
pub mod status;

pub mod outbox;

pub mod dlq;

pub mod wait;

pub mod import_debezium;

pub mod take_over;

pub mod schema;

pub mod config_reference;

use std::error::Error;
use std::future::Future;

use anyhow::Context;

use crate::Shared;
use crate::config::{self, Config};

/// Starts the log and loads the configuration; its warnings go to the log.
fn prepare(shared: &Shared) -> anyhow::Result<Config> {
    crate::telemetry::start(&shared.log)?;
    let config = config::load(&shared.config, &shared.set)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// Runs a command that waits for servers.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")?
        .block_on(future)
}

/// An error with its causes, as one sentence.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
