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

mod description;
mod error;
mod name_adjustment;
mod record_settings;
mod types;

mod binary;
mod encode;
mod plan;
mod schema;
mod type_schema;

mod bare;
mod enum_labels;
mod json;
mod plain;
pub mod registry;

mod same_bytes;
mod schema_diff;
mod subject;

pub use bare::BarePlan;
pub use description::{ColumnDescription, PgType, TableDescription};
pub use encode::{Change, ChangeSource, Op};
pub use enum_labels::{EnumLabels, UnseenLabel};
pub use error::{EncodeError, Reason, SchemaError};
pub use json::{write_json_change, write_json_row};
pub use name_adjustment::{field_name, namespace, topic_name};
pub use plain::{bytes_schema_json, encode_bytes, encode_string, json_schema_json, string_schema_json};
pub use plan::{KeyPlan, SchemaId, SourceSettings, Subject, ValuePlan, columns_of_unknown_types};
pub use record_settings::{
    AbsentBefore, ArrayHandling, BinaryHandling, DecimalHandling, HstoreHandling, IntervalHandling,
    MONEY_FRACTION_DIGITS_MAX, OnIncompatible, RecordOverrides, RecordSettings, TimePrecision, TypeStyle,
    UnknownTypes,
};
pub use same_bytes::first_difference;
pub use schema::FORMAT_VERSION;
pub use schema_diff::field_changes;
pub use subject::{RecordPart, SubjectStrategy};
pub use types::is_placeholder;
