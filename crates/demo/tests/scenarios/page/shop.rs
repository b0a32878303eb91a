//! The shop's page.

use anyhow::Result;

use super::{check, has_row, keep};
use crate::browser::Browser;

async fn set_stock(browser: &Browser, sku: &str, quantity: &str) -> Result<()> {
    browser.click(&format!("#stock option[value='{sku}']")).await?;
    browser.write("#stock input", quantity).await
}

async fn used(browser: &Browser) -> Result<()> {
    browser.says("#verdict", "= equal").await?;
    set_stock(browser, "ROP-20", "25").await?;
    browser.click("#stock button").await?;
    browser.until(&has_row("inventory", &["ROP-20", "25"])).await?;
    browser.until(&has_row("copy", &["ROP-20", "25"])).await?;
    set_stock(browser, "ROP-20", "-1").await?;
    browser.click("#stock button").await?;
    browser.says("#problem", "Stock: ").await?;

    // the product service is stopped: its button says so, and orders go on
    browser.stop("product").await?;
    set_stock(browser, "ROP-20", "99").await?;
    browser.click("#stock button").await?;
    browser.says("#problem", "The product service does not answer").await?;
    browser.click("#order option[value='ROP-20']").await?;
    browser.click("#order button").await?;
    browser.says("#orders", "2 × ROP-20: accepted").await?;
    browser.start("product").await?;

    // the order service fails until an event is DEAD; a person heals it
    browser.click("#failing option[value='SAW-01']").await?;
    set_stock(browser, "SAW-01", "7").await?;
    browser.click_until("#stock button", &has_row("inventory", &["SAW-01", "7"])).await?;
    browser.until("document.querySelector('#events .FAILED, #events .DEAD')").await?;
    browser.until("document.querySelector('#events .DEAD')").await?;
    browser.until("document.querySelector('#mails summary')").await?;
    browser.says("#verdict", "behind").await?;
    keep(browser, "shop").await?;
    browser.click("#failing option[value='']").await?;
    browser.click("button[aria-label='retry the event of SAW-01']").await?;
    browser.until(&has_row("copy", &["SAW-01", "7"])).await?;
    browser.says("#verdict", "= equal").await
}

#[tokio::test(flavor = "multi_thread")]
async fn shop_page() -> Result<()> {
    check("shop", used).await
}
