//! What has to hold when all orders have ended, as three databases say it that know nothing of each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, ensure};

use super::Saga;
use super::verdict::{Verdict, verdict};
use crate::database::Database;
use crate::run::until;

/// How often orders ended in each way: the order's state, its payment's and its reservation's.
pub type Ends = BTreeMap<(String, String, String), u32>;

/// What one service says of an order, and when it undid its step.
type States = HashMap<String, (String, i64)>;

async fn states(database: &Database, table: &str, undone_at: &str) -> Result<States> {
    let sql = format!(
        "SELECT order_id, state, coalesce((extract(epoch FROM {undone_at}) * 1000000)::bigint, 0) FROM {table}"
    );
    let rows = database.client().await?.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

/// All services agree on each order, and steps were undone backward. Gives the ends of those whose id begins so.
pub async fn ends(saga: &Saga, prefix: &str) -> Result<Ends> {
    let payments = states(&saga.payments, "payment", "returned_at").await?;
    let stock = states(&saga.stock, "reservation", "released_at").await?;
    let orders = saga.orders.client().await?.query("SELECT id, state FROM purchase", &[]).await?;
    let mut ends = Ends::new();
    for row in &orders {
        let (order, state): (&str, &str) = (row.get(0), row.get(1));
        let of = |states: &States| states.get(order).map_or(("none".to_owned(), 0), Clone::clone);
        let ((payment, returned), (reservation, released)) = (of(&payments), of(&stock));
        let agree = verdict(state, &payment, &reservation) == Verdict::Agree;
        let backward = !matches!(payment.as_str(), "REFUNDED" | "VOIDED") || returned < released;
        ensure!(
            agree && backward,
            "order {order} ended as {state} {payment} {reservation}, money returned at {returned}, stock at {released}"
        );
        if order.starts_with(prefix) {
            *ends.entry((state.to_owned(), payment, reservation)).or_default() += 1;
        }
    }
    for (name, known) in [("payments", &payments), ("stock", &stock)] {
        let unknown = known.keys().find(|order| !orders.iter().any(|row| row.get::<_, &str>(0) == *order));
        ensure!(unknown.is_none(), "{name} knows an order that nobody placed: {unknown:?}");
    }
    Ok(ends)
}

/// Every piece is in the stock or sold.
pub async fn pieces(saga: &Saga, sku: &str, expected: i64) -> Result<()> {
    let sql = format!(
        "SELECT on_hand + (SELECT coalesce(sum(quantity), 0) FROM reservation WHERE sku = '{sku}' AND state = 'SOLD')
         FROM stock WHERE sku = '{sku}'"
    );
    let found = saga.stock.number(&sql).await?;
    ensure!(found == expected, "{found} of {expected} pieces of {sku} are accounted for");
    Ok(())
}

async fn ids(database: &Database, sql: &str) -> Result<BTreeSet<String>> {
    Ok(database.client().await?.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Each service has handled each event of the two others exactly once, and none was said twice. Gives the number of events.
pub async fn events(saga: &Saga) -> Result<usize> {
    let databases = [&saga.orders, &saga.stock, &saga.payments];
    let mut said = Vec::new();
    for database in databases {
        let twice = "SELECT count(*) FROM (SELECT FROM headwater.outbox GROUP BY aggregateid, type HAVING count(*) > 1)";
        ensure!(database.number(twice).await? == 0, "something was said twice of one order");
        said.push(ids(database, "SELECT id::text FROM headwater.outbox").await?);
    }
    for (reader, database) in databases.into_iter().enumerate() {
        let others = said.iter().enumerate().filter(|(writer, _)| *writer != reader);
        let expected: BTreeSet<&String> = others.flat_map(|(_, ids)| ids).collect();
        let handled = "SELECT event_id FROM inbox WHERE event_id NOT LIKE 'by-hand-%' EXCEPT SELECT event_id FROM dead_letter";
        until("every event to be handled by both others", async || {
            let handled = ids(database, handled).await?;
            ensure!(handled.iter().all(|id| expected.contains(id)), "an event was handled that nobody wrote");
            Ok(handled.len() == expected.len())
        })
        .await?;
    }
    let twice = "SELECT count(*) FROM (SELECT FROM timeline GROUP BY event_id HAVING count(*) > 1)";
    ensure!(saga.orders.number(twice).await? == 0, "an event is on an order's timeline twice");
    let lines = saga.orders.number("SELECT count(*) FROM timeline").await?;
    let expected = said[1].len() + said[2].len();
    ensure!(lines == expected as i64, "{lines} lines on timelines, of {expected} events");
    Ok(said.iter().map(BTreeSet::len).sum())
}

/// All that the services have stored, but for when they last heard of what.
pub async fn everything(saga: &Saga) -> Result<String> {
    let mut all = String::new();
    for (database, tables) in [
        (&saga.orders, &["purchase", "timeline", "inbox", "dead_letter"][..]),
        (&saga.stock, &["stock", "reservation", "inbox", "dead_letter"]),
        (&saga.payments, &["payment", "inbox", "dead_letter"]),
    ] {
        for table in tables {
            let sql = format!("SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t");
            all.push_str(&format!("{table} {}\n", database.text(&sql).await?));
        }
        let outbox = "SELECT count(*)::text FROM headwater.outbox";
        all.push_str(&format!("events {}\n", database.text(outbox).await?));
    }
    Ok(all)
}
