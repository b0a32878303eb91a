//! Whole frames of the stream in one shared buffer: checked once when they arrive, read later without failing.
//!
//! ```text
//! CopyData           'd' · length 4 · body
//! body: XLogData     'w' · wal_start 8 · wal_end 8 · server_time 8 · message of the output plugin
//!       Keepalive    'k' · wal_end 8 · server_time 8 · reply_requested 1
//! ```

use bytes::Bytes;
use headwater_pgoutput::{Lsn, PgTimestamp, RelationId};
use postgres_protocol::message::backend::COPY_DATA_TAG;

use crate::error::{Error, ErrorKind};
use crate::frame::{HEADER_BYTES, Header};

const XLOG_DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';
/// In front of the plugin's message.
const XLOG_DATA_HEADER_BYTES: usize = 25;
/// The plugin's message up to its relation id.
const ROW_PREFIX_BYTES: usize = 5;

/// Whole CopyData frames, in the order in which they came. Moving it moves a pointer; the bytes are a slice of the
/// block that they were read into.
#[derive(Clone, Debug)]
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
        /// The position of the change; for a Commit the end of the transaction; for a Relation or Type zero.
        wal_start: Lsn,
        /// For a logical slot the same again.
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
    /// Takes recorded frames; they must be whole CopyData frames and nothing else.
    pub fn from_bytes(bytes: Bytes) -> Result<WalBatch, Error> {
        let run = Run::scan(&bytes, u64::MAX, &mut BacklogClock::default());
        match run.stop {
            Stop::Incomplete if run.bytes == bytes.len() => Ok(WalBatch::new(bytes, &run)),
            Stop::Refused(error) => Err(error),
            _ => Err(Error::protocol("these are not whole CopyData frames")),
        }
    }

    /// `bytes` are those that `run` was found in.
    pub(crate) fn new(bytes: Bytes, run: &Run) -> WalBatch {
        WalBatch { bytes, reply_requested: run.reply_requested, last_wal_end: run.last_wal_end }
    }

    /// Bytes on the wire, headers included.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The frames, in order.
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

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        // Only bytes that `Run::scan` has walked get here, so None means the end.
        let (&[_, a, b, c, d], after) = self.rest.split_first_chunk::<HEADER_BYTES>()?;
        let body_bytes = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4)?;
        let (body, rest) = after.split_at_checked(body_bytes)?;
        self.rest = rest;
        Frame::parse(body)
    }
}

impl<'a> Frame<'a> {
    /// Parses the body of a CopyData frame.
    #[inline]
    fn parse(body: &'a [u8]) -> Option<Frame<'a>> {
        match *body.first()? {
            XLOG_DATA => {
                let (header, data) = body.split_first_chunk::<XLOG_DATA_HEADER_BYTES>()?;
                Some(Frame::XLogData {
                    wal_start: Lsn(u64_at(header, 1)?),
                    wal_end: Lsn(u64_at(header, 9)?),
                    server_time: PgTimestamp(u64_at(header, 17)? as i64),
                    data,
                })
            }
            KEEPALIVE if body.len() == 18 => Some(Frame::Keepalive {
                wal_end: Lsn(u64_at(body, 1)?),
                server_time: PgTimestamp(u64_at(body, 9)? as i64),
                reply_requested: body[17] != 0,
            }),
            _ => None,
        }
    }
}

#[inline]
fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let (number, _) = bytes.get(offset..)?.split_first_chunk::<8>()?;
    Some(u64::from_be_bytes(*number))
}

/// The whole CopyData frames at the front of a buffer, and what comes after them.
pub(crate) struct Run {
    pub(crate) bytes: usize,
    pub(crate) reply_requested: bool,
    pub(crate) last_wal_end: Lsn,
    /// The highest position in any of the frames.
    pub(crate) highest: Lsn,
    /// Whether the run ends inside a transaction; `None` if it has neither Begin nor Commit.
    pub(crate) ends_inside: Option<bool>,
    pub(crate) stop: Stop,
}

/// Why a run ends.
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
    pub(crate) fn scan(buffer: &[u8], max_frame_bytes: u64, clock: &mut BacklogClock) -> Run {
        let mut run = Run {
            bytes: 0,
            reply_requested: false,
            last_wal_end: Lsn::INVALID,
            highest: Lsn::INVALID,
            ends_inside: None,
            stop: Stop::Incomplete,
        };
        loop {
            let rest = &buffer[run.bytes..];
            match next_frame(rest, max_frame_bytes) {
                Ok(Next::Whole(frame, bytes)) => {
                    run.add(&frame, bytes);
                    clock.see(&frame);
                }
                Ok(Next::Incomplete) => return run,
                Ok(Next::Other) => {
                    run.stop = Stop::OtherFrame;
                    return run;
                }
                Err(error) => {
                    run.stop = Stop::Refused(error);
                    return run;
                }
            }
        }
    }

    #[inline]
    fn add(&mut self, frame: &Frame<'_>, bytes: usize) {
        self.bytes += bytes;
        match *frame {
            Frame::XLogData { wal_start, wal_end, data, .. } => {
                match data.first() {
                    Some(b'B') => self.ends_inside = Some(true),
                    Some(b'C') => self.ends_inside = Some(false),
                    _ => {}
                }
                self.last_wal_end = wal_end;
                self.highest = self.highest.max(wal_start).max(wal_end);
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.last_wal_end = wal_end;
                self.highest = self.highest.max(wal_end);
                self.reply_requested |= reply_requested;
            }
        }
    }
}

