//! Booleans, integers and floats.

use crate::binary;
use crate::error::Reason;

/// `boolean`: Postgres writes `t` or `f`.
pub(super) fn write_bool(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    match text {
        b"t" => out.push(1),
        b"f" => out.push(0),
        // How a constant default reads.
        b"true" => out.push(1),
        b"false" => out.push(0),
        _ => return Err(Reason::Malformed("a boolean")),
    }
    Ok(())
}

/// `int` within 16 bits.
pub(super) fn write_int2(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let value = i16::try_from(integer(text)?).map_err(|_| Reason::OutOfRange("smallint"))?;
    binary::write_long(value.into(), out);
    Ok(())
}

/// `int`.
pub(super) fn write_int4(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let value = i32::try_from(integer(text)?).map_err(|_| Reason::OutOfRange("integer"))?;
    binary::write_long(value.into(), out);
    Ok(())
}

/// `long`.
pub(super) fn write_int8(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    binary::write_long(integer(text)?, out);
    Ok(())
}

/// `float`: four bytes, the lowest first; NaN and the infinities are values like any other.
pub(super) fn write_float4(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let value: f32 = float_text(text)?.parse().map_err(|_| MALFORMED_FLOAT)?;
    out.extend_from_slice(&value.to_le_bytes());
    Ok(())
}

/// `double`: eight bytes, the lowest first.
pub(super) fn write_float8(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let value: f64 = float_text(text)?.parse().map_err(|_| MALFORMED_FLOAT)?;
    out.extend_from_slice(&value.to_le_bytes());
    Ok(())
}

const MALFORMED_FLOAT: Reason = Reason::Malformed("a floating-point number");

/// The text as Rust's parser wants it. It takes what Postgres writes: `1e+20`, `NaN`, `Infinity`, `-0`.
fn float_text(text: &[u8]) -> Result<&str, Reason> {
    std::str::from_utf8(text).map_err(|_| MALFORMED_FLOAT)
}

/// Eighteen digits can't overflow 63 bits.
const SAFE_DIGITS: usize = 18;

#[inline]
fn integer(text: &[u8]) -> Result<i64, Reason> {
    const MALFORMED: Reason = Reason::Malformed("an integer");
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(MALFORMED);
    }
    let (safe, rest) = digits.split_at(digits.len().min(SAFE_DIGITS));
    let mut value: i64 = 0;
    for &byte in safe {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(MALFORMED);
        }
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
    }
    if negative {
        value = value.wrapping_neg();
    }
    for &byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(MALFORMED);
        }
        // Towards the sign, so that -2^63 needs no case of its own.
        let digit = if negative { -i64::from(digit) } else { i64::from(digit) };
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(digit))
            .ok_or(Reason::OutOfRange("bigint"))?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_at_their_limits() {
        for value in [0, 1, -1, 42, i64::MAX, i64::MIN, 999_999_999_999_999_999, 1_000_000_000_000_000_000] {
            assert_eq!(integer(value.to_string().as_bytes()), Ok(value));
        }
        for wrong in ["9223372036854775808", "-9223372036854775809", "99999999999999999999999999"] {
            assert_eq!(integer(wrong.as_bytes()), Err(Reason::OutOfRange("bigint")), "{wrong}");
        }
        for wrong in ["", "-", "+1", "1 ", "0x1", "1.0", "999999999999999999x"] {
            assert!(integer(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
