//! Standby status updates: what this side has received, kept and applied.
//!
//! ```text
//! CopyData 'd' · length 4 · 'r' · write 8 · flush 8 · apply 8 · client_time 8 · reply_requested 1
//! ```
//!
//! The server believes any position, even one beyond the end of WAL, and then never decodes what comes before it.
//! So a position that this session cannot know is refused here.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use headwater_pgoutput::Lsn;
use postgres_protocol::message::backend::COPY_DATA_TAG;

use crate::Error;

const STATUS: u8 = b'r';
const BODY_BYTES: u32 = 34;
/// From 1970-01-01, the epoch of Unix, to 2000-01-01, the epoch of Postgres.
const EPOCH_DIFFERENCE_MICROS: i64 = 946_684_800_000_000;

/// Positions to report. Each is the last byte + 1 of WAL, as the manual has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received.
    pub write: Lsn,
    /// Safe: the server may forget what is before it.
    pub flush: Lsn,
    /// Applied.
    pub apply: Lsn,
    /// Whether the server shall answer at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// Writes the frame, unless a position is beyond `received`.
    pub(crate) fn encode(&self, received: Lsn, out: &mut BytesMut) -> Result<(), Error> {
        for (name, position) in [("write", self.write), ("flush", self.flush), ("apply", self.apply)] {
            if position > received {
                return Err(Error::protocol(format!(
                    "the {name} position {position} was never received on this session, which is at {received}"
                )));
            }
        }
        out.put_u8(COPY_DATA_TAG);
        out.put_u32(4 + BODY_BYTES);
        out.put_u8(STATUS);
        out.put_u64(self.write.0);
        out.put_u64(self.flush.0);
        out.put_u64(self.apply.0);
        out.put_i64(now_micros());
        out.put_u8(u8::from(self.reply_requested));
        Ok(())
    }
}

/// Microseconds since 2000, for the server's log and its `pg_stat_replication.reply_time`; nothing depends on it.
fn now_micros() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX).saturating_sub(EPOCH_DIFFERENCE_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_was_not_received_is_refused() {
        let at = |write, flush, apply| StandbyStatus {
            write: Lsn(write),
            flush: Lsn(flush),
            apply: Lsn(apply),
            reply_requested: false,
        };
        let mut out = BytesMut::new();
        for (status, taken) in [
            (at(10, 10, 10), true),
            (at(10, 0, 0), true),
            (at(10, 11, 0), false),
            (at(11, 0, 0), false),
            (at(10, 0, 11), false),
        ] {
            out.clear();
            assert_eq!(status.encode(Lsn(10), &mut out).is_ok(), taken, "{status:?}");
            assert_eq!(out.len(), if taken { 39 } else { 0 });
        }
    }
}
