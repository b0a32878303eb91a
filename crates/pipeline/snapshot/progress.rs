//! How far a snapshot has come, as it is stored beside the checkpoint: a record for the job, and one for each table.
//!
//! ```text
//! key   …/headwater/snapshot                    value {"version":1,"kind":"initial","state":"running","epoch":3,…}
//! key   …/headwater/snapshot/public.orders      value {"version":1,"state":"copying","pages_done":[…],"after_key":[…],…}
//! ```
//!
//! A record says only what the sink has acknowledged; what is lost with a crash is the work on chunks under way.

use std::ops::Range;

use headwater_pgoutput::RelationId;
use serde::{Deserialize, Serialize};

use super::again::Again;
use super::keyless::Settled;
use super::moved::{MovedKeys, MovedRecord};

/// Version of the values.
pub(crate) const VERSION: u32 = 1;

/// Why a snapshot is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// The first one of a slot.
    Initial,
    /// Asked for while the stream runs.
    AdHoc,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Under way.
    Running,
    /// Stopped for now, by a command.
    Paused,
    /// Every table is copied.
    Done,
    /// Ended by a command.
    Cancelled,
}

/// The job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) version: u32,
    /// Unlike that of any other job of this slot; those of its tables carry it.
    pub(crate) token: String,
    /// The caller's name for it, or ours.
    pub(crate) id: String,
    pub(crate) kind: JobKind,
    pub(crate) state: JobState,
    /// The last request that a job was begun for; 0 for none.
    #[serde(default)]
    pub(crate) request: u64,
    /// The last request that stopped, paused or resumed one; 0 for none.
    #[serde(default)]
    pub(crate) changed_by: u64,
    /// Which owner of the slot wrote this.
    pub(crate) epoch: u64,
}

impl JobRecord {
    /// The one of a new slot.
    pub(crate) fn initial(epoch: u64) -> JobRecord {
        let (id, kind, state) = ("initial".to_owned(), JobKind::Initial, JobState::Running);
        let (token, request, changed_by) = (format!("initial {epoch}"), 0, 0);
        JobRecord { version: VERSION, token, id, kind, state, request, changed_by, epoch }
    }
}

/// How a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Its turn has not come.
    Waiting,
    /// Under way.
    Copying,
    /// Copied.
    Done,
    /// Given up: the reason is in the log and in the status.
    Failed,
}

/// One table of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TableRecord {
    pub(crate) version: u32,
    /// The job's token: a record of another job says nothing.
    pub(crate) job: String,
    pub(crate) epoch: u64,
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) relation: RelationId,
    pub(crate) state: TableState,
    /// Its partitions that hold rows, while it is copied: what is attached later is behind no place that was reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) partitions: Vec<u32>,
    /// Rows that were asked for only, as SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// Pages that are copied: of which storage, and which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pages_done: Vec<PagesDone>,
    /// The columns of the key by which it is copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) key_columns: Vec<String>,
    /// The key up to which it is copied, as texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after_key: Option<Vec<String>>,
    /// Up to there, all but the rows of these keys.
    #[serde(default, skip_serializing_if = "Again::is_empty")]
    pub(crate) again: Again,
    /// Which attempt it is to deliver the rows of the keys in `again`, and nothing else of the table; 0 for a copy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) attempt: u32,
    /// Of a table without a key that was copied as a whole: what the copy has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settled: Option<Settled>,
    /// Rows written.
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Keys that the pump stored beside this record, and that are in it as it is in memory.
    #[serde(skip)]
    pub(crate) moved_before: MovedKeys,
    /// Such keys may not be in what is stored of it.
    #[serde(skip)]
    pub(crate) moved_unstored: bool,
}

