//! What the records of each published table would be now: from the live catalog alone, as the table's next Relation
//! message would have it. The schema history has no say here: it keeps what was, this says what comes.

use headwater_avro::{
    KeyPlan, RecordPart, SchemaError, SourceSettings, Subject, TableDescription, ValuePlan,
};
use headwater_pg::relation::{PublishedRelation, published_relations};
use headwater_pg::{Client, Error, catalog};
use headwater_pgoutput::TableSchema;

use crate::describe::{describe, types_to_look_up};
use crate::halt::Halt;
use crate::record_key::{apply_key, partition_columns};
use crate::settings::{Settings, SinkSettings};

/// A published table and the schemas of its next record.
#[derive(Debug)]
pub struct PresentTable {
    /// As its next Relation message would have it.
    pub relation: PublishedRelation,
    /// Where its records go; empty where that is the impossible part.
    pub topic: String,
    /// How its records are made, or why they can't be.
    pub schemas: Schemas,
}

/// The schemas of a table's records.
#[derive(Debug)]
pub enum Schemas {
    /// A change record's.
    Record {
        /// None for a table without a key.
        key: Option<RecordSchema>,
        /// The envelope's.
        value: RecordSchema,
    },
    /// Rows of an outbox table are events: their topics, and with them their subjects, are in the rows.
    Outbox,
    /// Values are JSON: nothing is registered for them.
    Unregistered,
    /// There is no schema for such a table.
    Impossible(String),
}

/// A schema and where it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSchema {
    /// The subject.
    pub subject: Subject,
    /// The schema, letter by letter as it is registered.
    pub json: String,
}

impl PresentTable {
    /// `schema.table`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.relation.table.namespace, self.relation.table.name)
    }
}

/// Every table of the configured publications that is not left out, by name. `database` is the name that records carry.
///
/// # Errors
/// Those of the catalog's queries.
pub async fn present_tables(
    client: &Client,
    settings: &Settings,
    database: &str,
) -> Result<Vec<PresentTable>, Error> {
    let mut tables = Vec::new();
    let published = published_relations(client, &settings.publications).await?;
    let taken =
        |relation: &PublishedRelation| settings.takes_table(&relation.table.namespace, &relation.table.name);
    for relation in published.into_iter().filter(taken) {
        let description = describe_now(client, &relation.table).await?;
        let (topic, schemas) = match settings.route(&description.schema, &description.table) {
            Ok(route) => {
                let schemas = schemas(settings, database, &route.topic, &description);
                (route.topic, schemas)
            }
            Err(halt) => (String::new(), Schemas::Impossible(halt.what)),
        };
        tables.push(PresentTable { relation, topic, schemas });
    }
    Ok(tables)
}

/// What a Relation message means by today's catalog.
pub(crate) async fn describe_now(client: &Client, table: &TableSchema) -> Result<TableDescription, Error> {
    let known = catalog::table(client, table.id).await?;
    let oids = types_to_look_up(table);
    let types = if oids.is_empty() { Vec::new() } else { catalog::types(client, &oids).await? };
    Ok(describe(table, known.as_ref(), &types))
}

/// Why a table's rows can't be records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsuitable {
    /// Its names or types don't make a schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The configuration of its key or partition doesn't fit it.
    #[error("{0}")]
    Settings(Halt),
}

/// What is compiled from a table's description and the configuration.
pub(crate) struct Plans {
    pub(crate) key: Option<KeyPlan>,
    pub(crate) value: ValuePlan,
    /// Columns that choose the partition in the place of the key.
    pub(crate) partition_by: Vec<usize>,
}

/// The table with the key that the configuration gives it.
pub(crate) fn keyed(settings: &Settings, table: &TableDescription) -> Result<TableDescription, Halt> {
    let mut keyed = table.clone();
    apply_key(&mut keyed, &settings.records.records_for(&table.schema, &table.table))?;
    Ok(keyed)
}

/// The plans of a table's records under the present configuration.
pub(crate) fn plans(
    settings: &Settings,
    database: &str,
    table: &TableDescription,
) -> Result<Plans, Unsuitable> {
    let source = SourceSettings { prefix: settings.topics.prefix.clone(), database: database.to_owned() };
    let mut records = settings.records.records_for(&table.schema, &table.table);
    records.naming = settings.route(&table.schema, &table.table).map_err(Unsuitable::Settings)?.naming;
    let table = keyed(settings, table).map_err(Unsuitable::Settings)?;
    Ok(Plans {
        key: KeyPlan::new(&table, &source, &records)?,
        value: ValuePlan::new(&table, &source, &records)?,
        partition_by: partition_columns(&table, &records).map_err(Unsuitable::Settings)?,
    })
}

/// The subject of a schema under the present configuration.
pub(crate) fn subject(settings: &Settings, topic: &str, part: RecordPart, schema_json: &str) -> Subject {
    match (&settings.sink, part) {
        (SinkSettings::Kafka { registry: Some(registry), .. }, part) => {
            registry.subject(topic, part, schema_json)
        }
        (_, RecordPart::Key) => Subject::for_key(topic),
        (_, RecordPart::Value) => Subject::for_value(topic),
    }
}

fn schemas(settings: &Settings, database: &str, topic: &str, table: &TableDescription) -> Schemas {
    if settings.outbox.iter().any(|outbox| outbox.schema == table.schema && outbox.table == table.table) {
        return Schemas::Outbox;
    }
    let record = |part, json: &str| RecordSchema {
        subject: subject(settings, topic, part, json),
        json: json.to_owned(),
    };
    match plans(settings, database, table) {
        Ok(Plans { value, .. }) if !value.is_avro() => Schemas::Unregistered,
        Ok(Plans { key, value, .. }) => Schemas::Record {
            key: key.filter(KeyPlan::is_avro).map(|key| record(RecordPart::Key, key.schema_json())),
            value: record(RecordPart::Value, value.schema_json()),
        },
        Err(error) => Schemas::Impossible(crate::error::chain(&error)),
    }
}
