//! The values of one row version: [`Tuple`] and the iterator over its columns.
//!
//! ```text
//! Int16    number of columns, and for each:
//!   Byte1    'n' null
//!            'u' unchanged TOAST value, not sent
//!            't' text, 'b' binary, followed by
//!   Int32      length
//!   Byten      value
//! ```
//!
//! [`Tuple::decode`] walks the columns once and keeps the walked bytes as they are. Iterating walks them
//! again by the same step, [`split_column`]; since that one cannot fail any more, a caller has no error to
//! handle, and since the step has no panicking branch, the compiler can inline it into the caller's loop.

use std::fmt;
use std::iter::FusedIterator;

use crate::DecodeError;
use crate::reader::Reader;

/// The columns of one row version, in the order of [`TableSchema::columns`](crate::TableSchema::columns).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// Whole columns, `len` of them and nothing else.
    bytes: &'a [u8],
    len: u16,
}

/// One column of a [`Tuple`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// NULL; in a [`Key`](crate::OldTuple::Key) tuple also every column outside the key.
    Null,
    /// A TOAST value that the update did not touch and the server does not send. Never NULL.
    Unchanged,
    /// The text that the type's output function gives, in the session's encoding.
    Text(&'a [u8]),
    /// The bytes that the type's send function gives; only sent if asked for with the `binary` option.
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Number of columns.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// A row of a table without (published) columns.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of its columns in the message, without their number.
    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its columns from the first to the last.
    #[inline]
    pub fn columns(&self) -> Columns<'a> {
        Columns { bytes: self.bytes, left: self.len }
    }

    /// One column. Walks over those before it: who reads several iterates.
    #[inline]
    pub fn column(&self, index: usize) -> Option<Column<'a>> {
        self.columns().nth(index)
    }

    /// Views columns that were written as [`split_column`] reads them, `len` of them and nothing else.
    #[inline]
    pub(crate) fn of_columns(bytes: &'a [u8], len: u16) -> Tuple<'a> {
        Tuple { bytes, len }
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
        let len = reader.column_count()?;
        let start = reader.rest();
        let mut rest = start;
        for _ in 0..len {
            let Some((_column, tail)) = split_column(rest) else {
                reader.resume(rest);
                return Err(explain(reader));
            };
            rest = tail;
        }
        reader.resume(rest);
        Ok(Tuple { bytes: &start[..start.len() - rest.len()], len })
    }
}

/// The first column of `bytes` and what follows it; `None` if it is cut off or not of protocol 1.
#[inline(always)]
fn split_column(bytes: &[u8]) -> Option<(Column<'_>, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        b't' => split_value(rest).map(|(value, rest)| (Column::Text(value), rest)),
        b'n' => Some((Column::Null, rest)),
        b'u' => Some((Column::Unchanged, rest)),
        b'b' => split_value(rest).map(|(value, rest)| (Column::Binary(value), rest)),
        _ => None,
    }
}

#[inline(always)]
fn split_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)
}

/// Reads the column that [`split_column`] refused field by field, for the sake of the error.
#[cold]
fn explain(reader: &mut Reader<'_>) -> DecodeError {
    let read = |reader: &mut Reader<'_>| {
        let has_value = reader.marker("column kind", "n, u, t or b", |kind| match kind {
            b'n' | b'u' => Some(false),
            b't' | b'b' => Some(true),
            _ => None,
        })?;
        if has_value {
            let length = reader.length("column length")?;
            reader.bytes(length)?;
        }
        Ok(())
    };
    match read(reader) {
        Err(error) => error,
        Ok(()) => unreachable!("the two readings of a column differ"),
    }
}

/// The columns of a [`Tuple`], from the first to the last.
#[derive(Clone)]
pub struct Columns<'a> {
    bytes: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    #[inline]
    fn next(&mut self) -> Option<Column<'a>> {
        let (column, rest) = split_column(self.bytes)?;
        self.bytes = rest;
        self.left = self.left.wrapping_sub(1);
        Some(column)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns<'_> {}
impl FusedIterator for Columns<'_> {}

/// Kinds and lengths only: values belong in no log.
impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.columns()).finish()
    }
}

/// The kind, and the length of the value in place of the value: values belong in no log.
impl fmt::Debug for Column<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Null => f.write_str("Null"),
            Column::Unchanged => f.write_str("Unchanged"),
            Column::Text(value) => write!(f, "Text({} bytes)", value.len()),
            Column::Binary(value) => write!(f, "Binary({} bytes)", value.len()),
        }
    }
}

impl fmt::Debug for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
