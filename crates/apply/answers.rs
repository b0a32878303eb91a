//! Answers to outbox events: sent after the commit, and again until Kafka has them.
//!
//! In: rows of the inbox that are unanswered. Out: records of the feedback topic, keyed by the event's id, as JSON or as
//! Avro under a registered schema. Invariant: an answer stays owed until Kafka has it, so it may be sent twice and is
//! never left out.

use headwater_avro::registry::Registry;
use headwater_avro::{FEEDBACK_JSON, Feedback, RecordPart, SchemaId, write_feedback};
use headwater_pg::{Client, Error};
use serde_json::json;

use crate::halt::{Failure, of_postgres};
use crate::layout::of_registry;
use crate::settings::{FeedbackFormat, Settings};

/// Answers sent at a time.
const ANSWERS_MAX: i64 = 500;

/// An answer that is owed.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) event_id: String,
    pub(crate) body: Vec<u8>,
    /// When it was handled: an event that was handled again meanwhile is owed another answer.
    handled_at: String,
}

/// How answers are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Written {
    Json,
    Avro(SchemaId),
}

impl Written {
    /// As the settings say; the schema is registered, or found, first.
    pub(crate) async fn of(
        settings: &Settings,
        registry: &Registry,
        topic: &str,
    ) -> Result<Written, Failure> {
        let format = settings.events.as_ref().map_or(FeedbackFormat::Json, |events| events.feedback_format);
        if format == FeedbackFormat::Json {
            return Ok(Written::Json);
        }
        let subject = settings.registry.subject(topic, RecordPart::Value, FEEDBACK_JSON);
        registry.schema_id(&subject, FEEDBACK_JSON).await.map(Written::Avro).map_err(of_registry)
    }

    fn body(self, feedback: &Feedback, at: &str) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Written::Avro(id) => write_feedback(id, feedback, &mut body),
            Written::Json => {
                let Feedback { event_id, status, reason, consumer, attempt, at_unix_micros: _ } = feedback;
                let json = json!({
                    "event_id": event_id, "status": status, "reason": reason, "consumer": consumer,
                    "attempt": attempt, "at": at,
                });
                body.extend_from_slice(json.to_string().as_bytes());
            }
        }
        body
    }
}

/// The oldest answers that Kafka does not have yet.
pub(crate) async fn owed(client: &Client, consumer: &str, written: Written) -> Result<Vec<Answer>, Failure> {
    const SQL: &str = "SELECT event_id, status, reason, attempt, \
        to_char(handled_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
        (extract(epoch FROM handled_at) * 1000000)::bigint, handled_at::text \
        FROM headwater.inbox WHERE consumer = $1 AND unanswered ORDER BY handled_at LIMIT $2";
    let failed = |error: Error| of_postgres(&error, "reading the inbox", None);
    let rows = client.query(SQL, &[&consumer, &ANSWERS_MAX]).await.map_err(|error| failed(error.into()))?;
    let answers = rows.iter().map(|row| {
        let feedback = Feedback {
            event_id: row.try_get(0)?,
            status: row.try_get(1)?,
            reason: row.try_get(2)?,
            consumer: consumer.to_owned(),
            attempt: row.try_get(3)?,
            at_unix_micros: row.try_get(5)?,
        };
        let body = written.body(&feedback, row.try_get(4)?);
        Ok(Answer { event_id: feedback.event_id, body, handled_at: row.try_get(6)? })
    });
    answers.collect::<Result<_, Error>>().map_err(failed)
}

/// Kafka has these.
pub(crate) async fn answered(client: &Client, consumer: &str, answers: &[Answer]) -> Result<(), Failure> {
    const SQL: &str = "UPDATE headwater.inbox i SET unanswered = false FROM unnest($2::text[], $3::text[]) a (id, at) \
                       WHERE i.consumer = $1 AND i.event_id = a.id AND i.handled_at = a.at::timestamptz";
    let ids: Vec<&str> = answers.iter().map(|answer| answer.event_id.as_str()).collect();
    let times: Vec<&str> = answers.iter().map(|answer| answer.handled_at.as_str()).collect();
    let done = client.execute(SQL, &[&consumer, &ids, &times]).await;
    done.map(drop).map_err(|error| of_postgres(&error.into(), "writing into the inbox", None))
}
