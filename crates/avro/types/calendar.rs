//! Dates and times, from the text of `DateStyle = ISO`:
//!
//! ```text
//! date        = year "-" month "-" day [ " BC" ]                       year: at least four digits
//! time        = hour ":" minute ":" second [ "." 1 to 6 digits ]       24:00:00 is the end of a day
//! timestamp   = year "-" month "-" day " " time [ " BC" ]
//! timestamptz = year "-" month "-" day " " time offset [ " BC" ]       offset: (+|-) hh [ ":" mm [ ":" ss ] ]
//! ```
//!
//! and `infinity` and `-infinity` for all but time. Everything is proleptic Gregorian, as in Postgres and Java.
//! 1 BC is the year 0. All arithmetic rounds nothing: a fraction that the Avro type can't hold is refused.

use crate::binary;
use crate::error::Reason;

/// What Debezium writes for a date of `infinity`: 5877611-06-21, beyond the last date of Postgres.
pub(super) const DATE_INFINITY: i64 = 2_146_033_979;
/// And for `-infinity`: -5877611-06-22, before the first one.
pub(super) const DATE_MINUS_INFINITY: i64 = -2_147_472_691;
/// What Debezium writes for a timestamp of `infinity`.
pub(super) const TIMESTAMP_INFINITY: i64 = i64::MAX;
/// And for `-infinity`.
pub(super) const TIMESTAMP_MINUS_INFINITY: i64 = i64::MIN;

pub(super) const SECONDS_PER_DAY: i64 = 86_400;

/// `int`: days since 1970-01-01.
pub(super) fn write_date(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let days = match text {
        b"infinity" => DATE_INFINITY,
        b"-infinity" => DATE_MINUS_INFINITY,
        _ => date(text)?.days(),
    };
    binary::write_long(days, out);
    Ok(())
}

/// A finite date.
pub(super) fn date(text: &[u8]) -> Result<Date, Reason> {
    let (text, era) = era(text);
    match Date::parse(text, era) {
        Some((date, [])) => Ok(date),
        _ => Err(Reason::Malformed("a date")),
    }
}

/// `int`: milliseconds since midnight.
pub(super) fn write_time_ms(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let time = time(text)?;
    let ms = time.seconds * 1000 + whole_ms(time.micros)?;
    binary::write_long(ms, out);
    Ok(())
}

/// `long`: microseconds since midnight.
pub(super) fn write_time_us(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let time = time(text)?;
    binary::write_long(time.seconds * 1_000_000 + time.micros, out);
    Ok(())
}

/// `long`: milliseconds since 1970-01-01 00:00:00.
pub(super) fn write_timestamp_ms(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let ms = match timestamp(text)? {
        Timestamp::Infinity => TIMESTAMP_INFINITY,
        Timestamp::MinusInfinity => TIMESTAMP_MINUS_INFINITY,
        Timestamp::Finite { seconds, micros } => seconds * 1000 + whole_ms(micros)?,
    };
    binary::write_long(ms, out);
    Ok(())
}

/// `long`: microseconds since 1970-01-01 00:00:00. The years after 294247 don't fit.
pub(super) fn write_timestamp_us(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let us = match timestamp(text)? {
        Timestamp::Infinity => TIMESTAMP_INFINITY,
        Timestamp::MinusInfinity => TIMESTAMP_MINUS_INFINITY,
        Timestamp::Finite { seconds, micros } => micros_of(seconds, micros)?,
    };
    binary::write_long(us, out);
    Ok(())
}

