//! A connection for SQL.

use std::ops::Deref;

use crate::settings::ConnectSettings;
use crate::{Error, ErrorKind};

/// A SQL connection; everything that `tokio_postgres::Client` can do.
pub struct Client {
    inner: tokio_postgres::Client,
    server_version: u32,
}

impl Client {
    /// The server's version as `server_version_num` has it: 150018.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.inner
    }
}

/// Opens a SQL connection.
pub async fn connect(_settings: &ConnectSettings) -> Result<Client, Error> {
    Err(Error::new(ErrorKind::Protocol, "not furnished yet"))
}
