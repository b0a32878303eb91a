//! The shop's script: every status is reached, whatever can stop is stopped or killed, and both tables are equal at the
//! end. Each step waits for what it says; the process fails with the step that did not come true.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::witness::Witness;
use super::{ATTEMPTS, Shop};
use crate::run::{PATIENCE, Process, Scenario, until, until_within};

const ARTICLES: [(&str, &str); 6] = [
    ("ANV-50", "Anvil, 50 kg"),
    ("ROP-20", "Rope, 20 m"),
    ("BUC-10", "Bucket, 10 l"),
    ("LAD-03", "Ladder, 3 m"),
    ("NAI-80", "Nails, 80 mm"),
    ("SAW-01", "Saw"),
];

/// All of it, or only the articles.
pub async fn play(shop: &Shop, long: bool, first_step_only: bool) -> Result<()> {
    if first_step_only {
        return filled(shop).await;
    }
    let witness = Witness::new(shop).await?;
    filled(shop).await?;
    counted(shop).await?;
    new_and_sent(shop).await?;
    without_the_product_service(shop).await?;
    failed_and_healed(shop).await?;
    dead_blocked_and_retried(shop).await?;
    cancelled(shop).await?;
    let load = if long { Duration::from_secs(180) } else { Duration::from_secs(6) };
    killed_under_load(shop, &witness, load).await?;
    dead_while_things_die(shop, &witness).await?;
    witness.sums_up(shop).await
}

/// Every event there is PROCESSED, but for those that were given up, and the tables are equal.
async fn settled(shop: &Shop) -> Result<()> {
    until("all events to be PROCESSED or CANCELLED", async || {
        retry_what_was_told(shop).await?;
        let statuses = shop.statuses().await?;
        Ok(statuses.keys().all(|status| status == "PROCESSED" || status == "CANCELLED"))
    })
    .await?;
    let (inventory, copy) = shop.tables().await?;
    ensure!(inventory == copy, "the tables differ:\n  {inventory}\n  {copy}");
    // equal tables do not say it: a later event brings what a lost one had
    let changes = shop.product.number("SELECT sum(version)::bigint FROM inventory").await?;
    let events = shop.product.number("SELECT count(DISTINCT id) FROM headwater.outbox").await?;
    let handled = "SELECT count(*) FROM headwater.inbox WHERE status = 'SUCCESS'";
    let handled = shop.orders.number(handled).await?;
    let cancelled = shop.statuses().await?.get("CANCELLED").copied().unwrap_or(0);
    ensure!(
        events == changes && handled == changes - cancelled,
        "{changes} changes, {events} events, {handled} handled, {cancelled} cancelled"
    );
    Ok(())
}

/// What the team does that got the mails: it has mended the order service, and has the events sent again.
async fn retry_what_was_told(shop: &Shop) -> Result<()> {
    let sql = "SELECT string_agg(id::text, ' ') FROM headwater.outbox WHERE status = 'DEAD' AND notified_at IS NOT NULL";
    let ids = shop.product.text(sql).await?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if !ids.is_empty() {
        shop.outbox(&[&["retry"], &ids[..]].concat()).await?;
    }
    Ok(())
}

async fn filled(shop: &Shop) -> Result<()> {
    shop.stage.say("the product team enters its articles");
    for (number, (sku, name)) in ARTICLES.iter().enumerate() {
        shop.set_stock(sku, Some(name), 10 + number as i32).await?;
    }
    settled(shop).await?;
    shop.stage.say("  all events PROCESSED: the order service has the same table");
    Ok(())
}

/// So many that a change without its event, one in fifty, is found.
async fn counted(shop: &Shop) -> Result<()> {
    shop.stage.say("the product team counts its stock, and enters what it found: 300 changes");
    for number in 0..300 {
        shop.set_stock(ARTICLES[number % ARTICLES.len()].0, None, 10 + number as i32 / 6).await?;
    }
    settled(shop).await?;
    shop.stage.say("  each change is one event, and was applied once");
    Ok(())
}

async fn new_and_sent(shop: &Shop) -> Result<()> {
    let processed = shop.statuses().await?.get("PROCESSED").copied().unwrap_or(0);
    shop.stage.say("the relay and the order service's apply are stopped; stock changes");
    for name in ["relay", "apply"] {
        shop.process(name)?.stop().await?;
    }
    shop.set_stock("ROP-20", None, 3).await?;
    shop.until_status("NEW", 1).await?;
    shop.stage.say("  NEW: the event is in the outbox, nobody has sent it");
    shop.process("relay")?.start()?;
    shop.until_status("SENT", 1).await?;
    shop.stage.say("  SENT: the relay is back, Kafka has it");
    shop.process("apply")?.start()?;
    shop.until_status("PROCESSED", processed + 1).await?;
    shop.stage.say("  PROCESSED: the order service has answered");
    settled(shop).await
}

