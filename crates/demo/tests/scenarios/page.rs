//! The shop's page, as a person uses it: with a mouse and a keyboard. `HEADWATER_SCREENSHOTS=1` writes the picture of
//! docs/images anew; otherwise it goes to the test's folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::browser::Browser;
use crate::servers::{Running, address, folder, scenario};

/// The shop with its articles, and nobody who plays.
pub async fn start(address: &str) -> Result<(Running, PathBuf)> {
    // one may be set already
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    let (mut command, folder) = scenario("shop");
    let shop =
        Running(command.args(["--page", address, "--page-only", "--stay"]).spawn().context("the shop")?);
    let http = reqwest::Client::builder().no_proxy().build()?;
    let begun = Instant::now();
    loop {
        if let Ok(answer) = http.get(format!("http://{address}/state")).send().await
            && answer.text().await?.contains("everything stays up")
        {
            return Ok((shop, folder));
        }
        ensure!(begun.elapsed() < Duration::from_secs(180), "the shop does not open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep(browser: &Browser, name: &str) -> Result<()> {
    let pictures = if std::env::var_os("HEADWATER_SCREENSHOTS").is_some() {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images")
    } else {
        folder("pictures")
    };
    std::fs::create_dir_all(&pictures)?;
    let picture = browser.screenshot().await?;
    ensure!(picture.len() > 20_000, "{name} is an empty picture");
    Ok(std::fs::write(pictures.join(name), picture)?)
}

/// The stock of an article in one of the two tables.
fn stock(table: &str, sku: &str, quantity: u32) -> String {
    format!(
        "[...document.querySelectorAll('#{table} tr')].some(r => r.cells[0].textContent === '{sku}' && r.cells[2].textContent === '{quantity}')"
    )
}

async fn set_stock(browser: &Browser, sku: &str, quantity: &str) -> Result<()> {
    browser.click(&format!("#stock option[value='{sku}']")).await?;
    browser.write("#stock input", quantity).await?;
    browser.click("#stock button").await
}

async fn used(browser: &Browser) -> Result<()> {
    browser.until("document.querySelector('#verdict').textContent.includes('= equal')").await?;
    set_stock(browser, "ROP-20", "25").await?;
    browser.until(&stock("inventory", "ROP-20", 25)).await?;
    browser.until(&stock("copy", "ROP-20", 25)).await?;

    // the product service is stopped: its button says so, and orders go on
    browser.click("button[aria-label='stop product']").await?;
    browser.until("document.querySelector(\"button[aria-label='stop product']\").disabled").await?;
    set_stock(browser, "ROP-20", "99").await?;
    browser.until("document.querySelector('#problem').textContent.includes('product service')").await?;
    browser.click("#order option[value='ROP-20']").await?;
    browser.click("#order button").await?;
    browser.until("document.querySelector('#orders').textContent.includes('2 × ROP-20: accepted')").await?;
    browser.click("button[aria-label='start product']").await?;
    browser.until("!document.querySelector(\"button[aria-label='stop product']\").disabled").await?;

    // the order service fails until an event is DEAD; a person heals it
    browser.click("#failing option[value='SAW-01']").await?;
    let save_until_taken = async || {
        // the product service has just been started
        loop {
            set_stock(browser, "SAW-01", "7").await?;
            let taken = stock("inventory", "SAW-01", 7);
            if browser
                .run(&format!("return new Promise(done => setTimeout(() => done({taken}), 1000))"))
                .await?
                == true
            {
                return anyhow::Ok(());
            }
        }
    };
    save_until_taken().await?;
    browser.until("document.querySelector('#events .FAILED, #events .DEAD')").await?;
    browser.until("document.querySelector('#events .DEAD')").await?;
    browser.until("document.querySelector('#mails summary')").await?;
    browser.until("document.querySelector('#verdict').textContent.includes('behind')").await?;
    keep(browser, "shop.png").await?;
    browser.click("#failing option[value='']").await?;
    browser.click("button[aria-label='retry the event of SAW-01']").await?;
    browser.until(&stock("copy", "SAW-01", 7)).await?;
    browser.until("document.querySelector('#verdict').textContent.includes('= equal')").await
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
        ("sideways scrolling", "document.documentElement.scrollWidth > innerWidth ? [1] : []"),
        ("a page without a language", "document.documentElement.lang ? [] : [1]"),
    ] {
        let count = browser.run(&format!("return ({expression}).length")).await?;
        ensure!(count == 0, "{count} {what}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shop_page() -> Result<()> {
    let address = address();
    let (shop, logs) = start(&address).await?;
    let browser = Browser::open(&format!("http://{address}/")).await?;
    used(&browser).await?;
    accessible(&browser).await?;
    browser.close().await?;
    drop(shop);
    std::fs::remove_dir_all(logs).ok();
    Ok(())
}
