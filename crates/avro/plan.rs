//! A table's description, compiled: its schemas and, per column, how bytes become bytes.
//!
//! Plans are built once per version of a table and then only read. [`KeyPlan`] writes a record's key,
//! [`ValuePlan`] its value (in `encode.rs`).

use headwater_pgoutput::{Column, Tuple};
use serde::{Deserialize, Serialize};

use crate::binary;
use crate::description::{ColumnDescription, PgType, TableDescription};
use crate::encode::SnapshotMark;
use crate::error::{EncodeError, Reason, SchemaError};
use crate::flat::{self, FlatPlan};
use crate::json;
use crate::json_form::JsonForm;
use crate::mask::{self, Masking};
use crate::record_settings::{Envelope, FlatDeletes, RecordEncoding, RecordSettings};
use crate::schema::{self, FORMAT_VERSION, Field};
use crate::types::{self, Encoding};

/// What every record says of its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// The topics' prefix, which is also the source's name.
    pub prefix: String,
    /// The database's name.
    pub database: String,
}

/// The number that a registry gave a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaId(pub u32);

/// The name under which a registry keeps the versions of a schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(pub String);

impl Subject {
    /// The subject of a topic's keys (the strategy that is named after topics).
    pub fn for_key(topic: &str) -> Subject {
        Subject(format!("{topic}-key"))
    }

    /// The subject of a topic's values.
    pub fn for_value(topic: &str) -> Subject {
        Subject(format!("{topic}-value"))
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a field's union has its null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NullBranch {
    /// The field is no union.
    None,
    /// `["null", T]`
    First,
    /// `[T, "null"]`: the default must be of the first branch.
    Last,
    /// `["null", T]`, of which no value is ever written.
    Always,
}

/// Columns whose type only the database knows, so that their values are text without a meaning of their own.
pub fn columns_of_unknown_types(table: &TableDescription) -> impl Iterator<Item = &ColumnDescription> {
    table.columns.iter().filter(|column| column.pg_type == PgType::Other)
}

/// One column: what its errors need and how its bytes become bytes.
#[derive(Debug, Clone)]
pub(crate) struct ColumnPlan {
    name: String,
    type_name: String,
    pub(crate) in_identity: bool,
    null: NullBranch,
    encoding: Encoding,
    /// Complete Avro bytes of the placeholder for an unchanged TOAST value, if the type has one.
    placeholder: Option<Vec<u8>>,
    /// What stands in `before` for a column that the old tuple doesn't carry; none if there is nothing.
    absent: Option<Vec<u8>>,
}

impl ColumnPlan {
    pub(crate) fn new(column: &ColumnDescription, field: &Field, records: &RecordSettings) -> ColumnPlan {
        ColumnPlan {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            in_identity: column.in_identity,
            null: field.null,
            encoding: field.row.encoding.clone(),
            placeholder: match field.masking.as_ref().and_then(mask::placeholder) {
                Some(masked) => Some(masked),
                None => types::placeholder(&field.row.unchanged, records),
            },
            absent: match field.null {
                NullBranch::First | NullBranch::Always => Some(vec![0]),
                NullBranch::Last => Some(vec![2]),
                NullBranch::None => field.made_up.clone(),
            },
        }
    }

    /// Appends the column's value with its union branch.
    #[inline]
    pub(crate) fn write(&self, column: Column<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match column {
            Column::Text(text) => {
                self.write_branch(out);
                self.encoding.write(text, out).map_err(|reason| self.error(reason))
            }
            Column::Null => self.write_null(out),
            Column::Unchanged => match &self.placeholder {
                Some(placeholder) => {
                    self.write_branch(out);
                    out.extend_from_slice(placeholder);
                    Ok(())
                }
                None => Err(EncodeError::UnchangedWithoutOldValue {
                    column: self.name.clone(),
                    type_name: self.type_name.clone(),
                }),
            },
            Column::Binary(_) => Err(self.error(Reason::BinaryFormat)),
        }
    }

    /// Appends what stands for a column that the old tuple doesn't carry.
    #[inline]
    pub(crate) fn write_absent(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match &self.absent {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            None => self.write_null(out),
        }
    }

