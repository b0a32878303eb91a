//! A connection for SQL, run by tokio-postgres.
//!
//! tokio-postgres has its own TLS and login, with other rules: it answers MD5 and cleartext requests of any server.
//! So the connection is opened by this crate, and tokio-postgres is given one that is logged in already: its
//! startup message is swallowed, and the server's answers to ours are shown to it.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::{
    AUTHENTICATION_TAG, BACKEND_KEY_DATA_TAG, PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::NoTls;

use crate::Error;
use crate::connect::{Established, Purpose, establish, version_number};
use crate::settings::ConnectSettings;
use crate::transport::Transport;

/// A SQL connection; everything that `tokio_postgres::Client` can do. It ends when this is dropped.
pub struct Client {
    inner: tokio_postgres::Client,
    server_version: u32,
    backend_pid: i32,
}

impl Client {
    /// The server's version as `server_version_num` has it: 150018.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The process that serves this connection.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.inner
    }
}

/// Opens a SQL connection, within `connect_timeout`. Its traffic runs on a task of the current runtime.
pub async fn connect(settings: &ConnectSettings) -> Result<Client, Error> {
    let established = establish(settings, Purpose::Sql).await?;
    let server_version =
        version_number(established.parameters.get("server_version").map_or("", String::as_str));
    let backend_pid = established.backend.pid;
    let stream = LoggedIn::new(established);
    let mut config = tokio_postgres::Config::new();
    config.user(&settings.user).ssl_mode(tokio_postgres::config::SslMode::Disable);
    let (inner, connection) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(async move {
        // The client's next query fails with the same cause.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a sql connection to postgres ended");
        }
    });
    Ok(Client { inner, server_version, backend_pid })
}

/// A connection that is logged in, dressed up as one that is about to.
struct LoggedIn {
    transport: Transport,
    /// What the server would say.
    answers: Bytes,
    /// Bytes of the startup message that are still to be swallowed; unknown until its length was seen.
    startup: Startup,
}

enum Startup {
    Length { read: [u8; 4], count: usize },
    Rest(usize),
}

impl LoggedIn {
    fn new(established: Established) -> LoggedIn {
        let Established { wire, parameters, backend } = established;
        let mut answers = BytesMut::new();
        put_frame(&mut answers, AUTHENTICATION_TAG, |body| body.put_i32(0));
        for (name, value) in &parameters {
            put_frame(&mut answers, PARAMETER_STATUS_TAG, |body| {
                for text in [name, value] {
                    body.put_slice(text.as_bytes());
                    body.put_u8(0);
                }
            });
        }
        put_frame(&mut answers, BACKEND_KEY_DATA_TAG, |body| {
            body.put_i32(backend.pid);
            body.put_i32(backend.secret_key);
        });
        put_frame(&mut answers, READY_FOR_QUERY_TAG, |body| body.put_u8(b'I'));
        answers.put_slice(wire.frames.buffered());
        LoggedIn {
            transport: wire.transport,
            answers: answers.freeze(),
            startup: Startup::Length { read: [0; 4], count: 0 },
        }
    }

    /// How many of these bytes belong to the startup message.
    fn swallow(&mut self, bytes: &[u8]) -> usize {
        let mut swallowed = 0;
        while let Startup::Length { read, count } = &mut self.startup {
            let Some(&byte) = bytes.get(swallowed) else { return swallowed };
            read[*count] = byte;
            *count += 1;
            swallowed += 1;
            if *count == 4 {
                self.startup = Startup::Rest((u32::from_be_bytes(*read) as usize).saturating_sub(4));
            }
        }
        if let Startup::Rest(rest) = &mut self.startup {
            let more = (*rest).min(bytes.len() - swallowed);
            *rest -= more;
            swallowed += more;
        }
        swallowed
    }
}

fn put_frame(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

impl AsyncRead for LoggedIn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.answers.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buffer);
        }
        let count = this.answers.len().min(buffer.remaining());
        buffer.put_slice(&this.answers[..count]);
        this.answers.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LoggedIn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.swallow(bytes) {
            0 => Pin::new(&mut this.transport).poll_write(cx, bytes),
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
