//! Snapshots that are asked for by signals, in a table or a topic, and what is told of them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::joined::{self, CHURNED};
use crate::harness::snapshots::{CHUNK_WAITS, Gate};
use crate::harness::traffic::Traffic;
use crate::harness::{kafka, until};

const ROWS: &str = "select id, version, body, big from items";
const WAIT: Duration = Duration::from_secs(120);

/// As Debezium's documentation has it, and one column more.
const SIGNALS: &str = "
    create table debezium_signal (id varchar(42) primary key, type varchar(32) not null, data varchar(2048), sent_at timestamptz default now());
    create publication captured for table items, debezium_signal";

async fn prepare(test: &mut Fixture, rows: u64) -> Result<()> {
    test.database.execute(CHURNED).await?;
    joined::fill(&test.database, rows).await?;
    // So that it can be read from the beginning on.
    kafka::create_topic(&test.kafka.bootstrap, &notifications(test), 3).await?;
    test.database.execute(SIGNALS).await
}

fn notifications(test: &Fixture) -> String {
    format!("{}-notifications", test.prefix())
}

fn config(test: &Fixture) -> Config {
    test.config()
        .set("snapshot.chunk_bytes", "32KiB")
        .set("signals.table", "public.debezium_signal")
        .set("notifications.topic", notifications(test))
}

async fn signal(test: &Fixture, id: &str, verb: &str, data: Json) -> Result<()> {
    let sql = format!("insert into debezium_signal values ('{id}', '{verb}', $q${data}$q$)");
    test.database.execute(&sql).await
}

/// What was told, as (type, additional data), in order, of one id.
fn told(test: &Fixture, id: &str) -> Result<Vec<(String, Json)>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut told = Vec::new();
    for record in test.raw_topic(&notifications(test))? {
        let (key, value) = (decoder.json(record.key.as_deref())?, decoder.json(record.value.as_deref())?);
        ensure!(key["id"] == value["id"], "{key} {value}");
        ensure!(value["timestamp"].as_i64().is_some_and(|millis| millis > 1_600_000_000_000), "{value}");
        ensure!(value["additional_data"]["connector_name"] == test.prefix(), "{value}");
        if value["id"] == id {
            let kind = value["type"].as_str().context("a type")?.to_owned();
            let aggregate = value["aggregate_type"].as_str().context("an aggregate type")?;
            ensure!(
                aggregate == if kind == "REFUSED" { "Signal" } else { "Incremental Snapshot" },
                "{value}"
            );
            told.push((kind, value["additional_data"].clone()));
        }
    }
    Ok(told)
}

fn kinds(told: &[(String, Json)]) -> Vec<&str> {
    told.iter().map(|(kind, _)| kind.as_str()).collect()
}

async fn until_told(test: &Fixture, headwater: &Headwater, id: &str, kind: &str) -> Result<()> {
    until(WAIT, &format!("{kind} of {id}"), async || Ok(kinds(&told(test, id)?).contains(&kind)))
        .await
        .with_context(|| headwater.log_tail())
}

fn status(headwater: &Headwater) -> Result<Json> {
    let (_, body) = headwater.get("/snapshot").context("no answer")?;
    Ok(serde_json::from_str(&body)?)
}

async fn state(headwater: &Headwater, id: &str, wanted: &str) -> Result<()> {
    until(WAIT, &format!("{id} to be {wanted}"), async || {
        let status = status(headwater)?;
        Ok(status["id"] == id && status["state"] == wanted)
    })
    .await
    .with_context(|| headwater.log_tail())
}

/// The jobs that were stored for a signal.
fn jobs(test: &Fixture, id: &str) -> Result<BTreeSet<String>> {
    let mut tokens = BTreeSet::new();
    for record in test.raw_topic(&format!("checkpoint.{}", test.prefix()))? {
        let is_job = record.key.as_deref().is_some_and(|key| key.ends_with(b"/snapshot"));
        let Some(value) = record.value.filter(|_| is_job) else { continue };
        let job: Json = serde_json::from_slice(&value)?;
        if job["id"] == id {
            tokens.insert(job["token"].as_str().context("a token")?.to_owned());
        }
    }
    Ok(tokens)
}

