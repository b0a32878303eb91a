//! Tells how snapshots go, in Debezium's words: to a topic, to the log, or to both.
//!
//! Names of tables and counts of rows, never a row's values: `maximum_key` and `last_processed_key`, which Debezium
//! has in IN_PROGRESS, are keys of rows and are left out.

use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater_avro::Notification;

use super::Input;
use super::ledger::LedgerEntry;
use super::progress::{JobKind, JobRecord, TableRecord, TableState};
use crate::error::StageError;
use crate::settings::{NotificationSettings, Settings};

/// Time between two notifications of a copy that goes on.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Tables of a job that are named with what is told of each of them.
const NAMED_WITH_EACH_MAX: usize = 100;

/// Bytes of names in one notification: what a topic takes by default is 1 MB.
const NAMES_BYTES_MAX: usize = 256 << 10;

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobStep {
    Started,
    Paused,
    Resumed,
    Completed,
    Aborted,
}

impl JobStep {
    fn word(self) -> &'static str {
        match self {
            JobStep::Started => "STARTED",
            JobStep::Paused => "PAUSED",
            JobStep::Resumed => "RESUMED",
            JobStep::Completed => "COMPLETED",
            JobStep::Aborted => "ABORTED",
        }
    }
}

/// Shared by those who have something to tell.
#[derive(Clone)]
pub(crate) struct Notifier {
    settings: NotificationSettings,
    /// Debezium's name for an instance is the prefix of its topics.
    prefix: String,
    inputs: Sender<Input>,
}

impl Notifier {
    pub(crate) fn new(settings: &Settings, inputs: Sender<Input>) -> Notifier {
        let (settings, prefix) = (settings.notifications.clone(), settings.topics.prefix.clone());
        Notifier { settings, prefix, inputs }
    }

    /// A job has come to a step.
    pub(crate) fn job(
        &self,
        job: &JobRecord,
        tables: &[TableRecord],
        step: JobStep,
    ) -> Result<(), StageError> {
        if !self.settings.is_on() {
            return Ok(());
        }
        let mut data = Vec::new();
        if matches!(step, JobStep::Started | JobStep::Paused | JobStep::Resumed) {
            data.push(("data_collections", names(tables)));
        }
        let failed: Vec<String> =
            tables.iter().filter(|table| table.state == TableState::Failed).map(TableRecord::name).collect();
        if step == JobStep::Completed && !failed.is_empty() {
            data.push(("failed_collections", failed.join(",")));
        }
        self.tell(aggregate_type(job), &id_of(job), step.word(), data)
    }

    /// A table of it is being copied.
    pub(crate) fn table_in_progress(
        &self,
        job: &JobRecord,
        tables: &[TableRecord],
        at: usize,
    ) -> Result<(), StageError> {
        if !self.settings.is_on() {
            return Ok(());
        }
        let data = [
            all_names(tables).map(|names| ("data_collections", names)),
            Some(("current_collection_in_progress", tables[at].name())),
        ];
        let data = data.into_iter().flatten().collect();
        self.tell(aggregate_type(job), &id_of(job), "IN_PROGRESS", data)
    }

    /// The copy of a table is over. `error` is why it was given up.
    pub(crate) fn table_over(
        &self,
        job: &JobRecord,
        tables: &[TableRecord],
        at: usize,
        error: Option<&str>,
    ) -> Result<(), StageError> {
        if !self.settings.is_on() {
            return Ok(());
        }
        let rows = tables[at].rows;
        let status = match error {
            Some("cancelled") => "SKIPPED",
            Some(_) => "SQL_EXCEPTION",
            None if rows == 0 => "EMPTY",
            None => "SUCCEEDED",
        };
        let data = [
            all_names(tables).map(|names| ("data_collections", names)),
            Some(("scanned_collection", tables[at].name())),
            Some(("total_rows_scanned", rows.to_string())),
            Some(("status", status.to_owned())),
        ];
        let data = data.into_iter().flatten().collect();
        self.tell(aggregate_type(job), &id_of(job), "TABLE_SCAN_COMPLETED", data)
    }

    /// A session begins without a first snapshot.
    pub(crate) fn skipped(&self, epoch: u64) -> Result<(), StageError> {
        if !self.settings.is_on() {
            return Ok(());
        }
        self.tell("Initial Snapshot", &format!("start-{epoch}"), "SKIPPED", Vec::new())
    }

    /// Something that was asked for is not done. Debezium has no word for it.
    pub(crate) fn refused(&self, id: &str, why: &str) -> Result<(), StageError> {
        if !self.settings.is_on() {
            return Ok(());
        }
        self.tell("Signal", id, "REFUSED", vec![("reason", why.to_owned())])
    }

    fn tell(
        &self,
        aggregate_type: &str,
        id: &str,
        kind: &str,
        data: Vec<(&str, String)>,
    ) -> Result<(), StageError> {
        let named = |(name, text): (&str, String)| (name.to_owned(), text);
        let mut additional_data = vec![("connector_name".to_owned(), self.prefix.clone())];
        additional_data.extend(data.into_iter().map(named));
        if self.settings.log {
            let text: Vec<String> =
                additional_data.iter().map(|(name, text)| format!("{name}={text}")).collect();
            tracing::info!(
                aggregate_type,
                r#type = kind,
                id,
                additional_data = text.join("; "),
                "notification"
            );
        }
        if self.settings.topic.is_none() {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let note = Notification {
            id: id.to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            kind: kind.to_owned(),
            additional_data,
            unix_millis: now.as_millis() as i64,
        };
        self.inputs.send(Input::Ledger(LedgerEntry::Note(note))).map_err(|_| StageError::Stopped)
    }
}

fn aggregate_type(job: &JobRecord) -> &'static str {
    match job.kind {
        JobKind::Initial => "Initial Snapshot",
        JobKind::AdHoc => "Incremental Snapshot",
    }
}

/// A signal's id is that of all that is told of it; a first snapshot's is its own.
fn id_of(job: &JobRecord) -> String {
    match job.kind {
        JobKind::Initial => job.token.replace(' ', "-"),
        JobKind::AdHoc => job.id.clone(),
    }
}

/// For what is told once of a job.
fn names(tables: &[TableRecord]) -> String {
    let mut text = String::new();
    for (at, table) in tables.iter().enumerate() {
        if text.len() > NAMES_BYTES_MAX {
            return format!("{text} and {} more", tables.len() - at);
        }
        text.extend((at > 0).then_some(","));
        text.push_str(&table.name());
    }
    text
}

/// For what is told of each table: not where that would be the square of what a job has.
fn all_names(tables: &[TableRecord]) -> Option<String> {
    (tables.len() <= NAMED_WITH_EACH_MAX).then(|| names(tables))
}
