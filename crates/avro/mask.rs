//! A masked column: its row of the type table, in which the value's text never gets further than this file.

use ring::hmac;

use crate::binary;
use crate::column_choice::{Mask, MaskSalt};
use crate::description::PgType;
use crate::error::Reason;
use crate::types::{AvroType, DefaultRule, Encoding, TypeRow, Unchanged};

/// A mask, ready to be applied to text.
#[derive(Debug, Clone)]
pub(crate) enum Masking {
    /// The Avro bytes that stand for every value.
    Same(Vec<u8>),
    /// HMAC-SHA-256; the key can't be printed.
    Hash(Box<hmac::Key>),
    /// So many characters.
    Truncate(usize),
}

impl Masking {
    /// None where the mask has no honest form for the type: a part of a number looks like a number.
    pub(crate) fn new(mask: &Mask, pg_type: &PgType, salt: &MaskSalt) -> Option<Masking> {
        match mask {
            Mask::None => None,
            Mask::Null => Some(Masking::Same(Vec::new())),
            Mask::Fixed(text) => {
                let mut bytes = Vec::new();
                binary::write_bytes(text.as_bytes(), &mut bytes);
                Some(Masking::Same(bytes))
            }
            Mask::Hash => Some(Masking::Hash(Box::new(hmac::Key::new(hmac::HMAC_SHA256, salt.bytes())))),
            Mask::Truncate(length) => match pg_type {
                PgType::Text | PgType::Json | PgType::Xml | PgType::Verbatim | PgType::Other => {
                    Some(Masking::Truncate(*length))
                }
                _ => None,
            },
        }
    }

    /// Appends what stands for a value, as Avro bytes.
    pub(crate) fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Masking::Same(bytes) => out.extend_from_slice(bytes),
            Masking::Hash(key) => {
                let digest = hmac::sign(key, text);
                binary::write_long(2 * digest.as_ref().len() as i64, out);
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                out.extend(digest.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
            }
            Masking::Truncate(length) => {
                let text = std::str::from_utf8(text).map_err(|_| Reason::NotUtf8)?;
                let end = text.char_indices().nth(*length).map_or(text.len(), |(at, _)| at);
                binary::write_bytes(&text.as_bytes()[..end], out);
            }
        }
        Ok(())
    }
}

/// The row of a masked column: a string, or for the mask `null` the column's own type. Its default shows nowhere.
pub(crate) fn masked_row(plain: TypeRow, mask: &Mask, masking: Masking) -> TypeRow {
    let avro = if *mask == Mask::Null { plain.avro } else { AvroType::Plain("string") };
    TypeRow {
        avro,
        encoding: Encoding::Mask(Box::new(masking)),
        default: DefaultRule::Hidden,
        unchanged: Unchanged::Text,
    }
}

/// Whether a masked column can still tell rows apart, which a key must.
pub(crate) fn keeps_rows_apart(mask: &Mask) -> bool {
    matches!(mask, Mask::None | Mask::Hash)
}

/// The masked value as text; none where the mask leaves null (or, of a text that isn't UTF-8, nothing).
pub(crate) fn masked_text(masking: &Masking, text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    masking.write(text, &mut bytes).ok()?;
    if bytes.is_empty() {
        return None;
    }
    let (_, length) = binary::read_long(&bytes);
    Some(bytes.split_off(length))
}

/// What an unchanged TOAST value has in its place: what a mask makes of every value is known without it.
pub(crate) fn placeholder(masking: &Masking) -> Option<Vec<u8>> {
    match masking {
        Masking::Same(bytes) => Some(bytes.clone()),
        Masking::Hash(_) | Masking::Truncate(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: &Mask, text: &str) -> String {
        let masking = Masking::new(mask, &PgType::Text, &MaskSalt::new(b"key")).expect("a mask for text");
        String::from_utf8(masked_text(&masking, text.as_bytes()).expect("a text")).expect("UTF-8")
    }

    #[test]
    fn masks_of_text() {
        // The second example of Wikipedia's article on HMAC.
        assert_eq!(
            masked(&Mask::Hash, "The quick brown fox jumps over the lazy dog"),
            "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
        );
        assert_eq!(masked(&Mask::Truncate(2), "üb🦀r"), "üb");
        assert_eq!(masked(&Mask::Truncate(3), "ü🦀"), "ü🦀");
        assert_eq!(masked(&Mask::Truncate(0), "x"), "");
        assert_eq!(masked(&Mask::Fixed("***".to_owned()), "x"), "***");
    }

    #[test]
    fn a_part_of_a_number_is_no_mask() {
        for pg_type in [PgType::Int4, PgType::Date, PgType::Uuid, PgType::Array(Box::new(PgType::Text))] {
            assert!(
                Masking::new(&Mask::Truncate(1), &pg_type, &MaskSalt::default()).is_none(),
                "{pg_type:?}"
            );
        }
    }
}
