//! From a replication slot to a sink: the path of a row, module by module in the order in which a row meets them.
//!
//! The source task reads WAL from the socket; the pump thread decodes, encodes and offers; delivery reports come back
//! to the same thread, where the ack tracker turns them into one LSN; the LSN is checkpointed and only then confirmed.

pub mod settings;

pub mod records;

pub mod route;

mod topic_rewriting;

mod outbox_settings;

mod source;

mod budget;

mod pump;

mod logical;

mod counts;

mod transaction;

mod versions;

mod table_cache;

mod history;

mod resolver;

mod ask;

mod describe;

mod record_key;

pub mod present;

mod row_writer;

mod offer;

mod writer;

mod copied_run;

mod reselect;

mod held_wal;

mod release;

mod reselector;

mod outbox;

mod reserved_topics;

mod event_value;

mod event;

pub mod sent;

mod dead_letter;

mod aside_plan;

mod blocked_keys;

mod side_topic;

pub mod snapshot;

mod transaction_topic;

mod message_topic;

mod trace;

mod record;

mod stage;

mod outlet;

mod sink;

mod ack;

mod checkpoint;

mod run;

mod own_slot;

mod start;

pub mod first_start;

pub mod take_over;

mod store;

mod slot_watch;

mod sink_watch;

mod error;

mod recovery;

mod backoff;

mod boot_clock;

pub mod halt;

pub mod metrics;

pub mod status;

pub use halt::{ExitCode, Halt};
pub use metrics::Metrics;
pub use outbox::matches_pattern as outbox_pattern_matches;
pub use run::{ShutdownStage, run};
pub use settings::Settings;
pub use status::Status;
pub use topic_rewriting::Rewriting;
