//! Payloads that are no rows: the outbox's keys and values, as Kafka Connect's converters write bare strings.

use crate::binary;
use crate::plan::SchemaId;

/// Schema of a key or value that is a bare string.
pub fn string_schema_json() -> &'static str {
    r#""string""#
}

/// Schema of a value that is bare bytes.
pub fn bytes_schema_json() -> &'static str {
    r#""bytes""#
}

/// Schema of a JSON document that travels as a string (`io.debezium.data.Json`), nullable as an optional column.
pub fn json_schema_json() -> &'static str {
    r#"["null",{"type":"string","connect.version":1,"connect.name":"io.debezium.data.Json"}]"#
}

/// Writes a bare string in the registry's wire format.
pub fn encode_string(id: SchemaId, text: &str, out: &mut Vec<u8>) {
    encode_bytes(id, text.as_bytes(), out);
}

/// Writes bare bytes in the registry's wire format. Strings and bytes look the same in Avro.
pub fn encode_bytes(id: SchemaId, bytes: &[u8], out: &mut Vec<u8>) {
    binary::write_header(id, out);
    binary::write_bytes(bytes, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_as_debezium_wrote_it() {
        let mut out = Vec::new();
        encode_string(SchemaId(1), "o-1", &mut out);
        assert_eq!(out, [0, 0, 0, 0, 1, 6, b'o', b'-', b'1']);
    }
}
