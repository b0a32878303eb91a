//! Whole frames of the stream in one shared buffer.

use bytes::Bytes;
use headwater_pgoutput::{Lsn, PgTimestamp};

/// Whole CopyData frames, in the order in which they came. Moving it moves a pointer.
#[derive(Debug)]
pub struct WalBatch {
    bytes: Bytes,
    /// Whether a keepalive among the frames asks for an answer.
    pub reply_requested: bool,
    /// The `wal_end` of the last frame.
    pub last_wal_end: Lsn,
}

/// One frame of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One message of the output plugin.
    XLogData {
        /// The position of the change.
        wal_start: Lsn,
        /// The server's end of WAL, or the position again.
        wal_end: Lsn,
        /// When it was sent.
        server_time: PgTimestamp,
        /// The plugin's message.
        data: &'a [u8],
    },
    /// The server is alive and has sent everything up to a position.
    Keepalive {
        /// Up to here.
        wal_end: Lsn,
        /// When it was sent.
        server_time: PgTimestamp,
        /// Whether an answer is wanted at once.
        reply_requested: bool,
    },
}

impl WalBatch {
    /// Bytes on the wire, headers included.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The frames.
    pub fn frames(&self) -> Frames<'_> {
        Frames { rest: &self.bytes }
    }
}

/// Iterates over the frames of a batch.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        self.rest = &[];
        None
    }
}
