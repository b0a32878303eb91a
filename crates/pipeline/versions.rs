//! Which plan a row is written with: the version of its table that was in force at its point of the stream.
//!
//! A Relation message is resolved at its first row: from the schema history where it is known, else from catalog and
//! registry, and then only after the result is stored. Whatever has to be asked is asked through the resolver's task,
//! and deliveries are served meanwhile.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use headwater_avro::{
    EnumLabels, KeyPlan, LinePlan, OnError, RecordPart, RecordSettings, SchemaId, SourceSettings,
    TableDescription, TruncateHandling, UnseenLabel, columns_of_unknown_types,
};
use headwater_kafka::partition_for_key;
use headwater_pgoutput::{Lsn, RelationId, TableSchema};
use tokio::sync::mpsc;

use crate::ask::ask;
use crate::counts::Counts;
use crate::error::{StageError, chain};
use crate::halt::{ExitCode, Halt};
use crate::history::{HistoryRecord, Lookup, SchemaHistory};
use crate::outbox::{EventPlan, EventTopics};
use crate::outlet::Outlet;
use crate::present::{self, Plans, Unsuitable};
use crate::reselect::ReselectPlan;
use crate::resolver::Question;
use crate::route::TableRoute;
use crate::settings::{OutboxTable, Settings, SinkSettings};
use crate::table_cache::{Form, TableCache, TablePlan};
use crate::trace::TraceColumns;

