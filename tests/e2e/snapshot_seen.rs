//! What people see of a snapshot and what it may take of the server: status, metrics, progress bars, limits, locks and
//! timeouts, and rights that are looked at before anything is made.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::{BINARY, Config, Headwater};
use crate::harness::joined::{self, CHURNED};
use crate::harness::{servers, until};

const ROWS: &str = "select id, version, body, big from items";
const WAIT: Duration = Duration::from_secs(60);

/// Every lock on a relation that a session of the product holds in this database, by mode.
const LOCK_MODES: &str = "
    select distinct l.mode from pg_locks l join pg_stat_activity a using (pid)
     where a.datname = current_database() and a.application_name = 'headwater' and l.locktype = 'relation'";

async fn prepare(test: &Fixture, rows: u64) -> Result<()> {
    test.database.execute(CHURNED).await?;
    joined::fill(&test.database, rows).await?;
    test.database.execute("analyze items; create publication captured for table items").await
}

fn initial(test: &Fixture) -> Config {
    test.config().set("snapshot.mode", "initial")
}

fn status(headwater: &Headwater) -> Result<Json> {
    let (_, body) = headwater.get("/snapshot").context("no answer")?;
    Ok(serde_json::from_str(&body)?)
}

/// Waits until the status is as wanted, and gives it.
async fn status_until(headwater: &Headwater, what: &str, wanted: impl Fn(&Json) -> bool) -> Result<Json> {
    let mut seen = Json::Null;
    until(WAIT, what, async || {
        seen = status(headwater).unwrap_or_default();
        Ok(wanted(&seen))
    })
    .await
    .with_context(|| format!("{seen}\n{}", headwater.log_tail()))?;
    Ok(seen)
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

/// What a status of a copy under way has to be, whichever way it is copied.
fn check_under_way(table: &Json, rows: u64, limit: f64) -> Result<()> {
    let number = |key: &str| table[key].as_f64().unwrap_or(-1.0);
    ensure!(number("percent") > 0.0 && number("percent") < 100.0, "{table}");
    ensure!(number("rows_read") <= number("rows_estimated"), "{table}");
    let estimated = number("rows_estimated") / rows as f64;
    ensure!((0.8..1.2).contains(&estimated), "{rows} rows are estimated as {table}");
    ensure!(number("bytes") > 0.0 && number("seconds") > 0.0, "{table}");
    // A rate of late may be higher for a moment by what is read at once.
    ensure!(number("rows_per_second") < 2.0 * limit, "faster than {limit}: {table}");
    Ok(())
}

/// The first copy: its numbers while it runs, no lock beyond ACCESS SHARE, no faster than it may be.
async fn first_copy(test: &mut Fixture) -> Result<()> {
    prepare(test, 30_000).await?;
    let began = Instant::now();
    let mut headwater = test.spawn(initial(test).set("snapshot.max_rows_per_second", 6000))?;
    let mut modes = BTreeSet::new();
    let (mut seen, mut metrics) = (0, false);
    let labels = [r#"table="public.items""#, r#"state="copying""#];
    until(WAIT, "five looks at the copy, and its metrics", async || {
        metrics |= headwater.metric("headwater_snapshot_table_state", &labels) == Some(1.0)
            && headwater
                .metric("headwater_snapshot_transaction_age_seconds", &[])
                .is_some_and(|age| age > 0.0);
        let now = status(&headwater).unwrap_or_default();
        let table = &now["tables"]["public.items"];
        if table["state"] == "copying" && table["rows_per_second"].as_f64().is_some_and(|rate| rate > 0.0) {
            check_under_way(table, 30_000, 6000.0)?;
            ensure!(now["transaction_age_seconds"].as_f64().is_some_and(|age| age > 0.0), "{now}");
            ensure!(table["eta_seconds"].as_f64().is_some_and(|left| left < 30.0), "{now}");
            let rows = test.database.rows(LOCK_MODES).await?;
            modes.extend(rows.into_iter().filter_map(|row| row[0].clone()));
            seen += 1;
        }
        Ok(seen >= 5 && metrics)
    })
    .await
    .with_context(|| headwater.log_tail())?;
    ensure!(modes == BTreeSet::from(["AccessShareLock".to_owned()]), "{modes:?}");
    let done = status_until(&headwater, "the copy to be done", |now| now["state"] == "done").await?;
    let took = began.elapsed();
    ensure!(took > Duration::from_secs(4), "30000 rows at 6000 a second took {took:?}");
    let table = &done["tables"]["public.items"];
    ensure!(table["rows"] == 30_000 && table["rows_estimated"] == 30_000, "{done}");
    ensure!(table["percent"] == 100.0 && done["transaction_age_seconds"].is_null(), "{done}");
    for (name, labels, wanted) in [
        ("headwater_snapshot_table_state", &[r#"state="done""#][..], 1.0),
        ("headwater_snapshot_table_state", &[r#"state="copying""#], 0.0),
        ("headwater_snapshot_rows_read", &[], 30_000.0),
        ("headwater_snapshot_rows_estimated", &[], 30_000.0),
        ("headwater_snapshot_rows_total", &[], 30_000.0),
        ("headwater_snapshot_tables_left", &[], 0.0),
        ("headwater_snapshot_transaction_age_seconds", &[], 0.0),
    ] {
        let labels: Vec<&str> = labels.to_vec();
        headwater.metric_until(name, &labels, |value| value == wanted).await?;
    }
    ensure!(headwater.metric("headwater_snapshot_seconds", &[]).is_some_and(|seconds| seconds > 3.0));
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 30_000 && found.repeated == 0, "{found:?}");
    Ok(())
}

/// The same beside the stream, limited by bytes; and what the command prints.
async fn beside(test: &mut Fixture) -> Result<()> {
    prepare(test, 20_000).await?;
    let config = test.config().set("snapshot.max_bytes_per_second", "400KiB");
    let mut headwater = test.start(config.clone()).await?;
    let (ok, text) = snapshot(test, &headwater, &config, &["start", "public.items"])?;
    ensure!(ok, "{text}");
    let mut modes = BTreeSet::new();
    let mut seen = 0;
    until(WAIT, "five looks at the copy", async || {
        let now = status(&headwater)?;
        let table = &now["tables"]["public.items"];
        if table["state"] == "copying" && table["rows_per_second"].as_f64().is_some_and(|rate| rate > 0.0) {
            check_under_way(table, 20_000, f64::MAX)?;
            let rows = test.database.rows(LOCK_MODES).await?;
            modes.extend(rows.into_iter().filter_map(|row| row[0].clone()));
            seen += 1;
        }
        Ok(seen >= 5)
    })
    .await
    .with_context(|| headwater.log_tail())?;
    ensure!(modes.iter().all(|mode| mode == "AccessShareLock"), "{modes:?}");
    let (ok, text) = snapshot(test, &headwater, &config, &["status"])?;
    ensure!(ok && text.contains("public.items") && text.contains("copying"), "{text}");
    for column in ["rows", "of about", "%", "bytes", "chunks", "time", "rows/s", "bytes/s", "left"] {
        ensure!(text.contains(column), "no {column}: {text}");
    }
    let (ok, text) = snapshot(test, &headwater, &config, &["status", "--watch", "--json"])?;
    let last: Json = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    ensure!(ok && last["state"] == "done" && text.lines().count() > 1, "{text}");
    let table = &last["tables"]["public.items"];
    let (bytes, seconds) = (table["bytes"].as_f64().unwrap_or(0.0), table["seconds"].as_f64().unwrap_or(0.0));
    ensure!(bytes / seconds < 1.3 * 400.0 * 1024.0, "{bytes} bytes in {seconds} s");
    ensure!(table["rows"] == 20_000 && table["rows_estimated"] == 20_000, "{last}");
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 20_000, "{found:?}");
    Ok(())
}

/// Even the catalog can't be read of a table that somebody has locked: it is said who, and goes on afterwards.
async fn locked_at_start(test: &mut Fixture) -> Result<()> {
    locked_at_starts(test, &[false, true]).await
}

/// Before Postgres 15 only the tables' sizes wait, and nobody asks for those when there is a slot.
async fn locked_at_first_start(test: &mut Fixture) -> Result<()> {
    locked_at_starts(test, &[false]).await
}

async fn locked_at_starts(test: &mut Fixture, existing: &[bool]) -> Result<()> {
    prepare(test, 100).await?;
    test.expect_complaint("waits for a lock on public.items");
    for &existing in existing {
        let (locker, pid) = lock_items(test).await?;
        let mut headwater = test.spawn(initial(test))?;
        let line = headwater.log_line(&["waits for a lock on public.items", &format!("pid {pid} ")]).await?;
        ensure!(line.contains("LOCK TABLE") && line.contains("idle in transaction"), "{line}");
        until(WAIT, "/readyz to say so", async || {
            let (code, body) = headwater.get("/readyz").unwrap_or_default();
            Ok(code == 503 && body.contains("a lock on public.items"))
        })
        .await
        .with_context(|| format!("{:?}\n{}", headwater.get("/readyz"), headwater.log_tail()))?;
        ensure!(test.database.confirmed().await?.is_some() == existing, "a slot came too early");
        locker.batch_execute("rollback").await?;
        headwater.streaming().await?;
        if !existing {
            headwater.log_line(&["the snapshot is complete"]).await?;
        }
        test.settle().await?;
        headwater.stop().await?;
    }
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 100, "{found:?}");
    Ok(())
}

async fn lock_items(test: &Fixture) -> Result<(tokio_postgres::Client, String)> {
    let locker = test.database.connect().await?;
    let pid = locker.query_one("select pg_backend_pid()::text", &[]).await?.get(0);
    locker.batch_execute("begin").await?;
    locker.batch_execute("lock table items in access exclusive mode").await?;
    Ok((locker, pid))
}

/// A stream that can't look up a table's new columns says who has the table.
async fn locked_after_ddl(test: &mut Fixture) -> Result<()> {
    prepare(test, 10).await?;
    test.expect_complaint("the stream is held up: ");
    let mut headwater = test.start(test.config()).await?;
    let changer = test.database.connect().await?;
    changer
        .batch_execute("begin; alter table items add column more text; insert into items values (11, 1, 'x', null, 'new')")
        .await?;
    // It has the lock from the moment of that commit.
    let locker = test.database.connect().await?;
    let pid: i32 = locker.query_one("select pg_backend_pid()", &[]).await?.get(0);
    let locked = tokio::spawn(async move {
        let done = locker.batch_execute("begin; lock table items in access exclusive mode").await;
        done.map(|()| locker)
    });
    let waits = format!("select count(*) from pg_locks where pid = {pid} and not granted");
    until(WAIT, "the lock to be waited for", async || {
        Ok(test.database.value(&waits).await?.as_deref() == Some("1"))
    })
    .await?;
    changer.batch_execute("commit").await?;
    let locker = locked.await??;
    headwater.log_line(&["the stream is held up", "a lock on public.items", &format!("pid {pid} ")]).await?;
    locker.batch_execute("rollback").await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), &format!("{ROWS} where id = 11")).await?;
    ensure!(found.streamed == 1, "{found:?}");
    Ok(())
}

/// A chunk that does not get its lock lets go of the queue, tries again, and says meanwhile who has it.
async fn locked_in_the_middle(test: &mut Fixture) -> Result<()> {
    prepare(test, 10_000).await?;
    for words in ["waits for a lock on public.items", "canceling statement due to lock timeout"] {
        test.expect_complaint(words);
    }
    let config = test.config().set("snapshot.max_rows_per_second", 2000).set("snapshot.lock_timeout", "3s");
    let mut headwater = test.start(config.clone()).await?;
    snapshot(test, &headwater, &config, &["start", "public.items"])?;
    let moving = |now: &Json| now["tables"]["public.items"]["rows"].as_u64().is_some_and(|rows| rows > 0);
    status_until(&headwater, "some rows to be copied", moving).await?;
    let (locker, pid) = lock_items(test).await?;
    let holder = format!("pid {pid} ");
    let waits = |now: &Json| now["waiting"].as_str().is_some_and(|waiting| waiting.contains(&holder));
    status_until(&headwater, "the status to say who has the lock", waits).await?;
    headwater.log_line(&["lock timeout"]).await?;
    locker.batch_execute("rollback").await?;
    let done = status_until(&headwater, "the copy to be done", |now| now["state"] == "done").await?;
    ensure!(done["waiting"].is_null(), "{done}");
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 10_000, "{found:?}");
    Ok(())
}

