//! One value: which form it has in Avro, which column it goes to, and its text as Postgres reads it.
//!
//! [`Cell::new`] is the only place where a form meets a column's type. What can't be put there without changing its
//! meaning is [`Unreadable`], told when the plan is made and not when the first such row comes.

use std::fmt;
use std::sync::Arc;

use super::cell_text::{Digits, escape, put_bytea, put_quoted, write_plain};
use super::cursor::{Cursor, ReadError};
use super::schema_tree::{Node, RecordShape, Shape};

/// Why records of a schema can't be read into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(String);

impl Unreadable {
    pub(crate) fn new(reason: impl Into<String>) -> Unreadable {
        Unreadable(reason.into())
    }

    pub(super) fn of_field(self, name: &str) -> Unreadable {
        Unreadable(format!("field {name} {}", self.0))
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

/// A column's type as the catalog has it; of a domain its base type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgColumnType {
    /// `pg_type.typname`: `int4`, `_text`, `varbit`.
    pub name: String,
    /// `atttypmod`, or -1.
    pub modifier: i32,
}

/// What is done with a value's bytes.
#[derive(Clone, Debug)]
pub(super) enum Form {
    Boolean,
    /// A boolean for a column of bits.
    Bit,
    Integer,
    Float,
    Double,
    Bytea,
    Decimal(i64),
    VariableDecimal,
    Text,
    /// ISO 8601 with a zone; years beyond 9999 and before 1 have a sign.
    Zoned,
    Symbol(Arc<[String]>),
    /// Bits, the lowest byte first, for so many digits.
    Bits(usize),
    Date,
    /// Of a unit that has so many microseconds, or a thousandth with 0.
    Time(i64),
    Timestamp {
        unit: i64,
        zone: &'static str,
    },
    HstoreMap(Box<Cell>),
    HstoreJson,
    Array(Box<Cell>),
    Vector(Box<Cell>),
    Point(Arc<RecordShape>),
    Line,
    Circle(Arc<RecordShape>),
    Ewkb(Arc<RecordShape>),
    /// For a column with so many digits behind the point, which would round further ones away.
    Within(Box<Form>, i64),
}

/// How one field is read and written.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) form: Form,
    /// The union's branch that is null; -1 where a union has no null, none where there is no union.
    null: Option<i64>,
}

/// Those that hold whole numbers and decimals without rounding.
const NUMBERS: &[&str] = &["int2", "int4", "int8", "numeric", "oid"];
const TEXTS: &[&str] = &["text", "varchar", "bpchar"];

impl Cell {
    pub(super) fn new(node: &Node, column: &PgColumnType) -> Result<Cell, Unreadable> {
        let (node, null) = node.without_null()?;
        Ok(Cell { form: within(form(node, column)?, column)?, null })
    }

    /// A value as text whatever it goes to; for keys that only have to be told apart.
    pub(super) fn any_text(node: &Node) -> Result<Cell, Unreadable> {
        let (inner, null) = node.without_null()?;
        let name = match &inner.shape {
            Shape::Bytes | Shape::Fixed(_) => "bytea",
            Shape::Record(_) | Shape::Array(_) | Shape::Map(_) => {
                return Err(Unreadable::new("is of a type that no key is made of"));
            }
            _ => "text",
        };
        let column = PgColumnType { name: name.to_owned(), modifier: -1 };
        Ok(Cell { form: form(inner, &column)?, null })
    }

