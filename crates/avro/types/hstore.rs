//! `hstore`, from the text of `hstore_out`:
//!
//! ```text
//! [ pair { ", " pair } ]     pair = quoted "=>" (quoted | NULL)     quoted: '"' characters, " and \ behind a \ '"'
//! ```

use crate::binary;
use crate::error::Reason;
use crate::json;

const MALFORMED: Reason = Reason::Malformed("an hstore");

/// `map` of nullable strings.
pub(super) fn write_map(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut pairs = Vec::new();
    for pair in Pairs::new(text)? {
        pairs.push(pair?);
    }
    if !pairs.is_empty() {
        binary::write_long(pairs.len() as i64, out);
    }
    for (key, value) in pairs {
        binary::write_bytes(&unescaped(key), out);
        match value {
            Some(value) => {
                binary::write_long(1, out);
                binary::write_bytes(&unescaped(value), out);
            }
            None => binary::write_long(0, out),
        }
    }
    binary::write_long(0, out);
    Ok(())
}

/// `string`: a JSON object with the pairs in Postgres' order.
pub(super) fn write_json(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut object = Vec::with_capacity(text.len() + 2);
    object.push(b'{');
    for (position, pair) in Pairs::new(text)?.enumerate() {
        let (key, value) = pair?;
        if position > 0 {
            object.push(b',');
        }
        json::write_string(&unescaped(key), &mut object);
        object.push(b':');
        match value {
            Some(value) => json::write_string(&unescaped(value), &mut object),
            None => object.extend_from_slice(b"null"),
        }
    }
    object.push(b'}');
    binary::write_bytes(&object, out);
    Ok(())
}

fn unescaped(quoted: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            _ => plain.push(byte),
        }
    }
    plain
}

/// Walks the pairs, each still with its backslashes; after an error it ends.
struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    fn new(text: &'a [u8]) -> Result<Pairs<'a>, Reason> {
        match std::str::from_utf8(text) {
            Ok(_) => Ok(Pairs { rest: text }),
            Err(_) => Err(Reason::NotUtf8),
        }
    }

    fn pair(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let key = self.quoted()?;
        let value = self.rest.strip_prefix(b"=>")?;
        self.rest = value;
        let value = match value.strip_prefix(b"NULL") {
            Some(rest) => {
                self.rest = rest;
                None
            }
            None => Some(self.quoted()?),
        };
        if !self.rest.is_empty() {
            self.rest = self.rest.strip_prefix(b", ").filter(|rest| !rest.is_empty())?;
        }
        Some((key, value))
    }

    fn quoted(&mut self) -> Option<&'a [u8]> {
        let inside = self.rest.strip_prefix(b"\"")?;
        let mut at = 0;
        loop {
            match inside.get(at)? {
                b'"' => {
                    self.rest = &inside[at + 1..];
                    return Some(&inside[..at]);
                }
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a [u8], Option<&'a [u8]>), Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let pair = self.pair();
        if pair.is_none() {
            self.rest = &[];
        }
        Some(pair.ok_or(MALFORMED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<String, Reason> {
        let mut out = Vec::new();
        write_json(text.as_bytes(), &mut out).map(|()| String::from_utf8(out[1..].to_vec()).unwrap())
    }

    #[test]
    fn pairs_as_hstore_out_writes_them() {
        let text = r#""a"=>"1", "b"=>NULL, "c d"=>"x\"y""#;
        assert_eq!(json(text).as_deref(), Ok(r#"{"a":"1","b":null,"c d":"x\"y"}"#));
        assert_eq!(json("").as_deref(), Ok("{}"));
        assert_eq!(json(r#"""=>"NULL""#).as_deref(), Ok(r#"{"":"NULL"}"#));
        let mut out = Vec::new();
        write_map(text.as_bytes(), &mut out).unwrap();
        assert_eq!(out, b"\x06\x02a\x02\x021\x02b\x00\x06c d\x02\x06x\"y\x00");
    }

    #[test]
    fn what_hstore_out_never_writes() {
        for wrong in [
            "a",
            "\"a\"",
            "\"a\"=>",
            "\"a\"=>b",
            "\"a\"=>\"b",
            "\"a\"=>\"b\",",
            "\"a\"=>\"b\", ",
            "\"a\"=>NULLx",
            "\"a\\",
            "\"a\"=>\"b\"\"c\"=>\"d\"",
        ] {
            assert_eq!(json(wrong), Err(MALFORMED), "{wrong}");
        }
        assert_eq!(write_map(b"\"\xff\"=>NULL", &mut Vec::new()), Err(Reason::NotUtf8));
    }
}
