//! A real Prometheus, Debian's package, on the configuration that a scenario wrote, with rules that do not wait.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use crate::servers::{Running, address};

pub const MISSING: &str = "there is no Prometheus: apt-get install prometheus";

/// How long something may take until it is seen.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the rules of deploy/prometheus wait for, and what a test can bring about: everything else of them is as it is there.
const EAGER: [(&str, &str); 6] = [
    ("[15m]", "[20s]"),
    ("offset 15m", "offset 20s"),
    // WAL that the slot holds
    ("> 10 * 1024 ^ 3", "> 30 * 1024 ^ 2"),
    // records that are not applied
    ("> 10000", "> 5"),
    // records that a service has not read
    ("service_consumer_lag_records) > 1000", "service_consumer_lag_records) > 5"),
    // how late the copy is
    ("headwater_apply_lag_seconds) > 300", "headwater_apply_lag_seconds) > 5"),
];

pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// The rules files of deploy/prometheus, or their tests, which end in `_test.yml`.
pub fn rules(tests: bool) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(deploy("prometheus"))?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.to_string_lossy().ends_with("_test.yml") == tests);
    files.sort();
    ensure!(!files.is_empty(), "there are no rules");
    Ok(files)
}

/// Writes copies of the rules and of the configuration that leads to them.
fn write_eager(folder: &Path) -> Result<PathBuf> {
    let mut texts = String::new();
    for file in rules(false)? {
        let text = std::fs::read_to_string(&file)?;
        let mut eager: String = text
            .lines()
            .map(|line| match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 1s\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        for (waits, does_not) in EAGER {
            eager = eager.replace(waits, does_not);
        }
        std::fs::write(folder.join(file.file_name().context("a file")?), eager)?;
        texts += &text;
    }
    for (waits, _) in EAGER {
        ensure!(texts.contains(waits), "no rule has {waits}");
    }
    let written = std::fs::read_to_string(folder.join("prometheus.yml"))?;
    let (given, ours) = (deploy("prometheus").display().to_string(), folder.display().to_string());
    ensure!(written.contains(&given), "prometheus.yml does not lead to {given}: {written}");
    let file = folder.join("prometheus-eager.yml");
    std::fs::write(&file, written.replace(&given, &ours))?;
    Ok(file)
}

pub struct Prometheus {
    http: reqwest::Client,
    address: String,
    _server: Running,
}

impl Prometheus {
    pub fn start(folder: &Path) -> Result<Prometheus> {
        let address = address();
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", write_eager(folder)?.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("prometheus.log"))?)
            .spawn()
            .context(MISSING)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Prometheus { http, address, _server: Running(server) })
    }

    /// The series that an expression gives.
    pub async fn query(&self, expression: &str) -> Result<Vec<Json>> {
        let mut url = reqwest::Url::parse(&format!("http://{}/api/v1/query", self.address))?;
        url.query_pairs_mut().append_pair("query", expression);
        let answer: Json = self.http.get(url).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until what an expression gives is as it should be.
    async fn until(&self, expression: &str, holds: impl Fn(&[Json]) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            // it may not answer yet
            let found = self.query(expression).await;
            if found.as_ref().is_ok_and(|found| holds(found)) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("after {} s, {expression} gives {found:?}", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until an expression gives so many series.
    pub async fn until_series(&self, expression: &str, count: usize) -> Result<()> {
        self.until(expression, |found| found.len() == count).await
    }

    /// Waits until an expression gives a number.
    pub async fn until_number(&self, expression: &str) -> Result<()> {
        self.until(expression, |found| found.iter().any(|series| series["value"][1] != "NaN")).await
    }

    /// Waits until an alert fires, or has fired: the machine may be slow, and some end by themselves.
    pub async fn until_fired(&self, alert: &str, labels: &str) -> Result<()> {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", {labels}}}");
        self.until(&format!("last_over_time({firing}[10m])"), |found| !found.is_empty()).await
    }

    /// Waits until an alert is over.
    pub async fn until_over(&self, alert: &str) -> Result<()> {
        self.until_series(&format!("ALERTS{{alertname=\"{alert}\"}}"), 0).await
    }
}
