//! What a Relation message would say of each published table if a row of it came now, from today's catalog.

use headwater_pgoutput::{RelationId, ReplicaIdentity, TableColumn, TableSchema};
use tokio_postgres::Row;

use crate::{Client, Error};

/// A published table as its next Relation message would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRelation {
    /// The message.
    pub table: TableSchema,
    /// Of each of its columns, the number (`pg_attribute.attnum`), which a rename leaves as it is, and the type as SQL.
    pub columns: Vec<(i16, String)>,
}

/// The names of a table without columns are NULL. pgoutput leaves generated columns out; from Postgres 15 on the view knows column lists, and from 18 on whether
/// generated columns are published.
fn published(server_version: u32) -> &'static str {
    if server_version >= 150_000 {
        "SELECT DISTINCT ON (n.nspname, c.relname)
                c.oid, n.nspname::text, c.relname::text, c.relreplident::text, coalesce(t.attnames::text[], '{}')
           FROM pg_catalog.pg_publication_tables t
           JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
          WHERE t.pubname = ANY ($1::text[])
          ORDER BY n.nspname, c.relname, t.pubname"
    } else {
        "SELECT DISTINCT ON (n.nspname, c.relname)
                c.oid, n.nspname::text, c.relname::text, c.relreplident::text,
                ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')
           FROM pg_catalog.pg_publication_tables t
           JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
          WHERE t.pubname = ANY ($1::text[])
          ORDER BY n.nspname, c.relname, t.pubname"
    }
}

/// A deferrable index identifies no row, and INCLUDE columns are no part of a key.
const COLUMNS: &str = "
    SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod,
           c.relreplident = 'f' OR EXISTS (
               SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
                  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
                  AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])),
           pg_catalog.format_type(a.atttypid, a.atttypmod)
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
     WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attrelid, a.attnum";

/// The published tables, by schema and name.
pub async fn published_relations(
    client: &Client,
    publications: &[String],
) -> Result<Vec<PublishedRelation>, Error> {
    let rows = client.query(published(client.server_version()), &[&publications]).await?;
    let oids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<u32>, _>>()?;
    let columns = client.query(COLUMNS, &[&oids]).await?;
    rows.iter().map(|row| relation(row, &columns)).collect()
}

fn relation(row: &Row, columns: &[Row]) -> Result<PublishedRelation, Error> {
    let oid: u32 = row.try_get(0)?;
    let published: Vec<String> = row.try_get(4)?;
    let identity: &str = row.try_get(3)?;
    let mut table = TableSchema {
        id: RelationId(oid),
        namespace: row.try_get(1)?,
        name: row.try_get(2)?,
        replica_identity: match identity {
            "f" => ReplicaIdentity::Full,
            "n" => ReplicaIdentity::Nothing,
            "i" => ReplicaIdentity::Index,
            _ => ReplicaIdentity::Default,
        },
        columns: Vec::new(),
    };
    let mut numbers = Vec::new();
    for column in columns {
        let (of, name): (u32, String) = (column.try_get(0)?, column.try_get(2)?);
        if of != oid || !published.contains(&name) {
            continue;
        }
        table.columns.push(TableColumn {
            name,
            type_oid: column.try_get(3)?,
            type_modifier: column.try_get(4)?,
            is_key: column.try_get(5)?,
        });
        numbers.push((column.try_get(1)?, column.try_get(6)?));
    }
    Ok(PublishedRelation { table, columns: numbers })
}
