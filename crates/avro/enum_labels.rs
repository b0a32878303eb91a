//! Labels of enums, which their schemas list: a label that is added to a type comes without any Relation message, so the
//! first row that holds it is the only notice.
//!
//! The key's schema is left alone until the next Relation message: a new list would be a new key schema, and with it
//! other bytes and other partitions for keys that did not change. A key's labels are written as they come, as
//! everybody's are, and the value's schema lists them.

use std::collections::HashSet;

use headwater_pgoutput::{Column, Tuple};

use crate::description::{ColumnDescription, PgType, TableDescription};
use crate::record_settings::{ArrayHandling, RecordSettings, TypeStyle};

/// The labels that a table's schema lists, by column.
#[derive(Debug, Clone, Default)]
pub struct EnumLabels {
    columns: Vec<(usize, Shape, Labels)>,
}

type Labels = HashSet<Box<[u8]>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Scalar,
    Array,
}

/// A label that the schema does not list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnseenLabel {
    /// Index of its column.
    pub column: usize,
    /// The label.
    pub label: String,
}

impl EnumLabels {
    /// Those of a table whose schema lists labels; empty for all others.
    pub fn of(table: &TableDescription, records: &RecordSettings) -> EnumLabels {
        if records.types != TypeStyle::Connect {
            return EnumLabels::default();
        }
        let columns = table.columns.iter().enumerate().filter_map(|(at, column)| {
            let (shape, labels) = labels_of(&column.pg_type)?;
            let shown = shape == Shape::Scalar || records.array_handling == ArrayHandling::List;
            let bytes = labels.iter().map(|label| label.as_bytes().into()).collect();
            shown.then_some((at, shape, bytes))
        });
        EnumLabels { columns: columns.collect() }
    }

    /// Whether no row can hold a label that matters.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The first label of a row that its schema does not list.
    pub fn unseen(&self, tuple: &Tuple<'_>) -> Option<UnseenLabel> {
        let mut wanted = self.columns.iter();
        let (mut at, mut shape, mut labels) =
            wanted.next().map(|(at, shape, labels)| (*at, *shape, labels))?;
        for (index, column) in tuple.columns().enumerate() {
            if index != at {
                continue;
            }
            if let Column::Text(text) = column {
                let unseen = match shape {
                    Shape::Scalar => (!labels.contains(text)).then(|| text.to_vec()),
                    Shape::Array => elements(text).into_iter().find(|element| !labels.contains(&element[..])),
                };
                // Text of another encoding than UTF-8 is the encoder's business.
                if let Some(label) = unseen.and_then(|label| String::from_utf8(label).ok()) {
                    return Some(UnseenLabel { column: at, label });
                }
            }
            (at, shape, labels) = wanted.next().map(|(at, shape, labels)| (*at, *shape, labels))?;
        }
        None
    }
}

impl TableDescription {
    /// The same table with the labels that its types have in `now`, besides those known so far and the unseen one, which
    /// may have been renamed since. The lists of the columns of `key` stay what they are in the key's schema. Nothing else is taken from `now`: no Relation message said that it changed.
    pub fn with_labels(
        &self,
        now: &TableDescription,
        unseen: &UnseenLabel,
        key: &[usize],
    ) -> TableDescription {
        let mut table = self.clone();
        for (at, column) in table.columns.iter_mut().enumerate() {
            let Some((shape, known)) = labels_of(&column.pg_type) else { continue };
            let same = |other: &&ColumnDescription| other.name == column.name;
            let found = now.columns.iter().find(same).and_then(|other| labels_of(&other.pg_type));
            let today = found.filter(|(other, _)| *other == shape).map(|(_, labels)| labels.to_vec());
            // A list only grows until the next Relation message: rows of both spellings of a renamed label are on
            // their way, and a list that took turns would make a version for each.
            let mut labels = match today {
                Some(today) if known.iter().all(|label| today.contains(label)) => today,
                today => {
                    let mut all = known.to_vec();
                    all.extend(today.into_iter().flatten().filter(|label| !known.contains(label)));
                    all
                }
            };
            if at == unseen.column && !labels.contains(&unseen.label) {
                labels.push(unseen.label.clone());
            }
            if key.contains(&at) && labels != known && column.key_labels.is_none() {
                column.key_labels = Some(known.to_vec());
            }
            column.pg_type = match shape {
                Shape::Scalar => PgType::Enum { labels },
                Shape::Array => PgType::Array(Box::new(PgType::Enum { labels })),
            };
        }
        table
    }
}

impl ColumnDescription {
    /// The type as the key's schema has it.
    pub(crate) fn key_type(&self) -> PgType {
        let Some(labels) = &self.key_labels else { return self.pg_type.clone() };
        let listed = PgType::Enum { labels: labels.clone() };
        match self.pg_type {
            PgType::Array(_) => PgType::Array(Box::new(listed)),
            _ => listed,
        }
    }
}

fn labels_of(pg_type: &PgType) -> Option<(Shape, &[String])> {
    match pg_type {
        PgType::Enum { labels } => Some((Shape::Scalar, labels)),
        PgType::Array(element) => match &**element {
            PgType::Enum { labels } => Some((Shape::Array, labels)),
            _ => None,
        },
        _ => None,
    }
}

