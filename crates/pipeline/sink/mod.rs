//! Where records go: Kafka, the standard output, a file, or nowhere.
//!
//! A sink takes records in order and reports each as delivered, in any order, when it can no longer be lost.

pub(crate) mod discard;
pub(crate) mod kafka;
pub(crate) mod lines;

use std::time::Duration;

use crate::error::StageError;
use crate::record::{Record, Token};

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// The sink has it; a delivery will follow.
    Accepted,
    /// No room: poll, and offer the same record again.
    Full,
}

/// Takes records in order.
pub(crate) trait Sink: Send {
    /// Whether records keep their order within their partition only, or all in one.
    fn has_partitions(&self) -> bool;

    /// Offers one record. Never blocks.
    fn offer(&mut self, record: &Record<'_>) -> Result<Offered, StageError>;

    /// Waits up to `timeout` for deliveries and appends their tokens. An error ends the session: whatever is not
    /// delivered then is repeated from the checkpoint.
    fn poll(&mut self, timeout: Duration, delivered: &mut Vec<Token>) -> Result<(), StageError>;

    /// Lets go of what is not delivered, quickly.
    fn abandon(self: Box<Self>);
}
