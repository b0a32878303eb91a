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
mod topic_template;
mod types;

mod binary;
mod encode;
mod flat;
mod mask;
mod plan;
mod read_rows;
mod row_filter;
mod schema;
mod source_type;
mod type_schema;

mod bare;
mod enum_labels;
mod feedback;
mod json;
mod json_form;
mod json_schema;
mod key_text;
mod logical_message;
mod notification;
mod part_form;
mod plain;
pub mod registry;
mod transaction_metadata;
mod unchanged_columns;

pub mod reading;

pub mod from_json;

mod same_bytes;
mod schema_diff;
mod subject;

pub use bare::BarePlan;
pub use binary::write_header;
pub use column_choice::{ColumnMasks, ColumnNames, ColumnPatterns, Mask, MaskSalt};
pub use description::{ColumnDescription, Declared, PgType, TableDescription};
pub use encode::{Change, ChangeSource, Op, SnapshotMark, TransactionPlace};
pub use enum_labels::{EnumLabels, UnseenLabel};
pub use error::{EncodeError, Reason, SchemaError};
pub use feedback::{FEEDBACK_JSON, Feedback, write_feedback};
pub use flat::{MetadataField, MetadataFields};
pub use glob::glob_matches;
pub use json::{LinePlan, write_json_change, write_json_row};
pub use key_text::KeyTexts;
pub use logical_message::{
    LogicalMessage, MESSAGE_KEY_JSON, message_value_json, write_json_message, write_message,
    write_message_key,
};
pub use name_adjustment::{field_name, namespace, topic_name};
pub use notification::{
    NOTIFICATION_KEY_JSON, NOTIFICATION_VALUE_JSON, Notification, write_json_notification,
    write_notification, write_notification_key,
};
pub use part_form::PartForm;
pub use plain::{bytes_schema_json, encode_bytes, encode_string, json_schema_json, string_schema_json};
pub use plan::{Deletes, KeyPlan, SchemaId, SourceSettings, Subject, ValuePlan, columns_of_unknown_types};
pub use record_settings::{
    AbsentBefore, ArrayHandling, BinaryHandling, ColumnList, ColumnName, DecimalHandling, Envelope,
    FlatDeletes, HstoreHandling, IntervalHandling, KeylessKey, MONEY_FRACTION_DIGITS_MAX, OnError,
    OnIncompatible, RecordEncoding, RecordNaming, RecordOverrides, RecordSettings, SchemaNames, SharedTopic,
    TABLE_KEY_FIELD, TimePrecision, TruncateHandling, TypeStyle, UnchangedToast, UnknownTypes,
};
pub use row_filter::{FilterPlan, RowFilter};
pub use same_bytes::first_difference;
pub use schema::FORMAT_VERSION;
pub use schema_diff::field_changes;
pub use subject::{RecordPart, SubjectStrategy};
pub use topic_template::{TOPIC_LENGTH_MAX, TopicParts, TopicTemplate, check_topic_name, legal_in_topic};
pub use transaction_metadata::{
    TRANSACTION_KEY_JSON, TRANSACTION_VALUE_JSON, TransactionStatus, write_json_transaction,
    write_transaction, write_transaction_key,
};
pub use types::{decode_bytea, event_unix_millis, is_placeholder, utc_text};
pub use unchanged_columns::{UnchangedColumn, unchanged_columns};
