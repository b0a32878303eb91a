//! What people and programs ask of snapshots while headwater runs, and what they see of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::meter::{Reading, TableMeter};
pub use super::progress::{JobKind, JobState, TableState};
pub use super::table_pattern::TablePattern;

/// Commands that wait for the session to take them.
const COMMANDS_MAX: usize = 16;

/// A request to the running instance. The answer is a sentence: what will be done, or why it can't.
#[derive(Debug)]
pub enum Command {
    /// Copy tables beside the stream.
    Start {
        /// The caller's name for it; one is made up without.
        id: Option<String>,
        /// Which.
        tables: Vec<TablePattern>,
        /// Rows that are wanted only, as SQL, by table.
        filters: Vec<(TablePattern, String)>,
    },
    /// Read these rows again and write them as they are now: what was set aside of them is in that.
    Replay {
        /// Schema and name.
        table: (String, String),
        /// Their keys, as texts by column.
        keys: Vec<BTreeMap<String, String>>,
        /// Which attempt it is, from 1.
        attempt: u32,
    },
    /// Copy no further until told.
    Pause,
    /// Go on.
    Resume,
    /// End it, or these tables of it. What was written stays.
    Cancel {
        /// Which; empty is all of it.
        tables: Vec<TablePattern>,
    },
}

/// A command and where its answer goes.
pub(crate) type Asked = (Command, oneshot::Sender<Result<String, String>>);

/// How the job stands, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotStatus {
    /// The job's name.
    pub id: String,
    /// Why it is made.
    pub kind: JobKind,
    /// How it stands.
    pub state: JobState,
    /// What holds it up, if something does.
    pub waiting: Option<String>,
    /// Seconds since its snapshot was taken: what holds back vacuum on the server. None beside the stream.
    pub transaction_age_seconds: Option<f64>,
    /// How old that may grow; None beside the stream.
    pub transaction_age_seconds_max: Option<f64>,
    /// Its tables by name.
    pub tables: BTreeMap<String, TableStatus>,
}

/// How one table stands.
#[derive(Clone, Debug, Serialize)]
pub struct TableStatus {
    /// How it stands.
    pub state: TableState,
    /// Rows acknowledged.
    pub rows: u64,
    /// Rows read from the server, acknowledged or not.
    pub rows_read: u64,
    /// Rows expected, from the catalog's estimate, corrected as the copy goes; never less than are read.
    pub rows_estimated: u64,
    /// How much of them is read; 100 only when the table is done.
    pub percent: f64,
    /// Bytes read from the server, as COPY sends them.
    pub bytes: u64,
    /// Chunks acknowledged.
    pub chunks: u64,
    /// Seconds spent by this process.
    pub seconds: f64,
    /// Of late; 0 while it is not copied.
    pub rows_per_second: f64,
    /// Of late; 0 while it is not copied.
    pub bytes_per_second: f64,
    /// Until it is done, at that rate; None when there is none.
    pub eta_seconds: Option<f64>,
    /// Why it was given up.
    pub error: Option<String>,
}

impl TableStatus {
    /// A table of which nothing was read by this process yet.
    pub(crate) fn new(state: TableState, rows: u64, bytes: u64, rows_estimated: u64) -> TableStatus {
        TableStatus {
            state,
            rows,
            rows_read: rows,
            rows_estimated,
            percent: 0.0,
            bytes,
            chunks: 0,
            seconds: 0.0,
            rows_per_second: 0.0,
            bytes_per_second: 0.0,
            eta_seconds: None,
            error: None,
        }
    }

    /// With what its meter shows now.
    fn metered(&mut self, reading: Reading) {
        let is_over = matches!(self.state, TableState::Done | TableState::Failed);
        if self.state == TableState::Waiting && reading.is_running {
            self.state = TableState::Copying;
        }
        // What was read and came to nothing, overtaken by the stream or read again, is no part of the table.
        self.rows_read = if is_over { self.rows } else { reading.rows.max(self.rows) };
        self.bytes = self.bytes.max(reading.bytes);
        self.seconds = reading.seconds;
        self.rows_estimated = match self.state {
            TableState::Done => self.rows,
            _ => self.rows_estimated.max(self.rows_read),
        };
        self.percent = match self.state {
            TableState::Done => 100.0,
            // Read is not done.
            _ => (self.rows_read as f64 / self.rows_estimated.max(1) as f64 * 100.0).min(99.9),
        };
        if is_over {
            return;
        }
        (self.rows_per_second, self.bytes_per_second) = (reading.rows_per_second, reading.bytes_per_second);
        let left = (self.rows_estimated - self.rows_read) as f64;
        self.eta_seconds = (self.rows_per_second > 0.0).then(|| left / self.rows_per_second);
    }
}

/// A job's status without what changes by itself, and the meters that have that.
#[derive(Debug)]
struct Told {
    status: SnapshotStatus,
    meters: BTreeMap<String, Arc<TableMeter>>,
    /// When the job's snapshot was taken, and how old it may grow.
    transaction: Option<(Instant, Duration)>,
}

