//! TLS by rustls with ring: versions 1.2 and 1.3, SNI, an optional client certificate, and libpq's `sslmode`.
//!
//! A server certificate that is byte for byte one of the configured root certificates is accepted too. rustls would
//! refuse the self-signed certificates that many servers have, because it takes no CA certificate for a server's
//! and does not look at common names.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::settings::{RootCert, SslMode, TlsSettings};
use crate::{Error, ErrorKind};

/// How to shake hands with one host.
pub(crate) struct TlsPlan {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    roots: String,
    /// Whether a finished handshake proves who the server is.
    pub(crate) verified: bool,
}

/// What is demanded of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    Nothing,
    Chain,
    ChainAndName,
}

impl TlsPlan {
    /// Reads the certificate files. Blocking, but only for the time of reading a few hundred kilobytes.
    pub(crate) fn new(settings: &TlsSettings, host: &str) -> Result<TlsPlan, Error> {
        let demand = match (settings.mode, &settings.root_cert) {
            (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, RootCert::System) => Demand::Nothing,
            (SslMode::Require, RootCert::File(_)) | (SslMode::VerifyCa, _) => Demand::Chain,
            (SslMode::VerifyFull, _) => Demand::ChainAndName,
        };
        let roots = match (demand, &settings.root_cert) {
            (Demand::Nothing, _) => Vec::new(),
            (_, RootCert::System) => system_roots()?,
            (_, RootCert::File(path)) => certificates(path)?,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|cause| {
            Error::because(ErrorKind::Config, format!("{host:?} cannot be a TLS server's name"), cause)
        })?;
        // With the system's roots anybody can have a certificate: unless the name is compared, it proves nothing.
        let verified = match demand {
            Demand::Nothing => false,
            Demand::Chain => settings.root_cert != RootCert::System,
            Demand::ChainAndName => true,
        };
        let roots_named = match &settings.root_cert {
            RootCert::System => "the system's roots".to_owned(),
            RootCert::File(path) => format!("the roots in {}", path.display()),
        };
        let config = client_config(settings, demand, roots)?;
        Ok(TlsPlan { config: Arc::new(config), name, roots: roots_named, verified })
    }

    /// Shakes hands on a connection whose server has agreed to TLS.
    pub(crate) async fn handshake(&self, stream: TcpStream) -> Result<Box<TlsStream<TcpStream>>, Error> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        match connector.connect(self.name.clone(), stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(cause) => Err(self.refusal(cause)),
        }
    }

    fn refusal(&self, cause: std::io::Error) -> Error {
        let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                let phrase = format!("the server's certificate is refused: {}", self.explain(reason));
                Error::because(ErrorKind::Tls, phrase, cause)
            }
            Some(_) => Error::because(ErrorKind::Tls, "the TLS handshake failed", cause),
            None => {
                Error::because(ErrorKind::Connect, "the connection failed during the TLS handshake", cause)
            }
        }
    }

    /// Says what rustls could not verify, in words that lead to the remedy.
    fn explain(&self, reason: &CertificateError) -> String {
        let host = self.name.to_str();
        match reason {
            CertificateError::UnknownIssuer => {
                format!("it was not issued by any of {}", self.roots)
            }
            CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                format!(
                    "it has no subjectAltName, so it names no host (common names do not count), not {host}"
                )
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<_> = presented.iter().map(|name| bare_name(name)).collect();
                format!("it is for {}, not for {host}", names.join(", "))
            }
            CertificateError::Other(other) => match other.to_string() {
                text if text.contains("CaUsedAsEndEntity") => format!(
                    "it is an authority's own certificate and not itself among {}; \
                     to trust it, put it into the root file",
                    self.roots
                ),
                text if text.contains("UnsupportedCertVersion") => {
                    "it is an X.509 version 1 certificate; version 3 is needed".to_owned()
                }
                text => text,
            },
            other => other.to_string(),
        }
    }
}

/// `DnsName("db.example")`, as rustls presents a name, without its wrapping.
fn bare_name(presented: &str) -> &str {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(presented).trim_matches('"')
}

fn client_config(
    settings: &TlsSettings,
    demand: Demand,
    roots: Vec<CertificateDer<'static>>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    // The system's store has hundreds of certificates, none of which is a server's own.
    let pinned = if settings.root_cert == RootCert::System { Vec::new() } else { roots };
    let verifier = ServerVerifier { demand, store, pinned, algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|cause| Error::because(ErrorKind::Tls, "TLS cannot be set up", cause))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((chain, key)) = &settings.client_cert else {
        return Ok(builder.with_no_client_auth());
    };
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|cause| {
        let phrase =
            format!("{} holds no private key that can be read (encrypted ones cannot)", key.display());
        Error::because(ErrorKind::Config, phrase, cause)
    })?;
    builder.with_client_auth_cert(certificates(chain)?, key_der).map_err(|cause| {
        let phrase = format!("{} and {} cannot be used together", chain.display(), key.display());
        Error::because(ErrorKind::Config, phrase, cause)
    })
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let phrase = "the system has no root certificates; name a root file";
        return Err(match found.errors.into_iter().next() {
            Some(cause) => Error::because(ErrorKind::Config, phrase, cause),
            None => Error::new(ErrorKind::Config, phrase),
        });
    }
    Ok(found.certs)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable =
        |cause| Error::because(ErrorKind::Config, format!("{} cannot be read as PEM", path.display()), cause);
    let found = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if found.is_empty() {
        return Err(Error::new(ErrorKind::Config, format!("{} holds no certificate", path.display())));
    }
    Ok(found)
}

#[derive(Debug)]
struct ServerVerifier {
    demand: Demand,
    store: RootCertStore,
    /// Certificates that are trusted as they are.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// A pinned certificate without any name belongs to whoever holds its key. One with names was made for them,
    /// and the root file may hold the certificates of several servers: then the name counts.
    fn verify_pinned(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        if self.demand == Demand::Chain {
            return Ok(());
        }
        match verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            })) if presented.is_empty() => Ok(()),
            other => other,
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.demand == Demand::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        if self.pinned.iter().any(|pinned| pinned == certificate) {
            self.verify_pinned(certificate, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.store,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        if self.demand == Demand::ChainAndName {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