/// How long the rows of a table are set aside before it is asked again whether there is a schema for them.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The tables' versions; owned by the pump.
pub(crate) struct Versions {
    pub(crate) settings: Settings,
    database: String,
    history: SchemaHistory,
    /// Columns of unknown types that were warned of: table and column.
    warned: HashSet<(String, String)>,
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
        Versions {
            settings,
            database,
            history,
            warned: HashSet::new(),
            tables: TableCache::default(),
            questions,
        }
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
        if !self.settings.takes_table(&table.namespace, &table.name) {
            return self.tables.insert(relation, left_out(table)).map_err(StageError::Halt);
        }
        let plan = match self.planned(&table, at, out) {
            Err(error) if error.stage_of_row().is_some() => self.unplanned(table, error, out)?,
            plan => plan?,
        };
        if let Form::Record { .. } = plan.form {
            self.warn_of_unknown_types(&plan);
        }
        self.tables.insert(relation, plan).map_err(StageError::Halt)
    }

    fn planned(
        &mut self,
        table: &TableSchema,
        at: (Lsn, u64),
        out: &mut Outlet,
    ) -> Result<TablePlan, StageError> {
        let record = match self.history.look_up(table, at) {
            Lookup::Known(record) => self.known_version(record, out)?,
            Lookup::New { in_force } => self.new_version(table, at, in_force, out)?,
        };
        self.plan(record)
    }

    /// The plan of a table that has no schema and whose rows are set aside; the error if they are not.
    fn unplanned(
        &mut self,
        table: TableSchema,
        error: StageError,
        out: &mut Outlet,
    ) -> Result<TablePlan, StageError> {
        let records = self.settings.records.records_for(&table.namespace, &table.name);
        if records.on_error == OnError::Halt {
            return Err(error);
        }
        let asked = table.clone();
        let description = ask(&self.questions, out, |answer| Question::Describe { table: asked, answer })?;
        let aside = self.aside(&description, &records)?;
        let form = Form::Unplanned { reason: chain(&error), ask_again: Instant::now() + ASK_AGAIN };
        Ok(TablePlan { description, form, aside, ..left_out(table) })
    }

    /// A table that had no schema is announced anew when it is time to ask again, or somebody wants to know.
    pub(crate) fn ask_again(&mut self, relation: RelationId, at: (Lsn, u64), now: bool) {
        let due = |plan: &mut TablePlan| matches!(plan.form, Form::Unplanned { ask_again, .. } if now || ask_again <= Instant::now());
        if self.tables.plan_for(relation).is_some_and(due)
            && let Some(table) = self.tables.schema_of(relation).cloned()
        {
            self.tables.announce(table, at);
        }
    }

    /// Whether records of this topic are set aside, whosever they are.
    pub(crate) fn sets_aside(&mut self, topic: &str) -> bool {
        let writes_to = |plan: &&mut TablePlan| match &plan.form {
            Form::Event(_, topics) => topics.contains_key(topic),
            _ => plan.topic == topic,
        };
        let mut policies =
            self.tables.plans_mut().filter(writes_to).map(|plan| plan.aside.is_some()).peekable();
        policies.peek().is_some() && policies.all(|aside| aside)
    }

    /// Makes sure that the relation's rows can be written.
    pub(crate) fn make_ready(
        &mut self,
        relation: RelationId,
        lsn: Lsn,
        out: &mut Outlet,
    ) -> Result<(), StageError> {
        match self.tables.plan_for(relation) {
            Some(_) => Ok(()),
            None => self.resolve(relation, lsn, out),
        }
    }

    /// A version that was resolved before. Its description stands; its topic, partitions and schemas are today's
    /// configuration's, which is the same in all but a few starts.
    fn known_version(
        &mut self,
        mut record: HistoryRecord,
        out: &mut Outlet,
    ) -> Result<HistoryRecord, StageError> {
        let before = record.clone();
        self.furnish(&mut record, out)?;
        if (before.value_schema_id.is_some() || before.schema_fingerprint != 0)
            && before.topic == record.topic
            && before.partitions != record.partitions
        {
            tracing::warn!(
                topic = record.topic,
                before = before.partitions,
                now = record.partitions,
                "partition_count_changed: keys move to other partitions, so the order of a key's records across this moment is lost"
            );
        }
        if record != before {
            warn_of_other_key_schema(&before, &record);
            self.keep(&record, out)?;
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
            // Noted, because the catalog may say something else when this message comes again.
            let met = HistoryRecord { last_met: Some(at), ..same.clone() };
            let record = self.known_version(met, out)?;
            self.keep(&record, out)?;
            return Ok(record);
        }
        let mut record = HistoryRecord {
            version: HistoryRecord::VERSION,
            commit_lsn: at.0,
            ordinal: at.1,
            table: table.clone(),
            description,
            topic: String::new(),
            partitions: 1,
            schema_fingerprint: 0,
            key_schema_id: None,
            value_schema_id: None,
            last_met: None,
        };
        self.furnish(&mut record, out)?;
        if let Some(old) = in_force {
            warn_of_other_key_schema(&old, &record);
        }
        self.keep(&record, out)?;
        tracing::info!(table = record.name(), topic = record.topic, commit_lsn = %at.0, "a new version of a table");
        Ok(record)
    }

    /// A row holds a label that its table's schema does not list: a version of the table begins with that row.
    pub(crate) fn label_added(
        &mut self,
        relation: RelationId,
        at: (Lsn, u64),
        unseen: &UnseenLabel,
        out: &mut Outlet,
    ) -> Result<(), StageError> {
        let (questions, settings) = (self.questions.clone(), self.settings.clone());
        self.amend(relation, at, out, |before, out| {
            let table = before.table.clone();
            let now = ask(&questions, out, |answer| Question::Describe { table, answer })?;
            tracing::info!(
                table = before.name(),
                column = before.description.columns[unseen.column].name,
                commit_lsn = %at.0,
                "an enum has a new label"
            );
            let key = present::keyed(&settings, &before.description).map_err(StageError::Halt)?.key;
            Ok(before.description.with_labels(&now, unseen, &key))
        })
    }

    /// Whether the relation's rows are written as change records, not as events.
    pub(crate) fn writes_changes(&mut self, relation: RelationId) -> bool {
        self.tables.plan_for(relation).is_some_and(|plan| matches!(plan.form, Form::Record { .. }))
    }

    /// A row holds NULL in a column that is NOT NULL in its table's schema: the constraint was dropped while nobody
    /// read, so no Relation message told of it. A version begins with that row. False if that is no explanation.
    pub(crate) fn null_met(
        &mut self,
        relation: RelationId,
        at: (Lsn, u64),
        column: &str,
        out: &mut Outlet,
    ) -> Result<bool, StageError> {
        let Some(plan) = self.tables.plan_for(relation) else { return Ok(false) };
        let columns = &plan.description.columns;
        let Some(index) = columns.iter().position(|known| known.name == column && known.not_null) else {
            return Ok(false);
        };
        self.amend(relation, at, out, |before, _| {
            tracing::info!(table = before.name(), column, commit_lsn = %at.0, "a column is no longer NOT NULL");
            let mut description = before.description.clone();
            description.columns[index].not_null = false;
            Ok(description)
        })?;
        Ok(true)
    }

    /// Begins a version in the midst of the stream: the one that is stored for this point if the row came before, else
    /// one that differs from the present one as `amended` says.
    fn amend(
        &mut self,
        relation: RelationId,
        at: (Lsn, u64),
        out: &mut Outlet,
        amended: impl FnOnce(&HistoryRecord, &mut Outlet) -> Result<TableDescription, StageError>,
    ) -> Result<(), StageError> {
        let (before, begins_here) = self.history.in_force(relation, at).expect("a plan has a stored version");
        let before = before.clone();
        let present = self.tables.plan_for(relation).map(|plan| &plan.description);
        let record = if begins_here && present.is_some_and(|present| *present != before.description) {
            self.known_version(before, out)?
        } else {
            let description = amended(&before, out)?;
            let mut record =
                HistoryRecord { commit_lsn: at.0, ordinal: at.1, description, last_met: None, ..before };
            self.furnish(&mut record, out)?;
            self.keep(&record, out)?;
            record
        };
        let plan = self.plan(record)?;
        self.tables.insert(relation, plan).map_err(StageError::Halt)
    }

    /// Gives a version its topic, partitions and schema ids under the present configuration. Ids are asked for only
    /// where the schemas are not those that were registered: a known version needs no registry.
    fn furnish(&mut self, record: &mut HistoryRecord, out: &mut Outlet) -> Result<(), StageError> {
        let topic = self.route(&record.table)?.topic;
        let same_topic = record.topic == topic;
        record.topic.clone_from(&topic);
        if !writes_avro(&self.settings) || self.outbox_settings(&record.table).is_some() {
            (record.partitions, record.schema_fingerprint) = (1, 0);
            (record.key_schema_id, record.value_schema_id) = (None, None);
            return Ok(());
        }
        let asked = topic.clone();
        record.partitions = ask(&self.questions, out, |answer| Question::Topic { topic: asked, answer })?;
        let Plans { key, value, .. } = self.plans(record)?;
        let fingerprint = schema_fingerprint(key.as_ref().map(KeyPlan::schema_json), value.schema_json());
        let key_json = key.as_ref().filter(|key| key.is_avro()).map(KeyPlan::schema_json);
        let has_its_ids = record.key_schema_id.is_some() == key_json.is_some()
            && record.value_schema_id.is_some() == value.is_avro();
        if same_topic && has_its_ids && record.schema_fingerprint == fingerprint {
            return Ok(());
        }
        record.key_schema_id = match key_json {
            Some(json) => Some(self.register(record, RecordPart::Key, json, out)?),
            None => None,
        };
        record.value_schema_id = match value.is_avro() {
            true => Some(self.register(record, RecordPart::Value, value.schema_json(), out)?),
            false => None,
        };
        record.schema_fingerprint = fingerprint;
        Ok(())
    }

    /// Stores a version, waits until that is acknowledged, and remembers it.
    fn keep(&mut self, record: &HistoryRecord, out: &mut Outlet) -> Result<(), StageError> {
        out.store_history(record)?;
        self.history.push(record.clone());
        Ok(())
    }

    /// The name of an announced relation and what becomes of its TRUNCATE: nothing need be resolved to leave one out,
    /// and those of an outbox are cleaning up.
    pub(crate) fn truncate_handling(&self, relation: RelationId) -> Option<(String, TruncateHandling)> {
        let (schema, table) = self.tables.name_of(relation)?;
        let is_outbox = self.settings.outbox.iter().any(|each| each.schema == schema && each.table == table);
        let configured = self.settings.records.records_for(schema, table).truncate;
        let handling = if is_outbox || !self.settings.takes_table(schema, table) {
            TruncateHandling::Skip
        } else {
            configured
        };
        Some((format!("{schema}.{table}"), handling))
    }

    /// What every record says of its origin.
    pub(crate) fn source(&self) -> SourceSettings {
        SourceSettings { prefix: self.settings.topics.prefix.clone(), database: self.database.clone() }
    }

    fn plans(&self, record: &HistoryRecord) -> Result<Plans, StageError> {
        present::plans(&self.settings, &self.database, &record.description).map_err(|why| match why {
            Unsuitable::Schema(source) => StageError::Schema { table: record.name(), source },
            Unsuitable::Settings(halt) => StageError::Halt(halt),
        })
    }

    /// Once per column, not once per version of its table.
    fn warn_of_unknown_types(&mut self, plan: &TablePlan) {
        for column in columns_of_unknown_types(&plan.description) {
            if self.warned.insert((plan.name.clone(), column.name.clone())) {
                tracing::warn!(
                    table = plan.name,
                    column = column.name,
                    r#type = column.type_name,
                    "a column's type has no Avro form of its own: its values are Postgres' text (unknown_types)"
                );
            }
        }
    }

    fn register(
        &self,
        record: &HistoryRecord,
        part: RecordPart,
        schema_json: &str,
        out: &mut Outlet,
    ) -> Result<u32, StageError> {
        let subject = present::subject(&self.settings, &record.topic, part, schema_json);
        let records = self.settings.records.records_for(&record.table.namespace, &record.table.name);
        let id = ask(&self.questions, out, |answer| Question::Register {
            table: record.name(),
            subject: subject.0,
            schema_json: schema_json.to_owned(),
            on_incompatible: records.on_incompatible,
            answer,
        })?;
        Ok(id.0)
    }

    fn plan(&self, record: HistoryRecord) -> Result<TablePlan, StageError> {
        let records = self.settings.records.records_for(&record.table.namespace, &record.table.name);
        let name = record.name();
        let schema_error = |source| StageError::Schema { table: name.clone(), source };
        let form = if let Some(outbox) = self.outbox_settings(&record.table) {
            let writes_avro = writes_avro(&self.settings);
            refuse_masks(&record, &records).map_err(StageError::Halt)?;
            let events = EventPlan::for_table(
                outbox,
                &record.description,
                writes_avro,
                &records,
                &self.settings.topics.prefix,
            )
            .map_err(StageError::Halt)?;
            Form::Event(events, EventTopics::new())
        } else if writes_avro(&self.settings) {
            let Plans { key, value, partition_by } = self.plans(&record)?;
            Form::Record {
                key: key.map(|plan| (plan, SchemaId(record.key_schema_id.unwrap_or_default()))),
                value,
                value_id: SchemaId(record.value_schema_id.unwrap_or_default()),
                partitions: record.partitions,
                partition_by,
                keyless_partition: partition_for_key(record.topic.as_bytes(), record.partitions),
            }
        } else {
            Form::Lines(LinePlan::new(&record.description, &records).map_err(schema_error)?)
        };
        let filter = match form {
            Form::Event(..) => None,
            _ => records.row_filter.compile(&record.description).map_err(schema_error)?,
        };
        let labels = match form {
            Form::Record { .. } => EnumLabels::of(
                &present::keyed(&self.settings, &record.description).map_err(StageError::Halt)?,
                &records,
            ),
            Form::Lines(_) | Form::Event(..) | Form::LeftOut | Form::Unplanned { .. } => {
                EnumLabels::default()
            }
        };
        let reselect = match form {
            Form::Record { .. } => ReselectPlan::new(&record.description, &records).map_err(schema_error)?,
            Form::Lines(_) | Form::Event(..) | Form::LeftOut | Form::Unplanned { .. } => None,
        };
        Ok(TablePlan {
            name: record.name(),
            shares_topic: self.route(&record.table)?.is_shared,
            labels,
            trace: match form {
                Form::Event(..) => None,
                _ => TraceColumns::of(&record.description, &records).map_err(StageError::Halt)?,
            },
            aside: self.aside(&record.description, &records)?,
            topic: record.topic,
            description: record.description,
            form,
            filter,
            reselect: reselect.map(Box::new),
            counts: Counts::default(),
        })
    }

    fn route(&self, table: &TableSchema) -> Result<TableRoute, StageError> {
        self.settings.route(&table.namespace, &table.name).map_err(StageError::Halt)
    }

    fn outbox_settings(&self, table: &TableSchema) -> Option<&OutboxTable> {
        self.settings
            .outbox
            .iter()
            .find(|outbox| outbox.schema == table.namespace && outbox.table == table.name)
    }
}

