//! Today's catalog: what a Relation message does not say about a table and its types.

use headwater_pgoutput::RelationId;
use tokio_postgres::types::ToSql;

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
    /// The extension that it belongs to.
    pub extension: Option<String>,
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

/// One row per table. Keys come in the order of their index, without its INCLUDE columns; expressions cannot be in
/// either of these two indexes.
const TABLE: &str = "
    SELECT c.relkind::text, pk.columns, ri.columns
      FROM pg_catalog.pg_class c
      LEFT JOIN LATERAL (
           SELECT array_agg(a.attname::text ORDER BY k.position) AS columns
             FROM pg_catalog.pg_index i
            CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, position)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE i.indrelid = c.oid AND i.indisprimary) pk ON true
      LEFT JOIN LATERAL (
           SELECT array_agg(a.attname::text ORDER BY k.position) AS columns
             FROM pg_catalog.pg_index i
            CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, position)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE i.indrelid = c.oid AND i.indisreplident) ri ON true
     WHERE c.oid = $1";

/// In Postgres 18 a NOT NULL constraint can be NOT VALID: the column is marked, yet old rows may hold NULL.
const COLUMNS: &str = "
    SELECT a.attname::text, a.atttypid, a.atttypmod,
           a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint n
                                         WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated
                                           AND n.conkey = ARRAY[a.attnum]),
           CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
           a.attidentity <> '' OR coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false),
           a.attgenerated <> ''
      FROM pg_catalog.pg_attribute a
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// Looks a table up; `None` if it no longer exists.
pub async fn table(client: &Client, id: RelationId) -> Result<Option<CatalogTable>, Error> {
    let arguments: [&(dyn ToSql + Sync); 1] = [&id.0];
    // Sent together, so one round trip; a DDL in between shows as a column too many or too few, as it may anyway:
    // the catalog is today's, the Relation message is of its time.
    let (row, column_rows) =
        tokio::try_join!(client.query_opt(TABLE, &arguments), client.query(COLUMNS, &arguments))?;
    let Some(row) = row else { return Ok(None) };
    let relkind: &str = row.try_get(0)?;
    let columns = column_rows
        .iter()
        .map(|row| {
            Ok(CatalogColumn {
                name: row.try_get(0)?,
                type_oid: row.try_get(1)?,
                type_modifier: row.try_get(2)?,
                not_null: row.try_get(3)?,
                default_expression: row.try_get(4)?,
                identity_or_serial: row.try_get(5)?,
                generated: row.try_get(6)?,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Some(CatalogTable {
        relkind: relkind.chars().next().unwrap_or(' '),
        columns,
        primary_key: row.try_get::<_, Option<_>>(1)?.unwrap_or_default(),
        identity_index: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
    }))
}

/// A type is an array if its element type says so. Others have elements too (`name`, `point`, `oidvector`), but are
/// not written as arrays.
const TYPES: &str = "
    WITH RECURSIVE wanted (oid) AS (
        SELECT unnest($1::oid[])
         UNION
        SELECT below.oid
          FROM wanted
          JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
         CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) below (oid)
         WHERE below.oid <> 0)
    SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typbasetype, t.typtypmod, t.typelem,
           EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid),
           ARRAY(SELECT l.enumlabel::text FROM pg_catalog.pg_enum l WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder),
           (SELECT x.extname::text
              FROM pg_catalog.pg_depend d
              JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
             WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid
               AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e')
      FROM wanted
      JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     ORDER BY t.oid";

/// Looks types up, and all types below them: of domains, of array elements. Those that no longer exist are left out.
pub async fn types(client: &Client, oids: &[u32]) -> Result<Vec<CatalogType>, Error> {
    let rows = client.query(TYPES, &[&oids]).await?;
    rows.iter()
        .map(|row| {
            let kind: &str = row.try_get(3)?;
            let kind = match kind {
                "d" => TypeKind::Domain { base_oid: row.try_get(4)?, type_modifier: row.try_get(5)? },
                "e" => TypeKind::Enum { labels: row.try_get(8)? },
                "c" => TypeKind::Composite,
                "r" => TypeKind::Range,
                "m" => TypeKind::Multirange,
                "p" => TypeKind::Pseudo,
                _ if row.try_get(7)? => TypeKind::Array { element_oid: row.try_get(6)? },
                _ => TypeKind::Base,
            };
            Ok(CatalogType {
                oid: row.try_get(0)?,
                namespace: row.try_get(1)?,
                name: row.try_get(2)?,
                extension: row.try_get(9)?,
                kind,
            })
        })
        .collect()
}

/// Quotes an identifier for SQL.
pub fn quote_identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// Quotes a string literal for SQL.
pub fn quote_literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(quote_identifier("a\"B"), "\"a\"\"B\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b"), "E'a\\\\b'");
    }
}
