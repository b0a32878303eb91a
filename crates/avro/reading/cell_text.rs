//! Values as the text of Postgres' input functions, and that text as a field of COPY.

use std::io::Write;

use super::cell::{Cell, Form};
use super::cursor::{Cursor, ReadError};
use super::decimals::write_decimal;
use super::moments;
use super::schema_tree::{RecordShape, skip};

/// Appends the text as it is, without COPY's escapes.
pub(super) fn write_plain(form: &Form, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), ReadError> {
    match form {
        Form::Boolean => out.extend_from_slice(if cursor.boolean()? { b"true" } else { b"false" }),
        Form::Bit => out.push(if cursor.boolean()? { b'1' } else { b'0' }),
        Form::Integer => out.extend_from_slice(Digits::of(cursor.long()?).text()),
        Form::Float => put_float(cursor.float()?, out),
        Form::Double => put_double(cursor.double()?, out),
        Form::Bytea => put_bytea(cursor.bytes()?, b"\\x", out),
        Form::Decimal(scale) => write_decimal(cursor.bytes()?, *scale, out)?,
        Form::VariableDecimal => {
            let scale = cursor.long()?;
            write_decimal(cursor.bytes()?, scale, out)?;
        }
        Form::Text => out.extend_from_slice(cursor.text()?.as_bytes()),
        Form::Zoned => put_zoned(cursor.text()?, out)?,
        Form::Symbol(symbols) => {
            let symbol = usize::try_from(cursor.long()?).ok().and_then(|index| symbols.get(index));
            let symbol = symbol.ok_or(ReadError::new("has a symbol that its enum does not have"))?;
            out.extend_from_slice(symbol.as_bytes());
        }
        Form::Bits(digits) => put_bits(cursor.bytes()?, *digits, out)?,
        Form::Date => moments::write_date(cursor.long()?, out),
        Form::Time(unit) => moments::write_time(micros(cursor.long()?, *unit)?, out)?,
        Form::Timestamp { unit, zone } => {
            let value = cursor.long()?;
            let micros =
                if *unit == 1000 { moments::micros_of_millis(value)? } else { micros(value, *unit)? };
            moments::write_timestamp(micros, zone.as_bytes(), out);
        }
        Form::HstoreMap(value) => put_hstore_map(value, cursor, out)?,
        Form::HstoreJson => put_hstore_json(cursor.text()?, out)?,
        Form::Array(element) => put_array(element, [b'{', b'}'], cursor, out)?,
        Form::Vector(element) => put_array(element, [b'[', b']'], cursor, out)?,
        Form::Point(point) => put_point(point, cursor, out)?,
        Form::Line => put_doubles(b'{', 3, b'}', cursor, out)?,
        Form::Circle(center) => {
            out.push(b'<');
            put_point(center, cursor, out)?;
            put_doubles(b',', 1, b'>', cursor, out)?;
        }
        Form::Ewkb(record) => {
            put_bytea(cursor.bytes()?, b"", out);
            skip_behind(record, 1, cursor)?;
        }
        Form::Within(form, digits) => {
            let start = out.len();
            write_plain(form, cursor, out)?;
            if fraction_digits(&out[start..]) > *digits {
                return Err(ReadError::new("has more digits behind the point than its column keeps"));
            }
        }
    }
    Ok(())
}

/// How many digits stand behind the point, trailing zeros left out, of a number or a time.
fn fraction_digits(text: &[u8]) -> i64 {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (mut significant, mut behind) = (0, text);
    if let Some(point) = text.iter().rposition(|byte| *byte == b'.') {
        let fraction = &text[point + 1..];
        let (fraction, rest) = fraction.split_at(digits(fraction));
        significant = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last as i64 + 1);
        behind = rest;
    } else if let Some(exponent) = text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        behind = &text[exponent..];
    }
    let exponent = match behind {
        [b'e' | b'E', power @ ..] => std::str::from_utf8(power).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    significant - exponent.unwrap_or(0i64).clamp(-100_000, 100_000)
}

