//! The first snapshot: what was there when the slot was created, and the stream from there on, without a seam.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::joined;
use crate::harness::servers;
use crate::harness::snapshots::{ROWS, commanded, complete, initial, prepare, state};
use crate::harness::traffic::Traffic;

const WRITERS: u64 = 3;

async fn under_load(test: &mut Fixture) -> Result<()> {
    prepare(test, 8_000).await?;
    let traffic = Traffic::start(&test.database, WRITERS, &["select churn(8000)"]);
    traffic.commits(20).await?;
    let mut headwater = test.spawn(initial(test))?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    traffic.commits(100).await?;
    commanded(test, &headwater, &initial(test), &["start", "public.items"])?;
    state(&headwater, "done").await?;
    traffic.commits(100).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read > 12_000 && found.streamed > 100, "{found:?}");
    ensure!(found.marks.get("incremental").is_some_and(|rows| *rows > 6_000), "{found:?}");
    ensure!(found.repeated == 0, "nothing failed, and yet: {found:?}");
    for (mark, count) in [("first", 1), ("last", 1)] {
        ensure!(found.marks.get(mark) == Some(&count), "{mark}: {found:?}");
    }
    Ok(())
}

/// Rows whose text COPY escapes, tables of all sorts, and what `source.snapshot` says of them.
async fn several_tables(test: &mut Fixture) -> Result<()> {
    test.database
        .execute(
            "create table plain (id int primary key, note text);
             insert into plain values (1, E'tab\\tnewline\\nbackslash\\\\'), (2, null), (3, ''), (4, '\\N'), (5, 'käse');
             create table nothing (id int primary key);
             create table keyless (n int);
             insert into keyless select i % 3 from generate_series(1, 9) i;
             create table split (id int, part int, primary key (id, part)) partition by list (part);
             create table split_a partition of split for values in (1);
             create table split_b partition of split for values in (2);
             insert into split select i, 1 + i % 2 from generate_series(1, 10) i;
             create table made (id int primary key, twice int generated always as (id * 2) stored);
             insert into made select i from generate_series(1, 4) i;
             create publication captured for table plain, nothing, keyless, split, made
               with (publish_via_partition_root = true)",
        )
        .await?;
    let mut headwater = test.spawn(initial(test))?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    let mut decoder = crate::harness::decode::Decoder::new(&test.kafka.registry);
    let mut counts = std::collections::BTreeMap::new();
    let mut marks = std::collections::BTreeMap::new();
    let mut notes = std::collections::BTreeMap::new();
    for record in test.raw_records()? {
        let value = decoder.json(record.value.as_deref())?;
        ensure!(value["op"] == "r", "{}: {}", record.topic, value["op"]);
        let table = value["source"]["table"].as_str().unwrap_or_default().to_owned();
        *counts.entry(table.clone()).or_insert(0) += 1;
        *marks.entry(value["source"]["snapshot"].as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
        if table == "plain" {
            notes.insert(value["after"]["id"].as_i64(), value["after"]["note"].as_str().map(str::to_owned));
        }
    }
    let expected = [("keyless", 9), ("made", 4), ("plain", 5), ("split", 10)];
    ensure!(counts.iter().map(|(table, count)| (table.as_str(), *count)).eq(expected), "{counts:?}");
    let expected_marks = [
        ("first", 1),
        ("first_in_data_collection", 3),
        ("last", 1),
        ("last_in_data_collection", 3),
        ("true", 20),
    ];
    ensure!(marks.iter().map(|(mark, count)| (mark.as_str(), *count)).eq(expected_marks), "{marks:?}");
    for row in test.database.rows("select id, note from plain").await? {
        let id = row[0].as_deref().and_then(|id| id.parse().ok());
        ensure!(notes.get(&id) == Some(&row[1]), "{row:?} is {:?}", notes.get(&id));
    }
    Ok(())
}

/// A slot that `init` made has no snapshot to copy under: what has no key is copied as a whole, before the stream.
async fn after_init(test: &mut Fixture) -> Result<()> {
    test.database.execute("create table keyless (n bigint); create sequence numbers").await?;
    test.database
        .execute("insert into keyless select nextval('numbers') from generate_series(1, 5000)")
        .await?;
    prepare(test, 5000).await?;
    test.database.execute("alter publication captured add table keyless").await?;
    test.database.execute("alter table keyless replica identity full").await?;
    let output = test.command(&["init"], &initial(test))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let statements = [
        "select churn(5000)",
        "insert into keyless select nextval('numbers')",
        "delete from keyless where n in (select n from keyless limit 1)",
        "update keyless set n = nextval('numbers') where n in (select n from keyless limit 1)",
    ];
    let traffic = Traffic::start(&test.database, WRITERS, &statements);
    traffic.commits(50).await?;
    let mut headwater = test.spawn(initial(test))?;
    complete(&headwater).await?;
    traffic.commits(100).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    // Every row of the table once: added by `r`, `c` and an update's new row, taken away by a delete's or update's old.
    let mut decoder = crate::harness::decode::Decoder::new(&test.kafka.registry);
    let mut counts: std::collections::BTreeMap<i64, i64> = std::collections::BTreeMap::new();
    for record in test.raw_topic(&test.topic("public.keyless"))? {
        let value = decoder.json(record.value.as_deref())?;
        for (row, by) in [("before", -1), ("after", 1)] {
            if let Some(n) = value[row]["n"].as_i64() {
                *counts.entry(n).or_default() += by;
            }
        }
    }
    counts.retain(|_, count| *count != 0);
    let rows = test.database.rows("select n from keyless order by n").await?;
    let table: Vec<i64> = rows.iter().filter_map(|row| row[0].as_deref()?.parse().ok()).collect();
    ensure!(counts.values().all(|count| *count == 1), "{:?}", counts.iter().find(|(_, count)| **count != 1));
    ensure!(
        counts.keys().copied().eq(table.iter().copied()),
        "{} in the topic, {} in the table",
        counts.len(),
        table.len()
    );
    Ok(())
}

/// A role that row-level security restricts would copy some rows, and nobody would know which.
async fn row_security(test: &mut Fixture) -> Result<()> {
    let role = format!("reader_{}", test.database.name);
    test.database
        .execute(&format!(
            "create table secret (id int primary key); insert into secret values (1), (2);
             alter table secret enable row level security;
             create policy odd on secret using (id % 2 = 1);
             create role {role} login replication; grant select on secret to {role}; grant pg_monitor to {role};
             create publication captured for table secret"
        ))
        .await?;
    let url = test.database.url().replacen("postgres@", &format!("{role}@"), 1);
    test.expect_complaint("row-level security");
    let mut headwater = test.spawn(initial(test).set("postgres.url", url))?;
    headwater.exits_with(49).await?;
    headwater.log_line(&["row-level security hides rows", "public.secret", "BYPASSRLS"]).await?;
    ensure!(
        test.raw_topic(&test.topic("public.secret")).map_or(0, |records| records.len()) == 0,
        "rows were sent"
    );
    Ok(())
}

/// `mode = "only"` ends with 0 when everything is stored.
async fn only(test: &mut Fixture) -> Result<()> {
    prepare(test, 500).await?;
    let mut headwater = test.spawn(test.config().set("snapshot.mode", "only"))?;
    headwater.exits_with(0).await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 500, "{found:?}");
    Ok(())
}

#[test]
fn rows_and_stream_join_under_load() {
    on_shared("snapshot_load", under_load);
}

#[test]
fn tables_of_all_sorts() {
    on_shared("snapshot_tables", several_tables);
}

#[test]
fn tables_without_a_key_after_init() {
    on_shared("snapshot_init", after_init);
}

#[test]
fn row_level_security_is_refused() {
    on_shared("snapshot_rls", row_security);
}

#[test]
fn only_a_snapshot() {
    on_shared("snapshot_only", only);
}

#[test]
fn on_postgres_14() {
    on("snapshot_14", servers::postgres(14), servers::kafka(), under_load);
}

#[test]
fn on_postgres_15() {
    on("snapshot_15", servers::postgres(15), servers::kafka(), under_load);
}

#[test]
fn on_postgres_17() {
    on("snapshot_17", servers::postgres(17), servers::kafka(), under_load);
}

#[test]
fn on_postgres_18() {
    on("snapshot_18", servers::postgres(18), servers::kafka(), under_load);
}
