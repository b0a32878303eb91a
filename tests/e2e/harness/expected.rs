//! Which records one audited row change must give, and whether a record is such a one.

use std::fmt;

use super::cell::Cell;
use super::evidence::{AuditRow, Cells, Change, Evidence, Identity, Operation, Record, Row, TableSpec};
use super::marks;

/// A value so short is never stored outside its row, so the server always sends it.
const TOASTED_LEN: usize = 1900;

/// A record that must be in Kafka.
pub enum Expected<'a> {
    /// A record with a value.
    Change {
        /// The table.
        spec: &'a TableSpec,
        /// `c`, `u` or `d`.
        op: &'static str,
        /// The whole old row, whose identity columns must be in `before`; none when `before` must be null.
        before: Option<&'a Row>,
        /// The new row.
        after: Option<&'a Row>,
        /// The row that the server may refer to instead of sending an unchanged large value.
        unchanged: Option<&'a Row>,
    },
    /// The record without a value that follows a delete.
    Tombstone {
        /// The table.
        spec: &'a TableSpec,
        /// The row whose key it has.
        row: &'a Row,
    },
}

/// A change of the key is a delete, a tombstone and an insert.
pub fn expected_of<'a>(row: &'a AuditRow, spec: &'a TableSpec) -> Vec<Expected<'a>> {
    let (old, new) = (row.old.as_ref(), row.new.as_ref());
    let change = |op, before, after| Expected::Change { spec, op, before, after, unchanged: old };
    let delete = |old: &'a Row| {
        let mut records = vec![change("d", Some(old), None)];
        if !spec.key.is_empty() {
            records.push(Expected::Tombstone { spec, row: old });
        }
        records
    };
    match (row.operation, old, new) {
        (Operation::Insert, _, new) => vec![change("c", None, new)],
        (Operation::Update, Some(old), Some(new)) => {
            if spec.key.iter().any(|column| old.get(column) != new.get(column)) {
                let mut records = delete(old);
                records.push(change("c", None, Some(new)));
                records
            } else {
                let before = (spec.identity == Identity::Full).then_some(old);
                vec![change("u", before, Some(new))]
            }
        }
        (Operation::Delete, Some(old), _) => delete(old),
        _ => Vec::new(),
    }
}

/// What is wrong with a record, if anything.
pub fn difference(expected: &Expected<'_>, record: &Record, evidence: &Evidence) -> Option<String> {
    let spec = expected.spec();
    let topic = topic_of(&evidence.prefix, spec);
    if record.topic != topic {
        return Some(format!("topic {} instead of {topic}", record.topic));
    }
    let wrong_key = |row: &Row| key_difference(spec, row, record);
    match (expected, &record.change) {
        (Expected::Tombstone { .. }, Some(change)) => {
            Some(format!("op {} instead of a tombstone", change.op))
        }
        (Expected::Tombstone { row, .. }, None) => wrong_key(row),
        (Expected::Change { .. }, None) => Some("a tombstone".to_owned()),
        (Expected::Change { op, before, after, unchanged, .. }, Some(change)) => {
            if change.op != *op {
                return Some(format!("op {}", change.op));
            }
            let relation = format!("{}.{}", spec.schema, spec.table);
            if change.relation != relation || change.database != evidence.database {
                return Some(format!("source {} {}", change.database, change.relation));
            }
            if let Some(why) = wrong_key(after.or(*before).expect("one of them")) {
                return Some(why);
            }
            before_difference(spec, *before, change)
                .or_else(|| after_difference(spec, *after, *unchanged, change, record))
                .or_else(|| marks::difference(spec, *after, record, evidence))
        }
    }
}

fn before_difference(spec: &TableSpec, before: Option<&Row>, change: &Change) -> Option<String> {
    match (before, &change.before) {
        (None, None) => None,
        (None, Some(_)) => Some("before is there".to_owned()),
        (Some(_), None) => Some("before is null".to_owned()),
        (Some(row), Some(cells)) => columns_difference("before", row, cells, |name, text, cell| match &spec
            .identity
        {
            Identity::Full => cell.equals(text),
            Identity::Columns(columns) if columns.iter().any(|column| column == name) => cell.equals(text),
            Identity::Columns(_) => *cell == Cell::Null,
        }),
    }
}

