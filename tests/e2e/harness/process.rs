//! Signals to processes that this test process started, by pid, through kill(1): the tests have no unsafe code.

use std::process::Command;

use anyhow::{Result, ensure};

/// Sends a signal by name (`STOP`, `CONT`, `TERM`, `KILL`, `INT`, `QUIT`).
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status()?;
    ensure!(status.success(), "kill -{name} {pid} failed");
    Ok(())
}

/// Peak and present resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or("");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Ok((field("VmHWM:"), field("VmRSS:")))
}
