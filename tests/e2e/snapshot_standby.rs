//! Postgres 16 and later decode on a physical standby: both ways of copying from there, while the primary is written.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::database::{connect, parse_lsn};
use crate::harness::fixture::{Fixture, on};
use crate::harness::joined;
use crate::harness::servers::{self, PrivatePostgres};
use crate::harness::snapshots::{ROWS, commanded, complete, initial, prepare, state};
use crate::harness::traffic::Traffic;
use crate::harness::until;

/// A position on the standby, asked in the test's database.
async fn position(test: &Fixture, standby: &PrivatePostgres, sql: &str) -> Result<u64> {
    let client = connect(&standby.postgres, &test.database.name).await?;
    let row = client.query_opt(sql, &[]).await?;
    let text: Option<String> = row.and_then(|row| row.get(0));
    text.map_or(Ok(0), |text| parse_lsn(&text))
}

async fn from_the_standby(test: &mut Fixture, standby: &PrivatePostgres) -> Result<()> {
    prepare(test, 4000).await?;
    let filled = test.database.lsn("select pg_current_wal_flush_lsn()").await?;
    until(Duration::from_secs(60), "the standby to have the rows", async || {
        let replayed = position(test, standby, "select pg_last_wal_replay_lsn()::text").await;
        Ok(replayed.is_ok_and(|replayed| replayed >= filled))
    })
    .await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(4000)"]);
    let url = test
        .database
        .url()
        .replace(&format!(":{}/", test.database.server.port), &format!(":{}/", standby.postgres.port));
    let config = initial(test).set("postgres.url", url);
    let mut headwater = test.spawn(config.clone())?;
    // A slot on a standby waits for the primary to say which transactions run.
    until(Duration::from_secs(60), "the copy to be complete", async || {
        test.database.execute("select pg_log_standby_snapshot()").await?;
        Ok(!headwater.log_lines(&["the snapshot is complete"]).is_empty())
    })
    .await
    .with_context(|| headwater.log_tail())?;
    headwater.streaming().await?;
    commanded(test, &headwater, &config, &["start", "public.items"])?;
    state(&headwater, "done").await?;
    traffic.commits(20).await?;
    traffic.finish().await;
    let written = test.database.lsn("select pg_current_wal_flush_lsn()").await?;
    let confirmed = format!(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{}'",
        test.database.slot()
    );
    until(Duration::from_secs(60), "the slot to catch up", async || {
        Ok(position(test, standby, &confirmed).await? >= written)
    })
    .await
    .with_context(|| headwater.log_tail())?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read > 6000 && complete(&headwater).await.is_ok(), "{found:?}");
    Ok(())
}

#[test]
fn copies_from_a_standby() {
    let primary = PrivatePostgres::start("standby_primary", 16).expect("start a Postgres of its own");
    let standby = primary.standby("standby").expect("start a standby of it");
    on("standby", Ok(primary.postgres.clone()), servers::kafka(), async |test| {
        from_the_standby(test, &standby).await
    });
}
