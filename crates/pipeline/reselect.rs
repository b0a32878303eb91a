//! `unchanged_toast = "reselect"` for one version of a table: which rows lack a value, under which key they are read
//! back, and what of that may be sent.
//!
//! A value is sent without a mark only if it is provably the one after that change: the row that is there was written by
//! the change's transaction itself (xmin), and the change is the last one of its key in the transaction. A later
//! transaction or a savepoint leaves another xmin; a xid can't come around again while the slot keeps the catalog's rows.
//! Everything else is marked in a header, and without a mark nothing is ever NULL that wasn't.

use headwater_avro::{
    RecordSettings, SchemaError, TableDescription, UnchangedColumn, UnchangedToast, unchanged_columns,
};
use headwater_pg::read_back::{ReadRow, ReadRows};
use headwater_pgoutput::{Column, OldTuple, Tuple};

use crate::row_writer::Row;

/// The header that names columns whose value is a placeholder.
const UNCHANGED_HEADER: &str = "headwater.unchanged";

/// The header that names columns whose value may be newer than the change.
const RESELECTED_HEADER: &str = "headwater.reselected";

/// Compiled from a table's description; only tables that ask for it have one.
#[derive(Debug)]
pub(crate) struct ReselectPlan {
    /// Columns that may lack a value.
    columns: Vec<UnchangedColumn>,
    /// Their names in the table, and those of the key.
    pub(crate) column_names: Vec<String>,
    pub(crate) key_names: Vec<String>,
    /// The table's own key, whatever the records' key is: what names one row.
    key: Vec<usize>,
    allow_newer: bool,
}

impl ReselectPlan {
    /// None where nothing is read back: not asked for, or no column of the table can lack a value.
    pub(crate) fn new(
        table: &TableDescription,
        records: &RecordSettings,
    ) -> Result<Option<ReselectPlan>, SchemaError> {
        if records.unchanged_toast != UnchangedToast::Reselect {
            return Ok(None);
        }
        let columns = unchanged_columns(table, records)?;
        if columns.is_empty() || table.key.is_empty() {
            return Ok(None);
        }
        let name = |at: usize| table.columns[at].name.clone();
        Ok(Some(ReselectPlan {
            column_names: columns.iter().map(|column| name(column.index)).collect(),
            key_names: table.key.iter().map(|at| name(*at)).collect(),
            key: table.key.clone(),
            allow_newer: records.allow_newer,
            columns,
        }))
    }

    /// Whether a value of the new row is missing.
    pub(crate) fn lacks(&self, changed: &Row<'_>) -> bool {
        let Row::Updated(old, new) = changed else { return false };
        let mut wanted = self.columns.iter().map(|column| column.index).peekable();
        for (index, column) in new.columns().enumerate() {
            if wanted.next_if_eq(&index).is_some()
                && column == Column::Unchanged
                && !is_in_old(old.as_ref(), index)
            {
                return true;
            }
        }
        false
    }

    /// The keys that a change touches; the last one is that of the row which is there after it. None if one can't be
    /// told.
    pub(crate) fn keys(&self, changed: &Row<'_>) -> Option<Vec<Vec<String>>> {
        Some(match changed {
            Row::Inserted(new) => vec![self.key_of(new, None)?],
            Row::Deleted(old) => vec![self.key_of(old.tuple(), None)?],
            Row::Updated(None, new) => vec![self.key_of(new, None)?],
            Row::Updated(Some(old), new) => {
                vec![self.key_of(old.tuple(), None)?, self.key_of(new, Some(old.tuple()))?]
            }
        })
    }

    fn key_of(&self, tuple: &Tuple<'_>, old: Option<&Tuple<'_>>) -> Option<Vec<String>> {
        let text = |at: usize| {
            let column = match tuple.column(at)? {
                Column::Unchanged => old?.column(at)?,
                column => column,
            };
            let Column::Text(text) = column else { return None };
            String::from_utf8(text.to_vec()).ok()
        };
        self.key.iter().map(|at| text(*at)).collect()
    }

    /// What becomes of each missing value of a row. `is_last`: no later change in its transaction touches its key.
    pub(crate) fn decide<'r>(
        &self,
        changed: &Row<'_>,
        read: &'r Answer,
        is_last: bool,
    ) -> (Vec<(usize, &'r str)>, Marks) {
        let (mut values, mut marks) = (Vec::new(), Marks::default());
        let Row::Updated(old, new) = changed else { return (values, marks) };
        for (position, column) in self.columns.iter().enumerate() {
            let missing = new.column(column.index) == Some(Column::Unchanged);
            if !missing || is_in_old(old.as_ref(), column.index) {
                continue;
            }
            let found = match read {
                Answer::Nothing => None,
                Answer::Row { values, same_column, .. } if same_column[position] => {
                    values[position].as_deref()
                }
                Answer::Row { .. } => None,
            };
            let Some(value) = found else {
                marks.add_unchanged(&column.field);
                continue;
            };
            let is_exact = is_last && read.is_own() && column.text_is_stable;
            if !is_exact && !self.allow_newer {
                marks.add_unchanged(&column.field);
                continue;
            }
            if !is_exact {
                marks.add_newer(&column.field);
            }
            values.push((column.index, value));
        }
        (values, marks)
    }
}

/// Whether the old row has the value, as the encoder takes it from there.
fn is_in_old(old: Option<&OldTuple<'_>>, index: usize) -> bool {
    // What a key tuple doesn't carry is Null in it.
    old.is_some_and(|old| matches!(old.tuple().column(index), Some(Column::Text(_))))
}

/// What reading back has said of one row.
#[derive(Debug)]
pub(crate) enum Answer {
    /// No row, or none that may be used.
    Nothing,
    /// The row that is there.
    Row {
        /// Written by the change's own transaction.
        own: bool,
        values: Vec<Option<String>>,
        same_column: std::sync::Arc<[bool]>,
    },
}

impl Answer {
    fn is_own(&self) -> bool {
        matches!(self, Answer::Row { own: true, .. })
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Answer::Nothing => 0,
            Answer::Row { values, .. } => values.iter().flatten().map(|value| value.len() as u64).sum(),
        }
    }

    /// The answers to one read; none for a row that must be asked for again.
    pub(crate) fn all(read: ReadRows) -> Vec<Option<Answer>> {
        let same_column: std::sync::Arc<[bool]> = read.same_column.into();
        let proves = read.inserts_published;
        let answer = |row| match row {
            ReadRow::NotRead => None,
            ReadRow::Gone | ReadRow::TooLarge | ReadRow::NotVisible => Some(Answer::Nothing),
            ReadRow::Found { own, values } => {
                Some(Answer::Row { own: own && proves, values, same_column: same_column.clone() })
            }
        };
        read.rows.into_iter().map(answer).collect()
    }
}

/// The columns that headers name, separated by commas.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) unchanged: String,
    pub(crate) newer: String,
}

impl Marks {
    fn add_unchanged(&mut self, field: &str) {
        add(&mut self.unchanged, field);
    }

    fn add_newer(&mut self, field: &str) {
        add(&mut self.newer, field);
    }

    /// The headers that are said of the row.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        [(UNCHANGED_HEADER, &self.unchanged), (RESELECTED_HEADER, &self.newer)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(header, names)| (header, names.as_bytes()))
    }

    /// How the row is counted.
    pub(crate) fn outcome(&self) -> &'static str {
        match (self.unchanged.is_empty(), self.newer.is_empty()) {
            (false, _) => "marked",
            (true, false) => "newer",
            (true, true) => "exact",
        }
    }
}

fn add(list: &mut String, field: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(field);
}
