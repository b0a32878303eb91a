//! Every column type in every mode that Debezium was recorded in: schemas field by field and decoded values. Every
//! deliberate difference is named here; any other fails.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::types::Value as Avro;
use headwater_avro::{
    AbsentBefore, BinaryHandling, Change, DecimalHandling, HstoreHandling, IntervalHandling, KeyPlan, Op,
    PgType, RecordSettings, TableDescription, TimePrecision, UnknownTypes, ValuePlan,
};
use serde_json::Value as Json;
use support::{CHANGE_SOURCE, Cell, Row, SCHEMA_ID, column, table, text};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden");

/// A recording: the folder of its fixtures (the defaults' are on top) and the settings that match its options.
fn recordings() -> Vec<(&'static str, RecordSettings)> {
    let default = RecordSettings::default;
    vec![
        ("", default()),
        (
            "strings/",
            RecordSettings {
                decimal_handling: DecimalHandling::String,
                time_precision: TimePrecision::Connect,
                interval_handling: IntervalHandling::String,
                hstore_handling: HstoreHandling::Map,
                binary_handling: BinaryHandling::Base64,
                money_fraction_digits: 4,
                ..default()
            },
        ),
        (
            "doubles/",
            RecordSettings {
                decimal_handling: DecimalHandling::Double,
                time_precision: TimePrecision::Isostring,
                binary_handling: BinaryHandling::Hex,
                ..default()
            },
        ),
        (
            "micros/",
            RecordSettings {
                time_precision: TimePrecision::AdaptiveTimeMicroseconds,
                binary_handling: BinaryHandling::Base64UrlSafe,
                ..default()
            },
        ),
        ("all-events/", RecordSettings { unknown_types: UnknownTypes::Bytes, ..default() }),
    ]
}

fn golden_schema(recording: &str, name: &str) -> Json {
    let path = format!("{FIXTURES}/{recording}schemas/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path)
}

/// The values of a table's records as they were on the wire, with their operations; tombstones are left out.
fn golden_values(recording: &str, table: &str) -> Vec<(String, Vec<u8>)> {
    let path = format!("{FIXTURES}/{recording}events.jsonl");
    let lines = std::fs::read_to_string(&path).expect(&path);
    lines
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).expect("a line of JSON"))
        .filter(|record| record["table"] == table)
        .filter_map(|record| {
            Some((record["op"].as_str()?.to_owned(), support::base64(record["value_b64"].as_str()?)))
        })
        .collect()
}

fn row_fields(envelope: &Json) -> BTreeMap<String, Json> {
    let fields = envelope["fields"][0]["type"][1]["fields"].as_array().expect("fields of Value");
    fields.iter().map(|field| (field["name"].as_str().expect("a name").to_owned(), field.clone())).collect()
}

fn plan(table: &TableDescription, records: &RecordSettings) -> ValuePlan {
    ValuePlan::new(table, &support::source(), records).expect("a schema")
}

/// Decoded images of one change.
fn images(plan: &ValuePlan, op: Op, before: Option<&[Cell<'_>]>, after: Option<&[Cell<'_>]>) -> (Avro, Avro) {
    let (before, after) = (before.map(Row::new), after.map(Row::new));
    let (before, after) = (before.as_ref().map(Row::tuple), after.as_ref().map(Row::tuple));
    let mut out = Vec::new();
    let change = Change {
        op,
        before: before.as_ref(),
        before_is_full: false,
        after: after.as_ref(),
        source: &CHANGE_SOURCE,
    };
    plan.encode_into(SCHEMA_ID, &change, &mut out).expect("a row that Postgres wrote");
    let envelope = support::decode(&support::parse(plan.schema_json()), &out);
    (support::field(&envelope, "before"), support::field(&envelope, "after"))
}

/// One column of the table `types` with its text in rows 11, 13 and 14 (row 12 is all NULL).
type TypesColumn = (&'static str, PgType, Option<&'static str>, Option<&'static str>, Option<&'static str>);

fn array(element: PgType) -> PgType {
    PgType::Array(Box::new(element))
}

fn bits(length: u32, varying: bool) -> PgType {
    PgType::Bits { length, varying }
}

