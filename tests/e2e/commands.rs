//! The other commands, as a person runs them: check, init, tail, status; and the sinks that need no Kafka.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::BINARY;
use crate::harness::{servers, until};

const TABLES: &str = "create table item (id int primary key, name text); create table keyless (v text)";
const CAPTURED: &[&str] = &["public.item", "public.keyless"];

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn check(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, CAPTURED).await?;
    let output = test.command(&["check"], &test.config())?;
    let text = said(&output);
    ensure!(output.status.success(), "check of a good setup: {text}");
    ensure!(text.contains("wal_level") && text.contains("ok"), "check says too little: {text}");
    ensure!(text.contains("keyless"), "a table without replica identity is not named: {text}");
    // Everything that is wrong at once.
    let wrong = test
        .config()
        .set("postgres.publication", "nowhere")
        .set("schema_registry.url", "http://127.0.0.1:1/")
        .set("kafka.bootstrap_servers", "127.0.0.1:1");
    let output = test.command(&["check"], &wrong)?;
    let text = said(&output);
    ensure!(!output.status.success(), "check of a bad setup succeeds: {text}");
    for word in ["nowhere", "wrong", "127.0.0.1:1"] {
        ensure!(text.contains(word), "check does not name {word}: {text}");
    }
    Ok(())
}

async fn init(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, CAPTURED).await?;
    let output = test.command(&["init", "--dry-run"], &test.config())?;
    ensure!(output.status.success(), "init --dry-run: {}", said(&output));
    ensure!(test.database.confirmed().await?.is_none(), "--dry-run made a slot");
    let output = test.command(&["init"], &test.config())?;
    ensure!(output.status.success(), "init: {}", said(&output));
    ensure!(test.database.confirmed().await?.is_some(), "init made no slot");
    test.begin().await?;
    // Between init and the first start nothing is lost.
    test.database.execute("insert into item values (1, 'before the first start')").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 1, "{report:?}");
    Ok(())
}

async fn tail(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, CAPTURED).await?;
    let path = test.write_config(&test.config())?;
    let out = test.directory.path().join("tail.jsonl");
    let mut tail = Command::new(BINARY)
        .args(["tail", "-c"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out)?)
        .stderr(Stdio::null())
        .spawn()?;
    // It has a position once its creation is over, which waits for the transactions of other tests too.
    let temporary = format!(
        "select count(*) from pg_replication_slots \
         where database = '{}' and temporary and active and confirmed_flush_lsn is not null",
        test.prefix()
    );
    until(Duration::from_secs(60), "tail's temporary slot", async || {
        Ok(test.database.value(&temporary).await?.as_deref() == Some("1"))
    })
    .await?;
    test.database
        .execute("insert into item values (1, 'seen'); update item set name = 'again'; delete from item")
        .await?;
    let mut lines = Vec::new();
    until(Duration::from_secs(20), "three lines of JSON", async || {
        lines = std::fs::read_to_string(&out)?.lines().map(str::to_owned).collect();
        Ok(lines.len() >= 3)
    })
    .await?;
    tail.kill()?;
    tail.wait()?;
    for (line, op) in lines.iter().zip(["c", "u", "d"]) {
        let json: serde_json::Value = serde_json::from_str(line).with_context(|| line.clone())?;
        let found = json.pointer("/op").or_else(|| json.pointer("/value/op")).and_then(|op| op.as_str());
        ensure!(found == Some(op), "expected {op}: {line}");
        ensure!(line.contains("item"), "no table: {line}");
    }
    ensure!(test.database.confirmed().await?.is_none(), "tail made the slot of run");
    Ok(())
}

async fn status(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, CAPTURED).await?;
    let http = servers::free_port();
    let config = test.config().set("http.listen", format!("127.0.0.1:{http}"));
    let path = test.write_config(&config)?;
    let log = test.directory.path().join("status.log");
    let mut headwater = crate::harness::headwater::Headwater::start(&["run"], &path, http, &log, &[])?;
    headwater.streaming().await?;
    test.begin().await?;
    test.database.execute("insert into item select g, 'x' from generate_series(1, 321) g").await?;
    test.settle().await?;
    let output = test.command(&["status"], &config)?;
    let text = said(&output);
    ensure!(output.status.success(), "status: {text}");
    for word in [test.database.slot().as_str(), "item", "321"] {
        ensure!(text.contains(word), "status does not say {word}: {text}");
    }
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

/// The file sink writes lines of JSON, keeps its checkpoint in a file, and goes on there after a kill.
async fn file_sink(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, CAPTURED).await?;
    let out = test.directory.path().join("out.jsonl");
    let config = test
        .config()
        .set("sink.type", "file")
        .set("sink.path", out.display().to_string())
        .set("checkpoint.file", test.directory.path().join("checkpoint.json").display().to_string());
    let mut headwater = test.spawn(config.clone())?;
    headwater.streaming().await?;
    test.database.execute("insert into item select g, 'x' from generate_series(1, 500) g").await?;
    test.settle().await?;
    headwater.kill()?;
    test.database.execute("insert into item select g, 'y' from generate_series(501, 1000) g").await?;
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    let text = std::fs::read_to_string(&out)?;
    let mut ids = std::collections::BTreeSet::new();
    for line in text.lines() {
        let json: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let id =
            json.pointer("/after/id").or_else(|| json.pointer("/value/after/id")).and_then(|id| id.as_i64());
        ids.insert(id.with_context(|| format!("no id in {line}"))?);
    }
    ensure!(ids.len() == 1000, "{} of 1000 rows in the file", ids.len());
    Ok(())
}

#[test]
fn check_says_all_problems_at_once() {
    on_shared("command_check", check);
}

#[test]
fn init_prepares_the_first_start() {
    on_shared("command_init", init);
}

#[test]
fn tail_prints_changes() {
    on_shared("command_tail", tail);
}

#[test]
fn status_shows_a_running_instance() {
    on_shared("command_status", status);
}

#[test]
fn file_sink_survives_a_kill() {
    on_shared("sink_file", file_sink);
}
