//! The ledger's page.

use anyhow::{Result, ensure};

use super::{check, has_row, keep};
use crate::browser::Browser;

async fn choose(browser: &Browser, order: &str) -> Result<()> {
    browser.click(&format!("#order option[value='{order}']")).await?;
    browser.until(&format!("document.querySelector('#order').value === '{order}'")).await
}

/// A command whose event is stored, folded, and in the view.
async fn becomes(browser: &Browser, button: &str, event: &str, status: &str) -> Result<()> {
    browser.click(button).await?;
    browser
        .until(&format!("document.querySelector('#events tr')?.cells[1].textContent.startsWith('{event}')"))
        .await?;
    for part in ["#fold", "#view"] {
        browser.says(&format!("{part} .pill"), status).await?;
    }
    browser.says("#verdict", "= equal").await
}

async fn refused(browser: &Browser, button: &str, why: &str) -> Result<()> {
    browser.click(button).await?;
    browser.says("#problem", &format!("The order service refuses: {why}")).await
}

/// From its first line to its end, and back where a rule says no.
async fn life_of_an_order(browser: &Browser) -> Result<()> {
    browser.says("#verdict", "= equal").await?;
    browser.click("#fresh").await?;
    browser.says("#older", "No event yet").await?;
    refused(browser, "#place", "an empty order can't be placed").await?;
    browser.click("#remove button").await?;
    browser.says("#problem", "no line").await?;
    browser.write("#add input[name=sku]", " ").await?;
    browser.click("#add button").await?;
    browser.says("#problem", "Article: ").await?;
    browser.write("#add input[name=sku]", "kettle").await?;
    browser.write("#add input[name=price]", "39.90").await?;
    becomes(browser, "#add button", "LineAdded", "open").await?;
    browser.until(&has_row("fold", &["kettle", "1", "€\u{a0}39.90"])).await?;
    becomes(browser, "#remove button", "LineRemoved", "open").await?;
    becomes(browser, "#add button", "LineAdded", "open").await?;
    refused(browser, "#pay", "it is not placed").await?;
    becomes(browser, "#place", "Placed", "placed").await?;
    refused(browser, "#add button", "it is placed").await?;
    becomes(browser, "#pay", "Paid", "paid").await?;
    refused(browser, "#cancel button", "it is paid").await?;
    choose(browser, "order-3").await?;
    becomes(browser, "#cancel button", "Cancelled", "cancelled").await
}

/// One of two is too late, and an order that is older than its snapshot is the same by both ways.
async fn two_at_once(browser: &Browser) -> Result<()> {
    choose(browser, "order-1").await?;
    browser.says("#snapshot", "At version 20. Read from there, the order is the same.").await?;
    browser.click("#race").await?;
    browser.says("#runners", "somebody else has written version 21").await?;
    browser
        .until("document.querySelector('#runners').textContent.split('somebody else').length === 2")
        .await?;
    browser.says("#fold .pill", "placed").await?;
    browser.says("#verdict", "= equal").await?;
    keep(browser, "ledger").await?;
    browser.click("#race").await?;
    browser.says("#problem", "This order can't be placed: it is placed").await
}

/// The view is behind, catches up, and is made again.
async fn view(browser: &Browser) -> Result<()> {
    browser.click("#fresh").await?;
    becomes(browser, "#add button", "LineAdded", "open").await?;
    browser.stop("relay").await?;
    browser.click("#add button").await?;
    browser.says("#verdict", "≠ behind").await?;
    browser.says("#behind", "The view is 1 of").await?;
    browser.start("relay").await?;
    browser.says("#verdict", "= equal").await?;
    let pid =
        "return fetch('/state').then(answer => answer.json()).then(state => state.processes.at(-1).pid)";
    let before = browser.run(pid).await?;
    browser.click("#rebuild").await?;
    browser.until("!document.querySelector('#rebuild').disabled").await?;
    browser.says("#behind", "The view has all").await?;
    browser.says("#verdict", "= equal").await?;
    ensure!(browser.run(pid).await? != before, "the view was not made again");
    browser.kill("ledger-projection").await?;
    browser.click("#add button").await?;
    browser.says("#verdict", "≠ behind").await?;
    browser.start("ledger-projection").await?;
    browser.says("#verdict", "= equal").await?;
    browser.stop("ledger-orders").await?;
    browser.click("#add button").await?;
    browser.says("#problem", "The order service does not answer").await?;
    browser.start("ledger-orders").await?;
    browser.click_until("#place", "document.querySelector('#fold .pill').textContent === 'placed'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn ledger_page() -> Result<()> {
    check("ledger", async |browser: &Browser| {
        life_of_an_order(browser).await?;
        two_at_once(browser).await?;
        view(browser).await
    })
    .await
}
