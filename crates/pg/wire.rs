//! A connection with its two buffers: frames come in, frames go out.
//!
//! Both directions are cancel-safe. What a dropped `flush` left unsent is sent first by the next one, so a frame is
//! never cut.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, ErrorKind, ServerError};
use crate::frame::{FrameReader, RawFrame};
use crate::transport::Transport;

pub(crate) struct Wire {
    pub(crate) transport: Transport,
    pub(crate) frames: FrameReader,
    outgoing: BytesMut,
}

impl Wire {
    pub(crate) fn new(transport: Transport, max_frame_bytes: u64) -> Wire {
        Wire { transport, frames: FrameReader::new(max_frame_bytes), outgoing: BytesMut::new() }
    }

    /// Writes one frame into the buffer; [`Wire::flush`] sends it. Fails if a text has a NUL byte.
    pub(crate) fn put(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Error> {
        let before = self.outgoing.len();
        write(&mut self.outgoing).map_err(|cause| {
            self.outgoing.truncate(before);
            Error::because(ErrorKind::Config, "a text cannot be sent to Postgres", cause)
        })
    }

    /// Sends what is buffered.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        while self.outgoing.has_remaining() {
            match self.transport.write_buf(&mut self.outgoing).await {
                Ok(0) => return Err(Error::closed()),
                Ok(_) => {}
                Err(cause) => return Err(Error::io(cause)),
            }
        }
        // rustls holds back what the socket did not take.
        self.transport.flush().await.map_err(Error::io)
    }

    pub(crate) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Error> {
        self.put(write)?;
        self.flush().await
    }

    pub(crate) async fn read_frame(&mut self) -> Result<RawFrame, Error> {
        self.frames.read_frame(&mut self.transport).await
    }

    /// The next message that is not a notice.
    pub(crate) async fn read_message(&mut self) -> Result<Message, Error> {
        loop {
            match self.read_frame().await?.message()? {
                Message::NoticeResponse(body) => log_notice(&ServerError::parse_notice(&body)),
                message => return Ok(message),
            }
        }
    }
}

/// Notices change nothing; they are for whoever looks for the cause of something else.
pub(crate) fn log_notice(notice: &ServerError) {
    tracing::debug!(severity = %notice.severity, code = %notice.code, message = %notice.message, "notice from postgres");
}
