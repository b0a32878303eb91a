//! Days and fractions of seconds since 1970 as the text that Postgres reads.

use std::io::Write;

use super::cursor::ReadError;
use crate::types::date_of_days;

/// What Debezium writes for infinity, in each unit, and what Avro's own types have.
const DATE_INFINITY: [i64; 2] = [2_146_033_979, i32::MAX as i64];
const DATE_MINUS_INFINITY: [i64; 2] = [-2_147_472_691, i32::MIN as i64];
const MILLIS_INFINITY: i64 = 9_223_372_036_825_200_000;
const MILLIS_MINUS_INFINITY: i64 = -9_223_372_036_832_400_000;

const DAY_US: i64 = 86_400_000_000;

/// `date`
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) {
    if DATE_INFINITY.contains(&days) {
        out.extend_from_slice(b"infinity");
    } else if DATE_MINUS_INFINITY.contains(&days) {
        out.extend_from_slice(b"-infinity");
    } else {
        let bc = put_date(days, out);
        out.extend_from_slice(bc);
    }
}

/// `time`; 24:00:00 is one.
pub(super) fn write_time(micros: i64, out: &mut Vec<u8>) -> Result<(), ReadError> {
    if !(0..=DAY_US).contains(&micros) {
        return Err(ReadError::new("has a time of day that no day has"));
    }
    put_time(micros, out);
    Ok(())
}

/// `timestamp`, or `timestamptz` with its zone.
pub(super) fn write_timestamp(micros: i64, zone: &[u8], out: &mut Vec<u8>) {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let bc = put_date(micros.div_euclid(DAY_US), out);
            out.push(b' ');
            put_time(micros.rem_euclid(DAY_US), out);
            out.extend_from_slice(zone);
            out.extend_from_slice(bc);
        }
    }
}

/// Milliseconds as microseconds, infinities included.
pub(super) fn micros_of_millis(millis: i64) -> Result<i64, ReadError> {
    match millis {
        MILLIS_INFINITY | i64::MAX => Ok(i64::MAX),
        MILLIS_MINUS_INFINITY | i64::MIN => Ok(i64::MIN),
        _ => millis.checked_mul(1000).ok_or(ReadError::new("has a time that is beyond Postgres'")),
    }
}

fn put_date(days: i64, out: &mut Vec<u8>) -> &'static [u8] {
    let (year, month, day) = date_of_days(days);
    let (year, bc) = if year <= 0 { (1 - year, &b" BC"[..]) } else { (year, &b""[..]) };
    // Writing into a vector can't fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    bc
}

fn put_time(micros: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        let _ = write!(out, ".{fraction:06}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_and_dates() {
        let timestamp = |micros: i64| {
            let mut out = Vec::new();
            write_timestamp(micros, b"", &mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        for (micros, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59.999999"),
            (1_709_210_096_500_000, "2024-02-29 12:34:56.500000"),
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
            (-62_135_596_800_000_000, "0001-01-01 00:00:00"),
            (-62_135_596_800_000_001, "0001-12-31 23:59:59.999999 BC"),
        ] {
            assert_eq!(timestamp(micros), text);
        }
        for (days, text) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (2_146_033_979, "infinity"),
            (-2_147_472_691, "-infinity"),
            (3_652_059 - 719_163 + 1, "10000-01-01"),
        ] {
            let mut out = Vec::new();
            write_date(days, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
