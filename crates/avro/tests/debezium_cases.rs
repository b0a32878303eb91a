//! The cases of Debezium's own tests of its PostgreSQL connector that its recordings here don't have: the values that
//! it asserts, decoded by apache-avro. The numbers are those of the cases in the reference that this follows.

mod support;

use apache_avro::types::Value;
use headwater_avro::{
    BinaryHandling, DecimalHandling, HstoreHandling, IntervalHandling, PgType, RecordSettings, UnknownTypes,
};
use support::compiled::Compiled;
use support::text;

fn decoded(pg_type: &PgType, records: &RecordSettings, postgres_text: &str) -> Value {
    Compiled::with(pg_type, records)
        .round_trip(text(postgres_text))
        .unwrap_or_else(|error| panic!("{postgres_text}: {error}"))
}

fn check(case: &str, pg_type: PgType, cases: &[(&str, Value)]) {
    check_with(case, pg_type, &RecordSettings::default(), cases);
}

fn check_with(case: &str, pg_type: PgType, records: &RecordSettings, cases: &[(&str, Value)]) {
    for (postgres_text, expected) in cases {
        assert_eq!(decoded(&pg_type, records, postgres_text), *expected, "{case}: {postgres_text}");
    }
}

fn array(element: PgType) -> PgType {
    PgType::Array(Box::new(element))
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(values.into_iter().collect())
}

fn decimal(unscaled: i64) -> Value {
    let bytes = unscaled.to_be_bytes();
    let sign = if unscaled < 0 { 0xff } else { 0 };
    let superfluous =
        bytes.windows(2).take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0).count();
    Value::Decimal(apache_avro::Decimal::from(&bytes[superfluous..]))
}

fn variable(scale: i32, unscaled: u8) -> Value {
    variable_bytes(scale, vec![unscaled])
}

fn variable_bytes(scale: i32, unscaled: Vec<u8>) -> Value {
    Value::Record(vec![("scale".to_owned(), Value::Int(scale)), ("value".to_owned(), Value::Bytes(unscaled))])
}

fn numeric(precision: u16, scale: i16) -> PgType {
    PgType::Numeric { precision, scale }
}

#[test]
fn numerics() {
    check("T5", numeric(3, 2), &[("1.10", decimal(110)), ("3.30", decimal(330))]);
    check("T5", numeric(4, 0), &[("10", decimal(10))]);
    check("T5", numeric(6, 4), &[("22.2200", decimal(222_200))]);
    check("T5", PgType::NumericUnconstrained, &[("10.1111", variable_bytes(4, vec![1, 0x8a, 0xf7]))]);
    check("T6", PgType::NumericUnconstrained, &[("10", variable(0, 10)), ("22", variable(0, 22))]);
    let strings = RecordSettings { decimal_handling: DecimalHandling::String, ..RecordSettings::default() };
    check_with("T7", numeric(6, 4), &strings, &[("22.2200", string("22.2200")), ("NaN", string("NAN"))]);
    let infinities = [("Infinity", string("POSITIVE_INFINITY")), ("-Infinity", string("NEGATIVE_INFINITY"))];
    check_with("T8", PgType::NumericUnconstrained, &strings, &infinities);
    let doubles = RecordSettings { decimal_handling: DecimalHandling::Double, ..RecordSettings::default() };
    let values = [("10.1111", Value::Double(10.1111)), ("22", Value::Double(22.0))];
    check_with("T9", PgType::NumericUnconstrained, &doubles, &values);
    let nan = decoded(&numeric(3, 2), &doubles, "NaN");
    assert!(matches!(nan, Value::Double(nan) if nan.is_nan()), "T9");
    check("T4", PgType::Oid, &[("4000000000", Value::Long(4_000_000_000))]);
    check(
        "T15",
        PgType::Money,
        &[
            ("$1,234.11", decimal(123_411)),
            ("-$1,234.11", decimal(-123_411)),
            ("$92,233,720,368,547,758.07", decimal(i64::MAX)),
            ("-$92,233,720,368,547,758.08", decimal(i64::MIN)),
        ],
    );
    let one_digit = RecordSettings { money_fraction_digits: 1, ..RecordSettings::default() };
    check_with("T15", PgType::Money, &one_digit, &[("$123.46", decimal(1235))]);
}

