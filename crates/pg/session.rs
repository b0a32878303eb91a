//! A walsender connection: identify the system, make and drop slots, start the stream.
//!
//! Commands: manual, "Streaming Replication Protocol". The server takes names in replication commands only as
//! quoted identifiers, never as parameters.

use std::collections::BTreeMap;

use headwater_pgoutput::Lsn;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::cancel::CancelOnDrop;
use crate::catalog::quote_identifier;
use crate::connect::{Backend, Established, Purpose, establish, version_number};
use crate::copy_out::text_row;
use crate::error::{Error, ErrorKind, ServerError};
use crate::replication::{DEFAULT_MAX_FRAME_BYTES, ReplicationStream};
use crate::settings::ConnectSettings;
use crate::wire::Wire;

/// CopyBothResponse; postgres-protocol does not know it.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// A connection in `replication=database` mode that is ready for a command.
///
/// A command whose future is dropped leaves the session in the middle of the answer: drop the session then.
pub struct Session {
    wire: Wire,
    parameters: BTreeMap<String, String>,
    backend: Backend,
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Made by initdb; the same on a clone and on a standby.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: u32,
    /// The end of flushed WAL.
    pub xlogpos: Lsn,
    /// The database of this connection.
    pub database: String,
}

/// A slot that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Changes committed after this position will be streamed.
    pub consistent_point: Lsn,
    /// The exported snapshot, if one was asked for.
    pub snapshot_name: Option<String>,
}

/// What START_REPLICATION asks of the output plugin. The protocol version is always 1: transactions come whole and
/// only when they are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgoutputOptions {
    /// Publications, by name, unquoted.
    pub publications: Vec<String>,
    /// Whether messages of `pg_logical_emit_message` are wanted.
    pub messages: bool,
}

impl Session {
    /// Opens a connection, within `connect_timeout`.
    pub async fn connect(settings: &ConnectSettings) -> Result<Session, Error> {
        let Established { mut wire, parameters, backend } = establish(settings, Purpose::Replication).await?;
        wire.frames.set_max_frame_bytes(DEFAULT_MAX_FRAME_BYTES);
        Ok(Session { wire, parameters, backend })
    }

    /// A setting that the server reported, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's version as `server_version_num` has it: 150018.
    pub fn server_version(&self) -> u32 {
        version_number(self.parameter("server_version").unwrap_or(""))
    }

    /// The process that serves this session.
    pub fn backend_pid(&self) -> i32 {
        self.backend.pid
    }

