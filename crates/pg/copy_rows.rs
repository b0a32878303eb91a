//! Rows of a COPY in one shared buffer: whole CopyData frames, checked once when they arrive.
//!
//! ```text
//! CopyData           'd' · length 4 · one row of COPY's text format, its newline included
//! ```

use bytes::Bytes;
use headwater_pgoutput::Lsn;
use postgres_protocol::message::backend::COPY_DATA_TAG;

use crate::error::{Error, ErrorKind};
use crate::frame::{HEADER_BYTES, Header};

/// Rows, in the order in which they came. Moving it moves a pointer; the bytes are a slice of the block that they
/// were read into, which lives as long as any of its slices.
#[derive(Clone, Debug)]
pub struct CopyRows {
    bytes: Bytes,
    len: usize,
}

impl CopyRows {
    /// `bytes` are those that `run` was found in.
    pub(crate) fn new(bytes: Bytes, run: &Run) -> CopyRows {
        CopyRows { bytes, len: run.frames }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never so of rows that came from a server.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the wire, headers included.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The rows in COPY's text format, each with its newline.
    #[inline]
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.bytes;
        std::iter::from_fn(move || {
            // Only bytes that `Run::scan` has walked get here, so None means the end.
            let (&[_, a, b, c, d], after) = rest.split_first_chunk::<HEADER_BYTES>()?;
            let body_bytes = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4)?;
            let (body, next) = after.split_at_checked(body_bytes)?;
            rest = next;
            Some(body)
        })
    }
}

/// The whole CopyData frames at the front of a buffer, and what comes after them.
pub(crate) struct Run {
    pub(crate) bytes: usize,
    frames: usize,
    pub(crate) stop: Stop,
}

/// Why a run ends.
#[derive(Debug)]
pub(crate) enum Stop {
    /// More bytes are needed, or there are none left.
    Incomplete,
    /// A frame that is not CopyData.
    OtherFrame,
    /// A frame that cannot be taken.
    Refused(Error),
}

impl Run {
    /// Walks over whole frames. What stops it is met again by the next scan, once the run has been taken.
    pub(crate) fn scan(buffer: &[u8], max_frame_bytes: u64) -> Run {
        let mut run = Run { bytes: 0, frames: 0, stop: Stop::Incomplete };
        loop {
            let rest = &buffer[run.bytes..];
            let header = match Header::parse(rest) {
                Ok(Some(header)) => header,
                Ok(None) => return run,
                Err(error) => return Run { stop: Stop::Refused(error), ..run },
            };
            if header.tag != COPY_DATA_TAG {
                return Run { stop: Stop::OtherFrame, ..run };
            }
            if header.frame_bytes > max_frame_bytes {
                return Run { stop: Stop::Refused(too_large(header.frame_bytes)), ..run };
            }
            if (rest.len() as u64) < header.frame_bytes {
                return run;
            }
            run.bytes += header.frame_bytes as usize;
            run.frames += 1;
        }
    }
}

#[cold]
fn too_large(bytes: u64) -> Error {
    let kind = ErrorKind::FrameTooLarge { bytes, wal_start: Lsn::INVALID, relation: None };
    Error::new(kind, format!("a row of the copy has {bytes} bytes, more than the limit"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal_batch::tests::copy_data;

    #[test]
    fn what_ends_a_run() {
        let rows = [copy_data(b"1\ta\n"), copy_data(b"\n")].concat();
        let check = |after: &[u8], max: u64, wanted: &str| {
            let bytes = [&rows, after].concat();
            let run = Run::scan(&bytes, max);
            assert_eq!((run.bytes, run.frames), (rows.len(), 2), "{after:?}");
            assert!(format!("{:?}", run.stop).starts_with(wanted), "{after:?}: {:?}", run.stop);
            let taken = CopyRows::new(Bytes::from(bytes).slice(..run.bytes), &run);
            assert_eq!(taken.rows().collect::<Vec<_>>(), [&b"1\ta\n"[..], b"\n"]);
            assert_eq!((taken.len(), taken.len_bytes()), (2, rows.len()));
        };
        check(b"", 100, "Incomplete");
        check(b"d\0\0", 100, "Incomplete");
        check(b"d\0\0\0\x05", 100, "Incomplete");
        check(b"c\0\0\0\x04", 100, "OtherFrame");
        check(b"d\0\0\0\x03", 100, "Refused");
        check(b"d\0\0\0\x64", 100, "Refused");
        check(b"d\0\0\0\x63", 100, "Incomplete");
    }

    #[test]
    fn a_row_over_the_limit_says_its_length() {
        let Stop::Refused(error) = Run::scan(b"d\0\0\x10\0", 100).stop else { panic!("taken") };
        assert!(matches!(error.kind(), ErrorKind::FrameTooLarge { bytes: 4097, relation: None, .. }));
        assert_eq!(error.to_string(), "a row of the copy has 4097 bytes, more than the limit");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0u64..400) {
            let run = Run::scan(&bytes, max);
            let rows = CopyRows::new(Bytes::copy_from_slice(&bytes[..run.bytes]), &run);
            prop_assert_eq!(rows.rows().count(), rows.len());
        }
    }
}
