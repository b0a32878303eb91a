//! Which plan a row is written with: the version of its table that was in force at its point of the stream.
//!
//! A Relation message is resolved at its first row: from the schema history where it is known, else from catalog and
//! registry, and then only after the result is stored. Whatever has to be asked is asked through the resolver's task,
//! and deliveries are served meanwhile.

use std::time::Duration;

use headwater_avro::{KeyPlan, SchemaId, SourceSettings, Subject, ValuePlan};
use headwater_kafka::partition_for_key;
use headwater_pgoutput::{Lsn, RelationId, TableSchema};
use tokio::sync::{mpsc, oneshot};

use crate::error::StageError;
use crate::history::{HistoryRecord, Lookup, SchemaHistory};
use crate::outbox::{EventPlan, EventTopics};
use crate::outlet::Outlet;
use crate::resolver::Question;
use crate::settings::{OutboxTable, Settings, SinkSettings};
use crate::table_cache::{Counts, Form, TableCache, TablePlan};

/// The tables' versions; owned by the pump.
pub(crate) struct Versions {
    settings: Settings,
    database: String,
    history: SchemaHistory,
    pub(crate) tables: TableCache,
    pub(crate) questions: mpsc::Sender<Question>,
}

impl Versions {
    pub(crate) fn new(
        settings: Settings,
        database: String,
        history: SchemaHistory,
        questions: mpsc::Sender<Question>,
    ) -> Versions {
        Versions { settings, database, history, tables: TableCache::default(), questions }
    }

    /// Makes the plan for an announced relation: from history where it is known, else from catalog and registry, and
    /// then only after it is stored.
    pub(crate) fn resolve(
        &mut self,
        relation: RelationId,
        lsn: Lsn,
        out: &mut Outlet,
    ) -> Result<(), StageError> {
        let Some((table, at)) = self.tables.unresolved(relation) else {
            return Err(crate::transaction::unknown_relation(relation, lsn));
        };
        let record = match self.history.look_up(&table, at) {
            Lookup::Known(record) => self.check_partitions(record, out)?,
            Lookup::New { in_force } => self.new_version(&table, at, in_force, out)?,
        };
        let plan = self.plan(record)?;
        self.tables.insert(relation, plan).map_err(StageError::Halt)
    }

    /// Partitions are today's: a consumer's next record goes where Java's partitioner would put it today.
    fn check_partitions(
        &mut self,
        mut record: HistoryRecord,
        out: &mut Outlet,
    ) -> Result<HistoryRecord, StageError> {
        let topic = record.topic.clone();
        let partitions = ask(&self.questions, out, |answer| Question::Topic { topic, answer })?;
        if partitions != record.partitions {
            tracing::warn!(
                topic = record.topic,
                before = record.partitions,
                now = partitions,
                "partition_count_changed: keys move to other partitions, so the order of a key's records across this moment is lost"
            );
            record.partitions = partitions;
            out.store_history(&record)?;
            self.history.push(record.clone());
        }
        Ok(record)
    }

    fn new_version(
        &mut self,
        table: &TableSchema,
        at: (Lsn, u64),
        in_force: Option<HistoryRecord>,
        out: &mut Outlet,
    ) -> Result<HistoryRecord, StageError> {
        let asked = table.clone();
        let description = ask(&self.questions, out, |answer| Question::Describe { table: asked, answer })?;
        if let Some(same) =
            in_force.as_ref().filter(|old| old.table == *table && old.description == description)
        {
            return self.check_partitions(same.clone(), out);
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
            record.partitions =
                ask(&self.questions, out, |answer| Question::Topic { topic: topic.clone(), answer })?;
            let source = self.source_settings();
            let schema_error = |source| StageError::Schema { table: name.clone(), source };
            let key = KeyPlan::new(&record.description, &source).map_err(schema_error)?;
            let value = ValuePlan::new(&record.description, &source).map_err(schema_error)?;
            if let Some(key) = &key {
                record.key_schema_id =
                    Some(self.register(&name, Subject::for_key(&topic), key.schema_json(), out)?);
            }
            record.value_schema_id =
                Some(self.register(&name, Subject::for_value(&topic), value.schema_json(), out)?);
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
        out.store_history(&record)?;
        self.history.push(record.clone());
        tracing::info!(table = name, topic, commit_lsn = %at.0, "a new version of a table");
        Ok(record)
    }

    fn register(
        &mut self,
        table: &str,
        subject: Subject,
        schema_json: &str,
        out: &mut Outlet,
    ) -> Result<u32, StageError> {
        let (table, schema_json) = (table.to_owned(), schema_json.to_owned());
        let id = ask(&self.questions, out, |answer| Question::Register {
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
                EventTopics::new(),
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

    fn outbox_settings(&self, table: &TableSchema) -> Option<&OutboxTable> {
        self.settings
            .outbox
            .iter()
            .find(|outbox| outbox.schema == table.namespace && outbox.table == table.name)
    }

    fn writes_avro(&self) -> bool {
        writes_avro(&self.settings)
    }

    fn source_settings(&self) -> SourceSettings {
        SourceSettings { prefix: self.settings.topics.prefix.clone(), database: self.database.clone() }
    }
}

/// Only Kafka has a registry; the local sinks write lines.
pub(crate) fn writes_avro(settings: &Settings) -> bool {
    matches!(settings.sink, SinkSettings::Kafka { .. })
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
