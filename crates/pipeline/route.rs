//! Where a table's records go: the topic, whether it shares it, what its schemas are named after, and what in the key
//! tells it from the topic's other tables. Pure; asked when a version of a table appears, never for a row.
//!
//! The template gives the topic first; then each route whose expression matches makes another one of it, in the order
//! of the configuration, as a chain of Debezium's and Kafka's transforms does. Nothing is made up: a name that Kafka
//! would refuse halts.

use std::collections::{BTreeMap, BTreeSet};

use headwater_avro::{RecordNaming, SchemaNames, SharedTopic, TopicParts, check_topic_name, topic_name};

use crate::halt::{ExitCode, Halt};
use crate::settings::Settings;
use crate::topic_rewriting::Rewriting;

/// One `[[route]]`.
#[derive(Clone, Debug)]
pub struct TopicRoute {
    /// From the topic so far to the new one.
    pub topic: Rewriting,
    /// Whether the new topic may have several tables.
    pub shared: SharedTopic,
    /// The field that tells them apart.
    pub key_field: String,
    /// Its value, made of the topic so far; none is the topic so far.
    pub key_value: Option<Rewriting>,
    /// Whether schemas are named after the new topic.
    pub schema_names: SchemaNames,
}

/// What came of it for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRoute {
    /// The topic.
    pub topic: String,
    /// What it would be without any configuration.
    pub own_topic: String,
    /// Whether other tables may go there too.
    pub is_shared: bool,
    /// Names in schemas and keys.
    pub naming: RecordNaming,
    /// The routes that made it what it is, by their place.
    pub matched: Vec<usize>,
}

impl Settings {
    /// Where a table's records go.
    ///
    /// # Errors
    /// The topic is none that Kafka takes, or one that Headwater writes something else to.
    pub fn route(&self, schema: &str, table: &str) -> Result<TableRoute, Halt> {
        let prefix = self.topics.prefix.as_str();
        let records = self.records.records_for(schema, table);
        let own = topic_name(prefix, schema, table);
        // Its rows are events, which have topics of their own.
        if self.outbox.iter().any(|outbox| outbox.schema == schema && outbox.table == table) {
            return Ok(TableRoute {
                topic: own.clone(),
                own_topic: own,
                is_shared: false,
                naming: RecordNaming::default(),
                matched: Vec::new(),
            });
        }
        let parts = TopicParts { prefix, database: &self.postgres.database, schema, table };
        let mut topic = records.topic.fill(parts);
        let mut is_shared = records.shared_topic != SharedTopic::Refuse;
        let mut key_fields = Vec::new();
        if records.shared_topic == SharedTopic::TableInKey {
            key_fields.push((records.table_key_field.clone(), own.clone()));
        }
        let mut named_after = match records.schema_names {
            SchemaNames::Topic => topic.clone(),
            SchemaNames::Table => own.clone(),
        };
        let mut matched = Vec::new();
        for (index, route) in self.topics.routes.iter().enumerate() {
            let Some(rewritten) = route.topic.apply(&topic) else { continue };
            matched.push(index);
            is_shared |= route.shared != SharedTopic::Refuse;
            if route.shared == SharedTopic::TableInKey {
                let value = route.key_value.as_ref().and_then(|value| value.apply(&topic));
                key_fields.push((route.key_field.clone(), value.unwrap_or_else(|| topic.clone())));
            }
            if route.schema_names == SchemaNames::Topic {
                named_after.clone_from(&rewritten);
            }
            topic = rewritten;
        }
        self.check_topic(schema, table, &topic)?;
        let schema_topic = (named_after != own).then_some(named_after);
        Ok(TableRoute {
            topic,
            own_topic: own,
            is_shared,
            naming: RecordNaming { schema_topic, key_fields },
            matched,
        })
    }

