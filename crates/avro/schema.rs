//! A table's Avro schemas as JSON, in one canonical spelling: no blanks, attributes in the order in which Kafka
//! Connect's Avro converter writes them. A registry compares text, so the spelling must not drift.
//!
//! ```text
//! Envelope { before: Value?, after: Value?, source: Source, transaction: block?, op, ts_ms?, ts_us?, ts_ns? }
//! Value    { one field per column }
//! Key      { one field per key column, in key order }
//! ```

use std::collections::HashMap;
use std::fmt::Write;

use crate::description::{ColumnDescription, TableDescription};
use crate::error::SchemaError;
use crate::name_adjustment::{field_name, namespace, topic_name};
use crate::plan::{NullBranch, SourceSettings};
use crate::record_settings::RecordSettings;
use crate::types::{self, AvroType, DefaultRule, TypeRow};

/// `source.version` of every record: the version of this format, not of the program. It changes only with the
/// meaning of a field, because a record that is sent again must have the same bytes after an upgrade.
pub const FORMAT_VERSION: &str = "headwater-1";

/// A field of `Value` or `Key`.
pub(crate) struct Field {
    /// Avro name.
    pub(crate) name: String,
    pub(crate) row: TypeRow,
    pub(crate) null: NullBranch,
    /// Avro default as JSON, unless the default is null or there is none.
    default: Option<String>,
}

impl Field {
    pub(crate) fn new(column: &ColumnDescription, can_be_absent: bool, records: &RecordSettings) -> Field {
        let row = types::row(&column.pg_type, records);
        let default =
            column.default.as_deref().filter(|_| !can_be_absent).and_then(|text| default_json(text, &row));
        let null = match &default {
            _ if column.not_null && !can_be_absent => NullBranch::None,
            None => NullBranch::First,
            Some(_) => NullBranch::Last,
        };
        Field { name: field_name(&column.name), row, null, default }
    }
}

/// The fields of `Value`.
///
/// A column that an old tuple may lack is nullable and has no default of its own: a reader would take the default
/// for the absent value.
pub(crate) fn value_fields(
    table: &TableDescription,
    records: &RecordSettings,
) -> Result<Vec<Field>, SchemaError> {
    let full = table.has_full_identity();
    let fields = table.columns.iter().enumerate();
    let fields = fields
        .map(|(index, column)| Field::new(column, !full && !table.key.contains(&index), records))
        .collect();
    check_names(table, &fields)?;
    Ok(fields)
}

/// The fields of `Key`.
pub(crate) fn key_fields(
    table: &TableDescription,
    records: &RecordSettings,
) -> Result<Vec<Field>, SchemaError> {
    let field = |&index: &usize| match table.columns.get(index) {
        Some(column) => Ok(Field::new(column, false, records)),
        None => {
            Err(SchemaError::KeyOutOfRange { table: full_name(table), index, columns: table.columns.len() })
        }
    };
    table.key.iter().map(field).collect()
}

fn check_names(table: &TableDescription, fields: &Vec<Field>) -> Result<(), SchemaError> {
    let mut owners = HashMap::new();
    for (column, field) in table.columns.iter().zip(fields) {
        if let Some(first) = owners.insert(field.name.as_str(), &column.name) {
            return Err(SchemaError::NamesCollide {
                table: full_name(table),
                first: first.clone(),
                second: column.name.clone(),
                adjusted: field.name.clone(),
            });
        }
    }
    Ok(())
}

fn full_name(table: &TableDescription) -> String {
    format!("{}.{}", table.schema, table.table)
}

/// The schema of a record's value.
pub(crate) fn envelope_json(table: &TableDescription, fields: &[Field], source: &SourceSettings) -> String {
    let namespace = record_namespace(table, source);
    let mut json = String::with_capacity(4096);
    let _ = write!(
        json,
        concat!(
            r#"{{"type":"record","name":"Envelope","namespace":"{ns}","fields":["#,
            r#"{{"name":"before","type":["null",{{"type":"record","name":"Value","fields":["#
        ),
        ns = namespace
    );
    fields_json(fields, &mut json);
    let _ = write!(
        json,
        concat!(
            r#"],"connect.name":"{ns}.Value"}}],"default":null}},"#,
            r#"{{"name":"after","type":["null","Value"],"default":null}},"#,
            r#"{{"name":"source","type":{source}}},"#,
            r#"{{"name":"transaction","type":["null",{block}],"default":null}},"#,
            r#"{{"name":"op","type":"string"}},"#,
            r#"{{"name":"ts_ms","type":["null","long"],"default":null}},"#,
            r#"{{"name":"ts_us","type":["null","long"],"default":null}},"#,
            r#"{{"name":"ts_ns","type":["null","long"],"default":null}}],"#,
            r#""connect.version":2,"connect.name":"{ns}.Envelope"}}"#
        ),
        ns = namespace,
        source = SOURCE_JSON,
        block = TRANSACTION_BLOCK_JSON
    );
    json
}