    /// The branch of a value that isn't null.
    #[inline]
    fn write_branch(&self, out: &mut Vec<u8>) {
        match self.null {
            NullBranch::None => {}
            NullBranch::First => out.push(2),
            NullBranch::Last | NullBranch::Always => out.push(0),
        }
    }

    #[inline]
    fn write_null(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self.null {
            NullBranch::First | NullBranch::Always => out.push(0),
            NullBranch::Last => out.push(2),
            NullBranch::None => {
                return Err(EncodeError::UnexpectedNull {
                    column: self.name.clone(),
                    type_name: self.type_name.clone(),
                });
            }
        }
        Ok(())
    }

    #[cold]
    fn error(&self, reason: Reason) -> EncodeError {
        EncodeError::Value { column: self.name.clone(), type_name: self.type_name.clone(), reason }
    }
}

/// Fails if the tuple isn't of the described table.
#[inline]
pub(crate) fn check_len(tuple: &Tuple<'_>, expected: usize) -> Result<(), EncodeError> {
    if tuple.len() == expected {
        Ok(())
    } else {
        Err(EncodeError::ColumnCount { expected, found: tuple.len() })
    }
}

/// How a table's record keys are written.
#[derive(Debug, Clone)]
pub struct KeyPlan {
    schema_json: String,
    /// Key columns in key order, each with its place in the tuple.
    columns: Vec<(usize, ColumnPlan)>,
    /// The same columns for [`KeyPlan::write_json`].
    shown: Vec<ShownKeyColumn>,
    /// What stands behind the columns in each key of the table: which of a topic's tables it is.
    behind: Vec<u8>,
    tuple_len: usize,
    /// None for Avro.
    json: Option<Box<JsonForm>>,
}

/// A key column in a header.
#[derive(Debug, Clone)]
struct ShownKeyColumn {
    name: String,
    pg_type: PgType,
    masking: Option<Masking>,
}

impl KeyPlan {
    /// `None` if the table has no key: its records have none either.
    ///
    /// # Errors
    /// [`SchemaError`] if the key names columns that aren't there, if two of them get the same name, or if a mask
    /// would make keys alike.
    pub fn new(
        table: &TableDescription,
        source: &SourceSettings,
        records: &RecordSettings,
    ) -> Result<Option<KeyPlan>, SchemaError> {
        if table.key.is_empty() {
            return Ok(None);
        }
        let fields = schema::key_fields(table, records)?;
        let column =
            |field: &Field| (field.index, ColumnPlan::new(&table.columns[field.index], field, records));
        let shown = |field: &Field| ShownKeyColumn {
            name: field.name.clone(),
            pg_type: table.columns[field.index].pg_type.clone(),
            masking: field.masking.clone(),
        };
        let schema_json = schema::key_json(table, &fields, source, records);
        let mut behind = Vec::new();
        for (_, value) in &records.naming.key_fields {
            binary::write_bytes(value.as_bytes(), &mut behind);
        }
        Ok(Some(KeyPlan {
            behind,
            columns: fields.iter().map(column).collect(),
            shown: fields.iter().map(shown).collect(),
            tuple_len: table.columns.len(),
            json: json_form(&schema_json, records.key_encoding),
            schema_json,
        }))
    }

    /// The schema to register, if keys are Avro.
    pub fn schema_json(&self) -> &str {
        &self.schema_json
    }

    /// Whether keys are Avro, under the id of a registered schema.
    pub fn is_avro(&self) -> bool {
        self.json.is_none()
    }

    /// Appends the key of this tuple, Avro in the registry's wire format under this id.
    ///
    /// # Errors
    /// [`EncodeError`], and `out` is as it was: a key column that is null, absent or doesn't fit its type.
    pub fn encode_into(&self, id: SchemaId, tuple: &Tuple<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_with_old_into(id, tuple, None, out)
    }

