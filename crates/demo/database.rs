//! A service's connection to its own database, made again when it broke.
//!
//! One connection is enough for a service that is read to learn from; a busy one has a pool in the same place.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

/// How long a server may take to answer a connection, or be silent on one, before it counts as gone.
const LIMIT: Duration = Duration::from_secs(10);

/// The database of one service.
pub struct Database {
    config: Config,
    client: Mutex<Option<Client>>,
}

impl Database {
    /// Reads the URL, `postgres://user@host:port/database`; connects when it is first needed.
    pub fn new(url: &str) -> Result<Database> {
        let mut config: Config = url.parse().context("cannot read the database URL")?;
        // without these a server that vanished without a word is waited for, for ever
        config.connect_timeout(LIMIT).keepalives_idle(LIMIT).tcp_user_timeout(LIMIT);
        Ok(Database { config, client: Mutex::new(None) })
    }

    /// The connection, for this caller alone until the guard is dropped.
    pub async fn client(&self) -> Result<MappedMutexGuard<'_, Client>> {
        let mut guard = self.client.lock().await;
        if guard.as_ref().is_none_or(Client::is_closed) {
            *guard = Some(connect(&self.config).await?);
        }
        Ok(MutexGuard::map(guard, |client| client.as_mut().expect("connected above")))
    }

    /// One text of one row; NULL is an empty text.
    pub async fn text(&self, sql: &str) -> Result<String> {
        let row =
            self.client().await?.query_one(sql, &[]).await.with_context(|| format!("cannot run {sql}"))?;
        Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
    }

    /// One number of one row.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        let row =
            self.client().await?.query_one(sql, &[]).await.with_context(|| format!("cannot run {sql}"))?;
        Ok(row.get(0))
    }

    /// Statements without parameters.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.client().await?.batch_execute(sql).await.with_context(|| format!("cannot run {sql}"))
    }
}

/// Whether PostgreSQL refused what was to be written: a value that a column can't have (SQLSTATE class 22), a constraint
/// (class 23), a RAISE. The next try would end like this one. Any other error may pass: the database is away, a deadlock
/// was broken, a table is still to be made.
pub fn is_refusal(error: &anyhow::Error) -> bool {
    let Some(state) = of_database(error).and_then(tokio_postgres::Error::code) else { return false };
    ["22", "23", "P0001"].iter().any(|class| state.code().starts_with(class))
}

/// The error of the database that is behind `error`.
pub fn of_database(error: &anyhow::Error) -> Option<&tokio_postgres::Error> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// A connection whose driver task ends with it.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("cannot connect to PostgreSQL")?;
    tokio::spawn(async move {
        match connection.await {
            // the scenario drops its databases at its end
            Err(error) if error.code() == Some(&SqlState::ADMIN_SHUTDOWN) => {}
            Err(error) => tracing::warn!(%error, "the connection to PostgreSQL broke"),
            Ok(()) => {}
        }
    });
    Ok(client)
}
