//! The ledger's script: commands that compete while processes are killed; then view, folds and snapshots say the same,
//! and so does a view that is made again from the topic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use super::Ledger;
use super::order::{Command, Event, Order};
use super::store::{self, Appended, SNAPSHOT_EVERY};
use crate::run::{Scenario, until};

const ORDERS: usize = 12;
const BUYERS: usize = 4;

/// All of it.
pub async fn play(ledger: &Ledger, commands: usize) -> Result<()> {
    only_one_wins(ledger).await?;
    only_added(ledger).await?;
    killed_while_competing(ledger, commands).await?;
    let orders = folded(ledger).await?;
    same_view(ledger, &orders).await?;
    rebuilt(ledger, &orders).await
}

/// What there is when a person plays: an order that is old enough for a snapshot, one that is paid, and a new one.
pub async fn opened(ledger: &Ledger) -> Result<()> {
    ledger.stage.say("three orders");
    let line = |sku: &str, quantity, cents| Command::AddLine { sku: sku.to_owned(), quantity, cents };
    let send = async |id: &str, command: Command| {
        let answer = ledger.command_request(id, &command).send().await?;
        answer.error_for_status().map(drop).map_err(anyhow::Error::from)
    };
    for number in 0..SNAPSHOT_EVERY {
        let sku = ["nails", "screws", "hinges"][number as usize % 3];
        send("order-1", line(sku, 10, 150)).await?;
    }
    for command in [line("anvil", 1, 8900), line("rope", 2, 2400), Command::Place, Command::Pay] {
        send("order-2", command).await?;
    }
    for command in [line("saw", 1, 2900), line("ladder", 1, 7900)] {
        send("order-3", command).await?;
    }
    let orders = folded(ledger).await?;
    same_view(ledger, &orders).await
}

async fn only_one_wins(ledger: &Ledger) -> Result<()> {
    ledger.stage.say("two commands are decided on the same version of an order");
    let (mut one, mut two) = (ledger.orders.client().await?, ledger.rival.client().await?);
    let line = |sku: &str| Event::LineAdded { sku: sku.to_owned(), quantity: 1, cents: 100 };
    let seen = store::load(&*one, "order-0").await?;
    ensure!(seen == store::load(&*two, "order-0").await?, "both see the same");
    let (rope, saw) = (line("rope"), line("saw"));
    let (first, second) = tokio::join!(
        store::append(&mut one, "order-0", &seen, &rope),
        store::append(&mut two, "order-0", &seen, &saw),
    );
    let mut outcomes = [first?, second?];
    outcomes.sort_by_key(|outcome| *outcome == Appended::Conflict);
    ensure!(outcomes == [Appended::Done, Appended::Conflict], "{outcomes:?}");
    ledger.stage.say("  one is appended, the other has to look again");
    Ok(())
}

async fn only_added(ledger: &Ledger) -> Result<()> {
    for sql in ["UPDATE order_event SET type = 'Paid'", "DELETE FROM order_event", "TRUNCATE order_event"] {
        ensure!(ledger.orders.execute(sql).await.is_err(), "{sql} was not refused");
    }
    ledger.stage.say("UPDATE, DELETE and TRUNCATE of events are refused");
    Ok(())
}

/// A buyer's next wish: mostly lines, sometimes the end of the order.
fn wish() -> Json {
    let sku = ["anvil", "rope", "bucket", "saw"][fastrand::usize(..4)];
    match fastrand::u8(..100) {
        0..80 => json!({ "command": "add_line", "sku": sku, "quantity": 1, "cents": fastrand::u32(1..9999) }),
        80..97 => json!({ "command": "remove_line", "sku": sku }),
        97 => json!({ "command": "place" }),
        98 => json!({ "command": "pay" }),
        _ => json!({ "command": "cancel", "reason": "changed my mind" }),
    }
}

async fn killed_while_competing(ledger: &Ledger, commands: usize) -> Result<()> {
    ledger.stage.say(format!("{commands} commands of {BUYERS} buyers on {ORDERS} orders, and kill -9"));
    let buyer = async |_| {
        for _ in 0..commands / BUYERS {
            let url = format!("{}/orders/order-{}", ledger.orders_url, fastrand::usize(..ORDERS));
            let wish = wish();
            // refused by the order's rules is an answer; refused by a service that was killed is not
            until("an answer of the order service", async || {
                Ok(ledger.stage.http.post(&url).json(&wish).send().await.is_ok_and(|it| it.status() != 503))
            })
            .await?;
        }
        anyhow::Ok(())
    };
    let buying = async { tokio::try_join!(buyer(0), buyer(1), buyer(2), buyer(3)).map(drop) };
    tokio::pin!(buying);
    let mut kills = 0;
    loop {
        tokio::select! {
            done = &mut buying => break done?,
            () = tokio::time::sleep(Duration::from_millis(fastrand::u64(200..900))) => {
                let process = &ledger.processes[fastrand::usize(..ledger.processes.len())];
                process.kill();
                process.start().context("cannot start it again")?;
                kills += 1;
            }
        }
    }
    let events = ledger.orders.number("SELECT count(*) FROM order_event").await?;
    ledger.stage.say(format!("  {events} events, {kills} kills"));
    Ok(())
}

/// The orders by their whole histories; those that begin at a snapshot are equal.
async fn folded(ledger: &Ledger) -> Result<Vec<(String, Order)>> {
    let client = ledger.orders.client().await?;
    let ids = client.query("SELECT DISTINCT order_id FROM order_event ORDER BY order_id", &[]).await?;
    let mut orders = Vec::new();
    for row in ids {
        let id: String = row.get(0);
        let whole = store::fold(&*client, &id, Order::default()).await?;
        let from_snapshot = store::load(&*client, &id).await?;
        ensure!(whole == from_snapshot, "order {id} is another one when it is read from its snapshot");
        orders.push((id, whole));
    }
    let snapshots = client.query_one("SELECT count(*) FROM order_snapshot", &[]).await?.get::<_, i64>(0);
    ensure!(snapshots > 0, "no order has a snapshot");
    ledger.stage.say(format!(
        "  {} orders; {snapshots} have a snapshot, and it says what their history says",
        orders.len()
    ));
    Ok(orders)
}

/// The view comes to say what the histories say.
async fn same_view(ledger: &Ledger, orders: &[(String, Order)]) -> Result<()> {
    let events: i64 = orders.iter().map(|(_, order)| i64::from(order.version)).sum();
    until("the view to have all events", async || {
        let seen = "SELECT coalesce(sum(version), 0)::bigint FROM order_view";
        Ok(ledger.projection.number(seen).await? == events)
    })
    .await?;
    let client = ledger.projection.client().await?;
    for (id, order) in orders {
        let row = client.query_one("SELECT state::text FROM order_view WHERE order_id = $1", &[id]).await?;
        let seen: Order = serde_json::from_str(row.get(0))?;
        ensure!(seen == *order, "the view has another order {id}: {seen:?} instead of {order:?}");
    }
    ledger.stage.say("  the view, made of the topic, says the same");
    Ok(())
}

async fn rebuilt(ledger: &Ledger, orders: &[(String, Order)]) -> Result<()> {
    ledger.stage.say("the view is thrown away and made again from the topic");
    ledger.process("ledger-projection")?.stop().await?;
    ledger.projection.execute("UPDATE order_view SET state = '{}', version = -1000000").await?;
    ledger.rebuild().await?;
    same_view(ledger, orders).await
}
