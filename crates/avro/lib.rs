//! A table's rows as Avro: its description, its schemas, a plan compiled from them, and the bytes.
//!
//! In comes a [`TableDescription`] (what a Relation message resolved to) and then one
//! [`Tuple`](headwater_pgoutput::Tuple) after another; out come the bytes of a Kafka record's key and value in
//! the registry's wire format: a zero byte, the schema id, the Avro body.
//!
//! Invariants:
//! - Every byte is a function of the change, the description and the settings, never of the clock or of this
//!   process: a change that is sent again is byte-identical.
//! - No value is made up and none is dropped: what a type can't hold is an [`EncodeError`] that names the column.
//! - An error never quotes a value.
//!
//! The modules in reading order:

mod column_choice;
mod description;
mod error;
mod glob;
mod name_adjustment;
mod record_settings;
mod types;

mod binary;
mod encode;
mod flat;
mod mask;
mod plan;
mod row_filter;
mod schema;
mod type_schema;

mod bare;
mod json;
mod json_form;
mod json_schema;
mod plain;
pub mod registry;

pub use bare::BarePlan;
pub use column_choice::{ColumnMasks, ColumnNames, ColumnPatterns, Mask, MaskSalt};
pub use description::{ColumnDescription, PgType, TableDescription};
pub use encode::{Change, ChangeSource, Op};
pub use error::{EncodeError, Reason, SchemaError};
pub use flat::{MetadataField, MetadataFields};
pub use glob::glob_matches;
pub use json::{LinePlan, write_json_change, write_json_row};
pub use name_adjustment::{field_name, namespace, topic_name};
pub use plain::{bytes_schema_json, encode_bytes, encode_string, json_schema_json, string_schema_json};
pub use plan::{Deletes, KeyPlan, SchemaId, SourceSettings, Subject, ValuePlan, columns_of_unknown_types};
pub use record_settings::{
    AbsentBefore, ArrayHandling, BinaryHandling, DecimalHandling, Envelope, FlatDeletes, HstoreHandling,
    IntervalHandling, MONEY_FRACTION_DIGITS_MAX, RecordEncoding, RecordOverrides, RecordSettings,
    TimePrecision, TypeStyle, UnknownTypes,
};
pub use row_filter::{FilterPlan, RowFilter};
pub use schema::FORMAT_VERSION;
pub use types::is_placeholder;
