//! Tables of other shapes, copied in both ways while writers change their rows: partitioned, inherited, with generated
//! columns, published in part, masked, without a key.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::Config;
use crate::harness::joined::{self, CHURNED, COLUMNS};
use crate::harness::kafka::Raw;
use crate::harness::servers;
use crate::harness::snapshots::{ROWS, beside, commanded, complete, initial, prepare, state};
use crate::harness::traffic::Traffic;

const FILLED: u64 = 3000;

/// Copies everything at the start, and once more beside the stream, under load.
async fn copy_both_ways(test: &mut Fixture, config: Config, statements: &[&str]) -> Result<()> {
    let traffic = Traffic::start(&test.database, 3, statements);
    traffic.commits(10).await?;
    let mut headwater = test.spawn(config.clone())?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    commanded(test, &headwater, &config, &["start", "public.*"])?;
    state(&headwater, "done").await?;
    traffic.commits(20).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await
}

const PARTITIONED: &str = "
    create table items_low partition of items for values from (minvalue) to (1500);
    create table items_high partition of items for values from (1500) to (maxvalue) partition by range (id);
    create table items_high_a partition of items_high for values from (1500) to (2500);
    create table items_high_b partition of items_high for values from (2500) to (maxvalue);";

async fn partitioned(test: &mut Fixture, root: bool) -> Result<()> {
    let sql = CHURNED.replace(
        "body text, big text);",
        &format!("body text, big text) partition by range (id); {PARTITIONED}"),
    );
    test.database.execute(&sql).await?;
    joined::fill(&test.database, FILLED).await?;
    let publication =
        format!("create publication captured for table items with (publish_via_partition_root = {root})");
    test.database.execute(&publication).await?;
    copy_both_ways(test, initial(test), &["select churn(3000)"]).await?;
    let topics = if root { &["items"][..] } else { &["items_low", "items_high_a", "items_high_b"][..] };
    for table in topics {
        let rows = ROWS.replace("items", table);
        let found = joined::check(test, &test.topic(&format!("public.{table}")), &rows).await?;
        ensure!(found.marks.contains_key("incremental") && found.read > 900, "{table}: {found:?}");
    }
    ensure!(
        test.raw_records()?.iter().all(|record| topics
            .iter()
            .any(|table| { record.topic == test.topic(&format!("public.{table}")) })),
        "another topic"
    );
    Ok(())
}

/// A table that inherits is a table of its own, with a topic of its own.
async fn inherited(test: &mut Fixture) -> Result<()> {
    test.database.execute(CHURNED).await?;
    test.database
        .execute("create table more (extra int default 3, primary key (id)) inherits (items)")
        .await?;
    let children = CHURNED[CHURNED.find("create function churn").unwrap_or(0)..].to_owned();
    test.database.execute(&children.replace("items", "more").replace("churn(", "churn_more(")).await?;
    // Rows of the child are seen through the parent by whoever does not say ONLY.
    let only = children.replace("update items", "update only items").replace("from items", "from only items");
    test.database.execute(&only.replace("create function", "create or replace function")).await?;
    joined::fill(&test.database, FILLED).await?;
    test.database
        .execute(
            "insert into more (id, version, body, big)
                  select i, nextval('versions'), 'more', big_of(i) from generate_series(1, 1000) i",
        )
        .await?;
    test.database.execute("create publication captured for table items").await?;
    copy_both_ways(test, initial(test), &["select churn(3000)", "select churn_more(1000)"]).await?;
    for table in ["items", "more"] {
        let rows = format!("select id, version, body, big from only {table}");
        let found = joined::check(test, &test.topic(&format!("public.{table}")), &rows).await?;
        ensure!(found.read > 1200, "{table}: {found:?}");
    }
    Ok(())
}

