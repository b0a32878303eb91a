//! A server that says what a test wants it to say.

// Each test binary uses another part of it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::time::Duration;

use headwater_pg::{ChannelBinding, ConnectSettings, Host, RootCert, Secret, SslMode, TlsSettings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// Settings for a fake at `port`: no TLS, a password.
pub fn settings(port: u16) -> ConnectSettings {
    ConnectSettings {
        host: Host::Tcp { host: "localhost".to_owned(), port },
        user: "headwater".to_owned(),
        password: Some(Secret::new("hunter2".to_owned())),
        database: "shop".to_owned(),
        tls: TlsSettings { mode: SslMode::Disable, root_cert: RootCert::System, client_cert: None },
        channel_binding: ChannelBinding::Prefer,
        allow_md5: false,
        application_name: "test".to_owned(),
        connect_timeout: Duration::from_secs(5),
    }
}

pub fn certificate(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

/// A listener on a port of its own, and the port.
pub async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// One frame as the server sends it.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
    out
}

/// AuthenticationRequest.
pub fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    frame(b'R', &[&code.to_be_bytes(), rest].concat())
}

/// ErrorResponse or NoticeResponse.
pub fn error(tag: u8, code: &str, message: &str) -> Vec<u8> {
    frame(tag, format!("SFATAL\0VFATAL\0C{code}\0M{message}\0Hlook there\0\0").as_bytes())
}

/// What follows a login: two parameters, the key, ready.
pub fn ready() -> Vec<u8> {
    [
        frame(b'S', b"server_version\x0016.14 (fake)\0"),
        frame(b'S', b"server_encoding\0UTF8\0"),
        frame(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
        frame(b'Z', b"I"),
    ]
    .concat()
}

pub fn xlog_data(lsn: u64, data: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    body.extend(lsn.to_be_bytes());
    body.extend(lsn.to_be_bytes());
    body.extend(0u64.to_be_bytes());
    body.extend(data);
    frame(b'd', &body)
}

pub fn keepalive(lsn: u64, reply: u8) -> Vec<u8> {
    let mut body = vec![b'k'];
    body.extend(lsn.to_be_bytes());
    body.extend(0u64.to_be_bytes());
    body.push(reply);
    frame(b'd', &body)
}

/// Reads the startup message, or another message without a tag.
pub async fn read_untagged<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let length = stream.read_u32().await.expect("a length");
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.expect("a body");
    body
}

/// Reads one frame of the client.
pub async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> (u8, Vec<u8>) {
    let tag = stream.read_u8().await.expect("a tag");
    (tag, read_untagged(stream).await)
}

/// Lets anybody in, and answers START_REPLICATION.
pub async fn start_stream<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    read_untagged(stream).await;
    stream.write_all(&[authentication(0, &[]), ready()].concat()).await.expect("written");
    let (tag, query) = read_frame(stream).await;
    assert_eq!(tag, b'Q');
    assert!(query.starts_with(b"START_REPLICATION SLOT \"s\" LOGICAL 0/64 ("), "{query:?}");
    stream.write_all(&frame(b'W', &[0, 0, 0])).await.expect("written");
}
