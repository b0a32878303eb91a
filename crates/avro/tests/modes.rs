//! Every type in every mode: null, unchanged, made up and refused values, and Avro's own style.

mod support;

use apache_avro::types::Value;
use headwater_avro::{
    AbsentBefore, ArrayHandling, Change, EncodeError, Op, PgType, RecordSettings, TypeStyle, UnknownTypes,
    ValuePlan,
};
use support::compiled::{COMPILED, Compiled, all_modes, all_types, one_column};
use support::{CHANGE_SOURCE, Cell, Row, SCHEMA_ID, column, table, text};

fn value(pg_type: &PgType, postgres_text: &str) -> Value {
    Compiled::new(pg_type)
        .round_trip(text(postgres_text))
        .unwrap_or_else(|error| panic!("{postgres_text}: {error}"))
}

#[test]
fn null_is_null_and_unchanged_is_never_null_in_every_mode() {
    for compiled in COMPILED.iter() {
        assert_eq!(compiled.round_trip(Cell::Null), Ok(Value::Null), "{:?}", compiled.pg_type);
        match compiled.round_trip(Cell::Unchanged) {
            Ok(value) => assert_ne!(value, Value::Null, "{:?}", compiled.pg_type),
            Err(error) => assert!(matches!(error, EncodeError::UnchangedWithoutOldValue { .. }), "{error}"),
        }
    }
}

/// Also with NOT NULL columns, whose made-up values must be of their types.
#[test]
fn one_table_with_all_types_twice_is_one_valid_schema_in_every_mode() {
    for records in all_modes() {
        let columns = all_types().into_iter().chain(all_types()).enumerate();
        let mut columns: Vec<_> =
            columns.map(|(index, pg_type)| column(&format!("c{index}"), pg_type)).collect();
        columns.iter_mut().step_by(2).for_each(|column| column.not_null = true);
        columns.push(column("id", PgType::Int4));
        let key = columns.len() - 1;
        let table = table("everything", &[key], columns);
        let plan = ValuePlan::new(&table, &support::source(), &records).expect("a schema");
        let mut cells = vec![Cell::Null; table.columns.len()];
        cells[key] = text("1");
        let row = Row::new(&cells);
        let tuple = row.tuple();
        let change = Change {
            op: Op::Delete,
            before: Some(&tuple),
            before_is_full: false,
            after: None,
            source: &CHANGE_SOURCE,
        };
        let mut out = Vec::new();
        plan.encode_into(SCHEMA_ID, &change, &mut out).expect("only the key was sent");
        let before = support::field(&support::decode(&support::parse(plan.schema_json()), &out), "before");
        for (at, _) in table.columns.iter().enumerate().filter(|(at, _)| *at != key) {
            let is_null = support::field(&before, &format!("c{at}")) == Value::Null;
            let made_up = records.absent_before == AbsentBefore::Debezium && table.columns[at].not_null;
            assert_eq!(is_null, !made_up, "{:?}", table.columns[at].pg_type);
        }
    }
}

