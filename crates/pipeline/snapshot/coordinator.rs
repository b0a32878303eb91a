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
use headwater_pg::snapshot_tables::{SnapshotTable, snapshot_tables};
use headwater_pg::transaction_snapshot::SnapshotKeeper;
use headwater_pgoutput::Lsn;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};

use super::again::Again;
use super::control::{SnapshotControl, SnapshotStatus, TableStatus};
use super::progress::{JobKind, JobRecord, JobState, StoredSnapshot, TableRecord, TableState, VERSION};
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
}

/// See the module's documentation.
pub(crate) struct Coordinator {
    pub(crate) parts: CoordinatorParts,
    /// For the catalog; there when it is first needed.
    client: Option<Client>,
    pub(crate) job: Option<JobRecord>,
    pub(crate) tables: Vec<TableRecord>,
    pub(crate) pending: HashMap<u32, Pending>,
    /// Parts of each table that are copied under the slot's snapshot and not acknowledged.
    pub(crate) undone: Vec<usize>,
    /// Records of progress on their way.
    unstored: u64,
    next_chunk: u32,
    began: Instant,
    /// When progress was logged last.
    told: Instant,
}

impl Coordinator {
    pub(crate) fn new(mut parts: CoordinatorParts) -> Coordinator {
        let StoredSnapshot { job, tables, .. } = std::mem::take(&mut parts.stored);
        Coordinator {
            parts,
            client: None,
            job,
            tables,
            pending: HashMap::new(),
            undone: Vec::new(),
            unstored: 0,
            next_chunk: 0,
            began: Instant::now(),
            told: Instant::now(),
        }
    }

