//! What a consumer says of an event: `{event_id, status, reason, consumer, attempt, at}`.

use serde::Deserialize;

/// The longest text that is kept of a reason.
const REASON_CHARS_MAX: usize = 500;

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
    /// Of which sending; the header `headwater.attempt`, or 1 where there was none.
    pub attempt: i32,
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
    let mut answer: Answer = serde_json::from_slice(value).map_err(|error| {
        format!(
            "it is not {{\"event_id\", \"status\": \"SUCCESS\" or \"FAILED\", \"consumer\", \"attempt\"}} as JSON (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    if answer.consumer.is_empty() || answer.attempt < 1 {
        return Err("its consumer is empty, or its attempt is less than 1".to_owned());
    }
    answer.reason = answer.reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
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
            r#"{"event_id":"e","status":"SUCCESS","consumer":"c"}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"","attempt":1}"#,
            r#"{"event_id":"e","status":"SUCCESS","consumer":"c","attempt":0}"#,
        ] {
            let error = parse(Some(bad.as_bytes())).unwrap_err();
            assert!(!error.contains("OK"), "values are not quoted: {error}");
        }
        assert!(parse(None).is_err());
    }
}
