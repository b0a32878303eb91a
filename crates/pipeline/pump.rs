//! The pump: one thread that decodes changes, encodes them and offers them to the sink, in the order of the stream.
//!
//! In: batches of WAL from the source. Out: records to the sink, and through the [`Outlet`] one confirmed LSN back.
//! It waits for nothing but the sink, the budget and, when a new version of a table appears, the resolver; and while it
//! waits it serves delivery reports.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use headwater_avro::{Change, ChangeSource, EncodeError, KeyPlan, Op, SchemaId, Subject, ValuePlan};
use headwater_kafka::partition_for_key;
use headwater_pg::{Frame, WalBatch};
use headwater_pgoutput::{Lsn, OldTuple, RelationId, TableSchema, Tuple};
use tokio::sync::{mpsc, oneshot};

use crate::error::StageError;
use crate::history::{HistoryRecord, Lookup, SchemaHistory};
use crate::outbox::{EventPlan, MESSAGE_PREFIX};
use crate::outlet::Outlet;
use crate::record::{ID_HEADER, Record, Token, write_record_id};
use crate::resolver::Question;
use crate::settings::Settings;
use crate::table_cache::{Counts, Form, TableCache, TablePlan};
use crate::transaction::{Step, Transaction, TransactionReader};

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
    settings: Settings,
    database: String,
    wal: Receiver<SourceBatch>,
    questions: mpsc::Sender<Question>,
    reader: TransactionReader,
    tables: TableCache,
    history: SchemaHistory,
    message_events: EventPlan,
    out: Outlet,
    /// The open transaction's place in the ack tracker.
    sequence: u32,
    /// Records of the open transaction so far.
    ordinal: u64,
    scratch: Scratch,
}

/// Buffers that are used again for every record.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) key_json: Vec<u8>,
    pub(crate) old_key_json: Vec<u8>,
    pub(crate) topic: String,
}

impl Pump {
    pub(crate) fn new(
        settings: Settings,
        database: String,
        checkpoint: Lsn,
        history: SchemaHistory,
        wal: Receiver<SourceBatch>,
        questions: mpsc::Sender<Question>,
        out: Outlet,
    ) -> Pump {
        Pump {
            message_events: EventPlan::for_messages(&settings.outbox_messages, writes_avro(&settings)),
            settings,
            database,
            wal,
            questions,
            reader: TransactionReader::new(checkpoint),
            tables: TableCache::default(),
            history,
            out,
            sequence: 0,
            ordinal: 0,
            scratch: Scratch::default(),
        }
    }

