//! Comparison of Postgres' text with a literal, as Postgres compares the values.

use std::cmp::Ordering;

/// A literal, ready to be compared with text.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    /// Compared byte by byte.
    Bytes(Vec<u8>),
    /// Compared digit by digit, however many there are.
    Decimal(String),
    /// The column's text is a float4, which Postgres widens.
    Float4(f64),
    Float8(f64),
}

impl Operand {
    /// How the value stands to the literal. None if the text isn't of the column's type, which Postgres never sends.
    pub(super) fn compare(&self, text: &[u8]) -> Option<Ordering> {
        match self {
            Operand::Bytes(bytes) => Some(text.cmp(bytes)),
            Operand::Decimal(literal) => compare_decimals(std::str::from_utf8(text).ok()?, literal),
            Operand::Float4(literal) => {
                let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
                Some(compare_floats(f64::from(value), *literal))
            }
            Operand::Float8(literal) => {
                let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
                Some(compare_floats(value, *literal))
            }
        }
    }
}

/// The nearest double to a literal, as Postgres makes of it beside a float column.
pub(super) fn double(literal: &str) -> f64 {
    literal.parse().expect("digits are a number")
}

/// NaN is the largest value in Postgres; a literal is never one.
fn compare_floats(value: f64, literal: f64) -> Ordering {
    value.partial_cmp(&literal).unwrap_or(Ordering::Greater)
}

fn compare_decimals(text: &str, literal: &str) -> Option<Ordering> {
    match text {
        "NaN" | "Infinity" => return Some(Ordering::Greater),
        "-Infinity" => return Some(Ordering::Less),
        _ => {}
    }
    let (value, literal) = (Decimal::new(text)?, Decimal::new(literal)?);
    Some(match (value.is_negative, literal.is_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => value.compare_size(&literal),
        (true, true) => literal.compare_size(&value),
    })
}

/// The digits of a number without zeros that say nothing.
struct Decimal<'a> {
    is_negative: bool,
    integer: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn new(text: &'a str) -> Option<Decimal<'a>> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if !integer.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let (integer, fraction) = (integer.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = integer.is_empty() && fraction.is_empty();
        Some(Decimal { is_negative: is_negative && !is_zero, integer, fraction })
    }

    fn compare_size(&self, other: &Decimal<'_>) -> Ordering {
        let lengths = self.integer.len().cmp(&other.integer.len());
        lengths.then(self.integer.cmp(other.integer)).then(self.fraction.cmp(other.fraction))
    }
}
