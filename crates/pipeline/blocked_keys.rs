//! Keys whose changes go to the dead letter topic, because an earlier one did: from the position of that one on, and up to
//! where the present row was written again.
//!
//! Both positions are of the stream, so that a restart from any checkpoint sends each change where it went before. Each
//! key is a record beside the checkpoint, offered before any checkpoint that could pass the change that blocked it.

use std::collections::HashMap;

use headwater_pgoutput::Lsn;
use serde::{Deserialize, Serialize};

/// What follows the checkpoint's key in the key of such a record; table and key come behind it.
pub(crate) const BLOCKED_PART: &str = "/blocked/";

/// Version of the values.
const VERSION: u32 = 1;

/// As it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockedRecord {
    version: u32,
    /// `schema.table`.
    pub(crate) table: String,
    /// A JSON object of texts; empty for a table without a key.
    pub(crate) key: String,
    /// Commit of the change that could not be delivered, and its place in its transaction.
    since: (Lsn, u64),
    /// What is committed at or behind it is delivered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Lsn>,
    /// How often the key was tried.
    attempt: u32,
    /// Which owner of the slot wrote this.
    epoch: u64,
}

impl BlockedRecord {
    /// What follows the checkpoint's key.
    fn key_part(&self) -> String {
        format!("{BLOCKED_PART}{}/{}", self.table, self.key)
    }

    fn entry(&self) -> Entry {
        let value = serde_json::to_vec(self).expect("a record is plain data");
        Entry { key_part: self.key_part(), value: Some(value) }
    }

    fn is_at(&self, at: (Lsn, u64)) -> bool {
        at > self.since && self.until.is_none_or(|until| at.0 < until)
    }
}

/// What is to be stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key_part: String,
    /// None takes it away.
    pub(crate) value: Option<Vec<u8>>,
}

/// All of a slot; owned by the pump.
#[derive(Debug, Default)]
pub(crate) struct BlockedKeys {
    tables: HashMap<String, HashMap<String, BlockedRecord>>,
    len: usize,
    /// Of those, how many are over as soon as the checkpoint has passed them.
    ending: usize,
    epoch: u64,
    /// Since they were counted last.
    changed: bool,
}

impl BlockedKeys {
    pub(crate) fn new(stored: Vec<BlockedRecord>, epoch: u64) -> BlockedKeys {
        let mut keys = BlockedKeys { epoch, ..BlockedKeys::default() };
        stored.into_iter().for_each(|record| keys.insert(record));
        keys
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys of each table that are blocked now, if that has changed.
    pub(crate) fn take_counts(&mut self) -> Vec<(&str, usize)> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let open =
            |keys: &HashMap<String, BlockedRecord>| keys.values().filter(|key| key.until.is_none()).count();
        self.tables.iter().map(|(table, keys)| (table.as_str(), open(keys))).collect()
    }

    fn insert(&mut self, record: BlockedRecord) {
        self.changed = true;
        self.ending += usize::from(record.until.is_some());
        let keys = self.tables.entry(record.table.clone()).or_default();
        match keys.insert(record.key.clone(), record) {
            None => self.len += 1,
            Some(before) => self.ending -= usize::from(before.until.is_some()),
        }
    }

    /// Since when, if a change of this key at this place goes to the dead letter topic.
    pub(crate) fn since(&self, table: &str, key: &str, at: (Lsn, u64)) -> Option<Lsn> {
        let record = self.tables.get(table)?.get(key)?;
        record.is_at(at).then_some(record.since.0)
    }

    /// Whether it is or was blocked.
    pub(crate) fn is_known(&self, table: &str, key: &str) -> bool {
        self.tables.get(table).is_some_and(|keys| keys.contains_key(key))
    }

    /// Which attempt at the key fails now.
    pub(crate) fn attempt(&self, table: &str, key: &str) -> u32 {
        self.tables.get(table).and_then(|keys| keys.get(key)).map_or(1, |record| record.attempt)
    }

    /// A change at this place could not be delivered. None if that is known.
    pub(crate) fn block(&mut self, table: &str, key: &str, at: (Lsn, u64), attempt: u32) -> Option<Entry> {
        let known = self.tables.get(table).and_then(|keys| keys.get(key));
        // A restart meets again what has blocked the key, and what was blocked.
        if known.is_some_and(|known| at >= known.since && known.until.is_none_or(|until| at.0 < until)) {
            return None;
        }
        let record = BlockedRecord {
            version: VERSION,
            table: table.to_owned(),
            key: key.to_owned(),
            // A key that is blocked again was blocked before as well: a restart may be from there.
            since: known.map_or(at, |known| known.since),
            until: None,
            attempt,
            epoch: self.epoch,
        };
        let entry = record.entry();
        self.insert(record);
        Some(entry)
    }

