//! The JSON of one column's Avro type, in the spelling of `schema.rs`, and of its default.

use std::collections::HashSet;
use std::fmt::Write;

use crate::binary;
use crate::types::{AvroType, DefaultRule, StructType, TypeRow};

/// `["null", T]`
pub(crate) fn nullable_json(avro: &AvroType, defined: &mut Defined, json: &mut String) {
    json.push_str(r#"["null","#);
    type_json(avro, None, defined, json);
    json.push(']');
}

/// Full names of the records that the document has defined; from then on they are referred to by name.
#[derive(Default)]
pub(crate) struct Defined(HashSet<&'static str>);

/// A type with its Connect default, where it has one.
pub(crate) fn type_json(
    avro: &AvroType,
    connect_default: Option<&str>,
    defined: &mut Defined,
    json: &mut String,
) {
    let default =
        connect_default.map(|default| format!(r#","connect.default":{default}"#)).unwrap_or_default();
    let _ = match avro {
        AvroType::Plain(base) if default.is_empty() => write!(json, r#""{base}""#),
        AvroType::Plain(base) => write!(json, r#"{{"type":"{base}"{default}}}"#),
        AvroType::Int16 => write!(json, r#"{{"type":"int"{default},"connect.type":"int16"}}"#),
        AvroType::Named { base, connect_name } => {
            write!(
                json,
                r#"{{"type":"{base}","connect.version":1{default},"connect.name":"{connect_name}"}}"#
            )
        }
        AvroType::Logical { base, connect_name: Some(connect_name), logical } => write!(
            json,
            r#"{{"type":"{base}","connect.version":1{default},"connect.name":"{connect_name}","logicalType":"{logical}"}}"#
        ),
        AvroType::Logical { base, connect_name: None, logical } => {
            write!(json, r#"{{"type":"{base}","logicalType":"{logical}"{default}}}"#)
        }
        AvroType::Enum { allowed } => write!(
            json,
            concat!(
                r#"{{"type":"string","connect.version":1,"connect.parameters":{{"allowed":{allowed}}}"#,
                r#"{default},"connect.name":"io.debezium.data.Enum"}}"#
            ),
            allowed = json_string(allowed),
            default = default
        ),
        AvroType::Bits { length } => write!(
            json,
            concat!(
                r#"{{"type":"bytes","connect.version":1,"connect.parameters":{{"length":"{length}"}}"#,
                r#"{default},"connect.name":"io.debezium.data.Bits"}}"#
            ),
            length = length,
            default = default
        ),
        &AvroType::Decimal { precision, scale } => {
            let parameters = format!(r#""scale":"{scale}","connect.decimal.precision":"{precision}""#);
            decimal_json(precision, scale, &parameters, &default, json)
        }
        &AvroType::Money { scale } => {
            decimal_json(PRECISION_WITHOUT_ONE, scale, &format!(r#""scale":"{scale}""#), &default, json)
        }
        AvroType::VariableScaleDecimal => {
            struct_json("io.debezium.data.VariableScaleDecimal", VARIABLE_SCALE_DECIMAL_JSON, defined, json)
        }
        AvroType::Struct(StructType::Point) => struct_json(POINT_NAME, POINT_JSON, defined, json),
        AvroType::Struct(StructType::Line) => {
            struct_json("io.debezium.data.geometry.Line", LINE_JSON, defined, json)
        }
        AvroType::Struct(StructType::Circle) if defined.0.contains(CIRCLE_NAME) => {
            struct_json(CIRCLE_NAME, "", defined, json)
        }
        AvroType::Struct(StructType::Circle) => {
            // Inside the circle's namespace, a point needs none.
            let center = match defined.0.insert(POINT_NAME) {
                true => POINT_JSON.replacen(r#""namespace":"io.debezium.data.geometry","#, "", 1),
                false => r#""Point""#.to_owned(),
            };
            struct_json(CIRCLE_NAME, &CIRCLE_JSON.replacen("CENTER", &center, 1), defined, json)
        }
        AvroType::Struct(StructType::Geometry) => {
            struct_json("io.debezium.data.geometry.Geometry", GEOMETRY_JSON, defined, json)
        }
        AvroType::Struct(StructType::Geography) => {
            struct_json("io.debezium.data.geometry.Geography", GEOGRAPHY_JSON, defined, json)
        }
        AvroType::Struct(kind @ (StructType::SparseVector16 | StructType::SparseVector32)) => {
            sparse_vector_json(*kind, defined, json)
        }
        AvroType::DoubleVector => vector_json("double", "DoubleVector", json),
        AvroType::FloatVector => vector_json("float", "FloatVector", json),
        AvroType::NullableMap => write!(json, r#"{{"type":"map","values":["null","string"]}}"#),
        AvroType::Array(element) => {
            json.push_str(r#"{"type":"array","items":"#);
            nullable_json(element, defined, json);
            write!(json, "}}")
        }
    };
}

/// What the converter writes for a decimal whose schema has no precision.
const PRECISION_WITHOUT_ONE: u16 = 64;

fn decimal_json(
    precision: u16,
    scale: i16,
    parameters: &str,
    default: &str,
    json: &mut String,
) -> std::fmt::Result {
    // Avro's decimal needs 0 <= scale <= precision; where that doesn't hold, Connect's name must do.
    let logical = u16::try_from(scale).is_ok_and(|scale| scale <= precision);
    write!(
        json,
        concat!(
            r#"{{"type":"bytes","scale":{s},"precision":{p},"connect.version":1,"#,
            r#""connect.parameters":{{{parameters}}}{default},"#,
            r#""connect.name":"org.apache.kafka.connect.data.Decimal"{logical}}}"#
        ),
        s = scale,
        p = precision,
        parameters = parameters,
        default = default,
        logical = if logical { r#","logicalType":"decimal""# } else { "" }
    )
}

fn vector_json(element: &str, name: &str, json: &mut String) -> std::fmt::Result {
    write!(
        json,
        r#"{{"type":"array","items":"{element}","connect.version":1,"connect.name":"io.debezium.data.{name}"}}"#
    )
}

/// The definition where the name comes for the first time, then the name.
fn struct_json(
    name: &'static str,
    definition: &str,
    defined: &mut Defined,
    json: &mut String,
) -> std::fmt::Result {
    match defined.0.insert(name) {
        true => write!(json, "{definition}"),
        false => write!(json, r#""{name}""#),
    }
}

/// Connect has maps of strings only, so the others are arrays of entries. Vectors of two widths in one table are two
/// records: one name can't stand for both.
fn sparse_vector_json(kind: StructType, defined: &mut Defined, json: &mut String) -> std::fmt::Result {
    let (name, entry, int) = match kind {
        StructType::SparseVector16 => {
            ("SparseDoubleVector", "MapEntry", r#"{"type":"int","connect.type":"int16"}"#)
        }
        _ => ("SparseDoubleVector32", "MapEntry32", r#""int""#),
    };
    let full_name = if entry == "MapEntry" {
        "io.debezium.data.SparseDoubleVector"
    } else {
        "io.debezium.data.SparseDoubleVector32"
    };
    let definition = format!(
        concat!(
            r#"{{"type":"record","name":"{name}","namespace":"io.debezium.data","fields":["#,
            r#"{{"name":"dimensions","type":{int}}},"#,
            r#"{{"name":"vector","type":{{"type":"array","items":{{"type":"record","name":"{entry}","#,
            r#""namespace":"io.confluent.connect.avro","fields":["#,
            r#"{{"name":"key","type":{int}}},{{"name":"value","type":"double"}}]}}}}}}],"#,
            r#""connect.doc":"Sparse double vector","connect.version":1,"connect.name":"io.debezium.data.{name}"}}"#
        ),
        name = name,
        entry = entry,
        int = int
    );
    struct_json(full_name, &definition, defined, json)
}

const VARIABLE_SCALE_DECIMAL_JSON: &str = concat!(
    r#"{"type":"record","name":"VariableScaleDecimal","namespace":"io.debezium.data","fields":["#,
    r#"{"name":"scale","type":"int"},{"name":"value","type":"bytes"}],"#,
    r#""connect.doc":"Variable scaled decimal","connect.version":1,"#,
    r#""connect.name":"io.debezium.data.VariableScaleDecimal"}"#
);

const POINT_NAME: &str = "io.debezium.data.geometry.Point";
const POINT_JSON: &str = concat!(
    r#"{"type":"record","name":"Point","namespace":"io.debezium.data.geometry","fields":["#,
    r#"{"name":"x","type":"double"},{"name":"y","type":"double"},"#,
    r#"{"name":"wkb","type":["null","bytes"],"default":null},"#,
    r#"{"name":"srid","type":["null","int"],"default":null}],"#,
    r#""connect.doc":"Geometry (POINT)","connect.version":1,"connect.name":"io.debezium.data.geometry.Point"}"#
);

const LINE_JSON: &str = concat!(
    r#"{"type":"record","name":"Line","namespace":"io.debezium.data.geometry","fields":["#,
    r#"{"name":"a","type":"double"},{"name":"b","type":"double"},{"name":"c","type":"double"}],"#,
    r#""connect.doc":"Geometry (LINE)","connect.version":1,"connect.name":"io.debezium.data.geometry.Line"}"#
);

const CIRCLE_NAME: &str = "io.debezium.data.geometry.Circle";
const CIRCLE_JSON: &str = concat!(
    r#"{"type":"record","name":"Circle","namespace":"io.debezium.data.geometry","fields":["#,
    r#"{"name":"center","type":CENTER},{"name":"radius","type":"double"}],"#,
    r#""connect.doc":"Geometry (CIRCLE)","connect.version":1,"connect.name":"io.debezium.data.geometry.Circle"}"#
);

const GEOMETRY_JSON: &str = concat!(
    r#"{"type":"record","name":"Geometry","namespace":"io.debezium.data.geometry","fields":["#,
    r#"{"name":"wkb","type":"bytes"},{"name":"srid","type":["null","int"],"default":null},"#,
    r#"{"name":"extensions","type":["null",{"type":"map","values":"string"}],"default":null}],"#,
    r#""connect.doc":"Geometry","connect.version":2,"connect.name":"io.debezium.data.geometry.Geometry"}"#
);

const GEOGRAPHY_JSON: &str = concat!(
    r#"{"type":"record","name":"Geography","namespace":"io.debezium.data.geometry","fields":["#,
    r#"{"name":"wkb","type":"bytes"},{"name":"srid","type":["null","int"],"default":null}],"#,
    r#""connect.doc":"Geography","connect.version":1,"connect.name":"io.debezium.data.geometry.Geography"}"#
);

/// The schema without the attributes that begin with `connect.`. They never come first in their object, and no
/// string holds a bare `,"`, so the text can be cut where they stand.
pub(crate) fn without_connect(json: &str) -> String {
    const ATTRIBUTE: &str = r#","connect."#;
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(ATTRIBUTE) {
        clean.push_str(&rest[..at]);
        let value = rest[at + 1..].find(r#"":"#).map_or(rest.len(), |end| at + 1 + end + 2);
        rest = &rest[value + value_length(&rest[value..])..];
    }
    clean.push_str(rest);
    clean
}

/// The schema of a type with more members in its `connect.parameters`, where Connect's converter has them. A record
/// that was defined before is a name, which has no parameters.
pub(crate) fn with_parameters(json: &str, parameters: &str) -> String {
    const AFTER: [&str; 3] = [r#""connect.default""#, r#""connect.name""#, r#""connect.type""#];
    if let Some(name) = json.strip_prefix('"') {
        return match name.contains('.') {
            true => json.to_owned(),
            false => format!(r#"{{"type":{json},"connect.parameters":{{{parameters}}}}}"#),
        };
    }
    let mut at = 1;
    while let Some(value) = json[at..].find(r#"":"#).map(|end| at + end + 2) {
        let end = value + value_length(&json[value..]);
        if json[at..].starts_with(r#""connect.parameters""#) {
            return format!("{},{parameters}{}", &json[..end - 1], &json[end - 1..]);
        }
        if AFTER.iter().any(|key| json[at..].starts_with(key)) {
            return format!(r#"{}"connect.parameters":{{{parameters}}},{}"#, &json[..at], &json[at..]);
        }
        at = end + 1;
    }
    format!(r#"{},"connect.parameters":{{{parameters}}}}}"#, &json[..json.len() - 1])
}

/// How far a JSON value reaches: up to the comma or bracket behind it.
fn value_length(json: &str) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    json.len()
}

pub(crate) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A column's constant default as JSON: what the column would hold, read back from its own encoding, so that the
/// two can't differ. One that the type can't hold doesn't show.
pub(crate) fn default_json(text: &str, row: &TypeRow) -> Option<String> {
    if row.default == DefaultRule::Hidden {
        return None;
    }
    let mut bytes = Vec::new();
    row.encoding.write(text.as_bytes(), &mut bytes).ok()?;
    Some(match &row.avro {
        AvroType::Plain("boolean") => (bytes == [1]).to_string(),
        AvroType::Plain("float") => {
            let value = f32::from_le_bytes(bytes.try_into().ok()?);
            serde_json::Number::from_f64(value.to_string().parse().ok()?)?.to_string()
        }
        AvroType::Plain("double") => {
            serde_json::Number::from_f64(f64::from_le_bytes(bytes.try_into().ok()?))?.to_string()
        }
        AvroType::Int16
        | AvroType::Plain("int" | "long")
        | AvroType::Named { base: "int" | "long", .. }
        | AvroType::Logical { base: "int" | "long", .. } => binary::read_long(&bytes).0.to_string(),
        AvroType::Plain("string")
        | AvroType::Named { base: "string", .. }
        | AvroType::Logical { base: "string", .. }
        | AvroType::Enum { .. } => match std::str::from_utf8(length_prefixed(&bytes)?).ok()? {
            // Apicurio's registry refuses a schema in which a string's default is written "{}".
            "{}" => r#""\u007b}""#.to_owned(),
            text => json_string(text),
        },
        // Avro writes bytes in JSON as the characters U+0000 to U+00FF.
        AvroType::Decimal { .. } | AvroType::Bits { .. } => {
            json_string(&length_prefixed(&bytes)?.iter().copied().map(char::from).collect::<String>())
        }
        AvroType::Plain(_)
        | AvroType::Named { .. }
        | AvroType::Logical { .. }
        | AvroType::Money { .. }
        | AvroType::VariableScaleDecimal
        | AvroType::Struct(_)
        | AvroType::DoubleVector
        | AvroType::FloatVector
        | AvroType::NullableMap
        | AvroType::Array(_) => return None,
    })
}

fn length_prefixed(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(binary::read_long(bytes).1..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::PgType;
    use crate::record_settings::RecordSettings;
    use crate::types;

    fn default_of(pg_type: PgType, text: &str) -> Option<String> {
        default_json(text, &types::row(&pg_type, &RecordSettings::default()))
    }

    #[test]
    fn defaults_as_debezium_wrote_them() {
        let labels = vec!["sad".to_owned(), "ok".to_owned()];
        for (pg_type, text, json) in [
            (PgType::Int4, "42", Some("42")),
            (PgType::Int8, "-9223372036854775808", Some("-9223372036854775808")),
            (PgType::Bool, "true", Some("true")),
            (PgType::Bool, "f", Some("false")),
            (PgType::Float8, "1.5", Some("1.5")),
            (PgType::Float4, "0.1", Some("0.1")),
            (PgType::Float8, "NaN", None),
            (PgType::Numeric { precision: 10, scale: 2 }, "9.99", Some("\"\\u0003ç\"")),
            (PgType::NumericUnconstrained, "1", None),
            (PgType::Text, "h\"i", Some("\"h\\\"i\"")),
            (PgType::Date, "2020-02-29", Some("18321")),
            (PgType::Timestamp { precision: 6 }, "2020-02-29 12:00:00.123456", Some("1582977600123456")),
            (
                PgType::TimestampTz { precision: 6 },
                "2020-02-29 12:00:00+00",
                Some("\"2020-02-29T12:00:00.000000Z\""),
            ),
            (PgType::Json, "{}", Some("\"\\u007b}\"")),
            (PgType::Enum { labels }, "ok", Some("\"ok\"")),
            (PgType::Bytea, "\\xff", None),
            (PgType::Int4, "now()", None),
            (PgType::Array(Box::new(PgType::Int4)), "{1,2}", None),
        ] {
            assert_eq!(default_of(pg_type.clone(), text).as_deref(), json, "{pg_type:?} {text}");
        }
    }

    #[test]
    fn parameters_stand_where_connect_writes_them() {
        for (json, expected) in [
            (r#""long""#, r#"{"type":"long","connect.parameters":{"p":"1"}}"#),
            (r#""io.debezium.data.geometry.Point""#, r#""io.debezium.data.geometry.Point""#),
            (
                r#"{"type":"int","connect.default":1,"connect.type":"int16"}"#,
                r#"{"type":"int","connect.parameters":{"p":"1"},"connect.default":1,"connect.type":"int16"}"#,
            ),
            (
                r#"{"type":"bytes","connect.parameters":{"length":"8"},"connect.name":"n"}"#,
                r#"{"type":"bytes","connect.parameters":{"length":"8","p":"1"},"connect.name":"n"}"#,
            ),
            (
                r#"{"type":"array","items":["null",{"type":"int","connect.name":"n"}]}"#,
                r#"{"type":"array","items":["null",{"type":"int","connect.name":"n"}],"connect.parameters":{"p":"1"}}"#,
            ),
        ] {
            assert_eq!(with_parameters(json, r#""p":"1""#), expected);
        }
    }

    #[test]
    fn what_connect_adds_is_cut_out() {
        for (json, expected) in [
            (r#"{"type":"int","connect.type":"int16"}"#, r#"{"type":"int"}"#),
            (
                r#"{"type":"string","connect.version":1,"connect.parameters":{"allowed":"a,\",\"connect.b\""},"connect.default":"x}","connect.name":"n"}"#,
                r#"{"type":"string"}"#,
            ),
            (
                r#"{"type":"int","connect.version":1,"connect.name":"n","logicalType":"date"}"#,
                r#"{"type":"int","logicalType":"date"}"#,
            ),
            (r#"["null","string"]"#, r#"["null","string"]"#),
        ] {
            assert_eq!(without_connect(json), expected);
        }
    }
}
