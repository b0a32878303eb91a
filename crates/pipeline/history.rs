//! The schema history: what every Relation message resolved to, and from which point of the stream on.
//!
//! A Relation message says nothing of nullability, defaults, primary key order or enum labels, and the catalog knows
//! only today's. So what a plan was made from is stored before the first record under it is offered, and when the same
//! rows come again after a restart they get the same plan, whatever the catalog says by then.

use std::collections::{HashMap, HashSet};

use headwater_avro::TableDescription;
use headwater_pgoutput::{Lsn, RelationId, TableSchema};
use serde::{Deserialize, Serialize};

/// One version of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryRecord {
    pub(crate) version: u32,
    /// The transaction in which it was first used,
    pub(crate) commit_lsn: Lsn,
    /// and how many records of that transaction came before it.
    pub(crate) ordinal: u64,
    /// The Relation message.
    pub(crate) table: TableSchema,
    /// What it resolved to.
    pub(crate) description: TableDescription,
    pub(crate) topic: String,
    /// Partitions of the topic then; a difference to today is worth a warning.
    pub(crate) partitions: i32,
    /// Of the schemas that were registered; 0 where none were.
    #[serde(default)]
    pub(crate) schema_fingerprint: u64,
    /// Registry ids; none for the local sinks, and no key id for a keyless table.
    pub(crate) key_schema_id: Option<u32>,
    pub(crate) value_schema_id: Option<u32>,
    /// The last point at which a Relation message came again and meant this version still. The server repeats it for
    /// many reasons; what it means when it comes a second time must not depend on the catalog of that day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_met: Option<(Lsn, u64)>,
}

impl HistoryRecord {
    pub(crate) const VERSION: u32 = 1;

    /// The key under which it is stored, after the checkpoint's own key.
    pub(crate) fn key(&self, checkpoint_key: &str) -> String {
        format!("{checkpoint_key}/schema/{}/{}/{}", self.table.id, self.commit_lsn, self.ordinal)
    }

    /// `schema.table`, for messages and labels.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.table.namespace, self.table.name)
    }

    fn position(&self) -> (Lsn, u64) {
        (self.commit_lsn, self.ordinal)
    }
}

/// What the history knows of a Relation message.
#[derive(Debug, PartialEq)]
pub(crate) enum Lookup {
    /// The table was resolved at this point before: use this.
    Known(HistoryRecord),
    /// New here; the version in force until now, if there was one.
    New { in_force: Option<HistoryRecord> },
}

/// The history of one slot; owned by the pump.
#[derive(Debug, Default)]
pub(crate) struct SchemaHistory {
    /// Versions by table, oldest first.
    versions: HashMap<RelationId, Vec<HistoryRecord>>,
    /// Tables whose Relation message has come in this session: the server sends it once before the first row and
    /// then again only when something about the table changed.
    announced: HashSet<RelationId>,
}

impl SchemaHistory {
    pub(crate) fn new(records: Vec<HistoryRecord>) -> SchemaHistory {
        let mut versions: HashMap<RelationId, Vec<HistoryRecord>> = HashMap::new();
        for record in records {
            versions.entry(record.table.id).or_default().push(record);
        }
        for versions in versions.values_mut() {
            versions.sort_by_key(HistoryRecord::position);
        }
        SchemaHistory { versions, announced: HashSet::new() }
    }

    /// A Relation message came at this point of the stream.
    pub(crate) fn look_up(&mut self, table: &TableSchema, at: (Lsn, u64)) -> Lookup {
        let first_in_session = self.announced.insert(table.id);
        match self.in_force(table.id, at).map(|(version, _)| version) {
            Some(version)
                if version.table == *table
                    && (first_in_session || version.position() == at || version.last_met >= Some(at)) =>
            {
                Lookup::Known(version.clone())
            }
            other => Lookup::New { in_force: other.cloned() },
        }
    }

