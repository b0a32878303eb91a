//! What people ask stays quick in a table that grows, and what is at its end goes away: the planner's choices, by the
//! server's own counters, and partitions and rows by psql.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::Config;
use crate::harness::{servers, until};
use crate::outbox_status::{config, count, prepare, put, until_count};

/// Days with rows in every status that is rare, and many that are PROCESSED.
const FILL: &str = "
do $$ begin for day in 1..5 loop
  execute format('create table headwater.outbox_%s partition of headwater.outbox for values from (%L) to (%L) with (fillfactor = 50)',
    to_char(current_date - day, 'YYYYMMDD'), (current_date - day)::timestamptz, (current_date - day + 1)::timestamptz);
end loop; end $$;
insert into headwater.outbox (created_at, txid, aggregatetype, aggregateid, type, payload, status, failed_at)
  select current_date - 1 - n % 5 + interval '1 hour', (n % 500 + 100)::text::xid8, 'order', 'o-' || n, 'OrderPlaced', '{}',
    case when n % 20001 = 0 then 'DEAD' else 'PROCESSED' end, case when n % 20001 = 0 then now() end
  from generate_series(1, 100000) n;
analyze headwater.outbox;
";

async fn scans(test: &Fixture) -> Result<u64> {
    let sql = "select coalesce(sum(seq_scan), 0) from pg_stat_user_tables where schemaname = 'headwater' and relname ~ '^outbox_[0-9]'";
    Ok(test.database.value(sql).await?.unwrap_or_default().parse()?)
}

