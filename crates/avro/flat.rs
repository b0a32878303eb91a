//! The flat envelope: a row's columns and, behind them, chosen fields of Debezium's envelope, as its transform
//! ExtractNewRecordState leaves them.
//!
//! ```text
//! the columns | __deleted "false" or "true", where deletes are rewritten | the metadata fields, each nullable
//! ```

use crate::binary;
use crate::encode::{Change, Op, SnapshotMark, signed, write_read_sequence, write_sequence};
use crate::plan::SourceSettings;
use crate::record_settings::{FlatDeletes, RecordSettings};
use crate::schema::FORMAT_VERSION;

/// Fields of Debezium's envelope and source, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataFields(pub Vec<MetadataField>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataField {
    /// Its name without the prefix: `source.ts_ms` becomes `source_ts_ms`.
    name: String,
    content: Content,
}

/// What a metadata field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Op,
    Version,
    Connector,
    Name,
    Snapshot,
    Database,
    Schema,
    Table,
    Sequence,
    TxId,
    Lsn,
    Xmin,
    Origin,
    OriginLsn,
    Millis,
    Micros,
    Nanos,
}

const SOURCE_FIELDS: &[(&str, Content)] = &[
    ("version", Content::Version),
    ("connector", Content::Connector),
    ("name", Content::Name),
    ("ts_ms", Content::Millis),
    ("snapshot", Content::Snapshot),
    ("db", Content::Database),
    ("sequence", Content::Sequence),
    ("ts_us", Content::Micros),
    ("ts_ns", Content::Nanos),
    ("schema", Content::Schema),
    ("table", Content::Table),
    ("txId", Content::TxId),
    ("lsn", Content::Lsn),
    ("xmin", Content::Xmin),
    ("origin", Content::Origin),
    ("origin_lsn", Content::OriginLsn),
];

impl MetadataField {
    /// Reads `op`, `table`, `source.ts_ms`, or with a new name behind a colon `op:operation`, as Debezium's
    /// `add.fields`.
    ///
    /// # Errors
    /// Says which fields there are.
    pub fn parse(text: &str) -> Result<MetadataField, String> {
        let (field, new_name) = match text.split_once(':') {
            Some((field, name)) => (field, Some(name)),
            None => (text, None),
        };
        let in_source = field.strip_prefix("source.").unwrap_or(field);
        let content = match SOURCE_FIELDS.iter().find(|(name, _)| *name == in_source) {
            Some((_, content)) => *content,
            None if field == "op" => Content::Op,
            None => {
                let known: Vec<_> = SOURCE_FIELDS.iter().map(|(name, _)| *name).collect();
                return Err(format!("\"{field}\" is no metadata field; there are op, {}", known.join(", ")));
            }
        };
        let name = new_name.map_or_else(|| field.replace('.', "_"), str::to_owned);
        Ok(MetadataField { name, content })
    }
}

impl Content {
    fn avro(self) -> &'static str {
        match self {
            Content::TxId
            | Content::Lsn
            | Content::Xmin
            | Content::OriginLsn
            | Content::Millis
            | Content::Micros
            | Content::Nanos => "long",
            _ => "string",
        }
    }
}

/// What stands behind the columns.
#[derive(Debug, Clone)]
pub(crate) struct FlatPlan {
    says_deleted: bool,
    pieces: Vec<Piece>,
}

/// A metadata field with its union branch.
#[derive(Debug, Clone)]
enum Piece {
    /// The same in every record of the table.
    Constant(Vec<u8>),
    Varying(Content),
}

/// Name and Avro type of each field behind the columns.
pub(crate) fn fields(records: &RecordSettings) -> Vec<(String, &'static str)> {
    let name = |name: &str| format!("{}{name}", records.metadata_prefix);
    let deleted = rewrites_deletes(records).then(|| (name("deleted"), "string"));
    let metadata = records.metadata_fields.0.iter().map(|field| (name(&field.name), field.content.avro()));
    deleted.into_iter().chain(metadata).collect()
}

/// Whether a delete is a row.
pub(crate) fn rewrites_deletes(records: &RecordSettings) -> bool {
    matches!(records.flat_deletes, FlatDeletes::Rewrite | FlatDeletes::RewriteWithTombstone)
}

impl FlatPlan {
    pub(crate) fn new(
        schema: &str,
        table: &str,
        source: &SourceSettings,
        records: &RecordSettings,
    ) -> FlatPlan {
        let piece = |content: Content| match content {
            Content::Version => constant(FORMAT_VERSION),
            Content::Connector => constant("postgresql"),
            Content::Name => constant(&source.prefix),
            Content::Database => constant(&source.database),
            Content::Schema => constant(schema),
            Content::Table => constant(table),
            Content::Xmin => Piece::Constant(vec![NULL]),
            varying => Piece::Varying(varying),
        };
        let pieces = records.metadata_fields.0.iter().map(|field| piece(field.content)).collect();
        FlatPlan { says_deleted: rewrites_deletes(records), pieces }
    }

    pub(crate) fn write(&self, change: &Change<'_>, out: &mut Vec<u8>) {
        if self.says_deleted {
            write_text(if change.op == Op::Delete { "true" } else { "false" }, out);
        }
        let source = change.source;
        for piece in &self.pieces {
            match piece {
                Piece::Constant(bytes) => out.extend_from_slice(bytes),
                Piece::Varying(content) => match content {
                    Content::Op => write_text(change.op.code(), out),
                    Content::Snapshot => write_text(source.snapshot.word(), out),
                    Content::Sequence => {
                        out.push(VALUE);
                        match source.snapshot {
                            SnapshotMark::None => write_sequence(source.commit_lsn, source.lsn, out),
                            _ => write_read_sequence(source.lsn, out),
                        }
                    }
                    Content::TxId => {
                        write_nullable(source.shown_xid(), |xid, out| write_number(i64::from(xid), out), out)
                    }
                    Content::Lsn => {
                        write_nullable(source.shown_lsn(), |lsn, out| write_number(signed(lsn), out), out)
                    }
                    Content::Millis => write_number(source.commit_unix_micros.div_euclid(1000), out),
                    Content::Micros => write_number(source.commit_unix_micros, out),
                    Content::Nanos => write_number(source.commit_unix_micros.saturating_mul(1000), out),
                    Content::Origin => {
                        write_nullable(source.origin, |(name, _), out| write_text(name, out), out)
                    }
                    Content::OriginLsn => {
                        write_nullable(source.origin, |(_, lsn), out| write_number(signed(lsn), out), out)
                    }
                    _ => out.push(NULL),
                },
            }
        }
    }
}

const NULL: u8 = 0;
const VALUE: u8 = 2;

fn constant(text: &str) -> Piece {
    let mut bytes = Vec::new();
    write_text(text, &mut bytes);
    Piece::Constant(bytes)
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(VALUE);
    binary::write_bytes(text.as_bytes(), out);
}

fn write_number(number: i64, out: &mut Vec<u8>) {
    out.push(VALUE);
    binary::write_long(number, out);
}

fn write_nullable<T>(value: Option<T>, write: impl Fn(T, &mut Vec<u8>), out: &mut Vec<u8>) {
    match value {
        Some(value) => write(value, out),
        None => out.push(NULL),
    }
}
