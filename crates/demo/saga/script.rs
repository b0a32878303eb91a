//! The saga's script: random orders while services and relays are killed; in the end every order is at an end state that
//! all three services agree on, and every piece and every payment is accounted for.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::verdict::{Verdict, verdict};
use super::{Saga, lease};
use crate::database::Database;
use crate::run::until;

pub const ARTICLES: [&str; 3] = ["anvil", "rope", "bucket"];

/// All of it.
pub async fn play(saga: &Saga, orders: usize) -> Result<()> {
    one_piece(saga).await?;
    // enough for about two thirds of what will be asked for, and a few
    let each = i32::try_from(orders / ARTICLES.len() + 10)?;
    stocked(saga, each).await?;
    joined(saga).await?;
    each_way_to_end(saga).await?;
    random(saga, orders).await?;
    consistent(saga, i64::from(each)).await
}

/// What there is when a person plays: stock, and services that are ready.
pub async fn opened(saga: &Saga) -> Result<()> {
    stocked(saga, 40).await?;
    joined(saga).await
}

async fn stocked(saga: &Saga, each: i32) -> Result<()> {
    for sku in ARTICLES {
        saga.stock.execute(&format!("INSERT INTO stock VALUES ('{sku}', {each})")).await?;
    }
    Ok(())
}

async fn one_piece(saga: &Saga) -> Result<()> {
    saga.stage.say("two buyers and one piece; the first pauses for longer than its lease lasts");
    let other = Database::new(&saga.stage.database_url(&saga.stage.named("stock"))?)?;
    let sold = lease::two_buyers(&saga.stock, &other).await?;
    saga.stage.say(format!(
        "  sold under a plain lock: {}; under a lease with a fencing token: {}; under the row's lock: {}",
        sold.by_plain_lock, sold.by_fenced_lease, sold.by_row_lock
    ));
    ensure!(sold == lease::Sold { by_plain_lock: 2, by_fenced_lease: 1, by_row_lock: 1 }, "{sold:?}");
    Ok(())
}

/// An order as a customer sends it, again and again until it was taken.
async fn place(saga: &Saga, id: &str, sku: &str, quantity: i32, card: &str, deliverable: bool) -> Result<()> {
    until("an order to be taken", async || {
        let answer = saga.order_request(id, sku, quantity, card, deliverable).send().await;
        Ok(answer.is_ok_and(|answer| answer.status().is_success()))
    })
    .await
}

/// Orders, until one is confirmed: before the services have joined their groups, an order takes too long.
async fn joined(saga: &Saga) -> Result<()> {
    let mut number = 0;
    until("services that have joined their groups", async || {
        number += 1;
        let id = format!("first-{number}");
        place(saga, &id, ARTICLES[1], 1, "pays", true).await?;
        let open =
            format!("SELECT count(*) FROM purchase WHERE id = '{id}' AND state IN ('PENDING', 'CANCELLING')");
        until("an order to end", async || Ok(saga.orders.number(&open).await? == 0)).await?;
        Ok(saga.orders.number("SELECT count(*) FROM purchase WHERE state = 'CONFIRMED'").await? > 0)
    })
    .await
}

async fn each_way_to_end(saga: &Saga) -> Result<()> {
    saga.stage.say("one order of each kind");
    for (id, quantity, card, deliverable, state, reason) in [
        ("fine", 1, "pays", true, "CONFIRMED", ""),
        ("too-many", 30_000, "pays", true, "CANCELLED", "out of stock"),
        ("refused", 1, "refuses", true, "CANCELLED", "payment refused"),
        ("silent", 1, "silent", true, "CANCELLED", "took too long"),
        ("undeliverable", 1, "pays", false, "CANCELLED", "not deliverable"),
    ] {
        place(saga, id, ARTICLES[0], quantity, card, deliverable).await?;
        let sql = format!("SELECT state || ' ' || coalesce(reason, '') FROM purchase WHERE id = '{id}'");
        let expected = format!("{state} {reason}");
        until(&format!("order {id} to be {expected}"), async || {
            let seen = saga.orders.text(&sql).await?;
            // on a machine that is busy, any order may take too long
            Ok(seen == expected || seen == "CANCELLED took too long")
        })
        .await?;
        saga.stage.say(format!("  {id}: {}", saga.orders.text(&sql).await?.to_lowercase()));
    }
    Ok(())
}

