//! Flat records against what Debezium's transform ExtractNewRecordState made of the same rows, in Avro's schemas and
//! in JSON's records; and masks and chosen columns, which have no golden records, against their definitions.

mod support;

use headwater_avro::{
    Change, ColumnDescription, ColumnMasks, ColumnNames, ColumnPatterns, Envelope, FlatDeletes, KeyPlan,
    Mask, MaskSalt, MetadataField, MetadataFields, Op, PgType, RecordEncoding, RecordNaming, RecordSettings,
    SchemaError, TableDescription, TypeStyle, ValuePlan,
};
use headwater_pgoutput::ReplicaIdentity;
use serde_json::{Value as Json, json};
use support::{CHANGE_SOURCE, Cell, Row, SCHEMA_ID, column, table, text};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden");

fn unwrap(encoding: RecordEncoding) -> RecordSettings {
    let fields = ["op", "table", "lsn", "source.ts_ms"];
    RecordSettings {
        envelope: Envelope::Flat,
        flat_deletes: FlatDeletes::Rewrite,
        metadata_fields: MetadataFields(
            fields.iter().map(|field| MetadataField::parse(field).expect("a field")).collect(),
        ),
        key_encoding: encoding,
        value_encoding: encoding,
        ..RecordSettings::default()
    }
}

fn plans(table: &TableDescription, records: &RecordSettings) -> (Option<KeyPlan>, ValuePlan) {
    let source = support::source();
    (
        KeyPlan::new(table, &source, records).expect("a key's schema"),
        ValuePlan::new(table, &source, records).expect("a schema"),
    )
}

fn full(mut table: TableDescription) -> TableDescription {
    table.replica_identity = ReplicaIdentity::Full;
    table.columns.iter_mut().for_each(|column| column.in_identity = true);
    table
}

fn composite_pk() -> TableDescription {
    let columns = [("a", PgType::Int4), ("b", PgType::Text), ("c", PgType::Uuid), ("v", PgType::Int4)];
    table("composite_pk", &[1, 0, 2], columns.map(|(name, pg_type)| column(name, pg_type)).to_vec())
}

fn toasted() -> TableDescription {
    let columns = [
        ("id", PgType::Int4),
        ("small", PgType::Text),
        ("big", PgType::Text),
        ("bigb", PgType::Bytea),
        ("biga", PgType::Array(Box::new(PgType::Text))),
    ];
    table("toasted", &[0], columns.map(|(name, pg_type)| column(name, pg_type)).to_vec())
}

fn full_identity() -> TableDescription {
    let numeric = PgType::Numeric { precision: 10, scale: 2 };
    let columns = vec![column("id", PgType::Int4), column("a", PgType::Text), column("n", numeric)];
    full(table("full_identity", &[0], columns))
}

fn odd_name() -> TableDescription {
    let names = ["ID", "with space", "1st", "dash-ed", "ünï", "select"];
    let columns = names.map(|name| column(name, if name == "ID" { PgType::Int4 } else { PgType::Text }));
    table("Odd-Name $1", &[0], columns.to_vec())
}

#[test]
fn flat_schemas_are_debeziums() {
    for (name, table) in [
        ("composite_pk", composite_pk()),
        ("toasted", toasted()),
        ("full_identity", full_identity()),
        ("Odd-Name__1", odd_name()),
    ] {
        let (key, value) = plans(&table, &unwrap(RecordEncoding::Avro));
        let key = key.expect("a key");
        for (part, ours) in [("key", key.schema_json()), ("value", value.schema_json())] {
            let path = format!("{FIXTURES}/unwrap/schemas/{name}-{part}.json");
            let golden: Json =
                serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path);
            assert_eq!(serde_json::from_str::<Json>(ours).expect("JSON"), golden, "{name}-{part}");
            support::parse(ours);
        }
    }
}

/// Operation, old tuple, new tuple.
type Made<'a> = (Op, Option<Vec<Cell<'a>>>, Option<Vec<Cell<'a>>>);

