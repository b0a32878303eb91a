//! Answers in Avro beside answers in JSON, on one topic: of several writers, twice, late, in any order, of consumers that
//! are not asked, unreadable, about nothing, and poisoned. The oracles are psql's view of the rows and a stock consumer's
//! view of the dead letters; Avro is written by apache-avro.

use anyhow::{Context, Result, ensure};
use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::json;

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::http;
use crate::harness::kafka::{self, Bare};
use crate::harness::servers;
use crate::outbox_feedback::{BY_NUMBER, config, ids};
use crate::outbox_status::{count, prepare, put, until_count};

/// As a team would write it.
const PLAIN: &str = r#"{"type":"record","name":"Answer","namespace":"shop","fields":[
    {"name":"event_id","type":"string"},
    {"name":"status","type":{"type":"enum","name":"Status","symbols":["FAILED","SUCCESS"]}},
    {"name":"reason","type":["null","string"],"default":null},
    {"name":"consumer","type":"string"},
    {"name":"attempt","type":["null","int"],"default":null},
    {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null}]}"#;

/// In another order, with text for the enum and with more in it.
const OTHER: &str = r#"{"type":"record","name":"Feedback","fields":[
    {"name":"more","type":{"type":"map","values":"long"}},
    {"name":"attempt","type":"int"},
    {"name":"consumer","type":["string","null"]},
    {"name":"status","type":"string"},
    {"name":"event_id","type":{"type":"string","logicalType":"uuid"}}]}"#;

/// Registers a schema under a subject of its own; gives its id.
pub fn register(test: &Fixture, subject: &str, schema: &str) -> Result<u32> {
    let url = format!("{}/subjects/{subject}/versions", test.kafka.registry);
    let body = json!({ "schema": schema }).to_string();
    let answer = tokio::task::block_in_place(|| http::request("POST", &url, Some(&body)))?;
    ensure!(answer.status == 200, "register {subject}: {} {}", answer.status, answer.body);
    let answer: serde_json::Value = serde_json::from_str(&answer.body)?;
    Ok(u32::try_from(answer["id"].as_u64().context("no id")?)?)
}

struct Writer {
    id: u32,
    schema: Schema,
}

impl Writer {
    fn new(test: &Fixture, name: &str, schema: &str) -> Result<Writer> {
        let id = register(test, &format!("{}-{name}", test.prefix()), schema)?;
        Ok(Writer { id, schema: Schema::parse_str(schema)? })
    }

    fn bytes(&self, fields: Vec<(&str, Value)>) -> Result<Vec<u8>> {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut bytes = vec![0];
        bytes.extend_from_slice(&self.id.to_be_bytes());
        let writer = GenericDatumWriter::builder(&self.schema).build()?;
        bytes.extend(writer.write_value_to_vec(Value::Record(fields))?);
        Ok(bytes)
    }

    fn plain(&self, id: &str, status: &str, reason: Option<&str>, attempt: Option<i32>) -> Result<Vec<u8>> {
        let optional = |value: Option<Value>| match value {
            None => Value::Union(0, Box::new(Value::Null)),
            Some(value) => Value::Union(1, Box::new(value)),
        };
        let symbol = if status == "SUCCESS" { 1 } else { 0 };
        self.bytes(vec![
            ("event_id", Value::String(id.to_owned())),
            ("status", Value::Enum(symbol, status.to_owned())),
            ("reason", optional(reason.map(|reason| Value::String(reason.to_owned())))),
            ("consumer", Value::String("stock".to_owned())),
            ("attempt", optional(attempt.map(Value::Int))),
            ("at", optional(Some(Value::TimestampMillis(1)))),
        ])
    }

    fn other(&self, id: &str, status: &str, consumer: &str) -> Result<Vec<u8>> {
        self.bytes(vec![
            ("more", Value::Map([("x".to_owned(), Value::Long(5))].into())),
            ("attempt", Value::Int(1)),
            ("consumer", Value::Union(0, Box::new(Value::String(consumer.to_owned())))),
            ("status", Value::String(status.to_owned())),
            ("event_id", Value::Uuid(id.parse().context("a uuid")?)),
        ])
    }
}

fn in_json(id: &str, status: &str, consumer: &str, reason: &str) -> Vec<u8> {
    json!({ "event_id": id, "status": status, "consumer": consumer, "reason": reason })
        .to_string()
        .into_bytes()
}

