//! The choices of how a table's rows become records. The names and words are Debezium's, shortened.
//!
//! [`RecordSettings`] is complete; a [`RecordOverrides`] holds what some tables have otherwise. Both come out of one
//! table below: a new choice is one line there (and one in the command's table of settings).

use crate::column_choice::{ColumnMasks, ColumnNames, ColumnPatterns, MaskSalt};
use crate::flat::MetadataFields;
use crate::row_filter::RowFilter;
use crate::topic_template::TopicTemplate;

/// Declares choices among words, spelt as in the configuration.
macro_rules! choices {
    ($( $(#[$doc:meta])* $Type:ident { $( $(#[$variant_doc:meta])* $Variant:ident = $word:literal ),* $(,)? } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Type { $( $(#[$variant_doc])* $Variant ),* }

        impl $Type {
            /// Every choice with its word.
            pub const WORDS: &'static [(&'static str, $Type)] = &[$( ($word, $Type::$Variant) ),*];
        }
    )* };
}
pub(crate) use choices;

choices! {
    /// Which Avro forms values get.
    TypeStyle {
        /// Debezium's, with the attributes that Kafka Connect adds to Avro.
        Connect = "connect",
        /// Avro's own logical types, without Connect's attributes.
        Avro = "avro",
    }
    /// `decimal.handling.mode`: numeric and money.
    DecimalHandling {
        /// Exact: bytes with a scale.
        Precise = "precise",
        /// The nearest double.
        Double = "double",
        /// Text.
        String = "string",
    }
    /// `time.precision.mode`: date, time and timestamp.
    TimePrecision {
        /// Milliseconds for up to three fractional digits, else microseconds.
        Adaptive = "adaptive",
        /// As adaptive, but times of day are always in microseconds.
        AdaptiveTimeMicroseconds = "adaptive_time_microseconds",
        /// Connect's logical types: milliseconds, finer digits are cut off.
        Connect = "connect",
        /// ISO 8601 text.
        Isostring = "isostring",
        /// Microseconds, whatever the column's precision.
        Microseconds = "microseconds",
        /// Nanoseconds, whatever the column's precision.
        Nanoseconds = "nanoseconds",
    }
    /// `interval.handling.mode`.
    IntervalHandling {
        /// Microseconds; a month counts 30.4375 days.
        Numeric = "numeric",
        /// ISO 8601 text.
        String = "string",
    }
    /// `binary.handling.mode`: bytea, and types that are written as bytes.
    BinaryHandling {
        /// Bytes.
        Bytes = "bytes",
        /// Base64 text.
        Base64 = "base64",
        /// Base64 text in the alphabet for URLs.
        Base64UrlSafe = "base64-url-safe",
        /// Hexadecimal text.
        Hex = "hex",
    }
    /// `hstore.handling.mode`.
    HstoreHandling {
        /// A JSON object as text.
        Json = "json",
        /// A map of nullable strings.
        Map = "map",
    }
    /// What becomes of arrays.
    ArrayHandling {
        /// An Avro array; a value of several dimensions has no form in it and is refused.
        List = "list",
        /// Postgres' text, dimensions and bounds included.
        Text = "text",
    }
    /// Columns of types that neither Debezium nor this program knows.
    UnknownTypes {
        /// Their text.
        Text = "text",
        /// Their text as bytes, as Debezium's `include.unknown.datatypes` has them.
        Bytes = "bytes",
        /// Refused.
        Halt = "halt",
    }
    /// What becomes of a TRUNCATE.
    TruncateHandling {
        /// Counted, and no record.
        Skip = "skip",
        /// A record with `op` `t` and neither row nor key.
        Emit = "emit",
        /// Refused: whoever keeps a copy of the table would go on with what is gone.
        Halt = "halt",
    }
    /// The record key of a table that has none.
    KeylessKey {
        /// None: its records go to one partition, or where `partition_columns` say.
        None = "none",
        /// All columns. A row that changes is a delete of the one key and a create of the other, then.
        FullRow = "full_row",
    }
    /// What a change record looks like.
    Envelope {
        /// Debezium's: `before`, `after`, `source`, `op`, times.
        Debezium = "debezium",
        /// The columns, as Debezium's transform ExtractNewRecordState leaves them, and metadata fields.
        Flat = "flat",
    }
    /// What a delete is under the flat envelope: `delete.tombstone.handling.mode`.
    FlatDeletes {
        /// A tombstone.
        Tombstone = "tombstone",
        /// The old row, marked by a field `__deleted`.
        Rewrite = "rewrite",
        /// The old row, then a tombstone.
        RewriteWithTombstone = "rewrite-with-tombstone",
        /// Nothing.
        Drop = "drop",
    }
    /// How a record's key or value is written.
    RecordEncoding {
        /// Avro behind a schema id.
        Avro = "avro",
        /// JSON, as Connect's JsonConverter writes it without schemas.
        Json = "json",
        /// JSON beside its schema, as Connect's JsonConverter writes it by default.
        JsonSchemaEnvelope = "json_schema_envelope",
    }
    /// Columns that an old row doesn't carry.
    AbsentBefore {
        /// Null; such columns are nullable in the schema.
        Null = "null",
        /// Debezium's made-up values where the column is NOT NULL.
        Debezium = "debezium",
    }
    /// Whether a topic may have the records of several tables.
    SharedTopic {
        /// No: two tables that come to one topic are refused.
        Refuse = "refuse",
        /// Yes, and a field of the key tells their rows apart.
        TableInKey = "table_in_key",
        /// Yes, and their keys are apart anyhow.
        UniqueKeys = "unique_keys",
    }
    /// What the records of a schema are named after.
    SchemaNames {
        /// The topic.
        Topic = "topic",
        /// The table, whatever its topic.
        Table = "table",
    }
    /// What becomes of a TOAST value that an update left alone, so that Postgres doesn't send it.
    UnchangedToast {
        /// The placeholder stands for it.
        Placeholder = "placeholder",
        /// It is read back from the table, and marked unless it is provably the value of that moment.
        Reselect = "reselect",
    }
    /// What becomes of a row that can't be delivered.
    OnError {
        /// Nothing goes on.
        Halt = "halt",
        /// It goes to the dead letter topic, and the stream goes on.
        DeadLetter = "dead_letter",
        /// So do all later changes of its key, until somebody has dealt with it.
        DeadLetterAndBlockKey = "dead_letter_and_block_key",
    }
    /// What becomes of a schema that the registry refuses as incompatible.
    OnIncompatible {
        /// Nothing goes on.
        Halt = "halt",
        /// The subject's compatibility level is set to NONE.
        SetCompatibilityNone = "set_compatibility_none",
    }
}

