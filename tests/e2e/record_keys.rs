//! Which key a record has, and which partition: of the primary key unless configured otherwise.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::kafka::Raw;

fn table(entries: &[(&str, toml::Value)]) -> toml::Table {
    entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn list(names: &[&str]) -> toml::Value {
    toml::Value::Array(names.iter().map(|name| (*name).into()).collect())
}

/// Keys and operations in the order of the topic's partitions; a tombstone's operation is "-".
fn keys(test: &Fixture, records: &[Raw]) -> Result<Vec<(Json, String, i32)>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    records
        .iter()
        .map(|record| {
            let value = decoder.json(record.value.as_deref())?;
            Ok((
                decoder.json(record.key.as_deref())?,
                value["op"].as_str().unwrap_or("-").to_owned(),
                record.partition,
            ))
        })
        .collect()
}

/// Two columns that are no primary key, in another order than the table's.
async fn chosen_columns(test: &mut Fixture) -> Result<()> {
    let ddl = "create table item (id int primary key, shop int not null, sku text not null, name text);
               alter table item replica identity full";
    test.capture(ddl, &["public.item"]).await?;
    let rule = table(&[("tables", "public.item".into()), ("message_key_columns", list(&["sku", "shop"]))]);
    let mut headwater = test.start(test.config().push("table", rule).set("topics.partitions", 1)).await?;
    for statement in [
        "insert into item values (1, 7, 'a', 'x')",
        "update item set name = 'y'",
        "update item set shop = 8",
        "delete from item",
    ] {
        test.database.execute(statement).await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    let found = keys(test, &test.raw_topic(&test.topic("public.item"))?)?;
    let (old, new) = (json!({"sku": "a", "shop": 7}), json!({"sku": "a", "shop": 8}));
    let expected: Vec<_> =
        [(&old, "c"), (&old, "u"), (&old, "d"), (&old, "-"), (&new, "c"), (&new, "d"), (&new, "-")]
            .map(|(key, op)| (key.clone(), op.to_owned(), 0))
            .into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

/// A delete would have no such key: refused with the statement that mends it.
async fn not_in_an_old_row(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, sku text)", &["public.item"]).await?;
    test.expect_complaint("message_key_columns");
    let rule = table(&[("tables", "public.*".into()), ("message_key_columns", "sku".into())]);
    let mut headwater = test.spawn(test.config().push("table", rule))?;
    headwater.streaming().await?;
    test.database.execute("insert into item values (1, 'a')").await?;
    headwater.exits_with(46).await?;
    ensure!(headwater.log_text().contains("REPLICA IDENTITY FULL"), "{}", headwater.log_tail());
    Ok(())
}

/// A keyless table whose rows are their own keys: a row that changes is another one.
async fn full_row(test: &mut Fixture) -> Result<()> {
    let ddl = "create table item (a int, b text); alter table item replica identity full";
    test.capture(ddl, &["public.item"]).await?;
    let rule = table(&[("tables", "public.item".into()), ("keyless_key", "full_row".into())]);
    let mut headwater = test.start(test.config().push("table", rule).set("topics.partitions", 1)).await?;
    test.database.execute("insert into item values (1, null)").await?;
    test.database.execute("update item set b = 'x'").await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = keys(test, &test.raw_topic(&test.topic("public.item"))?)?;
    let (old, new) = (json!({"a": 1, "b": null}), json!({"a": 1, "b": "x"}));
    let expected: Vec<_> = [(&old, "c"), (&old, "d"), (&old, "-"), (&new, "c")]
        .map(|(key, op)| (key.clone(), op.to_owned(), 0))
        .into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

/// Keyless rows and rows of one tenant: what has the same columns is in one partition, and not all are in the same.
async fn chosen_partition(test: &mut Fixture) -> Result<()> {
    let ddl = "create table line (tenant text, n int);
               create table item (tenant text, id int, name text, primary key (tenant, id))";
    test.capture(ddl, &["public.line", "public.item"]).await?;
    let rule = table(&[("tables", "public.*".into()), ("partition_columns", "tenant".into())]);
    let mut headwater = test.start(test.config().push("table", rule).set("topics.partitions", 5)).await?;
    for table in ["line (tenant, n)", "item (tenant, id)"] {
        let rows = "select 't' || g % 23, g from generate_series(1, 200) g";
        test.database.execute(&format!("insert into {table} {rows}")).await?;
    }
    test.database.execute("update item set name = 'x'").await?;
    test.database.execute("delete from item where id % 3 = 0").await?;
    test.settle().await?;
    headwater.stop().await?;
    let items = keys(test, &test.raw_topic(&test.topic("public.item"))?)?;
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for (key, _, partition) in &items {
        let tenant = key["tenant"].as_str().context("no tenant")?;
        partitions.entry(tenant.to_owned()).or_default().insert(*partition);
    }
    ensure!(partitions.len() == 23 && partitions.values().all(|each| each.len() == 1), "{partitions:?}");
    let used: BTreeSet<i32> = partitions.values().flatten().copied().collect();
    ensure!(used.len() > 2, "all in {used:?}");
    let lines: BTreeSet<i32> =
        test.raw_topic(&test.topic("public.line"))?.iter().map(|record| record.partition).collect();
    ensure!(lines.len() > 2, "keyless rows are all in {lines:?}");
    ensure!(items.len() == 200 + 200 + 2 * 66, "{} records of items", items.len());
    Ok(())
}

#[test]
fn columns_can_be_chosen() {
    on_shared("chosen_columns", chosen_columns);
}

#[test]
fn columns_must_be_in_an_old_row() {
    on_shared("not_in_an_old_row", not_in_an_old_row);
}

#[test]
fn a_row_can_be_its_own_key() {
    on_shared("full_row", full_row);
}

#[test]
fn partitions_can_be_chosen() {
    on_shared("chosen_partition", chosen_partition);
}
