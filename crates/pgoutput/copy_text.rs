//! A row of `COPY … TO STDOUT` in its text format becomes the [`Tuple`] that the stream would send of it.
//!
//! ```text
//! value TAB value TAB … value LF       a NULL is \N; within a value \b \f \n \r \t \v \\ stand for one byte each
//! ```
//!
//! Both formats hold what the types' output functions give, so only the escapes are undone: whoever encodes a tuple
//! of the stream encodes this one.
//! Source: PostgreSQL manual, COPY, "Text Format". COPY FROM reads more than that (`\x41`, any other escaped
//! character); COPY TO writes nothing else, so anything else is an error.
//!
//! Invariant: no byte of a row is in an error.

use memchr::{memchr, memchr2};

use crate::Tuple;

const NULL: &[u8] = br"\N";

/// A row that COPY TO does not write in its text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyTextError {
    /// The statement selects another number of columns.
    #[error("a row of the copy has {found} columns and {wanted} were asked for")]
    Columns {
        /// How many it has.
        found: usize,
        /// How many it was to have.
        wanted: u16,
    },
    /// A backslash before something that is never escaped.
    #[error("column {column} of a row of the copy has an escape that COPY does not write")]
    Escape {
        /// Which column, from 1.
        column: usize,
    },
    /// A value that no protocol message can hold.
    #[error("column {column} of a row of the copy has more bytes than a value can have")]
    TooLong {
        /// Which column, from 1.
        column: usize,
    },
}

/// Writes a row as the columns of a tuple into `out`, whatever that held before, and returns the tuple that views it.
///
/// `row` is the body of one CopyData message, with its newline or without. Once `out` has grown to the longest row,
/// nothing is allocated.
pub fn read_copy_row<'o>(row: &[u8], columns: u16, out: &'o mut Vec<u8>) -> Result<Tuple<'o>, CopyTextError> {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    // A value only gets shorter, and no value makes this necessary twice.
    let bytes_max = row.len() + VALUE_HEADER_BYTES * usize::from(columns) + WORD_BYTES;
    if out.len() < bytes_max {
        out.resize(bytes_max, 0);
    }
    let end = write_columns(row, columns, out)?;
    Ok(Tuple::of_columns(&out[..end], columns))
}

/// Kind and length in front of a value.
const VALUE_HEADER_BYTES: usize = 5;
const WORD_BYTES: usize = size_of::<u64>();
/// Values are short as a rule, and a call costs more than a few words; what is longer than this is worth the call.
const SHORT_VALUE_BYTES: usize = 8 * WORD_BYTES;

/// Returns where the columns end.
fn write_columns(row: &[u8], columns: u16, out: &mut [u8]) -> Result<usize, CopyTextError> {
    let wrong_number = || CopyTextError::Columns { found: count_columns(row), wanted: columns };
    if columns == 0 {
        return if row.is_empty() { Ok(0) } else { Err(wrong_number()) };
    }
    let mut rest = row;
    let mut at = 0;
    for column in 1..=usize::from(columns) {
        let length = copy_plain(rest, &mut out[at + VALUE_HEADER_BYTES..]);
        let after = match rest.get(length) {
            Some(b'\\') => {
                let (end, after) = read_escaped(rest, column, out, at)?;
                at = end;
                after
            }
            separator => {
                at = write_header(out, at, length, column)?;
                separator.map(|_| &rest[length + 1..])
            }
        };
        match (after, column == usize::from(columns)) {
            (Some(next), false) => rest = next,
            (None, true) => {}
            _ => return Err(wrong_number()),
        }
    }
    Ok(at)
}

