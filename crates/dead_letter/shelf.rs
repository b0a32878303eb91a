//! A topic of letters as it stands: every letter, and what became of it.
//!
//! In: a topic. Out: its letters in the order of their partitions, without their values, which can be large.
//! Invariant: a letter is open until a mark of the same partition names its offset.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use headwater_kafka::{Error, Settings, TopicRecord, read_partition};

use crate::form::{self, Cause};
use crate::mark::{Done, Mark};

/// Where a letter is: `partition:offset`, its name for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// The partition of its topic.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<LetterId, String> {
        let id = text.split_once(':').and_then(|(partition, offset)| {
            Some(LetterId { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        id.ok_or_else(|| "is not PARTITION:OFFSET, as `headwater dlq ls` shows it".to_owned())
    }
}

/// A letter without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its place.
    pub id: LetterId,
    /// The time of the record that it is of.
    pub timestamp_ms: Option<i64>,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// How many bytes the value has; none for a tombstone.
    pub value_bytes: Option<usize>,
    /// Headers that the record had.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Why it is one.
    pub cause: Cause,
    /// What became of it.
    pub done: Option<Done>,
}

/// All letters of a topic.
#[derive(Debug, Default)]
pub struct Shelf {
    /// By partition and offset.
    pub letters: BTreeMap<LetterId, Letter>,
    /// Records that are neither letters nor marks.
    pub others: u64,
}

impl Shelf {
    /// Takes the next record of a partition.
    fn take(&mut self, partition: i32, record: TopicRecord) {
        let TopicRecord { key, value, offset, timestamp_ms, headers } = record;
        if let Some(mark) = Mark::of(&headers, value.as_deref()) {
            for offset in mark.offsets {
                if let Some(letter) = self.letters.get_mut(&LetterId { partition, offset }) {
                    letter.done.get_or_insert(mark.done);
                }
            }
            return;
        }
        let Some(cause) = Cause::of(&headers) else {
            self.others += 1;
            return;
        };
        let id = LetterId { partition, offset };
        let headers = form::original(&headers);
        let value_bytes = value.map(|value| value.len());
        self.letters.insert(id, Letter { id, timestamp_ms, key, value_bytes, headers, cause, done: None });
    }
}

/// Reads a whole topic of letters. `limit` is for each partition.
///
/// # Errors
/// Brokers out of reach, a missing right or topic, or the time limit.
pub fn read_shelf(
    settings: &Settings,
    topic: &str,
    partitions: i32,
    limit: Duration,
) -> Result<Shelf, Error> {
    let mut shelf = Shelf::default();
    for partition in 0..partitions {
        read_partition(settings, topic, partition, 0, limit, |record| {
            shelf.take(partition, record);
            true
        })?;
    }
    Ok(shelf)
}

/// Reads the values of letters; what is not there any more is left out.
///
/// # Errors
/// As [`read_shelf`].
pub fn read_values(
    settings: &Settings,
    topic: &str,
    ids: &BTreeSet<LetterId>,
    limit: Duration,
) -> Result<BTreeMap<LetterId, Option<Vec<u8>>>, Error> {
    let mut values = BTreeMap::new();
    let partitions: BTreeSet<i32> = ids.iter().map(|id| id.partition).collect();
    for partition in partitions {
        let of_partition =
            LetterId { partition, offset: i64::MIN }..=LetterId { partition, offset: i64::MAX };
        let (mut wanted, first) = {
            let mut ids = ids.range(of_partition);
            let Some(first) = ids.next() else { continue };
            (ids.count() + 1, first.offset)
        };
        read_partition(settings, topic, partition, first, limit, |record| {
            let id = LetterId { partition, offset: record.offset };
            if ids.contains(&id) {
                values.insert(id, record.value);
                wanted -= 1;
            }
            wanted > 0
        })?;
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, headers: &[(&str, &str)], value: &[u8]) -> TopicRecord {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        TopicRecord { key: None, value: Some(value.to_vec()), offset, timestamp_ms: Some(5), headers }
    }

    #[test]
    fn a_letter_is_open_until_a_mark_of_its_partition_names_it() {
        let mut shelf = Shelf::default();
        let stage = [("headwater.dead_letter.stage", "encode"), ("id", "7")];
        for partition in [0, 1] {
            for offset in [0, 1, 2] {
                shelf.take(partition, record(offset, &stage, b"{}"));
            }
        }
        shelf.take(0, record(3, &[(Mark::HEADER, "replayed")], br#"{"offsets":[0,9]}"#));
        shelf.take(0, record(4, &[(Mark::HEADER, "dropped")], br#"{"offsets":[0,2]}"#));
        shelf.take(0, record(5, &[], b"a stranger"));
        let open: Vec<String> = shelf
            .letters
            .values()
            .filter(|letter| letter.done.is_none())
            .map(|letter| letter.id.to_string())
            .collect();
        assert_eq!(open, ["0:1", "1:0", "1:1", "1:2"]);
        let first = &shelf.letters[&LetterId { partition: 0, offset: 0 }];
        assert_eq!(first.done, Some(Done::Replayed), "what came first counts");
        assert_eq!(first.headers, [("id".to_owned(), b"7".to_vec())]);
        assert_eq!(shelf.others, 1);
    }

    #[test]
    fn names_of_letters() {
        assert_eq!("2:17".parse(), Ok(LetterId { partition: 2, offset: 17 }));
        for bad in ["", "2", "2:", ":1", "a:1", "1:2:3"] {
            assert!(bad.parse::<LetterId>().is_err(), "{bad}");
        }
    }
}
