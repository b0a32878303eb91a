//! Durations and sizes as a person writes them: `5s`, `64MiB`.
//!
//! In: the text of one setting. Out: a `Duration` or a number of bytes, or a sentence that shows the right
//! spelling. A number without a unit is refused: nobody remembers whether 30 meant seconds or milliseconds.

use std::time::Duration;

/// A number of bytes, written `512B`, `64KiB`, `64MiB`, `2GiB`, or decimal `kB`, `MB`, `GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Reads `250ms`, `5s`, `2m` or `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let millis = parse(text, DURATION_UNITS, "a duration", "5s", "ms, s, m, h")?;
    Ok(Duration::from_millis(millis))
}

/// Reads `64MiB` and its like.
pub fn parse_size(text: &str) -> Result<Size, String> {
    parse(text, SIZE_UNITS, "a size", "64MiB", "B, KiB, MiB, GiB, kB, MB, GB").map(Size)
}

/// The sentence for a bare number where a duration belongs.
pub fn duration_without_unit(number: &str) -> String {
    format!("{number} has no unit; write \"{number}s\" for seconds (units: ms, s, m, h)")
}

/// The sentence for a bare number where a size belongs.
pub fn size_without_unit(number: &str) -> String {
    format!(
        "{number} has no unit; write \"{number}MiB\" or \"{number}B\" (units: B, KiB, MiB, GiB, kB, MB, GB)"
    )
}

fn parse(text: &str, units: &[(&str, u64)], what: &str, example: &str, known: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = (&text[..digits_end], text[digits_end..].trim_start());
    if digits.is_empty() {
        return Err(format!("\"{text}\" is not {what}; write for example \"{example}\" (units: {known})"));
    }
    if unit.is_empty() {
        let duration = what == "a duration";
        return Err(if duration { duration_without_unit(digits) } else { size_without_unit(digits) });
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "\"{unit}\" is not a unit of {what}; write for example \"{example}\" (units: {known})"
        ));
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| format!("\"{text}\" is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), (" 7 s ", 7_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, message) in [
            ("30", "30 has no unit; write \"30s\" for seconds (units: ms, s, m, h)"),
            ("soon", "\"soon\" is not a duration; write for example \"5s\" (units: ms, s, m, h)"),
            ("", "\"\" is not a duration; write for example \"5s\" (units: ms, s, m, h)"),
            (
                "5 minutes",
                "\"minutes\" is not a unit of a duration; write for example \"5s\" (units: ms, s, m, h)",
            ),
            ("1.5s", "\".5s\" is not a unit of a duration; write for example \"5s\" (units: ms, s, m, h)"),
            ("99999999999999999999s", "\"99999999999999999999s\" is too large"),
        ] {
            assert_eq!(parse_duration(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("64MiB", 67_108_864), ("2GB", 2_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(Size(bytes)), "{text}");
        }
        for (text, message) in [
            ("64", "64 has no unit; write \"64MiB\" or \"64B\" (units: B, KiB, MiB, GiB, kB, MB, GB)"),
            (
                "64mb",
                "\"mb\" is not a unit of a size; write for example \"64MiB\" (units: B, KiB, MiB, GiB, kB, MB, GB)",
            ),
            ("99999999999GiB", "\"99999999999GiB\" is too large"),
        ] {
            assert_eq!(parse_size(text), Err(message.to_owned()), "{text}");
        }
    }
}