    /// Like [`KeyPlan::encode_into`] for the new tuple of an update. A long key column that the update didn't touch
    /// can be an unchanged TOAST value; the server then sends the old tuple, which has it.
    ///
    /// # Errors
    /// As [`KeyPlan::encode_into`].
    pub fn encode_with_old_into(
        &self,
        id: SchemaId,
        tuple: &Tuple<'_>,
        old: Option<&Tuple<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        check_len(tuple, self.tuple_len)?;
        if let Some(json) = &self.json {
            let mut avro = Vec::new();
            self.write_columns(tuple, old, &mut avro)?;
            json.write(&avro, out);
            return Ok(());
        }
        let start = out.len();
        binary::write_header(id, out);
        let result = self.write_columns(tuple, old, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    #[inline]
    fn write_columns(
        &self,
        tuple: &Tuple<'_>,
        old: Option<&Tuple<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.columns
            .iter()
            .try_for_each(|(index, plan)| plan.write_key(key_column(*index, tuple, old), out))?;
        out.extend_from_slice(&self.behind);
        Ok(())
    }

    /// Whether any key column differs between the two, byte by byte. An unchanged TOAST value doesn't.
    pub fn changed(&self, old: &Tuple<'_>, new: &Tuple<'_>) -> bool {
        self.columns.iter().any(|(index, _)| match (old.column(*index), new.column(*index)) {
            (_, Some(Column::Unchanged)) => false,
            (old, new) => old != new,
        })
    }

    /// Appends the key's columns as a JSON object, `{"b":"b","a":3}`: the value of Debezium's headers
    /// `__debezium.newkey` and `__debezium.oldkey`, which are made before its router adds a field to the key.
    ///
    /// # Errors
    /// [`EncodeError`], and `out` is as it was.
    pub fn write_json(&self, tuple: &Tuple<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.write_json_with_old(tuple, None, out)
    }

    /// Like [`KeyPlan::write_json`] with the old tuple for unchanged TOAST values.
    ///
    /// # Errors
    /// As [`KeyPlan::write_json`].
    pub fn write_json_with_old(
        &self,
        tuple: &Tuple<'_>,
        old: Option<&Tuple<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        check_len(tuple, self.tuple_len)?;
        let start = out.len();
        out.push(b'{');
        for (position, ((index, plan), shown)) in self.columns.iter().zip(&self.shown).enumerate() {
            if position > 0 {
                out.push(b',');
            }
            json::write_string(shown.name.as_bytes(), out);
            out.push(b':');
            match key_column(*index, tuple, old) {
                Column::Text(text) => json::write_shown(&shown.pg_type, shown.masking.as_ref(), text, out),
                Column::Null => out.extend_from_slice(b"null"),
                other => {
                    out.truncate(start);
                    return Err(plan.no_key(other));
                }
            }
        }
        out.push(b'}');
        Ok(())
    }
}

impl ColumnPlan {
    /// A key is never a placeholder: rows would share it.
    #[inline]
    fn write_key(&self, column: Column<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match column {
            Column::Unchanged => Err(self.no_key(column)),
            column => self.write(column, out),
        }
    }

    #[cold]
    fn no_key(&self, column: Column<'_>) -> EncodeError {
        match column {
            Column::Binary(_) => self.error(Reason::BinaryFormat),
            _ => EncodeError::UnchangedWithoutOldValue {
                column: self.name.clone(),
                type_name: self.type_name.clone(),
            },
        }
    }
}

#[inline]
fn key_column<'a>(index: usize, tuple: &Tuple<'a>, old: Option<&Tuple<'a>>) -> Column<'a> {
    match tuple.column(index).unwrap_or(Column::Null) {
        Column::Unchanged => match old.and_then(|old| old.column(index)) {
            Some(value @ Column::Text(_)) => value,
            _ => Column::Unchanged,
        },
        column => column,
    }
}

/// How a table's record values are written.
#[derive(Debug, Clone)]
pub struct ValuePlan {
    schema_json: String,
    /// The columns that are written, in the order of the tuple.
    pub(crate) columns: Vec<ColumnPlan>,
    /// Their places in the tuple; none if they are all of them.
    pub(crate) chosen: Option<Vec<bool>>,
    pub(crate) tuple_len: usize,
    pub(crate) form: ValueForm,
    /// None for Avro.
    pub(crate) json: Option<Box<JsonForm>>,
    deletes: Deletes,
}

/// What a value is made of.
#[derive(Debug, Clone)]
pub(crate) enum ValueForm {
    /// Debezium's envelope.
    Envelope(Constants),
    /// The columns and metadata.
    Flat(FlatPlan),
}

/// The records of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletes {
    /// A record with a value.
    pub record: bool,
    /// A tombstone; `None` leaves it to the pipeline's setting.
    pub tombstone: Option<bool>,
}

/// The parts of a value that are the same in every record of a table, between the parts that differ.
#[derive(Debug, Clone)]
pub(crate) struct Constants {
    /// `version`, `connector`, `name`
    pub(crate) before_ts_ms: Vec<u8>,
    /// `snapshot`, `db`, and the branch of `sequence`; by mark
    pub(crate) before_sequence: [Vec<u8>; SnapshotMark::ALL.len()],
    /// `schema` and `table`
    pub(crate) before_tx_id: Vec<u8>,
}

impl ValuePlan {
    /// Compiles the description.
    ///
    /// # Errors
    /// [`SchemaError`] if two columns get the same name, or if something that was asked for has no form.
    pub fn new(
        table: &TableDescription,
        source: &SourceSettings,
        records: &RecordSettings,
    ) -> Result<ValuePlan, SchemaError> {
        let fields = schema::value_fields(table, records)?;
        let deletes = deletes(table, records)?;
        let schema_json = schema::value_json(table, &fields, source, records)?;
        let column = |field: &Field| ColumnPlan::new(&table.columns[field.index], field, records);
        let chosen = (fields.len() < table.columns.len()).then(|| {
            let is_chosen = |index: usize| fields.iter().any(|field| field.index == index);
            (0..table.columns.len()).map(is_chosen).collect()
        });
        Ok(ValuePlan {
            columns: fields.iter().map(column).collect(),
            chosen,
            tuple_len: table.columns.len(),
            form: match records.envelope {
                Envelope::Debezium => ValueForm::Envelope(Constants::new(table, source)),
                Envelope::Flat => {
                    ValueForm::Flat(FlatPlan::new(&table.schema, &table.table, source, records))
                }
            },
            json: json_form(&schema_json, records.value_encoding),
            deletes,
            schema_json,
        })
    }

