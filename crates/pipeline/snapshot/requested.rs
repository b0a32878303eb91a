//! What the coordinator does of what was asked for by signals and for new tables, one request at a time.
//!
//! What a request changes is stored before the record that says that it is done, in the same partition: a crash between
//! them has it done again, with the same outcome.

use headwater_pg::snapshot_tables::SnapshotTable;

use super::control::Command;
use super::coordinator::Coordinator;
use super::copier::name_of;
use super::progress::{JobKind, JobState};
use super::requests::{Asker, Request, Wish};
use super::signal_reader::refuse;
use super::table_pattern::{TablePattern, list};
use crate::error::{StageError, chain};

/// Why a job was not begun.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// No such table is published, or none is left to copy.
    NoTable(String),
    /// It can't be done: for whoever asked.
    Refused(String),
    /// It could not be found out whether it can be done.
    Failed(StageError),
}

impl From<StageError> for NotBegun {
    fn from(error: StageError) -> NotBegun {
        match &error {
            StageError::Postgres { source, .. } if source.is_transient() => NotBegun::Failed(error),
            StageError::Stopped => NotBegun::Failed(error),
            _ => NotBegun::Refused(chain(&error)),
        }
    }
}

impl NotBegun {
    pub(crate) fn text(&self) -> String {
        match self {
            NotBegun::NoTable(text) | NotBegun::Refused(text) => text.clone(),
            NotBegun::Failed(error) => chain(error),
        }
    }
}

/// A job to begin.
#[derive(Default)]
pub(crate) struct NewJob<'a> {
    pub(crate) id: String,
    pub(crate) tables: &'a [TablePattern],
    /// Of those, these not.
    pub(crate) except: &'a [TablePattern],
    pub(crate) filters: &'a [(TablePattern, String)],
    /// Tables without a key as well, whose copy is weaker.
    pub(crate) keyless_too: bool,
    /// The request that it is begun for.
    pub(crate) request: Option<u64>,
}

impl Coordinator {
    /// Does what waits, as far as the present job lets it; a new one is begun only where it `may_begin`.
    pub(crate) async fn take_requests(&mut self, may_begin: bool) -> Result<(), StageError> {
        while let Some(request) = self.parts.requests.next(may_begin && !self.is_under_way()) {
            match self.grant(&request).await {
                Ok(done) => tracing::info!(id = request.id, "{done}"),
                // An added table that is gone by now. If it only has another name, it is as new as before.
                Err(NotBegun::NoTable(why)) if request.asker == Asker::NewTable => {
                    tracing::info!(id = request.id, "nothing to copy under that name: {why}");
                    self.parts.requests.not_found(&request)?;
                }
                Err(NotBegun::Failed(error)) => return Err(error),
                Err(not) => self.refuse(&request, &not.text())?,
            }
            self.parts.requests.done(&request)?;
        }
        Ok(())
    }

    /// Whether a job is running or paused.
    pub(crate) fn is_under_way(&self) -> bool {
        self.job.as_ref().is_some_and(|job| matches!(job.state, JobState::Running | JobState::Paused))
    }

    fn refuse(&self, request: &Request, why: &str) -> Result<(), StageError> {
        let (notifier, metrics) = (&self.parts.notifier, &self.parts.metrics);
        if request.asker != Asker::NewTable {
            return refuse(notifier, metrics, &request.id, why);
        }
        metrics.errors.with_label_values(&["snapshot"]).inc();
        tracing::warn!(
            id = request.id,
            "the rows of a table that was added to the publication are not copied: {why}. Once that is mended: headwater snapshot start"
        );
        notifier.refused(&request.id, why)
    }

    async fn grant(&mut self, request: &Request) -> Result<String, NotBegun> {
        let Wish::Start { tables, filters, except, .. } = &request.wish else {
            return self.change_job(request).await;
        };
        let id = request.id.clone();
        // Nobody has said of a table that was added what the weaker copy is worth.
        let keyless_too = request.asker != Asker::NewTable;
        let new = NewJob { id, tables, except, filters, keyless_too, request: Some(request.number) };
        let count = self.begin_job(JobKind::AdHoc, new).await?;
        Ok(format!("copying {count} tables beside the stream"))
    }

    /// What concerns the present job. The job knows the last request that changed it, so that one whose record was not
    /// stored before a crash is not refused when it comes again.
    async fn change_job(&mut self, request: &Request) -> Result<String, NotBegun> {
        let before = self.job.as_ref().map_or(0, |job| job.changed_by);
        if before >= request.number {
            return Ok("was done before the restart".to_owned());
        }
        let set = |this: &mut Coordinator, number| {
            if let Some(job) = &mut this.job {
                job.changed_by = number;
            }
        };
        set(self, request.number);
        let outcome = self.carry_out_of(request).await;
        if outcome.is_err() {
            set(self, before);
        }
        outcome
    }

    async fn carry_out_of(&mut self, request: &Request) -> Result<String, NotBegun> {
        match &request.wish {
            Wish::Start { .. } => Err(NotBegun::Refused("a start changes no job".to_owned())),
            Wish::Stop { tables } => {
                let waits = self.parts.requests.has_start_before(request.number);
                let tables = tables.clone();
                match self.carry_out(Command::Cancel { tables }).await {
                    Ok(done) => Ok(done),
                    Err(_) if waits => Ok("what waited is not copied".to_owned()),
                    Err(why) => Err(NotBegun::Refused(why)),
                }
            }
            Wish::Pause => self.carry_out(Command::Pause).await.map_err(NotBegun::Refused),
            Wish::Resume => self.carry_out(Command::Resume).await.map_err(NotBegun::Refused),
        }
    }

    /// Whether conditions are conditions on their tables: what is no expression, or is more than one, is refused before
    /// it becomes a part of a statement.
    pub(crate) async fn check_filters(
        &mut self,
        tables: &[(SnapshotTable, Option<String>)],
    ) -> Result<(), NotBegun> {
        for (table, filter) in tables {
            let Some(filter) = filter else { continue };
            // Whatever ends the parenthesis early ends a CASE otherwise than a WHERE, and one of the two refuses it.
            // Preparing refuses what is several statements.
            let sql = format!("SELECT CASE WHEN ({filter}\n) THEN 1 END FROM {}", table.sql_name());
            let checking = "checking a condition of a snapshot";
            let failed = |error: headwater_pg::Error| match error.is_transient() {
                true => NotBegun::Failed(StageError::Postgres { doing: checking, source: error }),
                false => NotBegun::Refused(format!(
                    "the condition for {} can't be used: {}",
                    name_of(table),
                    chain(&error)
                )),
            };
            let client = self.client().await?;
            // As it will run: with no names but those of pg_catalog, so that nobody's function takes one's place.
            let path = "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog";
            client.batch_execute(path).await.map_err(|error| failed(error.into()))?;
            let prepared = client.prepare(&sql).await;
            client.batch_execute("ROLLBACK").await.map_err(|error| failed(error.into()))?;
            prepared.map(drop).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }
}

/// Why nothing is to be copied.
pub(crate) fn no_table(patterns: &[TablePattern]) -> NotBegun {
    NotBegun::NoTable(format!("no published table matches {}", list(patterns)))
}
