//! Watermarks alone are not enough: a transaction can be committed in WAL, and have been streamed, while a snapshot
//! that is taken later still takes it for running (design, fact 13). Its old row, read under that snapshot, stands
//! behind both watermarks and overwrites the newer one, unless the snapshot's list of running transactions is asked.
//!
//! A commit that waits for a synchronous standby makes that moment as long as a test wants it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::database::parse_lsn;
use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on, parse_id};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::joined;
use crate::harness::servers::{self, PrivatePostgres};
use crate::harness::snapshots::{self, Gate, ROWS, beside, commanded, prepare, state};
use crate::harness::until;

/// A transaction that is committed in WAL, and that other sessions take for running.
struct Hanging {
    pid: i32,
    xid: u64,
    ended: JoinHandle<()>,
}

/// Commits wait for a standby that does not exist.
async fn hold_commits(test: &Fixture, hold: bool) -> Result<()> {
    let name = if hold { "nobody" } else { "" };
    for statement in
        [&format!("alter system set synchronous_standby_names = '{name}'"), "select pg_reload_conf()"]
    {
        test.database.execute(statement).await?;
    }
    Ok(())
}

async fn waits_for_standby(test: &Fixture, pid: i32) -> Result<bool> {
    let sql = format!("select 1 from pg_stat_activity where pid = {pid} and wait_event = 'SyncRep'");
    Ok(test.database.value(&sql).await?.is_some())
}

/// Changes a row in a transaction whose commit waits.
async fn hang(test: &Fixture, id: i64) -> Result<Hanging> {
    let sql = format!("update items set version = nextval('versions'), body = 'newer' where id = {id}");
    loop {
        let client = test.database.connect().await?;
        client.batch_execute("set synchronous_commit = on; begin").await?;
        client.batch_execute(&sql).await?;
        let row = client.query_one("select pg_backend_pid(), pg_current_xact_id()::text", &[]).await?;
        let (pid, xid): (i32, &str) = (row.get(0), row.get(1));
        let xid = xid.parse()?;
        let ended = tokio::spawn(async move {
            client.batch_execute("commit").await.expect("a commit that waits is committed in the end");
        });
        let mut waits = false;
        until(Duration::from_secs(20), "the commit to wait", async || {
            waits = waits_for_standby(test, pid).await?;
            Ok(waits || ended.is_finished())
        })
        .await?;
        // The server may not have read its new settings yet.
        if waits {
            return Ok(Hanging { pid, xid, ended });
        }
    }
}

/// The position of the last commit that the topic has of a key with the new value.
async fn streamed(test: &Fixture, id: i64) -> Result<u64> {
    let mut found = None;
    until(Duration::from_secs(30), "the row to be streamed", async || {
        let mut decoder = Decoder::new(&test.kafka.registry);
        for record in test.raw_topic(&test.topic("public.items")).unwrap_or_default() {
            let after = &decoder.json(record.value.as_deref())?["after"];
            if after["id"] == id && after["body"] == "newer" {
                found = record.header("headwater.id");
            }
        }
        Ok(found.is_some())
    })
    .await?;
    Ok(parse_id(&found.context("waited for")?)?.commit_lsn)
}

/// A chunk as a copy with two watermarks reads it.
struct NaiveChunk {
    low: u64,
    body: String,
    high: u64,
    /// From here on nothing is named.
    xmax: u64,
    running: Vec<u64>,
}

impl NaiveChunk {
    async fn read(client: &Client, id: i64) -> Result<NaiveChunk> {
        let position = "select pg_current_wal_insert_lsn()::text";
        let low = parse_lsn(client.query_one(position, &[]).await?.get(0))?;
        client.batch_execute("begin isolation level repeatable read read only").await?;
        let sql = "select x::text from pg_snapshot_xip(pg_current_snapshot()) x";
        let running = client.query(sql, &[]).await?;
        let running = running.iter().map(|row| row.get::<_, &str>(0).parse()).collect::<Result<_, _>>()?;
        let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text";
        let xmax = client.query_one(sql, &[]).await?.get::<_, &str>(0).parse()?;
        let body = client.query_one("select body from items where id = $1", &[&id]).await?.get(0);
        client.batch_execute("rollback").await?;
        let high = parse_lsn(client.query_one(position, &[]).await?.get(0))?;
        Ok(NaiveChunk { low, body, high, xmax, running })
    }