/// Copies bytes up to the first tab or backslash, or up to the end; returns how many. It may write more than that.
#[inline(always)]
fn copy_plain(rest: &[u8], out: &mut [u8]) -> usize {
    let mut at = 0;
    while let (Some(word), Some(place)) =
        (rest[at..].first_chunk::<WORD_BYTES>(), out[at..].first_chunk_mut::<WORD_BYTES>())
    {
        *place = *word;
        let word = u64::from_le_bytes(*word);
        let found = bytes_equal(word, b'\t') | bytes_equal(word, b'\\');
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += WORD_BYTES;
        if at == SHORT_VALUE_BYTES {
            let length = memchr2(b'\t', b'\\', &rest[at..]).unwrap_or(rest.len() - at);
            out[at..at + length].copy_from_slice(&rest[at..at + length]);
            return at + length;
        }
    }
    for (byte, place) in rest[at..].iter().zip(&mut out[at..]) {
        if matches!(byte, b'\t' | b'\\') {
            break;
        }
        *place = *byte;
        at += 1;
    }
    at
}

/// The highest bit of the first byte that equals `byte`, and perhaps of some behind it.
#[inline(always)]
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & (ONES << 7)
}

/// Writes the header of a value that stands behind it; returns where the value ends.
#[inline(always)]
fn write_header(out: &mut [u8], at: usize, length: usize, column: usize) -> Result<usize, CopyTextError> {
    let bytes = i32::try_from(length).map_err(|_| CopyTextError::TooLong { column })?.to_be_bytes();
    out[at] = b't';
    out[at + 1..at + VALUE_HEADER_BYTES].copy_from_slice(&bytes);
    Ok(at + VALUE_HEADER_BYTES + length)
}

/// Reads a column that has a backslash, and writes it at `at`; where it ends there, and what comes after its tab.
fn read_escaped<'r>(
    rest: &'r [u8],
    column: usize,
    out: &mut [u8],
    at: usize,
) -> Result<(usize, Option<&'r [u8]>), CopyTextError> {
    let (mut escaped, after) = match memchr(b'\t', rest) {
        None => (rest, None),
        Some(end) => (&rest[..end], Some(&rest[end + 1..])),
    };
    if escaped == NULL {
        out[at] = b'n';
        return Ok((at + 1, after));
    }
    let value_at = at + VALUE_HEADER_BYTES;
    let mut end = value_at;
    let mut put = |bytes: &[u8]| {
        out[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    while let Some(backslash) = memchr(b'\\', escaped) {
        put(&escaped[..backslash]);
        let byte = escaped.get(backslash + 1).and_then(|byte| unescape(*byte));
        put(&[byte.ok_or(CopyTextError::Escape { column })?]);
        escaped = &escaped[backslash + 2..];
    }
    put(escaped);
    let end = write_header(out, at, end - value_at, column)?;
    Ok((end, after))
}

fn unescape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'\\' => b'\\',
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 0x08,
        b'f' => 0x0c,
        b'v' => 0x0b,
        _ => return None,
    })
}

