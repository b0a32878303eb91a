//! What stands for an unchanged TOAST value whose old value isn't at hand: the placeholder, in each type's form where
//! it can't be mistaken for a value.

use crate::binary;
use crate::record_settings::RecordSettings;
use crate::types::bytea;

/// The form of the placeholder in a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// The placeholder as a string.
    Text,
    /// The placeholder as bytes.
    Bytes,
    /// A map from the placeholder to the placeholder.
    Map,
    /// The same as a JSON object.
    MapAsJson,
    /// A geometry whose WKB is the placeholder.
    Geometry,
    /// The same without extensions.
    Geography,
    /// An array with the placeholder as its only element.
    Element(Box<Unchanged>),
    /// Nothing of this type could be told from a real value: the row can't be encoded.
    Halts,
}

/// The Avro bytes that stand for an unchanged TOAST value, where the type has any.
pub(crate) fn placeholder(unchanged: &Unchanged, records: &RecordSettings) -> Option<Vec<u8>> {
    let bytes = placeholder_bytes(&records.unavailable_value_placeholder)
        .unwrap_or_else(|| records.unavailable_value_placeholder.clone().into_bytes());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut out = Vec::new();
    let has_form = write(unchanged, &bytes, &text, &mut out);
    has_form.then_some(out)
}

fn write(unchanged: &Unchanged, bytes: &[u8], text: &str, out: &mut Vec<u8>) -> bool {
    match unchanged {
        Unchanged::Text => binary::write_bytes(text.as_bytes(), out),
        Unchanged::Bytes => binary::write_bytes(bytes, out),
        Unchanged::Map => {
            binary::write_long(1, out); // one pair in this block
            binary::write_bytes(text.as_bytes(), out);
            binary::write_long(1, out); // whose value isn't null
            binary::write_bytes(text.as_bytes(), out);
            binary::write_long(0, out); // and no more blocks
        }
        Unchanged::MapAsJson => {
            let word = serde_json::Value::from(text);
            binary::write_bytes(format!("{{{word}:{word}}}").as_bytes(), out);
        }
        Unchanged::Geometry => {
            binary::write_bytes(bytes, out);
            binary::write_long(0, out); // srid
            binary::write_long(0, out); // extensions
        }
        Unchanged::Geography => {
            binary::write_bytes(bytes, out);
            binary::write_long(0, out); // srid
        }
        Unchanged::Element(element) => {
            binary::write_long(1, out); // one element in this block
            binary::write_long(1, out); // which isn't null
            if !write(element, bytes, text, out) {
                return false;
            }
            binary::write_long(0, out); // and no more blocks
        }
        Unchanged::Halts => return false,
    }
    true
}

/// Whether the setting can be read: text, or after `hex:` bytes in hexadecimal.
pub fn is_placeholder(setting: &str) -> bool {
    placeholder_bytes(setting).is_some()
}

fn placeholder_bytes(setting: &str) -> Option<Vec<u8>> {
    match setting.strip_prefix("hex:") {
        Some(digits) => {
            let mut bytes = Vec::new();
            bytea::decode(digits.as_bytes(), &mut bytes).ok().map(|()| bytes)
        }
        None => Some(setting.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(unchanged: Unchanged, setting: &str) -> Option<Vec<u8>> {
        let records =
            RecordSettings { unavailable_value_placeholder: setting.to_owned(), ..RecordSettings::default() };
        placeholder(&unchanged, &records)
    }

    #[test]
    fn each_form_of_the_placeholder() {
        assert_eq!(bytes(Unchanged::Text, "gone").as_deref(), Some(&b"\x08gone"[..]));
        assert_eq!(bytes(Unchanged::Bytes, "hex:00ff").as_deref(), Some(&b"\x04\x00\xff"[..]));
        assert_eq!(bytes(Unchanged::Text, "hex:6869").as_deref(), Some(&b"\x04hi"[..]));
        assert_eq!(bytes(Unchanged::Map, "x").as_deref(), Some(&b"\x02\x02x\x02\x02x\x00"[..]));
        assert_eq!(bytes(Unchanged::MapAsJson, "x").as_deref(), Some(&b"\x12{\"x\":\"x\"}"[..]));
        let element = |element| Unchanged::Element(Box::new(element));
        assert_eq!(bytes(element(Unchanged::Text), "x").as_deref(), Some(&b"\x02\x02\x02x\x00"[..]));
        assert_eq!(bytes(element(Unchanged::Halts), "x"), None);
        assert!(is_placeholder("hex:") && !is_placeholder("hex:0"));
    }
}
