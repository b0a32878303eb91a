//! Copies tables beside the stream, chunk by chunk.
//!
//! A chunk is read, handed to the pump, and waited for until it is written; its acknowledgement comes later and is
//! what is stored. Whatever fails for good costs the table its copy, not the stream its life; an initial snapshot
//! that can't be finished halts, because nobody would miss the rows until they are needed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use headwater_pg::CopySession;
use headwater_pg::lock_wait::telling_locks;
use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pgoutput::ReplicaIdentity;
use tokio::sync::mpsc;

use super::again::OF_ONE_CHUNK_MAX;
use super::changed::has_key_of;
use super::chunker::{self, ChunkRead, ChunkSize, Next, Reached};
use super::control::Asked;
use super::coordinator::{Coordinator, Pending};
use super::copier::name_of;
use super::moved::MovedKeys;
use super::pace::GiveWay;
use super::progress::{JobKind, JobState, TableState};
use super::seen::tell_lock;
use super::table_pattern::Matcher;
use super::touched::Watch;
use super::{BesideChunk, Chunk, CopyInput, KeylessChunk, Report};
use crate::backoff::Backoff;
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};

/// How long the stream may take to come to a chunk's position before it is asked to say where it is: an idle server
/// is asked for every chunk, and at once, because its copy goes no faster than that.
const ASK_FIRST: Duration = Duration::from_millis(3);

/// The time to the next question.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// How often it is asked before the server is made to flush what it has.
const ASKED_BEFORE_FLUSH: u32 = 4;

