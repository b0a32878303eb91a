//! `interval`, from the text of `IntervalStyle = postgres`, which the session pins:
//!
//! ```text
//! interval = [ years ] [ mons ] [ days ] [ time ]      in this order, blanks between, at least one
//! years    = number (" year" | " years")               number: an optional sign and digits
//! time     = [ sign ] hours ":" mm ":" ss [ "." 1 to 6 digits ]
//! ```
//!
//! and `infinity` and `-infinity` since Postgres 17.

use std::io::Write;

use crate::binary;
use crate::error::Reason;
use crate::types::calendar;

const MALFORMED: Reason = Reason::Malformed("an interval");
/// 365.25 days in twelve months.
const MICROS_PER_MONTH: i128 = 2_629_800_000_000;
const MICROS_PER_DAY: i128 = 86_400_000_000;

/// `long`: microseconds, with months of 30.4375 days.
pub(super) fn write_micros(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    if is_infinite(text) {
        return Err(Reason::Infinite);
    }
    let interval = Interval::parse(text)?;
    let months = i128::from(interval.years) * 12 + i128::from(interval.months);
    let micros = months * MICROS_PER_MONTH
        + i128::from(interval.days) * MICROS_PER_DAY
        + i128::from(interval.micros());
    let micros = i64::try_from(micros).map_err(|_| Reason::OutOfRange("microseconds in 64 bits"))?;
    binary::write_long(micros, out);
    Ok(())
}

/// `string`: `P1Y2M3DT4H5M6.78S`; every part is there and has its own sign.
pub(super) fn write_iso(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    if is_infinite(text) {
        binary::write_bytes(text, out);
        return Ok(());
    }
    let Interval { years, months, days, negative, hours, minutes, seconds, micros } = Interval::parse(text)?;
    // Nothing that the parser takes needs more: seven numbers of at most 20 characters.
    let mut iso = [0; 160];
    let mut rest = &mut iso[..];
    let sign = |value: i64| if negative && value != 0 { "-" } else { "" };
    let second_sign = if negative && (seconds, micros) != (0, 0) { "-" } else { "" };
    let mut written = write!(
        rest,
        "P{years}Y{months}M{days}DT{}{hours}H{}{minutes}M{second_sign}{seconds}",
        sign(hours),
        sign(minutes)
    );
    if micros != 0 {
        let (mut fraction, mut width) = (micros, 6);
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        written = written.and_then(|()| write!(rest, ".{fraction:0width$}"));
    }
    written.and_then(|()| write!(rest, "S")).map_err(|_| MALFORMED)?;
    let left = rest.len();
    binary::write_bytes(&iso[..iso.len() - left], out);
    Ok(())
}

fn is_infinite(text: &[u8]) -> bool {
    matches!(text, b"infinity" | b"-infinity")
}

/// The parts as they are written; hours, minutes, seconds and microseconds share a sign.
struct Interval {
    years: i64,
    months: i64,
    days: i64,
    negative: bool,
    hours: i64,
    minutes: i64,
    seconds: i64,
    micros: i64,
}

impl Interval {
    fn parse(text: &[u8]) -> Result<Interval, Reason> {
        let mut interval = Interval {
            years: 0,
            months: 0,
            days: 0,
            negative: false,
            hours: 0,
            minutes: 0,
            seconds: 0,
            micros: 0,
        };
        let mut words = text.split(|&byte| byte == b' ');
        let mut next_part = 0;
        while let Some(word) = words.next() {
            let part = if word.contains(&b':') {
                interval.parse_time(word).ok_or(MALFORMED)?;
                3
            } else {
                let value = number(word).ok_or(MALFORMED)?;
                match words.next() {
                    Some(b"year" | b"years") => {
                        interval.years = value;
                        0
                    }
                    Some(b"mon" | b"mons") => {
                        interval.months = value;
                        1
                    }
                    Some(b"day" | b"days") => {
                        interval.days = value;
                        2
                    }
                    _ => return Err(MALFORMED),
                }
            };
            if part < next_part {
                return Err(MALFORMED);
            }
            next_part = part + 1;
        }
        Ok(interval)
    }

