//! Tables that are added to a publication while writers write to them, and while headwater is down.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tokio_postgres::Client;

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::joined::{self, CHURNED};
use crate::harness::servers::{self, PrivatePostgres};
use crate::harness::snapshots::{CHUNK_WAITS, start_gated};
use crate::harness::traffic::Traffic;
use crate::harness::until;

const WAIT: Duration = Duration::from_secs(120);

/// What `CHURNED` makes, under another name.
fn churned(table: &str) -> String {
    let names = ["items", "churn", "big_of", "versions"];
    names.iter().fold(CHURNED.to_owned(), |sql, name| sql.replace(name, &format!("{table}_{name}")))
}

/// A publication of a table that is of no interest, and one with rows that nobody publishes yet.
async fn prepare(test: &mut Fixture, tables: &[&str], rows: u64) -> Result<()> {
    test.database
        .execute(
            "create table known (id int primary key, n int); create publication captured for table known",
        )
        .await?;
    for table in tables {
        test.database.execute(&churned(table)).await?;
        fill(test, table, rows).await?;
    }
    Ok(())
}

async fn fill(test: &Fixture, table: &str, rows: u64) -> Result<()> {
    let sql = format!(
        "insert into {table}_items select i, nextval('{table}_versions'), md5(i::text), {table}_big_of(i) from generate_series(1, {rows}) i"
    );
    test.database.execute(&sql).await
}

fn config(test: &Fixture) -> Config {
    test.config().set("snapshot.on_new_table", "snapshot").set("snapshot.chunk_bytes", "64KiB")
}

async fn add(test: &Fixture, table: &str) -> Result<()> {
    test.database.execute(&format!("alter publication captured add table {table}_items")).await
}

async fn check(test: &Fixture, table: &str) -> Result<joined::Joined> {
    let rows = format!("select id, version, body, big from {table}_items");
    let found = joined::check(test, &test.topic(&format!("public.{table}_items")), &rows).await;
    found.with_context(|| table.to_owned())
}

fn status(headwater: &Headwater) -> Result<Json> {
    let (_, body) = headwater.get("/snapshot").context("no answer")?;
    Ok(serde_json::from_str(&body)?)
}

/// Waits until a job with this table is done.
async fn copied(headwater: &Headwater, table: &str) -> Result<()> {
    headwater.log_line(&["\"copied\"", &format!("public.{table}_items")]).await?;
    until(WAIT, "the job to be done", async || Ok(status(headwater)?["state"] == "done"))
        .await
        .with_context(|| headwater.log_tail())
}

/// Waits until so many tables are stored as known.
async fn stored_as_known(test: &Fixture, tables: usize) -> Result<()> {
    until(WAIT, "the tables to be stored", async || {
        Ok(stored_requests(test)?["tables"].as_array().is_some_and(|known| known.len() == tables))
    })
    .await
}

/// What is stored of requests last; null before anything is.
fn stored_requests(test: &Fixture) -> Result<Json> {
    let records = test.raw_topic(&format!("checkpoint.{}", test.prefix()))?;
    let of_requests = |key: &[u8]| key.ends_with(b"/requests");
    let last = records.into_iter().rfind(|record| record.key.as_deref().is_some_and(of_requests));
    let value = last.and_then(|record| record.value);
    Ok(value.map_or(Ok(Json::Null), |value| serde_json::from_slice(&value))?)
}

/// A transaction that has written to a table, in all ways, and is open. Its keys are no others'.
async fn open_writer(test: &Fixture, table: &str, number: i64) -> Result<Client> {
    let client = test.database.connect().await?;
    client.batch_execute("begin").await?;
    write(&client, table, -1000 * number).await?;
    Ok(client)
}

async fn write(client: &Client, table: &str, from: i64) -> Result<()> {
    let (one, two, three) = (from - 1, from - 2, from - 3);
    client
        .batch_execute(&format!(
            "insert into {table}_items select i, nextval('{table}_versions'), 'new', {table}_big_of(i) from generate_series({from} - 20, {from}) i;
             update {table}_items set version = nextval('{table}_versions'), body = 'changed' where id = {one};
             delete from {table}_items where id = {two};
             savepoint s;
             update {table}_items set version = nextval('{table}_versions'), body = 'never' where id = {three};
             rollback to s;
             update {table}_items set version = nextval('{table}_versions'), id = {from} - 100 where id = {three}"
        ))
        .await?;
    Ok(())
}

