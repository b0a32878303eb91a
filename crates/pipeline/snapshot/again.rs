//! The keys of a table whose rows are to be read once more, because the stream left a value of them out; and which of
//! them are being read. Stored with the table's progress: forgotten in a crash, their rows would lack a value for ever.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

/// Keys of one chunk of rows that are read again.
const PER_CHUNK: usize = 500;

/// A chunk of which more rows than this are to be read again is read again itself: a record of progress is not to grow
/// beyond what a topic takes.
pub(crate) const OF_ONE_CHUNK_MAX: usize = 2000;

/// See the module's documentation. A key is the texts of its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Again {
    keys: BTreeSet<Vec<String>>,
    #[serde(skip)]
    reading: HashMap<u32, Vec<Vec<String>>>,
}

impl Again {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Again::default();
    }

    /// Keys that nobody reads at the moment; none if there is not yet a chunk full of them and it is not `urgent`.
    pub(crate) fn next(&self, urgent: bool) -> Option<Vec<Vec<String>>> {
        let being_read: BTreeSet<&Vec<String>> = self.reading.values().flatten().collect();
        let waiting = self.keys.iter().filter(|key| !being_read.contains(key));
        let next: Vec<Vec<String>> = waiting.take(PER_CHUNK).cloned().collect();
        (next.len() == PER_CHUNK || urgent && !next.is_empty()).then_some(next)
    }

    /// These are read in this chunk.
    pub(crate) fn read_in(&mut self, chunk: u32, keys: Vec<Vec<String>>) {
        self.reading.insert(chunk, keys);
    }

    /// That chunk was not written.
    pub(crate) fn not_written(&mut self, chunk: u32) {
        self.reading.remove(&chunk);
    }

    /// The stream has left a value out of the rows of these keys, whatever is being read of them.
    pub(crate) fn add(&mut self, keys: Vec<Vec<String>>) {
        for key in keys {
            for reading in self.reading.values_mut() {
                reading.retain(|read| *read != key);
            }
            self.keys.insert(key);
        }
    }

    /// A chunk is acknowledged: what was read in it is done.
    pub(crate) fn acknowledged(&mut self, chunk: u32) {
        for key in self.reading.remove(&chunk).unwrap_or_default() {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(from: usize, to: usize) -> Vec<Vec<String>> {
        (from..to).map(|n| vec![format!("{n:05}")]).collect()
    }

    #[test]
    fn a_key_stays_until_a_row_of_it_is_acknowledged() {
        let mut again = Again::default();
        again.add(keys(0, 3));
        assert_eq!(again.next(false), None, "there may be more of them");
        assert_eq!(again.next(true), Some(keys(0, 3)));
        again.read_in(7, keys(0, 3));
        assert_eq!(again.next(true), None, "they are being read");
        again.add(keys(1, 2));
        assert_eq!(again.next(true), Some(keys(1, 2)), "and again the stream was first");
        again.acknowledged(7);
        assert_eq!(serde_json::to_string(&again).unwrap(), r#"[["00001"]]"#, "that is what a crash leaves");
        again.read_in(8, keys(1, 2));
        again.not_written(8);
        assert_eq!(again.next(true), Some(keys(1, 2)));
        again.read_in(9, keys(1, 2));
        again.acknowledged(9);
        assert!(again.is_empty());
    }

    #[test]
    fn a_chunk_takes_some_of_many() {
        let mut again = Again::default();
        again.add(keys(0, 700));
        let first = again.next(false).unwrap();
        assert_eq!(first, keys(0, PER_CHUNK));
        again.read_in(1, first);
        assert_eq!(again.next(false), None);
        assert_eq!(again.next(true), Some(keys(PER_CHUNK, 700)));
    }
}
