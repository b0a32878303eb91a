//! One process of a scenario: started, stopped by SIGTERM, killed, started again. It ends with its owner.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long an end in good order may take.
const GRACE: Duration = Duration::from_secs(60);

/// Lines of a log that are shown where the process has ended.
const WORDS: usize = 5;

/// A program with its arguments, running or not.
pub struct Process {
    pub name: &'static str,
    /// What it does, for the page.
    pub what: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Not started yet; its output goes to `folder/name.log`.
    pub fn new(
        name: &'static str,
        what: &'static str,
        program: PathBuf,
        arguments: &[&str],
        folder: &Path,
    ) -> Process {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let log = folder.join(format!("{name}.log"));
        Process { name, what, program, arguments, log, child: Mutex::default() }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("nobody panics with it")
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        match child.as_mut()?.try_wait() {
            Ok(None) => child.as_ref().map(Child::id),
            _ => None,
        }
    }

    /// What it said at last, if it was started and has ended.
    pub fn last_words(&self) -> Option<String> {
        let status = self.child().as_mut()?.try_wait().ok()??;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(WORDS).collect();
        let words: Vec<&str> = lines.into_iter().rev().collect();
        Some(format!(
            "{} ended with {status}; the end of {}:\n{}",
            self.name,
            self.log.display(),
            words.join("\n")
        ))
    }

    /// Starts it, unless it runs.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it with more arguments this time, unless it runs.
    pub fn start_with(&self, more: &[&str]) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        *self.child() = Some(child);
        Ok(())
    }

    /// SIGTERM, and what it said at its end. None if it did not run.
    pub async fn stop(&self) -> Result<Option<ExitStatus>> {
        let Some(pid) = self.pid() else { return Ok(None) };
        // `Child` has no SIGTERM
        let status = Command::new("kill").arg(pid.to_string()).status().context("cannot run kill")?;
        if !status.success() {
            bail!("cannot signal {} (pid {pid})", self.name);
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            let ended = self.child().as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                return Ok(Some(status));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "{} did not end within {} s of SIGTERM; its log is {}",
            self.name,
            GRACE.as_secs(),
            self.log.display()
        )
    }

    /// kill -9.
    pub fn kill(&self) {
        if let Some(child) = self.child().as_mut() {
            // an error means that it has ended
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
