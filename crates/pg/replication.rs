//! The stream of WAL.

use crate::status::StandbyStatus;
use crate::wal_batch::WalBatch;
use crate::{Error, ErrorKind};

/// Frames longer than this are refused unless the caller sets another limit.
pub const DEFAULT_MAX_FRAME_BYTES: u64 = 64 << 20;

/// The stream of one slot.
pub struct ReplicationStream;

fn unfurnished<T>() -> Result<T, Error> {
    Err(Error::new(ErrorKind::Protocol, "not furnished yet"))
}

impl ReplicationStream {
    /// Sets the length above which a frame is refused.
    pub fn set_max_frame_bytes(&mut self, _bytes: u64) {}

    /// Waits for at least one complete frame and returns all that are complete. Cancel-safe.
    pub async fn recv(&mut self) -> Result<WalBatch, Error> {
        unfurnished()
    }

    /// Bytes of an incomplete frame that are held.
    pub fn buffered_bytes(&self) -> usize {
        0
    }

    /// Reports positions to the server.
    pub async fn send_status(&mut self, _status: StandbyStatus) -> Result<(), Error> {
        unfurnished()
    }

    /// Ends the stream in good order.
    pub async fn finish(self) -> Result<(), Error> {
        unfurnished()
    }
}
