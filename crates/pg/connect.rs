//! From an address to a connection that is ready for a query: open, TLS, startup, login, parameters.
//!
//! Both kinds of connection come from here, so they cannot differ in whom they trust.

use std::collections::BTreeMap;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::auth::{self, Channel};
use crate::end_point::tls_server_end_point;
use crate::error::{Error, ErrorKind, ServerError};
use crate::settings::{ConnectSettings, Host, SslMode};
use crate::tls::TlsPlan;
use crate::transport::{Peer, Transport};
use crate::wire::Wire;

/// Before the login the other side may be anybody; no message of a login is near this long.
const LOGIN_FRAME_BYTES_MAX: u64 = 64 << 10;

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Replication,
    Sql,
    /// COPY of rows that must look as they do in the stream.
    Copy,
}

/// A connection that is ready for a query.
pub(crate) struct Established {
    pub(crate) wire: Wire,
    /// As reported by ParameterStatus.
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) backend: Backend,
}

/// Who serves the connection, and how to reach it from another one.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    pub(crate) secret_key: i32,
    pub(crate) peer: Peer,
}

/// Opens a connection within `connect_timeout`.
pub(crate) async fn establish(settings: &ConnectSettings, purpose: Purpose) -> Result<Established, Error> {
    let limit = settings.connect_timeout;
    match timeout(limit, first_or_plain(settings, purpose)).await {
        Ok(result) => result.map_err(|cause| {
            let phrase = format!("cannot connect to Postgres at {}", settings.host);
            Error::wrap(phrase, cause)
        }),
        Err(_) => {
            let phrase = format!("connecting to Postgres at {} took longer than {limit:?}", settings.host);
            Err(Error::new(ErrorKind::Timeout, phrase))
        }
    }
}

/// With `prefer`, a server that fails at TLS or admits the role only without it gets a second, plain attempt.
async fn first_or_plain(settings: &ConnectSettings, purpose: Purpose) -> Result<Established, Error> {
    let mode = match settings.host {
        Host::Unix { .. } => SslMode::Disable,
        Host::Tcp { .. } => settings.tls.mode,
    };
    match attempt(settings, purpose, mode).await {
        Err(error)
            if mode == SslMode::Prefer
                && (error.kind() == ErrorKind::Tls || error.sqlstate() == Some("28000")) =>
        {
            attempt(settings, purpose, SslMode::Disable).await
        }
        result => result,
    }
}

async fn attempt(settings: &ConnectSettings, purpose: Purpose, mode: SslMode) -> Result<Established, Error> {
    // Files that cannot be used are reported whether or not the server can be reached.
    let plan = match (mode, &settings.host) {
        (SslMode::Disable, _) | (_, Host::Unix { .. }) => None,
        (_, Host::Tcp { host, .. }) => Some(TlsPlan::new(&settings.tls, host)?),
    };
    let (transport, peer) = Transport::open(&settings.host).await?;
    let (transport, channel) = match (transport, plan) {
        (Transport::Tcp(stream), Some(plan)) => encrypt(stream, &plan, mode).await?,
        (transport, _) => (transport, Channel::default()),
    };
    let mut wire = Wire::new(transport, LOGIN_FRAME_BYTES_MAX);
    wire.send(|out| frontend::startup_message(startup_parameters(settings, purpose), out)).await?;
    auth::log_in(&mut wire, settings, &channel).await?;
    read_parameters(wire, peer).await
}

