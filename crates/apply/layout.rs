//! From schemas to plans: how records of a topic are read for their table, resolved once per schema.
//!
//! In: schema ids of records. Out: a [`KeyLayout`] and a [`ValueLayout`], after the table was found, made or widened.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_avro::SchemaId;
use headwater_avro::reading::{
    EnvelopePlan, EnvelopeReader, KeyPlanReader, KeyReader, OfferedColumn, PgColumnType, Unreadable,
};
use headwater_avro::registry::{Registry, RegistryError};
use headwater_pg::Client;

use crate::halt::{Failure, Halt, HaltCause, Refusal};
use crate::naming::{TopicRule, rule_of};
use crate::ready_table::{changes, ready_table};
use crate::settings::Settings;
use crate::target::{self, TargetName, TargetTable};

/// Debezium's and Headwater's field that tells tables of one topic apart; no column.
const TABLE_FIELD: &str = "__dbz__physicalTableIdentifier";

/// How keys of one schema are read.
#[derive(Debug)]
pub(crate) struct KeyLayout {
    /// The key's columns in the table, in the order in which they are read.
    pub(crate) columns: Vec<String>,
    pub(crate) plan: KeyPlanReader,
}

/// How values of one schema are read.
#[derive(Debug)]
pub(crate) struct ValueLayout {
    /// The columns in the table, in the order in which they are read.
    pub(crate) columns: Vec<String>,
    pub(crate) plan: EnvelopePlan,
}

/// How one record is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) target: &'a TargetName,
    pub(crate) key: &'a Arc<KeyLayout>,
    /// None for a tombstone.
    pub(crate) row: Option<&'a Arc<ValueLayout>>,
}

/// What is known of a topic.
#[derive(Debug)]
pub(crate) struct TopicLayouts {
    pub(crate) rule: TopicRule,
    keys: HashMap<SchemaId, Arc<KeyLayout>>,
    values: HashMap<(SchemaId, SchemaId), Arc<ValueLayout>>,
}

/// All plans.
pub(crate) struct Layouts {
    settings: Arc<Settings>,
    registry: Registry,
    schemas: HashMap<SchemaId, Arc<str>>,
    topics: HashMap<String, TopicLayouts>,
}

impl Layouts {
    pub(crate) fn new(settings: Arc<Settings>, registry: Registry) -> Layouts {
        Layouts { settings, registry, schemas: HashMap::new(), topics: HashMap::new() }
    }

    /// What tables are is asked again, after a connection was lost or refused.
    pub(crate) fn forget_tables(&mut self) {
        self.topics.clear();
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn rule(&mut self, topic: &str) -> Result<&TopicRule, Halt> {
        Ok(&self.topic(topic)?.rule)
    }

    fn topic(&mut self, topic: &str) -> Result<&mut TopicLayouts, Halt> {
        if !self.topics.contains_key(topic) {
            let rule = rule_of(&self.settings, topic)?;
            let layouts = TopicLayouts { rule, keys: HashMap::new(), values: HashMap::new() };
            self.topics.insert(topic.to_owned(), layouts);
        }
        Ok(self.topics.get_mut(topic).expect("inserted above"))
    }

    /// What is resolved already.
    pub(crate) fn known(&self, topic: &str, key: SchemaId, value: Option<SchemaId>) -> Option<Known<'_>> {
        let layouts = self.topics.get(topic)?;
        let of_key = layouts.keys.get(&key)?;
        let of_value = match value {
            None => None,
            Some(value) => Some(layouts.values.get(&(key, value))?),
        };
        Some(Known { target: &layouts.rule.target, key: of_key, row: of_value })
    }

    /// The text of a schema, if it was asked for before.
    pub(crate) fn known_schema(&self, id: SchemaId) -> Option<Arc<str>> {
        self.schemas.get(&id).cloned()
    }

    /// The text of a schema.
    pub(crate) async fn schema(&mut self, id: SchemaId) -> Result<Arc<str>, Failure> {
        if let Some(schema) = self.schemas.get(&id) {
            return Ok(schema.clone());
        }
        let found = self.registry.schema_by_id(id).await.map_err(of_registry)?;
        let Some(text) = found else {
            let reason = format!("the registry has no schema with the id {}", id.0);
            return Err(Failure::Refused(Refusal { stage: "decode", table: None, reason }));
        };
        let text: Arc<str> = text.into();
        self.schemas.insert(id, text.clone());
        Ok(text)
    }