    /// Appends the value as a field of COPY's text format. `scratch` is reused.
    #[inline]
    pub(super) fn write(
        &self,
        cursor: &mut Cursor<'_>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        if !self.is_present(cursor)? {
            out.extend_from_slice(b"\\N");
            return Ok(());
        }
        match &self.form {
            Form::Text => {
                escape(cursor.text()?.as_bytes(), out);
                Ok(())
            }
            Form::Integer => {
                out.extend_from_slice(Digits::of(cursor.long()?).text());
                Ok(())
            }
            form if form.is_plain() => write_plain(form, cursor, out),
            form => {
                scratch.clear();
                write_plain(form, cursor, scratch)?;
                escape(scratch, out);
                Ok(())
            }
        }
    }

    /// A present value as it is, without COPY's escapes.
    pub(super) fn plain_text(&self, cursor: &mut Cursor<'_>) -> Result<String, ReadError> {
        let mut out = Vec::new();
        write_plain(&self.form, cursor, &mut out)?;
        String::from_utf8(out).map_err(|_| ReadError::new("has a string that is not UTF-8"))
    }

    pub(super) fn is_present(&self, cursor: &mut Cursor<'_>) -> Result<bool, ReadError> {
        match self.null {
            None => Ok(true),
            Some(null) => match cursor.long()? {
                branch if branch == null => Ok(false),
                0 | 1 => Ok(true),
                _ => Err(ReadError::new("has a union's branch that its schema does not have")),
            },
        }
    }

    /// What this cell appends for the placeholder of an unchanged TOAST value; none where it can't be told from a value.
    pub(super) fn placeholder(&self, text: &str) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        let form = match &self.form {
            Form::Within(form, _) => form,
            form => form,
        };
        match form {
            Form::Text => plain.extend_from_slice(text.as_bytes()),
            Form::Bytea => put_bytea(&placeholder_bytes(text), b"\\x", &mut plain),
            Form::Ewkb(_) => put_bytea(&placeholder_bytes(text), b"", &mut plain),
            Form::HstoreMap(_) | Form::HstoreJson => {
                put_quoted(text.as_bytes(), &mut plain);
                plain.extend_from_slice(b"=>");
                put_quoted(text.as_bytes(), &mut plain);
            }
            Form::Array(element) => {
                let mut inner = Vec::new();
                match &element.form {
                    Form::Text => put_quoted(text.as_bytes(), &mut inner),
                    Form::Bytea => {
                        let mut hex = Vec::new();
                        put_bytea(&placeholder_bytes(text), b"\\x", &mut hex);
                        put_quoted(&hex, &mut inner);
                    }
                    _ => return None,
                }
                plain.push(b'{');
                plain.append(&mut inner);
                plain.push(b'}');
            }
            _ => return None,
        }
        let mut escaped = Vec::new();
        escape(&plain, &mut escaped);
        Some(escaped)
    }
}

