//! The keys of `[records]`, which are also those of each `[[table]]`: one table for both.
//!
//! To add a key: a line here, a field of the same name and type in the library's table of record settings (the
//! compiler asks for it), then `headwater config-reference > docs/CONFIG.md`.

use headwater_avro::{
    AbsentBefore, ArrayHandling, BinaryHandling, ColumnList, DecimalHandling, HstoreHandling,
    IntervalHandling, KeylessKey, MONEY_FRACTION_DIGITS_MAX, OnIncompatible, RecordOverrides, RecordSettings,
    TimePrecision, TruncateHandling, TypeStyle, UnknownTypes,
};
use headwater_pipeline::records::{RecordRules, TableRule};

use super::as_written::{Field, Key, Section, default_text, key_name, read_field, refuse_unknown, sections};
use super::layers::Table;
use super::problem::Problems;
use super::settings::Findings;
use super::value::{Names, Value};

/// Declares both sections and how they become settings.
macro_rules! record_keys {
    ($( $(#[doc = $doc:literal])* $key:ident: $type:ty = $default:literal, )*) => {
        sections! {
            /// How rows become records, for every table. Most keys are Debezium's options, shortened.
            "records" => pub struct Records {
                $( $(#[doc = $doc])* $key: $type = $default, )*
            }

            /// What some tables have otherwise: any key of `[records]`. May be given several times; where several
            /// name a table, the later one wins, key by key.
            "table" => pub struct Exception {
                /// Required. The tables: `schema.table` or a list of those, `*` standing for any characters and `?`
                /// for any one.
                tables: Names,
                $(
                    /// As in `[records]`, for these tables.
                    $key: $type,
                )*
            }
        }

        /// None when a key was written wrongly; that is noted already.
        fn make_all(written: Records) -> Option<RecordSettings> {
            let Records { $( $key, )* } = written;
            Some(RecordSettings { $( $key: $key.value()?, )* })
        }

        fn make_exception(written: Exception, findings: &mut Findings) -> Option<TableRule> {
            let Exception { tables, $( $key, )* } = written;
            let tables = findings.require(tables, "table.tables", "tables = \"public.audit_*\"")?.0;
            Some(TableRule { tables, overrides: RecordOverrides { $( $key: $key.value(), )* } })
        }
    };
}

record_keys! {
    /// The Avro forms of values: `connect` is what Debezium writes with Kafka Connect's Avro converter, `avro` is
    /// Avro's own logical types without Connect's attributes (then `time_precision`, `interval_handling` and
    /// `hstore_handling` have no meaning).
    types: TypeStyle = "connect",
    /// numeric and money: `precise` is exact, as bytes; `double` is the nearest double; `string` is text. NaN and
    /// infinities have no precise form and halt.
    decimal_handling: DecimalHandling = "precise",
    /// date, time and timestamp: `adaptive` (milliseconds for up to three fractional digits, else microseconds),
    /// `adaptive_time_microseconds`, `microseconds`, `nanoseconds`, `connect` (Connect's types: milliseconds, finer
    /// digits are cut off) or `isostring` (ISO 8601). timestamptz and timetz are ISO 8601 text in each.
    time_precision: TimePrecision = "adaptive",
    /// interval: `numeric` is microseconds, in which a month counts 30.4375 days; `string` is ISO 8601.
    interval_handling: IntervalHandling = "numeric",
    /// bytea: `bytes`, `base64`, `base64-url-safe` or `hex`.
    binary_handling: BinaryHandling = "bytes",
    /// hstore: `json` is a JSON object as text, `map` a map of nullable strings.
    hstore_handling: HstoreHandling = "json",
    /// Arrays: `list` is an Avro array, in which a value of several dimensions has no form and halts; `text` is
    /// Postgres' text of every array, dimensions and bounds included.
    array_handling: ArrayHandling = "list",
    /// Digits behind the point of a precise money value. Fewer than two round.
    money_fraction_digits: u8 = "2",
    /// Columns of types that only the database knows: their `text`, their text as `bytes` (Debezium's
    /// `include.unknown.datatypes`), or `halt`.
    unknown_types: UnknownTypes = "text",
    /// Columns that an old row does not carry: `null`, with every such column nullable in the schema; or `debezium`,
    /// with NOT NULL columns not nullable and Debezium's made-up values (0, an empty string, 1970) in their place.
    absent_before: AbsentBefore = "null",
    /// The columns of the record key, one name or a list, as Debezium's `message.key.columns`. An old row must carry
    /// them (replica identity), or a delete would have no key. Default: the primary key, or the columns of the
    /// replica identity where an old row lacks the primary key. An empty list means the default.
    message_key_columns: ColumnList = "[]",
    /// The record key of a table that has none: `none`, or `full_row` for all columns (a row that changes is a
    /// delete of one key and a create of another, then).
    keyless_key: KeylessKey = "none",
    /// The columns whose text chooses the partition: for tables without a key, which otherwise go to one partition
    /// each, or some of the key's columns, so that what they have in common stays together. An empty list means the
    /// whole key.
    partition_columns: ColumnList = "[]",
    /// TRUNCATE: `skip` (counted, as Debezium's default `skipped.operations`), `emit` (a record with `op` `t`, without row
    /// or key) or `halt`.
    truncate: TruncateHandling = "skip",
    /// What stands for an unchanged TOAST value that is not at hand. After `hex:` it is bytes in hexadecimal, for
    /// bytea columns.
    unavailable_value_placeholder: String = "__debezium_unavailable_value",
    /// What becomes of a schema that the registry refuses as incompatible (409): `halt` with the registry's words, or
    /// `set_compatibility_none`, which sets the level of that one subject to NONE, warns and registers again.
    on_incompatible: OnIncompatible = "halt",
}

/// Makes the rules; what is wrong is noted in `findings`.
pub fn make(records: Records, exceptions: Vec<Exception>, findings: &mut Findings) -> Option<RecordRules> {
    let digits = |field: &Field<u8>, section: &str, findings: &mut Findings| match field.located() {
        Some((&digits, origin)) if digits > MONEY_FRACTION_DIGITS_MAX => findings.problems.add(
            origin,
            &format!("{section}.money_fraction_digits"),
            format!("at most {MONEY_FRACTION_DIGITS_MAX}"),
        ),
        _ => {}
    };
    digits(&records.money_fraction_digits, Records::NAME, findings);
    for exception in &exceptions {
        digits(&exception.money_fraction_digits, Exception::NAME, findings);
        if let Some((names, origin)) = exception.tables.located() {
            for name in names.0.iter().filter(|name| !name.contains('.') && *name != "*") {
                let message = format!("\"{name}\" is not schema.table; write for example \"public.{name}\"");
                findings.problems.add(origin, "table.tables", message);
            }
        }
    }
    let placeholders =
        exceptions.iter().map(|exception| (&exception.unavailable_value_placeholder, Exception::NAME));
    for (field, section) in placeholders.chain([(&records.unavailable_value_placeholder, Records::NAME)]) {
        if let Some((text, origin)) =
            field.located().filter(|(text, _)| !headwater_avro::is_placeholder(text))
        {
            let message = format!("\"{text}\" has no hexadecimal digits, two for each byte, after hex:");
            findings.problems.add(origin, &format!("{section}.unavailable_value_placeholder"), message);
        }
    }
    let all = make_all(records);
    let tables: Vec<_> =
        exceptions.into_iter().map(|exception| make_exception(exception, findings)).collect();
    Some(RecordRules { all: all?, tables: tables.into_iter().collect::<Option<Vec<_>>>()? })
}
