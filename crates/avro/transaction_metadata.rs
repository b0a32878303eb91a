//! The records of the transaction topic: Debezium's BEGIN and END with their counts.

use crate::binary;
use crate::encode::ChangeSource;

/// Schema of the key: the transaction's id.
pub const TRANSACTION_KEY_JSON: &str = concat!(
    r#"{"type":"record","name":"TransactionMetadataKey","namespace":"io.debezium.connector.common","#,
    r#""fields":[{"name":"id","type":"string"}],"connect.version":1,"#,
    r#""connect.name":"io.debezium.connector.common.TransactionMetadataKey"}"#
);

/// Schema of the value.
pub const TRANSACTION_VALUE_JSON: &str = concat!(
    r#"{"type":"record","name":"TransactionMetadataValue","namespace":"io.debezium.connector.common","fields":["#,
    r#"{"name":"status","type":"string"},"#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"event_count","type":["null","long"],"default":null},"#,
    r#"{"name":"data_collections","type":["null",{"type":"array","items":["null","#,
    r#"{"type":"record","name":"collection","namespace":"event","fields":["#,
    r#"{"name":"data_collection","type":"string"},{"name":"event_count","type":"long"}],"#,
    r#""connect.version":1,"connect.name":"event.collection"}]}],"default":null},"#,
    r#"{"name":"ts_ms","type":"long"}],"connect.version":1,"#,
    r#""connect.name":"io.debezium.connector.common.TransactionMetadataValue"}"#
);

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus<'a> {
    /// Before its first change.
    Begin,
    /// After its last one: changes by table, as `schema.table`, in the order of each table's first.
    End(&'a [(String, u64)]),
}

/// Writes the key as Avro.
pub fn write_transaction_key(source: &ChangeSource<'_>, out: &mut Vec<u8>) {
    binary::write_bytes(source.transaction_id().as_bytes(), out);
}

/// Writes the value as Avro.
pub fn write_transaction(source: &ChangeSource<'_>, status: TransactionStatus<'_>, out: &mut Vec<u8>) {
    let word: &[u8] = if status == TransactionStatus::Begin { b"BEGIN" } else { b"END" };
    binary::write_bytes(word, out);
    binary::write_bytes(source.transaction_id().as_bytes(), out);
    match status {
        TransactionStatus::Begin => out.extend_from_slice(&[0, 0]),
        TransactionStatus::End(tables) => {
            out.push(2);
            binary::write_long(tables.iter().map(|(_, count)| *count as i64).sum(), out);
            write_collections(tables, out);
        }
    }
    binary::write_long(source.commit_unix_micros.div_euclid(1000), out);
}

/// One block of items, then the empty one that ends an array.
fn write_collections(tables: &[(String, u64)], out: &mut Vec<u8>) {
    out.push(2);
    if !tables.is_empty() {
        binary::write_long(tables.len() as i64, out);
    }
    for (table, count) in tables {
        out.push(2);
        binary::write_bytes(table.as_bytes(), out);
        binary::write_long(*count as i64, out);
    }
    out.push(0);
}

/// The value as a line of JSON, for the local sinks.
pub fn write_json_transaction(source: &ChangeSource<'_>, status: TransactionStatus<'_>, out: &mut Vec<u8>) {
    let (word, counts) = match status {
        TransactionStatus::Begin => ("BEGIN", None),
        TransactionStatus::End(tables) => ("END", Some(tables)),
    };
    let collections = counts.map(|tables| -> Vec<serde_json::Value> {
        let collection =
            |(table, count): &(String, u64)| serde_json::json!({"data_collection": table, "event_count": count});
        tables.iter().map(collection).collect()
    });
    let line = serde_json::json!({
        "status": word,
        "id": source.transaction_id(),
        "event_count": counts.map(|tables| tables.iter().map(|(_, count)| count).sum::<u64>()),
        "data_collections": collections,
        "ts_ms": source.commit_unix_micros.div_euclid(1000),
    });
    out.extend_from_slice(line.to_string().as_bytes());
}