/// The heart: rows that open transactions wrote before the table was added are in no stream.
async fn writers_open(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a"], 5_000).await?;
    let mut headwater = test.start(config(test)).await?;
    let traffic = Traffic::start(&test.database, 3, &["select a_churn(5000)"]);
    traffic.commits(20).await?;
    let mut writers = Vec::new();
    for number in 1..=4 {
        writers.push(open_writer(test, "a", number).await?);
    }
    // They also touch what was there, and what the stream does not know of either.
    writers[0].batch_execute("update a_items set version = nextval('a_versions'), body = 'held' where id in (select id from a_items where id > 4000 order by id limit 5 for update skip locked)").await?;
    add(test, "a").await?;
    headwater.log_line(&["a table was added to the publication", "public.a_items"]).await?;
    for (number, writer) in writers.iter().enumerate() {
        // The rest of it is in the stream: it tears.
        write(writer, "a", -1000 * (number as i64 + 11)).await?;
        writer
            .batch_execute(&format!(
                "update a_items set version = nextval('a_versions'), body = 'torn' where id = {}",
                -1000 * (number as i64 + 1) - 1
            ))
            .await?;
    }
    traffic.commits(150).await?;
    let waiting = headwater.metric("headwater_snapshot_new_tables_waiting", &[]);
    for (number, writer) in writers.iter().enumerate() {
        ensure!(headwater.log_lines(&["beside the stream"]).is_empty(), "it did not wait");
        writer.batch_execute(if number == 3 { "rollback" } else { "commit" }).await?;
        traffic.commits(10).await?;
    }
    ensure!(waiting == Some(1.0), "{waiting:?} tables were waiting");
    copied(&headwater, "a").await?;
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    println!("{:?}", check(test, "a").await?);
    Ok(())
}

/// The same while nobody reads the stream, and killed while it waits and while it copies.
async fn while_down(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a", "b"], 5_000).await?;
    let mut headwater = test.start(config(test)).await?;
    headwater.stop().await?;
    let traffic = Traffic::start(&test.database, 2, &["select a_churn(5000)", "select b_churn(5000)"]);
    traffic.commits(20).await?;
    let first = open_writer(test, "a", 1).await?;
    let second = open_writer(test, "b", 1).await?;
    add(test, "a").await?;
    headwater = test.start(config(test)).await?;
    headwater.metric_until("headwater_snapshot_new_tables_waiting", &[], |waiting| waiting == 1.0).await?;
    headwater.kill()?;
    add(test, "b").await?;
    write(&first, "a", -5000).await?;
    headwater = test.start(config(test)).await?;
    headwater.metric_until("headwater_snapshot_new_tables_waiting", &[], |waiting| waiting == 2.0).await?;
    traffic.commits(50).await?;
    first.batch_execute("commit").await?;
    second.batch_execute("commit").await?;
    until(WAIT, "a copy to begin", async || Ok(status(&headwater)?["state"] == "running")).await?;
    headwater.kill()?;
    headwater = test.start(config(test)).await?;
    until(WAIT, "both to be copied", async || {
        let waits = stored_requests(test)?["waiting"].as_array().is_none_or(|waiting| !waiting.is_empty());
        Ok(!waits && status(&headwater)?["state"] == "done")
    })
    .await
    .with_context(|| headwater.log_tail())?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    check(test, "a").await?;
    check(test, "b").await?;
    // Known from now on.
    headwater = test.start(config(test)).await?;
    test.settle().await?;
    headwater.stop().await?;
    ensure!(headwater.log_lines(&["was added to the publication"]).is_empty());
    Ok(())
}

