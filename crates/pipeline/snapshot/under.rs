//! The job of a new slot: all its tables under the slot's own snapshot, while the stream waits.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_pg::lock_wait::telling_locks;
use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::transaction_snapshot::SnapshotKeeper;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Chunk;
use super::control::Asked;
use super::coordinator::{Coordinator, LOOK_INTERVAL, Pending};
use super::copier::{COPY_IN_FLIGHT_BYTES, Copier, LOCK_NOT_AVAILABLE, Part, Parts, name_of, ranges};
use super::notifications::JobStep;
use super::seen::tell_lock;
use crate::error::StageError;
use crate::status::Readiness;

/// Time between two attempts to lock tables: those who stood behind the last one have their turn.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// Time between two updates of metrics while nothing is acknowledged.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

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
        let began = Instant::now();
        let limit = self.parts.settings.snapshot.max_transaction_age;
        self.parts.control.set_transaction(Some((began, limit)));
        let rewritten = self.lock_under(&mut keeper, &names, began).await?;
        self.tables = tables.iter().map(|table| self.record(table, self.filter_of(table))).collect();
        self.estimate(&tables).await;
        self.tell_job();
        self.parts.control.set_transaction(Some((began, limit)));
        self.tell_step(JobStep::Started)?;
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
            lock_timeout: self.parts.settings.snapshot.lock_timeout,
            pace: self.pace.clone(),
            meters: tables.iter().map(|table| self.parts.control.meter(&name_of(table))).collect(),
            control: self.parts.control.clone(),
            tables,
        });
        let workers = copier.start(self.parts.settings.snapshot.workers);
        self.attend(&copier, workers, (&mut keeper, began), asked).await?;
        self.parts.control.set_transaction(None);
        // Acknowledgements still come in; what was not handed out goes on beside the stream.
        for chunk in copier.parts().take_stopped() {
            self.pending.remove(&chunk);
        }
        Ok(())
    }

    /// Locks the tables against DDL, however long that takes within the age that the transaction may have: waiting lets
    /// go now and then, for those who stand behind us.
    async fn lock_under(
        &mut self,
        keeper: &mut SnapshotKeeper,
        names: &[(u32, String)],
        began: Instant,
    ) -> Result<Vec<u32>, StageError> {
        let doing = "locking the tables of the snapshot against DDL";
        let settings = &self.parts.settings;
        let timeout = settings.snapshot.lock_timeout;
        keeper.set_lock_timeout(timeout).await.map_err(StageError::postgres(doing))?;
        let pids = [keeper.backend_pid()];
        loop {
            let tell = tell_lock(&self.parts.control, doing);
            let locked = telling_locks(&settings.postgres, &pids, tell, keeper.lock(names)).await;
            match locked {
                Err(error)
                    if error.sqlstate() == Some(LOCK_NOT_AVAILABLE)
                        && began.elapsed() < settings.snapshot.max_transaction_age =>
                {
                    self.parts.status.progress();
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                locked => return locked.map_err(StageError::postgres(doing)),
            }
        }
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
        (keeper, began): (&mut SnapshotKeeper, Instant),
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<(), StageError> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut shows = tokio::time::interval(SHOW_INTERVAL);
        let mut told = false;
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
                _ = shows.tick() => self.tell_progress(),
                _ = looks.tick() => {
                    keeper.alive().await.map_err(StageError::postgres("holding the slot's snapshot"))?;
                    let age = began.elapsed();
                    self.parts.status.progress();
                    if !told && let Some(why) = self.holds_too_much(age).await? {
                        told = true;
                        if copier.parts().stop(|table| !copier.tables[table].key.is_empty()) {
                            tracing::warn!("{why}: the stream begins now, and the rest is copied beside it");
                        } else {
                            tracing::warn!("{why}: nothing is left to begin, and what is under way is finished");
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
