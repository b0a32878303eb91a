//! `headwater apply` keeps tables of another database equal to their topics: under load, through kill -9, rebalances,
//! repeated records and replays.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

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

/// How often apply is killed in one run, and after how many of those the relay is.
const KILLS: u32 = 50;
const RELAY_KILLED_EVERY: u32 = 10;

/// Both are killed under load, at random. The replica's own triggers tell what was applied: nothing twice, and no key
/// ever goes back.
async fn killed(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let workload = Workload::start(&test.database, 62, STEADY);
    // Its partitions are its own again at once.
    let config = replica.config(test, KEYED).set("apply.instance", "one").set("apply.batch_rows", 50);
    let mut random = Random::new(62);
    let mut apply = replica.start(test, config.clone()).await?;
    replica.has(KEYED).await?;
    apply.stop().await?;
    replica.watch(KEYED).await?;
    for round in 1..=KILLS {
        let mut apply = replica.start(test, config.clone()).await?;
        let before = replica.applied().await?;
        let some = random.below(200) as f64;
        apply.metric_until("headwater_apply_records_total", &[], |n| n > some).await?;
        apply.kill()?;
        ensure!(replica.applied().await? >= before, "offsets went back");
        if round % RELAY_KILLED_EVERY == 0 {
            headwater.kill()?;
            headwater = test.start(test.config()).await?;
        }
    }
    workload.finish().await;
    test.settle().await?;
    let mut apply = replica.start(test, config).await?;
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    headwater.stop().await?;
    let writes = replica.judge().await?;
    ensure!(writes > 1000, "only {writes} rows were written");
    Ok(())
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
    // And over nothing: the same tables again, also by an instance that nobody told. It would begin new partitions at
    // their ends.
    let mut other = replica.start(test, config.clone().set("apply.start", "end")).await?;
    replica.empty(KEYED).await?;
    let mut apply = test.spawn_command(&["apply", "--replay", "beginning"], config)?;
    replica.equals(test, KEYED).await?;
    apply.stop().await?;
    other.stop().await?;
    headwater.stop().await
}

/// Only what was written at a time or later is read again.
async fn since(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let config = replica.config(test, &["public.item"]);
    test.database.execute("insert into item select generate_series(1, 100)").await?;
    let second = async || -> Result<i64> {
        let sql = "select extract(epoch from clock_timestamp())::bigint";
        Ok(test.database.value(sql).await?.context("a time")?.parse()?)
    };
    let before = second().await?;
    crate::harness::until(Duration::from_secs(30), "another second", async || {
        Ok(second().await? > before + 1)
    })
    .await?;
    test.database.execute("insert into item select generate_series(101, 150)").await?;
    let mut apply = replica.start(test, config.clone()).await?;
    replica.equals(test, &["public.item"]).await?;
    apply.stop().await?;
    replica.empty(&["public.item"]).await?;
    let from = (before + 1).to_string();
    let mut apply = test.spawn_command(&["apply", "--replay", &from], config)?;
    apply.metric_until("headwater_apply_rows_total", &["outcome=\"upserted\""], |n| n == 50.0).await?;
    caught_up(&replica, &apply).await?;
    let rows = replica.database.value("select min(id) || '-' || count(*) from item").await?;
    ensure!(rows.as_deref() == Some("101-50"), "{rows:?}");
    apply.metric_until("headwater_apply_lag_seconds", &[], |seconds| seconds < 60.0).await?;
    apply.stop().await?;
    headwater.stop().await
}

#[test]
fn a_replay_from_a_time() {
    on_shared("apply_since", since);
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
    // Its client's own word, when it looks at the clock before the broker tells it.
    test.expect_complaint("session timed out");
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