fn run(test: &Fixture, config: &Config, arguments: &[&str]) -> Result<String> {
    let output = test.command(arguments, config)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn quick(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.database.execute(&format!("set timezone = 'UTC'; {FILL}")).await?;
    let config = config(test);
    let mut headwater = test.spawn(config.clone())?;
    headwater.streaming().await?;
    put(test, 1, 3).await?;
    until_count(test, "SENT", 3).await?;
    headwater.stop().await?;
    // What the instance and this test looked at is not what is asked here. A session tells of it a second later, with
    // whatever it does next.
    until(Duration::from_secs(60), "nobody to have looked at anything", async || {
        test.database.execute("select pg_stat_reset()").await?;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        Ok(scans(test).await? == 0 && scans(test).await? == 0)
    })
    .await?;
    for (arguments, rows) in [
        (&["outbox", "ls", "--json"][..], 50),
        (&["outbox", "ls", "--status", "dead", "--json"], 4),
        (&["outbox", "ls", "--status", "SENT", "--json", "--limit", "3"], 3),
        (&["outbox", "ls", "--status", "NEW", "--json"], 0),
        (&["outbox", "ls", "--aggregate", "o-77", "--json"], 1),
    ] {
        let listed: serde_json::Value = serde_json::from_str(&run(test, &config, arguments)?)?;
        ensure!(listed.as_array().map(Vec::len) == Some(rows), "{arguments:?}: {listed}");
    }
    let stats = run(test, &config, &["outbox", "stats", "--json"])?;
    ensure!(stats.replace(' ', "").contains(r#""DEAD":4"#), "{stats}");
    // Sessions tell their counts at their end; today's partition has few rows, and is rightly read as a whole.
    let sql = "select coalesce(sum(seq_scan), 0) from pg_stat_user_tables where schemaname = 'headwater' and relname ~ '^outbox_[0-9]' and relname < 'outbox_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')";
    let index = "select sum(idx_scan) > 0 from pg_stat_user_tables where schemaname = 'headwater' and relname ~ '^outbox_[0-9]'";
    until(Duration::from_secs(30), "the counters", async || {
        Ok(test.database.value(index).await?.as_deref() == Some("t"))
    })
    .await?;
    let scanned = test.database.value(sql).await?;
    ensure!(scanned.as_deref() == Some("0"), "{scanned:?} days were read as a whole");
    // The one who asks for all of it gets all of it.
    let all = run(test, &config, &["outbox", "stats", "--all", "--json"])?;
    ensure!(all.contains("99996"), "{all}");
    Ok(())
}

/// Days that are at their end are dropped, others stay; rows of the default partition go one by one.
async fn cleaned(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.database.execute(&format!("set timezone = 'UTC'; {FILL}")).await?;
    let config = config(test);
    test.database
        .execute(
            "set timezone = 'UTC'; update headwater.outbox set status = 'CANCELLED', failed_at = null where status = 'DEAD' and created_at < current_date - 2;
             insert into headwater.outbox (created_at, aggregatetype, aggregateid, type, status)
               select current_date - 100, 'order', 'o', 'T', s from unnest(array['PROCESSED', 'SENT', 'DEAD']) s",
        )
        .await?;
    let days = async || -> Result<u64> {
        let sql = "select count(*) from pg_inherits where inhparent = 'headwater.outbox'::regclass and inhrelid::regclass::text ~ '_[0-9]+$'";
        Ok(test.database.value(sql).await?.unwrap_or_default().parse()?)
    };
    let before = days().await?;
    // Somebody reads the table for long: nothing waits, nothing is half done.
    let reader = test.database.connect().await?;
    reader.batch_execute("begin; select count(*) from headwater.outbox").await?;
    let busy = test.command(&["outbox", "cleanup", "--older-than", "0"], &config)?;
    ensure!(!busy.status.success() && days().await? == before, "it did not wait for a reader");
    reader.batch_execute("rollback").await?;
    let said = run(test, &config, &["outbox", "cleanup", "--older-than", "1"])?;
    ensure!(days().await? == before - 3, "{said}");
    ensure!(
        said.contains("1 rows of headwater.outbox_default") && said.contains("headwater.outbox_20"),
        "{said}"
    );
    ensure!(count(test, "DEAD").await? >= 2, "what is not at its end was taken");
    run(test, &config, &["outbox", "cleanup", "--older-than", "1", "--sent"])?;
    ensure!(count(test, "SENT").await? == 0, "SENT is the end, and is still there");
    Ok(())
}

/// A service's long transaction stops nobody: partitions of the days ahead are made beside it, or later.
async fn beside_writers(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    // A slot is not made while a transaction is open.
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    headwater.stop().await?;
    test.database.execute("do $$ declare n text; begin for n in select inhrelid::regclass from pg_inherits where inhparent = 'headwater.outbox'::regclass and inhrelid::regclass::text ~ '_[0-9]+$' loop execute 'drop table ' || n; end loop; end $$").await?;
    let long = test.database.connect().await?;
    // Into the default partition, which making another one has to look at.
    long.batch_execute("begin; select headwater.outbox_put('order', 'o-1', 'T', '{}')").await?;
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    for n in 0..20 {
        let put = tokio::time::timeout(Duration::from_secs(20), put(test, n, n)).await;
        ensure!(put.is_ok(), "a writer waits for a partition to be made");
    }
    until_count(test, "SENT", 20).await?;
    long.batch_execute("commit").await?;
    until_count(test, "SENT", 21).await?;
    headwater.stop().await
}

#[test]
fn listing_reads_no_whole_day() {
    on_shared("outbox_quick", quick);
}

/// Not on 14: what its sessions count goes through a collector and comes some time later, so a count of 0 says nothing.
#[test]
fn listing_reads_no_whole_day_on_postgres_18() {
    on("outbox_quick_18", servers::postgres(18), servers::kafka(), quick);
}

#[test]
fn cleaning_up_drops_days() {
    on_shared("outbox_cleanup", cleaned);
}

#[test]
fn cleaning_up_drops_days_on_postgres_18() {
    on("outbox_cleanup_18", servers::postgres(18), servers::kafka(), cleaned);
}

#[test]
fn writers_wait_for_no_partition() {
    on_shared("outbox_writers", beside_writers);
}
