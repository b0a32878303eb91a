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
    pub(crate) allow_newer: bool,
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
            Row::Inserted(new) | Row::Read(new) => vec![self.key_of(new, None)?],
            Row::Deleted(old) => vec![self.key_of(old.tuple(), None)?],
            Row::Truncated => return None,
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
            ReadRow::Gone | ReadRow::Newer | ReadRow::TooLarge | ReadRow::NotVisible => Some(Answer::Nothing),
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

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_avro::{ColumnDescription, PgType};
    use headwater_pgoutput::{Message, RelationId, ReplicaIdentity};

    /// Columns k1, body, k2, doc, odd (whose text isn't stable); the key is k2, k1.
    fn plan(allow_newer: bool) -> ReselectPlan {
        let column = |(name, pg_type, in_identity): (&str, PgType, bool)| ColumnDescription {
            name: name.to_owned(),
            type_name: name.to_owned(),
            pg_type,
            not_null: false,
            default: None,
            in_identity,
            declared: None,
            key_labels: None,
        };
        let columns = [
            ("k1", PgType::Text, true),
            ("body", PgType::Text, false),
            ("k2", PgType::Int4, true),
            ("doc", PgType::Json, false),
            ("odd", PgType::Verbatim, false),
        ];
        let table = TableDescription {
            relation: RelationId(1),
            schema: "public".to_owned(),
            table: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: columns.map(column).to_vec(),
            key: vec![2, 0],
        };
        let mut records = RecordSettings { allow_newer, ..RecordSettings::default() };
        assert!(ReselectPlan::new(&table, &records).unwrap().is_none(), "not asked for");
        records.unchanged_toast = UnchangedToast::Reselect;
        let plan = ReselectPlan::new(&table, &records).unwrap().expect("asked for");
        assert_eq!(
            (plan.key_names.join(","), plan.column_names.join(",")),
            ("k2,k1".into(), "k1,body,doc,odd".into())
        );
        plan
    }

    /// Letters of columns: `-` NULL, `?` unchanged, others are their own text.
    fn tuple(columns: &str) -> Vec<u8> {
        let mut bytes = (columns.len() as u16).to_be_bytes().to_vec();
        for letter in columns.bytes() {
            match letter {
                b'-' => bytes.push(b'n'),
                b'?' => bytes.push(b'u'),
                letter => bytes.extend([b't', 0, 0, 0, 1, letter]),
            }
        }
        bytes
    }

    /// An update with the old tuple that is given (`K…`, `O…` or none).
    fn with_update(old: &str, new: &str, look: impl FnOnce(&Row<'_>)) {
        let mut body = b"U\0\0\0\x01".to_vec();
        if let Some(kind) = old.bytes().next() {
            body.push(kind);
            body.extend(tuple(&old[1..]));
        }
        body.push(b'N');
        body.extend(tuple(new));
        let Ok(Message::Update(update)) = Message::decode(&body) else { panic!("no update") };
        look(&Row::Updated(update.old, update.new));
    }

    #[test]
    fn what_is_missing_and_under_which_key() {
        let plan = plan(false);
        for (old, new, lacks, keys) in [
            ("", "ab1de", false, "1a"),
            ("", "a?1de", true, "1a"),
            ("", "a-1--", false, "1a"),
            // A key column in TOAST is in the old tuple; another key is a second one.
            ("Ka-1--", "?b1de", false, "1a 1a"),
            ("Ka-1--", "??2de", true, "1a 2a"),
            ("Oab1de", "a?2??", false, "1a 2a"),
            ("Oa-1de", "a?2??", true, "1a 2a"),
            ("", "?b1de", true, "none"),
        ] {
            with_update(old, new, |row| {
                assert_eq!(plan.lacks(row), lacks, "{old} {new}");
                let found = plan.keys(row).map_or("none".to_owned(), |keys| {
                    keys.iter().map(|key| key.concat()).collect::<Vec<_>>().join(" ")
                });
                assert_eq!(found, keys, "{old} {new}");
            });
        }
    }

    /// Of the columns k1, body, doc, odd a letter each: `-` NULL. Upper case of `same` are those that are proved.
    fn answer(own: bool, values: &str, same: [bool; 4]) -> Answer {
        let value = |letter: char| (letter != '-').then(|| letter.to_string());
        Answer::Row { own, values: values.chars().map(value).collect(), same_column: same.into() }
    }

    fn check(allow_newer: bool, new: &str, read: &Answer, is_last: bool, expected: (&str, &str, &str, &str)) {
        let plan = plan(allow_newer);
        with_update("", new, |row| {
            let (values, marks) = plan.decide(row, read, is_last);
            let values: Vec<String> = values.iter().map(|(at, value)| format!("{at}{value}")).collect();
            let found = (values.join(" "), marks.unchanged.clone(), marks.newer.clone(), marks.outcome());
            let (values, unchanged, newer, outcome) = expected;
            assert_eq!(
                found,
                (values.into(), unchanged.into(), newer.into(), outcome),
                "{new} {read:?} {is_last}"
            );
        });
    }

    #[test]
    fn what_may_be_sent() {
        let own = answer(true, "abdo", [true; 4]);
        let other = answer(false, "abdo", [true; 4]);
        check(false, "a?1?e", &own, true, ("1b 3d", "", "", "exact"));
        check(false, "a?1?e", &own, false, ("", "body,doc", "", "marked"));
        check(false, "a?1de", &other, true, ("", "body", "", "marked"));
        check(false, "a?1de", &Answer::Nothing, true, ("", "body", "", "marked"));
        check(false, "a?1d?", &own, true, ("1b", "odd", "", "marked"));
        check(true, "a?1d?", &own, true, ("1b 4o", "", "odd", "newer"));
        check(true, "a?1de", &other, true, ("1b", "", "body", "newer"));
        check(true, "a?1de", &own, false, ("1b", "", "body", "newer"));
        check(true, "a?1de", &Answer::Nothing, true, ("", "body", "", "marked"));
        // NULL is never the unchanged value, nor is that of another column.
        check(true, "a?1?e", &answer(true, "a-do", [true; 4]), true, ("3d", "body", "", "marked"));
        check(
            true,
            "a?1?e",
            &answer(true, "abdo", [true, true, false, true]),
            true,
            ("1b", "doc", "", "marked"),
        );
    }
}
