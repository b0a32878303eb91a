//! The slot is not the one of the checkpoint. Going on would be a gap nobody sees, so each case halts with its exit
//! code and its advice, and sends nothing.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::Config;
use crate::harness::servers::{self, PrivatePostgres};

/// A run that got somewhere and was stopped.
async fn after_a_run(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item select g, 'sent' from generate_series(1, 10) g").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.database.execute("insert into item select g, 'while away' from generate_series(11, 20) g").await
}

/// It halts with this code, its log has these words, and Kafka has what it had.
async fn halts(test: &mut Fixture, config: Config, code: i32, words: &[&str]) -> Result<()> {
    test.expect_complaint("");
    let before = test.raw_records()?.len();
    let mut headwater = test.spawn(config)?;
    headwater.exits_with(code).await?;
    let log = headwater.log_text();
    for word in words {
        ensure!(log.contains(word), "'{word}' is not in what it says:\n{}", headwater.log_tail());
    }
    ensure!(test.raw_records()?.len() == before, "it sent records before it halted");
    Ok(())
}

async fn dropped(test: &mut Fixture) -> Result<()> {
    after_a_run(test).await?;
    let slot = test.database.slot();
    test.database.execute(&format!("select pg_drop_replication_slot('{slot}')")).await?;
    halts(test, test.config(), 31, &[&slot]).await?;
    ensure!(test.database.confirmed().await?.is_none(), "a slot was created over a checkpoint");
    Ok(())
}

async fn recreated(test: &mut Fixture) -> Result<()> {
    after_a_run(test).await?;
    let slot = test.database.slot();
    test.database.execute(&format!("select pg_drop_replication_slot('{slot}')")).await?;
    test.database
        .execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
        .await?;
    halts(test, test.config(), 32, &[&slot]).await
}

async fn advanced(test: &mut Fixture) -> Result<()> {
    after_a_run(test).await?;
    let slot = test.database.slot();
    test.database
        .execute(&format!("select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"))
        .await?;
    halts(test, test.config(), 32, &[&slot]).await
}

/// Somebody's slot, or the checkpoint topic is gone: only a person knows; `--adopt-slot` says so.
async fn without_a_checkpoint(test: &mut Fixture) -> Result<()> {
    after_a_run(test).await?;
    let elsewhere = test.config().set("checkpoint.topic", format!("checkpoint.other.{}", test.prefix()));
    halts(test, elsewhere.clone(), 30, &["--adopt-slot"]).await?;
    let mut adopting = test.spawn_command(&["run", "--adopt-slot"], elsewhere)?;
    adopting.streaming().await?;
    test.settle().await?;
    adopting.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 20, "{report:?}");
    Ok(())
}

/// The slot belongs to another database of the same server.
async fn another_database(test: &mut Fixture) -> Result<()> {
    after_a_run(test).await?;
    let config = test.config().set("postgres.url", test.database.url().replace(test.prefix(), "postgres"));
    test.expect_complaint("");
    let mut headwater = test.spawn(config)?;
    let status = headwater.exit(std::time::Duration::from_secs(60)).await?;
    let code = status.code().unwrap_or(0);
    ensure!([22, 35, 38].contains(&code), "it ended with {code}:\n{}", headwater.log_tail());
    Ok(())
}

/// Another server with a slot of the same name.
async fn another_server(test: &mut Fixture, other: &PrivatePostgres) -> Result<()> {
    after_a_run(test).await?;
    let copy = crate::harness::database::connect(&other.postgres, "postgres").await?;
    copy.batch_execute(&format!("create database {}", test.prefix())).await?;
    let copy = crate::harness::database::connect(&other.postgres, test.prefix()).await?;
    copy.batch_execute(
        "create table item (id int primary key, name text); create publication captured for table item",
    )
    .await?;
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", other.postgres.port, test.prefix());
    let slot = test.database.slot();
    copy.batch_execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await?;
    halts(test, test.config().set("postgres.url", url), 33, &[]).await
}

/// Postgres removed WAL that the slot needed.
async fn lost(test: &mut Fixture) -> Result<()> {
    after_a_run(test).await?;
    let system = ["alter system set max_slot_wal_keep_size = '1MB'", "select pg_reload_conf()"];
    for statement in system {
        test.database.execute(statement).await?;
    }
    let state =
        format!("select wal_status from pg_replication_slots where slot_name = '{}'", test.database.slot());
    for _ in 0..20 {
        if test.database.value(&state).await?.as_deref() == Some("lost") {
            break;
        }
        test.database
            .execute("create table junk as select repeat('x', 100) from generate_series(1, 100000)")
            .await?;
        for statement in ["drop table junk", "select pg_switch_wal()", "checkpoint"] {
            test.database.execute(statement).await?;
        }
    }
    ensure!(test.database.value(&state).await?.as_deref() == Some("lost"), "the slot is still whole");
    halts(test, test.config(), 36, &[&test.database.slot()]).await
}

#[test]
fn dropped_while_down() {
    on_shared("slot_dropped", dropped);
}

#[test]
fn recreated_while_down() {
    on_shared("slot_recreated", recreated);
}

#[test]
fn advanced_while_down() {
    on_shared("slot_advanced", advanced);
}

#[test]
fn without_a_checkpoint_is_adopted_only_on_demand() {
    on_shared("slot_stranger", without_a_checkpoint);
}

#[test]
fn of_another_database() {
    on_shared("slot_database", another_database);
}

#[test]
fn of_another_server() {
    let other = PrivatePostgres::start("slot_server", 16).expect("start a Postgres of its own");
    on("slot_server", servers::postgres(16), servers::kafka(), async |test| {
        another_server(test, &other).await
    });
}

#[test]
fn whose_wal_is_gone() {
    let server = PrivatePostgres::start("slot_lost", 16).expect("start a Postgres of its own");
    on("slot_lost", Ok(server.postgres.clone()), servers::kafka(), lost);
}
