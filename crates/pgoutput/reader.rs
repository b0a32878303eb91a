//! A cursor over one message: every read is checked, and a read that fails knows where it began.
//!
//! In: the bytes of one message. Out: integers in network byte order, names, slices.
//! Invariant: `rest` is a suffix of `body`, so an offset is the difference of their lengths.

use crate::{DecodeError, Lsn, PgTimestamp, Reason};

pub(crate) struct Reader<'a> {
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Reader<'a> {
        Reader { body, rest: body }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Goes on behind a part that the caller has read from [`Reader::rest`]; `rest` is what it left over.
    pub(crate) fn resume(&mut self, rest: &'a [u8]) {
        debug_assert!(rest.len() <= self.rest.len());
        self.rest = rest;
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn timestamp(&mut self) -> Result<PgTimestamp, DecodeError> {
        self.array().map(|bytes| PgTimestamp(i64::from_be_bytes(bytes)))
    }

    /// `Int16`, a number of columns.
    pub(crate) fn column_count(&mut self) -> Result<u16, DecodeError> {
        let start = self.rest;
        let count = i16::from_be_bytes(self.array()?);
        u16::try_from(count).map_err(|_| {
            self.error_at(start, Reason::Negative { field: "number of columns", value: count.into() })
        })
    }

    /// `Int32`, a length or count called `field`.
    pub(crate) fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let start = self.rest;
        let value = self.i32()?;
        usize::try_from(value).map_err(|_| self.error_at(start, Reason::Negative { field, value }))
    }

    pub(crate) fn bytes(&mut self, needed: usize) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(needed) else {
            return Err(self.error(Reason::Short { needed, left: self.rest.len() }));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// `String`: UTF-8 closed by a zero byte.
    pub(crate) fn name(&mut self) -> Result<&'a str, DecodeError> {
        let end = self.rest.iter().position(|byte| *byte == 0);
        let Some((name, [_zero, rest @ ..])) = end.and_then(|end| self.rest.split_at_checked(end)) else {
            return Err(self.error(Reason::UnterminatedName));
        };
        let name = str::from_utf8(name).map_err(|_| self.error(Reason::NameNotUtf8))?;
        self.rest = rest;
        Ok(name)
    }

    /// `String`, the name of a schema: the server sends `pg_catalog` as an empty one.
    pub(crate) fn namespace(&mut self) -> Result<&'a str, DecodeError> {
        self.name().map(|name| if name.is_empty() { "pg_catalog" } else { name })
    }

    /// One byte that `read` must know; otherwise the error says that `field` is not `expected`.
    pub(crate) fn marker<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(u8) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let start = self.rest;
        let byte = self.u8()?;
        read(byte).ok_or_else(|| self.error_at(start, Reason::Undefined { field, expected }))
    }

    /// The message must end here.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(self.error(Reason::Trailing { bytes })),
        }
    }

    #[cold]
    pub(crate) fn error(&self, reason: Reason) -> DecodeError {
        self.error_at(self.rest, reason)
    }

    /// The error of a field that starts where `start`, an earlier [`Reader::rest`], does.
    #[cold]
    pub(crate) fn error_at(&self, start: &[u8], reason: Reason) -> DecodeError {
        let tag = self.body.first().copied().unwrap_or(0);
        DecodeError { tag, offset: self.body.len().saturating_sub(start.len()), reason }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.error(Reason::Short { needed: N, left: self.rest.len() }));
        };
        self.rest = rest;
        Ok(*bytes)
    }
}
