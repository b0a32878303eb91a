//! One decoded value, comparable with the text that Postgres renders for the same value.

/// What Debezium writes for a TOAST value that the server did not send.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// A value decoded from Avro.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// Equal when its text equals Postgres' text.
    Text(String),
    /// A double; equal when Postgres' text parses to the same bits.
    Double(f64),
    /// A float; likewise.
    Float(f32),
    /// A number of variable scale; trailing zeros of the fraction do not count.
    Number(String),
    /// Microseconds of an interval, in which a month has 30.4375 days.
    Duration(i64),
    /// Bits, the lowest byte first; zeros in front do not count.
    Bits(Vec<u8>),
    /// Coordinates, radii and coefficients in the order of the text.
    Numbers(Vec<f64>),
    /// Elements of an array.
    Array(Vec<Cell>),
}

impl Cell {
    /// Whether this is what Postgres renders as `expected` (`None`: NULL).
    pub fn equals(&self, expected: Option<&str>) -> bool {
        match (self, expected) {
            (Cell::Null, None) => true,
            (Cell::Null, Some(_)) | (_, None) => false,
            (Cell::Text(text), Some(expected)) => text == expected,
            (Cell::Double(number), Some(expected)) => expected
                .parse::<f64>()
                .is_ok_and(|e| e.to_bits() == number.to_bits() || e.is_nan() && number.is_nan()),
            (Cell::Float(number), Some(expected)) => expected
                .parse::<f32>()
                .is_ok_and(|e| e.to_bits() == number.to_bits() || e.is_nan() && number.is_nan()),
            (Cell::Number(text), Some(expected)) => bare(text) == bare(expected),
            (Cell::Duration(micros), Some(expected)) => duration_micros(expected) == Some(*micros),
            (Cell::Bits(bytes), Some(expected)) => bits_text(bytes) == expected.trim_start_matches('0'),
            (Cell::Numbers(numbers), Some(expected)) => *numbers == numbers_in(expected),
            (Cell::Array(cells), Some(expected)) => {
                parse_array(expected).is_some_and(|elements| equal_elements(cells, &elements))
            }
        }
    }

    /// Whether this stands for a value that the server did not send again.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Cell::Text(text) => text == UNAVAILABLE || *text == format!("\\x{}", hex(UNAVAILABLE.as_bytes())),
            Cell::Array(cells) => matches!(&cells[..], [cell] if cell.is_unavailable()),
            _ => false,
        }
    }
}

/// `1 year -2 mons 3 days -04:05:06.5` in microseconds.
fn duration_micros(text: &str) -> Option<i64> {
    let mut micros: i64 = 0;
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if let Some((hours, rest)) = word.split_once(':') {
            let (minutes, seconds) = rest.split_once(':')?;
            let sign = if hours.starts_with('-') { -1 } else { 1 };
            let whole = hours.trim_start_matches(['-', '+']).parse::<i64>().ok()? * 60
                + minutes.parse::<i64>().ok()?;
            let seconds = (seconds.parse::<f64>().ok()? * 1e6).round() as i64;
            micros += sign * (whole * 60_000_000 + seconds);
        } else {
            let unit = match words.next()?.trim_end_matches('s') {
                "year" => 12 * 2_629_800_000_000,
                "mon" => 2_629_800_000_000,
                "day" => 86_400_000_000,
                _ => return None,
            };
            micros += word.parse::<i64>().ok()? * unit;
        }
    }
    Some(micros)
}

fn bits_text(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().rev().map(|byte| format!("{byte:08b}")).collect();
    digits.trim_start_matches('0').to_owned()
}

fn numbers_in(text: &str) -> Vec<f64> {
    text.split(|c: char| "()[]{}<>,".contains(c)).filter_map(|word| word.parse().ok()).collect()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bare(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let trimmed =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    let trimmed = match trimmed.split_once('.') {
        Some((whole, fraction)) => format!("{}.{fraction}", whole.trim_start_matches('0')),
        None => trimmed.trim_start_matches('0').to_owned(),
    };
    if trimmed.is_empty() { "0".to_owned() } else { format!("{sign}{trimmed}") }
}

/// An array as Postgres writes it.
#[derive(Debug, PartialEq)]
enum Element {
    Null,
    Text(String),
    List(Vec<Element>),
}

fn equal_elements(cells: &[Cell], elements: &[Element]) -> bool {
    cells.len() == elements.len()
        && cells.iter().zip(elements).all(|(cell, element)| match (cell, element) {
            (Cell::Array(inner), Element::List(list)) => equal_elements(inner, list),
            (_, Element::List(_)) => false,
            (cell, Element::Null) => cell.equals(None),
            (cell, Element::Text(text)) => cell.equals(Some(text)),
        })
}

/// Parses `{1,NULL,"a b",{2}}`, with `[2:3]=` before it or not.
fn parse_array(text: &str) -> Option<Vec<Element>> {
    let body = if text.starts_with('[') { text.split_once('=')?.1 } else { text };
    let mut rest = body.chars().peekable();
    let elements = parse_list(&mut rest)?;
    rest.next().is_none().then_some(elements)
}

fn parse_list(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    if rest.next()? != '{' {
        return None;
    }
    if rest.peek() == Some(&'}') {
        rest.next();
        return Some(elements);
    }
    loop {
        elements.push(match rest.peek()? {
            '{' => Element::List(parse_list(rest)?),
            '"' => Element::Text(parse_quoted(rest)?),
            _ => match parse_bare(rest) {
                word if word == "NULL" => Element::Null,
                word => Element::Text(word),
            },
        });
        match rest.next()? {
            ',' => {}
            '}' => return Some(elements),
            _ => return None,
        }
    }
}

fn parse_quoted(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    rest.next();
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => text.push(rest.next()?),
            c => text.push(c),
        }
    }
}

fn parse_bare(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = rest.next_if(|c| !matches!(c, ',' | '}')) {
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_variable_scale_compare_by_value() {
        for (left, right, equal) in [
            ("1.10", "1.1", true),
            ("0", "0.000", true),
            ("-0.5", "-.5", true),
            ("100", "1", false),
            ("-1", "1", false),
        ] {
            assert_eq!(Cell::Number(left.into()).equals(Some(right)), equal, "{left} {right}");
        }
    }

    #[test]
    fn odd_types_compare_by_value() {
        assert!(Cell::Duration(86_399_000_000).equals(Some("1 day -00:00:01")));
        assert!(Cell::Duration(2_629_800_000_000).equals(Some("1 mon")));
        assert!(Cell::Bits(vec![5]).equals(Some("00101")) && !Cell::Bits(vec![5]).equals(Some("1010")));
        assert!(Cell::Numbers(vec![0.0, -1.5, 5.0]).equals(Some("<(0,-1.5),5>")));
    }

    #[test]
    fn arrays_compare_element_by_element() {
        let cells = Cell::Array(vec![Cell::Text("a \"b\"".into()), Cell::Null, Cell::Text(String::new())]);
        assert!(cells.equals(Some(r#"{"a \"b\"",NULL,""}"#)));
        assert!(!cells.equals(Some(r#"{"a \"b\"","NULL",""}"#)), "a quoted NULL is a word");
        assert!(!cells.equals(Some(r#"{"a \"b\"",NULL}"#)));
        assert!(Cell::Array(vec![Cell::Array(vec![Cell::Text("1".into())])]).equals(Some("{{1}}")));
    }
}
