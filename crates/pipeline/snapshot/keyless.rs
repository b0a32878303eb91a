//! Tables without a key, when there is no snapshot of the slot to copy them under: as a whole, under one snapshot of
//! the present, while the stream waits.
//!
//! Rows without a key can't be told apart, so the stream can't overtake them one by one. Instead the stream leaves
//! out, for such a table, what the copy's snapshot sees already ([`Settled`]); the fold of both is the table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_pg::CopySession;
use headwater_pg::lock_wait::telling_locks;
use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::transaction_snapshot::{
    ParseSnapshotError, TransactionSnapshot, Watermark, begin_at_present,
};
use headwater_pgoutput::Lsn;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::coordinator::{Coordinator, Pending};
use super::copier::{COPY_IN_FLIGHT_BYTES, name_of};
use super::progress::TableState;
use super::seen::tell_lock;
use super::{Chunk, CopyInput};
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};

/// What a copy of a table without a key has seen, until the stream has passed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    /// As Postgres writes it.
    snapshot: String,
    /// Everything that it sees was committed before this position.
    high: Lsn,
}

impl Settled {
    fn new(watermark: &Watermark) -> Settled {
        let TransactionSnapshot { xmin, xmax, in_progress } = &watermark.snapshot;
        let list: Vec<String> = in_progress.iter().map(u64::to_string).collect();
        Settled { snapshot: format!("{xmin}:{xmax}:{}", list.join(",")), high: watermark.high }
    }

    /// What the stream has to leave out from `checkpoint` on; none when it is past it.
    fn from(&self, checkpoint: Lsn) -> Result<Option<TransactionSnapshot>, StageError> {
        if self.high <= checkpoint {
            return Ok(None);
        }
        self.snapshot.parse().map(Some).map_err(|error: ParseSnapshotError| {
            StageError::Halt(Halt::new(
                ExitCode::Checkpoint,
                format!("what is stored of a table's copy can't be read: {error}"),
                "nothing was confirmed; find out who wrote it, or restore it, before starting again",
            ))
        })
    }
}

impl Coordinator {
    /// Tells the pump what earlier copies have seen and the stream has still to come to.
    pub(crate) fn tell_settled(&self) -> Result<(), StageError> {
        for table in self.tables.iter().chain(&self.settled_before) {
            let checkpoint = self.parts.consistent_point;
            let Some(settled) = &table.settled else { continue };
            if let Some(snapshot) = settled.from(checkpoint)? {
                self.send(CopyInput::Settled { relation: table.relation, snapshot })?;
            }
        }
        Ok(())
    }

    /// Copies what has no key. Nothing may have been streamed of these tables in this session.
    pub(crate) async fn copy_keyless(&mut self) -> Result<(), StageError> {
        let mut found = self.choose(&[]).await?;
        found.retain(|table| table.key.is_empty());
        let place = |table: &SnapshotTable| {
            self.tables.iter().position(|record| {
                record.schema == table.table.namespace
                    && record.table == table.table.name
                    && !matches!(record.state, TableState::Done | TableState::Failed)
            })
        };
        let tables: Vec<(usize, SnapshotTable)> =
            found.into_iter().filter_map(|table| Some((place(&table)?, table))).collect();
        if tables.is_empty() {
            return Ok(());
        }
        for (_, table) in &tables {
            self.readable(std::slice::from_ref(table))?;
        }
        let names: Vec<String> =
            tables.iter().flat_map(|(_, table)| table.leaves.iter().map(|leaf| leaf.sql_name())).collect();
        let copying = |source| StageError::Postgres { doing: "copying tables without a key", source };
        let mut session = CopySession::connect(&self.parts.settings.postgres).await.map_err(copying)?;
        session.set_max_frame_bytes(self.parts.settings.max_row_bytes);
        let limits = &self.parts.settings.snapshot;
        session.set_timeouts(limits.lock_timeout, Duration::ZERO).await.map_err(copying)?;
        let (doing, pids) = ("the copy of tables without a key", [session.backend_pid()]);
        let tell = tell_lock(&self.parts.control, doing);
        let begun = begin_at_present(&mut session, &names);
        let begun = telling_locks(&self.parts.settings.postgres, &pids, tell, begun).await;
        let watermark = begun.map_err(copying)?;
        if watermark.is_standby {
            return Err(StageError::Halt(Halt::new(
                ExitCode::SnapshotRefused,
                format!(
                    "{} can't be copied from a standby: without a key its rows can't be told apart, and a standby does not say which transactions a copy has seen",
                    names.join(", ")
                ),
                "give the table a primary key, copy it from the primary, or leave it out with snapshot.exclude_tables",
            )));
        }
        self.undone = vec![0; self.tables.len()];
        for (at, table) in &tables {
            self.copy_whole(*at, table, &mut session, &watermark).await?;
        }
        session.query("ROLLBACK").await.map(drop).map_err(copying)
    }