/// Asks for TLS (manual, "SSL Session Encryption").
async fn encrypt(
    mut stream: TcpStream,
    plan: &TlsPlan,
    mode: SslMode,
) -> Result<(Transport, Channel), Error> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(Error::io)?;
    // Exactly one byte is read here: what follows it on the socket belongs to TLS, so nobody can slip plain bytes
    // in front of the encrypted ones.
    match stream.read_u8().await.map_err(Error::io)? {
        b'S' => {
            let stream = plan.handshake(stream).await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let end_point = certificate.and_then(|certificate| tls_server_end_point(certificate));
            let channel = Channel { encrypted: true, verified: plan.verified, end_point };
            Ok((Transport::Tls(stream), channel))
        }
        b'N' if mode == SslMode::Prefer => Ok((Transport::Tcp(stream), Channel::default())),
        b'N' => Err(Error::new(ErrorKind::Tls, "the server does not offer TLS, and sslmode demands it")),
        other => Err(Error::protocol(format!("the server answered the TLS request with 0x{other:02x}"))),
    }
}

/// The settings that decide how values look as text are pinned: the same WAL must give the same bytes whatever the
/// role's, the database's or the server's own settings are. Sent with the startup they outrank all of those.
fn startup_parameters(settings: &ConnectSettings, purpose: Purpose) -> Vec<(&str, &str)> {
    let mut parameters = vec![
        ("user", settings.user.as_str()),
        ("database", settings.database.as_str()),
        ("application_name", settings.application_name.as_str()),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("bytea_output", "hex"),
        ("extra_float_digits", "3"),
        ("lc_monetary", "C"),
    ];
    if purpose != Purpose::Sql {
        // Values of regclass and its kin are written with a schema or without it depending on this.
        parameters.push(("search_path", "pg_catalog"));
        // And with quotes or without them depending on that.
        parameters.push(("quote_all_identifiers", "off"));
    }
    match purpose {
        Purpose::Replication => parameters.push(("replication", "database")),
        Purpose::Copy => parameters.extend(COPY_PARAMETERS),
        Purpose::Sql => {}
    }
    parameters
}

/// A copy takes as long as it takes, must not be thinned out in silence, and shall cost the server one process.
const COPY_PARAMETERS: [(&str, &str); 9] = [
    ("row_security", "off"),
    // Who waits for a lock makes those wait that come after.
    ("lock_timeout", "10s"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_deferrable", "off"),
    // A table is read from its first page on.
    ("synchronize_seqscans", "off"),
    // Cost estimates of a whole table call for both, and a scan that feeds one connection gains by neither.
    ("max_parallel_workers_per_gather", "0"),
    ("jit", "off"),
];

async fn read_parameters(mut wire: Wire, peer: Peer) -> Result<Established, Error> {
    let mut parameters = BTreeMap::new();
    let mut backend = Backend { pid: 0, secret_key: 0, peer };
    loop {
        match wire.read_message().await? {
            Message::ParameterStatus(body) => {
                let (Ok(name), Ok(value)) = (body.name(), body.value()) else {
                    return Err(Error::protocol("a parameter that the server reports is not UTF-8"));
                };
                parameters.insert(name.to_owned(), value.to_owned());
            }
            Message::BackendKeyData(body) => {
                backend.pid = body.process_id();
                backend.secret_key = body.secret_key();
            }
            Message::ReadyForQuery(_) => return Ok(Established { wire, parameters, backend }),
            Message::ErrorResponse(body) => {
                return Err(Error::from_server("the connection", ServerError::parse(&body)));
            }
            _ => return Err(Error::protocol("the server ended the login with something unexpected")),
        }
    }
}

/// `server_version` as `server_version_num` has it: "15.18 (Debian 15.18-1)" and "15.18" are 150018, "19beta1" is
/// 190000; 0 if there is no number.
pub(crate) fn version_number(text: &str) -> u32 {
    let number = |text: &str| {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..digits].parse::<u32>().unwrap_or(0)
    };
    let minor = text.split_once('.').map_or(0, |(_, rest)| number(rest));
    number(text).saturating_mul(10_000).saturating_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, number) in [
            ("15.18", 150_018),
            ("15.18 (Debian 15.18-1.pgdg120+1)", 150_018),
            ("19beta1", 190_000),
            ("18", 180_000),
            ("", 0),
            ("EnterpriseDB", 0),
            ("99999999999", 0),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
