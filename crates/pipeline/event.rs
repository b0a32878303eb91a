//! Writing an event of the outbox: its topic's existence and schemas, its key, value and headers.

use headwater_avro::{EncodeError, SchemaId, Subject};
use headwater_kafka::partition_for_key;
use headwater_pgoutput::{Column, Tuple};

use crate::error::StageError;
use crate::outbox::{Event, EventEncoding, EventPlan, EventTopic, EventTopics, bytes_of};
use crate::resolver::Question;
use crate::row_writer::{RowWriter, Writer};
use crate::sent::SentEvent;
use crate::trace::Trace;
use crate::versions::ask;

/// Where an event comes from, for messages.
pub(crate) struct Origin<'a> {
    pub(crate) name: &'a str,
}

impl Origin<'_> {
    pub(crate) fn error(&self, row: &RowWriter<'_>, what: String) -> StageError {
        StageError::Outbox { origin: self.name.to_owned(), commit_lsn: row.transaction.commit_lsn, what }
    }
}

/// Writes the event in a row that was inserted in an outbox table; false if it is not to be sent.
pub(crate) fn write_row(
    events: &EventPlan,
    topics: &mut EventTopics,
    new: &Tuple<'_>,
    origin: &Origin<'_>,
    row: &mut RowWriter<'_>,
) -> Result<bool, StageError> {
    if !events.is_due(new) {
        row.writer.out.metrics().skipped.with_label_values(&[origin.name, "outbox_not_new"]).inc();
        return Ok(false);
    }
    let event = events.event(new).map_err(|what| origin.error(row, what))?;
    row.counted_source(origin.name)?;
    let trace = events.trace.as_ref().and_then(|columns| row.trace_of(columns, origin.name, new, None));
    write(events, topics, &event, trace.as_ref(), origin, row)?;
    if let (Some(sent), Some(columns), Some(life), Some(id)) =
        (&mut row.writer.sent, &events.life, event.life, event.id)
    {
        let id = String::from_utf8_lossy(id).into();
        sent.note(SentEvent { table: columns.table.clone(), id, attempt: life.attempt });
    }
    Ok(true)
}

/// Writes one event; its topic's name is left in the scratch buffer.
pub(crate) fn write(
    events: &EventPlan,
    topics: &mut EventTopics,
    event: &Event<'_>,
    trace: Option<&Trace<'_>>,
    origin: &Origin<'_>,
    row: &mut RowWriter<'_>,
) -> Result<(), StageError> {
    let mut topic = std::mem::take(&mut row.writer.scratch.topic);
    events.write_topic(event.aggregatetype, &mut topic).map_err(|what| origin.error(row, what))?;
    let place = match topics.get(&topic) {
        Some(place) => *place,
        None => {
            let place = resolve_topic(events, &topic, origin, row.writer)?;
            topics.insert(topic.clone(), place);
            place
        }
    };
    let (mut key, mut value) =
        (std::mem::take(&mut row.writer.scratch.key), std::mem::take(&mut row.writer.scratch.value));
    key.clear();
    value.clear();
    encode(events, event, &topic, place, &mut key, &mut value).map_err(|source| StageError::Encode {
        table: origin.name.to_owned(),
        commit_lsn: row.transaction.commit_lsn,
        lsn: row.lsn,
        source,
    })?;
    let has_key = !matches!(event.key, Column::Null);
    let partition = partition_for_key(if has_key { &key } else { topic.as_bytes() }, place.partitions);
    let has_value = !value.is_empty() || !matches!(event.payload, Column::Null);
    // Only what is sent again says so.
    let attempt =
        event.life.filter(|life| life.attempt > 1).map_or_else(String::new, |life| life.attempt.to_string());
    let offered = row.offer_traced(
        &topic,
        partition,
        has_key.then_some(key.as_slice()),
        has_value.then_some(value.as_slice()),
        &headers(event, &attempt),
        trace,
    );
    (row.writer.scratch.key, row.writer.scratch.value, row.writer.scratch.topic) = (key, value, topic);
    offered
}

/// Makes sure that an event topic exists and its schemas are registered.
fn resolve_topic(
    events: &EventPlan,
    topic: &str,
    origin: &Origin<'_>,
    writer: &mut Writer,
) -> Result<EventTopic, StageError> {
    let (questions, out) = (&writer.questions, &mut writer.out);
    let name = topic.to_owned();
    let partitions = ask(questions, out, |answer| Question::Topic { topic: name, answer })?;
    let mut place = EventTopic { partitions, key_id: SchemaId(0), value_id: SchemaId(0) };
    let EventEncoding::Avro(plans) = &events.encoding else { return Ok(place) };
    let mut register = |subject: Subject, schema_json: &str| {
        let (table, schema_json) = (origin.name.to_owned(), schema_json.to_owned());
        let on_incompatible = events.on_incompatible;
        let subject = subject.0;
        ask(questions, out, |answer| Question::Register {
            table,
            subject,
            schema_json,
            on_incompatible,
            answer,
        })
    };
    place.key_id = register(Subject::for_key(topic), plans.key.schema_json())?;
    place.value_id = register(Subject::for_value(topic), plans.value.schema_json())?;
    Ok(place)
}

/// Which sending of an event it is, from the second on.
const ATTEMPT_HEADER: &str = "headwater.attempt";

/// Where in the WAL an event that is sent again was written first.
const ORIGIN_HEADER: &str = "headwater.origin";

fn headers<'a>(event: &'a Event<'_>, attempt: &'a str) -> Vec<(&'a str, &'a [u8])> {
    let mut headers = Vec::with_capacity(4 + event.headers.len() + event.more_headers.len());
    headers.extend(event.id.map(|id| ("id", id)));
    headers.extend(event.event_type.map(|event_type| ("eventType", event_type)));
    headers.extend(event.headers.iter().copied());
    headers.extend(event.more_headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    if !attempt.is_empty() {
        headers.push((ATTEMPT_HEADER, attempt.as_bytes()));
    }
    headers.extend(event.life.and_then(|life| life.origin).map(|origin| (ORIGIN_HEADER, origin)));
    headers
}

fn encode(
    events: &EventPlan,
    event: &Event<'_>,
    topic: &str,
    place: EventTopic,
    key: &mut Vec<u8>,
    value: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match &events.encoding {
        EventEncoding::Raw => {
            key.extend_from_slice(bytes_of(event.key).unwrap_or_default());
            value.extend_from_slice(bytes_of(event.payload).unwrap_or_default());
        }
        EventEncoding::Line => write_line(event, topic, value),
        EventEncoding::Avro(plans) => {
            if !matches!(event.key, Column::Null) {
                plans.key.encode_into(place.key_id, event.key, key)?;
            }
            if !matches!(event.payload, Column::Null) {
                plans.value.encode_into(place.value_id, event.payload, value)?;
            }
        }
    }
    Ok(())
}

/// An event as a line of JSON; bytes that are no UTF-8 can't come from a UTF8 database.
fn write_line(event: &Event<'_>, topic: &str, out: &mut Vec<u8>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: serde_json::Map<String, serde_json::Value> =
        headers(event, "").into_iter().map(|(name, value)| (name.to_owned(), text(value).into())).collect();
    let line = serde_json::json!({
        "topic": topic,
        "key": bytes_of(event.key).map(text),
        "headers": headers,
        "payload": bytes_of(event.payload).map(text),
    });
    out.extend_from_slice(line.to_string().as_bytes());
}
