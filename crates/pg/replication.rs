//! The stream of WAL: whole frames come out, positions go back.

use std::time::Duration;

use bytes::Bytes;
use headwater_pgoutput::Lsn;
use postgres_protocol::message::backend::{COPY_DATA_TAG, Message};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, ErrorKind, ServerError};
use crate::lazy_read::LazyReads;
use crate::receive_low_water::set_receive_low_water;
use crate::status::StandbyStatus;
use crate::wal_batch::{BacklogClock, Run, Stop, WalBatch};
use crate::wire::{Wire, log_notice};

/// Frames longer than this are refused unless the caller sets another limit: no row that Kafka takes by any usual
/// setting is near it.
pub const DEFAULT_MAX_FRAME_BYTES: u64 = 64 << 20;

/// How long the server may take to end the stream. It first sends the rest of the transaction it is at.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// A transaction is sent whole, message by message: less than this of it waits for what follows, so that whoever is
/// behind the stream wakes once for a small transaction and not for each of its messages.
const HELD_BYTES_MAX: usize = 8 << 10;

/// The stream of one slot, in the order of commits.
pub struct ReplicationStream {
    wire: Wire,
    /// The highest position that this session has heard of.
    received: Lsn,
    clock: BacklogClock,
    lazy: LazyReads,
    /// Bytes of the last read, until the frames in it were looked at: they tell how far the stream is behind.
    just_read: Option<usize>,
    /// Whether what was returned last ends inside a transaction.
    inside_transaction: bool,
    /// Why reading failed while frames were held: said once those are returned.
    failed: Option<Error>,
    /// What the socket's mark was set to; `None` where it has no effect, and then no read waits for it.
    low_water_bytes: Option<u32>,
}

impl ReplicationStream {
    /// The server has answered START_REPLICATION.
    pub(crate) fn new(mut wire: Wire, start: Lsn) -> ReplicationStream {
        wire.frames.set_max_frame_bytes(DEFAULT_MAX_FRAME_BYTES);
        let low_water_bytes = wire.transport.tcp_socket().map(|_| 1);
        ReplicationStream {
            wire,
            received: start,
            clock: BacklogClock::default(),
            lazy: LazyReads::new(Instant::now()),
            just_read: None,
            inside_transaction: false,
            failed: None,
            low_water_bytes,
        }
    }

    /// Sets the length above which a frame is refused with [`ErrorKind::FrameTooLarge`].
    pub fn set_max_frame_bytes(&mut self, bytes: u64) {
        self.wire.frames.set_max_frame_bytes(bytes);
    }

