//! The saga's script: random orders while services and relays are killed; in the end every order is at an end state that
//! all three services agree on, and every piece, every payment and every event is accounted for.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;

use super::{Saga, audit, lease, payments, stock};
use crate::consume::Event;
use crate::database::Database;
use crate::run::{Group, Process, Record, until};

pub const ARTICLES: [&str; 3] = ["anvil", "rope", "bucket"];

/// A customer who waits for longer than the script does.
const PATIENT: u32 = 600_000;

/// What a customer wants, as the order service reads it.
#[derive(Serialize)]
pub struct Wish<'a> {
    pub sku: &'a str,
    pub quantity: i32,
    pub card: &'a str,
    pub deliverable: bool,
    pub patience_ms: u32,
}

const ONE: Wish<'_> =
    Wish { sku: ARTICLES[0], quantity: 1, card: "pays", deliverable: true, patience_ms: PATIENT };

/// All of it.
pub async fn play(saga: &Saga, orders: usize) -> Result<()> {
    one_piece(saga).await?;
    undone_before_it_was_done(saga).await?;
    // for about half of what will be asked for, and a few
    let each = i32::try_from(orders / 6 + 5)?;
    stocked(saga, each).await?;
    each_way_to_end(saga).await?;
    asked_too_late(saga).await?;
    in_hand(saga).await?;
    unreadable(saga).await?;
    random(saga, orders).await?;
    agreed(saga, orders, i64::from(each)).await?;
    everything_again(saga).await
}

/// What there is when a person plays: stock, and services that have shown that they work together.
pub async fn opened(saga: &Saga) -> Result<()> {
    saga.stage.say("40 pieces of each article, and a first order");
    stocked(saga, 40).await?;
    place(saga, "first", &ONE).await?;
    ended(saga, "first", "confirmed").await
}

async fn stocked(saga: &Saga, each: i32) -> Result<()> {
    for sku in ARTICLES {
        saga.stock.execute(&format!("INSERT INTO stock VALUES ('{sku}', {each})")).await?;
    }
    Ok(())
}

async fn one_piece(saga: &Saga) -> Result<()> {
    saga.stage.say("two buyers and one piece; the first pauses for longer than its lock lasts");
    let other = Database::new(&saga.stage.own_url(&saga.stage.named("stock"))?)?;
    let sold = lease::two_buyers(&saga.stock, &other).await?;
    saga.stage.say(format!(
        "  sold under a lock that ends by itself: {}; the same with a fencing token: {}; under the row's lock: {}",
        sold.by_plain_lock, sold.by_fenced_lease, sold.by_row_lock
    ));
    ensure!(sold == lease::Sold { by_plain_lock: 2, by_fenced_lease: 1, by_row_lock: 1 }, "{sold:?}");
    Ok(())
}

fn event(kind: &str, payload: serde_json::Value) -> Event {
    Event { id: "early".to_owned(), kind: kind.to_owned(), key: "early".to_owned(), payload }
}

/// The handlers themselves, in transactions that are rolled back: which of two topics is read first is nothing that
/// servers could be made to do.
async fn undone_before_it_was_done(saga: &Saga) -> Result<()> {
    saga.stage.say("\"give it back\" comes before \"take it\"");
    let placed = json!({ "sku": ARTICLES[0], "quantity": 1, "card": "pays" });
    let mut client = saga.stock.client().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("INSERT INTO stock VALUES ('{}', 1)", ARTICLES[0])).await?;
    stock::handle(&transaction, &event("PaymentReturned", json!({}))).await?;
    stock::handle(&transaction, &event("OrderPlaced", placed.clone())).await?;
    let row = transaction.query_one("SELECT sum(on_hand)::bigint FROM stock", &[]).await?;
    ensure!(row.get::<_, i64>(0) == 1, "stock was taken for an order that was given up");
    transaction.rollback().await?;
    let mut client = saga.payments.client().await?;
    let transaction = client.transaction().await?;
    payments::handle(&transaction, &event("OrderCancelled", json!({}))).await?;
    payments::handle(&transaction, &event("StockReserved", placed)).await?;
    let row = transaction.query_one("SELECT count(*) FROM payment WHERE state = 'TAKEN'", &[]).await?;
    ensure!(row.get::<_, i64>(0) == 0, "money was taken for an order that was given up");
    transaction.rollback().await?;
    saga.stage.say("  the stock and the money stay where they are: a row says that it is too late");
    Ok(())
}