async fn without_the_product_service(shop: &Shop) -> Result<()> {
    shop.stage.say("the product service is stopped; orders go on, by the copy");
    shop.process("product")?.stop().await?;
    for (quantity, accepted) in [(3, true), (4, false)] {
        let order = shop.place_order("ROP-20", quantity).await?;
        ensure!(order["accepted"] == accepted, "of 3 ropes, {quantity} were ordered: {order}");
        let word = if accepted { "accepted" } else { "refused" };
        shop.stage.say(format!("  an order of {quantity} ropes of 3 is {word}"));
    }
    shop.process("product")?.start()?;
    shop.until_ready().await
}

async fn failed_and_healed(shop: &Shop) -> Result<()> {
    shop.stage.say("the order service fails for a moment");
    shop.trouble(Some("BUC-10")).await?;
    shop.set_stock("BUC-10", None, 77).await?;
    until("an answer FAILED", async || {
        let sql =
            "SELECT count(*) FROM headwater.outbox WHERE aggregateid = 'BUC-10' AND failed_at IS NOT NULL";
        Ok(shop.product.number(sql).await? == 1)
    })
    .await?;
    shop.trouble(None).await?;
    shop.stage.say("  FAILED, with the reason in the row; the next attempt is planned");
    settled(shop).await?;
    let attempt = "SELECT max(attempt)::bigint FROM headwater.outbox WHERE aggregateid = 'BUC-10'";
    shop.stage.say(format!("  PROCESSED by attempt {}", shop.product.number(attempt).await?));
    Ok(())
}

/// Sets an article's stock twice while it can't be applied: the first event dies, the second waits behind it.
async fn exhausted(shop: &Shop, sku: &str) -> Result<String> {
    let mails = shop.mailbox.mails()?.len();
    shop.trouble(Some(sku)).await?;
    shop.set_stock(sku, None, 40).await?;
    let of_sku = |status: &str| {
        format!("SELECT count(*) FROM headwater.outbox WHERE aggregateid = '{sku}' AND status = '{status}'")
    };
    let failing = format!(
        "SELECT count(*) FROM headwater.outbox WHERE aggregateid = '{sku}' AND failed_at IS NOT NULL"
    );
    until("the first failure", async || Ok(shop.product.number(&failing).await? == 1)).await?;
    shop.set_stock(sku, None, 41).await?;
    until("an event that is BLOCKED", async || Ok(shop.product.number(&of_sku("BLOCKED")).await? == 1))
        .await?;
    until("an event that is DEAD", async || Ok(shop.product.number(&of_sku("DEAD")).await? == 1)).await?;
    let id = format!("SELECT id::text FROM headwater.outbox WHERE aggregateid = '{sku}' AND status = 'DEAD'");
    let id = shop.product.text(&id).await?;
    until("a mail", async || Ok(shop.mailbox.mails()?.len() > mails)).await?;
    shop.stage.say(format!(
        "  DEAD after {ATTEMPTS} attempts, and a mail to the team; the next event is BLOCKED behind it"
    ));
    Ok(id)
}

async fn dead_blocked_and_retried(shop: &Shop) -> Result<()> {
    shop.stage.say("the order service can't take one article, whatever is tried");
    let id = exhausted(shop, "LAD-03").await?;
    let (inventory, copy) = shop.tables().await?;
    ensure!(inventory != copy, "the tables are equal though an event is DEAD");
    shop.trouble(None).await?;
    shop.outbox(&["retry", &id]).await?;
    shop.stage.say("  the order team has mended it: headwater outbox retry");
    settled(shop).await?;
    shop.stage.say("  PROCESSED, both of them and in their order");
    Ok(())
}

async fn cancelled(shop: &Shop) -> Result<()> {
    shop.stage.say("once more, and this time the event is given up");
    let id = exhausted(shop, "SAW-01").await?;
    shop.trouble(None).await?;
    shop.outbox(&["cancel", &id]).await?;
    shop.until_status("CANCELLED", 1).await?;
    settled(shop).await?;
    shop.stage.say("  CANCELLED; the event behind it was let go and has brought the newest stock");
    shop.outbox(&["retry", &id]).await?;
    shop.until_status("CANCELLED", 0).await?;
    settled(shop).await?;
    shop.stage.say("  sent again after all: it is older than what the copy has, and changes nothing");
    Ok(())
}

/// Stock changes all the time, one article after the other can't be applied for a while, and every other second something
/// is killed: as long as it is told to, and until that has made events fail, die, wait and be sent again.
async fn killed_under_load(shop: &Shop, witness: &Witness, load: Duration) -> Result<()> {
    shop.stage.say(format!(
        "{} s of changes; one article after the other can't be applied for a while, kill -9 for whatever runs, and \
         sessions of PostgreSQL that are cut",
        load.as_secs()
    ));
    let versions = "SELECT sum(version)::bigint FROM inventory";
    let (before, (_, first)) = (shop.product.number(versions).await?, witness.reached(shop, i64::MAX).await?);
    let over = Cell::new(false);
    let (changed, (), broken) = tokio::try_join!(
        changes(shop, &over),
        troubles(shop, witness, first, load, &over),
        breaks(shop, witness, &over)
    )?;
    shop.until_ready().await?;
    settled(shop).await?;
    let stored = shop.product.number(versions).await? - before;
    ensure!(stored >= changed, "{changed} changes were confirmed, and {stored} are stored");
    let broken = format!("{broken:?}").replace(['{', '}', '"'], "");
    shop.stage.say(format!("  {stored} changes; killed, or sessions cut: {broken}"));
    let (reached, _) = witness.reached(shop, first).await?;
    let reached: Vec<_> = reached.into_iter().collect();
    shop.stage.say(format!("  both tables are equal; events were {} meanwhile", reached.join(", ")));
    Ok(())
}

