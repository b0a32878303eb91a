//! The way back: records of Headwater or Debezium as Avro, taken apart by the schema they were written under, into
//! the text that Postgres reads.
//!
//! In: a writer's schema (JSON) and, once per table, the types of the columns it goes to; then bytes behind the
//! registry's 5-byte header. Out: a line of `COPY … FROM STDIN` per row (tabs between columns, `\N` for NULL, escaped),
//! the change's operation, and the position that its `source` states.
//!
//! Invariants: no value is guessed. A pair of forms that could change a value's meaning is refused when the plan is
//! made, bytes that the schema does not describe are refused when they are read, and no input panics.

mod cell;
mod cell_text;
mod created_type;
mod cursor;
mod decimals;
mod envelope;
mod event;
mod fields;
mod moments;
pub(crate) mod schema_tree;

pub use cell::{PgColumnType, Unreadable};
pub use cursor::{ReadError, confluent_parts};
pub use envelope::{
    ChangeOp, EnvelopePlan, EnvelopeReader, KeyPlanReader, KeyReader, OfferedColumn, ReadChange, SourceMark,
};
pub use event::PayloadReader;
pub use fields::{FieldValue, FieldsReader};
