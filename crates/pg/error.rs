//! What can go wrong between here and Postgres: a kind to decide by, a phrase to read, the cause underneath.
//!
//! `Display` is the phrase alone; causes are reached through `source()`. A server's message is kept as it came.
//! Whether trying again can help is decided here and nowhere else: [`Error::is_transient`].

use std::error::Error as StdError;
use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use headwater_pgoutput::{Lsn, RelationId};
use postgres_protocol::message::backend::{ErrorFields, ErrorResponseBody, NoticeResponseBody};

type Cause = Box<dyn StdError + Send + Sync>;

/// An error of this crate.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    phrase: String,
    cause: Option<Cause>,
}

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection could be made: the name does not resolve, nobody listens, the network fails.
    Connect,
    /// TLS is refused, or the server's certificate is.
    Tls,
    /// The server refuses the role or its password, or asks for a method that is not allowed.
    Authentication,
    /// The server answered with an error; see [`Error::server`].
    Server,
    /// The server sent something that the protocol does not allow here, or the caller asked for it.
    Protocol,
    /// The connection ended.
    Closed,
    /// One frame of the stream is longer than the limit.
    FrameTooLarge {
        /// The whole frame's length.
        bytes: u64,
        /// The WAL position of the change in it.
        wal_start: Lsn,
        /// The table, if the change names one.
        relation: Option<RelationId>,
    },
    /// Something took longer than its limit.
    Timeout,
    /// The settings cannot be used: a file that cannot be read, a name with a NUL byte.
    Config,
}

/// An ErrorResponse, as the server sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL or PANIC, not localised.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// Detail, if any.
    pub detail: Option<String>,
    /// Hint, if any.
    pub hint: Option<String>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, phrase: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, phrase: phrase.into(), cause: None }))
    }

    pub(crate) fn because(kind: ErrorKind, phrase: impl Into<String>, cause: impl Into<Cause>) -> Error {
        Error(Box::new(Inner { kind, phrase: phrase.into(), cause: Some(cause.into()) }))
    }

    /// Puts a phrase in front of an error whose kind and server message stay what they are.
    pub(crate) fn wrap(phrase: impl Into<String>, cause: Error) -> Error {
        Error::because(cause.kind(), phrase, cause)
    }

    /// The server said something that can't be understood.
    pub fn protocol(phrase: impl Into<String>) -> Error {
        Error::new(ErrorKind::Protocol, phrase)
    }

    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the server closed the connection")
    }

    /// An error of reading or writing an open connection.
    pub(crate) fn io(cause: io::Error) -> Error {
        let kind = match cause.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => ErrorKind::Protocol,
            io::ErrorKind::TimedOut => ErrorKind::Timeout,
            _ => ErrorKind::Closed,
        };
        Error::because(kind, "the connection to Postgres failed", cause)
    }

    /// An error that the server reported while it did `what`.
    pub(crate) fn from_server(what: &str, server: ServerError) -> Error {
        // Class 28 is invalid authorization: no pg_hba.conf line, wrong password, unknown role.
        let kind = if server.code.starts_with("28") { ErrorKind::Authentication } else { ErrorKind::Server };
        Error::because(kind, format!("Postgres refused {what}"), server)
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The SQLSTATE, if the server reported the error.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|server| server.code.as_str())
    }

    /// The server's own words, if it reported the error.
    pub fn server(&self) -> Option<&ServerError> {
        let cause = self.0.cause.as_deref()?;
        match cause.downcast_ref::<Error>() {
            Some(inner) => inner.server(),
            None => cause.downcast_ref::<ServerError>(),
        }
    }

    /// Whether the same thing may succeed later without anybody changing anything.
    ///
    /// Codes: Postgres manual, appendix A.
    pub fn is_transient(&self) -> bool {
        match self.0.kind {
            ErrorKind::Connect | ErrorKind::Closed | ErrorKind::Timeout => true,
            ErrorKind::Server => self.sqlstate().is_some_and(sqlstate_is_transient),
            ErrorKind::Tls
            | ErrorKind::Authentication
            | ErrorKind::Protocol
            | ErrorKind::FrameTooLarge { .. }
            | ErrorKind::Config => false,
        }
    }
}

