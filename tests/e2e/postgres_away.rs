//! Postgres is restarted, in order and as by a crash; walsenders are terminated again and again.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::servers::{self, PrivatePostgres, Stop};
use crate::harness::workload::{self, STEADY, Workload};

async fn restarted(test: &mut Fixture, server: &PrivatePostgres, how: Stop) -> Result<()> {
    workload::create_tables(&test.database).await?;
    test.expect_complaint("beginning again from the checkpoint");
    let mut headwater = test.start(test.config()).await?;
    let workload = Workload::start(&test.database, 77, STEADY);
    for _ in 0..2 {
        workload.commits(200).await?;
        tokio::task::block_in_place(|| server.stop(how).and_then(|()| server.start_again()))?;
        workload.commits(100).await?;
        headwater.streaming().await?;
    }
    workload.finish().await;
    test.settle().await?;
    let reconnects = headwater.metric("headwater_reconnects_total", &["postgres"]).unwrap_or(0.0);
    ensure!(reconnects >= 2.0, "{reconnects} reconnects were counted");
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

fn restarted_by(name: &str, how: Stop) {
    let server = PrivatePostgres::start(name, 16).expect("start a Postgres of its own");
    let postgres = Ok(server.postgres.clone());
    on(name, postgres, servers::kafka(), async |test| restarted(test, &server, how).await);
}

async fn terminated_every_second(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    test.expect_complaint("beginning again from the checkpoint");
    let mut headwater = test.start(test.config()).await?;
    let workload = Workload::start(&test.database, 78, STEADY);
    let terminate = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{}'",
        test.database.slot()
    );
    for _ in 0..8 {
        // The fault's own rhythm.
        tokio::time::sleep(Duration::from_secs(1)).await;
        test.database.execute(&terminate).await?;
    }
    headwater.metric_until("headwater_reconnects_total", &[], |n| n >= 3.0).await?;
    workload.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

#[test]
fn restarted_fast() {
    restarted_by("pg_fast", Stop::Fast);
}

#[test]
fn restarted_as_by_a_crash() {
    restarted_by("pg_immediate", Stop::Immediate);
}

#[test]
fn walsender_terminated_every_second() {
    on_shared("walsender", terminated_every_second);
}
