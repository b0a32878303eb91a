//! The three ways to reach a server: TCP, TCP with TLS, a unix socket. Bytes in and out, nothing of the protocol.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::settings::Host;
use crate::{Error, ErrorKind};

/// A silent peer is probed after this long: well inside the default `wal_sender_timeout` of 60 s, so that a dead
/// path is noticed on this side about when the server notices it on its own.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;
/// Sent bytes that stay unacknowledged for this long end the connection. Keepalive probes do not cover them.
const USER_TIMEOUT: Duration = Duration::from_secs(40);

/// An open connection.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Where an open connection leads, so that a cancel request reaches the same server.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Transport {
    /// Opens TCP or a unix socket; TLS comes later, if at all. Each address of a name is tried in turn.
    pub(crate) async fn open(host: &Host) -> Result<(Transport, Peer), Error> {
        match host {
            Host::Tcp { host, port } => {
                let (stream, address) = open_tcp(host, *port).await?;
                Ok((Transport::Tcp(stream), Peer::Tcp(address)))
            }
            Host::Unix { directory, port } => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                let stream = UnixStream::connect(&path).await.map_err(|cause| {
                    Error::because(ErrorKind::Connect, "the socket does not answer", cause)
                })?;
                Ok((Transport::Unix(stream), Peer::Unix(path)))
            }
        }
    }

    /// The socket whose receive mark can be set; a unix socket has none that counts.
    pub(crate) fn tcp_socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Transport::Tcp(stream) => Some(stream.as_fd()),
            Transport::Tls(stream) => Some(stream.get_ref().0.as_fd()),
            Transport::Unix(_) => None,
        }
    }
}

async fn open_tcp(host: &str, port: u16) -> Result<(TcpStream, SocketAddr), Error> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|cause| Error::because(ErrorKind::Connect, format!("{host} does not resolve"), cause))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                set_options(&stream).map_err(|cause| {
                    Error::because(ErrorKind::Connect, "cannot set socket options", cause)
                })?;
                return Ok((stream, address));
            }
            Err(cause) => {
                last = Some(Error::because(ErrorKind::Connect, format!("{address} does not answer"), cause));
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Connect, format!("{host} has no address"))))
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    // Status updates are small and must not wait for an acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