/// Several, one after the other, while another snapshot is under way: each has its turn.
async fn several(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a", "b", "c"], 8_000).await?;
    add(test, "a").await?;
    let mut headwater = test.start(config(test).set("snapshot.chunk_bytes", "16KiB")).await?;
    let statements = ["select a_churn(8000)", "select b_churn(8000)", "select c_churn(8000)"];
    let traffic = Traffic::start(&test.database, 3, &statements);
    let instance = headwater.address();
    let output =
        test.command(&["snapshot", "start", "public.a_items", "--instance", &instance], &config(test))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let writer = open_writer(test, "b", 1).await?;
    add(test, "b").await?;
    traffic.commits(20).await?;
    writer.batch_execute("commit").await?;
    add(test, "c").await?;
    for table in ["a", "b", "c"] {
        copied(&headwater, table).await?;
    }
    traffic.commits(30).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    for table in ["a", "b", "c"] {
        let found = check(test, table).await?;
        ensure!(found.marks.get("incremental").is_some_and(|rows| *rows > 5_000), "{table}: {found:?}");
    }
    Ok(())
}

/// Taken out and put back: what was written in between is in no stream.
async fn put_back(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a"], 500).await?;
    add(test, "a").await?;
    let mut headwater = test.start(config(test).set("snapshot.mode", "initial")).await?;
    until(WAIT, "the first copy", async || Ok(status(&headwater)?["state"] == "done")).await?;
    test.database.execute("alter publication captured drop table a_items").await?;
    test.database
        .execute(
            "update a_items set version = nextval('a_versions'), body = 'unseen' where id % 3 = 0;
                  insert into a_items values (9000, nextval('a_versions'), 'unseen', null)",
        )
        .await?;
    add(test, "a").await?;
    headwater.log_line(&["a table was added to the publication", "public.a_items"]).await?;
    until(WAIT, "the second copy", async || {
        let status = status(&headwater)?;
        Ok(status["kind"] == "ad_hoc" && status["state"] == "done")
    })
    .await?;
    test.settle().await?;
    headwater.stop().await?;
    check(test, "a").await?;
    Ok(())
}

/// What the setting says, and that a table that was let pass stays known.
async fn not_copied(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a"], 50).await?;
    test.expect_complaint("halted:");
    let mut headwater = test.start(config(test).set("snapshot.on_new_table", "halt")).await?;
    add(test, "a").await?;
    headwater.exits_with(53).await?;
    ensure!(headwater.log_lines(&["public.a_items", "on_new_table", "halted"]).len() == 1);
    // Until somebody decides.
    headwater = test.spawn(config(test).set("snapshot.on_new_table", "halt"))?;
    headwater.exits_with(53).await?;
    headwater = test.start(config(test).set("snapshot.on_new_table", "stream_only")).await?;
    headwater.log_line(&["public.a_items", "are not copied"]).await?;
    stored_as_known(test, 2).await?;
    headwater.stop().await?;
    headwater = test.start(config(test)).await?;
    test.database.execute("update a_items set version = nextval('a_versions') where id = 1; insert into known values (1, 1)").await?;
    test.settle().await?;
    headwater.stop().await?;
    ensure!(headwater.log_lines(&["was added to the publication"]).is_empty());
    ensure!(test.raw_topic(&test.topic("public.a_items"))?.len() == 1, "only what was streamed");
    Ok(())
}

/// Without a key it can't be copied beside the stream: that is said, and the stream goes on.
async fn keyless(test: &mut Fixture) -> Result<()> {
    prepare(test, &[], 0).await?;
    test.expect_complaint("the rows of a table that was added to the publication are not copied");
    let mut headwater = test.start(config(test)).await?;
    test.database
        .execute("create table heap (n int); insert into heap values (1); alter publication captured add table heap; insert into heap values (2)")
        .await?;
    headwater.log_line(&["public.heap has neither a primary key", "headwater snapshot start"]).await?;
    test.settle().await?;
    headwater.stop().await?;
    ensure!(test.raw_topic(&test.topic("public.heap"))?.len() == 1);
    Ok(())
}

