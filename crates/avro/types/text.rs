//! Text, and everything that Debezium leaves as text: uuid, json, enum labels, types without a row of their own.

use crate::binary;
use crate::error::Reason;

/// A string, verbatim. An Avro string is UTF-8; readers fail on anything else, so it is refused here.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    if std::str::from_utf8(text).is_err() {
        return Err(Reason::NotUtf8);
    }
    binary::write_bytes(text, out);
    Ok(())
}

/// A string that is a UUID: readers of Avro's logical type fail on anything else.
pub(super) fn write_uuid(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let is_uuid = text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !is_uuid {
        return Err(Reason::Malformed("a UUID"));
    }
    binary::write_bytes(text, out);
    Ok(())
}
