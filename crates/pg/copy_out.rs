//! `COPY … TO STDOUT`: a SQL connection that hands rows over in the blocks that they were read into.
//!
//! tokio-postgres gives each row a buffer of its own and a place in a channel; here rows leave as the stream's frames
//! do, all whole ones of a read in one handle.
//!
//! ```text
//! Ready ── query ───> Busy ──── ReadyForQuery ──> Ready         an answer that is not read to its end leaves Busy,
//!   └──── copy_out ─> Copying ─ ReadyForQuery ──> Ready         and that is final
//! ```
//!
//! Whatever is dropped in the middle, a future of `query` or the session within a COPY, is cancelled on the server:
//! a COPY that finds nothing to send does not notice that nobody listens.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use crate::cancel::CancelOnDrop;
use crate::connect::{Backend, Established, Purpose, establish, version_number};
use crate::copy_rows::{CopyRows, Run, Stop};
use crate::error::{Error, ErrorKind, ServerError};
use crate::receive_low_water::set_receive_low_water;
use crate::replication::DEFAULT_MAX_FRAME_BYTES;
use crate::settings::ConnectSettings;
use crate::wire::Wire;

/// The only format that `CopyOutResponse` may announce.
const TEXT_FORMAT: u8 = 0;

/// A SQL connection for COPY. Values look as they do in the stream, row-level security is an error where it would
/// leave out rows, and no timeout of role or database ends it: its own are set with [`CopySession::set_timeouts`].
pub struct CopySession {
    wire: Wire,
    parameters: BTreeMap<String, String>,
    backend: Backend,
    state: State,
    /// What the socket's mark was set to; `None` where it has no effect.
    low_water_bytes: Option<u32>,
}

/// A server sends a COPY in pieces of 8 KiB, and each wakes a reader that waits for it, and whom that wakes in turn.
/// Once this much has come of a COPY, a read waits for as much again, or for [`READ_PATIENCE`].
const LOW_WATER_BYTES: u32 = 64 << 10;
/// What the end of a COPY may come later by.
const READ_PATIENCE: Duration = Duration::from_millis(2);

enum State {
    /// The server waits for a query.
    Ready,
    /// The server answers a query; left behind by a future that was dropped.
    Busy,
    /// Rows come, once the server has said that it copies. After an error only the end of the answer does.
    Copying { cancel: CancelOnDrop, begun: bool, failed: Option<Error>, read_bytes: u64 },
}

impl CopySession {
    /// Opens a connection, within `connect_timeout`.
    pub async fn connect(settings: &ConnectSettings) -> Result<CopySession, Error> {
        let Established { mut wire, parameters, backend } = establish(settings, Purpose::Copy).await?;
        wire.frames.set_max_frame_bytes(DEFAULT_MAX_FRAME_BYTES);
        let low_water_bytes = wire.transport.tcp_socket().map(|_| 1);
        let mut session = CopySession { wire, parameters, backend, state: State::Ready, low_water_bytes };
        if session.server_version() >= 170_000 {
            // As a startup parameter it would keep older servers from letting us in.
            session.query("SET transaction_timeout = 0").await?;
        }
        Ok(session)
    }

    /// The process that serves this session.
    pub fn backend_pid(&self) -> i32 {
        self.backend.pid
    }

    /// The server's version as `server_version_num` has it: 150018.
    pub fn server_version(&self) -> u32 {
        version_number(self.parameters.get("server_version").map_or("", String::as_str))
    }

    /// Limits how long a statement may wait for a lock, 10 s without this, and how long it may take, which is for ever
    /// without this; zero is no limit. A COPY's time runs on while nobody reads it.
    pub async fn set_timeouts(&mut self, lock: Duration, statement: Duration) -> Result<(), Error> {
        let (lock, statement) = (milliseconds(lock), milliseconds(statement));
        self.query(&format!("SET lock_timeout = {lock}; SET statement_timeout = {statement}")).await.map(drop)
    }

