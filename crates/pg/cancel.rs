//! A cancel request for a command that nobody waits for any more.
//!
//! ```text
//! length 16 · code 80877102 · process id · secret key      (each 4 bytes, big endian; manual, "Canceling Requests")
//! ```
//!
//! It is sent without TLS: every Postgres takes it so, and the key in it opens nothing but the command it ends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::connect::Backend;
use crate::transport::Peer;

/// For connecting, and again for the server to close. The address has answered before, so this is generous.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends the request when it is dropped, unless it was disarmed.
///
/// It blocks the thread for a moment: a task could be lost when the process ends, and then the slot would stay.
pub(crate) struct CancelOnDrop(Option<Backend>);

impl CancelOnDrop {
    pub(crate) fn new(backend: Backend) -> CancelOnDrop {
        CancelOnDrop(Some(backend))
    }

    /// The command has its answer.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(backend) = self.0.take()
            && let Err(error) = request_cancel(&backend)
        {
            tracing::warn!(%error, pid = backend.pid, "cannot cancel a command of postgres");
        }
    }
}

fn request_cancel(backend: &Backend) -> io::Result<()> {
    let mut request = BytesMut::new();
    frontend::cancel_request(backend.pid, backend.secret_key, &mut request);
    match &backend.peer {
        Peer::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            send_and_wait(stream, &request)
        }
        Peer::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            send_and_wait(stream, &request)
        }
    }
}

/// The server answers by closing the connection once the signal is sent.
fn send_and_wait(mut stream: impl Read + Write, request: &[u8]) -> io::Result<()> {
    stream.write_all(request)?;
    match stream.read(&mut [0]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}
