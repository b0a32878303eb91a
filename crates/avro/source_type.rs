//! What a schema with `propagate_source_type` says of a column: its type's name, length and scale in Postgres, as
//! Debezium's `column.propagate.source.type` has them, which are those of the JDBC driver (`TypeInfoCache`).

use std::fmt::Write;

use crate::description::{ColumnDescription, Declared, PgType};
use crate::type_schema::json_string;

/// The length of what has none.
const UNLIMITED: u32 = i32::MAX as u32;
/// The length of a numeric without precision: the digits of Postgres' largest number.
const NUMERIC_LENGTH: u32 = 131_089;
/// A text's modifier is its length and this.
const LENGTH_HEADER: i32 = 4;

/// Members of `connect.parameters`, without the braces. None where a version was stored before columns were described
/// that far.
pub(crate) fn parameters(column: &ColumnDescription) -> Option<String> {
    let declared = column.declared?;
    let (length, scale) = length_and_scale(column, declared, &column.pg_type);
    let mut json = String::new();
    for (name, value) in [
        ("type", type_name(column, declared)),
        ("length", length.to_string()),
        ("scale", scale.to_string()),
        ("name", column.name.clone()),
    ] {
        let comma = if json.is_empty() { "" } else { "," };
        let _ = write!(json, r#"{comma}"__debezium.source.column.{name}":{}"#, json_string(&value));
    }
    Some(json)
}

/// In capitals; arrays as pg_type has them, and integers with a sequence as they are declared.
fn type_name(column: &ColumnDescription, declared: Declared) -> String {
    let name = &column.type_name;
    match name.strip_suffix("[]") {
        Some(element) => format!("_{element}").to_uppercase(),
        None if declared.serial && name == "int2" => "SMALLSERIAL".to_owned(),
        None if declared.serial && name == "int4" => "SERIAL".to_owned(),
        None if declared.serial && name == "int8" => "BIGSERIAL".to_owned(),
        None => name.to_uppercase(),
    }
}

fn length_and_scale(column: &ColumnDescription, declared: Declared, pg_type: &PgType) -> (u32, i32) {
    let modifier = declared.modifier;
    match pg_type {
        PgType::Array(element) => length_and_scale(column, declared, element),
        PgType::Bool => (1, 0),
        PgType::Int2 => (5, 0),
        PgType::Int4 | PgType::Oid => (10, 0),
        PgType::Int8 => (19, 0),
        PgType::Float4 => (8, 8),
        PgType::Float8 => (17, 17),
        PgType::Numeric { precision, scale } => (u32::from(*precision), i32::from(*scale)),
        PgType::NumericUnconstrained => (NUMERIC_LENGTH, 0),
        PgType::Date => (13, 0),
        PgType::Time { precision } => (8 + fraction_width(*precision), i32::from(*precision)),
        PgType::TimeTz { precision } => (14 + fraction_width(*precision), i32::from(*precision)),
        PgType::Timestamp { precision } => (22 + fraction_width(*precision), i32::from(*precision)),
        PgType::TimestampTz { precision } => (28 + fraction_width(*precision), i32::from(*precision)),
        // The lower half is the number of fractional digits.
        PgType::Interval => (49, if modifier == -1 { 6 } else { modifier & 0xffff }),
        PgType::Bits { length, .. } => (*length, 0),
        PgType::Text if matches!(column.type_name.as_str(), "char" | "char[]") => (1, 0),
        PgType::Text => match u32::try_from(modifier.saturating_sub(LENGTH_HEADER)) {
            Ok(length) => (length, 0),
            Err(_) => (UNLIMITED, 0),
        },
        _ => (UNLIMITED, 0),
    }
}

/// The point and the digits; the driver counts one digit as two.
fn fraction_width(digits: u8) -> u32 {
    match digits {
        0 => 0,
        1 => 3,
        digits => u32::from(digits) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(type_name: &str, pg_type: PgType, modifier: i32, expected: (&str, u32, i32)) {
        let declared = Some(Declared { modifier, serial: false });
        let column = ColumnDescription {
            name: "c".to_owned(),
            type_name: type_name.to_owned(),
            pg_type,
            not_null: false,
            default: None,
            in_identity: false,
            declared,
            key_labels: None,
        };
        let (name, length, scale) = expected;
        let expected = format!(
            r#""__debezium.source.column.type":"{name}","__debezium.source.column.length":"{length}","__debezium.source.column.scale":"{scale}","__debezium.source.column.name":"c""#
        );
        assert_eq!(parameters(&column).as_deref(), Some(expected.as_str()));
    }

    /// T41 of Debezium's own tests, and what its recording doesn't have.
    #[test]
    fn names_lengths_and_scales() {
        check("varchar", PgType::Text, 6, ("VARCHAR", 2, 0));
        check("numeric", PgType::Numeric { precision: 3, scale: 2 }, 196_614, ("NUMERIC", 3, 2));
        check("time", PgType::Time { precision: 1 }, 1, ("TIME", 11, 1));
        check("timestamptz", PgType::TimestampTz { precision: 0 }, 0, ("TIMESTAMPTZ", 28, 0));
        check("interval", PgType::Interval, 0x7fff_0003, ("INTERVAL", 49, 3));
        check("varchar[]", PgType::Array(PgType::Text.into()), 14, ("_VARCHAR", 10, 0));
        check("_mood", PgType::Array(PgType::Text.into()), -1, ("_MOOD", 2_147_483_647, 0));
    }

    #[test]
    fn versions_of_before_say_nothing() {
        let column = ColumnDescription {
            name: "c".to_owned(),
            type_name: "text".to_owned(),
            pg_type: PgType::Text,
            not_null: false,
            default: None,
            in_identity: false,
            declared: None,
            key_labels: None,
        };
        assert_eq!(parameters(&column), None);
    }
}
