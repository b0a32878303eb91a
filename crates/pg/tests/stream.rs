//! The stream from a fake server: fragments, cancelled reads, errors in the middle, frames that are too large.

mod fake;

use std::time::Duration;

use fake::{error, frame, keepalive, listen, read_frame, settings, start_stream, xlog_data};
use headwater_pg::{Error, ErrorKind, Frame, PgoutputOptions, ReplicationStream, Session, StandbyStatus};
use headwater_pgoutput::{Lsn, RelationId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

const START: u64 = 0x64;

/// A stream at position 0/64, and the server's end of it.
async fn stream() -> (ReplicationStream, TcpStream) {
    let (listener, port) = listen().await;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let (mut server, _) = listener.accept().await.expect("a client");
        server.set_nodelay(true).expect("an option");
        start_stream(&mut server).await;
        sender.send(server).expect("the test waits");
    });
    let session = Session::connect(&settings(port)).await.expect("logged in");
    let options = PgoutputOptions { publications: vec!["p".to_owned()], messages: true };
    let stream = session.start_replication("s", Lsn(START), &options).await.expect("started");
    (stream, receiver.await.expect("the fake"))
}

/// Receives until an error; the data of every XLogData before it.
async fn drain(stream: &mut ReplicationStream) -> (Vec<Vec<u8>>, Error) {
    let mut received = Vec::new();
    loop {
        match stream.recv().await {
            Ok(batch) => received.extend(batch.frames().filter_map(|frame| match frame {
                Frame::XLogData { data, .. } => Some(data.to_vec()),
                Frame::Keepalive { .. } => None,
            })),
            Err(error) => return (received, error),
        }
    }
}

fn status(position: u64) -> StandbyStatus {
    let position = Lsn(position);
    StandbyStatus { write: position, flush: position, apply: position, reply_requested: false }
}

#[tokio::test]
async fn fragments_of_one_byte_and_cancelled_reads_lose_nothing() {
    let (mut stream, mut server) = stream().await;
    let sent: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n; usize::from(n)]).collect();
    let bytes: Vec<u8> =
        sent.iter().enumerate().flat_map(|(n, data)| xlog_data(200 + n as u64, data)).collect();
    tokio::spawn(async move {
        for byte in bytes {
            server.write_all(&[byte]).await.expect("written");
            tokio::time::sleep(Duration::from_micros(1)).await;
        }
    });
    let mut received = Vec::new();
    let mut cancelled = 0;
    while received.len() < sent.len() {
        match timeout(Duration::from_micros(300), stream.recv()).await {
            Ok(batch) => received.extend(batch.expect("frames").frames().map(|frame| match frame {
                Frame::XLogData { data, .. } => data.to_vec(),
                Frame::Keepalive { .. } => panic!("no keepalive was sent"),
            })),
            Err(_) => cancelled += 1,
        }
    }
    assert_eq!(received, sent);
    assert!(cancelled > 10, "{cancelled} reads were cancelled");
}