    /// The decision without the list of running transactions: only what was committed between the watermarks is newer
    /// than the chunk.
    fn naive_keeps_its_row(&self, committed: u64) -> bool {
        !(self.low..=self.high).contains(&committed)
    }
}

/// What the naive method would do now with a chunk that has this key.
async fn naive_brings_the_old_row(test: &Fixture, hanging: &Hanging, id: i64) -> Result<NaiveChunk> {
    let committed = streamed(test, id).await?;
    let chunk = NaiveChunk::read(&test.database.connect().await?, id).await?;
    ensure!(waits_for_standby(test, hanging.pid).await?, "the transaction ended too early");
    ensure!(chunk.body != "newer", "the snapshot sees the transaction: this proves nothing");
    ensure!(committed < chunk.low, "committed at {committed:X}, and the window begins at {:X}", chunk.low);
    ensure!(chunk.naive_keeps_its_row(committed), "the naive method would have left the old row out");
    Ok(chunk)
}

async fn old_rows_never_follow_newer_ones(test: &mut Fixture) -> Result<()> {
    prepare(test, 3000).await?;
    // Every commit but those that are to wait.
    let local = format!("alter database {} set synchronous_commit = local", test.database.name);
    test.database.execute(&local).await?;
    test.database.execute("set synchronous_commit = local").await?;
    test.expect_complaint(snapshots::CHUNK_WAITS);
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;

    // It passed before the copy began: nobody remembers its keys, so the chunk has to wait for its end. No list names
    // it, because no transaction after it has ended.
    hold_commits(test, true).await?;
    let before = hang(test, 1).await?;
    let chunk = naive_brings_the_old_row(test, &before, 1).await?;
    ensure!(chunk.xmax <= before.xid, "{} is before {}", before.xid, chunk.xmax);
    waits_and_goes_on(test, &headwater, &config, before).await?;

    // It passed before this instance was started, and is named.
    hold_commits(test, true).await?;
    let before = hang(test, 2).await?;
    // The checkpoint is past it: it does not come again.
    test.settle().await?;
    headwater.kill()?;
    headwater = test.start(config.clone()).await?;
    test.database.execute("select pg_current_xact_id()").await?;
    let chunk = naive_brings_the_old_row(test, &before, 2).await?;
    ensure!(chunk.running.contains(&before.xid), "{} is not in {:?}", before.xid, chunk.running);
    waits_and_goes_on(test, &headwater, &config, before).await?;

    // It passes in the midst of a copy: its key is remembered, and the copy ends while it still counts as running.
    hold_commits(test, true).await?;
    let gate = Gate::closed(&test.database, 1).await?;
    let condition = format!("public.items={}", gate.condition("id >= 10"));
    commanded(test, &headwater, &config, &["start", "public.items", "--where", &condition])?;
    gate.reached().await?;
    let during = hang(test, 2500).await?;
    naive_brings_the_old_row(test, &during, 2500).await?;
    gate.open().await?;
    state(&headwater, "done").await?;
    naive_brings_the_old_row(test, &during, 2500).await?;
    hold_commits(test, false).await?;
    during.ended.await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read > 8000, "{found:?}");
    Ok(())
}

/// A copy that begins now has to wait for this transaction.
async fn waits_and_goes_on(
    test: &Fixture,
    headwater: &Headwater,
    config: &Config,
    hanging: Hanging,
) -> Result<()> {
    commanded(test, headwater, config, &["start", "public.items"])?;
    until(Duration::from_secs(60), "the copy to say what it waits for", async || {
        let status = snapshots::status(headwater)?;
        ensure!(status["state"] != "done", "the copy did not wait: {status}");
        Ok(status["waiting"].as_str().unwrap_or_default().contains(&hanging.xid.to_string()))
    })
    .await?;
    ensure!(waits_for_standby(test, hanging.pid).await?, "the transaction ended too early");
    hold_commits(test, false).await?;
    hanging.ended.await?;
    state(headwater, "done").await
}

#[test]
fn of_transactions_that_count_as_running() {
    let server = PrivatePostgres::start("naive", 16).expect("start a Postgres of its own");
    on("naive", Ok(server.postgres.clone()), servers::kafka(), old_rows_never_follow_newer_ones);
}
