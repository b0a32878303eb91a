//! Text, and everything that Debezium leaves as text: uuid, json, enum labels, types without a row of their own.

use crate::binary;
use crate::error::Reason;
use crate::types::Unchanged;

/// Debezium's default `unavailable.value.placeholder`.
const PLACEHOLDER: &[u8] = b"__debezium_unavailable_value";

/// A string, verbatim. An Avro string is UTF-8; readers fail on anything else, so it is refused here.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    if std::str::from_utf8(text).is_err() {
        return Err(Reason::NotUtf8);
    }
    binary::write_bytes(text, out);
    Ok(())
}

/// The bytes that stand for an unchanged TOAST value, where the type has any.
pub(crate) fn placeholder(unchanged: Unchanged) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match unchanged {
        Unchanged::Placeholder => binary::write_bytes(PLACEHOLDER, &mut bytes),
        Unchanged::PlaceholderElement => {
            binary::write_long(1, &mut bytes); // one element in this block
            binary::write_long(1, &mut bytes); // which isn't null
            binary::write_bytes(PLACEHOLDER, &mut bytes);
            binary::write_long(0, &mut bytes); // and no more blocks
        }
        Unchanged::Halts => return None,
    }
    Some(bytes)
}
