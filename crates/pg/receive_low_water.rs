//! The socket option SO_RCVLOWAT: a socket becomes readable only once it holds this many bytes.
//!
//! No crate wraps it, so this needs `unsafe`: a single setsockopt.
//! Linux: socket(7), tcp(7). Lowering the mark wakes a waiting reader if there is enough for the new one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets the mark of a TCP socket. It ends when the connection does.
#[allow(unsafe_code)]
pub(crate) fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open, since it is borrowed; the pointer is to a live c_int, whose size is given, and
    // the kernel only reads it, before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_reader_wakes_at_the_mark_or_when_the_mark_is_lowered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut reader =
            TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (mut writer, _) = listener.accept().await.expect("accepts");
        let mut buffer = vec![0; 100_000];
        let moment = Duration::from_millis(50);

        set_receive_low_water(reader.as_fd(), 50_000).expect("the mark is set");
        writer.write_all(&[1; 1000]).await.expect("written");
        timeout(moment, reader.read(&mut buffer)).await.expect_err("a thousand bytes wake nobody");
        writer.write_all(&[1; 60_000]).await.expect("written");
        let count = timeout(moment, reader.read(&mut buffer)).await.expect("in time").expect("read");
        assert!(count >= 50_000, "{count}");

        while timeout(moment, reader.read(&mut buffer)).await.is_ok() {}
        writer.write_all(&[1; 1000]).await.expect("written");
        timeout(moment, reader.read(&mut buffer)).await.expect_err("a thousand bytes wake nobody");
        set_receive_low_water(reader.as_fd(), 1).expect("the mark is set");
        let count = timeout(moment, reader.read(&mut buffer)).await.expect("in time").expect("read");
        assert_eq!(count, 1000);
    }
}
