//! What people see of the job: its status, the lines of the log and the metrics, told by the coordinator as it goes.

use std::time::{Duration, Instant};

use headwater_pg::lock_wait::LockWait;
use headwater_pg::snapshot_tables::SnapshotTable;

use super::choice::planned_rows;
use super::control::{SnapshotControl, SnapshotStatus, TableStatus};
use super::coordinator::Coordinator;
use super::copier::name_of;
use super::progress::{JobState, TableRecord, TableState};
use crate::status::{Readiness, Status};

/// Time between two lines of the log about a copy.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two updates of all metrics: with thousands of tables they are thousands.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(500);

/// Tables that one such moment has lines for: as many as are copied at a time by default, and some.
const TABLES_TOLD: usize = 4;

/// Share of a table's pages from which on they say how many rows it has.
const PAGES_THAT_TELL: f64 = 0.02;

/// In the order of a table's life.
const STATES: [(TableState, &str); 4] = [
    (TableState::Waiting, "waiting"),
    (TableState::Copying, "copying"),
    (TableState::Done, "done"),
    (TableState::Failed, "failed"),
];

impl Coordinator {
    /// Tells of the job and its tables anew.
    pub(crate) fn tell_job(&mut self) {
        let Some(job) = &self.job else { return };
        let status_of = |record: &TableRecord| {
            let name = record.name();
            let estimated = self.estimates.get(&name).map_or(0, |estimate| estimate.rows);
            let table = TableStatus::new(record.state, record.rows, record.bytes, record.rows.max(estimated));
            (name, table)
        };
        self.parts.control.set(SnapshotStatus {
            id: job.id.clone(),
            kind: job.kind,
            state: job.state,
            waiting: None,
            transaction_age_seconds: None,
            transaction_age_seconds_max: None,
            tables: self.tables.iter().map(status_of).collect(),
        });
        let metrics = &self.parts.metrics;
        metrics.snapshot_table_state.reset();
        metrics.snapshot_rows_estimated.reset();
        metrics.snapshot_rows_read.reset();
        metrics.snapshot_seconds.reset();
        self.publish();
    }

    /// Remembers how many rows the tables of the job may have.
    pub(crate) async fn estimate(&mut self, tables: &[SnapshotTable]) {
        for table in tables {
            let name = name_of(table);
            let Some(record) = self.tables.iter().find(|record| record.name() == name) else { continue };
            let filter = record.filter.clone();
            let mut rows = table.leaves.iter().map(|leaf| leaf.estimated_rows).sum();
            if let Ok(client) = self.client().await
                && let Some(planned) = planned_rows(client, table, filter.as_deref()).await
            {
                rows = planned;
            }
            let pages = table.leaves.iter().map(|leaf| (leaf.oid, leaf.pages)).collect();
            self.estimates.insert(name, Estimate { rows, pages });
        }
    }

    /// Says what holds the job up, or that nothing does any more.
    pub(crate) fn tell_waiting(&self, waiting: Option<String>) {
        self.parts.control.change(|status| status.waiting = waiting);
    }

    /// How a table stands from now on.
    pub(crate) fn tell_table(&self, at: usize, state: TableState, error: Option<String>) {
        let record = &self.tables[at];
        let (name, rows) = (record.name(), record.rows);
        match state {
            TableState::Done => {
                let seconds = self.parts.control.meter(&name).read().seconds;
                tracing::info!(table = name, rows, seconds = (seconds * 10.0).round() / 10.0, "copied");
            }
            TableState::Failed => {
                self.parts.metrics.errors.with_label_values(&["snapshot"]).inc();
                tracing::warn!(table = name, error, "giving up the copy of a table");
            }
            TableState::Waiting | TableState::Copying => {}
        }
        let meter = self.parts.control.meter(&name);
        match state {
            TableState::Copying => meter.start(),
            TableState::Waiting | TableState::Done | TableState::Failed => meter.stop(),
        }
        self.parts.control.change(|status| {
            if let Some(table) = status.tables.get_mut(&name) {
                (table.state, table.error) = (state, error);
            }
        });
        self.publish_table(&name);
    }

    /// A chunk of a table is acknowledged: so many rows and bytes are new.
    pub(crate) fn tell_acknowledged(&mut self, at: usize, rows: u64, bytes: u64) {
        let record = &self.tables[at];
        let name = record.name();
        let labels = [name.as_str()];
        self.parts.metrics.snapshot_rows.with_label_values(&labels).inc_by(rows);
        self.parts.metrics.snapshot_bytes.with_label_values(&labels).inc_by(bytes);
        self.parts.metrics.snapshot_chunks.with_label_values(&labels).inc();
        let corrected = self.estimates.get(&name).and_then(|estimate| estimate.corrected(record));
        let (rows, bytes) = (record.rows, record.bytes);
        self.parts.control.meter(&name).at_least(rows, bytes);
        self.parts.control.change(|status| {
            if let Some(table) = status.tables.get_mut(&name) {
                (table.rows, table.bytes) = (rows, bytes);
                table.chunks += 1;
                if let Some(corrected) = corrected {
                    table.rows_estimated = corrected;
                }
            }
        });
        self.tell_progress();
    }

