//! Rows that came to a key from another one without all of their values, while their table is being copied.
//!
//! If the copy had not come to the old key and is past the new one, no record ever had such a value: the row is to be
//! read under its new key. The coordinator learns of it with the next chunk; until then the pump stores it, before the
//! checkpoint can pass the change.

use serde::{Deserialize, Serialize};

use super::progress::VERSION;

/// Bytes of keys that are stored. Beyond it the table's copy begins anew.
const KEYS_MAX_BYTES: usize = 128 << 10;

/// What follows the checkpoint's key in the key of such a record; the table's name comes behind it.
pub(crate) const MOVED_PART: &str = "/snapshot-moved/";

/// As it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MovedRecord {
    version: u32,
    /// The job's token.
    pub(crate) job: String,
    /// `schema.table`
    pub(crate) table: String,
    pub(crate) keys: Vec<Vec<String>>,
    /// There were too many: the table is to be copied from its first row on.
    pub(crate) too_many: bool,
}

/// What the coordinator is told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MovedKeys {
    pub(crate) keys: Vec<Vec<String>>,
    pub(crate) too_many: bool,
}

impl MovedKeys {
    fn bytes(&self) -> usize {
        self.keys.iter().flatten().map(|text| text.len() + 4).sum()
    }
}

/// Those of one table; owned by the pump.
#[derive(Debug)]
pub(crate) struct Moved {
    job: String,
    table: String,
    /// The coordinator has been told of these, and may not have stored that.
    told: MovedKeys,
    new: MovedKeys,
    /// Something came that is not stored.
    unstored: bool,
}

impl Moved {
    /// `told` is what a session before this one stored, and the coordinator may not have stored as its own.
    pub(crate) fn new(job: String, table: String, told: MovedKeys) -> Moved {
        Moved { job, table, told, new: MovedKeys::default(), unstored: false }
    }

    pub(crate) fn add(&mut self, key: Vec<String>) {
        self.unstored = true;
        if !self.new.keys.contains(&key) {
            self.new.keys.push(key);
        }
        if self.told.bytes() + self.new.bytes() > KEYS_MAX_BYTES {
            self.new = MovedKeys { keys: Vec::new(), too_many: true };
        }
    }

    /// For the coordinator.
    pub(crate) fn tell(&mut self) -> MovedKeys {
        let new = std::mem::take(&mut self.new);
        self.told.keys.extend(new.keys.iter().cloned());
        self.told.too_many |= new.too_many;
        new
    }

    /// The coordinator has stored what it was told. True if that is to be taken out of what is stored here.
    pub(crate) fn heard(&mut self) -> bool {
        let any = std::mem::take(&mut self.told) != MovedKeys::default();
        self.unstored |= any;
        any
    }

    /// What is to be stored before the checkpoint passes it: the end of a record's key, and its value.
    pub(crate) fn take_record(&mut self) -> Option<(String, Vec<u8>)> {
        if !std::mem::take(&mut self.unstored) {
            return None;
        }
        let record = MovedRecord {
            version: VERSION,
            job: self.job.clone(),
            table: self.table.clone(),
            keys: [self.told.keys.as_slice(), &self.new.keys].concat(),
            too_many: self.told.too_many || self.new.too_many,
        };
        let value = serde_json::to_vec(&record).expect("a record is plain data");
        Some((format!("{MOVED_PART}{}", self.table), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(moved: &mut Moved) -> Option<MovedRecord> {
        moved.take_record().map(|(_, value)| serde_json::from_slice(&value).unwrap())
    }

    #[test]
    fn a_key_is_stored_until_the_coordinator_has_it() {
        let key = |n: usize| vec![n.to_string()];
        let mut moved = Moved::new("initial 1".to_owned(), "public.items".to_owned(), MovedKeys::default());
        assert_eq!(stored(&mut moved), None);
        moved.add(key(1));
        assert_eq!(stored(&mut moved).unwrap().keys, [key(1)]);
        assert_eq!(stored(&mut moved), None, "once");
        assert_eq!(moved.tell().keys, [key(1)]);
        moved.add(key(2));
        assert_eq!(stored(&mut moved).unwrap().keys, [key(1), key(2)], "told, perhaps not stored");
        assert!(moved.heard());
        assert_eq!(stored(&mut moved).unwrap().keys, [key(2)]);
        assert_eq!(moved.tell().keys, [key(2)]);
        assert!(moved.heard());
        assert_eq!(stored(&mut moved).unwrap().keys, Vec::<Vec<String>>::new());
        assert!(!moved.heard());
        moved.add(key(3));
        assert_eq!(stored(&mut moved).unwrap().keys, [key(3)]);
    }

    #[test]
    fn what_was_stored_before_is_not_stored_over() {
        let key = |n: usize| vec![n.to_string()];
        let before = MovedKeys { keys: vec![key(1)], too_many: false };
        let mut moved = Moved::new("ad-hoc 1".to_owned(), "public.items".to_owned(), before);
        assert_eq!(moved.tell(), MovedKeys::default(), "the coordinator has it already");
        moved.add(key(2));
        assert_eq!(stored(&mut moved).unwrap().keys, [key(1), key(2)]);
    }

    #[test]
    fn too_many_begin_anew() {
        let mut moved = Moved::new("initial 1".to_owned(), "public.items".to_owned(), MovedKeys::default());
        for n in 0..20_000 {
            moved.add(vec![format!("{n:020}")]);
            if moved.new.too_many {
                break;
            }
        }
        let record = stored(&mut moved).unwrap();
        assert!(record.too_many && record.keys.len() < 2);
        assert!(moved.tell().too_many);
    }
}
