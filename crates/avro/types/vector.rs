//! pgvector: `vector` and `halfvec` as `[1,2.5]`, `sparsevec` as `{1:0.5,9:2}/3000` (indexes from 1, then the number
//! of dimensions).

use crate::binary;
use crate::error::Reason;

const MALFORMED: Reason = Reason::Malformed("a vector");
const MALFORMED_SPARSE: Reason = Reason::Malformed("a sparse vector");

/// `array` of `double`.
pub(super) fn write_doubles(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    write_elements(text, out, |text, out| {
        out.extend_from_slice(&text.parse::<f64>().ok()?.to_le_bytes());
        Some(())
    })
}

/// `array` of `float`.
pub(super) fn write_floats(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    write_elements(text, out, |text, out| {
        out.extend_from_slice(&text.parse::<f32>().ok()?.to_le_bytes());
        Some(())
    })
}

fn write_elements(
    text: &[u8],
    out: &mut Vec<u8>,
    write: impl Fn(&str, &mut Vec<u8>) -> Option<()>,
) -> Result<(), Reason> {
    let text = std::str::from_utf8(text).map_err(|_| MALFORMED)?;
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).ok_or(MALFORMED)?;
    if !inside.is_empty() {
        binary::write_long(inside.split(',').count() as i64, out);
        inside.split(',').try_for_each(|element| write(element, out)).ok_or(MALFORMED)?;
    }
    binary::write_long(0, out);
    Ok(())
}

/// `{dimensions, vector}` with numbers that Connect takes for 16 bits wide; more dimensions are refused.
pub(super) fn write_sparse16(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    write_sparse(text, i16::MAX.into(), out)
}

/// The same with 32 bits.
pub(super) fn write_sparse32(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    write_sparse(text, i32::MAX, out)
}

fn write_sparse(text: &[u8], dimensions_max: i32, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = std::str::from_utf8(text).map_err(|_| MALFORMED_SPARSE)?;
    let (elements, dimensions) =
        text.strip_prefix('{').and_then(|text| text.split_once("}/")).ok_or(MALFORMED_SPARSE)?;
    let dimensions: i32 = dimensions.parse().map_err(|_| MALFORMED_SPARSE)?;
    if dimensions > dimensions_max {
        return Err(Reason::OutOfRange("the dimensions that its schema holds (declare them: sparsevec(n))"));
    }
    binary::write_long(dimensions.into(), out);
    if !elements.is_empty() {
        binary::write_long(elements.split(',').count() as i64, out);
    }
    for element in elements.split(',').filter(|_| !elements.is_empty()) {
        let (index, value) = element.split_once(':').ok_or(MALFORMED_SPARSE)?;
        let index: i32 = index.parse().map_err(|_| MALFORMED_SPARSE)?;
        if !(1..=dimensions).contains(&index) {
            return Err(MALFORMED_SPARSE);
        }
        binary::write_long(index.into(), out);
        let value: f64 = value.parse().map_err(|_| MALFORMED_SPARSE)?;
        out.extend_from_slice(&value.to_le_bytes());
    }
    binary::write_long(0, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_as_pgvector_writes_them() {
        let mut out = Vec::new();
        write_floats(b"[1,-0.5]", &mut out).unwrap();
        assert_eq!(out, [&[4][..], &1_f32.to_le_bytes(), &(-0.5_f32).to_le_bytes(), &[0]].concat());
        out.clear();
        write_sparse16(b"{1:201,9:209}/3000", &mut out).unwrap();
        let expected =
            [&[0xf0, 0x2e, 4, 2][..], &201_f64.to_le_bytes(), &[18], &209_f64.to_le_bytes(), &[0]].concat();
        assert_eq!(out, expected);
        assert!(matches!(write_sparse16(b"{}/40000", &mut out), Err(Reason::OutOfRange(_))));
        out.clear();
        write_sparse32(b"{}/40000", &mut out).unwrap();
        assert_eq!(out, [0x80, 0xf1, 0x04, 0]);
        for wrong in ["", "[", "[1,]", "1,2", "[a]", "[1;2]"] {
            assert_eq!(write_doubles(wrong.as_bytes(), &mut Vec::new()), Err(MALFORMED), "{wrong}");
        }
        for wrong in ["", "{}", "{1:2}", "{1}/2", "{3:1}/2", "{0:1}/2", "{1:x}/2", "{1:1,}/2", "{}/-1x"] {
            assert_eq!(write_sparse32(wrong.as_bytes(), &mut Vec::new()), Err(MALFORMED_SPARSE), "{wrong}");
        }
    }
}