/// Before 18 no generated column is published; on 18 stored ones are on demand, and virtual ones never.
async fn generated(test: &mut Fixture) -> Result<()> {
    let published = test.database.server.version >= 18;
    test.database.execute(CHURNED).await?;
    test.database
        .execute("alter table items add column twice bigint generated always as (version * 2) stored")
        .await?;
    if published {
        test.database
            .execute("alter table items add column thrice bigint generated always as (version * 3) virtual")
            .await?;
    }
    joined::fill(&test.database, FILLED).await?;
    let with = if published { "with (publish_generated_columns = stored)" } else { "" };
    test.database.execute(&format!("create publication captured for table items {with}")).await?;
    copy_both_ways(test, initial(test), &["select churn(3000)"]).await?;
    let topic = test.topic("public.items");
    let (columns, rows) = if published {
        ([COLUMNS, &["twice"]].concat(), "select id, version, body, big, twice from items")
    } else {
        (COLUMNS.to_vec(), ROWS)
    };
    joined::check_columns(test, &topic, rows, &columns).await?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    for record in test.raw_topic(&topic)? {
        let after = decoder.json(record.value.as_deref())?["after"].clone();
        ensure!(after.get("thrice").is_none() && (published || after.get("twice").is_none()), "{after}");
    }
    Ok(())
}

/// What a publication leaves out is in no copy.
async fn published_in_part(test: &mut Fixture) -> Result<()> {
    test.database.execute(CHURNED).await?;
    joined::fill(&test.database, FILLED).await?;
    test.database
        .execute("create publication captured for table items (id, version, big) where (id % 2 = 0)")
        .await?;
    copy_both_ways(test, initial(test), &["select churn(3000)"]).await?;
    let topic = test.topic("public.items");
    let rows = "select id, version, big from items where id % 2 = 0";
    let found = joined::check_columns(test, &topic, rows, &["id", "version", "big"]).await?;
    ensure!(found.read > 2000 && found.read < 4000, "{found:?}");
    let mut decoder = Decoder::new(&test.kafka.registry);
    for record in test.raw_topic(&topic)? {
        let value = decoder.json(record.value.as_deref())?;
        ensure!(value["after"].get("body").is_none() && value["before"].get("body").is_none(), "{value}");
    }
    Ok(())
}

/// A mask covers what was there before; a condition of the configuration leaves rows out of the copy only.
async fn masked_and_chosen(test: &mut Fixture) -> Result<()> {
    prepare(test, 1000).await?;
    let wheres = toml::Table::from_iter([("public.items".to_owned(), "id % 10 = 0".into())]);
    let masks = toml::Table::from_iter([("body".to_owned(), "fixed:****".into())]);
    let config = initial(test).set("snapshot.where", wheres).set("records.masks", masks);
    let mut headwater = test.spawn(config.clone())?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    test.database
        .execute("update items set version = nextval('versions'), body = 'seen?' where id = 8")
        .await?;
    commanded(test, &headwater, &config, &["start", "public.items", "--where", "public.items=id = 3"])?;
    state(&headwater, "done").await?;
    test.settle().await?;
    headwater.stop().await?;
    let rows = "select id, version, '****', big from items where id % 10 = 0 or id in (3, 8)";
    let found = joined::check(test, &test.topic("public.items"), rows).await?;
    ensure!((found.read, found.streamed) == (101, 1), "{found:?}");
    Ok(())
}

async fn prepare_tally(test: &Fixture) -> Result<Traffic> {
    test.database
        .execute(
            "create table tally (n bigint, note text); alter table tally replica identity full;
             insert into tally select i % 500, 'old' from generate_series(1, 20000) i;
             create publication captured for table tally",
        )
        .await?;
    let statements = [
        "insert into tally select floor(random() * 500), 'new' from generate_series(1, 3)",
        "delete from tally where ctid in (select ctid from tally offset floor(random() * 9000) limit 2)",
        "update tally set n = floor(random() * 500) where ctid in
           (select ctid from tally offset floor(random() * 9000) limit 2)",
    ];
    let traffic = Traffic::start(&test.database, 3, &statements);
    traffic.commits(20).await?;
    Ok(traffic)
}

/// Rows that can't be told apart are counted: what was added and not taken away is the table.
async fn without_a_key(test: &mut Fixture) -> Result<()> {
    let traffic = prepare_tally(test).await?;
    let mut headwater = test.spawn(initial(test))?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    tallied(test, |_, _| true).await
}

