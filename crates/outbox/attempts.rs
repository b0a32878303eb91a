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
use crate::policy::{Policies, Policy};
use crate::reconcile::open_from;
use crate::resend::{self, Again, write_again};
use crate::settings::Settings;
use crate::table::{self, LoadError, Table};

/// How late an attempt may be.
const TICK: Duration = Duration::from_secs(1);

/// Time between two looks for days without a partition.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(3600);

/// The same where somebody held the table.
const PARTITIONS_AGAIN: Duration = Duration::from_secs(60);

/// SQLSTATE of a `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Rows whose silence is judged in one transaction.
const SILENT_MAX: i64 = 500;

/// Looking for silent rows takes at most one part in so many of the time.
const LOOKING_SHARE: u32 = 20;

/// Statements that write rows again, of one kind, before others have their turn.
const STATEMENTS_MAX: usize = 20;

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
    silence_due: Instant,
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
            let on_their_way_from = open_from(&client, &table).await?;
            watched.push(Watched { table, on_their_way_from, silence_due: Instant::now() });
        }
        let mut partitions_due = Instant::now();
        loop {
            if partitions_due <= Instant::now() {
                partitions_due = Instant::now() + make_partitions(&client, &watched).await?;
            }
            for watched in &mut watched {
                self.send_again(&client, &watched.table).await?;
                if let Some(policies) = &self.policies
                    && let Some(shortest) = policies.shortest_timeout()
                    && watched.silence_due <= Instant::now()
                {
                    let begun = Instant::now();
                    let are_more = self.time_out(&client, watched, policies).await?;
                    // Where many rows are on their way, looking at them takes a while: at most a part of the time.
                    let pause = (shortest / 10).max(TICK).max(begun.elapsed() * LOOKING_SHARE);
                    watched.silence_due = Instant::now() + if are_more { TICK } else { pause };
                }
            }
            pause.over();
            tokio::time::sleep(TICK).await;
        }
    }

    async fn send_again(&self, client: &Client, table: &Table) -> Result<(), Error> {
        for (again, outcome) in [(Again::Due, "sent_again"), (Again::Released, "released")] {
            for _ in 0..STATEMENTS_MAX {
                let rows = write_again(client, table, again).await?;
                self.metrics.outbox_rows.with_label_values(&[&*table.name, outcome]).inc_by(rows);
                if rows < resend::ROWS_MAX {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Rows that were sent and that nobody has answered in the time that their type has; says whether there are more.
    async fn time_out(
        &self,
        client: &Client,
        watched: &mut Watched,
        policies: &Policies,
    ) -> Result<bool, Error> {
        let (table, limits) = (&watched.table, Limits::of(policies));
        let sql = format!(
            "SELECT o.{id}::text, o.attempt FROM {table} o \
             WHERE o.txid >= $1::text::xid8 AND o.status = 'SENT' \
               AND o.sent_at < clock_timestamp() - {limit} * interval '1 millisecond' ORDER BY o.txid LIMIT $4",
            id = table.id,
            table = table.sql,
            limit = limits.sql(table),
        );
        let rows = client
            .query(&sql, &[&watched.on_their_way_from, &limits.patterns, &limits.ms, &SILENT_MAX])
            .await?;
        let silent: Vec<(String, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
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
        watched.on_their_way_from = oldest_on_its_way(client, watched, &limits).await?;
        Ok(silent.len() as i64 == SILENT_MAX)
    }
}

/// How long each event type may be silent, for a statement.
struct Limits {
    /// Of LIKE, the rule that holds first; the last one fits every type.
    patterns: Vec<String>,
    /// None is for ever.
    ms: Vec<Option<i64>>,
}

impl Limits {
    fn of(policies: &Policies) -> Limits {
        let ms = |policy: &Policy| {
            policy.answer_timeout.map(|limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX))
        };
        let mut limits = Limits { patterns: Vec::new(), ms: Vec::new() };
        // Of several rules that fit, the later one holds.
        for (patterns, policy) in policies.rules.iter().rev() {
            for pattern in patterns {
                limits.patterns.push(like(pattern));
                limits.ms.push(ms(policy));
            }
        }
        limits.patterns.push("%".to_owned());
        limits.ms.push(ms(&policies.default));
        limits
    }

    /// The limit of a row's type, with the patterns as the second parameter and the limits as the third.
    fn sql(&self, table: &Table) -> String {
        format!(
            "(SELECT l.ms FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY l (pattern, ms, place) \
             WHERE coalesce(o.{}::text, '') LIKE l.pattern ORDER BY l.place LIMIT 1)",
            table.event_type
        )
    }
}

/// `*` is any run of characters; what LIKE would take for more than itself is escaped.
fn like(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len() + 2);
    for character in pattern.chars() {
        match character {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', character]),
            other => like.push(other),
        }
    }
    like
}

/// The transaction that wrote the oldest row on its way whose silence will count; that of the oldest open one where there
/// is none.
async fn oldest_on_its_way(client: &Client, watched: &Watched, limits: &Limits) -> Result<String, Error> {
    let sql = format!(
        "SELECT least((SELECT o.txid FROM {table} o WHERE o.txid >= $1::text::xid8 AND o.status IN ('NEW', 'SENT') \
           AND {limit} IS NOT NULL ORDER BY o.txid LIMIT 1), pg_snapshot_xmin(pg_current_snapshot()))::text",
        table = watched.table.sql,
        limit = limits.sql(&watched.table),
    );
    let row = client.query_one(&sql, &[&watched.on_their_way_from, &limits.patterns, &limits.ms]).await?;
    Ok(row.get(0))
}

/// Where one of the tables is that of `sql/outbox.sql`; gives when to look again.
async fn make_partitions(client: &Client, watched: &[Watched]) -> Result<Duration, Error> {
    if watched.iter().any(|watched| &*watched.table.name == "headwater.outbox")
        && let Err(error) = client.batch_execute("SELECT headwater.outbox_make_partitions()").await
    {
        let error = Error::from(error);
        // Somebody holds the table for long. There are days left, and the default partition behind them.
        if error.sqlstate() != Some(LOCK_NOT_AVAILABLE) {
            return Err(error);
        }
        tracing::debug!(%error, "partitions of the days ahead are made later");
        return Ok(PARTITIONS_AGAIN);
    }
    Ok(PARTITIONS_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn patterns_become_those_of_like() {
        for (pattern, expected) in
            [("Order*", "Order%"), ("*", "%"), ("a_b%c", r"a\_b\%c"), (r"a\*", r"a\\%"), ("", "")]
        {
            assert_eq!(like(pattern), expected);
        }
    }
}
