//! The SQL that a real Debezium was recorded with, replayed: schemas field by field, keys and rows value by value, in
//! each of its value modes. Every deliberate difference is in `docs/FORMATS.md` and named here; any other fails.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use serde_json::Value as Json;

use crate::harness::database::PUBLICATION;
use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared, parse_id};
use crate::harness::headwater::Config;
use crate::harness::kafka::Raw;

/// What a real Debezium wrote.
pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden");

/// What comes after it needs a registry that takes incompatible schemas: Debezium died there as well.
const LAST_LINES: &str = "-- last, for it is incompatible";

/// A recording and how it is told to us.
struct Recording {
    /// Folder below the fixtures; that of the default options has none.
    folder: &'static str,
    settings: &'static [(&'static str, &'static str)],
    /// Columns, as `table.column`, whose values differ here besides those that always do.
    values_differ: &'static [&'static str],
}

/// Debezium drops these unless it is told to keep unknown types; here they are text.
const DROPPED: &[&str] =
    &["types.c_composite", "types.c_int4multirange", "types.c_tsquery", "types.c_pg_lsn"];

/// Debezium calls elements of enum arrays not nullable, and `default now()` the year 1970.
const SCHEMAS_DIFFER: &[&str] = &["types.c_enum_arr", "defaults.d_now"];

/// The two-dimensional array is null here (it would halt), now() is now, Debezium streams a `name` as null, and the
/// converter puts a column's default in the place of a NULL.
const VALUES_DIFFER: &[&str] =
    &["types.c_int4_arr2", "types.c_name", "defaults.d_now", "defaults.d_int4_null"];

/// Debezium's keys are those of the primary key, with zeros on a delete.
const KEYS_DIFFER: &[&str] = &["index_identity"];

