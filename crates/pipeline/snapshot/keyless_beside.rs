//! Tables without a key, copied beside the stream because somebody asked for it.
//!
//! Rows without a key can't be told apart, so the stream can't overtake them one by one, and no row takes the place of
//! another. What holds instead: all rows of the copy are of one snapshot, which sees every change of the table that was
//! committed before the rows' position and none at it or behind it. So the table is, as a multiset, the rows of the copy
//! and the changes whose commit lies there or behind (the LSN of `headwater.id`). What is weaker than by a key: whoever
//! reads the topic from its beginning has to let go of the changes before it; the snapshot is held open for the whole
//! table; and a copy that is interrupted begins anew, with all of its rows.
//!
//! A commit can be in WAL and not yet visible, so not every snapshot is like that. A chunk without rows asks the pump
//! whether this one is; it is quick, because any change that the stream has brought meanwhile makes it say no.

use std::time::{Duration, Instant};

use headwater_pg::CopySession;
use headwater_pg::lock_wait::telling_locks;
use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::transaction_snapshot::{Watermark, begin_at_present};
use tokio::sync::mpsc;

use super::KeylessChunk;
use super::beside::{Stopped, refused};
use super::chunker::{ChunkRead, Next, Reached};
use super::control::Asked;
use super::coordinator::Coordinator;
use super::copier::name_of;
use super::hand_over::Handed;
use super::pace::GiveWay;
use super::progress::TableState;
use super::seen::tell_lock;
use crate::backoff::Backoff;
use crate::error::{StageError, chain};

/// How long snapshots are taken until one has been overtaken by no change of the table before its first row is written.
const PATIENCE: Duration = Duration::from_secs(120);

/// A chunk without rows.
fn none_of(watermark: &Watermark) -> ChunkRead {
    ChunkRead { watermark: watermark.clone(), rows: Vec::new(), bytes: 0, reached: Reached::End, cut: false }
}

/// What became of one of them.
enum Attempt {
    Stopped(Stopped),
    /// The stream was quicker; these transactions have to end first.
    Overtaken(Vec<u64>),
    /// The server can't be asked now, and nothing is written.
    Interrupted(headwater_pg::Error),
}

impl Coordinator {
    /// Copies a table without a key; nothing of it counts before all of it does.
    pub(crate) async fn copy_keyless_beside(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Stopped, StageError> {
        tracing::warn!(
            table = name_of(table),
            "has no key: its copy is all rows under one snapshot, in one transaction. They replace nothing that the topic has: \
             the table is these rows and the changes whose commit lies at their position (headwater.id) or behind it"
        );
        self.tables[at].relation = table.table.id;
        self.tables[at].rows = 0;
        self.set_table(at, TableState::Copying, None)?;
        let mut backoff = Backoff::new();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            self.watch(at, true)?;
            let attempt = self.try_keyless(at, table, asked).await;
            self.parts.control.set_transaction(None);
            match attempt? {
                Attempt::Stopped(stopped) => return Ok(stopped),
                Attempt::Overtaken(after) => self.wait_for(at, &after, asked).await?,
                Attempt::Interrupted(source) => self.wait_to_retry(at, &mut backoff, &source, asked).await?,
            }
            if !self.goes_on(at) {
                return Ok(Stopped::ByCommand);
            }
        }
        Err(refused(
            format!(
                "{} has no key and changes without a pause: no snapshot could be joined to the stream within {} s",
                name_of(table),
                PATIENCE.as_secs()
            ),
            "copy it when it changes less, or give it a primary key",
        ))
    }