/// ALTER TABLE waits for the snapshot of the slot; workers that come to the table after it would wait for ever. They
/// give way, and the table is copied beside the stream as it is then.
async fn gives_way(test: &mut Fixture) -> Result<()> {
    prepare(test, 30_000).await?;
    test.database
        .execute(
            "create table later (id int primary key, note text);
             insert into later select i, 'note' from generate_series(1, 1000) i;
             alter publication captured add table later",
        )
        .await?;
    for words in ["waits for a lock on public.later", "giving way to it"] {
        test.expect_complaint(words);
    }
    let config = initial(test)
        .set("snapshot.max_rows_per_second", 10_000)
        .set("snapshot.workers", 1)
        .set("snapshot.lock_timeout", "3s")
        .set("snapshot.order", toml::Value::Array(vec!["public.items".into()]));
    let mut headwater = test.spawn(config)?;
    let copying = |now: &Json| now["tables"]["public.items"]["state"] == "copying";
    status_until(&headwater, "the first table to be copied", copying).await?;
    let changer = test.database.connect().await?;
    let change = tokio::spawn(async move {
        changer.batch_execute("alter table later add column more text default 'new'").await
    });
    headwater.log_line(&["giving way to it", "public.later"]).await?;
    change.await??;
    status_until(&headwater, "the copy to be done", |now| now["state"] == "done").await?;
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 30_000, "{found:?}");
    let mut decoder = crate::harness::decode::Decoder::new(&test.kafka.registry);
    let mut later = BTreeSet::new();
    for record in test.raw_topic(&test.topic("public.later"))? {
        let value = decoder.json(record.value.as_deref())?;
        ensure!(value["after"]["more"] == "new", "{value}");
        later.insert(value["after"]["id"].as_i64());
    }
    ensure!(later.len() == 1000, "{} rows of the later table", later.len());
    Ok(())
}

