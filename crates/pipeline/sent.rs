//! Which events of outbox tables with a status were sent: told to whoever writes that status, off the data path.
//!
//! In: each event that was offered, and at its transaction's Commit the position which, once it is confirmed, says that
//! the event is in Kafka. Out: batches for a task of its own. Invariants: nothing here ever waits. What is waiting is
//! bounded; beyond that, events are forgotten and counted, and found again by whoever looks for rows left behind.
//!
//! An event that was set aside is another matter: its row must not be found and marked as sent later, so the pump waits
//! until the row says DEAD ([`AsideEvent`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use headwater_pgoutput::Lsn;
use tokio::sync::{mpsc, oneshot};

use crate::error::StageError;

/// How many events may wait to be marked: some 10 MiB.
const WAITING_MAX: usize = 100_000;

/// One event that was offered to the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentEvent {
    /// The outbox table, `schema.table`.
    pub table: Arc<str>,
    /// The event's id as Postgres writes it.
    pub id: Box<str>,
    /// Which sending it is. A row that was written again meanwhile has a higher one, and is not meant.
    pub attempt: i32,
}

/// The events of one transaction.
#[derive(Debug)]
pub struct SentBatch {
    /// They are in Kafka for certain when this position is confirmed.
    pub confirmed_at: Lsn,
    /// In the order of the stream.
    pub events: Vec<SentEvent>,
}

/// An event that went to the dead letter topic. The pump waits until [`AsideEvent::written`] is called.
#[derive(Debug)]
pub struct AsideEvent {
    /// Of the row, and of the sending that failed.
    pub event: SentEvent,
    /// Why, without values of the row.
    pub reason: String,
    pub(crate) answer: oneshot::Sender<Result<(), StageError>>,
}

impl AsideEvent {
    /// The row says so, for good.
    pub fn written(self) {
        // A pump that has ended meets the row again.
        drop(self.answer.send(Ok(())));
    }
}

/// The pump's end, one for all sessions.
#[derive(Debug, Clone)]
pub struct SentLog {
    batches: mpsc::UnboundedSender<SentBatch>,
    /// One pump waits at a time.
    pub(crate) asides: mpsc::Sender<AsideEvent>,
    counts: Arc<Counts>,
    /// Of the open transaction.
    open: Vec<SentEvent>,
}

/// The other end.
#[derive(Debug)]
pub struct SentEvents {
    batches: mpsc::UnboundedReceiver<SentBatch>,
    asides: Option<mpsc::Receiver<AsideEvent>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    forgotten: AtomicU64,
}

/// Both ends.
pub fn sent_events() -> (SentLog, SentEvents) {
    let (batches, received) = mpsc::unbounded_channel();
    let (asides, received_asides) = mpsc::channel(1);
    let counts = Arc::new(Counts::default());
    (
        SentLog { batches, asides, counts: counts.clone(), open: Vec::new() },
        SentEvents { batches: received, asides: Some(received_asides), counts },
    )
}

impl SentLog {
    pub(crate) fn note(&mut self, event: SentEvent) {
        if self.open.len() + self.counts.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            self.counts.forgotten.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.open.push(event);
    }

    /// The transaction is read to its Commit.
    pub(crate) fn ended(&mut self, confirmed_at: Lsn) {
        if self.open.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.open);
        let count = events.len();
        self.counts.waiting.fetch_add(count, Ordering::Relaxed);
        if self.batches.send(SentBatch { confirmed_at, events }).is_err() {
            self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

impl SentEvents {
    /// The events that were set aside, for whoever writes that down; none the second time.
    pub fn take_asides(&mut self) -> Option<mpsc::Receiver<AsideEvent>> {
        self.asides.take()
    }

    /// The next batch; none when every pump has gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<SentBatch> {
        self.batches.recv().await
    }

    /// What has come already and was not taken yet, without waiting.
    pub fn take_ready(&mut self) -> Option<SentBatch> {
        self.batches.try_recv().ok()
    }

    /// Whether every pump has gone; what they sent may still be here.
    pub fn is_closed(&self) -> bool {
        self.batches.is_closed()
    }

    /// So many events do not wait any more.
    pub fn done(&self, events: usize) {
        self.counts.waiting.fetch_sub(events, Ordering::Relaxed);
    }

    /// Events that wait to be marked.
    pub fn waiting(&self) -> usize {
        self.counts.waiting.load(Ordering::Relaxed)
    }

    /// Events that were forgotten since this was asked last.
    pub fn take_forgotten(&self) -> u64 {
        self.counts.forgotten.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u32) -> SentEvent {
        SentEvent { table: "public.outbox".into(), id: id.to_string().into(), attempt: 1 }
    }

    #[tokio::test]
    async fn beyond_the_limit_events_are_forgotten_and_counted() {
        let (mut log, mut events) = sent_events();
        for id in 0..WAITING_MAX as u32 + 7 {
            log.note(event(id));
        }
        log.ended(Lsn(9));
        log.note(event(0));
        log.ended(Lsn(10));
        let batch = events.next().await.unwrap();
        assert_eq!((batch.confirmed_at, batch.events.len()), (Lsn(9), WAITING_MAX));
        assert_eq!(events.take_forgotten(), 8);
        events.done(batch.events.len());
        log.note(event(1));
        log.ended(Lsn(11));
        let batch = events.next().await.unwrap();
        assert_eq!(
            (batch.confirmed_at, batch.events),
            (Lsn(11), vec![event(1)]),
            "a transaction without events is none"
        );
        assert_eq!(events.take_forgotten(), 0);
    }
}