/// `string`: ISO 8601 in UTC with exactly `precision` fractional digits, as Java writes an `OffsetDateTime`.
pub(super) fn write_timestamptz(text: &[u8], precision: i16, out: &mut Vec<u8>) -> Result<(), Reason> {
    if let b"infinity" | b"-infinity" = text {
        binary::write_bytes(text, out);
        return Ok(());
    }
    let (local, era) = era(text);
    let (mut date, mut time, rest) = date_and_time(local, era).ok_or(MALFORMED_TIMESTAMP)?;
    let offset = offset_seconds(rest).ok_or(MALFORMED_TIMESTAMP)?;
    if rest == b"+00"
        && era == Era::Common
        && is_iso_but_for_the_t(&local[..local.len() - rest.len()], precision)
    {
        binary::write_long(local.len() as i64 - 2, out); // +00 becomes Z
        let start = out.len();
        out.extend_from_slice(&local[..local.len() - 2]);
        out[start + "2024-02-29".len()] = b'T';
        out[start + local.len() - 3] = b'Z';
        return Ok(());
    }
    if offset != 0 {
        let seconds = date.days() * SECONDS_PER_DAY + time.seconds - offset;
        date = Date::from_days(seconds.div_euclid(SECONDS_PER_DAY));
        time.seconds = seconds.rem_euclid(SECONDS_PER_DAY);
    }
    let mut text = ShortText::default();
    text.year(date.year);
    text.byte(b'-');
    text.two_digits(date.month);
    text.byte(b'-');
    text.two_digits(date.day);
    text.byte(b'T');
    text.two_digits(time.seconds / 3600);
    text.byte(b':');
    text.two_digits(time.seconds / 60 % 60);
    text.byte(b':');
    text.two_digits(time.seconds % 60);
    text.fraction(time.micros, precision)?;
    text.byte(b'Z');
    binary::write_bytes(text.as_bytes(), out);
    Ok(())
}

/// Microseconds since 1970-01-01 00:00:00 UTC of a finite timestamp with time zone.
pub(super) fn utc_micros(text: &[u8]) -> Result<i64, Reason> {
    let (text, era) = era(text);
    let (date, time, rest) = date_and_time(text, era).ok_or(MALFORMED_TIMESTAMP)?;
    let offset = offset_seconds(rest).ok_or(MALFORMED_TIMESTAMP)?;
    micros_of(date.days() * SECONDS_PER_DAY + time.seconds - offset, time.micros)
}

/// Seconds and microseconds above them in one number, which is none of the infinities'.
fn micros_of(seconds: i64, micros: i64) -> Result<i64, Reason> {
    seconds
        .checked_mul(1_000_000)
        .and_then(|us| us.checked_add(micros))
        .filter(|us| (TIMESTAMP_MINUS_INFINITY + 1..TIMESTAMP_INFINITY).contains(us))
        .ok_or(Reason::OutOfRange("microseconds in 64 bits"))
}

/// A year of four digits and as many fractional digits as the column has: nothing is left to write anew. Most are.
#[inline]
fn is_iso_but_for_the_t(date_and_time: &[u8], precision: i16) -> bool {
    let fraction = if precision > 0 { 1 + precision as usize } else { 0 };
    date_and_time.len() == "2024-02-29 12:34:56".len() + fraction && date_and_time[4] == b'-'
}

const MALFORMED_TIMESTAMP: Reason = Reason::Malformed("a timestamp");

fn whole_ms(micros: i64) -> Result<i64, Reason> {
    if micros % 1000 == 0 { Ok(micros / 1000) } else { Err(Reason::TooManyFractionalDigits) }
}

/// A day of the proleptic Gregorian calendar; the year is astronomical (0 is 1 BC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Common,
    BeforeChrist,
}

/// The era stands at the very end, behind time and offset.
fn era(text: &[u8]) -> (&[u8], Era) {
    match text.strip_suffix(b" BC") {
        Some(rest) => (rest, Era::BeforeChrist),
        None => (text, Era::Common),
    }
}

impl Date {
    /// The date and what follows it.
    #[inline]
    fn parse(text: &[u8], era: Era) -> Option<(Date, &[u8])> {
        let (year, rest) = match text {
            [y1, y2, y3, y4, b'-', ..] => (two_digits(*y1, *y2)? * 100 + two_digits(*y3, *y4)?, &text[4..]),
            _ => long_year(text)?,
        };
        let [b'-', m1, m2, b'-', d1, d2, rest @ ..] = rest else { return None };
        let (month, day) = (two_digits(*m1, *m2)?, two_digits(*d1, *d2)?);
        let year = match era {
            Era::Common if year > 0 => year,
            Era::BeforeChrist if year > 0 => 1 - year,
            _ => return None,
        };
        let exists = (1..=12).contains(&month) && (1..=days_of_month(year, month)).contains(&day);
        exists.then_some((Date { year, month, day }, rest))
    }

