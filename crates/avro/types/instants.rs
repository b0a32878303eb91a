//! Dates and times in the other time modes: Connect's milliseconds, nanoseconds, ISO 8601 text, and Avro's own.
//! What Postgres writes is read by `calendar`.

use crate::binary;
use crate::error::Reason;
use crate::types::calendar::{self, Date, SECONDS_PER_DAY, ShortText, Time, Timestamp};

/// What Debezium writes for `infinity` as Connect's Timestamp: the JDBC driver's stand-in.
const CONNECT_INFINITY_MS: i64 = 9_223_372_036_825_200_000;
/// And for `-infinity`.
const CONNECT_MINUS_INFINITY_MS: i64 = -9_223_372_036_832_400_000;

/// `int`: milliseconds since midnight; finer digits are cut off.
pub(super) fn write_connect_time(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let time = calendar::time(text)?;
    binary::write_long(time.seconds * 1000 + time.micros / 1000, out);
    Ok(())
}

/// `long`: milliseconds since 1970-01-01 00:00:00, rounded down.
pub(super) fn write_connect_timestamp(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let ms = match calendar::timestamp(text)? {
        Timestamp::Infinity => CONNECT_INFINITY_MS,
        Timestamp::MinusInfinity => CONNECT_MINUS_INFINITY_MS,
        // Microseconds are counted upwards from the floored second.
        Timestamp::Finite { seconds, micros } => seconds * 1000 + micros / 1000,
    };
    binary::write_long(ms, out);
    Ok(())
}

/// `long`: nanoseconds since midnight.
pub(super) fn write_nano_time(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let time = calendar::time(text)?;
    binary::write_long((time.seconds * 1_000_000 + time.micros) * 1000, out);
    Ok(())
}

/// `long`: nanoseconds since 1970-01-01 00:00:00; only the years 1677 to 2262 fit.
pub(super) fn write_nano_timestamp(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let ns = match calendar::timestamp(text)? {
        Timestamp::Infinity => calendar::TIMESTAMP_INFINITY,
        Timestamp::MinusInfinity => calendar::TIMESTAMP_MINUS_INFINITY,
        Timestamp::Finite { seconds, micros } => {
            let ns = i128::from(seconds) * 1_000_000_000 + i128::from(micros) * 1000;
            i64::try_from(ns)
                .ok()
                .filter(|ns| *ns != i64::MAX && *ns != i64::MIN)
                .ok_or(Reason::OutOfRange("nanoseconds in 64 bits"))?
        }
    };
    binary::write_long(ns, out);
    Ok(())
}

/// `string`: `2024-02-29Z`. The infinities are the dates that stand for them as days.
pub(super) fn write_iso_date(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let date = match text {
        b"infinity" => Date::from_days(calendar::DATE_INFINITY),
        b"-infinity" => Date::from_days(calendar::DATE_MINUS_INFINITY),
        _ => calendar::date(text)?,
    };
    let mut iso = ShortText::default();
    put_date(date, &mut iso);
    finish(iso, out);
    Ok(())
}

/// `string`: `12:34:56.5Z`, with as many digits of a second as are needed.
pub(super) fn write_iso_time(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut iso = ShortText::default();
    put_time(calendar::time(text)?, &mut iso)?;
    finish(iso, out);
    Ok(())
}

/// `string`: `2024-02-29T12:34:56.5Z`.
pub(super) fn write_iso_timestamp(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let (seconds, micros) = match calendar::timestamp(text)? {
        Timestamp::Infinity => (CONNECT_INFINITY_MS.div_euclid(1000), 0),
        Timestamp::MinusInfinity => (CONNECT_MINUS_INFINITY_MS.div_euclid(1000), 0),
        Timestamp::Finite { seconds, micros } => (seconds, micros),
    };
    let mut iso = ShortText::default();
    put_date(Date::from_days(seconds.div_euclid(SECONDS_PER_DAY)), &mut iso);
    iso.byte(b'T');
    put_time(Time { seconds: seconds.rem_euclid(SECONDS_PER_DAY), micros }, &mut iso)?;
    finish(iso, out);
    Ok(())
}

/// `string`: the time of day in UTC, with as many digits of a second as are needed. A time that ends its day there,
/// 24:00:00, keeps that.
pub(super) fn write_timetz(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    const MALFORMED: Reason = Reason::Malformed("a time of day with its zone");
    let (mut time, rest) = Time::parse(text).ok_or(MALFORMED)?;
    let offset = calendar::offset_seconds(rest).ok_or(MALFORMED)?;
    if offset != 0 {
        time.seconds = (time.seconds - offset).rem_euclid(SECONDS_PER_DAY);
    }
    let mut iso = ShortText::default();
    put_time(time, &mut iso)?;
    finish(iso, out);
    Ok(())
}

