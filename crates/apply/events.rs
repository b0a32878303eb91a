//! Outbox events: a statement of the team's own per event, once per event id, in the transaction of the event's offset.
//!
//! In: records of event topics. Out: calls, and rows of the inbox, which remember the answers that are owed. Invariant:
//! an id that was handled is not handled again, whichever offset it comes at. One that failed is, when it is sent again.

use std::collections::{HashMap, HashSet};

use headwater_avro::SchemaId;
use headwater_avro::reading::{PayloadReader, confluent_parts};
use headwater_kafka::Fetched;
use headwater_pg::{Client, Statement, TextParameter};
use serde_json::json;

use crate::halt::{Failure, Refusal, of_postgres};
use crate::settings::EventSettings;

/// The header that counts an event's sendings.
const ATTEMPT_HEADER: &str = "headwater.attempt";
/// A reason is a sentence, not a page.
const REASON_CHARS_MAX: usize = 500;

/// An event to handle.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) attempt: i32,
    payload: Option<String>,
    /// The event as JSON, for `$2`.
    envelope: String,
    topic: String,
    partition: i32,
    offset: i64,
}

/// What became of a record of an event topic.
pub(crate) enum ReadEvent {
    Event(Event),
    /// A schema has to be fetched first.
    Fetch(SchemaId),
    Refused(Refusal),
}

/// Statements of this connection, by event type.
#[derive(Default)]
pub(crate) struct Handlers {
    prepared: HashMap<String, Statement>,
}

/// Takes a record apart.
pub(crate) fn read(
    record: &Fetched<'_>,
    schema_of: impl Fn(SchemaId) -> Option<std::sync::Arc<str>>,
) -> ReadEvent {
    let text = |name: &str| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let key = match text_of(record.key(), &schema_of) {
        Ok(key) => key,
        Err(unread) => return unread.into(),
    };
    let payload = match text_of(record.value(), &schema_of) {
        Ok(payload) => payload,
        Err(unread) => return unread.into(),
    };
    let place = format!("{}/{}/{}", record.topic(), record.partition(), record.offset());
    let id = text("id").or_else(|| text("headwater.id")).unwrap_or(place);
    let kind = text("eventType").unwrap_or_default();
    let attempt = text(ATTEMPT_HEADER).and_then(|text| text.parse().ok()).unwrap_or(1);
    let headers: serde_json::Map<String, serde_json::Value> = record
        .headers()
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned().into()))
        .collect();
    let envelope = json!({
        "id": id, "type": kind, "key": key, "payload": payload, "attempt": attempt, "topic": record.topic(),
        "partition": record.partition(), "offset": record.offset(), "timestamp_ms": record.timestamp_ms(),
        "headers": headers,
    });
    ReadEvent::Event(Event {
        id,
        kind,
        attempt,
        payload,
        envelope: envelope.to_string(),
        topic: record.topic().to_owned(),
        partition: record.partition(),
        offset: record.offset(),
    })
}

/// Why there is no text.
enum Unread {
    Fetch(SchemaId),
    Refused(Refusal),
}

impl From<Unread> for ReadEvent {
    fn from(unread: Unread) -> ReadEvent {
        match unread {
            Unread::Fetch(id) => ReadEvent::Fetch(id),
            Unread::Refused(refusal) => ReadEvent::Refused(refusal),
        }
    }
}

/// Text behind a schema's id, or text as it is (`payload = "raw"`), which never begins with a zero byte.
fn text_of(
    bytes: Option<&[u8]>,
    schema_of: &impl Fn(SchemaId) -> Option<std::sync::Arc<str>>,
) -> Result<Option<String>, Unread> {
    let refused = |reason: String| Unread::Refused(Refusal { stage: "decode", table: None, reason });
    let Some(bytes) = bytes else { return Ok(None) };
    match confluent_parts(bytes) {
        Ok((id, body)) => {
            let Some(schema) = schema_of(id) else { return Err(Unread::Fetch(id)) };
            let reader = PayloadReader::parse(&schema).map_err(|why| refused(why.to_string()))?;
            reader.read(body).map_err(|error| refused(error.to_string()))
        }
        Err(_) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.starts_with('\0') => Ok(Some(text.to_owned())),
            _ => Err(refused("the event is neither text nor Avro with a schema's id".to_owned())),
        },
    }
}

/// What a failing statement does to its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// The batch is refused. Costs nothing while none fails.
    Refuses,
    /// The statement alone is undone, and its event noted as FAILED.
    IsNoted,
}

/// Handles events inside of the batch's transaction; gives type and outcome of each, for the metrics.
pub(crate) async fn handle(
    client: &Client,
    handlers: &mut Handlers,
    settings: &EventSettings,
    consumer: &str,
    events: &[Event],
    failing: Failing,
) -> Result<Vec<(String, &'static str)>, Failure> {
    let mut outcomes = Vec::new();
    let mut seen = HashSet::new();
    for event in events {
        let Some((_, sql)) = settings.handlers.iter().find(|(kind, _)| *kind == event.kind) else {
            continue;
        };
        if !seen.insert(&event.id) || !note(client, settings, consumer, event).await? {
            again(client, settings, consumer, event).await?;
            outcomes.push((event.kind.clone(), "duplicate"));
            continue;
        }
        let outcome = match failing {
            Failing::Refuses => {
                call(client, handlers, event, sql).await?;
                "success"
            }
            Failing::IsNoted => match call_apart(client, handlers, event, sql).await? {
                None => "success",
                Some(reason) => {
                    note_failure(client, consumer, event, &reason).await?;
                    // It may come again in the same batch, by a later attempt.
                    seen.remove(&event.id);
                    tracing::info!(kind = event.kind, id = event.id, reason, "an event failed");
                    "failed"
                }
            },
        };
        outcomes.push((event.kind.clone(), outcome));
    }
    Ok(outcomes)
}

