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
        let options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": options },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let body = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let answer: Json = http.post(format!("{address}/session")).json(&body).send().await?.json().await?;
        let id = answer["value"]["sessionId"].as_str().with_context(|| format!("no session: {answer}"))?;
        let browser = Browser { http, session: format!("{address}/session/{id}"), _driver: driver };
        browser.post("url", json!({ "url": url })).await?;
        // high enough that nothing has to be scrolled to
        browser.resize(1280, 2400).await?;
        Ok(browser)
    }

    /// A command of Chromium's own protocol.
    async fn chromium(&self, command: &str, parameters: Json) -> Result<()> {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", body).await.map(drop)
    }

    /// The size of the page's window, which a real window would not let be so narrow.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.chromium("Emulation.setDeviceMetricsOverride", metrics).await
    }

    /// What somebody has chosen who likes it `dark` or `light`.
    pub async fn prefer(&self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.chromium("Emulation.setEmulatedMedia", json!({ "features": features })).await
    }

    /// Errors and warnings since the beginning, or since the last time. A refusal (409) is none: the page tells it to
    /// whoever pressed the button, and the browser notes it all the same.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.post("se/log", json!({ "type": "browser" })).await?;
        let text = |entry: &Json, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let entries = entries.as_array().context("no log")?.iter();
        let bad = entries.filter(|entry| {
            let refused = text(entry, "source") == "network" && text(entry, "message").contains("409");
            matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")) && !refused
        });
        Ok(bad.map(|entry| text(entry, "message")).collect())
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
        if self.within(PATIENCE, expression).await? {
            return Ok(());
        }
        let text = self.run("return document.body.innerText").await?;
        bail!("not true within {} s: {expression}; the page says {text}", PATIENCE.as_secs())
    }

    /// Whether an expression becomes true within that time.
    async fn within(&self, limit: Duration, expression: &str) -> Result<bool> {
        let begun = Instant::now();
        while self.run(&format!("return !!({expression})")).await? != true {
            if begun.elapsed() > limit {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(true)
    }

    /// Waits until the text of what `selector` finds contains `text`.
    pub async fn says(&self, selector: &str, text: &str) -> Result<()> {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!("document.querySelector({selector})?.textContent.includes({text})")).await
    }

    /// Clicks, and again where the service that is asked has only just been started: as its user would.
    pub async fn click_until(&self, selector: &str, expression: &str) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            self.click(selector).await?;
            if self.within(Duration::from_secs(2), expression).await? {
                return Ok(());
            }
        }
        bail!("{selector} was clicked for {} s, and not true: {expression}", PATIENCE.as_secs())
    }

    /// A click on Stop, and the process has ended: it may be started.
    pub async fn stop(&self, process: &str) -> Result<()> {
        self.click(&format!("button[aria-label='stop {process}']")).await?;
        self.until_enabled(&format!("start {process}")).await
    }

    /// A click on kill -9, and the process has ended.
    pub async fn kill(&self, process: &str) -> Result<()> {
        self.click(&format!("button[aria-label='kill {process}']")).await?;
        self.until_enabled(&format!("start {process}")).await
    }

    /// A click on Start, and the process runs, whether it is ready or not.
    pub async fn start(&self, process: &str) -> Result<()> {
        self.click(&format!("button[aria-label='start {process}']")).await?;
        self.until_enabled(&format!("stop {process}")).await
    }

    async fn until_enabled(&self, button: &str) -> Result<()> {
        self.until(&format!("!document.querySelector(\"button[aria-label='{button}']\").disabled")).await
    }

    async fn find(&self, selector: &str) -> Result<String> {
        let body = json!({ "using": "css selector", "value": selector });
        let found = self.post("element", body).await?;
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        Ok(id.with_context(|| format!("no {selector}"))?.to_owned())
    }

    /// As with a mouse.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let element = self.find(selector).await?;
            match self.post(&format!("element/{element}/click"), json!({})).await {
                // the page has drawn it anew since it was found, which a mouse would not notice
                Err(error) if error.to_string().contains("stale element") && begun.elapsed() < PATIENCE => {}
                result => return result.map(drop),
            }
        }
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
