//! The oracle is apache-avro, which reads what was written in the same schema; for an inferred one Debezium's own record.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;

use super::*;

/// What apache-avro reads in it; the header is left out.
fn read(schema: &str, plan: &JsonPlan, json: &str) -> Result<Value, String> {
    let mut out = b"before".to_vec();
    let written = plan.encode_into(SchemaId(7), json.as_bytes(), &mut out);
    if let Err(misfit) = written {
        assert_eq!(out, b"before", "an error leaves no bytes behind");
        return Err(misfit.to_string());
    }
    assert_eq!(out[..11], *b"before\0\0\0\0\x07");
    let schema = Schema::parse_str(schema).map_err(|error| error.to_string())?;
    let mut body = &out[11..];
    let reader = GenericDatumReader::builder(&schema).build().map_err(|error| error.to_string())?;
    let value = reader.read_value(&mut body).map_err(|error| error.to_string())?;
    assert!(body.is_empty(), "bytes are left");
    Ok(value)
}

fn check(schema: &str, json: &str, expected: Result<Value, &str>) {
    let plan = JsonPlan::parse(schema).expect(schema);
    match (read(schema, &plan, json), expected) {
        (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{json} in {schema}"),
        (Err(misfit), Err(expected)) => assert!(misfit.contains(expected), "{json} in {schema}: {misfit}"),
        (found, expected) => panic!("{json} in {schema}: {found:?}, not {expected:?}"),
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn branch(index: u32, value: Value) -> Value {
    Value::Union(index, Box::new(value))
}

#[test]
fn plain_types() {
    for (schema, json, expected) in [
        (r#""int""#, "-5", Ok(Value::Int(-5))),
        (r#""int""#, "2147483648", Err("too large for an int")),
        (r#""long""#, "2147483648", Ok(Value::Long(2_147_483_648))),
        (r#""long""#, "9223372036854775808", Err("too large for a long")),
        (r#""long""#, "1.0", Err("no whole number")),
        (r#""long""#, "1e3", Err("no whole number")),
        (r#""long""#, r#""5""#, Err("no whole number")),
        (r#""double""#, "9.99", Ok(Value::Double(9.99))),
        (r#""double""#, "1e999", Err("can hold")),
        (r#""double""#, r#""Infinity""#, Ok(Value::Double(f64::INFINITY))),
        (r#""float""#, "1.5", Ok(Value::Float(1.5))),
        (r#""float""#, "1e39", Err("can hold")),
        (r#""boolean""#, "true", Ok(Value::Boolean(true))),
        (r#""boolean""#, "1", Err("is no boolean")),
        (r#""null""#, "null", Ok(Value::Null)),
        (r#""string""#, r#""\u00fc\u0000""#, Ok(text("ü\0"))),
        (r#""string""#, "5", Err("is no string")),
        (r#""string""#, "null", Err("is no string")),
        (r#""bytes""#, r#""a\u00ff""#, Ok(Value::Bytes(vec![b'a', 0xff]))),
        (r#""bytes""#, r#""\u0100""#, Err("no byte")),
        (r#"{"type":"fixed","name":"F","size":2}"#, r#""ab""#, Ok(Value::Fixed(2, b"ab".to_vec()))),
        (r#"{"type":"fixed","name":"F","size":2}"#, r#""abc""#, Err("as many bytes")),
        (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#""B""#, Ok(Value::Enum(1, "B".to_owned()))),
        (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#""C""#, Err("symbols")),
        (r#"{"type":"array","items":"int"}"#, "[1, 2]", Ok(Value::Array(vec![Value::Int(1), Value::Int(2)]))),
        (r#"{"type":"array","items":"int"}"#, "[]", Ok(Value::Array(Vec::new()))),
        (r#"{"type":"array","items":"int"}"#, r#"[1, "x"]"#, Err("field [1] is no whole number")),
        (
            r#"{"type":"map","values":"int"}"#,
            r#"{"a": 1}"#,
            Ok(Value::Map([("a".to_owned(), Value::Int(1))].into())),
        ),
        (r#"{"type":"map","values":"int"}"#, r#"{"a": null}"#, Err("field a is no whole number")),
        (r#""int""#, "", Err("no JSON")),
        (r#""int""#, "5 5", Err("no JSON")),
        (r#""int""#, r#"{"a": 1, "a": 2}"#, Err("twice")),
    ] {
        check(schema, json, expected);
    }
}

#[test]
fn logical_types() {
    let long = |logical: &str| format!(r#"{{"type":"long","logicalType":"{logical}"}}"#);
    let int = |logical: &str| format!(r#"{{"type":"int","logicalType":"{logical}"}}"#);
    for (schema, json, expected) in [
        (int("date"), r#""1970-02-01""#, Ok(Value::Date(31))),
        (int("date"), "31", Ok(Value::Date(31))),
        (int("date"), r#""1970-02-30""#, Err("no date")),
        (int("time-millis"), r#""00:00:01.500""#, Ok(Value::TimeMillis(1500))),
        (int("time-millis"), r#""00:00:01.5001""#, Err("milliseconds")),
        (long("time-micros"), r#""00:00:01.500001""#, Ok(Value::TimeMicros(1_500_001))),
        (long("timestamp-millis"), r#""1970-01-01T01:00:00.250+01:00""#, Ok(Value::TimestampMillis(250))),
        (long("timestamp-millis"), r#""1970-01-01T00:00:00.250""#, Err("with its zone")),
        (long("timestamp-micros"), r#""1970-01-01T00:00:00.000001Z""#, Ok(Value::TimestampMicros(1))),
        (long("timestamp-micros"), "7", Ok(Value::TimestampMicros(7))),
        (long("local-timestamp-millis"), r#""1970-01-01T00:00:01""#, Ok(Value::LocalTimestampMillis(1000))),
        (long("local-timestamp-millis"), r#""1970-01-01T00:00:01Z""#, Err("without a zone")),
        (r#"{"type":"string","logicalType":"uuid"}"#.to_owned(), r#""x""#, Err("uuid")),
    ] {
        check(&schema, json, expected);
    }
}

#[test]
fn decimals_are_exact() {
    let bytes = r#"{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}"#;
    let fixed = r#"{"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":6,"scale":2}"#;
    for (json, expected) in [
        ("9.99", Ok(999_i64)),
        ("-9.9", Ok(-990)),
        (r#""1234.56""#, Ok(123_456)),
        ("0.1", Ok(10)),
        ("1.001", Err("decimal")),
        ("12345.00", Err("more digits")),
        ("1e2", Err("exponent")),
        (r#""x""#, Err("decimal")),
    ] {
        for schema in [bytes, fixed] {
            let plan = JsonPlan::parse(schema).unwrap();
            match (read(schema, &plan, json), expected) {
                (Ok(Value::Decimal(found)), Ok(expected)) => {
                    assert_eq!(num_bigint::BigInt::from(found), expected.into(), "{json} in {schema}");
                }
                (Err(misfit), Err(expected)) => assert!(misfit.contains(expected), "{json}: {misfit}"),
                (found, expected) => panic!("{json} in {schema}: {found:?}, not {expected:?}"),
            }
        }
    }
}

#[test]
fn records_have_defaults_and_name_what_is_wrong() {
    let schema = r#"{"type":"record","name":"a.Order","fields":[
        {"name":"id","type":"int"},
        {"name":"note","type":["null","string"]},
        {"name":"kind","type":"string","default":"web"},
        {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
            {"name":"price","type":"double"}]}},"default":[]}]}"#;
    let record = |id: i32, note: Value, kind: &str, items: Vec<f64>| {
        let items =
            items.into_iter().map(|price| Value::Record(vec![("price".to_owned(), Value::Double(price))]));
        Value::Record(vec![
            ("id".to_owned(), Value::Int(id)),
            ("note".to_owned(), note),
            ("kind".to_owned(), text(kind)),
            ("items".to_owned(), Value::Array(items.collect())),
        ])
    };
    check(schema, r#"{"id": 1}"#, Ok(record(1, branch(0, Value::Null), "web", vec![])));
    let whole = r#"{"kind": "shop", "note": "x", "items": [{"price": 1.5}], "id": 2}"#;
    check(schema, whole, Ok(record(2, branch(1, text("x")), "shop", vec![1.5])));
    let tagged = r#"{"id": 2, "note": {"string": "x"}}"#;
    check(schema, tagged, Ok(record(2, branch(1, text("x")), "web", vec![])));
    for (json, misfit) in [
        ("{}", "field id is missing"),
        ("null", "is no record"),
        (r#"{"id": 1, "more": 1}"#, "field more is none that the schema has"),
        (r#"{"id": 1, "note": 5}"#, "field note is no string"),
        (r#"{"id": 1, "items": [{"price": 1}, {"price": "secret"}]}"#, "field items[1].price is no number"),
    ] {
        check(schema, json, Err(misfit));
        assert!(!read(schema, &JsonPlan::parse(schema).unwrap(), json).unwrap_err().contains("secret"));
    }
}

#[test]
fn unions_take_the_first_type_that_fits() {
    let schema = r#"["null", "int", "double", {"type":"record","name":"R","fields":[{"name":"double","type":"int"}]}, "string"]"#;
    let inner = Value::Record(vec![("double".to_owned(), Value::Int(1))]);
    for (json, expected) in [
        ("1", Ok(branch(1, Value::Int(1)))),
        ("1.5", Ok(branch(2, Value::Double(1.5)))),
        (r#"{"double": 1.5}"#, Ok(branch(2, Value::Double(1.5)))),
        (r#"{"R": {"double": 1}}"#, Ok(branch(3, inner))),
        (r#""x""#, Ok(branch(4, text("x")))),
        ("[]", Err("none of the types")),
    ] {
        check(schema, json, expected);
    }
}

#[test]
fn unusable_schemas_are_refused() {
    for schema in [
        "{",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","R"]}]}"#,
    ] {
        assert!(JsonPlan::parse(schema).is_err(), "{schema}");
    }
}

fn inferred(json: &str, inference: Inference) -> Result<(String, Value), String> {
    let (schema, plan) = JsonPlan::infer(json.as_bytes(), inference).map_err(|misfit| misfit.to_string())?;
    let value = read(&schema, &plan, json)?;
    Ok((schema, value))
}

/// What Debezium's router and Connect's Avro converter made of this payload (`table.expand.json.payload`).
#[test]
fn the_inferred_schema_is_debeziums() {
    let (schema, _) = inferred(r#"{"id": 1, "total": 9.99}"#, Inference::default()).unwrap();
    let golden = r#"{"type":"record","name":"payload","fields":[
        {"name":"id","type":["null","int"],"default":null},
        {"name":"total","type":["null","double"],"default":null}],"connect.name":"payload"}"#;
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parsed(&schema), parsed(golden));
    let (_, plan) = JsonPlan::infer(br#"{"id": 1, "total": 9.99}"#, Inference::default()).unwrap();
    let mut out = Vec::new();
    plan.encode_into(SchemaId(0x111), br#"{"id": 1, "total": 9.99}"#, &mut out).unwrap();
    let golden = [0, 0, 0, 1, 0x11, 2, 2, 2, 0x7b, 0x14, 0xae, 0x47, 0xe1, 0xfa, 0x23, 0x40];
    assert_eq!(out, golden);
}

#[test]
fn schemas_are_inferred() {
    let optional = Inference { nulls: NullFields::OptionalBytes, empty_arrays: EmptyArrays::OptionalString };
    let json =
        r#"{"n": null, "e": [], "a": [null, {"x": 1}, {"y": [["z"]]}], "o": {"b": true, "big": 3000000000}}"#;
    let names = |inference| {
        let (schema, value) = inferred(json, inference).unwrap();
        let Value::Record(fields) = value else { panic!("no record") };
        (schema, fields.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
    };
    assert_eq!(names(Inference::default()).1, ["a", "o"]);
    let (schema, fields) = names(optional);
    assert_eq!(fields, ["n", "e", "a", "o"]);
    assert!(
        schema.contains(r#""connect.name":"payload.a""#) && schema.contains(r#""namespace":"payload""#),
        "{schema}"
    );
    inferred("[1, 2]", optional).unwrap();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (json, misfit) in [
        ("5", "neither an object nor an array"),
        ("[]", "say nothing"),
        (r#"{"a": [1, "x"]}"#, "field a[1] is not of the type"),
        (r#"{"a": [1, 3000000000]}"#, "field a[1] is not of the type"),
        (r#"{"a-b": 1}"#, "field a-b has a name"),
        (r#"{"a": 9223372036854775808}"#, "too large"),
        (r#"{"a": [[{"x": 1}]]}"#, "no name"),
        (&deep, "nested too deeply"),
    ] {
        let found = inferred(json, Inference::default()).unwrap_err();
        assert!(found.contains(misfit), "{}: {found}", &json[..json.len().min(40)]);
    }
}