/// Debezium's own words, from its documentation, under load.
async fn by_table(test: &mut Fixture) -> Result<()> {
    prepare(test, 10_000).await?;
    let config = config(test);
    let mut headwater = test.start(config).await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(10000)"]);
    traffic.commits(20).await?;
    let data = json!({"data-collections": [r"public\.it.*"], "type": "incremental"});
    signal(test, "ad-hoc-1", "execute-snapshot", data).await?;
    until_told(test, &headwater, "ad-hoc-1", "COMPLETED").await?;
    traffic.commits(20).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let told = told(test, "ad-hoc-1")?;
    let (first, last) = (&told[0], &told[told.len() - 1]);
    ensure!(first.0 == "STARTED" && first.1["data_collections"] == "public.items", "{told:?}");
    ensure!(last.0 == "COMPLETED", "{told:?}");
    let (kind, scanned) = &told[told.len() - 2];
    ensure!(kind == "TABLE_SCAN_COMPLETED" && scanned["status"] == "SUCCEEDED", "{told:?}");
    ensure!(told[1].0 == "IN_PROGRESS" && told[1].1["current_collection_in_progress"] == "public.items");
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(scanned["total_rows_scanned"] == json!(found.read.to_string()), "{scanned} {found:?}");
    // As Debezium's, the table of signals is a table as well.
    let signals = test.raw_topic(&test.topic("public.debezium_signal"))?;
    ensure!(signals.len() == 1, "{} records of signals", signals.len());
    Ok(())
}