/// What somebody orders, with a card that may not pay and to a place that may be out of reach.
pub struct Wish {
    pub sku: &'static str,
    pub quantity: i32,
    pub card: &'static str,
    pub deliverable: bool,
}

impl Wish {
    pub fn random() -> Wish {
        Wish {
            sku: ARTICLES[fastrand::usize(..ARTICLES.len())],
            quantity: fastrand::i32(1..3),
            card: ["pays", "pays", "pays", "refuses", "silent"][fastrand::usize(..5)],
            deliverable: fastrand::u8(..6) > 0,
        }
    }
}

async fn random(saga: &Saga, orders: usize) -> Result<()> {
    saga.stage.say(format!("{orders} random orders, and kill -9 for services and relays"));
    let buying = async {
        for number in 0..orders {
            let order = Wish::random();
            place(
                saga,
                &format!("random-{number}"),
                order.sku,
                order.quantity,
                order.card,
                order.deliverable,
            )
            .await?;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..200))).await;
        }
        until("all orders to end", async || {
            let open = "SELECT count(*) FROM purchase WHERE state NOT IN ('CONFIRMED', 'CANCELLED')";
            Ok(saga.orders.number(open).await? == 0)
        })
        .await
    };
    let mut kills = BTreeMap::<&str, u32>::new();
    let killing = async {
        // as long as orders come, and then no more: the last ones have to end
        while saga.orders.number("SELECT count(*) FROM purchase WHERE id LIKE 'random-%'").await?
            < orders as i64
        {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(500..2500))).await;
            let process = &saga.processes[fastrand::usize(..saga.processes.len())];
            process.kill();
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..500))).await;
            process.start().context("cannot start it again")?;
            *kills.entry(process.name).or_default() += 1;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(buying, killing)?;
    let kills: Vec<_> = kills.iter().map(|(name, count)| format!("{name} {count}")).collect();
    saga.stage.say(format!("  killed: {}", kills.join(", ")));
    Ok(())
}

/// What one service says of an order, and when it undid its step.
async fn states(database: &Database, sql: &str) -> Result<HashMap<String, (String, i64)>> {
    let rows = database.client().await?.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

/// All services agree on each order; steps were undone backward; nothing is lost and nothing sold twice.
async fn consistent(saga: &Saga, each: i64) -> Result<()> {
    until("services that have heard the last word", async || {
        let reserved = "SELECT count(*) FROM reservation WHERE state = 'RESERVED'";
        Ok(saga.stock.number(reserved).await? == 0)
    })
    .await?;
    let microseconds =
        |column: &str| format!("coalesce((extract(epoch FROM {column}) * 1000000)::bigint, 0)");
    let payments = format!("SELECT order_id, state, {} FROM payment", microseconds("returned_at"));
    let payments = states(&saga.payments, &payments).await?;
    let stock = format!("SELECT order_id, state, {} FROM reservation", microseconds("released_at"));
    let stock = states(&saga.stock, &stock).await?;
    let mut counts = BTreeMap::<String, u32>::new();
    for (order, (state, _)) in states(&saga.orders, "SELECT id, state, 0::bigint FROM purchase").await? {
        let of = |states: &HashMap<String, (String, i64)>| {
            states.get(&order).map_or(("none".to_owned(), 0), Clone::clone)
        };
        let ((payment, returned), (reservation, released)) = (of(&payments), of(&stock));
        let agree = verdict(&state, &payment, &reservation) == Verdict::Agree;
        ensure!(
            agree && (payment != "REFUNDED" || returned < released),
            "order {order} ended as {state} {payment} {reservation}, money returned at {returned}, stock at {released}"
        );
        *counts.entry(format!("{state}: payment {payment}, stock {reservation}")).or_default() += 1;
    }
    for sku in ARTICLES {
        let sql = format!(
            "SELECT on_hand + (SELECT coalesce(sum(quantity), 0) FROM reservation WHERE sku = '{sku}' AND state = 'SOLD')
             FROM stock WHERE sku = '{sku}'"
        );
        let accounted = saga.stock.number(&sql).await?;
        ensure!(accounted == each, "{accounted} of {each} pieces of {sku} are accounted for");
    }
    for (ends, count) in counts {
        saga.stage.say(format!("  {count:5} orders {ends}"));
    }
    saga.stage.say("  all three services agree on each of them, and every piece is accounted for");
    Ok(())
}