fn mood() -> PgType {
    PgType::Enum { labels: ["sad", "ok", "happy"].map(str::to_owned).to_vec() }
}

fn numeric(precision: u16, scale: i16) -> PgType {
    PgType::Numeric { precision, scale }
}

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
        ("c_money", PgType::Money, Some("$1,234.56"), Some("-$92,233,720,368,547,758.08"), None),
        ("c_text", PgType::Text, Some("text ü 🦀"), Some(""), None),
        ("c_varchar", PgType::Text, Some("varchar"), None, None),
        ("c_varchar20", PgType::Text, Some("varchar20"), None, None),
        ("c_char1", PgType::Text, Some("c"), None, None),
        ("c_char8", PgType::Text, Some("char8   "), Some("        "), None),
        ("c_name", PgType::Text, Some("name"), None, None),
        ("c_intchar", PgType::Text, Some("x"), None, None),
        ("c_bytea", PgType::Bytea, Some("\\x00ff10"), Some("\\x"), None),
        ("c_date", PgType::Date, Some("2024-02-29"), Some("0001-01-01"), None),
        ("c_time", time(6), Some("12:34:56.123456"), Some("00:00:00"), Some("24:00:00")),
        ("c_time3", time(3), Some("12:34:56.789"), None, None),
        ("c_timetz", PgType::TimeTz { precision: 6 }, Some("12:34:56.123456+02"), Some("23:59:59.999999-15:59"), None),
        ("c_timestamp", timestamp(6), Some("2024-02-29 12:34:56.123456"), Some("0001-01-01 00:00:00"), Some("1969-12-31 23:59:59.999999")),
        ("c_timestamp3", timestamp(3), Some("2024-02-29 12:34:56.789"), None, None),
        ("c_timestamp0", timestamp(0), Some("2024-02-29 12:34:56"), None, None),
        ("c_timestamptz", timestamptz(6), Some("2024-02-29 10:34:56.123456+00"), Some("9999-12-31 23:59:59.999999+00"), Some("1969-12-31 23:59:59.999999+00")),
        ("c_timestamptz3", timestamptz(3), Some("2024-02-29 12:34:56.789+00"), None, None),
        ("c_interval", PgType::Interval, Some("1 year 2 mons 3 days 04:05:06.789012"), Some("-1 years -2 mons +3 days -04:05:06.5"), Some("178000 years")),
        ("c_uuid", PgType::Uuid, Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), Some("00000000-0000-0000-0000-000000000000"), None),
        ("c_json", PgType::Json, Some("{\"a\": [1, 2.50, null],  \"b\":\"x\"}"), Some("null"), None),
        ("c_jsonb", PgType::Json, Some("{\"a\": [1, 2.50, null], \"b\": \"x\"}"), None, None),
        ("c_xml", PgType::Xml, Some("<a b=\"c\">d</a>"), None, None),
        ("c_inet", PgType::Network, Some("192.168.0.1/24"), None, None),
        ("c_cidr", PgType::Network, Some("10.0.0.0/8"), None, None),
        ("c_macaddr", PgType::Network, Some("08:00:2b:01:02:03"), None, None),
        ("c_macaddr8", PgType::Network, Some("08:00:2b:01:02:03:04:05"), None, None),
        ("c_bit1", bits(1, false), Some("1"), None, None),
        ("c_bit8", bits(8, false), Some("10101010"), None, None),
        ("c_bit70", bits(70, false), Some("1010101010101010101010101010101010101010101010101010101010101010101010"), Some("0000000000000000000000000000000000000000000000000000000000000000000000"), None),
        ("c_varbit", bits(2_147_483_647, true), Some("101"), Some(""), None),
        ("c_varbit16", bits(16, true), Some("1100110011"), None, None),
        ("c_enum", mood(), Some("happy"), None, None),
        ("c_domain", PgType::Int4, Some("5"), None, None),
        ("c_domain_citext", PgType::Text, Some("Some@Example.org"), None, None),
        ("c_domain_numeric", numeric(12, 2), Some("12.30"), None, None),
        ("c_composite", PgType::Verbatim, Some("(1,x)"), None, None),
        ("c_point", PgType::Point, Some("(1.5,-2.5)"), None, None),
        ("c_line", PgType::Line, Some("{1,2,3}"), None, None),
        ("c_lseg", PgType::Lseg, Some("[(0,0),(1,1)]"), None, None),
        ("c_box", PgType::Box, Some("(1,1),(0,0)"), None, None),
        ("c_path", PgType::Path, Some("[(0,0),(1,1),(2,0)]"), None, None),
        ("c_polygon", PgType::Polygon, Some("((0,0),(1,1),(2,0))"), None, None),
        ("c_circle", PgType::Circle, Some("<(0,0),5>"), None, None),
        ("c_hstore", PgType::Hstore, Some("\"a\"=>\"1\", \"b\"=>NULL, \"c d\"=>\"x\\\"y\""), Some(""), None),
        ("c_citext", PgType::Text, Some("CiText"), None, None),
        ("c_ltree", PgType::Ltree, Some("Top.Science.Astronomy"), None, None),
        ("c_int4range", PgType::Range, Some("[1,10)"), Some("empty"), Some("(,6)")),
        ("c_int8range", PgType::Range, Some("[1,10)"), None, None),
        ("c_numrange", PgType::Range, Some("[1.5,2.5]"), None, None),
        ("c_tsrange", PgType::Range, Some("[\"2024-01-01 00:00:00\",\"2024-01-02 00:00:00\")"), None, None),
        ("c_tstzrange", PgType::Range, Some("[\"2024-01-01 00:00:00+00\",\"2024-01-02 00:00:00+00\")"), None, None),
        ("c_daterange", PgType::Range, Some("[2024-01-01,2024-01-31)"), None, Some("[2024-01-01,)")),
        ("c_int4multirange", PgType::Verbatim, Some("{[1,3),[5,8)}"), None, None),
        ("c_tsvector", PgType::Tsvector, Some("'a' 'cat' 'fat'"), None, None),
        ("c_tsquery", PgType::Verbatim, Some("'fat' & 'cat'"), None, None),
        ("c_oid", PgType::Oid, Some("16384"), None, None),
        ("c_pg_lsn", PgType::Verbatim, Some("16/B374D848"), None, None),
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
        // {{1,2},{3,4}} has no form as a list: Debezium writes nulls, here it is refused.
        ("c_int4_arr2", array(PgType::Int4), None, None, None),
    ]
}

