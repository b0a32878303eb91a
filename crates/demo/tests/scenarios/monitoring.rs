//! What Prometheus sees of the shop: a real one, Debian's package, with the rules and the dashboards of deploy/.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value as Json, json};

use crate::page;
use crate::servers::{Running, address};

const MISSING: &str = "there is no Prometheus: apt-get install prometheus";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

struct Prometheus {
    http: reqwest::Client,
    address: String,
    _server: Running,
}

impl Prometheus {
    /// With the configuration that the shop wrote.
    fn start(folder: &Path) -> Result<Prometheus> {
        let address = address();
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("prometheus.log"))?)
            .spawn()
            .context(MISSING)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Prometheus { http, address, _server: Running(server) })
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Json> {
        let mut url = reqwest::Url::parse(&format!("http://{}/api/v1/{path}", self.address))?;
        url.query_pairs_mut().extend_pairs(query);
        Ok(self.http.get(url).send().await?.json().await?)
    }

    /// The series that an expression gives.
    async fn query(&self, expression: &str) -> Result<Vec<Json>> {
        let answer = self.get("query", &[("query", expression)]).await?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an expression gives so many series.
    async fn until(&self, expression: &str, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            // it may not answer yet
            let found = self.query(expression).await.unwrap_or_default();
            if found.len() == count {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(120) {
                bail!("{expression} gives {} series, not {count}: {found:?}", found.len());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn press(page: &str, button: &str, body: Json) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    http.post(format!("http://{page}/{button}")).json(&body).send().await?.error_for_status()?;
    Ok(())
}

/// The queries of a dashboard, with its variables filled in.
fn queries(dashboard: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(deploy("grafana").join(dashboard))?;
    let dashboard: Json = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("a dashboard without panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let filled = targets.map(|target| {
        let expression = target["expr"].as_str().context("a target without a query")?;
        Ok(expression.replace("$__rate_interval", "1m").replace("$job", ".*"))
    });
    filled.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn monitored() -> Result<()> {
    let page = address();
    let (shop, folder) = page::start(&page).await?;
    let prometheus = Prometheus::start(&folder)?;
    prometheus.until("up == 1", 4).await?;

    // an event dies: the first one ever, which a rate would not see
    press(&page, "trouble", json!({ "sku": "*" })).await?;
    press(&page, "stock", json!({ "sku": "SAW-01", "quantity": 3 })).await?;
    prometheus.until("ALERTS{alertname=\"HeadwaterEventsDead\", alertstate=\"firing\"}", 1).await?;
    prometheus.until("headwater_outbox_notifications_total{outcome=\"sent\"} == 1", 1).await?;
    press(&page, "processes/orders/kill", json!({})).await?;
    prometheus.until("ALERTS{alertname=\"ServiceDown\"}", 1).await?;
    press(&page, "processes/orders/start", json!({})).await?;
    prometheus.until("up == 1", 4).await?;
    // a request that the services answer, and an answer that is a success
    press(&page, "trouble", json!({ "sku": "" })).await?;
    press(&page, "stock", json!({ "sku": "ROP-20", "quantity": 3 })).await?;
    press(&page, "orders", json!({ "sku": "ROP-20", "quantity": 1 })).await?;
    prometheus.until("headwater_outbox_answers_total{outcome=\"processed\"}", 1).await?;

    for expression in queries("services.json")? {
        let found = prometheus.query(&expression).await?;
        ensure!(!found.is_empty(), "a panel of services.json is empty: {expression}");
    }
    for expression in queries("headwater.json")? {
        prometheus.query(&expression).await?;
    }
    drop(prometheus);
    drop(shop);
    std::fs::remove_dir_all(folder).ok();
    Ok(())
}

/// Each rule fires once, on series made up for it.
#[test]
fn alerts_fire() -> Result<()> {
    for arguments in [
        ["check", "rules", "outbox-alerts.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "outbox-alerts_test.yml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(deploy("prometheus"))
            .output()
            .context(MISSING)?;
        ensure!(
            output.status.success(),
            "promtool {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
