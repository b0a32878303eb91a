//! Reads signals, wherever they come from, and keeps what they ask for until the coordinator does it.
//!
//! In: rows of the table of signals from the pump, records of the topic of signals. Out: requests, log lines, refusals.
//! What can't be understood is refused and said; the stream goes on.

use std::sync::Arc;

use headwater_kafka::TopicRecord;
use tokio::sync::mpsc::UnboundedReceiver;

use super::notifications::Notifier;
use super::requests::{Heard, Requests, TopicPlace, Wish};
use super::signal_rows::SignalRow;
use super::signals::{self, Signal};
use crate::error::StageError;
use crate::metrics::Metrics;
use crate::settings::SignalSettings;

/// See the module's documentation; one task of a session.
pub(crate) struct SignalReader {
    pub(crate) settings: SignalSettings,
    /// The key that records of the topic must have.
    pub(crate) prefix: String,
    pub(crate) requests: Arc<Requests>,
    pub(crate) notifier: Notifier,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a signal is refused that could be obeyed.
const FULL: &str = "too many requests wait already";

/// What is left of a signal when it was read.
struct Read {
    id: String,
    outcome: Result<Signal, String>,
}

impl SignalReader {
    /// Reads rows until the pump is gone.
    pub(crate) async fn run(&self, rows: &mut UnboundedReceiver<SignalRow>) -> StageError {
        while let Some(row) = rows.recv().await {
            if let Err(error) = self.row(row) {
                return error;
            }
        }
        StageError::Stopped
    }

    fn row(&self, row: SignalRow) -> Result<(), StageError> {
        let read =
            self.read(row.id, row.verb, row.data.as_deref(), || format!("row-{}", row.place.commit_lsn));
        let wish = wish_of(&read);
        let would = self.requests.would_hear_row(row.place, wish.as_ref());
        self.refuse_before("table", &read, would)?;
        let heard = self.requests.heard_row(row.place, row.sequence, wish)?;
        self.tell("table", read, would, heard)
    }

    /// A record of the topic.
    pub(crate) fn record(&self, topic: &str, record: &TopicRecord) -> Result<(), StageError> {
        let next = TopicPlace { topic: topic.to_owned(), offset: record.offset + 1 };
        if record.key.as_deref() != Some(self.prefix.as_bytes()) {
            tracing::debug!(
                topic,
                offset = record.offset,
                "a signal for another instance: its key is not topics.prefix"
            );
            self.metrics.signals.with_label_values(&["topic", "other"]).inc();
            return self.requests.heard_record(next, None).map(drop);
        }
        let read = self.read_record(record);
        let wish = wish_of(&read);
        let would = self.requests.would_hear_record(&next, wish.as_ref());
        self.refuse_before("topic", &read, would)?;
        let heard = self.requests.heard_record(next, wish)?;
        self.tell("topic", read, would, heard)
    }

    fn read_record(&self, record: &TopicRecord) -> Read {
        let nameless = || format!("offset-{}", record.offset);
        let refused = |why: &str| Read { id: nameless(), outcome: Err(why.to_owned()) };
        let value = serde_json::from_slice(record.value.as_deref().unwrap_or_default());
        let Ok(serde_json::Value::Object(mut fields)) = value else {
            return refused("its value is no JSON object");
        };
        let mut text = |name: &str| match fields.remove(name) {
            Some(serde_json::Value::String(text)) => Some(text),
            // An object stands for its text, as a table has it.
            Some(serde_json::Value::Null) | None => None,
            Some(other) => Some(other.to_string()),
        };
        let (id, verb, data) = (text("id"), text("type"), text("data"));
        if !fields.is_empty() {
            return refused("its value has other fields than id, type and data");
        }
        self.read(id, verb, data.as_deref(), nameless)
    }

    fn read(
        &self,
        id: Option<String>,
        verb: Option<String>,
        data: Option<&str>,
        nameless: impl Fn() -> String,
    ) -> Read {
        let id = id.filter(|id| !id.is_empty()).map_or_else(nameless, |id| signals::clean_id(&id));
        let outcome = match &verb {
            Some(verb) => signals::read(verb, data, self.settings.allow_filters),
            None => Err("it has no type".to_owned()),
        };
        Read { id, outcome }
    }

    /// A refusal is told before the place of the signal is stored: a crash between them tells it twice, and never loses
    /// it.
    fn refuse_before(&self, channel: &str, read: &Read, would: Heard) -> Result<(), StageError> {
        let why = match (&read.outcome, would) {
            (_, Heard::Again) | (Ok(_), Heard::Taken) => return Ok(()),
            (Ok(_), Heard::Full) => FULL,
            (Err(why), _) => why,
        };
        self.metrics.signals.with_label_values(&[channel, "refused"]).inc();
        refuse(&self.notifier, &self.metrics, &read.id, why)
    }

    fn tell(&self, channel: &str, read: Read, would: Heard, heard: Heard) -> Result<(), StageError> {
        let Read { id, outcome } = read;
        let count = |outcome: &str| self.metrics.signals.with_label_values(&[channel, outcome]).inc();
        match (outcome, heard) {
            (_, Heard::Again) => {
                tracing::info!(id, channel, "a signal came again, and was taken before");
                count("repeated");
                Ok(())
            }
            (Ok(Signal::Watermark), _) => {
                count("other");
                Ok(())
            }
            (Ok(Signal::Log { message }), _) => {
                tracing::info!(id, channel, message, "a signal to the log");
                count("taken");
                Ok(())
            }
            (Ok(_), Heard::Taken) => {
                tracing::info!(id, channel, "a signal was taken");
                count("taken");
                Ok(())
            }
            (Ok(_), Heard::Full) if would != Heard::Full => {
                count("refused");
                refuse(&self.notifier, &self.metrics, &id, FULL)
            }
            // It was refused before.
            (Ok(_), Heard::Full) | (Err(_), _) => Ok(()),
        }
    }
}

/// Says that something that was asked for is not done.
pub(crate) fn refuse(notifier: &Notifier, metrics: &Metrics, id: &str, why: &str) -> Result<(), StageError> {
    tracing::warn!(id, "a signal is refused: {why}");
    metrics.errors.with_label_values(&["signal"]).inc();
    notifier.refused(id, why)
}

fn wish_of(read: &Read) -> Option<(String, Wish)> {
    let wish = match read.outcome.as_ref().ok()? {
        Signal::Execute { tables, filters } => Wish::Start {
            tables: tables.clone(),
            filters: filters.clone(),
            except: Vec::new(),
            relation: None,
        },
        Signal::Stop { tables } => Wish::Stop { tables: tables.clone() },
        Signal::Pause => Wish::Pause,
        Signal::Resume => Wish::Resume,
        Signal::Log { .. } | Signal::Watermark => return None,
    };
    Some((read.id.clone(), wish))
}