/// The schema of a record's key.
pub(crate) fn key_json(table: &TableDescription, fields: &[Field], source: &SourceSettings) -> String {
    let namespace = record_namespace(table, source);
    let mut json = format!(r#"{{"type":"record","name":"Key","namespace":"{namespace}","fields":["#);
    fields_json(fields, &mut json);
    let _ = write!(json, r#"],"connect.name":"{namespace}.Key"}}"#);
    json
}

/// The schema of a value that is one column and no row.
pub(crate) fn bare_json(field: &Field) -> String {
    let (mut json, mut defined) = (String::new(), Defined::default());
    match field.null {
        NullBranch::None => type_json(&field.row.avro, None, &mut defined, &mut json),
        NullBranch::First | NullBranch::Last => nullable_json(&field.row.avro, &mut defined, &mut json),
    }
    json
}

/// Debezium's namespace of a table's records: its topic, adjusted.
fn record_namespace(table: &TableDescription, source: &SourceSettings) -> String {
    namespace(&topic_name(&source.prefix, &table.schema, &table.table))
}

const SOURCE_JSON: &str = concat!(
    r#"{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":["#,
    r#"{"name":"version","type":"string"},"#,
    r#"{"name":"connector","type":"string"},"#,
    r#"{"name":"name","type":"string"},"#,
    r#"{"name":"ts_ms","type":"long"},"#,
    r#"{"name":"snapshot","type":[{"type":"string","connect.version":1,"connect.parameters":{"#,
    r#""allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"#,
    r#""connect.default":"false","connect.name":"io.debezium.data.Enum"},"null"],"default":"false"},"#,
    r#"{"name":"db","type":"string"},"#,
    r#"{"name":"sequence","type":["null","string"],"default":null},"#,
    r#"{"name":"ts_us","type":["null","long"],"default":null},"#,
    r#"{"name":"ts_ns","type":["null","long"],"default":null},"#,
    r#"{"name":"schema","type":"string"},"#,
    r#"{"name":"table","type":"string"},"#,
    r#"{"name":"txId","type":["null","long"],"default":null},"#,
    r#"{"name":"lsn","type":["null","long"],"default":null},"#,
    r#"{"name":"xmin","type":["null","long"],"default":null},"#,
    r#"{"name":"origin","type":["null","string"],"default":null},"#,
    r#"{"name":"origin_lsn","type":["null","long"],"default":null}],"#,
    r#""connect.version":1,"connect.name":"io.debezium.connector.postgresql.Source"}"#
);

const TRANSACTION_BLOCK_JSON: &str = concat!(
    r#"{"type":"record","name":"block","namespace":"event","fields":["#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"total_order","type":"long"},"#,
    r#"{"name":"data_collection_order","type":"long"}],"#,
    r#""connect.version":1,"connect.name":"event.block"}"#
);

fn fields_json(fields: &[Field], json: &mut String) {
    let mut defined = Defined::default();
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        let connect_default = field.default.as_deref();
        let _ = write!(json, r#"{{"name":"{}","type":"#, field.name);
        match field.null {
            NullBranch::None => type_json(&field.row.avro, connect_default, &mut defined, json),
            NullBranch::First => nullable_json(&field.row.avro, &mut defined, json),
            NullBranch::Last => {
                json.push('[');
                type_json(&field.row.avro, connect_default, &mut defined, json);
                json.push_str(r#","null"]"#);
            }
        }
        match (connect_default, field.null) {
            (Some(default), _) => json.push_str(&format!(r#","default":{default}"#)),
            (None, NullBranch::None) => {}
            (None, _) => json.push_str(r#","default":null"#),
        }
        json.push('}');
    }
}

fn nullable_json(avro: &AvroType, defined: &mut Defined, json: &mut String) {
    json.push_str(r#"["null","#);
    type_json(avro, None, defined, json);
    json.push(']');
}

/// Named types that the document has defined; from then on they are referred to by name.
#[derive(Default)]
struct Defined {
    variable_scale_decimal: bool,
}

fn type_json(avro: &AvroType, connect_default: Option<&str>, defined: &mut Defined, json: &mut String) {
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
        AvroType::Enum { allowed } => write!(
            json,
            concat!(
                r#"{{"type":"string","connect.version":1,"connect.parameters":{{"allowed":{allowed}}}"#,
                r#"{default},"connect.name":"io.debezium.data.Enum"}}"#
            ),
            allowed = json_string(allowed),
            default = default
        ),
        &AvroType::Decimal { precision, scale } => {
            // Avro's decimal needs 0 <= scale <= precision; where that doesn't hold, Connect's name must do.
            let logical = u16::try_from(scale).is_ok_and(|scale| scale <= precision);
            write!(
                json,
                concat!(
                    r#"{{"type":"bytes","scale":{s},"precision":{p},"connect.version":1,"#,
                    r#""connect.parameters":{{"scale":"{s}","connect.decimal.precision":"{p}"}}{default},"#,
                    r#""connect.name":"org.apache.kafka.connect.data.Decimal"{logical}}}"#
                ),
                s = scale,
                p = precision,
                default = default,
                logical = if logical { r#","logicalType":"decimal""# } else { "" }
            )
        }
        AvroType::VariableScaleDecimal if defined.variable_scale_decimal => {
            write!(json, r#""io.debezium.data.VariableScaleDecimal""#)
        }
        AvroType::VariableScaleDecimal => {
            defined.variable_scale_decimal = true;
            write!(json, "{VARIABLE_SCALE_DECIMAL_JSON}")
        }
        AvroType::Array(element) => {
            json.push_str(r#"{"type":"array","items":"#);
            nullable_json(element, defined, json);
            write!(json, "}}")
        }
    };
}

const VARIABLE_SCALE_DECIMAL_JSON: &str = concat!(
    r#"{"type":"record","name":"VariableScaleDecimal","namespace":"io.debezium.data","fields":["#,
    r#"{"name":"scale","type":"int"},{"name":"value","type":"bytes"}],"#,
    r#""connect.doc":"Variable scaled decimal","connect.version":1,"#,
    r#""connect.name":"io.debezium.data.VariableScaleDecimal"}"#
);

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A column's constant default as JSON: what the column would hold, read back from its own encoding, so that the
/// two can't differ. One that the type can't hold doesn't show.
fn default_json(text: &str, row: &TypeRow) -> Option<String> {
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
        AvroType::Int16 | AvroType::Plain("int" | "long") | AvroType::Named { base: "int" | "long", .. } => {
            long(&bytes).0.to_string()
        }
        AvroType::Plain("string") | AvroType::Named { base: "string", .. } | AvroType::Enum { .. } => {
            json_string(std::str::from_utf8(length_prefixed(&bytes)?).ok()?)
        }
        // Avro writes bytes in JSON as the characters U+0000 to U+00FF.
        AvroType::Decimal { .. } => {
            json_string(&length_prefixed(&bytes)?.iter().copied().map(char::from).collect::<String>())
        }
        AvroType::Plain(_) | AvroType::Named { .. } | AvroType::VariableScaleDecimal | AvroType::Array(_) => {
            return None;
        }
    })
}

/// A number and the bytes it took.
fn long(bytes: &[u8]) -> (i64, usize) {
    let length = bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let groups = bytes.iter().take(length).rev();
    let zigzag = groups.fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    ((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64), length)
}

fn length_prefixed(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(long(bytes).1..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::PgType;

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
            (PgType::Json, "{}", Some("\"{}\"")),
            (PgType::Enum { labels }, "ok", Some("\"ok\"")),
            (PgType::Bytea, "\\xff", None),
            (PgType::Int4, "now()", None),
            (PgType::Array(Box::new(PgType::Int4)), "{1,2}", None),
        ] {
            assert_eq!(default_of(pg_type.clone(), text).as_deref(), json, "{pg_type:?} {text}");
        }
    }
}
