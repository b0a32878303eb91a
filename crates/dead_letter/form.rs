//! What a letter says of itself, in headers behind those that the record had.
//!
//! ```text
//! headwater.dead_letter.stage      encode, schema, outbox, size, blocked, …: where it went wrong
//! headwater.dead_letter.reason     why, without any value
//! headwater.dead_letter.form       record: key, value and headers are those of a record; row: the value is a change as JSON
//! headwater.dead_letter.attempt    1, and one more each time that a replay failed
//! headwater.dead_letter.table      schema.table
//! headwater.dead_letter.key        the row's key, {"column":"text",…}
//! headwater.dead_letter.old_key    the one that it had before, if it has changed
//! headwater.dead_letter.lsn        the transaction's commit, or where a snapshot read the row
//! headwater.dead_letter.topic, .partition, .offset   where it was to go, or where it was
//! headwater.dead_letter.consumer   the consumer group that could not use it
//! headwater.dead_letter.left_out_bytes   the value had so many, and is not here: the topic of letters does not take it
//! ```

/// What the names of all these headers begin with.
pub const PREFIX: &str = "headwater.dead_letter.";

/// The header that counts attempts. A record that is sent again has it too.
pub const ATTEMPT: &str = "headwater.dead_letter.attempt";

/// The header that says that the value is not in the letter.
pub const LEFT_OUT_BYTES: &str = "headwater.dead_letter.left_out_bytes";

/// What a letter's key and value are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A record's, as they were or as they were to be.
    #[default]
    Record,
    /// The row's key and the change, both as JSON with Postgres' texts: it was never made into a record.
    Row,
}

impl Form {
    fn word(self) -> &'static str {
        match self {
            Form::Record => "record",
            Form::Row => "row",
        }
    }
}

/// Why a record or a row is a letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Where it went wrong, in a word.
    pub stage: String,
    /// Why, in a sentence without values.
    pub reason: String,
    /// What key and value are.
    pub form: Form,
    /// From 1.
    pub attempt: u32,
    /// `schema.table`.
    pub table: Option<String>,
    /// The row's key as a JSON object of texts.
    pub key: Option<String>,
    /// The same of the key that it had before the change.
    pub old_key: Option<String>,
    /// The commit's LSN.
    pub lsn: Option<String>,
    /// The topic that it was to go to, or came from.
    pub topic: Option<String>,
    /// Where it was there.
    pub place: Option<(i32, i64)>,
    /// Whose letter it is, where a consumer could not use a record.
    pub consumer: Option<String>,
    /// How many bytes the value had that the letter lacks, because its topic does not take them.
    pub left_out_bytes: Option<u64>,
}

impl Cause {
    /// The headers, behind those of the record.
    pub fn headers(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Cause {
            stage,
            reason,
            form,
            attempt,
            table,
            key,
            old_key,
            lsn,
            topic,
            place,
            consumer,
            left_out_bytes,
        } = self;
        let mut headers = vec![
            ("headwater.dead_letter.stage", stage.clone().into_bytes()),
            ("headwater.dead_letter.reason", reason.clone().into_bytes()),
            ("headwater.dead_letter.form", form.word().into()),
            (ATTEMPT, attempt.max(&1).to_string().into_bytes()),
        ];
        let mut some =
            |name, text: Option<String>| headers.extend(text.map(|text| (name, text.into_bytes())));
        some("headwater.dead_letter.table", table.clone());
        some("headwater.dead_letter.key", key.clone());
        some("headwater.dead_letter.old_key", old_key.clone());
        some("headwater.dead_letter.lsn", lsn.clone());
        some("headwater.dead_letter.topic", topic.clone());
        some("headwater.dead_letter.partition", place.map(|(partition, _)| partition.to_string()));
        some("headwater.dead_letter.offset", place.map(|(_, offset)| offset.to_string()));
        some("headwater.dead_letter.consumer", consumer.clone());
        some(LEFT_OUT_BYTES, left_out_bytes.map(|bytes| bytes.to_string()));
        headers
    }

    /// What the headers of a record say; none if it is no letter.
    pub fn of(headers: &[(String, Vec<u8>)]) -> Option<Cause> {
        let text = |name: &str| {
            let named = |(known, _): &&(String, Vec<u8>)| known.strip_prefix(PREFIX) == Some(name);
            // The last one: a letter of a record that was a letter before has both.
            headers.iter().rev().find(named).map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
        Some(Cause {
            stage: text("stage")?,
            reason: text("reason").unwrap_or_default(),
            form: if text("form").as_deref() == Some("row") { Form::Row } else { Form::Record },
            attempt: number("attempt").and_then(|number| u32::try_from(number).ok()).unwrap_or(1),
            table: text("table"),
            key: text("key"),
            old_key: text("old_key"),
            lsn: text("lsn"),
            topic: text("topic"),
            place: number("partition")
                .and_then(|partition| Some((i32::try_from(partition).ok()?, number("offset")?))),
            consumer: text("consumer"),
            left_out_bytes: number("left_out_bytes").and_then(|number| u64::try_from(number).ok()),
        })
    }
}

/// The headers that the record had before it was a letter.
pub(crate) fn original(headers: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    headers.iter().filter(|(name, _)| !name.starts_with(PREFIX)).cloned().collect()
}

/// Which attempt a record is, by its headers: 0 for one that was never a letter.
pub fn attempt_of(headers: &[(String, Vec<u8>)]) -> u32 {
    let found = headers.iter().rev().find(|(name, _)| name == ATTEMPT);
    found.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let whole = Cause {
            stage: "encode".to_owned(),
            reason: "column \"a\" (numeric): NaN".to_owned(),
            form: Form::Row,
            attempt: 3,
            table: Some("public.a".to_owned()),
            key: Some(r#"{"id":"1"}"#.to_owned()),
            old_key: Some(r#"{"id":"2"}"#.to_owned()),
            lsn: Some("0/1".to_owned()),
            topic: Some("shop.public.a".to_owned()),
            place: Some((2, 17)),
            consumer: Some("g".to_owned()),
            left_out_bytes: Some(2_000_000),
        };
        let least = Cause { stage: "size".to_owned(), attempt: 1, ..Cause::default() };
        for cause in [whole, least] {
            let mut headers =
                vec![("id".to_owned(), b"7".to_vec()), (format!("{PREFIX}stage"), b"old".to_vec())];
            headers.extend(cause.headers().into_iter().map(|(name, value)| (name.to_owned(), value)));
            assert_eq!(Cause::of(&headers), Some(cause.clone()), "the last of each counts");
            assert_eq!(attempt_of(&headers), cause.attempt);
            assert_eq!(original(&headers), [("id".to_owned(), b"7".to_vec())]);
        }
    }

    #[test]
    fn what_has_no_stage_is_no_letter() {
        assert_eq!(Cause::of(&[("headwater.dead_letter.reason".to_owned(), b"x".to_vec())]), None);
        assert_eq!(attempt_of(&[]), 0);
    }
}