fn encoded(
    table: &TableDescription,
    records: &RecordSettings,
    (op, before, after): &Made<'_>,
) -> (Option<Vec<u8>>, Vec<u8>) {
    let (key, value) = plans(table, records);
    let (before, after) = (before.as_deref().map(Row::new), after.as_deref().map(Row::new));
    let (before, after) = (before.as_ref().map(Row::tuple), after.as_ref().map(Row::tuple));
    let change = Change {
        op: *op,
        before: before.as_ref(),
        before_is_full: table.has_full_identity(),
        after: after.as_ref(),
        source: &CHANGE_SOURCE,
    };
    let mut out = Vec::new();
    value.encode_into(SCHEMA_ID, &change, &mut out).expect("a row that Postgres wrote");
    let key = key.map(|key| {
        let mut out = Vec::new();
        let tuple = after.as_ref().or(before.as_ref()).expect("a row");
        key.encode_into(SCHEMA_ID, tuple, &mut out).expect("a key");
        out
    });
    (key, out)
}

fn parsed(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

fn check_json(name: &str, table: &TableDescription, changes: &[Made<'_>]) {
    let path = format!("{FIXTURES}/json/unwrap.jsonl");
    let lines = std::fs::read_to_string(&path).expect(&path);
    let golden = lines.lines().map(|line| serde_json::from_str::<Json>(line).expect("a line of JSON"));
    let golden: Vec<_> = golden.filter(|record| record["table"] == name).collect();
    assert_eq!(golden.len(), changes.len(), "{name}");
    for (golden, made) in golden.iter().zip(changes) {
        let (key, value) = encoded(table, &unwrap(RecordEncoding::Json), made);
        assert_eq!(parsed(&key.expect("a key")), golden["key"], "{made:?}");
        let (mut ours, mut theirs) = (parsed(&value), golden["value"].clone());
        for record in [&mut ours, &mut theirs] {
            assert!(record["__lsn"].take().is_u64() && record["__source_ts_ms"].take().is_u64(), "{made:?}");
        }
        assert_eq!(ours, theirs, "{made:?}");
    }
}

#[test]
fn flat_rows_are_debeziums_json() {
    const UUID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    fn row<'a>(columns: &[&'a str]) -> Option<Vec<Cell<'a>>> {
        Some(columns.iter().map(|column| text(column)).collect())
    }
    let key = |a: &'static str| Some(vec![text(a), text("b"), text(UUID), Cell::Null]);
    check_json(
        "composite_pk",
        &composite_pk(),
        &[
            (Op::Read, None, row(&["1", "b", UUID, "10"])),
            (Op::Create, None, row(&["2", "b", UUID, "20"])),
            (Op::Update, None, row(&["2", "b", UUID, "21"])),
            (Op::Delete, key("2"), None),
            (Op::Create, key("2"), row(&["3", "b", UUID, "21"])),
            (Op::Delete, key("3"), None),
            (Op::Create, None, row(&["9", "tx", UUID, "9"])),
        ],
    );
    check_json(
        "Odd-Name__1",
        &odd_name(),
        &[
            (Op::Read, None, row(&["1", "a", "b", "c", "d", "e"])),
            (Op::Create, None, row(&["2", "a", "b", "c", "d", "e"])),
        ],
    );
    let (t, u) = ("t".repeat(5000), "u".repeat(5000));
    let bytes = format!("\\x{}", "00ff".repeat(2500));
    let elements = format!("{{{}}}", vec!["element"; 800].join(","));
    let unchanged = |id, big| Some(vec![text(id), text("t"), big, Cell::Unchanged, Cell::Unchanged]);
    let key = |id: &'static str| Some(vec![text(id), Cell::Null, Cell::Null, Cell::Null, Cell::Null]);
    check_json(
        "toasted",
        &toasted(),
        &[
            (Op::Read, None, row(&["1", "s", &t, &bytes, &elements])),
            (Op::Update, None, unchanged("1", Cell::Unchanged)),
            (Op::Update, None, unchanged("1", text(&u))),
            (Op::Delete, key("1"), None),
            (Op::Create, None, unchanged("2", Cell::Unchanged)),
            (Op::Delete, key("2"), None),
        ],
    );
}

