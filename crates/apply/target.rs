//! A target table as the catalog has it, and the statements that make it or widen it.

use headwater_avro::reading::{OfferedColumn, PgColumnType};
use headwater_pg::catalog::quote_identifier;
use headwater_pg::{Client, Error};

use crate::halt::{Failure, Halt, HaltCause, of_postgres};
use crate::widening::wider;

/// The column with the LSN of a row's last change.
pub(crate) const LSN_COLUMN: &str = "_headwater_lsn";
/// And the one with its ordinal.
pub(crate) const ORDINAL_COLUMN: &str = "_headwater_ordinal";

/// A table's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TargetName {
    pub(crate) schema: String,
    pub(crate) table: String,
}

impl TargetName {
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }

    pub(crate) fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// A column that can be written.
#[derive(Clone, Debug)]
pub(crate) struct TargetColumn {
    pub(crate) name: String,
    pub(crate) pg_type: PgColumnType,
    /// Declared by a domain, whose type is not the table's to change.
    is_domain: bool,
}

/// The table as it is now.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetTable {
    pub(crate) columns: Vec<TargetColumn>,
    /// Columns that the table computes itself.
    pub(crate) generated: Vec<String>,
    /// The columns of each unique index that ON CONFLICT can name.
    pub(crate) unique: Vec<Vec<String>>,
    pub(crate) has_positions: bool,
}

impl TargetTable {
    pub(crate) fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns whose types hold less than their sources', and the types to alter them to.
    pub(crate) fn narrower(&self, offered: &[OfferedColumn]) -> Vec<(String, String)> {
        let wider = |offered: &OfferedColumn| {
            let column = self.column(&offered.name).filter(|column| !column.is_domain)?;
            Some((offered.name.clone(), wider(&column.pg_type, offered)?))
        };
        offered.iter().filter_map(wider).collect()
    }

    pub(crate) fn has_key(&self, key: &[String]) -> bool {
        self.unique
            .iter()
            .any(|columns| columns.len() == key.len() && key.iter().all(|name| columns.contains(name)))
    }
}

/// Domains are followed down to what they are made of.
const COLUMNS: &str = "
WITH RECURSIVE base AS (
  SELECT a.attnum, a.attname::text AS name, a.attgenerated <> '' AS generated, a.atttypid AS type, a.atttypmod AS modifier,
    false AS is_domain
  FROM pg_attribute a WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT b.attnum, b.name, b.generated, t.typbasetype, CASE WHEN b.modifier = -1 THEN t.typtypmod ELSE b.modifier END, true
  FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd')
SELECT b.name, b.generated, t.typname::text, b.modifier, b.is_domain
FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd' ORDER BY b.attnum";

/// Unique, immediate, of columns only and for all rows.
const UNIQUE: &str = "
SELECT array_agg(a.attname::text) FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = $1::text::regclass AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts
GROUP BY i.indexrelid";

/// The table, or none if there is no such table.
pub(crate) async fn look_up(client: &Client, name: &TargetName) -> Result<Option<TargetTable>, Failure> {
    look_up_quoted(client, &name.quoted())
        .await
        .map_err(|error| of_postgres(&error, &format!("looking up table {}", name.plain()), None))
}

async fn look_up_quoted(client: &Client, quoted: &str) -> Result<Option<TargetTable>, Error> {
    let found = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&quoted]).await?;
    if !found.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let mut table = TargetTable::default();
    for row in client.query(COLUMNS, &[&quoted]).await? {
        let name: String = row.try_get(0)?;
        if row.try_get(1)? {
            table.generated.push(name);
        } else if name == LSN_COLUMN || name == ORDINAL_COLUMN {
            table.has_positions = true;
        } else {
            let pg_type = PgColumnType { name: row.try_get(2)?, modifier: row.try_get(3)? };
            table.columns.push(TargetColumn { name, pg_type, is_domain: row.try_get(4)? });
        }
    }
    for row in client.query(UNIQUE, &[&quoted]).await? {
        table.unique.push(row.try_get(0)?);
    }
    Ok(Some(table))
}

/// CREATE TABLE with these columns and this key.
pub(crate) fn create_statement(
    name: &TargetName,
    columns: &[OfferedColumn],
    key: &[String],
) -> Result<String, Halt> {
    let mut parts = Vec::new();
    for column in columns {
        parts.push(format!("{} {}", quote_identifier(&column.name), created_type(name, column)?));
    }
    let key: Vec<_> = key.iter().map(|column| quote_identifier(column)).collect();
    parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    Ok(format!(
        "CREATE SCHEMA IF NOT EXISTS {}; CREATE TABLE IF NOT EXISTS {} ({})",
        quote_identifier(&name.schema),
        name.quoted(),
        parts.join(", ")
    ))
}

/// ALTER TABLE with more columns, and wider ones.
pub(crate) fn widen_statement(
    name: &TargetName,
    columns: &[&OfferedColumn],
    wider: &[(String, String)],
) -> Result<String, Halt> {
    let mut parts = Vec::new();
    for column in columns {
        parts.push(format!(
            "ADD COLUMN IF NOT EXISTS {} {}",
            quote_identifier(&column.name),
            created_type(name, column)?
        ));
    }
    for (column, pg_type) in wider {
        parts.push(format!("ALTER COLUMN {} TYPE {pg_type}", quote_identifier(column)));
    }
    Ok(format!("ALTER TABLE {} {}", name.quoted(), parts.join(", ")))
}

/// ALTER TABLE with the columns of positions. A constant default rewrites nothing.
pub(crate) fn positions_statement(name: &TargetName) -> String {
    format!(
        "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {LSN_COLUMN} pg_lsn NOT NULL DEFAULT '0/0', \
         ADD COLUMN IF NOT EXISTS {ORDINAL_COLUMN} bigint NOT NULL DEFAULT 0",
        name.quoted()
    )
}

fn created_type<'a>(name: &TargetName, column: &'a OfferedColumn) -> Result<&'a str, Halt> {
    column.created_type.as_deref().map_err(|why| {
        Halt::new(
            HaltCause::TargetUnsuitable,
            format!("table {}: {why}", name.plain()),
            "create the table with a column for it, or leave the column out with exclude in [[apply_table]]",
        )
    })
}

/// What the role of the connection may do with a table, and what the table has that gets in the way.
pub(crate) struct Rights {
    pub(crate) writes: bool,
    pub(crate) owns: bool,
    /// Whether row-level security applies to the role.
    pub(crate) row_security: bool,
    pub(crate) foreign_keys: Vec<String>,
}

/// None if there is no such table.
pub(crate) async fn rights(client: &Client, name: &TargetName) -> Result<Option<Rights>, Error> {
    const SQL: &str = "
SELECT has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'),
  pg_has_role(c.relowner, 'USAGE'), row_security_active(c.oid),
  array(SELECT conname::text FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f' AND conparentid = 0)
FROM pg_class c WHERE c.oid = to_regclass($1)";
    let Some(row) = client.query_opt(SQL, &[&name.quoted()]).await? else { return Ok(None) };
    Ok(Some(Rights {
        writes: row.try_get(0)?,
        owns: row.try_get(1)?,
        row_security: row.try_get(2)?,
        foreign_keys: row.try_get(3)?,
    }))
}

/// Whether the role may create the table, and its schema where that is missing.
pub(crate) async fn may_create(client: &Client, name: &TargetName) -> Result<bool, Error> {
    const SQL: &str = "SELECT CASE WHEN to_regnamespace(quote_ident($1)) IS NULL \
        THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege($1, 'CREATE') END";
    Ok(client.query_one(SQL, &[&name.schema]).await?.try_get(0)?)
}
