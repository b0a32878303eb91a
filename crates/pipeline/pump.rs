//! The pump: one thread that decodes changes, encodes them and offers them to the sink, in the order of the stream.
//!
//! In: batches of WAL from the source. Out: records to the sink, and through the [`Outlet`] one confirmed LSN back.
//! It waits for nothing but the sink, the budget and, when a new version of a table appears, the resolver; and while it
//! waits it serves delivery reports.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use headwater_pg::{Frame, WalBatch};
use headwater_pgoutput::{Logical, Lsn, RelationId};

use crate::error::StageError;
use crate::event::{self, Origin};
use crate::outbox::{EventPlan, EventTopics, MESSAGE_PREFIX, MessageContent};
use crate::outlet::Outlet;
use crate::row_writer::{Row, RowWriter, Scratch};
use crate::settings::Settings;
use crate::table_cache::{Counts, Form, TablePlan};
use crate::transaction::{Step, TransactionReader, unknown_relation};
use crate::versions::{Versions, writes_avro};

/// How long the pump sleeps on an empty channel while records are in flight: the most that a delivery report waits.
/// A commit reaches a consumer without it; only the confirmation is that much later.
const WAIT_IN_FLIGHT: Duration = Duration::from_millis(2);

/// And while nothing is in flight: the most that a stop waits.
const WAIT_IDLE: Duration = Duration::from_millis(50);

/// How long a drain may go without any progress once the source has ended: Kafka is away too, then.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// WAL on its way from the source.
#[derive(Debug)]
pub(crate) struct SourceBatch {
    pub(crate) wal: WalBatch,
    /// What the budget was charged for it.
    pub(crate) charged: u64,
}

/// How a pump ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PumpEnd {
    /// Asked to stop: everything up to the last Commit is confirmed.
    Stopped,
    /// The source has ended; what it sent is dealt with as far as it could be.
    SourceEnded,
}

/// See the module's documentation.
pub(crate) struct Pump {
    wal: Receiver<SourceBatch>,
    reader: TransactionReader,
    versions: Versions,
    message_events: EventPlan,
    message_topics: EventTopics,
    out: Outlet,
    /// The open transaction's place in the ack tracker.
    sequence: u32,
    /// Records of the open transaction so far.
    ordinal: u64,
    scratch: Scratch,
    tombstones: bool,
}

impl Pump {
    pub(crate) fn new(
        settings: &Settings,
        checkpoint: Lsn,
        versions: Versions,
        wal: Receiver<SourceBatch>,
        out: Outlet,
    ) -> Pump {
        Pump {
            wal,
            reader: TransactionReader::new(checkpoint),
            versions,
            message_events: EventPlan::for_messages(&settings.outbox_messages, writes_avro(settings)),
            message_topics: EventTopics::new(),
            out,
            sequence: 0,
            ordinal: 0,
            scratch: Scratch::default(),
            tombstones: settings.tombstones_on_delete,
        }
    }

    /// Runs until it is asked to stop, the source ends or something fails. The second value is the number of records
    /// that were offered and will be offered again.
    pub(crate) fn run(mut self) -> (Result<PumpEnd, StageError>, u64) {
        let result = self.pump();
        if result.as_ref().is_err_and(StageError::is_of_content) {
            // What came before it is sound: deliver and confirm it, so that a start after the cure repeats nothing.
            self.out.discard_staged(self.sequence);
            if let Err(worse) = self.out.drain(DRAIN_PATIENCE) {
                tracing::debug!(error = crate::error::chain(&worse), "draining before the halt");
            }
        }
        self.count_tables();
        let repeats = self.out.in_flight_records();
        self.out.abandon();
        (result, repeats)
    }

    fn pump(&mut self) -> Result<PumpEnd, StageError> {
        loop {
            if self.stopping() && self.reader.open().is_none() {
                // The deadline is the caller's: it abandons us when it passes.
                while !self.out.drain(DRAIN_PATIENCE)? {}
                return Ok(PumpEnd::Stopped);
            }
            let wait = if self.out.in_flight_records() > 0 { WAIT_IN_FLIGHT } else { WAIT_IDLE };
            match self.wal.recv_timeout(wait) {
                Ok(batch) => {
                    self.out.still_alive()?;
                    self.process(&batch.wal)?;
                    self.out.offer_staged()?;
                    self.out.budget().release(batch.charged);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.out.drain(DRAIN_PATIENCE)?;
                    return Ok(PumpEnd::SourceEnded);
                }
            }
            self.out.serve(Duration::ZERO)?;
            self.count_tables();
        }
    }

    fn stopping(&self) -> bool {
        self.out.stop().graceful.load(Ordering::Relaxed)
    }

    fn process(&mut self, wal: &WalBatch) -> Result<(), StageError> {
        for frame in wal.frames() {
            match frame {
                Frame::XLogData { wal_start, data, .. } => {
                    self.message(wal_start, data)?;
                    if self.reader.open().is_none() && self.stopping() {
                        return Ok(());
                    }
                }
                Frame::Keepalive { wal_end, .. } => self.out.tracker.keepalive(wal_end),
            }
        }
        self.out.received = self.out.received.max(wal.last_wal_end);
        Ok(())
    }

