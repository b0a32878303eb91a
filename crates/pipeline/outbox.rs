//! The outbox: rows and logical messages that are events, and go to event topics instead of a table's topic.
//!
//! The router reads an inserted row's columns, chooses the topic and writes key, value and headers as Debezium's
//! event router does. Content can choose only a topic inside the configured pattern; anything else halts, because an
//! event that is not routed is an event that is lost.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_avro::{
    BarePlan, ColumnDescription, OnIncompatible, PgType, RecordSettings, SchemaError, SchemaId,
    TOPIC_LENGTH_MAX, TableDescription, legal_in_topic,
};
use headwater_pgoutput::{Column, Tuple};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::halt::{ExitCode, Halt};
use crate::settings::{OutboxRoute, OutboxTable, PayloadFormat};
use crate::trace::TraceColumns;

/// The prefix of logical messages that are events.
pub(crate) const MESSAGE_PREFIX: &str = "outbox.";

/// How the rows of one version of one outbox table become events.
#[derive(Debug)]
pub(crate) struct EventPlan {
    /// Where events go and in which form.
    pub(crate) route: OutboxRoute,
    id: usize,
    aggregatetype: usize,
    aggregateid: usize,
    event_type: usize,
    payload: usize,
    headers: Vec<(usize, String)>,
    headers_column: Option<usize>,
    /// Where a row says how far its event has come.
    pub(crate) life: Option<LifeColumns>,
    /// Where a row has its trace context.
    pub(crate) trace: Option<TraceColumns>,
    pub(crate) encoding: EventEncoding,
    pub(crate) on_incompatible: OnIncompatible,
}

/// The columns of an outbox table with a status that a row's event depends on.
#[derive(Debug)]
pub(crate) struct LifeColumns {
    /// The table, `schema.table`.
    pub(crate) table: Arc<str>,
    pub(crate) status: usize,
    pub(crate) attempt: usize,
    pub(crate) origin: usize,
}

/// What such a row says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life<'a> {
    /// 1 when it was not sent before.
    pub(crate) attempt: i32,
    /// Where it was written first, if it was sent before.
    pub(crate) origin: Option<&'a [u8]>,
}

/// How key and payload are written.
#[derive(Debug)]
pub(crate) enum EventEncoding {
    Avro(Box<AvroEvent>),
    Raw,
    /// For the local sinks: one JSON object with topic, key, headers and payload.
    Line,
}

/// The plans of an event's key and value.
#[derive(Debug)]
pub(crate) struct AvroEvent {
    pub(crate) key: BarePlan,
    pub(crate) value: BarePlan,
}

/// An event topic that exists, with its registered schemas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventTopic {
    pub(crate) partitions: i32,
    /// Key and value; zero where nothing is registered.
    pub(crate) key_id: SchemaId,
    pub(crate) value_id: SchemaId,
}

/// The event topics that are known to exist.
pub(crate) type EventTopics = HashMap<String, EventTopic>;

/// One event, borrowed from a row or a message.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) aggregatetype: &'a str,
    pub(crate) id: Option<&'a [u8]>,
    pub(crate) key: Column<'a>,
    pub(crate) event_type: Option<&'a [u8]>,
    pub(crate) payload: Column<'a>,
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
    /// Those that a row has as JSON.
    pub(crate) more_headers: Vec<(String, String)>,
    pub(crate) life: Option<Life<'a>>,
}

impl EventPlan {
    /// Finds the configured columns in a table.
    pub(crate) fn for_table(
        settings: &OutboxTable,
        table: &TableDescription,
        writes_avro: bool,
        records: &RecordSettings,
    ) -> Result<EventPlan, Halt> {
        let name = format!("{}.{}", table.schema, table.table);
        let find = |column: &str| {
            table.columns.iter().position(|known| known.name == column).ok_or_else(|| {
                Halt::new(
                    ExitCode::OutboxInvalid,
                    format!("the outbox table {name} has no column \"{column}\" in its publication"),
                    "name the right column under [[outbox]], or add it to the table and its publication",
                )
            })
        };
        let mut headers = Vec::new();
        for (column, header) in &settings.headers {
            headers.push((find(column)?, header.clone()));
        }
        let (aggregateid, payload) = (find(&settings.aggregateid_column)?, find(&settings.payload_column)?);
        let encoding = encoding(
            &settings.route,
            writes_avro,
            records,
            &table.columns[aggregateid],
            &table.columns[payload],
        )
        .map_err(|error| {
            Halt::new(
                ExitCode::OutboxInvalid,
                format!("the outbox table {name}: {error}"),
                "set payload = \"raw\" for this table",
            )
        })?;
        Ok(EventPlan {
            route: settings.route.clone(),
            id: find(&settings.id_column)?,
            aggregatetype: find(&settings.aggregatetype_column)?,
            aggregateid,
            event_type: find(&settings.type_column)?,
            payload,
            headers,
            headers_column: settings.headers_column.as_deref().map(find).transpose()?,
            life: match settings.status {
                false => None,
                true => Some(LifeColumns {
                    table: name.as_str().into(),
                    status: find("status")?,
                    attempt: find("attempt")?,
                    origin: find("origin_lsn")?,
                }),
            },
            trace: match &settings.traceparent_column {
                None => None,
                Some(parent) => {
                    let state = settings.tracestate_column.as_deref().map(find).transpose()?;
                    Some(TraceColumns { parent: find(parent)?, state })
                }
            },
            encoding,
            on_incompatible: records.on_incompatible,
        })
    }

