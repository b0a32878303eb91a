//! Where records go: topics by template and by regular expression, several tables in one topic, and what is refused.
//!
//! The checker knows tables by their own topics. Records of routed tables are given those back, told apart as a consumer
//! would do it, and then everything it knows is checked: nothing missing, order, keys, folds, positions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use crate::harness::checker::{Repeats, Report};
use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::http;
use crate::harness::kafka::Raw;

const TABLE_FIELD: &str = "__dbz__physicalTableIdentifier";

fn entry(pairs: &[(&str, &str)]) -> toml::Table {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect()
}

/// Judges the run as if each table had the topic that `own` gives its records.
async fn judge(test: &mut Fixture, own: impl Fn(&Raw) -> Result<String>) -> Result<Report> {
    let mut raw = test.raw_records()?;
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for record in &mut raw {
        let table = own(record)?;
        tables.entry(std::mem::replace(&mut record.topic, table.clone())).or_default().insert(table);
    }
    let mut evidence = test.evidence_with(raw).await?;
    for record in &mut evidence.records {
        if let Some(key) = &mut record.key {
            key.retain(|(name, _)| name != TABLE_FIELD);
        }
    }
    // A table's records reach as far as the topic that they are in.
    for sample in &mut evidence.samples {
        let mut ends: HashMap<(String, i32), i64> = HashMap::new();
        for ((topic, partition), end) in sample.ends.iter() {
            for table in tables.get(topic).into_iter().flatten() {
                ends.insert((table.clone(), *partition), *end);
            }
        }
        sample.ends = Arc::new(ends);
    }
    test.judge(&evidence, Repeats::None)
}

fn key_of(decoder: &mut Decoder, record: &Raw) -> Result<Json> {
    decoder.json(record.key.as_deref())
}

/// The full names of a topic's schemas in the registry, key and value.
fn schema_names(test: &Fixture, topic: &str) -> Result<Vec<String>> {
    ["key", "value"]
        .iter()
        .map(|part| {
            let url = format!("{}/subjects/{topic}-{part}/versions/latest", test.kafka.registry);
            let body: Json = serde_json::from_str(&http::get(&url)?.body).context(url)?;
            let schema: Json = serde_json::from_str(body["schema"].as_str().context("no schema")?)?;
            let text = |name: &str| schema[name].as_str().unwrap_or_default().to_owned();
            Ok(format!("{}.{}", text("namespace"), text("name")))
        })
        .collect()
}

/// Changes of every kind, the same keys in each of the tables.
async fn write_rows(test: &Fixture, tables: &[&str]) -> Result<()> {
    for round in 0..3 {
        for table in tables {
            let from = round * 20;
            for statement in [
                format!(
                    "insert into {table} select g, 'new in {table}' from generate_series({from}, {from} + 19) g"
                ),
                format!("update {table} set name = 'changed' where id % 3 = {round}"),
                format!("update {table} set id = id + 1000 where id = {from} + 7"),
                format!("delete from {table} where id % 5 = {round} and id < 1000"),
            ] {
                test.database.execute(&statement).await?;
            }
        }
        // And both in one transaction.
        let all: Vec<_> = tables
            .iter()
            .map(|table| format!("update {table} set name = 'together' where id > 10"))
            .collect();
        test.database.execute(&format!("begin; {}; commit", all.join("; "))).await?;
    }
    Ok(())
}

