//! A consumer that keeps the last state of every key must end with the table.

use std::collections::{BTreeMap, HashMap};

use super::cell::Cell;
use super::checker::{Kind, Report};
use super::evidence::{Cells, Evidence, Operation, Record, Row, TableSpec};
use super::expected::{field_name, topic_of};

/// Folds every table with a key; a table that was truncated has no records of that and is left out.
pub fn check(evidence: &Evidence, records: &[&Record], report: &mut Report) {
    for (name, spec) in &evidence.tables {
        let truncated =
            evidence.audit.iter().any(|row| row.operation == Operation::Truncate && row.relation == *name);
        if spec.key.is_empty() || truncated || evidence.unfolded.contains(name) {
            continue;
        }
        let last = evidence.last.get(name).map_or(&[][..], Vec::as_slice);
        table(name, spec, evidence, (records, last), report);
    }
}

fn table(
    name: &str,
    spec: &TableSpec,
    evidence: &Evidence,
    (records, last): (&[&Record], &[Row]),
    report: &mut Report,
) {
    let topic = topic_of(&evidence.prefix, spec);
    let mut states: HashMap<String, Option<Cells>> = HashMap::new();
    for record in records.iter().filter(|record| record.topic == topic) {
        let Some(key) = &record.key else { continue };
        let state = states.entry(key_text(key)).or_default();
        let after = record.change.as_ref().and_then(|change| change.after.clone());
        *state = after.map(|after| with_unavailable_from(after, state.take()));
    }
    let mut rows: BTreeMap<String, &Row> = BTreeMap::new();
    for row in last {
        let cells: Cells =
            spec.key.iter().map(|column| (field_name(column), text_cell(row, column))).collect();
        rows.insert(key_text(&cells), row);
    }
    let initial: Vec<_> = evidence.initial.get(name).map_or(&[][..], Vec::as_slice).iter().collect();
    for (key, row) in &rows {
        match states.get(key) {
            Some(Some(cells)) => {
                if let Some(column) = differing_column(row, cells) {
                    report.add(Kind::Fold, format!("{name} {key}: the last record differs in {column}"));
                }
            }
            Some(None) => {
                report.add(Kind::Fold, format!("{name} {key}: deleted in Kafka, there in the table"))
            }
            None if initial.contains(row) => {}
            None => report.add(Kind::Fold, format!("{name} {key}: not in Kafka")),
        }
    }
    for (key, state) in &states {
        if state.is_some() && !rows.contains_key(key) {
            report.add(Kind::Fold, format!("{name} {key}: there in Kafka, not in the table"));
        }
    }
}

/// A value that the server did not send again is the one before it; unknown when nothing came before.
fn with_unavailable_from(mut after: Cells, before: Option<Cells>) -> Cells {
    for (name, cell) in &mut after {
        if cell.is_unavailable()
            && let Some((_, known)) = before.iter().flatten().find(|(n, _)| n == name)
        {
            *cell = known.clone();
        }
    }
    after
}

fn differing_column(row: &Row, cells: &Cells) -> Option<String> {
    let differs = |(name, text): (&String, &Option<String>)| {
        let field = field_name(name);
        match cells.iter().find(|(n, _)| *n == field) {
            // A column added after the row's last change.
            None => false,
            Some((_, cell)) => !cell.is_unavailable() && !cell.equals(text.as_deref()),
        }
    };
    row.iter().find(|(name, text)| differs((name, text))).map(|(name, _)| name.clone())
}

fn text_cell(row: &Row, column: &str) -> Cell {
    match row.get(column).cloned().flatten() {
        Some(text) => Cell::Text(text),
        None => Cell::Null,
    }
}

fn key_text(key: &Cells) -> String {
    let parts: Vec<_> = key
        .iter()
        .map(|(name, cell)| match cell {
            Cell::Text(text) | Cell::Number(text) => format!("{name}={text}"),
            other => format!("{name}={other:?}"),
        })
        .collect();
    parts.join(",")
}
