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

/// Writes a row as the columns of a tuple into `out`, which is cleared first, and returns the tuple that views it.
///
/// `row` is the body of one CopyData message, with its newline or without. Once `out` has grown to the longest row,
/// nothing is allocated.
pub fn read_copy_row<'o>(row: &[u8], columns: u16, out: &'o mut Vec<u8>) -> Result<Tuple<'o>, CopyTextError> {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    out.clear();
    // A value only gets shorter.
    out.reserve(row.len() + VALUE_HEADER_BYTES * usize::from(columns));
    if columns == 0 {
        return match row {
            [] => Ok(Tuple::of_columns(out, 0)),
            _ => Err(CopyTextError::Columns { found: count_columns(row), wanted: 0 }),
        };
    }
    let mut rest = row;
    for index in 1..=usize::from(columns) {
        let after = read_column(rest, index, out)?;
        match (after, index == usize::from(columns)) {
            (Some(next), false) => rest = next,
            (None, true) => {}
            _ => return Err(CopyTextError::Columns { found: count_columns(row), wanted: columns }),
        }
    }
    Ok(Tuple::of_columns(out, columns))
}

/// Kind and length in front of a value.
const VALUE_HEADER_BYTES: usize = 5;

/// Reads one column; what comes after its tab, or `None` if it was the last.
#[inline(always)]
fn read_column<'r>(
    rest: &'r [u8],
    column: usize,
    out: &mut Vec<u8>,
) -> Result<Option<&'r [u8]>, CopyTextError> {
    let (value, after) = match memchr2(b'\t', b'\\', rest) {
        None => (rest, None),
        Some(end) if rest[end] == b'\t' => (&rest[..end], Some(&rest[end + 1..])),
        Some(_) => return read_escaped(rest, column, out),
    };
    let length = i32::try_from(value.len()).map_err(|_| CopyTextError::TooLong { column })?;
    let [a, b, c, d] = length.to_be_bytes();
    out.extend_from_slice(&[b't', a, b, c, d]);
    out.extend_from_slice(value);
    Ok(after)
}

/// As `read_column`, of one that has a backslash.
fn read_escaped<'r>(
    rest: &'r [u8],
    column: usize,
    out: &mut Vec<u8>,
) -> Result<Option<&'r [u8]>, CopyTextError> {
    let (mut escaped, after) = match memchr(b'\t', rest) {
        None => (rest, None),
        Some(end) => (&rest[..end], Some(&rest[end + 1..])),
    };
    if escaped == NULL {
        out.push(b'n');
        return Ok(after);
    }
    let header_at = out.len();
    out.extend_from_slice(&[b't', 0, 0, 0, 0]);
    let value_at = out.len();
    while let Some(at) = memchr(b'\\', escaped) {
        out.extend_from_slice(&escaped[..at]);
        let byte = escaped.get(at + 1).and_then(|byte| unescape(*byte));
        out.push(byte.ok_or(CopyTextError::Escape { column })?);
        escaped = &escaped[at + 2..];
    }
    out.extend_from_slice(escaped);
    let length = i32::try_from(out.len() - value_at).map_err(|_| CopyTextError::TooLong { column })?;
    out[header_at + 1..value_at].copy_from_slice(&length.to_be_bytes());
    Ok(after)
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
