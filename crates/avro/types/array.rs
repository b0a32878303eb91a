//! Arrays of one dimension, from the text of `array_out`:
//!
//! ```text
//! [ "[" lower ":" upper "]" "=" ]  "{"  [ element { "," element } ]  "}"
//! element = NULL | characters without any of  " \ { } ,  or blanks | '"' characters, " and \ behind a \ '"'
//! ```
//!
//! The comma is another character for some types: `;` for box, `:` for PostGIS' types (`pg_type.typdelim`).
//! A lower bound other than 1 has no place in Avro and is left out. An array of more dimensions is refused: neither
//! a flat list nor nulls (Debezium's answer) would be the value. `array_handling = "text"` has a form for both.

use crate::binary;
use crate::error::Reason;
use crate::types::Encoding;

const MALFORMED: Reason = Reason::Malformed("a one-dimensional array");

/// One block with all elements (unless there are none), then the empty block that ends an array.
pub(super) fn write(text: &[u8], element: &Encoding, delimiter: u8, out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut count: i64 = 0;
    for item in Elements::new(text, delimiter)? {
        item?;
        count += 1;
    }
    if count > 0 {
        binary::write_long(count, out);
    }
    let mut unescaped = Vec::new();
    for item in Elements::new(text, delimiter)? {
        match item? {
            Element::Null => {
                binary::write_long(0, out);
                continue;
            }
            Element::Plain(text) => {
                binary::write_long(1, out);
                element.write(text, out)?;
            }
            Element::Escaped(text) => {
                binary::write_long(1, out);
                unescape(text, &mut unescaped);
                element.write(&unescaped, out)?;
            }
        }
    }
    binary::write_long(0, out);
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Element<'a> {
    Null,
    /// Bare, or quoted without a backslash.
    Plain(&'a [u8]),
    /// Quoted, the backslashes still in it.
    Escaped(&'a [u8]),
}

fn unescape(text: &[u8], into: &mut Vec<u8>) {
    into.clear();
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => into.extend(bytes.next()),
            _ => into.push(byte),
        }
    }
}

/// Walks the elements; after an error it ends.
struct Elements<'a> {
    /// What follows the opening brace or the last delimiter; empty at the end.
    rest: &'a [u8],
    delimiter: u8,
}

impl<'a> Elements<'a> {
    fn new(text: &'a [u8], delimiter: u8) -> Result<Elements<'a>, Reason> {
        let rest = without_bounds(text)?.strip_prefix(b"{").ok_or(MALFORMED)?;
        match rest {
            b"}" => Ok(Elements { rest: &[], delimiter }),
            [] => Err(MALFORMED),
            _ => Ok(Elements { rest, delimiter }),
        }
    }

    fn element(&mut self) -> Result<Element<'a>, Reason> {
        match self.rest {
            [b'{', ..] => Err(Reason::MultiDimensional),
            [b'"', quoted @ ..] => {
                let (length, escaped) = quoted_length(quoted)?;
                let text = &quoted[..length];
                self.step_over(&quoted[length + 1..])?;
                Ok(if escaped { Element::Escaped(text) } else { Element::Plain(text) })
            }
            bare => {
                let length =
                    bare.iter().position(|&byte| byte == self.delimiter || byte == b'}').ok_or(MALFORMED)?;
                let text = &bare[..length];
                if text.is_empty() || text.iter().any(|byte| matches!(byte, b'"' | b'\\' | b'{')) {
                    return Err(MALFORMED);
                }
                self.step_over(&bare[length..])?;
                Ok(if text == b"NULL" { Element::Null } else { Element::Plain(text) })
            }
        }
    }

    /// Over the delimiter before the next element or the brace that must be last.
    fn step_over(&mut self, rest: &'a [u8]) -> Result<(), Reason> {
        self.rest = match rest {
            [delimiter, next @ ..] if *delimiter == self.delimiter && !next.is_empty() => next,
            b"}" => &[],
            _ => return Err(MALFORMED),
        };
        Ok(())
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.element();
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

/// Bytes up to the closing quote, and whether a backslash is among them.
fn quoted_length(quoted: &[u8]) -> Result<(usize, bool), Reason> {
    let mut escaped = false;
    let mut at = 0;
    loop {
        match quoted.get(at) {
            Some(b'"') => return Ok((at, escaped)),
            Some(b'\\') => {
                escaped = true;
                at += 2;
            }
            Some(_) => at += 1,
            None => return Err(MALFORMED),
        }
    }
}

/// Postgres writes the bounds only if a lower one isn't 1: `[-1:1]={1,2,3}`.
fn without_bounds(text: &[u8]) -> Result<&[u8], Reason> {
    if text.first() != Some(&b'[') {
        return Ok(text);
    }
    let equals = text.iter().position(|&byte| byte == b'=').ok_or(MALFORMED)?;
    let (bounds, rest) = (&text[..equals], &text[equals + 1..]);
    match bounds.iter().filter(|&&byte| byte == b'[').count() {
        1 if bounds.ends_with(b"]") => Ok(rest),
        1 => Err(MALFORMED),
        _ => Err(Reason::MultiDimensional),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str) -> Result<Vec<Option<String>>, Reason> {
        let mut unescaped = Vec::new();
        Elements::new(text.as_bytes(), b',')?
            .map(|element| {
                Ok(match element? {
                    Element::Null => None,
                    Element::Plain(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    Element::Escaped(text) => {
                        unescape(text, &mut unescaped);
                        Some(String::from_utf8_lossy(&unescaped).into_owned())
                    }
                })
            })
            .collect()
    }

    #[test]
    fn what_array_out_writes() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(elements("{}"), Ok(vec![]));
        assert_eq!(elements("{1,NULL,3}"), Ok(vec![some("1"), None, some("3")]));
        assert_eq!(elements("[-1:1]={1,2,3}"), Ok(vec![some("1"), some("2"), some("3")]));
        assert_eq!(
            elements(r#"{a,"b \"q\"",NULL,"","NULL","c,d","e}","\\",null}"#),
            Ok(vec![
                some("a"),
                some("b \"q\""),
                None,
                some(""),
                some("NULL"),
                some("c,d"),
                some("e}"),
                some("\\"),
                some("null")
            ])
        );
    }

    #[test]
    fn more_dimensions_are_refused_by_name() {
        assert_eq!(elements("{{1,2},{3,4}}"), Err(Reason::MultiDimensional));
        assert_eq!(elements("[0:0][0:1]={{1,2}}"), Err(Reason::MultiDimensional));
    }

    #[test]
    fn what_array_out_never_writes() {
        for wrong in [
            "", "{", "}", "{1", "{1,", "{1,}", "{,1}", "{1}}", "{1}x", "{\"a}", "{\"a\"b}", "{a\"b}", "[1:2",
            "[1:2]=", "{\"\\",
        ] {
            assert_eq!(elements(wrong), Err(MALFORMED), "{wrong}");
        }
    }
}
