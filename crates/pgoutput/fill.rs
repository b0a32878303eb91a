//! An Update message with values in the place of unchanged TOAST values.
//!
//! The new tuple is the last part of the message, so all that stands before it is taken over as it is.

use crate::reader::Reader;
use crate::{Column, DecodeError, Message, Reason};

/// A copy of the Update message `body` in which an unchanged column has the text that `value` gives for its index.
/// Columns for which it gives none stay unchanged.
///
/// # Errors
/// `body` is anything else than one Update message.
pub fn fill_unchanged<'v>(
    body: &[u8],
    mut value: impl FnMut(usize) -> Option<&'v [u8]>,
) -> Result<Vec<u8>, DecodeError> {
    let Message::Update(update) = Message::decode(body)? else {
        return Err(Reader::new(body).error_at(body, Reason::UnknownTag));
    };
    let new = update.new;
    let mut out = body[..body.len() - new.len_bytes()].to_vec();
    for (index, column) in new.columns().enumerate() {
        let (kind, text) = match column {
            Column::Null => (b'n', None),
            Column::Text(text) => (b't', Some(text)),
            Column::Binary(bytes) => (b'b', Some(bytes)),
            Column::Unchanged => match value(index) {
                Some(text) => (b't', Some(text)),
                None => (b'u', None),
            },
        };
        out.push(kind);
        if let Some(text) = text {
            // A value has one gigabyte at most.
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns `1`, unchanged, null, unchanged; with an old tuple of one column in front or without.
    fn update(old: bool) -> Vec<u8> {
        let mut body = b"U\0\0\0\x09".to_vec();
        if old {
            body.extend(b"K\0\x01t\0\0\0\x01u");
        }
        body.extend(b"N\0\x04t\0\0\0\x011unu");
        body
    }

    #[test]
    fn only_unchanged_columns_are_filled() {
        for old in [false, true] {
            let body = update(old);
            let filled = fill_unchanged(&body, |index| (index == 3).then_some(&b"new"[..])).unwrap();
            let Ok(Message::Update(update)) = Message::decode(&filled) else { panic!("no update") };
            let columns: Vec<_> = update.new.columns().collect();
            let expected = [Column::Text(b"1"), Column::Unchanged, Column::Null, Column::Text(b"new")];
            assert_eq!(columns, expected);
            assert_eq!(update.old.is_some(), old);
            assert_eq!(fill_unchanged(&body, |_| None).unwrap(), body);
        }
    }

    #[test]
    fn nothing_but_an_update_is_filled() {
        assert!(fill_unchanged(b"I\0\0\0\x09N\0\x01u", |_| None).is_err());
        let body = update(true);
        for cut in 0..body.len() {
            assert!(fill_unchanged(&body[..cut], |_| None).is_err(), "{cut}");
        }
    }
}
