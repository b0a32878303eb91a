//! Transactions that are open while positions move past their rows. Rivals that compare row LSNs with their position
//! lose them.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::servers::{self, PrivatePostgres};
use crate::harness::until;

const TABLE: &str = "create table item (id int primary key, name text)";

/// Opened before a graceful restart, committed after it: all its rows arrive, also those written before the restart.
async fn across_a_graceful_restart(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let open = test.database.connect().await?;
    open.batch_execute("begin; insert into item select g, 'early' from generate_series(1, 100) g").await?;
    test.database.execute("insert into item values (1000, 'other')").await?;
    test.settle().await?;
    headwater.stop().await?;
    open.batch_execute("insert into item select g, 'while away' from generate_series(101, 200) g").await?;
    test.database.execute("insert into item values (1001, 'other')").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    open.batch_execute("insert into item select g, 'late' from generate_series(201, 300) g; commit").await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 302, "{report:?}");
    Ok(())
}

/// The commit LSN of one transaction equals the end of the one before it, and the position is exactly there.
async fn a_commit_where_the_position_is(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let later = test.database.connect().await?;
    for round in 0..5 {
        later.batch_execute(&format!("begin; insert into item values ({round}, 'later')")).await?;
        test.database.execute(&format!("insert into item values (100 + {round}, 'first')")).await?;
        test.settle().await?;
        headwater.stop().await?;
        // Nothing else may come between the two commit records, so nothing is running now but this.
        later.batch_execute("commit").await?;
        headwater = test.start(test.config()).await?;
        test.settle().await?;
    }
    headwater.stop().await?;
    let commits = test.database.commits().await?;
    let touching =
        commits.values().filter(|commit| commits.values().any(|c| c.end_lsn == commit.commit_lsn)).count();
    ensure!(touching > 0, "no commit began where another ended: nothing was tested");
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 10, "{report:?}");
    Ok(())
}

/// Many writers hold transactions open for different times, and Headwater is restarted again and again.
async fn interleaved(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let mut open = Vec::new();
    for number in 0..12 {
        let client = test.database.connect().await?;
        client
            .batch_execute(&format!(
                "begin; insert into item select {number} * 1000 + g from generate_series(1, 50) g"
            ))
            .await?;
        open.push(client);
        if number % 3 == 2 {
            // The first of those still open commits; then a restart that the others span.
            open.remove(0).batch_execute("commit").await?;
            test.settle().await?;
            if number % 2 == 0 {
                headwater.stop().await?
            } else {
                headwater.kill()?
            }
            headwater = test.start(test.config()).await?;
        }
    }
    for client in open {
        client.batch_execute("commit").await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.records - report.duplicates == 600, "{report:?}");
    Ok(())
}

/// The slot confirms a transaction without waiting for another one.
async fn confirmed_at_once(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    test.database.execute("insert into item values (1, 'alone')").await?;
    let end = test.database.lsn("select pg_current_wal_flush_lsn()").await?;
    until(Duration::from_secs(3), "the slot to confirm the only transaction", async || {
        Ok(test.database.confirmed().await?.is_some_and(|confirmed| confirmed >= end))
    })
    .await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

#[test]
fn survives_a_graceful_restart() {
    on_shared("open_restart", across_a_graceful_restart);
}

#[test]
fn commits_exactly_at_the_position() {
    // Nobody else's WAL comes between on a server of its own.
    let server = PrivatePostgres::start("open_equal", 16).expect("start a Postgres of its own");
    on("open_equal", Ok(server.postgres.clone()), servers::kafka(), a_commit_where_the_position_is);
}

#[test]
fn interleave_with_restarts() {
    on_shared("open_interleaved", interleaved);
}

#[test]
fn is_confirmed_when_alone() {
    on_shared("open_alone", confirmed_at_once);
}