/// `int`, Avro's date: days; the infinities are the largest and the smallest int.
pub(super) fn write_avro_date(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let days = match text {
        b"infinity" => i32::MAX.into(),
        b"-infinity" => i32::MIN.into(),
        _ => calendar::date(text)?.days(),
    };
    binary::write_long(days, out);
    Ok(())
}

/// `long`, Avro's timestamp-micros: the infinities are the largest and the smallest long.
pub(super) fn write_avro_timestamptz(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let us = match text {
        b"infinity" => i64::MAX,
        b"-infinity" => i64::MIN,
        _ => calendar::utc_micros(text)?,
    };
    binary::write_long(us, out);
    Ok(())
}

fn put_date(date: Date, iso: &mut ShortText) {
    iso.year(date.year);
    iso.byte(b'-');
    iso.two_digits(date.month);
    iso.byte(b'-');
    iso.two_digits(date.day);
}

fn put_time(time: Time, iso: &mut ShortText) -> Result<(), Reason> {
    iso.two_digits(time.seconds / 3600);
    iso.byte(b':');
    iso.two_digits(time.seconds / 60 % 60);
    iso.byte(b':');
    iso.two_digits(time.seconds % 60);
    let (mut digits, mut rest) = (6, time.micros);
    while digits > 0 && rest % 10 == 0 {
        digits -= 1;
        rest /= 10;
    }
    iso.fraction(time.micros, digits)
}

fn finish(mut iso: ShortText, out: &mut Vec<u8>) {
    iso.byte(b'Z');
    binary::write_bytes(iso.as_bytes(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Write = fn(&[u8], &mut Vec<u8>) -> Result<(), Reason>;

    fn string(write: Write, text: &str) -> Result<String, Reason> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out).map(|()| String::from_utf8(out[1..].to_vec()).unwrap())
    }

    fn check_long(write: Write, text: &str, expected: i64) {
        let (mut out, mut long) = (Vec::new(), Vec::new());
        write(text.as_bytes(), &mut out).unwrap();
        binary::write_long(expected, &mut long);
        assert_eq!(out, long, "{text}");
    }

    #[test]
    fn text_as_debezium_wrote_it() {
        for (write, text, expected) in [
            (write_iso_date as Write, "2024-02-29", "2024-02-29Z"),
            (write_iso_date, "4713-01-01 BC", "-4712-01-01Z"),
            (write_iso_date, "infinity", "+5877611-06-21Z"),
            (write_iso_time, "12:34:56.123456", "12:34:56.123456Z"),
            (write_iso_time, "12:34:56.5", "12:34:56.5Z"),
            (write_iso_time, "24:00:00", "24:00:00Z"),
            (write_iso_timestamp, "2024-02-29 12:34:56", "2024-02-29T12:34:56Z"),
            (write_iso_timestamp, "1969-12-31 23:59:59.999999", "1969-12-31T23:59:59.999999Z"),
            (write_iso_timestamp, "infinity", "+292278994-08-16T23:00:00Z"),
            (write_timetz, "12:34:56.123456+02", "10:34:56.123456Z"),
            (write_timetz, "23:59:59.999999-15:59", "15:58:59.999999Z"),
            (write_timetz, "11:51:02+00", "11:51:02Z"),
            (write_timetz, "24:00:00+00", "24:00:00Z"),
            (write_timetz, "24:00:00-05", "05:00:00Z"),
        ] {
            assert_eq!(string(write, text).as_deref(), Ok(expected), "{text}");
        }
        assert!(string(write_iso_timestamp, "-infinity").is_ok());
    }

    #[test]
    fn numbers_as_debezium_wrote_them() {
        check_long(write_connect_time, "12:34:56.123456", 45_296_123);
        check_long(write_connect_time, "24:00:00", 86_400_000);
        check_long(write_connect_timestamp, "1969-12-31 23:59:59.999999", -1);
        check_long(write_connect_timestamp, "infinity", CONNECT_INFINITY_MS);
        check_long(write_nano_time, "00:00:00.000001", 1000);
        check_long(write_nano_timestamp, "2024-02-29 12:34:56.123456", 1_709_210_096_123_456_000);
        check_long(write_nano_timestamp, "-infinity", i64::MIN);
        check_long(write_avro_timestamptz, "2024-02-29 12:34:56.123456+02", 1_709_202_896_123_456);
        check_long(write_avro_date, "infinity", i32::MAX.into());
        let mut out = Vec::new();
        assert!(matches!(write_nano_timestamp(b"2300-01-01 00:00:00", &mut out), Err(Reason::OutOfRange(_))));
    }
}
