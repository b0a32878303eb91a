//! `headwater config-reference`: docs/CONFIG.md, from the table of settings.

use std::io::Write;

use headwater_pipeline::ExitCode;

/// Prints it.
pub fn run() -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(crate::config::reference::markdown().as_bytes())?;
    Ok(ExitCode::Success)
}