    /// Runs until the session ends, or until a snapshot that was all is done.
    pub(crate) async fn run(mut self) -> Result<SnapshotEnd, StageError> {
        let control = self.parts.control.clone();
        let mut asked = control.asked.lock().await;
        self.tell_job(None);
        self.tell_settled()?;
        self.give_up_if_unwanted()?;
        self.watch_on()?;
        let began_with_one = self.is_running();
        if began_with_one {
            match self.parts.keeper.take() {
                Some(keeper) => self.copy_under(keeper, &mut asked).await?,
                None => self.take_up().await?,
            }
        }
        self.let_stream_begin()?;
        if self.parts.settings.snapshot.mode == SnapshotMode::Always && !began_with_one {
            self.begin_job(JobKind::AdHoc, "always".to_owned(), &[], &[])
                .await
                .map_err(|why| failed(&why))?;
        }
        loop {
            if self.is_running() {
                self.copy_beside(&mut asked).await?;
            }
            if self.parts.settings.snapshot.mode == SnapshotMode::Only && self.is_done() {
                return Ok(SnapshotEnd::OnlySnapshot);
            }
            tokio::select! {
                command = asked.recv() => {
                    let Some((command, answer)) = command else { return std::future::pending().await };
                    let outcome = self.obey(command).await;
                    // Who asked may be gone.
                    drop(answer.send(outcome));
                }
                report = self.parts.reports.recv() => self.note(report.ok_or(StageError::Stopped)?)?,
            }
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
        if self.tables.is_empty() {
            let tables = self.choose(&[]).await?;
            self.readable(&tables)?;
            self.tables = tables.iter().map(|table| self.record(table, None)).collect();
        }
        let left = self.tables.iter().filter(|table| table.state != TableState::Done).count();
        tracing::info!(tables = left, "going on with a snapshot, beside the stream");
        self.tell_job(None);
        self.store_all()?;
        self.copy_keyless().await
    }

    /// Begins a job beside the stream. The error is for who asked.
    pub(crate) async fn begin_job(
        &mut self,
        kind: JobKind,
        id: String,
        patterns: &[String],
        filters: &[(String, String)],
    ) -> Result<usize, String> {
        if self.job.as_ref().is_some_and(|job| matches!(job.state, JobState::Running | JobState::Paused)) {
            return Err("a snapshot is under way: wait for it, or headwater snapshot cancel".to_owned());
        }
        let tables = self.choose(patterns).await.map_err(|error| crate::error::chain(&error))?;
        if tables.is_empty() {
            return Err(format!("no published table matches {}", patterns.join(", ")));
        }
        if let Some(table) = tables.iter().find(|table| table.key.is_empty()) {
            return Err(format!(
                "{} has neither a primary key nor a replica identity index: beside the stream it can't be copied in order. \
                 Give it one, or leave it out",
                super::copier::name_of(table)
            ));
        }
        self.readable(&tables).map_err(|error| crate::error::chain(&error))?;
        let filter_of = |table: &SnapshotTable| {
            let name = super::copier::name_of(table);
            let matching = filters.iter().filter(|(pattern, _)| headwater_avro::glob_matches(pattern, &name));
            matching.map(|(_, filter)| filter.clone()).next_back()
        };
        let (state, epoch) = (JobState::Running, self.parts.epoch);
        let token = format!("{epoch} {}", self.number());
        self.job = Some(JobRecord { version: VERSION, token, id, kind, state, epoch });
        self.tables = tables.iter().map(|table| self.record(table, filter_of(table))).collect();
        self.began = Instant::now();
        self.tell_job(None);
        self.store_all().map_err(|error| crate::error::chain(&error))?;
        Ok(self.tables.len())
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
    pub(crate) async fn choose(&mut self, patterns: &[String]) -> Result<Vec<SnapshotTable>, StageError> {
        let publications = self.parts.settings.publications.clone();
        let looking = StageError::postgres("looking for the tables of the snapshot");
        let mut tables = snapshot_tables(self.client().await?, &publications).await.map_err(looking)?;
        let settings = &self.parts.settings;
        tables.retain(|table| {
            let (schema, name) = (table.table.namespace.as_str(), table.table.name.as_str());
            let full = format!("{schema}.{name}");
            let asked = match patterns {
                [] => settings.snapshot.tables.takes(schema, name),
                patterns => patterns.iter().any(|pattern| headwater_avro::glob_matches(pattern, &full)),
            };
            let outbox =
                settings.outbox.iter().find(|outbox| outbox.schema == schema && outbox.table == name);
            asked && settings.takes_table(schema, name) && outbox.is_none_or(|outbox| outbox.snapshot)
        });
        let place = |table: &SnapshotTable| {
            let name = super::copier::name_of(table);
            let order = &settings.snapshot.order;
            order
                .iter()
                .position(|pattern| headwater_avro::glob_matches(pattern, &name))
                .unwrap_or(order.len())
        };
        tables.sort_by_key(place);
        Ok(tables)
    }

    /// All that this role can't read, at once.
    pub(crate) fn readable(&self, tables: &[SnapshotTable]) -> Result<(), StageError> {
        let name = super::copier::name_of;
        let user = &self.parts.settings.postgres.user;
        let hidden: Vec<String> = tables.iter().filter(|table| !table.may_select).map(name).collect();
        if !hidden.is_empty() {
            return Err(StageError::Halt(Halt::new(
                ExitCode::SnapshotRefused,
                format!("the role {user} may not read {}, and a snapshot has to", hidden.join(", ")),
                format!(
                    "GRANT SELECT ON {} TO {user}; or snapshot.mode = \"never\", or leave them out with snapshot.exclude_tables",
                    hidden.join(", ")
                ),
            )));
        }
        let guarded: Vec<String> = tables.iter().filter(|table| table.row_security).map(name).collect();
        if !guarded.is_empty() {
            return Err(StageError::Halt(Halt::new(
                ExitCode::SnapshotRefused,
                format!(
                    "row-level security hides rows of {} from the role {user}: a snapshot would lack them, and the stream has them",
                    guarded.join(", ")
                ),
                format!("ALTER ROLE {user} BYPASSRLS, or leave the tables out with snapshot.exclude_tables"),
            )));
        }
        Ok(())
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
            filter,
            pages_done: Vec::new(),
            key_columns: Vec::new(),
            after_key: None,
            again: Again::default(),
            settled: None,
            rows: 0,
            bytes: 0,
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
        let name = record.name();
        let labels = [name.as_str()];
        self.parts.metrics.snapshot_rows.with_label_values(&labels).inc_by(rows);
        self.parts.metrics.snapshot_bytes.with_label_values(&labels).inc_by(record.bytes - bytes_before);
        self.parts.metrics.snapshot_chunks.with_label_values(&labels).inc();
        let (rows, bytes) = (record.rows, record.bytes);
        if self.told.elapsed() > TOLD_INTERVAL {
            self.told = Instant::now();
            tracing::info!(table = name, rows, "copying");
        }
        self.parts.control.change(|status| {
            if let Some(table) = status.tables.get_mut(&name) {
                (table.rows, table.bytes) = (rows, bytes);
                table.chunks += 1;
                table.rows_estimated = table.rows_estimated.max(rows);
            }
        });
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
        let name = self.tables[at].name();
        let rows = self.tables[at].rows;
        match state {
            TableState::Done => tracing::info!(table = name, rows, "copied"),
            TableState::Failed => {
                self.parts.metrics.errors.with_label_values(&["snapshot"]).inc();
                tracing::warn!(table = name, error, "giving up the copy of a table");
            }
            TableState::Waiting | TableState::Copying => {}
        }
        self.parts.control.change(|status| {
            if let Some(table) = status.tables.get_mut(&name) {
                table.state = state;
                table.error = error;
                if state == TableState::Done {
                    table.rows_estimated = rows;
                }
            }
        });
        self.store_table(at)?;
        let is_over = |table: &TableRecord| matches!(table.state, TableState::Done | TableState::Failed);
        let left = self.tables.iter().filter(|table| !is_over(table)).count();
        self.parts.metrics.snapshot_tables_left.set(left as i64);
        if self.is_running() && self.tables.iter().all(is_over) {
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
        self.parts.control.change(|status| {
            status.state = state;
            status.waiting = None;
            status.transaction_age_seconds = None;
        });
        self.store_job()
    }

    fn store_job(&mut self) -> Result<(), StageError> {
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

    /// Tells of the job and its tables anew.
    pub(crate) fn tell_job(&self, estimates: Option<&[SnapshotTable]>) {
        let Some(job) = &self.job else { return };
        let status_of = |(at, record): (usize, &TableRecord)| {
            let estimated = estimates
                .and_then(|tables| tables.get(at))
                .map_or(0, |table| table.leaves.iter().map(|leaf| leaf.estimated_rows).sum());
            let status = TableStatus {
                state: record.state,
                rows: record.rows,
                rows_estimated: record.rows.max(estimated),
                bytes: record.bytes,
                chunks: 0,
                seconds: 0.0,
                error: None,
            };
            (record.name(), status)
        };
        self.parts.control.set(SnapshotStatus {
            id: job.id.clone(),
            kind: job.kind,
            state: job.state,
            waiting: None,
            transaction_age_seconds: None,
            tables: self.tables.iter().enumerate().map(status_of).collect(),
        });
    }

    /// Says what holds the job up, or that nothing does any more.
    pub(crate) fn tell_waiting(&self, waiting: Option<String>) {
        self.parts.control.change(|status| status.waiting = waiting);
    }
}

pub(crate) fn failed(why: &str) -> StageError {
    StageError::Halt(Halt::new(
        ExitCode::SnapshotRefused,
        format!("the snapshot can't begin: {why}"),
        "correct it, or set snapshot.mode = \"never\"",
    ))
}

/// Time between two lines of the log about a copy.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two looks at what a snapshot holds back.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(5);