#[test]
fn bytes_and_bits() {
    let modes = [
        (BinaryHandling::Hex, "010203", "2766617427203c2d3e202763617427"),
        (BinaryHandling::Base64, "AQID", "J2ZhdCcgPC0+ICdjYXQn"),
        (BinaryHandling::Base64UrlSafe, "AQID", "J2ZhdCcgPC0-ICdjYXQn"),
    ];
    for (binary_handling, bytes, query) in modes {
        let records = RecordSettings {
            binary_handling,
            unknown_types: UnknownTypes::Bytes,
            ..RecordSettings::default()
        };
        check_with("T12", PgType::Bytea, &records, &[("\\x010203", string(bytes))]);
        check_with("T13", PgType::Verbatim, &records, &[("'fat' <-> 'cat'", string(query))]);
    }
    let bits = |length, varying| PgType::Bits { length, varying };
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    check("T16", bits(1, false), &[("0", Value::Boolean(false)), ("1", Value::Boolean(true))]);
    check("T16", bits(1, true), &[("1", Value::Boolean(true))]);
    check("T16", bits(2, false), &[("11", bytes(&[3]))]);
    check("T16", bits(7, false), &[("1000000", bytes(&[0x40]))]);
    check("T16", bits(2, true), &[("00", bytes(&[]))]);
    check("T16", bits(24, true), &[("000000110000001000000001", bytes(&[1, 2, 3]))]);
    let unlimited = "111011010001000110000001000000001";
    check(
        "T16",
        bits(2_147_483_647, true),
        &[("101", bytes(&[5])), (unlimited, bytes(&[1, 2, 0x23, 0xda, 1]))],
    );
}

#[test]
fn times() {
    let (timestamp, timestamptz) = (PgType::Timestamp { precision: 6 }, PgType::TimestampTz { precision: 6 });
    check(
        "T17",
        timestamp.clone(),
        &[
            ("2016-11-04 13:51:30.123456", Value::Long(1_478_267_490_123_456)),
            ("1936-10-25 22:10:12.608", Value::Long(-1_047_174_587_392_000)),
        ],
    );
    check(
        "T17",
        PgType::Timestamp { precision: 3 },
        &[("2016-11-04 13:51:30.123", Value::Long(1_478_267_490_123))],
    );
    check(
        "T18",
        timestamptz.clone(),
        &[("2016-11-04 11:51:30.123456+00", string("2016-11-04T11:51:30.123456Z"))],
    );
    check("T19", PgType::Date, &[("2016-11-04", Value::Int(17_109))]);
    check(
        "T20",
        PgType::Time { precision: 6 },
        &[("13:51:30", Value::Long(49_890_000_000)), ("24:00:00", Value::Long(86_400_000_000))],
    );
    check("T20", PgType::Time { precision: 3 }, &[("13:51:30.123", Value::Int(49_890_123))]);
    check(
        "T21",
        PgType::TimeTz { precision: 6 },
        &[
            ("13:51:30.123789+02", string("11:51:30.123789Z")),
            ("13:51:30.123+02", string("11:51:30.123Z")),
            ("24:00:00+00", string("24:00:00Z")),
        ],
    );
    let interval = "1 year 2 mons 3 days 04:05:06.78";
    check("T22", PgType::Interval, &[(interval, Value::Long(37_091_106_780_000))]);
    let strings = RecordSettings { interval_handling: IntervalHandling::String, ..RecordSettings::default() };
    check_with("T22", PgType::Interval, &strings, &[(interval, string("P1Y2M3DT4H5M6.78S"))]);
    check(
        "T23, T25",
        timestamp,
        &[
            ("21016-11-04 13:51:30.123456", Value::Long(601_060_312_290_123_456)),
            ("294247-01-01 23:59:59.999999", Value::Long(9_223_371_331_199_999_999)),
            ("4713-12-31 23:59:59.999999 BC", Value::Long(-210_831_897_600_000_001)),
        ],
    );
    check(
        "T23",
        PgType::Timestamp { precision: 3 },
        &[("21016-11-04 13:51:30.124", Value::Long(601_060_312_290_124))],
    );
    check(
        "T24, T26, T27",
        timestamptz,
        &[
            ("21016-11-04 06:51:30.123456+00", string("+21016-11-04T06:51:30.123456Z")),
            ("21016-11-04 06:51:30+00", string("+21016-11-04T06:51:30.000000Z")),
            ("294247-01-01 23:59:59.999999+00", string("+294247-01-01T23:59:59.999999Z")),
            ("4714-12-31 23:59:59.999999+00 BC", string("-4713-12-31T23:59:59.999999Z")),
            ("infinity", string("infinity")),
            ("-infinity", string("-infinity")),
        ],
    );
}