/// Time between two looks at transactions that have to end first.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long they may take before that is said.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// SQLSTATE of a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// What became of a chunk.
pub(crate) enum Handed {
    /// It is on its way.
    Written,
    /// It is, and the table has to be copied from its first row on.
    Anew,
    /// It has to be read again, smaller.
    TooMuch,
    /// It has to be read again when these transactions are over.
    After(Vec<u64>),
}

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

    fn tell_retried(&self, at: usize, backoff: &Backoff) {
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

    /// Gives a chunk to the pump and waits until it is written.
    pub(crate) async fn hand_over(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        read: ChunkRead,
        next: Next,
        keyless: Option<KeylessChunk>,
    ) -> Result<Handed, StageError> {
        self.store_moved(at).await?;
        let number = self.number();
        let pending = match read.reached {
            Reached::Pages { leaf, pages } => {
                let leaf = &table.leaves[leaf];
                let (relation, filenode) = (leaf.oid, leaf.filenode);
                let bytes = Arc::new(AtomicU64::new(read.bytes));
                Pending::Pages { table: at, relation, filenode, pages, bytes }
            }
            Reached::Key(key) => Pending::Key { table: at, after: Some(key), bytes: read.bytes },
            Reached::End | Reached::Again => Pending::Key { table: at, after: None, bytes: read.bytes },
        };
        self.pending.insert(number, pending);
        let asked = if let Next::Again(keys) = next { keys } else { Vec::new() };
        self.tables[at].again.read_in(number, asked.clone());
        let chunk = Arc::new(Chunk {
            number,
            table: table.table.clone(),
            lsn: read.watermark.high,
            unix_micros: read.watermark.unix_micros,
        });
        let attempt = self.tables[at].attempt;
        let (snapshot, on_standby, rows) = (read.watermark.snapshot, read.watermark.is_standby, read.rows);
        self.send(CopyInput::Beside(BesideChunk {
            chunk,
            snapshot,
            on_standby,
            rows,
            asked,
            attempt,
            keyless,
        }))?;
        self.until_written(at, table, number).await
    }

    async fn until_written(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        number: u32,
    ) -> Result<Handed, StageError> {
        let mut asked: u32 = 0;
        loop {
            tokio::select! {
                report = self.parts.reports.recv() => match report.ok_or(StageError::Stopped)? {
                    Report::Written { chunk, overtaken, again, moved } if chunk == number => {
                        if overtaken > 0 {
                            tracing::debug!(table = name_of(table), overtaken, "rows that the stream overtook");
                        }
                        return self.written(at, number, again, moved);
                    }
                    Report::ReadAgain { chunk, after } if chunk == number => {
                        self.pending.remove(&number);
                        self.tables[at].again.not_written(number);
                        return Ok(if after.is_empty() { Handed::TooMuch } else { Handed::After(after) });
                    }
                    other => self.note(other)?,
                },
                // An idle server says where it is only when it is asked.
                () = tokio::time::sleep(if asked == 0 { ASK_FIRST } else { ASK_INTERVAL }) => {
                    self.parts.ask.notify_one();
                    asked += 1;
                    if asked.is_multiple_of(ASKED_BEFORE_FLUSH) {
                        self.flush_wal().await;
                    }
                }
            }
        }
    }

    /// With the next chunk the pump forgets the moved rows that it has told: they are stored by then.
    async fn store_moved(&mut self, at: usize) -> Result<(), StageError> {
        if !self.tables[at].moved_unstored {
            return Ok(());
        }
        self.store_table(at)?;
        while !self.is_stored() {
            let report = self.parts.reports.recv().await.ok_or(StageError::Stopped)?;
            self.note(report)?;
        }
        self.tables[at].moved_unstored = false;
        self.tables[at].moved_before = MovedKeys::default();
        Ok(())
    }

    /// A chunk is on its way, but for rows of which the stream has said something newer and not all of it.
    fn written(
        &mut self,
        at: usize,
        number: u32,
        again: Vec<Vec<String>>,
        moved: MovedKeys,
    ) -> Result<Handed, StageError> {
        let too_much = again.len() > OF_ONE_CHUNK_MAX;
        let record = &mut self.tables[at];
        if !too_much {
            record.again.add(again);
        }
        let any_moved = moved != MovedKeys::default();
        let anew = record.moved(moved);
        if anew {
            tracing::warn!(
                table = record.name(),
                "too many rows of it came to another key without the values that they kept: its copy begins anew"
            );
        }
        for (chunk, pending) in &mut self.pending {
            let (Pending::Pages { table, .. } | Pending::Key { table, .. }) = pending;
            if *table == at && (anew || too_much && *chunk == number) {
                // When it is acknowledged, that is no progress.
                *pending = Pending::Key { table: at, after: None, bytes: 0 };
            }
        }
        if any_moved {
            self.tables[at].moved_unstored = true;
            self.store_table(at)?;
        }
        Ok(match (anew, too_much) {
            (true, _) => Handed::Anew,
            (_, true) => Handed::TooMuch,
            _ => Handed::Written,
        })
    }

    /// WAL that nobody's commit waits for can stay unflushed for seconds, and the stream does not have it before. A
    /// transaction of our own that has an id makes the server flush soon.
    async fn flush_wal(&mut self) {
        let sql = "SELECT pg_catalog.pg_current_xact_id()";
        let Ok(client) = self.client().await else { return };
        if let Err(error) = client.query(sql, &[]).await {
            // A standby gives no ids. The chunk waits a little longer then.
            tracing::debug!(%error, "asking the server to flush its WAL");
        }
    }

    /// One of these transactions that is not over.
    async fn one_that_runs(&mut self, ids: &[String]) -> Result<Option<String>, StageError> {
        // Also one that no list of running transactions names, because none after it has ended.
        let sql = "SELECT x FROM unnest($1::text[]) x
                    WHERE NOT pg_catalog.pg_visible_in_snapshot(x::xid8, pg_catalog.pg_current_snapshot()) LIMIT 1";
        let looking = "looking for transactions that a chunk waits for";
        let row = self.client().await?.query_opt(sql, &[&ids]).await;
        let row = row.map_err(|error| StageError::Postgres { doing: looking, source: error.into() })?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Waits until these transactions are over, or a command ends the copy.
    pub(crate) async fn wait_for(
        &mut self,
        at: usize,
        after: &[u64],
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<(), StageError> {
        let began = Instant::now();
        let mut told = false;
        let mut backoff = Backoff::new();
        let ids: Vec<String> = after.iter().map(u64::to_string).collect();
        loop {
            let running = match self.one_that_runs(&ids).await {
                // The next look says.
                Err(StageError::Postgres { source, .. }) if source.is_transient() => {
                    self.wait_to_retry(at, &mut backoff, &source, asked).await?;
                    if self.goes_on(at) {
                        continue;
                    }
                    break;
                }
                running => running?,
            };
            self.tell_retried(at, &backoff);
            backoff = Backoff::new();
            let Some(xid) = running else { break };
            if began.elapsed() > TOLD_AFTER {
                let reason = format!(
                    "transaction {xid}, which was open when the copy of this table began, has to end first"
                );
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("the snapshot waits: {reason}");
                }
                self.tell_waiting(Some(reason));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            self.obey_waiting(asked).await?;
            if !self.goes_on(at) {
                break;
            }
        }
        if told {
            tracing::info!("the snapshot goes on");
        }
        self.tell_waiting(None);
        Ok(())
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
