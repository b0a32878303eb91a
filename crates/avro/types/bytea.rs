//! Bytes, as bytes or as text of a binary mode. `bytea` comes in its hex form: `\x`, then two digits per byte. The session pins `bytea_output = hex`; the escape
//! form never starts with `\x` (it doubles a backslash), so it is recognised and refused, not misread.

use crate::binary;
use crate::error::Reason;

const MALFORMED: Reason = Reason::Malformed("bytea in hex form");

/// `bytes`.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    write_digits(digits(text)?, out)
}

/// `string`: the digits.
pub(super) fn write_hex(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let digits = digits(text)?;
    if !digits.len().is_multiple_of(2) || digits.iter().any(|digit| NIBBLES[usize::from(*digit)] > 0x0f) {
        return Err(MALFORMED);
    }
    binary::write_bytes(digits, out);
    Ok(())
}

/// `string`: base64 (RFC 4648, section 4), padded.
pub(super) fn write_base64(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    decode(digits(text)?, &mut bytes)?;
    put_base64(&bytes, BASE64, out);
    Ok(())
}

/// `string`: base64 for URLs (section 5), padded as Java's encoder does.
pub(super) fn write_base64_url(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    decode(digits(text)?, &mut bytes)?;
    put_base64(&bytes, BASE64_URL, out);
    Ok(())
}

/// `bytes`: the text of any type.
pub(super) fn write_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    binary::write_bytes(text, out);
    Ok(())
}

/// `string`: the text of any type, in hexadecimal.
pub(super) fn write_text_hex(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    binary::write_long(2 * text.len() as i64, out);
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
    out.extend(text.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]));
    Ok(())
}

/// `string`: the text of any type, in base64.
pub(super) fn write_text_base64(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    put_base64(text, BASE64, out);
    Ok(())
}

/// `string`: the text of any type, in base64 for URLs.
pub(super) fn write_text_base64_url(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    put_base64(text, BASE64_URL, out);
    Ok(())
}

/// `bytes` from hexadecimal digits alone.
pub(super) fn write_digits(digits: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    binary::write_long((digits.len() / 2) as i64, out);
    decode(digits, out)
}

fn digits(text: &[u8]) -> Result<&[u8], Reason> {
    text.strip_prefix(b"\\x").ok_or(MALFORMED)
}

/// Appends the bytes that the digits stand for.
pub(crate) fn decode(digits: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    if !digits.len().is_multiple_of(2) {
        return Err(MALFORMED);
    }
    out.reserve(digits.len() / 2);
    let mut wrong = 0;
    out.extend(digits.chunks_exact(2).map(|pair| {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        wrong |= high | low;
        high << 4 | low & 0x0f
    }));
    // Only what isn't a digit has a bit above the low four.
    if wrong & 0xf0 == 0 { Ok(()) } else { Err(MALFORMED) }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A `string` of four characters for each three bytes.
fn put_base64(bytes: &[u8], alphabet: &[u8; 64], out: &mut Vec<u8>) {
    binary::write_long((bytes.len().div_ceil(3) * 4) as i64, out);
    append_base64(bytes, alphabet, out);
}

/// The characters alone, in the standard alphabet.
pub(crate) fn write_base64_text(bytes: &[u8], out: &mut Vec<u8>) {
    append_base64(bytes, BASE64, out);
}

fn append_base64(bytes: &[u8], alphabet: &[u8; 64], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            // A chunk of n bytes has n + 1 characters.
            out.push(if at <= chunk.len() {
                alphabet[(bits >> (18 - 6 * at) & 0x3f) as usize]
            } else {
                b'='
            });
        }
    }
}

/// Value of each hex digit; 0xff for what is none.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value] as usize] = value as u8;
        nibbles[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    nibbles
};

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out).map(|()| out)
    }

    #[test]
    fn text_forms() {
        let string = |write: fn(&[u8], &mut Vec<u8>) -> Result<(), Reason>, text: &str| {
            let mut out = Vec::new();
            write(text.as_bytes(), &mut out).map(|()| String::from_utf8(out[1..].to_vec()).unwrap())
        };
        for (hex, base64, url) in [
            ("", "", ""),
            ("01", "AQ==", "AQ=="),
            ("00ff", "AP8=", "AP8="),
            ("010203", "AQID", "AQID"),
            ("fbff", "+/8=", "-_8="),
        ] {
            let text = format!("\\x{hex}");
            assert_eq!(string(write_hex, &text).as_deref(), Ok(hex));
            assert_eq!(string(write_base64, &text).as_deref(), Ok(base64));
            assert_eq!(string(write_base64_url, &text).as_deref(), Ok(url));
        }
        assert_eq!(string(write_hex, "\\x0g"), Err(MALFORMED));
        assert_eq!(string(write_base64, "\\x012"), Err(MALFORMED));
        let query = "'fat' <-> 'cat'";
        assert_eq!(string(write_text_base64, query).as_deref(), Ok("J2ZhdCcgPC0+ICdjYXQn"));
        assert_eq!(string(write_text_base64_url, query).as_deref(), Ok("J2ZhdCcgPC0-ICdjYXQn"));
        assert_eq!(string(write_text_hex, query).as_deref(), Ok("2766617427203c2d3e202763617427"));
    }

    #[test]
    fn hex_and_nothing_else() {
        assert_eq!(bytes("\\x"), Ok(vec![0]));
        assert_eq!(bytes("\\x00fF10"), Ok(vec![6, 0x00, 0xff, 0x10]));
        for wrong in ["", "\\", "00", "\\x0", "\\x0g", "\\xg0", "\\000", "\\\\x00"] {
            assert_eq!(bytes(wrong), Err(MALFORMED), "{wrong}");
        }
    }
}