/// A template renames a topic, its subjects and its schemas, and nothing else.
async fn by_template(test: &mut Fixture) -> Result<()> {
    let ddl = "create table item (id int primary key, name text); create table part (id int primary key, name text)";
    test.capture(ddl, &["public.item", "public.part"]).await?;
    let rule = entry(&[("tables", "public.item"), ("topic", "{prefix}.v2.{database}.{table}")]);
    let config = test.config().push("table", rule);
    let routed = format!("{0}.v2.{0}.item", test.prefix());
    // Before the first start: what will be.
    for (arguments, words) in [
        (&["check"][..], format!("public.item to {routed}")),
        (&["init", "--dry-run"], format!("--topic {routed} ")),
        (&["schema", "show", "public.item"], format!("{routed}-value")),
        (&["schema", "plan"], format!("{routed}-value")),
    ] {
        let output = test.command(arguments, &config)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains(&words), "{arguments:?} does not say '{words}': {text}");
    }
    let mut headwater = test.start(config).await?;
    write_rows(test, &["item", "part"]).await?;
    test.settle().await?;
    headwater.stop().await?;
    let expected = ["Key", "Envelope"].map(|name| format!("{routed}.{name}"));
    ensure!(schema_names(test, &routed)? == expected, "{:?}", schema_names(test, &routed)?);
    let (item, part) = (test.topic("public.item"), test.topic("public.part"));
    ensure!(test.raw_topic(&item)?.is_empty(), "the table's own topic has records");
    let report = judge(test, |record| {
        ensure!(record.topic == routed || record.topic == part, "an unexpected topic {}", record.topic);
        Ok(if record.topic == routed { item.clone() } else { part.clone() })
    })
    .await?;
    ensure!(report.records > 200, "{report:?}");
    Ok(())
}

/// Shards of a table come together, each row under a key of its own.
async fn by_regex(test: &mut Fixture) -> Result<()> {
    let shards = ["item_shard1", "item_shard2"];
    let ddl = shards.map(|name| format!("create table {name} (id int primary key, name text);")).concat();
    test.capture(&ddl, &["public.item_shard1", "public.item_shard2"]).await?;
    let route = entry(&[("match", r"(.*)_shard\d"), ("topic", "$1")]);
    let mut headwater = test.start(test.config().push("route", route)).await?;
    write_rows(test, &shards).await?;
    test.settle().await?;
    headwater.stop().await?;
    let routed = test.topic("public.item");
    let expected = ["Key", "Envelope"].map(|name| format!("{routed}.{name}"));
    ensure!(schema_names(test, &routed)? == expected, "{:?}", schema_names(test, &routed)?);
    // What compaction would leave: the newest record of each key, and nothing of what is deleted.
    let mut newest: BTreeMap<Vec<u8>, Option<Json>> = BTreeMap::new();
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut value_ids = BTreeSet::new();
    for record in test.raw_topic(&routed)? {
        let key = record.key.clone().context("no key")?;
        value_ids.extend(record.value.as_ref().map(|value| value[1..5].to_vec()));
        let value = record.value.as_deref().map(|value| decoder.json(Some(value))).transpose()?;
        newest.insert(key, value.filter(|value| value["op"] != "d"));
    }
    ensure!(value_ids.len() == 1, "tables that are alike have {} schemas", value_ids.len());
    let mut rows: Vec<(String, i64, String)> = Vec::new();
    for (key, value) in &newest {
        let Some(value) = value else { continue };
        let (key, after) = (decoder.json(Some(key))?, &value["after"]);
        ensure!(key["id"] == after["id"], "{key} {after}");
        let table = value["source"]["table"].as_str().context("no table")?.to_owned();
        ensure!(key[TABLE_FIELD] == test.topic(&format!("public.{table}")), "{key} of {table}");
        let id = after["id"].as_i64().context("no id")?;
        rows.push((table, id, after["name"].as_str().unwrap_or_default().to_owned()));
    }
    rows.sort();
    let mut expected = Vec::new();
    for shard in shards {
        let sql = format!("select string_agg(id || ' ' || name, ',' order by id) from {shard}");
        for row in test.database.value(&sql).await?.context("no rows")?.split(',') {
            let (id, name) = row.split_once(' ').context("a name")?;
            expected.push((shard.to_owned(), id.parse()?, name.to_owned()));
        }
    }
    expected.sort();
    ensure!(rows == expected, "folded {rows:?}\nin Postgres {expected:?}");
    let mut decoder = Decoder::new(&test.kafka.registry);
    let tables = shards.map(|shard| test.topic(&format!("public.{shard}")));
    let own: HashMap<Vec<u8>, String> = newest
        .keys()
        .map(|key| {
            Ok((key.clone(), decoder.json(Some(key))?[TABLE_FIELD].as_str().context("no table")?.to_owned()))
        })
        .collect::<Result<_>>()?;
    judge(test, |record| {
        ensure!(record.topic == routed, "an unexpected topic {}", record.topic);
        let table = &own[record.key.as_ref().context("no key")?];
        ensure!(tables.contains(table), "an unexpected table {table}");
        Ok(table.clone())
    })
    .await
    .map(drop)
}

