//! `numeric`: decimal text becomes an unscaled integer in two's complement, highest byte first, as short as it can
//! be (Java's `BigInteger.toByteArray`).
//!
//! A numeric has up to 131,072 digits before the point and 16,383 behind it. Up to 18 digits fit a machine word
//! and up to 38 two; longer ones go through limbs of 64 bits, 18 digits at a time, some tens of milliseconds at
//! the very end of the range.

use crate::binary;
use crate::error::Reason;

const MALFORMED: Reason = Reason::Malformed("a decimal number");

/// `numeric(p, s)`: the value times 10^s, exactly.
pub(super) fn write_scaled(text: &[u8], scale: i16, out: &mut Vec<u8>) -> Result<(), Reason> {
    let decimal = Decimal::parse(text)?;
    let shift = i64::from(scale) - decimal.fraction.len() as i64;
    if shift >= 0 {
        // At most 32,767 (an i16's largest) zeros; Postgres itself stops at 1000.
        return decimal.write(shift as usize, out);
    }
    let Some(decimal) = decimal.without_last_digits(shift.unsigned_abs() as usize) else {
        return Err(Reason::TooManyFractionalDigits);
    };
    decimal.write(0, out)
}

/// `numeric`: the scale without trailing zeros, then the unscaled value.
pub(super) fn write_variable(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut decimal = Decimal::parse(text)?;
    while let [digits @ .., b'0'] = decimal.fraction {
        decimal.fraction = digits;
    }
    binary::write_long(decimal.fraction.len() as i64, out);
    decimal.write(0, out)
}

/// `string`: the digits as they are; Debezium's words for what is no number.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = match text {
        b"NaN" => b"NAN",
        b"Infinity" => &b"POSITIVE_INFINITY"[..],
        b"-Infinity" => b"NEGATIVE_INFINITY",
        _ => Decimal::parse(text).map(|_| text)?,
    };
    binary::write_bytes(text, out);
    Ok(())
}

/// `string`: the digits as they are, and Postgres' words for what is no number.
pub(super) fn write_postgres_string(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    match Decimal::parse(text) {
        Ok(_) | Err(Reason::NotFinite) => {}
        Err(reason) => return Err(reason),
    }
    binary::write_bytes(text, out);
    Ok(())
}

/// `-?digits(.digits)?`, all digits checked.
#[derive(Clone, Copy)]
struct Decimal<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a [u8]) -> Result<Decimal<'a>, Reason> {
        let (negative, unsigned) = match text {
            [b'-', unsigned @ ..] => (true, unsigned),
            unsigned => (false, unsigned),
        };
        let (integer, fraction) = match unsigned.iter().position(|&byte| byte == b'.') {
            Some(point) => (&unsigned[..point], &unsigned[point + 1..]),
            None => (unsigned, &[][..]),
        };
        if integer.is_empty() || !integer.iter().chain(fraction).all(u8::is_ascii_digit) {
            return Err(match unsigned {
                b"NaN" | b"Infinity" => Reason::NotFinite,
                _ => MALFORMED,
            });
        }
        Ok(Decimal { negative, integer, fraction })
    }

    /// `None` if one of these digits isn't zero.
    fn without_last_digits(mut self, mut count: usize) -> Option<Decimal<'a>> {
        for part in [&mut self.fraction, &mut self.integer] {
            let dropped = count.min(part.len());
            let (kept, tail) = part.split_at(part.len() - dropped);
            if tail.iter().any(|&digit| digit != b'0') {
                return None;
            }
            *part = kept;
            count -= dropped;
        }
        Some(self)
    }

    /// Writes the digits, followed by this many zeros, as `bytes`.
    #[inline]
    fn write(&self, zeros: usize, out: &mut Vec<u8>) -> Result<(), Reason> {
        let zeros_text = std::iter::repeat_n(&b'0', zeros);
        let digits = self.integer.iter().chain(self.fraction).chain(zeros_text);
        match self.integer.len() + self.fraction.len() + zeros {
            0..=18 => {
                let magnitude = self.small(zeros);
                write_integer(i128::from(if self.negative { -magnitude } else { magnitude }), out);
            }
            19..=38 => {
                let magnitude = digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
                write_integer(if self.negative { -magnitude } else { magnitude }, out);
            }
            _ => write_limbs(limbs(digits.copied()), self.negative, out),
        }
        Ok(())
    }

    /// The value of at most 18 digits.
    #[inline]
    fn small(&self, zeros: usize) -> i64 {
        let mut value: i64 = 0;
        for part in [self.integer, self.fraction] {
            for digit in part {
                value = value.wrapping_mul(10).wrapping_add(i64::from(digit.wrapping_sub(b'0')));
            }
        }
        (0..zeros).for_each(|_| value = value.wrapping_mul(10));
        value
    }
}

#[inline]
fn write_integer(value: i128, out: &mut Vec<u8>) {
    // A byte is superfluous if it only repeats the sign bit of the next one.
    let sign_bits = if value < 0 { value.leading_ones() } else { value.leading_zeros() };
    let superfluous = (sign_bits - 1) as usize / 8;
    binary::write_bytes(&value.to_be_bytes()[superfluous..], out);
}

