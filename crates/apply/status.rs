//! What an instance says of itself, for probes and for people.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headwater_kafka::TopicPartition;
use serde::Serialize;

/// Shared between the applier, which writes, and the endpoints, which read.
#[derive(Debug)]
pub struct Status(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    moved: Instant,
    partitions: BTreeMap<TopicPartition, Progress>,
}

/// What it is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not a member of the group yet.
    Joining,
    /// A member; it may have no partition, with more members than partitions.
    Applying,
    /// Something is away.
    Waiting(String),
    /// Asked to stop.
    Stopping,
    /// It can't go on.
    Halted(String),
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The next offset to apply.
    pub next_offset: i64,
    /// The partition's end, when it was last told.
    pub end_offset: Option<i64>,
}

/// A report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In one word.
    pub state: &'static str,
    /// More about it.
    pub reason: Option<String>,
    /// By topic and partition, as `topic/0`.
    pub partitions: BTreeMap<String, Progress>,
    /// Records that are not applied yet, where the ends are known.
    pub lag_records: i64,
}

impl Default for Status {
    fn default() -> Status {
        Status(Mutex::new(Inner {
            state: State::Joining,
            moved: Instant::now(),
            partitions: BTreeMap::new(),
        }))
    }
}

impl Status {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, state: State) {
        let mut inner = self.inner();
        inner.state = state;
        inner.moved = Instant::now();
    }

    /// The loop turns.
    pub(crate) fn alive(&self) {
        self.inner().moved = Instant::now();
    }

    pub(crate) fn progress(&self, partitions: BTreeMap<TopicPartition, Progress>) {
        self.inner().partitions = partitions;
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// How long nothing has moved and nobody said why.
    pub fn since_progress(&self) -> Duration {
        self.inner().moved.elapsed()
    }

    /// For `/status`.
    pub fn report(&self) -> Report {
        let inner = self.inner();
        let (state, reason) = inner.state.words();
        let lag = |progress: &Progress| {
            progress.end_offset.map_or(0, |end| (end - progress.next_offset.max(0)).max(0))
        };
        Report {
            state,
            reason,
            lag_records: inner.partitions.values().map(lag).sum(),
            partitions: inner
                .partitions
                .iter()
                .map(|(place, progress)| (format!("{}/{}", place.topic, place.partition), *progress))
                .collect(),
        }
    }
}

impl State {
    /// In one word, and what is behind it.
    pub fn words(&self) -> (&'static str, Option<String>) {
        match self {
            State::Joining => ("joining", None),
            State::Applying => ("applying", None),
            State::Waiting(reason) => ("waiting", Some(reason.clone())),
            State::Stopping => ("stopping", None),
            State::Halted(reason) => ("halted", Some(reason.clone())),
        }
    }
}