fn mask(pattern: &str, mask: &str) -> (String, Mask) {
    (pattern.to_owned(), Mask::parse(mask).expect("a mask"))
}

fn person() -> TableDescription {
    let required = |column: ColumnDescription| ColumnDescription { not_null: true, ..column };
    let columns = vec![
        column("id", PgType::Int4),
        ColumnDescription { default: Some("CLEAR".to_owned()), ..column("email", PgType::Text) },
        required(column("age", PgType::Int4)),
        required(column("card", PgType::Text)),
        column("note", PgType::Text),
        required(column("day", PgType::Date)),
        column("left_out", PgType::Text),
    ];
    full(table("person", &[0], columns))
}

fn masked() -> RecordSettings {
    RecordSettings {
        masks: ColumnMasks::new([
            mask("email", "hash"),
            mask("age", "hash"),
            mask("card", "fixed:****"),
            mask("note", "truncate:1"),
            mask("day", "null"),
        ]),
        mask_salt: MaskSalt::new(b"pepper"),
        columns_exclude: ColumnPatterns(vec!["left_*".to_owned()]),
        renames: ColumnNames([("note".to_owned(), "short note".to_owned())].into()),
        ..RecordSettings::default()
    }
}

#[test]
fn masked_rows() {
    let row = ["1", "CLEAR-ann@example.org", "4711042", "CLEAR", "aCLEAR", "2024-02-29", "CLEAR"].map(text);
    let unchanged = [Cell::Unchanged; 4];
    let unchanged =
        [&[text("1"), unchanged[0], text("5"), unchanged[1], unchanged[2], text("2024-02-29"), unchanged[3]]];
    let records = RecordSettings { value_encoding: RecordEncoding::Json, ..masked() };
    let made = (Op::Update, Some(row.to_vec()), Some(row.to_vec()));
    let (_, value) = encoded(&person(), &records, &made);
    let expected = json!({
        "id": 1,
        // By Python's hmac.
        "email": "6ef7a5d055ba852ac2fe80ded6dc9d7aea05a917760b05fd78a4e6cc66cca6e2",
        "age": "f9bc19f7d38f94365fcbd8c95cad5653f347a06e79ebc7d460f49933402cb80b",
        "card": "****", "short note": "a", "day": null,
    });
    let value = parsed(&value);
    assert_eq!((&value["before"], &value["after"]), (&expected, &expected));

    let not_full = TableDescription { replica_identity: ReplicaIdentity::Default, ..person() };
    let made = (Op::Update, None, Some(unchanged[0].to_vec()));
    let (_, value) = encoded(&not_full, &records, &made);
    let after = &parsed(&value)["after"];
    assert_eq!(after["email"], "__debezium_unavailable_value");
    assert_eq!(after["short note"], "__debezium_unavailable_value");
    assert_eq!(after["card"], "****", "every value is this");

    let (_, avro) = plans(&person(), &masked());
    assert!(!avro.schema_json().contains("CLEAR"), "a default is a value: {}", avro.schema_json());
    let schema = support::parse(avro.schema_json());
    let made = (Op::Create, None, Some(row.to_vec()));
    let after = support::field(&support::decode(&schema, &encoded(&person(), &masked(), &made).1), "after");
    assert_eq!(support::field(&after, "short_note"), apache_avro::types::Value::String("a".to_owned()));
}

#[test]
fn masks_that_hide_nothing_or_too_much_are_refused() {
    let refused = |pattern: &str, text: &str| {
        let records =
            RecordSettings { masks: ColumnMasks::new([mask(pattern, text)]), ..RecordSettings::default() };
        let source = support::source();
        let key = KeyPlan::new(&person(), &source, &records).err();
        key.or(ValuePlan::new(&person(), &source, &records).err())
    };
    for text in ["null", "fixed:x", "truncate:1"] {
        assert!(matches!(refused("id", text), Some(SchemaError::MaskInKey { .. })), "{text}");
    }
    assert!(matches!(refused("age", "truncate:1"), Some(SchemaError::MaskOfType { .. })));
    assert_eq!(refused("id", "hash"), None);
}

