//! Copies tables beside the stream, chunk by chunk.
//!
//! A chunk is read, handed to the pump, and waited for until it is written; its acknowledgement comes later and is
//! what is stored. Whatever fails for good costs the table its copy, not the stream its life; an initial snapshot
//! that can't be finished halts, because nobody would miss the rows until they are needed.

use std::time::Instant;

use headwater_pg::CopySession;
use headwater_pg::lock_wait::telling_locks;
use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pgoutput::ReplicaIdentity;
use tokio::sync::mpsc;

use super::CopyInput;
use super::changed::has_key_of;
use super::chunker::{self, ChunkRead, ChunkSize, Next, Reached};
use super::control::Asked;
use super::coordinator::Coordinator;
use super::copier::name_of;
use super::hand_over::Handed;
use super::pace::GiveWay;
use super::progress::{JobKind, JobState, TableState};
use super::seen::tell_lock;
use super::table_pattern::Matcher;
use super::touched::Watch;
use crate::backoff::Backoff;
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};

/// SQLSTATE of a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// The server's word for a statement that took longer than its timeout.
const QUERY_CANCELED: &str = "57014";

/// Where a chunk is read: the connection, the table as it was last, what its places depend on, and how much.
type ReadPlace<'a> = (
    &'a mut Option<CopySession>,
    &'a mut SnapshotTable,
    &'a mut Option<Vec<Vec<Option<String>>>>,
    &'a mut ChunkSize,
);

/// Why a table's copy stopped.
pub(crate) enum Stopped {
    /// Its last chunk is written.
    AtItsEnd,
    /// A command: the job's state says which.
    ByCommand,
    /// It can't be copied.
    Failed(StageError),
}

