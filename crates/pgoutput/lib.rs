//! The bytes of Postgres' logical replication plugin `pgoutput`, protocol version 1, become messages.
//!
//! In: the payload of one `XLogData` frame, which is exactly one message. Out: a [`Message`] that borrows
//! from it. Pure: no I/O, no clock, no state between messages, and no panic on any input.
//! Source: PostgreSQL manual, "Logical Replication Message Formats", and `replication/logical/proto.c`.
//!
//! Rows that are copied instead of streamed come as text of COPY: `copy_text` makes the same tuples of them.
//!
//! Invariants:
//! - A message is taken whole or refused: a byte too few, a byte too many, a flag or marker that protocol 1
//!   does not define, and a name that is not UTF-8 are each a [`DecodeError`].
//! - Row values are slices of the input. Only a Relation message, sent once per table and session, allocates.
//! - Row values appear neither in an error nor in the `Debug` form of a message.

mod message;
mod tuple;

mod copy_text;
mod fill;

mod relation;

mod lsn;
mod timestamp;

mod error;
mod reader;

pub use copy_text::{CopyTextError, read_copy_row};
pub use error::{DecodeError, Reason};
pub use fill::fill_unchanged;
pub use lsn::{Lsn, ParseLsnError};
pub use message::{Begin, Commit, Delete, Insert, Logical, Message, OldTuple, Origin, RelationIds, Truncate};
pub use message::{TypeName, Update};
pub use relation::{RelationId, ReplicaIdentity, TableColumn, TableSchema};
pub use timestamp::PgTimestamp;
pub use tuple::{Column, Columns, Tuple};
