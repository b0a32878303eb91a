//! What can go wrong with a table's schema or with one row. No message ever quotes a value.

use thiserror::Error;

/// A table that has no Avro schema. It halts the pipeline before the first record of that table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchemaError {
    /// Two columns get the same Avro name.
    #[error("columns \"{first}\" and \"{second}\" of {table} both become \"{adjusted}\" in Avro; rename one")]
    NamesCollide {
        /// `schema.table`
        table: String,
        /// The column that came first.
        first: String,
        /// The column that clashes with it.
        second: String,
        /// The Avro name of both.
        adjusted: String,
    },
    /// A column's type is one that only the database knows, and such types are refused.
    #[error(
        "column \"{column}\" of {table} is of type {type_name}, which has no Avro form of its own; leave it out of \
         the publication, or set unknown_types = \"text\" to have its text"
    )]
    UnknownType {
        /// `schema.table`
        table: String,
        /// The column.
        column: String,
        /// Its Postgres type.
        type_name: String,
    },
    /// A mask that the column's type has no form for.
    #[error(
        "column \"{column}\" of {table} is of type {type_name}, of which a part would look like another value; \
         mask it with hash, fixed:<text> or null"
    )]
    MaskOfType {
        /// `schema.table`
        table: String,
        /// The column.
        column: String,
        /// Its Postgres type.
        type_name: String,
    },
    /// A mask that gives different rows the same key.
    #[error(
        "column \"{column}\" of {table} is in the key, and this mask would give different rows the same key; \
         mask it with hash, or except this table with the mask none"
    )]
    MaskInKey {
        /// `schema.table`
        table: String,
        /// The column.
        column: String,
    },
    /// The field that tells tables of one topic apart has the name of a key column or of another such field.
    #[error("the key of {table} already has a field \"{name}\"; choose another table_key_field")]
    TableFieldCollides {
        /// `schema.table`
        table: String,
        /// The name of both.
        name: String,
    },
    /// A metadata field with the name of a column or of another one.
    #[error("{table} already has a field \"{name}\"; choose another metadata_prefix or name")]
    MetadataCollides {
        /// `schema.table`
        table: String,
        /// The name of both.
        name: String,
    },
    /// Flat records with tombstones for deletes, of a table without a key.
    #[error(
        "{table} has no key, so a tombstone can't say which row was deleted; give it a primary key, or choose \
         flat_deletes = \"rewrite\" or \"drop\""
    )]
    DeletesWithoutKey {
        /// `schema.table`
        table: String,
    },
    /// A row filter that can't be applied to the table.
    #[error("row_filter of {table}: {what}")]
    Filter {
        /// `schema.table`
        table: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// The description names a key column that it doesn't have.
    #[error("the key of {table} names column number {index}, but the table has {columns}")]
    KeyOutOfRange {
        /// `schema.table`
        table: String,
        /// Index in the key.
        index: usize,
        /// Number of columns.
        columns: usize,
    },
}

/// A row that can't be encoded. It halts the pipeline: the record is neither dropped nor approximated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The column's bytes have no exact Avro form under its type.
    #[error("column \"{column}\" ({type_name}): {reason}")]
    Value {
        /// Name of the column.
        column: String,
        /// Its Postgres type.
        type_name: String,
        /// Why.
        reason: Reason,
    },
    /// An unchanged TOAST value whose old value isn't at hand, in a type that can't hold the placeholder.
    #[error(
        "column \"{column}\" ({type_name}): unchanged TOAST value without its old value; \
         set REPLICA IDENTITY FULL on the table"
    )]
    UnchangedWithoutOldValue {
        /// Name of the column.
        column: String,
        /// Its Postgres type.
        type_name: String,
    },
    /// NULL, or a value absent from the old tuple, where the schema has no null.
    #[error("column \"{column}\" ({type_name}): null, but the schema says it can't be")]
    UnexpectedNull {
        /// Name of the column.
        column: String,
        /// Its Postgres type.
        type_name: String,
    },
    /// The tuple isn't of this table's description.
    #[error("the row has {found} columns, but its table was described with {expected}")]
    ColumnCount {
        /// Columns of the description.
        expected: usize,
        /// Columns of the tuple.
        found: usize,
    },
}

/// Why a column's text has no exact Avro form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Reason {
    /// Not valid UTF-8, so no Avro string (a database in SQL_ASCII can hold such text).
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A binary-format column; only the text format is asked for.
    #[error("the value came in binary format")]
    BinaryFormat,
    /// Not the text that Postgres writes for this type.
    #[error("the text is not {0}")]
    Malformed(&'static str),
    /// Beyond what the Avro type holds.
    #[error("the value is out of the range of {0}")]
    OutOfRange(&'static str),
    /// NaN or an infinity where decimals are exact.
    #[error(
        "NaN and infinity have no exact decimal form; decimal_handling = \"string\" or \"double\" has one"
    )]
    NotFinite,
    /// An interval without end, where a number is asked for.
    #[error("infinity has no form in the column's schema; write it as text: interval_handling = \"string\"")]
    Infinite,
    /// More digits than the column's declared type keeps.
    #[error("the value has more fractional digits than the column's type")]
    TooManyFractionalDigits,
    /// An array of two or more dimensions; the Avro schema has one.
    #[error("an array of more than one dimension has no form as a list; array_handling = \"text\" has one")]
    MultiDimensional,
}