/// Digits that one step takes; 10^18 fits a limb.
const STEP_DIGITS: usize = 18;

/// The magnitude in limbs, the lowest first.
fn limbs(digits: impl Iterator<Item = u8>) -> Vec<u64> {
    let mut limbs: Vec<u64> = Vec::new();
    let mut digits = digits.peekable();
    while digits.peek().is_some() {
        let (mut chunk, mut power) = (0_u64, 1_u64);
        for digit in digits.by_ref().take(STEP_DIGITS) {
            chunk = chunk * 10 + u64::from(digit - b'0');
            power *= 10;
        }
        let mut carry = u128::from(chunk);
        for limb in &mut limbs {
            carry = carry.wrapping_add(u128::from(*limb).wrapping_mul(u128::from(power)));
            *limb = carry as u64;
            carry >>= 64;
        }
        if carry > 0 {
            limbs.push(carry as u64);
        }
    }
    limbs
}

fn write_limbs(mut limbs: Vec<u64>, negative: bool, out: &mut Vec<u8>) {
    limbs.push(0); // room for the sign
    if negative {
        let mut carry = true;
        for limb in &mut limbs {
            (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
        }
    }
    let bytes: Vec<u8> = limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
    let repeats_sign = |pair: &[u8]| match pair[0] {
        0x00 => pair[1] < 0x80,
        0xff => pair[1] >= 0x80,
        _ => false,
    };
    let superfluous = bytes.windows(2).take_while(|pair| repeats_sign(pair)).count();
    binary::write_bytes(&bytes[superfluous..], out);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn scaled(text: &str, scale: i16) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        write_scaled(text.as_bytes(), scale, &mut out).map(|()| out)
    }

    fn variable(text: &str) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        write_variable(text.as_bytes(), &mut out).map(|()| out)
    }

    #[test]
    fn bytes_are_as_few_as_java_writes() {
        for (value, bytes) in [
            ("0", vec![0x00]),
            ("-0", vec![0x00]),
            ("127", vec![0x7f]),
            ("128", vec![0x00, 0x80]),
            ("-128", vec![0x80]),
            ("-129", vec![0xff, 0x7f]),
            ("-1", vec![0xff]),
        ] {
            let mut expected = vec![bytes.len() as u8 * 2];
            expected.extend(&bytes);
            assert_eq!(scaled(value, 0), Ok(expected.clone()), "{value}");
            // The same number through the limbs: leading zeros make it long.
            let long = value.replacen(
                |c: char| c.is_ascii_digit(),
                &format!("{:0>60}", &value[value.len() - 1..]),
                0,
            );
            assert_eq!(scaled(&long, 0), Ok(expected), "{value}");
        }
    }

    #[test]
    fn all_paths_agree() {
        for digits in 1..=60 {
            for sign in ["", "-"] {
                let number: String = "9876543210".chars().cycle().take(digits).collect();
                let short = scaled(&format!("{sign}{number}"), 0).unwrap();
                let padded = scaled(&format!("{sign}{number:0>100}"), 0).unwrap();
                assert_eq!(short, padded, "{sign}{number}");
            }
        }
    }

    #[test]
    fn the_scale_is_the_columns() {
        assert_eq!(scaled("9.99", 2), Ok(vec![4, 0x03, 0xe7]));
        assert_eq!(scaled("9.9", 2), Ok(vec![4, 0x03, 0xde]));
        assert_eq!(scaled("12300", -2), Ok(vec![2, 123]));
        assert_eq!(scaled("0", -2), Ok(vec![2, 0]));
        assert_eq!(scaled("0.00", 0), Ok(vec![2, 0]));
        assert_eq!(scaled("12301", -2), Err(Reason::TooManyFractionalDigits));
        assert_eq!(scaled("9.999", 2), Err(Reason::TooManyFractionalDigits));
    }

    #[test]
    fn the_scale_is_the_values_own() {
        assert_eq!(variable("1.0"), Ok(vec![0, 2, 1]));
        assert_eq!(variable("100"), Ok(vec![0, 2, 100]));
        assert_eq!(variable("0.00"), Ok(vec![0, 2, 0]));
        assert_eq!(variable("-0.000000000000000000001"), Ok(vec![42, 2, 0xff]));
    }

    #[test]
    fn what_is_no_exact_decimal() {
        for text in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(variable(text), Err(Reason::NotFinite), "{text}");
            assert_eq!(scaled(text, 2), Err(Reason::NotFinite), "{text}");
        }
        for text in ["", "-", ".", ".5", "1e5", "1.2.3", "--1", "+1", " 1", "1\0", "nan"] {
            assert_eq!(variable(text), Err(MALFORMED), "{text}");
        }
        assert!(variable("5.").is_ok());
    }

    #[test]
    fn the_longest_numeric_takes_well_under_a_second() {
        let longest = format!("-{}.{}", "9".repeat(131_072), "9".repeat(16_383));
        let start = Instant::now();
        let bytes = variable(&longest).unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(bytes.len(), 3 + 3 + 61_230);
    }
}
