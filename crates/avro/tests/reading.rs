//! What a real Debezium wrote, read back: by apache-avro and by us, value by value; and no bytes, however short or
//! wrong, are read as something else.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use headwater_avro::reading::{
    ChangeOp, EnvelopeReader, KeyReader, OfferedColumn, PgColumnType, confluent_parts,
};
use serde_json::Value as Json;
use support::base64;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden");

/// The catalog's name of a type as SQL has it.
fn catalog_name(sql: &str) -> String {
    if let Some(element) = sql.strip_suffix("[]") {
        return format!("_{}", catalog_name(element));
    }
    let name = match sql.split('(').next().unwrap_or_default() {
        "boolean" => "bool",
        "smallint" => "int2",
        "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" => "float8",
        other => other,
    };
    name.to_owned()
}

fn columns(offered: &[OfferedColumn]) -> Vec<Option<PgColumnType>> {
    let column = |column: &OfferedColumn| {
        let sql = column.created_type.as_ref().ok()?;
        Some(PgColumnType { name: catalog_name(sql), modifier: -1 })
    };
    offered.iter().map(column).collect()
}

/// COPY's escapes taken back.
fn plain(field: &str) -> String {
    let mut text = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some(c) => c,
                None => panic!("a field ends in a backslash"),
            },
            c => c,
        });
    }
    text
}

/// What apache-avro says a value is, where its text needs no table of types.
fn simple_text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Union(_, inner) => return simple_text(inner),
        Value::Null => "\\N".to_owned(),
        Value::String(text) => text.clone(),
        Value::Boolean(value) => if *value { "true" } else { "false" }.to_owned(),
        _ => return None,
    })
}

struct Recorded {
    table: String,
    op: Option<String>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn recorded(folder: &Path) -> Vec<Recorded> {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).expect("a recording");
    let records = text.lines().map(|line| {
        let json: Json = serde_json::from_str(line).expect("JSON");
        let bytes = |field: &str| json[field].as_str().map(base64);
        Recorded {
            table: json["table"].as_str().expect("a table").to_owned(),
            op: json["op"].as_str().map(str::to_owned),
            key: bytes("key_b64"),
            value: bytes("value_b64"),
        }
    });
    records.collect()
}

fn schema(folder: &Path, table: &str, part: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(format!("schemas/{table}-{part}.json"))).ok()
}

fn check_value(schema_json: &str, record: &Recorded, bytes: &[u8]) -> usize {
    let reader = EnvelopeReader::parse(schema_json).expect("an envelope");
    let offered = reader.columns();
    let types = columns(&offered);
    let plan = reader.plan(&types, "__debezium_unavailable_value").expect("a plan");
    let (_, body) = confluent_parts(bytes).expect("the registry's header");
    let (mut line, mut unchanged) = (Vec::new(), Vec::new());
    let read = plan.read(body, true, &mut line, &mut unchanged).expect("it can be read");
    let op = match record.op.as_deref() {
        Some("c") => ChangeOp::Create,
        Some("u") => ChangeOp::Update,
        Some("d") => ChangeOp::Delete,
        Some("r") => ChangeOp::Read,
        other => panic!("operation {other:?}"),
    };
    assert_eq!(read.op, op, "{}", record.table);
    assert!(read.source.sequence.1.is_some(), "{}: no position", record.table);
    for end in 0..body.len() {
        let _ = plan.read(&body[..end], true, &mut Vec::new(), &mut Vec::new()).expect_err("cut short");
    }
    let parsed = Schema::parse_str(schema_json).expect("a schema");
    let oracle = GenericDatumReader::builder(&parsed).build().expect("a reader");
    let Value::Record(fields) = oracle.read_value(&mut &body[..]).expect("apache-avro reads it") else {
        panic!("no record")
    };
    let after = fields.into_iter().find(|(name, _)| name == "after").expect("after").1;
    let Value::Union(_, after) = after else { panic!("no union") };
    let Value::Record(after) = *after else {
        assert!(!read.has_row, "{}", record.table);
        return 0;
    };
    let taken = after.iter().zip(&types).filter(|(_, column)| column.is_some());
    let line = String::from_utf8(line).expect("UTF-8");
    let ours: Vec<_> = line.split('\t').collect();
    let mut compared = 0;
    assert_eq!(ours.len(), taken.clone().count(), "{}", record.table);
    for (((name, value), _), ours) in taken.zip(ours) {
        if let Some(theirs) = simple_text(value) {
            let ours = if ours == "\\N" { ours.to_owned() } else { plain(ours) };
            assert_eq!(ours, theirs, "{}.{name}", record.table);
            compared += 1;
        }
    }
    compared
}

#[test]
fn recordings_are_read_as_apache_avro_reads_them() {
    let mut compared = BTreeMap::new();
    for folder in ["", "all-events", "doubles", "micros", "strings"] {
        let folder = Path::new(FIXTURES).join(folder);
        for record in recorded(&folder) {
            if let (Some(bytes), Some(schema)) = (&record.value, schema(&folder, &record.table, "value")) {
                *compared.entry(record.table.clone()).or_insert(0) += check_value(&schema, &record, bytes);
            }
            if let (Some(bytes), Some(schema)) = (&record.key, schema(&folder, &record.table, "key")) {
                let reader = KeyReader::parse(&schema).expect("a key");
                let plan = reader.plan(&columns(&reader.columns())).expect("a plan");
                let (_, body) = confluent_parts(bytes).expect("the registry's header");
                let mut line = Vec::new();
                plan.read(body, &mut line).expect("it can be read");
                assert_eq!(
                    line.split(|byte| *byte == b'\t').count(),
                    reader.columns().len(),
                    "{}",
                    record.table
                );
                assert!(body.is_empty() || plan.read(&body[..body.len() - 1], &mut Vec::new()).is_err());
            }
        }
    }
    assert!(compared.values().sum::<usize>() > 200, "{compared:?}");
}
