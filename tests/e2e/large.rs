//! Size does not become memory: a transaction of a million rows under 100 MB, rows of 40 bytes and of 100 kB beside
//! each other, one row larger than the whole budget.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared, parse_id};
use crate::harness::kafka;

/// What the issue promises.
const RESIDENT_MAX: u64 = 100_000_000;

async fn a_million_rows(test: &mut Fixture) -> Result<()> {
    // Without the audit, which would take longer than the test: the rows are numbered.
    test.database
        .execute(
            "create table item (id int primary key, name text); create publication captured for table item",
        )
        .await?;
    let mut headwater = test.spawn(test.config())?;
    headwater.streaming().await?;
    test.database
        .execute("insert into item select g, 'row ' || g from generate_series(1, 1000000) g")
        .await?;
    test.settle_within(Duration::from_secs(120)).await?;
    let (peak, _) = headwater.resident_bytes()?;
    println!("a transaction of 1,000,000 rows: peak resident memory {} MB", peak / 1_000_000);
    ensure!(peak < RESIDENT_MAX, "{peak} bytes resident");
    headwater.stop().await?;
    let records = test.raw_records()?;
    ensure!(records.len() == 1_000_000, "{} records", records.len());
    let mut ids = HashSet::new();
    let mut keys = HashSet::new();
    let mut commits = HashSet::new();
    let mut last = std::collections::HashMap::new();
    for record in &records {
        let id = parse_id(&record.header("headwater.id").unwrap_or_default())?;
        commits.insert(id.commit_lsn);
        ensure!(ids.insert(id.ordinal), "ordinal {} twice", id.ordinal);
        ensure!(keys.insert(&record.key), "a key twice");
        let before = last.insert(record.partition, id);
        ensure!(before.is_none_or(|before| before < id), "out of order in partition {}", record.partition);
    }
    ensure!(commits.len() == 1, "{} commit LSNs for one transaction", commits.len());
    Ok(())
}

async fn small_and_large_rows(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, body text)", &["public.item"]).await?;
    test.database.execute("alter table item alter body set storage external").await?;
    let config = test.config().set("pipeline.max_in_flight_bytes", "16MiB");
    let mut headwater = test.start(config).await?;
    for round in 0..4 {
        let first = round * 10_000;
        test.database
            .execute(&format!(
                "insert into item select g, repeat('a', 12) from generate_series({first} + 1, {first} + 3000) g;
                 insert into item select g, repeat(md5(g::text), 3200) from generate_series({first} + 5000, {first} + 5200) g;
                 update item set body = body || 'b' where id between {first} and {first} + 500"
            ))
            .await?;
    }
    // Alone larger than the budget, still below max_row_bytes; topics take up to 20 MB for it.
    test.settle_within(Duration::from_secs(120)).await?;
    let (peak, _) = headwater.resident_bytes()?;
    println!("rows of 40 bytes and 100 kB: peak resident memory {} MB", peak / 1_000_000);
    ensure!(peak < RESIDENT_MAX, "{peak} bytes resident");
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn a_row_beyond_the_budget(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, body text)", &["public.item"]).await?;
    let limit = "20000000";
    let config = test
        .config()
        .set("pipeline.max_in_flight_bytes", "4MiB")
        .set("topics.config", toml::Table::from_iter([("max.message.bytes".to_owned(), limit.into())]))
        .set("kafka.properties", toml::Table::from_iter([("message.max.bytes".to_owned(), limit.into())]));
    let mut headwater = test.start(config).await?;
    test.database.execute("insert into item values (1, 'before')").await?;
    test.database.execute("insert into item values (2, repeat('x', 12000000))").await?;
    test.database.execute("insert into item values (3, 'behind')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn a_row_beyond_max_row_bytes(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, body text)", &["public.item"]).await?;
    test.expect_complaint("halted");
    let mut headwater = test.start(test.config().set("pipeline.max_row_bytes", "1MiB")).await?;
    test.database.execute("insert into item values (1, 'before')").await?;
    test.settle().await?;
    test.database.execute("insert into item values (2, repeat('x', 2000000))").await?;
    headwater.exits_with(42).await?;
    let halts = headwater.log_lines(&["ERROR", "public.item", "max_row_bytes"]);
    ensure!(halts.len() == 1, "the halt does not name table and remedy:\n{}", headwater.log_tail());
    let records = kafka::read_all(&test.kafka.bootstrap, &format!("{}.", test.prefix()))?;
    ensure!(records.len() == 1, "{} records", records.len());
    Ok(())
}

/// More than the topic takes: what precedes it is sent and confirmed, it is neither dropped nor tried for ever.
async fn a_row_beyond_the_topic(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, body text)", &["public.item"]).await?;
    test.expect_complaint("halted");
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'before')").await?;
    test.settle().await?;
    test.database
        .execute("insert into item select 2, string_agg(md5(g::text), '') from generate_series(1, 150000) g")
        .await?;
    headwater.exits_with(52).await?;
    let halts = headwater.log_lines(&["ERROR", &test.topic("public.item")]);
    ensure!(halts.len() == 1, "the halt does not name the topic:\n{}", headwater.log_tail());
    let records = kafka::read_all(&test.kafka.bootstrap, &format!("{}.", test.prefix()))?;
    ensure!(records.len() == 1, "{} records", records.len());
    Ok(())
}

#[test]
fn transaction_of_a_million_rows() {
    on_shared("large_million", a_million_rows);
}

#[test]
fn rows_of_40_bytes_and_100_kilobytes() {
    on_shared("large_rows", small_and_large_rows);
}

#[test]
fn row_beyond_the_budget_is_admitted_alone() {
    on_shared("large_budget", a_row_beyond_the_budget);
}

#[test]
fn row_beyond_the_topic_halts() {
    on_shared("large_topic", a_row_beyond_the_topic);
}

#[test]
fn row_beyond_the_limit_halts() {
    on_shared("large_halt", a_row_beyond_max_row_bytes);
}
