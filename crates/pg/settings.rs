//! Where the server is and how to speak to it: one value, shared by the replication session and the SQL client.
//!
//! Nothing here is read from a file or the environment; that is the caller's part. A new connection reads the
//! certificate files again, so a rotated file is picked up by the next reconnect.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

/// Everything that is needed to open one connection.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// The server's address.
    pub host: Host,
    /// The role to log in as.
    pub user: String,
    /// The role's password, if the server asks for one.
    pub password: Option<Secret>,
    /// The database; a logical slot belongs to exactly one.
    pub database: String,
    /// Encryption and whom to trust.
    pub tls: TlsSettings,
    /// Whether SCRAM must be bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// Answer a server that asks for an MD5 password hash.
    pub allow_md5: bool,
    /// Shown in `pg_stat_activity` and in the server's log.
    pub application_name: String,
    /// For everything from the name look-up to the first ReadyForQuery.
    pub connect_timeout: Duration,
}

/// The server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A host name or an IP address.
    Tcp {
        /// A name, resolved anew at each connect, or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The socket file `.s.PGSQL.<port>` in a directory.
    Unix {
        /// The directory named by the server's `unix_socket_directories`.
        directory: PathBuf,
        /// The port in the socket's file name.
        port: u16,
    },
}

impl Host {
    /// Whether the traffic cannot leave this machine: a unix socket or a loopback address.
    pub fn is_local(&self) -> bool {
        match self {
            Host::Unix { .. } => true,
            Host::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Host::Tcp { host, port } => write!(f, "{host}:{port}"),
            Host::Unix { directory, port } => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

/// How much of TLS is demanded; the words and their meaning are libpq's `sslmode`. Unix sockets never use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server offers it, unverified; otherwise plain.
    Prefer,
    /// TLS, but any certificate will do. With a root file it is `VerifyCa`, as in libpq.
    Require,
    /// TLS, and the certificate's chain must end in a root.
    VerifyCa,
    /// As `VerifyCa`, and the certificate must name the host.
    VerifyFull,
}

/// Encryption and whom to trust.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// How much is demanded.
    pub mode: SslMode,
    /// Which certificates are trusted.
    pub root_cert: RootCert,
    /// Certificate chain and private key, both PEM, to show to the server.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// Which certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCert {
    /// The operating system's.
    System,
    /// The certificates of one PEM file, and no others. A server certificate that is in the file is itself trusted.
    File(PathBuf),
}

/// Whether SCRAM must be bound to the TLS channel; libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// When the connection uses TLS and the server offers it.
    Prefer,
    /// Otherwise refuse to log in.
    Require,
}

/// A text that cannot be printed; its memory is zeroed when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The text itself. The name is long so that a reader stops at every use.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn local_hosts() {
        let tcp = |host: &str| Host::Tcp { host: host.to_owned(), port: 5432 };
        for (host, local) in [
            (tcp("localhost"), true),
            (tcp("127.0.0.1"), true),
            (tcp("127.9.9.9"), true),
            (tcp("::1"), true),
            (tcp("10.0.0.1"), false),
            (tcp("localhost.example.com"), false),
            (Host::Unix { directory: "/run/postgresql".into(), port: 5432 }, true),
        ] {
            assert_eq!(host.is_local(), local, "{host}");
        }
    }
}
