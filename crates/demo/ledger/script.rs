//! The ledger's script: commands that compete while processes are killed; then every command that was accepted is one
//! event, view, folds and snapshots say the same, and so does a view that is made again from the topic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use super::Ledger;
use super::order::{Command, Event, Order};
use super::store::{self, Appended, SNAPSHOT_EVERY};
use crate::database::Database;
use crate::run::{Record, until};

const ORDERS: usize = 12;
const BUYERS: usize = 4;

/// All of it.
pub async fn play(ledger: &Ledger, commands: usize) -> Result<()> {
    only_one_wins(ledger).await?;
    only_added(ledger).await?;
    let mut accepted = killed_while_competing(ledger, commands).await?;
    same(ledger, &accepted).await?;
    rebuilt(ledger, &mut accepted).await
}

/// Keys of commands that were accepted.
type Keys = BTreeSet<String>;

/// Events, histories, snapshots and view say the same.
async fn same(ledger: &Ledger, accepted: &Keys) -> Result<()> {
    let events = "SELECT replace(id::text, '-', '') FROM order_event WHERE order_id <> 'order-first'";
    let events = ledger.orders.client().await?.query(events, &[]).await?;
    let events: Keys = events.iter().map(|row| row.get(0)).collect();
    ensure!(
        events == *accepted,
        "of {} accepted commands {} have no event, and {} events were not accepted",
        accepted.len(),
        accepted.difference(&events).count(),
        events.difference(accepted).count()
    );
    ledger.stage.say(format!("  {} commands were accepted, and each is one event", events.len()));
    let orders = folded(ledger).await?;
    same_view(ledger, &orders).await
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
    let other = Database::new(&ledger.stage.database_url(&ledger.stage.named("ledger"))?)?;
    let (mut one, mut two) = (ledger.orders.client().await?, other.client().await?);
    let line = |sku: &str| Event::LineAdded { sku: sku.to_owned(), quantity: 1, cents: 100 };
    let seen = store::load(&*one, "order-first").await?;
    ensure!(seen == store::load(&*two, "order-first").await?, "both see the same");
    let (rope, saw) = (line("rope"), line("saw"));
    let (first, second) = tokio::join!(
        store::append(&mut one, "order-first", &seen, &rope, None),
        store::append(&mut two, "order-first", &seen, &saw, None),
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

/// So many commands of one buyer on orders that are called so, each sent until it is answered, and some once more. Gives the keys of those that were
/// accepted.
async fn buy(ledger: &Ledger, called: &str, commands: usize) -> Result<Keys> {
    let mut accepted = Keys::new();
    for _ in 0..commands {
        let url = format!("{}/orders/{called}-{}", ledger.orders_url, fastrand::usize(..ORDERS));
        let (key, wish) = (format!("{:032x}", fastrand::u128(..)), wish());
        let mut status = 503;
        // an answer that was lost can't be told from one that never came
        let sends = if fastrand::u8(..10) == 0 { 2 } else { 1 };
        for _ in 0..sends {
            until("an answer of the order service", async || {
                let request = ledger.stage.http.post(&url).header("Idempotency-Key", &key).json(&wish);
                status = request.send().await.map_or(503, |answer| answer.status().as_u16());
                // refused by the order's rules is an answer; refused by a service that was killed is not
                Ok(status != 503)
            })
            .await?;
        }
        ensure!(matches!(status, 200 | 409), "a command was answered with {status}");
        if status == 200 {
            accepted.insert(key);
        }
    }
    Ok(accepted)
}

async fn killed_while_competing(ledger: &Ledger, commands: usize) -> Result<Keys> {
    ledger.stage.say(format!(
        "{commands} commands of {BUYERS} buyers on {ORDERS} orders, kill -9, and sessions of PostgreSQL that are cut"
    ));
    let each = commands / BUYERS;
    let one = || buy(ledger, "order", each);
    let buying = async { tokio::try_join!(one(), one(), one(), one()) };
    tokio::pin!(buying);
    let mut broken = BTreeMap::<&str, u32>::new();
    let mut bought = None;
    let mut next = Vec::new();
    // until everything was broken at least once
    while bought.is_none() || !next.is_empty() || broken.is_empty() {
        tokio::select! {
            done = &mut buying, if bought.is_none() => bought = Some(done?),
            () = tokio::time::sleep(Duration::from_millis(fastrand::u64(200..900))) => {
                if next.is_empty() {
                    next = (0..ledger.processes.len() + DATABASES.len()).collect();
                    fastrand::shuffle(&mut next);
                }
                let name = break_something(ledger, next.pop().context("just filled")?).await?;
                *broken.entry(name).or_default() += 1;
            }
        }
    }
    ledger.stage.say(format!("  killed, or sessions cut: {broken:?}").replace(['{', '}', '"'], ""));
    let (one, two, three, four) = bought.context("bought above")?;
    Ok([one, two, three, four].into_iter().flatten().collect())
}

const DATABASES: [(&str, &str); 2] =
    [("ledger", "database of the events"), ("projection", "database of the view")];

/// A process is killed and started again, or a database ends all sessions.
async fn break_something(ledger: &Ledger, which: usize) -> Result<&str> {
    let Some(process) = ledger.processes.get(which) else {
        let (database, name) = DATABASES[which - ledger.processes.len()];
        ledger.stage.cut_sessions(database).await?;
        return Ok(name);
    };
    process.kill();
    process.start().context("cannot start it again")?;
    Ok(process.name)
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
    for (id, order) in orders {
        let sql = "SELECT state::text FROM order_view WHERE order_id = $1";
        let row = ledger.projection.client().await?.query_one(sql, &[id]).await?;
        let seen: Order = serde_json::from_str(row.get(0))?;
        ensure!(seen == *order, "the view has another order {id}: {seen:?} instead of {order:?}");
    }
    // PostgreSQL's own sum, for which none of our code was asked
    let sum = "SELECT coalesce(sum((e.payload->>'cents')::bigint), 0)::bigint FROM order_event e
               WHERE e.type = 'LineAdded' AND NOT EXISTS (
                   SELECT FROM order_event r WHERE r.order_id = e.order_id AND r.type = 'LineRemoved'
                   AND r.version > e.version AND r.payload->>'sku' = e.payload->>'sku')";
    let (expected, found) = (
        ledger.orders.number(sum).await?,
        ledger.projection.number("SELECT sum(total_cents)::bigint FROM order_view").await?,
    );
    ensure!(expected == found, "the view's orders are worth {found} cents, and by their events {expected}");
    ledger.stage.say("  the view, made of the topic, says the same");
    Ok(())
}

async fn rebuilt(ledger: &Ledger, accepted: &mut Keys) -> Result<()> {
    ledger.stage.say("the view is thrown away and made again from the topic");
    let projection = ledger.processes.last().context("the projection")?;
    projection.stop().await?;
    ledger.projection.execute("UPDATE order_view SET state = '{}', version = -1000000").await?;
    ledger.rebuilding.start()?;
    same(ledger, accepted).await?;

    ledger.stage.say("a second instance beside it, and 40 commands more");
    projection.start()?;
    accepted.extend(buy(ledger, "later", 40).await?);
    same(ledger, accepted).await?;

    ledger.stage.say("one of the two is told to make the view anew, while the other goes on");
    ledger.rebuilding.stop().await?;
    ledger.rebuilding.start()?;
    until("the other to end", async || {
        // it hears of it with the next event
        accepted.extend(buy(ledger, "last", 1).await?);
        Ok(projection.pid().is_none())
    })
    .await?;
    ledger.stage.say("  the other ends, since its place in the topic is not this view's");
    same(ledger, accepted).await
}

/// A hole in the history, as of a topic that did not keep all of it.
pub async fn halted(ledger: &Ledger) -> Result<()> {
    ledger.stage.say("an event comes whose predecessor is missing");
    let topic = format!("{}.order", ledger.stage.servers.name);
    let headers = [("id", "by-hand"), ("eventType", "Placed"), ("version", "2")];
    let record =
        Record { topic: &topic, partition: None, key: "hole", headers: &headers, payload: Some(b"{}") };
    ledger.stage.produce(&[record]).await?;
    until("the projection to end", async || Ok(ledger.rebuilding.pid().is_none())).await?;
    let found = "SELECT count(*) FROM order_view WHERE order_id = 'hole'";
    ensure!(ledger.projection.number(found).await? == 0, "the view has an order with a hole");
    ledger.stage.say("  the projection ends: a view with a hole would be wrong for ever");
    Ok(())
}
