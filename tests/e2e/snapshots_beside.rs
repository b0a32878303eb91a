//! Copies beside the stream, asked for by `headwater snapshot`, while writers change the same rows.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::joined;
use crate::harness::snapshots::{ROWS, beside, command, prepare, state};
use crate::harness::traffic::Traffic;

const WRITERS: u64 = 3;

async fn under_load(test: &mut Fixture) -> Result<()> {
    prepare(test, 20_000).await?;
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, WRITERS, &["select churn(20000)"]);
    traffic.commits(20).await?;
    let (ok, text) = command(test, &headwater, &config, &["start", "public.*"])?;
    ensure!(ok && text.contains("copying 1 tables"), "{text}");
    state(&headwater, "done").await?;
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    let (ok, text) = command(test, &headwater, &config, &["status"])?;
    ensure!(ok && text.contains("public.items  done"), "{text}");
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    println!("{found:?}");
    ensure!(found.marks.get("incremental").is_some_and(|rows| *rows > 15_000), "{found:?}");
    Ok(())
}

/// It stops, stays stopped over a restart, and goes on where it was.
async fn paused_over_a_restart(test: &mut Fixture) -> Result<()> {
    prepare(test, 20_000).await?;
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, WRITERS, &["select churn(20000)"]);
    command(test, &headwater, &config, &["start", "public.items"])?;
    let (ok, text) = command(test, &headwater, &config, &["pause"])?;
    ensure!(ok, "{text}");
    state(&headwater, "paused").await?;
    headwater.stop().await?;
    headwater = test.start(config.clone()).await?;
    state(&headwater, "paused").await?;
    let (ok, text) = command(test, &headwater, &config, &["start", "public.items"])?;
    ensure!(!ok && text.contains("a snapshot is under way"), "{text}");
    let (ok, text) = command(test, &headwater, &config, &["resume"])?;
    ensure!(ok, "{text}");
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// What can't be done is said, and the stream goes on.
async fn refusals(test: &mut Fixture) -> Result<()> {
    prepare(test, 10).await?;
    test.database
        .execute("create table secret (n int primary key); alter publication captured add table secret")
        .await?;
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    for (arguments, words) in [
        (&["start", "public.none"][..], "no published table matches"),
        (&["pause"], "no snapshot is running"),
        (&["cancel"], "no snapshot is under way"),
    ] {
        let (ok, text) = command(test, &headwater, &config, arguments)?;
        ensure!(!ok && text.contains(words), "{arguments:?}: {text}");
    }
    test.database.execute("update items set version = version + 1").await?;
    test.settle().await?;
    headwater.stop().await?;
    Ok(())
}

/// Only the rows that were asked for.
async fn with_a_condition(test: &mut Fixture) -> Result<()> {
    prepare(test, 1000).await?;
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let (ok, text) = command(
        test,
        &headwater,
        &config,
        &["start", "public.items", "--where", "public.items=id % 10 = 0"],
    )?;
    ensure!(ok, "{text}");
    state(&headwater, "done").await?;
    test.settle().await?;
    headwater.stop().await?;
    let found =
        joined::check(test, &test.topic("public.items"), &format!("{ROWS} where id % 10 = 0")).await?;
    ensure!(found.read == 100, "{found:?}");
    Ok(())
}

#[test]
fn chunks_join_the_stream_under_load() {
    on_shared("beside_load", under_load);
}

#[test]
fn paused_and_resumed_over_a_restart() {
    on_shared("beside_paused", paused_over_a_restart);
}

#[test]
fn what_can_not_be_done_is_said() {
    on_shared("beside_refused", refusals);
}

#[test]
fn rows_by_condition() {
    on_shared("beside_where", with_a_condition);
}