enum Next<'a> {
    Whole(Frame<'a>, usize),
    Incomplete,
    Other,
}

#[inline]
fn next_frame(rest: &[u8], max_frame_bytes: u64) -> Result<Next<'_>, Error> {
    let Some(header) = Header::parse(rest)? else { return Ok(Next::Incomplete) };
    if header.tag != COPY_DATA_TAG {
        return Ok(Next::Other);
    }
    if header.frame_bytes > max_frame_bytes {
        return match too_large(&rest[HEADER_BYTES..], header.frame_bytes) {
            Some(error) => Err(error),
            None => Ok(Next::Incomplete),
        };
    }
    let Some(body) = rest.get(HEADER_BYTES..header.frame_bytes as usize) else {
        return Ok(Next::Incomplete);
    };
    match Frame::parse(body) {
        Some(frame) => Ok(Next::Whole(frame, header.frame_bytes as usize)),
        None => Err(Error::protocol("a CopyData frame is neither XLogData nor a keepalive")),
    }
}

/// Says which change is too large, once enough of it has come to know; `None` before.
fn too_large(body: &[u8], bytes: u64) -> Option<Error> {
    let prefix = body.get(..XLOG_DATA_HEADER_BYTES + ROW_PREFIX_BYTES)?;
    let Some(Frame::XLogData { wal_start, data, .. }) = Frame::parse(prefix) else {
        return Some(Error::protocol("a CopyData frame is neither XLogData nor a keepalive"));
    };
    let relation = match *data {
        [b'I' | b'U' | b'D', a, b, c, d] => Some(RelationId(u32::from_be_bytes([a, b, c, d]))),
        _ => None,
    };
    let kind = ErrorKind::FrameTooLarge { bytes, wal_start, relation };
    let table = relation.map_or(String::new(), |relation| format!(" of relation {relation}"));
    Some(Error::new(kind, format!("the change{table} at {wal_start} has {bytes} bytes, more than the limit")))
}

/// How far the stream is behind: the server sends the time of sending with every frame and the time of commit with
/// every Begin, both by its own clock.
#[derive(Debug, Default)]
pub(crate) struct BacklogClock {
    /// Microseconds since 2000, as on the wire.
    committed: Option<i64>,
    sent: i64,
}

impl BacklogClock {
    #[inline]
    fn see(&mut self, frame: &Frame<'_>) {
        let Frame::XLogData { server_time, data, .. } = *frame else { return };
        self.sent = server_time.0;
        // Begin: 'B' · final LSN 8 · commit time 8 · xid 4
        if data.first() == Some(&b'B') {
            self.committed = u64_at(data, 9).map(|time| time as i64);
        }
    }

    /// Microseconds from the commit of the last transaction to the sending of its last frame; `None` before the
    /// first transaction.
    pub(crate) fn lag_micros(&self) -> Option<i64> {
        self.committed.map(|committed| self.sent.saturating_sub(committed))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn copy_data(body: &[u8]) -> Vec<u8> {
        let mut out = vec![COPY_DATA_TAG];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body);
        out
    }

    pub(crate) fn xlog_data(lsn: u64, sent: i64, data: &[u8]) -> Vec<u8> {
        let mut body = vec![XLOG_DATA];
        body.extend(lsn.to_be_bytes());
        body.extend(lsn.to_be_bytes());
        body.extend(sent.to_be_bytes());
        body.extend(data);
        copy_data(&body)
    }

    pub(crate) fn keepalive(lsn: u64, reply: bool) -> Vec<u8> {
        let mut body = vec![KEEPALIVE];
        body.extend(lsn.to_be_bytes());
        body.extend(0i64.to_be_bytes());
        body.push(u8::from(reply));
        copy_data(&body)
    }

    fn scan(buffer: &[u8], max_frame_bytes: u64) -> Run {
        Run::scan(buffer, max_frame_bytes, &mut BacklogClock::default())
    }