/// A field of COPY's text format (manual, "COPY", "Text Format").
#[inline]
pub(super) fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            b'\t' => b't',
            b'\n' => b'n',
            b'\r' => b'r',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// An integer's digits, on the stack.
pub(super) struct Digits {
    bytes: [u8; 20],
    from: usize,
}

impl Digits {
    #[inline]
    pub(super) fn of(number: i64) -> Digits {
        let mut digits = Digits { bytes: [0; 20], from: 20 };
        let mut rest = number.unsigned_abs();
        loop {
            digits.from -= 1;
            digits.bytes[digits.from] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            digits.from -= 1;
            digits.bytes[digits.from] = b'-';
        }
        digits
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

pub(super) fn put_bytea(bytes: &[u8], before: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(before);
    for byte in bytes {
        out.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
        out.push(b"0123456789abcdef"[usize::from(byte & 15)]);
    }
}

/// In double quotes, as arrays and hstore have it.
pub(super) fn put_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

// Writing into a vector can't fail. The shortest digits that give the same number again.
fn put_float(value: f32, out: &mut Vec<u8>) {
    let _ =
        if value.is_finite() { write!(out, "{value:e}") } else { write!(out, "{}", infinity(value.into())) };
}

fn put_double(value: f64, out: &mut Vec<u8>) {
    let _ = if value.is_finite() { write!(out, "{value:e}") } else { write!(out, "{}", infinity(value)) };
}

fn infinity(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// A number of a unit as microseconds; nanoseconds that are none are refused.
fn micros(value: i64, unit: i64) -> Result<i64, ReadError> {
    match unit {
        0 if value % 1000 == 0 => Ok(value / 1000),
        0 => Err(ReadError::new("has nanoseconds, which Postgres does not have")),
        _ => value.checked_mul(unit).ok_or(ReadError::new("has a time that is beyond Postgres'")),
    }
}

/// `+10000-01-01T…` and `-0001-01-01T…` as Postgres writes those years.
fn put_zoned(text: &str, out: &mut Vec<u8>) -> Result<(), ReadError> {
    let malformed = ReadError::new("has a time with a zone that is not ISO 8601");
    match text.as_bytes() {
        [b'+', rest @ ..] => out.extend_from_slice(rest),
        [b'-', rest @ ..] if rest.first().is_some_and(u8::is_ascii_digit) => {
            let (year, rest) = text[1..].split_once('-').ok_or(malformed.clone())?;
            let year: u32 = year.parse().map_err(|_| malformed)?;
            // The year 0 is 1 BC.
            let _ = write!(out, "{:04}-{rest} BC", year.saturating_add(1));
        }
        all if text.starts_with("0000-") => {
            let _ = write!(out, "0001{} BC", String::from_utf8_lossy(&all[4..]));
        }
        all => out.extend_from_slice(all),
    }
    Ok(())
}

fn put_bits(bytes: &[u8], digits: usize, out: &mut Vec<u8>) -> Result<(), ReadError> {
    let bit = |index: usize| bytes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    if (digits..bytes.len() * 8).any(bit) {
        return Err(ReadError::new("has more bits than its column"));
    }
    out.extend((0..digits).rev().map(|index| if bit(index) { b'1' } else { b'0' }));
    Ok(())
}

fn put_array(
    element: &Cell,
    brackets: [u8; 2],
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ReadError> {
    out.push(brackets[0]);
    let mut first = true;
    let mut scratch = Vec::new();
    loop {
        let count = cursor.block()?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            // What has no size in bytes could be promised without end.
            if cursor.is_empty() {
                return Err(ReadError::new("ends before its schema does"));
            }
            if !element.is_present(cursor)? {
                out.extend_from_slice(b"NULL");
            } else if matches!(
                element.form,
                Form::Boolean | Form::Integer | Form::Float | Form::Double | Form::Decimal(_)
            ) {
                write_plain(&element.form, cursor, out)?;
            } else {
                scratch.clear();
                write_plain(&element.form, cursor, &mut scratch)?;
                put_quoted(&scratch, out);
            }
        }
    }
    out.push(brackets[1]);
    Ok(())
}

fn put_hstore_map(value: &Cell, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), ReadError> {
    let mut first = true;
    loop {
        let count = cursor.block()?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            put_quoted(cursor.text()?.as_bytes(), out);
            out.extend_from_slice(b"=>");
            if value.is_present(cursor)? {
                put_quoted(cursor.text()?.as_bytes(), out);
            } else {
                out.extend_from_slice(b"NULL");
            }
        }
    }
}

fn put_hstore_json(text: &str, out: &mut Vec<u8>) -> Result<(), ReadError> {
    let pairs: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|_| ReadError::new("has an hstore that is no JSON object"))?;
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_quoted(key.as_bytes(), out);
        out.extend_from_slice(b"=>");
        match value {
            serde_json::Value::Null => out.extend_from_slice(b"NULL"),
            serde_json::Value::String(text) => put_quoted(text.as_bytes(), out),
            _ => return Err(ReadError::new("has an hstore whose values are no strings")),
        }
    }
    Ok(())
}