fn after_difference(
    spec: &TableSpec,
    after: Option<&Row>,
    old: Option<&Row>,
    change: &Change,
    record: &Record,
) -> Option<String> {
    match (after, &change.after) {
        (None, None) => None,
        (None, Some(_)) => Some("after is there".to_owned()),
        (Some(_), None) => Some("after is null".to_owned()),
        (Some(row), Some(cells)) => columns_difference("after", row, cells, |name, text, cell| {
            cell.equals(text)
                || marks::is_newer(record, &field_name(name))
                || spec.identity != Identity::Full
                    && cell.is_unavailable()
                    && text.is_some_and(|text| text.len() >= TOASTED_LEN)
                    && old.is_some_and(|old| old.get(name).map(Option::as_deref) == Some(text))
        }),
    }
}

fn columns_difference(
    image: &str,
    row: &Row,
    cells: &Cells,
    matches: impl Fn(&str, Option<&str>, &Cell) -> bool,
) -> Option<String> {
    if cells.len() != row.len() {
        return Some(format!("{image} has {} columns instead of {}", cells.len(), row.len()));
    }
    for (name, text) in row {
        let field = field_name(name);
        match cells.iter().find(|(n, _)| *n == field) {
            None => return Some(format!("{image} has no column {field}")),
            Some((_, cell)) if !matches(name, text.as_deref(), cell) => {
                let (cell, text) = (shorten(&format!("{cell:?}")), shorten(&format!("{text:?}")));
                return Some(format!("{image}.{name} is {cell} instead of {text}"));
            }
            Some(_) => {}
        }
    }
    None
}

fn key_difference(spec: &TableSpec, row: &Row, record: &Record) -> Option<String> {
    let Some(cells) = &record.key else {
        return (!spec.key.is_empty()).then(|| "no key".to_owned());
    };
    let names: Vec<_> = cells.iter().map(|(name, _)| name.clone()).collect();
    if names != spec.key.iter().map(|name| field_name(name)).collect::<Vec<_>>() {
        return Some(format!("key columns {names:?} instead of {:?}", spec.key));
    }
    for (column, (_, cell)) in spec.key.iter().zip(cells) {
        let text = row.get(column).map(Option::as_deref);
        if !text.is_some_and(|text| cell.equals(text)) {
            return Some(format!("key column {column} is {cell:?} instead of {text:?}"));
        }
    }
    None
}

/// A table's topic: characters that Kafka refuses become `_`.
pub fn topic_of(prefix: &str, spec: &TableSpec) -> String {
    let name = format!("{prefix}.{}.{}", spec.schema, spec.table);
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

/// A column's field: characters that Avro refuses become `_`, and a digit in front gets one.
pub fn field_name(column: &str) -> String {
    let name: String =
        column.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn shorten(text: &str) -> String {
    if text.len() <= 80 {
        text.to_owned()
    } else {
        format!("{}… ({} bytes)", text.chars().take(60).collect::<String>(), text.len())
    }
}

impl Expected<'_> {
    fn spec(&self) -> &TableSpec {
        match self {
            Expected::Change { spec, .. } | Expected::Tombstone { spec, .. } => spec,
        }
    }
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.spec();
        let (what, row) = match self {
            Expected::Change { op, before, after, .. } => (*op, after.or(*before)),
            Expected::Tombstone { row, .. } => ("tombstone", Some(*row)),
        };
        write!(f, "{what} of {}.{}", spec.schema, spec.table)?;
        for column in &spec.key {
            write!(f, " {column}={:?}", row.and_then(|row| row.get(column)?.as_deref()).unwrap_or("NULL"))?;
        }
        Ok(())
    }
}
