//! A copy from a fake server: fragments, cancelled reads, errors in the middle, rows that are too large.

mod fake;

use std::time::Duration;

use fake::{authentication, error, frame, listen, read_frame, read_untagged, ready, settings};
use headwater_pg::{CopySession, Error, ErrorKind};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// CopyOutResponse: text, two columns of text.
const COPY_OUT: &[u8] = &[b'H', 0, 0, 0, 11, 0, 0, 2, 0, 0, 0, 0];

/// A session that has begun a copy, the server's end of it, and the listener.
async fn copying() -> (CopySession, TcpStream, TcpListener) {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let (mut server, _) = listener.accept().await.expect("a client");
        server.set_nodelay(true).expect("an option");
        read_untagged(&mut server).await;
        server.write_all(&[authentication(0, &[]), ready()].concat()).await.expect("written");
        assert_eq!(read_frame(&mut server).await, (b'Q', b"COPY t TO STDOUT\0".to_vec()));
        // The session does not wait for this.
        server.write_all(COPY_OUT).await.expect("written");
        (server, listener)
    });
    let mut session = CopySession::connect(&settings(port)).await.expect("logged in");
    session.copy_out("COPY t TO STDOUT").await.expect("begun");
    let (server, listener) = server.await.expect("the fake");
    (session, server, listener)
}

fn rows(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{n}\t{}\n", "x".repeat(n as usize)).into_bytes()).collect()
}

fn frames(rows: &[Vec<u8>]) -> Vec<u8> {
    rows.iter().flat_map(|row| frame(b'd', row)).collect()
}

fn end() -> Vec<u8> {
    [frame(b'c', b""), frame(b'C', b"COPY 1\0"), frame(b'Z', b"I")].concat()
}

/// An ERROR, after which ReadyForQuery comes.
fn failure(message: &str) -> Vec<u8> {
    let error = error(b'E', "42501", message);
    String::from_utf8_lossy(&error).replace("FATAL", "ERROR").into_bytes()
}

/// All rows until the end or an error.
async fn drain(session: &mut CopySession) -> (Vec<Vec<u8>>, Option<Error>) {
    let mut found = Vec::new();
    loop {
        match session.next_rows().await {
            Ok(Some(rows)) => found.extend(rows.rows().map(<[u8]>::to_vec)),
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
    }
}

/// The session runs another query.
async fn is_ready(session: &mut CopySession, server: &mut TcpStream) {
    let answer = [
        frame(b'T', &[0, 0]),
        frame(b'D', &[0, 1, 0, 0, 0, 1, b'1']),
        frame(b'C', b"SELECT 1\0"),
        frame(b'T', &[0, 0]),
        frame(b'D', &[0, 1, 0, 0, 0, 1, b'2']),
        frame(b'C', b"SELECT 1\0"),
        frame(b'Z', b"I"),
    ];
    let serve = async {
        read_frame(server).await;
        server.write_all(&answer.concat()).await.expect("written");
    };
    let (answer, ()) = tokio::join!(session.query("SELECT 1; SELECT 2"), serve);
    assert_eq!(answer.expect("an answer"), [[Some("2".to_owned())]], "the rows of the last statement");
}

#[tokio::test]
async fn fragments_of_one_byte_and_cancelled_reads_lose_nothing() {
    let (mut session, mut server, _listener) = copying().await;
    let sent = rows(60);
    let bytes = [frames(&sent), end()].concat();
    let writer = tokio::spawn(async move {
        for byte in bytes {
            server.write_all(&[byte]).await.expect("written");
            tokio::time::sleep(Duration::from_micros(1)).await;
        }
        server
    });
    let (mut received, mut cancelled) = (Vec::new(), 0);
    loop {
        match timeout(Duration::from_micros(300), session.next_rows()).await {
            Ok(Ok(Some(rows))) => received.extend(rows.rows().map(<[u8]>::to_vec)),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error:?}"),
            Err(_) => cancelled += 1,
        }
    }
    assert_eq!(received, sent);
    assert!(cancelled > 10, "{cancelled} reads were cancelled");
    is_ready(&mut session, &mut writer.await.expect("the writer")).await;
}

