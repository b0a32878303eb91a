//! Why bytes are not a message: [`DecodeError`] says which message, where in it, and what is wrong.
//!
//! Always fatal for the stream: after a message that cannot be read, nothing can be said of its transaction.
//! Invariant: no byte of a row is quoted, so that an error may be logged. Of the input it shows the tag,
//! lengths and counts only.

use std::fmt;

use crate::message::name_of_tag;

/// A message that is not protocol 1 of `pgoutput`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct DecodeError {
    /// First byte of the message, 0 if it has none.
    pub tag: u8,
    /// Where the offending field starts, in bytes from the tag (which is at 0).
    pub offset: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong at [`DecodeError::offset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The first byte is no message of protocol 1.
    #[error("no message of protocol 1 has this tag")]
    UnknownTag,
    /// The message ends inside a field.
    #[error("the field takes {needed} bytes and {left} are left")]
    Short {
        /// Bytes that the field takes.
        needed: usize,
        /// Bytes that the message still has.
        left: usize,
    },
    /// The message is complete and bytes follow it.
    #[error("{bytes} bytes follow the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A name without its closing zero byte.
    #[error("the name has no end")]
    UnterminatedName,
    /// A name that is not UTF-8, although that is the session's encoding.
    #[error("the name is not UTF-8")]
    NameNotUtf8,
    /// A length or count below zero.
    #[error("the {field} is negative: {value}")]
    Negative {
        /// Which length or count.
        field: &'static str,
        /// What was sent.
        value: i32,
    },
    /// A flag or marker byte that protocol 1 does not define at this place.
    #[error("the {field} is not {expected}")]
    Undefined {
        /// Which flag or marker.
        field: &'static str,
        /// What protocol 1 defines.
        expected: &'static str,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name_of_tag(self.tag) {
            Some(name) => write!(f, "{name} message, byte {}: {}", self.offset, self.reason),
            None => write!(f, "message with tag 0x{:02x}, byte {}: {}", self.tag, self.offset, self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_message_place_and_reason() {
        let check = |tag, offset, reason, text: &str| {
            assert_eq!(DecodeError { tag, offset, reason }.to_string(), text);
        };
        check(
            b'U',
            17,
            Reason::Short { needed: 9, left: 2 },
            "Update message, byte 17: the field takes 9 bytes and 2 are left",
        );
        check(
            b'z',
            0,
            Reason::UnknownTag,
            "message with tag 0x7a, byte 0: no message of protocol 1 has this tag",
        );
        check(
            b'I',
            8,
            Reason::Negative { field: "column length", value: -3 },
            "Insert message, byte 8: the column length is negative: -3",
        );
    }
}
