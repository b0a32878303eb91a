//! Publications and what they publish.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::{Client, Error};

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationState {
    /// Its name.
    pub name: String,
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// Publishes INSERT.
    pub insert: bool,
    /// Publishes UPDATE.
    pub update: bool,
    /// Publishes DELETE.
    pub delete: bool,
    /// Publishes TRUNCATE.
    pub truncate: bool,
    /// Changes of a partition are published as changes of its root.
    pub via_root: bool,
    /// The tables it publishes now, however they came in.
    pub tables: Vec<PublishedTable>,
}

/// One table of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its row filter, as SQL.
    pub row_filter: Option<String>,
    /// Its column list; `None` if all columns are published.
    pub columns: Option<Vec<String>>,
}

const PUBLICATIONS: &str = "
    SELECT p.pubname::text, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot
      FROM pg_catalog.pg_publication p
     WHERE p.pubname = ANY ($1::text[])
     ORDER BY p.pubname";

/// Row filters and column lists came with Postgres 15. The view names a column list's columns, but also all columns
/// of a table without one; only `pg_publication_rel` tells which it is.
fn published_tables(server_version: u32) -> &'static str {
    if server_version >= 150_000 {
        "SELECT t.pubname::text, t.schemaname::text, t.tablename::text, t.rowfilter,
                CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                                    JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
                                    JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
                                    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                                   WHERE p.pubname = t.pubname AND n.nspname = t.schemaname
                                     AND c.relname = t.tablename AND r.prattrs IS NOT NULL)
                     THEN t.attnames::text[] END
           FROM pg_catalog.pg_publication_tables t
          WHERE t.pubname = ANY ($1::text[])
          ORDER BY 1, 2, 3"
    } else {
        "SELECT t.pubname::text, t.schemaname::text, t.tablename::text, NULL::text, NULL::text[]
           FROM pg_catalog.pg_publication_tables t
          WHERE t.pubname = ANY ($1::text[])
          ORDER BY 1, 2, 3"
    }
}

/// Those of the named publications that exist, by name.
pub async fn publications(client: &Client, names: &[String]) -> Result<Vec<PublicationState>, Error> {
    let arguments: [&(dyn ToSql + Sync); 1] = [&names];
    let tables_query = published_tables(client.server_version());
    let (rows, table_rows) =
        tokio::try_join!(client.query(PUBLICATIONS, &arguments), client.query(tables_query, &arguments))?;
    let mut publications = rows.iter().map(publication).collect::<Result<Vec<_>, Error>>()?;
    for row in &table_rows {
        let name: &str = row.try_get(0)?;
        // The two queries do not share a snapshot: a publication made in between is in the second one only.
        let Some(publication) = publications.iter_mut().find(|publication| publication.name == name) else {
            continue;
        };
        publication.tables.push(PublishedTable {
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            row_filter: row.try_get(3)?,
            columns: row.try_get(4)?,
        });
    }
    Ok(publications)
}

/// The columns that each table of these publications has, as far as they are published: schema, table, columns.
pub async fn published_columns(
    client: &Client,
    names: &[String],
) -> Result<Vec<(String, String, Vec<String>)>, Error> {
    // Column lists came with Postgres 15.
    let is_published =
        if client.server_version() >= 150_000 { "a.attname = ANY (t.attnames)" } else { "true" };
    let query = format!(
        "SELECT t.schemaname::text, t.tablename::text, array_agg(DISTINCT a.attname::text)
           FROM pg_catalog.pg_publication_tables t
           JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
           JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          WHERE t.pubname = ANY ($1::text[]) AND {is_published}
          GROUP BY 1, 2
          ORDER BY 1, 2"
    );
    let rows = client.query(&query, &[&names]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

fn publication(row: &Row) -> Result<PublicationState, Error> {
    Ok(PublicationState {
        name: row.try_get(0)?,
        all_tables: row.try_get(1)?,
        insert: row.try_get(2)?,
        update: row.try_get(3)?,
        delete: row.try_get(4)?,
        truncate: row.try_get(5)?,
        via_root: row.try_get(6)?,
        tables: Vec::new(),
    })
}

/// A published table, and what makes it one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// `pg_class.oid`.
    pub relation: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The entries of `pg_publication_rel` and `pg_publication_namespace` for it, its schema and what it is a partition
    /// of. One that is taken out and put back has another; none of FOR ALL TABLES.
    pub members: Vec<u32>,
}

/// The tables of these publications, by schema and name.
pub async fn memberships(client: &Client, names: &[String]) -> Result<Vec<Membership>, Error> {
    // Publications of whole schemas came with Postgres 15.
    let of_schemas = if client.server_version() >= 150_000 {
        "UNION SELECT s.oid FROM pg_catalog.pg_publication_namespace s
          JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
         WHERE p.pubname = ANY ($1::text[]) AND s.pnnspid IN (
               SELECT a.relnamespace FROM pg_catalog.pg_class a
                WHERE a.oid = c.oid OR a.oid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)))"
    } else {
        ""
    };
    let query = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text,
                ARRAY(SELECT r.oid FROM pg_catalog.pg_publication_rel r
                        JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
                       WHERE p.pubname = ANY ($1::text[])
                         AND (r.prrelid = c.oid
                              OR r.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)))
                      {of_schemas}
                      ORDER BY 1)
           FROM (SELECT DISTINCT t.schemaname, t.tablename FROM pg_catalog.pg_publication_tables t
                  WHERE t.pubname = ANY ($1::text[])) t
           JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
          ORDER BY 2, 3"
    );
    let rows = client.query(&query, &[&names]).await?;
    let table = |row: &Row| {
        Ok(Membership {
            relation: row.try_get(0)?,
            schema: row.try_get(1)?,
            table: row.try_get(2)?,
            members: row.try_get(3)?,
        })
    };
    rows.iter().map(table).collect()
}
