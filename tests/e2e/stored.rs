//! What is stored in Kafka beside the rows: the checkpoint, in its documented form; topics, as configured; keys of
//! changed rows in headers; no tombstones when they are not wanted.

use anyhow::{Context, Result, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value as Json;

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};

const TABLE: &str = "create table item (id int primary key, name text)";

fn checkpoint_topic(test: &Fixture) -> String {
    format!("checkpoint.{}", test.prefix())
}

/// Key and value of the newest record whose key names the slot and whose value has a position.
fn checkpoint(test: &Fixture) -> Result<(String, Json)> {
    for record in test.raw_topic(&checkpoint_topic(test))?.into_iter().rev() {
        ensure!(record.partition == 0, "the checkpoint topic has more than one partition");
        let key = String::from_utf8(record.key.unwrap_or_default())?;
        let Some(value) = record.value else { continue };
        let value: Json = serde_json::from_slice(&value).context("a checkpoint is JSON")?;
        if key.ends_with(&test.database.slot()) {
            return Ok((key, value));
        }
    }
    anyhow::bail!("no checkpoint of the slot")
}

async fn checkpoint_form(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let (key, value) = checkpoint(test)?;
    let system =
        test.database.value("select system_identifier from pg_control_system()").await?.unwrap_or_default();
    for part in [system.as_str(), test.prefix(), test.database.slot().as_str()] {
        ensure!(key.contains(part), "the key {key} does not name {part}");
    }
    ensure!(value["version"].is_u64(), "no version in {value}");
    let text = value.to_string();
    for part in [test.prefix(), "captured", &system] {
        ensure!(text.contains(part), "{part} is not in {text}");
    }
    test.check(Repeats::None).await.map(drop)
}

/// A newer version wrote the checkpoint: going on with half of it would be guessing.
async fn checkpoint_of_a_newer_version(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let (key, mut value) = checkpoint(test)?;
    value["version"] = 9_999.into();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &test.kafka.bootstrap).create()?;
    let (topic, value) = (checkpoint_topic(test), value.to_string());
    producer
        .send(BaseRecord::to(&topic).key(&key).payload(&value).partition(0))
        .map_err(|(error, _)| error)?;
    tokio::task::block_in_place(|| producer.flush(std::time::Duration::from_secs(10)))?;
    test.expect_complaint("");
    let mut headwater = test.spawn(test.config())?;
    headwater.exits_with(39).await?;
    ensure!(
        headwater.log_text().contains("9999"),
        "the halt does not name the version:\n{}",
        headwater.log_tail()
    );
    Ok(())
}

async fn topics_as_configured(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    test.database
        .execute("create table more (id int primary key); create publication second for table more")
        .await?;
    let publications = toml::Value::Array(vec!["captured".into(), "second".into()]);
    let config = test
        .config()
        .set("postgres.publication", publications)
        .set("topics.partitions", 5)
        .set("topics.replication_factor", 1)
        .set("topics.config", toml::Table::from_iter([("retention.ms".to_owned(), "7654321".into())]));
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.database
        .execute("insert into item select g from generate_series(1, 200) g; insert into more values (1)")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    let records = test.raw_topic(&test.topic("public.item"))?;
    let partitions: std::collections::BTreeSet<_> = records.iter().map(|record| record.partition).collect();
    ensure!(partitions == (0..5).collect(), "records in partitions {partitions:?}");
    ensure!(
        test.raw_topic(&test.topic("public.more"))?.len() == 1,
        "the second publication's row is missing"
    );
    Ok(())
}

async fn key_changes(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config().set("topics.partitions", 1)).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.database.execute("update item set id = 2").await?;
    test.settle().await?;
    headwater.stop().await?;
    let records = test.raw_topic(&test.topic("public.item"))?;
    ensure!(records.len() == 4, "{} records", records.len());
    let json = |record: usize, header: &str| -> Result<Json> {
        let text =
            records[record].header(header).with_context(|| format!("record {record} has no {header}"))?;
        serde_json::from_str(&text).with_context(|| text)
    };
    ensure!(json(1, "__debezium.newkey")?["id"] == 2, "the delete does not name the new key");
    ensure!(json(3, "__debezium.oldkey")?["id"] == 1, "the insert does not name the old key");
    test.check(Repeats::None).await.map(drop)
}

async fn no_tombstones(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.spawn(test.config().set("pipeline.tombstones_on_delete", false))?;
    headwater.streaming().await?;
    test.database.execute("insert into item values (1, 'one'); delete from item").await?;
    test.settle().await?;
    headwater.stop().await?;
    let records = test.raw_topic(&test.topic("public.item"))?;
    ensure!(
        records.len() == 2 && records.iter().all(|record| record.value.is_some()),
        "{} records",
        records.len()
    );
    Ok(())
}

/// Tables that are left out are neither records nor topics, and a pattern that matches nothing is said.
async fn tables_chosen(test: &mut Fixture) -> Result<()> {
    let ddl = "create table item (id int primary key); create table part (id int primary key);
               create table audit_item (id int primary key)";
    test.capture(ddl, &["public.item", "public.part", "public.audit_item"]).await?;
    test.expect_complaint("public.ordres");
    let include = toml::Value::Array(vec!["public.*".into(), "public.ordres".into()]);
    let config =
        test.config().set("topics.include_tables", include).set("topics.exclude_tables", "public.audit_*");
    let output = test.command(&["check"], &config)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("public.ordres") && text.contains("public.audit_item"), "check: {text}");
    let mut headwater = test.start(config).await?;
    headwater.log_line(&["public.ordres"]).await?;
    for table in ["item", "part", "audit_item"] {
        test.database.execute(&format!("insert into {table} values (1), (2); truncate {table}")).await?;
    }
    test.settle().await?;
    headwater.metric_until("headwater_skipped_total", &["audit_item", "left_out"], |n| n == 2.0).await?;
    headwater.stop().await?;
    let topics: std::collections::BTreeSet<String> =
        test.raw_records()?.into_iter().map(|record| record.topic).collect();
    let expected = [test.topic("public.item"), test.topic("public.part")];
    ensure!(topics.iter().eq(expected.iter()), "{topics:?}");
    Ok(())
}

#[test]
fn checkpoint_has_its_documented_form() {
    on_shared("stored_checkpoint", checkpoint_form);
}

#[test]
fn checkpoint_of_a_newer_version_halts() {
    on_shared("stored_newer", checkpoint_of_a_newer_version);
}

#[test]
fn topics_are_as_configured() {
    on_shared("stored_topics", topics_as_configured);
}

#[test]
fn key_changes_name_the_other_key() {
    on_shared("stored_keys", key_changes);
}

#[test]
fn tombstones_can_be_left_out() {
    on_shared("stored_tombstones", no_tombstones);
}

#[test]
fn tables_can_be_left_out() {
    on_shared("tables_chosen", tables_chosen);
}
