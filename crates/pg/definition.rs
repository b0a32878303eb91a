//! Published tables as statements that make them again, empty, in another database.
//!
//! Everything that a record's schema depends on: columns in order, types with all they stand on (enums, domains,
//! composites, ranges, extensions), defaults, NOT NULL, identity and generated columns, keys and other constraints of
//! one table alone, replica identity, partitions and inheritance, and the publications. No rows, rights, triggers,
//! indexes, views or foreign keys. The server writes the statements itself; run this with an empty `search_path`, so
//! that every name is qualified.

use tokio_postgres::types::ToSql;

use crate::{Client, Error};

/// Statements by what they make, in the order in which they must run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Schemas and extensions; those that are there already are left alone.
    pub homes: Vec<String>,
    /// Types. One may need another that comes later: repeat until nothing more succeeds.
    pub types: Vec<String>,
    /// Sequences, tables, constraints, partitions, replica identities.
    pub tables: Vec<String>,
    /// Defaults that are not constants may call functions that are not copied: one that fails changes no schema.
    pub defaults: Vec<String>,
    /// Publications, each with a form for a role that may not publish whole schemas or all tables.
    pub publications: Vec<(String, String)>,
}

/// Reads the definition of everything that these publications publish.
pub async fn definition(client: &Client, publications: &[String]) -> Result<Definition, Error> {
    let tables = texts_of::<u32>(client, TABLES, &[&publications]).await?;
    let types = texts_of::<u32>(client, TYPES, &[&tables]).await?;
    let mut made = Definition {
        homes: texts_of(client, HOMES, &[&tables, &types]).await?,
        types: texts_of(client, TYPE_STATEMENTS, &[&types]).await?,
        ..Definition::default()
    };
    for sql in [SEQUENCES, TABLE_STATEMENTS, CONSTRAINTS, PARTITIONS, IDENTITIES] {
        made.tables.extend(texts_of::<String>(client, sql, &[&tables]).await?);
    }
    made.defaults = texts_of(client, DEFAULTS, &[&tables]).await?;
    for row in client.query(&publication_statements(client.server_version()), &[&publications]).await? {
        made.publications.push((row.try_get(0)?, row.try_get(1)?));
    }
    Ok(made)
}

async fn texts_of<T>(client: &Client, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<T>, Error>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let rows = client.query(sql, arguments).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The published tables, and what a DDL statement on one of them reaches: the tables above and below in the hierarchy.
const TABLES: &str = "
    WITH RECURSIVE published (oid) AS (
        SELECT c.oid
          FROM pg_catalog.pg_publication_tables t
          JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
          JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
         WHERE t.pubname = ANY ($1::text[])),
    related (oid) AS (
        SELECT oid FROM published
         UNION
        SELECT CASE related.oid WHEN i.inhrelid THEN i.inhparent ELSE i.inhrelid END
          FROM related
          JOIN pg_catalog.pg_inherits i ON related.oid IN (i.inhrelid, i.inhparent))
    SELECT r.oid FROM related r JOIN pg_catalog.pg_class c ON c.oid = r.oid
     WHERE c.relkind IN ('r', 'p') ORDER BY r.oid";

/// The types of their columns that are not Postgres' own, and the types below those.
const TYPES: &str = "
    WITH RECURSIVE wanted (oid) AS (
        SELECT a.atttypid FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
         UNION
        SELECT below.oid
          FROM wanted
          JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
         CROSS JOIN LATERAL (
               VALUES (t.typbasetype), (t.typelem),
                      ((SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid))
                UNION ALL
               SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped) below (oid)
         WHERE below.oid <> 0)
    SELECT t.oid FROM wanted JOIN pg_catalog.pg_type t ON t.oid = wanted.oid WHERE t.oid >= 16384 ORDER BY t.oid";

const HOMES: &str = "
    WITH needed AS (
        SELECT c.relnamespace AS nsp FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[])
         UNION SELECT t.typnamespace FROM pg_catalog.pg_type t WHERE t.oid = ANY ($2::oid[])),
    extensions AS (
        SELECT DISTINCT x.extname, n.nspname
          FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
          JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace
         WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = ANY ($2::oid[])
           AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e')
    SELECT pg_catalog.format('CREATE SCHEMA IF NOT EXISTS %I', n.nspname)
      FROM needed JOIN pg_catalog.pg_namespace n ON n.oid = needed.nsp WHERE n.nspname <> 'pg_catalog'
     UNION ALL
    SELECT pg_catalog.format('CREATE SCHEMA IF NOT EXISTS %I', nspname) FROM extensions WHERE nspname <> 'pg_catalog'
     UNION ALL
    SELECT pg_catalog.format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I', extname, nspname) FROM extensions";

/// Types of extensions come with them, and a table's row type with its table.
const TYPE_STATEMENTS: &str = "
    SELECT CASE t.typtype
             WHEN 'e' THEN pg_catalog.format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname,
               (SELECT string_agg(pg_catalog.quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder)
                  FROM pg_catalog.pg_enum l WHERE l.enumtypid = t.oid))
             WHEN 'd' THEN pg_catalog.format('CREATE DOMAIN %I.%I AS %s%s', n.nspname, t.typname,
               pg_catalog.format_type(t.typbasetype, t.typtypmod), CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END)
             WHEN 'c' THEN pg_catalog.format('CREATE TYPE %I.%I AS (%s)', n.nspname, t.typname,
               (SELECT string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)),
                                  ', ' ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
             WHEN 'r' THEN pg_catalog.format('CREATE TYPE %I.%I AS RANGE (SUBTYPE = %s)', n.nspname, t.typname,
               (SELECT pg_catalog.format_type(r.rngsubtype, -1) FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid))
           END
      FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE t.oid = ANY ($1::oid[]) AND t.typtype IN ('e', 'd', 'c', 'r')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
     ORDER BY t.oid";

