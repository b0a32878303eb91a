//! `[postgres]`: from a URL, its parameters and the keys beside it to a connection, its TLS and its password.

use std::path::PathBuf;
use std::time::Duration;

use headwater_pg::{ChannelBinding, ConnectSettings, Host, RootCert, Secret, SslMode, TlsSettings};

use super::ConfigError;
use super::as_written::{self, Field};
use super::layers::Node;
use super::password::{self, Found};
use super::problem::{Origin, Problems};
use super::settings::{Findings, make_pair, take_secret};
use super::url::{self, PostgresUrl};
use super::value::{self, Names, Value};

/// The section [postgres], validated.
pub struct PostgresPart {
    /// How to connect.
    pub connect: ConnectSettings,
    /// What to follow.
    pub publications: Vec<String>,
    /// The slot.
    pub slot: String,
    /// How long its creation may take.
    pub slot_create_timeout: Duration,
}

/// How to connect, as a section has it. `[postgres]` and `[target]` do.
pub struct Connection {
    /// The section's name, for messages.
    pub section: &'static str,
    pub url: Field<String>,
    pub password: Field<Secret>,
    pub password_file: Field<PathBuf>,
    pub sslmode: Field<value::SslMode>,
    pub sslrootcert: Field<PathBuf>,
    pub sslcert: Field<PathBuf>,
    pub sslkey: Field<PathBuf>,
    pub channel_binding: Field<value::ChannelBinding>,
    pub allow_md5: Field<bool>,
    pub connect_timeout: Field<Duration>,
}

impl Connection {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.section)
    }
}

/// Takes the section apart.
pub fn make(written: as_written::Postgres, findings: &mut Findings) -> Option<PostgresPart> {
    let as_written::Postgres {
        url,
        password,
        password_file,
        publication,
        slot,
        slot_create_timeout,
        sslmode,
        sslrootcert,
        sslcert,
        sslkey,
        channel_binding,
        allow_md5,
        connect_timeout,
    } = written;
    let publications = findings.require(publication, "postgres.publication", "publication = \"shop\"");
    let slot = findings.require(slot, "postgres.slot", "slot = \"headwater\"");
    let connection = Connection {
        section: "postgres",
        url,
        password,
        password_file,
        sslmode,
        sslrootcert,
        sslcert,
        sslkey,
        channel_binding,
        allow_md5,
        connect_timeout,
    };
    Some(PostgresPart {
        connect: make_connect(connection, findings)?,
        publications: publications?.0,
        slot: slot?,
        slot_create_timeout: slot_create_timeout.value()?,
    })
}

/// Takes a connection and its URL apart; what the URL's parameters say counts as written in the section.
pub fn make_connect(mut written: Connection, findings: &mut Findings) -> Option<ConnectSettings> {
    let url_key = written.key("url");
    let url = std::mem::take(&mut written.url);
    let url_origin = url.located().map_or(Origin::Default, |(_, origin)| origin.clone());
    let url = findings.require(url, &url_key, "url = \"postgres://user@host:5432/database\"")?;
    let mut parts = match url::parse(&url) {
        Ok(parts) => parts,
        Err(message) => return findings.wrong(&url_origin, &url_key, message),
    };
    let section = written.section;
    let Connection { sslmode, sslrootcert, sslcert, sslkey, channel_binding, connect_timeout, .. } =
        &mut written;
    let mut application_name = "headwater".to_owned();
    for (name, text) in std::mem::take(&mut parts.parameters) {
        let origin = &url_origin;
        match name.as_str() {
            "sslmode" => from_url(sslmode, (section, &name), text, origin, findings),
            "sslrootcert" => from_url(sslrootcert, (section, &name), text, origin, findings),
            "sslcert" => from_url(sslcert, (section, &name), text, origin, findings),
            "sslkey" => from_url(sslkey, (section, &name), text, origin, findings),
            "channel_binding" => from_url(channel_binding, (section, &name), text, origin, findings),
            // libpq's is a bare number of seconds.
            "connect_timeout" => from_url(connect_timeout, (section, &name), seconds(text), origin, findings),
            _ => application_name = text,
        }
    }
    let Connection { password, password_file, sslmode, sslrootcert, sslcert, sslkey, .. } = written;
    let tls = make_tls(section, &parts.host, sslmode, (sslrootcert, sslcert, sslkey), findings);
    let password = find_password(section, password, password_file, &mut parts, &url_origin, findings);
    Some(ConnectSettings {
        host: parts.host,
        user: parts.user,
        password,
        database: parts.database,
        tls: tls?,
        channel_binding: match written.channel_binding {
            Field::Missing => ChannelBinding::Prefer,
            written => match written.value()? {
                value::ChannelBinding::Disable => ChannelBinding::Disable,
                value::ChannelBinding::Prefer => ChannelBinding::Prefer,
                value::ChannelBinding::Require => ChannelBinding::Require,
            },
        },
        allow_md5: written.allow_md5.value()?,
        application_name,
        connect_timeout: written.connect_timeout.value()?,
    })
}

