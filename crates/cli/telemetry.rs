//! The log: for a person on a terminal, as JSON elsewhere, always on standard error.
//!
//! Standard output belongs to the commands and the stdout sink.

use std::io::IsTerminal;

use headwater_pipeline::{ExitCode, Halt};
use tracing_subscriber::EnvFilter;

use crate::snapshot_text::AboveBars;

/// Starts logging with a filter such as `info` or `headwater_pg=trace,info`. Called once per process.
pub fn start(filter: &str) -> Result<(), Halt> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Halt::new(
            ExitCode::Configuration,
            format!("the log filter \"{filter}\" (--log or HEADWATER_LOG) is wrong: {error}"),
            "write a level (error, warn, info, debug, trace) or module=level pairs with commas between them",
        )
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    if std::io::stderr().is_terminal() {
        log.with_writer(|| AboveBars).with_target(false).init();
    } else {
        log.with_writer(std::io::stderr)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .init();
    }
    Ok(())
}