/// An order as a customer sends it, again and again until it was taken.
async fn place(saga: &Saga, id: &str, wish: &Wish<'_>) -> Result<()> {
    until("an order to be taken", async || {
        let answer = saga.order_request(id, wish).send().await;
        Ok(answer.is_ok_and(|answer| answer.status().is_success()))
    })
    .await
}

/// Waits until an order has ended, and compares how.
async fn ended(saga: &Saga, id: &str, expected: &str) -> Result<()> {
    let open =
        format!("SELECT count(*) FROM purchase WHERE id = '{id}' AND state IN ('PENDING', 'CANCELLING')");
    until(&format!("order {id} to end"), async || Ok(saga.orders.number(&open).await? == 0)).await?;
    let sql = format!("SELECT lower(concat_ws(', ', state, reason)) FROM purchase WHERE id = '{id}'");
    let found = saga.orders.text(&sql).await?;
    ensure!(found == expected, "order {id} ended as \"{found}\", not as \"{expected}\"");
    Ok(())
}

async fn each_way_to_end(saga: &Saga) -> Result<()> {
    saga.stage.say("one order of each kind");
    for (id, what, wish, end) in [
        ("fine", "is paid and delivered", ONE, "confirmed"),
        ("too-many", "wants more than there is", Wish { quantity: 30_000, ..ONE }, "cancelled, out of stock"),
        (
            "refused",
            "has a card that is refused",
            Wish { card: "refuses", ..ONE },
            "cancelled, payment refused",
        ),
        (
            "silent",
            "has a card that never answers",
            Wish { card: "silent", patience_ms: 1_000, ..ONE },
            "cancelled, took too long",
        ),
        (
            "undeliverable",
            "is paid, and can't be delivered",
            Wish { deliverable: false, ..ONE },
            "cancelled, not deliverable",
        ),
    ] {
        place(saga, id, &wish).await?;
        ended(saga, id, end).await?;
        saga.stage.say(format!("  one that {what}: {end}"));
    }
    Ok(())
}

fn process<'a>(saga: &'a Saga, name: &str) -> Result<&'a Process> {
    saga.processes.iter().find(|process| process.name == name).with_context(|| format!("no process {name}"))
}

/// The customer has gone before the payment service hears that the stock was reserved.
async fn asked_too_late(saga: &Saga) -> Result<()> {
    saga.stage.say("the relay of the stock is stopped; a customer goes before payment was asked for");
    process(saga, "relay-stock")?.stop().await?;
    place(saga, "gone", &Wish { patience_ms: 500, ..ONE }).await?;
    until("the payment to be void", async || {
        let void = "SELECT count(*) FROM payment WHERE order_id = 'gone' AND state = 'VOIDED'";
        Ok(saga.payments.number(void).await? == 1)
    })
    .await?;
    process(saga, "relay-stock")?.start()?;
    ended(saga, "gone", "cancelled, took too long").await?;
    saga.stage.say("  no money is taken, and the stock is given back");
    Ok(())
}

/// A service is stopped, and then killed, while it is at work on an event, which a lock on its inbox makes last.
async fn in_hand(saga: &Saga) -> Result<()> {
    saga.stage.say("the stock service is stopped, and killed, in the midst of an event");
    let stock = process(saga, "saga-stock")?;
    let other = Database::new(&saga.stage.own_url(&saga.stage.named("stock"))?)?;
    for (id, killed) in [("stopped", false), ("killed", true)] {
        other.execute("BEGIN; LOCK TABLE inbox IN EXCLUSIVE MODE").await?;
        place(saga, id, &ONE).await?;
        until("the event to be in hand", async || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'inbox'::regclass";
            Ok(saga.stock.number(waiting).await? == 1)
        })
        .await?;
        if killed {
            // longer than the interval of commits: an offset that was stored too early would be committed now
            tokio::time::sleep(Duration::from_millis(2500)).await;
            stock.kill();
            other.execute("ROLLBACK").await?;
        } else {
            let released = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                other.execute("ROLLBACK").await
            };
            let (status, released) = tokio::join!(stock.stop(), released);
            released?;
            let status = status?.context("it had ended by itself")?;
            ensure!(status.success(), "SIGTERM ended it with {status}");
        }
        stock.start()?;
        ended(saga, id, "confirmed").await?;
    }
    saga.stage.say("  SIGTERM: it finishes the event and ends with status 0; kill -9: the event comes again");
    Ok(())
}

