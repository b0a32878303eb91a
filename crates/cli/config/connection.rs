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

/// Takes the section and its URL apart; what the URL's parameters say counts as written in the section.
pub fn make(written: as_written::Postgres, findings: &mut Findings) -> Option<PostgresPart> {
    let as_written::Postgres {
        url,
        password,
        password_file,
        publication,
        slot,
        slot_create_timeout,
        mut sslmode,
        mut sslrootcert,
        mut sslcert,
        mut sslkey,
        mut channel_binding,
        allow_md5,
        mut connect_timeout,
    } = written;
    let publications = findings.require(publication, "postgres.publication", "publication = \"shop\"");
    let slot = findings.require(slot, "postgres.slot", "slot = \"headwater\"");
    let url_origin = url.located().map_or(Origin::Default, |(_, origin)| origin.clone());
    let url = findings.require(url, "postgres.url", "url = \"postgres://user@host:5432/database\"")?;
    let mut parts = match url::parse(&url) {
        Ok(parts) => parts,
        Err(message) => return findings.wrong(&url_origin, "postgres.url", message),
    };
    let mut application_name = "headwater".to_owned();
    for (name, text) in std::mem::take(&mut parts.parameters) {
        let origin = &url_origin;
        match name.as_str() {
            "sslmode" => from_url(&mut sslmode, &name, text, origin, findings),
            "sslrootcert" => from_url(&mut sslrootcert, &name, text, origin, findings),
            "sslcert" => from_url(&mut sslcert, &name, text, origin, findings),
            "sslkey" => from_url(&mut sslkey, &name, text, origin, findings),
            "channel_binding" => from_url(&mut channel_binding, &name, text, origin, findings),
            // libpq's is a bare number of seconds.
            "connect_timeout" => from_url(&mut connect_timeout, &name, seconds(text), origin, findings),
            _ => application_name = text,
        }
    }
    let tls = make_tls(&parts.host, sslmode, sslrootcert, sslcert, sslkey, findings);
    let password = find_password(password, password_file, &mut parts, &url_origin, findings);
    Some(PostgresPart {
        connect: ConnectSettings {
            host: parts.host,
            user: parts.user,
            password,
            database: parts.database,
            tls: tls?,
            channel_binding: match channel_binding {
                Field::Missing => ChannelBinding::Prefer,
                written => match written.value()? {
                    value::ChannelBinding::Disable => ChannelBinding::Disable,
                    value::ChannelBinding::Prefer => ChannelBinding::Prefer,
                    value::ChannelBinding::Require => ChannelBinding::Require,
                },
            },
            allow_md5: allow_md5.value()?,
            application_name,
            connect_timeout: connect_timeout.value()?,
        },
        publications: publications?.0,
        slot: slot?,
        slot_create_timeout: slot_create_timeout.value()?,
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
    name: &str,
    text: String,
    origin: &Origin,
    findings: &mut Findings,
) {
    if field.is_written() {
        let message = format!("is written here and as parameter {name} of postgres.url; keep one of them");
        let place = field.located().map_or(origin, |(_, place)| place).clone();
        return findings.problems.add(&place, &format!("postgres.{name}"), message);
    }
    *field = match T::read(Node::Typed(text)) {
        Ok(value) => Field::Set(value, origin.clone()),
        Err(message) => {
            findings.problems.add(origin, "postgres.url", format!("parameter {name}: {message}"));
            Field::Bad
        }
    };
}

fn make_tls(
    host: &Host,
    sslmode: Field<value::SslMode>,
    sslrootcert: Field<PathBuf>,
    sslcert: Field<PathBuf>,
    sslkey: Field<PathBuf>,
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
        findings.warnings.push(format!("postgres.sslmode is weaker than verify-full: {risk}"));
    }
    let root_cert = match sslrootcert.value() {
        Some(path) if path.as_os_str() != "system" => RootCert::File(path),
        _ => RootCert::System,
    };
    let client_cert = make_pair(sslcert, "postgres.sslcert", sslkey, "postgres.sslkey", findings)?;
    Some(TlsSettings { mode, root_cert, client_cert })
}

fn find_password(
    password: Field<Secret>,
    password_file: Field<PathBuf>,
    url: &mut PostgresUrl,
    url_origin: &Origin,
    findings: &mut Findings,
) -> Option<Secret> {
    if url.password.is_some() && matches!(url_origin, Origin::File(..)) {
        let message = "holds a password; keep it in the environment or in a file of its own instead";
        findings.warnings.push(format!("{url_origin}: postgres.url {message}"));
    }
    if let Some(secret) =
        take_secret(password, "postgres.password", password_file, "postgres.password_file", findings)
    {
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
