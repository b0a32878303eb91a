//! Decimals: an unscaled integer in two's complement, the highest byte first, and a scale, as the digits people read.

use super::cursor::ReadError;

/// Postgres' numeric has at most 131,072 digits before and 16,383 behind the point; so many bytes hold more.
const BYTES_MAX: usize = 64 << 10;
/// Beyond that the text would be zeros only.
const SCALE_MAX: i64 = 200_000;

/// Appends the number.
pub(super) fn write_decimal(bytes: &[u8], scale: i64, out: &mut Vec<u8>) -> Result<(), ReadError> {
    if bytes.len() > BYTES_MAX || scale.abs() > SCALE_MAX {
        return Err(ReadError::new("has a decimal that is larger than any of Postgres'"));
    }
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let digits = if bytes.len() <= 16 { small(bytes, negative) } else { large(bytes, negative) };
    if negative {
        out.push(b'-');
    }
    let digits = digits.as_bytes();
    if scale <= 0 {
        out.extend_from_slice(digits);
        if digits != b"0" {
            out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs() as usize));
        }
        return Ok(());
    }
    let scale = scale as usize;
    let whole = digits.len().saturating_sub(scale);
    out.extend_from_slice(if whole == 0 { b"0" } else { &digits[..whole] });
    out.push(b'.');
    out.extend(std::iter::repeat_n(b'0', scale.saturating_sub(digits.len())));
    out.extend_from_slice(&digits[whole..]);
    Ok(())
}

fn small(bytes: &[u8], negative: bool) -> String {
    let start = if negative { u128::MAX } else { 0 };
    let value = bytes.iter().fold(start, |value, byte| value << 8 | u128::from(*byte));
    if negative { (value as i128).unsigned_abs().to_string() } else { value.to_string() }
}

/// Divides by 10^9 again and again.
fn large(bytes: &[u8], negative: bool) -> String {
    const BASE: u64 = 1_000_000_000;
    let mut magnitude: Vec<u8> = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (sum, over);
        }
    }
    // 32 bits at a time, the highest first.
    let lead = magnitude.len().next_multiple_of(4) - magnitude.len();
    let padded: Vec<u8> = std::iter::repeat_n(0, lead).chain(magnitude).collect();
    let mut limbs: Vec<u32> = padded
        .chunks_exact(4)
        .map(|chunk| chunk.iter().fold(0, |limb, byte| limb << 8 | u32::from(*byte)))
        .collect();
    let mut parts = Vec::new();
    while !limbs.is_empty() {
        let mut rest = 0u64;
        for limb in &mut limbs {
            let value = rest << 32 | u64::from(*limb);
            *limb = (value / BASE) as u32;
            rest = value % BASE;
        }
        parts.push(rest);
        let zeros = limbs.iter().take_while(|limb| **limb == 0).count();
        limbs.drain(..zeros);
    }
    let mut text = parts.pop().unwrap_or(0).to_string();
    for part in parts.iter().rev() {
        text.push_str(&format!("{part:09}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_scales() {
        for (bytes, scale, expected) in [
            (&[][..], 0, "0"),
            (&[0], 2, "0.00"),
            (&[1], 2, "0.01"),
            (&[0xFF], 2, "-0.01"),
            (&[0x30, 0x39], 2, "123.45"),
            (&[0xCF, 0xC7], 2, "-123.45"),
            (&[0x30, 0x39], 0, "12345"),
            (&[0x30, 0x39], -3, "12345000"),
            (&[0], -3, "0"),
            (&[0x80], 0, "-128"),
            (
                &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                0,
                "-170141183460469231731687303715884105728",
            ),
            (
                &[0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                1,
                "34028236692093846346337460743176821145.6",
            ),
            (
                &[0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                0,
                "-340282366920938463463374607431768211456",
            ),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], 0, "7"),
        ] {
            let mut out = Vec::new();
            write_decimal(bytes, scale, &mut out).expect("in range");
            assert_eq!(String::from_utf8_lossy(&out), expected, "{bytes:?} {scale}");
        }
    }
}
