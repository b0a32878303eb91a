//! What a Relation message says of a table: [`TableSchema`].
//!
//! The server sends it before the first row of a table on each session and again before the first row after
//! a change of the table. It says nothing of nullability, defaults or the order of the key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::reader::Reader;
use crate::{DecodeError, Reason};

/// The oid of a table, which row messages name it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelationId(pub u32);

impl fmt::Display for RelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A table as its following rows are sent: the published columns in the order of their values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The table's oid.
    pub id: RelationId,
    /// Its schema. `pg_catalog`, which is empty on the wire, is spelled out.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What old tuples hold.
    pub replica_identity: ReplicaIdentity,
    /// The published columns.
    pub columns: Vec<TableColumn>,
}

/// A published column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// The oid of its type (`pg_type.oid`).
    pub type_oid: u32,
    /// What its type was declared with (`pg_attribute.atttypmod`), -1 for nothing.
    pub type_modifier: i32,
    /// It is part of the replica identity; under [`ReplicaIdentity::Full`] every column is.
    pub is_key: bool,
}

/// What the old tuple of an update or delete holds (`pg_class.relreplident`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

/// Flags, name of one byte or more, type and modifier: what a column takes at least.
const COLUMN_BYTES_MIN: usize = 1 + 1 + 4 + 4;

/// ```text
/// Byte1('R')
/// Int32    oid of the table
/// String   namespace, empty for pg_catalog
/// String   name
/// Int8     replica identity: 'd' default, 'n' nothing, 'f' full, 'i' index
/// Int16    number of columns, and for each:
///   Int8     flags: 1 = part of the replica identity
///   String   name
///   Int32    oid of the type
///   Int32    type modifier
/// ```
pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<TableSchema, DecodeError> {
    let id = RelationId(reader.u32()?);
    let namespace = reader.namespace()?.to_owned();
    let name = reader.name()?.to_owned();
    let replica_identity = reader.marker("replica identity", "d, n, f or i", |byte| match byte {
        b'd' => Some(ReplicaIdentity::Default),
        b'n' => Some(ReplicaIdentity::Nothing),
        b'f' => Some(ReplicaIdentity::Full),
        b'i' => Some(ReplicaIdentity::Index),
        _ => None,
    })?;
    let count = usize::from(reader.column_count()?);
    // Checked before memory is taken for it.
    let (needed, left) = (count * COLUMN_BYTES_MIN, reader.rest().len());
    if needed > left {
        return Err(reader.error(Reason::Short { needed, left }));
    }
    let columns = (0..count).map(|_| decode_column(reader)).collect::<Result<_, _>>()?;
    Ok(TableSchema { id, namespace, name, replica_identity, columns })
}

fn decode_column(reader: &mut Reader<'_>) -> Result<TableColumn, DecodeError> {
    let is_key = reader.marker("column's flags byte", "0 or 1", |flags| match flags {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    })?;
    let name = reader.name()?.to_owned();
    Ok(TableColumn { name, type_oid: reader.u32()?, type_modifier: reader.i32()?, is_key })
}
