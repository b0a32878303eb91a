//! Writing an event of the outbox: where it goes, its headers, and the record.

use headwater_avro::utc_text;
use headwater_kafka::partition_for_key;
use headwater_pgoutput::Tuple;

use crate::error::StageError;
use crate::event_value::{self, EventEncoding};
use crate::outbox::{Event, EventPlan, EventTopics, bytes_of};
use crate::row_writer::RowWriter;
use crate::sent::SentEvent;
use crate::settings::OnUpdate;
use crate::trace::Trace;

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

/// A row of an outbox table was updated. Its event is what was inserted.
pub(crate) fn note_update(
    events: &mut EventPlan,
    origin: &Origin<'_>,
    row: &RowWriter<'_>,
) -> Result<(), StageError> {
    match events.on_update {
        OnUpdate::Skip => Ok(()),
        OnUpdate::Warn => {
            if !std::mem::replace(&mut events.update_told, true) {
                tracing::warn!(
                    table = origin.name,
                    "an outbox row was updated: its event is what was inserted, and updates make none"
                );
            }
            Ok(())
        }
        OnUpdate::Halt => {
            Err(origin
                .error(row, "a row was updated, which makes no event, and on_update = \"halt\"".to_owned()))
        }
    }
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
    if !topics.contains_key(&topic) {
        if let Some(whose) = row.writer.reserved.whose(&topic) {
            return Err(origin.error(row, format!("its topic would be {whose}")));
        }
        let place = event_value::resolve_topic(events, &topic, event.aggregatetype, origin, row)?;
        topics.insert(topic.clone(), place);
    }
    let place = topics.get_mut(&topic).expect("it was there, or has just been put there");
    let (mut key, mut value) =
        (std::mem::take(&mut row.writer.scratch.key), std::mem::take(&mut row.writer.scratch.value));
    key.clear();
    value.clear();
    let has_key =
        event_value::write_key(events, event, place, &mut key).map_err(|source| StageError::Encode {
            table: origin.name.to_owned(),
            commit_lsn: row.transaction.commit_lsn,
            lsn: row.lsn,
            source,
        })?;
    let partitions = place.partitions;
    let mut has_value = event_value::write_value(events, event, (&topic, place), origin, row, &mut value)?;
    let has_key = has_key && !matches!(events.encoding, EventEncoding::Line);
    let partition = match event.partition {
        None => partition_for_key(if has_key { &key } else { topic.as_bytes() }, partitions),
        Some(chosen) if (0..partitions).contains(&chosen) => chosen,
        Some(_) => {
            return Err(origin.error(row, format!("its partition is none of the {partitions} of its topic")));
        }
    };
    let texts = Texts::of(events, event, row);
    let headers = headers(events, event, &texts, has_value);
    if matches!(events.encoding, EventEncoding::Line) {
        write_line(event, &topic, &headers, &mut value);
        has_value = true;
    }
    row.writer.event_time_ms = event.timestamp_ms;
    let offered = row.offer_traced(
        &topic,
        partition,
        has_key.then_some(key.as_slice()),
        has_value.then_some(value.as_slice()),
        &headers,
        trace,
    );
    row.writer.event_time_ms = None;
    drop(headers);
    (row.writer.scratch.key, row.writer.scratch.value, row.writer.scratch.topic) = (key, value, topic);
    offered
}

/// Which sending of an event it is, from the second on.
const ATTEMPT_HEADER: &str = "headwater.attempt";

/// Where in the WAL an event that is sent again was written first.
const ORIGIN_HEADER: &str = "headwater.origin";

/// Headers that stand nowhere in the row.
struct Texts {
    attempt: String,
    /// Of CloudEvents, if they are wanted.
    time: String,
}

impl Texts {
    fn of(events: &EventPlan, event: &Event<'_>, row: &RowWriter<'_>) -> Texts {
        // Only what is sent again says so.
        let attempt = event.life.filter(|life| life.attempt > 1).map(|life| life.attempt.to_string());
        let time = events.route.cloudevents.as_ref().map(|_| {
            utc_text(
                event.timestamp_ms.map_or(row.transaction.commit_unix_micros, |ms| ms.saturating_mul(1000)),
            )
        });
        Texts { attempt: attempt.unwrap_or_default(), time: time.unwrap_or_default() }
    }
}

fn headers<'a>(
    events: &'a EventPlan,
    event: &'a Event<'_>,
    texts: &'a Texts,
    has_value: bool,
) -> Vec<(&'a str, &'a [u8])> {
    let mut headers = Vec::with_capacity(4 + event.headers.len() + event.more_headers.len());
    headers.extend(event.id.map(|id| ("id", id)));
    headers.extend(event.event_type.map(|event_type| ("eventType", event_type)));
    if let Some(cloudevents) = &events.route.cloudevents {
        // The binary mode of CloudEvents' binding to Kafka (section 3.2).
        headers.push(("ce_specversion", b"1.0"));
        headers.extend(event.id.map(|id| ("ce_id", id)));
        headers.push(("ce_source", cloudevents.source.as_bytes()));
        headers.extend(event.event_type.map(|event_type| ("ce_type", event_type)));
        headers.push(("ce_time", texts.time.as_bytes()));
        headers.extend(bytes_of(event.key).map(|key| ("ce_subject", key)));
        if has_value {
            let by_form = || event_value::content_type(events, &events.payload_type);
            let content_type = cloudevents.content_type.as_deref().unwrap_or_else(by_form);
            headers.push(("content-type", content_type.as_bytes()));
        }
    }
    headers.extend(event.headers.iter().copied());
    headers.extend(event.more_headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    if !texts.attempt.is_empty() {
        headers.push((ATTEMPT_HEADER, texts.attempt.as_bytes()));
    }
    headers.extend(event.life.and_then(|life| life.origin).map(|origin| (ORIGIN_HEADER, origin)));
    headers
}

/// An event as a line of JSON; bytes that are no UTF-8 can't come from a UTF8 database.
fn write_line(event: &Event<'_>, topic: &str, headers: &[(&str, &[u8])], out: &mut Vec<u8>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: serde_json::Map<String, serde_json::Value> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), text(value).into())).collect();
    let line = serde_json::json!({
        "topic": topic,
        "key": bytes_of(event.key).map(text),
        "headers": headers,
        "payload": bytes_of(event.payload).map(text),
    });
    out.extend_from_slice(line.to_string().as_bytes());
}
