//! THE TYPE TABLE: what becomes of each Postgres type, one row per type.
//!
//! [`row`] is the only place where a Postgres type meets its Avro form. The Avro side follows Debezium's default
//! modes (adaptive time, precise decimals, binary bytes); `docs/FORMATS.md` lists where it differs.
//! The functions named in the table live in the modules below, one per family; each takes the text that Postgres
//! wrote and appends Avro bytes, or refuses with a [`Reason`]. None of them panics, whatever the bytes.

mod array;
mod bytea;
mod calendar;
mod decimal;
mod number;
mod text;

use crate::description::PgType;
use crate::error::Reason;
use crate::record_settings::RecordSettings;

pub(crate) use text::placeholder;

/// One row of the table.
pub(crate) struct TypeRow {
    /// The schema of a value.
    pub(crate) avro: AvroType,
    /// How a value's text becomes bytes.
    pub(crate) encoding: Encoding,
    /// Whether a constant default shows in the schema.
    pub(crate) default: DefaultRule,
    /// What stands for an unchanged TOAST value whose old value isn't at hand.
    pub(crate) unchanged: Unchanged,
}

/// Looks a type up.
pub(crate) fn row(pg_type: &PgType, records: &RecordSettings) -> TypeRow {
    use AvroType::{Int16, Plain, VariableScaleDecimal};
    use DefaultRule::{Hidden, Shown};
    use Encoding::{Fixed, Scaled};
    use Unchanged::{Halts, Placeholder};

    #[rustfmt::skip]
    let (avro, encoding, default, unchanged) = match pg_type {
        // Postgres type                              Avro and Connect schema                  text to bytes                                              default  unchanged TOAST
        PgType::Bool                               => (Plain("boolean"),                      Fixed(number::write_bool),                                  Shown,  Halts),
        PgType::Int2                               => (Int16,                                 Fixed(number::write_int2),                                  Shown,  Halts),
        PgType::Int4                               => (Plain("int"),                          Fixed(number::write_int4),                                  Shown,  Halts),
        PgType::Int8                               => (Plain("long"),                         Fixed(number::write_int8),                                  Shown,  Halts),
        PgType::Float4                             => (Plain("float"),                        Fixed(number::write_float4),                                Shown,  Halts),
        PgType::Float8                             => (Plain("double"),                       Fixed(number::write_float8),                                Shown,  Halts),
        PgType::Numeric { precision, scale }       => (decimal_of(*precision, *scale),        Scaled(decimal::write_scaled, *scale),                      Shown,  Halts),
        PgType::NumericUnconstrained               => (VariableScaleDecimal,                  Fixed(decimal::write_variable),                             Hidden, Halts),

        PgType::Text                               => (Plain("string"),                       Fixed(text::write),                                         Shown,  Placeholder),
        PgType::Uuid                               => (named("string", DATA_UUID),            Fixed(text::write),                                         Shown,  Halts),
        PgType::Json                               => (named("string", DATA_JSON),            Fixed(text::write),                                         Shown,  Placeholder),
        PgType::Enum { labels }                    => (enum_of(labels),                       Fixed(text::write),                                         Shown,  Halts),
        PgType::Bytea                              => (Plain("bytes"),                        Fixed(bytea::write),                                        Hidden, Placeholder),

        PgType::Date                               => (named("int", TIME_DATE),               Fixed(calendar::write_date),                                Shown,  Halts),
        PgType::Time { precision: 0..=3 }          => (named("int", TIME_TIME),               Fixed(calendar::write_time_ms),                             Shown,  Halts),
        PgType::Time { .. }                        => (named("long", TIME_MICRO_TIME),        Fixed(calendar::write_time_us),                             Shown,  Halts),
        PgType::Timestamp { precision: 0..=3 }     => (named("long", TIME_TIMESTAMP),         Fixed(calendar::write_timestamp_ms),                        Shown,  Halts),
        PgType::Timestamp { .. }                   => (named("long", TIME_MICRO_TIMESTAMP),   Fixed(calendar::write_timestamp_us),                        Shown,  Halts),
        PgType::TimestampTz { precision }          => (named("string", TIME_ZONED_TIMESTAMP), Scaled(calendar::write_timestamptz, i16::from(*precision)), Shown,  Halts),

        // An array is its element's row with brackets, unless the element has none.
        PgType::Array(element) if has_row(element) => return array_row(element, records),
        PgType::Array(_) | PgType::Other           => (Plain("string"),                       Fixed(text::write),                                         Hidden, Placeholder),
    };
    TypeRow { avro, encoding, default, unchanged }
}