/// A connection from a URL alone, as a flag gives it; the password may be in it or in `~/.pgpass`.
pub fn from_flag(flag: &str, url: &str) -> Result<ConnectSettings, ConfigError> {
    let origin = Origin::File(flag.into(), 0);
    let set = |text: &str| Field::Set(text.to_owned(), origin.clone());
    let written = as_written::Postgres {
        url: set(url),
        publication: Field::Set(Names(Vec::new()), Origin::Default),
        slot: Field::Set(String::new(), Origin::Default),
        slot_create_timeout: Field::Set(Duration::ZERO, Origin::Default),
        allow_md5: Field::Set(false, Origin::Default),
        connect_timeout: Field::Set(Duration::from_secs(10), Origin::Default),
        ..as_written::Postgres::default()
    };
    let mut findings = Findings { file: origin, problems: Problems::default(), warnings: Vec::new() };
    let made = make(written, &mut findings);
    match made {
        Some(part) if findings.problems.is_empty() => Ok(part.connect),
        _ => Err(ConfigError { problems: findings.problems.into_sorted(), warnings: findings.warnings }),
    }
}

fn seconds(text: String) -> String {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text }
}

/// Takes a setting from the URL's parameters; written as a key as well, it must not be.
fn from_url<T: Value>(
    field: &mut Field<T>,
    (section, name): (&str, &str),
    text: String,
    origin: &Origin,
    findings: &mut Findings,
) {
    if field.is_written() {
        let message = format!("is written here and as parameter {name} of {section}.url; keep one of them");
        let place = field.located().map_or(origin, |(_, place)| place).clone();
        return findings.problems.add(&place, &format!("{section}.{name}"), message);
    }
    *field = match T::read(Node::Typed(text)) {
        Ok(value) => Field::Set(value, origin.clone()),
        Err(message) => {
            findings.problems.add(origin, &format!("{section}.url"), format!("parameter {name}: {message}"));
            Field::Bad
        }
    };
}

fn make_tls(
    section: &str,
    host: &Host,
    sslmode: Field<value::SslMode>,
    (sslrootcert, sslcert, sslkey): (Field<PathBuf>, Field<PathBuf>, Field<PathBuf>),
    findings: &mut Findings,
) -> Option<TlsSettings> {
    let mode = match sslmode {
        Field::Missing if host.is_local() => SslMode::Prefer,
        Field::Missing => SslMode::VerifyFull,
        written => match written.value()? {
            value::SslMode::Disable => SslMode::Disable,
            value::SslMode::Prefer => SslMode::Prefer,
            value::SslMode::Require => SslMode::Require,
            value::SslMode::VerifyCa => SslMode::VerifyCa,
            value::SslMode::VerifyFull => SslMode::VerifyFull,
        },
    };
    if !host.is_local() && mode != SslMode::VerifyFull {
        let risk = match mode {
            SslMode::Disable => "nothing on the way to the server is encrypted",
            SslMode::Prefer => "whoever sits on the way to the server can turn encryption off",
            _ => "whoever sits on the way to the server can pass for it",
        };
        findings.warnings.push(format!("{section}.sslmode is weaker than verify-full: {risk}"));
    }
    let root_cert = match sslrootcert.value() {
        Some(path) if path.as_os_str() != "system" => RootCert::File(path),
        _ => RootCert::System,
    };
    let (cert_key, key_key) = (format!("{section}.sslcert"), format!("{section}.sslkey"));
    let client_cert = make_pair(sslcert, &cert_key, sslkey, &key_key, findings)?;
    Some(TlsSettings { mode, root_cert, client_cert })
}

fn find_password(
    section: &str,
    password: Field<Secret>,
    password_file: Field<PathBuf>,
    url: &mut PostgresUrl,
    url_origin: &Origin,
    findings: &mut Findings,
) -> Option<Secret> {
    if url.password.is_some() && matches!(url_origin, Origin::File(..)) {
        let message = "holds a password; keep it in the environment or in a file of its own instead";
        findings.warnings.push(format!("{url_origin}: {section}.url {message}"));
    }
    let (own_key, file_key) = (format!("{section}.password"), format!("{section}.password_file"));
    if let Some(secret) = take_secret(password, &own_key, password_file, &file_key, findings) {
        return Some(secret);
    }
    if let Some(secret) = url.password.take() {
        return Some(secret);
    }
    let path = password::password_file_path()?;
    match password::search_password_file(&path, &url.host, &url.database, &url.user) {
        Found::Password(secret) => Some(secret),
        Found::Nothing => None,
        Found::Ignored(why) => {
            findings.warnings.push(why);
            None
        }
    }
}
