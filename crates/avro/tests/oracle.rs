//! Random values of every type, rendered the way Postgres does by code of the test's own, encoded by us, decoded by
//! apache-avro and compared; and bytes of any kind, which may be refused but must not panic or become bad Avro.

mod support;

use apache_avro::types::Value;
use headwater_avro::{Change, EncodeError, Op, PgType, Reason, write_json_change, write_json_row};
use headwater_pgoutput::{Lsn, ReplicaIdentity};
use num_bigint::BigInt;
use proptest::prelude::*;
use support::compiled::{COMPILED, one_column, round_trip};
use support::{CHANGE_SOURCE, Cell, Row, SCHEMA_ID, column, key_plan, table, text, value_plan};

fn value(pg_type: &PgType, postgres_text: &str) -> Value {
    round_trip(pg_type, text(postgres_text)).unwrap_or_else(|error| panic!("{postgres_text}: {error}"))
}

fn decimal(value: Value) -> BigInt {
    match value {
        Value::Decimal(decimal) => decimal.into(),
        Value::Bytes(bytes) => BigInt::from_signed_bytes_be(&bytes),
        other => panic!("no decimal: {other:?}"),
    }
}

/// Year, month and day of a Julian day number, by the algorithm of E. G. Richards (Explanatory Supplement to the
/// Astronomical Almanac, 3rd edition): another one than ours.
fn from_julian_day(day: i64) -> (i64, i64, i64) {
    let f = day + 1401 + (((4 * day + 274_277).div_euclid(146_097)) * 3).div_euclid(4) - 38;
    let e = 4 * f + 3;
    let h = 5 * e.rem_euclid(1461).div_euclid(4) + 2;
    let month = (h.div_euclid(153) + 2).rem_euclid(12) + 1;
    (e.div_euclid(1461) - 4716 + (14 - month).div_euclid(12), month, h.rem_euclid(153).div_euclid(5) + 1)
}

const JULIAN_DAY_OF_1970: i64 = 2_440_588;
const US_PER_DAY: i64 = 86_400_000_000;