    /// Logical messages: the key is text, the payload a JSON document.
    pub(crate) fn for_messages(
        route: &OutboxRoute,
        writes_avro: bool,
        on_incompatible: OnIncompatible,
    ) -> EventPlan {
        let column = |pg_type, not_null| ColumnDescription {
            name: "message".to_owned(),
            type_name: "message".to_owned(),
            pg_type,
            not_null,
            default: None,
            in_identity: false,
            declared: None,
            key_labels: None,
        };
        let encoding = encoding(
            route,
            writes_avro,
            &RecordSettings::default(),
            &column(PgType::Text, true),
            &column(PgType::Json, false),
        )
        .expect("text and JSON have Avro schemas");
        EventPlan {
            route: route.clone(),
            id: 0,
            aggregatetype: 0,
            aggregateid: 0,
            event_type: 0,
            payload: 0,
            headers: Vec::new(),
            headers_column: None,
            life: None,
            trace: None,
            encoding,
            on_incompatible,
        }
    }

    /// Whether a row of this table is to be sent: one that waits for another event, or has been sent, is not.
    pub(crate) fn is_due(&self, row: &Tuple<'_>) -> bool {
        self.life.as_ref().is_none_or(|life| row.column(life.status).and_then(bytes_of) == Some(b"NEW"))
    }

    /// The event in an inserted row. The error says what is wrong with it, without its values.
    pub(crate) fn event<'a>(&'a self, row: &Tuple<'a>) -> Result<Event<'a>, String> {
        let column =
            |at: usize| row.column(at).ok_or_else(|| "the row has fewer columns than its table".to_owned());
        let aggregatetype = match column(self.aggregatetype)? {
            Column::Text(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| "its aggregate type is not UTF-8".to_owned())?
            }
            _ => return Err("its aggregate type is NULL".to_owned()),
        };
        let mut headers = Vec::with_capacity(self.headers.len());
        for (at, header) in &self.headers {
            if let Some(bytes) = bytes_of(column(*at)?) {
                headers.push((header.as_str(), bytes));
            }
        }
        Ok(Event {
            aggregatetype,
            id: bytes_of(column(self.id)?),
            key: column(self.aggregateid)?,
            event_type: bytes_of(column(self.event_type)?),
            payload: column(self.payload)?,
            headers,
            more_headers: match self.headers_column {
                None => Vec::new(),
                Some(at) => headers_in(bytes_of(column(at)?))?,
            },
            life: match &self.life {
                None => None,
                Some(life) => {
                    let attempt = bytes_of(column(life.attempt)?)
                        .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
                    let attempt = attempt.ok_or_else(|| "its attempt is no number".to_owned())?;
                    Some(Life { attempt, origin: bytes_of(column(life.origin)?) })
                }
            },
        })
    }

    /// The topic of an aggregate type, into a reused string.
    pub(crate) fn write_topic(&self, aggregatetype: &str, topic: &mut String) -> Result<(), String> {
        topic.clear();
        if aggregatetype.is_empty() || !aggregatetype.chars().all(legal_in_topic) {
            return Err("its aggregate type has characters that no topic can have".to_owned());
        }
        if !self.route.aggregatetypes.iter().any(|pattern| matches_pattern(pattern, aggregatetype)) {
            return Err("its aggregate type matches none of the allowed patterns (aggregatetypes)".to_owned());
        }
        topic.push_str(&self.route.topic.replacen("${aggregatetype}", aggregatetype, 1));
        if topic.len() > TOPIC_LENGTH_MAX {
            return Err(format!("its topic would be longer than Kafka's {TOPIC_LENGTH_MAX} characters"));
        }
        Ok(())
    }
}