/// A tab in a value is escaped, so every tab separates.
fn count_columns(row: &[u8]) -> usize {
    memchr::memchr_iter(b'\t', row).count() + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Column;

    /// Reads a row, and the same one with its newline.
    fn check(row: &[u8], columns: u16, wanted: Result<&[Option<&[u8]>], CopyTextError>) {
        let mut out = b"of the row before".to_vec();
        for row in [row.to_vec(), [row, b"\n"].concat()] {
            let read = read_copy_row(&row, columns, &mut out);
            let values = read.map(|tuple| tuple.columns().map(text_of).collect::<Vec<_>>());
            let wanted = wanted.map(<[_]>::to_vec);
            assert_eq!(values, wanted, "{}", row.escape_ascii());
        }
    }

    fn text_of(column: Column<'_>) -> Option<&[u8]> {
        match column {
            Column::Null => None,
            Column::Text(text) => Some(text),
            other => panic!("{other:?}"),
        }
    }

    /// As `CopyAttributeOutText` of the server does it.
    fn write_row(values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut row = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                row.push(b'\t');
            }
            let Some(value) = value else {
                row.extend(NULL);
                continue;
            };
            for byte in value {
                match byte {
                    0x08 => row.extend(br"\b"),
                    0x0c => row.extend(br"\f"),
                    b'\n' => row.extend(br"\n"),
                    b'\r' => row.extend(br"\r"),
                    b'\t' => row.extend(br"\t"),
                    0x0b => row.extend(br"\v"),
                    b'\\' => row.extend(br"\\"),
                    other => row.push(*other),
                }
            }
        }
        row.push(b'\n');
        row
    }

    #[test]
    fn values_nulls_and_escapes() {
        check(b"", 0, Ok(&[]));
        check(b"", 1, Ok(&[Some(b"")]));
        check(b"1\tab", 2, Ok(&[Some(b"1"), Some(b"ab")]));
        check(b"\t\t", 3, Ok(&[Some(b""), Some(b""), Some(b"")]));
        check(br"\N", 1, Ok(&[None]));
        check(b"\\N\tx\t\\N", 3, Ok(&[None, Some(b"x"), None]));
        check(br"\\N", 1, Ok(&[Some(br"\N")]));
        check(br"\\", 1, Ok(&[Some(br"\")]));
        check(br"\\.", 1, Ok(&[Some(br"\.")]));
        check(br"a\b\f\n\r\t\v\\z", 1, Ok(&[Some(b"a\x08\x0c\n\r\t\x0b\\z")]));
        check(b"\\\\\ta\\n\tb", 3, Ok(&[Some(br"\"), Some(b"a\n"), Some(b"b")]));
        // Other control characters and anything beyond ASCII are written as they are.
        check("\u{1}\u{7f}é世".as_bytes(), 1, Ok(&[Some("\u{1}\u{7f}é世".as_bytes())]));
    }

    #[test]
    fn what_copy_does_not_write_is_refused() {
        let columns = |found, wanted| Err(CopyTextError::Columns { found, wanted });
        check(b"x", 0, columns(1, 0));
        check(b"a\tb", 1, columns(2, 1));
        check(b"a\tb", 3, columns(2, 3));
        check(b"", 2, columns(1, 2));
        let escape = |column| Err(CopyTextError::Escape { column });
        check(b"a\t\\", 2, escape(2));
        check(b"\\\ta", 2, escape(1));
        check(br"a\N", 1, escape(1));
        check(br"\Na", 1, escape(1));
        check(br"\x41", 1, escape(1));
        check(br"\.", 1, escape(1));
        assert_eq!(
            CopyTextError::Escape { column: 2 }.to_string(),
            "column 2 of a row of the copy has an escape that COPY does not write"
        );
    }

    proptest! {
        #[test]
        fn what_the_server_writes_is_read(
            values in prop::collection::vec(
                prop::option::of(prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    prop::collection::vec(prop::sample::select(b"abcdefghijklmnopqrstuvwxyz\\\t".to_vec()), 0..200),
                    prop::collection::vec(prop::sample::select(b"\\N\n\t\rnt\x08.".to_vec()), 0..8),
                ]),
                1..12,
            ),
        ) {
            let row = write_row(&values);
            let mut out = Vec::new();
            let tuple = read_copy_row(&row, values.len() as u16, &mut out).expect("a row");
            prop_assert_eq!(tuple.len(), values.len());
            let read: Vec<_> = tuple.columns().map(|column| text_of(column).map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn any_bytes_are_read_or_refused(row in prop::collection::vec(any::<u8>(), 0..100), columns in 0u16..6) {
            let mut out = Vec::new();
            if let Ok(tuple) = read_copy_row(&row, columns, &mut out) {
                prop_assert_eq!(tuple.columns().count(), usize::from(columns));
            }
        }

        #[test]
        fn escapes_dense_bytes_are_survived(
            row in prop::collection::vec(prop::sample::select(b"\\\tNn\n".to_vec()), 0..12),
            columns in 0u16..6,
        ) {
            let mut out = Vec::new();
            if let Ok(tuple) = read_copy_row(&row, columns, &mut out) {
                prop_assert_eq!(tuple.columns().count(), usize::from(columns));
            }
        }
    }
}