    fn parse_time(&mut self, text: &[u8]) -> Option<()> {
        let unsigned = match text {
            [b'-', rest @ ..] => {
                self.negative = true;
                rest
            }
            [b'+', rest @ ..] => rest,
            rest => rest,
        };
        let colon = unsigned.iter().position(|&byte| byte == b':')?;
        let hours = &unsigned[..colon];
        let [b':', m1, m2, b':', s1, s2, fraction @ ..] = &unsigned[colon..] else { return None };
        self.hours = digits(hours)?;
        self.minutes = calendar::two_digits(*m1, *m2).filter(|minutes| *minutes < 60)?;
        self.seconds = calendar::two_digits(*s1, *s2).filter(|seconds| *seconds < 60)?;
        self.micros = match fraction {
            [] => 0,
            [b'.', fraction @ ..] => match calendar::micros(fraction)? {
                (micros, []) => micros,
                _ => return None,
            },
            _ => return None,
        };
        Some(())
    }

    fn micros(&self) -> i64 {
        // Hours have at most ten digits.
        let micros = (self.hours * 3600 + self.minutes * 60 + self.seconds) * 1_000_000 + self.micros;
        if self.negative { -micros } else { micros }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', rest @ ..] => digits(rest).map(|value| -value),
        [b'+', rest @ ..] => digits(rest),
        rest => digits(rest),
    }
}

/// Up to ten digits; Postgres has no more in any part.
fn digits(text: &[u8]) -> Option<i64> {
    let fits = (1..=10).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    fits.then(|| text.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        write_micros(text.as_bytes(), &mut out).map(|()| out)
    }

    fn iso(text: &str) -> Result<String, Reason> {
        let mut out = Vec::new();
        write_iso(text.as_bytes(), &mut out).map(|()| String::from_utf8(out[1..].to_vec()).unwrap())
    }

    fn long(value: i64) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        binary::write_long(value, &mut out);
        Ok(out)
    }

    #[test]
    fn intervals_as_debezium_wrote_them() {
        for (text, expected_micros, expected_iso) in [
            ("1 year 2 mons 3 days 04:05:06.789012", 37_091_106_789_012, "P1Y2M3DT4H5M6.789012S"),
            ("-1 years -2 mons +3 days -04:05:06.5", -36_572_706_500_000, "P-1Y-2M3DT-4H-5M-6.5S"),
            ("178000 years", 5_617_252_800_000_000_000, "P178000Y0M0DT0H0M0S"),
            ("1 year 2 mons 3 days 04:05:06.78", 37_091_106_780_000, "P1Y2M3DT4H5M6.78S"),
            ("00:00:00", 0, "P0Y0M0DT0H0M0S"),
            ("-00:00:00.000001", -1, "P0Y0M0DT0H0M-0.000001S"),
            ("1 day -00:00:01", 86_399_000_000, "P0Y0M1DT0H0M-1S"),
            ("100:00:00", 360_000_000_000, "P0Y0M0DT100H0M0S"),
        ] {
            assert_eq!(micros(text), long(expected_micros), "{text}");
            assert_eq!(iso(text).as_deref(), Ok(expected_iso), "{text}");
        }
    }

    #[test]
    fn what_has_no_number() {
        assert_eq!(micros("infinity"), Err(Reason::Infinite));
        assert_eq!(iso("-infinity").as_deref(), Ok("-infinity"));
        assert!(matches!(micros("178000000 years"), Err(Reason::OutOfRange(_))));
        assert_eq!(iso("178000000 years").as_deref(), Ok("P178000000Y0M0DT0H0M0S"));
        for wrong in [
            "",
            "1",
            "1 month",
            "1 day 1 year",
            "1:2:3",
            "00:60:00",
            "00:00:00.",
            "1 day ",
            "00:00:00 00:00:00",
        ] {
            assert_eq!(micros(wrong), Err(MALFORMED), "{wrong}");
        }
        let widest = "-2147483648 years -2147483648 mons -2147483648 days -2147483648:59:59.999999";
        assert!(iso(widest).is_ok());
        assert!(micros(widest).is_err());
    }
}
