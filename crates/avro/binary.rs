//! The few Avro encodings that everything is made of (Avro specification, "Binary Encoding").

use crate::plan::SchemaId;

/// Longest variable-length number: 64 bits in groups of seven.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// The registry's wire format: a zero byte, then the schema id, big-endian.
#[inline]
pub fn write_header(id: SchemaId, out: &mut Vec<u8>) {
    let [a, b, c, d] = id.0.to_be_bytes();
    out.extend_from_slice(&[0, a, b, c, d]);
}

/// An `int` or a `long`: zigzag, then seven bits per byte, the lowest first.
#[inline]
pub(crate) fn write_long(value: i64, out: &mut Vec<u8>) {
    if (-64..64).contains(&value) {
        out.push(zigzag(value) as u8);
        return;
    }
    let mut bytes = [0; VARINT_BYTES_MAX];
    let end = put_long(value, &mut bytes, 0);
    out.extend_from_slice(&bytes[..end]);
}

/// The same into a buffer that has [`VARINT_BYTES_MAX`] bytes left at `at`; returns where the number ends.
#[inline]
pub(crate) fn put_long(value: i64, buffer: &mut [u8], mut at: usize) -> usize {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        buffer[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    buffer[at] = rest as u8;
    at + 1
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// A `string` or `bytes`: the length, then the bytes.
#[inline]
pub(crate) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Reads a number back; returns it with the bytes it took.
pub(crate) fn read_long(bytes: &[u8]) -> (i64, usize) {
    let length = bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let groups = bytes.iter().take(length).rev();
    let zigzag = groups.fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    ((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64), length)
}
