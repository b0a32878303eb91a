//! The records of the notification topic, as Debezium's `sink` channel writes them.

use crate::binary;

/// Schema of the key.
pub const NOTIFICATION_KEY_JSON: &str = concat!(
    r#"{"type":"record","name":"NotificationKey","namespace":"io.debezium.connector.common","#,
    r#""fields":[{"name":"id","type":"string"}],"connect.version":1,"#,
    r#""connect.name":"io.debezium.connector.common.NotificationKey"}"#
);

/// Schema of the value.
pub const NOTIFICATION_VALUE_JSON: &str = concat!(
    r#"{"type":"record","name":"Notification","namespace":"io.debezium.connector.common","fields":["#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"type","type":"string"},"#,
    r#"{"name":"aggregate_type","type":"string"},"#,
    r#"{"name":"additional_data","type":["null",{"type":"map","values":"string"}],"default":null},"#,
    r#"{"name":"timestamp","type":"long"}],"connect.version":1,"#,
    r#""connect.name":"io.debezium.connector.common.Notification"}"#
);

/// What is told to whoever reads the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What it is about: the id of a signal, or of a snapshot.
    pub id: String,
    /// `Initial Snapshot`, `Incremental Snapshot`, …
    pub aggregate_type: String,
    /// `STARTED`, `COMPLETED`, …
    pub kind: String,
    /// Names and texts.
    pub additional_data: Vec<(String, String)>,
    /// When, in milliseconds since 1970.
    pub unix_millis: i64,
}

/// Writes the key as Avro.
pub fn write_notification_key(notification: &Notification, out: &mut Vec<u8>) {
    binary::write_bytes(notification.id.as_bytes(), out);
}

/// Writes the value as Avro.
pub fn write_notification(notification: &Notification, out: &mut Vec<u8>) {
    let Notification { id, aggregate_type, kind, additional_data, unix_millis } = notification;
    for text in [id, kind, aggregate_type] {
        binary::write_bytes(text.as_bytes(), out);
    }
    out.push(2);
    if !additional_data.is_empty() {
        binary::write_long(additional_data.len() as i64, out);
    }
    for text in additional_data.iter().flat_map(|(name, text)| [name, text]) {
        binary::write_bytes(text.as_bytes(), out);
    }
    out.push(0);
    binary::write_long(*unix_millis, out);
}

/// The value as a line of JSON, for the local sinks.
pub fn write_json_notification(notification: &Notification, out: &mut Vec<u8>) {
    let data: serde_json::Map<String, serde_json::Value> = notification
        .additional_data
        .iter()
        .map(|(name, text)| (name.clone(), text.as_str().into()))
        .collect();
    let line = serde_json::json!({
        "id": notification.id,
        "type": notification.kind,
        "aggregate_type": notification.aggregate_type,
        "additional_data": data,
        "timestamp": notification.unix_millis,
    });
    out.extend_from_slice(line.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use apache_avro::types::Value;

    use super::*;

    /// What apache-avro reads of what is written here.
    fn check(additional_data: &[(&str, &str)]) {
        let notification = Notification {
            id: "n-1".to_owned(),
            aggregate_type: "Incremental Snapshot".to_owned(),
            kind: "STARTED".to_owned(),
            additional_data: additional_data
                .iter()
                .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
                .collect(),
            unix_millis: 1_700_000_000_123,
        };
        let text = |text: &str| Value::String(text.to_owned());
        let read = |json: &str, bytes: &[u8]| {
            let schema = apache_avro::Schema::parse_str(json).unwrap();
            let mut bytes = bytes;
            let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
            let value = reader.read_value(&mut bytes).unwrap();
            assert!(bytes.is_empty());
            value
        };
        let mut out = Vec::new();
        write_notification_key(&notification, &mut out);
        assert_eq!(read(NOTIFICATION_KEY_JSON, &out), Value::Record(vec![("id".to_owned(), text("n-1"))]));
        out.clear();
        write_notification(&notification, &mut out);
        let map = additional_data.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        let fields = [
            ("id", text("n-1")),
            ("type", text("STARTED")),
            ("aggregate_type", text("Incremental Snapshot")),
            ("additional_data", Value::Union(1, Box::new(Value::Map(map)))),
            ("timestamp", Value::Long(1_700_000_000_123)),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(read(NOTIFICATION_VALUE_JSON, &out), Value::Record(fields));
    }

    #[test]
    fn another_implementation_reads_it() {
        check(&[]);
        check(&[("connector_name", "shop"), ("data_collections", "public.a,public.b")]);
    }
}