    fn message(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), StageError> {
        match self.reader.read(lsn, data)? {
            Step::Begin => {
                let open = self.reader.open().expect("Begin opens a transaction");
                self.sequence = self.out.tracker.begin(open.commit_unix_micros);
                self.ordinal = 0;
            }
            Step::Commit { end_lsn } => {
                self.out.tracker.commit(end_lsn);
                self.out.received = self.out.received.max(end_lsn);
                let skipped = self.reader.open().is_some_and(|open| open.skipped);
                let metrics = self.out.metrics();
                if skipped {
                    metrics.repeated_transactions.inc()
                } else {
                    metrics.transactions.inc()
                }
                self.reader.close();
            }
            Step::Relation(table) => {
                let commit_lsn = self.reader.open().map_or(lsn, |open| open.commit_lsn);
                if let Some(mut plan) = self.versions.tables.announce(table, (commit_lsn, self.ordinal)) {
                    count(&self.out, &mut plan);
                }
            }
            Step::Insert(insert) => self.change(lsn, insert.relation, &Row::Inserted(insert.new))?,
            Step::Update(update) => {
                self.change(lsn, update.relation, &Row::Updated(update.old, update.new))?
            }
            Step::Delete(delete) => self.change(lsn, delete.relation, &Row::Deleted(delete.old))?,
            Step::Truncate(truncate) => self.truncate(truncate.relations),
            Step::Message(logical) => self.logical_message(lsn, &logical)?,
            Step::Nothing => {}
        }
        Ok(())
    }

    fn truncate(&mut self, relations: impl Iterator<Item = RelationId>) {
        if self.reader.open().is_some_and(|open| open.skipped) {
            return;
        }
        for relation in relations {
            match self.versions.tables.plan_for(relation) {
                Some(plan) => plan.counts.truncate += 1,
                None => {
                    let name = self.versions.tables.name_of(relation).unwrap_or_else(|| relation.to_string());
                    self.out.metrics().skipped.with_label_values(&[name.as_str(), "truncate"]).inc();
                }
            }
        }
    }

    fn change(&mut self, lsn: Lsn, relation: RelationId, changed: &Row<'_>) -> Result<(), StageError> {
        if self.reader.open().is_some_and(|open| open.skipped) {
            return Ok(());
        }
        if self.versions.tables.plan_for(relation).is_none() {
            self.versions.resolve(relation, lsn, &mut self.out)?;
        }
        let transaction = self.reader.open().expect("a row is inside a transaction");
        let plan = self.versions.tables.plan_for(relation).ok_or_else(|| unknown_relation(relation, lsn))?;
        let mut row = RowWriter {
            lsn,
            transaction,
            sequence: self.sequence,
            ordinal: &mut self.ordinal,
            out: &mut self.out,
            scratch: &mut self.scratch,
            tombstones: self.tombstones,
        };
        let Form::Event(events, topics) = &mut plan.form else { return row.write(plan, changed) };
        // A row of the outbox is an event when it is written; cleaning up is not.
        match changed {
            Row::Inserted(new) => {
                let origin = Origin { name: &plan.name, questions: &self.versions.questions };
                event::write_row(events, topics, new, &origin, &mut row)?;
                plan.counts.create += 1;
            }
            Row::Updated(..) => plan.counts.outbox_update += 1,
            Row::Deleted(_) => plan.counts.outbox_delete += 1,
        }
        Ok(())
    }

    fn logical_message(&mut self, lsn: Lsn, logical: &Logical<'_>) -> Result<(), StageError> {
        let Some(aggregatetype) = logical.prefix.strip_prefix(MESSAGE_PREFIX) else {
            self.out.metrics().skipped.with_label_values(&["", "message"]).inc();
            return Ok(());
        };
        let name = format!("a logical message with prefix {MESSAGE_PREFIX}{aggregatetype}");
        let transaction = match self.reader.open() {
            Some(transaction) if logical.transactional => transaction,
            _ => {
                let what =
                    "it is not transactional: pg_logical_emit_message needs true as its first argument";
                return Err(StageError::Outbox { origin: name, commit_lsn: lsn, what: what.to_owned() });
            }
        };
        if transaction.skipped {
            return Ok(());
        }
        let origin = Origin { name: &name, questions: &self.versions.questions };
        let mut row = RowWriter {
            lsn,
            transaction,
            sequence: self.sequence,
            ordinal: &mut self.ordinal,
            out: &mut self.out,
            scratch: &mut self.scratch,
            tombstones: self.tombstones,
        };
        let content = MessageContent::parse(logical.content).map_err(|what| origin.error(&row, what))?;
        let event = content.event(aggregatetype);
        event::write(&self.message_events, &mut self.message_topics, &event, &origin, &mut row)?;
        let topic = &self.scratch.topic;
        self.out.metrics().records.with_label_values(&[topic.as_str(), "event"]).inc();
        self.out.status().count(topic, "event", 1);
        Ok(())
    }

    fn count_tables(&mut self) {
        for plan in self.versions.tables.plans_mut() {
            count(&self.out, plan);
        }
    }
}

/// Adds a plan's counts to metrics and status, and starts them anew.
fn count(out: &Outlet, plan: &mut TablePlan) {
    let Counts {
        create,
        update,
        delete,
        tombstone,
        truncate,
        outbox_update,
        outbox_delete,
        filtered,
        flat_delete,
    } = std::mem::take(&mut plan.counts);
    let create_op = if matches!(plan.form, Form::Event(..)) { "event" } else { "c" };
    for (op, records) in [(create_op, create), ("u", update), ("d", delete), ("tombstone", tombstone)] {
        if records > 0 {
            out.metrics().records.with_label_values(&[plan.name.as_str(), op]).inc_by(records);
            out.status().count(&plan.name, op, records);
        }
    }
    for (reason, changes) in [
        ("truncate", truncate),
        ("outbox_update", outbox_update),
        ("outbox_delete", outbox_delete),
        ("filter", filtered),
        ("flat_delete", flat_delete),
    ] {
        if changes > 0 {
            out.metrics().skipped.with_label_values(&[plan.name.as_str(), reason]).inc_by(changes);
        }
    }
}
