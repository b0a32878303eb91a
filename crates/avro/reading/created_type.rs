//! Which column is made for a field, where a table is created or widened from a schema.
//!
//! Where the producer says how the column is declared (`propagate_source_type`), that; else the type that holds every
//! value of the field without loss.

use super::cell::Unreadable;
use super::schema_tree::{Node, Shape};

/// Types that may be named by the producer: their values come as text that their input functions read, or as a form
/// that `cell.rs` knows.
const DECLARED: &[&str] = &[
    "json",
    "jsonb",
    "xml",
    "uuid",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "interval",
    "money",
    "tsvector",
    "text",
    "varchar",
    "name",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "timetz",
    "varbit",
    "point",
    "line",
    "circle",
    "hstore",
    "ltree",
    "citext",
    "geometry",
    "geography",
    "bytea",
];

/// The type as SQL has it.
pub(super) fn created_type(node: &Node) -> Result<String, Unreadable> {
    let (node, _) = node.without_null()?;
    if let Some(declared) = node.source_type.as_deref().map(str::to_ascii_lowercase)
        && DECLARED.contains(&declared.as_str())
    {
        return Ok(declared);
    }
    let meaning = &*node.meaning;
    let unknown = || {
        let what = if meaning.is_empty() { "a type" } else { meaning };
        Err(Unreadable::new(format!(
            "is {what}, for which no column is made: create the table yourself, or leave the column out"
        )))
    };
    let name = match (&node.shape, meaning) {
        (Shape::Boolean, _) => "boolean",
        (Shape::Int, "") if node.connect_type.as_deref() == Some("int16") => "smallint",
        (Shape::Int, "") => "integer",
        (Shape::Long, "") => "bigint",
        (Shape::Int, "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" | "date") => "date",
        (Shape::Int, "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" | "time-millis") => {
            "time"
        }
        (Shape::Long, "io.debezium.time.MicroTime" | "io.debezium.time.NanoTime" | "time-micros") => "time",
        (
            Shape::Long,
            "io.debezium.time.Timestamp"
            | "io.debezium.time.MicroTimestamp"
            | "io.debezium.time.NanoTimestamp"
            | "org.apache.kafka.connect.data.Timestamp"
            | "local-timestamp-micros"
            | "local-timestamp-millis",
        ) => "timestamp",
        (Shape::Long, "timestamp-micros" | "timestamp-millis") => "timestamptz",
        (Shape::Float, _) => "real",
        (Shape::Double, _) => "double precision",
        (Shape::Bytes, "") => "bytea",
        (Shape::Bytes, "org.apache.kafka.connect.data.Decimal" | "decimal") => return Ok(numeric(node)),
        (Shape::Record(_), "io.debezium.data.VariableScaleDecimal") => "numeric",
        (Shape::Record(_), "io.debezium.data.geometry.Point") => "point",
        (Shape::Record(_), "io.debezium.data.geometry.Line") => "line",
        (Shape::Record(_), "io.debezium.data.geometry.Circle") => "circle",
        (Shape::Text, "io.debezium.data.Uuid" | "uuid") => "uuid",
        // json keeps the text as it came; which of the two the source has is not known.
        (Shape::Text, "io.debezium.data.Json") => "json",
        (Shape::Text, "io.debezium.data.Xml") => "xml",
        (Shape::Text, "io.debezium.time.ZonedTimestamp") => "timestamptz",
        (Shape::Text, "io.debezium.time.ZonedTime") => "timetz",
        (Shape::Text, "io.debezium.time.Interval") => "interval",
        (Shape::Text, "io.debezium.data.Tsvector") => "tsvector",
        (Shape::Text | Shape::Enum(_), _) => "text",
        (Shape::Array(element), "") => return created_type(element).map(|element| format!("{element}[]")),
        _ => return unknown(),
    };
    Ok(name.to_owned())
}

fn numeric(node: &Node) -> String {
    match (node.precision, node.number) {
        (Some(precision), Some(scale))
            if (1..=1000).contains(&precision) && (0..=precision).contains(&scale) =>
        {
            format!("numeric({precision},{scale})")
        }
        _ => "numeric".to_owned(),
    }
}
