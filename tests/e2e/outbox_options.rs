//! The options of an outbox table, as Debezium's router has them, and those beyond: where events go, what stands in key,
//! value and headers, what halts. The oracles are a stock consumer, apache-avro with the registry's schemas, and for
//! inferred schemas the bytes that Debezium itself wrote.

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::kafka::Raw;
use crate::outbox_answers::register;

const TABLES: &str = "
create table item (id int primary key, name text);
create table events (event_id uuid primary key default gen_random_uuid(), kind text not null, key text, what text not null,
  body jsonb, at timestamptz, place int, tenant text, version int);
";

fn table(test: &Fixture, more: &[(&str, toml::Value)]) -> Config {
    let columns = [
        ("id", "event_id"),
        ("aggregatetype", "kind"),
        ("aggregateid", "key"),
        ("type", "what"),
        ("payload", "body"),
    ];
    let columns = columns.map(|(name, column)| (name.to_owned(), column.into()));
    let mut table = toml::Table::from_iter([
        ("table".to_owned(), "public.events".into()),
        ("columns".to_owned(), toml::Table::from_iter(columns).into()),
        ("topic".to_owned(), format!("events.{}.${{aggregatetype}}", test.prefix()).into()),
    ]);
    for (name, value) in more {
        table.insert((*name).to_owned(), value.clone());
    }
    test.config().push("outbox", table)
}

fn names(pairs: &[(&str, &str)]) -> toml::Value {
    toml::Table::from_iter(pairs.iter().map(|(column, name)| ((*column).to_owned(), (*name).into()))).into()
}

async fn prepare(test: &Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    test.database.execute("alter publication captured add table events").await
}

async fn put(test: &Fixture, columns: &str, values: &str) -> Result<()> {
    let sql = format!(
        "insert into events (kind, key, what, body{columns}) values ('order', 'o-1', 'Placed', {values})"
    );
    test.database.execute(&sql).await
}

fn topic(test: &Fixture, kind: &str) -> Result<Vec<Raw>> {
    test.raw_topic(&format!("events.{}.{kind}", test.prefix()))
}