/// Declares the settings: the complete struct, its defaults, and the struct in which each may be absent.
macro_rules! record_settings {
    ($( $(#[$doc:meta])* $name:ident: $Type:ty = $default:expr, )*) => {
        /// How a table's rows become records.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct RecordSettings { $( $(#[$doc])* pub $name: $Type, )* }

        impl Default for RecordSettings {
            fn default() -> RecordSettings {
                RecordSettings { $( $name: $default, )* }
            }
        }

        /// What some tables have otherwise.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct RecordOverrides { $( $(#[$doc])* pub $name: Option<$Type>, )* }

        impl RecordOverrides {
            /// The choices of columns that a complete setting makes.
            pub fn of_columns(settings: &RecordSettings) -> RecordOverrides {
                RecordOverrides {
                    columns_include: Some(settings.columns_include.clone()),
                    columns_exclude: Some(settings.columns_exclude.clone()),
                    propagate_source_type: Some(settings.propagate_source_type.clone()),
                    renames: Some(settings.renames.clone()),
                    masks: Some(settings.masks.clone()),
                    traceparent_column: Some(settings.traceparent_column.clone()),
                    tracestate_column: Some(settings.tracestate_column.clone()),
                    ..RecordOverrides::default()
                }
            }

            /// Puts what is there in the place of what was; masks are added to those that were.
            pub fn apply_to(&self, settings: &mut RecordSettings) {
                let masks_of_all = std::mem::take(&mut settings.masks);
                $( if let Some(value) = &self.$name { settings.$name.clone_from(value); } )*
                settings.masks = masks_of_all.under(std::mem::take(&mut settings.masks));
            }
        }
    };
}

record_settings! {
    /// Which Avro forms values get.
    types: TypeStyle = TypeStyle::Connect,
    /// numeric and money.
    decimal_handling: DecimalHandling = DecimalHandling::Precise,
    /// date, time and timestamp.
    time_precision: TimePrecision = TimePrecision::Adaptive,
    /// interval.
    interval_handling: IntervalHandling = IntervalHandling::Numeric,
    /// bytea, and types that are written as bytes.
    binary_handling: BinaryHandling = BinaryHandling::Bytes,
    /// hstore.
    hstore_handling: HstoreHandling = HstoreHandling::Json,
    /// Arrays.
    array_handling: ArrayHandling = ArrayHandling::List,
    /// Digits behind the point of a precise money value; Postgres' have two. At most [`MONEY_FRACTION_DIGITS_MAX`].
    money_fraction_digits: u8 = 2,
    /// Types that nobody knows.
    unknown_types: UnknownTypes = UnknownTypes::Text,
    /// Columns that an old row doesn't carry.
    absent_before: AbsentBefore = AbsentBefore::Null,
    /// The record key's columns; those of primary key or replica identity where there are none here.
    message_key_columns: ColumnList = ColumnList::default(),
    /// The record key of a table that has none.
    keyless_key: KeylessKey = KeylessKey::None,
    /// What chooses the partition instead of the whole key.
    partition_columns: ColumnList = ColumnList::default(),
    /// What becomes of a TRUNCATE.
    truncate: TruncateHandling = TruncateHandling::Skip,
    /// What stands for an unchanged TOAST value whose old value isn't at hand; after `hex:` it is bytes in
    /// hexadecimal.
    unavailable_value_placeholder: String = "__debezium_unavailable_value".to_owned(),
    /// Unchanged TOAST values.
    unchanged_toast: UnchangedToast = UnchangedToast::Placeholder,
    /// Whether the present value, marked, may stand for one that can't be had any more.
    allow_newer: bool = false,
    /// Schemas that the registry refuses as incompatible.
    on_incompatible: OnIncompatible = OnIncompatible::Halt,
    /// Rows that can't be delivered.
    on_error: OnError = OnError::Halt,
    /// What a change record looks like.
    envelope: Envelope = Envelope::Debezium,
    /// What a delete is under the flat envelope.
    flat_deletes: FlatDeletes = FlatDeletes::Tombstone,
    /// Fields beside the columns under the flat envelope.
    metadata_fields: MetadataFields = MetadataFields::default(),
    /// Goes before their names, and before `deleted`.
    metadata_prefix: String = "__".to_owned(),
    /// How keys are written.
    key_encoding: RecordEncoding = RecordEncoding::Avro,
    /// How values are written.
    value_encoding: RecordEncoding = RecordEncoding::Avro,
    /// The columns that values have.
    columns_include: ColumnPatterns = ColumnPatterns(vec!["*".to_owned()]),
    /// Columns that values don't have.
    columns_exclude: ColumnPatterns = ColumnPatterns::default(),
    /// Columns whose schemas say how they are declared in Postgres.
    propagate_source_type: ColumnPatterns = ColumnPatterns::default(),
    /// New names.
    renames: ColumnNames = ColumnNames::default(),
    /// What hides values.
    masks: ColumnMasks = ColumnMasks::default(),
    /// The key of hashes.
    mask_salt: MaskSalt = MaskSalt::default(),
    /// Which rows become records.
    row_filter: RowFilter = RowFilter::default(),
    /// The topic's name.
    topic: TopicTemplate = TopicTemplate::default(),
    /// Whether it may have other tables' records too.
    shared_topic: SharedTopic = SharedTopic::Refuse,
    /// The field of the key that tells the tables of a shared topic apart.
    table_key_field: String = TABLE_KEY_FIELD.to_owned(),
    /// What schemas are named after.
    schema_names: SchemaNames = SchemaNames::Topic,
    /// The column that a row's trace context is in.
    traceparent_column: ColumnName = ColumnName::default(),
    /// The column that the vendors' part of it is in.
    tracestate_column: ColumnName = ColumnName::default(),
    /// What came of routing.
    naming: RecordNaming = RecordNaming::default(),
}

/// The name that Debezium's ByLogicalTableRouter gives the field.
pub const TABLE_KEY_FIELD: &str = "__dbz__physicalTableIdentifier";

/// Names that don't come from a row, when a table's topic is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordNaming {
    /// The topic that schemas are named after; none for the table's own.
    pub schema_topic: Option<String>,
    /// More fields of the key, behind its columns: name and the value that all keys of the table have.
    pub key_fields: Vec<(String, String)>,
}

/// The name of a column, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnName(pub Option<String>);

/// Names of columns, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnList(pub Vec<String>);

/// The precision of Debezium's decimal for money is 64, and a money value has 17 digits before the point.
pub const MONEY_FRACTION_DIGITS_MAX: u8 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_replace_what_they_name() {
        let mut settings = RecordSettings::default();
        RecordOverrides::default().apply_to(&mut settings);
        assert_eq!(settings, RecordSettings::default());
        let overrides =
            RecordOverrides { decimal_handling: Some(DecimalHandling::String), ..RecordOverrides::default() };
        overrides.apply_to(&mut settings);
        let expected =
            RecordSettings { decimal_handling: DecimalHandling::String, ..RecordSettings::default() };
        assert_eq!(settings, expected);
    }
}
