//! Copies tables under the slot's own snapshot, by several workers, while the stream waits.
//!
//! In: tables and the keeper of the snapshot. Out: rows to the pump, each page range as a chunk of its own.
//! A big table is cut into ranges of pages that the workers share; small ones are a range each. The memory between
//! server and pump is bounded by permits that the pump gives back.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_pg::lock_wait::telling_locks;
use headwater_pg::snapshot_tables::{Leaf, SnapshotTable};
use headwater_pg::transaction_snapshot::{begin_at_exported, lock_tables};
use headwater_pg::{ConnectSettings, CopySession};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::control::SnapshotControl;
use super::meter::TableMeter;
use super::pace::Pace;
use super::seen::tell_lock;
use super::{Chunk, CopyInput, Input};
use crate::error::StageError;

/// Pages of a range at most: 64 MiB, so that a crash repeats little and workers end together.
const RANGE_PAGES_MAX: u32 = 8192;

/// And at least: a COPY of less is mostly its own beginning and end.
const RANGE_PAGES_MIN: u32 = 512;

/// Ranges that each worker gets of a big table, or more.
const RANGES_PER_WORKER: u32 = 4;

/// Rows between the server and the pump, bytes.
pub(crate) const COPY_IN_FLIGHT_BYTES: usize = 4 << 20;

/// `lock_not_available`: a lock was not had within the session's timeout.
pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What one worker does at a time.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its table's place in the list.
    pub(crate) table: usize,
    pub(crate) leaf: usize,
    /// None is the whole storage, which may have grown since its size was asked.
    pub(crate) pages: Option<Range<u32>>,
    pub(crate) chunk: Arc<Chunk>,
    /// Read so far.
    pub(crate) bytes: Arc<AtomicU64>,
}

/// The parts that wait for a worker, and how many of each table are not done.
pub(crate) struct Parts {
    waiting: VecDeque<Part>,
    undone: Vec<usize>,
    /// Numbers of the chunks that are not handed out any more.
    stopped: Vec<u32>,
}

/// The ranges of a storage of so many pages; without workers it is a single one. The last one is open: rows may have
/// been added behind it before the snapshot was taken.
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
pub(crate) fn ranges(pages: u32, workers: usize) -> Vec<Range<u32>> {
    if workers == 0 {
        return vec![0..u32::MAX];
    }
    let shares = (workers as u32).saturating_mul(RANGES_PER_WORKER).max(1);
    let size = (pages / shares).clamp(RANGE_PAGES_MIN, RANGE_PAGES_MAX);
    let mut ranges = Vec::new();
    let mut from = 0;
    while pages - from > size + size / 2 {
        ranges.push(from..from + size);
        from += size;
    }
    ranges.push(from..u32::MAX);
    ranges
}

impl Parts {
    pub(crate) fn new(parts: Vec<Part>, tables: usize) -> Parts {
        let mut undone = vec![0; tables];
        parts.iter().for_each(|part| undone[part.table] += 1);
        Parts { waiting: parts.into(), undone, stopped: Vec::new() }
    }

    /// Hands out no more, but for tables that can be copied in no other way: what is under way is finished. Whether
    /// anything is left undone by that.
    pub(crate) fn stop(&mut self, has_key: impl Fn(usize) -> bool) -> bool {
        let (stopped, waiting): (VecDeque<Part>, _) =
            self.waiting.drain(..).partition(|part| has_key(part.table));
        self.waiting = waiting;
        self.stopped.extend(stopped.iter().map(|part| part.chunk.number));
        !self.stopped.is_empty()
    }

    /// A part that could not be begun is the next one again.
    fn give_back(&mut self, part: Part) {
        self.waiting.push_front(part);
    }

    pub(crate) fn take_stopped(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.stopped)
    }
}

/// What the workers share.
pub(crate) struct Copier {
    pub(crate) postgres: ConnectSettings,
    pub(crate) snapshot_name: String,
    pub(crate) tables: Vec<SnapshotTable>,
    pub(crate) filters: Vec<Option<String>>,
    pub(crate) parts: Mutex<Parts>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) inputs: Sender<Input>,
    pub(crate) max_row_bytes: u64,
    pub(crate) lock_timeout: Duration,
    pub(crate) pace: Arc<Pace>,
    /// One for each table.
    pub(crate) meters: Vec<Arc<TableMeter>>,
    pub(crate) control: Arc<SnapshotControl>,
}

/// Whether a part is copied.
enum Outcome {
    Copied,
    /// Somebody waits to change the table, behind the keeper of the snapshot and before us.
    Blocked(headwater_pg::Error),
}

impl Copier {
    /// Starts the workers.
    pub(crate) fn start(self: &Arc<Copier>, workers: usize) -> JoinSet<Result<(), StageError>> {
        let mut running = JoinSet::new();
        for _ in 0..workers {
            running.spawn(self.clone().work());
        }
        running
    }