/// Records that no service can use, in each partition, with nobody kept waiting behind them.
async fn unreadable(saga: &Saga) -> Result<()> {
    saga.stage.say("records that are no events come in the orders' topic");
    let topic = format!("{}.order", saga.stage.servers.name);
    let none = Record { topic: &topic, partition: Some(0), key: "x", headers: &[], payload: Some(b"?") };
    let headers = [("id", "by-hand-broken"), ("eventType", "OrderPlaced")];
    let broken = Record { key: "broken", headers: &headers, payload: Some(br#"{"sku": 7}"#), ..none };
    let text = [("id", "by-hand-no-json"), ("eventType", "OrderCancelled")];
    let no_json = Record { key: "no-json", headers: &text, partition: Some(1), ..none };
    let nul = [("id", "by-hand-nul"), ("eventType", "OrderPlaced")];
    let sku = Some(&br#"{"sku": "\u0000", "quantity": 1}"#[..]);
    let no_text = Record { key: "nul", headers: &nul, partition: Some(2), payload: sku, ..none };
    saga.stage.produce(&[none, broken, no_json, no_text]).await?;
    for (database, expected) in [(&saga.stock, 4), (&saga.payments, 2)] {
        until("dead letters", async || {
            Ok(database.number("SELECT count(*) FROM dead_letter").await? == expected)
        })
        .await?;
    }
    place(saga, "behind-them", &ONE).await?;
    ended(saga, "behind-them", "confirmed").await?;
    saga.stage.say("  each service sets aside what it can't use, with the reason, and goes on");
    Ok(())
}

/// A random wish. Some customers go at a random moment, so that giving up meets every step.
pub fn wish<'a>() -> Wish<'a> {
    let card = match fastrand::u8(..10) {
        0..7 => "pays",
        7..9 => "refuses",
        _ => "silent",
    };
    let goes = card == "silent" || fastrand::u8(..5) == 0;
    Wish {
        sku: ARTICLES[fastrand::usize(..ARTICLES.len())],
        quantity: fastrand::i32(1..3),
        card,
        deliverable: fastrand::u8(..6) > 0,
        patience_ms: if goes { fastrand::u32(100..4000) } else { PATIENT },
    }
}

async fn random(saga: &Saga, orders: usize) -> Result<()> {
    saga.stage.say(format!(
        "{orders} random orders, kill -9 for services and relays, and sessions of PostgreSQL that are cut"
    ));
    let buying = async {
        for number in 0..orders {
            place(saga, &format!("random-{number}"), &wish()).await?;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..200))).await;
        }
        anyhow::Ok(())
    };
    tokio::pin!(buying);
    let mut broken = BTreeMap::<&str, u32>::new();
    let mut all_placed = false;
    // as long as orders come, and until everything was broken; the last orders have to end
    let mut next = Vec::new();
    while !all_placed || !next.is_empty() || broken.is_empty() {
        tokio::select! {
            placed = &mut buying, if !all_placed => {
                placed?;
                all_placed = true;
            }
            () = tokio::time::sleep(Duration::from_millis(fastrand::u64(300..1200))) => {
                if next.is_empty() {
                    next = (0..saga.processes.len() + DATABASES.len()).collect();
                    fastrand::shuffle(&mut next);
                }
                let name = break_something(saga, next.pop().context("just filled")?).await?;
                *broken.entry(name).or_default() += 1;
            }
        }
    }
    saga.stage.say(format!("  killed, or sessions cut: {broken:?}").replace(['{', '}', '"'], ""));
    until("all orders to end", async || {
        let open = "SELECT count(*) FROM purchase WHERE state NOT IN ('CONFIRMED', 'CANCELLED')";
        Ok(saga.orders.number(open).await? == 0)
    })
    .await
}

