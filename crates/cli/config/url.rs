//! `postgres.url`, as libpq's connection URIs are written (manual, "Connection URIs").
//!
//! In: the text. Out: its parts, percent-decoded. A message never quotes the user part, which may hold a password.

use std::path::PathBuf;

use headwater_pg::{Host, Secret};

/// The parts of a connection URL.
#[derive(Debug)]
pub struct PostgresUrl {
    /// Where the server listens.
    pub host: Host,
    /// The role; libpq's default, the name of the system's user, is not guessed.
    pub user: String,
    /// A password, if someone wrote one into the URL.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// What stood behind the `?` and is not part of the above, in order.
    pub parameters: Vec<(String, String)>,
}

/// The parameters that have a meaning here, besides `host`, `port`, `user`, `password` and `dbname`.
pub const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "application_name",
    "connect_timeout",
];

const EXAMPLE: &str = "postgres://user@host:5432/database";
const PORT_DEFAULT: u16 = 5432;

/// Takes a URL apart.
pub fn parse(url: &str) -> Result<PostgresUrl, String> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or_else(|| format!("does not start with postgres://; write for example {EXAMPLE}"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_part, host_part) = match authority.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", authority),
    };
    let (user, password) = match user_part.split_once(':') {
        Some((user, password)) => (decode(user)?, Some(decode(password)?)),
        None => (decode(user_part)?, None),
    };
    let mut parts = Parts { user, password, database: decode(path)?, ..Parts::default() };
    parts.take_authority(host_part)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("parameter {pair} has no value"))?;
        parts.take_parameter(&decode(name)?, decode(value)?)?;
    }
    parts.finish()
}

#[derive(Default)]
struct Parts {
    user: String,
    password: Option<String>,
    database: String,
    host: String,
    port: String,
    parameters: Vec<(String, String)>,
}

impl Parts {
    /// `host`, `host:port`, `[::1]:port`, or a percent-encoded socket directory.
    fn take_authority(&mut self, authority: &str) -> Result<(), String> {
        if authority.contains(',') {
            return Err("names several hosts; write one, a replication slot lives on one server".to_owned());
        }
        if let Some(rest) = authority.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or("has a [ without a ] in its host")?;
            self.host = address.to_owned();
            self.port = port.strip_prefix(':').unwrap_or(port).to_owned();
            return Ok(());
        }
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        self.host = decode(host)?;
        self.port = port.to_owned();
        Ok(())
    }

    fn take_parameter(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "host" => self.host = value,
            "port" => self.port = value,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            known if PARAMETERS.contains(&known) => self.parameters.push((known.to_owned(), value)),
            unknown => {
                let names = PARAMETERS.iter().copied().chain(["host", "port", "user", "dbname"]);
                let advice = match super::problem::did_you_mean(unknown, names) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("there are host, port, user, dbname, {}", PARAMETERS.join(", ")),
                };
                return Err(format!("unknown parameter {unknown}; {advice}"));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<PostgresUrl, String> {
        let Parts { user, password, database, host, port, parameters } = self;
        let port = match port.as_str() {
            "" => PORT_DEFAULT,
            text => text
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| "has a port that is no number between 1 and 65535".to_owned())?,
        };
        if user.is_empty() {
            return Err(format!("names no user; write for example {EXAMPLE}"));
        }
        if database.is_empty() {
            return Err(format!("names no database; write for example {EXAMPLE}"));
        }
        let host = match host {
            path if path.starts_with('/') => Host::Unix { directory: PathBuf::from(path), port },
            empty if empty.is_empty() => {
                return Err(format!(
                    "names no host; write for example {EXAMPLE}, or ?host=/var/run/postgresql"
                ));
            }
            host => Host::Tcp { host, port },
        };
        Ok(PostgresUrl { host, user, password: password.map(Secret::new), database, parameters })
    }
}

/// Percent-decoding, strict.
fn decode(text: &str) -> Result<String, String> {
    let wrong = || "has a % that is not followed by two hexadecimal digits".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(wrong()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 after percent-decoding".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> String {
        let PostgresUrl { host, user, password, database, parameters } = match parse(url) {
            Ok(parts) => parts,
            Err(message) => return message,
        };
        let host = match host {
            Host::Tcp { host, port } => format!("{host} {port}"),
            Host::Unix { directory, port } => format!("{} {port}", directory.display()),
        };
        let password = password.map_or("-".to_owned(), |secret| secret.expose().to_owned());
        format!("{user} {password} {host} {database} {parameters:?}")
    }

    #[test]
    fn urls() {
        for (url, parts) in [
            ("postgres://hw@db.internal:5433/shop", "hw - db.internal 5433 shop []"),
            ("postgresql://hw@db/shop", "hw - db 5432 shop []"),
            ("postgres://hw:p%40ss@db/shop", "hw p@ss db 5432 shop []"),
            ("postgres://hw:a@b@db/shop", "hw a@b db 5432 shop []"),
            ("postgres://hw@[::1]:5433/shop", "hw - ::1 5433 shop []"),
            ("postgres://hw@/shop?host=/run/pg&port=6000", "hw - /run/pg 6000 shop []"),
            ("postgres://hw@%2Frun%2Fpg/shop", "hw - /run/pg 5432 shop []"),
            (
                "postgres://hw@db/shop?sslmode=require&application_name=x",
                "hw - db 5432 shop [(\"sslmode\", \"require\"), (\"application_name\", \"x\")]",
            ),
            (
                "mysql://x",
                "does not start with postgres://; write for example postgres://user@host:5432/database",
            ),
            ("postgres://db/shop", "names no user; write for example postgres://user@host:5432/database"),
            ("postgres://hw@db", "names no database; write for example postgres://user@host:5432/database"),
            ("postgres://hw@db:x/shop", "has a port that is no number between 1 and 65535"),
            (
                "postgres://hw@a,b/shop",
                "names several hosts; write one, a replication slot lives on one server",
            ),
            ("postgres://hw@db/shop?sslmod=x", "unknown parameter sslmod; did you mean sslmode?"),
            ("postgres://hw:%zz@db/shop", "has a % that is not followed by two hexadecimal digits"),
        ] {
            assert_eq!(place(url), parts, "{url}");
        }
    }
}