async fn mixed(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("answers that can't be used");
    test.expect_complaint("DEAD");
    let topic = format!("feedback.{}", test.prefix());
    let (plain, other) = (Writer::new(test, "plain", PLAIN)?, Writer::new(test, "other", OTHER)?);
    let no_answer = register(
        test,
        &format!("{}-no", test.prefix()),
        r#"{"type":"record","name":"N","fields":[{"name":"event_id","type":"bytes"}]}"#,
    )?;
    kafka::create_topic(&test.kafka.bootstrap, &topic, 1).await?;
    let stock_only = toml::Table::from_iter([
        ("types".to_owned(), "OrderPlaced".into()),
        ("consumers".to_owned(), toml::Value::Array(vec!["stock".into()])),
    ]);
    let config = config(test).set("feedback.max_attempts", 1).push("event_type", stock_only);
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    put(test, 1, 40).await?;
    until_count(test, "SENT", 40).await?;
    let ids = ids(test, BY_NUMBER).await?;
    let mut said: Vec<Vec<u8>> = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        match n % 4 {
            0 => said.push(in_json(id, "SUCCESS", "stock", "")),
            1 => said.push(plain.plain(id, "SUCCESS", None, None)?),
            2 => said.push(other.other(&id.to_uppercase(), "SUCCESS", "stock")?),
            // The reason would fail the statement of everybody's answers.
            _ => said.push(plain.plain(id, "FAILED", Some("no\0stock"), Some(1))?),
        }
        // Those who are not asked change nothing.
        said.push(other.other(id, "FAILED", "stranger")?);
        said.push(in_json(id, "FAILED", "stranger", "a\0b"));
    }
    let good = said.len();
    // All of it once more, backwards.
    said.extend(said.clone().into_iter().rev());
    let cut = plain.plain(&ids[0], "FAILED", None, None)?;
    let bad: Vec<Vec<u8>> = vec![
        cut[..cut.len() - 1].to_vec(),
        vec![0],
        vec![0, 0x7f, 0xff, 0xff, 0xff, 2],
        [&[0][..], &no_answer.to_be_bytes(), &[2, b'x']].concat(),
        plain.plain(&ids[0], "FAILED", None, Some(0))?,
        other.other(&ids[0], "MAYBE", "stock")?,
        in_json(&ids[0], "FAILED", "st\0ck", ""),
        Vec::new(),
    ];
    let unknown = [
        plain.plain("0b8f3b1e-8c5a-4f0e-9a55-0a8d1c0e4a11", "SUCCESS", None, None)?,
        plain.plain("no uuid", "SUCCESS", None, None)?,
    ];
    let (unreadable, unknowns) = (bad.len(), unknown.len());
    said.extend(bad.into_iter().chain(unknown));
    let records: Vec<Bare> = said.into_iter().map(|value| (topic.clone(), None, Some(value))).collect();
    kafka::append_raw(&test.kafka.bootstrap, &records)?;
    for (outcome, seen) in [
        ("unreadable", unreadable),
        ("unknown", unknowns),
        ("processed", 30),
        ("dead", 10),
        ("ignored", 2 * good - 40),
    ] {
        headwater
            .metric_until("headwater_outbox_answers_total", &[outcome], |n| n == seen as f64)
            .await
            .context(outcome)?;
    }
    ensure!(count(test, "PROCESSED").await? == 30 && count(test, "DEAD").await? == 10);
    let reasons = test
        .database
        .value("select count(*) from headwater.outbox where reason = 'nostock' and failed_by = 'stock'")
        .await?;
    ensure!(reasons.as_deref() == Some("10"), "{reasons:?} rows have the reason");
    let letters = test.raw_topic(&format!("{topic}.dead"))?;
    ensure!(letters.len() == unreadable + unknowns, "{} dead letters", letters.len());
    let reasons: Vec<String> =
        letters.iter().filter_map(|letter| letter.header("headwater.dead_letter.reason")).collect();
    for words in [
        "ends before its schema",
        "no schema",
        "neither text nor a whole number",
        "attempt",
        "status",
        "consumer",
        "no outbox",
    ] {
        ensure!(reasons.iter().any(|reason| reason.contains(words)), "no letter says {words}: {reasons:?}");
    }
    headwater.stop().await
}

#[test]
fn avro_and_json_on_one_topic() {
    on_shared("outbox_mixed", mixed);
}

#[test]
fn avro_and_json_on_postgres_14() {
    on("outbox_mixed_14", servers::postgres(14), servers::kafka(), mixed);
}

#[test]
fn avro_and_json_on_postgres_18() {
    on("outbox_mixed_18", servers::postgres(18), servers::kafka(), mixed);
}
