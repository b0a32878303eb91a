//! `headwater wait`: returns when everything up to a position of the WAL is in Kafka.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use headwater_pipeline::ExitCode;

use super::status::{instance_of, request};
use crate::Shared;

/// What to wait for.
#[derive(Args)]
pub struct Arguments {
    /// The position, `0/16B3748`: what `SELECT pg_current_wal_lsn()` says behind the commit.
    #[arg(long, value_name = "LSN")]
    lsn: String,
    /// How many seconds to wait for it.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout: u32,
    /// The instance's address, if it is not the configuration's `http.listen`.
    #[arg(long, value_name = "HOST:PORT")]
    instance: Option<String>,
}

/// Asks the running instance, which answers when it is so.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    let Some(instance) = instance_of(arguments.instance.as_deref(), config.listen) else {
        bail!("the configuration has no [http] listen, so a running instance can't be asked");
    };
    let path = format!("/wait?lsn={}&timeout_seconds={}", arguments.lsn, arguments.timeout);
    // The instance keeps the time; this is for one that does not answer at all.
    let limit = Duration::from_secs(u64::from(arguments.timeout) + 5);
    let (code, answer) = super::block_on(async {
        request(&instance, "GET", &path, None, limit)
            .await
            .with_context(|| format!("no instance of headwater answers at {instance}"))
    })?;
    if code != 200 {
        bail!("{}", answer.trim());
    }
    print!("{answer}");
    Ok(ExitCode::Success)
}
