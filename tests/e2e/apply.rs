//! `headwater apply` keeps tables of another database equal to their topics: under load, through kill -9, rebalances,
//! repeated records and replays.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::random::Random;
use crate::harness::replica::Replica;
use crate::harness::workload::{self, STEADY, Workload};

/// The writers' tables that have a key.
const KEYED: &[&str] = &["public.inventory", "public.order_line", "public.document", "public.ledger"];

async fn under_load(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let workload = Workload::start(&test.database, 61, STEADY);
    let config = replica.config(test, KEYED);
    let mut apply = replica.start(test, config.clone()).await?;
    workload.commits(600).await?;
    // Stopped and started in between: not one record is applied twice or left out.
    apply.stop().await?;
    let mut apply = replica.start(test, config).await?;
    workload.commits(300).await?;
    workload.finish().await;
    test.settle().await?;
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    headwater.stop().await
}

async fn killed(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let workload = Workload::start(&test.database, 62, STEADY);
    // Its partitions are its own again at once.
    let config = replica.config(test, KEYED).set("apply.instance", "one").set("apply.batch_rows", 50);
    let mut random = Random::new(62);
    for _ in 0..12 {
        let mut apply = replica.start(test, config.clone()).await?;
        let before = replica.applied().await?;
        let some = random.below(400) as f64;
        apply.metric_until("headwater_apply_records_total", &[], |n| n > some).await?;
        apply.kill()?;
        ensure!(replica.applied().await? >= before, "offsets went back");
    }
    workload.finish().await;
    test.settle().await?;
    let mut apply = replica.start(test, config).await?;
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    headwater.stop().await
}

/// The relay is killed, so that records come again; the replica never goes back.
async fn repeated(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let config = replica.config(test, KEYED);
    let mut apply = replica.start(test, config.clone()).await?;
    let workload = Workload::start(&test.database, 63, STEADY);
    for _ in 0..4 {
        headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 100.0).await?;
        headwater.kill()?;
        headwater = test.start(test.config()).await?;
    }
    workload.finish().await;
    test.settle().await?;
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    // Everything once more, over what is there: nothing changes, no row is even written.
    let before = positions(&replica).await?;
    let mut apply = test.spawn_command(&["apply", "--replay", "beginning"], config.clone())?;
    apply.ready("applying").await?;
    caught_up(&replica, &apply).await?;
    ensure!(
        apply.metric("headwater_apply_rows_total", &["outcome=\"upserted\""]).unwrap_or(0.0) == 0.0,
        "rows were written"
    );
    ensure!(positions(&replica).await? == before, "a replay changed rows");
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    // And over nothing: the same tables again.
    replica.empty(KEYED).await?;
    let mut apply = test.spawn_command(&["apply", "--replay", "beginning"], config)?;
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    headwater.stop().await
}

/// Physical places of all rows: a row that was written is elsewhere.
async fn positions(replica: &Replica) -> Result<Vec<Vec<Option<String>>>> {
    let mut all = Vec::new();
    for table in KEYED {
        all.extend(replica.database.rows(&format!("select ctid, xmin from {table} order by ctid")).await?);
    }
    Ok(all)
}

async fn caught_up(replica: &Replica, apply: &crate::harness::headwater::Headwater) -> Result<()> {
    let _ = replica;
    // The ends have to be known before a lag of nothing means something.
    apply.metric_until("headwater_apply_batches_total", &[], |n| n > 0.0).await?;
    crate::harness::until(Duration::from_secs(60), "all partitions to be applied", async || {
        let Some((200, body)) = apply.get("/status") else { return Ok(false) };
        let status: serde_json::Value = serde_json::from_str(&body)?;
        let partitions = status["partitions"].as_object().cloned().unwrap_or_default();
        let done = |progress: &serde_json::Value| {
            let next = progress["next_offset"].as_i64().unwrap_or(-1).max(0);
            progress["end_offset"].as_i64() == Some(next)
        };
        Ok(!partitions.is_empty() && partitions.values().all(done))
    })
    .await
}

/// Three instances over each other, one of them killed, one stopped: partitions move, rows don't suffer.
async fn three(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let config = replica.config(test, KEYED).set("apply.batch_rows", 100);
    let workload = Workload::start(&test.database, 64, STEADY);
    let mut first = replica.start(test, config.clone()).await?;
    workload.commits(100).await?;
    let mut second = replica.start(test, config.clone()).await?;
    let mut third = replica.start(test, config).await?;
    for apply in [&first, &second, &third] {
        apply.metric_until("headwater_apply_partitions", &[], |n| n > 0.0 && n < 12.0).await?;
    }
    workload.commits(200).await?;
    second.kill()?;
    workload.commits(100).await?;
    first.stop().await?;
    third.metric_until("headwater_apply_partitions", &[], |n| n == 12.0).await?;
    workload.finish().await;
    test.settle().await?;
    replica.equals(test, KEYED).await?;
    third.stop().await?;
    headwater.stop().await
}

/// An instance that stands still while others take over: when it goes on, it writes nothing any more.
async fn frozen(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let config = replica.config(test, KEYED).set("apply.batch_rows", 20);
    let workload = Workload::start(&test.database, 65, STEADY);
    let mut first = replica.start(test, config.clone()).await?;
    workload.commits(100).await?;
    let mut second = replica.start(test, config).await?;
    second.metric_until("headwater_apply_partitions", &[], |n| n > 0.0 && n < 12.0).await?;
    first.signal("STOP")?;
    second.metric_until("headwater_apply_partitions", &[], |n| n == 12.0).await?;
    workload.commits(100).await?;
    first.signal("CONT")?;
    second.metric_until("headwater_apply_partitions", &[], |n| n < 12.0).await?;
    workload.finish().await;
    test.settle().await?;
    replica.equals(test, KEYED).await?;
    first.stop().await?;
    second.stop().await?;
    headwater.stop().await
}

#[test]
fn a_frozen_instance_is_fenced() {
    on_shared("apply_frozen", frozen);
}

#[test]
fn a_replica_under_load_is_equal() {
    on_shared("apply_load", under_load);
}

#[test]
fn a_replica_survives_kill_nine() {
    on_shared("apply_kill", killed);
}

#[test]
fn repeated_records_and_replays_change_nothing() {
    on_shared("apply_repeat", repeated);
}

#[test]
fn three_instances_share_the_partitions() {
    on_shared("apply_three", three);
}
