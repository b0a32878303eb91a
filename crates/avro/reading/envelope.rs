//! Debezium's envelope and key, read by a plan that was made once per pair of schema and table.
//!
//! ```text
//! Envelope { before: Value?, after: Value?, source: Source, transaction?, op: string, ts_ms, … }
//! Source   { …, snapshot: string, sequence: string?, lsn: long?, … }
//! Key      { column, … }
//! ```

use std::sync::Arc;

use super::cell::{Cell, PgColumnType, Unreadable};
use super::created_type::created_type;
use super::cursor::{Cursor, ReadError};
use super::schema_tree::{Node, RecordShape, Shape, skip};

/// A field that could be a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedColumn {
    /// Its name in the schema.
    pub name: String,
    /// The type to create it with, as SQL has it, or why there is none.
    pub created_type: Result<String, Unreadable>,
    /// The length that the source declared, where the producer says so.
    pub declared_length: Option<i64>,
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOp {
    /// `c`
    Create,
    /// `u`
    Update,
    /// `d`
    Delete,
    /// `r`, read by a snapshot.
    Read,
    /// `t`
    Truncate,
    /// Any other, such as `m`.
    Other,
}

/// Where a change stood in its source, as far as its record says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceMark {
    /// `lsn`.
    pub lsn: Option<u64>,
    /// `sequence`: the position of the last commit before it, and its own.
    pub sequence: (Option<u64>, Option<u64>),
    /// `ts_us`, or `ts_ms` in microseconds: the time of the commit.
    pub micros: Option<i64>,
}

/// What an envelope said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadChange {
    /// The operation.
    pub op: ChangeOp,
    /// Whether `after` was there, and so its columns were written.
    pub has_row: bool,
    /// The source's block.
    pub source: SourceMark,
}

/// The schema of a topic's values.
#[derive(Debug)]
pub struct EnvelopeReader {
    envelope: Arc<RecordShape>,
    row: Arc<RecordShape>,
}

impl EnvelopeReader {
    /// Takes the registry's schema.
    ///
    /// # Errors
    /// It is none, or none of an envelope.
    pub fn parse(json: &str) -> Result<EnvelopeReader, Unreadable> {
        let no_envelope = || {
            Unreadable::new(
                "the schema is not that of Debezium's envelope (fields before, after, source and op); \
                 apply reads envelope = \"debezium\"",
            )
        };
        let Node { shape: Shape::Record(envelope), .. } = Node::parse(json)? else {
            return Err(no_envelope());
        };
        let field = |name: &str| envelope.fields.iter().find(|field| field.name == name);
        let after = field("after").ok_or_else(no_envelope)?.node.without_null()?.0;
        let Shape::Record(row) = &after.shape else { return Err(no_envelope()) };
        let is_text = |name: &str| field(name).is_some_and(|field| matches!(field.node.shape, Shape::Text));
        if !is_text("op") {
            return Err(no_envelope());
        }
        Ok(EnvelopeReader { row: row.clone(), envelope })
    }

    /// The schema's full name.
    pub fn name(&self) -> &str {
        &self.envelope.name
    }

    /// The row's fields in their order.
    pub fn columns(&self) -> Vec<OfferedColumn> {
        offered(&self.row)
    }

    /// A plan; of each field the column it goes to, or none to leave it out.
    ///
    /// # Errors
    /// A form that the column can't hold.
    pub fn plan(
        &self,
        columns: &[Option<PgColumnType>],
        placeholder: &str,
    ) -> Result<EnvelopePlan, Unreadable> {
        let row = row_steps(&self.row, columns, Some(placeholder))?;
        let mut row = Some(row);
        let mut steps = Vec::new();
        for field in &self.envelope.fields {
            let node = &field.node;
            steps.push(
                match (field.name.as_str(), &node.without_null().map(|(inner, null)| (&inner.shape, null))) {
                    ("after", Ok((_, null))) => {
                        Step::After { null: *null, row: row.take().unwrap_or_default() }
                    }
                    ("op", _) => Step::Op,
                    ("source", Ok((Shape::Record(source), None))) => {
                        Step::Source { fields: source_steps(source), whole: node.clone() }
                    }
                    _ => Step::Skip(node.clone()),
                },
            );
        }
        Ok(EnvelopePlan { steps })
    }
}

