//! The outbox: rows and logical messages that are events, and go to event topics instead of a table's topic.
//!
//! The router reads an inserted row's columns, chooses the topic and writes key, value and headers as Debezium's
//! event router does. Content can choose only a topic inside the configured pattern; anything else halts, because an
//! event that is not routed is an event that is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use headwater_avro::{
    ColumnDescription, OnIncompatible, PgType, RecordSettings, TableDescription, check_topic_name,
    event_unix_millis, legal_in_topic,
};
use headwater_pgoutput::{Column, Tuple};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event_value::{EventEncoding, EventTopic};
use crate::halt::{ExitCode, Halt};
use crate::settings::{OnUpdate, OutboxRoute, OutboxTable};
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
    pub(crate) payload_type: PgType,
    headers: Vec<(usize, String)>,
    headers_column: Option<usize>,
    /// Columns beside the payload in a record, in the order of its fields.
    envelope: Vec<usize>,
    partition: Option<usize>,
    /// With its time zone or without.
    timestamp: Option<(usize, bool)>,
    pub(crate) on_update: OnUpdate,
    /// Whether an update was told of.
    pub(crate) update_told: bool,
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
    /// What stands beside the payload.
    pub(crate) envelope: Vec<Column<'a>>,
    /// Where a row says so.
    pub(crate) partition: Option<i32>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) life: Option<Life<'a>>,
}