    /// The job's state is another one: the clocks of its tables stand while it does.
    pub(crate) fn tell_job_state(&mut self, state: JobState) {
        self.parts.control.change(|status| (status.state, status.waiting) = (state, None));
        if state != JobState::Running {
            self.parts.control.set_transaction(None);
            self.tables.iter().for_each(|record| self.parts.control.meter(&record.name()).stop());
        }
        self.publish();
    }

    /// Metrics, and a line of the log for each table under way, when it is time.
    pub(crate) fn tell_progress(&mut self) {
        if self.published.elapsed() >= PUBLISH_INTERVAL {
            self.publish();
        }
        if self.told.elapsed() < TOLD_INTERVAL || self.parts.control.is_watched() {
            return;
        }
        self.told = Instant::now();
        let Some(status) = self.parts.control.status() else { return };
        let copying = status.tables.iter().filter(|(_, table)| table.state == TableState::Copying);
        for (name, table) in copying.take(TABLES_TOLD) {
            tracing::info!(
                table = name,
                rows = table.rows_read,
                rows_estimated = table.rows_estimated,
                percent = table.percent as u64,
                rows_per_second = table.rows_per_second as u64,
                bytes_per_second = table.bytes_per_second as u64,
                seconds_left = table.eta_seconds.map(|left| left.ceil() as u64),
                waiting = status.waiting,
                "copying"
            );
        }
    }

    /// Metrics of all tables.
    pub(crate) fn publish(&mut self) {
        self.published = Instant::now();
        let Some(status) = self.parts.control.status() else { return };
        let age = status.transaction_age_seconds.unwrap_or(0.0);
        self.parts.metrics.snapshot_transaction_age_seconds.set(age);
        status.tables.iter().for_each(|(name, table)| self.publish_one(name, table));
    }

    fn publish_table(&self, name: &str) {
        if let Some(table) = self.parts.control.table(name) {
            self.publish_one(name, &table);
        }
    }

    fn publish_one(&self, name: &str, table: &TableStatus) {
        let metrics = &self.parts.metrics;
        for (state, word) in STATES {
            let is = i64::from(table.state == state);
            metrics.snapshot_table_state.with_label_values(&[name, word]).set(is);
        }
        metrics.snapshot_rows_read.with_label_values(&[name]).set(table.rows_read as i64);
        metrics.snapshot_rows_estimated.with_label_values(&[name]).set(table.rows_estimated as i64);
        metrics.snapshot_seconds.with_label_values(&[name]).set(table.seconds);
    }
}

/// Hears of a lock that the job waits for.
pub(crate) fn tell_lock<'a>(
    control: &'a SnapshotControl,
    doing: &'a str,
) -> impl FnMut(Option<&LockWait>) + 'a {
    move |wait| {
        let sentence = wait.map(|wait| format!("{doing} waits for {wait}"));
        match &sentence {
            Some(sentence) => tracing::warn!("the snapshot is held up: {sentence}"),
            None => tracing::info!("{doing}: the lock was had"),
        }
        control.change(|status| status.waiting = sentence);
    }
}

/// The same of a start, whose readiness it is.
pub(crate) fn tell_lock_of_start<'a>(
    status: &'a Status,
    doing: &'a str,
) -> impl FnMut(Option<&LockWait>) + 'a {
    move |wait| match wait {
        Some(wait) => {
            tracing::warn!("{doing} waits for {wait}");
            status.set(Readiness::Starting { doing: format!("{doing}: waiting for {wait}") });
        }
        None => {
            tracing::info!("{doing}: the lock was had");
            status.set(Readiness::Starting { doing: doing.to_owned() });
        }
    }
}

/// How many rows a table may have.
#[derive(Clone, Debug)]
pub(crate) struct Estimate {
    rows: u64,
    /// Of each storage.
    pages: Vec<(u32, u32)>,
}

impl Estimate {
    /// By the rows that were on the pages that are copied; None while that says little, or where it is not by pages.
    fn corrected(&self, record: &TableRecord) -> Option<u64> {
        let all: u64 = self.pages.iter().map(|(_, pages)| u64::from(*pages)).sum();
        if record.after_key.is_some() || all == 0 {
            return None;
        }
        // What was added to a storage since then is no part of what is counted.
        let left = |(relation, pages): &(u32, u32)| record.pages_left_of(*relation, *pages);
        let left: u64 = self.pages.iter().map(left).sum();
        let share = (all - left) as f64 / all as f64;
        (share >= PAGES_THAT_TELL).then(|| (record.rows as f64 / share).round() as u64)
    }
}
