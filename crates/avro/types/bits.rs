//! `bit` and `bit varying`: `0` and `1`, the highest bit first.

use crate::binary;
use crate::error::Reason;

const MALFORMED: Reason = Reason::Malformed("a bit string");

/// `boolean`, for a length of one. An empty `bit varying(1)` is neither.
pub(super) fn write_bit(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    match text {
        b"1" => out.push(1),
        b"0" => out.push(0),
        b"" => return Err(Reason::OutOfRange("a boolean")),
        _ => return Err(MALFORMED),
    }
    Ok(())
}

/// `bytes`, the lowest first and none behind the highest set bit, as Java's `BitSet` writes them.
pub(super) fn write_bits(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    check(text)?;
    let significant = match text.iter().position(|&digit| digit == b'1') {
        Some(highest) => &text[highest..],
        None => &[],
    };
    binary::write_long(significant.len().div_ceil(8) as i64, out);
    out.extend(
        significant.rchunks(8).map(|digits| digits.iter().fold(0, |byte, digit| byte << 1 | digit & 1)),
    );
    Ok(())
}

/// `string`: the digits. Nothing is lost, the length of a `bit varying` neither.
pub(super) fn write_digits(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    check(text)?;
    binary::write_bytes(text, out);
    Ok(())
}

fn check(text: &[u8]) -> Result<(), Reason> {
    if text.iter().all(|digit| matches!(digit, b'0' | b'1')) { Ok(()) } else { Err(MALFORMED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_as_debezium_writes_them() {
        for (text, expected) in [
            ("", &[][..]),
            ("00", &[]),
            ("11", &[3]),
            ("1000000", &[0x40]),
            ("000000110000001000000001", &[1, 2, 3]),
            ("111011010001000110000001000000001", &[1, 2, 0x23, 0xda, 1]),
            (
                "1000000000000000000000000000000000000000000000000000000000000000",
                &[0, 0, 0, 0, 0, 0, 0, 0x80],
            ),
        ] {
            let mut out = Vec::new();
            write_bits(text.as_bytes(), &mut out).unwrap();
            assert_eq!(out[0] as usize, expected.len() * 2, "{text}");
            assert_eq!(&out[1..], expected, "{text}");
        }
        assert_eq!(write_bits(b"102", &mut Vec::new()), Err(MALFORMED));
        assert_eq!(write_bit(b"", &mut Vec::new()), Err(Reason::OutOfRange("a boolean")));
    }
}