fn sqlstate_is_transient(code: &str) -> bool {
    match code {
        // all replication slots in use: somebody must drop one or raise the limit
        "53400" => false,
        // the slot is active for another process, which may end
        "55006" => true,
        // canceled: a statement timeout, an administrator, a conflict with recovery
        "57014" => true,
        // the database was dropped
        "57P04" => false,
        // could not obtain a lock within lock_timeout
        "55P03" => true,
        _ => {
            // connection exceptions; transaction rollbacks (deadlock, serialisation); out of memory, disk or
            // connections; the server stops, crashed or starts
            ["08", "40", "53", "57P"].iter().any(|class| code.starts_with(class))
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.phrase)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("phrase", &self.0.phrase)
            .field("cause", &self.0.cause)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(cause: tokio_postgres::Error) -> Error {
        if let Some(db) = cause.as_db_error() {
            let server = ServerError {
                severity: db.severity().to_owned(),
                code: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
            };
            return Error::from_server("a query", server);
        }
        let io_kind =
            cause.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
        let closed = cause.is_closed() || io_kind.is_some_and(|kind| kind != io::ErrorKind::InvalidInput);
        let kind = if closed { ErrorKind::Closed } else { ErrorKind::Protocol };
        Error::because(kind, "a query on Postgres failed", cause)
    }
}

impl ServerError {
    pub(crate) fn parse(body: &ErrorResponseBody) -> ServerError {
        ServerError::from_fields(body.fields())
    }

    pub(crate) fn parse_notice(body: &NoticeResponseBody) -> ServerError {
        ServerError::from_fields(body.fields())
    }

    /// Reads the fields of an ErrorResponse or a NoticeResponse (manual, "Error and Notice Message Fields"). Bytes
    /// that are no UTF-8, as before the encoding is agreed on, are replaced.
    fn from_fields(mut fields: ErrorFields<'_>) -> ServerError {
        let mut server = ServerError {
            severity: String::new(),
            code: String::new(),
            message: String::new(),
            detail: None,
            hint: None,
        };
        // A field list that ends early still leaves what was read before.
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => server.severity = text,
                b'S' if server.severity.is_empty() => server.severity = text,
                b'C' => server.code = text,
                b'M' => server.message = text,
                b'D' => server.detail = Some(text),
                b'H' => server.hint = Some(text),
                _ => {}
            }
        }
        server
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_error(code: &str) -> Error {
        let server = ServerError {
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            message: "m".to_owned(),
            detail: None,
            hint: Some("h".to_owned()),
        };
        Error::from_server("a test", server)
    }

    #[test]
    fn the_phrase_is_short_and_the_cause_has_the_servers_words() {
        let error = server_error("42704");
        assert_eq!(error.to_string(), "Postgres refused a test");
        assert_eq!(error.source().expect("a cause").to_string(), "ERROR 42704: m; hint: h");
        assert_eq!(error.sqlstate(), Some("42704"));
    }

    #[test]
    fn transient_or_not() {
        for (code, transient) in [
            ("57P01", true),
            ("57P02", true),
            ("57P03", true),
            ("57P04", false),
            ("53300", true),
            ("53400", false),
            ("55006", true),
            ("55000", false),
            ("42704", false),
            ("58P01", false),
            ("XX000", false),
            ("28P01", false),
            ("08006", true),
        ] {
            assert_eq!(server_error(code).is_transient(), transient, "{code}");
        }
        assert_eq!(server_error("28000").kind(), ErrorKind::Authentication);
        assert!(Error::closed().is_transient());
        assert!(!Error::protocol("x").is_transient());
    }
}
