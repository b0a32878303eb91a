//! What a stream has beside rows: TRUNCATE, logical messages, transaction metadata, heartbeats.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared, parse_id};
use crate::harness::headwater::Config;
use crate::harness::kafka::Raw;

const TABLES: &str =
    "create table item (id int primary key, name text); create table part (id int primary key)";

/// A record's key and value as a stock Avro reader sees them.
fn decoded(test: &Fixture, record: &Raw) -> Result<(Json, Json)> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    Ok((decoder.json(record.key.as_deref())?, decoder.json(record.value.as_deref())?))
}

fn table(entries: &[(&str, &str)]) -> toml::Table {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
}

/// Two tables in one TRUNCATE: one emits, one skips.
async fn truncate(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item", "public.part"]).await?;
    let config = test.config().push("table", table(&[("tables", "public.item"), ("truncate", "emit")]));
    let mut headwater = test.start(config).await?;
    test.database.execute("insert into item select g, 'x' from generate_series(1, 5) g").await?;
    test.database.execute("begin; truncate item, part; insert into item values (6, 'after'); commit").await?;
    test.settle().await?;
    headwater.metric_until("headwater_skipped_total", &["part", "truncate"], |n| n == 1.0).await?;
    headwater.metric_until("headwater_records_total", &["item", "op=\"t\""], |n| n == 1.0).await?;
    headwater.stop().await?;
    let mut truncates = Vec::new();
    for record in test.raw_topic(&test.topic("public.item"))? {
        let (key, value) = decoded(test, &record)?;
        if value["op"] == "t" {
            truncates.push((key, value, record));
        }
    }
    ensure!(truncates.len() == 1, "{} truncates", truncates.len());
    let (key, value, record) = &truncates[0];
    ensure!(record.key.is_none() && *key == Json::Null, "key {key}");
    ensure!(value["before"] == Json::Null && value["after"] == Json::Null, "{value}");
    ensure!(value["source"]["table"] == "item" && value["source"]["schema"] == "public", "{value}");
    ensure!(test.raw_topic(&test.topic("public.part"))?.is_empty(), "a skipped truncate has a record");
    Ok(())
}

/// Nothing behind a refused TRUNCATE is written, and what came before it is confirmed.
async fn truncate_refused(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    test.expect_complaint("truncate");
    let mut headwater = test.start(test.config().set("records.truncate", "halt")).await?;
    test.database.execute("insert into item values (1, 'x')").await?;
    test.settle().await?;
    test.database.execute("begin; insert into item values (2, 'y'); truncate item; commit").await?;
    headwater.exits_with(47).await?;
    ensure!(headwater.log_text().contains("truncate = \\\"skip\\\""), "no advice: {}", headwater.log_tail());
    let records = test.raw_topic(&test.topic("public.item"))?;
    ensure!(records.len() == 1, "{} records: of the refused transaction, too", records.len());
    let mut again = test.spawn(test.config())?;
    again.streaming().await?;
    test.settle().await?;
    again.stop().await?;
    let records = test.raw_topic(&test.topic("public.item"))?;
    ensure!(records.len() == 2, "{} records after the cure", records.len());
    Ok(())
}

fn with_messages(test: &Fixture) -> Config {
    let include = toml::Value::Array(vec!["audit*".into(), "note".into()]);
    test.config().set("messages.include", include).set("messages.exclude", "audit.secret*")
}

