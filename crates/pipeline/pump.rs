//! The pump: one thread that decodes changes, encodes them and offers them to the sink, in the order of the stream.
//!
//! In: batches of WAL from the source. Out: records to the sink, and through the [`Outlet`] one confirmed LSN back.
//! It waits for nothing but the sink, the budget and, when a new version of a table appears, the resolver; and while it
//! waits it serves delivery reports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use headwater_avro::{EncodeError, OnError, TruncateHandling};
use headwater_kafka::Refused;
use headwater_pg::{Frame, WalBatch};
use headwater_pgoutput::{Lsn, RelationId, TableSchema, Tuple};
use tokio::sync::Notify;

use crate::counts::count;
use crate::dead_letter::too_large_alone;
use crate::error::StageError;
use crate::event::{self, Origin};
use crate::halt::{ExitCode, Halt};
use crate::message_topic::MessageTopic;
use crate::outbox::{EventPlan, EventTopics};
use crate::release::Holding;
use crate::resolver::Question;
use crate::row_writer::{Row, RowWriter};
use crate::settings::Settings;
use crate::snapshot::intake::Intake;
use crate::snapshot::ledger::{Ledger, LedgerEntry};
use crate::snapshot::session::PumpSide;
use crate::snapshot::signal_rows::SignalRows;
use crate::snapshot::{CopyInput, Input};
use crate::table_cache::{Form, TablePlan};
use crate::transaction::{Step, TransactionReader, unknown_relation};
use crate::versions::{Versions, writes_avro};
use crate::writer::Writer;

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

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// It was written, or nothing was to be written.
    Done,
    /// Its values must be read back first.
    Waits,
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
    inputs: Receiver<Input>,
    pub(crate) intake: Intake,
    ledger: Ledger,
    /// Where a table of signals is configured.
    signals: Option<SignalRows>,
    /// Somebody looks for new tables.
    look: Arc<Notify>,
    /// Every transaction that ends here or before has been read.
    passed: Lsn,
    pub(crate) reader: TransactionReader,
    pub(crate) versions: Versions,
    pub(crate) message_events: EventPlan,
    pub(crate) message_topics: EventTopics,
    pub(crate) messages: MessageTopic,
    /// What becomes of messages that are no events.
    pub(crate) message_errors: OnError,
    pub(crate) writer: Writer,
    /// Changes that wait for values to be read back.
    pub(crate) holding: Holding,
}

impl Pump {
    pub(crate) fn new(
        settings: &Settings,
        checkpoint: Lsn,
        versions: Versions,
        holding: Holding,
        inputs: Receiver<Input>,
        side: PumpSide,
        writer: Writer,
    ) -> Pump {
        Pump {
            inputs,
            intake: side.intake,
            ledger: Ledger::new(settings),
            signals: side.signals,
            look: side.look,
            passed: checkpoint,
            reader: TransactionReader::new(checkpoint),
            message_events: EventPlan::for_messages(
                &settings.outbox_messages,
                writes_avro(settings),
                settings.records.all.on_incompatible,
            ),
            message_topics: EventTopics::new(),
            messages: MessageTopic::new(settings, versions.source()),
            message_errors: settings.records.all.on_error,
            writer,
            versions,
            holding,
        }
    }

    /// Runs until it is asked to stop, the source ends or something fails. The second value is the number of records
    /// that were offered and will be offered again.
    pub(crate) fn run(mut self) -> (Result<PumpEnd, StageError>, u64) {
        let result = match self.pump() {
            Err(StageError::TooLarge { refused, source }) => Err(self.learn_too_large(refused, source)),
            result => result,
        };
        if result.as_ref().is_err_and(StageError::is_of_content) {
            // What came before it is sound: deliver and confirm it, so that a start after the cure repeats nothing.
            self.writer.discard_staged();
            if let Err(worse) = self.writer.out.drain(DRAIN_PATIENCE) {
                tracing::debug!(error = crate::error::chain(&worse), "draining before the halt");
            }
        }
        self.count_tables();
        let repeats = self.writer.out.in_flight_records();
        self.writer.out.abandon();
        (result, repeats)
    }