fn offered(record: &RecordShape) -> Vec<OfferedColumn> {
    let column = |field: &super::schema_tree::FieldShape| OfferedColumn {
        name: field.name.clone(),
        created_type: created_type(&field.node).map_err(|why| why.of_field(&field.name)),
        declared_length: field.node.without_null().ok().and_then(|(node, _)| node.source_length),
    };
    record.fields.iter().map(column).collect()
}

fn row_steps(
    record: &RecordShape,
    columns: &[Option<PgColumnType>],
    placeholder: Option<&str>,
) -> Result<Vec<RowStep>, Unreadable> {
    let mut steps = Vec::new();
    for (index, field) in record.fields.iter().enumerate() {
        let take = match columns.get(index).and_then(Option::as_ref) {
            None => Take::Skip(field.node.clone()),
            Some(column) => {
                let cell = Cell::new(&field.node, column).map_err(|why| why.of_field(&field.name))?;
                let placeholder = placeholder.and_then(|text| cell.placeholder(text));
                Take::Write { cell, placeholder }
            }
        };
        steps.push(RowStep { name: field.name.clone(), take });
    }
    Ok(steps)
}

fn source_steps(source: &RecordShape) -> Vec<SourceStep> {
    let step = |field: &super::schema_tree::FieldShape| {
        let parts = field.node.without_null();
        match (field.name.as_str(), parts.map(|(inner, null)| (&inner.shape, null))) {
            ("lsn", Ok((Shape::Long, null))) => SourceStep::Lsn(null),
            ("sequence", Ok((Shape::Text, null))) => SourceStep::Sequence(null),
            ("ts_ms", Ok((Shape::Long, null))) => SourceStep::Millis(null),
            _ => SourceStep::Skip(field.node.clone()),
        }
    };
    source.fields.iter().map(step).collect()
}

#[derive(Debug)]
enum Step {
    Skip(Node),
    After { null: Option<i64>, row: Vec<RowStep> },
    Source { fields: Vec<SourceStep>, whole: Node },
    Op,
}

#[derive(Debug)]
struct RowStep {
    name: String,
    take: Take,
}

#[derive(Debug)]
enum Take {
    Skip(Node),
    Write { cell: Cell, placeholder: Option<Vec<u8>> },
}

#[derive(Debug)]
enum SourceStep {
    Skip(Node),
    Lsn(Option<i64>),
    Sequence(Option<i64>),
    Millis(Option<i64>),
}

/// Reads the envelopes of one schema for one table.
#[derive(Debug)]
pub struct EnvelopePlan {
    steps: Vec<Step>,
}

impl EnvelopePlan {
    /// Reads one envelope: appends the chosen columns of `after` to `line`, tabs between them, and to `unchanged` the
    /// places of those among them that hold the placeholder. The source's block is passed over unless it is wanted.
    ///
    /// # Errors
    /// [`ReadError`]; what was appended is then worth nothing.
    pub fn read(
        &self,
        body: &[u8],
        wants_source: bool,
        line: &mut Vec<u8>,
        unchanged: &mut Vec<u16>,
    ) -> Result<ReadChange, ReadError> {
        let mut cursor = Cursor::new(body);
        let mut change = ReadChange { op: ChangeOp::Other, has_row: false, source: SourceMark::default() };
        for step in &self.steps {
            match step {
                Step::Skip(node) => skip(node, &mut cursor)?,
                Step::After { null, row } => {
                    if is_present(*null, &mut cursor)? {
                        change.has_row = true;
                        read_row(row, &mut cursor, line, unchanged)?;
                    }
                }
                Step::Source { whole, .. } if !wants_source => skip(whole, &mut cursor)?,
                Step::Source { fields, .. } => change.source = read_source(fields, &mut cursor)?,
                Step::Op => change.op = op(cursor.bytes()?),
            }
        }
        if cursor.is_empty() { Ok(change) } else { Err(ReadError::new(TRAILING)) }
    }
}

const TRAILING: &str = "goes on behind what its schema describes";

fn op(text: &[u8]) -> ChangeOp {
    match text {
        b"c" => ChangeOp::Create,
        b"u" => ChangeOp::Update,
        b"d" => ChangeOp::Delete,
        b"r" => ChangeOp::Read,
        b"t" => ChangeOp::Truncate,
        _ => ChangeOp::Other,
    }
}