    async fn work(self: Arc<Copier>) -> Result<(), StageError> {
        let copying = "copying a table for the snapshot";
        let Some(mut part) = self.next() else { return Ok(()) };
        let mut session =
            CopySession::connect(&self.postgres).await.map_err(StageError::postgres(copying))?;
        session.set_max_frame_bytes(self.max_row_bytes);
        let joining = "joining the slot's snapshot";
        session
            .set_timeouts(self.lock_timeout, Duration::ZERO)
            .await
            .map_err(StageError::postgres(joining))?;
        begin_at_exported(&mut session, &self.snapshot_name).await.map_err(StageError::postgres(joining))?;
        loop {
            if let Outcome::Blocked(error) = self.copy(&mut session, &part).await? {
                self.give_way(part, error)?;
            }
            match self.next() {
                Some(next) => part = next,
                None => return Ok(()),
            }
        }
    }

    /// Whoever waits to change a table waits for the whole snapshot, and makes everybody wait who comes after: what is
    /// under way is finished, and the rest is copied beside the stream.
    fn give_way(&self, part: Part, source: headwater_pg::Error) -> Result<(), StageError> {
        let table = &self.tables[part.table];
        if table.key.is_empty() {
            // The next session copies it as a whole.
            return Err(StageError::Copy { table: name_of(table), source });
        }
        tracing::warn!(
            table = name_of(table),
            "a statement that changes the table waits for the snapshot: giving way to it, the rest is copied beside the stream"
        );
        let mut parts = self.parts();
        parts.give_back(part);
        parts.stop(|table| !self.tables[table].key.is_empty());
        Ok(())
    }

    async fn copy(&self, session: &mut CopySession, part: &Part) -> Result<Outcome, StageError> {
        let table = &self.tables[part.table];
        let leaf: &Leaf = &table.leaves[part.leaf];
        let sql = table.copy_pages(leaf, part.pages.clone(), self.filters[part.table].as_deref());
        let failed = |source| StageError::Copy { table: name_of(table), source };
        let doing = format!("the copy of {}", name_of(table));
        let (pids, name) = ([session.backend_pid()], leaf.sql_name());
        let lock = lock_tables(session, std::slice::from_ref(&name));
        let locked = telling_locks(&self.postgres, &pids, tell_lock(&self.control, &doing), lock).await;
        match locked {
            Err(error) if error.sqlstate() == Some(LOCK_NOT_AVAILABLE) => {
                return Ok(Outcome::Blocked(error));
            }
            locked => locked.map_err(failed)?,
        }
        let meter = &self.meters[part.table];
        meter.start();
        session.copy_out(&sql).await.map_err(failed)?;
        while let Some(rows) = session.next_rows().await.map_err(failed)? {
            let bytes = rows.len_bytes();
            // A row larger than all permits passes when nothing else is under way.
            let wanted = bytes.min(COPY_IN_FLIGHT_BYTES) as u32;
            let permit = self.permits.clone().acquire_many_owned(wanted).await.expect("nobody closes it");
            let count = rows.len() as u64;
            part.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            meter.add(count, bytes as u64);
            self.send(CopyInput::Rows { chunk: part.chunk.clone(), rows, permit })?;
            self.pace.read(count, bytes as u64).await;
        }
        self.end(part)?;
        Ok(Outcome::Copied)
    }

    fn next(&self) -> Option<Part> {
        self.parts().waiting.pop_front()
    }

    /// Under the lock, so that the end of a table is sent after the ends of all its parts.
    fn end(&self, part: &Part) -> Result<(), StageError> {
        let mut parts = self.parts();
        parts.undone[part.table] -= 1;
        let last_of_table = parts.undone[part.table] == 0;
        self.send(CopyInput::End { chunk: part.chunk.clone(), last_of_table })
    }

    fn send(&self, input: CopyInput) -> Result<(), StageError> {
        self.inputs.send(Input::Copy(input)).map_err(|_| StageError::Stopped)
    }

    pub(crate) fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().expect("no code panics while it holds the parts")
    }
}

/// `schema.table`, for messages and labels.
pub(crate) fn name_of(table: &SnapshotTable) -> String {
    format!("{}.{}", table.table.namespace, table.table.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_page_once() {
        for pages in [0, 1, 511, 512, 768, 769, 10_000, 100_000, 4_000_000] {
            for workers in [1, 2, 16] {
                let ranges = ranges(pages, workers);
                assert_eq!(ranges[0].start, 0);
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
                assert_eq!(ranges.last().unwrap().end, u32::MAX, "{pages}");
                let longest =
                    ranges.iter().map(|range| range.end.min(pages.max(range.start)) - range.start).max();
                assert!(longest.unwrap() <= RANGE_PAGES_MAX * 3 / 2);
            }
        }
    }
}