    fn pump(&mut self) -> Result<PumpEnd, StageError> {
        loop {
            if self.stopping() && self.reader.open().is_none() {
                // The deadline is the caller's: it abandons us when it passes.
                while !self.writer.out.drain(DRAIN_PATIENCE)? {}
                return Ok(PumpEnd::Stopped);
            }
            let wait = match self.writer.out.in_flight_records() {
                _ if self.copy_slice()? => Duration::ZERO,
                0 => WAIT_IDLE,
                _ => WAIT_IN_FLIGHT,
            };
            match self.inputs.recv_timeout(wait) {
                Ok(Input::Wal(batch)) => {
                    self.writer.out.still_alive()?;
                    self.process(&batch.wal)?;
                    self.release_complete()?;
                    self.writer.out.offer_staged()?;
                    self.writer.out.budget().release(batch.charged);
                }
                // In one order with all that is stored beside the checkpoint.
                Ok(Input::Copy(CopyInput::Store { key, value })) => {
                    self.writer.out.still_alive()?;
                    self.ledger.take(LedgerEntry::Progress { key, value }, &mut self.writer)?;
                }
                Ok(Input::Ledger(entry)) => {
                    self.writer.out.still_alive()?;
                    self.ledger.take(entry, &mut self.writer)?;
                }
                Ok(Input::Copy(input)) => {
                    self.writer.out.still_alive()?;
                    let open = self.reader.open().map(|open| open.xid);
                    self.intake.take(input, open, &mut self.versions, &mut self.writer)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.writer.out.drain(DRAIN_PATIENCE)?;
                    return Ok(PumpEnd::SourceEnded);
                }
            }
            self.writer.out.serve(Duration::ZERO)?;
            self.ledger.serve(&mut self.writer)?;
            self.intake.tell(&mut self.writer);
            self.count_tables();
            self.writer.tell_blocked();
        }
    }

    /// A slice of the chunk that waits to be written, if this is its time. True if there is more of it.
    fn copy_slice(&mut self) -> Result<bool, StageError> {
        if !self.intake.has_chunk() || self.reader.open().is_some() {
            return Ok(false);
        }
        self.intake.slice(self.passed, &mut self.versions, &mut self.writer)
    }

    /// Before a transaction is read: whatever was committed before it has been. Without this moment a copy without a key
    /// would have to wait for a pause of the stream.
    fn join_copy(&mut self, commit_lsn: Lsn) -> Result<(), StageError> {
        let Some(at) = self.intake.joins_before(commit_lsn) else { return Ok(()) };
        self.passed = self.passed.max(at);
        self.intake.slice(self.passed, &mut self.versions, &mut self.writer).map(drop)
    }

