//! What a consumer says of an event: `{event_id, status, reason, consumer, attempt, at}`, as JSON or as Avro.

use headwater_avro::reading::FieldValue;
use serde::Deserialize;

/// The longest text that is kept of a reason.
const REASON_CHARS_MAX: usize = 500;

/// The longest name of a consumer: it is kept in the row.
const CONSUMER_CHARS_MAX: usize = 200;

/// The fields of an answer in Avro, found by name. (`at` is for people who read the topic.)
pub const FIELDS: [&str; 5] = ["event_id", "status", "reason", "consumer", "attempt"];

/// A consumer's word on one attempt of one event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// The event's id, as Postgres writes it.
    #[serde(alias = "eventId")]
    pub event_id: String,
    /// What became of it there.
    pub status: Verdict,
    /// Why it failed, in the consumer's words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who says so.
    pub consumer: String,
    /// Of which sending; the header `headwater.attempt`, or nothing where there was none, which is the first.
    #[serde(default = "first", deserialize_with = "first_if_null")]
    pub attempt: i32,
}

fn first() -> i32 {
    1
}

fn first_if_null<'de, D: serde::Deserializer<'de>>(attempt: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(attempt)?.unwrap_or_else(first))
}

/// SUCCESS or FAILED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Verdict {
    /// It was processed.
    #[serde(rename = "SUCCESS")]
    Success,
    /// It could not be processed.
    #[serde(rename = "FAILED")]
    Failed,
}

/// Takes a record's value apart. The error says what is wrong with it and quotes nothing of it.
pub fn parse(value: Option<&[u8]>) -> Result<Answer, String> {
    let value = value.ok_or_else(|| "the record has no value".to_owned())?;
    let answer: Answer = serde_json::from_slice(value).map_err(|error| {
        format!(
            "it is not {{\"event_id\", \"status\": \"SUCCESS\" or \"FAILED\", \"consumer\", \"attempt\"}} as JSON (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    checked(answer)
}

/// The same of the values of [`FIELDS`].
pub fn from_fields(fields: Vec<Option<FieldValue>>) -> Result<Answer, String> {
    let mut fields = fields.into_iter();
    let mut next = |name: &str| match fields.next().flatten() {
        Some(FieldValue::Text(text)) => Ok(Some(text)),
        Some(FieldValue::Number(_)) if name == "event_id" => Err(format!("its {name} is no text")),
        Some(FieldValue::Number(number)) => Ok(Some(number.to_string())),
        None => Ok(None),
    };
    let missing = |name: &'static str| move || format!("it has no {name}");
    let event_id = next("event_id")?.ok_or_else(missing("event_id"))?;
    let status = match next("status")?.as_deref() {
        Some("SUCCESS") => Verdict::Success,
        Some("FAILED") => Verdict::Failed,
        Some(_) => return Err("its status is neither SUCCESS nor FAILED".to_owned()),
        None => return Err(missing("status")()),
    };
    let reason = next("reason")?;
    let consumer = next("consumer")?.ok_or_else(missing("consumer"))?;
    let attempt = match next("attempt")? {
        None => 1,
        Some(text) => text.parse().map_err(|_| "its attempt is no number of an attempt".to_owned())?,
    };
    checked(Answer { event_id, status, reason, consumer, attempt })
}

fn checked(mut answer: Answer) -> Result<Answer, String> {
    if answer.attempt < 1 {
        return Err("its attempt is less than 1".to_owned());
    }
    if answer.consumer.is_empty()
        || answer.consumer.chars().count() > CONSUMER_CHARS_MAX
        || answer.consumer.chars().any(char::is_control)
    {
        return Err(format!(
            "its consumer is empty, has control characters, or more than {CONSUMER_CHARS_MAX} characters"
        ));
    }
    // No text of Postgres has a zero byte: one would fail the statement for all answers that share it.
    let kept = |reason: String| reason.chars().filter(|c| *c != '\0').take(REASON_CHARS_MAX).collect();
    answer.reason = answer.reason.map(kept);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_or_refused() {
        let whole = r#"{"event_id":"e","status":"FAILED","reason":"no","consumer":"c","attempt":2,"at":"2026-01-01T00:00:00Z"}"#;
        let expected = Answer {
            event_id: "e".to_owned(),
            status: Verdict::Failed,
            reason: Some("no".to_owned()),
            consumer: "c".to_owned(),
            attempt: 2,
        };
        assert_eq!(parse(Some(whole.as_bytes())).unwrap(), expected);
        for bad in [
            "",
            "{}",
            "null",
            r#"{"event_id":"e","status":"OK","consumer":"c","attempt":1}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"","attempt":1}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"c\u0000","attempt":1}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"c","attempt":0}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"c","attempt":"1"}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"c","attempt":3000000000}"#,
        ] {
            let error = parse(Some(bad.as_bytes())).unwrap_err();
            assert!(!error.contains("OK"), "values are not quoted: {error}");
        }
        assert!(parse(None).is_err());
        for first in ["", r#","attempt":null"#, r#","attempt":1"#] {
            let text =
                format!(r#"{{"event_id":"e","status":"FAILED","consumer":"c","reason":"a\u0000b"{first}}}"#);
            let answer = parse(Some(text.as_bytes())).unwrap();
            assert_eq!((answer.attempt, answer.reason.as_deref()), (1, Some("ab")), "{text}");
        }
    }

    #[test]
    fn fields_of_avro_are_read_or_refused() {
        use FieldValue::{Number, Text};
        let text = |text: &str| Some(Text(text.to_owned()));
        let whole = [text("e"), text("FAILED"), text("no"), text("c"), Some(Number(2))];
        let change = |at: usize, value: Option<FieldValue>| {
            let mut fields = whole.to_vec();
            fields[at] = value;
            from_fields(fields)
        };
        let answer = change(2, None).unwrap();
        assert_eq!((answer.attempt, answer.reason, answer.status), (2, None, Verdict::Failed));
        assert_eq!(change(4, None).unwrap().attempt, 1);
        for (at, value) in [
            (0, None),
            (0, Some(Number(1))),
            (1, text("OK")),
            (1, None),
            (3, None),
            (3, text("")),
            (4, Some(Number(0))),
            (4, Some(Number(1 << 40))),
            (4, text("x")),
        ] {
            assert!(change(at, value.clone()).is_err(), "{at} {value:?}");
        }
    }
}
