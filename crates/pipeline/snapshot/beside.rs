//! Copies tables beside the stream, chunk by chunk.
//!
//! A chunk is read, handed to the pump, and waited for until it is written; its acknowledgement comes later and is
//! what is stored. Whatever fails for good costs the table its copy, not the stream its life; an initial snapshot
//! that can't be finished halts, because nobody would miss the rows until they are needed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use headwater_pg::CopySession;
use headwater_pg::snapshot_tables::{KeyColumn, Leaf, SnapshotTable, snapshot_tables};
use headwater_pgoutput::ReplicaIdentity;
use tokio::sync::mpsc;

use super::chunker::{self, ChunkRead, ChunkSize, Next, Reached};
use super::control::{Asked, Command};
use super::coordinator::{Coordinator, Pending};
use super::copier::name_of;
use super::progress::{JobKind, JobState, TableState};
use super::{BesideChunk, Chunk, CopyInput, Report};
use crate::backoff::Backoff;
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};

/// How long the stream may take to come to a chunk's position before it is asked to say where it is.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// How often it is asked before the server is made to flush what it has.
const ASKED_BEFORE_FLUSH: u32 = 4;

/// Time between two looks at transactions that have to end first.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long they may take before that is said.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Keys of one chunk of rows that are read again.
const AGAIN_KEYS: usize = 500;

/// Why a table's copy stopped.
enum Stopped {
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

    /// Waits for the acknowledgement of a table's chunks, and lets go of it.
    async fn settle(&mut self, at: usize) -> Result<(), StageError> {
        self.send(CopyInput::Unwatch(self.tables[at].relation))?;
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
        let mut table = self.present(at).await?;
        self.tables[at].relation = table.table.id;
        self.set_table(at, TableState::Copying, None)?;
        let key = table.key.iter().map(|column| column.name.clone()).collect();
        self.send(CopyInput::Watch { relation: table.table.id, key })?;
        let mut places = self.places(at, &table);
        let mut again: Vec<Vec<String>> = Vec::new();
        let mut size = ChunkSize::new(self.parts.settings.snapshot.chunk_bytes);
        let mut session = None;
        let mut signature = None;
        loop {
            self.obey_waiting(asked).await;
            if !self.is_running() || self.tables[at].state != TableState::Copying {
                return Ok(Stopped::ByCommand);
            }
            let next = match places.last() {
                Some(next) => next.clone(),
                None if again.is_empty() => return Ok(Stopped::AtItsEnd),
                None => Next::Again(again.split_off(again.len().saturating_sub(AGAIN_KEYS))),
            };
            let began = Instant::now();
            let read = self.read(at, &mut session, &mut table, &mut signature, &next, &mut size).await?;
            let Some(read) = read else {
                if let Next::Again(keys) = next {
                    again.extend(keys);
                }
                places = self.places(at, &table);
                continue;
            };
            let reached = read.reached.clone();
            match self.hand_over(at, &table, read).await? {
                Ok(overtaken_in_part) => again.extend(overtaken_in_part),
                Err(after) => {
                    if after.is_empty() {
                        size.halve();
                    }
                    self.wait_for(&after).await?;
                    if let Next::Again(keys) = next {
                        again.extend(keys);
                    }
                    continue;
                }
            }
            advance(&mut places, reached);
            self.spent(at, began.elapsed());
        }
    }

