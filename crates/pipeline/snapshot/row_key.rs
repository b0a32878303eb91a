//! The key of a row as bytes: how what has passed is compared with what a chunk holds.

use headwater_pgoutput::{Column, Tuple};

/// Each column's length and text. NULL, which no key holds, has no length.
pub(crate) fn write_key(columns: &[usize], row: &Tuple<'_>, old: Option<&Tuple<'_>>, out: &mut Vec<u8>) {
    out.clear();
    for at in columns {
        let column = match row.column(*at) {
            Some(Column::Unchanged) => old.and_then(|old| old.column(*at)),
            column => column,
        };
        if let Some(Column::Text(text)) = column {
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text);
        } else {
            out.extend_from_slice(&u32::MAX.to_be_bytes());
        }
    }
}

/// The same of texts.
pub(crate) fn write_texts(texts: &[String], out: &mut Vec<u8>) {
    out.clear();
    for text in texts {
        out.extend_from_slice(&(text.len() as u32).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

/// The texts of such a key.
pub(crate) fn read_key(mut key: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = key.split_first_chunk::<4>() {
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).unwrap_or((&[], rest));
        texts.push(String::from_utf8_lossy(text).into_owned());
        key = rest;
    }
    texts
}

#[cfg(test)]
mod tests {
    use headwater_pgoutput::read_copy_row;

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        for (row, columns, expected) in [
            ("7\tanna\t\\N", vec![0, 1], vec!["7", "anna"]),
            ("7\tanna\tx", vec![2, 0], vec!["x", "7"]),
            ("\t\t", vec![1], vec![""]),
        ] {
            let mut bytes = Vec::new();
            let tuple = read_copy_row(row.as_bytes(), 3, &mut bytes).unwrap();
            let mut key = b"of before".to_vec();
            write_key(&columns, &tuple, None, &mut key);
            let texts = read_key(&key);
            assert_eq!(texts, expected);
            let written = key.clone();
            write_texts(&texts, &mut key);
            assert_eq!(key, written);
        }
    }
}
