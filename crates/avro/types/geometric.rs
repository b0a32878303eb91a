//! Postgres' geometric types as Debezium's structs: coordinates, or well-known binary (OGC 06-103r4, section 8.2)
//! with a label of the type.
//!
//! ```text
//! point (x,y)   line {a,b,c}   lseg [(x,y),(x,y)]   box (x,y),(x,y)   circle <(x,y),r>
//! path [(x,y),…] open, ((x,y),…) closed   polygon ((x,y),…)
//!
//! Point    { x, y, wkb?, srid? = null }        Circle { center: Point, radius }        Line { a, b, c }
//! Geometry { wkb, srid? = null, extensions? }
//! wkb      01 | type, 4 bytes | counts, 4 bytes each | pairs of doubles, the lowest byte first throughout
//! ```

use crate::binary;
use crate::error::Reason;

type Coordinates = (f64, f64);

const WKB_POINT: u32 = 1;
const WKB_LINE_STRING: u32 = 2;
const WKB_POLYGON: u32 = 3;

/// Branches of a union, as Avro writes their index.
const NULL: u8 = 0;
const VALUE: u8 = 2;

/// `Point`
pub(super) fn write_point(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let point = parser.point().filter(|_| parser.rest.is_empty()).ok_or(Reason::Malformed("a point"))?;
    put_point(point, out);
    Ok(())
}

/// `Line`
pub(super) fn write_line(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let mut coefficients = || {
        parser.expect(b'{')?;
        let a = parser.number()?;
        parser.expect(b',')?;
        let b = parser.number()?;
        parser.expect(b',')?;
        let c = parser.number()?;
        parser.expect(b'}')?;
        parser.rest.is_empty().then_some([a, b, c])
    };
    for coefficient in coefficients().ok_or(Reason::Malformed("a line"))? {
        out.extend_from_slice(&coefficient.to_le_bytes());
    }
    Ok(())
}

/// `Circle`
pub(super) fn write_circle(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let mut circle = || {
        parser.expect(b'<')?;
        let center = parser.point()?;
        parser.expect(b',')?;
        let radius = parser.number()?;
        parser.expect(b'>')?;
        parser.rest.is_empty().then_some((center, radius))
    };
    let (center, radius) = circle().ok_or(Reason::Malformed("a circle"))?;
    put_point(center, out);
    out.extend_from_slice(&radius.to_le_bytes());
    Ok(())
}

/// `Geometry`: a line string of two points.
pub(super) fn write_lseg(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let points = parser.enclosed(b'[', b']').filter(|points| points.len() == 2);
    let points = points.ok_or(Reason::Malformed("a line segment"))?;
    put_geometry(WKB_LINE_STRING, &points, &[("type", "lseg")], out);
    Ok(())
}

/// `Geometry`: a polygon, from the first corner to the other over the first one's x, and back.
pub(super) fn write_box(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let points = parser.points().filter(|_| parser.rest.is_empty());
    let Some(&[(x1, y1), (x2, y2)]) = points.as_deref() else { return Err(Reason::Malformed("a box")) };
    let ring = [(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)];
    put_geometry(WKB_POLYGON, &ring, &[("type", "box")], out);
    Ok(())
}

/// `Geometry`: a line string; whether the path is closed stands in the extensions.
pub(super) fn write_path(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let (points, closed) = match text.first() {
        Some(b'[') => (parser.enclosed(b'[', b']'), "false"),
        _ => (parser.enclosed(b'(', b')'), "true"),
    };
    let points = points.ok_or(Reason::Malformed("a path"))?;
    put_geometry(WKB_LINE_STRING, &points, &[("type", "path"), ("closed", closed)], out);
    Ok(())
}

/// `Geometry`: a polygon, whose ring is closed.
pub(super) fn write_polygon(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut parser = Parser { rest: text };
    let mut points = parser.enclosed(b'(', b')').ok_or(Reason::Malformed("a polygon"))?;
    if points.len() >= 2 && points.first() != points.last() {
        points.push(points[0]);
    }
    put_geometry(WKB_POLYGON, &points, &[("type", "polygon")], out);
    Ok(())
}

fn put_point((x, y): Coordinates, out: &mut Vec<u8>) {
    out.extend_from_slice(&x.to_le_bytes());
    out.extend_from_slice(&y.to_le_bytes());
    out.push(VALUE);
    binary::write_long(1 + 4 + 16, out);
    out.push(1);
    out.extend_from_slice(&WKB_POINT.to_le_bytes());
    out.extend_from_slice(&x.to_le_bytes());
    out.extend_from_slice(&y.to_le_bytes());
    out.push(NULL); // srid
}

fn put_geometry(kind: u32, points: &[Coordinates], extensions: &[(&str, &str)], out: &mut Vec<u8>) {
    let rings = if kind == WKB_POLYGON { 4 } else { 0 };
    binary::write_long((1 + 4 + rings + 4 + 16 * points.len()) as i64, out);
    out.push(1);
    out.extend_from_slice(&kind.to_le_bytes());
    if kind == WKB_POLYGON {
        out.extend_from_slice(&1_u32.to_le_bytes());
    }
    // A field has at most a gigabyte, so far fewer points than 2^32.
    out.extend_from_slice(&(points.len() as u32).to_le_bytes());
    for (x, y) in points {
        out.extend_from_slice(&x.to_le_bytes());
        out.extend_from_slice(&y.to_le_bytes());
    }
    out.push(NULL); // srid
    out.push(VALUE);
    binary::write_long(extensions.len() as i64, out);
    for (key, value) in extensions {
        binary::write_bytes(key.as_bytes(), out);
        binary::write_bytes(value.as_bytes(), out);
    }
    binary::write_long(0, out);
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    fn number(&mut self) -> Option<f64> {
        let end = self
            .rest
            .iter()
            .position(|byte| matches!(byte, b',' | b')' | b']' | b'}' | b'>'))
            .unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    fn point(&mut self) -> Option<Coordinates> {
        self.expect(b'(')?;
        let x = self.number()?;
        self.expect(b',')?;
        let y = self.number()?;
        self.expect(b')')?;
        Some((x, y))
    }

    fn points(&mut self) -> Option<Vec<Coordinates>> {
        let mut points = vec![self.point()?];
        while let Some(rest) = self.rest.strip_prefix(b",") {
            self.rest = rest;
            points.push(self.point()?);
        }
        Some(points)
    }

    /// Points between brackets that are the whole text.
    fn enclosed(&mut self, open: u8, close: u8) -> Option<Vec<Coordinates>> {
        self.expect(open)?;
        let points = self.points()?;
        self.expect(close)?;
        self.rest.is_empty().then_some(points)
    }
}