fn types() -> TableDescription {
    let columns = types_columns().into_iter().map(|(name, pg_type, ..)| column(name, pg_type)).collect();
    table("types", &[0], columns)
}

/// Columns that Debezium leaves out unless it is told to keep unknown types.
const DROPPED_BY_DEBEZIUM: [&str; 4] = ["c_composite", "c_int4multirange", "c_tsquery", "c_pg_lsn"];

#[test]
fn columns_of_every_type_have_debeziums_schema() {
    for (recording, records) in recordings() {
        let ours: Json = serde_json::from_str(plan(&types(), &records).schema_json()).expect("JSON");
        let (ours, golden) = (row_fields(&ours), row_fields(&golden_schema(recording, "types-value")));
        let different: BTreeSet<&str> = ours
            .iter()
            .filter(|(name, field)| golden.get(*name) != Some(*field))
            .map(|(name, _)| name.as_str())
            .collect();
        // Debezium says that elements of an enum array are never null, and fails when one is.
        let mut expected = BTreeSet::from(["c_enum_arr"]);
        if records.unknown_types == UnknownTypes::Text {
            expected.extend(DROPPED_BY_DEBEZIUM);
            assert!(DROPPED_BY_DEBEZIUM.iter().all(|name| !golden.contains_key(*name)), "{recording}");
        }
        assert_eq!(different, expected, "{recording}");
        assert_eq!(ours["c_enum_arr"]["type"][1]["items"][1], golden["c_enum_arr"]["type"][1]["items"]);
        assert!(golden.keys().all(|name| ours.contains_key(name)), "{recording}");
    }
}