    fn stopping(&self) -> bool {
        self.writer.out.stop().graceful.load(Ordering::Relaxed)
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
                Frame::Keepalive { wal_end, .. } => {
                    self.writer.out.tracker.keepalive(wal_end);
                    // What is held back has come, and has not been read.
                    if self.holding.held.is_empty() {
                        self.passed = self.passed.max(wal_end);
                    }
                }
            }
        }
        self.writer.out.received = self.writer.out.received.max(wal.last_wal_end);
        Ok(())
    }

    /// One message as it comes: what stands behind a row that waits, waits as well.
    pub(crate) fn message(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), StageError> {
        if self.holding.held.is_empty() { self.read_message(lsn, data) } else { self.hold(lsn, data) }
    }

    /// One message whose turn it is.
    pub(crate) fn read_message(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), StageError> {
        match self.reader.read(lsn, data)? {
            Step::Begin => {
                self.holding.gave_up = false;
                let open = self.reader.open().expect("Begin opens a transaction");
                let (commit_lsn, commit_unix_micros) = (open.commit_lsn, open.commit_unix_micros);
                self.join_copy(commit_lsn)?;
                self.writer.begin(commit_unix_micros);
            }
            Step::Commit { end_lsn } => {
                if let Some(open) = self.reader.open().filter(|open| !open.skipped) {
                    self.writer.row(lsn, open).end_transaction()?;
                }
                self.writer.out.tracker.commit(end_lsn);
                self.writer.tell_sent(end_lsn);
                self.writer.prune_blocked()?;
                self.writer.out.received = self.writer.out.received.max(end_lsn);
                self.passed = self.passed.max(end_lsn);
                let skipped = self.reader.open().is_some_and(|open| open.skipped);
                if let Some(open) = self.reader.open() {
                    self.intake.passed(open.xid, &mut self.writer)?;
                }
                let metrics = self.writer.out.metrics();
                if skipped {
                    metrics.repeated_transactions.inc()
                } else {
                    metrics.transactions.inc()
                }
                self.reader.close();
                self.copy_slice()?;
            }
            Step::Relation(table) => {
                if let Some(open) = self.reader.open().filter(|_| !self.intake.touched.is_idle()) {
                    self.intake.touched.announced(table.id, open.xid);
                }
                self.announced(&table);
                let commit_lsn = self.reader.open().map_or(lsn, |open| open.commit_lsn);
                if let Some(mut plan) =
                    self.versions.tables.announce(table, (commit_lsn, self.writer.ordinal))
                {
                    count(&self.writer.out, &mut plan);
                }
            }
            Step::Insert(insert) => {
                self.take_signal(insert.relation, &insert.new);
                self.change(lsn, insert.relation, &Row::Inserted(insert.new)).map(drop)?
            }
            Step::Update(update) => {
                if self.change(lsn, update.relation, &Row::Updated(update.old, update.new))? == Written::Waits
                {
                    self.hold(lsn, data)?;
                }
            }
            Step::Delete(delete) => self.change(lsn, delete.relation, &Row::Deleted(delete.old)).map(drop)?,
            Step::Truncate(truncate) => self.truncate(lsn, truncate.relations)?,
            Step::Message(logical) => self.logical_message(lsn, &logical)?,
            Step::Nothing => {}
        }
        Ok(())
    }

    /// A Relation message may be the first that is heard of a table, or be that of signals.
    fn announced(&mut self, table: &TableSchema) {
        if self.versions.tables.schema_of(table.id).is_none() {
            self.look.notify_one();
        }
        if let Some(signals) = &mut self.signals {
            signals.announced(table);
        }
    }

    /// A row that was inserted may be a signal: its transaction is not confirmed before what it asks for is stored.
    fn take_signal(&mut self, relation: RelationId, new: &Tuple<'_>) {
        let Some(signals) = self.signals.as_mut().filter(|signals| signals.is_table(relation)) else {
            return;
        };
        if let Some(open) = self.reader.open().filter(|open| !open.skipped) {
            signals.take(open.commit_lsn, self.writer.hold_open(), new);
        }
    }

    fn truncate(&mut self, lsn: Lsn, relations: impl Iterator<Item = RelationId>) -> Result<(), StageError> {
        if self.reader.open().is_some_and(|open| open.skipped) {
            return Ok(());
        }
        for relation in relations {
            if let Some(open) = self.reader.open() {
                if self.intake.is_settled(relation, open.xid) {
                    continue;
                }
                self.intake.touched.truncated(relation, open.xid);
            }
            let (name, handling) =
                self.versions.truncate_handling(relation).ok_or_else(|| unknown_relation(relation, lsn))?;
            match handling {
                TruncateHandling::Skip => {
                    self.writer.out.metrics().skipped.with_label_values(&[name.as_str(), "truncate"]).inc();
                }
                TruncateHandling::Halt => return Err(refused_truncate(&name, lsn)),
                TruncateHandling::Emit => {
                    self.resolve(relation, lsn)?;
                    let transaction = self.reader.open().expect("a TRUNCATE is inside a transaction");
                    let plan = self.versions.tables.plan_for(relation);
                    let plan = plan.ok_or_else(|| unknown_relation(relation, lsn))?;
                    match self.writer.row(lsn, transaction).truncated(plan) {
                        Err(error) if error.stage_of_row().is_some() => {
                            self.writer.row(lsn, transaction).set_aside(plan, &Row::Truncated, error)?;
                        }
                        written => written?,
                    }
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, lsn: Lsn, relation: RelationId, changed: &Row<'_>) -> Result<Written, StageError> {
        match self.change_or_fail(lsn, relation, changed) {
            Err(error) if error.stage_of_row().is_some() => self.set_aside(lsn, relation, changed, error),
            outcome => outcome,
        }
    }

    /// A row that can't be written is set aside, or is the end of the session.
    #[cold]
    fn set_aside(
        &mut self,
        lsn: Lsn,
        relation: RelationId,
        changed: &Row<'_>,
        error: StageError,
    ) -> Result<Written, StageError> {
        self.writer.marks = None;
        let Some(plan) = self.versions.tables.plan_for(relation) else { return Err(error) };
        let Some(transaction) = self.reader.open() else { return Err(error) };
        self.intake.touch(&plan.description, transaction.xid, changed, true);
        self.writer.row(lsn, transaction).set_aside(plan, changed, error)?;
        Ok(Written::Done)
    }

    fn change_or_fail(
        &mut self,
        lsn: Lsn,
        relation: RelationId,
        changed: &Row<'_>,
    ) -> Result<Written, StageError> {
        let ordinal = self.writer.ordinal;
        match self.write_change(lsn, relation, changed) {
            Err(StageError::Encode {
                source: EncodeError::UnexpectedNull { column, type_name },
                table,
                commit_lsn,
                lsn,
            }) if self.writer.ordinal == ordinal && self.versions.writes_changes(relation) => {
                if self.versions.null_met(relation, (commit_lsn, ordinal), &column, &mut self.writer.out)? {
                    self.writer.uncount();
                    return self.change_or_fail(lsn, relation, changed);
                }
                let source = EncodeError::UnexpectedNull { column, type_name };
                Err(StageError::Encode { source, table, commit_lsn, lsn })
            }
            outcome => outcome,
        }
    }

    fn write_change(
        &mut self,
        lsn: Lsn,
        relation: RelationId,
        changed: &Row<'_>,
    ) -> Result<Written, StageError> {
        if self.reader.open().is_some_and(|open| open.skipped || self.intake.is_settled(relation, open.xid)) {
            return Ok(Written::Done);
        }
        match self.versions.tables.plan_for(relation) {
            Some(plan) if plan.labels.is_empty() && plan.reselect.is_none() && !plan.is_unplanned() => {}
            _ => {
                self.make_ready(lsn, relation, changed)?;
                if self.must_wait(relation, changed) {
                    return Ok(Written::Waits);
                }
            }
        }
        let transaction = self.reader.open().expect("a row is inside a transaction");
        let plan = self.versions.tables.plan_for(relation).ok_or_else(|| unknown_relation(relation, lsn))?;
        if !self.intake.touched.is_idle() {
            self.intake.touch(&plan.description, transaction.xid, changed, false);
        }
        let mut row = self.writer.row(lsn, transaction);
        if !row.writer.dead_letters.is_watchful() {
            return write_planned(plan, changed, &mut row).map(|()| Written::Done);
        }
        row.watch(plan, changed)?;
        if row.writer.dead_letters.is_blocking() {
            self.intake.touch(&plan.description, transaction.xid, changed, true);
        }
        let written = write_planned(plan, changed, &mut row);
        row.unwatch();
        written.map(|()| Written::Done)
    }

    /// Topics that have refused records for their size: what is too large by itself is remembered, so that the next
    /// session sets it aside where it meets it. The refusal is the end if a policy says so.
    #[cold]
    fn learn_too_large(&mut self, refused: Vec<Refused>, source: headwater_kafka::Error) -> StageError {
        let Some(topic) = refused.first().map(|record| record.topic.clone()) else {
            return StageError::TooLarge { refused, source };
        };
        let (answer, answered) = tokio::sync::oneshot::channel();
        let asked = self.versions.questions.try_send(Question::Limit { topic: topic.clone(), answer });
        let limit = asked.ok().and_then(|()| answered.blocking_recv().ok()?.ok()?);
        let of_topic: Vec<Refused> = refused.iter().filter(|record| record.topic == topic).cloned().collect();
        // Without the right to ask, the largest must be it.
        let largest = of_topic.iter().map(|record| record.value_bytes).max().unwrap_or_default();
        let limit = limit.unwrap_or(largest as u64);
        let learned = too_large_alone(of_topic, limit);
        if learned.is_empty() || !self.versions.sets_aside(&topic) {
            return StageError::TooLarge { refused, source };
        }
        let records = learned.len();
        self.writer.dead_letters.remember(learned);
        StageError::LearnedTooLarge { records, topic }
    }

    /// Makes sure that the relation's rows can be written.
    pub(crate) fn resolve(&mut self, relation: RelationId, lsn: Lsn) -> Result<(), StageError> {
        self.versions.make_ready(relation, lsn, &mut self.writer.out)
    }

    /// Makes the plan that a row needs: the first one of an announced table; and, since a label that was added to an
    /// enum comes without any Relation message, the one that begins with the first row that holds it, before any of the
    /// row's records is offered.
    fn make_ready(&mut self, lsn: Lsn, relation: RelationId, changed: &Row<'_>) -> Result<(), StageError> {
        self.versions.ask_again(relation, (lsn, self.writer.ordinal), false);
        self.resolve(relation, lsn)?;
        while let Some(plan) = self.versions.tables.plan_for(relation).filter(|plan| !plan.labels.is_empty())
        {
            let Some(unseen) = changed.unseen_label(&plan.labels) else { break };
            count(&self.writer.out, plan);
            let commit_lsn = self.reader.open().expect("a row is inside a transaction").commit_lsn;
            self.versions.label_added(
                relation,
                (commit_lsn, self.writer.ordinal),
                &unseen,
                &mut self.writer.out,
            )?;
        }
        Ok(())
    }

    fn count_tables(&mut self) {
        for plan in self.versions.tables.plans_mut() {
            count(&self.writer.out, plan);
        }
    }
}

/// Writes a row as its table's plan has it.
fn write_planned(plan: &mut TablePlan, changed: &Row<'_>, row: &mut RowWriter<'_>) -> Result<(), StageError> {
    let (events, topics) = match &mut plan.form {
        Form::Event(events, topics) => (events, topics),
        Form::LeftOut => {
            plan.counts.left_out += 1;
            return Ok(());
        }
        Form::Record { .. } | Form::Lines(_) | Form::Unplanned { .. } => return row.write(plan, changed),
    };
    // A row of the outbox is an event when it is written; cleaning up is not.
    match changed {
        Row::Read(_) | Row::Truncated => unreachable!("the stream has changes of rows here"),
        Row::Inserted(new) => {
            let origin = Origin { name: &plan.name };
            plan.counts.create += u64::from(event::write_row(events, topics, new, &origin, row)?);
        }
        Row::Updated(..) => {
            plan.counts.outbox_update += 1;
            event::note_update(events, &Origin { name: &plan.name }, row)?;
        }
        Row::Deleted(_) => plan.counts.outbox_delete += 1,
    }
    Ok(())
}

fn refused_truncate(table: &str, lsn: Lsn) -> StageError {
    StageError::Halt(Halt::new(
        ExitCode::TruncateRefused,
        format!("{table} was truncated at {lsn}, and truncate = \"halt\""),
        "empty the consumers' copies, then start once with truncate = \"skip\" or \"emit\" for this table",
    ))
}
