//! `money`, from the text of `lc_monetary = C`, which the session pins: `$1,234.56`, `-$0.01`. Whatever a database's
//! own locale makes of it, the stored number has two digits behind the point there.

use crate::binary;
use crate::error::Reason;
use crate::types::{decimal, number};

const MALFORMED: Reason = Reason::Malformed("an amount of money in the locale C");

/// `bytes`: the unscaled value at this scale. Fewer than two digits round, halves away from zero.
pub(super) fn write_scaled(text: &[u8], scale: i16, out: &mut Vec<u8>) -> Result<(), Reason> {
    let amount = Amount::parse(text)?;
    if scale >= 2 {
        return decimal::write_scaled(amount.text(), scale, out);
    }
    let unit = if scale == 1 { 10 } else { 100 };
    let cents = amount.cents()?;
    let rounded = (cents.abs() + unit / 2) / unit * cents.signum();
    decimal::write_scaled(rounded.to_string().as_bytes(), 0, out)
}

/// `double`.
pub(super) fn write_double(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    number::write_float8(Amount::parse(text)?.text(), out)
}

/// `string`: `-1234.56`.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    binary::write_bytes(Amount::parse(text)?.text(), out);
    Ok(())
}

/// `-92233720368547758.08` has 21 characters; a default can be a plain number of the same range.
const LENGTH_MAX: usize = 24;

/// The amount without its symbol and commas.
struct Amount {
    bytes: [u8; LENGTH_MAX],
    length: usize,
}

impl Amount {
    fn parse(text: &[u8]) -> Result<Amount, Reason> {
        let (sign, rest) = match text {
            [b'-', rest @ ..] => (&b"-"[..], rest),
            rest => (&b""[..], rest),
        };
        let digits = rest.strip_prefix(b"$").unwrap_or(rest);
        let [integer @ .., b'.', tenths, hundredths] = digits else { return Err(MALFORMED) };
        let behind = [b'.', *tenths, *hundredths];
        let mut amount = Amount { bytes: [0; LENGTH_MAX], length: 0 };
        let mut has_digits = false;
        for &byte in sign.iter().chain(integer).chain(&behind) {
            match byte {
                b',' => continue,
                b'0'..=b'9' => has_digits = true,
                b'.' if has_digits => {}
                b'-' if amount.length == 0 && !sign.is_empty() => {}
                _ => return Err(MALFORMED),
            }
            *amount.bytes.get_mut(amount.length).ok_or(MALFORMED)? = byte;
            amount.length += 1;
        }
        // A point before the last one, or a sign inside.
        let points = amount.text().iter().filter(|&&byte| byte == b'.').count();
        if points == 1 && tenths.is_ascii_digit() && hundredths.is_ascii_digit() {
            Ok(amount)
        } else {
            Err(MALFORMED)
        }
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn cents(&self) -> Result<i128, Reason> {
        let negative = self.bytes[0] == b'-';
        let digits = self.text().iter().filter(|byte| byte.is_ascii_digit());
        // At most 24 digits.
        let cents = digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        Ok(if negative { -cents } else { cents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(text: &str, scale: i16) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        write_scaled(text.as_bytes(), scale, &mut out).map(|()| out)
    }

    fn string(text: &str) -> Result<String, Reason> {
        let mut out = Vec::new();
        write_string(text.as_bytes(), &mut out).map(|()| String::from_utf8(out[1..].to_vec()).unwrap())
    }

    #[test]
    fn amounts_at_any_scale() {
        assert_eq!(scaled("$1,234.56", 2), Ok(vec![6, 0x01, 0xe2, 0x40]));
        assert_eq!(scaled("-$0.01", 2), Ok(vec![2, 0xff]));
        assert_eq!(scaled("-$92,233,720,368,547,758.08", 2), Ok(vec![16, 0x80, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(scaled("$0.05", 1), Ok(vec![2, 1]), "a half rounds up");
        assert_eq!(scaled("-$0.05", 1), Ok(vec![2, 0xff]), "away from zero");
        assert_eq!(scaled("$123.46", 1), Ok(vec![4, 0x04, 0xd3]));
        assert_eq!(scaled("$0.49", 0), Ok(vec![2, 0]));
        assert_eq!(scaled("$1.00", 4), Ok(vec![4, 0x27, 0x10]));
    }

    #[test]
    fn text_is_plain() {
        assert_eq!(string("-$1,234.56").as_deref(), Ok("-1234.56"));
        assert_eq!(string("$0.00").as_deref(), Ok("0.00"));
        for wrong in
            ["", "$", "$.00", "1234,56", "$1.2", "$1.2.34", "$--1.00", "$1-2.00", "$1.x0", "1.234,56 €"]
        {
            assert_eq!(string(wrong), Err(MALFORMED), "{wrong}");
        }
        assert_eq!(string(&format!("${}.00", "9".repeat(40))), Err(MALFORMED));
    }
}
