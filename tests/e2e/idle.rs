//! Nothing is published for a while: the slot must move all the same, or it fills the server's disk.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::database;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::until;

async fn another_database_writes(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    let mut headwater = test.start(test.config().set("pipeline.status_interval", "1s")).await?;
    let other = database::connect(&test.database.server, "postgres").await?;
    let noise = format!("create table noise_{} as select g from generate_series(1, 200000) g", test.prefix());
    other.batch_execute(&noise).await?;
    let target = test.database.lsn("select pg_current_wal_flush_lsn()").await?;
    until(Duration::from_secs(20), "the idle slot to move", async || {
        Ok(test.database.confirmed().await?.is_some_and(|confirmed| confirmed >= target))
    })
    .await?;
    other.batch_execute(&format!("drop table noise_{}", test.prefix())).await?;
    ensure!(test.raw_records()?.is_empty(), "records from nothing");
    headwater.streaming().await?;
    test.database.execute("insert into item values (1)").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn unpublished_tables_change(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key); create table other (id int)", &["public.item"])
        .await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into other select generate_series(1, 50000)").await?;
    test.settle().await?;
    test.database.execute("insert into item values (1)").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn heartbeats(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    let mut headwater = test.start(test.config().set("pipeline.heartbeat_interval", "200ms")).await?;
    let first = test.database.confirmed().await?.unwrap_or(0);
    // Heartbeats write WAL and the slot follows it, with nobody else writing in this database.
    let mut moves = 0;
    let mut last = first;
    until(Duration::from_secs(20), "heartbeats to move the slot", async || {
        let confirmed = test.database.confirmed().await?.unwrap_or(0);
        moves += i32::from(confirmed > last);
        last = confirmed;
        Ok(moves >= 3)
    })
    .await?;
    test.database.execute("insert into item values (1)").await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 1, "a heartbeat became a record: {report:?}");
    Ok(())
}

#[test]
fn while_another_database_writes() {
    on_shared("idle_other", another_database_writes);
}

#[test]
fn while_unpublished_tables_change() {
    on_shared("idle_unpublished", unpublished_tables_change);
}

#[test]
fn heartbeats_move_the_slot() {
    on_shared("idle_heartbeats", heartbeats);
}