/// As Postgres writes a date: the text and the suffix of its era.
fn date_text(days: i64) -> (String, &'static str) {
    let (year, month, day) = from_julian_day(days + JULIAN_DAY_OF_1970);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

/// As Postgres writes a time of day: trailing zeros of the fraction are left out.
fn time_text(us: i64) -> String {
    let seconds = us / 1_000_000;
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if us % 1_000_000 != 0 {
        text += format!(".{:06}", us % 1_000_000).trim_end_matches('0');
    }
    text
}

fn timestamp_text(us: i64, offset: &str) -> String {
    let (date, era) = date_text(us.div_euclid(US_PER_DAY));
    format!("{date} {}{offset}{era}", time_text(us.rem_euclid(US_PER_DAY)))
}

/// As `array_out` writes it.
fn array_text(elements: &[Option<String>]) -> String {
    let element = |element: &Option<String>| match element {
        None => "NULL".to_owned(),
        Some(text) => {
            let special =
                |c: char| matches!(c, '"' | '\\' | '{' | '}' | ',') || c.is_ascii_whitespace() || c == '\x0b';
            if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(special) {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            } else {
                text.clone()
            }
        }
    };
    format!("{{{}}}", elements.iter().map(element).collect::<Vec<_>>().join(","))
}

/// Postgres' range: from 4714-11-24 BC to 294276-12-31, less what 64 bits of microseconds since 1970 can't hold.
fn timestamps() -> impl Strategy<Value = i64> {
    prop_oneof![-210_866_803_200_000_000..=i64::MAX - 1, -US_PER_DAY..US_PER_DAY, Just(i64::MAX - 1)]
}

fn text_without_nul() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,20}", "(?i)null", "[\"\\\\{},]{0,5}"]
        .prop_map(|text| text.replace('\0', ""))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn integers(value8: i64, value4: i32, value2: i16) {
        prop_assert_eq!(value(&PgType::Int8, &value8.to_string()), Value::Long(value8));
        prop_assert_eq!(value(&PgType::Int4, &value4.to_string()), Value::Int(value4));
        prop_assert_eq!(value(&PgType::Int2, &value2.to_string()), Value::Int(value2.into()));
    }

    #[test]
    fn floats(bits8: u64, bits4: u32) {
        // Rust's shortest text that reads back to the same value is what extra_float_digits = 3 asks Postgres for.
        let text = |text: String| match text.as_str() { "inf" => "Infinity".to_owned(), "-inf" => "-Infinity".to_owned(), _ => text };
        let expected = f64::from_bits(bits8);
        let Value::Double(decoded) = value(&PgType::Float8, &text(format!("{expected:e}"))) else { panic!("no double") };
        prop_assert!(decoded.to_bits() == bits8 || decoded.is_nan() && expected.is_nan());
        let expected = f32::from_bits(bits4);
        let Value::Float(decoded) = value(&PgType::Float4, &text(expected.to_string())) else { panic!("no float") };
        prop_assert!(decoded.to_bits() == bits4 || decoded.is_nan() && expected.is_nan());
    }

    #[test]
    fn numerics_of_a_declared_scale(digits in "[1-9][0-9]{0,120}", scale in 0_usize..130, negative: bool) {
        let precision = digits.len().max(scale) as u16;
        let pg_type = PgType::Numeric { precision, scale: scale as i16 };
        let sign = if negative { "-" } else { "" };
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (integer, fraction) = padded.split_at(padded.len() - scale);
        let point = if scale > 0 { "." } else { "" };
        let decoded = decimal(value(&pg_type, &format!("{sign}{integer}{point}{fraction}")));
        prop_assert_eq!(decoded, format!("{sign}{digits}").parse::<BigInt>().unwrap());
    }

    #[test]
    fn numerics_of_any_scale(integer in "0|[1-9][0-9]{0,80}", fraction in "[0-9]{0,60}", negative: bool) {
        let sign = if negative { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let decoded = value(&PgType::NumericUnconstrained, &format!("{sign}{integer}{point}{fraction}"));
        let kept = fraction.trim_end_matches('0');
        prop_assert_eq!(support::field(&decoded, "scale"), Value::Int(kept.len() as i32));
        let expected = format!("{sign}{integer}{kept}").parse::<BigInt>().unwrap();
        prop_assert_eq!(decimal(support::field(&decoded, "value")), expected);
    }

    #[test]
    fn dates(days in -2_440_588_i64..2_145_042_905) {
        let (date, era) = date_text(days);
        prop_assert_eq!(value(&PgType::Date, &format!("{date}{era}")), Value::Int(days as i32));
    }

    #[test]
    fn times(us in 0..=US_PER_DAY) {
        prop_assert_eq!(value(&PgType::Time { precision: 6 }, &time_text(us)), Value::Long(us));
        let ms = us / 1000;
        prop_assert_eq!(value(&PgType::Time { precision: 3 }, &time_text(ms * 1000)), Value::Int(ms as i32));
    }

    #[test]
    fn timestamps_without_time_zone(us in timestamps()) {
        prop_assert_eq!(value(&PgType::Timestamp { precision: 6 }, &timestamp_text(us, "")), Value::Long(us));
        let ms = us.div_euclid(1000);
        let text = timestamp_text(ms.saturating_mul(1000), "");
        prop_assert_eq!(value(&PgType::Timestamp { precision: 3 }, &text), Value::Long(ms));
    }

    #[test]
    fn timestamps_with_time_zone(us in timestamps(), quarters in -60_i64..=60) {
        let local = us.saturating_add(quarters * 900_000_000).max(-210_866_803_200_000_000);
        let us = local.saturating_sub(quarters * 900_000_000);
        let sign = if quarters < 0 { '-' } else { '+' };
        let (hours, minutes) = (quarters.abs() / 4, quarters.abs() % 4 * 15);
        let minutes = if minutes == 0 { String::new() } else { format!(":{minutes:02}") };
        let (year, month, day) = from_julian_day(us.div_euclid(US_PER_DAY) + JULIAN_DAY_OF_1970);
        let year = match year { ..0 => format!("-{:04}", -year), 0..=9999 => format!("{year:04}"), _ => format!("+{year}") };
        let time = us.rem_euclid(US_PER_DAY);
        let seconds = time_text(time - time % 1_000_000);
        let expected = format!("{year}-{month:02}-{day:02}T{seconds}.{:06}Z", time % 1_000_000);
        let text = timestamp_text(local, &format!("{sign}{hours:02}{minutes}"));
        prop_assert_eq!(value(&PgType::TimestampTz { precision: 6 }, &text), Value::String(expected));
    }

    #[test]
    fn texts(postgres_text in text_without_nul()) {
        for pg_type in [PgType::Text, PgType::Uuid, PgType::Json, PgType::Other, PgType::Enum { labels: vec![] }] {
            prop_assert_eq!(value(&pg_type, &postgres_text), Value::String(postgres_text.clone()));
        }
    }

    #[test]
    fn byteas(bytes: Vec<u8>) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(value(&PgType::Bytea, &format!("\\x{hex}")), Value::Bytes(bytes));
    }

    #[test]
    fn arrays_of_text(elements in prop::collection::vec(prop::option::of(text_without_nul()), 0..6), lower in -3_i32..4) {
        let mut text = array_text(&elements);
        if lower != 1 && !elements.is_empty() {
            text = format!("[{lower}:{}]={text}", lower + elements.len() as i32 - 1);
        }
        let expected = elements.into_iter().map(|element| element.map_or(Value::Null, Value::String)).collect();
        prop_assert_eq!(value(&PgType::Array(Box::new(PgType::Text)), &text), Value::Array(expected));
    }

    #[test]
    fn arrays_of_bytea_and_timestamps(elements in prop::collection::vec(prop::option::of((any::<Vec<u8>>(), timestamps())), 0..5)) {
        let hex = |bytes: &Vec<u8>| format!("\\x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let texts: Vec<_> = elements.iter().map(|element| element.as_ref().map(|(bytes, _)| hex(bytes))).collect();
        let expected = elements.iter().map(|element| element.clone().map_or(Value::Null, |(bytes, _)| Value::Bytes(bytes))).collect();
        prop_assert_eq!(value(&PgType::Array(Box::new(PgType::Bytea)), &array_text(&texts)), Value::Array(expected));
        let texts: Vec<_> = elements.iter().map(|element| element.as_ref().map(|(_, us)| timestamp_text(*us, ""))).collect();
        let expected = elements.iter().map(|element| element.as_ref().map_or(Value::Null, |(_, us)| Value::Long(*us))).collect();
        let pg_type = PgType::Array(Box::new(PgType::Timestamp { precision: 6 }));
        prop_assert_eq!(value(&pg_type, &array_text(&texts)), Value::Array(expected));
    }

    /// Whatever is taken is good Avro; whatever isn't is an error that names the column.
    #[test]
    fn any_bytes(bytes: Vec<u8>, almost in "[-0-9:. +BC{}\",\\\\xNaULinfty\\[\\]=();<>/$>daysmon]{0,40}") {
        for compiled in COMPILED.iter() {
            for bytes in [bytes.as_slice(), almost.as_bytes()] {
                if let Err(error) = compiled.round_trip(Cell::Text(bytes)) {
                    prop_assert!(error.to_string().contains("\"c\""), "{}", error);
                }
                let row = Row::new(&[Cell::Text(bytes)]);
                let mut json = Vec::new();
                write_json_row(&one_column(&compiled.pg_type), &row.tuple(), &mut json);
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
            }
        }
    }
}

