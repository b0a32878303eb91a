//! Which requests of a server are answered, and which are refused.

mod fake;

use fake::{authentication, error, listen, read_frame, read_untagged, ready, settings};
use headwater_pg::{ChannelBinding, ConnectSettings, Error, ErrorKind, Session};
use tokio::io::AsyncWriteExt;

/// The fake sends `request`, and, once it has been answered, lets the client in.
async fn log_in(
    settings: impl Fn(u16) -> ConnectSettings,
    request: Vec<u8>,
) -> (Result<Session, Error>, Vec<u8>) {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        read_untagged(&mut stream).await;
        stream.write_all(&request).await.expect("written");
        let mut tag = [0];
        if tokio::io::AsyncReadExt::read(&mut stream, &mut tag).await.unwrap_or(0) == 0 {
            return Vec::new();
        }
        let answer = read_untagged(&mut stream).await;
        stream.write_all(&[authentication(0, &[]), ready()].concat()).await.expect("written");
        answer
    });
    let session = Session::connect(&settings(port)).await;
    (session, server.await.expect("the fake"))
}

/// The whole chain, as a log would have it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

async fn check_refused(settings: impl Fn(u16) -> ConnectSettings, request: Vec<u8>, reason: &str) {
    let (session, answer) = log_in(settings, request).await;
    let error = session.err().unwrap_or_else(|| panic!("refused because {reason}"));
    assert_eq!(error.kind(), ErrorKind::Authentication, "{}", chain(&error));
    assert!(chain(&error).contains(reason), "{}", chain(&error));
    assert!(!chain(&error).contains("hunter2"));
    assert_eq!(answer, b"", "nothing is sent to whom is refused");
}

const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const GSS: u32 = 7;
const SASL: u32 = 10;

#[tokio::test]
async fn weak_or_unknown_methods_are_refused_with_the_reason() {
    check_refused(settings, authentication(CLEARTEXT, &[]), "cleartext").await;
    check_refused(settings, authentication(MD5, b"salt"), "MD5").await;
    check_refused(settings, authentication(GSS, &[]), "GSSAPI").await;
    check_refused(settings, authentication(SASL, b"OAUTHBEARER\0\0"), "only OAUTHBEARER").await;
    check_refused(settings, authentication(SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), "without TLS")
        .await;
    let without_password = |port| ConnectSettings { password: None, ..settings(port) };
    check_refused(without_password, authentication(SASL, b"SCRAM-SHA-256\0\0"), "none is configured").await;
}

#[tokio::test]
async fn who_requires_channel_binding_is_not_led_around_it() {
    let strict = |port| ConnectSettings {
        channel_binding: ChannelBinding::Require,
        allow_md5: true,
        ..settings(port)
    };
    for request in [
        authentication(0, &[]),
        authentication(CLEARTEXT, &[]),
        authentication(MD5, b"salt"),
        authentication(SASL, b"SCRAM-SHA-256\0\0"),
    ] {
        check_refused(strict, request, "channel binding is required").await;
    }
}

#[tokio::test]
async fn md5_is_answered_if_allowed() {
    let weak = |port| ConnectSettings { allow_md5: true, ..settings(port) };
    let (session, answer) = log_in(weak, authentication(MD5, b"salt")).await;
    let session = session.expect("logged in");
    assert_eq!(session.server_version(), 160_014);
    assert_eq!(session.parameter("server_encoding"), Some("UTF8"));
    assert_eq!(session.backend_pid(), 7);
    // 'md5' and md5(md5(password || user) || salt), by md5sum
    assert_eq!(answer, b"md597f4fe91560ff92209a1203e169ae8be\0");
}

#[tokio::test]
async fn a_servers_refusal_keeps_its_words() {
    let (session, _) = log_in(settings, error(b'E', "28000", "no entry")).await;
    let refused = session.err().expect("refused");
    assert_eq!((refused.kind(), refused.sqlstate()), (ErrorKind::Authentication, Some("28000")));
    assert_eq!(refused.server().and_then(|server| server.hint.as_deref()), Some("look there"));
    let (session, _) = log_in(settings, error(b'E', "57P03", "starting up")).await;
    assert!(session.err().expect("refused").is_transient());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let (listener, port) = listen().await;
    let patience = std::time::Duration::from_millis(100);
    let settings = ConnectSettings { connect_timeout: patience, ..settings(port) };
    let error = Session::connect(&settings).await.err().expect("a timeout");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    drop(listener);
    let error = Session::connect(&settings).await.err().expect("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Connect);
}

#[tokio::test]
async fn garbage_is_an_error_and_no_panic() {
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[b'R', 0, 0, 0, 4],
        &[b'R', 0, 0, 0, 8, 0, 0, 0, 99],
        &[b'R', 0, 0, 0, 3],
        &[b'R', 0x7f, 0xff, 0xff, 0xff],
        &[0; 40],
    ] {
        let (session, _) = log_in(settings, garbage.to_vec()).await;
        let error = session.err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Protocol, "{}", chain(&error));
    }
}

#[tokio::test]
async fn the_startup_pins_what_decides_how_values_look() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let startup = read_untagged(&mut stream).await;
        stream.write_all(&[authentication(0, &[]), ready()].concat()).await.expect("written");
        // The client sends a query, of which the fake makes an error and then goes on.
        read_frame(&mut stream).await;
        let failed =
            [error(b'N', "00000", "by the way"), error(b'E', "42601", "syntax"), frame_ready()].concat();
        stream
            .write_all(&String::from_utf8_lossy(&failed).replace("FATAL", "ERROR").into_bytes())
            .await
            .expect("w");
        read_frame(&mut stream).await;
        let row = fake::frame(b'D', &[0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff]);
        stream
            .write_all(&[row, fake::frame(b'C', b"SELECT 1\0"), frame_ready()].concat())
            .await
            .expect("written");
        startup
    });
    let mut session = Session::connect(&settings(port)).await.expect("logged in");
    let error = session.simple_query("nonsense").await.expect_err("an error");
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Server, Some("42601")));
    let rows = session.simple_query("SELECT").await.expect("rows");
    assert_eq!(rows, [[Some("x".to_owned()), None]]);
    let startup = String::from_utf8(server.await.expect("the fake")[4..].to_vec()).expect("text");
    for pair in [
        "replication\0database",
        "client_encoding\0UTF8",
        "TimeZone\0UTC",
        "DateStyle\0ISO",
        "user\0headwater",
    ] {
        assert!(startup.contains(pair), "{startup:?}");
    }
}

fn frame_ready() -> Vec<u8> {
    fake::frame(b'Z', b"I")
}
