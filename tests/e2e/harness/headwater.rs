//! The product as a process: started with a generated configuration, watched from outside by its probes, metrics and
//! log, frozen, killed and stopped by signals.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use toml::{Table, Value};

use super::{http, process, until};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

/// A configuration file in the making; keys are paths such as `pipeline.max_in_flight_bytes`.
#[derive(Clone, Debug, Default)]
pub struct Config(Table);

impl Config {
    /// Sets a key, making the tables on the way.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Config {
        let mut table = &mut self.0;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.into());
                break;
            }
            let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            table = inner.as_table_mut().expect("a path leads through tables");
        }
        self
    }

    /// Takes a whole section away.
    pub fn without(mut self, section: &str) -> Config {
        self.0.remove(section);
        self
    }

    /// Adds an entry to an array of tables.
    pub fn push(mut self, name: &str, entry: Table) -> Config {
        let list = self.0.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut().expect("an array of tables").push(Value::Table(entry));
        self
    }

    /// Reads one that a command wrote.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Ok(Config(text.parse()?))
    }

    /// Writes it as TOML.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, toml::to_string(&self.0)?).with_context(|| format!("write {}", path.display()))
    }
}

/// One instance.
pub struct Headwater {
    child: Child,
    /// Its standard error.
    pub log: PathBuf,
    http: u16,
}

impl Headwater {
    /// Starts a command (`run` and its flags) with this file; the log goes to `log`.
    pub fn start(
        arguments: &[&str],
        config: &Path,
        http: u16,
        log: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Headwater> {
        let stderr = std::fs::File::create(log)?;
        let child = Command::new(BINARY)
            .args(arguments)
            .arg("-c")
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("start headwater")?;
        Ok(Headwater { child, log: log.to_owned(), http })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its HTTP server listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    /// Status and body of a path of its HTTP server; none while it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let response = http::get(&format!("http://127.0.0.1:{}{path}", self.http)).ok()?;
        Some((response.status, response.body))
    }

    /// Waits until `/readyz?role=active` says that it streams.
    pub async fn streaming(&mut self) -> Result<()> {
        self.readyz("/readyz?role=active", "streaming").await
    }

    /// Waits until `/readyz` says that it stands by.
    pub async fn standby(&mut self) -> Result<()> {
        self.readyz("/readyz", "standby").await
    }

    /// Waits until `/readyz` says this word.
    pub async fn ready(&mut self, word: &str) -> Result<()> {
        self.readyz("/readyz", word).await
    }

    /// Waits until `/readyz` begins with this word, whatever its status.
    pub async fn says(&self, word: &str) -> Result<()> {
        until(Duration::from_secs(60), &format!("/readyz to say {word}"), async || {
            Ok(self.get("/readyz").is_some_and(|(_, body)| body.starts_with(word)))
        })
        .await
        .with_context(|| self.log_tail())
    }

    async fn readyz(&mut self, path: &str, word: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some((200, body)) = self.get(path)
                && body.to_lowercase().contains(word)
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("headwater ended with {status}:\n{}", self.log_tail());
            }
            ensure!(Instant::now() < deadline, "headwater is not {word}:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The sum of a metric's samples whose labels contain all of `labels` (each as `name="value"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        sum_of(&body, name, labels)
    }

    /// Waits until a metric's sum satisfies a condition.
    pub async fn metric_until(
        &self,
        name: &str,
        labels: &[&str],
        enough: impl Fn(f64) -> bool,
    ) -> Result<f64> {
        let mut seen = 0.0;
        until(Duration::from_secs(60), &format!("metric {name}{labels:?}"), async || {
            seen = self.metric(name, labels).unwrap_or(0.0);
            Ok(enough(seen))
        })
        .await
        .with_context(|| format!("last {name}: {seen}; log:\n{}", self.log_tail()))?;
        Ok(seen)
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) -> Result<()> {
        process::signal(self.pid(), name)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and how it ended within `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.exit(limit).await
    }

    /// How it ended, within `limit`.
    pub async fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "headwater did not end within {limit:?}:\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end and asserts the code.
    pub async fn exits_with(&mut self, code: i32) -> Result<()> {
        let status = self.exit(Duration::from_secs(60)).await?;
        ensure!(
            status.code() == Some(code),
            "headwater ended with {status}, not {code}:\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// SIGTERM and a clean end.
    pub async fn stop(&mut self) -> Result<()> {
        let status = self.terminate(Duration::from_secs(20)).await?;
        ensure!(status.success(), "SIGTERM ended it with {status}:\n{}", self.log_tail());
        Ok(())
    }

    /// Peak and present resident bytes.
    pub fn resident_bytes(&self) -> Result<(u64, u64)> {
        process::resident_bytes(self.pid())
    }

    /// The whole log.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the log, for messages.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Waits until a line of the log contains all of `words`; gives it.
    pub async fn log_line(&self, words: &[&str]) -> Result<String> {
        let mut found = None;
        until(Duration::from_secs(60), &format!("log line with {words:?}"), async || {
            found = self.log_lines(words).into_iter().next();
            Ok(found.is_some())
        })
        .await
        .with_context(|| self.log_tail())?;
        Ok(found.expect("waited for"))
    }

    /// All lines of the log that contain all of `words`.
    pub fn log_lines(&self, words: &[&str]) -> Vec<String> {
        let text = self.log_text();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }
}

impl Drop for Headwater {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The sum over the samples of a metric in Prometheus' text format.
pub fn sum_of(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) || !labels.iter().all(|label| rest.contains(label)) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    samples.fold(None, |sum, sample| Some(sum.unwrap_or(0.0) + sample))
}

/// Lines of a log that say WARN or ERROR, or that are not the product's log format at all (a panic).
pub fn complaints(log: &str) -> Vec<String> {
    let complains = |line: &&str| match serde_json::from_str::<Json>(line) {
        Ok(json) => matches!(json["level"].as_str(), Some("WARN" | "ERROR")),
        Err(_) => !line.trim().is_empty(),
    };
    log.lines().filter(complains).map(str::to_owned).collect()
}