fn put_point(point: &RecordShape, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), ReadError> {
    put_doubles(b'(', 2, b')', cursor, out)?;
    skip_behind(point, 2, cursor)
}

fn put_doubles(
    open: u8,
    count: usize,
    close: u8,
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ReadError> {
    for index in 0..count {
        out.push(if index == 0 { open } else { b',' });
        put_double(cursor.double()?, out);
    }
    out.push(close);
    Ok(())
}

fn skip_behind(record: &RecordShape, read: usize, cursor: &mut Cursor<'_>) -> Result<(), ReadError> {
    record.fields.iter().skip(read).try_for_each(|field| skip(&field.node, cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for number in [0, 1, -1, 10, -10, 99, 100, i64::MAX, i64::MIN] {
            assert_eq!(Digits::of(number).text(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn what_copy_escapes() {
        let mut out = Vec::new();
        escape(b"a\tb\nc\rd\\e", &mut out);
        assert_eq!(out, b"a\\tb\\nc\\rd\\\\e");
    }

    #[test]
    fn zoned_times_of_all_years() {
        for (text, expected) in [
            ("2024-02-29T12:34:56.5Z", "2024-02-29T12:34:56.5Z"),
            ("+12024-02-29T12:34:56Z", "12024-02-29T12:34:56Z"),
            ("-0001-02-28T12:34:56Z", "0002-02-28T12:34:56Z BC"),
            ("0000-02-28T12:34:56Z", "0001-02-28T12:34:56Z BC"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        ] {
            let mut out = Vec::new();
            put_zoned(text, &mut out).expect("well-formed");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn digits_behind_the_point() {
        for (text, expected) in [
            ("12", 0),
            ("12.50", 1),
            ("-0.001", 3),
            ("1.25e-2", 4),
            ("1e-7", 7),
            ("1.5e3", -2),
            ("12:34:56.500000", 1),
            ("2024-02-29 12:34:56.000001+00", 6),
            ("2024-02-29T12:34:56.5Z BC", 1),
            ("infinity", 0),
            ("P1Y2M3DT4H5M6.789S", 3),
            ("1 year 2 seconds", 0),
            ("", 0),
        ] {
            assert_eq!(fraction_digits(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn bits_have_their_columns_length() {
        for (bytes, digits, expected) in [
            (&[][..], 3, Some("000")),
            (&[5], 3, Some("101")),
            (&[5], 8, Some("00000101")),
            (&[1, 2], 10, Some("1000000001")),
            (&[9], 3, None),
        ] {
            let mut out = Vec::new();
            let result =
                put_bits(bytes, digits, &mut out).ok().map(|()| String::from_utf8_lossy(&out).into_owned());
            assert_eq!(result.as_deref(), expected, "{bytes:?} {digits}");
        }
    }
}
