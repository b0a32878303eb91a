//! SIGTERM: what is under way is finished and confirmed, so that nothing comes twice; what can't be finished is
//! dropped in time and counted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::servers::{self, FaultKafka};
use crate::harness::workload::{self, Pace, Workload};

async fn under_load(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let pace = Pace { writers: 6, pause: Duration::from_millis(4) };
    let workload = Workload::start(&test.database, 4, pace);
    for _ in 0..8 {
        headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 200.0).await?;
        headwater.stop().await?;
        headwater = test.start(test.config()).await?;
    }
    workload.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    // No duplicates at all.
    test.check(Repeats::None).await.map(drop)
}

/// It reads on to the Commit of the transaction that it is in.
async fn inside_a_transaction(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database
        .execute("insert into item select g, repeat('x', 30) from generate_series(1, 200000) g")
        .await?;
    headwater.metric_until("headwater_received_bytes_total", &[], |n| n > 100_000.0).await?;
    headwater.stop().await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 200_000, "{report:?}");
    Ok(())
}

/// An idle instance sends nothing again, however often it is restarted.
async fn while_idle(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1)").await?;
    test.settle().await?;
    for _ in 0..4 {
        headwater.stop().await?;
        headwater = test.start(test.config()).await?;
    }
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

/// The deadline holds with Kafka away, and one line says what will be repeated.
async fn with_kafka_away(test: &mut Fixture, broker: &FaultKafka) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    test.expect_complaint("kafka");
    test.expect_complaint("Kafka");
    test.expect_complaint("repeated");
    test.expect_complaint("broker");
    let config = test.config().set("pipeline.shutdown_timeout", "2s");
    let mut headwater = test.start(config.clone()).await?;
    test.database.execute("insert into item select generate_series(1, 100)").await?;
    test.settle().await?;
    broker.freeze()?;
    let received = headwater.metric("headwater_received_bytes_total", &[]).unwrap_or(0.0);
    test.database.execute("insert into item select generate_series(101, 1100)").await?;
    headwater.metric_until("headwater_received_bytes_total", &[], |n| n > received + 10_000.0).await?;
    let asked = Instant::now();
    headwater.terminate(Duration::from_secs(10)).await?;
    ensure!(asked.elapsed() < Duration::from_secs(6), "it took {:?}", asked.elapsed());
    let said = headwater.log_lines(&["repeated"]);
    ensure!(said.len() == 1 && said[0].contains("1000"), "about what is repeated it said {said:?}");
    broker.thaw()?;
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

/// A second signal does not wait for anything.
async fn asked_twice(test: &mut Fixture, broker: &FaultKafka) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    for words in ["kafka", "Kafka", "repeated", "broker", "signal"] {
        test.expect_complaint(words);
    }
    let mut headwater = test.start(test.config()).await?;
    broker.freeze()?;
    test.database.execute("insert into item select generate_series(1, 1000)").await?;
    headwater.metric_until("headwater_in_flight_bytes", &[], |n| n > 0.0).await?;
    let asked = Instant::now();
    headwater.signal("TERM")?;
    headwater.log_line(&["\"level\":\"INFO\"", "SIGTERM"]).await?;
    headwater.terminate(Duration::from_secs(4)).await?;
    ensure!(asked.elapsed() < Duration::from_secs(6), "it took {:?}", asked.elapsed());
    broker.thaw()?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

#[test]
fn under_load_repeats_nothing() {
    on_shared("stop_load", under_load);
}

#[test]
fn inside_a_transaction_reads_on_to_its_commit() {
    on_shared("stop_inside", inside_a_transaction);
}

#[test]
fn while_idle_repeats_nothing() {
    on_shared("stop_idle", while_idle);
}

#[test]
fn with_kafka_away_keeps_its_deadline() {
    let broker = FaultKafka::take().expect("start the second Kafka");
    let kafka = Ok(broker.kafka.clone());
    on("stop_away", servers::postgres(16), kafka, async |test| with_kafka_away(test, &broker).await);
}

#[test]
fn asked_twice_ends_at_once() {
    let broker = FaultKafka::take().expect("start the second Kafka");
    let kafka = Ok(broker.kafka.clone());
    on("stop_twice", servers::postgres(16), kafka, async |test| asked_twice(test, &broker).await);
}