    /// The key's present row is written where the stream stands.
    pub(crate) fn unblock(&mut self, table: &str, key: &str, passed: Lsn) -> Option<Entry> {
        let record = self.tables.get_mut(table)?.get_mut(key)?;
        if record.until.is_some() {
            return None;
        }
        self.changed = true;
        record.until = Some(passed);
        record.attempt += 1;
        record.epoch = self.epoch;
        self.ending += 1;
        Some(record.entry())
    }

    /// Forgets what the checkpoint has passed.
    pub(crate) fn prune(&mut self, checkpoint: Lsn) -> Vec<Entry> {
        let mut gone = Vec::new();
        if self.ending == 0 {
            return gone;
        }
        for keys in self.tables.values_mut() {
            keys.retain(|_, record| {
                let is_over = record.until.is_some_and(|until| until <= checkpoint);
                if is_over {
                    gone.push(Entry { key_part: record.key_part(), value: None });
                }
                !is_over
            });
        }
        self.len -= gone.len();
        self.ending -= gone.len();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64, ordinal: u64) -> (Lsn, u64) {
        (Lsn(lsn), ordinal)
    }

    /// What a start would find.
    fn stored(entries: Vec<Option<Entry>>) -> Vec<BlockedRecord> {
        let mut newest: std::collections::BTreeMap<String, Option<Vec<u8>>> = Default::default();
        entries.into_iter().flatten().for_each(|entry| drop(newest.insert(entry.key_part, entry.value)));
        newest.into_values().flatten().map(|value| serde_json::from_slice(&value).unwrap()).collect()
    }

    #[test]
    fn a_restart_from_anywhere_sends_each_change_where_it_went() {
        let mut keys = BlockedKeys::default();
        let blocked = keys.block("t", "k", at(20, 3), 1);
        assert!(blocked.is_some());
        let unblocked = keys.unblock("t", "k", Lsn(40));
        for keys in [BlockedKeys::new(stored(vec![blocked, unblocked]), 2), keys] {
            for (place, goes_aside) in [
                (at(10, 9), false),
                (at(20, 2), false),
                (at(20, 3), false),
                (at(20, 4), true),
                (at(39, 0), true),
                (at(40, 0), false),
            ] {
                assert_eq!(keys.since("t", "k", place).is_some(), goes_aside, "{place:?}");
                assert_eq!(keys.since("t", "other", place), None);
                assert_eq!(keys.since("other", "k", place), None);
            }
        }
    }

    #[test]
    fn what_is_met_again_blocks_nothing_anew() {
        let mut keys = BlockedKeys::default();
        assert!(keys.block("t", "k", at(20, 3), 1).is_some());
        assert_eq!(keys.block("t", "k", at(20, 3), 1), None);
        assert_eq!(keys.block("t", "k", at(25, 0), 1), None);
        assert!(keys.unblock("t", "k", Lsn(40)).is_some());
        assert_eq!(keys.unblock("t", "k", Lsn(41)), None);
        assert_eq!(keys.block("t", "k", at(20, 3), 1), None, "a restart meets it again");
        assert_eq!(keys.attempt("t", "k"), 2);
        assert!(keys.block("t", "k", at(50, 0), 2).is_some(), "it fails again");
        assert!(keys.since("t", "k", at(30, 0)).is_some(), "and a restart from before both is right as well");
    }

    #[test]
    fn what_the_checkpoint_has_passed_is_forgotten() {
        let mut keys = BlockedKeys::default();
        let mut entries = Vec::new();
        for key in ["a", "b", "c"] {
            entries.push(keys.block("t", key, at(20, 0), 1));
        }
        entries.push(keys.unblock("t", "a", Lsn(40)));
        entries.push(keys.unblock("t", "b", Lsn(60)));
        assert_eq!(keys.prune(Lsn(39)), []);
        let gone = keys.prune(Lsn(40));
        assert_eq!(gone.len(), 1);
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.take_counts(), [("t", 1)]);
        assert_eq!(keys.take_counts(), []);
        entries.extend(gone.into_iter().map(Some));
        assert_eq!(BlockedKeys::new(stored(entries), 2).len(), 2);
    }
}