impl EventPlan {
    /// Finds the configured columns in a table.
    pub(crate) fn for_table(
        settings: &OutboxTable,
        table: &TableDescription,
        writes_avro: bool,
        records: &RecordSettings,
        prefix: &str,
    ) -> Result<EventPlan, Halt> {
        let columns = Columns { table, name: format!("{}.{}", table.schema, table.table) };
        let find = |column: &str| columns.find(column);
        let optional = |column: &Option<String>| column.as_deref().map(find).transpose();
        let headers = columns.some(&settings.headers, settings.missing_columns_are_ignored)?;
        let envelope = columns.some(&settings.envelope, settings.missing_columns_are_ignored)?;
        let (aggregateid, payload) = (find(&settings.aggregateid_column)?, find(&settings.payload_column)?);
        let own_name = format!("{prefix}.{}", columns.name);
        let beside: Vec<(&str, &ColumnDescription)> =
            envelope.iter().map(|(at, field)| (field.as_str(), &table.columns[*at])).collect();
        let (key, value) = (&table.columns[aggregateid], &table.columns[payload]);
        let encoding =
            EventEncoding::new(&settings.route, writes_avro, records, (key, value), &beside, &own_name)
                .map_err(|what| {
                    Halt::new(
                        ExitCode::OutboxInvalid,
                        format!("the outbox table {}: {what}", columns.name),
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
            payload_type: value.pg_type.clone(),
            headers,
            headers_column: optional(&settings.headers_column)?,
            envelope: envelope.into_iter().map(|(at, _)| at).collect(),
            partition: optional(&settings.partition_column)?,
            timestamp: match optional(&settings.timestamp_column)? {
                None => None,
                Some(at) => Some((at, columns.has_zone(at)?)),
            },
            on_update: settings.on_update,
            update_told: false,
            life: match settings.status {
                false => None,
                true => Some(LifeColumns {
                    table: columns.name.as_str().into(),
                    status: find("status")?,
                    attempt: find("attempt")?,
                    origin: find("origin_lsn")?,
                }),
            },
            trace: match &settings.traceparent_column {
                None => None,
                Some(parent) => {
                    let state = optional(&settings.tracestate_column)?;
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
        let (key, value) = (column(PgType::Text, true), column(PgType::Json, false));
        let encoding = EventEncoding::new(
            route,
            writes_avro,
            &RecordSettings::default(),
            (&key, &value),
            &[],
            "message",
        )
        .expect("text and JSON have Avro schemas");
        EventPlan {
            route: route.clone(),
            id: 0,
            aggregatetype: 0,
            aggregateid: 0,
            event_type: 0,
            payload: 0,
            payload_type: PgType::Json,
            headers: Vec::new(),
            headers_column: None,
            envelope: Vec::new(),
            partition: None,
            timestamp: None,
            on_update: OnUpdate::Skip,
            update_told: false,
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

    /// The event in an inserted row. CloudEvents can't do without id and type. The error says what is wrong with it, without its values.
    pub(crate) fn event<'a>(&'a self, row: &Tuple<'a>) -> Result<Event<'a>, String> {
        let column =
            |at: usize| row.column(at).ok_or_else(|| "the row has fewer columns than its table".to_owned());
        let aggregatetype = match column(self.aggregatetype)? {
            Column::Text(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| "its aggregate type is not UTF-8".to_owned())?
            }
            _ => return Err("its aggregate type is NULL".to_owned()),
        };
        if self.route.cloudevents.is_some()
            && (matches!(column(self.id)?, Column::Null) || matches!(column(self.event_type)?, Column::Null))
        {
            return Err("its id or its type is NULL, and a CloudEvent has both".to_owned());
        }
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
                Some(at) => headers_in(bytes_of(column(at)?), &self.route)?,
            },
            envelope: self.envelope.iter().map(|at| column(*at)).collect::<Result<_, _>>()?,
            partition: match self.partition {
                None => None,
                Some(at) => number_in(bytes_of(column(at)?), "partition")?,
            },
            timestamp_ms: match self.timestamp {
                None => None,
                Some((at, with_zone)) => match bytes_of(column(at)?) {
                    None => None,
                    Some(text) => Some(
                        event_unix_millis(text, with_zone)
                            .map_err(|reason| format!("its timestamp column: {reason}"))?,
                    ),
                },
            },
            life: match &self.life {
                None => None,
                Some(life) => {
                    let attempt = number_in(bytes_of(column(life.attempt)?), "attempt")?
                        .ok_or_else(|| "its attempt is NULL".to_owned())?;
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
        if !self.route.write_topic(aggregatetype, topic) {
            return Err("its aggregate type does not match the expression that makes a topic of it (match)"
                .to_owned());
        }
        check_topic_name(topic).map_err(|why| format!("its topic {why}"))
    }
}

/// The columns of an outbox table, by their names.
struct Columns<'a> {
    table: &'a TableDescription,
    name: String,
}

impl Columns<'_> {
    fn find(&self, column: &str) -> Result<usize, Halt> {
        self.table.columns.iter().position(|known| known.name == column).ok_or_else(|| {
            Halt::new(
                ExitCode::OutboxInvalid,
                format!("the outbox table {} has no column \"{column}\" in its publication", self.name),
                "name the right column under [[outbox]], or add it to the table and its publication",
            )
        })
    }

    /// Columns that stand somewhere under another name.
    fn some(
        &self,
        wanted: &[(String, String)],
        missing_are_ignored: bool,
    ) -> Result<Vec<(usize, String)>, Halt> {
        let is_there = |column: &str| self.table.columns.iter().any(|known| known.name == column);
        wanted
            .iter()
            .filter(|(column, _)| !missing_are_ignored || is_there(column))
            .map(|(column, alias)| Ok((self.find(column)?, alias.clone())))
            .collect()
    }

    fn has_zone(&self, at: usize) -> Result<bool, Halt> {
        let column = &self.table.columns[at];
        match column.pg_type {
            PgType::TimestampTz { .. } => Ok(true),
            PgType::Timestamp { .. } => Ok(false),
            _ => Err(Halt::new(
                ExitCode::OutboxInvalid,
                format!(
                    "timestamp_column \"{}\" of the outbox table {} is of type {}",
                    column.name, self.name, column.type_name
                ),
                "name a column of type timestamp or timestamptz",
            )),
        }
    }
}

/// The number in a column; none where it is NULL.
fn number_in(text: Option<&[u8]>, what: &str) -> Result<Option<i32>, String> {
    let Some(text) = text else { return Ok(None) };
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| format!("its {what} is no number"))
}

/// The members of a flat JSON object; what is no text is sent as JSON writes it.
fn headers_in(json: Option<&[u8]>, route: &OutboxRoute) -> Result<Vec<(String, String)>, String> {
    let Some(json) = json else { return Ok(Vec::new()) };
    let members: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|_| "its headers are no JSON object".to_owned())?;
    if let Some(name) = members.keys().find(|name| is_own_header(name, route)) {
        return Err(format!("its headers have \"{name}\", which Headwater writes"));
    }
    Ok(members.into_iter().filter_map(|(name, value)| Some((name, header_text(value)?))).collect())
}

/// A consumer takes one of two headers of the same name, and it may be the wrong one.
fn is_own_header(name: &str, route: &OutboxRoute) -> bool {
    let of_cloudevents = name.starts_with("ce_") || name.eq_ignore_ascii_case("content-type");
    matches!(name, "id" | "eventType")
        || name.starts_with("headwater.")
        || (route.cloudevents.is_some() && of_cloudevents)
}

fn header_text(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
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
    headers: Option<BTreeMap<String, serde_json::Value>>,
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
    pub(crate) fn event<'b>(
        &'b self,
        aggregatetype: &'b str,
        route: &OutboxRoute,
    ) -> Result<Event<'b>, String> {
        let headers = self.headers.iter().flatten();
        if let Some((name, _)) = headers.clone().find(|(name, _)| is_own_header(name, route)) {
            return Err(format!("its headers have \"{name}\", which Headwater writes"));
        }
        Ok(Event {
            aggregatetype,
            id: Some(self.id.as_bytes()),
            key: Column::Text(self.aggregateid.as_bytes()),
            event_type: Some(self.event_type.as_bytes()),
            payload: match self.payload {
                Some(raw) if raw.get() != "null" => Column::Text(raw.get().as_bytes()),
                _ => Column::Null,
            },
            headers: Vec::new(),
            more_headers: headers
                .filter_map(|(name, value)| Some((name.clone(), header_text(value.clone())?)))
                .collect(),
            envelope: Vec::new(),
            partition: None,
            timestamp_ms: None,
            life: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::CloudEvents;

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
    fn a_row_has_no_headers_that_are_headwaters() {
        let plain = OutboxRoute::default();
        let cloudevents = Some(CloudEvents { source: "/shop".into(), content_type: None });
        let with_cloudevents = OutboxRoute { cloudevents, ..OutboxRoute::default() };
        for (json, is_plain, is_ce) in [
            (r#"{"tenant": "acme", "n": 1, "x": null}"#, true, true),
            (r#"{"id": "other"}"#, false, false),
            (r#"{"eventType": "other"}"#, false, false),
            (r#"{"headwater.attempt": "9"}"#, false, false),
            (r#"{"ce_id": "other"}"#, true, false),
            (r#"{"Content-Type": "text/html"}"#, true, false),
            ("[]", false, false),
        ] {
            assert_eq!(headers_in(Some(json.as_bytes()), &plain).is_ok(), is_plain, "{json}");
            assert_eq!(headers_in(Some(json.as_bytes()), &with_cloudevents).is_ok(), is_ce, "{json}");
        }
    }

    #[test]
    fn a_message_is_an_event_or_an_error() {
        let content = br#"{"id":"1","aggregateid":"o-1","type":"Created","payload":{"a": 1.50},"headers":{"trace":"t"}}"#;
        let message = MessageContent::parse(content).unwrap();
        let event = message.event("order", &OutboxRoute::default()).unwrap();
        assert!(matches!(event.payload, Column::Text(b"{\"a\": 1.50}")), "the payload's own bytes");
        assert_eq!(event.more_headers, [("trace".to_owned(), "t".to_owned())]);
        let numbers = br#"{"id":"1","aggregateid":"o","type":"t","headers":{"n":5,"none":null}}"#;
        let event = MessageContent::parse(numbers).unwrap();
        let event = event.event("order", &OutboxRoute::default()).unwrap();
        assert_eq!(event.more_headers, [("n".to_owned(), "5".to_owned())]);
        for bad in ["", "{}", "[]", r#"{"id":"1"}"#, r#"{"id":"1","aggregateid":"o","type":"t","other":1}"#] {
            assert!(MessageContent::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