#[tokio::test]
async fn rows_before_an_error_come_before_it_and_the_session_goes_on() {
    let (mut session, mut server, _listener) = copying().await;
    let sent = rows(5);
    let notice = error(b'N', "00000", "by the way");
    let status = frame(b'S', b"TimeZone\0UTC\0");
    let bytes =
        [frames(&sent[..2]), notice, status, frames(&sent[2..]), failure("no right"), frame(b'Z', b"E")];
    server.write_all(&bytes.concat()).await.expect("written");
    let (received, failed) = drain(&mut session).await;
    assert_eq!(received, sent);
    let failed = failed.expect("an error");
    assert_eq!((failed.kind(), failed.sqlstate()), (ErrorKind::Server, Some("42501")));
    is_ready(&mut session, &mut server).await;
    let error = session.next_rows().await.expect_err("no copy is under way");
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn what_ends_a_session() {
    for (bytes, kind) in [
        (error(b'E', "57P01", "shutting down"), ErrorKind::Server),
        (Vec::new(), ErrorKind::Closed),
        (
            frame(b'd', &[b'x'; 2000]),
            ErrorKind::FrameTooLarge { bytes: 2005, wal_start: headwater_pgoutput::Lsn(0), relation: None },
        ),
        (b"d\0\0\0\x01".to_vec(), ErrorKind::Protocol),
        (frame(b'T', &[0, 0]), ErrorKind::Protocol),
    ] {
        let (mut session, mut server, listener) = copying().await;
        session.set_max_frame_bytes(1000);
        let sent = rows(3);
        server.write_all(&[frames(&sent), bytes].concat()).await.expect("written");
        drop(server);
        let (received, failed) = drain(&mut session).await;
        assert_eq!(received, sent, "{kind:?}");
        assert_eq!(failed.expect("an error").kind(), kind);
        assert!(session.query("SELECT 1").await.is_err(), "{kind:?}");
        // A copy that was not ended by the server is cancelled: nobody answers that here.
        let accepted = tokio::spawn(async move { listener.accept().await.map(|(stream, _)| drop(stream)) });
        tokio::task::spawn_blocking(move || drop(session)).await.expect("dropped");
        accepted.abort();
    }
}

#[tokio::test]
async fn a_statement_that_is_no_copy_is_an_error() {
    let (mut session, mut server, _listener) = copying().await;
    server.write_all(&end()).await.expect("written");
    assert!(session.next_rows().await.expect("read").is_none());
    let binary = [b'H', 0, 0, 0, 11, 1, 0, 2, 0, 1, 0, 1];
    for (answer, kind, goes_on) in [
        ([failure("no such table"), frame(b'Z', b"I")].concat(), ErrorKind::Server, true),
        ([frame(b'C', b"SET\0"), frame(b'Z', b"I")].concat(), ErrorKind::Protocol, true),
        (binary.to_vec(), ErrorKind::Protocol, false),
    ] {
        let serve = async {
            read_frame(&mut server).await;
            server.write_all(&answer).await.expect("written");
        };
        let (sent, ()) = tokio::join!(session.copy_out("SET a = b"), serve);
        sent.expect("sent");
        assert_eq!(session.next_rows().await.expect_err("an error").kind(), kind);
        if goes_on {
            is_ready(&mut session, &mut server).await;
        }
    }
    assert!(session.query("SELECT 1").await.is_err(), "in the midst of a copy that is not understood");
}

#[tokio::test]
async fn a_copy_that_is_dropped_is_cancelled() {
    let (session, mut server, listener) = copying().await;
    server.write_all(&frames(&rows(3))).await.expect("written");
    let cancelled = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a cancel request");
        read_untagged(&mut stream).await
    });
    tokio::task::spawn_blocking(move || drop(session)).await.expect("dropped");
    let request = cancelled.await.expect("the fake");
    // Code 80877102, process 7, key 9.
    assert_eq!(request, [4, 210, 22, 46, 0, 0, 0, 7, 0, 0, 0, 9]);
}
