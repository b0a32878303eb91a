//! What is said of an outbox: its columns, where its events go, and in which form.

use std::sync::Arc;

use headwater_avro::from_json::Inference;
use headwater_avro::legal_in_topic;

use crate::topic_rewriting::Rewriting;

/// What stands for the aggregate type in a topic.
const PLACEHOLDER: &str = "${aggregatetype}";

/// An outbox table and the names of its columns.
#[derive(Clone, Debug)]
pub struct OutboxTable {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub table: String,
    /// Column of the event's id (header `id`).
    pub id_column: String,
    /// Column that chooses the topic.
    pub aggregatetype_column: String,
    /// Column that becomes the key.
    pub aggregateid_column: String,
    /// Column of the event's type (header `eventType`).
    pub type_column: String,
    /// Column that becomes the value.
    pub payload_column: String,
    /// More columns as headers: (column, header name).
    pub headers: Vec<(String, String)>,
    /// More columns as fields beside the payload: (column, field name). With any, the value is a record.
    pub envelope: Vec<(String, String)>,
    /// Whether columns of `headers` and `envelope` that the table lacks are left out; if not, they halt.
    pub missing_columns_are_ignored: bool,
    /// The column of the record's partition.
    pub partition_column: Option<String>,
    /// The column of the record's timestamp; the commit's time where it is NULL.
    pub timestamp_column: Option<String>,
    /// What an UPDATE of a row means.
    pub on_update: OnUpdate,
    /// The column of an event's trace context.
    pub traceparent_column: Option<String>,
    /// The column of the vendors' part of it.
    pub tracestate_column: Option<String>,
    /// Where events go and in which form.
    pub route: OutboxRoute,
    /// Whether a snapshot routes the rows that are there.
    pub snapshot: bool,
    /// The column with a flat JSON object of more headers.
    pub headers_column: Option<String>,
    /// Whether the rows say what became of their events: columns `status`, `attempt` and others of `sql/outbox.sql`.
    pub status: bool,
}

/// An event is the row that was inserted; what an UPDATE of it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUpdate {
    /// Nothing; it is counted.
    Skip,
    /// A warning, once per table and session.
    Warn,
    /// That the service takes the outbox for something else.
    Halt,
}

impl OnUpdate {
    /// As configurations write them.
    pub const WORDS: &[(&str, OnUpdate)] =
        &[("skip", OnUpdate::Skip), ("warn", OnUpdate::Warn), ("halt", OnUpdate::Halt)];
}

/// Where outbox events go and in which form.
#[derive(Clone, Debug)]
pub struct OutboxRoute {
    /// Topic name with `${aggregatetype}` in it (default `outbox.event.${aggregatetype}`).
    pub topic: String,
    /// What makes the topic of an aggregate type in the place of that.
    pub rewriting: Option<Rewriting>,
    /// Which aggregate types are allowed, as patterns with `*`; a row outside them halts. Default: `*`.
    pub aggregatetypes: Vec<String>,
    /// How key and payload are written.
    pub payload: PayloadFormat,
    /// Whether a payload of nothing but blanks is a null value, as a NULL is.
    pub tombstone_on_empty: bool,
    /// The headers of CloudEvents, where they are wanted.
    pub cloudevents: Option<CloudEvents>,
}

/// What CloudEvents need beside what an event has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvents {
    /// The attribute `source`.
    pub source: Arc<str>,
    /// The header `content-type`; by the payload's form where it is not given.
    pub content_type: Option<Arc<str>>,
}

impl Default for OutboxRoute {
    fn default() -> OutboxRoute {
        OutboxRoute {
            topic: format!("outbox.event.{PLACEHOLDER}"),
            rewriting: None,
            aggregatetypes: vec!["*".to_owned()],
            payload: PayloadFormat::Avro,
            tombstone_on_empty: false,
            cloudevents: None,
        }
    }
}

impl OutboxRoute {
    /// What is wrong with the topic: a row's content must not be able to name any topic it likes.
    pub(crate) fn topic_problem(&self) -> Option<String> {
        if let Some(rewriting) = &self.rewriting {
            let is_open = rewriting.fixed_texts().all(str::is_empty)
                && self.aggregatetypes.iter().any(|pattern| pattern.trim_matches('*').is_empty());
            if let Some(odd) = rewriting.fixed_texts().flat_map(str::chars).find(|c| !legal_in_topic(*c)) {
                return Some(format!("has '{odd}', which no topic can have"));
            }
            return is_open.then(|| {
                "beside groups it needs a fixed part, or aggregatetypes other than *, so that a row can't name any topic it likes"
                    .to_owned()
            });
        }
        let rest = self.topic.replacen(PLACEHOLDER, "", 1);
        if rest == self.topic {
            return Some(format!("'{}' must contain {PLACEHOLDER}", self.topic));
        }
        (rest.is_empty() || !rest.chars().all(legal_in_topic)).then(|| {
            format!(
                "beside {PLACEHOLDER} it needs a fixed part of A-Z, a-z, 0-9, '.', '_' and '-', so that a row can't name any \
                 topic it likes"
            )
        })
    }

    /// The topic of an aggregate type, into a reused string; false if none is made of it.
    pub(crate) fn write_topic(&self, aggregatetype: &str, topic: &mut String) -> bool {
        match &self.rewriting {
            None => topic.push_str(&self.topic.replacen(PLACEHOLDER, aggregatetype, 1)),
            Some(rewriting) => match rewriting.apply(aggregatetype) {
                Some(made) => topic.push_str(&made),
                None => return false,
            },
        }
        true
    }
}

/// How an outbox event's key and payload are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFormat {
    /// As Debezium's router with the Avro converter: the column's Avro schema, registered under the event topic.
    Avro,
    /// The payload's own bytes, and the key as plain text.
    Raw,
    /// JSON in a schema that the registry has under the event topic: this version of it, or the latest.
    AvroFromJson(Option<u32>),
    /// JSON in a schema that is inferred from each payload.
    AvroInferred(Inference),
}

impl PayloadFormat {
    /// Whether it needs a schema registry.
    pub fn is_avro(self) -> bool {
        self != PayloadFormat::Raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_may_name_any_topic() {
        let rewriting = |expression: &str, replacement: &str| Rewriting::new(expression, replacement).ok();
        for (topic, made_by, allowed, is_sound) in [
            ("outbox.event.${aggregatetype}", None, "*", true),
            ("${aggregatetype}", None, "*", false),
            ("outbox", None, "*", false),
            ("out box.${aggregatetype}", None, "*", false),
            ("", rewriting("(.*)", "outbox.$1"), "*", true),
            ("", rewriting("(.*)", "$1"), "*", false),
            ("", rewriting("(.*)", "$1"), "**", false),
            ("", rewriting("(.*)", "$1"), "order*", true),
            ("", rewriting("(.*)", "out box.$1"), "*", false),
        ] {
            let route = OutboxRoute {
                topic: topic.to_owned(),
                rewriting: made_by,
                aggregatetypes: vec![allowed.to_owned()],
                ..OutboxRoute::default()
            };
            assert_eq!(route.topic_problem().is_none(), is_sound, "{route:?}");
        }
    }
}
