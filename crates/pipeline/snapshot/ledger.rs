//! The pump's side of what is no row: records of progress and of requests beside the checkpoint, and notifications.
//!
//! In: entries in one order. Out: records in that order. Invariant: what comes behind a notification is stored only
//! after the notification is acknowledged, so that a crash between them repeats it and never loses it.

use std::collections::VecDeque;

use headwater_avro::{
    NOTIFICATION_KEY_JSON, NOTIFICATION_VALUE_JSON, Notification, write_json_notification,
    write_notification, write_notification_key,
};

use crate::error::StageError;
use crate::settings::Settings;
use crate::side_topic::{SideForms, SideTopic};
use crate::versions::writes_avro;
use crate::writer::Writer;

/// One of them.
#[derive(Debug)]
pub(crate) enum LedgerEntry {
    /// How far a snapshot has come.
    Progress { key: String, value: Vec<u8> },
    /// What is asked for. `release` is the transaction that may be confirmed once this is stored.
    Requests { key: String, value: Vec<u8>, release: Option<u32> },
    /// To be told.
    Note(Notification),
}

/// Owned by the pump.
pub(crate) struct Ledger {
    waiting: VecDeque<LedgerEntry>,
    /// A notification is on its way.
    notes: bool,
    /// Of the records of requests on their way.
    releases: VecDeque<Option<u32>>,
    /// None where nobody is told.
    topic: Option<NotificationTopic>,
}

/// Where notifications go.
struct NotificationTopic {
    topic: SideTopic,
    /// None for the local sinks.
    forms: Option<SideForms>,
}

impl Ledger {
    pub(crate) fn new(settings: &Settings) -> Ledger {
        let records = &settings.records.all;
        let topic = settings.notifications.topic.as_ref().map(|name| NotificationTopic {
            topic: SideTopic::named(name, records),
            forms: writes_avro(settings).then(|| {
                SideForms::new(NOTIFICATION_KEY_JSON.to_owned(), NOTIFICATION_VALUE_JSON.to_owned(), records)
            }),
        });
        Ledger { waiting: VecDeque::new(), notes: false, releases: VecDeque::new(), topic }
    }

    /// Takes an entry.
    pub(crate) fn take(&mut self, entry: LedgerEntry, writer: &mut Writer) -> Result<(), StageError> {
        self.waiting.push_back(entry);
        self.go_on(writer)
    }

    /// Looks at what was acknowledged, and goes on with what waited for it.
    pub(crate) fn serve(&mut self, writer: &mut Writer) -> Result<(), StageError> {
        for _ in 0..writer.out.take_stored_requests() {
            if let Some(sequence) = self.releases.pop_front().flatten() {
                writer.out.tracker.delivered(sequence);
            }
        }
        if self.notes && writer.out.take_noted() > 0 {
            self.notes = false;
        }
        if self.waiting.is_empty() { Ok(()) } else { self.go_on(writer) }
    }

    fn go_on(&mut self, writer: &mut Writer) -> Result<(), StageError> {
        while !self.notes
            && let Some(entry) = self.waiting.pop_front()
        {
            match entry {
                LedgerEntry::Progress { key, value } => writer.out.store_progress(&key, &value)?,
                LedgerEntry::Requests { key, value, release } => {
                    self.releases.push_back(release);
                    writer.out.store_requests(&key, &value)?;
                }
                LedgerEntry::Note(note) => {
                    if let Some(topic) = &mut self.topic {
                        topic.write(&note, writer)?;
                        self.notes = true;
                    }
                }
            }
        }
        Ok(())
    }
}

impl NotificationTopic {
    fn write(&mut self, note: &Notification, writer: &mut Writer) -> Result<(), StageError> {
        let place = self.topic.place(self.forms.as_ref(), writer)?;
        let (mut key, mut value) = (Vec::new(), Vec::new());
        match &self.forms {
            Some(forms) => {
                forms.key.write(place.key_id, |out| write_notification_key(note, out), &mut key);
                forms.value.write(place.value_id, |out| write_notification(note, out), &mut value);
            }
            None => write_json_notification(note, &mut value),
        }
        let key = self.forms.is_some().then_some(key.as_slice());
        let partition = place.partition(key.unwrap_or_default());
        writer.out.offer_note(&self.topic.name, partition, key, &value)?;
        writer.out.metrics().notifications.with_label_values(&[note.kind.as_str()]).inc();
        Ok(())
    }
}
