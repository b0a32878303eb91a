//! A batch in memory: of every key the newest state, as text for COPY.
//!
//! In: changes in the order of their partitions. Out: one [`Slot`] per key. What a later change of the same key replaces
//! is never written. Invariant: a slot holds what applying its changes one by one would have left, given the guard.

use std::collections::HashMap;
use std::sync::Arc;

use crate::layout::{KeyLayout, ValueLayout};
use crate::position::Position;
use crate::target::TargetName;

/// The newest state of a key.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The key's columns as COPY has them.
    pub(crate) key: Range,
    pub(crate) position: Position,
    pub(crate) state: State,
    /// Whether the first change of it in the batch is one of a row that should be in the table.
    pub(crate) exists: bool,
}

/// Bytes of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    start: usize,
    end: usize,
}

#[derive(Debug)]
pub(crate) enum State {
    Deleted,
    /// The whole row.
    Row(Range),
    /// A row of which these columns are as they were before the batch.
    Partial(Range, Vec<u16>),
}

/// The batch of one table.
#[derive(Debug)]
pub(crate) struct TableBatch {
    pub(crate) target: TargetName,
    pub(crate) key: Arc<KeyLayout>,
    /// None while there are only deletes.
    pub(crate) row: Option<Arc<ValueLayout>>,
    bytes: Vec<u8>,
    keys: HashMap<Box<[u8]>, usize>,
    pub(crate) slots: Vec<Slot>,
    /// Changes that came in, by operation: for the metrics.
    pub(crate) changes: u64,
}

/// A change of one key.
pub(crate) enum Change<'a> {
    Delete,
    /// The line, the columns that hold the placeholder, and whether it is an update.
    Row {
        line: &'a [u8],
        unchanged: &'a [u16],
        is_update: bool,
    },
}

impl TableBatch {
    pub(crate) fn new(target: TargetName, key: Arc<KeyLayout>) -> TableBatch {
        TableBatch {
            target,
            key,
            row: None,
            bytes: Vec::new(),
            keys: HashMap::new(),
            slots: Vec::new(),
            changes: 0,
        }
    }

    /// Whether changes of these layouts can go into this batch.
    pub(crate) fn takes(&self, key: &Arc<KeyLayout>, row: Option<&Arc<ValueLayout>>) -> bool {
        let same_row = match (&self.row, row) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => true,
        };
        Arc::ptr_eq(&self.key, key) && same_row
    }

    pub(crate) fn bytes_of(&self, range: Range) -> &[u8] {
        &self.bytes[range.start..range.end]
    }

    /// Whether a key of it ends up deleted.
    pub(crate) fn deletes(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, State::Deleted))
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    fn append(&mut self, bytes: &[u8]) -> Range {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Range { start, end: self.bytes.len() }
    }

    /// Lays a change over what the batch knows of its key.
    pub(crate) fn add(&mut self, key: &[u8], position: Position, change: &Change<'_>) {
        self.changes += 1;
        let Some(&index) = self.keys.get(key) else {
            let range = self.append(key);
            let state = self.state(change);
            self.keys.insert(key.into(), self.slots.len());
            let exists = !matches!(change, Change::Row { is_update: false, .. });
            self.slots.push(Slot { key: range, position, state, exists });
            return;
        };
        if !position.replaces(self.slots[index].position) {
            return;
        }
        let state = match change {
            Change::Row { line, unchanged, .. } if !unchanged.is_empty() => {
                self.merged(index, line, unchanged)
            }
            other => self.state(other),
        };
        self.slots[index].position = position;
        self.slots[index].state = state;
    }

    fn state(&mut self, change: &Change<'_>) -> State {
        match change {
            Change::Delete => State::Deleted,
            Change::Row { line, unchanged: [], .. } => State::Row(self.append(line)),
            Change::Row { line, unchanged, .. } => State::Partial(self.append(line), unchanged.to_vec()),
        }
    }

    /// A row that lacks columns, filled with those of the row before it. COPY's text has no tab inside of a field.
    fn merged(&mut self, index: usize, line: &[u8], unchanged: &[u16]) -> State {
        let (before, missing) = match &self.slots[index].state {
            State::Deleted => return self.state(&Change::Row { line, unchanged, is_update: true }),
            State::Row(range) => (self.bytes_of(*range), &[][..]),
            State::Partial(range, missing) => (self.bytes_of(*range), &missing[..]),
        };
        let mut filled = Vec::with_capacity(line.len() + before.len());
        let fields = before.split(|byte| *byte == b'\t').zip(line.split(|byte| *byte == b'\t'));
        for (column, (old, new)) in fields.enumerate() {
            if column > 0 {
                filled.push(b'\t');
            }
            filled.extend_from_slice(if unchanged.contains(&(column as u16)) { old } else { new });
        }
        let still: Vec<u16> = unchanged.iter().copied().filter(|column| missing.contains(column)).collect();
        let range = self.append(&filled);
        if still.is_empty() { State::Row(range) } else { State::Partial(range, still) }
    }
}

