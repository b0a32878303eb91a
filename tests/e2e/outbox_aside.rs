//! An event of an outbox with a status that can't be delivered: it is a letter and its row is DEAD, never SENT, also when
//! Headwater is killed in between. The oracles are psql's view of the rows and a stock consumer's view of the topics.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::until;
use crate::outbox_status::{config_with, count, prepare, until_count};

fn letters_topic(test: &Fixture) -> String {
    format!("letters.{}", test.prefix())
}

/// Events of these kinds may be sent.
fn allowing(test: &Fixture, kinds: &[&str]) -> Config {
    let kinds = kinds.iter().map(|kind| toml::Value::from(*kind)).collect();
    let more = toml::Table::from_iter([("aggregatetypes".to_owned(), toml::Value::Array(kinds))]);
    config_with(test, more)
        .set("dead_letter.topic", letters_topic(test))
        .set("records.on_error", "dead_letter")
}

async fn put(test: &Fixture, kind: &str, aggregate: &str) -> Result<()> {
    let sql = format!("select headwater.outbox_put('{kind}', '{aggregate}', 'Placed', '{{}}')");
    test.database.execute(&sql).await
}

/// Aggregates of the events of a kind, with their attempts, as Kafka has them.
fn sent(test: &Fixture, kind: &str) -> Result<Vec<String>> {
    let records = test.raw_topic(&format!("outbox.{}.{kind}", test.prefix()))?;
    let key =
        |key: &Option<Vec<u8>>| String::from_utf8_lossy(key.as_deref().unwrap_or_default()).into_owned();
    Ok(records
        .iter()
        .map(|record| match record.header("headwater.attempt") {
            None => key(&record.key),
            Some(attempt) => format!("{} {attempt}", key(&record.key)),
        })
        .collect())
}

async fn set_aside(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("went to the dead letter topic");
    test.expect_complaint("the stream is held up: marking an outbox row");
    let mut headwater = test.start(allowing(test, &["order"])).await?;
    for (kind, aggregate) in [("order", "a"), ("refund", "b"), ("order", "c")] {
        put(test, kind, aggregate).await?;
    }
    until_count(test, "SENT", 2).await?;
    until_count(test, "DEAD", 1).await?;
    let dead = "select aggregateid, attempt, failed_by, reason like '%aggregate type%' from headwater.outbox where status = 'DEAD'";
    let row = test.database.rows(dead).await?.remove(0);
    let row: Vec<_> = row.iter().map(|cell| cell.as_deref().unwrap_or_default()).collect();
    ensure!(row == ["b", "1", "headwater", "t"], "the row says {row:?}");

    // Killed when the letter is in Kafka and the row can't be written: nothing behind it may be confirmed.
    headwater.stop().await?;
    put(test, "refund", "d").await?;
    put(test, "order", "e").await?;
    let locker = test.database.connect().await?;
    locker.batch_execute("begin; select from headwater.outbox where aggregateid = 'd' for update").await?;
    let letters = test.raw_topic(&letters_topic(test))?.len();
    let mut headwater = test.start(allowing(test, &["order"])).await?;
    until(Duration::from_secs(60), "a letter, and a row that is waited for", async || {
        let waits = "select count(*) from pg_locks where not granted";
        let waiting = test.database.value(waits).await?.as_deref() != Some("0");
        Ok(waiting && test.raw_topic(&letters_topic(test))?.len() > letters)
    })
    .await?;
    ensure!(count(test, "NEW").await? == 2, "something was marked through the lock");
    headwater.kill()?;
    locker.batch_execute("rollback").await?;
    let mut headwater = test.start(allowing(test, &["order"])).await?;
    test.settle().await?;
    until_count(test, "DEAD", 2).await?;
    until_count(test, "SENT", 3).await?;

    // Mended, and sent again; one of the rows is gone by then.
    headwater.stop().await?;
    test.database.execute("delete from headwater.outbox where aggregateid = 'd'").await?;
    let mended = allowing(test, &["order", "refund"]);
    let mut headwater = test.start(mended.clone()).await?;
    let output = test.command(&["dlq", "replay", "--all"], &mended)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until_count(test, "SENT", 5).await?;
    ensure!(count(test, "DEAD").await? == 0, "a row is DEAD though its event was sent");
    let (orders, mut refunds) = (sent(test, "order")?, sent(test, "refund")?);
    refunds.sort();
    ensure!(orders == ["a", "c", "e"] && refunds == ["b 2", "d"], "sent {orders:?} and {refunds:?}");
    headwater.stop().await
}

#[test]
fn an_event_that_is_set_aside_is_dead_and_never_sent() {
    on_shared("outbox_aside", set_aside);
}
