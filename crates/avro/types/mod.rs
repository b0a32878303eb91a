//! THE TYPE TABLE: what becomes of each Postgres type, one row per type and mode.
//!
//! [`row`] is the only place where a Postgres type meets its Avro form. The Avro side is Debezium's, mode by mode;
//! `docs/FORMATS.md` is the same table for readers and lists where it differs, and a test compares the two.
//! The functions named in the table live in the modules below, one per family; each takes the text that Postgres
//! wrote and appends Avro bytes, or refuses with a [`Reason`]. None of them panics, whatever the bytes.

mod array;
mod bits;
mod bytea;
mod calendar;
mod decimal;
mod geometric;
mod hstore;
mod instants;
mod interval;
mod money;
mod number;
mod postgis;
mod text;
mod unchanged;
mod vector;

use crate::description::PgType;
use crate::error::Reason;
use crate::mask::Masking;
use crate::record_settings::{
    ArrayHandling, BinaryHandling, DecimalHandling, HstoreHandling, IntervalHandling, RecordSettings,
    TimePrecision, TypeStyle, UnknownTypes,
};

pub(crate) use bytea::write_base64_text;
pub use unchanged::is_placeholder;
pub(crate) use unchanged::{Unchanged, placeholder};

/// Year (0 is 1 BC), month and day of a day counted from 1970-01-01.
pub(crate) fn date_of_days(days: i64) -> (i64, i64, i64) {
    let calendar::Date { year, month, day } = calendar::Date::from_days(days);
    (year, month, day)
}

/// `2026-01-31` as days since 1970-01-01.
pub(crate) fn iso_days(text: &str) -> Result<i64, Reason> {
    calendar::date(text.as_bytes()).map(calendar::Date::days)
}

/// `23:59:59.999999` as microseconds.
pub(crate) fn iso_time_micros(text: &str) -> Result<i64, Reason> {
    let time = calendar::time(text.as_bytes())?;
    Ok(time.seconds * 1_000_000 + time.micros)
}

/// `2026-01-31T23:59:59.999Z`, or with `+01:00`, as microseconds since 1970-01-01 00:00:00 UTC.
pub(crate) fn iso_instant_micros(text: &str) -> Result<i64, Reason> {
    let zoned = text.replacen(['T', 't'], " ", 1);
    match zoned.strip_suffix(['Z', 'z']) {
        Some(utc) => calendar::utc_micros(format!("{utc}+00").as_bytes()),
        None => calendar::utc_micros(zoned.as_bytes()),
    }
}

/// `2026-01-31T23:59:59.999` as microseconds since 1970-01-01 00:00:00 of the same clock.
pub(crate) fn iso_local_micros(text: &str) -> Result<i64, Reason> {
    local_micros(text.replacen(['T', 't'], " ", 1).as_bytes())
}

fn local_micros(text: &[u8]) -> Result<i64, Reason> {
    match calendar::timestamp(text)? {
        calendar::Timestamp::Finite { seconds, micros } => seconds
            .checked_mul(1_000_000)
            .and_then(|all| all.checked_add(micros))
            .ok_or(Reason::OutOfRange("microseconds in 64 bits")),
        _ => Err(Reason::Infinite),
    }
}

/// A decimal number times 10^scale, as `bytes`.
pub(crate) fn write_decimal(text: &[u8], scale: i16, out: &mut Vec<u8>) -> Result<(), Reason> {
    decimal::write_scaled(text, scale, out)
}

/// The bytes that a bytea's text stands for.
///
/// # Errors
/// It is not in hex form.
pub fn decode_bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let digits = text.strip_prefix(b"\\x").ok_or(Reason::Malformed("bytea in hex form"))?;
    bytea::decode(digits, out)
}