async fn check(test: &mut Fixture, recording: &Recording) -> Result<()> {
    test.database.execute(&sql("1-before-snapshot.sql")?).await?;
    let prepare = format!(
        "update zoo.types set c_int4_arr2 = null; create publication {PUBLICATION} for tables in schema zoo"
    );
    test.database.execute(&prepare).await?;
    let mut config: Config = test.config().set("records.absent_before", "debezium");
    for (key, value) in recording.settings {
        config = match value.parse::<i64>() {
            Ok(number) => config.set(key, number),
            Err(_) => config.set(key, *value),
        };
    }
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    for statement in statements(&sql("2-while-streaming.sql")?) {
        test.database.execute(&statement).await.with_context(|| statement.clone())?;
    }
    test.settle().await?;
    headwater.stop().await?;

    let mut ours: BTreeMap<String, Vec<Raw>> = BTreeMap::new();
    for raw in test.raw_records()? {
        let table = raw.topic.rsplit('.').next().unwrap_or_default().to_owned();
        ours.entry(table).or_default().push(raw);
    }
    let mut decoder = Decoder::new(&test.kafka.registry);
    let golden = golden_records(recording)?;
    ensure!(golden.len() >= 5, "only {} tables were recorded", golden.len());
    let mut wrong = Vec::new();
    for (table, golden) in golden {
        let mut ours = ours.remove(&table).with_context(|| format!("no record of {table}"))?;
        ours.sort_by_key(|raw| {
            let id = parse_id(&raw.header("headwater.id").unwrap_or_default()).expect("an id");
            (id.commit_lsn, id.ordinal)
        });
        ensure!(ours.len() == golden.len(), "{table}: {} records, recorded {}", ours.len(), golden.len());
        for (at, (ours, golden)) in ours.iter().zip(&golden).enumerate() {
            let what = format!("{}{table}, record {at}", recording.folder);
            let prefix = test.prefix().to_owned();
            let checked = tokio::task::block_in_place(|| {
                check_record(recording, &table, &prefix, &mut decoder, ours, golden)
            });
            wrong.extend(checked.err().map(|error| format!("{what}: {error:#}")));
        }
    }
    ensure!(wrong.is_empty(), "{} records differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn check_record(
    recording: &Recording,
    table: &str,
    prefix: &str,
    decoder: &mut Decoder,
    ours: &Raw,
    golden: &Json,
) -> Result<()> {
    if !KEYS_DIFFER.contains(&table) {
        check_datum(recording, table, prefix, decoder, ours.key.as_deref(), &golden["key_b64"], "key")?;
    }
    check_datum(recording, table, prefix, decoder, ours.value.as_deref(), &golden["value_b64"], "value")
}

fn check_datum(
    recording: &Recording,
    table: &str,
    prefix: &str,
    decoder: &mut Decoder,
    ours: Option<&[u8]>,
    golden: &Json,
    part: &str,
) -> Result<()> {
    let (Some(ours), Some(golden)) = (ours, golden.as_str()) else {
        ensure!(ours.is_none() && golden.is_null(), "{part}: only one of the two is null");
        return Ok(());
    };
    let golden_json = read_json(&format!("{FIXTURES}/{}schemas/{table}-{part}.json", recording.folder))?;
    let golden = decode(&Schema::parse(&golden_json)?, &base64(golden))?;
    let datum = decoder.decode(ours)?;
    let text = datum.schema().to_string().replace(&format!("{prefix}."), "zoo_db.");
    check_schema(recording, table, &serde_json::from_str(&text)?, &golden_json)?;
    let ours = datum.value();
    if part == "key" {
        return check_row(recording, table, ours, &golden);
    }
    ensure!(field(ours, "op")? == field(&golden, "op")?, "op");
    for image in ["before", "after"] {
        let (ours, golden) = (field(ours, image)?, field(&golden, image)?);
        match (&ours, &golden) {
            (Value::Null, Value::Null) => {}
            (Value::Record(_), Value::Record(_)) => {
                check_row(recording, table, &ours, &golden).context(image)?;
            }
            _ => anyhow::bail!("{image}: only one of the two is null"),
        }
    }
    Ok(())
}

/// Everything but the named columns must be equal, their order too.
fn check_schema(recording: &Recording, table: &str, ours: &Json, golden: &Json) -> Result<()> {
    let kept = |schema: &Json| {
        let mut schema = schema.clone();
        let key = "/fields";
        let value = "/fields/0/type/1/fields";
        let path = if schema["name"] == "Envelope" { value } else { key };
        let columns = schema.pointer_mut(path).and_then(Json::as_array_mut).context("no columns")?;
        columns.retain(|column| {
            let name = format!("{table}.{}", column["name"].as_str().unwrap_or_default());
            let dropped = DROPPED.contains(&name.as_str()) && recording.folder != "all-events/";
            !dropped && !SCHEMAS_DIFFER.contains(&name.as_str())
        });
        anyhow::Ok(schema)
    };
    let (ours, golden) = (kept(ours)?, kept(golden)?);
    ensure!(ours == golden, "schema\n{ours}\nis not\n{golden}");
    Ok(())
}

fn check_row(recording: &Recording, table: &str, ours: &Value, golden: &Value) -> Result<()> {
    let Value::Record(fields) = golden else { anyhow::bail!("no record") };
    for (name, golden) in fields {
        let full = format!("{table}.{name}");
        let differs =
            VALUES_DIFFER.contains(&full.as_str()) || recording.values_differ.contains(&full.as_str());
        let (ours, golden) = (field(ours, name)?, without_union(golden));
        let both_nan =
            matches!((&ours, &golden), (Value::Double(a), Value::Double(b)) if a.is_nan() && b.is_nan());
        ensure!(differs || both_nan || ours == golden, "{name}: {ours:?}, recorded {golden:?}");
    }
    Ok(())
}

fn field(record: &Value, name: &str) -> Result<Value> {
    let Value::Record(fields) = record else { anyhow::bail!("no record with {name}") };
    let (_, value) = fields.iter().find(|(field, _)| field == name).with_context(|| format!("no {name}"))?;
    Ok(without_union(value))
}

fn without_union(value: &Value) -> Value {
    match value {
        Value::Union(_, inner) => without_union(inner),
        Value::Array(items) => Value::Array(items.iter().map(without_union).collect()),
        Value::Record(fields) => {
            Value::Record(fields.iter().map(|(name, value)| (name.clone(), without_union(value))).collect())
        }
        other => other.clone(),
    }
}

fn decode(schema: &Schema, record: &[u8]) -> Result<Value> {
    let mut body = record.get(5..).context("no header")?;
    Ok(GenericDatumReader::builder(schema).build()?.read_value(&mut body)?)
}

/// Streamed records by table. What the snapshot read is left out, and so are tombstones without a key: they delete
/// nothing, so here there are none.
fn golden_records(recording: &Recording) -> Result<BTreeMap<String, Vec<Json>>> {
    let path = format!("{FIXTURES}/{}events.jsonl", recording.folder);
    let mut tables: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let record: Json = serde_json::from_str(line)?;
        if record["op"] != "r" && !(record["key_b64"].is_null() && record["value_b64"].is_null()) {
            let table = record["table"].as_str().context("no table")?;
            tables.entry(table.to_owned()).or_default().push(record);
        }
    }
    Ok(tables)
}

