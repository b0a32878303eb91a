//! Which certificates are accepted under which `sslmode`, and what a refusal says.

mod fake;

use std::sync::Arc;

use fake::{authentication, certificate, listen, read_untagged, ready, settings};
use headwater_pg::{ConnectSettings, Error, ErrorKind, RootCert, Session, SslMode, TlsSettings, connect};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

const SSL_REQUEST_CODE: u32 = 80_877_103;

/// A server with the certificate `name` that lets in everybody who shakes hands, and anyone without TLS as well.
async fn server(name: &'static str) -> u16 {
    server_that_sends(name, authentication(0, &[])).await
}

async fn server_that_sends(name: &'static str, request: Vec<u8>) -> u16 {
    let chain =
        vec![CertificateDer::from_pem_file(certificate(&format!("{name}.pem"))).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(certificate(&format!("{name}.key"))).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that refuses the server leaves its task in the middle; that is no fault of the fake.
            tokio::spawn(serve(stream, acceptor.clone(), request.clone()));
        }
    });
    port
}

async fn serve(mut stream: TcpStream, acceptor: TlsAcceptor, request: Vec<u8>) {
    if read_untagged(&mut stream).await != SSL_REQUEST_CODE.to_be_bytes() {
        stream.write_all(&[authentication(0, &[]), ready()].concat()).await.expect("written");
        return;
    }
    stream.write_all(b"S").await.expect("written");
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    read_untagged(&mut stream).await;
    stream.write_all(&request).await.expect("written");
    if request != authentication(0, &[]) {
        let mut tag = [0];
        if !matches!(stream.read(&mut tag).await, Ok(1)) {
            return;
        }
        read_untagged(&mut stream).await;
        stream.write_all(&authentication(0, &[])).await.expect("written");
    }
    stream.write_all(&ready()).await.expect("written");
    let _ = stream.read(&mut [0]).await;
}

fn with(port: u16, mode: SslMode, root: Option<&str>) -> ConnectSettings {
    let root_cert = root.map_or(RootCert::System, |name| RootCert::File(certificate(name)));
    ConnectSettings { tls: TlsSettings { mode, root_cert, client_cert: None }, ..settings(port) }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

async fn check(name: &'static str, mode: SslMode, root: Option<&str>, expected: Result<(), &str>) {
    let port = server(name).await;
    let result = Session::connect(&with(port, mode, root)).await;
    match (result, expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) => {
            assert_eq!(error.kind(), ErrorKind::Tls, "{}", chain(&error));
            assert!(chain(&error).contains(part), "{}", chain(&error));
            assert!(!error.is_transient());
        }
        (Ok(_), Err(part)) => panic!("{name} {mode:?} {root:?} is accepted, though {part}"),
        (Err(error), Ok(())) => panic!("{name} {mode:?} {root:?}: {}", chain(&error)),
    }
}