    /// The table as it is now.
    async fn present(&mut self, at: usize) -> Result<SnapshotTable, StageError> {
        let publications = self.parts.settings.publications.clone();
        let looking = StageError::postgres("looking for a table of the snapshot");
        let published = snapshot_tables(self.client().await?, &publications).await.map_err(looking)?;
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
        if table.key.is_empty() {
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

    /// Reads a chunk, over a new connection if the old one is gone. None when what is left has to be found anew.
    async fn read(
        &mut self,
        at: usize,
        session: &mut Option<CopySession>,
        table: &mut SnapshotTable,
        signature: &mut Option<Vec<Vec<Option<String>>>>,
        next: &Next,
        size: &mut ChunkSize,
    ) -> Result<Option<ChunkRead>, StageError> {
        let mut backoff = Backoff::new();
        loop {
            let outcome = self.try_read(at, session, table, signature, next, size).await;
            match outcome {
                Ok(read) => {
                    if backoff.used() {
                        tracing::info!(table = self.tables[at].name(), "chunks can be read again");
                        self.tell_waiting(None);
                    }
                    return Ok(read);
                }
                Err(StageError::Copy { source, .. } | StageError::Postgres { source, .. })
                    if source.is_transient() || source.sqlstate() == Some("55P03") =>
                {
                    *session = None;
                    let pause = backoff.next();
                    let reason = crate::error::chain(&source);
                    if backoff.is_first() {
                        tracing::warn!(
                            table = self.tables[at].name(),
                            retry_in_ms = pause.as_millis() as u64,
                            "a chunk can't be read now: {reason}"
                        );
                    }
                    self.tell_waiting(Some(reason));
                    tokio::time::sleep(pause).await;
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
                session.insert(open)
            }
        };
        let opened = chunker::open(open, &table.sql_name(), table.table.id).await.map_err(failed)?;
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

    /// Whether rows may be elsewhere than where they were looked for. Of a partition that was attached nobody has
    /// copied the rows before the key that was reached.
    fn was_moved(&mut self, at: usize, before: &SnapshotTable, now: &SnapshotTable) -> bool {
        let record = &mut self.tables[at];
        let is_new = |leaf: &Leaf| before.leaves.iter().all(|known| known.oid != leaf.oid);
        if now.leaves.iter().any(is_new) {
            tracing::info!(table = record.name(), "a partition was attached: its copy begins anew");
            record.after_key = None;
            record.pages_done.clear();
            for pending in self.pending.values_mut() {
                let (Pending::Pages { table, .. } | Pending::Key { table, .. }) = pending;
                if *table == at {
                    // When it is acknowledged, that is no progress.
                    *pending = Pending::Key { table: at, after: None, bytes: 0 };
                }
            }
        }
        let storage = |table: &SnapshotTable| -> Vec<(u32, u32)> {
            table.leaves.iter().map(|leaf| (leaf.oid, leaf.filenode)).collect()
        };
        storage(before) != storage(now)
    }

    /// Gives a chunk to the pump and waits until it is written. Err is what must be over before it is read again.
    async fn hand_over(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        read: ChunkRead,
    ) -> Result<Result<Vec<Vec<String>>, Vec<u64>>, StageError> {
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
        let chunk = Arc::new(Chunk {
            number,
            table: table.table.clone(),
            lsn: read.watermark.high,
            unix_micros: read.watermark.unix_micros,
        });
        let (snapshot, on_standby, rows) = (read.watermark.snapshot, read.watermark.is_standby, read.rows);
        self.send(CopyInput::Beside(BesideChunk { chunk, snapshot, on_standby, rows }))?;
        let mut asked: u32 = 0;
        loop {
            tokio::select! {
                report = self.parts.reports.recv() => match report.ok_or(StageError::Stopped)? {
                    Report::Written { chunk, overtaken, again, .. } if chunk == number => {
                        if overtaken > 0 {
                            tracing::debug!(table = name_of(table), overtaken, "rows that the stream overtook");
                        }
                        return Ok(Ok(again));
                    }
                    Report::ReadAgain { chunk, after } if chunk == number => {
                        self.pending.remove(&number);
                        return Ok(Err(after));
                    }
                    other => self.note(other)?,
                },
                // An idle server says where it is only when it is asked.
                () = tokio::time::sleep(ASK_INTERVAL) => {
                    self.parts.ask.notify_one();
                    asked += 1;
                    if asked.is_multiple_of(ASKED_BEFORE_FLUSH) {
                        self.flush_wal().await;
                    }
                }
            }
        }
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

    /// Waits until these transactions are over.
    async fn wait_for(&mut self, after: &[u64]) -> Result<(), StageError> {
        let began = Instant::now();
        let mut told = false;
        let looking = "looking for transactions that a chunk waits for";
        let ids: Vec<String> = after.iter().map(u64::to_string).collect();
        loop {
            // Also one that no list of running transactions names, because none after it has ended.
            let sql = "SELECT x FROM unnest($1::text[]) x
                        WHERE NOT pg_catalog.pg_visible_in_snapshot(x::xid8, pg_catalog.pg_current_snapshot()) LIMIT 1";
            let running = self.client().await?.query_opt(sql, &[&ids]).await;
            let running =
                running.map_err(|error| StageError::Postgres { doing: looking, source: error.into() })?;
            let Some(xid) = running.map(|row| row.get::<_, String>(0)) else { break };
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
        }
        if told {
            tracing::info!("the snapshot goes on");
        }
        self.tell_waiting(None);
        Ok(())
    }

    fn spent(&self, at: usize, time: Duration) {
        let name = self.tables[at].name();
        self.parts.control.change(|status| {
            if let Some(table) = status.tables.get_mut(&name) {
                table.seconds += time.as_secs_f64();
            }
        });
    }

    /// Commands that came meanwhile.
    async fn obey_waiting(&mut self, asked: &mut mpsc::Receiver<Asked>) {
        while let Ok((command, answer)) = asked.try_recv() {
            let outcome = self.obey(command).await;
            drop(answer.send(outcome));
        }
    }

    /// Carries a command out and waits until that is stored: whoever was told so finds it so after a restart.
    pub(crate) async fn obey(&mut self, command: Command) -> Result<String, String> {
        let done = self.carry_out(command).await?;
        while !self.is_stored() {
            let report = self.parts.reports.recv().await.ok_or("headwater stops")?;
            self.note(report).map_err(|error| crate::error::chain(&error))?;
        }
        Ok(done)
    }

    /// The error is for who asked.
    async fn carry_out(&mut self, command: Command) -> Result<String, String> {
        let state = self.job.as_ref().map(|job| job.state);
        let change =
            |this: &mut Coordinator, state| this.set_job(state).map_err(|error| crate::error::chain(&error));
        match (command, state) {
            (Command::Start { id, tables, filters }, _) => {
                let id = id.unwrap_or_else(|| format!("ad-hoc-{}", self.parts.epoch));
                let count = self.begin_job(JobKind::AdHoc, id, &tables, &filters).await?;
                Ok(format!("copying {count} tables beside the stream"))
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
                Ok("cancelled; what was written stays".to_owned())
            }
            (Command::Cancel { tables }, Some(JobState::Running | JobState::Paused)) => {
                let matching =
                    |name: &str| tables.iter().any(|pattern| headwater_avro::glob_matches(pattern, name));
                let chosen: Vec<usize> =
                    (0..self.tables.len()).filter(|at| matching(&self.tables[*at].name())).collect();
                for at in &chosen {
                    self.set_table(*at, TableState::Failed, Some("cancelled".to_owned()))
                        .map_err(|error| crate::error::chain(&error))?;
                }
                Ok(format!("{} tables are not copied further", chosen.len()))
            }
            (Command::Pause, _) => Err("no snapshot is running".to_owned()),
            (Command::Resume, _) => Err("no snapshot is paused".to_owned()),
            (Command::Cancel { .. }, _) => Err("no snapshot is under way".to_owned()),
        }
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

/// By the same columns of the same types, wherever they stand.
fn has_key_of(now: &SnapshotTable, before: &SnapshotTable) -> bool {
    let same = |(a, b): (&KeyColumn, &KeyColumn)| a.name == b.name && a.type_sql == b.type_sql;
    now.key.len() == before.key.len() && now.key.iter().zip(&before.key).all(same)
}

fn refused(what: String, advice: &str) -> StageError {
    StageError::Halt(Halt::new(ExitCode::SnapshotRefused, what, advice))
}