/// Asked for beside the stream: the rows of the copy, and what was committed at their position or behind it, are the
/// table.
async fn without_a_key_beside(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("has no key: its copy is all rows under one snapshot");
    let traffic = prepare_tally(test).await?;
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    for _ in 0..2 {
        traffic.commits(50).await?;
        commanded(test, &headwater, &config, &["start", "public.tally"])?;
        state(&headwater, "done").await?;
    }
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let ids: Vec<String> =
        test.raw_topic(&test.topic("public.tally"))?.iter().map(id_of).collect::<Result<_>>()?;
    let copied: Vec<u64> =
        ids.iter().filter(|id| is_copied(id)).map(|id| lsn_of(id)).collect::<Result<_>>()?;
    // Of two copies the last one counts.
    let last = *copied.iter().max().context("nothing was copied")?;
    ensure!(copied.iter().any(|lsn| *lsn < last), "the copies have one position");
    // A commit whose record begins where the snapshot was taken is the first that it does not see.
    tallied(test, |id, lsn| if is_copied(id) { lsn == last } else { lsn >= last }).await
}

fn id_of(record: &Raw) -> Result<String> {
    record.header("headwater.id").context("a record without headwater.id")
}

/// `0/1A2B/r3.7/12` is the id of a row that was read, `0/1A2B/12` that of a change.
fn is_copied(id: &str) -> bool {
    id.contains("/r")
}

fn lsn_of(id: &str) -> Result<u64> {
    let mut parts = id.split('/').map(|part| u64::from_str_radix(part, 16));
    let (Some(Ok(high)), Some(Ok(low))) = (parts.next(), parts.next()) else { bail!("{id} has no LSN") };
    Ok(high << 32 | low)
}

/// Whether the records that count, by id and LSN, are the table.
async fn tallied(test: &Fixture, counts_in: impl Fn(&str, u64) -> bool) -> Result<()> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
    for record in test.raw_topic(&test.topic("public.tally"))? {
        let id = id_of(&record)?;
        if !counts_in(&id, lsn_of(&id)?) {
            continue;
        }
        let value = decoder.json(record.value.as_deref())?;
        for (row, by) in [("before", -1), ("after", 1)] {
            if let Some(note) = value[row]["note"].as_str() {
                *counts.entry((value[row]["n"].to_string(), note.to_owned())).or_default() += by;
            }
        }
    }
    counts.retain(|_, count| *count != 0);
    let rows = test.database.rows("select n, note, count(*) from tally group by 1, 2").await?;
    let table: BTreeMap<(String, String), i64> = rows
        .into_iter()
        .map(|row| {
            let mut cells = row.into_iter().map(Option::unwrap_or_default);
            let mut cell = || cells.next().unwrap_or_default();
            let key = (cell(), cell());
            (key, cell().parse().unwrap_or(0))
        })
        .collect();
    let differing = counts.iter().find(|(row, count)| table.get(*row) != Some(*count));
    ensure!(differing.is_none() && counts.len() == table.len(), "{differing:?}");
    Ok(())
}

#[test]
fn partitioned_published_as_its_root() {
    on_shared("shape_root", async |test| partitioned(test, true).await);
}

#[test]
fn partitioned_published_as_its_partitions() {
    on_shared("shape_leaves", async |test| partitioned(test, false).await);
}

#[test]
fn inheritance() {
    on_shared("shape_inherits", inherited);
}

#[test]
fn generated_columns_that_are_not_published() {
    on_shared("shape_generated", generated);
}

#[test]
fn generated_columns_on_postgres_18() {
    on("shape_generated_18", servers::postgres(18), servers::kafka(), generated);
}

#[test]
fn column_lists_and_row_filters_on_postgres_15() {
    on("shape_in_part_15", servers::postgres(15), servers::kafka(), published_in_part);
}

#[test]
fn column_lists_and_row_filters_on_postgres_18() {
    on("shape_in_part_18", servers::postgres(18), servers::kafka(), published_in_part);
}

#[test]
fn masks_and_conditions() {
    on_shared("shape_masked", masked_and_chosen);
}

#[test]
fn no_key() {
    on_shared("shape_keyless", without_a_key);
}

#[test]
fn a_table_without_a_key_beside_the_stream() {
    on_shared("shape_keyless_beside", without_a_key_beside);
}