/// By a schema's publication and by ATTACH, where partitions are published as themselves.
async fn of_schemas_and_partitions(test: &mut Fixture) -> Result<()> {
    test.database
        .execute("create schema sales; create table sales.known (id int primary key, n int);
                  create table sales.parts (id int, n int, primary key (id)) partition by range (id);
                  create table parts_1 (id int primary key, n int); insert into parts_1 select i, i from generate_series(1, 30) i;
                  create publication captured for tables in schema sales, table sales.known")
        .await?;
    let mut headwater = test.start(config(test)).await?;
    test.database
        .execute(
            "create table sales.born (id int primary key, n int); insert into sales.born values (1, 1);
                  alter table sales.parts attach partition parts_1 for values from (1) to (100)",
        )
        .await?;
    headwater.log_line(&["\"copied\"", "public.parts_1"]).await?;
    headwater.log_line(&["\"copied\"", "sales.born"]).await?;
    test.settle().await?;
    headwater.stop().await?;
    ensure!(test.raw_topic(&test.topic("public.parts_1"))?.len() == 30);
    Ok(())
}

/// On a quiet server: the writer's id is behind that of every transaction that has ended, and in no snapshot's list.
async fn writer_behind_the_newest(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a"], 300).await?;
    let mut headwater = test.start(config(test)).await?;
    stored_as_known(test, 1).await?;
    let adding = test.database.connect().await?;
    adding.batch_execute("begin; alter publication captured add table a_items").await?;
    let writer = open_writer(test, "a", 1).await?;
    adding.batch_execute("commit").await?;
    headwater.log_line(&["a table was added to the publication", "public.a_items"]).await?;
    headwater.metric_until("headwater_snapshot_new_tables_waiting", &[], |waiting| waiting == 1.0).await?;
    ensure!(headwater.log_lines(&["beside the stream"]).is_empty(), "it did not wait");
    writer.batch_execute("commit").await?;
    copied(&headwater, "a").await?;
    test.settle().await?;
    headwater.stop().await?;
    check(test, "a").await?;
    Ok(())
}

/// One that can't be copied is no reason for the others.
async fn one_of_several_keyless(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a", "b"], 200).await?;
    test.expect_complaint("the rows of a table that was added to the publication are not copied");
    let mut headwater = test.start(config(test)).await?;
    test.database
        .execute("create table heap (n int); alter publication captured add table a_items, heap, b_items")
        .await?;
    headwater.log_line(&["public.heap has neither a primary key"]).await?;
    for table in ["a", "b"] {
        headwater.log_line(&["\"copied\"", &format!("public.{table}_items")]).await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    check(test, "a").await?;
    check(test, "b").await?;
    Ok(())
}

/// Its copy waits for another one; meanwhile it gets another name.
async fn renamed_while_it_waits(test: &mut Fixture) -> Result<()> {
    prepare(test, &["a", "b"], 400).await?;
    test.expect_complaint(CHUNK_WAITS);
    add(test, "b").await?;
    let mut headwater = test.start(config(test)).await?;
    stored_as_known(test, 2).await?;
    let gate = start_gated(test, &headwater, &config(test), "public.b_items", (1, "id >= 10")).await?;
    add(test, "a").await?;
    stored_as_known(test, 3).await?;
    test.database.execute("alter table a_items rename to moved_items").await?;
    gate.open().await?;
    headwater.log_line(&["\"copied\"", "public.moved_items"]).await?;
    test.settle().await?;
    headwater.stop().await?;
    let rows = test.raw_topic(&test.topic("public.moved_items"))?.len();
    ensure!(rows == 400, "{rows} records");
    Ok(())
}

#[test]
fn a_writer_is_behind_the_newest_that_ended() {
    let postgres = PrivatePostgres::start("new_behind", 16).expect("start a Postgres of its own");
    on("new_behind", Ok(postgres.postgres.clone()), servers::kafka(), writer_behind_the_newest);
}

#[test]
fn one_of_several_has_no_key() {
    on_shared("new_one_keyless", one_of_several_keyless);
}

#[test]
fn a_table_is_renamed_while_its_copy_waits() {
    on_shared("new_renamed", renamed_while_it_waits);
}

#[test]
fn a_table_is_added_with_writers_open() {
    on_shared("new_open", writers_open);
}

#[test]
fn tables_are_added_while_headwater_is_down() {
    on_shared("new_down", while_down);
}

#[test]
fn several_are_added_while_another_is_copied() {
    on_shared("new_several", several);
}

#[test]
fn a_table_is_taken_out_and_put_back() {
    on_shared("new_back", put_back);
}

#[test]
fn a_table_is_added_and_not_copied() {
    on_shared("new_not", not_copied);
}

#[test]
fn a_table_without_a_key_is_added() {
    on_shared("new_keyless", keyless);
}

#[test]
fn a_table_of_a_schema_and_a_partition() {
    on_shared("new_parts", of_schemas_and_partitions);
}