    /// The version in force at this point of the stream, and whether it begins right there.
    pub(crate) fn in_force(&self, relation: RelationId, at: (Lsn, u64)) -> Option<(&HistoryRecord, bool)> {
        let versions = self.versions.get(&relation)?;
        let version = versions.iter().rev().find(|version| version.position() <= at)?;
        Some((version, version.position() == at))
    }

    /// A new version was stored and acknowledged.
    pub(crate) fn push(&mut self, record: HistoryRecord) {
        let versions = self.versions.entry(record.table.id).or_default();
        versions.retain(|version| version.position() != record.position());
        versions.push(record);
        versions.sort_by_key(HistoryRecord::position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_pgoutput::{ReplicaIdentity, TableColumn};

    fn table(columns: &[&str]) -> TableSchema {
        TableSchema {
            id: RelationId(7),
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: columns
                .iter()
                .map(|name| TableColumn {
                    name: (*name).to_owned(),
                    type_oid: 23,
                    type_modifier: -1,
                    is_key: false,
                })
                .collect(),
        }
    }

    fn version(commit_lsn: u64, columns: &[&str]) -> HistoryRecord {
        let table = table(columns);
        HistoryRecord {
            version: HistoryRecord::VERSION,
            commit_lsn: Lsn(commit_lsn),
            ordinal: 0,
            description: TableDescription {
                relation: table.id,
                schema: table.namespace.clone(),
                table: table.name.clone(),
                replica_identity: table.replica_identity,
                columns: Vec::new(),
                key: Vec::new(),
            },
            table,
            topic: "p.public.t".to_owned(),
            partitions: 1,
            schema_fingerprint: 0,
            key_schema_id: None,
            value_schema_id: Some(1),
            last_met: None,
        }
    }

    #[test]
    fn rows_that_come_again_get_the_version_of_their_moment() {
        let mut history = SchemaHistory::new(vec![version(200, &["a", "b"]), version(100, &["a"])]);
        assert_eq!(history.look_up(&table(&["a"]), (Lsn(150), 3)), Lookup::Known(version(100, &["a"])));
        assert_eq!(
            history.look_up(&table(&["a", "b"]), (Lsn(200), 0)),
            Lookup::Known(version(200, &["a", "b"]))
        );
    }

    #[test]
    fn a_second_message_in_a_session_means_that_something_changed() {
        let mut history = SchemaHistory::new(vec![version(100, &["a"])]);
        assert!(matches!(history.look_up(&table(&["a"]), (Lsn(150), 0)), Lookup::Known(_)));
        let again = history.look_up(&table(&["a"]), (Lsn(300), 0));
        assert_eq!(again, Lookup::New { in_force: Some(version(100, &["a"])) }, "NOT NULL may have changed");
    }

    #[test]
    fn a_message_that_changed_nothing_changes_nothing_when_it_comes_again() {
        let met = HistoryRecord { last_met: Some((Lsn(300), 7)), ..version(100, &["a"]) };
        let mut history = SchemaHistory::new(vec![met.clone()]);
        for at in [(Lsn(150), 0), (Lsn(200), 9), (Lsn(300), 7)] {
            assert_eq!(history.look_up(&table(&["a"]), at), Lookup::Known(met.clone()), "{at:?}");
        }
        assert!(matches!(history.look_up(&table(&["a"]), (Lsn(300), 8)), Lookup::New { .. }));
        assert!(matches!(history.look_up(&table(&["b"]), (Lsn(200), 0)), Lookup::New { .. }));
    }

    #[test]
    fn other_columns_are_a_new_version_even_first_in_a_session() {
        let mut history = SchemaHistory::new(vec![version(100, &["a"])]);
        let found = history.look_up(&table(&["a", "c"]), (Lsn(150), 0));
        assert_eq!(found, Lookup::New { in_force: Some(version(100, &["a"])) });
        assert_eq!(
            SchemaHistory::default().look_up(&table(&["a"]), (Lsn(1), 0)),
            Lookup::New { in_force: None }
        );
    }
}