/// Calls behind a savepoint; gives the reason if the statement failed.
async fn call_apart(
    client: &Client,
    handlers: &mut Handlers,
    event: &Event,
    sql: &str,
) -> Result<Option<String>, Failure> {
    let apart = async |sql: &str| {
        let done = client.batch_execute(sql).await;
        done.map_err(|error| of_postgres(&error.into(), "handling an event", None))
    };
    apart("SAVEPOINT headwater_event").await?;
    let reason = match call(client, handlers, event, sql).await {
        Ok(()) => None,
        Err(Failure::Refused(refusal)) => {
            apart("ROLLBACK TO SAVEPOINT headwater_event").await?;
            Some(refusal.reason)
        }
        Err(other) => return Err(other),
    };
    apart("RELEASE SAVEPOINT headwater_event").await?;
    Ok(reason)
}

/// Takes the success back that was written before the call.
async fn note_failure(client: &Client, consumer: &str, event: &Event, reason: &str) -> Result<(), Failure> {
    const SQL: &str = "UPDATE headwater.inbox SET status = 'FAILED', reason = $3 \
                       WHERE consumer = $1 AND event_id = $2";
    let done = client.execute(SQL, &[&consumer, &event.id, &reason]).await;
    done.map(drop).map_err(|error| of_postgres(&error.into(), "writing into the inbox", None))
}

/// An event that succeeded and was sent once more: whoever did so waits for an answer to this attempt.
async fn again(
    client: &Client,
    settings: &EventSettings,
    consumer: &str,
    event: &Event,
) -> Result<(), Failure> {
    const SQL: &str = "UPDATE headwater.inbox SET attempt = $3, unanswered = true, handled_at = now() \
                       WHERE consumer = $1 AND event_id = $2 AND status = 'SUCCESS' AND attempt < $3";
    if settings.feedback_topic.is_none() || event.attempt == 1 {
        return Ok(());
    }
    let done = client.execute(SQL, &[&consumer, &event.id, &event.attempt]).await;
    done.map(drop).map_err(|error| of_postgres(&error.into(), "writing into the inbox", None))
}

/// Writes the event into the inbox as handled; false if it was before.
async fn note(
    client: &Client,
    settings: &EventSettings,
    consumer: &str,
    event: &Event,
) -> Result<bool, Failure> {
    const SQL: &str = "INSERT INTO headwater.inbox AS i \
        (consumer, event_id, event_type, status, attempt, topic, partition, \"offset\", unanswered) \
        VALUES ($1, $2, $3, 'SUCCESS', $4, $5, $6, $7, $8) ON CONFLICT (consumer, event_id) DO UPDATE SET \
        status = 'SUCCESS', reason = NULL, attempt = excluded.attempt, topic = excluded.topic, \
        partition = excluded.partition, \"offset\" = excluded.\"offset\", unanswered = excluded.unanswered, \
        handled_at = now() WHERE i.status = 'FAILED'";
    let unanswered = settings.feedback_topic.is_some();
    let written = client
        .execute(
            SQL,
            &[
                &consumer,
                &event.id,
                &event.kind,
                &event.attempt,
                &event.topic,
                &event.partition,
                &event.offset,
                &unanswered,
            ],
        )
        .await
        .map_err(|error| of_postgres(&error.into(), "writing into the inbox", None))?;
    Ok(written > 0)
}

async fn call(client: &Client, handlers: &mut Handlers, event: &Event, sql: &str) -> Result<(), Failure> {
    let failed = |error: headwater_pg::Error| of_call(&error, &event.kind);
    if !handlers.prepared.contains_key(&event.kind) {
        let statement = client.prepare(sql).await.map_err(|error| failed(error.into()))?;
        handlers.prepared.insert(event.kind.clone(), statement);
    }
    let statement = &handlers.prepared[&event.kind];
    let (payload, envelope) = (TextParameter(event.payload.as_deref()), TextParameter(Some(&event.envelope)));
    let result = match statement.params().len() {
        0 => client.query(statement, &[]).await,
        1 => client.query(statement, &[&payload]).await,
        2 => client.query(statement, &[&payload, &envelope]).await,
        _ => {
            let what = format!("on_event.'{}' has more than two parameters", event.kind);
            return Err(Failure::Halt(crate::halt::Halt::new(
                crate::halt::HaltCause::TargetError,
                what,
                "$1 is the payload, $2 the event as JSON; there is no $3",
            )));
        }
    };
    result.map(drop).map_err(|error| failed(error.into()))
}

/// What a statement of the team's own says: RAISE is an answer, a missing function is a mistake in the configuration.
fn of_call(error: &headwater_pg::Error, kind: &str) -> Failure {
    let doing = format!("on_event.'{kind}'");
    let code = error.sqlstate().unwrap_or_default().to_owned();
    if error.is_transient() || code.starts_with("42") || code.is_empty() {
        return of_postgres(error, &doing, None);
    }
    // Only the team's own words (class P0) are passed on; the server's may quote values.
    let words =
        error.server().filter(|_| code.starts_with("P0")).map(|server| format!(": {}", server.message));
    let reason: String =
        format!("SQLSTATE {code}{}", words.unwrap_or_default()).chars().take(REASON_CHARS_MAX).collect();
    Failure::Refused(Refusal { stage: "event", table: None, reason })
}
