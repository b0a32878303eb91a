//! Dead letters: what could not be delivered, in a topic of its own with the reason, until somebody deals with it.
//!
//! `form` is what a letter says of itself, the same for the pipeline, the outbox' answers and `apply`; `mark` is what is
//! written behind one that was dealt with; `shelf` reads a topic of them. Whoever sends a letter has its own producer.

mod form;

mod mark;

mod shelf;

pub use form::{ATTEMPT, Cause, Form, LEFT_OUT_BYTES, PREFIX, attempt_of};
pub use mark::{Done, Mark};
pub use shelf::{Letter, LetterId, Shelf, read_shelf, read_values};

use std::collections::BTreeMap;

/// What the largest record may have that any client of ours sends.
pub const RECORD_BYTES_MAX: u64 = 100 << 20;

/// Settings of a topic of letters that is made: they stay until somebody deals with them, and a record that its own topic
/// did not take finds room.
pub fn topic_config(max_message_bytes: u64) -> BTreeMap<String, String> {
    let bytes = max_message_bytes.min(i32::MAX as u64);
    [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("max.message.bytes", bytes.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
