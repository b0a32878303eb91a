//! Reads rows back for the pump, on a connection of its own that is made when the first row is asked for.
//!
//! A task, because the pump is a thread that must go on serving delivery reports meanwhile. A connection that fails is no
//! loss: it is made again, with pauses; if that takes too long, the session begins again from the checkpoint as after
//! any other failure. What the table refuses, or what takes too long, is answered with "no row".

use std::sync::Arc;
use std::time::Duration;

use headwater_pg::read_back::{ReadBack, ReadRow, ReadRows, Unreadable, prepare, read_back};
use headwater_pg::{Client, ConnectSettings, Error};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::{StageError, chain};
use crate::halt::{ExitCode, Halt};
use crate::reselect::Answer;
use crate::status::{Readiness, Status};

/// For how long a connection is tried to be made before the session begins again: longer than a server's restart, shorter
/// than anybody should wait for a server that is gone for good.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// Longest pause between two looks at whether a commit is visible; without synchronous replication it is within
/// microseconds.
const VISIBLE_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Beyond the statement's own timeout, how long the server may take to say so.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A question of the pump: rows of one table.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) wanted: ReadBack,
    /// For each row; none for one that must be asked for again.
    pub(crate) answer: oneshot::Sender<Result<Vec<Option<Answer>>, StageError>>,
}

/// Answers the pump's questions, one at a time.
pub(crate) struct Reselector {
    pub(crate) postgres: ConnectSettings,
    /// How long one read may take, and how long a commit may take to become visible.
    pub(crate) timeout: Duration,
    pub(crate) status: Arc<Status>,
}

impl Reselector {
    /// Runs until the pump is gone.
    pub(crate) async fn run(self, mut readings: mpsc::Receiver<Reading>) {
        let mut client = None;
        while let Some(Reading { wanted, answer }) = readings.recv().await {
            let read = self.read(&mut client, &wanted).await;
            // A receiver that is gone is a pump that has stopped: its answer is wanted by nobody.
            drop(answer.send(read.map(Answer::all)));
        }
    }

    async fn read(&self, client: &mut Option<Client>, wanted: &ReadBack) -> Result<ReadRows, StageError> {
        let began = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let was_open = client.is_some();
            let error = match self.read_once(client, wanted).await {
                Ok(rows) => {
                    if backoff.used() {
                        tracing::info!("rows can be read back again");
                        self.status.resume();
                    }
                    return Ok(rows);
                }
                Err(error) => error,
            };
            *client = None;
            if !error.is_transient() || began.elapsed() > RECONNECT_PATIENCE {
                return Err(refusal(error, wanted, &self.postgres.user));
            }
            // A connection that was idle for long may be gone, and nothing is wrong with the server.
            if !was_open {
                self.wait_out(&mut backoff, &error).await;
            }
        }
    }

    async fn wait_out(&self, backoff: &mut Backoff, error: &Error) {
        let pause = backoff.next();
        let reason = format!("waiting for Postgres to read rows back: {}", chain(error));
        if backoff.is_first() {
            tracing::warn!(retry_in_ms = pause.as_millis() as u64, "{reason}");
        }
        self.status.set(Readiness::Waiting { reason });
        tokio::time::sleep(pause).await;
    }

    /// Waits until the transactions are visible: changes are streamed before that, and what is there until then is the
    /// row before.
    async fn read_once(&self, open: &mut Option<Client>, wanted: &ReadBack) -> Result<ReadRows, Error> {
        let client = match open {
            Some(client) => client,
            None => {
                let client = headwater_pg::connect(&self.postgres).await?;
                prepare(&client, self.timeout).await?;
                open.insert(client)
            }
        };
        let deadline = Instant::now() + self.timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            let rows = match read_back(client, wanted, self.timeout + SILENCE_MAX).await? {
                Ok(rows) => rows,
                Err(why) => return Ok(nothing(wanted, &why)),
            };
            let waits = rows.rows.iter().any(|row| matches!(row, ReadRow::NotVisible));
            if !waits || Instant::now() + pause > deadline {
                return Ok(rows);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(VISIBLE_PAUSE_MAX);
        }
    }
}

fn nothing(wanted: &ReadBack, why: &Unreadable) -> ReadRows {
    let (schema, table) = &wanted.table;
    let table = format!("{schema}.{table}");
    match why {
        // Until the stream has come to the change.
        Unreadable::Changed => tracing::debug!(table, "a table has changed since: its values are marked"),
        Unreadable::Timeout => {
            tracing::info!(
                table,
                "reading rows back took longer than pipeline.reselect_timeout: they are marked"
            );
        }
    }
    ReadRows {
        rows: wanted.rows.iter().map(|_| ReadRow::Gone).collect(),
        same_column: vec![false; wanted.columns.len()],
        inserts_published: false,
    }
}

/// A right that is missing is told with its cure.
fn refusal(error: Error, wanted: &ReadBack, user: &str) -> StageError {
    let Some(server) = error.server().filter(|server| server.code == "42501") else {
        return StageError::Postgres {
            doing: "reading rows back for unchanged_toast = \"reselect\"",
            source: error,
        };
    };
    let (schema, table) = &wanted.table;
    let advice = if server.message.contains("row-level security") {
        format!(
            "ALTER ROLE {user} BYPASSRLS, since a policy would make rows look deleted; or unchanged_toast = \"placeholder\" for this table"
        )
    } else {
        let quote = headwater_pg::catalog::quote_identifier;
        let (schema, table, role) = (quote(schema), quote(table), quote(user));
        format!(
            "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.{table} TO {role}; or unchanged_toast = \
             \"placeholder\" for this table"
        )
    };
    StageError::Halt(Halt::new(
        ExitCode::PostgresRights,
        format!(
            "unchanged_toast = \"reselect\" reads rows of {schema}.{table} back, and Postgres refuses: {}",
            server.message
        ),
        advice,
    ))
}