    /// Runs until it is asked to stop, the source ends or something fails. The second value is the number of records
    /// that were offered and will be offered again.
    pub(crate) fn run(mut self) -> (Result<PumpEnd, StageError>, u64) {
        let result = self.pump();
        if result.as_ref().is_err_and(StageError::is_of_content) {
            // What came before it is sound: deliver and confirm it, so that a start after the cure repeats nothing.
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
                if let Some(mut plan) = self.tables.announce(table, (commit_lsn, self.ordinal)) {
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
            match self.tables.plan_for(relation) {
                Some(plan) => plan.counts.truncate += 1,
                None => {
                    let name = self.tables.name_of(relation).unwrap_or_else(|| relation.to_string());
                    self.out.metrics().skipped.with_label_values(&[name.as_str(), "truncate"]).inc();
                }
            }
        }
    }

    fn change(&mut self, lsn: Lsn, relation: RelationId, changed: &Row<'_>) -> Result<(), StageError> {
        if self.reader.open().is_some_and(|open| open.skipped) {
            return Ok(());
        }
        if self.tables.plan_for(relation).is_none() {
            self.resolve(relation, lsn)?;
        }
        let open = self.reader.open().expect("a row is inside a transaction");
        let plan = self.tables.plan_for(relation).expect("resolved above");
        let mut row = RowWriter {
            lsn,
            transaction: open,
            sequence: self.sequence,
            ordinal: &mut self.ordinal,
            out: &mut self.out,
            scratch: &mut self.scratch,
            tombstones: self.settings.tombstones_on_delete,
        };
        if let Form::Event(events) = &plan.form {
            // A row of the outbox is an event when it is written; cleaning up is not.
            let new = match changed {
                Row::Inserted(new) => new,
                Row::Updated(..) => {
                    plan.counts.outbox_update += 1;
                    return Ok(());
                }
                Row::Deleted(_) => {
                    plan.counts.outbox_delete += 1;
                    return Ok(());
                }
            };
            let failed = |what| StageError::Outbox {
                origin: plan.name.clone(),
                commit_lsn: row.transaction.commit_lsn,
                what,
            };
            let event = events.event(new).map_err(failed)?;
            events.write_topic(event.aggregatetype, &mut row.scratch.topic).map_err(failed)?;
            if !events.topics.contains_key(&row.scratch.topic) {
                let topic = row.scratch.topic.clone();
                let resolved =
                    crate::event::resolve_topic(events, &plan.name, &topic, &self.questions, row.out)?;
                let Form::Event(events) = &mut plan.form else { unreachable!("matched above") };
                events.topics.insert(topic, resolved);
            }
            let Form::Event(events) = &plan.form else { unreachable!("matched above") };
            let event = events.event(new).map_err(failed)?;
            crate::event::write(events, &event, &plan.name, &mut row)?;
            plan.counts.create += 1;
            return Ok(());
        }
        row.write(plan, changed)
    }

    fn logical_message(
        &mut self,
        lsn: Lsn,
        logical: &headwater_pgoutput::Logical<'_>,
    ) -> Result<(), StageError> {
        let Some(aggregatetype) = logical.prefix.strip_prefix(MESSAGE_PREFIX) else {
            self.out.metrics().skipped.with_label_values(&["", "message"]).inc();
            return Ok(());
        };
        let origin = format!("a logical message with prefix {MESSAGE_PREFIX}{aggregatetype}");
        let Some(open) = self.reader.open() else {
            let what = "it is not transactional: pg_logical_emit_message needs true as its first argument"
                .to_owned();
            return Err(StageError::Outbox { origin, commit_lsn: lsn, what });
        };
        if open.skipped {
            return Ok(());
        }
        let mut row = RowWriter {
            lsn,
            transaction: open,
            sequence: self.sequence,
            ordinal: &mut self.ordinal,
            out: &mut self.out,
            scratch: &mut self.scratch,
            tombstones: self.settings.tombstones_on_delete,
        };
        let failed = |what| StageError::Outbox { origin: origin.clone(), commit_lsn: open.commit_lsn, what };
        if !logical.transactional {
            return Err(failed(
                "it is not transactional: pg_logical_emit_message needs true as its first argument"
                    .to_owned(),
            ));
        }
        let content = crate::outbox::MessageContent::parse(logical.content).map_err(failed)?;
        let event = content.event(aggregatetype);
        let events = &mut self.message_events;
        events.write_topic(aggregatetype, &mut row.scratch.topic).map_err(failed)?;
        if !events.topics.contains_key(&row.scratch.topic) {
            let topic = row.scratch.topic.clone();
            let resolved = crate::event::resolve_topic(events, &origin, &topic, &self.questions, row.out)?;
            events.topics.insert(topic, resolved);
        }
        crate::event::write(events, &event, &origin, &mut row)?;
        let topic = &self.scratch.topic;
        self.out.metrics().records.with_label_values(&[topic.as_str(), "event"]).inc();
        self.out.status().count(topic, "event", 1);
        Ok(())
    }

    /// Makes the plan for an announced relation: from history where it is known, else from catalog and registry, and
    /// then only after it is stored.
    fn resolve(&mut self, relation: RelationId, lsn: Lsn) -> Result<(), StageError> {
        let Some((table, at)) = self.tables.unresolved(relation) else {
            return Err(crate::transaction::unknown_relation(relation, lsn));
        };
        let record = match self.history.look_up(&table, at) {
            Lookup::Known(record) => self.check_partitions(record)?,
            Lookup::New { in_force } => self.new_version(&table, at, in_force)?,
        };
        let plan = self.plan(record)?;
        self.tables.insert(relation, plan).map_err(StageError::Halt)
    }

    /// Partitions are today's: a consumer's next record goes where Java's partitioner would put it today.
    fn check_partitions(&mut self, mut record: HistoryRecord) -> Result<HistoryRecord, StageError> {
        let topic = record.topic.clone();
        let partitions = ask(&self.questions, &mut self.out, |answer| Question::Topic { topic, answer })?;
        if partitions != record.partitions {
            tracing::warn!(
                topic = record.topic,
                before = record.partitions,
                now = partitions,
                "partition_count_changed: keys move to other partitions, so the order of a key's records across this moment is lost"
            );
            record.partitions = partitions;
            self.out.store_history(&record)?;
            self.history.push(record.clone());
        }
        Ok(record)
    }

    fn new_version(
        &mut self,
        table: &TableSchema,
        at: (Lsn, u64),
        in_force: Option<HistoryRecord>,
    ) -> Result<HistoryRecord, StageError> {
        let asked = table.clone();
        let description =
            ask(&self.questions, &mut self.out, |answer| Question::Describe { table: asked, answer })?;
        if let Some(same) =
            in_force.as_ref().filter(|old| old.table == *table && old.description == description)
        {
            return self.check_partitions(same.clone());
        }
        let name = format!("{}.{}", table.namespace, table.name);
        let is_outbox = self.outbox_settings(table).is_some();
        let topic = self.settings.table_topic(&table.namespace, &table.name);
        let mut record = HistoryRecord {
            version: HistoryRecord::VERSION,
            commit_lsn: at.0,
            ordinal: at.1,
            table: table.clone(),
            description,
            topic: topic.clone(),
            partitions: 1,
            key_schema_id: None,
            value_schema_id: None,
        };
        if self.writes_avro() && !is_outbox {
            record.partitions = ask(&self.questions, &mut self.out, |answer| Question::Topic {
                topic: topic.clone(),
                answer,
            })?;
            let source = self.source_settings();
            let schema_error = |source| StageError::Schema { table: name.clone(), source };
            let key = KeyPlan::new(&record.description, &source).map_err(schema_error)?;
            let value = ValuePlan::new(&record.description, &source).map_err(schema_error)?;
            if let Some(key) = &key {
                record.key_schema_id =
                    Some(self.register(&name, Subject::for_key(&topic), key.schema_json())?);
            }
            record.value_schema_id =
                Some(self.register(&name, Subject::for_value(&topic), value.schema_json())?);
        }
        if let Some(old) =
            in_force.filter(|old| old.key_schema_id.is_some() && old.key_schema_id != record.key_schema_id)
        {
            tracing::warn!(
                table = name,
                before = old.key_schema_id,
                now = record.key_schema_id,
                "key_schema_changed: the same key has other bytes from here on, and may go to another partition"
            );
        }
        self.out.store_history(&record)?;
        self.history.push(record.clone());
        tracing::info!(table = name, topic, commit_lsn = %at.0, "a new version of a table");
        Ok(record)
    }

    fn register(&mut self, table: &str, subject: Subject, schema_json: &str) -> Result<u32, StageError> {
        let (table, schema_json) = (table.to_owned(), schema_json.to_owned());
        let id = ask(&self.questions, &mut self.out, |answer| Question::Register {
            table,
            subject: subject.0,
            schema_json,
            answer,
        })?;
        Ok(id.0)
    }

    fn plan(&self, record: HistoryRecord) -> Result<TablePlan, StageError> {
        let name = format!("{}.{}", record.table.namespace, record.table.name);
        let form = if let Some(outbox) = self.outbox_settings(&record.table) {
            Form::Event(
                EventPlan::for_table(outbox, &record.description, self.writes_avro())
                    .map_err(StageError::Halt)?,
            )
        } else if let Some(value_id) = record.value_schema_id.filter(|_| self.writes_avro()) {
            let source = self.source_settings();
            let schema_error = |source| StageError::Schema { table: name.clone(), source };
            let key = KeyPlan::new(&record.description, &source).map_err(schema_error)?;
            Form::Avro {
                key: key.map(|plan| (plan, SchemaId(record.key_schema_id.unwrap_or_default()))),
                value: ValuePlan::new(&record.description, &source).map_err(schema_error)?,
                value_id: SchemaId(value_id),
                partitions: record.partitions,
                keyless_partition: partition_for_key(record.topic.as_bytes(), record.partitions),
            }
        } else {
            Form::Lines
        };
        Ok(TablePlan {
            name,
            topic: record.topic,
            description: record.description,
            form,
            counts: Counts::default(),
        })
    }

    fn outbox_settings(&self, table: &TableSchema) -> Option<&crate::settings::OutboxTable> {
        self.settings
            .outbox
            .iter()
            .find(|outbox| outbox.schema == table.namespace && outbox.table == table.name)
    }

    fn writes_avro(&self) -> bool {
        writes_avro(&self.settings)
    }

    fn source_settings(&self) -> headwater_avro::SourceSettings {
        headwater_avro::SourceSettings {
            prefix: self.settings.topics.prefix.clone(),
            database: self.database.clone(),
        }
    }

    fn count_tables(&mut self) {
        for plan in self.tables.plans_mut() {
            count(&self.out, plan);
        }
    }
}

/// Only Kafka has a registry; the local sinks write lines.
fn writes_avro(settings: &Settings) -> bool {
    matches!(settings.sink, crate::settings::SinkSettings::Kafka { .. })
}

/// Adds a plan's counts to metrics and status, and starts them anew.
fn count(out: &Outlet, plan: &mut TablePlan) {
    let Counts { create, update, delete, tombstone, truncate, outbox_update, outbox_delete } =
        std::mem::take(&mut plan.counts);
    let create_op = if matches!(plan.form, Form::Event(_)) { "event" } else { "c" };
    for (op, records) in [(create_op, create), ("u", update), ("d", delete), ("tombstone", tombstone)] {
        if records > 0 {
            out.metrics().records.with_label_values(&[plan.name.as_str(), op]).inc_by(records);
            out.status().count(&plan.name, op, records);
        }
    }
    for (reason, changes) in
        [("truncate", truncate), ("outbox_update", outbox_update), ("outbox_delete", outbox_delete)]
    {
        if changes > 0 {
            out.metrics().skipped.with_label_values(&[plan.name.as_str(), reason]).inc_by(changes);
        }
    }
}

/// Asks the resolver and serves deliveries until it answers.
pub(crate) fn ask<T>(
    questions: &mpsc::Sender<Question>,
    out: &mut Outlet,
    question: impl FnOnce(oneshot::Sender<Result<T, StageError>>) -> Question,
) -> Result<T, StageError> {
    let (answer, mut answered) = oneshot::channel();
    questions.try_send(question(answer)).map_err(|_| StageError::Stopped)?;
    loop {
        match answered.try_recv() {
            Ok(result) => return result,
            Err(oneshot::error::TryRecvError::Empty) => {
                out.serve(Duration::from_millis(1))?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(oneshot::error::TryRecvError::Closed) => return Err(StageError::Stopped),
        }
    }
}

/// What happened to a row. An update carries its old tuple only where the replica identity says so.
enum Row<'a> {
    Inserted(Tuple<'a>),
    Updated(Option<OldTuple<'a>>, Tuple<'a>),
    Deleted(OldTuple<'a>),
}

/// Writes the records of one row.
pub(crate) struct RowWriter<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) transaction: &'a Transaction,
    pub(crate) sequence: u32,
    pub(crate) ordinal: &'a mut u64,
    pub(crate) out: &'a mut Outlet,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) tombstones: bool,
}

impl RowWriter<'_> {
    fn write(&mut self, plan: &mut TablePlan, changed: &Row<'_>) -> Result<(), StageError> {
        match changed {
            Row::Inserted(new) => {
                plan.counts.create += 1;
                self.record(plan, Op::Create, None, Some(new), None)
            }
            Row::Updated(Some(old), new) if self.key_changed(plan, old, new) => {
                self.key_change(plan, old, new)
            }
            Row::Updated(old, new) => {
                plan.counts.update += 1;
                self.record(plan, Op::Update, old.as_ref(), Some(new), None)
            }
            Row::Deleted(old) => self.delete(plan, old, None),
        }
    }