const DATABASES: [(&str, &str); 3] =
    [("orders", "database orders"), ("stock", "database stock"), ("payments", "database payments")];

/// A process is killed and started again, or a database ends all sessions.
async fn break_something(saga: &Saga, which: usize) -> Result<&str> {
    let Some(process) = saga.processes.get(which) else {
        let (database, name) = DATABASES[which - saga.processes.len()];
        saga.stage.cut_sessions(database).await?;
        return Ok(name);
    };
    process.kill();
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..500))).await;
    process.start().context("cannot start it again")?;
    Ok(process.name)
}

async fn agreed(saga: &Saga, orders: usize, each: i64) -> Result<()> {
    until("services that have heard the last word", async || {
        let reserved = "SELECT count(*) FROM reservation WHERE state = 'RESERVED'";
        Ok(saga.stock.number(reserved).await? == 0)
    })
    .await?;
    let events = audit::events(saga).await?;
    let all = audit::ends(saga, "").await?;
    ensure!(all.len() >= 5, "not every way to end was seen: {all:?}");
    let ends = audit::ends(saga, "random-").await?;
    for sku in ARTICLES {
        audit::pieces(saga, sku, each).await?;
    }
    let of = |payment: &str| -> u32 {
        ends.iter().filter(|((_, paid, _), _)| paid == payment).map(|(_, count)| count).sum()
    };
    let total: u32 = ends.values().sum();
    ensure!(total as usize == orders, "{total} random orders of {orders}");
    ensure!(of("VOIDED") * 2 < total, "most orders were given up: {ends:?}");
    if orders >= 1000 {
        for payment in ["TAKEN", "REFUSED", "REFUNDED", "VOIDED", "none"] {
            ensure!(of(payment) * 50 >= total, "fewer than 2 % of the orders ended that way: {payment}");
        }
    }
    for ((state, payment, stock), count) in &ends {
        let meaning = match payment.as_str() {
            "TAKEN" => "paid, and the stock is sold",
            "REFUSED" => "the payment was refused, the stock given back",
            "REFUNDED" => "paid, the money returned, then the stock given back",
            "VOIDED" => "took too long: no money was taken, the stock was given back",
            _ => "there was not enough stock",
        };
        saga.stage.say(format!(
            "  {count:5} {}: {meaning} (payment {payment}, stock {stock})",
            state.to_lowercase()
        ));
    }
    saga.stage.say("  all three services agree on each order, and every piece is accounted for");
    saga.stage.say(format!("  {events} events, each handled exactly once by both other services"));
    Ok(())
}

/// What a group that lost its offsets would do, or a person who sends it back.
async fn everything_again(saga: &Saga) -> Result<()> {
    saga.stage.say("all three services read everything again from the beginning");
    let before = audit::everything(saga).await?;
    let name = &saga.stage.servers.name;
    let topic = |aggregate: &str| format!("{name}.{aggregate}");
    let groups = [
        ("saga-orders", "orders", [topic("stock"), topic("payment")]),
        ("saga-stock", "stock", [topic("order"), topic("payment")]),
        ("saga-payments", "payments", [topic("order"), topic("stock")]),
    ];
    for (service, ..) in &groups {
        process(saga, service)?.stop().await?;
    }
    let groups = groups.map(|(service, group, topics)| {
        (service, Group { name: format!("{name}-{group}"), topics: topics.into() })
    });
    for (_, group) in &groups {
        saga.stage.rewind(group).await?;
    }
    for (service, _) in &groups {
        process(saga, service)?.start()?;
    }
    for (_, group) in &groups {
        saga.stage.until_read(group).await?;
    }
    let after = audit::everything(saga).await?;
    ensure!(before == after, "something was done twice; before:\n{before}after:\n{after}");
    saga.stage.say("  nothing has changed: each event was known");
    Ok(())
}
