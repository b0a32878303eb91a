//! What the tests of this crate share: rows as pgoutput sends them, descriptions, and apache-avro as the oracle.

#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod compiled;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use headwater_avro::{
    Change, ChangeSource, ColumnDescription, KeyPlan, Op, PgType, RecordSettings, SchemaId, SnapshotMark,
    SourceSettings, TableDescription, ValuePlan,
};
use headwater_pgoutput::{Lsn, Message, RelationId, ReplicaIdentity, Tuple};

/// A column as it is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    Null,
    Unchanged,
    Text(&'a [u8]),
}

pub fn text(text: &str) -> Cell<'_> {
    Cell::Text(text.as_bytes())
}

/// An Insert message with one row.
pub struct Row(Vec<u8>);

impl Row {
    pub fn new(cells: &[Cell<'_>]) -> Row {
        let mut body = b"I\0\0\x40\x01N".to_vec();
        body.extend((cells.len() as u16).to_be_bytes());
        for cell in cells {
            match cell {
                Cell::Null => body.push(b'n'),
                Cell::Unchanged => body.push(b'u'),
                Cell::Text(text) => {
                    body.push(b't');
                    body.extend((text.len() as u32).to_be_bytes());
                    body.extend(*text);
                }
            }
        }
        Row(body)
    }

    pub fn tuple(&self) -> Tuple<'_> {
        match Message::decode(&self.0).expect("a valid message") {
            Message::Insert(insert) => insert.new,
            other => panic!("not an insert: {other:?}"),
        }
    }
}

pub fn column(name: &str, pg_type: PgType) -> ColumnDescription {
    ColumnDescription {
        name: name.to_owned(),
        type_name: format!("{pg_type:?}"),
        pg_type,
        not_null: false,
        default: None,
        in_identity: false,
        declared: None,
        key_labels: None,
    }
}

/// A table in the schema `zoo`; the key columns are its identity and not null.
pub fn table(name: &str, key: &[usize], mut columns: Vec<ColumnDescription>) -> TableDescription {
    for &index in key {
        columns[index].not_null = true;
        columns[index].in_identity = true;
    }
    TableDescription {
        relation: RelationId(16_385),
        schema: "zoo".to_owned(),
        table: name.to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns,
        key: key.to_vec(),
    }
}

pub fn source() -> SourceSettings {
    SourceSettings { prefix: "zoo_db".to_owned(), database: "zoo_db".to_owned() }
}

pub const CHANGE_SOURCE: ChangeSource<'static> = ChangeSource {
    commit_lsn: Lsn(2_100_152_832),
    lsn: Lsn(2_100_153_024),
    commit_unix_micros: 1_795_244_653_774_208,
    xid: 1_406_414,
    origin: None,
    place: None,
    snapshot: SnapshotMark::None,
};

pub fn create<'a>(after: &'a Tuple<'a>) -> Change<'a> {
    Change { op: Op::Create, before: None, before_is_full: false, after: Some(after), source: &CHANGE_SOURCE }
}

pub fn value_plan(table: &TableDescription) -> ValuePlan {
    ValuePlan::new(table, &source(), &RecordSettings::default()).expect("a table with a schema")
}

pub fn key_plan(table: &TableDescription) -> KeyPlan {
    KeyPlan::new(table, &source(), &RecordSettings::default())
        .expect("a table with a schema")
        .expect("a table with a key")
}

pub fn parse(schema_json: &str) -> Schema {
    Schema::parse_str(schema_json).unwrap_or_else(|error| panic!("{error}: {schema_json}"))
}

/// Decodes a whole record of the registry's wire format; nothing may be left over.
pub fn decode(schema: &Schema, record: &[u8]) -> Value {
    assert_eq!(record[0], 0, "the wire format's first byte");
    let mut body = &record[5..];
    let reader = GenericDatumReader::builder(schema).build().expect("apache-avro resolves it");
    let value = reader.read_value(&mut body).expect("apache-avro decodes it");
    assert!(body.is_empty(), "{} bytes too many", body.len());
    value
}

/// A field of a record, through any union.
pub fn field(value: &Value, name: &str) -> Value {
    match value {
        Value::Union(_, inner) => field(inner, name),
        Value::Record(fields) => {
            let (_, value) =
                fields.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("no {name}"));
            without_union(value)
        }
        other => panic!("no record: {other:?}"),
    }
}

pub fn without_union(value: &Value) -> Value {
    match value {
        Value::Union(_, inner) => without_union(inner),
        Value::Array(items) => Value::Array(items.iter().map(without_union).collect()),
        Value::Record(fields) => {
            Value::Record(fields.iter().map(|(name, value)| (name.clone(), without_union(value))).collect())
        }
        other => other.clone(),
    }
}

pub fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64"),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}

pub const SCHEMA_ID: SchemaId = SchemaId(7);
