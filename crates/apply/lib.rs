//! Kafka to a Postgres replica: records of tables become rows, outbox events become calls, each exactly once.
//!
//! In: [`Settings`]; topics that Headwater or Debezium wrote as Avro. Out: tables of another database that equal the
//! source's, and the offsets in the same transactions. Invariants:
//! - A row and the offset behind its record are committed together, or neither is.
//! - Who does not own a partition's row in `headwater.apply_offset` changes nothing on its behalf.
//! - A record never replaces what a later one of its source wrote, however often and wherever it comes again.
//! - What can't be applied truthfully halts, or goes to the dead letter topic; nothing is passed over in silence.
//!
//! The modules in reading order:

mod settings;

mod naming;
mod position;

mod halt;
mod status;

mod lag;
mod ledger;
mod target;

mod layout;
mod ready_table;
mod widening;

mod fold;
mod upsert;

mod answers;
mod batch;
mod collect;
mod commit;
mod events;
mod letters;
mod replay;
mod session;
mod setting_aside;
mod writer;

mod backoff;
mod run;

mod check;
mod metrics;

pub use check::{Finding, Met, check};
pub use halt::{Halt, HaltCause};
pub use metrics::Metrics;
pub use run::run;
pub use settings::{EventSettings, FeedbackFormat, OnPoison, Replay, Settings, StartAt, TableRule};
pub use status::{Progress, Report, State, Status};