    fn key_changed(&self, plan: &TablePlan, old: &OldTuple<'_>, new: &Tuple<'_>) -> bool {
        match &plan.form {
            Form::Avro { key: Some((key, _)), .. } => key.changed(old.tuple(), new),
            _ => false,
        }
    }

    /// A changed key is a delete of the old key and a create of the new one, linked by Debezium's headers.
    fn key_change(
        &mut self,
        plan: &mut TablePlan,
        old: &OldTuple<'_>,
        new: &Tuple<'_>,
    ) -> Result<(), StageError> {
        let Form::Avro { key: Some((key, _)), .. } = &plan.form else {
            unreachable!("only a key can change")
        };
        let (mut new_json, mut old_json) =
            (std::mem::take(&mut self.scratch.key_json), std::mem::take(&mut self.scratch.old_key_json));
        new_json.clear();
        old_json.clear();
        let written = key
            .write_json_with_old(new, Some(old.tuple()), &mut new_json)
            .and_then(|()| key.write_json(old.tuple(), &mut old_json));
        written.map_err(|source| self.encode_error(plan, source))?;
        self.delete(plan, old, Some(("__debezium.newkey", &new_json)))?;
        plan.counts.create += 1;
        self.record(plan, Op::Create, Some(old), Some(new), Some(("__debezium.oldkey", &old_json)))?;
        (self.scratch.key_json, self.scratch.old_key_json) = (new_json, old_json);
        Ok(())
    }

