//! From a replication slot to a sink: the path of a row, module by module in the order in which a row meets them.
//!
//! The source task reads WAL from the socket; the pump thread decodes, encodes and offers; delivery reports come back
//! to the same thread, where the ack tracker turns them into one LSN; the LSN is checkpointed and only then confirmed.

pub mod halt;
pub mod metrics;
pub mod settings;
pub mod status;

mod boot_clock;

pub use halt::{ExitCode, Halt};
pub use metrics::Metrics;
pub use settings::Settings;
pub use status::Status;
