//! The source: reads WAL from the socket, answers keepalives, reports what may be confirmed.
//!
//! It never blocks on anything downstream. When the byte budget is spent it stops reading rows and goes on reporting
//! its status on its own deadline, so that neither a slow Kafka nor a registry that is away costs the connection.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use headwater_pg::{ReplicationStream, StandbyStatus};
use headwater_pgoutput::Lsn;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::error::StageError;
use crate::metrics::Metrics;
use crate::pump::SourceBatch;
use crate::snapshot::Input;

/// How long the server may say nothing, though it is asked for a reply with every status, before the connection is
/// taken for dead: a firewall that forgot it answers nothing either.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long writing a status may take: the message is 34 bytes, so anything longer is a peer that reads nothing.
const WRITE_MAX: Duration = Duration::from_secs(20);

/// See the module's documentation.
pub(crate) struct Source {
    pub(crate) stream: ReplicationStream,
    pub(crate) inputs: Sender<Input>,
    /// True while a snapshot is copied that the stream begins after: nothing is read, and the connection is kept.
    pub(crate) held: watch::Receiver<bool>,
    /// Somebody waits for the stream to come to a position that only a keepalive may tell.
    pub(crate) ask: Arc<Notify>,
    pub(crate) budget: Arc<Budget>,
    /// The pump's checkpointed position.
    pub(crate) confirmed: watch::Receiver<Lsn>,
    /// Turns true when the pump is done: report the last position and end the stream.
    pub(crate) finish: watch::Receiver<bool>,
    /// Longest time between two status messages.
    pub(crate) status_interval: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Source {
    /// Runs until it is told to finish or the connection fails.
    pub(crate) async fn run(mut self) -> Result<(), StageError> {
        let mut received = Lsn(0);
        let mut last_heard = Instant::now();
        let mut next_status = Instant::now();
        let mut holder_gone = false;
        loop {
            let held = *self.held.borrow_and_update();
            let has_room = !held && self.budget.has_room();
            tokio::select! {
                biased;
                () = told_to(&mut self.finish) => {
                    self.send_status(received, false).await?;
                    return self.stream.finish().await.map_err(StageError::postgres("ending the replication stream"));
                }
                () = tokio::time::sleep_until(next_status) => {
                    if last_heard.elapsed() > SILENCE_MAX && has_room {
                        return Err(StageError::Silent { whom: "Postgres", seconds: last_heard.elapsed().as_secs() });
                    }
                    self.send_status(received, true).await?;
                    next_status = Instant::now() + self.status_interval;
                }
                () = self.ask.notified() => {
                    self.send_status(received, true).await?;
                    next_status = Instant::now() + self.status_interval;
                }
                changed = self.held.changed(), if held && !holder_gone => {
                    // It has failed then, and whoever watches over both ends the session for that.
                    holder_gone = changed.is_err();
                    last_heard = Instant::now();
                }
                changed = self.confirmed.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.send_status(received, false).await?;
                    next_status = Instant::now() + self.status_interval;
                }
                batch = self.stream.recv(), if has_room => {
                    let batch = batch.map_err(StageError::postgres("reading the replication stream"))?;
                    last_heard = Instant::now();
                    received = received.max(batch.last_wal_end);
                    let reply = batch.reply_requested;
                    if !self.hand_down(batch) {
                        return Ok(());
                    }
                    if reply {
                        self.send_status(received, false).await?;
                        next_status = Instant::now() + self.status_interval;
                    }
                }
                // What arrives meanwhile waits in the socket: silence is ours, not the server's.
                () = self.budget.room(), if !has_room && !held => last_heard = Instant::now(),
            }
        }
    }

    /// False when the pump is gone.
    fn hand_down(&self, wal: headwater_pg::WalBatch) -> bool {
        let charged = wal.len_bytes() as u64;
        self.metrics.received_bytes.inc_by(charged);
        self.budget.charge(charged);
        self.inputs.send(Input::Wal(SourceBatch { wal, charged })).is_ok()
    }

    async fn send_status(&mut self, received: Lsn, reply_requested: bool) -> Result<(), StageError> {
        // The checkpoint may be ahead of the slot, whose own position is stored lazily. It counts once the stream has
        // come that far: the server believes any position, even one that it has lost.
        let flush = (*self.confirmed.borrow_and_update()).min(received);
        let status = StandbyStatus { write: received, flush, apply: flush, reply_requested };
        match tokio::time::timeout(WRITE_MAX, self.stream.send_status(status)).await {
            Ok(sent) => sent.map_err(StageError::postgres("reporting the position to Postgres")),
            Err(_) => Err(StageError::Silent { whom: "Postgres", seconds: WRITE_MAX.as_secs() }),
        }
    }
}

/// Resolves when the flag is true, or when nobody is left to set it. Cancel-safe.
async fn told_to(flag: &mut watch::Receiver<bool>) {
    drop(flag.wait_for(|told| *told).await);
}