/// A chunk that takes too long is asked for in smaller pieces.
async fn slow_statement(test: &mut Fixture) -> Result<()> {
    prepare(test, 2000).await?;
    // Or the condition would be asked of all rows before their key is.
    let by_key = format!("alter database {} set enable_seqscan = off", test.database.name);
    test.database.execute(&by_key).await?;
    test.expect_complaint("canceling statement due to statement timeout");
    let config = test.config().set("snapshot.statement_timeout", "1s");
    let mut headwater = test.start(config.clone()).await?;
    let slow = "public.items=pg_sleep(0.002) is not null";
    let (ok, text) = snapshot(test, &headwater, &config, &["start", "public.items", "--where", slow])?;
    ensure!(ok, "{text}");
    let done = status_until(&headwater, "the copy to be done", |now| now["state"] == "done").await?;
    headwater.log_line(&["statement timeout"]).await?;
    let table = &done["tables"]["public.items"];
    ensure!(table["rows"] == 2000 && table["chunks"].as_u64().is_some_and(|chunks| chunks > 2), "{done}");
    test.settle().await?;
    headwater.stop().await?;
    Ok(())
}

/// What a role may not read, or only in part, is said before there is a slot.
async fn rights(test: &mut Fixture) -> Result<()> {
    let role = format!("reader_{}", test.database.name);
    prepare(test, 100).await?;
    test.database
        .execute(&format!("create role {role} login replication; grant pg_monitor to {role}"))
        .await?;
    let url = test.database.url().replacen("postgres@", &format!("{role}@"), 1);
    let config = initial(test).set("postgres.url", url);
    test.expect_complaint("may not read public.items");
    test.expect_complaint("row-level security hides rows of public.items");
    let steps = [
        ("select 1".to_owned(), Some("GRANT SELECT ON public.items")),
        (
            format!(
                "grant select on items to {role}; alter table items enable row level security;
                 create policy odd on items using (id % 2 = 1)"
            ),
            Some("BYPASSRLS"),
        ),
        (format!("alter role {role} bypassrls"), None),
    ];
    for (change, refusal) in steps {
        test.database.execute(&change).await?;
        let mut headwater = test.spawn(config.clone())?;
        if let Some(words) = refusal {
            headwater.exits_with(49).await?;
            headwater.log_line(&[words]).await?;
            let slots = format!(
                "select count(*) from pg_replication_slots where slot_name = '{}'",
                test.database.slot()
            );
            ensure!(test.database.value(&slots).await?.as_deref() == Some("0"), "a slot was left behind");
            let stored = test.raw_topic(&format!("checkpoint.{}", test.prefix())).unwrap_or_default();
            ensure!(stored.is_empty(), "{} records were left behind", stored.len());
            continue;
        }
        headwater.streaming().await?;
        headwater.log_line(&["the snapshot is complete"]).await?;
        test.settle().await?;
        headwater.stop().await?;
    }
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 100, "{found:?}");
    Ok(())
}