    fn delete(
        &mut self,
        plan: &mut TablePlan,
        old: &OldTuple<'_>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        plan.counts.delete += 1;
        self.record(plan, Op::Delete, Some(old), None, header)?;
        let keyed = matches!(plan.form, Form::Avro { key: Some(_), .. });
        if !keyed || !self.tombstones {
            return Ok(());
        }
        plan.counts.tombstone += 1;
        let key = std::mem::take(&mut self.scratch.key);
        let result = self.offer(plan, &plan.topic, Some(&key), None, header);
        self.scratch.key = key;
        result
    }

    fn record(
        &mut self,
        plan: &TablePlan,
        op: Op,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        let source = ChangeSource {
            commit_lsn: self.transaction.commit_lsn,
            lsn: self.lsn,
            commit_unix_micros: self.transaction.commit_unix_micros,
            xid: self.transaction.xid,
            origin: self.transaction.origin.as_ref().map(|(name, lsn)| (name.as_str(), *lsn)),
        };
        let change = Change {
            op,
            before: old.map(OldTuple::tuple),
            before_is_full: old.is_some_and(OldTuple::is_full),
            after: new,
            source: &source,
        };
        let (mut key, mut value) =
            (std::mem::take(&mut self.scratch.key), std::mem::take(&mut self.scratch.value));
        key.clear();
        value.clear();
        let result = self.encode(plan, &change, &mut key, &mut value).and_then(|keyed| {
            self.offer(plan, &plan.topic, keyed.then_some(key.as_slice()), Some(&value), header)
        });
        (self.scratch.key, self.scratch.value) = (key, value);
        result
    }