    fn check_topic(&self, schema: &str, table: &str, topic: &str) -> Result<(), Halt> {
        let unsuitable = |what: String| {
            Err(Halt::new(
                ExitCode::TableUnsuitable,
                format!("the topic of {schema}.{table} {what}"),
                "correct topic of this table ([records], [[table]]), or the [[route]] that makes this name",
            ))
        };
        if let Err(why) = check_topic_name(topic) {
            return unsuitable(format!("would be \"{topic}\", which {why}"));
        }
        let side = |name: &str| format!("{}.{name}", self.topics.prefix);
        let taken = [
            (self.checkpoint.topic.clone(), "the checkpoint's (checkpoint.topic)", true),
            (side(&self.transactions.topic), "that of transactions", self.transactions.metadata),
            (side(&self.messages.topic), "that of logical messages", !self.messages.include.is_empty()),
        ];
        match taken.iter().find(|(name, _, is_written)| *is_written && name == topic) {
            Some((_, whose, _)) => unsuitable(format!("would be {topic}, which is {whose}")),
            None => Ok(()),
        }
    }
}

/// The routes of several tables, and what is wrong with them together.
#[derive(Debug, Default)]
pub struct Routes {
    /// `schema.table` and its route, by name.
    pub tables: BTreeMap<String, TableRoute>,
    /// What can't be run.
    pub problems: Vec<Halt>,
    /// What can, but is most likely not meant.
    pub warnings: Vec<String>,
}

impl Routes {
    /// Of tables, each given as schema and name; those that are left out and those of the outbox have no topic of
    /// their own.
    pub fn of(settings: &Settings, tables: impl IntoIterator<Item = (String, String)>) -> Routes {
        let mut routes = Routes::default();
        for (schema, table) in tables {
            let is_outbox = settings.outbox.iter().any(|o| o.schema == schema && o.table == table);
            if is_outbox || !settings.takes_table(&schema, &table) {
                continue;
            }
            match settings.route(&schema, &table) {
                Ok(route) => drop(routes.tables.insert(format!("{schema}.{table}"), route)),
                Err(halt) => routes.problems.push(halt),
            }
        }
        routes.find_conflicts();
        routes.find_idle(settings);
        routes
    }

    /// Each topic once.
    pub fn topics(&self) -> BTreeSet<String> {
        self.tables.values().map(|route| route.topic.clone()).collect()
    }

    /// A route that matches nothing is most likely misspelt; or waits for a table that comes later.
    fn find_idle(&mut self, settings: &Settings) {
        // What a refused table matched is not known.
        if self.tables.is_empty() || !self.problems.is_empty() {
            return;
        }
        for (index, route) in settings.topics.routes.iter().enumerate() {
            if !self.tables.values().any(|table| table.matched.contains(&index)) {
                self.warnings.push(format!(
                    "route.match: \"{}\" matches the topic of no published table",
                    route.topic.expression()
                ));
            }
        }
    }

    fn find_conflicts(&mut self) {
        let mut topics: BTreeMap<&str, Vec<(&str, bool)>> = BTreeMap::new();
        for (name, route) in &self.tables {
            topics.entry(&route.topic).or_default().push((name, route.is_shared));
        }
        let mut problems = Vec::new();
        for (topic, owners) in &topics {
            if let [(first, _), (second, _), ..] = owners.as_slice()
                && owners.iter().any(|(_, is_shared)| !is_shared)
            {
                problems.push(topic_taken(first, second, topic));
            }
        }
        // Kafka's metrics have "_" for ".", and its brokers refuse a topic that is the same there as another one.
        let mut shown: BTreeMap<String, &str> = BTreeMap::new();
        for topic in topics.keys() {
            if let Some(other) = shown.insert(topic.replace('.', "_"), topic) {
                self.warnings.push(format!(
                    "the topics {other} and {topic} differ in \".\" and \"_\" only: Kafka's metrics mix them, and its brokers refuse to create the second"
                ));
            }
        }
        self.problems.append(&mut problems);
    }
}

/// Two tables came to one topic, and not both were told so.
pub(crate) fn topic_taken(first: &str, second: &str, topic: &str) -> Halt {
    Halt::new(
        ExitCode::TableUnsuitable,
        format!("the tables {first} and {second} both map to the topic {topic}"),
        "give them topics of their own (topic under [[table]], or a [[route]]); or if they are to share it, set shared_topic for both: \
         \"table_in_key\" puts the table into the key, \"unique_keys\" if no key is in both",
    )
}

#[cfg(test)]
mod tests;