/// Microseconds since 1970 as RFC 3339: `2026-01-31T23:59:59.999999Z`.
pub fn utc_text(unix_micros: i64) -> String {
    let (seconds, micros) = (unix_micros.div_euclid(1_000_000), unix_micros.rem_euclid(1_000_000));
    let (year, month, day) = date_of_days(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The text of a timestamp, with time zone or without (then as if it were UTC), as milliseconds since 1970; of its
/// microseconds the milliseconds are left, as Debezium's router does.
///
/// # Errors
/// It is neither, or infinite.
pub fn event_unix_millis(text: &[u8], with_zone: bool) -> Result<i64, Reason> {
    let micros = if with_zone { calendar::utc_micros(text) } else { local_micros(text) };
    micros.map(|micros| micros.div_euclid(1000))
}

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
    if let PgType::Array(element) = pg_type {
        return array_row(element, records);
    }
    let own = match records.types {
        TypeStyle::Avro => avro_row(pg_type, records),
        TypeStyle::Connect => None,
    };
    let (avro, encoding, default, unchanged) = own.unwrap_or_else(|| connect_row(pg_type, records));
    TypeRow { avro, encoding, default, unchanged }
}

type Columns = (AvroType, Encoding, DefaultRule, Unchanged);

/// `types = "connect"`: Debezium's forms.
#[rustfmt::skip]
fn connect_row(pg_type: &PgType, records: &RecordSettings) -> Columns {
    use AvroType::{Bits, DoubleVector, FloatVector, Int16, NullableMap, Plain, Struct, VariableScaleDecimal};
    use DecimalHandling::{Double, Precise};
    use DefaultRule::{Hidden, Shown};
    use Encoding::{Fixed, Scaled};
    use TimePrecision::{AdaptiveTimeMicroseconds, Connect, Isostring, Microseconds, Nanoseconds};
    use Unchanged::{Halts, Map, MapAsJson, Text};

    let (decimals, times) = (records.decimal_handling, records.time_precision);
    let money_scale = i16::from(records.money_fraction_digits);
    match pg_type {
        // Postgres type, mode                                                       Avro and Connect schema                   text to bytes                                              default  unchanged TOAST
        PgType::Bool                                                              => (Plain("boolean"),                      Fixed(number::write_bool),                                  Shown,  Halts),
        PgType::Int2                                                              => (Int16,                                 Fixed(number::write_int2),                                  Shown,  Halts),
        PgType::Int4                                                              => (Plain("int"),                          Fixed(number::write_int4),                                  Shown,  Halts),
        PgType::Int8                                                              => (Plain("long"),                         Fixed(number::write_int8),                                  Shown,  Halts),
        PgType::Oid                                                               => (Plain("long"),                         Fixed(number::write_int8),                                  Hidden, Halts),
        PgType::Float4                                                            => (Plain("float"),                        Fixed(number::write_float4),                                Shown,  Halts),
        PgType::Float8                                                            => (Plain("double"),                       Fixed(number::write_float8),                                Shown,  Halts),

        PgType::Numeric { precision, scale } if decimals == Precise               => (decimal_of(*precision, *scale),        Scaled(decimal::write_scaled, *scale),                      Shown,  Halts),
        PgType::NumericUnconstrained if decimals == Precise                       => (VariableScaleDecimal,                  Fixed(decimal::write_variable),                             Hidden, Halts),
        PgType::Numeric { .. } | PgType::NumericUnconstrained if decimals == Double => (Plain("double"),                     Fixed(number::write_float8),                                Shown,  Halts),
        PgType::Numeric { .. } | PgType::NumericUnconstrained                     => (Plain("string"),                       Fixed(decimal::write_string),                               Shown,  Text),
        PgType::Money if decimals == Precise                                      => (AvroType::Money { scale: money_scale }, Scaled(money::write_scaled, money_scale),                   Hidden, Halts),
        PgType::Money if decimals == Double                                       => (Plain("double"),                       Fixed(money::write_double),                                 Hidden, Halts),
        PgType::Money                                                             => (Plain("string"),                       Fixed(money::write_string),                                 Hidden, Halts),

        PgType::Text                                                              => (Plain("string"),                       Fixed(text::write),                                         Shown,  Text),
        PgType::Uuid                                                              => (named("string", DATA_UUID),            Fixed(text::write),                                         Shown,  Halts),
        PgType::Json                                                              => (named("string", DATA_JSON),            Fixed(text::write),                                         Shown,  Text),
        PgType::Xml                                                               => (named("string", DATA_XML),             Fixed(text::write),                                         Shown,  Text),
        PgType::Enum { labels }                                                   => (enum_of(labels),                       Fixed(text::write),                                         Shown,  Halts),
        PgType::Ltree                                                             => (named("string", DATA_LTREE),           Fixed(text::write),                                         Hidden, Text),
        PgType::Tsvector                                                          => (named("string", DATA_TSVECTOR),        Fixed(text::write),                                         Hidden, Text),
        PgType::Network | PgType::Range                                           => (Plain("string"),                       Fixed(text::write),                                         Hidden, Text),
        PgType::Hstore if records.hstore_handling == HstoreHandling::Map          => (NullableMap,                           Fixed(hstore::write_map),                                   Hidden, Map),
        PgType::Hstore                                                            => (named("string", DATA_JSON),            Fixed(hstore::write_json),                                  Hidden, MapAsJson),
        PgType::Bytea                                                             => bytes_row(records, BYTEA),
        PgType::Bits { length: 1, .. }                                            => (Plain("boolean"),                      Fixed(bits::write_bit),                                     Shown,  Halts),
        PgType::Bits { length, .. }                                               => (Bits { length: *length },              Fixed(bits::write_bits),                                    Shown,  Halts),

        PgType::Date if times == Connect                                          => (logical("int", CONNECT_DATE, "date"),  Fixed(calendar::write_date),                                Shown,  Halts),
        PgType::Date if times == Isostring                                        => (named("string", TIME_ISO_DATE),        Fixed(instants::write_iso_date),                            Shown,  Halts),
        PgType::Date                                                              => (named("int", TIME_DATE),               Fixed(calendar::write_date),                                Shown,  Halts),
        PgType::Time { .. } if times == Connect                                   => (logical("int", CONNECT_TIME, "time-millis"), Fixed(instants::write_connect_time),                  Shown,  Halts),
        PgType::Time { .. } if times == Isostring                                 => (named("string", TIME_ISO_TIME),        Fixed(instants::write_iso_time),                            Shown,  Halts),
        PgType::Time { .. } if times == Nanoseconds                               => (named("long", TIME_NANO_TIME),         Fixed(instants::write_nano_time),                           Shown,  Halts),
        PgType::Time { .. } if times == Microseconds || times == AdaptiveTimeMicroseconds => (named("long", TIME_MICRO_TIME), Fixed(calendar::write_time_us),                            Shown,  Halts),
        PgType::Time { precision: 0..=3 }                                         => (named("int", TIME_TIME),               Fixed(calendar::write_time_ms),                             Shown,  Halts),
        PgType::Time { .. }                                                       => (named("long", TIME_MICRO_TIME),        Fixed(calendar::write_time_us),                             Shown,  Halts),
        PgType::Timestamp { .. } if times == Connect                              => (logical("long", CONNECT_TIMESTAMP, "timestamp-millis"), Fixed(instants::write_connect_timestamp),  Shown,  Halts),
        PgType::Timestamp { .. } if times == Isostring                            => (named("string", TIME_ISO_TIMESTAMP),   Fixed(instants::write_iso_timestamp),                       Shown,  Halts),
        PgType::Timestamp { .. } if times == Nanoseconds                          => (named("long", TIME_NANO_TIMESTAMP),    Fixed(instants::write_nano_timestamp),                      Shown,  Halts),
        PgType::Timestamp { precision: 0..=3 } if times != Microseconds           => (named("long", TIME_TIMESTAMP),         Fixed(calendar::write_timestamp_ms),                        Shown,  Halts),
        PgType::Timestamp { .. }                                                  => (named("long", TIME_MICRO_TIMESTAMP),   Fixed(calendar::write_timestamp_us),                        Shown,  Halts),
        PgType::TimestampTz { precision }                                         => (named("string", TIME_ZONED_TIMESTAMP), Scaled(calendar::write_timestamptz, i16::from(*precision)), Shown,  Halts),
        PgType::TimeTz { .. }                                                     => (named("string", TIME_ZONED_TIME),      Fixed(instants::write_timetz),                              Hidden, Halts),
        PgType::Interval if records.interval_handling == IntervalHandling::String => (named("string", TIME_INTERVAL),        Fixed(interval::write_iso),                                 Shown,  Halts),
        PgType::Interval                                                          => (named("long", TIME_MICRO_DURATION),    Fixed(interval::write_micros),                              Shown,  Halts),

        PgType::Point                                                             => (Struct(StructType::Point),             Fixed(geometric::write_point),                              Hidden, Halts),
        PgType::Line                                                              => (Struct(StructType::Line),              Fixed(geometric::write_line),                               Hidden, Halts),
        PgType::Circle                                                            => (Struct(StructType::Circle),            Fixed(geometric::write_circle),                             Hidden, Halts),
        PgType::Lseg                                                              => (Struct(StructType::Geometry),          Fixed(geometric::write_lseg),                               Hidden, Halts),
        PgType::Box                                                               => (Struct(StructType::Geometry),          Fixed(geometric::write_box),                                Hidden, Halts),
        PgType::Path                                                              => (Struct(StructType::Geometry),          Fixed(geometric::write_path),                               Hidden, Unchanged::Geometry),
        PgType::Polygon                                                           => (Struct(StructType::Geometry),          Fixed(geometric::write_polygon),                            Hidden, Unchanged::Geometry),
        PgType::Geometry                                                          => (Struct(StructType::Geometry),          Fixed(postgis::write_geometry),                             Hidden, Unchanged::Geometry),
        PgType::Geography                                                         => (Struct(StructType::Geography),         Fixed(postgis::write_geography),                            Hidden, Unchanged::Geography),
        PgType::Vector                                                            => (DoubleVector,                          Fixed(vector::write_doubles),                               Hidden, Halts),
        PgType::Halfvec                                                           => (FloatVector,                           Fixed(vector::write_floats),                                Hidden, Halts),
        PgType::Sparsevec { dimensions: Some(32_768..) }                          => (Struct(StructType::SparseVector32),    Fixed(vector::write_sparse32),                              Hidden, Halts),
        PgType::Sparsevec { .. }                                                  => (Struct(StructType::SparseVector16),    Fixed(vector::write_sparse16),                              Hidden, Halts),

        PgType::Verbatim | PgType::Other if records.unknown_types == UnknownTypes::Bytes => bytes_row(records, ANY_TEXT),
        PgType::Verbatim | PgType::Other | PgType::Array(_)                       => (Plain("string"),                       Fixed(text::write),                                         Hidden, Text),
    }
}

/// `types = "avro"`: what has another form there.
#[rustfmt::skip]
fn avro_row(pg_type: &PgType, records: &RecordSettings) -> Option<Columns> {
    use AvroType::{NullableMap, Plain};
    use DecimalHandling::{Double, Precise};
    use DefaultRule::{Hidden, Shown};
    use Encoding::{Fixed, Scaled};
    use Unchanged::{Halts, Map, Text};

    let decimals = records.decimal_handling;
    let (money_precision, money_scale) = (u16::from(records.money_fraction_digits.max(2)) + 17, i16::from(records.money_fraction_digits));
    Some(match pg_type {
        PgType::Numeric { precision, scale } if decimals == Precise && *scale < 0 => (decimal_of(precision + scale.unsigned_abs(), 0),                   Scaled(decimal::write_scaled, 0),         Shown,  Halts),
        PgType::Numeric { precision, scale } if decimals == Precise               => (decimal_of((*precision).max(scale.unsigned_abs()), *scale),         Scaled(decimal::write_scaled, *scale),    Shown,  Halts),
        PgType::Numeric { .. } | PgType::NumericUnconstrained if decimals != Double => (Plain("string"),                     Fixed(decimal::write_postgres_string),                      Shown,  Text),
        PgType::Money if decimals == Precise                                      => (decimal_of(money_precision, money_scale), Scaled(money::write_scaled, money_scale),                 Hidden, Halts),
        PgType::Enum { .. }                                                       => (Plain("string"),                       Fixed(text::write),                                         Shown,  Halts),
        PgType::Uuid                                                              => (avro_logical("string", "uuid"),        Fixed(text::write_uuid),                                    Shown,  Halts),
        PgType::Hstore                                                            => (NullableMap,                           Fixed(hstore::write_map),                                   Hidden, Map),
        PgType::Bits { length: 1, varying: false }                                => return None,
        PgType::Bits { .. }                                                       => (Plain("string"),                       Fixed(bits::write_digits),                                  Shown,  Text),
        PgType::Date                                                              => (avro_logical("int", "date"),           Fixed(instants::write_avro_date),                           Shown,  Halts),
        PgType::Time { .. }                                                       => (avro_logical("long", "time-micros"),   Fixed(calendar::write_time_us),                             Shown,  Halts),
        PgType::Timestamp { .. }                                                  => (avro_logical("long", "local-timestamp-micros"), Fixed(calendar::write_timestamp_us),               Shown,  Halts),
        PgType::TimestampTz { .. }                                                => (avro_logical("long", "timestamp-micros"), Fixed(instants::write_avro_timestamptz),                 Shown,  Halts),
        PgType::TimeTz { .. }                                                     => (Plain("string"),                       Fixed(text::write),                                         Hidden, Halts),
        PgType::Interval                                                          => (Plain("string"),                       Fixed(interval::write_iso),                                 Shown,  Halts),
        _ => return None,
    })
}

/// What is written as bytes, in the binary mode.
fn bytes_row(records: &RecordSettings, [bytes, base64, base64_url, hex]: [WriteFixed; 4]) -> Columns {
    let (base, write) = match records.binary_handling {
        BinaryHandling::Bytes => ("bytes", bytes),
        BinaryHandling::Base64 => ("string", base64),
        BinaryHandling::Base64UrlSafe => ("string", base64_url),
        BinaryHandling::Hex => ("string", hex),
    };
    let unchanged = if base == "bytes" { Unchanged::Bytes } else { Unchanged::Text };
    (AvroType::Plain(base), Encoding::Fixed(write), DefaultRule::Hidden, unchanged)
}

const BYTEA: [WriteFixed; 4] = [bytea::write, bytea::write_base64, bytea::write_base64_url, bytea::write_hex];
const ANY_TEXT: [WriteFixed; 4] =
    [bytea::write_text, bytea::write_text_base64, bytea::write_text_base64_url, bytea::write_text_hex];

const CONNECT_DATE: &str = "org.apache.kafka.connect.data.Date";
const CONNECT_TIME: &str = "org.apache.kafka.connect.data.Time";
const CONNECT_TIMESTAMP: &str = "org.apache.kafka.connect.data.Timestamp";
const DATA_UUID: &str = "io.debezium.data.Uuid";
const DATA_JSON: &str = "io.debezium.data.Json";
const DATA_XML: &str = "io.debezium.data.Xml";
const DATA_LTREE: &str = "io.debezium.data.Ltree";
const DATA_TSVECTOR: &str = "io.debezium.data.Tsvector";
const TIME_DATE: &str = "io.debezium.time.Date";
const TIME_TIME: &str = "io.debezium.time.Time";
const TIME_MICRO_TIME: &str = "io.debezium.time.MicroTime";
const TIME_NANO_TIME: &str = "io.debezium.time.NanoTime";
const TIME_TIMESTAMP: &str = "io.debezium.time.Timestamp";
const TIME_MICRO_TIMESTAMP: &str = "io.debezium.time.MicroTimestamp";
const TIME_NANO_TIMESTAMP: &str = "io.debezium.time.NanoTimestamp";
const TIME_ZONED_TIMESTAMP: &str = "io.debezium.time.ZonedTimestamp";
const TIME_ZONED_TIME: &str = "io.debezium.time.ZonedTime";
const TIME_ISO_DATE: &str = "io.debezium.time.IsoDate";
const TIME_ISO_TIME: &str = "io.debezium.time.IsoTime";
const TIME_ISO_TIMESTAMP: &str = "io.debezium.time.IsoTimestamp";
const TIME_INTERVAL: &str = "io.debezium.time.Interval";
const TIME_MICRO_DURATION: &str = "io.debezium.time.MicroDuration";

/// An array is its element's row with brackets, unless it is left as text. Elements are always nullable. (Debezium
/// says that an enum's can't be null, and fails when one is.)
fn array_row(element: &PgType, records: &RecordSettings) -> TypeRow {
    let is_list = !matches!(element, PgType::Array(_) | PgType::Other);
    if !is_list || records.array_handling == ArrayHandling::Text {
        return TypeRow {
            avro: AvroType::Plain("string"),
            encoding: Encoding::Fixed(text::write),
            default: DefaultRule::Hidden,
            unchanged: Unchanged::Text,
        };
    }
    let delimiter = match element {
        PgType::Box => b';',
        PgType::Geometry | PgType::Geography => b':',
        _ => b',',
    };
    let element = row(element, records);
    TypeRow {
        avro: AvroType::Array(Box::new(element.avro)),
        encoding: Encoding::Array(Box::new(element.encoding), delimiter),
        default: DefaultRule::Hidden,
        unchanged: Unchanged::Element(Box::new(element.unchanged)),
    }
}

/// What Debezium makes up for a NOT NULL column that an old row doesn't carry and that has no default: the text
/// that Postgres would have for it.
pub(crate) fn made_up(pg_type: &PgType, style: TypeStyle) -> &'static str {
    match pg_type {
        PgType::Bool => "f",
        PgType::Int2
        | PgType::Int4
        | PgType::Int8
        | PgType::Oid
        | PgType::Float4
        | PgType::Float8
        | PgType::Numeric { .. }
        | PgType::NumericUnconstrained => "0",
        PgType::Money => "$0.00",
        PgType::Bytea => "\\x",
        PgType::Date => "1970-01-01",
        PgType::Time { .. } | PgType::Interval => "00:00:00",
        PgType::Timestamp { .. } => "1970-01-01 00:00:00",
        PgType::TimestampTz { .. } => "1970-01-01 00:00:00+00",
        PgType::TimeTz { .. } => "00:00:00+00",
        PgType::Bits { length: 1, .. } => "0",
        PgType::Uuid if style == TypeStyle::Avro => "00000000-0000-0000-0000-000000000000",
        PgType::Point => "(0,0)",
        PgType::Line => "{0,1,0}",
        PgType::Lseg | PgType::Path => "[(0,0),(1,0)]",
        PgType::Box => "(0,0),(1,1)",
        PgType::Polygon => "((0,0),(1,0),(0,1))",
        PgType::Circle => "<(0,0),0>",
        // An empty geometry collection.
        PgType::Geometry | PgType::Geography => "010700000000000000",
        PgType::Vector | PgType::Halfvec => "[]",
        PgType::Sparsevec { .. } => "{}/0",
        PgType::Array(_) => "{}",
        PgType::Text
        | PgType::Uuid
        | PgType::Json
        | PgType::Xml
        | PgType::Enum { .. }
        | PgType::Bits { .. }
        | PgType::Network
        | PgType::Range
        | PgType::Tsvector
        | PgType::Hstore
        | PgType::Ltree
        | PgType::Verbatim
        | PgType::Other => "",
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
    /// A primitive type with Avro's name for what it means, and perhaps Connect's.
    Logical { base: &'static str, connect_name: Option<&'static str>, logical: &'static str },
    /// `string` with the labels that an enum had, joined by commas.
    Enum { allowed: String },
    /// `bytes` with the declared number of bits.
    Bits { length: u32 },
    /// `bytes` as the logical type decimal.
    Decimal { precision: u16, scale: i16 },
    /// The same without a declared precision.
    Money { scale: i16 },
    /// Record of scale and unscaled value.
    VariableScaleDecimal,
    /// One of Debezium's records.
    Struct(StructType),
    /// Array of `double`.
    DoubleVector,
    /// Array of `float`.
    FloatVector,
    /// Map of nullable strings.
    NullableMap,
    /// Array of nullable elements.
    Array(Box<AvroType>),
}

/// A record that stands for one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StructType {
    /// `{x, y, wkb, srid}`
    Point,
    /// `{a, b, c}`
    Line,
    /// `{center, radius}`
    Circle,
    /// `{wkb, srid, extensions}`
    Geometry,
    /// `{wkb, srid}`
    Geography,
    /// `{dimensions, vector}`, indexes of 16 bits
    SparseVector16,
    /// The same with 32 bits.
    SparseVector32,
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

fn logical(base: &'static str, connect_name: &'static str, logical: &'static str) -> AvroType {
    AvroType::Logical { base, connect_name: Some(connect_name), logical }
}

fn avro_logical(base: &'static str, logical: &'static str) -> AvroType {
    AvroType::Logical { base, connect_name: None, logical }
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
    /// Applies to each element, between which stands this character.
    Array(Box<Encoding>, u8),
    /// Hides the value.
    Mask(Box<Masking>),
}

impl Encoding {
    /// Appends the value. On an error `out` may hold a part of it; the caller cuts that off.
    #[inline]
    pub(crate) fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Encoding::Fixed(write) => write(text, out),
            Encoding::Scaled(write, scale) => write(text, *scale, out),
            Encoding::Array(element, delimiter) => array::write(text, element, *delimiter, out),
            Encoding::Mask(masking) => masking.write(text, out),
        }
    }
}

/// Whether a constant default shows in the schema. As in Debezium, those of bytea, arrays and records don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DefaultRule {
    Shown,
    Hidden,
}