/// The way to a running instance's snapshots; shared by whoever serves commands.
#[derive(Debug)]
pub struct SnapshotControl {
    commands: mpsc::Sender<Asked>,
    /// Taken by one session at a time.
    pub(crate) asked: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
    told: Mutex<Option<Told>>,
    /// The copy that `snapshot.mode = "always"` wants of this process is begun.
    begun_for_start: AtomicBool,
    /// Somebody watches the status on a terminal, and needs no lines of the log for it.
    is_watched: AtomicBool,
}

impl Default for SnapshotControl {
    fn default() -> SnapshotControl {
        let (commands, asked) = mpsc::channel(COMMANDS_MAX);
        SnapshotControl {
            commands,
            asked: tokio::sync::Mutex::new(asked),
            told: Mutex::new(None),
            begun_for_start: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
        }
    }
}

impl SnapshotControl {
    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// Why it can't be done, as a sentence.
    pub async fn ask(&self, command: Command) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let busy =
            "headwater does not stream at the moment: it starts, stands by or waits; see headwater status";
        // Without a session nobody takes it, and nobody is to find it later.
        if self.asked.try_lock().is_ok() {
            return Err(busy.to_owned());
        }
        self.commands.try_send((command, answer)).map_err(|_| busy.to_owned())?;
        answered.await.map_err(|_| busy.to_owned())?
    }

    /// How the present or last job stands; None without any.
    pub fn status(&self) -> Option<SnapshotStatus> {
        let told = self.lock();
        let told = told.as_ref()?;
        let mut status = told.status.clone();
        for (name, table) in &mut status.tables {
            if let Some(meter) = told.meters.get(name) {
                table.metered(meter.read());
            }
        }
        status.transaction_age_seconds = told.transaction.map(|(taken, _)| taken.elapsed().as_secs_f64());
        status.transaction_age_seconds_max = told.transaction.map(|(_, limit)| limit.as_secs_f64());
        Some(status)
    }

    /// One table of it.
    pub(crate) fn table(&self, name: &str) -> Option<TableStatus> {
        let told = self.lock();
        let told = told.as_ref()?;
        let mut table = told.status.tables.get(name)?.clone();
        table.metered(told.meters.get(name)?.read());
        Some(table)
    }

    pub(crate) fn set_begun_for_start(&self) {
        self.begun_for_start.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_begun_for_start(&self) -> bool {
        self.begun_for_start.load(Ordering::Relaxed)
    }

    /// Progress is shown on a terminal from now on: the log need not tell it.
    pub fn set_watched(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// A job is told anew; what this process has read of its tables is remembered.
    pub(crate) fn set(&self, status: SnapshotStatus) {
        let mut told = self.lock();
        let mut before = match told.take() {
            Some(told) if told.status.id == status.id && told.status.kind == status.kind => told.meters,
            _ => BTreeMap::new(),
        };
        let meter = |(name, table): (&String, &TableStatus)| {
            let meter = before.remove(name).unwrap_or_default();
            meter.stop();
            meter.set(table.rows, table.bytes);
            (name.clone(), meter)
        };
        let meters = status.tables.iter().map(meter).collect();
        *told = Some(Told { status, meters, transaction: None });
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut SnapshotStatus)) {
        if let Some(told) = self.lock().as_mut() {
            change(&mut told.status);
        }
    }

    /// The job copies under a snapshot that was taken now, or does not any more.
    pub(crate) fn set_transaction(&self, taken: Option<(Instant, Duration)>) {
        if let Some(told) = self.lock().as_mut() {
            told.transaction = taken;
        }
    }

    /// Where what is read of a table is counted.
    pub(crate) fn meter(&self, table: &str) -> Arc<TableMeter> {
        self.lock().as_ref().and_then(|told| told.meters.get(table).cloned()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Told>> {
        self.told.lock().expect("no code panics while it holds the status")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_never_more_than_whole_and_whole_only_when_it_is_done() {
        let check = |state, (acknowledged, read, estimated): (u64, u64, u64), wanted: (u64, u64, f64)| {
            let mut table = TableStatus::new(state, acknowledged, 0, estimated);
            table.metered(Reading { rows: read, is_running: true, ..Reading::default() });
            let found = (table.rows_read, table.rows_estimated, table.percent);
            assert_eq!(found, wanted, "{acknowledged} {read} {estimated}");
        };
        use TableState::{Copying, Done, Failed, Waiting};
        check(Copying, (0, 0, 0), (0, 0, 0.0));
        check(Copying, (10, 25, 100), (25, 100, 25.0));
        check(Copying, (100, 100, 100), (100, 100, 99.9));
        check(Copying, (100, 150, 100), (150, 150, 99.9));
        check(Waiting, (0, 5, 10), (5, 10, 50.0));
        check(Done, (150, 170, 100), (150, 150, 100.0));
        check(Failed, (50, 60, 100), (50, 100, 50.0));
    }

    #[test]
    fn what_is_left_takes_as_long_as_the_rate_says() {
        let mut table = TableStatus::new(TableState::Copying, 0, 0, 300);
        table.metered(Reading { rows: 100, rows_per_second: 50.0, is_running: true, ..Reading::default() });
        assert_eq!(table.eta_seconds, Some(4.0));
        table.metered(Reading { rows: 100, is_running: true, ..Reading::default() });
        assert_eq!(table.eta_seconds, None, "nothing moves");
    }
}
