//! A walsender connection: identify the system, make and drop slots, start the stream.

use headwater_pgoutput::Lsn;

use crate::replication::ReplicationStream;
use crate::settings::ConnectSettings;
use crate::{Error, ErrorKind};

/// A connection in `replication=database` mode that is ready for a command.
pub struct Session;

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

/// What START_REPLICATION asks of the output plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgoutputOptions {
    /// Publications, by name, unquoted.
    pub publications: Vec<String>,
    /// Whether messages of `pg_logical_emit_message` are wanted.
    pub messages: bool,
}

fn unfurnished<T>() -> Result<T, Error> {
    Err(Error::new(ErrorKind::Protocol, "not furnished yet"))
}

impl Session {
    /// Opens a connection.
    pub async fn connect(_settings: &ConnectSettings) -> Result<Session, Error> {
        unfurnished()
    }

    /// A setting that the server reported, such as `server_version`.
    pub fn parameter(&self, _name: &str) -> Option<&str> {
        None
    }

    /// The server's version as `server_version_num` has it: 150018.
    pub fn server_version(&self) -> u32 {
        0
    }

    /// The process that serves this session.
    pub fn backend_pid(&self) -> i32 {
        0
    }

    /// IDENTIFY_SYSTEM.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Error> {
        unfurnished()
    }

    /// Runs SQL and returns the rows of all its statements as text.
    pub async fn simple_query(&mut self, _sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        unfurnished()
    }

    /// Makes a logical slot with the plugin `pgoutput`.
    pub async fn create_logical_slot(&mut self, _slot: &str, _temporary: bool) -> Result<CreatedSlot, Error> {
        unfurnished()
    }

    /// Drops a slot that is not in use.
    pub async fn drop_slot(&mut self, _slot: &str) -> Result<(), Error> {
        unfurnished()
    }

    /// Starts to stream a slot.
    pub async fn start_replication(
        self,
        _slot: &str,
        _start: Lsn,
        _options: &PgoutputOptions,
    ) -> Result<ReplicationStream, Error> {
        unfurnished()
    }
}
