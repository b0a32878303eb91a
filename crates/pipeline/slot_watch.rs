//! Looks at the slot from the server's side every few seconds: the WAL it holds, what is left, how far we lag.
//! Also emits the heartbeat, if one is asked for. It tells; it decides nothing.

use std::sync::Arc;
use std::time::Duration;

use headwater_pg::{Client, ConnectSettings, slot};
use headwater_pgoutput::Lsn;

use crate::error::chain;
use crate::metrics::Metrics;
use crate::status::Status;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// The prefix of our heartbeats; the outbox router takes messages of other prefixes only.
const HEARTBEAT: &str = "SELECT pg_logical_emit_message(false, 'headwater.heartbeat', '')";

/// See the module's documentation.
pub(crate) struct SlotWatch {
    pub(crate) postgres: ConnectSettings,
    pub(crate) slot: String,
    pub(crate) heartbeat_interval: Option<Duration>,
    pub(crate) heartbeat_sql: Option<String>,
    pub(crate) status: Arc<Status>,
    pub(crate) metrics: Arc<Metrics>,
}

impl SlotWatch {
    /// Runs until it is dropped. A look that fails is a line at debug level: the stream has its own connection, and
    /// says itself when the server is gone.
    pub(crate) async fn run(self) {
        loop {
            if let Err(error) = self.watch().await {
                tracing::debug!(error = chain(&error), "looking at the slot");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn watch(&self) -> Result<(), headwater_pg::Error> {
        let client = headwater_pg::connect(&self.postgres).await?;
        let mut looks = tokio::time::interval(INTERVAL);
        let mut heartbeats =
            tokio::time::interval(self.heartbeat_interval.unwrap_or(Duration::from_secs(3600)));
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(&client).await?,
                _ = heartbeats.tick(), if self.heartbeat_interval.is_some() => {
                    self.beat(&client).await?;
                }
            }
        }
    }

    /// A statement that the server refuses is said each time: whoever configured it counts on it.
    async fn beat(&self, client: &Client) -> Result<(), headwater_pg::Error> {
        let Some(statement) = &self.heartbeat_sql else {
            client.simple_query(HEARTBEAT).await?;
            return Ok(());
        };
        let beaten = client.simple_query(statement).await.map(drop).map_err(headwater_pg::Error::from);
        if let Err(error) = &beaten
            && error.sqlstate().is_some()
            && !error.is_transient()
        {
            self.metrics.errors.with_label_values(&["heartbeat"]).inc();
            tracing::warn!(error = chain(error), "the statement of pipeline.heartbeat_sql failed");
            return Ok(());
        }
        beaten
    }

    async fn look(&self, client: &Client) -> Result<(), headwater_pg::Error> {
        let wal_end = server_wal_end(client).await?;
        let Some(state) = slot::slot_state(client, &self.slot).await? else { return Ok(()) };
        let confirmed = state.confirmed_flush_lsn.unwrap_or_default();
        self.metrics.lag_bytes.set(wal_end.0.saturating_sub(confirmed.0) as i64);
        self.metrics.slot_retained_wal_bytes.set(state.retained_wal_bytes.unwrap_or(0));
        self.metrics.slot_safe_wal_bytes.set(state.safe_wal_size.unwrap_or(-1));
        self.status.set_server(wal_end, state.retained_wal_bytes, state.safe_wal_size);
        Ok(())
    }
}

/// Where the server's WAL ends now; on a standby, where its replay has come.
pub(crate) async fn server_wal_end(client: &Client) -> Result<Lsn, headwater_pg::Error> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text";
    let row = client.query_one(sql, &[]).await?;
    Ok(row.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()).unwrap_or_default())
}
