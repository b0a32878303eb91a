//! Batches one after another: one is written while the next is collected.
//!
//! In: the session's batch. Out: its transaction, and where each partition stands then. Invariants: a batch departs only
//! when the one before it has landed, and what was collected behind a batch that was refused is dropped and comes again.

use std::time::Duration;

use crate::batch::{Batch, Moves};
use crate::halt::Failure;
use crate::session::Session;
use crate::writer::{Flight, Landed, Writer};

/// The writer, or what it is doing.
pub(crate) enum Connection {
    Idle(Writer),
    Busy(Flight),
    /// The session has failed.
    Lost,
}

impl Session<'_> {
    /// Begins the batch's transaction, once the one before is over. False if that was refused.
    pub(crate) fn depart(&mut self) -> Result<bool, Failure> {
        if !self.land()? {
            return Ok(false);
        }
        self.look_around()?;
        let mut batch = std::mem::take(&mut self.batch);
        // All instances lock tables in one order.
        batch.tables.sort_by(|a, b| a.target.cmp(&b.target));
        let moves = Moves::new(&self.owner, &self.partitions);
        for partition in &mut self.partitions {
            partition.sent = partition.next;
        }
        match std::mem::replace(&mut self.connection, Connection::Lost) {
            Connection::Idle(writer) => {
                let flight = writer.depart(&self.shared.runtime, batch, moves);
                self.connection = Connection::Busy(flight);
                Ok(true)
            }
            _ => Err(Failure::Away("the connection is not free".to_owned())),
        }
    }

    /// Waits for the transaction under way. False if it was refused: then its records come again, and whatever was
    /// collected behind them as well.
    pub(crate) fn land(&mut self) -> Result<bool, Failure> {
        match std::mem::replace(&mut self.connection, Connection::Lost) {
            Connection::Busy(flight) => {
                let Landed { writer, batch, moves, outcome, took } = flight.land(&self.shared.runtime)?;
                self.connection = Connection::Idle(writer);
                match outcome {
                    Ok(()) => self.landed(&batch, &moves, took),
                    Err(Failure::Refused(refusal)) => {
                        self.batch = Batch::default();
                        for partition in &mut self.partitions {
                            partition.sent = partition.stored;
                            partition.last = partition.stored_last;
                        }
                        return self.refused(&refusal, &batch).map(|()| false);
                    }
                    Err(other) => return Err(other),
                }
            }
            other => self.connection = other,
        }
        Ok(true)
    }

    fn landed(&mut self, batch: &Batch, moves: &Moves, took: Duration) {
        if !batch.is_empty() {
            self.shared.metrics.batches.inc();
            self.shared.metrics.batch_seconds.observe(took.as_secs_f64());
            self.shared.lag.applied(batch.newest_ms);
        }
        for moved in &moves.next {
            let ours = self.partitions.iter_mut().find(|partition| partition.place == moved.place);
            if let Some(partition) = ours {
                (partition.stored, partition.stored_last) = (moved.next_offset, moved.last);
            }
        }
        self.forget_careful();
    }

    /// The writer, when nothing is under way.
    pub(crate) fn writer(&mut self) -> Result<&mut Writer, Failure> {
        match &mut self.connection {
            Connection::Idle(writer) => Ok(writer),
            _ => Err(Failure::Away("the connection is not free".to_owned())),
        }
    }

    /// Moves the offsets only. Nothing is collected and nothing under way.
    pub(crate) fn apply_offsets(&mut self) -> Result<(), Failure> {
        if self.partitions.iter().any(|partition| partition.next != partition.stored) {
            self.depart()?;
            self.land()?;
        }
        Ok(())
    }

    /// Applies what was collected, and waits for it. False if one of its records was refused: then all of them come
    /// again, and whatever was read behind them as well.
    pub(crate) fn apply(&mut self) -> Result<bool, Failure> {
        if !self.land()? {
            return Ok(false);
        }
        if self.batch.is_empty() {
            return self.apply_offsets().map(|()| true);
        }
        Ok(self.depart()? && self.land()?)
    }

    pub(crate) fn stored(&mut self) {
        for partition in &mut self.partitions {
            (partition.stored, partition.sent) = (partition.next, partition.next);
            partition.stored_last = partition.last;
        }
        self.forget_careful();
    }

    fn forget_careful(&mut self) {
        let partitions = &self.partitions;
        self.careful.retain(|place, until| {
            partitions.iter().any(|partition| partition.place == *place && partition.stored < *until)
        });
        self.record = None;
    }

    /// What is under way ends as it does; what was collected comes again, to whoever has the partition then. So does what
    /// was refused.
    pub(crate) fn end_flight(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.connection, Connection::Lost) {
            Connection::Busy(flight) => {
                let Landed { writer, outcome, .. } = flight.land(&self.shared.runtime)?;
                match outcome {
                    Ok(()) | Err(Failure::Refused(_)) => self.connection = Connection::Idle(writer),
                    Err(other) => return Err(other),
                }
            }
            other => self.connection = other,
        }
        Ok(())
    }
}
