//! Decides what is copied, when and how, and keeps the progress of it; one task of a session.
//!
//! In: what is stored of the last snapshot, the keeper of a new slot's snapshot, commands, the pump's reports.
//! Out: chunks and records of progress to the pump, and the word that lets the stream begin.
//! Invariant: a record of progress says only what is acknowledged, and a table is done only when all of it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use headwater_pg::Client;
use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::transaction_snapshot::SnapshotKeeper;
use headwater_pgoutput::Lsn;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};

use super::again::Again;
use super::choice::{chosen_tables, readable};
use super::control::SnapshotControl;
use super::moved::MovedKeys;
use super::notifications::{JobStep, Notifier, PROGRESS_INTERVAL};
use super::pace::Pace;
use super::progress::{JobKind, JobRecord, JobState, StoredSnapshot, TableRecord, TableState, VERSION};
use super::requested::{NewJob, NotBegun, no_table};
use super::requests::Requests;
use super::seen::{Estimate, tell_lock};
use super::table_pattern::{Matcher, TablePattern, any_matches};
use super::{CopyInput, Input, Report};
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};
use crate::metrics::Metrics;
use crate::settings::{Settings, SnapshotMode};
use crate::status::{Readiness, Status};

/// How a session's snapshots ended, when they are all that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SnapshotEnd {
    /// `snapshot.mode = "only"`: nothing is left to do.
    OnlySnapshot,
}

/// A chunk whose rows are not all acknowledged.
pub(crate) enum Pending {
    /// A range of pages; how many bytes it has is counted while it is read.
    Pages { table: usize, relation: u32, filenode: u32, pages: std::ops::Range<u32>, bytes: Arc<AtomicU64> },
    /// Up to a key.
    Key { table: usize, after: Option<Vec<String>>, bytes: u64 },
}

/// What a coordinator is made of.
pub(crate) struct CoordinatorParts {
    pub(crate) settings: Settings,
    pub(crate) control: Arc<SnapshotControl>,
    /// The checkpoint's key; those of progress begin with it.
    pub(crate) checkpoint_key: String,
    pub(crate) epoch: u64,
    pub(crate) consistent_point: Lsn,
    pub(crate) stored: StoredSnapshot,
    pub(crate) keeper: Option<SnapshotKeeper>,
    pub(crate) inputs: Sender<Input>,
    pub(crate) reports: UnboundedReceiver<Report>,
    pub(crate) held: watch::Sender<bool>,
    pub(crate) ask: Arc<Notify>,
    pub(crate) status: Arc<Status>,
    pub(crate) metrics: Arc<Metrics>,
    /// What signals and new tables ask for.
    pub(crate) requests: Arc<Requests>,
    pub(crate) notifier: Notifier,
}

/// See the module's documentation.
pub(crate) struct Coordinator {
    pub(crate) parts: CoordinatorParts,
    /// For the catalog; there when it is first needed.
    client: Option<Client>,
    pub(crate) job: Option<JobRecord>,
    pub(crate) tables: Vec<TableRecord>,
    /// Of jobs before this one.
    pub(crate) settled_before: Vec<TableRecord>,
    pub(crate) pending: HashMap<u32, Pending>,
    /// Parts of each table that are copied under the slot's snapshot and not acknowledged.
    pub(crate) undone: Vec<usize>,
    /// Records of progress on their way.
    unstored: u64,
    next_chunk: u32,
    began: Instant,
    /// When progress was logged last,
    pub(crate) told: Instant,
    /// when its metrics were set,
    pub(crate) published: Instant,
    /// and when a notification told of it.
    notified: Instant,
    /// How many rows the job's tables may have, by name.
    pub(crate) estimates: HashMap<String, Estimate>,
    pub(crate) pace: Arc<Pace>,
}

