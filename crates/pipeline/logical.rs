//! Logical messages in the stream: events, trace contexts, keys that are delivered again, and those of a topic of their own.

use headwater_pgoutput::{Logical, Lsn};

use crate::dead_letter::UNBLOCK_PREFIX;
use crate::error::StageError;
use crate::event::{self, Origin};
use crate::outbox::{MESSAGE_PREFIX, MessageContent};
use crate::pump::Pump;

impl Pump {
    /// One of them.
    pub(crate) fn logical_message(&mut self, lsn: Lsn, logical: &Logical<'_>) -> Result<(), StageError> {
        let Some(aggregatetype) = logical.prefix.strip_prefix(MESSAGE_PREFIX) else {
            return self.other_message(lsn, logical);
        };
        let name = format!("a logical message with prefix {MESSAGE_PREFIX}{aggregatetype}");
        let transaction = match self.reader.open() {
            Some(transaction) if logical.transactional => transaction,
            _ => {
                let what =
                    "it is not transactional: pg_logical_emit_message needs true as its first argument";
                return Err(StageError::Outbox { origin: name, commit_lsn: lsn, what: what.to_owned() });
            }
        };
        if transaction.skipped {
            return Ok(());
        }
        let origin = Origin { name: &name };
        let mut row = self.writer.row(lsn, transaction);
        let content = MessageContent::parse(logical.content);
        let event = content
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|content| content.event(aggregatetype, &self.message_events.route));
        let written = match event {
            Err(what) => Err(origin.error(&row, what)),
            Ok(event) => {
                event::write(&self.message_events, &mut self.message_topics, &event, None, &origin, &mut row)
            }
        };
        if let Err(error) = written {
            return row.set_message_aside(&name, logical.content, self.message_errors, error);
        }
        let topic = &self.writer.scratch.topic;
        self.writer.out.metrics().records.with_label_values(&[topic.as_str(), "event"]).inc();
        self.writer.out.status().count(topic, "event", 1);
        Ok(())
    }

    /// A message that is no event of the outbox.
    fn other_message(&mut self, lsn: Lsn, logical: &Logical<'_>) -> Result<(), StageError> {
        let skipped = self.reader.open().is_some_and(|open| open.skipped);
        if !skipped && self.messages.is_traceparent(logical.prefix) {
            match self.reader.open() {
                Some(_) if logical.transactional => self.writer.set_trace(logical.content),
                // It stands for itself, so nothing follows it.
                _ => self.writer.note_malformed_trace("message"),
            }
            return Ok(());
        }
        if logical.prefix == UNBLOCK_PREFIX
            && logical.transactional
            && let Some(open) = self.reader.open().filter(|open| !open.skipped)
        {
            return self.writer.unblock(logical.content, open.commit_lsn);
        }
        if skipped || !self.messages.takes(logical.prefix) {
            self.writer.out.metrics().skipped.with_label_values(&["", "message"]).inc();
            return Ok(());
        }
        match self.reader.open() {
            Some(transaction) => self.messages.write(logical, &mut self.writer.row(lsn, transaction))?,
            None => self.messages.write_alone(logical, &mut self.writer)?,
        }
        let labels = [self.messages.topic_name(), "m"];
        self.writer.out.metrics().records.with_label_values(&labels).inc();
        self.writer.out.status().count(labels[0], labels[1], 1);
        Ok(())
    }
}