#[tokio::test]
async fn a_certificate_of_an_authority() {
    use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    check("server", Disable, None, Ok(())).await;
    check("server", Prefer, None, Ok(())).await;
    check("server", Require, None, Ok(())).await;
    check("server", VerifyFull, Some("ca.pem"), Ok(())).await;
    check("server", VerifyCa, Some("ca.pem"), Ok(())).await;
    // As in libpq, a root file makes `require` verify.
    check("server", Require, Some("ca.pem"), Ok(())).await;
    for mode in [Require, VerifyCa, VerifyFull] {
        check("server", mode, Some("self_signed.pem"), Err("not issued by any of the roots in")).await;
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_accepted_if_it_is_configured_itself() {
    use SslMode::{Require, VerifyCa, VerifyFull};
    check("self_signed", Require, None, Ok(())).await;
    for mode in [Require, VerifyCa, VerifyFull] {
        check("self_signed", mode, Some("self_signed.pem"), Ok(())).await;
        check("self_signed", mode, Some("ca.pem"), Err("certificate is refused")).await;
    }
    // A certificate that is configured itself but names other hosts is not this host's.
    check("server", VerifyFull, Some("server.pem"), Ok(())).await;
    let port = server("server").await;
    let mut settings = with(port, SslMode::VerifyFull, Some("server.pem"));
    settings.host = headwater_pg::Host::Tcp { host: "127.0.0.1".to_owned(), port };
    let error = Session::connect(&settings).await.err().expect("refused");
    assert!(chain(&error).contains("not for 127.0.0.1"), "{}", chain(&error));
}

#[tokio::test]
async fn the_name_counts_only_in_verify_full() {
    let port = server("server").await;
    let by_address = |mode| {
        let mut settings = with(port, mode, Some("ca.pem"));
        settings.host = headwater_pg::Host::Tcp { host: "127.0.0.1".to_owned(), port };
        settings
    };
    Session::connect(&by_address(SslMode::VerifyCa)).await.expect("the chain is enough");
    let error = Session::connect(&by_address(SslMode::VerifyFull)).await.err().expect("refused");
    assert!(
        chain(&error).contains("it is for localhost, db.example, not for 127.0.0.1"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_server_without_tls() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_untagged(&mut stream).await;
            stream.write_all(b"N").await.expect("written");
            let mut length = [0; 4];
            if stream.read_exact(&mut length).await.is_ok() {
                let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
                stream.read_exact(&mut rest).await.expect("a startup");
                stream.write_all(&[authentication(0, &[]), ready()].concat()).await.expect("written");
            }
        }
    });
    Session::connect(&with(port, SslMode::Prefer, None)).await.expect("plain is good enough");
    for mode in [SslMode::Require, SslMode::VerifyFull] {
        let error = Session::connect(&with(port, mode, Some("ca.pem"))).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(chain(&error).contains("does not offer TLS"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_cleartext_password_goes_only_to_a_verified_server() {
    let port = server_that_sends("server", authentication(3, &[])).await;
    for (mode, root, accepted) in [
        (SslMode::VerifyFull, Some("ca.pem"), true),
        (SslMode::VerifyCa, Some("ca.pem"), true),
        (SslMode::Require, None, false),
        (SslMode::Prefer, None, false),
    ] {
        let settings = with(port, mode, root);
        let session = Session::connect(&settings).await;
        assert_eq!(session.is_ok(), accepted, "{mode:?}");
        // The SQL client goes by the same rules.
        assert_eq!(connect(&settings).await.is_ok(), accepted, "{mode:?}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let port = server("server").await;
    for (root, part) in
        [("missing.pem", "missing.pem cannot be read"), ("server.key", "holds no certificate")]
    {
        let error =
            Session::connect(&with(port, SslMode::VerifyFull, Some(root))).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(chain(&error).contains(part), "{}", chain(&error));
    }
    let mut settings = with(port, SslMode::VerifyFull, Some("ca.pem"));
    settings.tls.client_cert = Some((certificate("server.pem"), certificate("ca.pem")));
    let error = Session::connect(&settings).await.err().expect("refused");
    assert!(chain(&error).contains("holds no private key"), "{}", chain(&error));
    settings.tls.client_cert = Some((certificate("server.pem"), certificate("server.key")));
    Session::connect(&settings).await.expect("a client certificate");
}

#[tokio::test]
async fn prefer_tries_without_tls_what_is_refused_with_it() {
    // As a server answers whose pg_hba.conf has only a hostnossl line for the role.
    let no_entry = fake::error(b'E', "28000", "no pg_hba.conf entry");
    let port = server_that_sends("server", no_entry).await;
    Session::connect(&with(port, SslMode::Prefer, None)).await.expect("plain is good enough");
    let error = Session::connect(&with(port, SslMode::Require, None)).await.err().expect("refused");
    assert_eq!(error.sqlstate(), Some("28000"));
    // A wrong password is wrong either way.
    let port = server_that_sends("server", fake::error(b'E', "28P01", "wrong password")).await;
    let error = Session::connect(&with(port, SslMode::Prefer, None)).await.err().expect("refused");
    assert_eq!(error.sqlstate(), Some("28P01"));
}
