//! Records of logical messages (`pg_logical_emit_message`), as Debezium writes them.

use headwater_pgoutput::Lsn;

use crate::binary;
use crate::encode::{ChangeSource, Times, signed, write_block, write_sequence};
use crate::plan::SourceSettings;
use crate::schema::{FORMAT_VERSION, SOURCE_JSON, TRANSACTION_BLOCK_JSON};

/// Schema of the key: the prefix.
pub const MESSAGE_KEY_JSON: &str = concat!(
    r#"{"type":"record","name":"MessageKey","namespace":"io.debezium.connector.postgresql","#,
    r#""fields":[{"name":"prefix","type":["null","string"],"default":null}],"connect.version":1,"#,
    r#""connect.name":"io.debezium.connector.postgresql.MessageKey"}"#
);

/// Schema of the value.
pub fn message_value_json() -> String {
    // Debezium writes the namespace once, at the top; the nested record inherits it.
    let source = SOURCE_JSON.replacen(r#","namespace":"io.debezium.connector.postgresql""#, "", 1);
    format!(
        concat!(
            r#"{{"type":"record","name":"MessageValue","namespace":"io.debezium.connector.postgresql","fields":["#,
            r#"{{"name":"op","type":"string"}},"#,
            r#"{{"name":"ts_ms","type":["null","long"],"default":null}},"#,
            r#"{{"name":"source","type":{source}}},"#,
            r#"{{"name":"transaction","type":["null",{block}],"default":null}},"#,
            r#"{{"name":"message","type":{{"type":"record","name":"Message","fields":["#,
            r#"{{"name":"prefix","type":["null","string"],"default":null}},"#,
            r#"{{"name":"content","type":["null","bytes"],"default":null}}],"#,
            r#""connect.version":1,"connect.name":"io.debezium.connector.postgresql.Message"}}}}],"#,
            r#""connect.version":1,"connect.name":"io.debezium.connector.postgresql.MessageValue"}}"#
        ),
        source = source,
        block = TRANSACTION_BLOCK_JSON
    )
}

/// One logical message.
#[derive(Clone, Copy, Debug)]
pub struct LogicalMessage<'a> {
    /// What tells readers of messages apart.
    pub prefix: &'a str,
    /// Any bytes.
    pub content: &'a [u8],
    /// Where it was written.
    pub lsn: Lsn,
    /// The transaction it stands in; none for a message that stands for itself. Such a one has no time either: the
    /// log has none, and the time of sending would be another one when it is sent again.
    pub transaction: Option<&'a ChangeSource<'a>>,
}

const NULL: u8 = 0;
const VALUE: u8 = 2;

/// Writes the key as Avro.
pub fn write_message_key(prefix: &str, out: &mut Vec<u8>) {
    out.push(VALUE);
    binary::write_bytes(prefix.as_bytes(), out);
}

/// Writes the value as Avro.
pub fn write_message(message: &LogicalMessage<'_>, origin: &SourceSettings, out: &mut Vec<u8>) {
    binary::write_bytes(b"m", out);
    match message.transaction {
        Some(source) => {
            out.push(VALUE);
            out.extend_from_slice(Times::new(source.commit_unix_micros).ms());
        }
        None => out.push(NULL),
    }
    write_source(message, origin, out);
    match message.transaction.and_then(|source| source.place.map(|place| (source, place))) {
        Some((source, place)) => write_block(source, place, out),
        None => out.push(NULL),
    }
    out.push(VALUE);
    binary::write_bytes(message.prefix.as_bytes(), out);
    out.push(VALUE);
    binary::write_bytes(message.content, out);
}

fn write_source(message: &LogicalMessage<'_>, settings: &SourceSettings, out: &mut Vec<u8>) {
    for text in [FORMAT_VERSION, "postgresql", &settings.prefix] {
        binary::write_bytes(text.as_bytes(), out);
    }
    let times = message.transaction.map(|source| Times::new(source.commit_unix_micros));
    match &times {
        Some(times) => out.extend_from_slice(times.ms()),
        None => binary::write_long(0, out),
    }
    out.push(0); // snapshot: the string is the union's first branch
    binary::write_bytes(b"false", out);
    binary::write_bytes(settings.database.as_bytes(), out);
    out.push(VALUE);
    write_sequence(message.transaction.map_or(message.lsn, |source| source.commit_lsn), message.lsn, out);
    match &times {
        Some(times) => out.extend_from_slice(times.us_and_ns()),
        None => out.extend_from_slice(&[NULL, NULL]),
    }
    binary::write_bytes(b"", out); // schema
    binary::write_bytes(b"", out); // table
    match message.transaction {
        Some(source) => {
            out.push(VALUE);
            binary::write_long(i64::from(source.xid), out);
        }
        None => out.push(NULL),
    }
    out.push(VALUE);
    binary::write_long(signed(message.lsn), out);
    out.push(NULL); // xmin
    match message.transaction.and_then(|source| source.origin) {
        Some((name, lsn)) => {
            out.push(VALUE);
            binary::write_bytes(name.as_bytes(), out);
            out.push(VALUE);
            binary::write_long(signed(lsn), out);
        }
        None => out.extend_from_slice(&[NULL, NULL]),
    }
}

/// The message as a line of JSON, for the local sinks; content that is no UTF-8 shows U+FFFD.
pub fn write_json_message(message: &LogicalMessage<'_>, out: &mut Vec<u8>) {
    let line = serde_json::json!({
        "op": "m",
        "source": {
            "ts_us": message.transaction.map(|source| source.commit_unix_micros),
            "commit_lsn": message.transaction.map(|source| source.commit_lsn.to_string()),
            "lsn": message.lsn.to_string(),
            "txId": message.transaction.map(|source| source.xid),
        },
        "message": {
            "prefix": message.prefix,
            "content": String::from_utf8_lossy(message.content),
        },
    });
    out.extend_from_slice(line.to_string().as_bytes());
}