/// Messages inside transactions, rolled back ones, and those that stand for themselves.
async fn messages(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    let mut headwater = test.start(with_messages(test)).await?;
    for statement in [
        "select pg_logical_emit_message(true, 'audit.login', 'one')",
        "begin; insert into item values (1, 'x'); select pg_logical_emit_message(true, 'note', 'two'); commit",
        "begin; select pg_logical_emit_message(true, 'note', 'never'); rollback",
        "begin; select pg_logical_emit_message(false, 'note', 'three, rolled back or not'); rollback",
        "select pg_logical_emit_message(true, 'audit.secret.x', 'left out')",
        "select pg_logical_emit_message(true, 'other', 'left out')",
        "select pg_logical_emit_message(true, 'note', '\\x00ff'::bytea)",
    ] {
        test.database.execute(statement).await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    // Nothing comes twice after a clean stop, and messages go on.
    let mut headwater = test.spawn(with_messages(test))?;
    headwater.streaming().await?;
    test.database.execute("select pg_logical_emit_message(false, 'note', 'five')").await?;
    test.database.execute("insert into item values (2, 'x')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let mut contents: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for record in test.raw_topic(&format!("{}.message", test.prefix()))? {
        let (key, value) = decoded(test, &record)?;
        ensure!(value["op"] == "m" && key["prefix"] == value["message"]["prefix"], "{key} {value}");
        ensure!(value["source"]["table"] == "" && value["source"]["lsn"].is_i64(), "{value}");
        let id = parse_id(&record.header("headwater.id").context("no headwater.id")?)?;
        let alone = value["source"]["txId"].is_null();
        ensure!(!alone || value["source"]["lsn"] == json!(id.commit_lsn), "identity {id:?} of {value}");
        let bytes = value["message"]["content"].as_array().context("content")?;
        let content = bytes.iter().map(|byte| char::from(byte.as_u64().unwrap_or(0) as u8)).collect();
        contents.entry(key["prefix"].as_str().unwrap_or("").to_owned()).or_default().push((content, alone));
    }
    let expected = [("one", false)].map(|(c, a)| (c.to_owned(), a)).to_vec();
    ensure!(contents["audit.login"] == expected, "{contents:?}");
    let expected = [("two", false), ("three, rolled back or not", true), ("\0\u{ff}", false), ("five", true)];
    ensure!(contents["note"] == expected.map(|(c, a)| (c.to_owned(), a)), "{contents:?}");
    ensure!(contents.len() == 2, "{contents:?}");
    Ok(())
}

/// A consumer can put transactions together again: END says how many changes there are, each change its place.
async fn transactions(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item", "public.part"]).await?;
    let config = test.config().set("transactions.metadata", true).set("topics.partitions", 3);
    let mut headwater = test.start(config).await?;
    for statement in [
        "insert into item select g, 'x' from generate_series(1, 7) g",
        "begin; insert into part values (1); update item set name = 'y' where id < 4; insert into part values (2);
         update item set id = 100 where id = 7; delete from part; commit",
        "begin; insert into part values (9); rollback",
    ] {
        test.database.execute(statement).await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    let mut places: BTreeMap<String, BTreeMap<i64, (String, i64)>> = BTreeMap::new();
    for name in ["item", "part"] {
        for record in test.raw_topic(&test.topic(&format!("public.{name}")))? {
            let (_, value) = decoded(test, &record)?;
            if value.is_null() {
                continue;
            }
            let block = &value["transaction"];
            let place = |field: &str| block[field].as_i64().with_context(|| format!("{field} in {block}"));
            let id = block["id"].as_str().context("no transaction id")?;
            let place = (place("total_order")?, (format!("public.{name}"), place("data_collection_order")?));
            ensure!(
                places.entry(id.to_owned()).or_default().insert(place.0, place.1).is_none(),
                "{block} twice"
            );
        }
    }
    let (mut begins, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for record in test.raw_topic(&format!("{}.transaction", test.prefix()))? {
        let (key, value) = decoded(test, &record)?;
        ensure!(key["id"] == value["id"], "{key} {value}");
        let id = value["id"].as_str().context("no id")?.to_owned();
        let header = record.header("headwater.id").context("no headwater.id")?;
        match value["status"].as_str() {
            Some("BEGIN") => {
                ensure!(header.ends_with("/begin") && value["event_count"].is_null(), "{header} {value}");
                begins.insert(id, record.offset);
            }
            Some("END") => {
                ensure!(header.ends_with("/end") && begins.contains_key(&id), "{header} {value}");
                ends.insert(id, value);
            }
            _ => anyhow::bail!("status in {value}"),
        }
    }
    ensure!(begins.len() == places.len() && ends.len() == places.len(), "{begins:?} {ends:?}");
    for (id, changes) in &places {
        let end = ends.get(id).with_context(|| format!("no END of {id}"))?;
        ensure!(end["event_count"] == json!(changes.len()), "{end} for {changes:?}");
        ensure!(changes.keys().copied().eq(1..=changes.len() as i64), "total_order {changes:?}");
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for (table, order) in changes.values() {
            let count = counts.entry(table).or_default();
            *count += 1;
            ensure!(count == order, "data_collection_order {changes:?}");
        }
        let told = end["data_collections"].as_array().context("no collections")?;
        let told: BTreeMap<&str, i64> = told
            .iter()
            .map(|each| {
                (each["data_collection"].as_str().unwrap_or(""), each["event_count"].as_i64().unwrap_or(0))
            })
            .collect();
        ensure!(told == counts, "{told:?}, and there are {counts:?}");
    }
    ensure!(places.len() == 2, "{places:?}");
    Ok(())
}

/// Where `[records]` says JSON, so are they; nothing needs a registry.
async fn in_json(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    let config = test
        .config()
        .without("schema_registry")
        .set("records.key_encoding", "json")
        .set("records.value_encoding", "json_schema_envelope")
        .set("transactions.metadata", true)
        .set("messages.include", "note");
    let mut headwater = test.start(config).await?;
    test.database
        .execute("begin; insert into item values (1, 'x'); select pg_logical_emit_message(true, 'note', 'two'); commit")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    let read = |topic: &str| -> Result<Vec<(Json, Json)>> {
        let records = test.raw_topic(&format!("{}.{topic}", test.prefix()))?;
        let json = |bytes: &Option<Vec<u8>>| -> Result<Json> {
            Ok(serde_json::from_slice(bytes.as_deref().context("nothing")?)?)
        };
        records.iter().map(|record| Ok((json(&record.key)?, json(&record.value)?))).collect()
    };
    let messages = read("message")?;
    let [(key, value)] = messages.as_slice() else { anyhow::bail!("{messages:?}") };
    ensure!(*key == json!({"prefix": "note"}), "{key}");
    let (schema, payload) = (&value["schema"], &value["payload"]);
    ensure!(schema["name"] == "io.debezium.connector.postgresql.MessageValue", "{schema}");
    ensure!(
        payload["message"] == json!({"prefix": "note", "content": "dHdv"}) && payload["op"] == "m",
        "{payload}"
    );
    ensure!(payload["transaction"]["total_order"] == 2, "{payload}");
    let transactions = read("transaction")?;
    let [(begin_key, begin), (end_key, end)] = transactions.as_slice() else {
        anyhow::bail!("{transactions:?}")
    };
    ensure!(begin_key == end_key && begin_key["id"] == begin["payload"]["id"], "{begin_key} {begin}");
    ensure!(begin["schema"]["name"] == "io.debezium.connector.common.TransactionMetadataValue", "{begin}");
    ensure!(begin["payload"]["status"] == "BEGIN" && begin["payload"]["event_count"].is_null(), "{begin}");
    let collections = json!([{"data_collection": "public.item", "event_count": 1}, {"data_collection": "message", "event_count": 1}]);
    ensure!(end["payload"]["event_count"] == 2 && end["payload"]["data_collections"] == collections, "{end}");
    Ok(())
}

/// The statement's own effect is what consumers see; one that fails is said and stops nothing.
async fn heartbeat_statement(test: &mut Fixture) -> Result<()> {
    test.capture("create table beat (id int primary key, at timestamptz)", &["public.beat"]).await?;
    test.database.execute("insert into beat values (1, now())").await?;
    let beating = test
        .config()
        .set("pipeline.heartbeat_interval", "200ms")
        .set("pipeline.heartbeat_sql", "update beat set at = clock_timestamp()");
    let mut headwater = test.start(beating).await?;
    headwater.metric_until("headwater_records_total", &["beat", "op=\"u\""], |n| n >= 3.0).await?;
    headwater.stop().await?;
    test.expect_complaint("heartbeat_sql");
    let failing = test
        .config()
        .set("pipeline.heartbeat_interval", "200ms")
        .set("pipeline.heartbeat_sql", "update nowhere set at = 1");
    let mut headwater = test.spawn(failing)?;
    headwater.streaming().await?;
    headwater.log_line(&["heartbeat_sql", "nowhere"]).await?;
    test.database.execute("insert into beat values (2, now())").await?;
    test.settle().await?;
    headwater.stop().await
}

#[test]
fn truncate_is_emitted_or_skipped() {
    on_shared("truncate", truncate);
}

#[test]
fn truncate_can_be_refused() {
    on_shared("truncate_refused", truncate_refused);
}

#[test]
fn messages_have_a_topic() {
    on_shared("messages", messages);
}

#[test]
fn transactions_can_be_put_together_again() {
    on_shared("transactions", transactions);
}

#[test]
fn messages_and_transactions_can_be_json() {
    on_shared("beside_rows_json", in_json);
}

#[test]
fn heartbeats_can_be_statements() {
    on_shared("heartbeat_statement", heartbeat_statement);
}