/// Every text that is cut short is refused or good Avro.
#[test]
fn truncated_texts() {
    let texts = [
        "4713-12-31 23:59:59.999999+05:30:15 BC",
        "21016-11-04 13:51:30.123456",
        "24:00:00.123456",
        "-12345678901234567890123456789012345678901234567890.12345678901234567890",
        "[-1:1]={a,\"b \\\"q\\\"\",NULL,\"\"}",
        "{{1,2},{3,4}}",
        "\\x00ff10",
        "-$92,233,720,368,547,758.08",
        "-1 years -2 mons +3 days -04:05:06.5",
        "\"a\"=>\"1\", \"b\"=>NULL, \"c d\"=>\"x\\\"y\"",
        "[(0,0),(1.5,1),(2,-Infinity)]",
        "((0,0),(1,1),(2,0))",
        "(1,1),(0,0)",
        "<(0,0),5>",
        "{1,2,3}",
        "{(1,1),(0,0);(2,2),(1,1)}",
        "0101000020730C00001C7C613255DE6540787AA52C435C42C0",
        "[1,2.5,-3e-5]",
        "{1:201,9:209}/3000",
        "010110",
        "-Infinity",
        "ü🦀",
    ];
    for text in texts {
        for length in 0..=text.len() {
            for compiled in COMPILED.iter() {
                let _ = compiled.round_trip(Cell::Text(&text.as_bytes()[..length]));
            }
        }
    }
}

