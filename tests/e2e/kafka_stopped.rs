//! Kafka is away for longer than `wal_sender_timeout`: Postgres is answered all the time, the session stays, and
//! afterwards everything arrives.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on};
use crate::harness::servers::{self, FaultKafka};
use crate::harness::until;

/// Four times `wal_sender_timeout`, and longer than the time after which Kafka takes a frozen broker for dead.
const AWAY: Duration = Duration::from_secs(12);

async fn longer_than_the_timeout(test: &mut Fixture, broker: &FaultKafka, stopped: bool) -> Result<()> {
    let timeout = format!("alter database \"{}\" set wal_sender_timeout = '3s'", test.database.name);
    test.database.execute(&timeout).await?;
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    test.expect_complaint("waiting for the sink");
    test.expect_complaint("\"target\":\"librdkafka\"");
    let mut headwater = test.start(test.config().set("pipeline.max_in_flight_bytes", "4MiB")).await?;
    test.database.execute("insert into item select g, 'before' from generate_series(1, 1000) g").await?;
    test.settle().await?;
    let walsender = walsender(test).await?;
    if stopped {
        broker.stop()?
    } else {
        broker.freeze()?
    }
    // More than the budget: it has to stop reading rows, and still answer.
    let begun = Instant::now();
    test.database
        .execute("insert into item select g, repeat('x', 60) from generate_series(10000, 59999) g")
        .await?;
    until(AWAY * 2, "the outage to last", async || Ok(begun.elapsed() > AWAY)).await?;
    let (status, _) = headwater.get("/healthz").unwrap_or_default();
    ensure!(status == 200, "/healthz is {status} while Kafka is away");
    ensure!(self::walsender(test).await? == walsender, "Postgres gave up the session while Kafka was away");
    if stopped {
        broker.start_again()?
    } else {
        broker.thaw()?
    }
    test.settle().await?;
    let reconnects = headwater.metric("headwater_reconnects_total", &["postgres"]).unwrap_or(0.0);
    ensure!(reconnects == 0.0, "{reconnects} reconnects to Postgres");
    let replaced = headwater.metric("headwater_reconnects_total", &["kafka"]).unwrap_or(0.0);
    ensure!(replaced == 0.0, "{replaced} producers were replaced");
    headwater.stop().await?;
    // A broker that was shut down may have taken a request without answering; the producer's own sequence numbers
    // keep that from becoming a repetition.
    test.check(Repeats::None).await?;
    Ok(())
}

/// The backend that serves the slot.
async fn walsender(test: &Fixture) -> Result<Option<String>> {
    let sql =
        format!("select active_pid from pg_replication_slots where slot_name = '{}'", test.database.slot());
    test.database.value(&sql).await
}

fn run(name: &str, stopped: bool) {
    let broker = FaultKafka::take().expect("start the second Kafka");
    let kafka = Ok(broker.kafka.clone());
    on(name, servers::postgres(16), kafka, async |test| {
        longer_than_the_timeout(test, &broker, stopped).await
    });
}

#[test]
fn shut_down_and_started_again() {
    run("kafka_stopped", true);
}

#[test]
fn frozen_and_thawed() {
    run("kafka_frozen", false);
}
