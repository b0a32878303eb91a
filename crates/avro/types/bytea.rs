//! `bytea` in its hex form: `\x`, then two digits per byte. The session pins `bytea_output = hex`; the escape
//! form never starts with `\x` (it doubles a backslash), so it is recognised and refused, not misread.

use crate::binary;
use crate::error::Reason;

const MALFORMED: Reason = Reason::Malformed("bytea in hex form");

/// `bytes`.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let digits = text.strip_prefix(b"\\x").ok_or(MALFORMED)?;
    if digits.len() % 2 != 0 {
        return Err(MALFORMED);
    }
    binary::write_long((digits.len() / 2) as i64, out);
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
    fn hex_and_nothing_else() {
        assert_eq!(bytes("\\x"), Ok(vec![0]));
        assert_eq!(bytes("\\x00fF10"), Ok(vec![6, 0x00, 0xff, 0x10]));
        for wrong in ["", "\\", "00", "\\x0", "\\x0g", "\\xg0", "\\000", "\\\\x00"] {
            assert_eq!(bytes(wrong), Err(MALFORMED), "{wrong}");
        }
    }
}
