//! The job of a new slot: all its tables under the slot's own snapshot, while the stream waits.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::transaction_snapshot::SnapshotKeeper;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Chunk;
use super::control::Asked;
use super::coordinator::{Coordinator, LOOK_INTERVAL, Pending};
use super::copier::{COPY_IN_FLIGHT_BYTES, Copier, Part, Parts, name_of, ranges};
use crate::error::StageError;
use crate::status::Readiness;

impl Coordinator {
    /// Copies what the keeper's snapshot sees. What it can't finish within its limits is left for beside the stream.
    pub(crate) async fn copy_under(
        &mut self,
        mut keeper: SnapshotKeeper,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<(), StageError> {
        let mut tables = self.choose(&[]).await?;
        // Without a key there is no other way than this one, so their turn is first.
        tables.sort_by_key(|table| !table.key.is_empty());
        self.readable(&tables)?;
        let names: Vec<(u32, String)> = tables
            .iter()
            .flat_map(|table| table.leaves.iter().map(|leaf| (leaf.oid, leaf.sql_name())))
            .collect();
        let rewritten = keeper
            .lock(&names)
            .await
            .map_err(StageError::postgres("locking the tables of the snapshot against DDL"))?;
        self.tables = tables.iter().map(|table| self.record(table, self.filter_of(table))).collect();
        self.tell_job(Some(&tables));
        self.store_all()?;
        let parts = self.parts_of(&tables, &rewritten, keeper.unix_micros());
        for leaf in tables.iter().flat_map(|table| &table.silent_leaves) {
            tracing::warn!(
                table = format!("{}.{}", leaf.schema, leaf.name),
                "holds rows of a published table of which the stream says nothing (foreign or unlogged): they are not copied"
            );
        }
        tracing::info!(
            tables = tables.len(),
            parts = parts.len(),
            lsn = %self.parts.consistent_point,
            "copying what the tables held when the slot was created"
        );
        self.parts
            .status
            .set(Readiness::Starting { doing: "copying the tables for the first time".to_owned() });
        self.undone = vec![0; tables.len()];
        parts.iter().for_each(|part| self.undone[part.table] += 1);
        let copier = Arc::new(Copier {
            postgres: self.parts.settings.postgres.clone(),
            snapshot_name: keeper.name().to_owned(),
            filters: self.tables.iter().map(|table| table.filter.clone()).collect(),
            parts: Mutex::new(Parts::new(parts, tables.len())),
            permits: Arc::new(Semaphore::new(COPY_IN_FLIGHT_BYTES)),
            inputs: self.parts.inputs.clone(),
            max_row_bytes: self.parts.settings.max_row_bytes,
            tables,
        });
        let workers = copier.start(self.parts.settings.snapshot.workers);
        self.attend(&copier, workers, &mut keeper, asked).await?;
        // Acknowledgements still come in; what was not handed out goes on beside the stream.
        for chunk in copier.parts().take_stopped() {
            self.pending.remove(&chunk);
        }
        Ok(())
    }

    /// The rows of a table that are wanted only, by the configuration.
    pub(crate) fn filter_of(&self, table: &SnapshotTable) -> Option<String> {
        let name = name_of(table);
        let filters = &self.parts.settings.snapshot.filters;
        let matching = filters.iter().filter(|(pattern, _)| headwater_avro::glob_matches(pattern, &name));
        matching.map(|(_, filter)| filter.clone()).next_back()
    }

    fn parts_of(&mut self, tables: &[SnapshotTable], rewritten: &[u32], unix_micros: i64) -> Vec<Part> {
        let workers = self.parts.settings.snapshot.workers;
        let mut parts = Vec::new();
        for (at, table) in tables.iter().enumerate() {
            if table.leaves.iter().any(|leaf| rewritten.contains(&leaf.oid)) {
                tracing::warn!(
                    table = name_of(table),
                    "was rewritten since the slot was created; it is copied beside the stream"
                );
                continue;
            }
            for (leaf_at, leaf) in table.leaves.iter().enumerate() {
                // Whoever may read some columns only may not ask where a row is.
                let workers = if table.may_select_pages { workers } else { 0 };
                for pages in ranges(leaf.pages, workers) {
                    let chunk = Chunk {
                        number: self.number(),
                        table: table.table.clone(),
                        lsn: self.parts.consistent_point,
                        unix_micros,
                    };
                    let bytes = Arc::new(AtomicU64::new(0));
                    let pending = Pending::Pages {
                        table: at,
                        relation: leaf.oid,
                        filenode: leaf.filenode,
                        pages: pages.clone(),
                        bytes: bytes.clone(),
                    };
                    self.pending.insert(chunk.number, pending);
                    parts.push(Part {
                        table: at,
                        leaf: leaf_at,
                        pages: Some(pages),
                        chunk: Arc::new(chunk),
                        bytes,
                    });
                }
            }
        }
        parts
    }

    /// Until the workers are done, or have done what they had when they were told to stop.
    async fn attend(
        &mut self,
        copier: &Copier,
        mut workers: JoinSet<Result<(), StageError>>,
        keeper: &mut SnapshotKeeper,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<(), StageError> {
        let began = Instant::now();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut stopped = false;
        loop {
            tokio::select! {
                ended = workers.join_next() => match ended {
                    None => return Ok(()),
                    Some(joined) => joined.expect("a worker does not panic")?,
                },
                report = self.parts.reports.recv() => {
                    self.note(report.ok_or(StageError::Stopped)?)?;
                }
                Some((_, answer)) = asked.recv() => {
                    let why = "the first copy is under way and the stream waits for it: only stopping headwater interrupts it";
                    // Who asked may be gone.
                    drop(answer.send(Err(why.to_owned())));
                }
                _ = looks.tick() => {
                    keeper.alive().await.map_err(StageError::postgres("holding the slot's snapshot"))?;
                    let age = began.elapsed();
                    self.parts.control.change(|status| status.transaction_age_seconds = Some(age.as_secs_f64()));
                    self.parts.status.progress();
                    if !stopped && let Some(why) = self.holds_too_much(age).await? {
                        stopped = copier.parts().stop(|table| !copier.tables[table].key.is_empty());
                        if stopped {
                            tracing::warn!("{why}: the stream begins now, and the rest is copied beside it");
                        }
                    }
                }
            }
        }
    }

    /// Why the snapshot's transaction must not grow older: it keeps WAL and dead rows on the server.
    async fn holds_too_much(&mut self, age: Duration) -> Result<Option<String>, StageError> {
        let limit = self.parts.settings.snapshot.max_transaction_age;
        if age > limit {
            return Ok(Some(format!(
                "the snapshot's transaction is {} s old, more than snapshot.max_transaction_age",
                age.as_secs()
            )));
        }
        let look = "looking at the WAL that the slot holds";
        let sql = "SELECT s.wal_status, s.safe_wal_size, pg_size_bytes(current_setting('max_slot_wal_keep_size'))
                     FROM pg_replication_slots s WHERE s.slot_name = $1 AND current_setting('max_slot_wal_keep_size') <> '-1'";
        let slot = self.parts.settings.slot.clone();
        let row = self.client().await?.query_opt(sql, &[&slot]).await;
        let row = row.map_err(|error| StageError::Postgres { doing: look, source: error.into() })?;
        let Some(row) = row else { return Ok(None) };
        let (safe, keep): (Option<i64>, i64) = (row.get(1), row.get(2));
        let over = safe.is_some_and(|safe| safe < keep / 2);
        Ok(over.then(|| "more than half of max_slot_wal_keep_size is held by the slot".to_owned()))
    }
}
