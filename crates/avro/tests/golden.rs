//! Against what Debezium wrote for the same rows: schemas attribute by attribute, the bytes of rows and keys, and
//! decoded values. Every deliberate difference is named here; any other fails.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
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

/// One column of the table `types` with its text in rows 11, 13 and 14 (row 12 is all NULL).
type TypesColumn = (&'static str, PgType, Option<&'static str>, Option<&'static str>, Option<&'static str>);

#[rustfmt::skip]
fn types_columns() -> Vec<TypesColumn> {
    let (time, timestamp, timestamptz) = (|precision| PgType::Time { precision }, |precision| PgType::Timestamp { precision }, |precision| PgType::TimestampTz { precision });
    vec![
        ("id", PgType::Int8, Some("11"), Some("13"), Some("14")),
        ("c_bool", PgType::Bool, Some("t"), None, None),
        ("c_int2", PgType::Int2, Some("32767"), Some("-32768"), None),
        ("c_int4", PgType::Int4, Some("2147483647"), Some("-1073741824"), None),
        ("c_int8", PgType::Int8, Some("9223372036854775807"), Some("-9223372036854775808"), None),
        ("c_float4", PgType::Float4, Some("3.1415927"), Some("-Infinity"), Some("Infinity")),
        ("c_float8", PgType::Float8, Some("2.718281828459045"), Some("NaN"), Some("-0")),
        ("c_numeric", PgType::NumericUnconstrained, Some("12345678901234567890.123456789"), Some("-0.000000000000000000001"), Some("1000000000000000000000000000000")),
        ("c_numeric10_2", numeric(10, 2), Some("12345678.90"), Some("-99999999.99"), None),
        ("c_numeric5", numeric(5, 0), Some("12345"), None, None),
        ("c_numeric38_10", numeric(38, 10), Some("1234567890.0123456789"), Some("-9999999999999999999999999999.9999999999"), None),
        ("c_text", PgType::Text, Some("text ü 🦀"), Some(""), None),
        ("c_varchar", PgType::Text, Some("varchar"), None, None),
        ("c_varchar20", PgType::Text, Some("varchar20"), None, None),
        ("c_char1", PgType::Text, Some("c"), None, None),
        ("c_char8", PgType::Text, Some("char8   "), Some("        "), None),
        ("c_intchar", PgType::Text, Some("x"), None, None),
        ("c_bytea", PgType::Bytea, Some("\\x00ff10"), Some("\\x"), None),
        ("c_date", PgType::Date, Some("2024-02-29"), Some("0001-01-01"), None),
        ("c_time", time(6), Some("12:34:56.123456"), Some("00:00:00"), Some("24:00:00")),
        ("c_time3", time(3), Some("12:34:56.789"), None, None),
        ("c_timestamp", timestamp(6), Some("2024-02-29 12:34:56.123456"), Some("0001-01-01 00:00:00"), Some("1969-12-31 23:59:59.999999")),
        ("c_timestamp3", timestamp(3), Some("2024-02-29 12:34:56.789"), None, None),
        ("c_timestamp0", timestamp(0), Some("2024-02-29 12:34:56"), None, None),
        ("c_timestamptz", timestamptz(6), Some("2024-02-29 10:34:56.123456+00"), Some("9999-12-31 23:59:59.999999+00"), Some("1969-12-31 23:59:59.999999+00")),
        ("c_timestamptz3", timestamptz(3), Some("2024-02-29 12:34:56.789+00"), None, None),
        ("c_uuid", PgType::Uuid, Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), Some("00000000-0000-0000-0000-000000000000"), None),
        ("c_json", PgType::Json, Some("{\"a\": [1, 2.50, null],  \"b\":\"x\"}"), Some("null"), None),
        ("c_jsonb", PgType::Json, Some("{\"a\": [1, 2.50, null], \"b\": \"x\"}"), None, None),
        ("c_xml", PgType::Other, Some("<a b=\"c\">d</a>"), None, None),
        ("c_inet", PgType::Other, Some("192.168.0.1/24"), None, None),
        ("c_cidr", PgType::Other, Some("10.0.0.0/8"), None, None),
        ("c_macaddr", PgType::Other, Some("08:00:2b:01:02:03"), None, None),
        ("c_macaddr8", PgType::Other, Some("08:00:2b:01:02:03:04:05"), None, None),
        ("c_enum", mood(), Some("happy"), None, None),
        ("c_domain", PgType::Int4, Some("5"), None, None),
        ("c_domain_citext", PgType::Text, Some("Some@Example.org"), None, None),
        ("c_domain_numeric", numeric(12, 2), Some("12.30"), None, None),
        ("c_citext", PgType::Text, Some("CiText"), None, None),
        ("c_ltree", PgType::Other, Some("Top.Science.Astronomy"), None, None),
        ("c_int4range", PgType::Other, Some("[1,10)"), Some("empty"), Some("(,6)")),
        ("c_tsvector", PgType::Other, Some("'a' 'cat' 'fat'"), None, None),
        ("c_int4_arr", array(PgType::Int4), Some("{1,NULL,3}"), Some("{}"), None),
        ("c_int8_arr", array(PgType::Int8), Some("{9223372036854775807}"), None, None),
        ("c_text_arr", array(PgType::Text), Some("{a,\"b \\\"q\\\"\",NULL,\"\"}"), Some("{}"), None),
        ("c_numeric_arr", array(numeric(10, 2)), Some("{1.10,NULL}"), None, None),
        ("c_bool_arr", array(PgType::Bool), Some("{t,f}"), None, None),
        ("c_date_arr", array(PgType::Date), Some("{2024-02-29,1969-12-31}"), None, None),
        ("c_timestamptz_arr", array(timestamptz(6)), Some("{\"2024-02-29 12:34:56.123456+00\"}"), None, None),
        ("c_uuid_arr", array(PgType::Uuid), Some("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"), None, None),
        ("c_enum_arr", array(mood()), Some("{sad,happy}"), None, None),
        ("c_jsonb_arr", array(PgType::Json), Some("{\"{\\\"a\\\": 1}\"}"), None, None),
        ("c_bytea_arr", array(PgType::Bytea), Some("{\"\\\\x01\"}"), None, None),
    ]
}

