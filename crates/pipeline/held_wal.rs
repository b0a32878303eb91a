//! Changes that wait, as they came: from the first row whose values must be read back, in the order of the stream.
//!
//! What follows a waiting row waits behind it, of whatever table or transaction, so nothing overtakes. Bytes are all
//! that is kept; they are decoded again when they are written.

use std::ops::Range;

use headwater_pgoutput::Lsn;

/// Beside its own bytes, what a message takes here.
const MESSAGE_OVERHEAD_BYTES: u64 = 24;

/// Messages in order; owned by the pump.
#[derive(Default)]
pub(crate) struct HeldWal {
    bytes: Vec<u8>,
    messages: Vec<(Lsn, Range<usize>)>,
    /// Messages up to and with the last Commit.
    committed: usize,
}

impl HeldWal {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Takes a copy. Returns what is to be charged for it.
    pub(crate) fn push(&mut self, lsn: Lsn, message: &[u8]) -> u64 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message);
        self.messages.push((lsn, start..self.bytes.len()));
        if message.first() == Some(&b'C') {
            self.committed = self.messages.len();
        }
        message.len() as u64 + MESSAGE_OVERHEAD_BYTES
    }

    /// What was charged for all of it.
    pub(crate) fn charged(&self) -> u64 {
        self.bytes.len() as u64 + self.messages.len() as u64 * MESSAGE_OVERHEAD_BYTES
    }

    /// How many messages stand up to and with the last Commit; 0 without one.
    pub(crate) fn committed(&self) -> usize {
        self.committed
    }

    pub(crate) fn message(&self, at: usize) -> (Lsn, &[u8]) {
        let (lsn, range) = &self.messages[at];
        (*lsn, &self.bytes[range.clone()])
    }

    /// The tag of a message.
    pub(crate) fn tag(&self, at: usize) -> Option<u8> {
        self.message(at).1.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_their_places() {
        let mut held = HeldWal::default();
        assert!(held.is_empty());
        let mut charged = 0;
        for (at, message) in ["U1", "C", "B", "I22"].iter().enumerate() {
            charged += held.push(Lsn(at as u64), message.as_bytes());
        }
        assert_eq!(held.charged(), charged);
        assert_eq!((held.len(), held.committed()), (4, 2));
        assert_eq!(held.message(3), (Lsn(3), &b"I22"[..]));
        assert_eq!(held.tag(2), Some(b'B'));
    }
}