#[test]
fn arrays() {
    let ints = |values: &[i32]| list(values.iter().map(|value| Value::Int(*value)));
    let strings = |values: &[&str]| list(values.iter().map(|value| string(value)));
    check("T31", array(PgType::Int4), &[("{1,2,3}", ints(&[1, 2, 3]))]);
    check(
        "T31",
        array(PgType::Text),
        &[("{\"cone      \",\"ctwo      \"}", strings(&["cone      ", "ctwo      "]))],
    );
    check(
        "T31",
        array(PgType::Date),
        &[("{2016-11-04,2016-11-05,2016-11-06}", ints(&[17_109, 17_110, 17_111]))],
    );
    check("T31", array(numeric(10, 2)), &[("{1.20,3.40}", list([decimal(120), decimal(340)]))]);
    check(
        "T31",
        array(PgType::NumericUnconstrained),
        &[("{1.1,2.22}", list([variable(1, 11), variable_bytes(2, vec![0, 222])]))],
    );
    check(
        "T31",
        array(PgType::Network),
        &[("{192.168.2.0/12,192.168.1.1}", strings(&["192.168.2.0/12", "192.168.1.1"]))],
    );
    check(
        "T31",
        array(PgType::Oid),
        &[("{3,4000000000}", list([Value::Long(3), Value::Long(4_000_000_000)]))],
    );
    check(
        "T31",
        array(PgType::Range),
        &[(
            "{\"[2019-03-31,infinity)\",\"[1000,6000)\"}",
            strings(&["[2019-03-31,infinity)", "[1000,6000)"]),
        )],
    );
    let micros = |values: [i64; 2]| list(values.map(Value::Long));
    check(
        "T33",
        array(PgType::Time { precision: 6 }),
        &[("{00:01:02,01:02:03}", micros([62_000_000, 3_723_000_000]))],
    );
    check(
        "T33",
        array(PgType::TimeTz { precision: 6 }),
        &[("{11:51:02+00,12:51:03+00}", strings(&["11:51:02Z", "12:51:03Z"]))],
    );
    check(
        "T33",
        array(PgType::Timestamp { precision: 6 }),
        &[(
            "{\"2020-04-01 00:01:02\",\"2020-04-01 01:02:03\"}",
            micros([1_585_699_262_000_000, 1_585_702_923_000_000]),
        )],
    );
    check(
        "T33",
        array(PgType::TimestampTz { precision: 6 }),
        &[("{\"2020-04-01 11:51:02+00\"}", strings(&["2020-04-01T11:51:02.000000Z"]))],
    );
    check(
        "T34",
        array(PgType::Ltree),
        &[("{Ship.Frigate,Ship.Destroyer}", strings(&["Ship.Frigate", "Ship.Destroyer"]))],
    );
}

