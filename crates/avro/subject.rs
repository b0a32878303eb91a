//! Under which name a registry keeps a schema's versions: Confluent's three strategies.

use serde_json::Value;

use crate::plan::Subject;
use crate::record_settings::choices;

choices! {
    /// Confluent's `subject.name.strategy`.
    SubjectStrategy {
        /// `<topic>-key`, `<topic>-value`.
        TopicName = "topic_name",
        /// The record's full name.
        RecordName = "record_name",
        /// `<topic>-<the record's full name>`.
        TopicRecordName = "topic_record_name",
    }
}

/// Which half of a Kafka record a schema is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPart {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl SubjectStrategy {
    /// The subject of a schema. One that is no record has no name to go by and keeps its topic's subject.
    pub fn subject(self, topic: &str, part: RecordPart, schema_json: &str) -> Subject {
        match (self, record_name(schema_json)) {
            (SubjectStrategy::RecordName, Some(name)) => Subject(name),
            (SubjectStrategy::TopicRecordName, Some(name)) => Subject(format!("{topic}-{name}")),
            _ => match part {
                RecordPart::Key => Subject::for_key(topic),
                RecordPart::Value => Subject::for_value(topic),
            },
        }
    }
}

/// Primitives, unions and arrays have none.
fn record_name(schema_json: &str) -> Option<String> {
    let schema: Value = serde_json::from_str(schema_json).ok()?;
    let text = |attribute: &str| schema.get(attribute).and_then(Value::as_str);
    let name = text("name")?;
    Some(match text("namespace") {
        Some(namespace) if !name.contains('.') => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_those_of_confluent() {
        use RecordPart::{Key, Value};
        use SubjectStrategy::{RecordName, TopicName, TopicRecordName};
        let record = r#"{"type":"record","name":"Key","namespace":"shop.public.t","fields":[]}"#;
        let full = r#"{"type":"record","name":"a.b.C","namespace":"x","fields":[]}"#;
        for (strategy, part, schema, expected) in [
            (TopicName, Key, record, "topic-key"),
            (TopicName, Value, record, "topic-value"),
            (RecordName, Key, record, "shop.public.t.Key"),
            (TopicRecordName, Value, record, "topic-shop.public.t.Key"),
            (RecordName, Value, full, "a.b.C"),
            (RecordName, Value, r#""string""#, "topic-value"),
            (TopicRecordName, Key, r#"{"type":"string","connect.version":1}"#, "topic-key"),
            (RecordName, Key, r#"["null","string"]"#, "topic-key"),
        ] {
            assert_eq!(strategy.subject("topic", part, schema).0, expected, "{strategy:?} {part:?} {schema}");
        }
    }
}
