//! What a running pipeline says of itself to `/readyz`, `/healthz` and `headwater status`.
//!
//! Written by the pipeline a few times a second, read by HTTP; nothing here is on the path of a row.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_pgoutput::Lsn;
use serde::Serialize;

use crate::boot_clock;

/// What the pipeline is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Readiness {
    /// Connecting, creating the slot, reading the checkpoint; `doing` says which.
    Starting {
        /// What it is at, for a person.
        doing: String,
    },
    /// Following the slot.
    Streaming,
    /// Following the slot, but held up by something outside; `reason` says what it waits for.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// Another instance owns the slot; this one will take over.
    Standby {
        /// Who owns it, as far as Postgres tells.
        owner: String,
    },
    /// Draining after SIGTERM.
    Stopping,
    /// Stopped for good.
    Halted {
        /// Why.
        reason: String,
    },
}

/// Positions in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Positions {
    /// End of what Postgres has sent.
    pub received: Lsn,
    /// End of what the sink has acknowledged without a gap.
    pub acknowledged: Lsn,
    /// What was stored in the checkpoint and reported to Postgres.
    pub confirmed: Lsn,
    /// The server's present end of WAL, as last asked.
    pub server: Lsn,
}

/// A copy of the status at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct StatusSnapshot {
    /// What the pipeline is doing.
    pub readiness: Readiness,
    /// The slot.
    pub slot: String,
    /// Positions in the WAL.
    pub positions: Positions,
    /// Bytes of WAL that the server has and the slot has not confirmed.
    pub lag_bytes: u64,
    /// Seconds since the commit of the oldest transaction that is not acknowledged; 0 when none is.
    pub lag_seconds: f64,
    /// WAL that the server keeps for the slot, bytes.
    pub retained_wal_bytes: Option<i64>,
    /// WAL that can still be written before the slot is lost, bytes; none without a limit.
    pub safe_wal_bytes: Option<i64>,
    /// Records written since the start, by table (or event topic) and operation code.
    pub tables: BTreeMap<String, BTreeMap<String, u64>>,
    /// Seconds since something moved or gave a reason for standing still.
    pub seconds_since_progress: f64,
}

#[derive(Debug)]
struct Inner {
    readiness: Readiness,
    slot: String,
    positions: Positions,
    lag_seconds: f64,
    retained_wal_bytes: Option<i64>,
    safe_wal_bytes: Option<i64>,
    tables: BTreeMap<String, BTreeMap<String, u64>>,
    began_at: Option<Lsn>,
}

/// The shared status of one pipeline.
#[derive(Debug)]
pub struct Status {
    inner: Mutex<Inner>,
    /// Boot clock of the last progress, milliseconds.
    progress_ms: AtomicU64,
}

impl Status {
    /// A pipeline that has not begun.
    pub fn new(slot: &str) -> Status {
        Status {
            inner: Mutex::new(Inner {
                readiness: Readiness::Starting { doing: "starting".to_owned() },
                slot: slot.to_owned(),
                positions: Positions::default(),
                lag_seconds: 0.0,
                retained_wal_bytes: None,
                safe_wal_bytes: None,
                tables: BTreeMap::new(),
                began_at: None,
            }),
            progress_ms: AtomicU64::new(boot_clock::now_ms()),
        }
    }

    /// Everything at one moment.
    pub fn snapshot(&self) -> StatusSnapshot {
        let inner = self.lock();
        let positions = inner.positions;
        StatusSnapshot {
            readiness: inner.readiness.clone(),
            slot: inner.slot.clone(),
            positions,
            lag_bytes: positions.server.0.saturating_sub(positions.confirmed.0),
            lag_seconds: inner.lag_seconds,
            retained_wal_bytes: inner.retained_wal_bytes,
            safe_wal_bytes: inner.safe_wal_bytes,
            tables: inner.tables.clone(),
            seconds_since_progress: self.since_progress().as_secs_f64(),
        }
    }

    /// What is stored in the checkpoint; 0 before the first session.
    pub fn confirmed(&self) -> Lsn {
        self.lock().positions.confirmed
    }

    /// What the sink has acknowledged without a gap.
    pub fn acknowledged(&self) -> Lsn {
        self.lock().positions.acknowledged
    }

    /// Where this process began to follow a slot that no checkpoint led to: a new one, or one adopted. What was
    /// committed before may not have been sent.
    pub fn began_at(&self) -> Option<Lsn> {
        self.lock().began_at
    }

    pub(crate) fn set_began_at(&self, lsn: Lsn) {
        self.lock().began_at = Some(lsn);
    }

    /// Time since something moved or gave a reason for standing still (boot clock: suspension counts).
    pub fn since_progress(&self) -> Duration {
        let then = self.progress_ms.load(Ordering::Relaxed);
        Duration::from_millis(boot_clock::now_ms().saturating_sub(then))
    }

    /// Something moved.
    pub(crate) fn progress(&self) {
        self.progress_ms.store(boot_clock::now_ms(), Ordering::Relaxed);
    }

    /// The pipeline does something else from now on; also counts as progress.
    pub(crate) fn set(&self, readiness: Readiness) {
        self.lock().readiness = readiness;
        self.progress();
    }

    /// What was waited for has come.
    pub(crate) fn resume(&self) {
        let mut inner = self.lock();
        if matches!(inner.readiness, Readiness::Waiting { .. }) {
            inner.readiness = Readiness::Streaming;
        }
        drop(inner);
        self.progress();
    }

    pub(crate) fn set_positions(&self, received: Lsn, acknowledged: Lsn, confirmed: Lsn) {
        let positions = &mut self.lock().positions;
        positions.received = received;
        positions.acknowledged = acknowledged;
        positions.confirmed = confirmed;
        positions.server = positions.server.max(received);
    }

    pub(crate) fn set_lag_seconds(&self, seconds: f64) {
        self.lock().lag_seconds = seconds;
    }

    pub(crate) fn set_server(&self, wal_end: Lsn, retained: Option<i64>, safe: Option<i64>) {
        let mut inner = self.lock();
        inner.positions.server = inner.positions.server.max(wal_end);
        inner.retained_wal_bytes = retained;
        inner.safe_wal_bytes = safe;
    }

    pub(crate) fn count(&self, table: &str, op: &str, records: u64) {
        let mut inner = self.lock();
        *inner.tables.entry(table.to_owned()).or_default().entry(op.to_owned()).or_default() += records;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the status")
    }
}
