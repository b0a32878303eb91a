//! DEAD for the rows of events that went to the dead letter topic. The pump waits for each, so it is one row a statement,
//! and the server has it on disk before the pump goes on: a row that came back as NEW would be taken for sent.

use std::sync::Arc;

use headwater_pg::lock_wait::{LockWait, telling_locks};
use headwater_pg::{Client, Error};
use headwater_pipeline::Metrics;
use headwater_pipeline::sent::AsideEvent;
use tokio::sync::{Notify, mpsc};

use crate::pause::Pause;
use crate::settings::Settings;
use crate::table::{self, LoadError, Table};

/// Who failed, for people who read the row.
const FAILED_BY: &str = "headwater";

/// See the module's documentation.
pub(crate) struct Asides {
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    /// Rung when a row is DEAD.
    pub(crate) died: Arc<Notify>,
}

impl Asides {
    /// Runs until no pump will ever set anything aside any more.
    pub(crate) async fn run(self, mut events: mpsc::Receiver<AsideEvent>) {
        let mut pause = Pause::holding_up();
        // Connected when it is needed: with good events, never.
        let mut client = None;
        while let Some(event) = events.recv().await {
            while let Err(error) = self.write(&mut client, &event).await {
                client = None;
                pause.after("marking an outbox row that was set aside as DEAD", &error).await;
            }
            pause.over();
            self.metrics.outbox_rows.with_label_values(&[&*event.event.table, "set_aside"]).inc();
            self.died.notify_one();
            event.written();
        }
    }

    async fn write(&self, client: &mut Option<Client>, aside: &AsideEvent) -> Result<(), LoadError> {
        let mut tables = self.settings.tables.iter();
        let name = &*aside.event.table;
        let Some(settings) = tables.find(|table| name == format!("{}.{}", table.schema, table.table)) else {
            return Ok(());
        };
        let client = match client {
            Some(client) => client,
            None => client.insert(headwater_pg::connect(&self.settings.postgres).await?),
        };
        let table = table::load(client, settings).await?;
        let tell = |wait: Option<&LockWait>| match wait {
            Some(wait) => tracing::warn!(
                "the stream is held up: marking an outbox row that was set aside as DEAD waits for {wait}"
            ),
            None => tracing::info!("the outbox row could be marked"),
        };
        let marking = mark_dead(client, &table, aside);
        Ok(telling_locks(&self.settings.postgres, &[client.backend_pid()], tell, marking).await?)
    }
}

/// A row that is gone, or that somebody has given up meanwhile, stays as it is.
async fn mark_dead(client: &Client, table: &Table, aside: &AsideEvent) -> Result<(), Error> {
    let sql = format!(
        "UPDATE {table} o SET status = 'DEAD', failed_at = clock_timestamp(), failed_by = $4, reason = $3, next_attempt_at = NULL, \
           notified_at = NULL WHERE o.{id} = $1::text::{id_type} AND o.attempt = $2 AND o.status = 'NEW'",
        table = table.sql,
        id = table.id,
        id_type = table.id_type,
    );
    client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await?;
    client.execute(&sql, &[&&*aside.event.id, &aside.event.attempt, &aside.reason, &FAILED_BY]).await?;
    Ok(client.batch_execute("COMMIT").await?)
}