    async fn copy_whole(
        &mut self,
        at: usize,
        table: &SnapshotTable,
        session: &mut CopySession,
        watermark: &Watermark,
    ) -> Result<(), StageError> {
        let failed = |source| StageError::Copy { table: name_of(table), source };
        tracing::info!(table = name_of(table), "has no key: copying it as a whole while the stream waits");
        self.tables[at].relation = table.table.id;
        self.tables[at].settled = Some(Settled::new(watermark));
        self.set_table(at, TableState::Copying, None)?;
        let (relation, snapshot) = (table.table.id, watermark.snapshot.clone());
        self.send(CopyInput::Settled { relation, snapshot })?;
        let permits = Arc::new(Semaphore::new(COPY_IN_FLIGHT_BYTES));
        let filter = self.tables[at].filter.clone();
        let meter = self.parts.control.meter(&name_of(table));
        self.undone[at] = table.leaves.len();
        for (n, leaf) in table.leaves.iter().enumerate() {
            let chunk = Arc::new(Chunk {
                number: self.number(),
                table: table.table.clone(),
                lsn: watermark.high,
                unix_micros: watermark.unix_micros,
            });
            let (relation, filenode, pages) = (leaf.oid, leaf.filenode, 0..u32::MAX);
            let bytes = Arc::new(AtomicU64::new(0));
            let pending = Pending::Pages { table: at, relation, filenode, pages, bytes: bytes.clone() };
            self.pending.insert(chunk.number, pending);
            session.copy_out(&table.copy_pages(leaf, None, filter.as_deref())).await.map_err(failed)?;
            while let Some(rows) = session.next_rows().await.map_err(failed)? {
                let (count, size) = (rows.len() as u64, rows.len_bytes() as u64);
                bytes.fetch_add(size, Ordering::Relaxed);
                meter.add(count, size);
                let wanted = rows.len_bytes().min(COPY_IN_FLIGHT_BYTES) as u32;
                let permit = permits.clone().acquire_many_owned(wanted).await.expect("nobody closes it");
                self.send(CopyInput::Rows { chunk: chunk.clone(), rows, permit })?;
                self.pace.read(count, size).await;
            }
            let last_of_table = n + 1 == table.leaves.len();
            self.send(CopyInput::End { chunk, last_of_table })?;
        }
        if table.leaves.is_empty() {
            self.set_table(at, TableState::Done, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_is_stored_as_postgres_writes_it() {
        let snapshot: TransactionSnapshot = "10:20:10,14".parse().unwrap();
        let watermark =
            Watermark { snapshot: snapshot.clone(), high: Lsn(100), unix_micros: 0, is_standby: false };
        let settled = Settled::new(&watermark);
        assert_eq!(settled.from(Lsn(99)).unwrap(), Some(snapshot));
        assert_eq!(settled.from(Lsn(100)).unwrap(), None, "the stream is past it");
        let torn = Settled { snapshot: "10:2".to_owned(), high: Lsn(100) };
        assert!(torn.from(Lsn(99)).is_err(), "what can't be read is not nothing");
    }
}