/// On a terminal, here one that `script` makes, there is a bar while a table is copied, and lines of the log stand for
/// themselves.
async fn bars(test: &mut Fixture) -> Result<()> {
    prepare(test, 12_000).await?;
    let config = initial(test).set("snapshot.mode", "only").set("snapshot.max_rows_per_second", 4000);
    let path = test.write_config(&config)?;
    let typescript = test.directory.path().join("typescript");
    let command = format!("{BINARY} run -c {} > /dev/null", path.display());
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &command]).arg(&typescript).stdin(Stdio::null()).stdout(Stdio::null());
    let ended = tokio::task::block_in_place(|| terminal.status()).context("run script (util-linux)")?;
    let written = String::from_utf8_lossy(&std::fs::read(&typescript)?).into_owned();
    ensure!(ended.success(), "{ended}: {written}");
    let bars: Vec<&str> = written.split(['\r', '\n']).filter(|line| line.contains("rows/s")).collect();
    let drawn = |words: &[&str]| bars.iter().any(|bar| words.iter().all(|word| bar.contains(word)));
    ensure!(drawn(&["public.items [", "=", " % ", " rows/s ", "iB/s ", " left"]), "{bars:?}");
    ensure!(bars.len() > 5, "{} drawings: {bars:?}", bars.len());
    // Between two returns of the cursor there is a bar or a line of the log, and never both.
    for piece in written.split(['\r', '\n']) {
        ensure!(!(piece.contains("INFO") && piece.contains("rows/s")), "garbled: {piece:?}");
    }
    ensure!(written.contains("the snapshot is complete"), "{written}");
    let mut lines =
        written.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("Script done"));
    let last = lines.next_back().unwrap_or_default();
    ensure!(last.contains("stopped; everything that was read is confirmed"), "{last:?}");
    Ok(())
}