/// `types = "avro"`: what consumers get from each type.
#[test]
fn avros_own_logical_types() {
    let records = RecordSettings { types: TypeStyle::Avro, ..RecordSettings::default() };
    let check = |pg_type: PgType, postgres_text: &str, schema: &str, expected: Value| {
        let compiled = Compiled::with(&pg_type, &records);
        let json: serde_json::Value = serde_json::from_str(compiled.plan.schema_json()).expect("JSON");
        assert!(!compiled.plan.schema_json().contains("connect."), "{pg_type:?}");
        assert_eq!(
            json["fields"][0]["type"][1]["fields"][0]["type"][1],
            serde_json::from_str::<serde_json::Value>(schema).expect("JSON"),
            "{pg_type:?}"
        );
        assert_eq!(compiled.round_trip(text(postgres_text)), Ok(expected), "{pg_type:?}");
    };
    let string = |text: &str| Value::String(text.to_owned());
    let decimal = |bytes: &[u8]| Value::Decimal(apache_avro::Decimal::from(bytes));
    let numeric = |precision, scale| PgType::Numeric { precision, scale };
    let decimal_schema = |precision, scale| {
        format!(r#"{{"type":"bytes","scale":{scale},"precision":{precision},"logicalType":"decimal"}}"#)
    };
    check(PgType::Int2, "-5", r#"{"type":"int"}"#, Value::Int(-5));
    check(numeric(10, 2), "1.10", &decimal_schema(10, 2), decimal(&[110]));
    check(numeric(3, -2), "12300", &decimal_schema(5, 0), decimal(&[0x30, 0x0c]));
    check(numeric(2, 5), "0.00012", &decimal_schema(5, 5), decimal(&[12]));
    check(PgType::Money, "-$0.01", &decimal_schema(19, 2), decimal(&[0xff]));
    check(PgType::NumericUnconstrained, "1.50", r#""string""#, string("1.50"));
    check(PgType::NumericUnconstrained, "NaN", r#""string""#, string("NaN"));
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let parsed = apache_avro::Uuid::parse_str(uuid).expect("a UUID");
    check(PgType::Uuid, uuid, r#"{"type":"string","logicalType":"uuid"}"#, Value::Uuid(parsed));
    check(PgType::Date, "1970-01-02", r#"{"type":"int","logicalType":"date"}"#, Value::Date(1));
    let micros = |us| Value::TimeMicros(us);
    check(
        PgType::Time { precision: 3 },
        "00:00:01",
        r#"{"type":"long","logicalType":"time-micros"}"#,
        micros(1_000_000),
    );
    check(
        PgType::Timestamp { precision: 0 },
        "1970-01-01 00:00:01",
        r#"{"type":"long","logicalType":"local-timestamp-micros"}"#,
        Value::LocalTimestampMicros(1_000_000),
    );
    check(
        PgType::TimestampTz { precision: 6 },
        "1970-01-01 02:00:00.000001+02",
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        Value::TimestampMicros(1),
    );
    check(PgType::TimeTz { precision: 6 }, "12:00:00+02", r#""string""#, string("12:00:00+02"));
    check(PgType::Interval, "1 day", r#""string""#, string("P0Y0M1DT0H0M0S"));
    check(PgType::Bits { length: 1, varying: false }, "1", r#""boolean""#, Value::Boolean(true));
    check(PgType::Bits { length: 8, varying: true }, "0010", r#""string""#, string("0010"));
    check(PgType::Json, "{}", r#"{"type":"string"}"#, string("{}"));
    check(PgType::Enum { labels: vec!["a".to_owned()] }, "a", r#""string""#, string("a"));
    check(
        PgType::Vector,
        "[1,2]",
        r#"{"type":"array","items":"double"}"#,
        Value::Array(vec![Value::Double(1.0), Value::Double(2.0)]),
    );
    check(
        PgType::Array(Box::new(PgType::Date)),
        "{1970-01-01,NULL}",
        r#"{"type":"array","items":["null",{"type":"int","logicalType":"date"}]}"#,
        Value::Array(vec![Value::Date(0), Value::Null]),
    );
    let value = Value::Union(1, Box::new(string("1")));
    check(
        PgType::Hstore,
        "\"a\"=>\"1\"",
        r#"{"type":"map","values":["null","string"]}"#,
        Value::Map([("a".to_owned(), value)].into()),
    );
}

/// Postgres separates elements of these types by other characters than the comma.
#[test]
fn arrays_with_other_delimiters() {
    let boxes = value(&PgType::Array(Box::new(PgType::Box)), "{(1,1),(0,0);(2,2),(1,1)}");
    assert!(matches!(&boxes, Value::Array(items) if items.len() == 2), "{boxes:?}");
    let point = "0101000020E61000001C7C613255DE6540787AA52C435C42C0";
    let points = value(&PgType::Array(Box::new(PgType::Geometry)), &format!("{{{point}:NULL:{point}}}"));
    let Value::Array(points) = points else { panic!("no array") };
    assert_eq!((points.len(), &points[1]), (3, &Value::Null));
    assert_eq!(support::field(&points[0], "srid"), Value::Int(4326));
    let money = value(&PgType::Array(Box::new(PgType::Money)), "{\"$1,234.56\",$0.01}");
    assert!(matches!(&money, Value::Array(items) if items.len() == 2), "{money:?}");
}

#[test]
fn array_handling_text_keeps_dimensions_and_bounds() {
    let records = RecordSettings { array_handling: ArrayHandling::Text, ..RecordSettings::default() };
    let compiled = Compiled::with(&PgType::Array(Box::new(PgType::Int4)), &records);
    for array in ["{{1,2},{3,4}}", "[0:1]={1,2}", "{}"] {
        assert_eq!(compiled.round_trip(text(array)), Ok(Value::String(array.to_owned())));
    }
}

#[test]
fn an_unknown_type_is_refused_where_asked_for() {
    let records = RecordSettings { unknown_types: UnknownTypes::Halt, ..RecordSettings::default() };
    let refused = ValuePlan::new(&one_column(&PgType::Other), &support::source(), &records);
    assert!(refused.expect_err("halt").to_string().contains("\"c\" of zoo.t is of type"));
    assert!(ValuePlan::new(&one_column(&PgType::Verbatim), &support::source(), &records).is_ok());
}
