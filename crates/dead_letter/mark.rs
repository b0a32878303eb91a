//! What is written behind letters that were dealt with: a record of the same partition, so that it comes after them.
//!
//! ```text
//! headers  headwater.dead_letter.mark   replayed or dropped
//! value    {"offsets":[17,18,23]}       of this partition
//! ```
//!
//! Nothing is ever taken out of a topic; a letter with a mark is no longer shown and never replayed.

use crate::form::PREFIX;

/// What became of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Done {
    /// It was sent again.
    Replayed,
    /// Somebody decided that it is not wanted.
    Dropped,
}

impl Done {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Done::Replayed => "replayed",
            Done::Dropped => "dropped",
        }
    }
}

/// A mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What became of them.
    pub done: Done,
    /// Their offsets.
    pub offsets: Vec<i64>,
}

impl Mark {
    /// The header that makes a record a mark.
    pub const HEADER: &'static str = "headwater.dead_letter.mark";

    /// The record's value.
    pub fn value(&self) -> Vec<u8> {
        serde_json::json!({ "offsets": self.offsets }).to_string().into_bytes()
    }

    /// The mark that a record is; none if it is none.
    pub fn of(headers: &[(String, Vec<u8>)], value: Option<&[u8]>) -> Option<Mark> {
        debug_assert!(Mark::HEADER.starts_with(PREFIX));
        let (_, word) = headers.iter().find(|(name, _)| name == Mark::HEADER)?;
        let done = match word.as_slice() {
            b"replayed" => Done::Replayed,
            b"dropped" => Done::Dropped,
            _ => return None,
        };
        let value: serde_json::Value = serde_json::from_slice(value?).ok()?;
        let offsets = value["offsets"].as_array()?.iter().filter_map(serde_json::Value::as_i64).collect();
        Some(Mark { done, offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        for done in [Done::Replayed, Done::Dropped] {
            let mark = Mark { done, offsets: vec![1, 7] };
            let headers = [(Mark::HEADER.to_owned(), done.word().into())];
            assert_eq!(Mark::of(&headers, Some(&mark.value())), Some(mark));
            assert_eq!(Mark::of(&headers, Some(b"torn")), None);
            assert_eq!(Mark::of(&headers, None), None);
        }
        assert_eq!(Mark::of(&[], Some(b"{}")), None);
    }
}