#[tokio::test]
async fn what_came_before_an_error_is_returned_before_the_error() {
    let (mut stream, mut server) = stream().await;
    let bytes = [
        xlog_data(200, b"one"),
        error(b'N', "00000", "by the way"),
        frame(b'S', b"application_name\0x\0"),
        keepalive(210, 1),
        xlog_data(220, b"two"),
        error(b'E', "57P01", "terminating connection"),
    ]
    .concat();
    server.write_all(&bytes).await.expect("written");
    let (received, error) = drain(&mut stream).await;
    assert_eq!(received, [b"one", b"two"]);
    assert_eq!(
        (error.kind(), error.sqlstate(), error.is_transient()),
        (ErrorKind::Server, Some("57P01"), true)
    );
    drop(server);
    assert_eq!(stream.recv().await.expect_err("closed").kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn the_end_of_the_stream_and_of_the_connection_are_closed() {
    for end in [&frame(b'c', b"")[..], &frame(b'C', b"COPY 0\0"), b""] {
        let (mut stream, mut server) = stream().await;
        server.write_all(&[&xlog_data(200, b"one"), end].concat()).await.expect("written");
        drop(server);
        let (received, error) = drain(&mut stream).await;
        assert_eq!(received, [b"one"]);
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn nonsense_within_the_stream_is_an_error() {
    for bad in [frame(b'd', b"?"), frame(b'd', b""), frame(b'T', b"\0\0"), frame(b'?', b""), vec![0; 10]] {
        let (mut stream, mut server) = stream().await;
        server.write_all(&[xlog_data(200, b"one"), bad].concat()).await.expect("written");
        let (received, error) = drain(&mut stream).await;
        assert_eq!(received, [b"one"]);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_is_named_without_waiting_for_it() {
    let (mut stream, mut server) = stream().await;
    stream.set_max_frame_bytes(1000);
    let large = xlog_data(300, &[&b"U\x00\x00\x40\x01"[..], &[b'x'; 5000]].concat());
    server.write_all(&[&xlog_data(200, b"one"), &large[..50]].concat()).await.expect("written");
    let (received, error) = drain(&mut stream).await;
    assert_eq!(received, [b"one"]);
    let relation = Some(RelationId(0x4001));
    let bytes = large.len() as u64;
    assert_eq!(error.kind(), ErrorKind::FrameTooLarge { bytes, wal_start: Lsn(300), relation });
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_large_frame_comes_whole() {
    let (mut stream, mut server) = stream().await;
    let data: Vec<u8> = (0..5_000_000u32).map(|n| n as u8).collect();
    let bytes = [xlog_data(200, &data), xlog_data(300, b"next")].concat();
    tokio::spawn(async move {
        server.write_all(&bytes).await.expect("written");
    });
    let (received, _) = drain(&mut stream).await;
    assert!(received == [data, b"next".to_vec()]);
}

#[tokio::test]
async fn no_position_is_reported_that_was_not_received() {
    let (mut stream, mut server) = stream().await;
    assert_eq!(stream.send_status(status(START + 1)).await.expect_err("refused").kind(), ErrorKind::Protocol);
    stream.send_status(status(START)).await.expect("the start is known");
    server.write_all(&[xlog_data(300, b"x"), keepalive(250, 1)].concat()).await.expect("written");
    // It is on its way, but it was not received.
    stream.send_status(status(300)).await.expect_err("refused");
    let batch = stream.recv().await.expect("frames");
    assert!(batch.reply_requested && batch.last_wal_end == Lsn(250));
    stream.send_status(status(300)).await.expect("received");
    stream.send_status(status(301)).await.expect_err("refused");
    for position in [START, 300] {
        let (tag, body) = read_frame(&mut server).await;
        assert_eq!((tag, body[0], body.len()), (b'd', b'r', 34));
        for offset in [1, 9, 17] {
            assert_eq!(body[offset..offset + 8], position.to_be_bytes());
        }
    }
}

#[tokio::test]
async fn finish_waits_for_the_server() {
    let (stream, mut server) = stream().await;
    let server = tokio::spawn(async move {
        assert_eq!(read_frame(&mut server).await.0, b'c');
        let answer = [xlog_data(300, b"late"), frame(b'c', b""), frame(b'C', b"COPY 0\0"), frame(b'Z', b"I")];
        server.write_all(&answer.concat()).await.expect("written");
        assert_eq!(read_frame(&mut server).await.0, b'X');
    });
    stream.finish().await.expect("finished");
    server.await.expect("the fake");
}

#[tokio::test]
async fn a_burst_is_read_lazily_and_its_end_at_once() {
    let (mut stream, mut server) = stream().await;
    // Small writes without pause look like a walsender with a backlog; no Begin tells otherwise.
    let burst = tokio::spawn(async move {
        for n in 0..20_000u64 {
            server.write_all(&xlog_data(1000 + n, b"0123456789")).await.expect("written");
        }
        server
    });
    let (mut frames, mut batches) = (0, 0);
    while frames < 20_000 {
        frames += stream.recv().await.expect("frames").frames().count();
        batches += 1;
    }
    let mut server = burst.await.expect("the burst");
    assert!(batches < 10_000, "{batches} batches for 20,000 frames");
    // Whatever state the burst has left, what comes alone is there within the patience of a read and a little.
    for n in 0..50u64 {
        server.write_all(&xlog_data(100_000 + n, b"alone")).await.expect("written");
        let batch =
            timeout(Duration::from_millis(200), stream.recv()).await.expect("in time").expect("frames");
        assert_eq!(batch.frames().count(), 1);
    }
}