#[test]
fn names_that_meet_are_refused() {
    let records = |records| ValuePlan::new(&person(), &support::source(), &records).err();
    let renames = ColumnNames([("note".to_owned(), "email".to_owned())].into());
    let error = records(RecordSettings { renames, ..RecordSettings::default() });
    assert!(matches!(error, Some(SchemaError::NamesCollide { .. })));
    let flat = RecordSettings { metadata_prefix: "a".to_owned(), ..unwrap(RecordEncoding::Json) };
    let metadata_fields = MetadataFields(vec![MetadataField::parse("op:ge").expect("a field")]);
    let error = records(RecordSettings { metadata_fields, ..flat });
    assert!(matches!(error, Some(SchemaError::MetadataCollides { .. })));
    let keyless = full(TableDescription { key: Vec::new(), ..person() });
    let flat = RecordSettings { envelope: Envelope::Flat, ..RecordSettings::default() };
    let error = ValuePlan::new(&keyless, &support::source(), &flat).err();
    assert!(matches!(error, Some(SchemaError::DeletesWithoutKey { .. })));
}

/// The field that tells the tables of a topic apart, and the names that follow the topic.
#[test]
fn keys_with_their_table() {
    let naming = RecordNaming {
        schema_topic: Some("shop.all-1".to_owned()),
        key_fields: vec![("table.of".to_owned(), "shop.public.t".to_owned())],
    };
    let row = Row::new(&[text("3"), text("b"), Cell::Null, Cell::Null]);
    for (key_encoding, types, schema_names, expected) in [
        (RecordEncoding::Avro, TypeStyle::Connect, ["a", "table_of", "shop.all_1"], None),
        (RecordEncoding::Avro, TypeStyle::Avro, ["a", "table_of", "shop.all_1"], None),
        (
            RecordEncoding::Json,
            TypeStyle::Connect,
            ["a", "table.of", "shop.all-1"],
            Some(r#"{"a":3,"table.of":"shop.public.t"}"#),
        ),
    ] {
        let mut table = composite_pk();
        table.key = vec![0];
        let records =
            RecordSettings { naming: naming.clone(), key_encoding, types, ..RecordSettings::default() };
        let (key, value) = plans(&table, &records);
        let key = key.expect("a key");
        let schema: Json = serde_json::from_str(key.schema_json()).expect("JSON");
        let fields = [&schema["fields"][0]["name"], &schema["fields"][1]["name"], &schema["namespace"]];
        assert_eq!(fields.map(|name| name.as_str().unwrap_or_default()), schema_names);
        let namespace = serde_json::from_str::<Json>(value.schema_json()).expect("JSON")["namespace"].clone();
        assert_eq!(namespace, "shop.all_1");
        let mut bytes = Vec::new();
        key.encode_into(SCHEMA_ID, &row.tuple(), &mut bytes).expect("a key");
        match expected {
            Some(json) => assert_eq!(String::from_utf8(bytes).expect("JSON"), json),
            None => {
                let schema = apache_avro::Schema::parse_str(key.schema_json()).expect("a schema");
                let decoded = support::decode(&schema, &bytes);
                let table = support::field(&decoded, "table_of");
                assert_eq!(table, apache_avro::types::Value::String("shop.public.t".to_owned()));
            }
        }
        // Debezium makes the headers of changed keys before its router adds the field.
        let mut header = Vec::new();
        key.write_json(&row.tuple(), &mut header).expect("a key");
        assert_eq!(header, br#"{"a":3}"#);
    }
    let naming =
        RecordNaming { key_fields: vec![("a".to_owned(), String::new())], ..RecordNaming::default() };
    let records = RecordSettings { naming, ..RecordSettings::default() };
    let error =
        KeyPlan::new(&composite_pk(), &support::source(), &records).expect_err("two fields of one name");
    assert!(error.to_string().contains("choose another table_key_field"), "{error}");
}