#[test]
fn extensions() {
    check("T34", PgType::Text, &[("0-393-04002-X", string("0-393-04002-X"))]);
    let pairs = r#""key_#1"=>"val 1", "key 2"=>" ##123 78""#;
    check("T35", PgType::Hstore, &[(pairs, string(r#"{"key_#1":"val 1","key 2":" ##123 78"}"#))]);
    check("T35", array(PgType::Hstore), &[(r#"{"\"a\"=>NULL"}"#, list([string(r#"{"a":null}"#)]))]);
    let maps = RecordSettings { hstore_handling: HstoreHandling::Map, ..RecordSettings::default() };
    let value = Value::Union(0, Box::new(Value::Null));
    check_with(
        "T35",
        PgType::Hstore,
        &maps,
        &[("\"key\"=>NULL", Value::Map([("key".to_owned(), value)].into()))],
    );

    let hex = "0101000020730C00001C7C613255DE6540787AA52C435C42C0";
    let point = decoded(&PgType::Geometry, &RecordSettings::default(), hex);
    assert_eq!(support::field(&point, "srid"), Value::Int(3187), "T36");
    let Value::Bytes(wkb) = support::field(&point, "wkb") else { panic!("no wkb") };
    assert_eq!(wkb.iter().map(|byte| format!("{byte:02X}")).collect::<String>(), hex, "T36");

    let doubles = |values: &[f64]| list(values.iter().map(|value| Value::Double(*value)));
    check("T40", PgType::Vector, &[("[1,2,3]", doubles(&[1.0, 2.0, 3.0]))]);
    check("T40", PgType::Halfvec, &[("[101,0.5]", list([Value::Float(101.0), Value::Float(0.5)]))]);
    let sparse =
        decoded(&PgType::Sparsevec { dimensions: None }, &RecordSettings::default(), "{1:201,9:209}/3000");
    let entry = |key, value| {
        Value::Record(vec![("key".to_owned(), Value::Int(key)), ("value".to_owned(), Value::Double(value))])
    };
    assert_eq!(support::field(&sparse, "dimensions"), Value::Int(3000), "T40");
    assert_eq!(support::field(&sparse, "vector"), list([entry(1, 201.0), entry(9, 209.0)]), "T40");
}

/// The coordinates of a geometry's WKB, its type and what the extensions say.
fn geometry(pg_type: PgType, postgres_text: &str) -> (u8, Vec<f64>, Vec<(String, String)>) {
    let value = decoded(&pg_type, &RecordSettings::default(), postgres_text);
    let Value::Bytes(wkb) = support::field(&value, "wkb") else { panic!("no wkb") };
    let Value::Map(extensions) = support::field(&value, "extensions") else { panic!("no extensions") };
    let mut extensions: Vec<_> = extensions
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => (key, text),
            other => panic!("{other:?}"),
        })
        .collect();
    extensions.sort();
    let header = if wkb[1] == 3 { 13 } else { 9 };
    let numbers =
        wkb[header..].chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight")));
    (wkb[1], numbers.collect(), extensions)
}

#[test]
fn geometries() {
    let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let ring = vec![1., 1., 1., 0., 0., 0., 0., 1., 1., 1.];
    assert_eq!(geometry(PgType::Box, "(1,1),(0,0)"), (3, ring, of(&[("type", "box")])), "T38");
    let line = vec![0., 0., 1., 1.];
    assert_eq!(geometry(PgType::Lseg, "[(0,0),(1,1)]"), (2, line.clone(), of(&[("type", "lseg")])), "T38");
    let closed = of(&[("closed", "true"), ("type", "path")]);
    assert_eq!(geometry(PgType::Path, "((0,0),(1,1))"), (2, line, closed), "T38");
    let triangle = vec![0., 0., 0., 1., 1., 0., 0., 0.];
    let polygon = of(&[("type", "polygon")]);
    assert_eq!(
        geometry(PgType::Polygon, "((0,0),(0,1),(1,0))"),
        (3, triangle.clone(), polygon.clone()),
        "T38"
    );
    let closed_already = geometry(PgType::Polygon, "((0,0),(0,1),(1,0),(0,0))");
    assert_eq!(closed_already, (3, triangle, polygon), "a ring that is closed stays as it is");
    let circle = decoded(&PgType::Circle, &RecordSettings::default(), "<(10,4),10>");
    assert_eq!(support::field(&circle, "radius"), Value::Double(10.0), "T38");
    assert_eq!(support::field(&support::field(&circle, "center"), "x"), Value::Double(10.0), "T38");
    let line = decoded(&PgType::Line, &RecordSettings::default(), "{-1,0,0}");
    assert_eq!(support::field(&line, "a"), Value::Double(-1.0), "T38");
    let point = decoded(&PgType::Point, &RecordSettings::default(), "(1,1)");
    assert_eq!(support::field(&point, "y"), Value::Double(1.0), "T29");
}
