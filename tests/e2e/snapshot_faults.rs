//! Servers go away in the midst of a copy, under the slot's snapshot and beside the stream, while writers change the
//! same rows: it goes on by itself, and nothing is lost or out of order.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::Headwater;
use crate::harness::joined;
use crate::harness::proxy::Proxy;
use crate::harness::servers::{self, FaultKafka, PrivatePostgres, Stop};
use crate::harness::snapshots::{
    CHUNK_WAITS, Gate, ROWS, beside, commanded, complete, gated, initial, prepare_toasted, start_gated,
    state, status,
};
use crate::harness::traffic::Traffic;

const ROWS_THERE: u64 = 6000;
const HALF: &str = "id >= 3000";

fn traffic(test: &Fixture) -> Traffic {
    Traffic::start(&test.database, 3, &["select churn(6000)"])
}

async fn judge(test: &Fixture, traffic: Traffic, headwater: &mut Headwater) -> Result<()> {
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    println!("{}: {found:?}", test.prefix());
    Ok(())
}

async fn without_kafka(test: &mut Fixture, broker: &FaultKafka) -> Result<()> {
    test.expect_complaint("waiting for the sink");
    // The first rows may not have come to the pump yet when the broker is frozen.
    test.expect_complaint("waiting for Kafka: describing topic");
    test.expect_complaint("\"target\":\"librdkafka\"");
    test.expect_complaint(CHUNK_WAITS);
    prepare_toasted(test, ROWS_THERE).await?;
    let traffic = traffic(test);
    let config = gated(initial(test), 1, HALF).set("pipeline.max_in_flight_bytes", "2MiB");
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    broker.freeze()?;
    gate.open().await?;
    headwater.log_line(&["waiting for the sink"]).await?;
    ensure!(headwater.log_lines(&["the snapshot is complete"]).is_empty(), "complete without Kafka");
    broker.thaw()?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    let gate = start_gated(test, &headwater, &config, "public.items", (2, HALF)).await?;
    broker.freeze()?;
    gate.open().await?;
    traffic.commits(50).await?;
    ensure!(status(&headwater)?["state"] == "running", "done without Kafka");
    broker.thaw()?;
    state(&headwater, "done").await?;
    let reconnects = headwater.metric("headwater_reconnects_total", &["postgres"]).unwrap_or(0.0);
    ensure!(reconnects == 0.0, "{reconnects} reconnects to Postgres");
    judge(test, traffic, &mut headwater).await
}

async fn without_postgres(test: &mut Fixture, server: &PrivatePostgres) -> Result<()> {
    for words in ["beginning again from the checkpoint", CHUNK_WAITS] {
        test.expect_complaint(words);
    }
    prepare_toasted(test, ROWS_THERE).await?;
    let config = gated(initial(test), 1, HALF);
    let mut writers = traffic(test);
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    restart(server, Stop::Immediate)?;
    writers.finish().await;
    writers = traffic(test);
    complete(&headwater).await?;
    headwater.log_line(&["going on with a snapshot, beside the stream"]).await?;
    for (number, how) in [(2, Stop::Fast), (3, Stop::Immediate)] {
        headwater.streaming().await?;
        let gate = start_gated(test, &headwater, &config, "public.items", (number, HALF)).await?;
        restart(server, how)?;
        drop(gate);
        writers.finish().await;
        writers = traffic(test);
        state(&headwater, "done").await?;
    }
    judge(test, writers, &mut headwater).await
}

fn restart(server: &PrivatePostgres, how: Stop) -> Result<()> {
    tokio::task::block_in_place(|| server.stop(how).and_then(|()| server.start_again()))
}

/// No schema, no record: the copy waits and answers Postgres.
async fn without_registry(test: &mut Fixture, beside_the_stream: bool) -> Result<()> {
    for words in ["registry", "Registry", CHUNK_WAITS] {
        test.expect_complaint(words);
    }
    prepare_toasted(test, 2000).await?;
    let registry = test.kafka.registry.trim_start_matches("http://").to_owned();
    let (target, path) = registry.split_once('/').unwrap_or((&registry, ""));
    let mut proxy = Proxy::new(target);
    let url = format!("http://127.0.0.1:{}/{path}", proxy.port);
    let config = if beside_the_stream { beside(test) } else { initial(test) };
    let config = config.set("schema_registry.url", url);
    let mut headwater = test.spawn(config.clone())?;
    if beside_the_stream {
        headwater.streaming().await?;
        commanded(test, &headwater, &config, &["start", "public.items"])?;
    }
    headwater.metric_until("headwater_registry_calls_total", &["unavailable"], |n| n >= 2.0).await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(2000)"]);
    traffic.commits(30).await?;
    ensure!(test.raw_records()?.is_empty(), "records without a schema");
    proxy.open().await?;
    complete(&headwater).await?;
    judge(test, traffic, &mut headwater).await
}

#[test]
fn kafka_frozen_in_the_midst_of_copies() {
    let broker = FaultKafka::take().expect("start the second Kafka");
    let kafka = Ok(broker.kafka.clone());
    on("copy_kafka", servers::postgres(16), kafka, async |test| without_kafka(test, &broker).await);
}

#[test]
fn postgres_restarted_in_the_midst_of_copies() {
    let server = PrivatePostgres::start("copy_postgres", 16).expect("start a Postgres of its own");
    let postgres = Ok(server.postgres.clone());
    on("copy_postgres", postgres, servers::kafka(), async |test| without_postgres(test, &server).await);
}

#[test]
fn registry_away_at_the_first_copy() {
    on_shared("copy_registry", async |test| without_registry(test, false).await);
}

#[test]
fn registry_away_at_a_copy_beside_the_stream() {
    on_shared("beside_registry", async |test| without_registry(test, true).await);
}