impl Coordinator {
    pub(crate) fn new(mut parts: CoordinatorParts) -> Coordinator {
        let StoredSnapshot { job, tables, settled, .. } = std::mem::take(&mut parts.stored);
        let pace = Arc::new(Pace::new(&parts.settings.snapshot));
        Coordinator {
            parts,
            client: None,
            job,
            tables,
            settled_before: settled,
            pending: HashMap::new(),
            undone: Vec::new(),
            unstored: 0,
            next_chunk: 0,
            began: Instant::now(),
            told: Instant::now(),
            notified: Instant::now(),
            published: Instant::now(),
            estimates: HashMap::new(),
            pace,
        }
    }

    /// Runs until the session ends, or until a snapshot that was all is done.
    pub(crate) async fn run(mut self) -> Result<SnapshotEnd, StageError> {
        let control = self.parts.control.clone();
        let mut asked = control.asked.lock().await;
        self.tell_job();
        self.tell_settled()?;
        self.give_up_if_unwanted()?;
        self.watch_on()?;
        let began_with_one = self.is_running();
        if !self.is_under_way() {
            self.parts.notifier.skipped(self.parts.epoch)?;
        }
        if began_with_one {
            match self.parts.keeper.take() {
                Some(keeper) => self.copy_under(keeper, &mut asked).await?,
                None => self.take_up().await?,
            }
        }
        self.let_stream_begin()?;
        if began_with_one {
            // This start has its copy.
            control.set_begun_for_start();
        } else if self.parts.settings.snapshot.mode == SnapshotMode::Always && !self.is_under_way() {
            self.begin_for_start().await?;
        }
        loop {
            self.take_requests(true).await?;
            if self.is_running() {
                self.copy_beside(&mut asked).await?;
                // A crash may have come between the end of the last table and that of the job.
                if self.is_running() && self.tables.iter().all(TableRecord::is_over) {
                    self.set_job(JobState::Done)?;
                }
                // What waited for the end of it comes next.
                self.take_requests(true).await?;
            }
            if self.is_running() {
                continue;
            }
            if self.parts.settings.snapshot.mode == SnapshotMode::Only && self.is_done() {
                return Ok(SnapshotEnd::OnlySnapshot);
            }
            tokio::select! {
                command = asked.recv() => {
                    let Some(command) = command else { return std::future::pending().await };
                    self.obey(command).await;
                }
                report = self.parts.reports.recv() => self.note(report.ok_or(StageError::Stopped)?)?,
                () = self.parts.requests.changed() => {}
            }
        }
    }

    /// `snapshot.mode = "always"`: one at each start of the process, and not when it only connects anew.
    async fn begin_for_start(&mut self) -> Result<(), StageError> {
        if self.parts.control.is_begun_for_start() {
            return Ok(());
        }
        let filters = self.parts.settings.snapshot.filters.iter();
        let filters: Vec<_> =
            filters.map(|(glob, filter)| (TablePattern::Glob(glob.clone()), filter.clone())).collect();
        let new = NewJob { id: "always".to_owned(), filters: &filters, ..NewJob::default() };
        match self.begin_job(JobKind::AdHoc, new).await {
            Ok(_) => {
                self.parts.control.set_begun_for_start();
                Ok(())
            }
            Err(NotBegun::Failed(error)) => Err(error),
            Err(why) => Err(failed(&why.text())),
        }
    }

