//! The log: for a person on a terminal, as JSON elsewhere, always on standard error.
//!
//! Standard output belongs to the commands and the stdout sink.

use std::io::IsTerminal;

use headwater_pipeline::{ExitCode, Halt};
use tracing_subscriber::EnvFilter;

/// Starts logging with a filter such as `info` or `headwater_pg=trace,info`. Called once per process.
pub fn start(filter: &str) -> Result<(), Halt> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Halt::new(
            ExitCode::Configuration,
            format!("the log filter \"{filter}\" (--log or HEADWATER_LOG) is wrong: {error}"),
            "write a level (error, warn, info, debug, trace) or module=level pairs with commas between them",
        )
    })?;
    let to_stderr = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        to_stderr.with_target(false).init();
    } else {
        to_stderr.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
    Ok(())
}
