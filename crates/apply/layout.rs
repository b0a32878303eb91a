//! From schemas to plans: how records of a topic are read for their table, resolved once per schema.
//!
//! In: schema ids of records. Out: a [`KeyLayout`] and a [`ValueLayout`], after the table was found, made or widened.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_avro::SchemaId;
use headwater_avro::reading::{
    EnvelopePlan, EnvelopeReader, KeyPlanReader, KeyReader, OfferedColumn, PgColumnType,
};
use headwater_avro::registry::{Registry, RegistryError};
use headwater_pg::Client;

use crate::halt::{Failure, Halt, HaltCause, Refusal};
use crate::naming::{TopicRule, rule_of};
use crate::ready_table::ready_table;
use crate::settings::Settings;
use crate::target::{TargetName, TargetTable};

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
    table: Option<TargetTable>,
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

    pub(crate) fn rule(&mut self, topic: &str) -> Result<&TopicRule, Halt> {
        Ok(&self.topic(topic)?.rule)
    }

    fn topic(&mut self, topic: &str) -> Result<&mut TopicLayouts, Halt> {
        if !self.topics.contains_key(topic) {
            let rule = rule_of(&self.settings, topic)?;
            let layouts = TopicLayouts { rule, table: None, keys: HashMap::new(), values: HashMap::new() };
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
        let table_name = layouts.rule.target.plain();
        let refused = |why: headwater_avro::reading::Unreadable| {
            Failure::Refused(Refusal {
                stage: "decode",
                table: Some(table_name.clone()),
                reason: why.to_string(),
            })
        };
        let key_reader = KeyReader::parse(&key_schema).map_err(&refused)?;
        let reader =
            value_schema.map(|schema| EnvelopeReader::parse(&schema)).transpose().map_err(&refused)?;
        let key_columns: Vec<_> =
            key_reader.columns().into_iter().map(|column| layouts.rule.key_column(column)).collect();
        let row_columns: Vec<_> = match &reader {
            Some(reader) => reader
                .columns()
                .into_iter()
                .map(|column| layouts.rule.row_column(column, &key_columns))
                .collect(),
            None => Vec::new(),
        };
        let Some(table) =
            ready_table(client, &settings, &layouts.rule.target, &key_columns, &row_columns).await?
        else {
            return Ok(false);
        };
        let types = |columns: &[Option<OfferedColumn>]| -> Vec<Option<PgColumnType>> {
            let of = |column: &OfferedColumn| table.column(&column.name).map(|found| found.pg_type.clone());
            columns.iter().map(|column| column.as_ref().and_then(of)).collect()
        };
        let names = |columns: &[Option<OfferedColumn>]| -> Vec<String> {
            let there = columns.iter().flatten().filter(|column| table.column(&column.name).is_some());
            there.map(|column| column.name.clone()).collect()
        };
        let plan = key_reader.plan(&types(&key_columns)).map_err(&refused)?;
        layouts.keys.insert(key, Arc::new(KeyLayout { columns: names(&key_columns), plan }));
        if let (Some(value), Some(reader)) = (value, reader) {
            let plan = reader.plan(&types(&row_columns), &settings.placeholder).map_err(&refused)?;
            layouts.values.insert((key, value), Arc::new(ValueLayout { columns: names(&row_columns), plan }));
        }
        layouts.table = Some(table);
        Ok(true)
    }
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

fn of_registry(error: RegistryError) -> Failure {
    if error.is_retriable() {
        return Failure::Away(error.to_string());
    }
    Failure::Halt(Halt::new(
        HaltCause::Registry,
        error.to_string(),
        "check [schema_registry]: url, credentials, rights",
    ))
}
