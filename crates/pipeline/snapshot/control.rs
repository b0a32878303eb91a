//! What people and programs ask of snapshots while headwater runs, and what they see of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

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
    /// Rows expected, from the catalog's estimate, corrected as the copy goes.
    pub rows_estimated: u64,
    /// Bytes read from the server.
    pub bytes: u64,
    /// Chunks done.
    pub chunks: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Why it was given up.
    pub error: Option<String>,
}

/// The way to a running instance's snapshots; shared by whoever serves commands.
#[derive(Debug)]
pub struct SnapshotControl {
    commands: mpsc::Sender<Asked>,
    /// Taken by one session at a time.
    pub(crate) asked: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
    status: Mutex<Option<SnapshotStatus>>,
}

impl Default for SnapshotControl {
    fn default() -> SnapshotControl {
        let (commands, asked) = mpsc::channel(COMMANDS_MAX);
        SnapshotControl { commands, asked: tokio::sync::Mutex::new(asked), status: Mutex::new(None) }
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
        self.commands.try_send((command, answer)).map_err(|_| busy.to_owned())?;
        answered.await.map_err(|_| busy.to_owned())?
    }

    /// How the present or last job stands; None without any.
    pub fn status(&self) -> Option<SnapshotStatus> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, status: SnapshotStatus) {
        *self.lock() = Some(status);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut SnapshotStatus)) {
        if let Some(status) = self.lock().as_mut() {
            change(status);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SnapshotStatus>> {
        self.status.lock().expect("no code panics while it holds the status")
    }
}