#[test]
fn unchanged_toast_is_the_placeholder_or_an_error_and_never_null() {
    let placeholder = "__debezium_unavailable_value";
    let unchanged = |pg_type: &PgType| round_trip(pg_type, Cell::Unchanged);
    for pg_type in [PgType::Text, PgType::Json, PgType::Other] {
        assert_eq!(unchanged(&pg_type), Ok(Value::String(placeholder.into())));
        let array = match &pg_type {
            PgType::Other => Value::String(placeholder.into()),
            _ => Value::Array(vec![Value::String(placeholder.into())]),
        };
        assert_eq!(unchanged(&PgType::Array(Box::new(pg_type))), Ok(array));
    }
    assert_eq!(unchanged(&PgType::Bytea), Ok(Value::Bytes(placeholder.into())));
    for pg_type in [PgType::NumericUnconstrained, PgType::Array(Box::new(PgType::Int4))] {
        let error = unchanged(&pg_type).expect_err("no placeholder");
        assert!(
            matches!(&error, EncodeError::UnchangedWithoutOldValue { column, .. } if column == "c"),
            "{error}"
        );
    }
}

#[test]
fn unchanged_toast_is_taken_from_a_full_old_tuple() {
    let mut table =
        table("t", &[0], vec![column("id", PgType::Int4), column("n", PgType::NumericUnconstrained)]);
    table.replica_identity = ReplicaIdentity::Full;
    let (old, new) = (Row::new(&[text("1"), text("2.5")]), Row::new(&[text("1"), Cell::Unchanged]));
    let (old, new) = (old.tuple(), new.tuple());
    let plan = value_plan(&table);
    let mut change = Change {
        op: Op::Update,
        before: Some(&old),
        before_is_full: true,
        after: Some(&new),
        source: &CHANGE_SOURCE,
    };
    let mut out = Vec::new();
    plan.encode_into(SCHEMA_ID, &change, &mut out).expect("the old value");
    let decoded = support::decode(&support::parse(plan.schema_json()), &out);
    let (before, after) = (support::field(&decoded, "before"), support::field(&decoded, "after"));
    assert_eq!(support::field(&before, "n"), support::field(&after, "n"));
    change.before_is_full = false;
    assert!(
        plan.encode_into(SCHEMA_ID, &change, &mut out).is_err(),
        "a key tuple's columns are absent, not old"
    );
}

/// A key of some kilobytes can be in TOAST; the server then sends the old key with the update.
#[test]
fn an_unchanged_key_is_taken_from_the_old_key() {
    let table = table("t", &[0], vec![column("k", PgType::Text), column("v", PgType::Text)]);
    let (old, new) = (Row::new(&[text("long"), Cell::Null]), Row::new(&[Cell::Unchanged, Cell::Unchanged]));
    let (old, new) = (old.tuple(), new.tuple());
    let key = key_plan(&table);
    assert!(!key.changed(&old, &new));
    let (mut with_old, mut of_old) = (Vec::new(), Vec::new());
    key.encode_with_old_into(SCHEMA_ID, &new, Some(&old), &mut with_old).expect("the old key");
    key.encode_into(SCHEMA_ID, &old, &mut of_old).expect("a key");
    assert_eq!(with_old, of_old);
    assert!(key.encode_into(SCHEMA_ID, &new, &mut with_old).is_err(), "never a placeholder as the key");
    assert_eq!(with_old, of_old, "an error leaves no bytes behind");

    let change = Change {
        op: Op::Update,
        before: Some(&old),
        before_is_full: false,
        after: Some(&new),
        source: &CHANGE_SOURCE,
    };
    let (plan, mut out) = (value_plan(&table), Vec::new());
    plan.encode_into(SCHEMA_ID, &change, &mut out).expect("a change");
    let after = support::field(&support::decode(&support::parse(plan.schema_json()), &out), "after");
    assert_eq!(support::field(&after, "k"), Value::String("long".into()));
    assert_eq!(support::field(&after, "v"), Value::String("__debezium_unavailable_value".into()));
}

#[test]
fn what_cannot_be_held_names_the_column_and_not_the_value() {
    let cases = [
        (PgType::Numeric { precision: 5, scale: 2 }, "NaN", Reason::NotFinite),
        (PgType::NumericUnconstrained, "-Infinity", Reason::NotFinite),
        (PgType::Array(Box::new(PgType::Int4)), "{{31337,2},{3,4}}", Reason::MultiDimensional),
        (PgType::Int4, "31337313373", Reason::OutOfRange("integer")),
        (PgType::Bytea, "31337", Reason::Malformed("bytea in hex form")),
    ];
    for (pg_type, postgres_text, expected) in cases {
        let error = round_trip(&pg_type, text(postgres_text)).expect_err("no form");
        assert!(
            matches!(&error, EncodeError::Value { column, reason, .. } if column == "c" && *reason == expected)
        );
        assert!(!error.to_string().contains("31337"), "{error}");
    }
    assert!(matches!(
        round_trip(&PgType::Text, Cell::Text(b"\xff")),
        Err(EncodeError::Value { reason: Reason::NotUtf8, .. })
    ));
}