    /// Days since 1970-01-01. Years are counted from March, so that the leap day is a year's last; 400 of them
    /// have 146,097 days.
    #[inline]
    pub(super) fn days(self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let (cycle, year_of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
        let month_from_march = (self.month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day - 1;
        let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
        cycle * 146_097 + day_of_cycle - DAYS_FROM_MARCH_OF_YEAR_0
    }

    /// The inverse of [`Date::days`].
    pub(super) fn from_days(days: i64) -> Date {
        let days = days + DAYS_FROM_MARCH_OF_YEAR_0;
        let (cycle, day_of_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let leap_days = day_of_cycle / 1460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
        let year_of_cycle = (day_of_cycle - leap_days) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = cycle * 400 + year_of_cycle + i64::from(month <= 2);
        Date { year, month, day }
    }
}

/// A year of five to seven digits (Postgres has no more, and so few can't overflow anything) and what follows it.
#[cold]
fn long_year(text: &[u8]) -> Option<(i64, &[u8])> {
    let digits = text.iter().take(8).position(|byte| !byte.is_ascii_digit())?;
    if digits < 5 {
        return None;
    }
    let (year, rest) = text.split_at(digits);
    Some((year.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')), rest))
}

/// From 0000-03-01 to 1970-01-01.
const DAYS_FROM_MARCH_OF_YEAR_0: i64 = 719_468;

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// A time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    /// The fraction, 0 to 999,999.
    pub(super) micros: i64,
}

pub(super) fn time(text: &[u8]) -> Result<Time, Reason> {
    match Time::parse(text) {
        Some((time, [])) => Ok(time),
        _ => Err(Reason::Malformed("a time of day")),
    }
}

impl Time {
    /// The time and what follows it.
    #[inline]
    pub(super) fn parse(text: &[u8]) -> Option<(Time, &[u8])> {
        let [h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = text else { return None };
        let (hour, minute, second) = (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?, two_digits(*s1, *s2)?);
        let (micros, rest) = match rest {
            [b'.', fraction @ ..] => micros(fraction)?,
            rest => (0, rest),
        };
        let seconds = hour * 3600 + minute * 60 + second;
        let exists = minute < 60 && second < 60 && (hour < 24 || (seconds == SECONDS_PER_DAY && micros == 0));
        exists.then_some((Time { seconds, micros }, rest))
    }
}

/// One to six fractional digits as microseconds, and what follows them.
#[inline]
pub(super) fn micros(text: &[u8]) -> Option<(i64, &[u8])> {
    let digits = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    if !(1..=6).contains(&digits) {
        return None;
    }
    let (fraction, rest) = text.split_at(digits);
    let value = fraction.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some((value * POWERS_OF_TEN[6 - digits], rest))
}

const POWERS_OF_TEN: [i64; 7] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000];

#[inline]
pub(super) fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit())
        .then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

#[inline]
fn date_and_time(text: &[u8], era: Era) -> Option<(Date, Time, &[u8])> {
    let (date, rest) = Date::parse(text, era)?;
    let (time, rest) = Time::parse(rest.strip_prefix(b" ")?)?;
    Some((date, time, rest))
}

/// East of Greenwich is positive.
#[inline]
pub(super) fn offset_seconds(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        b"+00" => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hour, minute, second) = match digits {
        [h1, h2] => (two_digits(*h1, *h2)?, 0, 0),
        [h1, h2, b':', m1, m2] => (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?, 0),
        [h1, h2, b':', m1, m2, b':', s1, s2] => {
            (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?, two_digits(*s1, *s2)?)
        }
        _ => return None,
    };
    Some(sign * (hour * 3600 + minute * 60 + second))
}

pub(super) enum Timestamp {
    Infinity,
    MinusInfinity,
    /// Seconds since 1970-01-01 00:00:00, floored, and the microseconds above them.
    Finite {
        seconds: i64,
        micros: i64,
    },
}

#[inline]
pub(super) fn timestamp(text: &[u8]) -> Result<Timestamp, Reason> {
    match text {
        b"infinity" => return Ok(Timestamp::Infinity),
        b"-infinity" => return Ok(Timestamp::MinusInfinity),
        _ => {}
    }
    let (text, era) = era(text);
    match date_and_time(text, era) {
        Some((date, time, [])) => Ok(Timestamp::Finite {
            seconds: date.days() * SECONDS_PER_DAY + time.seconds,
            micros: time.micros,
        }),
        _ => Err(MALFORMED_TIMESTAMP),
    }
}

/// Text of at most 40 bytes: `+292278994-08-16T23:59:59.999999Z` has 33, and no finite value comes near.
pub(super) struct ShortText {
    bytes: [u8; 40],
    length: usize,
}

impl Default for ShortText {
    fn default() -> ShortText {
        ShortText { bytes: [0; 40], length: 0 }
    }
}

impl ShortText {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    #[inline]
    pub(super) fn two_digits(&mut self, value: i64) {
        self.byte(b'0' + (value / 10) as u8);
        self.byte(b'0' + (value % 10) as u8);
    }

    /// At least four digits; more have a sign, and so has a negative year.
    #[inline]
    pub(super) fn year(&mut self, year: i64) {
        if year < 0 {
            self.byte(b'-');
        } else if year > 9999 {
            self.byte(b'+');
        }
        let year = year.abs();
        let mut power = 1_000_000_000;
        while power > 1000 && year < power {
            power /= 10;
        }
        while power > 0 {
            self.byte(b'0' + (year / power % 10) as u8);
            power /= 10;
        }
    }

    #[inline]
    pub(super) fn fraction(&mut self, micros: i64, precision: i16) -> Result<(), Reason> {
        let digits = precision.clamp(0, 6) as usize;
        let unit = POWERS_OF_TEN[6 - digits];
        if micros % unit != 0 {
            return Err(Reason::TooManyFractionalDigits);
        }
        if digits > 0 {
            self.byte(b'.');
        }
        let mut rest = micros / unit;
        for at in (self.length..self.length + digits).rev() {
            self.bytes[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.length += digits;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Write = fn(&[u8], &mut Vec<u8>) -> Result<(), Reason>;

    fn long(write: Write, text: &str) -> Result<i64, Reason> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out)?;
        let zigzag = out.iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn zoned(text: &str, precision: i16) -> Result<String, Reason> {
        let mut out = Vec::new();
        write_timestamptz(text.as_bytes(), precision, &mut out)?;
        Ok(String::from_utf8(out[1..].to_vec()).unwrap())
    }

    #[test]
    fn dates_as_debezium_writes_them() {
        for (text, days) in [
            ("2016-11-04", 17_109),
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("0001-01-01", -719_162),
            ("4713-01-01 BC", -2_440_550),
            ("0001-12-31 BC", -719_163),
            ("0001-02-29 BC", -719_163 - 306),
            ("5874897-12-31", 2_145_042_905),
            ("infinity", DATE_INFINITY),
            ("-infinity", DATE_MINUS_INFINITY),
        ] {
            assert_eq!(long(write_date, text), Ok(days), "{text}");
        }
    }

    #[test]
    fn times_as_debezium_writes_them() {
        assert_eq!(long(write_time_us, "13:51:30"), Ok(49_890_000_000));
        assert_eq!(long(write_time_ms, "13:51:30.123"), Ok(49_890_123));
        assert_eq!(long(write_time_us, "24:00:00"), Ok(86_400_000_000));
        assert_eq!(long(write_time_ms, "24:00:00"), Ok(86_400_000));
        assert_eq!(long(write_time_us, "12:34:56.1"), Ok(45_296_100_000));
        assert_eq!(long(write_time_ms, "13:51:30.1234"), Err(Reason::TooManyFractionalDigits));
    }

    #[test]
    fn timestamps_as_debezium_writes_them() {
        for (text, us) in [
            ("2016-11-04 13:51:30.123456", 1_478_267_490_123_456),
            ("1936-10-25 22:10:12.608", -1_047_174_587_392_000),
            ("1969-12-31 23:59:59.999999", -1),
            ("0001-01-01 00:00:00", -62_135_596_800_000_000),
            ("21016-11-04 13:51:30.123456", 601_060_312_290_123_456),
            ("294247-01-01 23:59:59.999999", 9_223_371_331_199_999_999),
            ("4713-12-31 23:59:59.999999 BC", -210_831_897_600_000_001),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ] {
            assert_eq!(long(write_timestamp_us, text), Ok(us), "{text}");
        }
        assert_eq!(long(write_timestamp_ms, "2016-11-04 13:51:30.123"), Ok(1_478_267_490_123));
        assert_eq!(long(write_timestamp_ms, "1969-12-31 23:59:59.999"), Ok(-1));
        assert_eq!(long(write_timestamp_ms, "294276-12-31 23:59:59.999"), Ok(9_224_318_015_999_999));
        assert_eq!(
            long(write_timestamp_us, "294276-12-31 23:59:59.999999"),
            Err(Reason::OutOfRange("microseconds in 64 bits"))
        );
    }

    #[test]
    fn zoned_timestamps_as_debezium_writes_them() {
        for (text, written) in [
            ("2016-11-04 13:51:30.123456+02", "2016-11-04T11:51:30.123456Z"),
            ("2016-11-04 11:51:30+00", "2016-11-04T11:51:30.000000Z"),
            ("21016-11-04 06:51:30.123456+00", "+21016-11-04T06:51:30.123456Z"),
            ("294247-01-01 23:59:59.999999+00", "+294247-01-01T23:59:59.999999Z"),
            ("4714-12-31 23:59:59.999999+00 BC", "-4713-12-31T23:59:59.999999Z"),
            ("0001-12-31 23:30:00-00:30 BC", "0001-01-01T00:00:00.000000Z"),
            ("2024-03-01 00:00:00+05:45:30", "2024-02-29T18:14:30.000000Z"),
            ("9999-12-31 23:00:00-01", "+10000-01-01T00:00:00.000000Z"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        ] {
            assert_eq!(zoned(text, 6).as_deref(), Ok(written), "{text}");
        }
        assert_eq!(zoned("2024-02-29 12:34:56.7+00", 3).as_deref(), Ok("2024-02-29T12:34:56.700Z"));
        assert_eq!(zoned("2024-02-29 12:34:56+00", 0).as_deref(), Ok("2024-02-29T12:34:56Z"));
        assert_eq!(zoned("2024-02-29 12:34:56.7+00", 0), Err(Reason::TooManyFractionalDigits));
    }

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (-2_440_588..2_440_588).chain(2_145_000_000..2_145_042_905).step_by(97) {
            assert_eq!(Date::from_days(days).days(), days);
        }
    }

    #[test]
    fn what_is_no_date_and_no_time() {
        for text in [
            "",
            "2024",
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "0000-01-01",
            "24-01-01",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-1-1",
            "2024-01-01 ",
            "2024-01-01x",
            "99999999-01-01",
            "2024/01/01",
            "Infinity",
            "-2024-01-01",
        ] {
            assert!(long(write_date, text).is_err(), "{text}");
        }
        for text in [
            "",
            "24:00:01",
            "24:00:00.000001",
            "25:00:00",
            "12:60:00",
            "12:00:60",
            "12:00",
            "12:00:00.",
            "12:00:00.1234567",
            "12:00:00+00",
        ] {
            assert!(long(write_time_us, text).is_err(), "{text}");
        }
        for text in [
            "2024-01-01 00:00:00",
            "2024-01-01T00:00:00+00",
            "2024-01-01 00:00:00+0",
            "2024-01-01 00:00:00+00:",
            "2024-01-01 00:00:00Z",
        ] {
            assert!(zoned(text, 6).is_err(), "{text}");
        }
    }
}
