//! Copies beside the stream, asked for by `headwater snapshot`, while writers change the same rows.

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::joined::{self, CHURNED};
use crate::harness::traffic::Traffic;
use crate::harness::until;

const ROWS: &str = "select id, version, body, big from items";
const WRITERS: u64 = 3;

/// Rows that are there before the slot is, and that nobody copied.
async fn prepare(test: &mut Fixture, rows: u64) -> Result<()> {
    test.database.execute(CHURNED).await?;
    joined::fill(&test.database, rows).await?;
    test.database.execute("create publication captured for table items").await
}

/// Small chunks, so that there are many.
fn config(test: &Fixture) -> Config {
    test.config().set("snapshot.chunk_bytes", "64KiB")
}

/// Runs `headwater snapshot …` and gives what it prints.
fn snapshot(
    test: &Fixture,
    headwater: &Headwater,
    config: &Config,
    arguments: &[&str],
) -> Result<(bool, String)> {
    let instance = headwater.address();
    let all: Vec<&str> =
        ["snapshot"].iter().chain(arguments).copied().chain(["--instance", &instance]).collect();
    let output = test.command(&all, config)?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

fn status(headwater: &Headwater) -> Result<Json> {
    let (_, body) = headwater.get("/snapshot").context("no answer")?;
    Ok(serde_json::from_str(&body)?)
}

async fn state(headwater: &Headwater, wanted: &str) -> Result<()> {
    let wait = std::time::Duration::from_secs(120);
    until(wait, &format!("the snapshot to be {wanted}"), async || Ok(status(headwater)?["state"] == wanted))
        .await
        .with_context(|| headwater.log_tail())
}

async fn under_load(test: &mut Fixture) -> Result<()> {
    prepare(test, 20_000).await?;
    let config = config(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, WRITERS, &["select churn(20000)"]);
    traffic.commits(20).await?;
    let (ok, text) = snapshot(test, &headwater, &config, &["start", "public.*"])?;
    ensure!(ok && text.contains("copying 1 tables"), "{text}");
    state(&headwater, "done").await?;
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    let (ok, text) = snapshot(test, &headwater, &config, &["status"])?;
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
    let config = config(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, WRITERS, &["select churn(20000)"]);
    snapshot(test, &headwater, &config, &["start", "public.items"])?;
    let (ok, text) = snapshot(test, &headwater, &config, &["pause"])?;
    ensure!(ok, "{text}");
    state(&headwater, "paused").await?;
    headwater.stop().await?;
    headwater = test.start(config.clone()).await?;
    state(&headwater, "paused").await?;
    let (ok, text) = snapshot(test, &headwater, &config, &["start", "public.items"])?;
    ensure!(!ok && text.contains("a snapshot is under way"), "{text}");
    let (ok, text) = snapshot(test, &headwater, &config, &["resume"])?;
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
        .execute("create table keyless (n int); alter publication captured add table keyless")
        .await?;
    let config = config(test);
    let mut headwater = test.start(config.clone()).await?;
    for (arguments, words) in [
        (&["start", "public.keyless"][..], "neither a primary key"),
        (&["start", "public.none"], "no published table matches"),
        (&["pause"], "no snapshot is running"),
        (&["cancel"], "no snapshot is under way"),
    ] {
        let (ok, text) = snapshot(test, &headwater, &config, arguments)?;
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
    let config = config(test);
    let mut headwater = test.start(config.clone()).await?;
    let (ok, text) = snapshot(
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