#[test]
fn the_first_copy_is_seen_and_bounded() {
    on_shared("seen_first", first_copy);
}

#[test]
fn a_copy_beside_the_stream_is_seen_and_bounded() {
    on_shared("seen_beside", beside);
}

#[test]
fn a_locked_table_at_the_start_is_said() {
    on_shared("seen_locked", locked_at_start);
}

#[test]
fn a_locked_table_at_the_start_is_said_on_postgres_14() {
    on("seen_locked_14", servers::postgres(14), servers::kafka(), locked_at_first_start);
}

#[test]
fn a_locked_table_at_the_start_is_said_on_postgres_18() {
    on("seen_locked_18", servers::postgres(18), servers::kafka(), locked_at_start);
}

#[test]
fn a_locked_table_after_ddl_is_said() {
    on_shared("seen_ddl", locked_after_ddl);
}

#[test]
fn a_lock_that_is_not_had_is_tried_again() {
    on_shared("seen_lock", locked_in_the_middle);
}

#[test]
fn the_first_copy_gives_way_to_a_change_of_a_table() {
    on_shared("seen_gives_way", gives_way);
}

#[test]
fn a_slow_statement_is_made_smaller() {
    on_shared("seen_slow", slow_statement);
}

#[test]
fn rights_are_looked_at_before_the_slot_is_made() {
    on_shared("seen_rights", rights);
}

#[test]
fn progress_bars_on_a_terminal() {
    on_shared("seen_bars", bars);
}
