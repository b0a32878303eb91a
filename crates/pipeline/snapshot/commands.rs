//! What a running instance is asked to do about its snapshots, carried out between two chunks.

use tokio::sync::mpsc;

use super::CopyInput;
use super::control::{Asked, Command};
use super::coordinator::Coordinator;
use super::progress::{JobKind, JobState, TableRecord, TableState};
use super::requested::NewJob;
use super::table_pattern::{Matcher, any_matches};
use crate::error::StageError;

impl Coordinator {
    /// What concerns the job and came meanwhile. Another job is not begun here, in the midst of this one's tables: what
    /// comes behind the end of this one waits for the next turn.
    pub(crate) async fn obey_waiting(&mut self, asked: &mut mpsc::Receiver<Asked>) -> Result<(), StageError> {
        while self.is_running()
            && let Ok(next) = asked.try_recv()
        {
            self.obey(next).await;
        }
        self.take_requests(false).await
    }

    /// Carries a command out and answers. Who does not wait any more was told that nothing came of it.
    pub(crate) async fn obey(&mut self, (command, answer): Asked) {
        if !answer.is_closed() {
            let outcome = self.carry_out_and_store(command).await;
            // Who asked may be gone by now.
            drop(answer.send(outcome));
        }
    }

    /// Carries a command out and waits until that is stored: whoever was told so finds it so after a restart.
    async fn carry_out_and_store(&mut self, command: Command) -> Result<String, String> {
        let done = self.carry_out(command).await?;
        while !self.is_stored() {
            let report = self.parts.reports.recv().await.ok_or("headwater stops")?;
            self.note(report).map_err(|error| crate::error::chain(&error))?;
        }
        Ok(done)
    }

    fn unwatch(&self, at: usize) -> Result<(), String> {
        self.send(CopyInput::Unwatch(self.tables[at].relation)).map_err(|error| crate::error::chain(&error))
    }

    /// The error is for who asked.
    pub(crate) async fn carry_out(&mut self, command: Command) -> Result<String, String> {
        let state = self.job.as_ref().map(|job| job.state);
        let change =
            |this: &mut Coordinator, state| this.set_job(state).map_err(|error| crate::error::chain(&error));
        match (command, state) {
            (Command::Start { id, tables, filters }, _) => {
                let id = id.unwrap_or_else(|| format!("ad-hoc-{}", self.parts.epoch));
                let new =
                    NewJob { id, tables: &tables, filters: &filters, keyless_too: true, ..NewJob::default() };
                let count = self.begin_job(JobKind::AdHoc, new).await.map_err(|why| why.text())?;
                Ok(format!("copying {count} tables beside the stream"))
            }
            (Command::Replay { table, keys, attempt }, _) => {
                self.begin_replay(&table, &keys, attempt).await.map_err(|why| why.text())
            }
            (Command::Pause, Some(JobState::Running)) => {
                change(self, JobState::Paused)?;
                Ok("paused after the chunk that is under way".to_owned())
            }
            (Command::Resume, Some(JobState::Paused)) => {
                change(self, JobState::Running)?;
                Ok("going on".to_owned())
            }
            (Command::Cancel { tables }, Some(JobState::Running | JobState::Paused)) if tables.is_empty() => {
                change(self, JobState::Cancelled)?;
                (0..self.tables.len()).try_for_each(|at| self.unwatch(at))?;
                Ok("cancelled; what was written stays".to_owned())
            }
            (Command::Cancel { tables }, Some(JobState::Running | JobState::Paused)) => {
                let matchers = Matcher::all(&tables);
                let is_left = |table: &TableRecord| {
                    !table.is_over() && any_matches(&matchers, &table.schema, &table.table)
                };
                let chosen: Vec<usize> =
                    (0..self.tables.len()).filter(|at| is_left(&self.tables[*at])).collect();
                for at in &chosen {
                    self.set_table(*at, TableState::Failed, Some("cancelled".to_owned()))
                        .map_err(|error| crate::error::chain(&error))?;
                    self.unwatch(*at)?;
                }
                self.store_job().map_err(|error| crate::error::chain(&error))?;
                Ok(format!("{} tables are not copied further", chosen.len()))
            }
            (Command::Pause, _) => Err("no snapshot is running".to_owned()),
            (Command::Resume, _) => Err("no snapshot is paused".to_owned()),
            (Command::Cancel { .. }, _) => Err("no snapshot is under way".to_owned()),
        }
    }
}
