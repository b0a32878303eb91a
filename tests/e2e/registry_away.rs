//! The registry is down: at the start, and when a table turns up whose schema is not registered. Headwater waits,
//! answers Postgres meanwhile, and goes on by itself. A schema that the registry refuses as incompatible halts it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::proxy::Proxy;
use crate::harness::{http, until};

/// Longer than the `wal_sender_timeout` of these tests.
const AWAY: Duration = Duration::from_secs(5);

fn through(test: &mut Fixture) -> (Proxy, Config) {
    test.expect_complaint("registry");
    test.expect_complaint("Registry");
    let registry = test.kafka.registry.trim_start_matches("http://").to_owned();
    let (target, path) = registry.split_once('/').unwrap_or((&registry, ""));
    let proxy = Proxy::new(target);
    let config = test.config().set("schema_registry.url", format!("http://127.0.0.1:{}/{path}", proxy.port));
    (proxy, config)
}

async fn short_timeout(test: &Fixture) -> Result<()> {
    test.database
        .execute(&format!("alter database \"{}\" set wal_sender_timeout = '3s'", test.database.name))
        .await
}

async fn wait_out(what: &str) -> Result<()> {
    let begun = Instant::now();
    until(AWAY * 2, what, async || Ok(begun.elapsed() > AWAY)).await
}

async fn at_the_start(test: &mut Fixture) -> Result<()> {
    short_timeout(test).await?;
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let (mut proxy, config) = through(test);
    // The slot is made by a first run that meets no row, so that rows wait when the registry is away.
    proxy.open().await?;
    let mut headwater = test.start(config.clone()).await?;
    headwater.stop().await?;
    proxy.close().await;
    test.database.execute("insert into item select g, 'early' from generate_series(1, 500) g").await?;
    let mut headwater = test.spawn(config)?;
    headwater.metric_until("headwater_registry_calls_total", &[], |n| n >= 2.0).await?;
    wait_out("the outage to last").await?;
    ensure!(test.raw_records()?.is_empty(), "records without a schema");
    proxy.open().await?;
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn in_mid_stream(test: &mut Fixture) -> Result<()> {
    short_timeout(test).await?;
    let tables =
        "create table item (id int primary key, name text); create table unseen (id int primary key, v text)";
    test.capture(tables, &["public.item", "public.unseen"]).await?;
    let (mut proxy, config) = through(test);
    proxy.open().await?;
    let mut headwater = test.start(config).await?;
    test.database.execute("insert into item values (1, 'known')").await?;
    test.settle().await?;
    proxy.close().await;
    // A known table needs no registry.
    test.database.execute("insert into item select g, 'known' from generate_series(2, 100) g").await?;
    test.settle().await?;
    let held = test.database.lsn("select pg_current_wal_insert_lsn()").await?;
    test.database.execute("insert into unseen values (1, 'new')").await?;
    test.database.execute("insert into item values (200, 'behind it')").await?;
    headwater.metric_until("headwater_registry_calls_total", &["unavailable"], |n| n >= 1.0).await?;
    wait_out("the outage to last").await?;
    let confirmed = test.database.confirmed().await?.unwrap_or(0);
    let end = test.database.lsn("select pg_current_wal_insert_lsn()").await?;
    ensure!(confirmed < end, "{confirmed:X} was confirmed past {held:X} without a schema");
    let reconnects = headwater.metric("headwater_reconnects_total", &["postgres"]).unwrap_or(0.0);
    ensure!(reconnects == 0.0, "{reconnects} reconnects while the registry was away");
    proxy.open().await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn incompatible(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    test.expect_complaint("item");
    // Somebody else's schema under the subject: with BACKWARD, no record can follow it.
    let subject = format!("{}/subjects/{}-value/versions", test.kafka.registry, test.topic("public.item"));
    let response = http::request("POST", &subject, Some(r#"{"schema": "\"long\""}"#))?;
    ensure!(response.status == 200, "register: {} {}", response.status, response.body);
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    headwater.exits_with(40).await?;
    let log = headwater.log_text();
    ensure!(
        log.contains("public.item") && log.contains("-value"),
        "the halt names neither table nor subject: {log}"
    );
    ensure!(test.raw_records()?.is_empty(), "a record under a refused schema");
    Ok(())
}

#[test]
fn at_the_start_is_waited_for() {
    on_shared("registry_start", at_the_start);
}

#[test]
fn in_mid_stream_is_waited_for() {
    on_shared("registry_stream", in_mid_stream);
}

#[test]
fn refusing_a_schema_halts() {
    on_shared("registry_refuses", incompatible);
}
