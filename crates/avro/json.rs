//! Rows and changes as JSON, for people and for the line-based sinks. Not a wire format of Kafka records.
//!
//! A boolean and an integer of any size is a JSON scalar, so is a finite float (in Postgres' own digits); everything
//! else is a string with Postgres' text: numerics keep every digit, JSON documents keep their spelling, NaN and
//! infinities stay what they are. NULL is `null`. An unchanged TOAST value is left out of its row and named in a
//! list beside it. Text that isn't UTF-8 shows U+FFFD in the place of what can't be read.

use std::io::Write;

use headwater_pgoutput::{Column, Tuple};

use crate::description::{ColumnDescription, PgType, TableDescription};
use crate::encode::{Change, SnapshotMark};
use crate::error::SchemaError;
use crate::mask::{self, Masking};
use crate::record_settings::RecordSettings;
use crate::schema;

/// How the rows of a table become lines: which columns they show, under which names, and what hides values.
#[derive(Debug, Clone)]
pub struct LinePlan {
    /// One per column of the tuple; none for what is left out.
    columns: Vec<Option<LineColumn>>,
}

#[derive(Debug, Clone)]
struct LineColumn {
    name: String,
    masking: Option<Masking>,
}

impl LinePlan {
    /// Compiles the choices of columns; forms and envelopes have no meaning for lines.
    ///
    /// # Errors
    /// [`SchemaError`] if a mask has no form for its column.
    pub fn new(table: &TableDescription, records: &RecordSettings) -> Result<LinePlan, SchemaError> {
        let column = |column: &ColumnDescription| {
            if !records.columns_include.cover(&column.name) || records.columns_exclude.cover(&column.name) {
                return Ok(None);
            }
            let masking = match records.masks.of(&column.name) {
                None => None,
                Some(mask) => {
                    let masking = Masking::new(mask, &column.pg_type, &records.mask_salt);
                    Some(masking.ok_or_else(|| SchemaError::MaskOfType {
                        table: schema::full_name(table),
                        column: column.name.clone(),
                        type_name: column.type_name.clone(),
                    })?)
                }
            };
            Ok(Some(LineColumn { name: records.renames.of(&column.name).to_owned(), masking }))
        };
        Ok(LinePlan { columns: table.columns.iter().map(column).collect::<Result<_, _>>()? })
    }

    /// All columns as they are.
    pub fn whole(table: &TableDescription) -> LinePlan {
        let column =
            |column: &ColumnDescription| Some(LineColumn { name: column.name.clone(), masking: None });
        LinePlan { columns: table.columns.iter().map(column).collect() }
    }