    /// Whether there is a key.
    fn encode(
        &self,
        plan: &TablePlan,
        change: &Change<'_>,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<bool, StageError> {
        let failed = |source| self.encode_error(plan, source);
        match &plan.form {
            Form::Avro { key: key_plan, value: value_plan, value_id, .. } => {
                value_plan.encode_into(*value_id, change, value).map_err(failed)?;
                let Some((key_plan, key_id)) = key_plan else { return Ok(false) };
                let keyed_by = change.after.or(change.before).expect("a change has a tuple");
                key_plan.encode_with_old_into(*key_id, keyed_by, change.before, key).map_err(failed)?;
                Ok(true)
            }
            Form::Lines => {
                headwater_avro::write_json_change(&plan.description, change, value);
                Ok(false)
            }
            Form::Event(_) => unreachable!("events are written elsewhere"),
        }
    }

    fn offer(
        &mut self,
        plan: &TablePlan,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        let partition = match (&plan.form, key) {
            (Form::Avro { partitions, .. }, Some(key)) => partition_for_key(key, *partitions),
            (Form::Avro { keyless_partition, .. }, None) => *keyless_partition,
            _ => 0,
        };
        match header {
            None => self.offer_to(topic, partition, key, value, &[]),
            Some(header) => self.offer_to(topic, partition, key, value, &[header]),
        }
    }

    /// Offers one record with its identity and up to a few more headers.
    pub(crate) fn offer_to(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        write_record_id(&mut self.scratch.id, self.transaction.commit_lsn, *self.ordinal);
        *self.ordinal += 1;
        let id = (ID_HEADER, self.scratch.id.as_slice());
        let timestamp_ms = Some(self.transaction.commit_unix_micros.div_euclid(1000));
        let record = |headers| Record {
            topic,
            partition,
            key,
            value,
            headers,
            timestamp_ms,
            token: Token::CHECKPOINT,
        };
        let commit_lsn = self.transaction.commit_lsn;
        match more {
            [] => self.out.offer(self.sequence, record(&[id]), commit_lsn),
            [one] => self.out.offer(self.sequence, record(&[id, *one]), commit_lsn),
            more => {
                let mut headers = vec![id];
                headers.extend_from_slice(more);
                self.out.offer(self.sequence, record(&headers), commit_lsn)
            }
        }
    }

    pub(crate) fn encode_error(&self, plan: &TablePlan, source: EncodeError) -> StageError {
        StageError::Encode {
            table: plan.name.clone(),
            commit_lsn: self.transaction.commit_lsn,
            lsn: self.lsn,
            source,
        }
    }
}