/// Timestamp, partition, envelope with its schema, headers of CloudEvents, columns that are not there.
async fn placed(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("an outbox row was updated");
    let config = table(
        test,
        &[
            ("timestamp_column", "at".into()),
            ("partition_column", "place".into()),
            ("envelope", names(&[("tenant", "who"), ("version", "v"), ("not_there", "x")])),
            ("headers", names(&[("tenant", "tenant"), ("nor_there", "y")])),
            ("missing_columns", "ignore".into()),
            ("on_update", "warn".into()),
            ("cloudevents_source", "/shop".into()),
            ("tombstone_on_empty", true.into()),
        ],
    );
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    put(test, ", at, place, tenant, version", r#"'{"n": 1}', '2020-01-01 00:00:00.123456+00', 2, 'acme', 7"#)
        .await?;
    put(test, ", place", "null, 1").await?;
    test.database.execute("update events set tenant = 'other'").await?;
    test.settle().await?;
    headwater.stop().await?;
    let events = topic(test, "order")?;
    ensure!(events.len() == 2, "{} events", events.len());
    let whole = events.iter().find(|event| event.partition == 2).context("none in partition 2")?;
    ensure!(whole.timestamp_ms == Some(1_577_836_800_123), "timestamp {:?}", whole.timestamp_ms);
    let id = whole.header("id").context("no id")?;
    for (name, expected) in [
        ("tenant", "acme"),
        ("ce_id", id.as_str()),
        ("ce_source", "/shop"),
        ("ce_specversion", "1.0"),
        ("ce_type", "Placed"),
        ("ce_subject", "o-1"),
        ("ce_time", "2020-01-01T00:00:00.123000Z"),
        ("content-type", "application/avro"),
    ] {
        ensure!(whole.header(name).as_deref() == Some(expected), "{name} is {:?}", whole.header(name));
    }
    ensure!(whole.header("y").is_none(), "a column that is not there has a header");
    let mut decoder = Decoder::new(&test.kafka.registry);
    let datum = tokio::task::block_in_place(|| decoder.decode(whole.value.as_deref().unwrap_or_default()))?;
    let name = format!("{}.public.events.order.Value", test.prefix());
    ensure!(
        datum.schema()["connect.name"] == name.as_str() && datum.schema()["name"] == "Value",
        "{}",
        datum.schema()
    );
    ensure!(datum.schema()["fields"][1]["type"] == json!(["null", "string"]), "{}", datum.schema());
    let value = decoder.json(whole.value.as_deref())?;
    ensure!(value == json!({ "payload": r#"{"n": 1}"#, "who": "acme", "v": 7 }), "{value}");
    let empty = events.iter().find(|event| event.partition == 1).context("none in partition 1")?;
    ensure!(empty.value.is_none() && empty.header("content-type").is_none(), "a null payload has a value");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    ensure!(
        empty.timestamp_ms.is_some_and(|ms| (now - ms).abs() < 600_000),
        "without its own time it has not the commit's"
    );
    ensure!(headwater.log_lines(&["an outbox row was updated"]).len() == 1, "it was told of more than once");
    Ok(())
}

/// A topic by an expression; payloads that Debezium would expand.
async fn expanded(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    let config = table(
        test,
        &[
            ("payload", "avro_inferred".into()),
            ("match", "(?<kind>[a-z]+)-v(\\d)".into()),
            ("topic", format!("events.{}.$2.${{kind}}", test.prefix()).into()),
        ],
    );
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    for body in [
        r#"'{"id": 1, "total": 9.99}'"#,
        "null",
        r#"'{"lines": [{"sku": "A"}, {"n": 3000000000}], "none": null}'"#,
    ] {
        let sql = format!(
            "insert into events (kind, key, what, body) values ('order-v2', 'o-1', 'Placed', {body})"
        );
        test.database.execute(&sql).await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    let events = topic(test, "2.order")?;
    ensure!(events.len() == 3, "{} events", events.len());
    // The golden record of Debezium's router for the first one, behind the registry's header.
    let golden = [2, 2, 2, 0x7b, 0x14, 0xae, 0x47, 0xe1, 0xfa, 0x23, 0x40];
    ensure!(events[0].value.as_deref().is_some_and(|value| value[5..] == golden), "{:?}", events[0].value);
    ensure!(events[1].value.is_none());
    let mut decoder = Decoder::new(&test.kafka.registry);
    let expected: Json =
        json!({ "lines": [{ "sku": "A", "n": null }, { "sku": null, "n": 3_000_000_000_i64 }] });
    let value = decoder.json(events[2].value.as_deref())?;
    ensure!(value == expected, "{value}");
    Ok(())
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},
    {"name":"total","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
    {"name":"placed_at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"state","type":{"type":"enum","name":"State","symbols":["NEW","PAID"]},"default":"NEW"}]}"#;

const LATER: &str =
    r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"string"}]}"#;

/// JSON in a schema that the team has registered, of which a version is pinned; and a payload that does not fit.
async fn in_the_registrys_schema(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("does not fit its schema");
    let subject = format!("events.{}.order-value", test.prefix());
    let id = register(test, &subject, ORDER)?;
    let url = format!("{}/config/{subject}", test.kafka.registry);
    tokio::task::block_in_place(|| {
        crate::harness::http::request("PUT", &url, Some(r#"{"compatibility": "NONE"}"#))
    })?;
    register(test, &subject, LATER)?;
    let config = table(test, &[("payload", "avro_from_json".into()), ("schema_version", 1.into())]);
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    put(test, "", r#"'{"placed_at": "2020-01-01T01:00:00.5+01:00", "total": 9.99, "id": 7}'"#).await?;
    test.settle().await?;
    let events = topic(test, "order")?;
    let value = events.first().and_then(|event| event.value.clone()).context("no event")?;
    ensure!(value[..5] == [&[0][..], &id.to_be_bytes()].concat(), "not in the pinned version");
    let mut decoder = Decoder::new(&test.kafka.registry);
    let datum = tokio::task::block_in_place(|| decoder.decode(&value))?;
    let text = format!("{:?}", datum.value());
    ensure!(text.contains("TimestampMillis(1577836800500)") && text.contains("Enum(0, \"NEW\")"), "{text}");
    put(test, "", r#"'{"placed_at": 5, "total": "much", "id": 8}'"#).await?;
    headwater.exits_with(45).await?;
    let line = headwater.log_line(&["does not fit its schema"]).await?;
    ensure!(line.contains("total") && line.contains("public.events") && !line.contains("much"), "{line}");
    ensure!(topic(test, "order")?.len() == 1);
    Ok(())
}

/// Whatever a row says, it comes to no topic that is not for events. (A unit test has all of their names.)
async fn internal_topic(test: &mut Fixture, own: &str) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("its topic would be");
    let name = match own {
        "" => "__consumer_offsets".to_owned(),
        own => format!("{own}.{}", test.prefix()),
    };
    // As open as it can be made.
    let allowed = toml::Value::Array(vec!["_*".into(), format!("*{}*", test.prefix()).into()]);
    let config =
        table(test, &[("match", "(.*)".into()), ("topic", "$1".into()), ("aggregatetypes", allowed)]);
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.database.execute(&format!("insert into events (kind, what) values ('{name}', 'Placed')")).await?;
    headwater.exits_with(45).await?;
    headwater.log_line(&["its topic would be"]).await.map(drop)
}

/// An UPDATE where it was said that there are none.
async fn updated(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("on_update");
    let mut headwater = test.spawn(table(test, &[("on_update", "halt".into())]))?;
    headwater.streaming().await?;
    put(test, "", "null").await?;
    test.database.execute("update events set what = 'Other'").await?;
    headwater.exits_with(45).await
}

/// Bytes of a bytea are the bytes.
async fn bytes(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.database.execute("alter table events alter body type bytea using null").await?;
    let mut headwater =
        test.spawn(table(test, &[("payload", "raw".into()), ("cloudevents_source", "/shop".into())]))?;
    headwater.streaming().await?;
    put(test, "", r"'\x00ff7b'").await?;
    test.settle().await?;
    headwater.stop().await?;
    let events = topic(test, "order")?;
    ensure!(events.len() == 1 && events[0].value.as_deref() == Some(&[0, 0xff, 0x7b]), "{events:?}");
    ensure!(events[0].header("content-type").as_deref() == Some("application/octet-stream"));
    Ok(())
}

#[test]
fn columns_have_their_places() {
    on_shared("outbox_places", placed);
}

#[test]
fn payloads_are_expanded_as_debezium_does() {
    on_shared("outbox_expanded", expanded);
}

#[test]
fn payloads_fit_the_schema_of_the_registry() {
    on_shared("outbox_schema", in_the_registrys_schema);
}

#[test]
fn no_row_chooses_an_internal_topic() {
    on_shared("outbox_kafkas", async |test| internal_topic(test, "").await);
    on_shared("outbox_checkpoints", async |test| internal_topic(test, "checkpoint").await);
}

#[test]
fn an_update_can_halt() {
    on_shared("outbox_update", updated);
}

#[test]
fn bytea_is_sent_as_its_bytes() {
    on_shared("outbox_bytes", bytes);
}
