//! Rows of the outbox say what became of their events: SENT, and only when Kafka has them; also after a crash at the
//! worst moment. The oracles are psql's view of the rows and a stock consumer's view of the topic.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::until;

const OUTBOX: &str = include_str!("../../sql/outbox.sql");

/// A database with the outbox of `sql/outbox.sql` beside a captured table.
pub async fn prepare(test: &Fixture) -> Result<()> {
    test.database.execute(OUTBOX).await?;
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await
}

/// Follows both publications, and keeps statuses.
pub fn config(test: &Fixture) -> Config {
    config_with(test, toml::Table::new())
}

/// The same with more keys of the outbox.
pub fn config_with(test: &Fixture, more: toml::Table) -> Config {
    let mut table = toml::Table::from_iter([
        ("table".to_owned(), "headwater.outbox".into()),
        ("payload".to_owned(), "raw".into()),
        ("status".to_owned(), true.into()),
        ("headers_column".to_owned(), "headers".into()),
        ("topic".to_owned(), format!("outbox.{}.${{aggregatetype}}", test.prefix()).into()),
    ]);
    table.extend(more);
    let publications = toml::Value::Array(vec!["captured".into(), "headwater_outbox".into()]);
    test.config().set("postgres.publication", publications).set("topics.partitions", 1).push("outbox", table)
}

/// Writes events of one aggregate, in one transaction.
pub async fn put(test: &Fixture, from: i32, to: i32) -> Result<()> {
    let sql = format!(
        "select headwater.outbox_put('order', 'o-1', 'OrderPlaced', jsonb_build_object('n', n), '{{\"tenant\": \"acme\"}}')
         from generate_series({from}, {to}) n"
    );
    test.database.execute(&sql).await
}

/// How many rows have a status.
pub async fn count(test: &Fixture, status: &str) -> Result<u64> {
    let sql = format!("select count(*) from headwater.outbox where status = '{status}'");
    Ok(test.database.value(&sql).await?.unwrap_or_default().parse()?)
}

/// Waits until so many rows have a status.
pub async fn until_count(test: &Fixture, status: &str, rows: u64) -> Result<()> {
    until(Duration::from_secs(60), &format!("{rows} rows {status}"), async || {
        Ok(count(test, status).await? == rows)
    })
    .await
}

async fn ids(test: &Fixture, condition: &str) -> Result<BTreeSet<String>> {
    let rows = test.database.rows(&format!("select id from headwater.outbox where {condition}")).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

async fn sent(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    put(test, 1, 5).await?;
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    for batch in 0..20 {
        put(test, 100 * batch, 100 * batch + 49).await?;
    }
    test.settle().await?;
    until_count(test, "SENT", 1000).await?;
    ensure!(count(test, "NEW").await? == 5, "rows from before the slot were never sent, and say otherwise");
    let topic = test.raw_topic(&format!("outbox.{}.order", test.prefix()))?;
    let in_kafka: BTreeSet<_> = topic.iter().filter_map(|record| record.header("id")).collect();
    ensure!(
        topic.len() == 1000 && in_kafka == ids(test, "status = 'SENT'").await?,
        "SENT is not what Kafka has"
    );
    ensure!(
        topic.iter().all(|record| record.header("tenant").as_deref() == Some("acme")),
        "headers are missing"
    );
    ensure!(
        topic.iter().all(|record| record.header("headwater.attempt").is_none()),
        "a first attempt says its number"
    );
    let skipped = headwater.metric("headwater_skipped_total", &["outbox"]).unwrap_or(0.0);
    ensure!(skipped == 0.0, "{skipped} of our own updates came through the stream");
    headwater.stop().await?;
    // The server tells its statistics late.
    until(Duration::from_secs(30), "updates without index entries", async || {
        let sql = "select sum(n_tup_upd) = 1000 and sum(n_tup_hot_upd) >= 900 from pg_stat_user_tables
                   where schemaname = 'headwater' and relname like 'outbox\\_2%'";
        Ok(test.database.value(sql).await?.as_deref() == Some("t"))
    })
    .await
}

/// Killed when the position is confirmed and the rows do not say so yet.
async fn killed_between(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    put(test, 1, 5).await?;
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    put(test, 1, 1).await?;
    until_count(test, "SENT", 1).await?;
    // A lock that is had the moment the rows are committed lets nobody mark them.
    let (writer, locker) = (test.database.connect().await?, test.database.connect().await?);
    writer
        .batch_execute("begin; select headwater.outbox_put('order', 'o-2', 'OrderPlaced', '{}') from generate_series(1, 100)")
        .await?;
    let locking = tokio::spawn(async move {
        let outcome = locker.batch_execute("begin; lock table headwater.outbox in share mode").await;
        (locker, outcome)
    });
    until(Duration::from_secs(30), "the lock to be waited for", async || {
        let sql = "select count(*) from pg_locks where mode = 'ShareLock' and not granted and relation = 'headwater.outbox'::regclass";
        Ok(test.database.value(sql).await?.as_deref() == Some("1"))
    })
    .await?;
    writer.batch_execute("commit").await?;
    let (locker, outcome) = locking.await?;
    outcome?;
    test.settle().await?;
    let topic = test.raw_topic(&format!("outbox.{}.order", test.prefix()))?;
    ensure!(topic.len() == 101, "{} events in Kafka", topic.len());
    headwater.kill()?;
    ensure!(count(test, "NEW").await? == 105, "something was marked through the lock");
    locker.batch_execute("rollback").await?;
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    until_count(test, "SENT", 101).await?;
    let found = headwater.metric("headwater_outbox_rows_total", &["found_sent"]).unwrap_or(0.0);
    ensure!(found == 100.0, "{found} rows were found, not 100");
    ensure!(count(test, "NEW").await? == 5, "rows from before the slot were never sent, and say otherwise");
    headwater.stop().await?;
    let again = test.raw_topic(&format!("outbox.{}.order", test.prefix()))?;
    ensure!(again.len() == 101, "events came again: {}", again.len());
    Ok(())
}

/// Nothing says SENT while Kafka does not have it.
async fn left_behind_unsent(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    put(test, 1, 1).await?;
    until_count(test, "SENT", 1).await?;
    headwater.signal("STOP")?;
    // What comes before them takes a while: long enough for who would not wait for the position to be seen.
    let before = "insert into item select n, repeat(md5(n::text), 10) from generate_series(1, 60000) n";
    test.database.execute(before).await?;
    put(test, 2, 50).await?;
    ensure!(count(test, "NEW").await? == 49, "rows are marked by nobody");
    headwater.kill()?;
    // The next one finds them NEW before it has sent them, and must not take them for sent.
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    until_count(test, "SENT", 50).await?;
    let topic = test.raw_topic(&format!("outbox.{}.order", test.prefix()))?;
    ensure!(topic.len() >= 50, "{} events of 50 are in Kafka, and all rows are SENT", topic.len());
    headwater.stop().await
}

#[test]
fn rows_say_sent_when_kafka_has_them() {
    on_shared("outbox_sent", sent);
}

#[test]
fn killed_between_confirmation_and_update() {
    on_shared("outbox_killed", killed_between);
}

#[test]
fn rows_are_not_sent_before_they_are() {
    on_shared("outbox_not_yet", left_behind_unsent);
}
