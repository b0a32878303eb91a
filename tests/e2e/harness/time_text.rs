//! Dates and times as Postgres writes them with `DateStyle = ISO` and `TimeZone = UTC`.

use anyhow::{Context, Result, ensure};

const DAY_MICROS: i64 = 86_400_000_000;
/// What a date of infinity and of -infinity is, to Debezium and in Avro's own logical type. No date of Postgres' is as
/// large or as small as these.
const INFINITE_DATES: [[i64; 2]; 2] = [[2_146_033_979, -2_147_472_691], [i32::MAX as i64, i32::MIN as i64]];

/// Days since 1970 as `2024-02-29`, `0044-03-15 BC`.
pub fn date(days: i64) -> String {
    if let Some(infinity) = INFINITE_DATES.into_iter().find_map(|limits| infinity(days, limits)) {
        return infinity;
    }
    let (date, era) = date_and_era(days);
    format!("{date}{era}")
}

/// Microseconds since midnight as `12:34:56.5`.
pub fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match fraction {
        0 => clock,
        _ => format!("{clock}.{}", format!("{fraction:06}").trim_end_matches('0')),
    }
}

/// Microseconds since 1970 as `2024-02-29 12:34:56.5`.
pub fn timestamp(micros: i64) -> String {
    timestamp_with(micros, "")
}

/// The same in UTC: `2024-02-29 12:34:56.5+00`.
pub fn timestamptz(micros: i64) -> String {
    timestamp_with(micros, "+00")
}

fn timestamp_with(micros: i64, zone: &str) -> String {
    if let Some(infinity) = infinity(micros, [i64::MAX, i64::MIN]) {
        return infinity;
    }
    let (date, era) = date_and_era(micros.div_euclid(DAY_MICROS));
    format!("{date} {}{zone}{era}", time(micros.rem_euclid(DAY_MICROS)))
}

/// Milliseconds since 1970, with the same infinities.
pub fn timestamp_of_millis(millis: i64) -> String {
    infinity(millis, [i64::MAX, i64::MIN]).unwrap_or_else(|| timestamp(millis.saturating_mul(1000)))
}

fn infinity(value: i64, [above, below]: [i64; 2]) -> Option<String> {
    let infinity = if value == above { "infinity" } else { "-infinity" };
    (value == above || value == below).then(|| infinity.to_owned())
}

/// `2024-02-29T12:34:56.500000Z` as `2024-02-29 12:34:56.5+00`; years are astronomical, signed when unusual.
pub fn zoned(text: &str) -> Result<String> {
    if text == "infinity" || text == "-infinity" {
        return Ok(text.to_owned());
    }
    let (date, clock) =
        text.strip_suffix('Z').and_then(|rest| rest.split_once('T')).context("not a UTC timestamp")?;
    let (negative, unsigned) = match date.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, date.strip_prefix('+').unwrap_or(date)),
    };
    let (year, month_and_day) = unsigned.split_once('-').context("no month")?;
    ensure!(month_and_day.len() == 5, "odd date");
    let year = year.parse::<i64>()? * if negative { -1 } else { 1 };
    let (year, era) = if year <= 0 { (1 - year, " BC") } else { (year, "") };
    let clock = match clock.contains('.') {
        true => clock.trim_end_matches('0').trim_end_matches('.'),
        false => clock,
    };
    let clock = if clock.len() == 5 { format!("{clock}:00") } else { clock.to_owned() };
    Ok(format!("{year:04}-{month_and_day} {clock}+00{era}"))
}

/// The proleptic Gregorian calendar, years before 1 counted as BC.
fn date_and_era(days: i64) -> (String, &'static str) {
    // Days since 0000-03-01, in eras of 400 years; see Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (year, suffix) = if year <= 0 { (1 - year, " BC") } else { (year, "") };
    (format!("{year:04}-{month:02}-{day:02}"), suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (-719_162, "0001-01-01"),
            (-719_163, "0001-12-31 BC"),
            (-1, "1969-12-31"),
            (2_932_897, "10000-01-01"),
        ] {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn instants_become_text() {
        assert_eq!(timestamp(-1), "1969-12-31 23:59:59.999999");
        assert_eq!(time(DAY_MICROS), "24:00:00");
        assert_eq!(zoned("2024-02-29T12:34:56.500000Z").expect("valid"), "2024-02-29 12:34:56.5+00");
        assert_eq!(zoned("2024-02-29T12:34:56Z").expect("valid"), "2024-02-29 12:34:56+00");
        assert_eq!(zoned("+21016-11-04T06:51:30.123456Z").expect("valid"), "21016-11-04 06:51:30.123456+00");
        assert_eq!(zoned("0000-01-01T00:00:00Z").expect("valid"), "0001-01-01 00:00:00+00 BC");
    }
}