/// An event is its columns as they are; one that should be hidden must not get out through it.
fn refuse_masks(record: &HistoryRecord, records: &RecordSettings) -> Result<(), Halt> {
    let Some(column) = record.description.columns.iter().find(|c| records.masks.of(&c.name).is_some()) else {
        return Ok(());
    };
    Err(Halt::new(
        ExitCode::OutboxInvalid,
        format!(
            "column \"{}\" of the outbox table {} is masked, and events have no masks",
            column.name,
            record.name()
        ),
        "write what may be shown into the outbox, and except its columns: masks = { \"column\" = \"none\" } for this table",
    ))
}

/// Nothing is asked and nothing stored for a table that is left out.
fn left_out(table: TableSchema) -> TablePlan {
    TablePlan {
        name: format!("{}.{}", table.namespace, table.name),
        topic: String::new(),
        shares_topic: false,
        description: TableDescription {
            relation: table.id,
            schema: table.namespace,
            table: table.name,
            replica_identity: table.replica_identity,
            columns: Vec::new(),
            key: Vec::new(),
        },
        labels: EnumLabels::default(),
        form: Form::LeftOut,
        aside: None,
        filter: None,
        trace: None,
        reselect: None,
        counts: Counts::default(),
    }
}

/// Only Kafka has records, and what is thrown away is made as for it; the local sinks write lines.
pub(crate) fn writes_avro(settings: &Settings) -> bool {
    matches!(settings.sink, SinkSettings::Kafka { .. } | SinkSettings::Discard)
}

/// The same key has other bytes under another schema id, and a partitioner sees bytes.
fn warn_of_other_key_schema(before: &HistoryRecord, now: &HistoryRecord) {
    let same_topic = before.topic == now.topic;
    if same_topic && before.key_schema_id.is_some() && before.key_schema_id != now.key_schema_id {
        tracing::warn!(
            table = now.name(),
            before = before.key_schema_id,
            now = now.key_schema_id,
            "key_schema_changed: the same key has other bytes from here on, and may go to another partition"
        );
    }
}

/// FNV-1a of both schemas: stable across builds, and only ever compared with itself. A version whose schemas this
/// program would spell otherwise (another prefix, another release) must not be written under the ids of the old ones.
fn schema_fingerprint(key_json: Option<&str>, value_json: &str) -> u64 {
    let bytes = key_json.unwrap_or_default().bytes().chain([0]).chain(value_json.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