fn types() -> TableDescription {
    let columns = types_columns().into_iter().map(|(name, pg_type, ..)| column(name, pg_type)).collect();
    table("types", &[0], columns)
}

#[test]
fn columns_of_every_type_have_debeziums_schema() {
    // Types that have no row of their own yet are plain strings; Debezium gives these a name.
    const NAMED_BY_DEBEZIUM: [&str; 3] = ["c_xml", "c_ltree", "c_tsvector"];
    // Debezium says that elements of an enum array are never null, and fails when one is.
    const NULLABLE_ELEMENTS: [&str; 1] = ["c_enum_arr"];

    let ours: Json = serde_json::from_str(value_plan(&types()).schema_json()).expect("JSON");
    let (ours, golden) = (row_fields(&ours), row_fields(&golden_schema("types-value")));
    let mut different: BTreeSet<&str> = BTreeSet::new();
    for (name, field) in &ours {
        if *field != golden[name] {
            different.insert(name);
        }
    }
    assert_eq!(different, NAMED_BY_DEBEZIUM.into_iter().chain(NULLABLE_ELEMENTS).collect());
    for name in NAMED_BY_DEBEZIUM {
        assert_eq!(ours[name]["type"][1], "string");
        assert_eq!(golden[name]["type"][1]["type"], "string");
    }
    for name in NULLABLE_ELEMENTS {
        assert_eq!(ours[name]["type"][1]["items"][1], golden[name]["type"][1]["items"]);
    }
}

#[test]
fn values_of_every_type_are_debeziums() {
    let golden_schema = support::parse(&golden_schema("types-value").to_string());
    let plan = value_plan(&types());
    let our_schema = support::parse(plan.schema_json());
    let golden = golden_records("types");
    let rows: [fn(&TypesColumn) -> Option<&'static str>; 3] = [|row| row.2, |row| row.3, |row| row.4];
    // Rows 11, 12, 13, 14 were inserted in this order.
    for (row, golden) in rows.into_iter().zip([&golden[0], &golden[2], &golden[3]]) {
        let cells: Vec<_> =
            types_columns().iter().map(|column| row(column).map_or(Cell::Null, text)).collect();
        let row = Row::new(&cells);
        let mut out = Vec::new();
        plan.encode_into(SCHEMA_ID, &support::create(&row.tuple()), &mut out)
            .expect("a row that Postgres wrote");
        let ours = support::field(&support::decode(&our_schema, &out), "after");
        let golden = golden.value.as_ref().expect("no tombstone");
        let golden = support::field(&support::decode(&golden_schema, golden), "after");
        for (name, ..) in types_columns() {
            let (ours, golden) = (support::field(&ours, name), support::field(&golden, name));
            let both_nan =
                matches!((&ours, &golden), (Avro::Double(a), Avro::Double(b)) if a.is_nan() && b.is_nan());
            assert!(both_nan || ours == golden, "{name}: {ours:?}, Debezium wrote {golden:?}");
        }
    }
}
