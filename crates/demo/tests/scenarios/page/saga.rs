//! The saga's page.

use anyhow::Result;

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

/// An order of each kind, to its end.
async fn each_way_to_end(browser: &Browser) -> Result<()> {
    browser.until(AGREED).await?;
    let mut number = 0;
    for (quantity, card, deliverable, states, event) in [
        ("1", "pays", "yes", ["CONFIRMED", "TAKEN", "SOLD"], "OrderConfirmed"),
        ("9999", "pays", "yes", ["CANCELLED out of stock", "–", "REJECTED"], "StockRejected"),
        ("2", "refuses", "yes", ["CANCELLED payment refused", "REFUSED", "RELEASED"], "StockReleased"),
        ("1", "silent", "yes", ["CANCELLED took too long", "VOIDED", "RELEASED"], "OrderCancelled"),
        ("1", "pays", "no", ["CANCELLED not deliverable", "REFUNDED", "RELEASED"], "PaymentReturned"),
    ] {
        number += 1;
        let id = format!("order-{number}");
        choose(browser, quantity, card, deliverable).await?;
        browser.click("#place button.main").await?;
        browser.says("#chosen", &id).await?;
        let [order, payment, stock] = states;
        browser.until(&has_row("orders", &[&id, order, payment, stock, "all agree"])).await?;
        browser.says("#timeline", event).await?;
    }
    Ok(())
}

async fn many(browser: &Browser) -> Result<()> {
    for _ in 0..2 {
        browser.click("#buyers").await?;
        let sold = ["2", "1", "1"].map(|count| format!("'{count}'")).join(",");
        browser
            .until(&format!(
                "[...document.querySelectorAll('#sold tr')].map(row => row.cells[1].textContent).join() === [{sold}].join()"
            ))
            .await?;
    }
    browser.click("#many").await?;
    browser.says("#count", "26").await?;
    browser.until(AGREED).await?;
    browser.until("Number(document.querySelector('#stock td:nth-child(4)').textContent) > 0").await?;

    // one that nobody answers, and one that the payment service still has to hear of
    choose(browser, "1", "pays", "no").await?;
    browser.click("#place button.main").await?;
    browser.until(&has_row("orders", &["order-26", "CANCELLED not deliverable", "all agree"])).await?;
    browser.stop("saga-payments").await?;
    choose(browser, "3", "pays", "yes").await?;
    browser.click("#place button.main").await?;
    browser.until(&has_row("orders", &["order-27", "PENDING", "–", "RESERVED", "under way"])).await?;
    browser.click("button[aria-label='show order-26']").await?;
    browser.says("#chosen", "order-26").await?;
    keep(browser, "saga").await?;
    browser.until(&has_row("orders", &["order-27", "CANCELLING took too long", "being undone"])).await?;
    browser.start("saga-payments").await?;
    browser.until(&has_row("orders", &["order-27", "VOIDED", "RELEASED", "all agree"])).await
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