/// After `hex:` those that are written in hexadecimal, else the text's own.
fn placeholder_bytes(text: &str) -> Vec<u8> {
    let Some(hex) = text.strip_prefix("hex:") else { return text.as_bytes().to_vec() };
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

impl Form {
    /// Whether the text never has a character that COPY escapes.
    pub(super) fn is_plain(&self) -> bool {
        !matches!(
            self,
            Form::Text
                | Form::Zoned
                | Form::Symbol(_)
                | Form::Bytea
                | Form::HstoreMap(_)
                | Form::HstoreJson
                | Form::Array(_)
                | Form::Within(..)
        )
    }
}

/// The table of forms.
fn form(node: &Node, column: &PgColumnType) -> Result<Form, Unreadable> {
    let target = column.name.as_str();
    let is = |names: &[&str]| names.contains(&target);
    let refuse = |what: &str| {
        Err(Unreadable::new(format!("is {what}, which can't be put into a column of type {target}")))
    };
    let meaning = &*node.meaning;
    Ok(match &node.shape {
        Shape::Null | Shape::Union(_) => return refuse("null or a union"),
        Shape::Boolean if is(&["bit", "varbit"]) => Form::Bit,
        Shape::Boolean if target == "bool" || is(TEXTS) => Form::Boolean,
        Shape::Boolean => return refuse("a boolean"),
        Shape::Int | Shape::Long => integer_form(node, target)?,
        Shape::Float if is(&["float4", "float8", "numeric"]) || is(TEXTS) => Form::Float,
        Shape::Double if is(&["float8", "numeric"]) || is(TEXTS) => Form::Double,
        Shape::Float | Shape::Double => return refuse("a floating-point number"),
        Shape::Fixed(_) => return refuse("a fixed type"),
        Shape::Bytes => bytes_form(node, column)?,
        Shape::Text if target == "hstore" => match meaning {
            "io.debezium.data.Json" => Form::HstoreJson,
            _ => Form::Text,
        },
        Shape::Text if target == "bytea" => return refuse("text"),
        Shape::Text
            if matches!(
                meaning,
                "io.debezium.time.IsoDate" | "io.debezium.time.IsoTime" | "io.debezium.time.IsoTimestamp"
            ) && !is(TEXTS) =>
        {
            return refuse("an ISO text (time_precision = \"isostring\")");
        }
        // Other columns would cut the zone off, or read it by the session's.
        Shape::Text if meaning == "io.debezium.time.ZonedTimestamp" => match target {
            "timestamptz" | "text" | "varchar" | "bpchar" => Form::Zoned,
            _ => return refuse("a timestamp with a zone"),
        },
        Shape::Text if meaning == "io.debezium.time.ZonedTime" && !(target == "timetz" || is(TEXTS)) => {
            return refuse("a time with a zone");
        }
        Shape::Text => Form::Text,
        Shape::Enum(_) if target == "bytea" => return refuse("an enum"),
        Shape::Enum(symbols) => Form::Symbol(symbols.clone()),
        Shape::Map(values) => match (target, &values.without_null()?.0.shape) {
            ("hstore", Shape::Text) => Form::HstoreMap(Box::new(Cell::any_text(values)?)),
            _ => return refuse("a map"),
        },
        Shape::Array(element) if is(&["vector", "halfvec"]) => {
            let number = PgColumnType { name: "float8".to_owned(), modifier: -1 };
            Form::Vector(Box::new(Cell::new(element, &number)?))
        }
        Shape::Array(element) => {
            let Some(name) = target.strip_prefix('_') else { return refuse("an array") };
            let column = PgColumnType { name: name.to_owned(), modifier: column.modifier };
            Form::Array(Box::new(Cell::new(element, &column)?))
        }
        Shape::Record(record) => record_form(meaning, record, target)?,
    })
}

/// Debezium's structs; their first fields are what the text is made of.
fn record_form(meaning: &str, record: &Arc<RecordShape>, target: &str) -> Result<Form, Unreadable> {
    let number = NUMBERS.contains(&target) || TEXTS.contains(&target) || target == "money";
    let (form, leading): (_, &[&str]) = match (meaning, target) {
        ("io.debezium.data.VariableScaleDecimal", _) if number => {
            (Form::VariableDecimal, &["scale", "value"])
        }
        ("io.debezium.data.geometry.Point", "point") => (Form::Point(record.clone()), &["x", "y"]),
        ("io.debezium.data.geometry.Line", "line") => (Form::Line, &["a", "b", "c"]),
        ("io.debezium.data.geometry.Circle", "circle") => {
            (Form::Circle(center(record)?), &["center", "radius"])
        }
        (
            "io.debezium.data.geometry.Geometry" | "io.debezium.data.geometry.Geography",
            "geometry" | "geography",
        ) => (Form::Ewkb(record.clone()), &["wkb"]),
        _ => {
            let what = if meaning.is_empty() { "a record" } else { meaning };
            return Err(Unreadable::new(format!(
                "is {what}, which can't be put into a column of type {target}"
            )));
        }
    };
    let names = record.fields.iter().map(|field| field.name.as_str());
    if names.take(leading.len()).eq(leading.iter().copied()) {
        Ok(form)
    } else {
        Err(Unreadable::new(format!("is {meaning} with other fields than Debezium's")))
    }
}

fn center(circle: &RecordShape) -> Result<Arc<RecordShape>, Unreadable> {
    match circle.fields.first().map(|field| &field.node.shape) {
        Some(Shape::Record(point)) => Ok(point.clone()),
        _ => Err(Unreadable::new("is a circle without a center")),
    }
}

fn integer_form(node: &Node, target: &str) -> Result<Form, Unreadable> {
    let refuse = |what: &str| {
        Err(Unreadable::new(format!("is {what}, which can't be put into a column of type {target}")))
    };
    let meaning = &*node.meaning;
    // Whoever has a column of numbers for it wants the number. A double has all of 32 bits, but not of 64.
    if NUMBERS.contains(&target) || target == "float8" && matches!(node.shape, Shape::Int) {
        return Ok(Form::Integer);
    }
    // A zone is never made up, nor left out: the session's would decide what is meant.
    let day = matches!(target, "date" | "timestamp") || TEXTS.contains(&target);
    let time = target == "time" || TEXTS.contains(&target);
    let timestamp = |unit, zone: &'static str| match (target, zone) {
        // A date would cut the time off.
        ("timestamp", "") | ("timestamptz", "+00") | ("text" | "varchar" | "bpchar", _) => {
            Ok(Form::Timestamp { unit, zone })
        }
        (_, "") => refuse("a timestamp without a zone"),
        _ => refuse("a timestamp with a zone"),
    };
    match meaning {
        "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" | "date" if day => Ok(Form::Date),
        "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" | "time-millis" if time => {
            Ok(Form::Time(1000))
        }
        "io.debezium.time.MicroTime" | "time-micros" if time => Ok(Form::Time(1)),
        "io.debezium.time.NanoTime" if time => Ok(Form::Time(0)),
        "io.debezium.time.Timestamp"
        | "org.apache.kafka.connect.data.Timestamp"
        | "local-timestamp-millis" => timestamp(1000, ""),
        "io.debezium.time.MicroTimestamp" | "local-timestamp-micros" => timestamp(1, ""),
        "io.debezium.time.NanoTimestamp" => timestamp(0, ""),
        "timestamp-millis" => timestamp(1000, "+00"),
        "timestamp-micros" => timestamp(1, "+00"),
        "io.debezium.time.MicroDuration" => refuse(
            "an interval as microseconds (write interval_handling = \"string\" at the source, or leave the column out)",
        ),
        "" if TEXTS.contains(&target) => Ok(Form::Integer),
        "" => refuse("a whole number"),
        other => refuse(other),
    }
}