/// Those that defaults take their values from.
const SEQUENCES: &str = "
    SELECT DISTINCT pg_catalog.format('CREATE SEQUENCE %I.%I', n.nspname, s.relname)
      FROM pg_catalog.pg_attrdef ad
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = ad.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass
      JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
     WHERE ad.adrelid = ANY ($1::oid[])";

const TABLE_STATEMENTS: &str = "
    SELECT pg_catalog.format('CREATE TABLE %I.%I (%s)%s', n.nspname, c.relname,
             (SELECT string_agg(pg_catalog.format('%I %s%s%s', a.attname,
                       pg_catalog.format_type(a.atttypid, a.atttypmod),
                       CASE WHEN a.attgenerated = 's' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s) STORED',
                              pg_catalog.pg_get_expr(d.adbin, d.adrelid))
                            WHEN a.attgenerated <> '' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s) VIRTUAL',
                              pg_catalog.pg_get_expr(d.adbin, d.adrelid))
                            WHEN a.attidentity = 'a' AND c.relispartition IS FALSE THEN ' GENERATED ALWAYS AS IDENTITY'
                            WHEN a.attidentity = 'd' AND c.relispartition IS FALSE THEN ' GENERATED BY DEFAULT AS IDENTITY'
                            ELSE '' END,
                       CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END), ', ' ORDER BY a.attnum)
                FROM pg_catalog.pg_attribute a
                LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
             CASE WHEN c.relkind = 'p' THEN ' PARTITION BY ' || pg_catalog.pg_get_partkeydef(c.oid) ELSE '' END)
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = ANY ($1::oid[]) ORDER BY c.oid";

/// Keys and checks; a foreign key leads to a table that may not be here. Then the index of the replica identity, which
/// need not belong to a constraint.
const CONSTRAINTS: &str = "
    SELECT pg_catalog.format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname,
             pg_catalog.pg_get_constraintdef(k.oid))
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE k.conrelid = ANY ($1::oid[]) AND k.contype IN ('p', 'u')
     UNION ALL
    SELECT pg_catalog.pg_get_indexdef(i.indexrelid)
      FROM pg_catalog.pg_index i
     WHERE i.indrelid = ANY ($1::oid[]) AND i.indisreplident
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)";

