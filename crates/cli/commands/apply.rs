//! `headwater apply`: topics into tables of another database.

use std::sync::Arc;

use clap::Args;
use headwater_apply::{HaltCause, Metrics, Replay, Status};
use headwater_pipeline::{ExitCode, Halt, ShutdownStage};
use prometheus::Registry;
use tokio::sync::watch;

use super::run::{halted, watch_signals};
use crate::config::apply::{self, ApplyConfig};
use crate::{Shared, apply_http, apply_text, http};

/// What is said of one start only.
#[derive(Args)]
pub struct Arguments {
    /// Forget the offsets and read again: `beginning`, or the time of the first record as seconds since 1970 or
    /// `2026-02-28T12:00:00Z`. What is applied already changes nothing.
    #[arg(long, value_name = "FROM", value_parser = replay)]
    replay: Option<Replay>,
}

/// Runs until told to stop (exit code 0) or until it can't go on (the halt's code).
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = prepare(shared, arguments.replay)?;
    super::block_on(serve(config))
}

/// Starts the log and loads the configuration; its warnings go to the log.
pub fn prepare(shared: &Shared, replay: Option<Replay>) -> anyhow::Result<ApplyConfig> {
    crate::telemetry::start(&shared.log)?;
    let config = apply::load(&shared.config, &shared.set, replay)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

async fn serve(config: ApplyConfig) -> anyhow::Result<ExitCode> {
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry));
    let status = Arc::new(Status::default());
    if let Some(listen) = config.listen {
        let listener = http::bind(listen).await?;
        tracing::info!(%listen, "serving /metrics, /healthz, /readyz and /status");
        tokio::spawn(apply_http::serve(listener, Arc::clone(&status), registry));
    }
    let settings = config.settings;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        server = %settings.postgres.host,
        database = settings.postgres.database,
        group = settings.group,
        "starting"
    );
    tokio::spawn(apply_text::show(Arc::clone(&status)));
    let limit = settings.shutdown_timeout;
    let mut signals = watch_signals("finishing the batch; a second signal exits at once")?;
    let (stop, shutdown) = watch::channel(false);
    let mut applying = std::pin::pin!(headwater_apply::run(settings, metrics, status, shutdown));
    let outcome = tokio::select! {
        outcome = &mut applying => outcome,
        () = asked(&mut signals) => {
            // The applier holds the other end until it is done.
            let _ = stop.send(true);
            match tokio::time::timeout(limit, applying).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    tracing::warn!("the batch was not done within apply.shutdown_timeout; it is applied after the next start");
                    Ok(())
                }
            }
        }
    };
    apply_text::clear();
    match outcome {
        Ok(()) => Ok(ExitCode::Success),
        Err(halt) => halted(Halt::new(code(halt.cause), halt.what, halt.advice)),
    }
}

async fn asked(signals: &mut watch::Receiver<ShutdownStage>) {
    // The sender lives as long as the process.
    while signals.changed().await.is_ok() {
        if *signals.borrow() != ShutdownStage::Running {
            return;
        }
    }
    std::future::pending().await
}

fn code(cause: HaltCause) -> ExitCode {
    match cause {
        HaltCause::TargetRights => ExitCode::PostgresRights,
        HaltCause::TargetError => ExitCode::PostgresError,
        HaltCause::TargetUnsuitable => ExitCode::TargetUnsuitable,
        HaltCause::Record => ExitCode::RecordUnusable,
        HaltCause::Offsets => ExitCode::OffsetsUnusable,
        HaltCause::Kafka => ExitCode::KafkaRefused,
        HaltCause::Registry => ExitCode::RegistryRefused,
    }
}

fn replay(text: &str) -> Result<Replay, String> {
    if text == "beginning" {
        return Ok(Replay::Beginning);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Replay::Since(seconds.saturating_mul(1000)));
    }
    utc_seconds(text).map(|seconds| Replay::Since(seconds * 1000)).ok_or_else(|| {
        "is neither beginning, nor seconds since 1970, nor a time such as 2026-02-28T12:00:00Z".to_owned()
    })
}

/// `2026-02-28T12:00:00Z` as seconds since 1970.
fn utc_seconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    let parts = |text: &str, by: char| -> Option<[i64; 3]> {
        let parts: Option<Vec<i64>> = text.split(by).map(number).collect();
        parts?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (parts(date, '-')?, parts(time, ':')?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years from March on, so that the leap day is the last of one.
    let (from_march, year) = ((month + 9) % 12, year - i64::from(month <= 2));
    let days =
        year * 365 + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_replay() {
        for (text, expected) in [
            ("beginning", Some(Replay::Beginning)),
            ("0", Some(Replay::Since(0))),
            ("1970-01-01T00:00:00Z", Some(Replay::Since(0))),
            ("2024-02-29T12:34:56Z", Some(Replay::Since(1_709_210_096_000))),
            ("2024-13-29T12:34:56Z", None),
            ("yesterday", None),
        ] {
            assert_eq!(replay(text).ok(), expected, "{text}");
        }
    }
}