/// Flat JSON with a field of another name and value; a changed key's headers are as the connector makes them.
async fn keys_in_json(test: &mut Fixture) -> Result<()> {
    let ddl = "create table tenant_a (id int primary key, name text); create table tenant_b (id int primary key, name text);
               create table keyless_a (name text); create table keyless_b (name text)";
    test.capture(ddl, &["public.tenant_a", "public.tenant_b", "public.keyless_a", "public.keyless_b"])
        .await?;
    let route = entry(&[
        ("match", r"(.*)\.(tenant|keyless)_(.)"),
        ("topic", "$1.$2"),
        ("table_key_field", "tenant"),
        ("table_key_match", ".*_(.)"),
        ("table_key_value", "$1"),
    ]);
    let config = test
        .config()
        .without("schema_registry")
        .set("topics.partitions", 4)
        .set("records.key_encoding", "json")
        .set("records.value_encoding", "json")
        .set("records.envelope", "flat")
        .push("route", route);
    let mut headwater = test.start(config).await?;
    for tenant in ["a", "b"] {
        for statement in [
            "insert into tenant_{} values (1, 'one'), (2, 'two')",
            "update tenant_{} set id = 3 where id = 2",
            "delete from tenant_{} where id = 1",
            "insert into keyless_{} values ('k')",
        ] {
            test.database.execute(&statement.replace("{}", tenant)).await?;
        }
    }
    test.settle().await?;
    headwater.stop().await?;
    let mut found = BTreeMap::new();
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for record in test.raw_topic(&test.topic("public.tenant"))? {
        let key = String::from_utf8(record.key.clone().context("no key")?)?;
        partitions.entry(key.clone()).or_default().insert(record.partition);
        if let Some(header) = record.header("__debezium.newkey") {
            ensure!(header == r#"{"id":3}"#, "{header}");
        }
        let value = record.value.as_deref().map(serde_json::from_slice::<Json>).transpose()?;
        found.insert(key, value);
    }
    let key = |id: i32, tenant: &str| format!(r#"{{"id":{id},"tenant":"{tenant}"}}"#);
    let mut expected = BTreeMap::new();
    for tenant in ["a", "b"] {
        expected.insert(key(1, tenant), None);
        expected.insert(key(2, tenant), None);
        expected.insert(key(3, tenant), Some(json!({"id": 3, "name": "two"})));
    }
    ensure!(found == expected, "{found:?}\nexpected {expected:?}");
    ensure!(partitions.values().all(|each| each.len() == 1), "a key is in two partitions: {partitions:?}");
    let keyless = test.raw_topic(&test.topic("public.keyless"))?;
    ensure!(keyless.len() == 2 && keyless.iter().all(|record| record.key.is_none()), "{keyless:?}");
    ensure!(
        keyless[0].partition == keyless[1].partition,
        "keyless rows of a topic lost their order: {keyless:?}"
    );
    Ok(())
}

/// Tables that are not alike: under subjects by topic the registry judges; with names of their own both have theirs.
async fn unlike_tables(test: &mut Fixture) -> Result<()> {
    let ddl = "create table one (id int primary key, a int not null); create table two (id int primary key, b text not null)";
    test.capture(ddl, &["public.one", "public.two"]).await?;
    test.expect_complaint("refuses the schema");
    // The names of keys' schemas change with those of values.
    test.expect_complaint("key_schema_changed");
    let all = format!("{}.all", test.prefix());
    let shared = |config: Config| {
        config.set("records.topic", "{prefix}.all").set("records.shared_topic", "unique_keys")
    };
    let mut headwater = test.start(shared(test.config())).await?;
    test.database
        .execute("alter table one replica identity full; alter table two replica identity full")
        .await?;
    test.database.execute("insert into one values (1, 1)").await?;
    test.settle().await?;
    let level = format!("{}/config/{all}-value", test.kafka.registry);
    http::request("PUT", &level, Some(r#"{"compatibility": "BACKWARD"}"#))?;
    test.database.execute("insert into two values (2, 'two')").await?;
    headwater.exits_with(40).await?;
    let log = headwater.log_text();
    ensure!(log.contains("public.two") && log.contains(&format!("{all}-value")), "{}", headwater.log_tail());
    let apart = shared(test.config())
        .set("records.schema_names", "table")
        .set("schema_registry.value_subject_strategy", "topic_record_name");
    let mut headwater = test.start(apart).await?;
    test.database.execute("insert into one values (3, 3); insert into two values (4, 'four')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut last = BTreeMap::new();
    for record in test.raw_topic(&all)? {
        let key = key_of(&mut decoder, &record)?["id"].as_i64().context("no id")?;
        last.insert(key, decoder.json(record.value.as_deref())?["after"].clone());
    }
    let expected: Vec<(i64, Json)> = vec![
        (1, json!({"id": 1, "a": 1})),
        (2, json!({"id": 2, "b": "two"})),
        (3, json!({"id": 3, "a": 3})),
        (4, json!({"id": 4, "b": "four"})),
    ];
    ensure!(last.into_iter().collect::<Vec<_>>() == expected, "not what was written");
    for table in ["one", "two"] {
        let subject = format!("{all}-{}.Envelope", test.topic(&format!("public.{table}")));
        let response = http::get(&format!("{}/subjects/{subject}/versions", test.kafka.registry))?;
        ensure!(response.status == 200, "{subject}: {}", response.body);
    }
    Ok(())
}

/// Unasked, two tables never come to one topic: at the start where both are known, else when the second one's row comes.
async fn refused(test: &mut Fixture) -> Result<()> {
    let ddl = "create table one (id int primary key); create table two (id int primary key); create table three (id int primary key)";
    test.capture(ddl, &["public.one", "public.two"]).await?;
    test.expect_complaint("both map to the topic");
    test.expect_complaint("Kafka refuses");
    let all = |test: &Fixture| test.config().set("records.topic", "{prefix}.all");
    let mut headwater = test.spawn(all(test))?;
    headwater.exits_with(46).await?;
    let log = headwater.log_text();
    for words in ["public.one", "public.two", ".all", "shared_topic"] {
        ensure!(log.contains(words), "{words} is not in {}", headwater.log_tail());
    }
    ensure!(test.database.confirmed().await?.is_none(), "a slot was made for what can't be run");
    let output = test.command(&["check"], &all(test))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!output.status.success() && text.contains("both map to the topic"), "check: {text}");
    // A table that comes later.
    let rule = entry(&[("tables", "public.two"), ("topic", "{prefix}.public.three")]);
    let config = test.config().push("table", rule);
    let mut headwater = test.start(config).await?;
    test.database.execute("insert into two values (1)").await?;
    test.settle().await?;
    test.database.execute("alter publication captured add table three").await?;
    test.database.execute("insert into three values (1)").await?;
    headwater.exits_with(46).await?;
    ensure!(headwater.log_text().contains("public.three"), "{}", headwater.log_tail());
    // A name that Kafka refuses is never made up.
    let route = entry(&[("match", ".*one"), ("topic", "..")]);
    let mut headwater = test.spawn(test.config().push("route", route))?;
    headwater.exits_with(46).await?;
    Ok(())
}

#[test]
fn topics_by_template() {
    on_shared("route_template", by_template);
}

#[test]
fn tables_share_a_topic_by_regex() {
    on_shared("route_regex", by_regex);
}

#[test]
fn the_table_is_in_json_keys() {
    on_shared("route_json", keys_in_json);
}

#[test]
fn unlike_tables_in_one_topic() {
    on_shared("route_unlike", unlike_tables);
}

#[test]
fn shared_topics_are_asked_for() {
    on_shared("route_refused", refused);
}
