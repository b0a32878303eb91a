//! What is due by time: the next attempt of events that failed, those that waited for them, silence that lasted too
//! long, and the partitions of the days ahead.

use std::sync::Arc;
use std::time::Duration;

use headwater_pg::{Client, Error};
use headwater_pipeline::Metrics;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::answers;
use crate::life::Status;
use crate::pause::Pause;
use crate::policy::Policies;
use crate::resend::{Again, write_again};
use crate::settings::Settings;
use crate::table::{self, LoadError, Table};

/// How late an attempt may be.
const TICK: Duration = Duration::from_secs(1);

/// Time between two looks for days without a partition.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(3600);

/// Rows whose silence is judged in one transaction.
const SILENT_MAX: i64 = 500;

/// See the module's documentation.
pub(crate) struct Attempts {
    pub(crate) settings: Settings,
    /// Without answers nothing fails, and nothing is silent.
    pub(crate) policies: Option<Policies>,
    pub(crate) metrics: Arc<Metrics>,
    /// Rung when a row is DEAD.
    pub(crate) died: Arc<Notify>,
}

/// A table, and from which transaction on it has rows that are on their way.
struct Watched {
    table: Table,
    on_their_way_from: String,
}

impl Attempts {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut pause = Pause::default();
        loop {
            let Err(error) = self.session(&mut pause).await;
            pause.after("looking after outbox rows", &error).await;
        }
    }

    async fn session(&self, pause: &mut Pause) -> Result<std::convert::Infallible, LoadError> {
        let client = headwater_pg::connect(&self.settings.postgres).await?;
        let mut watched = Vec::new();
        for table in &self.settings.tables {
            let table = table::load(&client, table).await?;
            watched.push(Watched { table, on_their_way_from: "0".to_owned() });
        }
        let (mut partitions_due, mut silence_due) = (Instant::now(), Instant::now());
        loop {
            if partitions_due <= Instant::now() {
                make_partitions(&client, &watched).await?;
                partitions_due = Instant::now() + PARTITIONS_INTERVAL;
            }
            for watched in &mut watched {
                self.send_again(&client, &watched.table).await?;
                if let Some(policies) = &self.policies
                    && let Some(shortest) = policies.shortest_timeout()
                    && silence_due <= Instant::now()
                {
                    self.time_out(&client, watched, policies, shortest).await?;
                }
            }
            if silence_due <= Instant::now() {
                let shortest =
                    self.policies.as_ref().and_then(Policies::shortest_timeout).unwrap_or_default();
                silence_due = Instant::now() + (shortest / 10).max(TICK);
            }
            pause.over();
            tokio::time::sleep(TICK).await;
        }
    }

    async fn send_again(&self, client: &Client, table: &Table) -> Result<(), Error> {
        for (again, outcome) in [(Again::Due, "sent_again"), (Again::Released, "released")] {
            let rows = write_again(client, table, again).await?;
            self.metrics.outbox_rows.with_label_values(&[&*table.name, outcome]).inc_by(rows);
        }
        Ok(())
    }

    /// Rows that were sent and that nobody has answered.
    async fn time_out(
        &self,
        client: &Client,
        watched: &mut Watched,
        policies: &Policies,
        shortest: Duration,
    ) -> Result<(), Error> {
        let table = &watched.table;
        let sql = format!(
            "SELECT o.{id}::text, o.{event_type}::text, o.attempt, \
               (extract(epoch FROM clock_timestamp() - o.sent_at) * 1000)::bigint FROM {table} o \
             WHERE o.txid >= $1::text::xid8 AND o.status = 'SENT' \
               AND o.sent_at < clock_timestamp() - $2::bigint * interval '1 millisecond' ORDER BY o.txid LIMIT $3",
            id = table.id,
            event_type = table.event_type,
            table = table.sql,
        );
        let shortest_ms = shortest.as_millis() as i64;
        let rows = client.query(&sql, &[&watched.on_their_way_from, &shortest_ms, &SILENT_MAX]).await?;
        let silent: Vec<(String, i32)> = rows
            .iter()
            .filter(|row| {
                let policy = policies.of(row.get::<_, Option<&str>>(1).unwrap_or_default());
                let age = Duration::from_millis(row.get::<_, i64>(3).max(0) as u64);
                policy.answer_timeout.is_some_and(|limit| age >= limit)
            })
            .map(|row| (row.get(0), row.get(2)))
            .collect();
        if !silent.is_empty() {
            client.batch_execute("BEGIN").await?;
            let mut rows =
                answers::lock(client, table, &silent.iter().map(|(id, _)| id.as_str()).collect()).await?;
            // An answer may have come meanwhile.
            rows.retain(|id, row| {
                row.life.status == Status::Sent
                    && silent.iter().any(|(other, attempt)| other == id && *attempt == row.life.attempt)
            });
            let died = answers::time_out(&mut rows, policies);
            answers::write_back(client, table, &rows).await?;
            client.batch_execute("COMMIT").await?;
            let count = rows.len() as u64;
            self.metrics.outbox_answers.with_label_values(&[&*table.name, "silent"]).inc_by(count);
            if died {
                tracing::warn!("nobody answered the last attempt of outbox events: they are DEAD");
                self.died.notify_one();
            }
        }
        watched.on_their_way_from = oldest_on_its_way(client, watched).await?;
        Ok(())
    }
}

/// The transaction that wrote the oldest row on its way; that of the oldest open one where there is none.
async fn oldest_on_its_way(client: &Client, watched: &Watched) -> Result<String, Error> {
    let sql = format!(
        "SELECT least((SELECT o.txid FROM {table} o WHERE o.txid >= $1::text::xid8 AND o.status IN ('NEW', 'SENT') \
           ORDER BY o.txid LIMIT 1), pg_snapshot_xmin(pg_current_snapshot()))::text",
        table = watched.table.sql
    );
    Ok(client.query_one(&sql, &[&watched.on_their_way_from]).await?.get(0))
}

/// Where one of the tables is that of `sql/outbox.sql`.
async fn make_partitions(client: &Client, watched: &[Watched]) -> Result<(), Error> {
    if watched.iter().any(|watched| &*watched.table.name == "headwater.outbox") {
        client.batch_execute("SELECT headwater.outbox_make_partitions()").await?;
    }
    Ok(())
}
