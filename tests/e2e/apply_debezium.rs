//! Topics that a real Debezium wrote (the recordings in `tests/fixtures/golden`), applied: the tables equal those on which
//! the recorded SQL was run.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};

use crate::golden::{FIXTURES, sql, statements};
use crate::harness::database::quote;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::http;
use crate::harness::kafka;
use crate::harness::replica::Replica;

/// The recorded tables with a key, and the columns of which Debezium's form does not hold the value: it is refused by
/// `apply`, or the recording has another value than the table (see `docs/FORMATS.md`).
const TABLES: &[(&str, &[&str])] = &[
    ("composite_pk", &[]),
    ("full_identity", &[]),
    ("special_time", &[]),
    ("toasted", &[]),
    ("toasted_full", &[]),
    ("parted_2020", &[]),
    ("parted_2021", &[]),
    // now() differs from run to run; the converter puts the default in the place of a NULL.
    ("defaults", &["d_now", "d_int4_null"]),
    (
        "types",
        &[
            "c_interval",
            // Debezium writes the same moment in UTC.
            "c_timetz",
            "c_varbit",
            "c_varbit16",
            "c_lseg",
            "c_box",
            "c_path",
            "c_polygon",
            "c_int4_arr2",
            "c_name",
            "c_composite",
            "c_int4multirange",
            "c_tsquery",
            "c_pg_lsn",
            "c_generated",
        ],
    ),
];

async fn recorded(test: &mut Fixture) -> Result<()> {
    let replica = Replica::create(test).await?;
    for database in [&test.database, &replica.database] {
        database.execute(&sql("1-before-snapshot.sql")?).await?;
    }
    for statement in statements(&sql("2-while-streaming.sql")?) {
        test.database.execute(&statement).await.with_context(|| statement.clone())?;
    }
    let names: Vec<_> = TABLES.iter().map(|(table, _)| format!("zoo.{}", quote(table))).collect();
    // A partition can't have columns of its own.
    let detach = "alter table zoo.parted detach partition zoo.parted_2020; alter table zoo.parted detach partition zoo.parted_2021";
    replica.database.execute(detach).await?;
    // The recording has no snapshot of this one: the rows of before stay as the same SQL made them.
    let emptied: Vec<_> = names.into_iter().filter(|name| name != "zoo.\"types\"").collect();
    replica.database.execute(&format!("truncate {}", emptied.join(", "))).await?;
    let mut config = replica.config(test, &[]);
    let mut topics = Vec::new();
    for (table, left_out) in TABLES {
        topics.push(toml::Value::from(test.topic(&format!("zoo.{table}"))));
        let columns: Vec<toml::Value> = left_out.iter().map(|column| (*column).into()).collect();
        let rule = toml::Table::from_iter([
            ("topics".to_owned(), test.topic(&format!("zoo.{table}")).into()),
            ("exclude".to_owned(), toml::Value::Array(columns)),
        ]);
        if !left_out.is_empty() {
            config = config.push("apply_table", rule);
        }
    }
    let config = config.set("apply.topics", toml::Value::Array(topics)).set("apply.create_tables", false);
    produce(test).await?;
    let mut apply = replica.start(test, config.clone()).await?;
    equal(test, &replica).await?;
    apply.stop().await?;
    // Once more, over what is there.
    let mut apply = test.spawn_command(&["apply", "--replay", "beginning"], config)?;
    apply.metric_until("headwater_apply_records_total", &[], |n| n >= 30.0).await?;
    equal(test, &replica).await?;
    apply.stop().await
}

async fn equal(test: &Fixture, replica: &Replica) -> Result<()> {
    for (table, left_out) in TABLES {
        let table = format!("zoo.{table}");
        let mut columns = Replica::columns(&test.database, &table).await?;
        columns.retain(|column| !left_out.contains(&column.as_str()));
        let mut seen = (String::new(), String::new());
        crate::harness::until(std::time::Duration::from_secs(60), &table, async || {
            seen = (
                Replica::checksum(&test.database, &table, &columns).await?,
                Replica::checksum(&replica.database, &table, &columns).await?,
            );
            Ok(seen.0 == seen.1)
        })
        .await
        .with_context(|| format!("{seen:?}"))?;
    }
    Ok(())
}

/// Writes the recording into topics of this test, under schemas of this registry.
async fn produce(test: &Fixture) -> Result<()> {
    let mut ids: BTreeMap<(String, &str), u32> = BTreeMap::new();
    let mut records = Vec::new();
    for line in std::fs::read_to_string(format!("{FIXTURES}/events.jsonl"))?.lines() {
        let record: Json = serde_json::from_str(line)?;
        let table = record["table"].as_str().context("a table")?.to_owned();
        if !TABLES.iter().any(|(name, _)| *name == table) {
            continue;
        }
        let topic = test.topic(&format!("zoo.{table}"));
        let mut datum = |part: &'static str, field: &str| -> Result<Option<Vec<u8>>> {
            let Some(text) = record[field].as_str() else { return Ok(None) };
            let mut bytes = base64(text)?;
            let id = match ids.get(&(table.clone(), part)) {
                Some(id) => *id,
                None => register(test, &table, &topic, part)?,
            };
            ids.insert((table.clone(), part), id);
            bytes[1..5].copy_from_slice(&id.to_be_bytes());
            Ok(Some(bytes))
        };
        records.push((topic.clone(), datum("key", "key_b64")?, datum("value", "value_b64")?));
    }
    ensure!(records.len() > 30, "only {} records", records.len());
    kafka::produce_raw(&test.kafka.bootstrap, &records).await
}

fn register(test: &Fixture, table: &str, topic: &str, part: &str) -> Result<u32> {
    let schema = std::fs::read_to_string(format!("{FIXTURES}/schemas/{table}-{part}.json"))?;
    let mut schema: Json = serde_json::from_str(&schema)?;
    without_defaults(&mut schema);
    let schema = schema.to_string();
    let url = format!("{}/subjects/{topic}-{part}/versions", test.kafka.registry);
    let body = json!({ "schema": schema }).to_string();
    let response = tokio::task::block_in_place(|| http::request("POST", &url, Some(&body)))?;
    ensure!(response.status == 200, "{table} {part}: {}", response.body);
    let answer: Json = serde_json::from_str(&response.body)?;
    Ok(answer["id"].as_u64().context("an id")? as u32)
}

/// The tests' registry does not take every default that Debezium wrote, and a reader of what was written needs none.
fn without_defaults(schema: &mut Json) {
    match schema {
        Json::Object(parts) => {
            parts.remove("default");
            parts.values_mut().for_each(without_defaults);
        }
        Json::Array(parts) => parts.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

fn base64(text: &str) -> Result<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let digit = ALPHABET.iter().position(|known| *known == c).context("base64")?;
        held = held << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Ok(bytes)
}

#[test]
fn what_debezium_wrote_is_applied() {
    on_shared("apply_debezium", recorded);
}