/// What is under way is paused, goes on and is stopped; what waits for it is begun after it, or stopped with it.
async fn verbs(test: &mut Fixture) -> Result<()> {
    prepare(test, 20_000).await?;
    test.database
        .execute(
            "create table small (id int primary key); insert into small select generate_series(1, 10);
                  alter publication captured add table small",
        )
        .await?;
    // Its own records are not wanted here.
    let config = config(test).set("topics.exclude_tables", "public.debezium_signal");
    let mut headwater = test.start(config.clone()).await?;
    let items = json!({"data-collections": ["public.items"]});
    let small = json!({"data-collections": ["public.small"]});
    // In one transaction, so that the copy does not end before it is paused.
    let start = |id: &str, data: &Json| {
        format!("insert into debezium_signal values ('{id}', 'execute-snapshot', '{data}');")
    };
    let pause = "insert into debezium_signal values ('p', 'pause-snapshot', null);";
    test.database
        .execute(&format!("begin; {} {pause} {} commit", start("a", &items), start("b", &small)))
        .await?;
    state(&headwater, "a", "paused").await?;
    headwater.stop().await?;
    headwater = test.start(config.clone()).await?;
    state(&headwater, "a", "paused").await?;
    signal(test, "r", "resume-snapshot", json!({"type": "incremental"})).await?;
    state(&headwater, "b", "done").await?;
    // A stop also ends what waits.
    test.database
        .execute(&format!(
            "begin; {} {} {pause} insert into debezium_signal values ('s', 'stop-snapshot', '{{}}'); commit",
            start("c", &items),
            start("d", &small)
        ).replace("'p'", "'p2'"))
        .await?;
    until_told(test, &headwater, "c", "ABORTED").await?;
    signal(test, "e", "execute-snapshot", small).await?;
    state(&headwater, "e", "done").await?;
    headwater.stop().await?;
    ensure!(kinds(&told(test, "d")?).is_empty(), "what waited was begun: {:?}", told(test, "d"));
    let a = told(test, "a")?;
    let mut steps: Vec<_> = kinds(&a).into_iter().filter(|kind| !kind.starts_with("IN_P")).collect();
    // A step that was told and not stored when headwater stopped is told again.
    steps.dedup();
    ensure!(steps == ["STARTED", "PAUSED", "RESUMED", "TABLE_SCAN_COMPLETED", "COMPLETED"], "{steps:?}");
    ensure!(test.raw_topic(&test.topic("public.debezium_signal"))?.is_empty(), "they are left out");
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// A stop and a start that come in the midst of a job's later table: the old job's chunks are not the new one's.
async fn another_job_in_the_midst(test: &mut Fixture) -> Result<()> {
    prepare(test, 3_000).await?;
    test.expect_complaint(CHUNK_WAITS);
    test.database
        .execute(
            "create table first (id int primary key); insert into first select generate_series(1, 10);
             alter publication captured add table first",
        )
        .await?;
    let order = toml::Value::Array(vec!["public.first".into()]);
    let config = config(test).set("snapshot.order", order).set("signals.allow_filters", true);
    let mut headwater = test.start(config).await?;
    let gate = Gate::closed(&test.database, 1).await?;
    let filter = gate.condition("id >= 500");
    let conditions = json!([{"data-collection": "public.items", "filter": filter}]);
    let both =
        json!({"data-collections": ["public.first", "public.items"], "additional-conditions": conditions});
    signal(test, "a", "execute-snapshot", both).await?;
    gate.reached().await?;
    signal(test, "s", "stop-snapshot", json!({})).await?;
    signal(test, "b", "execute-snapshot", json!({"data-collections": ["public.first"]})).await?;
    until(WAIT, "both to be heard", async || Ok(waiting(test)? == ["s", "b"])).await?;
    gate.open().await?;
    state(&headwater, "b", "done").await?;
    let rows = status(&headwater)?["tables"]["public.first"]["rows"].clone();
    ensure!(rows == 10, "{rows} rows of a table of 10");
    until_told(test, &headwater, "b", "COMPLETED").await?;
    ensure!(kinds(&told(test, "a")?).contains(&"ABORTED"));
    headwater.stop().await?;
    Ok(())
}

/// The ids of requests that are stored and not done.
fn waiting(test: &Fixture) -> Result<Vec<String>> {
    let records = test.raw_topic(&format!("checkpoint.{}", test.prefix()))?;
    let of_requests = |key: &[u8]| key.ends_with(b"/requests");
    let last = records.into_iter().rfind(|record| record.key.as_deref().is_some_and(of_requests));
    let Some(value) = last.and_then(|record| record.value) else { return Ok(Vec::new()) };
    let value: Json = serde_json::from_slice(&value)?;
    let waiting = value["waiting"].as_array().context("a list")?;
    Ok(waiting.iter().map(|each| each["id"].as_str().unwrap_or_default().to_owned()).collect())
}

/// What is not understood or not allowed is said, once, and the stream goes on.
async fn refusals(test: &mut Fixture) -> Result<()> {
    prepare(test, 100).await?;
    test.expect_complaint("a signal is refused");
    let config = config(test);
    let mut headwater = test.start(config.clone()).await?;
    let tables = json!(["public.items"]);
    let filter = json!([{"data-collection": "public.items", "filter": "id = 1"}]);
    let cases = [
        ("x1", "drop-everything", json!({}), "there is no signal"),
        (
            "x2",
            "execute-snapshot",
            json!({"data-collections": tables, "type": "blocking"}),
            "type incremental",
        ),
        (
            "x3",
            "execute-snapshot",
            json!({"data-collections": tables, "additional-conditions": filter}),
            "signals.allow_filters",
        ),
        (
            "x4",
            "execute-snapshot",
            json!({"data-collections": ["public.none"]}),
            "no published table matches",
        ),
        ("x5", "execute-snapshot", json!({"data-collections": tables, "sql": "drop"}), "is not understood"),
        ("x6", "pause-snapshot", json!({}), "no snapshot is running"),
    ];
    for (id, verb, data, words) in &cases {
        signal(test, id, verb, data.clone()).await?;
        until_told(test, &headwater, id, "REFUSED").await?;
        let told = told(test, id)?;
        let reason = told[0].1["reason"].as_str().context("a reason")?;
        ensure!(told.len() == 1 && reason.contains(words), "{id}: {told:?}");
    }
    signal(test, "l1", "log", json!({"message": "the lights are on"})).await?;
    headwater.log_line(&["the lights are on", "l1"]).await?;
    let counted = headwater.metric("headwater_signals_total", &["outcome=\"refused\"", "channel=\"table\""]);
    // The other two were understood and could not be done.
    ensure!(counted == Some(4.0), "{counted:?}");
    // Conditions are taken where the configuration allows them, and only as conditions.
    headwater.stop().await?;
    headwater = test.start(config.set("signals.allow_filters", true)).await?;
    let filtered = |filter: &str| {
        let conditions = json!([{"data-collection": r"public\.items", "filter": filter}]);
        json!({"data-collections": tables, "additional-conditions": conditions})
    };
    let breaking_out =
        ["true) or (true; drop table items", "true) union select 1, 1, 'x', 'y' where (true", "nothing > 5"];
    for (number, filter) in breaking_out.iter().enumerate() {
        let id = format!("f{number}");
        signal(test, &id, "execute-snapshot", filtered(filter)).await?;
        until_told(test, &headwater, &id, "REFUSED").await?;
    }
    signal(test, "f", "execute-snapshot", filtered("id % 10 = 0 -- tens")).await?;
    state(&headwater, "f", "done").await?;
    test.settle().await?;
    headwater.stop().await?;
    let rows = format!("{ROWS} where id % 10 = 0");
    let found = joined::check(test, &test.topic("public.items"), &rows).await?;
    ensure!(found.read == 10, "{found:?}");
    Ok(())
}

/// A topic's signals are taken once each, also those that were sent while nobody listened, and over crashes.
async fn by_topic(test: &mut Fixture) -> Result<()> {
    prepare(test, 5_000).await?;
    let topic = format!("{}-signal", test.prefix());
    kafka::create_topic(&test.kafka.bootstrap, &topic, 1).await?;
    let (bootstrap, prefix) = (test.kafka.bootstrap.clone(), test.prefix().to_owned());
    let send = |id: &str, table: &str, key: &str| {
        let value = json!({"id": id, "type": "execute-snapshot", "data": {"data-collections": [table], "type": "INCREMENTAL"}});
        kafka::produce(&bootstrap, &topic, &[(key, &value.to_string())])
    };
    // From before this instance: not for it.
    send("old", "public.items", &prefix)?;
    let config = config(test).set("signals.topic", topic.clone());
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(5000)"]);
    // Where it begins is stored with the first of these, and each kill comes as soon as a job is begun.
    until(WAIT, "the topic to be followed", async || {
        Ok(headwater.metric("headwater_signals_total", &["outcome=\"other\""]).unwrap_or(0.0) > 0.0 || {
            send("not-ours", "public.items", "another")?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            false
        })
    })
    .await?;
    for round in 0..4 {
        let (id, down) = (format!("round-{round}"), format!("down-{round}"));
        send(&id, "public.items", &prefix)?;
        headwater.log_line(&["beside the stream", &id]).await?;
        headwater.kill()?;
        send(&down, "public.items", &prefix)?;
        headwater = test.start(config.clone()).await?;
        until_told(test, &headwater, &down, "COMPLETED").await?;
        until_told(test, &headwater, &id, "COMPLETED").await?;
        headwater.stop().await?;
        headwater = test.start(config.clone()).await?;
    }
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    for id in (0..4).flat_map(|round| [format!("round-{round}"), format!("down-{round}")]) {
        let jobs = jobs(test, &id)?;
        ensure!(jobs.len() == 1, "{id} began {jobs:?}");
    }
    ensure!(told(test, "old")?.is_empty() && told(test, "not-ours")?.is_empty());
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// A signal in a table begins one job, whenever headwater is killed, and none is lost.
async fn killed(test: &mut Fixture) -> Result<()> {
    prepare(test, 2_000).await?;
    let config = config(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(2000)"]);
    let items = json!({"data-collections": ["public.items"]});
    let mut repeated = 0.0;
    for round in 0..8u64 {
        let id = format!("k{round}");
        signal(test, &id, "execute-snapshot", items.clone()).await?;
        match round % 4 {
            // Before it is read, when it is taken, when its job is begun, while it copies.
            0 => {}
            1 => drop(headwater.log_line(&["a signal was taken", &id]).await?),
            2 => drop(headwater.log_line(&["beside the stream", &id]).await?),
            _ => until(WAIT, "the job", async || Ok(status(&headwater)?["id"] == id)).await?,
        }
        headwater.kill()?;
        headwater = test.start(config.clone()).await?;
        until_told(test, &headwater, &id, "COMPLETED").await?;
        repeated += headwater.metric("headwater_signals_total", &["outcome=\"repeated\""]).unwrap_or(0.0);
    }
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    println!("{repeated} signals came again");
    for round in 0..8 {
        let told = told(test, &format!("k{round}"))?;
        let last = kinds(&told).into_iter().rfind(|kind| !kind.starts_with("IN_P"));
        ensure!(last == Some("COMPLETED"), "k{round}: {told:?}");
        let jobs = jobs(test, &format!("k{round}"))?;
        ensure!(jobs.len() == 1, "k{round} began {jobs:?}");
    }
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// A table of signals that nobody would hear is said at the start, and so is that it is heard.
async fn unpublished(test: &mut Fixture) -> Result<()> {
    prepare(test, 10).await?;
    test.database.execute("alter publication captured drop table debezium_signal").await?;
    test.expect_complaint("is not published, so no signal is heard");
    let config = config(test);
    let mut headwater = test.start(config).await?;
    headwater.log_line(&["is not published, so no signal is heard", "public.debezium_signal"]).await?;
    test.database.execute("alter publication captured add table debezium_signal").await?;
    signal(test, "first", "execute-snapshot", json!({"data-collections": ["public.items"]})).await?;
    until_told(test, &headwater, "first", "COMPLETED").await?;
    headwater.log_line(&["the table of signals is published now"]).await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// A first snapshot is told of as well, before and after it is stored, and the table of signals is no part of it.
async fn first_copy(test: &mut Fixture) -> Result<()> {
    prepare(test, 1_000).await?;
    signal(test, "past", "execute-snapshot", json!({"data-collections": ["public.items"]})).await?;
    let config = config(test).set("snapshot.mode", "initial").set("notifications.log", true);
    let mut headwater = test.start(config).await?;
    state(&headwater, "initial", "done").await?;
    test.settle().await?;
    headwater.log_line(&["notification", "COMPLETED", "Initial Snapshot"]).await?;
    headwater.stop().await?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut steps = Vec::new();
    for record in test.raw_topic(&notifications(test))? {
        let value = decoder.json(record.value.as_deref())?;
        ensure!(value["aggregate_type"] == "Initial Snapshot", "{value}");
        steps.push(value["type"].as_str().context("a type")?.to_owned());
    }
    ensure!(steps == ["STARTED", "TABLE_SCAN_COMPLETED", "COMPLETED"], "{steps:?}");
    ensure!(test.raw_topic(&test.topic("public.debezium_signal"))?.is_empty());
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 1_000, "{found:?}");
    Ok(())
}

#[test]
fn a_signal_in_a_table() {
    on_shared("signal_table", by_table);
}

#[test]
fn paused_resumed_and_stopped_by_signals() {
    on_shared("signal_verbs", verbs);
}

#[test]
fn a_stop_and_a_start_in_the_midst() {
    on_shared("signal_midst", another_job_in_the_midst);
}

#[test]
fn signals_that_are_refused() {
    on_shared("signal_refused", refusals);
}

#[test]
fn signals_in_a_topic_over_crashes() {
    on_shared("signal_topic", by_topic);
}

#[test]
fn signals_in_a_table_over_crashes() {
    on_shared("signal_killed", killed);
}

#[test]
fn a_table_of_signals_that_is_not_published() {
    on_shared("signal_unpublished", unpublished);
}

#[test]
fn the_first_copy_is_told_of() {
    on_shared("signal_first", first_copy);
}
