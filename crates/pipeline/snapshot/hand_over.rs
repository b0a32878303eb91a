//! A chunk's way from the coordinator to the pump, until it is written.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use headwater_pg::snapshot_tables::SnapshotTable;

use super::again::OF_ONE_CHUNK_MAX;
use super::chunker::{ChunkRead, Next, Reached};
use super::coordinator::{Coordinator, Pending};
use super::copier::name_of;
use super::moved::MovedKeys;
use super::{BesideChunk, Chunk, CopyInput, KeylessChunk, Report};
use crate::error::StageError;

/// How long the stream may take to come to a chunk's position before it is asked to say where it is: an idle server
/// is asked for every chunk, and at once, because its copy goes no faster than that.
const ASK_FIRST: Duration = Duration::from_millis(3);

/// The time to the next question.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// How often it is asked before the server is made to flush what it has.
const ASKED_BEFORE_FLUSH: u32 = 4;

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

impl Coordinator {
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
}