fn is_present(null: Option<i64>, cursor: &mut Cursor<'_>) -> Result<bool, ReadError> {
    Ok(match null {
        None => true,
        Some(null) => cursor.long()? != null,
    })
}

fn read_row(
    row: &[RowStep],
    cursor: &mut Cursor<'_>,
    line: &mut Vec<u8>,
    unchanged: &mut Vec<u16>,
) -> Result<(), ReadError> {
    let mut scratch = Vec::new();
    let mut written = 0u16;
    for RowStep { name, take } in row {
        match take {
            Take::Skip(node) => skip(node, cursor).map_err(|error| error.in_column(name))?,
            Take::Write { cell, placeholder } => {
                if written > 0 {
                    line.push(b'\t');
                }
                let start = line.len();
                cell.write(cursor, &mut scratch, line).map_err(|error| error.in_column(name))?;
                if placeholder.as_ref().is_some_and(|placeholder| line[start..] == placeholder[..]) {
                    unchanged.push(written);
                }
                written += 1;
            }
        }
    }
    Ok(())
}

fn read_source(fields: &[SourceStep], cursor: &mut Cursor<'_>) -> Result<SourceMark, ReadError> {
    let mut mark = SourceMark::default();
    for field in fields {
        match field {
            SourceStep::Skip(node) => skip(node, cursor)?,
            SourceStep::Lsn(null) => {
                if is_present(*null, cursor)? {
                    mark.lsn = Some(cursor.long()? as u64);
                }
            }
            SourceStep::Sequence(null) => {
                if is_present(*null, cursor)? {
                    mark.sequence = sequence(cursor.text()?);
                }
            }
            SourceStep::Millis(null) => {
                if is_present(*null, cursor)? {
                    mark.micros = cursor.long()?.checked_mul(1000);
                }
            }
        }
    }
    Ok(mark)
}

/// `["2195443168","2195443360"]`, the first of which may be null.
fn sequence(text: &str) -> (Option<u64>, Option<u64>) {
    let parts: Vec<Option<String>> = serde_json::from_str(text).unwrap_or_default();
    let part = |index: usize| parts.get(index).and_then(Option::as_deref).and_then(|part| part.parse().ok());
    (part(0), part(1))
}

/// The schema of a topic's keys.
#[derive(Debug)]
pub struct KeyReader {
    key: Arc<RecordShape>,
}

impl KeyReader {
    /// Takes the registry's schema.
    ///
    /// # Errors
    /// It is none, or none of a record.
    pub fn parse(json: &str) -> Result<KeyReader, Unreadable> {
        match Node::parse(json)?.shape {
            Shape::Record(key) => Ok(KeyReader { key }),
            _ => Err(Unreadable::new("the key's schema is not a record of columns")),
        }
    }

    /// Its fields in their order.
    pub fn columns(&self) -> Vec<OfferedColumn> {
        offered(&self.key)
    }

    /// A plan; of each field the column it goes to, or none to leave it out.
    ///
    /// # Errors
    /// A form that the column can't hold.
    pub fn plan(&self, columns: &[Option<PgColumnType>]) -> Result<KeyPlanReader, Unreadable> {
        Ok(KeyPlanReader { fields: row_steps(&self.key, columns, None)? })
    }
}

/// Reads the keys of one schema for one table.
#[derive(Debug)]
pub struct KeyPlanReader {
    fields: Vec<RowStep>,
}

impl KeyPlanReader {
    /// Appends the key's columns to `line`, tabs between them.
    ///
    /// # Errors
    /// [`ReadError`]; what was appended is then worth nothing.
    pub fn read(&self, body: &[u8], line: &mut Vec<u8>) -> Result<(), ReadError> {
        let mut cursor = Cursor::new(body);
        read_row(&self.fields, &mut cursor, line, &mut Vec::new())?;
        if cursor.is_empty() { Ok(()) } else { Err(ReadError::new(TRAILING)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        for (text, expected) in [
            (r#"["12","34"]"#, (Some(12), Some(34))),
            (r#"[null,"34"]"#, (None, Some(34))),
            ("[]", (None, None)),
            ("what", (None, None)),
        ] {
            assert_eq!(sequence(text), expected);
        }
    }
}
