//! Two instances: the slot is the lease. One streams, the other stands by, says so, and takes over.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::workload::{self, STEADY, Workload};

async fn killed(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut active = test.start(test.config()).await?;
    let workload = Workload::start(&test.database, 31, STEADY);
    for _ in 0..4 {
        let mut standby = test.spawn(test.config())?;
        standby.standby().await?;
        let (status, _) = standby.get("/readyz?role=active").unwrap_or_default();
        ensure!(status == 503, "a standby answers ?role=active with {status}");
        ensure!(
            standby.metric("headwater_role", &["standby"]) == Some(1.0),
            "the role metric is not standby"
        );
        ensure!(!standby.log_lines(&["stand"]).is_empty(), "the log does not say that it stands by");
        workload.commits(100).await?;
        active.kill()?;
        standby.streaming().await?;
        active = standby;
    }
    workload.finish().await;
    test.settle().await?;
    active.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

async fn stopped(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut active = test.start(test.config()).await?;
    let mut standby = test.spawn(test.config())?;
    standby.standby().await?;
    let workload = Workload::start(&test.database, 32, STEADY);
    workload.commits(200).await?;
    active.stop().await?;
    standby.streaming().await?;
    workload.commits(100).await?;
    workload.finish().await;
    test.settle().await?;
    standby.stop().await?;
    // A stop hands over exactly.
    test.check(Repeats::None).await.map(drop)
}

/// The owner is frozen until Postgres gives the slot away. When it goes on, it offers nothing more.
async fn frozen(test: &mut Fixture) -> Result<()> {
    let timeout = format!("alter database \"{}\" set wal_sender_timeout = '3s'", test.database.name);
    test.database.execute(&timeout).await?;
    workload::create_tables(&test.database).await?;
    test.expect_complaint("beginning again from the checkpoint");
    test.expect_complaint("lease");
    test.expect_complaint("frozen");
    let mut first = test.start(test.config()).await?;
    let mut second = test.spawn(test.config())?;
    second.standby().await?;
    let workload = Workload::start(&test.database, 33, STEADY);
    workload.commits(100).await?;
    first.signal("STOP")?;
    second.streaming().await?;
    workload.commits(200).await?;
    first.signal("CONT")?;
    first.standby().await?;
    workload.commits(100).await?;
    workload.finish().await;
    test.settle().await?;
    second.stop().await?;
    first.streaming().await?;
    first.terminate(Duration::from_secs(20)).await?;
    // Requests that were in the frozen producer's sockets may still land.
    test.check(Repeats::Late).await.map(drop)
}

#[test]
fn after_a_kill() {
    on_shared("takeover_kill", killed);
}

#[test]
fn after_a_stop() {
    on_shared("takeover_stop", stopped);
}

#[test]
fn from_a_frozen_owner() {
    on_shared("takeover_frozen", frozen);
}
