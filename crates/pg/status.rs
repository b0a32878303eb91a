//! Standby status updates: what this side has received, kept and applied.

use headwater_pgoutput::Lsn;

/// Positions to report. Each is the last byte + 1 of WAL, as the manual has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received.
    pub write: Lsn,
    /// Safe: the server may forget what is before it.
    pub flush: Lsn,
    /// Applied.
    pub apply: Lsn,
    /// Whether the server shall answer at once.
    pub reply_requested: bool,
}
