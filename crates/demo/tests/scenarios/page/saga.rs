//! The saga's page.

use anyhow::{Context, Result};

use super::{check, has_row, keep};
use crate::browser::Browser;

/// Fills the form; the order is the caller's to place.
async fn choose(browser: &Browser, quantity: &str, card: &str, deliverable: &str) -> Result<()> {
    browser.write("#place input", quantity).await?;
    browser.click(&format!("#place option[value='{card}']")).await?;
    browser.click(&format!("#place option[value='{deliverable}']")).await
}

const AGREED: &str =
    "[...document.querySelectorAll('#orders tr')].every(row => row.cells[5].textContent === 'all agree')";

/// Places an order until one ends like this: on a machine that is busy, any order may take too long. Gives its id.
async fn ends(browser: &Browser, states: [&str; 3]) -> Result<String> {
    loop {
        let before = browser.run("return document.querySelector('#chosen').textContent").await?;
        browser.click("#place button.main").await?;
        browser.until(&format!("document.querySelector('#chosen').textContent !== {before}")).await?;
        let id = browser.run("return document.querySelector('#chosen').textContent").await?;
        let id = id.as_str().context("an order without an id")?;
        let [order, payment, stock] = states;
        let expected = has_row("orders", &[id, order, payment, stock, "all agree"]);
        let late = has_row("orders", &[id, "CANCELLED took too long", "all agree"]);
        browser.until(&format!("{expected} || {late}")).await?;
        if browser.run(&format!("return {expected}")).await? == true {
            return Ok(id.to_owned());
        }
    }
}

async fn each_way_to_end(browser: &Browser) -> Result<()> {
    browser.until(AGREED).await?;
    for (quantity, card, deliverable, states, event) in [
        ("1", "pays", "yes", ["CONFIRMED", "TAKEN", "SOLD"], "OrderConfirmed"),
        ("9999", "pays", "yes", ["CANCELLED out of stock", "–", "REJECTED"], "StockRejected"),
        ("2", "refuses", "yes", ["CANCELLED payment refused", "REFUSED", "RELEASED"], "StockReleased"),
        ("1", "silent", "yes", ["CANCELLED took too long", "VOIDED", "RELEASED"], "OrderCancelled"),
        ("1", "pays", "no", ["CANCELLED not deliverable", "REFUNDED", "RELEASED"], "PaymentReturned"),
    ] {
        choose(browser, quantity, card, deliverable).await?;
        ends(browser, states).await?;
        browser.says("#timeline", event).await?;
    }
    Ok(())
}

const SOLD: &str =
    "[...document.querySelectorAll('#sold tr')].map(row => row.cells[1].textContent).join() === '2,1,1'";

async fn many(browser: &Browser) -> Result<()> {
    let count = browser.run("return Number(document.querySelector('#count').textContent)").await?;
    browser.click("#many").await?;
    browser.until(&format!("document.querySelector('#count').textContent == {count} + 20")).await?;
    browser.until(AGREED).await?;
    // nothing is held any more, and something was sold
    browser
        .until("[...document.querySelectorAll('#stock tr')].every(row => row.cells[2].textContent === '0')")
        .await?;
    browser
        .until(
            "[...document.querySelectorAll('#stock tr')].some(row => Number(row.cells[3].textContent) > 0)",
        )
        .await?;

    // one that was undone from its last step, and one whose payment nobody has heard of
    choose(browser, "1", "pays", "no").await?;
    let undone = ends(browser, ["CANCELLED not deliverable", "REFUNDED", "RELEASED"]).await?;
    browser.click("#buyers").await?;
    browser.until(SOLD).await?;
    browser.stop("saga-payments").await?;
    choose(browser, "3", "pays", "yes").await?;
    browser.click("#place button.main").await?;
    browser.until(&format!("document.querySelector('#chosen').textContent !== '{undone}'")).await?;
    browser.until(&has_row("orders", &["–", "RESERVED"])).await?;
    browser.click(&format!("button[aria-label='show {undone}']")).await?;
    browser.says("#chosen", &undone).await?;
    keep(browser, "saga").await?;
    browser.until(&has_row("orders", &["CANCELLING took too long", "–", "RESERVED", "being undone"])).await?;
    browser.start("saga-payments").await?;
    browser
        .until(&has_row("orders", &["CANCELLED took too long", "VOIDED", "RELEASED", "all agree"]))
        .await?;
    browser.until(AGREED).await?;
    // a second time, right after the first
    browser.click("#buyers").await?;
    browser.until(SOLD).await
}

async fn told(browser: &Browser) -> Result<()> {
    choose(browser, "0", "pays", "yes").await?;
    browser.click("#place button.main").await?;
    browser.says("#problem", "Pieces: ").await?;
    browser.click("button[aria-label='kill saga-orders']").await?;
    browser.until("!document.querySelector(\"button[aria-label='start saga-orders']\").disabled").await?;
    choose(browser, "1", "pays", "yes").await?;
    browser.click("#place button.main").await?;
    browser.says("#problem", "The order service does not answer").await?;
    browser.start("saga-orders").await?;
    browser
        .click_until("#place button.main", "document.querySelector('#problem').textContent === ''")
        .await?;
    browser.until(AGREED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn saga_page() -> Result<()> {
    check("saga", async |browser: &Browser| {
        each_way_to_end(browser).await?;
        many(browser).await?;
        told(browser).await
    })
    .await
}
