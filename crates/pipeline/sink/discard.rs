//! The sink that keeps nothing: records are made as for Kafka and thrown away, to measure everything before it.

use std::time::Duration;

use crate::error::StageError;
use crate::record::{Record, Token};
use crate::sink::{Offered, Sink};

/// Records that may wait for the poll that delivers them: as many as fit into a budget of some megabytes.
const UNDELIVERED_MAX: usize = 10_000;

/// Delivers what it was offered at the next poll.
#[derive(Default)]
pub(crate) struct DiscardSink {
    offered: Vec<Token>,
}

impl Sink for DiscardSink {
    fn has_partitions(&self) -> bool {
        true
    }

    fn offer(&mut self, record: &Record<'_>) -> Result<Offered, StageError> {
        if self.offered.len() >= UNDELIVERED_MAX {
            return Ok(Offered::Full);
        }
        self.offered.push(record.token);
        Ok(Offered::Accepted)
    }

    fn poll(&mut self, timeout: Duration, delivered: &mut Vec<Token>) -> Result<(), StageError> {
        if self.offered.is_empty() {
            std::thread::sleep(timeout);
        }
        delivered.append(&mut self.offered);
        Ok(())
    }

    fn abandon(self: Box<Self>) {}
}