/// The elements of an array's text that are not NULL, whatever its dimensions.
///
/// `{a,"b c",NULL}`; bounds may stand in front: `[0:1]={a,b}`.
fn elements(text: &[u8]) -> Vec<Vec<u8>> {
    let start = text.iter().position(|byte| *byte == b'{').unwrap_or(text.len());
    let (mut found, mut element) = (Vec::new(), Vec::new());
    let (mut quoted, mut was_quoted, mut escaped) = (false, false, false);
    for &byte in &text[start..] {
        match byte {
            _ if escaped => {
                element.push(byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            b'"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            b'{' | b'}' | b',' if !quoted => {
                let is_null = !was_quoted && (element.is_empty() || element.eq_ignore_ascii_case(b"null"));
                if !is_null {
                    found.push(std::mem::take(&mut element));
                }
                element.clear();
                was_quoted = false;
            }
            byte => element.push(byte),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_pgoutput::{Message, RelationId, ReplicaIdentity};

    fn enumeration(labels: &[&str]) -> PgType {
        PgType::Enum { labels: labels.iter().map(|label| (*label).to_owned()).collect() }
    }

    fn table(types: Vec<PgType>) -> TableDescription {
        let columns = types.into_iter().enumerate().map(|(at, pg_type)| ColumnDescription {
            name: format!("c{at}"),
            type_name: "t".to_owned(),
            pg_type,
            not_null: false,
            default: None,
            in_identity: at == 0,
            declared: None,
            key_labels: None,
        });
        TableDescription {
            relation: RelationId(1),
            schema: "public".to_owned(),
            table: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: columns.collect(),
            key: vec![0],
        }
    }

    fn insert(values: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = vec![b'I', 0, 0, 0, 1, b'N'];
        bytes.extend((values.len() as u16).to_be_bytes());
        for value in values {
            match value {
                None => bytes.push(b'n'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend((text.len() as u32).to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    #[test]
    fn the_first_unseen_label_is_found() {
        let labels = || enumeration(&["a", "b c", "null"]);
        let table = table(vec![labels(), PgType::Int4, labels(), PgType::Array(Box::new(labels()))]);
        let check = |values: [Option<&str>; 4], expected: Option<(usize, &str)>| {
            let bytes = insert(&values);
            let Ok(Message::Insert(insert)) = Message::decode(&bytes) else { panic!("an insert") };
            let found = EnumLabels::of(&table, &RecordSettings::default()).unseen(&insert.new);
            let found = found.as_ref().map(|unseen| (unseen.column, unseen.label.as_str()));
            assert_eq!(found, expected, "{values:?}");
        };
        check([Some("a"), Some("1"), Some("a"), Some("{a,\"b c\",NULL}")], None);
        check([Some("x"), Some("1"), None, None], Some((0, "x")));
        check([Some("a"), None, Some("x"), None], Some((2, "x")));
        check([Some("a"), None, Some("b c"), Some("{a,x}")], Some((3, "x")));
        check([Some("a"), None, None, Some("{}")], None);
        check([Some("a"), None, None, Some("[0:1][1:1]={{a},{\"x\\\"y\"}}")], Some((3, "x\"y")));
        check([Some("a"), None, None, Some("{\"null\",NULL}")], None);
        let avro = RecordSettings { types: TypeStyle::Avro, ..RecordSettings::default() };
        assert!(EnumLabels::of(&table, &avro).is_empty(), "a plain string lists nothing");
    }

    #[test]
    fn labels_come_from_today_and_keep_what_was() {
        let check = |known: &[&str], today: Option<&[&str]>, label: &str, expected: &[&str]| {
            let before = table(vec![PgType::Int4, enumeration(known)]);
            let now = table(vec![PgType::Int4, today.map_or(PgType::Text, enumeration)]);
            let after = before.with_labels(&now, &UnseenLabel { column: 1, label: label.to_owned() }, &[0]);
            assert_eq!(after.columns[1].pg_type, enumeration(expected), "{known:?} {today:?} {label}");
            assert_eq!(after.columns[0], before.columns[0]);
            assert_eq!(after.columns[1].key_labels, None);
            let keyed = before.with_labels(&now, &UnseenLabel { column: 1, label: label.to_owned() }, &[1]);
            assert_eq!(keyed.columns[1].pg_type, enumeration(expected), "{known:?} {today:?} {label}");
            assert_eq!(keyed.columns[1].key_type(), before.columns[1].pg_type, "a key's list stays");
        };
        check(&["a"], Some(&["a", "b"]), "b", &["a", "b"]);
        check(&["a", "c"], Some(&["a", "b", "c"]), "b", &["a", "b", "c"]);
        check(&["a"], Some(&["A", "b"]), "b", &["a", "A", "b"]);
        check(&["a"], Some(&["a", "B"]), "b", &["a", "B", "b"]);
        check(&["a"], None, "b", &["a", "b"]);
    }
}