impl Coordinator {
    /// Copies what is left of the job, until it is done or a command stops it.
    pub(crate) async fn copy_beside(&mut self, asked: &mut mpsc::Receiver<Asked>) -> Result<(), StageError> {
        // What is on its way from under the slot's snapshot decides what is left.
        while !self.pending.is_empty() {
            let report = self.parts.reports.recv().await.ok_or(StageError::Stopped)?;
            self.note(report)?;
        }
        self.undone.clear();
        for at in 0..self.tables.len() {
            if matches!(self.tables[at].state, TableState::Done | TableState::Failed) {
                continue;
            }
            match self.copy_table(at, asked).await {
                Stopped::AtItsEnd => {
                    self.settle(at).await?;
                    self.set_table(at, TableState::Done, None)?;
                }
                Stopped::ByCommand => {
                    self.settle(at).await?;
                    return Ok(());
                }
                Stopped::Failed(StageError::Stopped) => return Err(StageError::Stopped),
                Stopped::Failed(error) => {
                    self.settle(at).await?;
                    let initial = self.job.as_ref().is_some_and(|job| job.kind == JobKind::Initial);
                    if initial {
                        return Err(error);
                    }
                    self.set_table(at, TableState::Failed, Some(crate::error::chain(&error)))?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the acknowledgement of a table's chunks, and lets go of it unless it is paused.
    async fn settle(&mut self, at: usize) -> Result<(), StageError> {
        let relation = self.tables[at].relation;
        let paused = self.job.as_ref().is_some_and(|job| job.state == JobState::Paused);
        let rests = paused && self.tables[at].is_copied_by_key();
        self.send(if rests { CopyInput::Rest(relation) } else { CopyInput::Unwatch(relation) })?;
        while self.is_pending(at) {
            let report = self.parts.reports.recv().await.ok_or(StageError::Stopped)?;
            self.note(report)?;
        }
        Ok(())
    }

    async fn copy_table(&mut self, at: usize, asked: &mut mpsc::Receiver<Asked>) -> Stopped {
        match self.copy_chunks(at, asked).await {
            Ok(stopped) => stopped,
            Err(error) => Stopped::Failed(error),
        }
    }

    async fn copy_chunks(
        &mut self,
        at: usize,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Stopped, StageError> {
        let Some(mut table) = self.present_in_time(at, asked).await? else { return Ok(Stopped::ByCommand) };
        if table.key.is_empty() {
            return self.copy_keyless_beside(at, &table, asked).await;
        }
        self.begin_by_key(at, &table)?;
        let mut places = self.places(at, &table);
        let mut size = ChunkSize::new(self.parts.settings.snapshot.chunk_bytes, &self.pace);
        let mut session = None;
        let mut signature = None;
        let mut in_a_row = false;
        let metrics = self.parts.metrics.clone();
        let passed = || metrics.transactions.get();
        let mut give_way = GiveWay::new(self.parts.settings.snapshot.gives_way, passed());
        loop {
            self.obey_waiting(asked).await?;
            if !self.is_running() || self.tables[at].state != TableState::Copying {
                return Ok(Stopped::ByCommand);
            }
            // Keys that change all the time must not keep the rest waiting.
            let again = if in_a_row && !places.is_empty() {
                None
            } else {
                self.tables[at].again.next(places.is_empty())
            };
            let next = match (again, places.last()) {
                (Some(keys), _) => Next::Again(keys),
                (None, Some(next)) => next.clone(),
                (None, None) => return Ok(Stopped::AtItsEnd),
            };
            in_a_row = matches!(next, Next::Again(_));
            let began = Instant::now();
            let place = (&mut session, &mut table, &mut signature, &mut size);
            let read = self.read(at, place, &next, asked).await?;
            let Some(read) = read else {
                places = self.places(at, &table);
                continue;
            };
            let reached = read.reached.clone();
            let (rows, bytes) = (read.rows.iter().map(|rows| rows.len() as u64).sum(), read.bytes);
            match self.hand_over(at, &table, read, next, None).await? {
                Handed::Written => advance(&mut places, reached),
                Handed::Anew => places = self.places(at, &table),
                Handed::TooMuch => size.halve(),
                Handed::After(transactions) => self.wait_for(at, &transactions, asked).await?,
            }
            let rest = give_way.rest(began.elapsed(), passed());
            tokio::join!(self.pace.read(rows, bytes), tokio::time::sleep(rest));
        }
    }

    /// From here on it is copied by key.
    fn begin_by_key(&mut self, at: usize, table: &SnapshotTable) -> Result<(), StageError> {
        let key: Vec<String> = table.key.iter().map(|column| column.name.clone()).collect();
        self.begin_anew_if_other(at, table);
        let record = &mut self.tables[at];
        record.relation = table.table.id;
        if record.attempt > 0 && record.key_columns != key {
            return Err(refused(
                format!("{} has another key than when its rows were set aside", name_of(table)),
                "copy it as a whole: headwater snapshot start",
            ));
        }
        if record.key_columns != key {
            // What was stored by another key says nothing.
            record.after_key = None;
            record.again.clear();
            record.key_columns = key;
        }
        self.set_table(at, TableState::Copying, None)?;
        self.watch(at, true)
    }

    pub(crate) fn watch(&self, at: usize, awake: bool) -> Result<(), StageError> {
        let record = &self.tables[at];
        let (key, job, table) = (record.key_columns.clone(), record.job.clone(), record.name());
        let moved = record.moved_before.clone();
        self.send(CopyInput::Watch(record.relation, Watch { key, job, table, moved, awake }))
    }

    /// Watches what a session before this one has begun to copy by key: the stream must not pass a change that
    /// concerns it unseen.
    pub(crate) fn watch_on(&self) -> Result<(), StageError> {
        let is_open =
            self.job.as_ref().is_some_and(|job| matches!(job.state, JobState::Running | JobState::Paused));
        let begun = (0..self.tables.len()).filter(|at| is_open && self.tables[*at].is_copied_by_key());
        begun.into_iter().try_for_each(|at| self.watch(at, false))
    }

    /// The table as it is now.
    async fn present(&mut self, at: usize) -> Result<SnapshotTable, StageError> {
        let published = self.choose(&[Matcher::Glob("*".to_owned())]).await?;
        let record = &self.tables[at];
        let name = record.name();
        let found = published
            .into_iter()
            .find(|table| table.table.namespace == record.schema && table.table.name == record.table);
        let Some(table) = found else {
            return Err(refused(
                format!("{name} is not published any more, and its copy is not complete"),
                "put it back into the publication, or leave it out with snapshot.exclude_tables",
            ));
        };
        let is_asked_for = self.job.as_ref().is_some_and(|job| job.kind == JobKind::AdHoc);
        if table.key.is_empty() && !(is_asked_for && record.key_columns.is_empty()) {
            return Err(refused(
                format!("{name} has no key any more, and its copy is not complete"),
                "give it a primary key or a replica identity index, or leave it out with snapshot.exclude_tables",
            ));
        }
        self.readable(std::slice::from_ref(&table))?;
        Ok(table)
    }

    /// What is left of a table, the last first.
    fn places(&self, at: usize, table: &SnapshotTable) -> Vec<Next> {
        let record = &self.tables[at];
        if record.attempt > 0 {
            // Nothing but the keys that were asked for.
            return Vec::new();
        }
        if record.pages_done.is_empty() || record.after_key.is_some() {
            return vec![Next::Key(record.after_key.clone())];
        }
        // An update that came through the stream since then may have moved its row out of the pages that are left,
        // without the values that it did not touch: then only the key finds every row.
        if table.toastable && table.table.replica_identity != ReplicaIdentity::Full {
            return vec![Next::Key(None)];
        }
        let mut places = Vec::new();
        for (leaf_at, leaf) in table.leaves.iter().enumerate() {
            let left = record.pages_left(leaf.oid, leaf.filenode, leaf.pages);
            places.extend(left.into_iter().map(|pages| Next::Pages { leaf: leaf_at, pages }));
        }
        places.reverse();
        places
    }

    /// The table as it is now, once the server can be asked; None when a command ended its copy meanwhile.
    async fn present_in_time(
        &mut self,
        at: usize,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Option<SnapshotTable>, StageError> {
        let mut backoff = Backoff::new();
        loop {
            match self.present(at).await {
                Err(StageError::Postgres { source, .. }) if source.is_transient() => {
                    self.wait_to_retry(at, &mut backoff, &source, asked).await?;
                    if !self.goes_on(at) {
                        return Ok(None);
                    }
                }
                present => {
                    self.tell_retried(at, &backoff);
                    return present.map(Some);
                }
            }
        }
    }

    /// Whether no command has ended or paused the copy of a table.
    pub(crate) fn goes_on(&self, at: usize) -> bool {
        self.is_running() && !self.tables[at].is_over()
    }

    /// Waits until the server is asked again; commands are obeyed meanwhile.
    pub(crate) async fn wait_to_retry(
        &mut self,
        at: usize,
        backoff: &mut Backoff,
        source: &headwater_pg::Error,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<(), StageError> {
        let pause = backoff.next();
        let reason = crate::error::chain(source);
        if backoff.is_first() {
            tracing::warn!(
                table = self.tables[at].name(),
                retry_in_ms = pause.as_millis() as u64,
                "a chunk can't be read now: {reason}"
            );
        }
        self.tell_waiting(Some(reason));
        tokio::time::sleep(pause).await;
        self.obey_waiting(asked).await
    }

    pub(super) fn tell_retried(&self, at: usize, backoff: &Backoff) {
        if backoff.used() {
            tracing::info!(table = self.tables[at].name(), "chunks can be read again");
            self.tell_waiting(None);
        }
    }

    /// Reads a chunk, over a new connection if the old one is gone. None when what is left has to be found anew, or a
    /// command came.
    async fn read(
        &mut self,
        at: usize,
        (session, table, signature, size): ReadPlace<'_>,
        next: &Next,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Option<ChunkRead>, StageError> {
        let mut backoff = Backoff::new();
        loop {
            let outcome = self.try_read(at, session, table, signature, next, size).await;
            match outcome {
                Ok(read) => {
                    self.tell_retried(at, &backoff);
                    return Ok(read);
                }
                Err(StageError::Copy { source, .. } | StageError::Postgres { source, .. })
                    if source.is_transient() =>
                {
                    *session = None;
                    if source.sqlstate() == Some(QUERY_CANCELED) {
                        size.halve();
                    }
                    self.wait_to_retry(at, &mut backoff, &source, asked).await?;
                    if !self.goes_on(at) {
                        self.tell_waiting(None);
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_read(
        &mut self,
        at: usize,
        session: &mut Option<CopySession>,
        table: &mut SnapshotTable,
        signature: &mut Option<Vec<Vec<Option<String>>>>,
        next: &Next,
        size: &mut ChunkSize,
    ) -> Result<Option<ChunkRead>, StageError> {
        let failed = |source| StageError::Copy { table: name_of(table), source };
        let open = match session {
            Some(open) => open,
            None => {
                let mut open = CopySession::connect(&self.parts.settings.postgres).await.map_err(failed)?;
                open.set_max_frame_bytes(self.parts.settings.max_row_bytes);
                let limits = &self.parts.settings.snapshot;
                open.set_timeouts(limits.lock_timeout, limits.statement_timeout).await.map_err(failed)?;
                session.insert(open)
            }
        };
        let (doing, pids) = (format!("the copy of {}", name_of(table)), [open.backend_pid()]);
        let tell = tell_lock(&self.parts.control, &doing);
        let sql_name = table.sql_name();
        let opening = chunker::open(open, &sql_name, table.table.id);
        let opened = telling_locks(&self.parts.settings.postgres, &pids, tell, opening).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(source) => {
                if source.sqlstate() == Some(UNDEFINED_TABLE) {
                    // It may have another name now: what is published says so.
                    self.present(at).await?;
                }
                return Err(failed(source));
            }
        };
        if signature.as_ref() != Some(&opened.signature) {
            // Locked as it is, nobody changes it while it is looked up.
            let now = self.present(at).await?;
            if now.table.id != table.table.id || !has_key_of(&now, table) {
                return Err(refused(
                    format!("{} was made anew, or its key was changed, while it was copied", name_of(table)),
                    "begin its copy anew: headwater snapshot start",
                ));
            }
            let moved = self.was_moved(at, table, &now);
            *signature = Some(opened.signature.clone());
            *table = now;
            if moved {
                let ending = open.query("ROLLBACK").await;
                ending.map_err(|source| StageError::Copy { table: name_of(table), source })?;
                return Ok(None);
            }
        }
        let filter = self.tables[at].filter.as_deref();
        let read = chunker::read(open, opened, table, filter, next, size).await?;
        if read.cut {
            *session = None;
        }
        Ok(Some(read))
    }
}

/// Takes what was reached off what is left.
fn advance(places: &mut Vec<Next>, reached: Reached) {
    match reached {
        Reached::Again => {}
        Reached::End => drop(places.pop()),
        Reached::Key(key) => {
            if let Some(place) = places.last_mut() {
                *place = Next::Key(Some(key));
            }
        }
        Reached::Pages { pages, .. } => {
            if let Some(Next::Pages { pages: left, .. }) = places.last_mut() {
                left.start = pages.end;
                if left.start >= left.end {
                    places.pop();
                }
            }
        }
    }
}

pub(crate) fn refused(what: String, advice: &str) -> StageError {
    StageError::Halt(Halt::new(ExitCode::SnapshotRefused, what, advice))
}