#[test]
fn a_key_is_never_made_up() {
    let table = table("t", &[0], vec![column("id", PgType::Int4), column("v", PgType::Text)]);
    let row = Row::new(&[Cell::Null, text("v")]);
    let error = key_plan(&table).encode_into(SCHEMA_ID, &row.tuple(), &mut Vec::new()).expect_err("no key");
    assert!(matches!(error, EncodeError::UnexpectedNull { column, .. } if column == "id"));
    let short = Row::new(&[text("1")]);
    let error =
        key_plan(&table).encode_into(SCHEMA_ID, &short.tuple(), &mut Vec::new()).expect_err("another table");
    assert_eq!(error, EncodeError::ColumnCount { expected: 2, found: 1 });
}

#[test]
fn the_envelope_says_where_the_change_stands() {
    let table = table("t", &[], vec![]);
    let source = headwater_avro::ChangeSource { origin: Some(("upstream", Lsn(42))), ..CHANGE_SOURCE };
    let change =
        Change { op: Op::Truncate, before: None, before_is_full: false, after: None, source: &source };
    let (plan, mut out) = (value_plan(&table), Vec::new());
    plan.encode_into(SCHEMA_ID, &change, &mut out).expect("no columns");
    assert_eq!(out[..5], [0, 0, 0, 0, 7]);
    let envelope = support::decode(&support::parse(plan.schema_json()), &out);
    let string = |text: &str| Value::String(text.to_owned());
    let us = CHANGE_SOURCE.commit_unix_micros;
    for (name, expected) in [
        ("before", Value::Null),
        ("after", Value::Null),
        ("transaction", Value::Null),
        ("op", string("t")),
        ("ts_ms", Value::Long(us / 1000)),
        ("ts_us", Value::Long(us)),
        ("ts_ns", Value::Long(us * 1000)),
    ] {
        assert_eq!(support::field(&envelope, name), expected, "{name}");
    }
    let source = support::field(&envelope, "source");
    for (name, expected) in [
        ("version", string("headwater-1")),
        ("connector", string("postgresql")),
        ("name", string("zoo_db")),
        ("ts_ms", Value::Long(us / 1000)),
        ("snapshot", string("false")),
        ("db", string("zoo_db")),
        ("sequence", string("[\"2100152832\",\"2100153024\"]")),
        ("ts_us", Value::Long(us)),
        ("ts_ns", Value::Long(us * 1000)),
        ("schema", string("zoo")),
        ("table", string("t")),
        ("txId", Value::Long(1_406_414)),
        ("lsn", Value::Long(2_100_153_024)),
        ("xmin", Value::Null),
        ("origin", string("upstream")),
        ("origin_lsn", Value::Long(42)),
    ] {
        assert_eq!(support::field(&source, name), expected, "{name}");
    }
}

#[test]
fn a_change_as_a_line_of_json() {
    let mut table = table(
        "t",
        &[0],
        vec![
            column("id", PgType::Int4),
            column("a", PgType::Text),
            column("n", PgType::NumericUnconstrained),
        ],
    );
    table.columns[1].name = "a \"b\"".to_owned();
    let (old, new) = (
        Row::new(&[text("1"), Cell::Null, Cell::Null]),
        Row::new(&[text("2"), Cell::Unchanged, text("1.50")]),
    );
    let (old, new) = (old.tuple(), new.tuple());
    let change = Change {
        op: Op::Update,
        before: Some(&old),
        before_is_full: false,
        after: Some(&new),
        source: &CHANGE_SOURCE,
    };
    let mut line = Vec::new();
    write_json_change(&table, &change, &mut line);
    assert_eq!(
        String::from_utf8(line).expect("UTF-8"),
        concat!(
            r#"{"op":"u","before":{"id":1},"after":{"id":2,"n":"1.50","unchanged":["a \"b\""]},"#,
            r#""source":{"schema":"zoo","table":"t","ts_us":1795244653774208,"commit_lsn":"0/7D2DCA00","lsn":"0/7D2DCAC0","txId":1406414}}"#
        )
    );
}