#[test]
fn values_of_every_type_are_debeziums() {
    for (recording, records) in recordings() {
        let golden_schema = support::parse(&golden_schema(recording, "types-value").to_string());
        let plan = plan(&types(), &records);
        let golden = golden_values(recording, "types");
        let texts: [fn(&TypesColumn) -> Option<&'static str>; 3] = [|row| row.2, |row| row.3, |row| row.4];
        // Rows 11, 12, 13, 14 were inserted in this order.
        for (at, (texts, (op, golden))) in
            texts.into_iter().zip([&golden[0], &golden[2], &golden[3]]).enumerate()
        {
            assert_eq!(op, "c");
            let cells: Vec<_> =
                types_columns().iter().map(|column| texts(column).map_or(Cell::Null, text)).collect();
            let (_, ours) = images(&plan, Op::Create, None, Some(&cells));
            let golden = support::field(&support::decode(&golden_schema, golden), "after");
            for (name, ..) in types_columns() {
                let differs = match name {
                    // Debezium writes null for a name that it streams, unless it is told to keep unknown types.
                    "c_name" => records.unknown_types == UnknownTypes::Text,
                    "c_int4_arr2" => true,
                    // The end of a day becomes its beginning as ISO text.
                    "c_time" => at == 2 && records.time_precision == TimePrecision::Isostring,
                    name => {
                        DROPPED_BY_DEBEZIUM.contains(&name) && records.unknown_types == UnknownTypes::Text
                    }
                };
                if !differs {
                    check_value(
                        recording,
                        name,
                        &support::field(&ours, name),
                        &support::field(&golden, name),
                    );
                }
            }
        }
    }
}

fn check_value(recording: &str, name: &str, ours: &Avro, golden: &Avro) {
    let both_nan = matches!((ours, golden), (Avro::Double(a), Avro::Double(b)) if a.is_nan() && b.is_nan());
    assert!(both_nan || ours == golden, "{recording}{name}: {ours:?}, Debezium wrote {golden:?}");
}

#[test]
fn odd_times_are_debeziums() {
    let columns = vec![
        column("id", PgType::Int4),
        column("d", PgType::Date),
        column("ts", PgType::Timestamp { precision: 6 }),
        column("tstz", PgType::TimestampTz { precision: 6 }),
        column("t", PgType::Time { precision: 6 }),
    ];
    let table = table("special_time", &[0], columns);
    let rows = [
        ["1", "2024-01-01", "infinity", "-infinity", "24:00:00"],
        ["2", "4713-01-01 BC", "2024-01-01 00:00:00", "2024-01-01 00:00:00+00", "00:00:00"],
    ];
    for (recording, records) in recordings() {
        let golden_schema = support::parse(&golden_schema(recording, "special_time-value").to_string());
        let plan = plan(&table, &records);
        for (row, (_, golden)) in rows.iter().zip(golden_values(recording, "special_time")) {
            let (_, ours) = images(&plan, Op::Create, None, Some(&row.map(text)));
            let golden = support::field(&support::decode(&golden_schema, &golden), "after");
            for name in ["id", "d", "ts", "tstz", "t"] {
                if name == "t" && row[0] == "1" && records.time_precision == TimePrecision::Isostring {
                    continue; // as in the types' c_time
                }
                check_value(recording, name, &support::field(&ours, name), &support::field(&golden, name));
            }
        }
    }
}

#[test]
fn unchanged_toast_values_are_debeziums() {
    let columns = vec![
        column("id", PgType::Int4),
        column("small", PgType::Text),
        column("big", PgType::Text),
        column("bigb", PgType::Bytea),
        column("biga", array(PgType::Text)),
    ];
    let table = table("toasted", &[0], columns);
    for (recording, records) in recordings() {
        let golden_schema = support::parse(&golden_schema(recording, "toasted-value").to_string());
        let golden = golden_values(recording, "toasted");
        let (_, golden) = golden.iter().find(|(op, _)| op == "u").expect("an update");
        let row = [text("1"), text("t"), Cell::Unchanged, Cell::Unchanged, Cell::Unchanged];
        let (_, ours) = images(&plan(&table, &records), Op::Update, None, Some(&row));
        let golden = support::field(&support::decode(&golden_schema, golden), "after");
        for name in ["id", "small", "big", "bigb", "biga"] {
            let (ours, golden) = (support::field(&ours, name), support::field(&golden, name));
            if name == "bigb" && golden == Avro::Null {
                // Debezium has no placeholder for base64, so it says that the value was NULL.
                assert_eq!(ours, Avro::String(records.unavailable_value_placeholder.clone()), "{recording}");
            } else {
                check_value(recording, name, &ours, &golden);
            }
        }
    }
}

/// `absent_before = "debezium"`: the schema has Debezium's NOT NULL columns, and an old row its made-up values.
#[test]
fn made_up_values_are_debeziums() {
    let mut columns = vec![column("id", PgType::Int4), column("u", PgType::Int4), column("a", PgType::Text)];
    columns[0].not_null = true;
    columns[1].not_null = true;
    columns[1].in_identity = true;
    let mut table = table("index_identity", &[], columns);
    table.key = vec![1];
    for (recording, records) in recordings() {
        let records = RecordSettings { absent_before: AbsentBefore::Debezium, ..records };
        let plan = plan(&table, &records);
        let golden_schema = golden_schema(recording, "index_identity-value");
        assert_eq!(serde_json::from_str::<Json>(plan.schema_json()).expect("JSON"), golden_schema);
        let golden = golden_values(recording, "index_identity");
        let (_, golden) = golden.iter().find(|(op, _)| op == "d").expect("a delete");
        let (ours, _) = images(&plan, Op::Delete, Some(&[Cell::Null, text("100"), Cell::Null]), None);
        let golden =
            support::field(&support::decode(&support::parse(&golden_schema.to_string()), golden), "before");
        assert_eq!(ours, golden, "{recording}");
    }
}

/// The schemas of columns with defaults, under the default replica identity. `default now()` is Debezium's 1970 and
/// no default here.
#[test]
fn not_null_columns_and_defaults_are_debeziums_where_asked_for() {
    let required = |name, pg_type, default: Option<&str>| {
        let mut column = column(name, pg_type);
        (column.not_null, column.default) = (true, default.map(str::to_owned));
        column
    };
    let mut nullable = column("d_int4_null", PgType::Int4);
    nullable.default = Some("7".to_owned());
    let columns = vec![
        required("id", PgType::Int4, Some("0")),
        required("d_int4", PgType::Int4, Some("42")),
        nullable,
        required("d_bool", PgType::Bool, Some("true")),
        required("d_float8", PgType::Float8, Some("1.5")),
        required("d_numeric", numeric(10, 2), Some("9.99")),
        required("d_text", PgType::Text, Some("hi")),
        required("d_date", PgType::Date, Some("2020-02-29")),
        required("d_timestamp", PgType::Timestamp { precision: 6 }, Some("2020-02-29 12:00:00.123456")),
        required("d_timestamptz", PgType::TimestampTz { precision: 6 }, Some("2020-02-29 12:00:00+00")),
        required("d_now", PgType::TimestampTz { precision: 6 }, None),
        required("d_uuid", PgType::Uuid, Some("00000000-0000-0000-0000-000000000001")),
        required("d_jsonb", PgType::Json, Some("{}")),
        required("d_enum", mood(), Some("ok")),
        required("d_bytea", PgType::Bytea, Some("\\xff")),
        required("d_arr", array(PgType::Int4), Some("{1,2}")),
        required("d_identity", PgType::Int4, None),
        required("d_notnull", PgType::Int4, None),
    ];
    let table = table("defaults", &[0], columns);
    for (recording, records) in recordings() {
        let records = RecordSettings { absent_before: AbsentBefore::Debezium, ..records };
        let ours: Json = serde_json::from_str(plan(&table, &records).schema_json()).expect("JSON");
        let golden = golden_schema(recording, "defaults-value");
        let (mut ours_now, mut golden_now) = (row_fields(&ours), row_fields(&golden));
        let (ours, golden) = (ours_now.remove("d_now").expect("it"), golden_now.remove("d_now").expect("it"));
        assert_eq!(ours_now, golden_now, "{recording}");
        assert_eq!(
            (ours.get("default"), golden["default"].as_str()),
            (None, Some("1970-01-01T00:00:00.000000Z"))
        );
        let key = KeyPlan::new(&table, &support::source(), &records).expect("a schema").expect("a key");
        let key: Json = serde_json::from_str(key.schema_json()).expect("JSON");
        assert_eq!(key, golden_schema_of_key(recording), "{recording}");
    }
}

fn golden_schema_of_key(recording: &str) -> Json {
    golden_schema(recording, "defaults-key")
}