fn read_json(path: &str) -> Result<Json> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(serde_json::from_str(&text)?)
}

/// The recorded SQL, up to where it needs a registry that takes anything.
pub fn sql(name: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/{name}"))?;
    let text = text.split(LAST_LINES).next().unwrap_or_default();
    // Every test's database has hstore, for its audit and in its schema.
    let text = text.replace("create extension hstore", "alter extension hstore set schema public");
    Ok(text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n"))
}

/// Statements that end at the end of a line.
/// One by one, as they were run.
pub fn statements(text: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    for line in text.lines() {
        let code = line.split(" --").next().unwrap_or_default().trim_end();
        let last = statements.last_mut().expect("one at least");
        last.push_str(code);
        last.push('\n');
        if code.ends_with(';') {
            statements.push(String::new());
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for character in text.bytes().filter(|byte| *byte != b'=') {
        let value = alphabet.iter().position(|known| *known == character).expect("base64");
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

#[test]
fn default_options() {
    let recording = Recording { folder: "", settings: &[], values_differ: &[] };
    on_shared("golden_default", async |test| check(test, &recording).await);
}

#[test]
fn text_and_connect_times() {
    let recording = Recording {
        folder: "strings/",
        settings: &[
            ("records.decimal_handling", "string"),
            ("records.time_precision", "connect"),
            ("records.interval_handling", "string"),
            ("records.hstore_handling", "map"),
            ("records.binary_handling", "base64"),
            ("records.money_fraction_digits", "4"),
        ],
        // Debezium has no placeholder in base64.
        values_differ: &["toasted.bigb"],
    };
    on_shared("golden_strings", async |test| check(test, &recording).await);
}

#[test]
fn doubles_and_iso_times() {
    let recording = Recording {
        folder: "doubles/",
        settings: &[
            ("records.decimal_handling", "double"),
            ("records.time_precision", "isostring"),
            ("records.binary_handling", "hex"),
        ],
        // 24:00:00 becomes 00:00:00 in Debezium's ISO text.
        values_differ: &["types.c_time", "special_time.t"],
    };
    on_shared("golden_doubles", async |test| check(test, &recording).await);
}

#[test]
fn microseconds() {
    let recording = Recording {
        folder: "micros/",
        settings: &[
            ("records.time_precision", "adaptive_time_microseconds"),
            ("records.binary_handling", "base64-url-safe"),
        ],
        values_differ: &["toasted.bigb"],
    };
    on_shared("golden_micros", async |test| check(test, &recording).await);
}

#[test]
fn types_of_the_source() {
    let recording = Recording {
        folder: "source_types/",
        settings: &[("records.propagate_source_type", "*")],
        values_differ: &[],
    };
    on_shared("golden_source", async |test| check(test, &recording).await);
}

#[test]
fn unknown_types_as_bytes() {
    let recording = Recording {
        folder: "all-events/",
        settings: &[("records.unknown_types", "bytes")],
        values_differ: &[],
    };
    on_shared("golden_unknown", async |test| check(test, &recording).await);
}
