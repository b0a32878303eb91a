//! Logical messages that are no outbox events: those whose prefix is wanted go to a topic of their own.

use headwater_avro::{
    ChangeSource, LogicalMessage, MESSAGE_KEY_JSON, SourceSettings, message_value_json, write_json_message,
    write_message, write_message_key,
};
use headwater_pgoutput::{Logical, Lsn};

use crate::error::StageError;
use crate::outbox::matches_pattern;
use crate::record::{ID_HEADER, Record, Token, write_record_id};
use crate::row_writer::RowWriter;
use crate::settings::{MessageSettings, Settings};
use crate::side_topic::{Place, SideForms, SideTopic};
use crate::versions::writes_avro;
use crate::writer::Writer;

/// Our own heartbeats and whatever may come to stand beside them: never anybody's message.
const OWN_PREFIXES: &str = "headwater.";

/// How transaction metadata counts them, beside the names of tables. (Debezium has the name of a Java object.)
const COLLECTION: &str = "message";

/// Owned by the pump.
pub(crate) struct MessageTopic {
    settings: MessageSettings,
    topic: SideTopic,
    source: SourceSettings,
    /// None for the local sinks.
    forms: Option<SideForms>,
}

impl MessageTopic {
    pub(crate) fn new(settings: &Settings, source: SourceSettings) -> MessageTopic {
        let (messages, records) = (settings.messages.clone(), &settings.records.all);
        let topic = SideTopic::new(&source.prefix, &messages.topic, records);
        let forms = writes_avro(settings)
            .then(|| SideForms::new(MESSAGE_KEY_JSON.to_owned(), message_value_json(), records));
        MessageTopic { settings: messages, topic, source, forms }
    }

    /// Whether the message gives the trace context of what follows it.
    pub(crate) fn is_traceparent(&self, prefix: &str) -> bool {
        self.settings.traceparent_prefix.as_deref() == Some(prefix)
    }

    /// Whether messages of this prefix are wanted.
    pub(crate) fn takes(&self, prefix: &str) -> bool {
        let listed = |patterns: &[String]| patterns.iter().any(|pattern| matches_pattern(pattern, prefix));
        !prefix.starts_with(OWN_PREFIXES) && listed(&self.settings.include) && !listed(&self.settings.exclude)
    }

    pub(crate) fn topic_name(&self) -> &str {
        &self.topic.name
    }

    fn place(&mut self, writer: &mut Writer) -> Result<Place, StageError> {
        self.topic.place(self.forms.as_ref(), writer)
    }

    /// Writes a message of the open transaction.
    pub(crate) fn write(&mut self, logical: &Logical<'_>, row: &mut RowWriter<'_>) -> Result<(), StageError> {
        let place = self.place(row.writer)?;
        let source = row.counted_source(COLLECTION)?;
        let (key, value) = self.encode(logical, Some(&source), place);
        let partition = place.partition(key.as_deref().unwrap_or_default());
        row.offer_to(&self.topic.name, partition, key.as_deref(), Some(&value), &[])
    }

    /// Writes a message that stands for itself. It is a unit of its own to the position, and its identity is where it
    /// was written.
    pub(crate) fn write_alone(
        &mut self,
        logical: &Logical<'_>,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let place = self.place(writer)?;
        let out = &mut writer.out;
        let (key, value) = self.encode(logical, None, place);
        let mut id = Vec::new();
        write_record_id(&mut id, logical.lsn, 0);
        let record = Record {
            topic: &self.topic.name,
            partition: place.partition(key.as_deref().unwrap_or_default()),
            key: key.as_deref(),
            value: Some(&value),
            headers: &[(ID_HEADER, &id)],
            timestamp_ms: None,
            token: Token::CHECKPOINT,
        };
        let sequence = out.tracker.begin(None);
        out.take(sequence, record, logical.lsn)?;
        // The server skips what starts before the position: one byte further is this message and nothing else.
        out.tracker.commit(Lsn(logical.lsn.0 + 1));
        Ok(())
    }

    fn encode(
        &self,
        logical: &Logical<'_>,
        source: Option<&ChangeSource<'_>>,
        place: Place,
    ) -> (Option<Vec<u8>>, Vec<u8>) {
        let message = LogicalMessage {
            prefix: logical.prefix,
            content: logical.content,
            lsn: logical.lsn,
            transaction: source,
        };
        let mut value = Vec::new();
        let Some(forms) = &self.forms else {
            write_json_message(&message, &mut value);
            return (None, value);
        };
        let mut key = Vec::new();
        forms.key.write(place.key_id, |out| write_message_key(logical.prefix, out), &mut key);
        forms.value.write(place.value_id, |out| write_message(&message, &self.source, out), &mut value);
        (Some(key), value)
    }
}