/// Pages of one storage (a table or a leaf partition) that are copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PagesDone {
    pub(crate) relation: u32,
    /// A rewrite gives it another one, and page numbers mean nothing any more.
    pub(crate) filenode: u32,
    /// Sorted, apart from each other.
    pub(crate) pages: Vec<Range<u32>>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl TableRecord {
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// Whether nothing more is done for it.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, TableState::Done | TableState::Failed)
    }

    /// The key under which it is stored, after the checkpoint's own key.
    pub(crate) fn key(&self, checkpoint_key: &str) -> String {
        format!("{checkpoint_key}{TABLE_PART}{}", self.name())
    }

    /// Copied up to its end or up to a key, it is not to be begun anew.
    pub(crate) fn is_copied_by_key(&self) -> bool {
        self.state == TableState::Copying && !self.key_columns.is_empty()
    }

    /// Rows that came to these keys without all of their values are read there. True if there were too many of them,
    /// and the copy begins anew.
    pub(crate) fn moved(&mut self, moved: MovedKeys) -> bool {
        if moved.too_many {
            self.begin_anew();
        }
        self.again.add(moved.keys);
        moved.too_many
    }

    /// Nothing of it counts as copied.
    pub(crate) fn begin_anew(&mut self) {
        if self.attempt > 0 {
            // It has keys, and no place that it has come to.
            return;
        }
        self.pages_done.clear();
        self.after_key = None;
        self.again.clear();
    }

    /// These pages are copied.
    pub(crate) fn add_pages(&mut self, relation: u32, filenode: u32, pages: Range<u32>) {
        let found = self.pages_done.iter().position(|done| done.relation == relation);
        let at = found.unwrap_or_else(|| {
            self.pages_done.push(PagesDone { relation, filenode, pages: Vec::new() });
            self.pages_done.len() - 1
        });
        let done = &mut self.pages_done[at];
        if done.filenode != filenode {
            *done = PagesDone { relation, filenode, pages: Vec::new() };
        }
        done.pages.push(pages);
        done.pages.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u32>> = Vec::with_capacity(done.pages.len());
        for range in done.pages.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        done.pages = merged;
    }

    /// How many of the first `pages` pages of a storage are left, whichever rewrite of it they are of.
    pub(crate) fn pages_left_of(&self, relation: u32, pages: u32) -> u64 {
        let filenode =
            self.pages_done.iter().find(|done| done.relation == relation).map_or(0, |done| done.filenode);
        self.pages_left(relation, filenode, pages)
            .iter()
            .map(|range| u64::from(range.end - range.start))
            .sum()
    }

    /// What is left of `pages` pages of a storage.
    pub(crate) fn pages_left(&self, relation: u32, filenode: u32, pages: u32) -> Vec<Range<u32>> {
        let done = self.pages_done.iter().find(|done| done.relation == relation && done.filenode == filenode);
        let mut left = Vec::new();
        let mut from = 0;
        for range in done.map_or(&[][..], |done| &done.pages) {
            if from < range.start.min(pages) {
                left.push(from..range.start.min(pages));
            }
            from = from.max(range.end);
        }
        if from < pages {
            left.push(from..pages);
        }
        left
    }
}

/// What follows the checkpoint's key in a job's key,
pub(crate) const JOB_PART: &str = "/snapshot";
/// and in a table's.
pub(crate) const TABLE_PART: &str = "/snapshot/";

/// What is stored of a slot's last snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredSnapshot {
    pub(crate) job: Option<JobRecord>,
    pub(crate) tables: Vec<TableRecord>,
    pub(crate) moved: Vec<MovedRecord>,
    /// Tables without a key that jobs before this one copied as a whole: the stream may not have come to what they saw.
    pub(crate) settled: Vec<TableRecord>,
}

impl StoredSnapshot {
    /// The last request that a job was begun for; 0 for none.
    pub(crate) fn last_request(&self) -> u64 {
        self.job.as_ref().map_or(0, |job| job.request)
    }

    /// What is left of jobs before this one says nothing, but for what they settled; and what the pump stored for a table
    /// belongs to its record.
    pub(crate) fn put_together(&mut self) {
        let job = self.job.as_ref().map(|job| job.token.as_str());
        let (tables, others): (Vec<_>, Vec<_>) =
            self.tables.drain(..).partition(|table| Some(table.job.as_str()) == job);
        self.tables = tables;
        self.settled = others.into_iter().filter(|table| table.settled.is_some()).collect();
        for moved in self.moved.drain(..).filter(|moved| Some(moved.job.as_str()) == job) {
            if let Some(table) = self.tables.iter_mut().find(|table| table.name() == moved.table) {
                let MovedRecord { keys, too_many, .. } = moved;
                table.moved_before = MovedKeys { keys, too_many };
                table.moved(table.moved_before.clone());
                table.moved_unstored = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> TableRecord {
        TableRecord {
            version: VERSION,
            job: "initial".to_owned(),
            epoch: 1,
            schema: "public".to_owned(),
            table: "orders".to_owned(),
            relation: RelationId(7),
            state: TableState::Copying,
            partitions: Vec::new(),
            filter: None,
            pages_done: Vec::new(),
            key_columns: Vec::new(),
            after_key: None,
            again: Again::default(),
            attempt: 0,
            settled: None,
            rows: 0,
            bytes: 0,
            moved_before: MovedKeys::default(),
            moved_unstored: false,
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
    fn pages_that_are_done_are_not_left() {
        let mut record = record();
        assert_eq!(record.pages_left(7, 1, 100), [0..100]);
        assert!(record.pages_left(7, 1, 0).is_empty());
        record.add_pages(7, 1, 50..60);
        record.add_pages(7, 1, 10..20);
        record.add_pages(7, 1, 20..30);
        assert_eq!(record.pages_done[0].pages, [10..30, 50..60]);
        assert_eq!(record.pages_left(7, 1, 100), [0..10, 30..50, 60..100]);
        assert_eq!(record.pages_left(7, 1, 55), [0..10, 30..50]);
        assert_eq!(record.pages_left(7, 2, 100), [0..100], "rewritten");
        record.add_pages(7, 2, 0..5);
        assert_eq!(record.pages_left(7, 2, 100), [5..100]);
        record.add_pages(8, 3, 0..1);
        assert_eq!(record.pages_left(8, 3, 2), [1..2]);
    }
}