    /// Waits until at least one frame is whole, and returns all that are; the beginning of a transaction waits for
    /// its end or for a few kilobytes. Cancel-safe.
    ///
    /// Frames that came before an error are returned before the error is. A stream that the server ends in good
    /// order, as when it shuts down, is [`ErrorKind::Closed`].
    pub async fn recv(&mut self) -> Result<WalBatch, Error> {
        loop {
            let frames = &mut self.wire.frames;
            let run = Run::scan(frames.buffered(), frames.max_frame_bytes(), &mut self.clock);
            if let Some(count) = self.just_read.take()
                && self.low_water_bytes.is_some()
            {
                self.lazy.read(count, Instant::now(), self.clock.lag_micros());
            }
            let inside = run.ends_inside.unwrap_or(self.inside_transaction);
            let may_wait = inside
                && run.bytes < HELD_BYTES_MAX
                && !run.reply_requested
                && matches!(run.stop, Stop::Incomplete);
            if run.bytes > 0 && may_wait && self.failed.is_none() {
                self.failed = self.read().await.err();
                continue;
            }
            if run.bytes > 0 {
                self.inside_transaction = inside;
                let bytes: Bytes = frames.take(run.bytes).freeze();
                self.received = self.received.max(run.highest);
                return Ok(WalBatch::new(bytes, &run));
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            match run.stop {
                Stop::Incomplete => self.read().await?,
                Stop::OtherFrame => match frames.next_buffered()? {
                    Some(frame) => aside(frame.message()?)?,
                    None => self.read().await?,
                },
                Stop::Refused(error) => return Err(error),
            }
        }
    }

    /// Bytes of an incomplete frame that are held.
    pub fn buffered_bytes(&self) -> usize {
        self.wire.frames.buffered().len()
    }

    /// Reports positions to the server. One that was not received on this session, neither as the start nor with
    /// any frame, is refused with [`ErrorKind::Protocol`]: the server would believe it.
    ///
    /// Cancel-safe: what was not sent goes out with the next status.
    pub async fn send_status(&mut self, status: StandbyStatus) -> Result<(), Error> {
        let mut frame = bytes::BytesMut::new();
        status.encode(self.received, &mut frame)?;
        self.wire
            .send(|out| {
                out.extend_from_slice(&frame);
                Ok(())
            })
            .await
    }

    /// Ends the stream in good order. `Ok` means that the server has read every status that was sent.
    ///
    /// What it still sends is dropped. In the middle of a large transaction it may not answer in time; that is
    /// [`ErrorKind::Timeout`], and the connection is closed all the same.
    pub async fn finish(mut self) -> Result<(), Error> {
        let ended = match timeout(FINISH_TIMEOUT, self.end_copy()).await {
            Ok(ended) => ended,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the server did not end the stream in time")),
        };
        if ended.is_ok() {
            let terminate = |out: &mut bytes::BytesMut| {
                frontend::terminate(out);
                Ok(())
            };
            // The server has answered everything: how it takes the goodbye is of no interest.
            let _ = self.wire.send(terminate).await;
            let _ = self.wire.transport.shutdown().await;
        }
        ended
    }

    async fn end_copy(&mut self) -> Result<(), Error> {
        self.lazy = LazyReads::new(Instant::now());
        self.set_low_water()?;
        self.wire
            .send(|out| {
                frontend::copy_done(out);
                Ok(())
            })
            .await?;
        loop {
            let frame = self.wire.read_frame().await?;
            if frame.tag == COPY_DATA_TAG {
                continue;
            }
            match frame.message()? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    return Err(Error::from_server("to end the stream", ServerError::parse(&body)));
                }
                _ => {}
            }
        }
    }

    /// Reads once, lazily under a backlog. Cancel-safe: whatever it has decided is in the fields.
    async fn read(&mut self) -> Result<(), Error> {
        self.set_low_water()?;
        if let Some(deadline) = self.lazy.deadline() {
            match timeout_at(deadline, self.wire.frames.fill(&mut self.wire.transport)).await {
                Ok(read) => {
                    self.just_read = Some(read?);
                    return Ok(());
                }
                Err(_) => {
                    self.lazy.deadline_passed();
                    // The kernel now says at once that there is something, if there is.
                    self.set_low_water()?;
                }
            }
        }
        self.just_read = Some(self.wire.frames.fill(&mut self.wire.transport).await?);
        Ok(())
    }

    fn set_low_water(&mut self) -> Result<(), Error> {
        let wanted = self.lazy.low_water_bytes();
        if let Some(current) = &mut self.low_water_bytes
            && *current != wanted
            && let Some(socket) = self.wire.transport.tcp_socket()
        {
            set_receive_low_water(socket, wanted).map_err(Error::io)?;
            *current = wanted;
        }
        Ok(())
    }
}

/// What the server says beside the stream.
fn aside(message: Message) -> Result<(), Error> {
    match message {
        Message::NoticeResponse(body) => {
            log_notice(&ServerError::parse_notice(&body));
            Ok(())
        }
        Message::ParameterStatus(_) => Ok(()),
        Message::ErrorResponse(body) => {
            Err(Error::from_server("to go on with the stream", ServerError::parse(&body)))
        }
        Message::CopyDone | Message::CommandComplete(_) | Message::ReadyForQuery(_) => {
            Err(Error::new(ErrorKind::Closed, "the server ended the stream"))
        }
        _ => Err(Error::protocol("the server sent something unexpected within the stream")),
    }
}