    /// The schema to register, if values are Avro.
    pub fn schema_json(&self) -> &str {
        &self.schema_json
    }

    /// Whether values are Avro, under the id of a registered schema.
    pub fn is_avro(&self) -> bool {
        self.json.is_none()
    }

    /// Which records a delete has.
    pub fn deletes(&self) -> Deletes {
        self.deletes
    }
}

pub(crate) fn json_form(schema_json: &str, encoding: RecordEncoding) -> Option<Box<JsonForm>> {
    let with_schema = match encoding {
        RecordEncoding::Avro => return None,
        RecordEncoding::Json => false,
        RecordEncoding::JsonSchemaEnvelope => true,
    };
    Some(Box::new(JsonForm::new(schema_json, with_schema)))
}

/// A tombstone needs a key: a keyless table whose old rows are sent would lose its deletes.
fn deletes(table: &TableDescription, records: &RecordSettings) -> Result<Deletes, SchemaError> {
    if records.envelope == Envelope::Debezium {
        return Ok(Deletes { record: true, tombstone: None });
    }
    if records.flat_deletes == FlatDeletes::Tombstone && table.key.is_empty() && table.has_full_identity() {
        return Err(SchemaError::DeletesWithoutKey { table: schema::full_name(table) });
    }
    let tombstone =
        matches!(records.flat_deletes, FlatDeletes::Tombstone | FlatDeletes::RewriteWithTombstone);
    Ok(Deletes { record: flat::rewrites_deletes(records), tombstone: Some(tombstone) })
}

impl Constants {
    fn new(table: &TableDescription, source: &SourceSettings) -> Constants {
        let strings = |texts: &[&str]| {
            let mut bytes = Vec::new();
            texts.iter().for_each(|text| binary::write_bytes(text.as_bytes(), &mut bytes));
            bytes
        };
        let before_sequence = SnapshotMark::ALL.map(|mark| {
            let mut bytes = vec![0]; // snapshot: the string is the union's first branch
            bytes.extend(strings(&[mark.word(), &source.database]));
            bytes.push(2);
            bytes
        });
        Constants {
            before_ts_ms: strings(&[FORMAT_VERSION, "postgresql", &source.prefix]),
            before_sequence,
            before_tx_id: strings(&[&table.schema, &table.table]),
        }
    }
}
