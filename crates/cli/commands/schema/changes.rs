//! What a statement did to the published tables, from how they were before it and after it.

use std::collections::BTreeMap;

use headwater_pipeline::present::{PresentTable, RecordSchema, Schemas};

/// The tables before and after a statement, read in one database.
pub struct Changed {
    /// Before it.
    pub before: Vec<PresentTable>,
    /// After it.
    pub after: Vec<PresentTable>,
    /// What a reader of the plan has to know about how it was made.
    pub notes: Vec<String>,
}

/// One table that the statement changed.
pub struct ChangedTable {
    /// Its name, after the statement.
    pub name: String,
    /// What happened to it, a line each.
    pub lines: Vec<String>,
    /// None when it is no longer published.
    pub after: Option<PresentTable>,
}

impl Changed {
    /// The tables whose topic or schemas differ, by name. A renamed table is found by its oid, and one that was dropped
    /// and created again by its name.
    pub fn tables(self) -> (Vec<ChangedTable>, Vec<String>) {
        let mut before: BTreeMap<u32, PresentTable> =
            self.before.into_iter().map(|table| (table.relation.table.id.0, table)).collect();
        let mut changed = Vec::new();
        for table in self.after {
            let by_name = |before: &BTreeMap<u32, PresentTable>| {
                before.iter().find(|(_, old)| old.name() == table.name()).map(|(oid, _)| *oid)
            };
            let oid = table.relation.table.id.0;
            let old = match before.remove(&oid) {
                Some(old) => Some(old),
                None => by_name(&before).and_then(|oid| before.remove(&oid)),
            };
            let lines = match &old {
                None => vec![format!("+ it is published as a new table, to the topic {}", table.topic)],
                Some(old) if same(old, &table) => continue,
                Some(old) => lines(old, &table),
            };
            changed.push(ChangedTable { name: table.name(), lines, after: Some(table) });
        }
        for gone in before.into_values() {
            let line = format!("- it is no longer published; the topic {} gets no more records", gone.topic);
            changed.push(ChangedTable { name: gone.name(), lines: vec![line], after: None });
        }
        changed.sort_by(|left, right| left.name.cmp(&right.name));
        (changed, self.notes)
    }
}

fn same(before: &PresentTable, after: &PresentTable) -> bool {
    let schemas = match (&before.schemas, &after.schemas) {
        (Schemas::Record { key, value }, Schemas::Record { key: new_key, value: new_value }) => {
            key == new_key && value == new_value
        }
        (Schemas::Outbox, Schemas::Outbox) | (Schemas::Unregistered, Schemas::Unregistered) => true,
        (Schemas::Impossible(_), Schemas::Impossible(_)) => true,
        _ => false,
    };
    schemas && before.topic == after.topic && before.name() == after.name()
}

fn lines(before: &PresentTable, after: &PresentTable) -> Vec<String> {
    let mut lines = Vec::new();
    if before.name() != after.name() {
        lines.push(format!("~ table {} is {} now", before.name(), after.name()));
    }
    if before.topic != after.topic {
        lines.push(format!("~ its records go to the topic {} instead of {}", after.topic, before.topic));
    }
    let (old, new) = (&before.relation, &after.relation);
    if old.table.id != new.table.id {
        lines.push("~ it is another table under the same name".to_owned());
        return lines;
    }
    let columns = |relation: &headwater_pg::relation::PublishedRelation| -> Vec<(i16, String, String)> {
        let columns = relation.table.columns.iter().zip(&relation.columns);
        columns
            .map(|(column, (number, type_text))| (*number, column.name.clone(), type_text.clone()))
            .collect()
    };
    let (old_columns, new_columns) = (columns(old), columns(new));
    for (number, name, type_text) in &new_columns {
        match old_columns.iter().find(|(old, ..)| old == number) {
            None => lines.push(format!("+ column {name} {type_text}")),
            Some((_, old_name, old_type)) => {
                if old_name != name {
                    lines.push(format!("~ column {old_name} is {name} now"));
                }
                if old_type != type_text {
                    lines.push(format!("~ column {name} is {type_text} instead of {old_type}"));
                }
            }
        }
    }
    for (_, name, type_text) in
        old_columns.iter().filter(|(number, ..)| !new_columns.iter().any(|(new, ..)| new == number))
    {
        lines.push(format!("- column {name} {type_text}"));
    }
    if old.table.replica_identity != new.table.replica_identity {
        let (new, old) = (new.table.replica_identity, old.table.replica_identity);
        lines.push(format!("~ replica identity is {new:?} instead of {old:?}").to_lowercase());
    }
    let key = |schemas: &Schemas| match schemas {
        Schemas::Record { key: Some(RecordSchema { json, .. }), .. } => Some(json.clone()),
        _ => None,
    };
    if key(&before.schemas) != key(&after.schemas) {
        lines.push(
            "~ the key's schema is another: the same key gets other bytes, and may go to another partition"
                .to_owned(),
        );
    }
    lines
}