    /// Sets the length above which a row is refused with [`ErrorKind::FrameTooLarge`], after which the session is of
    /// no more use.
    pub fn set_max_frame_bytes(&mut self, bytes: u64) {
        self.wire.frames.set_max_frame_bytes(bytes);
    }

    /// Runs one or more statements; returns the rows of the last one, as text. Not cancel-safe: a future that is
    /// dropped cancels the statement, and the session is of no more use.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let cancel = self.begin(sql).await?;
        let answer = self.read_answer().await;
        cancel.disarm();
        answer
    }

    /// Sends a `COPY … TO STDOUT`; [`CopySession::next_rows`] returns its rows, and also what the server has against
    /// it. (The server says that it begins to copy only along with the first rows.)
    pub async fn copy_out(&mut self, sql: &str) -> Result<(), Error> {
        let cancel = self.begin(sql).await?;
        self.state = State::Copying { cancel, begun: false, failed: None, read_bytes: 0 };
        Ok(())
    }

    /// The next rows, all that are whole after one read; `None` once the COPY is at its end and the session ready.
    /// Cancel-safe.
    ///
    /// An error of the server comes after all rows before it, and leaves the session ready too: within a transaction
    /// for ROLLBACK.
    pub async fn next_rows(&mut self) -> Result<Option<CopyRows>, Error> {
        loop {
            let State::Copying { begun, .. } = &self.state else {
                return Err(Error::protocol("there is no COPY to read rows from"));
            };
            let frames = &mut self.wire.frames;
            let run = Run::scan(frames.buffered(), frames.max_frame_bytes());
            if run.bytes > 0 {
                if !*begun {
                    return Err(Error::protocol("rows came before the server began to copy"));
                }
                let bytes: Bytes = frames.take(run.bytes).freeze();
                return Ok(Some(CopyRows::new(bytes, &run)));
            }
            let frame = match run.stop {
                Stop::Incomplete => None,
                Stop::OtherFrame => frames.next_buffered()?,
                Stop::Refused(error) => return Err(error),
            };
            match frame {
                Some(frame) => {
                    if self.beside_rows(frame.message()?)? {
                        return Ok(None);
                    }
                }
                None => self.read().await?,
            }
        }
    }

    /// Reads once, and much at a time when much has come already. Cancel-safe.
    async fn read(&mut self) -> Result<(), Error> {
        let State::Copying { read_bytes, .. } = &self.state else { return Ok(()) };
        let is_large = *read_bytes >= u64::from(LOW_WATER_BYTES) && self.low_water_bytes.is_some();
        let mut read = None;
        if is_large {
            self.set_low_water(LOW_WATER_BYTES)?;
            let fill = self.wire.frames.fill(&mut self.wire.transport);
            read = tokio::time::timeout(READ_PATIENCE, fill).await.ok();
        }
        let read = match read {
            Some(read) => read?,
            None => {
                // The kernel now says at once that there is something, if there is.
                self.set_low_water(1)?;
                self.wire.frames.fill(&mut self.wire.transport).await?
            }
        };
        if let State::Copying { read_bytes, .. } = &mut self.state {
            *read_bytes += read as u64;
        }
        Ok(())
    }

    fn set_low_water(&mut self, bytes: u32) -> Result<(), Error> {
        if let Some(current) = &mut self.low_water_bytes
            && *current != bytes
            && let Some(socket) = self.wire.transport.tcp_socket()
        {
            set_receive_low_water(socket, bytes).map_err(Error::io)?;
            *current = bytes;
        }
        Ok(())
    }

    /// What the server says beside rows; true at the end of its answer.
    fn beside_rows(&mut self, message: Message) -> Result<bool, Error> {
        let State::Copying { begun, failed, .. } = &mut self.state else {
            return Err(Error::protocol("there is no COPY"));
        };
        match message {
            Message::CopyOutResponse(body) if body.format() == TEXT_FORMAT => *begun = true,
            Message::CopyOutResponse(_) => {
                return Err(Error::protocol("the copy is not in the text format"));
            }
            Message::ErrorResponse(body) => {
                let what = if *begun { "to go on with the copy" } else { "the copy" };
                let error = Error::from_server(what, ServerError::parse(&body));
                if ends_session(&error) {
                    self.end_answer(State::Busy);
                    return Err(error);
                }
                failed.get_or_insert(error);
            }
            Message::ReadyForQuery(_) => {
                let no_copy = || (!*begun).then(|| Error::protocol("the statement is no COPY to the client"));
                let failed = failed.take().or_else(no_copy);
                self.end_answer(State::Ready);
                return failed.map_or(Ok(true), Err);
            }
            Message::CopyDone
            | Message::CommandComplete(_)
            | Message::EmptyQueryResponse
            | Message::NoticeResponse(_)
            | Message::ParameterStatus(_)
            | Message::NotificationResponse(_) => {}
            _ => return Err(Error::protocol("the server sent something unexpected within a copy")),
        }
        Ok(false)
    }

    /// Sends a query.
    async fn begin(&mut self, sql: &str) -> Result<CancelOnDrop, Error> {
        if !matches!(self.state, State::Ready) {
            return Err(Error::protocol("the session has not read the answer to its last statement"));
        }
        // Answers are short.
        self.set_low_water(1)?;
        self.state = State::Busy;
        let cancel = CancelOnDrop::new(self.backend.clone());
        match self.wire.send(|out| frontend::query(sql, out)).await {
            Ok(()) => Ok(cancel),
            Err(error) => {
                cancel.disarm();
                if error.kind() == ErrorKind::Config {
                    // Nothing was sent.
                    self.state = State::Ready;
                }
                Err(error)
            }
        }
    }

    /// Reads an answer to its end, also after an error.
    async fn read_answer(&mut self) -> Result<Vec<Vec<Option<String>>>, Error> {
        let mut rows = Vec::new();
        let mut last = Vec::new();
        let mut failed = None;
        loop {
            match self.wire.read_message().await? {
                Message::RowDescription(_) => rows.clear(),
                Message::DataRow(body) => rows.push(text_row(&body)?),
                Message::CommandComplete(_) => last = std::mem::take(&mut rows),
                Message::ErrorResponse(body) => {
                    let error = Error::from_server("a query", ServerError::parse(&body));
                    if ends_session(&error) {
                        return Err(error);
                    }
                    failed.get_or_insert(error);
                }
                Message::ReadyForQuery(_) => {
                    self.end_answer(State::Ready);
                    return failed.map_or(Ok(last), Err);
                }
                Message::ParameterStatus(_)
                | Message::EmptyQueryResponse
                | Message::NotificationResponse(_) => {}
                _ => return Err(Error::protocol("the server answered a query with something unexpected")),
            }
        }
    }

    /// Nothing is left to cancel.
    fn end_answer(&mut self, next: State) {
        if let State::Copying { cancel, .. } = std::mem::replace(&mut self.state, next) {
            cancel.disarm();
        }
    }
}

/// As the server takes it: whole milliseconds of 31 bits, where 0 would be no limit.
fn milliseconds(timeout: Duration) -> u128 {
    if timeout.is_zero() { 0 } else { timeout.as_millis().clamp(1, i32::MAX as u128) }
}

/// After FATAL no ReadyForQuery comes.
fn ends_session(error: &Error) -> bool {
    error.server().is_some_and(|server| server.severity != "ERROR")
}

/// The values of a row of a query.
pub(crate) fn text_row(body: &DataRowBody) -> Result<Vec<Option<String>>, Error> {
    let unreadable = |cause: io::Error| Error::because(ErrorKind::Protocol, "a row cannot be read", cause);
    body.ranges()
        .map(|range| {
            let Some(range) = range else { return Ok(None) };
            let bytes = body.buffer().get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
            let text = std::str::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
            Ok(Some(text.to_owned()))
        })
        .collect()
        .map_err(unreadable)
}
