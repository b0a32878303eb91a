//! What a consumer answers to an outbox event, as Avro: the record of the feedback topic.

use crate::binary;
use crate::plan::SchemaId;

/// Schema of the value.
pub const FEEDBACK_JSON: &str = concat!(
    r#"{"type":"record","name":"Feedback","namespace":"headwater","fields":["#,
    r#"{"name":"event_id","type":"string"},"#,
    r#"{"name":"status","type":"string"},"#,
    r#"{"name":"reason","type":["null","string"],"default":null},"#,
    r#"{"name":"consumer","type":"string"},"#,
    r#"{"name":"attempt","type":["null","int"],"default":null},"#,
    r#"{"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null}]}"#
);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The event's id.
    pub event_id: String,
    /// `SUCCESS` or `FAILED`.
    pub status: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// Who answers.
    pub consumer: String,
    /// Of which sending.
    pub attempt: i32,
    /// When it was handled, in microseconds since 1970.
    pub at_unix_micros: i64,
}

/// Writes the value as Avro, behind the registry's header.
pub fn write_feedback(id: SchemaId, feedback: &Feedback, out: &mut Vec<u8>) {
    let Feedback { event_id, status, reason, consumer, attempt, at_unix_micros } = feedback;
    binary::write_header(id, out);
    binary::write_bytes(event_id.as_bytes(), out);
    binary::write_bytes(status.as_bytes(), out);
    match reason {
        None => binary::write_long(0, out),
        Some(reason) => {
            binary::write_long(1, out);
            binary::write_bytes(reason.as_bytes(), out);
        }
    }
    binary::write_bytes(consumer.as_bytes(), out);
    for number in [i64::from(*attempt), *at_unix_micros] {
        binary::write_long(1, out);
        binary::write_long(number, out);
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::types::Value;

    use super::*;

    #[test]
    fn apache_avro_reads_it() {
        let schema = Schema::parse_str(FEEDBACK_JSON).expect("a schema");
        let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
        for reason in [None, Some("no such article".to_owned())] {
            let feedback = Feedback {
                event_id: "7c1".to_owned(),
                status: "FAILED".to_owned(),
                reason: reason.clone(),
                consumer: "orders".to_owned(),
                attempt: 3,
                at_unix_micros: 1_709_210_096_123_456,
            };
            let mut bytes = Vec::new();
            write_feedback(SchemaId(7), &feedback, &mut bytes);
            assert_eq!(bytes[..5], [0, 0, 0, 0, 7]);
            let mut body = &bytes[5..];
            let Value::Record(fields) = reader.read_value(&mut body).expect("it is read") else {
                panic!("no record")
            };
            assert!(body.is_empty());
            let text = |text: &str| Value::String(text.to_owned());
            let some = |value| Value::Union(1, Box::new(value));
            let expected = [
                text("7c1"),
                text("FAILED"),
                reason.map_or(Value::Union(0, Box::new(Value::Null)), |reason| some(text(&reason))),
                text("orders"),
                some(Value::Int(3)),
                some(Value::TimestampMicros(1_709_210_096_123_456)),
            ];
            let values: Vec<_> = fields.into_iter().map(|(_, value)| value).collect();
            assert_eq!(values, expected);
        }
    }
}