    async fn try_keyless(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Attempt, StageError> {
        let mut first = KeylessChunk::First;
        let copied = self.copy_keyless_chunks(at, table, &mut first, asked).await;
        match copied {
            Err(StageError::Copy { source, .. }) if source.is_transient() && first == KeylessChunk::First => {
                Ok(Attempt::Interrupted(source))
            }
            Err(StageError::Copy { source, .. }) if source.is_transient() => Err(refused(
                format!(
                    "the copy of {}, which has no key, was interrupted: {}",
                    name_of(table),
                    chain(&source)
                ),
                "begin it anew with headwater snapshot start: the rows of the last copy are the ones that count",
            )),
            copied => copied,
        }
    }

    async fn copy_keyless_chunks(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        which: &mut KeylessChunk,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Attempt, StageError> {
        let failed = |source| StageError::Copy { table: name_of(table), source };
        let (mut session, watermark) = self.begin_keyless(table).await?;
        let (began, limit) = (Instant::now(), self.parts.settings.snapshot.max_transaction_age);
        self.parts.control.set_transaction(Some((began, limit)));
        let metrics = self.parts.metrics.clone();
        let mut give_way = GiveWay::new(self.parts.settings.snapshot.gives_way, metrics.transactions.get());
        let filter = self.tables[at].filter.clone();
        match self.hand_over(at, table, none_of(&watermark), Next::Key(None), Some(*which)).await? {
            Handed::Written => *which = KeylessChunk::Later,
            Handed::After(transactions) => return Ok(Attempt::Overtaken(transactions)),
            Handed::TooMuch | Handed::Anew => return Ok(Attempt::Overtaken(Vec::new())),
        }
        for leaf in &table.leaves {
            session.copy_out(&table.copy_pages(leaf, None, filter.as_deref())).await.map_err(failed)?;
            let mut at_end = false;
            while !at_end {
                let since = Instant::now();
                let read;
                (read, at_end) = self.read_keyless(&mut session, &watermark).await.map_err(failed)?;
                if read.rows.is_empty() {
                    break;
                }
                let (rows, bytes) = (read.rows.iter().map(|rows| rows.len() as u64).sum(), read.bytes);
                self.hand_over(at, table, read, Next::Key(None), Some(*which)).await?;
                let rest = give_way.rest(since.elapsed(), metrics.transactions.get());
                tokio::join!(self.pace.read(rows, bytes), tokio::time::sleep(rest));
                self.obey_waiting(asked).await?;
                if !self.goes_on(at) {
                    return Ok(Attempt::Stopped(Stopped::ByCommand));
                }
                if began.elapsed() > limit {
                    return Err(refused(
                        format!(
                            "the copy of {}, which has no key, took longer than snapshot.max_transaction_age",
                            name_of(table)
                        ),
                        "let the transaction grow older, let the copy take more at a time (snapshot.chunk_bytes, snapshot.gives_way), \
                         or give the table a primary key",
                    ));
                }
            }
        }
        session.query("ROLLBACK").await.map_err(failed)?;
        Ok(Attempt::Stopped(Stopped::AtItsEnd))
    }

    /// A snapshot of the present, in which the table is locked against DDL.
    async fn begin_keyless(&mut self, table: &SnapshotTable) -> Result<(CopySession, Watermark), StageError> {
        let failed = |source| StageError::Copy { table: name_of(table), source };
        let settings = &self.parts.settings;
        let mut session = CopySession::connect(&settings.postgres).await.map_err(failed)?;
        session.set_max_frame_bytes(settings.max_row_bytes);
        // One COPY is all of a storage: no time is too long for it but the transaction's.
        session.set_timeouts(settings.snapshot.lock_timeout, Duration::ZERO).await.map_err(failed)?;
        let names: Vec<String> = table.leaves.iter().map(|leaf| leaf.sql_name()).collect();
        let (doing, pids) = (format!("the copy of {}", name_of(table)), [session.backend_pid()]);
        let tell = tell_lock(&self.parts.control, &doing);
        let beginning = begin_at_present(&mut session, &names);
        let watermark = telling_locks(&settings.postgres, &pids, tell, beginning).await.map_err(failed)?;
        if watermark.is_standby {
            return Err(refused(
                format!(
                    "{} can't be copied from a standby: without a key its rows can't be told apart, and a standby does not say which transactions a copy has seen",
                    name_of(table)
                ),
                "give the table a primary key, or copy it from the primary",
            ));
        }
        Ok((session, watermark))
    }

    /// The next rows of an open COPY, about a chunk of them, and whether it is at its end.
    async fn read_keyless(
        &self,
        session: &mut CopySession,
        watermark: &Watermark,
    ) -> Result<(ChunkRead, bool), headwater_pg::Error> {
        let aim = self.parts.settings.snapshot.chunk_bytes;
        let aim = self.pace.bytes_at_once().map_or(aim, |bytes| bytes.min(aim));
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut at_end = false;
        while bytes < aim && !at_end {
            match session.next_rows().await? {
                Some(batch) => {
                    bytes += batch.len_bytes() as u64;
                    rows.push(batch);
                }
                None => at_end = true,
            }
        }
        let watermark = watermark.clone();
        Ok((ChunkRead { watermark, rows, bytes, reached: Reached::End, cut: false }, at_end))
    }
}
