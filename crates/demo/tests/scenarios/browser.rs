//! A headless Chromium, driven over WebDriver (W3C) by Debian's chromedriver.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};

use crate::servers::{self, Running};

/// How long something on the page may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One window.
pub struct Browser {
    http: reqwest::Client,
    session: String,
    _driver: Running,
}

impl Browser {
    /// A window on `url`.
    pub async fn open(url: &str) -> Result<Browser> {
        let address = servers::address();
        let (_, port) = address.rsplit_once(':').context("no port")?;
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("there is no chromedriver: apt-get install chromium chromium-driver")?;
        let driver = Running(driver);
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let address = format!("http://{address}");
        let begun = Instant::now();
        while http.get(format!("{address}/status")).send().await.is_err() {
            if begun.elapsed() > PATIENCE {
                bail!("chromedriver does not answer");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-proxy-server",
            "--window-size=1280,1750",
        ];
        let capabilities = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": options } });
        let body = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let answer: Json = http.post(format!("{address}/session")).json(&body).send().await?.json().await?;
        let id = answer["value"]["sessionId"].as_str().with_context(|| format!("no session: {answer}"))?;
        let browser = Browser { http, session: format!("{address}/session/{id}"), _driver: driver };
        browser.post("url", json!({ "url": url })).await?;
        Ok(browser)
    }

    async fn post(&self, path: &str, body: Json) -> Result<Json> {
        let answer = self.http.post(format!("{}/{path}", self.session)).json(&body).send().await?;
        let answer: Json = answer.json().await?;
        if let Some(error) = answer["value"]["error"].as_str() {
            bail!("{path}: {error}: {}", answer["value"]["message"]);
        }
        Ok(answer["value"].clone())
    }

    /// What a function body of the page's own language returns.
    pub async fn run(&self, script: &str) -> Result<Json> {
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) -> Result<()> {
        let begun = Instant::now();
        while self.run(&format!("return !!({expression})")).await? != true {
            if begun.elapsed() > PATIENCE {
                let text = self.run("return document.body.innerText").await?;
                bail!("not true within {} s: {expression}; the page says {text}", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn find(&self, selector: &str) -> Result<String> {
        let body = json!({ "using": "css selector", "value": selector });
        let found = self.post("element", body).await?;
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        Ok(id.with_context(|| format!("no {selector}"))?.to_owned())
    }

    /// As with a mouse.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let element = self.find(selector).await?;
        self.post(&format!("element/{element}/click"), json!({})).await.map(drop)
    }

    /// As with a keyboard, over what is there.
    pub async fn write(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.find(selector).await?;
        self.post(&format!("element/{element}/clear"), json!({})).await?;
        self.post(&format!("element/{element}/value"), json!({ "text": text })).await.map(drop)
    }

    /// A PNG of the window.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        use base64::Engine;
        let answer: Json = self.http.get(format!("{}/screenshot", self.session)).send().await?.json().await?;
        let text = answer["value"].as_str().context("no picture")?;
        Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
    }

    /// Ends the window and what belongs to it.
    pub async fn close(self) -> Result<()> {
        self.http.delete(&self.session).send().await?;
        Ok(())
    }
}
