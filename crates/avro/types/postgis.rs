//! PostGIS' `geometry` and `geography`, from their text, which is EWKB in hexadecimal:
//!
//! ```text
//! byte order (00 high first, 01 low first) | type, 4 bytes, with 0x20000000 if an SRID follows | SRID, 4 bytes | …
//!
//! Geometry { wkb, srid?, extensions? = null }      Geography { wkb, srid? }
//! ```
//!
//! The bytes are passed on as they are, so with the SRID in them, as Debezium does.

use crate::binary;
use crate::error::Reason;
use crate::types::bytea;

const MALFORMED: Reason = Reason::Malformed("hexadecimal EWKB");
const HAS_SRID: u32 = 0x2000_0000;

/// `Geometry`
pub(super) fn write_geometry(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    write_geography(text, out)?;
    binary::write_long(0, out); // extensions
    Ok(())
}

/// `Geography`
pub(super) fn write_geography(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    bytea::write_digits(text, out).map_err(|_| MALFORMED)?;
    match srid(text)? {
        Some(srid) => {
            binary::write_long(1, out);
            binary::write_long(srid.into(), out);
        }
        None => binary::write_long(0, out),
    }
    Ok(())
}

/// The SRID in the header; none means that the geometry has none.
fn srid(text: &[u8]) -> Result<Option<i32>, Reason> {
    let mut header = [0; 9];
    let length = header.len().min(text.len() / 2);
    for (byte, digits) in header.iter_mut().zip(text.chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| MALFORMED)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| MALFORMED)?;
    }
    let word = |at: usize| {
        let bytes: [u8; 4] = header[at..at + 4].try_into().expect("four bytes");
        match header[0] {
            0 => Ok(u32::from_be_bytes(bytes)),
            1 => Ok(u32::from_le_bytes(bytes)),
            _ => Err(MALFORMED),
        }
    };
    if length < 5 {
        return Err(MALFORMED);
    }
    if word(1)? & HAS_SRID == 0 {
        return Ok(None);
    }
    if length < 9 {
        return Err(MALFORMED);
    }
    Ok(Some(word(5)?.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_srid_comes_from_the_header() {
        let point = "0101000020730C00001C7C613255DE6540787AA52C435C42C0";
        assert_eq!(srid(point.as_bytes()), Ok(Some(3187)));
        assert_eq!(srid(b"0020000001000010E6"), Ok(Some(4326)), "the highest byte first");
        assert_eq!(srid(b"01010000001C7C613255DE6540787AA52C435C42C0"), Ok(None));
        for length in 0..18 {
            let _ = write_geometry(&point.as_bytes()[..length], &mut Vec::new()).unwrap_err();
        }
        assert!(write_geography(b"0201000020730C0000", &mut Vec::new()).is_err(), "no byte order");
        assert!(write_geography(b"POINT(1 2)", &mut Vec::new()).is_err());
        let mut out = Vec::new();
        write_geography(point.as_bytes(), &mut out).unwrap();
        assert_eq!((out[0], out.len()), (50, 1 + 25 + 1 + 2));
    }
}