/// From the leaves up would be wrong: a table must be attached to what is a partition itself only later.
const PARTITIONS: &str = "
    SELECT CASE WHEN c.relispartition
             THEN pg_catalog.format('ALTER TABLE %I.%I ATTACH PARTITION %I.%I %s', pn.nspname, p.relname, n.nspname,
                    c.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid))
             ELSE pg_catalog.format('ALTER TABLE %I.%I INHERIT %I.%I', n.nspname, c.relname, pn.nspname, p.relname)
           END
      FROM pg_catalog.pg_inherits i
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p')
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind IN ('r', 'p')
      JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
     WHERE i.inhrelid = ANY ($1::oid[]) ORDER BY i.inhparent, i.inhseqno";

const IDENTITIES: &str = "
    SELECT pg_catalog.format('ALTER TABLE %I.%I REPLICA IDENTITY %s', n.nspname, c.relname,
             CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
               ELSE 'USING INDEX ' || pg_catalog.quote_ident(
                 (SELECT x.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                   WHERE i.indrelid = c.oid AND i.indisreplident)) END)
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = ANY ($1::oid[])
       AND (c.relreplident IN ('f', 'n')
            OR c.relreplident = 'i' AND EXISTS (SELECT FROM pg_catalog.pg_index i
                                                 WHERE i.indrelid = c.oid AND i.indisreplident))";

const DEFAULTS: &str = "
    SELECT pg_catalog.format('ALTER TABLE %I.%I ALTER COLUMN %I SET DEFAULT %s', n.nspname, c.relname, a.attname,
             pg_catalog.pg_get_expr(d.adbin, d.adrelid))
      FROM pg_catalog.pg_attrdef d
      JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated = ''
      JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE d.adrelid = ANY ($1::oid[]) ORDER BY d.adrelid, d.adnum";

/// Column lists, row filters and whole schemas came with Postgres 15, generated columns with 18.
fn publication_statements(server_version: u32) -> String {
    let (list, schemas) = if server_version >= 150_000 {
        (
            "CASE WHEN r.prattrs IS NOT NULL THEN ' (' || (
                   SELECT string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                     FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)) || ')' ELSE '' END
             || CASE WHEN r.prqual IS NOT NULL
                     THEN ' WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')' ELSE '' END",
            "(SELECT string_agg('TABLES IN SCHEMA ' || pg_catalog.quote_ident(n.nspname), ', ')
                FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
               WHERE s.pnpubid = p.oid)",
        )
    } else {
        ("''", "NULL::text")
    };
    let generated = if server_version >= 180_000 {
        "CASE WHEN p.pubgencols = 's' THEN ', publish_generated_columns = stored' ELSE '' END"
    } else {
        "''"
    };
    format!(
        "SELECT pg_catalog.format('CREATE PUBLICATION %I%s WITH (publish_via_partition_root = %s%s)', p.pubname,
                  CASE WHEN p.puballtables THEN ' FOR ALL TABLES'
                       ELSE coalesce(' FOR ' || pg_catalog.concat_ws(', ', {schemas}, listed.tables), '') END,
                  CASE WHEN p.pubviaroot THEN 'true' ELSE 'false' END, {generated}),
                pg_catalog.format('CREATE PUBLICATION %I%s WITH (publish_via_partition_root = %s%s)', p.pubname,
                  coalesce(' FOR TABLE ' || (
                    SELECT string_agg(pg_catalog.format('%I.%I', t.schemaname, t.tablename), ', ')
                      FROM pg_catalog.pg_publication_tables t WHERE t.pubname = p.pubname), ''),
                  CASE WHEN p.pubviaroot THEN 'true' ELSE 'false' END, {generated})
           FROM pg_catalog.pg_publication p
           LEFT JOIN LATERAL (
                SELECT string_agg(pg_catalog.format('TABLE %I.%I', n.nspname, c.relname) || {list}, ', ') AS tables
                  FROM pg_catalog.pg_publication_rel r
                  JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE r.prpubid = p.oid) listed ON true
          WHERE p.pubname = ANY ($1::text[])"
    )
}
