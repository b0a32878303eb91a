//! Tables change in the midst of a copy: it is correct, or it stops with advice and nothing is lost.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::joined::{self, CHURNED, COLUMNS};
use crate::harness::snapshots::{
    self, CHUNK_WAITS, Gate, ROWS, beside, change_at, commanded, complete, gated, initial, prepare,
    start_gated, state,
};
use crate::harness::traffic::Traffic;
use crate::harness::until;

const FILLED: u64 = 3000;
const LATER: &str = "id >= 1000";

/// In the midst of the first copy a change of the table waits; beside the stream it comes between two chunks.
async fn columns_and_storage(test: &mut Fixture) -> Result<()> {
    let sql = CHURNED.replace(
        "(id bigint primary key",
        "(gone int default 1, old_name int default 2, wide int default 3, id bigint primary key",
    );
    test.database.execute(&sql).await?;
    joined::fill(&test.database, FILLED).await?;
    test.database.execute("create publication captured for table items").await?;
    test.expect_complaint(CHUNK_WAITS);
    let traffic = Traffic::start(&test.database, 2, &["select churn(3000)"]);
    let config = gated(initial(test), 1, LATER);
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    change_at(test, gate, "alter table items add column extra int default 7").await?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    for (number, change) in [
        "alter table items drop column gone",
        "alter table items rename column old_name to new_name",
        "alter table items alter column wide type bigint",
        "vacuum full items",
        "cluster items using items_pkey",
        "alter table items add column late int not null default 8",
    ]
    .into_iter()
    .enumerate()
    {
        let gate =
            start_gated(test, &headwater, &config, "public.items", (10 + number as i32, LATER)).await?;
        change_at(test, gate, change).await?;
        state(&headwater, "done").await?;
        let told = snapshots::status(&headwater)?["tables"]["public.items"].clone();
        ensure!(told["state"] == "done", "{change}: {told}");
    }
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let columns = [COLUMNS, &["new_name|old_name", "wide", "extra", "late?"]].concat();
    let rows = "select id, version, body, big, new_name, wide, extra, late from items";
    joined::check_columns(test, &test.topic("public.items"), rows, &columns).await?;
    Ok(())
}

/// Rows that a TRUNCATE took away do not come back, in either way of copying.
async fn truncated(test: &mut Fixture) -> Result<()> {
    prepare(test, FILLED).await?;
    test.expect_complaint(CHUNK_WAITS);
    // With one partition the order of everything is that of the topic.
    let config = gated(initial(test), 1, LATER).set("topics.partitions", 1).set("records.truncate", "emit");
    let traffic = Traffic::start(&test.database, 2, &["select churn(3000)"]);
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    change_at(test, gate, "truncate items").await?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    traffic.finish().await;
    test.database.execute("delete from items").await?;
    joined::fill(&test.database, FILLED).await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(3000)"]);
    let gate = start_gated(test, &headwater, &config, "public.items", (2, LATER)).await?;
    change_at(test, gate, "truncate items").await?;
    state(&headwater, "done").await?;
    traffic.commits(30).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read > 3000, "{found:?}");
    Ok(())
}

/// What is left of a first copy by pages: a rewrite in between puts rows into pages that are done.
async fn rewritten_between_pages(test: &mut Fixture) -> Result<()> {
    test.database.execute(CHURNED).await?;
    test.database
        .execute(
            "alter table items replica identity full; alter table items set (fillfactor = 30);
             create or replace function big_of(id bigint) returns text language sql as $$ select null::text $$",
        )
        .await?;
    joined::fill(&test.database, 45_000).await?;
    test.database.execute("create publication captured for table items").await?;
    test.expect_complaint(CHUNK_WAITS);
    // Three ranges, the second of which waits.
    let config = gated(initial(test), 1, "id between 18000 and 19000");
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    let topic = format!("checkpoint.{}", test.prefix());
    until(Duration::from_secs(60), "a range of pages to be done and stored", async || {
        let progress = test.raw_topic(&topic)?.into_iter().filter_map(|record| record.value);
        Ok(progress.into_iter().any(|value| String::from_utf8_lossy(&value).contains("pages_done")))
    })
    .await?;
    headwater.kill()?;
    // Room at the beginning for what is at the end.
    test.database.execute("delete from items where id between 1 and 10000").await?;
    headwater = test.start(config.clone()).await?;
    gate.reached().await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(45000)"]);
    change_at(test, gate, "vacuum full items").await?;
    complete(&headwater).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    println!("{found:?}");
    ensure!(found.marks.contains_key("true") && found.marks.contains_key("incremental"), "{found:?}");
    Ok(())
}

/// Rows of a partition that is attached, behind the place that the copy has come to, are copied; those of one that is
/// detached stay as they were.
async fn partitions(test: &mut Fixture) -> Result<()> {
    let sql = CHURNED.replace(
        "body text, big text);",
        "body text, big text) partition by range (id);
         create table low partition of items for values from (minvalue) to (1000);
         create table high partition of items for values from (2000) to (3000);
         create table higher partition of items for values from (3000) to (maxvalue);
         create table middle (like items including all);
         alter table middle alter column big set storage external;",
    );
    test.database.execute(&sql).await?;
    for (table, from, to) in [("items", 1, 999), ("middle", 1000, 1999), ("items", 2000, 4500)] {
        let fill = format!(
            "insert into {table} (id, version, body, big)
             select i, nextval('versions'), 'there', big_of(i) from generate_series({from}, {to}) i"
        );
        test.database.execute(&fill).await?;
    }
    test.database
        .execute("create publication captured for table items with (publish_via_partition_root = true)")
        .await?;
    test.expect_complaint(CHUNK_WAITS);
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(900)"]);
    let gate = start_gated(test, &headwater, &config, "public.items", (1, "id >= 2500")).await?;
    let attach = "alter table items attach partition middle for values from (1000) to (2000)";
    change_at(test, gate, attach).await?;
    state(&headwater, "done").await?;
    let gate = start_gated(test, &headwater, &config, "public.items", (2, "id >= 500")).await?;
    change_at(test, gate, "alter table items detach partition higher").await?;
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let rows = format!("{ROWS} union all {}", ROWS.replace("items", "higher"));
    let found = joined::check(test, &test.topic("public.items"), &rows).await?;
    ensure!(found.read > 6000, "{found:?}");
    Ok(())
}