    /// Appends one line without the line feed:
    /// `{"op":"u","before":{…},"after":{…},"source":{"schema":…,"table":…,"ts_us":…,"commit_lsn":"0/1","lsn":"0/1","txId":1}}`.
    ///
    /// `before` has the columns that the old tuple really carries: only the replica identity's unless it is full.
    /// `source` ends with `origin` and `origin_lsn` if the transaction came from elsewhere. That of a row which was
    /// read is `{"schema":…,"table":…,"snapshot":"true","ts_us":…,"lsn":"0/1"}`.
    pub fn write(&self, table: &TableDescription, change: &Change<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(change.op.code().as_bytes());
        out.extend_from_slice(b"\",\"before\":");
        match change.before {
            Some(before) => {
                let carries = |index: usize| change.before_is_full || table.columns[index].in_identity;
                self.write_row(table, before, carries, out);
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        match change.after {
            Some(after) => self.write_row(table, after, |_| true, out),
            None => out.extend_from_slice(b"null"),
        }
        write_source(table, change, out);
    }

    fn write_row(
        &self,
        table: &TableDescription,
        tuple: &Tuple<'_>,
        carries: impl Fn(usize) -> bool,
        out: &mut Vec<u8>,
    ) {
        out.push(b'{');
        let start = out.len();
        let separate = |out: &mut Vec<u8>| {
            if out.len() > start {
                out.push(b',');
            }
        };
        let mut unchanged = Vec::new();
        let columns = self.columns.iter().zip(tuple.columns()).zip(&table.columns).enumerate();
        for (index, ((shown, column), described)) in columns {
            let Some(shown) = shown.as_ref().filter(|_| carries(index)) else { continue };
            if column == Column::Unchanged {
                unchanged.push(shown.name.as_str());
                continue;
            }
            separate(out);
            write_string(shown.name.as_bytes(), out);
            out.push(b':');
            match column {
                Column::Text(text) => write_shown(&described.pg_type, shown.masking.as_ref(), text, out),
                Column::Binary(bytes) => write_string(bytes, out),
                Column::Null | Column::Unchanged => out.extend_from_slice(b"null"),
            }
        }
        if !unchanged.is_empty() {
            separate(out);
            out.extend_from_slice(b"\"unchanged\":[");
            for (position, name) in unchanged.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_string(name.as_bytes(), out);
            }
            out.push(b']');
        }
        out.push(b'}');
    }
}

/// Appends `{"column":value,…}`. If a column's value is an unchanged TOAST one, the object is
/// `{"column":value,…,"unchanged":["column",…]}` without those columns.
pub fn write_json_row(table: &TableDescription, tuple: &Tuple<'_>, out: &mut Vec<u8>) {
    LinePlan::whole(table).write_row(table, tuple, |_| true, out);
}

/// Appends one line as [`LinePlan::write`] does, of the whole row as it is.
pub fn write_json_change(table: &TableDescription, change: &Change<'_>, out: &mut Vec<u8>) {
    LinePlan::whole(table).write(table, change, out);
}

fn write_source(table: &TableDescription, change: &Change<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"source\":{\"schema\":");
    write_string(table.schema.as_bytes(), out);
    out.extend_from_slice(b",\"table\":");
    write_string(table.table.as_bytes(), out);
    let source = change.source;
    match source.snapshot {
        SnapshotMark::None => write_formatted(
            format_args!(
                r#","ts_us":{},"commit_lsn":"{}","lsn":"{}","txId":{}"#,
                source.commit_unix_micros, source.commit_lsn, source.lsn, source.xid
            ),
            out,
        ),
        mark => write_formatted(
            format_args!(
                r#","snapshot":"{}","ts_us":{},"lsn":"{}""#,
                mark.word(),
                source.commit_unix_micros,
                source.lsn
            ),
            out,
        ),
    }
    if let Some((name, lsn)) = source.origin {
        out.extend_from_slice(b",\"origin\":");
        write_string(name.as_bytes(), out);
        write_formatted(format_args!(r#","origin_lsn":"{lsn}""#), out);
    }
    out.extend_from_slice(b"}}");
}

/// Appends one value, or what its mask makes of it.
pub(crate) fn write_shown(pg_type: &PgType, masking: Option<&Masking>, text: &[u8], out: &mut Vec<u8>) {
    match masking {
        None => write_value(pg_type, text, out),
        Some(masking) => match mask::masked_text(masking, text) {
            Some(masked) => write_string(&masked, out),
            None => out.extend_from_slice(b"null"),
        },
    }
}

/// Appends one value, a JSON scalar where that loses nothing.
pub(crate) fn write_value(pg_type: &PgType, text: &[u8], out: &mut Vec<u8>) {
    let scalar = match pg_type {
        PgType::Bool => match text {
            b"t" => Some(&b"true"[..]),
            b"f" => Some(&b"false"[..]),
            _ => None,
        },
        PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid | PgType::Float4 | PgType::Float8 => {
            is_json_number(text).then_some(text)
        }
        _ => None,
    };
    match scalar {
        Some(scalar) => out.extend_from_slice(scalar),
        None => write_string(text, out),
    }
}

/// `-?digits(.digits)?(e[+-]?digits)?` without a superfluous zero in front (RFC 8259, section 6).
fn is_json_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (mantissa, exponent) = match unsigned.iter().position(|&byte| byte == b'e') {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let (integer, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
        Some(at) => (&mantissa[..at], Some(&mantissa[at + 1..])),
        None => (mantissa, None),
    };
    digits(integer)
        && (integer.len() == 1 || integer[0] != b'0')
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| match exponent {
            [b'+' | b'-', rest @ ..] => digits(rest),
            rest => digits(rest),
        })
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        write_escaped(chunk.valid(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            // Jackson's spelling: the bytes of a JSON key decide its partition.
            _ => write_formatted(format_args!("\\u{byte:04X}"), out),
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
}

fn write_formatted(text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(pg_type: PgType, text: &str) -> String {
        let mut out = Vec::new();
        write_value(&pg_type, text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn scalars_where_nothing_is_lost() {
        for (pg_type, text, json) in [
            (PgType::Bool, "t", "true"),
            (PgType::Int8, "-9223372036854775808", "-9223372036854775808"),
            (PgType::Float8, "1e+20", "1e+20"),
            (PgType::Float8, "-0", "-0"),
            (PgType::Float8, "NaN", "\"NaN\""),
            (PgType::Float4, "Infinity", "\"Infinity\""),
            (PgType::NumericUnconstrained, "1.10", "\"1.10\""),
            (PgType::Json, "{\"a\": 1}", "\"{\\\"a\\\": 1}\""),
            (PgType::Text, "a\n\u{1}ü", "\"a\\n\\u0001ü\""),
            (PgType::Int4, "01", "\"01\""),
            (PgType::Int4, "", "\"\""),
        ] {
            assert_eq!(value(pg_type, text), json);
            assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{json}");
        }
    }
}
