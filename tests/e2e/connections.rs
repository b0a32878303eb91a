//! Connections that are not there yet, that break, and that are no TCP connections at all.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::proxy::Proxy;
use crate::harness::workload::{self, STEADY, Workload};

async fn cut_again_and_again(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    test.expect_complaint("beginning again from the checkpoint");
    let mut proxy = Proxy::new(&format!("127.0.0.1:{}", test.database.server.port));
    proxy.open().await?;
    let url = test
        .database
        .url()
        .replace(&format!(":{}/", test.database.server.port), &format!(":{}/", proxy.port));
    let mut headwater = test.start(test.config().set("postgres.url", url)).await?;
    let workload = Workload::start(&test.database, 55, STEADY);
    for _ in 0..5 {
        workload.commits(100).await?;
        proxy.close().await;
        workload.commits(50).await?;
        proxy.open().await?;
        headwater.streaming().await?;
    }
    workload.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

async fn postgres_not_there_yet(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    test.expect_complaint("beginning again from the checkpoint");
    let mut proxy = Proxy::new(&format!("127.0.0.1:{}", test.database.server.port));
    let url = test
        .database
        .url()
        .replace(&format!(":{}/", test.database.server.port), &format!(":{}/", proxy.port));
    let mut headwater = test.spawn(test.config().set("postgres.url", url))?;
    headwater.metric_until("headwater_reconnects_total", &[], |n| n >= 2.0).await?;
    let (ready, _) = headwater.get("/readyz").unwrap_or_default();
    let (healthy, _) = headwater.get("/healthz").unwrap_or_default();
    ensure!((ready, healthy) == (503, 200), "/readyz is {ready}, /healthz {healthy} without Postgres");
    proxy.open().await?;
    headwater.streaming().await?;
    test.begin().await?;
    test.database.execute("insert into item values (1)").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn kafka_not_there(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    for words in ["kafka", "Kafka", "broker"] {
        test.expect_complaint(words);
    }
    let mut headwater = test.spawn(test.config().set("kafka.bootstrap_servers", "127.0.0.1:1"))?;
    crate::harness::until(Duration::from_secs(20), "it to be healthy and not ready", async || {
        Ok(headwater.get("/healthz").is_some_and(|(status, _)| status == 200)
            && headwater.get("/readyz").is_some_and(|(status, _)| status == 503))
    })
    .await?;
    ensure!(test.database.confirmed().await?.is_none(), "a slot was made before the checkpoint could say so");
    let asked = Instant::now();
    headwater.terminate(Duration::from_secs(15)).await?;
    ensure!(asked.elapsed() < Duration::from_secs(10), "it took {:?} to stop", asked.elapsed());
    Ok(())
}

async fn unix_socket(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let directory = test.database.value("show unix_socket_directories").await?.context("no socket")?;
    if !Path::new(&directory).exists() {
        println!("the server's socket is not on this machine: {directory}");
        return Ok(());
    }
    let url =
        format!("postgres://postgres@/{}?host={directory}&port={}", test.prefix(), test.database.server.port);
    let mut headwater = test.start(test.config().set("postgres.url", url)).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

#[test]
fn cut_again_and_again_under_load() {
    on_shared("cut", cut_again_and_again);
}

#[test]
fn to_a_postgres_that_is_not_there_yet() {
    on_shared("late_postgres", postgres_not_there_yet);
}

#[test]
fn to_a_kafka_that_is_not_there() {
    on_shared("no_kafka", kafka_not_there);
}

#[test]
fn through_a_unix_socket() {
    on_shared("unix_socket", unix_socket);
}