/// The members of a flat JSON object; what is no text is sent as JSON writes it.
fn headers_in(json: Option<&[u8]>) -> Result<Vec<(String, String)>, String> {
    let Some(json) = json else { return Ok(Vec::new()) };
    let members: std::collections::BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|_| "its headers are no JSON object".to_owned())?;
    let as_text = |(name, value)| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some((name, text)),
        other => Some((name, other.to_string())),
    };
    Ok(members.into_iter().filter_map(as_text).collect())
}

fn encoding(
    route: &OutboxRoute,
    writes_avro: bool,
    records: &RecordSettings,
    key: &ColumnDescription,
    value: &ColumnDescription,
) -> Result<EventEncoding, SchemaError> {
    if !writes_avro {
        return Ok(EventEncoding::Line);
    }
    Ok(match route.payload {
        PayloadFormat::Raw => EventEncoding::Raw,
        PayloadFormat::Avro => EventEncoding::Avro(Box::new(AvroEvent {
            key: BarePlan::new(key, records)?,
            value: BarePlan::new(value, records)?,
        })),
    })
}

/// A column's text; NULL has none, and an inserted row has no unchanged columns.
pub(crate) fn bytes_of(column: Column<'_>) -> Option<&[u8]> {
    match column {
        Column::Text(bytes) | Column::Binary(bytes) => Some(bytes),
        Column::Null | Column::Unchanged => None,
    }
}

/// Whether a text matches a pattern in which `*` stands for any run of characters.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// The content of a logical message that is an event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageContent<'a> {
    pub(crate) id: String,
    pub(crate) aggregateid: String,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    #[serde(borrow, default)]
    pub(crate) payload: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) headers: std::collections::BTreeMap<String, String>,
}

impl<'a> MessageContent<'a> {
    /// The error names what is missing or unknown, and where; serde quotes field names only.
    pub(crate) fn parse(content: &'a [u8]) -> Result<MessageContent<'a>, String> {
        serde_json::from_slice(content).map_err(|error| {
            format!(
                "its content is not {{\"id\", \"aggregateid\", \"type\", \"payload\", \"headers\"}} as JSON (line {}, column {})",
                error.line(),
                error.column()
            )
        })
    }

    /// The same event that a row would be.
    pub(crate) fn event<'b>(&'b self, aggregatetype: &'b str) -> Event<'b> {
        Event {
            aggregatetype,
            id: Some(self.id.as_bytes()),
            key: Column::Text(self.aggregateid.as_bytes()),
            event_type: Some(self.event_type.as_bytes()),
            payload: match self.payload {
                Some(raw) if raw.get() != "null" => Column::Text(raw.get().as_bytes()),
                _ => Column::Null,
            },
            headers: self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            more_headers: Vec::new(),
            life: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, expected) in [
            ("*", "order", true),
            ("order", "order", true),
            ("order", "orders", false),
            ("order*", "orders", true),
            ("*.v1", "order.v1", true),
            ("*.v1", "order.v12", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn content_can_not_leave_the_pattern() {
        let route = OutboxRoute { aggregatetypes: vec!["order*".to_owned()], ..OutboxRoute::default() };
        let plan = EventPlan::for_messages(&route, true, OnIncompatible::Halt);
        let mut topic = String::new();
        plan.write_topic("order", &mut topic).unwrap();
        assert_eq!(topic, "outbox.event.order");
        for bad in ["", "..", "payment", "order/../x", "order topic", "ordér", &"order".repeat(60)] {
            assert!(plan.write_topic(bad, &mut topic).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_is_an_event_or_an_error() {
        let content = br#"{"id":"1","aggregateid":"o-1","type":"Created","payload":{"a": 1.50},"headers":{"trace":"t"}}"#;
        let message = MessageContent::parse(content).unwrap();
        let event = message.event("order");
        assert!(matches!(event.payload, Column::Text(b"{\"a\": 1.50}")), "the payload's own bytes");
        assert_eq!(event.headers, [("trace", b"t".as_slice())]);
        for bad in ["", "{}", "[]", r#"{"id":"1"}"#, r#"{"id":"1","aggregateid":"o","type":"t","other":1}"#] {
            assert!(MessageContent::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
