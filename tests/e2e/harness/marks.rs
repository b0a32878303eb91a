//! What headers say of values that were read back (`unchanged_toast = "reselect"`), and whether that is true.

use super::cell::Cell;
use super::evidence::{Cells, Evidence, Record, Row, TableSpec};
use super::expected::field_name;

const UNCHANGED: &str = "headwater.unchanged";
const NEWER: &str = "headwater.reselected";

/// The columns that the two headers name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Their value is the placeholder.
    pub unchanged: Vec<String>,
    /// Their value may be newer than the change.
    pub newer: Vec<String>,
}

impl Marks {
    /// Those of a record.
    pub fn of(record: &Record) -> Marks {
        let names = |header: &str| -> Vec<String> {
            let found = record.headers.iter().filter(|(name, _)| name == header);
            found
                .flat_map(|(_, value)| {
                    String::from_utf8_lossy(value).split(',').map(str::to_owned).collect::<Vec<_>>()
                })
                .collect()
        };
        Marks { unchanged: names(UNCHANGED), newer: names(NEWER) }
    }

    fn names(&self, field: &str) -> bool {
        self.unchanged.iter().chain(&self.newer).any(|name| name == field)
    }
}

/// What is untrue of a record's marks.
pub fn difference(
    spec: &TableSpec,
    after: Option<&Row>,
    record: &Record,
    evidence: &Evidence,
) -> Option<String> {
    let marks = Marks::of(record);
    let relation = format!("{}.{}", spec.schema, spec.table);
    if !evidence.reselected.contains(&relation) {
        return (marks != Marks::default()).then(|| format!("{marks:?} of a table that is not read back"));
    }
    let cells = record.change.as_ref().and_then(|change| change.after.as_ref());
    let (Some(row), Some(cells)) = (after, cells) else {
        return (marks != Marks::default()).then(|| format!("{marks:?} without a new row"));
    };
    for field in marks.unchanged.iter().chain(&marks.newer) {
        if !cells.iter().any(|(name, _)| name == field) {
            return Some(format!("{field} is marked, and there is no such column"));
        }
    }
    for (name, cell) in cells {
        if cell.is_unavailable() != marks.unchanged.contains(name) {
            return Some(format!(
                "after.{name} is {}marked as unchanged",
                if cell.is_unavailable() { "not " } else { "" }
            ));
        }
        if marks.newer.contains(name) && !was_there(spec, row, &relation, name, cell, evidence) {
            return Some(format!("after.{name} was never a value of that row"));
        }
    }
    None
}

/// Whether the row had this value at any time. (That it isn't an older one is for the test to know.)
fn was_there(
    spec: &TableSpec,
    row: &Row,
    relation: &str,
    field: &str,
    cell: &Cell,
    evidence: &Evidence,
) -> bool {
    let same_key = |other: &Row| spec.key.iter().all(|column| other.get(column) == row.get(column));
    evidence
        .audit
        .iter()
        .filter(|audit| audit.relation == relation)
        .filter_map(|audit| audit.new.as_ref())
        .any(|new| {
            same_key(new)
                && new.iter().any(|(name, text)| field_name(name) == field && cell.equals(text.as_deref()))
        })
}

/// Whether a column's value needs no comparison with the row of its moment.
pub fn is_newer(record: &Record, field: &str) -> bool {
    Marks::of(record).newer.iter().any(|name| name == field)
}

/// Whether two records of one identity, of a table that is read back, differ in nothing but what one of them marks.
pub fn alike(left: &Record, right: &Record) -> bool {
    let marks = [Marks::of(left), Marks::of(right)];
    if marks[0] == Marks::default() && marks[1] == Marks::default() {
        return left.value_bytes == right.value_bytes && left.headers == right.headers;
    }
    let others = |record: &Record| -> Vec<(String, Vec<u8>)> {
        record.headers.iter().filter(|(name, _)| name != UNCHANGED && name != NEWER).cloned().collect()
    };
    let (Some(a), Some(b)) = (&left.change, &right.change) else { return false };
    let unmarked = |cells: &Option<Cells>| -> Option<Cells> {
        let mut cells = cells.clone()?;
        cells.retain(|(name, _)| !marks.iter().any(|marks| marks.names(name)));
        Some(cells)
    };
    others(left) == others(right)
        && unmarked(&a.after) == unmarked(&b.after)
        && (&a.op, &a.before, &a.sequence, &a.times_micros, a.xid, a.lsn)
            == (&b.op, &b.before, &b.sequence, &b.times_micros, b.xid, b.lsn)
}