    /// A first snapshot that is not complete, where the configuration says by now that none is wanted.
    fn give_up_if_unwanted(&mut self) -> Result<(), StageError> {
        let is_initial = self.job.as_ref().is_some_and(|job| job.kind == JobKind::Initial);
        if !is_initial || !self.is_running() || self.parts.settings.snapshot.mode != SnapshotMode::Never {
            return Ok(());
        }
        tracing::warn!("the first snapshot is not complete and is given up: snapshot.mode = \"never\"");
        self.set_job(JobState::Cancelled)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.state == JobState::Running)
    }

    /// Every record of progress is acknowledged.
    pub(crate) fn is_stored(&self) -> bool {
        self.unstored == 0
    }

    /// Over, and stored as that.
    fn is_done(&self) -> bool {
        let state = self.job.as_ref().map(|job| job.state);
        self.is_stored() && state.is_none_or(|state| !matches!(state, JobState::Running | JobState::Paused))
    }

    /// Opens the gate for the stream; everything that was sent before precedes it.
    fn let_stream_begin(&mut self) -> Result<(), StageError> {
        if *self.parts.held.borrow() {
            self.send(CopyInput::Release)?;
            self.parts.held.send_replace(false);
            self.parts.status.set(Readiness::Streaming);
        }
        Ok(())
    }

    /// Goes on with a job that a session before this one began.
    async fn take_up(&mut self) -> Result<(), StageError> {
        let all = [Matcher::Glob("*".to_owned())];
        let tables = self.choose(if self.tables.is_empty() { &[] } else { &all }).await?;
        if self.tables.is_empty() {
            self.readable(&tables)?;
            self.tables = tables.iter().map(|table| self.record(table, self.filter_of(table))).collect();
            self.tell_step(JobStep::Started)?;
        }
        let left = self.tables.iter().filter(|table| table.state != TableState::Done).count();
        tracing::info!(tables = left, "going on with a snapshot, beside the stream");
        self.estimate(&tables).await;
        self.tell_job();
        self.store_all()?;
        self.copy_keyless().await
    }

    /// Begins a job beside the stream.
    pub(crate) async fn begin_job(&mut self, kind: JobKind, new: NewJob<'_>) -> Result<usize, NotBegun> {
        self.begin_unstored(kind, new).await?;
        self.store_all()?;
        Ok(self.tables.len())
    }

    /// The same, to be stored by the caller.
    pub(crate) async fn begin_unstored(&mut self, kind: JobKind, new: NewJob<'_>) -> Result<(), NotBegun> {
        if self.is_under_way() {
            let text = "a snapshot is under way: wait for it, or headwater snapshot cancel";
            return Err(NotBegun::Refused(text.to_owned()));
        }
        let mut tables = self.choose(&Matcher::all(new.tables)).await?;
        let except = Matcher::all(new.except);
        tables.retain(|table| !any_matches(&except, &table.table.namespace, &table.table.name));
        if tables.is_empty() {
            return Err(no_table(new.tables));
        }
        if let Some(table) = tables.iter().find(|table| table.key.is_empty() && !new.keyless_too) {
            return Err(NotBegun::Refused(format!(
                "{} has neither a primary key nor a replica identity index: beside the stream its rows come again and replace \
                 nothing. Give it one, leave it out, or ask for it by name",
                super::copier::name_of(table)
            )));
        }
        self.readable(&tables)?;
        let filters: Vec<_> =
            new.filters.iter().map(|(pattern, filter)| (Matcher::new(pattern), filter)).collect();
        let filter_of = |table: &SnapshotTable| {
            let (schema, name) = (&table.table.namespace, &table.table.name);
            let matching = filters.iter().filter(|(matcher, _)| matcher.matches(schema, name));
            matching.map(|(_, filter)| (*filter).clone()).next_back()
        };
        let tables: Vec<_> =
            tables.into_iter().map(|table| (filter_of(&table), table)).map(|(f, t)| (t, f)).collect();
        self.check_filters(&tables).await?;
        let (state, epoch, id) = (JobState::Running, self.parts.epoch, new.id);
        let token = format!("{epoch} {}", self.number());
        let (before, changed_by) = self.job.as_ref().map_or((0, 0), |job| (job.request, job.changed_by));
        let request = new.request.unwrap_or(before);
        self.job = Some(JobRecord { version: VERSION, token, id, kind, state, request, changed_by, epoch });
        self.tables = tables.iter().map(|(table, filter)| self.record(table, filter.clone())).collect();
        let tables: Vec<SnapshotTable> = tables.into_iter().map(|(table, _)| table).collect();
        self.began = Instant::now();
        self.estimates.clear();
        self.estimate(&tables).await;
        self.tell_job();
        self.tell_step(JobStep::Started)?;
        Ok(())
    }

    /// Tells who wants to know that the job has come to a step.
    pub(crate) fn tell_step(&self, step: JobStep) -> Result<(), StageError> {
        match &self.job {
            Some(job) => self.parts.notifier.job(job, &self.tables, step),
            None => Ok(()),
        }
    }

    /// The connection for the catalog, a new one if the last is gone.
    pub(crate) async fn client(&mut self) -> Result<&Client, StageError> {
        if self.client.as_ref().is_none_or(|client| client.is_closed()) {
            let connecting = StageError::postgres("connecting to Postgres for a snapshot");
            self.client =
                Some(headwater_pg::connect(&self.parts.settings.postgres).await.map_err(connecting)?);
        }
        Ok(self.client.as_ref().expect("made above"))
    }

    /// The published tables that are to be copied, in their order.
    pub(crate) async fn choose(&mut self, asked: &[Matcher]) -> Result<Vec<SnapshotTable>, StageError> {
        let (settings, control) = (self.parts.settings.clone(), self.parts.control.clone());
        let tell = tell_lock(&control, "reading the catalog");
        chosen_tables(self.client().await?, &settings, asked, tell).await
    }

    pub(crate) fn readable(&self, tables: &[SnapshotTable]) -> Result<(), StageError> {
        readable(&self.parts.settings, tables)
    }

    pub(crate) fn record(&self, table: &SnapshotTable, filter: Option<String>) -> TableRecord {
        let job = self.job.as_ref().map_or_else(String::new, |job| job.token.clone());
        TableRecord {
            version: VERSION,
            job,
            epoch: self.parts.epoch,
            schema: table.table.namespace.clone(),
            table: table.table.name.clone(),
            relation: table.table.id,
            state: TableState::Waiting,
            partitions: super::changed::partitions_of(table),
            filter,
            pages_done: Vec::new(),
            key_columns: Vec::new(),
            after_key: None,
            again: Again::default(),
            attempt: 0,
            settled: None,
            rows: 0,
            bytes: 0,
            moved_before: MovedKeys::default(),
            moved_unstored: false,
        }
    }

    pub(crate) fn send(&self, input: CopyInput) -> Result<(), StageError> {
        self.parts.inputs.send(Input::Copy(input)).map_err(|_| StageError::Stopped)
    }

    /// A chunk's number; it is acknowledged as what `pending` says.
    pub(crate) fn number(&mut self) -> u32 {
        self.next_chunk += 1;
        self.next_chunk
    }

    /// What the pump reports, but for a chunk that is being written.
    pub(crate) fn note(&mut self, report: Report) -> Result<(), StageError> {
        match report {
            Report::Acknowledged { chunk, rows } => self.acknowledged(chunk, rows),
            Report::Stored => {
                self.unstored = self.unstored.saturating_sub(1);
                Ok(())
            }
            Report::Written { .. } | Report::ReadAgain { .. } => Ok(()),
        }
    }

    fn acknowledged(&mut self, chunk: u32, rows: u64) -> Result<(), StageError> {
        let Some(pending) = self.pending.remove(&chunk) else { return Ok(()) };
        let mut done = false;
        let of = match &pending {
            Pending::Pages { table, .. } | Pending::Key { table, .. } => *table,
        };
        let bytes_before = self.tables[of].bytes;
        let at = match pending {
            Pending::Pages { table, relation, filenode, pages, bytes } => {
                self.tables[table].add_pages(relation, filenode, pages);
                self.tables[table].bytes += bytes.load(Ordering::Relaxed);
                if let Some(undone) = self.undone.get_mut(table) {
                    *undone -= 1;
                    done = *undone == 0;
                }
                table
            }
            Pending::Key { table, after, bytes } => {
                let record = &mut self.tables[table];
                record.after_key = after.or_else(|| record.after_key.take());
                record.again.acknowledged(chunk);
                record.bytes += bytes;
                table
            }
        };
        let record = &mut self.tables[at];
        record.rows += rows;
        record.epoch = self.parts.epoch;
        let bytes = record.bytes - bytes_before;
        self.tell_acknowledged(at, rows, bytes);
        if self.notified.elapsed() > PROGRESS_INTERVAL
            && let Some(job) = &self.job
        {
            self.notified = Instant::now();
            self.parts.notifier.table_in_progress(job, &self.tables, at)?;
        }
        if done { self.set_table(at, TableState::Done, None) } else { self.store_table(at) }
    }

    /// Whether chunks of a table are still on their way.
    pub(crate) fn is_pending(&self, at: usize) -> bool {
        self.pending.values().any(|pending| match pending {
            Pending::Pages { table, .. } | Pending::Key { table, .. } => *table == at,
        })
    }

    pub(crate) fn set_table(
        &mut self,
        at: usize,
        state: TableState,
        error: Option<String>,
    ) -> Result<(), StageError> {
        self.tables[at].state = state;
        self.tell_table(at, state, error.clone());
        if let Some(job) = &self.job {
            match state {
                TableState::Waiting => {}
                TableState::Copying => self.parts.notifier.table_in_progress(job, &self.tables, at)?,
                TableState::Done | TableState::Failed => {
                    self.parts.notifier.table_over(job, &self.tables, at, error.as_deref())?
                }
            }
        }
        self.store_table(at)?;
        let left = self.tables.iter().filter(|table| !table.is_over()).count();
        self.parts.metrics.snapshot_tables_left.set(left as i64);
        if self.is_running() && self.tables.iter().all(TableRecord::is_over) {
            let seconds = self.began.elapsed().as_secs_f64();
            let rows: u64 = self.tables.iter().map(|table| table.rows).sum();
            tracing::info!(tables = self.tables.len(), rows, seconds, "the snapshot is complete");
            self.set_job(JobState::Done)?;
        }
        Ok(())
    }

    pub(crate) fn set_job(&mut self, state: JobState) -> Result<(), StageError> {
        if let Some(job) = &mut self.job {
            job.state = state;
            job.epoch = self.parts.epoch;
        }
        self.tell_job_state(state);
        self.tell_step(match state {
            JobState::Running => JobStep::Resumed,
            JobState::Paused => JobStep::Paused,
            JobState::Done => JobStep::Completed,
            JobState::Cancelled => JobStep::Aborted,
        })?;
        self.store_job()
    }

    pub(crate) fn store_job(&mut self) -> Result<(), StageError> {
        let Some(job) = &self.job else { return Ok(()) };
        let key = format!("{}{}", self.parts.checkpoint_key, super::progress::JOB_PART);
        let value = serde_json::to_vec(job).expect("a record is plain data");
        self.unstored += 1;
        self.send(CopyInput::Store { key, value })
    }

    pub(crate) fn store_table(&mut self, at: usize) -> Result<(), StageError> {
        let record = &self.tables[at];
        let value = serde_json::to_vec(record).expect("a record is plain data");
        let key = record.key(&self.parts.checkpoint_key);
        self.unstored += 1;
        self.send(CopyInput::Store { key, value })
    }

    pub(crate) fn store_all(&mut self) -> Result<(), StageError> {
        (0..self.tables.len()).try_for_each(|at| self.store_table(at))?;
        if let Some(job) = &mut self.job {
            job.epoch = self.parts.epoch;
        }
        self.store_job()
    }
}

pub(crate) fn failed(why: &str) -> StageError {
    StageError::Halt(Halt::new(
        ExitCode::SnapshotRefused,
        format!("the snapshot can't begin: {why}"),
        "correct it, or set snapshot.mode = \"never\"",
    ))
}

/// Time between two looks at what a snapshot holds back.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(5);
