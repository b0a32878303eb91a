//! The profile's page.

use anyhow::{Context, Result};

use super::{check, has_row, keep};
use crate::browser::Browser;

async fn number(browser: &Browser, id: &str) -> Result<i64> {
    let text = browser.run(&format!("return document.querySelector('#{id}').textContent")).await?;
    text.as_str().context("no text")?.parse().context("no number")
}

async fn write_address(browser: &Browser, user: &str, address: &str) -> Result<()> {
    browser.click(&format!("#change option[value='{user}']")).await?;
    browser.write("#change input", address).await
}

async fn send_unwanted(browser: &Browser, user: &str, what: &str) -> Result<()> {
    browser.click(&format!("#unwanted option[value='{user}']")).await?;
    browser.click(&format!("#{what}")).await
}

/// One change is one mail, and nothing else is.
async fn one_mail_for_each(browser: &Browser) -> Result<()> {
    browser.says("#verdict", "= all seen").await?;
    browser.says("#count", "5").await?;
    write_address(browser, "ada", "ada.new@example.com").await?;
    browser.click("#change button").await?;
    browser.until(&has_row("users", &["Ada", "ada.new@example.com", "2"])).await?;
    browser.until(&has_row("seen", &["Ada", "ada.new@example.com", "2", "2"])).await?;
    browser.says("#mails", "ada.new@example.com").await?;
    browser.says("#count", "6").await?;

    let skipped = number(browser, "skipped").await?;
    send_unwanted(browser, "ada", "older").await?;
    browser.until(&has_row("events", &["ada", "1", "SENT", "passed over"])).await?;
    browser
        .until(&format!("Number(document.querySelector('#skipped').textContent) === {}", skipped + 1))
        .await?;
    send_unwanted(browser, "cleo", "again").await?;
    browser
        .until(&format!("Number(document.querySelector('#skipped').textContent) === {}", skipped + 2))
        .await?;
    browser.says("#count", "6").await
}

/// Broken, waiting, and read again.
async fn broken_and_late(browser: &Browser) -> Result<()> {
    send_unwanted(browser, "ben", "broken").await?;
    browser.says("#dead", "email is missing").await?;
    browser.says("#verdict", "1 set aside").await?;
    browser.until(&has_row("events", &["ben", "2", "(none)", "set aside"])).await?;
    browser.click("#pause").await?;
    browser.says("#reading", "paused").await?;
    for (user, address) in [("cleo", "cleo@example.org"), ("dan", "dan@example.org")] {
        write_address(browser, user, address).await?;
        browser.click("#change button").await?;
        browser.until(&has_row("events", &[user, "2", address, "waiting"])).await?;
    }
    browser.until("document.querySelector('#lag').textContent === '2'").await?;
    browser.says("#verdict", "2 behind").await?;
    keep(browser, "profile").await?;
    browser.click("#resume").await?;
    browser.until("document.querySelector('#lag').textContent === '0'").await?;
    browser.until(&has_row("events", &["dan", "2", "dan@example.org", "mailed"])).await?;
    browser.says("#count", "8").await?;
    browser.click("#replay").await?;
    // what is broken is set aside once more, and nothing is mailed
    browser.until("document.querySelectorAll('#dead tr').length === 2").await?;
    browser.until("Number(document.querySelector('#skipped').textContent) >= 10").await?;
    browser.says("#count", "8").await
}

/// What a person does wrong, or the demo is told to break, is said in words.
async fn told(browser: &Browser) -> Result<()> {
    send_unwanted(browser, "eva", "older").await?;
    browser.says("#problem", "eva has one version only").await?;
    write_address(browser, "eva", "nowhere").await?;
    browser.click("#change button").await?;
    browser.says("#problem", "E-mail: ").await?;
    browser.stop("users").await?;
    write_address(browser, "eva", "eva@example.org").await?;
    browser.click("#change button").await?;
    browser.says("#problem", "The user service does not answer").await?;
    browser.start("users").await?;
    browser.stop("mailer").await?;
    browser.click("#replay").await?;
    browser.says("#problem", "The e-mail service does not answer").await?;
    browser.says("#reading", "says nothing").await?;
    browser.click_until("#change button", &has_row("users", &["Eva", "eva@example.org"])).await?;
    browser.start("mailer").await?;
    browser.kill("mailer").await?;
    browser.start("mailer").await?;
    browser.until(&has_row("seen", &["Eva", "eva@example.org"])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_page() -> Result<()> {
    check("profile", async |browser: &Browser| {
        one_mail_for_each(browser).await?;
        broken_and_late(browser).await?;
        told(browser).await
    })
    .await
}