#[cfg(test)]
mod tests {
    use headwater_avro::reading::KeyReader;

    use super::*;

    fn batch() -> TableBatch {
        let schema = r#"{"type":"record","name":"Key","fields":[{"name":"id","type":"int"}]}"#;
        let plan = KeyReader::parse(schema).and_then(|reader| reader.plan(&[None])).expect("a key");
        let key = Arc::new(KeyLayout { columns: vec!["id".to_owned()], plan });
        TableBatch::new(TargetName { schema: "public".to_owned(), table: "t".to_owned() }, key)
    }

    fn at(ordinal: i64) -> Position {
        Position { lsn: 1, ordinal: ordinal * 2 + 2 }
    }

    /// Each step is position, line (none for a delete) and unchanged columns; then what is left of the key.
    fn check(steps: &[(i64, Option<&str>, &[u16])], expected: &str) {
        let mut batch = batch();
        for (ordinal, line, unchanged) in steps {
            let change = match line {
                None => Change::Delete,
                Some(line) => Change::Row { line: line.as_bytes(), unchanged, is_update: true },
            };
            batch.add(b"7", at(*ordinal), &change);
        }
        let [slot] = &batch.slots[..] else { panic!("{} slots", batch.slots.len()) };
        let text = match &slot.state {
            State::Deleted => "deleted".to_owned(),
            State::Row(range) => String::from_utf8_lossy(batch.bytes_of(*range)).into_owned(),
            State::Partial(range, missing) => {
                format!("{} without {missing:?}", String::from_utf8_lossy(batch.bytes_of(*range)))
            }
        };
        assert_eq!(text, expected, "{steps:?}");
    }

    #[test]
    fn the_newest_state_of_a_key() {
        check(&[(1, Some("7\ta"), &[]), (2, Some("7\tb"), &[])], "7\tb");
        check(&[(1, Some("7\ta"), &[]), (2, Some("7\tb"), &[]), (1, Some("7\ta"), &[])], "7\tb");
        check(&[(1, Some("7\ta"), &[]), (2, None, &[])], "deleted");
        check(&[(2, None, &[]), (1, Some("7\ta"), &[])], "deleted");
        check(&[(1, None, &[]), (2, Some("7\ta"), &[])], "7\ta");
    }

    #[test]
    fn unchanged_values_come_from_the_row_before() {
        check(&[(1, Some("7\ta\tbig"), &[]), (2, Some("7\tb\t?"), &[2])], "7\tb\tbig");
        check(&[(1, Some("7\t?\t?"), &[1, 2]), (2, Some("7\tx\t?"), &[2])], "7\tx\t? without [2]");
        check(&[(1, Some("7\t?\tbig"), &[1]), (2, Some("7\tx\t?"), &[2])], "7\tx\tbig");
        check(&[(1, None, &[]), (2, Some("7\tx\t?"), &[2])], "7\tx\t? without [2]");
    }
}
