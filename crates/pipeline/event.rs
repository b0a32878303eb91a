//! Writing an event of the outbox: its topic's existence and schemas, its key, value and headers.

use headwater_avro::{EncodeError, SchemaId, Subject};
use headwater_kafka::partition_for_key;
use headwater_pgoutput::Column;
use tokio::sync::mpsc;

use crate::error::StageError;
use crate::outbox::{Event, EventEncoding, EventPlan, EventTopic, bytes_of};
use crate::outlet::Outlet;
use crate::pump::{RowWriter, ask};
use crate::resolver::Question;

/// Makes sure that an event topic exists and its schemas are registered.
pub(crate) fn resolve_topic(
    events: &EventPlan,
    origin: &str,
    topic: &str,
    questions: &mpsc::Sender<Question>,
    out: &mut Outlet,
) -> Result<EventTopic, StageError> {
    let name = topic.to_owned();
    let partitions = ask(questions, out, |answer| Question::Topic { topic: name, answer })?;
    let mut resolved = EventTopic { partitions, key_id: SchemaId(0), value_id: SchemaId(0) };
    let EventEncoding::Avro(plans) = &events.encoding else { return Ok(resolved) };
    let mut register = |subject: Subject, schema_json: &str| {
        let (table, schema_json) = (origin.to_owned(), schema_json.to_owned());
        ask(questions, out, |answer| Question::Register { table, subject: subject.0, schema_json, answer })
    };
    resolved.key_id = register(Subject::for_key(topic), plans.key.schema_json())?;
    resolved.value_id = register(Subject::for_value(topic), plans.value.schema_json())?;
    Ok(resolved)
}

/// Writes one event to the topic in the scratch buffer.
pub(crate) fn write(
    events: &EventPlan,
    event: &Event<'_>,
    origin: &str,
    row: &mut RowWriter<'_>,
) -> Result<(), StageError> {
    let topic = std::mem::take(&mut row.scratch.topic);
    let place = events.topics[&topic];
    let (mut key, mut value) = (std::mem::take(&mut row.scratch.key), std::mem::take(&mut row.scratch.value));
    key.clear();
    value.clear();
    let result = encode(events, event, &topic, place, &mut key, &mut value)
        .map_err(|source| StageError::Encode {
            table: origin.to_owned(),
            commit_lsn: row.transaction.commit_lsn,
            lsn: row.lsn,
            source,
        })
        .and_then(|()| {
            let key = (!matches!(event.key, Column::Null)).then_some(key.as_slice());
            let partition = partition_for_key(key.unwrap_or(topic.as_bytes()), place.partitions);
            let value =
                (!value.is_empty() || !matches!(event.payload, Column::Null)).then_some(value.as_slice());
            row.offer_to(&topic, partition, key, value, &headers(event))
        });
    (row.scratch.key, row.scratch.value, row.scratch.topic) = (key, value, topic);
    result
}

fn headers<'a>(event: &'a Event<'_>) -> Vec<(&'a str, &'a [u8])> {
    let mut headers = Vec::with_capacity(2 + event.headers.len());
    headers.extend(event.id.map(|id| ("id", id)));
    headers.extend(event.event_type.map(|event_type| ("eventType", event_type)));
    headers.extend(event.headers.iter().copied());
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
        headers(event).into_iter().map(|(name, value)| (name.to_owned(), text(value).into())).collect();
    let line = serde_json::json!({
        "topic": topic,
        "key": bytes_of(event.key).map(text),
        "headers": headers,
        "payload": bytes_of(event.payload).map(text),
    });
    out.extend_from_slice(line.to_string().as_bytes());
}
