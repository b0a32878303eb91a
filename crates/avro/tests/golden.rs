//! Against what Debezium wrote for the same rows: schemas attribute by attribute, and the bytes of rows and keys.
//! Every deliberate difference is named here; any other fails. All types in all modes are in `golden_modes.rs`.

mod support;

use std::collections::BTreeMap;

use apache_avro::Schema;
use headwater_avro::{Change, ColumnDescription, FORMAT_VERSION, Op, PgType, TableDescription};
use headwater_pgoutput::ReplicaIdentity;
use serde_json::Value as Json;
use support::{CHANGE_SOURCE, Cell, Row, SCHEMA_ID, column, key_plan, table, text, value_plan};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden");

fn golden_schema(name: &str) -> Json {
    let path = format!("{FIXTURES}/schemas/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path)
}

/// One record that Debezium wrote.
struct Golden {
    op: Option<String>,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    newkey: Option<String>,
    oldkey: Option<String>,
}

fn golden_records(table: &str) -> Vec<Golden> {
    let path = format!("{FIXTURES}/events.jsonl");
    let lines = std::fs::read_to_string(&path).expect(&path);
    let records = lines.lines().map(|line| serde_json::from_str::<Json>(line).expect("a line of JSON"));
    let text = |record: &Json, name: &str| record[name].as_str().map(str::to_owned);
    records
        .filter(|record| record["table"] == table)
        .map(|record| Golden {
            op: text(&record, "op"),
            key: text(&record, "key_b64").map(|key| support::base64(&key)).unwrap_or_default(),
            value: text(&record, "value_b64").map(|value| support::base64(&value)),
            newkey: text(&record, "newkey"),
            oldkey: text(&record, "oldkey"),
        })
        .collect()
}

fn with_default(column: ColumnDescription, default: &str) -> ColumnDescription {
    ColumnDescription { default: Some(default.to_owned()), ..column }
}

fn required(column: ColumnDescription) -> ColumnDescription {
    ColumnDescription { not_null: true, ..column }
}

fn full(mut table: TableDescription) -> TableDescription {
    table.replica_identity = ReplicaIdentity::Full;
    table.columns.iter_mut().for_each(|column| column.in_identity = true);
    table
}

fn mood() -> PgType {
    PgType::Enum { labels: ["sad", "ok", "happy"].map(str::to_owned).to_vec() }
}

fn array(element: PgType) -> PgType {
    PgType::Array(Box::new(element))
}

fn numeric(precision: u16, scale: i16) -> PgType {
    PgType::Numeric { precision, scale }
}

const MICROS: u8 = 6;

/// Compares schemas, attribute order aside.
fn check_schemas(name: &str, table: &TableDescription) {
    check_schema(&format!("{name}-value"), value_plan(table).schema_json());
    if !table.key.is_empty() {
        check_schema(&format!("{name}-key"), key_plan(table).schema_json());
    }
}

/// apache-avro must take ours where it takes Debezium's. (It doesn't take a decimal's default, neither in ours nor in
/// Debezium's, though the specification has an example of one.)
fn check_schema(name: &str, schema_json: &str) {
    let golden = golden_schema(name);
    let parses = |schema: &str| Schema::parse_str(schema).is_ok();
    assert_eq!(serde_json::from_str::<Json>(schema_json).expect("JSON"), golden, "{name}");
    assert_eq!(parses(schema_json), parses(&golden.to_string()), "{name}");
}

fn composite_pk() -> TableDescription {
    let columns = [("a", PgType::Int4), ("b", PgType::Text), ("c", PgType::Uuid), ("v", PgType::Int4)];
    table("composite_pk", &[1, 0, 2], columns.map(|(name, pg_type)| column(name, pg_type)).to_vec())
}

fn special_time() -> TableDescription {
    let columns = vec![
        column("id", PgType::Int4),
        column("d", PgType::Date),
        column("ts", PgType::Timestamp { precision: MICROS }),
        column("tstz", PgType::TimestampTz { precision: MICROS }),
        column("t", PgType::Time { precision: MICROS }),
    ];
    table("special_time", &[0], columns)
}

fn toasted() -> TableDescription {
    let columns = vec![
        column("id", PgType::Int4),
        column("small", PgType::Text),
        column("big", PgType::Text),
        column("bigb", PgType::Bytea),
        column("biga", array(PgType::Text)),
    ];
    table("toasted", &[0], columns)
}

fn full_identity() -> TableDescription {
    let columns = vec![column("id", PgType::Int4), column("a", PgType::Text), column("n", numeric(10, 2))];
    full(table("full_identity", &[0], columns))
}

#[test]
fn schemas_are_debeziums() {
    check_schemas("composite_pk", &composite_pk());
    check_schemas("special_time", &special_time());
    check_schemas("toasted", &toasted());
    check_schemas("full_identity", &full_identity());
    check_schemas("no_pk", &table("no_pk", &[], vec![column("a", PgType::Int4), column("b", PgType::Text)]));
    let odd = ["ID", "with space", "1st", "dash-ed", "ünï", "select"];
    let odd = odd.map(|name| column(name, if name == "ID" { PgType::Int4 } else { PgType::Text }));
    check_schemas("Odd-Name__1", &table("Odd-Name $1", &[0], odd.to_vec()));
}

/// The golden table has the default replica identity, under which our schemas show no defaults; with the full one
/// they must be Debezium's.
#[test]
fn schemas_with_defaults_are_debeziums() {
    check_schemas("defaults", &full(defaults()));
}

fn defaults() -> TableDescription {
    let columns = vec![
        with_default(column("id", PgType::Int4), "0"),
        with_default(required(column("d_int4", PgType::Int4)), "42"),
        with_default(column("d_int4_null", PgType::Int4), "7"),
        with_default(required(column("d_bool", PgType::Bool)), "true"),
        with_default(required(column("d_float8", PgType::Float8)), "1.5"),
        with_default(required(column("d_numeric", numeric(10, 2))), "9.99"),
        with_default(required(column("d_text", PgType::Text)), "hi"),
        with_default(required(column("d_date", PgType::Date)), "2020-02-29"),
        with_default(
            required(column("d_timestamp", PgType::Timestamp { precision: MICROS })),
            "2020-02-29 12:00:00.123456",
        ),
        with_default(
            required(column("d_timestamptz", PgType::TimestampTz { precision: MICROS })),
            "2020-02-29 12:00:00+00",
        ),
        with_default(
            required(column("d_now", PgType::TimestampTz { precision: MICROS })),
            "1970-01-01 00:00:00+00",
        ),
        with_default(required(column("d_uuid", PgType::Uuid)), "00000000-0000-0000-0000-000000000001"),
        with_default(required(column("d_jsonb", PgType::Json)), "{}"),
        with_default(required(column("d_enum", mood())), "ok"),
        with_default(required(column("d_bytea", PgType::Bytea)), "\\xff"),
        with_default(required(column("d_arr", array(PgType::Int4))), "{1,2}"),
        required(column("d_identity", PgType::Int4)),
        required(column("d_notnull", PgType::Int4)),
    ];
    table("defaults", &[0], columns)
}

/// What can be absent from an old tuple is nullable and has no default.
#[test]
fn columns_that_can_be_absent_differ_from_debeziums() {
    let ours: Json = serde_json::from_str(value_plan(&defaults()).schema_json()).expect("JSON");
    let golden = golden_schema("defaults-value");
    let (ours, golden) = (row_fields(&ours), row_fields(&golden));
    assert_eq!(ours["id"], golden["id"], "a key column is always there");
    for (name, field) in &ours {
        if name != "id" {
            assert_eq!(field["type"][0], "null", "{name}");
            assert_eq!(field["default"], Json::Null, "{name}");
            assert!(field["type"][1].get("connect.default").is_none(), "{name}");
        }
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
}

fn row_fields(envelope: &Json) -> BTreeMap<String, Json> {
    let fields = envelope["fields"][0]["type"][1]["fields"].as_array().expect("fields of Value");
    fields.iter().map(|field| (field["name"].as_str().expect("a name").to_owned(), field.clone())).collect()
}

/// Our bytes up to `source`, which are Debezium's; behind it stand LSNs and times of another run.
fn check_row_bytes(golden: &Golden, ours: &[u8], what: &str) {
    let source_starts = [&[22], FORMAT_VERSION.as_bytes(), &[20], b"postgresql"].concat();
    let end = ours.windows(source_starts.len()).position(|window| window == source_starts).expect("source");
    let golden = golden.value.as_ref().expect("no tombstone");
    assert_eq!(golden[5..end], ours[5..end], "{what}");
    assert_eq!(golden[end], 22, "{what}: source follows");
}

/// A change as the SQL made it: operation, old tuple, new tuple.
type Made<'a> = (Op, Option<Vec<Cell<'a>>>, Option<Vec<Cell<'a>>>);

/// Encodes the changes and compares rows and keys with the golden ones, tombstones left out.
fn check_bytes(name: &str, table: &TableDescription, changes: &[Made<'_>]) {
    let golden: Vec<_> = golden_records(name).into_iter().filter(|record| record.value.is_some()).collect();
    assert_eq!(golden.len(), changes.len(), "{name}");
    let (value_plan, key_plan) = (value_plan(table), key_plan(table));
    for (golden, (op, before, after)) in golden.iter().zip(changes) {
        let what = format!("{name} {op:?} {before:?} {after:?}");
        assert_eq!(golden.op.as_deref(), Some(op.code()), "{what}");
        let (before, after) = (before.as_deref().map(Row::new), after.as_deref().map(Row::new));
        let (before, after) = (before.as_ref().map(Row::tuple), after.as_ref().map(Row::tuple));
        let mut out = Vec::new();
        key_plan
            .encode_into(SCHEMA_ID, after.as_ref().or(before.as_ref()).expect("a row"), &mut out)
            .expect(&what);
        assert_eq!(golden.key[5..], out[5..], "key of {what}");
        out.clear();
        let change = Change {
            op: *op,
            before: before.as_ref(),
            before_is_full: table.has_full_identity(),
            after: after.as_ref(),
            source: &CHANGE_SOURCE,
        };
        value_plan.encode_into(SCHEMA_ID, &change, &mut out).expect(&what);
        check_row_bytes(golden, &out, &what);
    }
}

#[test]
fn rows_of_odd_times_are_debeziums_bytes() {
    let first = ["1", "2024-01-01", "infinity", "-infinity", "24:00:00"].map(text).to_vec();
    let second = ["2", "4713-01-01 BC", "2024-01-01 00:00:00", "2024-01-01 00:00:00+00", "00:00:00"]
        .map(text)
        .to_vec();
    check_bytes(
        "special_time",
        &special_time(),
        &[(Op::Create, None, Some(first)), (Op::Create, None, Some(second))],
    );
}

#[test]
fn rows_with_unchanged_toast_are_debeziums_bytes() {
    let (t, u) = ("t".repeat(5000), "u".repeat(5000));
    let bytes = format!("\\x{}", "00ff".repeat(2500));
    let elements = format!("{{{}}}", vec!["element"; 800].join(","));
    let unchanged = |id, big| vec![text(id), text("t"), big, Cell::Unchanged, Cell::Unchanged];
    let key = |id| vec![text(id), Cell::Null, Cell::Null, Cell::Null, Cell::Null];
    let changes = [
        (Op::Read, None, Some(vec![text("1"), text("s"), text(&t), text(&bytes), text(&elements)])),
        (Op::Update, None, Some(unchanged("1", Cell::Unchanged))),
        (Op::Update, None, Some(unchanged("1", text(&u)))),
        (Op::Delete, Some(key("1")), None),
        (Op::Create, None, Some(unchanged("2", Cell::Unchanged))),
        (Op::Delete, Some(key("2")), None),
    ];
    check_bytes("toasted", &toasted(), &changes);
}

#[test]
fn keys_and_changed_keys_are_debeziums_bytes() {
    const UUID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    fn row<'a>(a: &'a str, b: &'a str, v: &'a str) -> Option<Vec<Cell<'a>>> {
        Some([a, b, UUID, v].map(text).to_vec())
    }
    fn key(a: &str) -> Option<Vec<Cell<'_>>> {
        Some(vec![text(a), text("b"), text(UUID), Cell::Null])
    }
    let changes = [
        (Op::Read, None, row("1", "b", "10")),
        (Op::Create, None, row("2", "b", "20")),
        (Op::Update, None, row("2", "b", "21")),
        (Op::Delete, key("2"), None),
        (Op::Create, None, row("3", "b", "21")),
        (Op::Delete, key("3"), None),
        (Op::Create, None, row("9", "tx", "9")),
    ];
    check_bytes("composite_pk", &composite_pk(), &changes);

    let plan = key_plan(&composite_pk());
    let (old, new) = (key("2").expect("a key"), row("3", "b", "21").expect("a row"));
    let (old, new) = (Row::new(&old), Row::new(&new));
    assert!(plan.changed(&old.tuple(), &new.tuple()));
    assert!(!plan.changed(&new.tuple(), &new.tuple()));
    let json = |row: &Row| {
        let mut out = Vec::new();
        plan.write_json(&row.tuple(), &mut out).expect("a key");
        String::from_utf8(out).expect("UTF-8")
    };
    let golden = golden_records("composite_pk");
    assert!(golden.iter().any(|record| record.newkey.as_deref() == Some(&json(&new))));
    assert!(golden.iter().any(|record| record.oldkey.as_deref() == Some(&json(&old))));
}

#[test]
fn rows_of_a_full_identity_are_debeziums_bytes() {
    fn row<'a>(id: &'a str, a: &'a str, n: &'a str) -> Option<Vec<Cell<'a>>> {
        Some([id, a, n].map(text).to_vec())
    }
    let changes = [
        (Op::Read, None, row("1", "x", "1.10")),
        (Op::Update, row("1", "x", "1.10"), row("1", "y", "1.10")),
        (Op::Delete, row("1", "y", "1.10"), None),
        (Op::Create, None, row("2", "y", "1.10")),
        (Op::Delete, row("2", "y", "1.10"), None),
        (Op::Create, None, row("3", "tx", "3.00")),
    ];
    check_bytes("full_identity", &full_identity(), &changes);
}