const DATA_UUID: &str = "io.debezium.data.Uuid";
const DATA_JSON: &str = "io.debezium.data.Json";
const TIME_DATE: &str = "io.debezium.time.Date";
const TIME_TIME: &str = "io.debezium.time.Time";
const TIME_MICRO_TIME: &str = "io.debezium.time.MicroTime";
const TIME_TIMESTAMP: &str = "io.debezium.time.Timestamp";
const TIME_MICRO_TIMESTAMP: &str = "io.debezium.time.MicroTimestamp";
const TIME_ZONED_TIMESTAMP: &str = "io.debezium.time.ZonedTimestamp";

fn has_row(element: &PgType) -> bool {
    !matches!(element, PgType::Array(_) | PgType::Other)
}

/// Elements are always nullable. (Debezium says that an enum's can't be null, and fails when one is.)
fn array_row(element: &PgType, records: &RecordSettings) -> TypeRow {
    let element = row(element, records);
    let unchanged = match element.unchanged {
        Unchanged::Placeholder => Unchanged::PlaceholderElement,
        Unchanged::Halts | Unchanged::PlaceholderElement => Unchanged::Halts,
    };
    TypeRow {
        avro: AvroType::Array(Box::new(element.avro)),
        encoding: Encoding::Array(Box::new(element.encoding)),
        default: DefaultRule::Hidden,
        unchanged,
    }
}

/// The Avro schema of a value, with what Connect adds to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AvroType {
    /// A primitive type.
    Plain(&'static str),
    /// `int` that Connect knows to be an int16.
    Int16,
    /// A primitive type with Connect's name for what it means.
    Named { base: &'static str, connect_name: &'static str },
    /// `string` with the labels that an enum had, joined by commas.
    Enum { allowed: String },
    /// `bytes` as the logical type decimal.
    Decimal { precision: u16, scale: i16 },
    /// Record of scale and unscaled value.
    VariableScaleDecimal,
    /// Array of nullable elements.
    Array(Box<AvroType>),
}

fn decimal_of(precision: u16, scale: i16) -> AvroType {
    AvroType::Decimal { precision, scale }
}

fn enum_of(labels: &[String]) -> AvroType {
    AvroType::Enum { allowed: labels.join(",") }
}

fn named(base: &'static str, connect_name: &'static str) -> AvroType {
    AvroType::Named { base, connect_name }
}

type WriteFixed = fn(&[u8], &mut Vec<u8>) -> Result<(), Reason>;
type WriteScaled = fn(&[u8], i16, &mut Vec<u8>) -> Result<(), Reason>;

/// How a value's text becomes Avro bytes.
#[derive(Debug, Clone)]
pub(crate) enum Encoding {
    /// Needs nothing but the text.
    Fixed(WriteFixed),
    /// Needs the column's scale or precision.
    Scaled(WriteScaled, i16),
    /// Applies to each element.
    Array(Box<Encoding>),
}

impl Encoding {
    /// Appends the value. On an error `out` may hold a part of it; the caller cuts that off.
    #[inline]
    pub(crate) fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Encoding::Fixed(write) => write(text, out),
            Encoding::Scaled(write, scale) => write(text, *scale, out),
            Encoding::Array(element) => array::write(text, element, out),
        }
    }
}

/// Whether a constant default shows in the schema. As in Debezium, those of bytea, arrays and records don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DefaultRule {
    Shown,
    Hidden,
}

/// What stands for an unchanged TOAST value whose old value isn't at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// Debezium's placeholder, as text or bytes.
    Placeholder,
    /// An array with the placeholder as its only element.
    PlaceholderElement,
    /// Nothing of this type could be told from a real value: the row can't be encoded.
    Halts,
}
