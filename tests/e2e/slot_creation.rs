//! Creating a slot waits for every transaction that is open in any database of the server. Headwater says which, and
//! gives up in time without leaving a slot behind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::database;
use crate::harness::fixture::{Fixture, on};
use crate::harness::servers::{self, PrivatePostgres};

const TABLE: &str = "create table item (id int primary key, name text)";

async fn blocked(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    test.expect_complaint("slot");
    // In another database, as it will be.
    let blocker = database::connect(&test.database.server, "postgres").await?;
    blocker.batch_execute("begin; select pg_current_xact_id()").await?;
    let pid: String = match &blocker.simple_query("select pg_backend_pid()").await?[..] {
        [.., tokio_postgres::SimpleQueryMessage::Row(row), _] => row.get(0).unwrap_or_default().to_owned(),
        _ => anyhow::bail!("no pid"),
    };
    let begun = Instant::now();
    let mut headwater = test.spawn(test.config())?;
    let mut said = Vec::new();
    crate::harness::until(Duration::from_secs(30), "two messages about the blocker", async || {
        said = headwater.log_lines(&["slot", &pid, "postgres"]);
        Ok(said.len() >= 2)
    })
    .await?;
    let took = begun.elapsed();
    ensure!(took > Duration::from_secs(4) && took < Duration::from_secs(16), "two messages after {took:?}");
    let (status, body) = headwater.get("/readyz").unwrap_or_default();
    ensure!(status == 503, "/readyz is {status} {body} without a slot");
    blocker.batch_execute("rollback").await?;
    headwater.streaming().await?;
    test.begin().await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

async fn too_long(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    test.expect_complaint("slot");
    let blocker = test.database.connect().await?;
    blocker.batch_execute("begin; select pg_current_xact_id()").await?;
    let mut headwater = test.spawn(test.config().set("postgres.slot_create_timeout", "2s"))?;
    headwater.exits_with(37).await?;
    ensure!(test.database.confirmed().await?.is_none(), "a slot was left behind");
    let slots =
        format!("select count(*) from pg_replication_slots where slot_name = '{}'", test.database.slot());
    ensure!(test.database.value(&slots).await?.as_deref() == Some("0"), "a half-made slot was left behind");
    blocker.batch_execute("rollback").await?;
    // The record `creating` without a slot is no obstacle.
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

/// Killed between the two: `creating` is stored, the slot exists, nothing was sent. It is adopted, not a halt.
async fn interrupted(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let blocker = test.database.connect().await?;
    blocker.batch_execute("begin; select pg_current_xact_id()").await?;
    let mut headwater = test.spawn(test.config())?;
    let slots =
        format!("select count(*) from pg_replication_slots where slot_name = '{}'", test.database.slot());
    crate::harness::until(Duration::from_secs(20), "the slot to be in the making", async || {
        Ok(test.database.value(&slots).await?.as_deref() == Some("1"))
    })
    .await?;
    headwater.kill()?;
    blocker.batch_execute("rollback").await?;
    // The server notices only then, and drops what it had not finished. So the moment after is made by hand.
    crate::harness::until(Duration::from_secs(30), "the server to notice", async || {
        Ok(test.database.value(&slots).await?.as_deref() == Some("0"))
    })
    .await?;
    let made = format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", test.database.slot());
    test.database.execute(&made).await?;
    test.database.execute("insert into item values (1, 'between')").await?;
    let mut headwater = test.spawn(test.config())?;
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 1, "{report:?}");
    Ok(())
}

fn alone(name: &str, test: impl AsyncFnOnce(&mut Fixture) -> Result<()>) {
    // Transactions held open here would hold up the slots of other tests, and theirs these.
    let server = PrivatePostgres::start(name, 16).expect("start a Postgres of its own");
    on(name, Ok(server.postgres.clone()), servers::kafka(), test);
}

#[test]
fn blocked_says_by_whom() {
    alone("slot_blocked", blocked);
}

#[test]
fn blocked_too_long_leaves_nothing() {
    alone("slot_timeout", too_long);
}

#[test]
fn interrupted_is_taken_up() {
    alone("slot_interrupted", interrupted);
}