/// The copy of a table that is not the same any more is given up, and says what to do; that of another one goes on.
async fn given_up(test: &mut Fixture) -> Result<()> {
    prepare(test, 1000).await?;
    for words in [CHUNK_WAITS, "giving up the copy of a table", "compatibility", "key_schema_changed"] {
        test.expect_complaint(words);
    }
    for table in ["rekeyed", "dropped", "renamed", "anew"] {
        let sql = format!(
            "create table {table} (id int primary key, other int not null);
             insert into {table} select i, -i from generate_series(1, 3000) i;
             alter publication captured add table {table}"
        );
        test.database.execute(&sql).await?;
    }
    let config = beside(test).set("records.on_incompatible", "set_compatibility_none");
    let mut headwater = test.start(config.clone()).await?;
    for (number, table, change, words, then) in [
        (
            1,
            "rekeyed",
            "begin; alter table rekeyed drop constraint rekeyed_pkey; alter table rekeyed add primary key (other); commit",
            "its key was changed",
            Some("public.rekeyed"),
        ),
        (2, "dropped", "drop table dropped", "is not published any more", None),
        (
            3,
            "renamed",
            "alter table renamed rename to found",
            "is not published any more",
            Some("public.found"),
        ),
        (
            4,
            "anew",
            "begin; drop table anew; create table anew (id int primary key, other int not null);
             insert into anew select i, -i from generate_series(1, 3000) i;
             alter publication captured add table anew; commit",
            "was made anew",
            Some("public.anew"),
        ),
    ] {
        let gates = format!("public.{table}={}", snapshots::condition(number, "id >= 100"));
        let gate = Gate::closed(&test.database, number).await?;
        let name = format!("public.{table}");
        commanded(test, &headwater, &config, &["start", &name, "public.items", "--where", &gates])?;
        gate.reached().await?;
        change_at(test, gate, change).await?;
        state(&headwater, "done").await?;
        let tables = snapshots::status(&headwater)?["tables"].clone();
        ensure!(tables[&name]["state"] == "failed", "{tables}");
        ensure!(tables[&name]["error"].as_str().is_some_and(|error| error.contains(words)), "{tables}");
        ensure!(tables["public.items"]["state"] == "done", "{tables}");
        if let Some(then) = then {
            commanded(test, &headwater, &config, &["start", then])?;
            state(&headwater, "done").await?;
            let rows = snapshots::status(&headwater)?["tables"][then]["rows"].clone();
            ensure!(rows == 3000, "{then}: {rows} rows");
        }
    }
    test.settle().await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    for (table, key) in [("rekeyed", "other"), ("found", "id"), ("anew", "id")] {
        ensure!(keys(test, table, key)? == 3000, "{table} is not whole");
    }
    Ok(())
}

/// How many keys with this column a topic has.
fn keys(test: &Fixture, table: &str, column: &str) -> Result<usize> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut keys = std::collections::BTreeSet::new();
    for record in test.raw_topic(&test.topic(&format!("public.{table}")))? {
        keys.extend(decoder.json(record.key.as_deref())?[column].as_i64());
    }
    Ok(keys.len())
}

/// A first copy that can't go on halts: nobody would miss the rows until they are needed. After the cure it does.
async fn halted(test: &mut Fixture) -> Result<()> {
    prepare(test, FILLED).await?;
    for words in [CHUNK_WAITS, "is not published any more", "has no key any more", "is given up"] {
        test.expect_complaint(words);
    }
    let config = gated(initial(test), 1, LATER);
    let output = test.command(&["init"], &config)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let halts = async |test: &mut Fixture, change: &str, words: &str| -> Result<()> {
        let gate = Gate::closed(&test.database, 1).await?;
        let mut headwater = test.spawn(config.clone())?;
        gate.reached().await?;
        change_at(test, gate, change).await?;
        headwater.exits_with(49).await?;
        headwater.log_line(&[words, "\"advice\""]).await.map(drop)
    };
    halts(test, "alter table items rename to goods", "is not published any more").await?;
    // Renamed back it is the same table, and the copy goes on where it was.
    test.database.execute("alter table goods rename to items").await?;
    halts(test, "alter table items drop constraint items_pkey", "has no key any more").await?;
    test.database.execute("alter table items add primary key (id)").await?;
    // Given up on purpose, and asked for anew.
    let config = config.set("snapshot.mode", "never");
    let mut headwater = test.spawn(config.clone())?;
    headwater.streaming().await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(3000)"]);
    commanded(test, &headwater, &config, &["start", "public.items"])?;
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

#[test]
fn columns_change_and_rows_move() {
    on_shared("change_columns", columns_and_storage);
}

#[test]
fn truncate() {
    on_shared("change_truncate", truncated);
}

#[test]
fn rewrite_between_ranges_of_pages() {
    on_shared("change_pages", rewritten_between_pages);
}

#[test]
fn partitions_come_and_go() {
    on_shared("change_partitions", partitions);
}

#[test]
fn another_table_than_before() {
    on_shared("change_given_up", given_up);
}

#[test]
fn a_first_copy_halts_and_is_cured() {
    on_shared("change_halted", halted);
}
