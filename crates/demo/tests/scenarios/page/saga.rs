//! The saga's page.

use anyhow::{Context, Result};

use super::{check, has_row, keep};
use crate::browser::Browser;

/// Fills the form and sends it. Gives the order's id.
async fn place(
    browser: &Browser,
    quantity: &str,
    card: &str,
    deliverable: &str,
    seconds: &str,
) -> Result<String> {
    const CHOSEN: &str = "document.querySelector('#chosen').textContent";
    browser.write("#place input[name=quantity]", quantity).await?;
    browser.click(&format!("#place option[value='{card}']")).await?;
    browser.click(&format!("#place option[value='{deliverable}']")).await?;
    browser.write("#place input[name=seconds]", seconds).await?;
    let before = browser.run(&format!("return {CHOSEN}")).await?;
    browser.click("#place button.main").await?;
    browser.until(&format!("{CHOSEN} !== {before}")).await?;
    let id = browser.run(&format!("return {CHOSEN}")).await?;
    Ok(id.as_str().context("an order without an id")?.to_owned())
}

/// Longer than any order takes.
const PATIENT: &str = "600";

const AGREED: &str =
    "[...document.querySelectorAll('#orders tr')].every(row => row.cells[5].textContent === 'all agree')";

async fn each_way_to_end(browser: &Browser) -> Result<()> {
    browser.until(AGREED).await?;
    for (quantity, card, deliverable, seconds, states, event) in [
        ("1", "pays", "yes", PATIENT, ["CONFIRMED", "TAKEN", "SOLD"], "OrderConfirmed"),
        ("9999", "pays", "yes", PATIENT, ["CANCELLED out of stock", "–", "REJECTED"], "StockRejected"),
        (
            "2",
            "refuses",
            "yes",
            PATIENT,
            ["CANCELLED payment refused", "REFUSED", "RELEASED"],
            "StockReleased",
        ),
        ("1", "silent", "yes", "2", ["CANCELLED took too long", "VOIDED", "RELEASED"], "OrderCancelled"),
        (
            "1",
            "pays",
            "no",
            PATIENT,
            ["CANCELLED not deliverable", "REFUNDED", "RELEASED"],
            "PaymentReturned",
        ),
    ] {
        let id = place(browser, quantity, card, deliverable, seconds).await?;
        let [order, payment, stock] = states;
        browser.until(&has_row("orders", &[&id, order, payment, stock, "all agree"])).await?;
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

    // one that was undone from its last step, and two that the payment service has not heard of
    let undone = place(browser, "1", "pays", "no", PATIENT).await?;
    let states = ["CANCELLED not deliverable", "REFUNDED", "RELEASED", "all agree"];
    let [order, payment, stock, verdict] = states;
    browser.until(&has_row("orders", &[&undone, order, payment, stock, verdict])).await?;
    browser.click("#buyers").await?;
    browser.until(SOLD).await?;
    browser.stop("saga-payments").await?;
    let given_up = place(browser, "2", "pays", "yes", "1").await?;
    let state = ["CANCELLING took too long", "–", "RESERVED", "being undone"];
    browser.until(&has_row("orders", &[&given_up, state[0], state[1], state[2], state[3]])).await?;
    let waiting = place(browser, "3", "pays", "yes", PATIENT).await?;
    browser.until(&has_row("orders", &[&waiting, "PENDING", "–", "RESERVED", "under way"])).await?;
    browser.click(&format!("button[aria-label='show {undone}']")).await?;
    browser.says("#chosen", &undone).await?;
    keep(browser, "saga").await?;
    browser.start("saga-payments").await?;
    browser.until(&has_row("orders", &[&given_up, "VOIDED", "RELEASED", "all agree"])).await?;
    browser.until(&has_row("orders", &[&waiting, "CONFIRMED", "TAKEN", "SOLD", "all agree"])).await?;
    // a second time, right after the first
    browser.click("#buyers").await?;
    browser.until(SOLD).await
}

async fn told(browser: &Browser) -> Result<()> {
    browser.write("#place input[name=quantity]", "0").await?;
    browser.click("#place button.main").await?;
    browser.says("#problem", "Pieces: ").await?;
    browser.kill("saga-orders").await?;
    browser.write("#place input[name=quantity]", "1").await?;
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