fn bytes_form(node: &Node, column: &PgColumnType) -> Result<Form, Unreadable> {
    let target = column.name.as_str();
    let refuse = |what: &str| {
        Err(Unreadable::new(format!("is {what}, which can't be put into a column of type {target}")))
    };
    match &*node.meaning {
        "org.apache.kafka.connect.data.Decimal" | "decimal" => {
            if NUMBERS.contains(&target) || TEXTS.contains(&target) || target == "money" {
                Ok(Form::Decimal(node.number.unwrap_or(0)))
            } else {
                refuse("a decimal")
            }
        }
        "io.debezium.data.Bits" => match (target, usize::try_from(column.modifier)) {
            ("bit", Ok(digits)) if digits > 0 => Ok(Form::Bits(digits)),
            ("varbit", _) => refuse(
                "a bit string without its length (write types = \"avro\" at the source, or leave the column out)",
            ),
            _ => refuse("a bit string"),
        },
        _ if target == "bytea" => Ok(Form::Bytea),
        _ => refuse("bytes"),
    }
}

/// The digits behind the point that a column keeps; none where it keeps all. Modifiers as the server packs them.
fn kept_digits(column: &PgColumnType) -> Option<i64> {
    let modifier = i64::from(column.modifier);
    match column.name.as_str() {
        "money" => Some(2),
        _ if modifier < 0 => None,
        // Precision in the upper half; the scale has eleven bits with a sign (PostgreSQL 15).
        "numeric" => Some((((modifier - 4) & 0x7FF) ^ 0x400) - 0x400),
        "time" | "timetz" | "timestamp" | "timestamptz" => Some(modifier).filter(|digits| *digits < 6),
        "interval" => Some(modifier & 0xFFFF).filter(|digits| *digits < 6),
        _ => None,
    }
}

/// What a column would round is refused, and not rounded.
fn within(form: Form, column: &PgColumnType) -> Result<Form, Unreadable> {
    let Some(digits) = kept_digits(column) else { return Ok(form) };
    match form {
        Form::Decimal(scale) if scale <= digits => Ok(form),
        _ if digits < 0 => Err(Unreadable::new("would be rounded by its column, whose scale is negative")),
        Form::Decimal(_)
        | Form::VariableDecimal
        | Form::Text
        | Form::Zoned
        | Form::Time(_)
        | Form::Timestamp { .. }
        | Form::Float
        | Form::Double => Ok(Form::Within(Box::new(form), digits)),
        _ => Ok(form),
    }
}