    #[test]
    fn whole_frames_are_taken_and_the_rest_is_left() {
        let frames = [xlog_data(10, 1, b"one"), keepalive(30, true), xlog_data(20, 2, b"")].concat();
        for cut in 0..40 {
            let mut buffer = frames.clone();
            let fourth = xlog_data(40, 3, b"1234567890");
            buffer.extend(&fourth[..cut]);
            let run = scan(&buffer, 100);
            let whole = if cut == fourth.len() { buffer.len() } else { frames.len() };
            assert_eq!(run.bytes, whole, "cut {cut}");
        }
        let run = scan(&frames, 100);
        assert_eq!((run.last_wal_end, run.highest, run.reply_requested), (Lsn(20), Lsn(30), true));
        let batch = WalBatch::from_bytes(frames.into()).expect("whole frames");
        let positions: Vec<_> = batch
            .frames()
            .map(|frame| match frame {
                Frame::XLogData { wal_start, data, .. } => (wal_start.0, data.len()),
                Frame::Keepalive { wal_end, .. } => (wal_end.0, 99),
            })
            .collect();
        assert_eq!(positions, [(10, 3), (30, 99), (20, 0)]);
    }

    #[test]
    fn what_stops_a_run_waits_for_the_next_one() {
        let good = xlog_data(10, 1, b"one");
        for (bad, name) in [
            (copy_data(b""), "an empty body"),
            (copy_data(b"x"), "an unknown kind"),
            (copy_data(&[b'w'; 24]), "a short XLogData"),
            (copy_data(&[b'k'; 17]), "a short keepalive"),
            (copy_data(&[b'k'; 19]), "a long keepalive"),
            (vec![b'd', 0, 0, 0, 1], "an impossible length"),
        ] {
            let run = scan(&[good.clone(), bad.clone()].concat(), 1000);
            assert_eq!(run.bytes, good.len(), "{name}");
            assert!(matches!(run.stop, Stop::Refused(_)), "{name}");
            let run = scan(&bad, 1000);
            assert!(run.bytes == 0 && matches!(run.stop, Stop::Refused(_)), "{name}");
        }
        let run = scan(&[good.clone(), vec![b'c', 0, 0, 0, 4]].concat(), 1000);
        assert!(run.bytes == good.len() && matches!(run.stop, Stop::OtherFrame));
    }

    #[test]
    fn a_change_over_the_limit_is_named_as_soon_as_it_can_be() {
        let small = xlog_data(10, 1, b"one");
        let large = xlog_data(77, 1, &[b"I\x00\x00\x40\x01".as_slice(), &[b'x'; 500]].concat());
        for cut in 0..large.len() {
            let run = scan(&large[..cut], 100);
            assert_eq!(run.bytes, 0);
            assert_eq!(matches!(run.stop, Stop::Incomplete), cut < 35, "cut {cut}");
        }
        let run = scan(&[small.clone(), large.clone()].concat(), 100);
        assert_eq!(run.bytes, small.len());
        let Stop::Refused(error) = run.stop else { panic!("it is refused") };
        let relation = Some(RelationId(0x4001));
        let expected = ErrorKind::FrameTooLarge { bytes: large.len() as u64, wal_start: Lsn(77), relation };
        assert_eq!(error.kind(), expected);
        // Exactly the limit is no error.
        assert_eq!(scan(&large, large.len() as u64).bytes, large.len());
    }

    #[test]
    fn the_backlog_is_the_time_from_commit_to_sending() {
        let begin =
            |committed: i64| [b"B\0\0\0\0\0\0\0\0".as_slice(), &committed.to_be_bytes(), &[0; 4]].concat();
        let mut clock = BacklogClock::default();
        assert_eq!(clock.lag_micros(), None);
        Run::scan(&xlog_data(1, 5_000, b"R"), 1000, &mut clock);
        assert_eq!(clock.lag_micros(), None);
        Run::scan(&xlog_data(1, 5_000, &begin(4_000)), 1000, &mut clock);
        assert_eq!(clock.lag_micros(), Some(1_000));
        Run::scan(&xlog_data(1, 9_000, b"I"), 1000, &mut clock);
        assert_eq!(clock.lag_micros(), Some(5_000));
        // A keepalive long after the last transaction does not mean that one is late.
        Run::scan(&keepalive(1, false), 1000, &mut clock);
        assert_eq!(clock.lag_micros(), Some(5_000));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0u64..400) {
            let run = scan(&bytes, max);
            prop_assert!(run.bytes <= bytes.len());
            let whole = Bytes::copy_from_slice(&bytes[..run.bytes]);
            let batch = WalBatch::from_bytes(whole).expect("what was walked over is whole");
            prop_assert!(batch.frames().count() <= run.bytes);
        }

        #[test]
        fn frames_come_out_as_they_went_in(
            bodies in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..60)), 0..20),
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|(lsn, data)| xlog_data(*lsn, 0, data)).collect();
            let batch = WalBatch::from_bytes(bytes.into()).expect("whole frames");
            let out: Vec<_> = batch
                .frames()
                .map(|frame| match frame {
                    Frame::XLogData { wal_start, data, .. } => (wal_start.0, data.to_vec()),
                    Frame::Keepalive { .. } => (0, Vec::new()),
                })
                .collect();
            prop_assert_eq!(out, bodies);
        }
    }
}
