//! The pages, as a person uses them: with a mouse and a keyboard. `HEADWATER_SCREENSHOTS=1` writes the pictures of
//! docs/images anew; otherwise they go to the tests' folder, as those of narrow and dark windows always do.

mod ledger;
mod profile;
mod saga;
mod shop;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::browser::Browser;
use crate::servers::{Running, address, folder, scenario};

/// The widths of a window on a desk and of one in a hand.
const WIDE: u32 = 1280;
const NARROW: u32 = 420;

/// A scenario whose services are ready, and nobody who plays.
pub async fn start(name: &str, address: &str) -> Result<(Running, PathBuf)> {
    // one may be set already
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    let (mut command, folder) = scenario(name);
    let running =
        Running(command.args(["--page", address, "--page-only", "--stay"]).spawn().context("the scenario")?);
    let http = reqwest::Client::builder().no_proxy().build()?;
    let begun = Instant::now();
    loop {
        if let Ok(answer) = http.get(format!("http://{address}/state")).send().await
            && answer.text().await?.contains("everything stays up")
        {
            return Ok((running, folder));
        }
        ensure!(begun.elapsed() < Duration::from_secs(300), "{name} does not open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Opens the page of a scenario, has it used, and looks for what no page may have.
async fn check(name: &str, used: impl AsyncFnOnce(&Browser) -> Result<()>) -> Result<()> {
    let address = address();
    let (running, logs) = start(name, &address).await?;
    let browser = Browser::open(&format!("http://{address}/")).await?;
    let result = async {
        used(&browser).await?;
        accessible(&browser).await?;
        let complaints = browser.complaints().await?;
        ensure!(complaints.is_empty(), "the browser's console: {complaints:#?}");
        Ok(())
    };
    let result = result.await;
    // also then: it would outlive this and go on asking an address that is another test's by now
    browser.close().await?;
    result?;
    drop(running);
    std::fs::remove_dir_all(logs).ok();
    Ok(())
}

/// Keeps pictures of the whole page as it is now, and sees that it fits into its window.
async fn keep(browser: &Browser, name: &str) -> Result<()> {
    let aside = folder("pictures");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images");
    let wanted = std::env::var_os("HEADWATER_SCREENSHOTS").is_some();
    std::fs::create_dir_all(&aside)?;
    std::fs::create_dir_all(&docs)?;
    for (file, width, scheme, folder) in [
        (format!("{name}-narrow-dark.png"), NARROW, "dark", &aside),
        (format!("{name}-dark.png"), WIDE, "dark", &aside),
        (format!("{name}.png"), WIDE, "light", if wanted { &docs } else { &aside }),
    ] {
        browser.prefer(scheme).await?;
        browser.resize(width, 800).await?;
        // the page, or a part of it
        let sideways = "return [...document.querySelectorAll('html, section, .card')]
            .filter(part => part.scrollWidth > part.clientWidth).map(part => part.textContent.trim().slice(0, 80))";
        let sideways = browser.run(sideways).await?;
        ensure!(sideways == serde_json::json!([]), "sideways in {width} pixels, {name} scrolls {sideways}");
        let height = browser.run("return document.documentElement.scrollHeight").await?;
        let height = u32::try_from(height.as_u64().context("no height")?)?;
        browser.resize(width, height).await?;
        let picture = browser.screenshot().await?;
        ensure!(picture.len() > 20_000, "{name} is an empty picture");
        std::fs::write(folder.join(file), picture)?;
    }
    browser.resize(WIDE, 2400).await
}

/// What a screen reader and a keyboard need.
async fn accessible(browser: &Browser) -> Result<()> {
    for (what, expression) in [
        (
            "fields without a label",
            "[...document.querySelectorAll('input, select')].filter(e => !e.labels.length)",
        ),
        (
            "buttons without a name",
            "[...document.querySelectorAll('button')].filter(e => !(e.ariaLabel || e.textContent).trim())",
        ),
        ("columns without a scope", "[...document.querySelectorAll('th')].filter(e => !e.scope)"),
        ("images without a text", "[...document.images].filter(e => !e.alt)"),
        (
            "names of the page's parts that are used twice",
            "[...document.querySelectorAll('[id]')].filter(e => document.querySelectorAll('#' + CSS.escape(e.id)).length > 1)",
        ),
        (
            "parts that are named by nothing",
            "[...document.querySelectorAll('[aria-labelledby]')].filter(e => !document.getElementById(e.getAttribute('aria-labelledby')))",
        ),
        ("a page without a language", "document.documentElement.lang ? [] : [1]"),
    ] {
        let count = browser.run(&format!("return ({expression}).length")).await?;
        ensure!(count == 0, "{count} {what}");
    }
    Ok(())
}

/// Whether a table has a row with these texts in its cells, in this order.
fn has_row(table: &str, cells: &[&str]) -> String {
    let cells = serde_json::json!(cells);
    format!(
        "[...document.querySelectorAll('#{table} tr')].some(row => {{
            const texts = [...row.cells].map(cell => cell.textContent.trim());
            let at = -1;
            return {cells}.every(text => (at = texts.indexOf(text, at + 1)) >= 0);
        }})"
    )
}