    /// Asks which system and timeline this is.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Error> {
        let rows = self.command("IDENTIFY_SYSTEM", "IDENTIFY_SYSTEM").await?;
        let identity = match rows.into_iter().next().as_deref() {
            Some([Some(identifier), Some(timeline), Some(position), Some(database)]) => (|| {
                Some(SystemIdentity {
                    system_identifier: identifier.parse().ok()?,
                    timeline: timeline.parse().ok()?,
                    xlogpos: position.parse().ok()?,
                    database: database.clone(),
                })
            })(),
            _ => None,
        };
        identity.ok_or_else(|| Error::protocol("the answer to IDENTIFY_SYSTEM cannot be read"))
    }

    /// Runs SQL and returns the rows of all its statements as text.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        self.command(sql, "a query").await
    }

    /// Makes a logical slot with the plugin `pgoutput`. With `export` the database as it is at the consistent point
    /// can be seen under `snapshot_name`, until this session is dropped or given its next command.
    ///
    /// The server first waits for every transaction that is open in any database, without limit, and does not notice
    /// when its client goes away: the slot would come to be after nobody waits for it any more. So dropping this
    /// future sends a cancel request (blocking, two seconds at most), and then there is no slot.
    pub async fn create_logical_slot(
        &mut self,
        slot: &str,
        temporary: bool,
        export: bool,
    ) -> Result<CreatedSlot, Error> {
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let snapshot = if export { "EXPORT_SNAPSHOT" } else { "NOEXPORT_SNAPSHOT" };
        let command = format!(
            "CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {snapshot}",
            quote_identifier(slot)
        );
        let cancel = CancelOnDrop::new(self.backend.clone());
        let rows = self.command(&command, "to create the slot").await;
        cancel.disarm();
        // slot_name, consistent_point, snapshot_name, output_plugin
        match rows?.into_iter().next().as_deref() {
            Some([_, Some(_), None, _]) if export => Err(Error::protocol("the server exported no snapshot")),
            Some([_, Some(point), snapshot, _]) => {
                let consistent_point = point.parse().map_err(|cause| {
                    Error::because(ErrorKind::Protocol, "the slot's start is not an LSN", cause)
                })?;
                Ok(CreatedSlot { consistent_point, snapshot_name: snapshot.clone() })
            }
            _ => Err(Error::protocol("the answer to CREATE_REPLICATION_SLOT cannot be read")),
        }
    }

    /// Drops a slot; one that is in use is an error (SQLSTATE 55006).
    pub async fn drop_slot(&mut self, slot: &str) -> Result<(), Error> {
        let command = format!("DROP_REPLICATION_SLOT {}", quote_identifier(slot));
        self.command(&command, "to drop the slot").await.map(drop)
    }

    /// Starts to stream a slot. A slot that is active elsewhere is an error with SQLSTATE 55006.
    ///
    /// The server never complains about `start`: what is before the slot's own position is moved forward silently,
    /// and one beyond the end of WAL yields nothing, for ever. Compare it with the slot first.
    pub async fn start_replication(
        mut self,
        slot: &str,
        start: Lsn,
        options: &PgoutputOptions,
    ) -> Result<ReplicationStream, Error> {
        let command = start_command(slot, start, options);
        self.wire.send(|out| frontend::query(&command, out)).await?;
        loop {
            let frame = self.wire.read_frame().await?;
            if frame.tag == COPY_BOTH_RESPONSE_TAG {
                return Ok(ReplicationStream::new(self.wire, start));
            }
            match frame.message()? {
                Message::ErrorResponse(body) => {
                    return Err(Error::from_server("to start the stream", ServerError::parse(&body)));
                }
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(Error::protocol("the server did not start the stream")),
            }
        }
    }

    /// Sends a simple query and reads its answer to the end, also after an error.
    async fn command(&mut self, text: &str, what: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        self.wire.send(|out| frontend::query(text, out)).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.wire.read_message().await? {
                Message::DataRow(body) => rows.push(text_row(&body)?),
                Message::ErrorResponse(body) => {
                    let error = Error::from_server(what, ServerError::parse(&body));
                    // After FATAL no ReadyForQuery comes.
                    if error.server().is_some_and(|server| server.severity != "ERROR") {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                Message::ParameterStatus(body) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                Message::ReadyForQuery(_) => return failure.map_or(Ok(rows), Err),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::NotificationResponse(_) => {}
                _ => return Err(Error::protocol("the server answered a query with something unexpected")),
            }
        }
    }
}

fn start_command(slot: &str, start: Lsn, options: &PgoutputOptions) -> String {
    let publications: Vec<_> = options.publications.iter().map(|name| quote_identifier(name)).collect();
    let messages = if options.messages { ", messages 'true'" } else { "" };
    format!(
        "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '1', publication_names {}{messages})",
        quote_identifier(slot),
        // The replication grammar knows '' and nothing else: no E'' and no backslash.
        format_args!("'{}'", publications.join(",").replace('\'', "''")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_the_replication_grammar() {
        let options =
            PgoutputOptions { publications: vec!["a".into(), "b\"c".into(), "d'e".into()], messages: true };
        assert_eq!(
            start_command("s\"", Lsn(0x16_B374_D848), &options),
            "START_REPLICATION SLOT \"s\"\"\" LOGICAL 16/B374D848 (proto_version '1', \
             publication_names '\"a\",\"b\"\"c\",\"d''e\"', messages 'true')"
        );
    }
}
