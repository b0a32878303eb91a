//! Today's catalog: what a Relation message does not say about a table and its types.

use headwater_pgoutput::RelationId;

use crate::{Client, Error};

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTable {
    /// `pg_class.relkind`: `r` table, `p` partitioned table.
    pub relkind: char,
    /// Its columns, in order, without dropped ones.
    pub columns: Vec<CatalogColumn>,
    /// Columns of the primary key, in key order; empty without one.
    pub primary_key: Vec<String>,
    /// Columns of the index named by REPLICA IDENTITY USING INDEX, in index order; empty without one.
    pub identity_index: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_oid: u32,
    /// Its type's modifier; -1 without one.
    pub type_modifier: i32,
    /// No row can hold NULL in it.
    pub not_null: bool,
    /// Its default, as SQL.
    pub default_expression: Option<String>,
    /// Filled by a sequence.
    pub identity_or_serial: bool,
    /// GENERATED ALWAYS AS (…): computed, with no default of its own.
    pub generated: bool,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogType {
    /// Its oid.
    pub oid: u32,
    /// Its schema.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What sort of type.
    pub kind: TypeKind,
}

/// What sort of type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A scalar.
    Base,
    /// A domain over another type.
    Domain {
        /// The type below it, which may be a domain again.
        base_oid: u32,
        /// The modifier for that type; -1 without one.
        type_modifier: i32,
    },
    /// An enum.
    Enum {
        /// Its labels, in their order.
        labels: Vec<String>,
    },
    /// An array.
    Array {
        /// The type of its elements.
        element_oid: u32,
    },
    /// A row type.
    Composite,
    /// A range.
    Range,
    /// A multirange.
    Multirange,
    /// A pseudo-type.
    Pseudo,
}

/// Looks a table up; `None` if it no longer exists.
pub async fn table(_client: &Client, _id: RelationId) -> Result<Option<CatalogTable>, Error> {
    Ok(None)
}

/// Looks types up, and all types below them: of domains, of array elements.
pub async fn types(_client: &Client, _oids: &[u32]) -> Result<Vec<CatalogType>, Error> {
    Ok(Vec::new())
}

/// Quotes an identifier for SQL.
pub fn quote_identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// Quotes a string literal for SQL.
pub fn quote_literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text).trim_start().to_owned()
}