/// Gives how many were confirmed.
async fn changes(shop: &Shop, over: &Cell<bool>) -> Result<i64> {
    let mut changed = 0;
    while !over.get() {
        let (sku, _) = ARTICLES[fastrand::usize(..ARTICLES.len())];
        // a service that was killed refuses; its users try again
        match shop.set_stock(sku, None, fastrand::i32(0..100)).await {
            Ok(_) => changed += 1,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        // fewer than a mail lists of one article, while the relay is away
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..150))).await;
    }
    Ok(changed)
}

/// Says when it is over.
async fn troubles(
    shop: &Shop,
    witness: &Witness,
    first: i64,
    load: Duration,
    over: &Cell<bool>,
) -> Result<()> {
    let end = Instant::now() + load;
    until_within(load + PATIENCE, "events that fail, die, wait and are sent again", async || {
        let (sku, _) = ARTICLES[fastrand::usize(..ARTICLES.len())];
        let dead =
            format!("SELECT count(*) FROM headwater.outbox WHERE aggregateid = '{sku}' AND status = 'DEAD'");
        shop.trouble(Some(sku)).await?;
        until("an event to die", async || Ok(shop.product.number(&dead).await? > 0)).await?;
        shop.trouble(None).await?;
        until("events to be sent again", async || {
            retry_what_was_told(shop).await?;
            Ok(shop.product.number(&dead).await? == 0)
        })
        .await?;
        let (reached, _) = witness.reached(shop, first).await?;
        let seen = ["BLOCKED", "DEAD", "FAILED"].iter().all(|status| reached.contains(*status));
        Ok(Instant::now() > end && seen)
    })
    .await?;
    over.set(true);
    Ok(())
}

const DATABASES: [(&str, &str); 2] = [("product", "database product"), ("orders", "database orders")];

/// Breaks one after the other, in a new order each time, and everything at least once. Gives how often what was broken.
async fn breaks<'a>(shop: &'a Shop, witness: &Witness, over: &Cell<bool>) -> Result<BTreeMap<&'a str, u32>> {
    let mut broken = BTreeMap::<&str, u32>::new();
    let mut next = Vec::new();
    while !over.get() || !next.is_empty() || broken.is_empty() {
        if next.is_empty() {
            next = (0..shop.processes.len() + DATABASES.len()).collect();
            fastrand::shuffle(&mut next);
        }
        // with time in between for events to fail, to die and to be told
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1000..3500))).await;
        let which = next.pop().context("just filled")?;
        let name = match shop.processes.get(which) {
            Some(process) => {
                kill(shop, witness, process).await?;
                process.name
            }
            None => {
                let (database, name) = DATABASES[which - shop.processes.len()];
                shop.stage.cut_sessions(database).await?;
                name
            }
        };
        *broken.entry(name).or_default() += 1;
    }
    Ok(broken)
}

/// kill -9, and a new start.
async fn kill(shop: &Shop, witness: &Witness, process: &Process) -> Result<()> {
    process.kill();
    if process.name == "relay" {
        witness.relay_was_killed(shop).await?;
    }
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
    process.start().context("cannot start it again")
}

/// Events are exhausted while processes are killed: each of them is told.
async fn dead_while_things_die(shop: &Shop, witness: &Witness) -> Result<()> {
    shop.stage.say("the order service can't apply anything, and everything is killed meanwhile");
    shop.trouble(Some("*")).await?;
    for (sku, _) in ARTICLES {
        shop.set_stock(sku, None, 5).await?;
    }
    let dead = ARTICLES.len() as i64;
    // With time in between for another attempt.
    for name in ["relay", "orders", "apply", "product", "relay"] {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..2000))).await;
        kill(shop, witness, shop.process(name)?).await?;
    }
    shop.until_status("DEAD", dead).await?;
    shop.until_ready().await?;
    let told = "SELECT count(*) FROM headwater.outbox WHERE status = 'DEAD' AND notified_at IS NOT NULL";
    until("mails of all of them", async || Ok(shop.product.number(told).await? == dead)).await?;
    shop.stage.say(format!("  {dead} events are DEAD, and the team got a mail of each"));
    shop.trouble(None).await?;
    shop.outbox(&["retry", "--status", "DEAD"]).await?;
    settled(shop).await?;
    shop.stage
        .say("  the order service works again, headwater outbox retry --status DEAD: both tables are equal");
    Ok(())
}
