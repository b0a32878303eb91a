//! Avro's binary encoding, read with every length checked (Avro specification, "Binary Encoding").

use std::fmt;

use crate::plan::SchemaId;

/// Why bytes can't be read. Never quotes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// The field, if one had begun.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: &'static str,
}

impl ReadError {
    pub(super) fn new(reason: &'static str) -> ReadError {
        ReadError { column: None, reason }
    }

    pub(super) fn in_column(mut self, name: &str) -> ReadError {
        self.column.get_or_insert_with(|| name.to_owned());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "field {column}: {}", self.reason),
            None => f.write_str(self.reason),
        }
    }
}

impl std::error::Error for ReadError {}

/// The registry's wire format: a zero byte, the schema's id (4 bytes, the highest first), Avro.
///
/// # Errors
/// Fewer than five bytes, or another first byte.
pub fn confluent_parts(bytes: &[u8]) -> Result<(SchemaId, &[u8]), ReadError> {
    match bytes {
        [0, a, b, c, d, body @ ..] => Ok((SchemaId(u32::from_be_bytes([*a, *b, *c, *d])), body)),
        _ => Err(ReadError::new(
            "does not begin with a zero byte and a schema id: not written through a registry",
        )),
    }
}

/// What is left of a datum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

const SHORT: ReadError = ReadError { column: None, reason: "ends before its schema does" };

impl<'a> Cursor<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Cursor<'a> {
        Cursor { rest }
    }

    pub(super) fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A zigzag varint of up to 64 bits.
    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, ReadError> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << (index * 7);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(if self.rest.len() < 10 { SHORT } else { ReadError::new("has a number of more than 64 bits") })
    }

    pub(super) fn boolean(&mut self) -> Result<bool, ReadError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ReadError::new("has a boolean that is neither 0 nor 1")),
        }
    }

    pub(super) fn float(&mut self) -> Result<f32, ReadError> {
        let bytes = self.take(4)?.try_into().map_err(|_| SHORT)?;
        Ok(f32::from_le_bytes(bytes))
    }

    pub(super) fn double(&mut self) -> Result<f64, ReadError> {
        let bytes = self.take(8)?.try_into().map_err(|_| SHORT)?;
        Ok(f64::from_le_bytes(bytes))
    }

    /// `bytes` or `string`: a length and so many bytes.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], ReadError> {
        let length = usize::try_from(self.long()?).map_err(|_| ReadError::new("has a negative length"))?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, ReadError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ReadError::new("has a string that is not UTF-8"))
    }

    /// The next block of an array or a map: how many items follow, 0 at the end.
    pub(super) fn block(&mut self) -> Result<u64, ReadError> {
        let count = self.long()?;
        if count < 0 {
            // A negative count is followed by the block's size in bytes, for readers that skip it.
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_limits() {
        for (bytes, expected) in [
            (&[0u8][..], Ok(0)),
            (&[1], Ok(-1)),
            (&[2], Ok(1)),
            (&[0x80, 0x01], Ok(64)),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], Ok(i64::MIN)),
            (&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], Ok(i64::MAX)),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], Err(())),
            (&[0x80], Err(())),
            (&[], Err(())),
        ] {
            assert_eq!(Cursor::new(bytes).long().map_err(|_| ()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_registrys_header() {
        assert_eq!(
            confluent_parts(&[0, 0, 0, 1, 2, 7]).map(|(id, body)| (id.0, body)),
            Ok((258, &[7u8][..]))
        );
        assert!(confluent_parts(&[0, 0, 0, 1]).is_err());
        assert!(confluent_parts(b"{\"a\":1}").is_err());
    }
}