    /// Resolves what [`Layouts::known`] does not know. False if the table is not there and can't be made from a key alone.
    pub(crate) async fn resolve(
        &mut self,
        client: &Client,
        topic: &str,
        key: SchemaId,
        value: Option<SchemaId>,
    ) -> Result<bool, Failure> {
        let key_schema = self.schema(key).await?;
        let value_schema = match value {
            Some(value) => Some(self.schema(value).await?),
            None => None,
        };
        let settings = self.settings.clone();
        let layouts = self.topic(topic)?;
        let target = layouts.rule.target.clone();
        let shapes = Shapes::new(&layouts.rule, &key_schema, value_schema.as_deref())?;
        let Some(table) = ready_table(client, &settings, &target, &shapes.key, &shapes.row).await? else {
            return Ok(false);
        };
        let (of_key, of_value) = shapes.layouts(&target, &table, &settings.placeholder)?;
        layouts.keys.insert(key, Arc::new(of_key));
        if let (Some(value), Some(of_value)) = (value, of_value) {
            layouts.values.insert((key, value), Arc::new(of_value));
        }
        Ok(true)
    }

    /// Whether a topic's table can take its rows: the table, and the SQL that would be run first. Changes nothing.
    pub(crate) async fn check(
        &mut self,
        client: &Client,
        topic: &str,
        key_schema: &str,
        value_schema: &str,
    ) -> Result<(TargetName, Option<String>), Failure> {
        let settings = self.settings.clone();
        let rule = self.rule(topic)?;
        let shapes = Shapes::new(rule, key_schema, Some(value_schema))?;
        let found = target::look_up(client, &rule.target).await?;
        let key: Vec<_> = shapes.key.iter().flatten().map(|column| column.name.clone()).collect();
        let row: Vec<_> = shapes.row.iter().flatten().cloned().collect();
        let sql = changes(&settings, &rule.target, &key, &row, found.as_ref())?;
        if let Some(found) = found {
            shapes.layouts(&rule.target, &found, &settings.placeholder)?;
        }
        Ok((rule.target.clone(), sql))
    }
}

/// What a pair of schemas has, under the names of the table; none of a field that is left out.
struct Shapes {
    key_reader: KeyReader,
    reader: Option<EnvelopeReader>,
    key: Vec<Option<OfferedColumn>>,
    row: Vec<Option<OfferedColumn>>,
}

impl Shapes {
    fn new(rule: &TopicRule, key_schema: &str, value_schema: Option<&str>) -> Result<Shapes, Failure> {
        let refused = |why| unreadable(&rule.target, &why);
        let key_reader = KeyReader::parse(key_schema).map_err(refused)?;
        let reader = value_schema.map(EnvelopeReader::parse).transpose().map_err(refused)?;
        let key: Vec<_> = key_reader.columns().into_iter().map(|column| rule.key_column(column)).collect();
        let columns = reader.iter().flat_map(EnvelopeReader::columns);
        let row = columns.map(|column| rule.row_column(column, &key)).collect();
        Ok(Shapes { key_reader, reader, key, row })
    }

    fn layouts(
        self,
        target: &TargetName,
        table: &TargetTable,
        placeholder: &str,
    ) -> Result<(KeyLayout, Option<ValueLayout>), Failure> {
        let refused = |why| unreadable(target, &why);
        let types = |columns: &[Option<OfferedColumn>]| -> Vec<Option<PgColumnType>> {
            let of = |column: &OfferedColumn| table.column(&column.name).map(|found| found.pg_type.clone());
            columns.iter().map(|column| column.as_ref().and_then(of)).collect()
        };
        let names = |columns: Vec<Option<OfferedColumn>>| -> Vec<String> {
            let there = columns.into_iter().flatten().filter(|column| table.column(&column.name).is_some());
            there.map(|column| column.name).collect()
        };
        let plan = self.key_reader.plan(&types(&self.key)).map_err(refused)?;
        let key = KeyLayout { columns: names(self.key), plan };
        let Some(reader) = self.reader else { return Ok((key, None)) };
        let plan = reader.plan(&types(&self.row), placeholder).map_err(refused)?;
        Ok((key, Some(ValueLayout { columns: names(self.row), plan })))
    }
}

fn unreadable(target: &TargetName, why: &Unreadable) -> Failure {
    let reason = why.to_string();
    Failure::Refused(Refusal { stage: "decode", table: Some(target.plain()), reason })
}

impl TopicRule {
    fn key_column(&self, column: OfferedColumn) -> Option<OfferedColumn> {
        if column.name == TABLE_FIELD {
            return None;
        }
        let renamed = self.table.renames.iter().find(|(from, _)| *from == column.name);
        Some(OfferedColumn { name: renamed.map_or(column.name, |(_, to)| to.clone()), ..column })
    }

    /// A key's columns are taken whatever the patterns say.
    fn row_column(&self, column: OfferedColumn, key: &[Option<OfferedColumn>]) -> Option<OfferedColumn> {
        let as_key = self.key_column(column.clone())?;
        if key.iter().flatten().any(|of_key| of_key.name == as_key.name) {
            return Some(as_key);
        }
        self.column(&column.name).map(|name| OfferedColumn { name, ..column })
    }
}

pub(crate) fn of_registry(error: RegistryError) -> Failure {
    if error.is_retriable() {
        return Failure::Away(error.to_string());
    }
    Failure::Halt(Halt::new(
        HaltCause::Registry,
        error.to_string(),
        "check [schema_registry]: url, credentials, rights",
    ))
}
