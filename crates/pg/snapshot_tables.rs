//! What of the published tables is to be copied, so that a copy is what the stream publishes.
//!
//! In: publications. Out: for each table under which the stream publishes rows, where those rows are, how many there
//! may be, which of them are published, and by which columns they can be copied bit by bit. The statements that copy
//! them are in `copy_statements`.
//!
//! Invariant: a row is in one [`SnapshotTable`] only. Of two publications one may publish a partition as itself and
//! the other as its root; the stream then publishes it as its root, and so does this.

use std::collections::{BTreeMap, BTreeSet};

use headwater_pgoutput::{ReplicaIdentity, TableSchema};
use tokio_postgres::Row;

use crate::catalog::quote_identifier;
use crate::relation::published_relations;
use crate::{Client, Error};

/// A published table.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotTable {
    /// As its next Relation message would have it.
    pub table: TableSchema,
    /// `pg_class.relkind`: `r` table, `p` partitioned table.
    pub relkind: char,
    /// Which rows are published, as SQL over this table's columns with every other name qualified; `None` for all.
    pub row_filter: Option<String>,
    /// Columns that identify a row, all of which are published and stand in the old rows of the stream: of the primary
    /// key, or else of the index that is the replica identity. Empty without either.
    pub key: Vec<KeyColumn>,
    /// What holds its rows: the table itself, or the partitions below it.
    pub leaves: Vec<Leaf>,
    /// Partitions that hold rows of which the stream says nothing: foreign and unlogged ones.
    pub silent_leaves: Vec<Leaf>,
    /// Policies would leave out rows for this role; under `row_security = off` a copy is an error.
    pub row_security: bool,
    /// This role may read the published columns of the table and of its leaves.
    pub may_select: bool,
    /// This role may read `ctid` of the leaves too, without which no range of pages can be copied. A right to the
    /// table includes it, a right to columns does not.
    pub may_select_pages: bool,
    /// A published value can be stored out of line, and then an update need not send it.
    pub toastable: bool,
}

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// Its place in the table's published columns.
    pub index: usize,
    /// The type that a value of it is written with in a statement: of a domain the one below it, and no modifier.
    pub type_sql: String,
}

/// A table with storage of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Pages of its main fork now.
    pub pages: u32,
    /// Rows, from the statistics at hand; a guess from columns and pages before the first ANALYZE.
    pub estimated_rows: u64,
    /// Another one means that the rows were written anew, elsewhere: VACUUM FULL, CLUSTER, TRUNCATE, some ALTER TABLE.
    pub filenode: u32,
}

impl Leaf {
    /// Its name in a statement.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl SnapshotTable {
    /// Its name in a statement.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.table.namespace), quote_identifier(&self.table.name))
    }
}

/// Row filters of the publications that publish a table under its own name. An expression names what is not in the
/// search path with its schema, so this statement has the search path of those that will run it.
///
/// Row filters came with Postgres 15.
const ROW_FILTERS: &str = "
    WITH path AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', 'pg_catalog', true) AS now)
    SELECT g.relid, CASE WHEN path.now IS NOT NULL THEN pg_catalog.pg_get_expr(g.qual, g.relid) END
      FROM path
     CROSS JOIN pg_catalog.pg_publication p
     CROSS JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname::text) g
     WHERE p.pubname = ANY ($1::text[])
     ORDER BY g.relid, p.pubname";

const KEYS: &str = "
    WITH path AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', 'pg_catalog', true) AS now)
    SELECT i.indrelid, i.indisprimary, a.attname::text,
           CASE WHEN path.now IS NOT NULL THEN pg_catalog.format_type(b.oid, -1) END
      FROM path
     CROSS JOIN pg_catalog.pg_index i
     CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, position)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     CROSS JOIN LATERAL (
           WITH RECURSIVE below (oid, base) AS (
               SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
                UNION ALL
               SELECT t.oid, t.typbasetype FROM below JOIN pg_catalog.pg_type t ON t.oid = below.base)
           SELECT below.oid FROM below WHERE below.base = 0) b
     WHERE i.indrelid = ANY ($1::oid[]) AND i.indisvalid AND (i.indisprimary OR i.indisreplident)
     ORDER BY i.indrelid, k.position";

/// A row for each published table and for each leaf of its tree of partitions.
const STORAGE: &str = "
    SELECT r.oid, c.oid, n.nspname::text, c.relname::text, c.relkind::text,
           c.relkind = 'f' OR c.relpersistence <> 'p',
           coalesce(pg_catalog.pg_relation_size(c.oid), 0) / pg_catalog.current_setting('block_size')::bigint,
           c.relpages::bigint, c.reltuples::float8,
           coalesce(pg_catalog.pg_relation_filenode(c.oid), 0),
           pg_catalog.row_security_active(c.oid),
           pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           AND (pg_catalog.has_table_privilege(c.oid, 'SELECT')
                OR NOT EXISTS (SELECT FROM unnest($2::oid[], $3::text[]) p (root, name)
                                WHERE p.root = r.oid AND NOT pg_catalog.has_column_privilege(c.oid, p.name, 'SELECT'))),
           pg_catalog.has_column_privilege(c.oid, 'ctid', 'SELECT'),
           c.reltoastrelid <> 0 AND EXISTS (
               SELECT FROM unnest($2::oid[], $3::text[]) p (root, name)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = p.name
                WHERE p.root = r.oid AND a.attstorage <> 'p'),
           (SELECT coalesce(sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END), 0)
              FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::bigint
      FROM unnest($1::oid[]) r (oid)
     CROSS JOIN LATERAL (
           SELECT r.oid
            UNION
           SELECT t.relid FROM pg_catalog.pg_partition_tree(r.oid) t WHERE t.isleaf) s
      JOIN pg_catalog.pg_class c ON c.oid = s.oid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     ORDER BY r.oid, n.nspname, c.relname";

/// Published tables that the stream publishes as another one above them.
const PUBLISHED_ABOVE: &str = "
    SELECT r.oid
      FROM unnest($1::oid[]) r (oid)
     WHERE EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(r.oid) a
                    WHERE a.relid <> r.oid AND a.relid = ANY ($1::oid[]))";

/// The published tables, by schema and name.
///
/// Within a transaction of the caller this leaves `search_path` at `pg_catalog` until its end.
pub async fn snapshot_tables(client: &Client, publications: &[String]) -> Result<Vec<SnapshotTable>, Error> {
    let mut relations = published_relations(client, publications).await?;
    let oids: Vec<u32> = relations.iter().map(|relation| relation.table.id.0).collect();
    let mut covered = BTreeSet::new();
    for row in client.query(PUBLISHED_ABOVE, &[&oids]).await? {
        covered.insert(row.try_get::<_, u32>(0)?);
    }
    relations.retain(|relation| !covered.contains(&relation.table.id.0));
    let oids: Vec<u32> = relations.iter().map(|relation| relation.table.id.0).collect();
    let mut filters = row_filters(client, publications).await?;
    let (roots, names): (Vec<u32>, Vec<&str>) = relations
        .iter()
        .flat_map(|relation| {
            relation.table.columns.iter().map(|column| (relation.table.id.0, column.name.as_str()))
        })
        .unzip();
    let keys = client.query(KEYS, &[&oids]).await?;
    let storage = client.query(STORAGE, &[&oids, &roots, &names]).await?;
    let mut tables = Vec::new();
    for relation in relations {
        let filter = filters.remove(&relation.table.id.0).flatten();
        let mut table = SnapshotTable {
            key: key(&relation.table, &keys)?,
            table: relation.table,
            relkind: ' ',
            row_filter: filter,
            leaves: Vec::new(),
            silent_leaves: Vec::new(),
            row_security: false,
            may_select: true,
            may_select_pages: true,
            toastable: false,
        };
        for row in &storage {
            if row.try_get::<_, u32>(0)? == table.table.id.0 {
                add_storage(&mut table, row)?;
            }
        }
        // One that was dropped since it was listed has no storage.
        if table.relkind != ' ' {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// By table: its filters, one of which must hold; `None` if a publication has none.
async fn row_filters(
    client: &Client,
    publications: &[String],
) -> Result<BTreeMap<u32, Option<String>>, Error> {
    if client.server_version() < 150_000 {
        return Ok(BTreeMap::new());
    }
    let mut filters: BTreeMap<u32, Option<Vec<String>>> = BTreeMap::new();
    for row in client.query(ROW_FILTERS, &[&publications]).await? {
        let filter: Option<String> = row.try_get(1)?;
        let of_table = filters.entry(row.try_get(0)?).or_insert_with(|| Some(Vec::new()));
        match (of_table.as_mut(), filter) {
            (Some(known), Some(filter)) if !known.contains(&filter) => known.push(filter),
            (Some(_), None) => *of_table = None,
            _ => {}
        }
    }
    let joined = |filters: Vec<String>| match filters.as_slice() {
        [filter] => filter.clone(),
        filters => format!("({})", filters.join(") OR (")),
    };
    Ok(filters.into_iter().map(|(oid, filters)| (oid, filters.map(joined))).collect())
}

fn key(table: &TableSchema, rows: &[Row]) -> Result<Vec<KeyColumn>, Error> {
    for primary in [true, false] {
        let mut key = Vec::new();
        let mut published = true;
        for row in rows {
            if row.try_get::<_, u32>(0)? != table.id.0 || row.try_get::<_, bool>(1)? != primary {
                continue;
            }
            let name: String = row.try_get(2)?;
            match table.columns.iter().position(|column| column.name == name) {
                Some(index) => key.push(KeyColumn { name, index, type_sql: row.try_get(3)? }),
                None => published = false,
            }
        }
        // What the stream says of deleted rows must tell which they were.
        let in_old_rows = table.replica_identity == ReplicaIdentity::Nothing
            || key.iter().all(|column: &KeyColumn| table.columns[column.index].is_key);
        if published && in_old_rows && !key.is_empty() {
            return Ok(key);
        }
    }
    Ok(Vec::new())
}

fn add_storage(table: &mut SnapshotTable, row: &Row) -> Result<(), Error> {
    let oid: u32 = row.try_get(1)?;
    let relkind: &str = row.try_get(4)?;
    let relkind = relkind.chars().next().unwrap_or(' ');
    let silent: bool = row.try_get(5)?;
    if oid == table.table.id.0 {
        table.relkind = relkind;
    }
    if !silent {
        table.row_security |= row.try_get::<_, bool>(10)?;
        table.may_select &= row.try_get::<_, bool>(11)?;
    }
    if relkind == 'p' {
        return Ok(());
    }
    if !silent {
        table.may_select_pages &= row.try_get::<_, bool>(12)?;
        table.toastable |= row.try_get::<_, bool>(13)?;
    }
    let pages = row.try_get::<_, i64>(6)?;
    let leaf = Leaf {
        oid,
        schema: row.try_get(2)?,
        name: row.try_get(3)?,
        pages: u32::try_from(pages).unwrap_or(u32::MAX),
        estimated_rows: estimated_rows(pages, row.try_get(7)?, row.try_get(8)?, row.try_get(14)?),
        filenode: row.try_get(9)?,
    };
    if silent {
        table.silent_leaves.push(leaf)
    } else {
        table.leaves.push(leaf)
    }
    Ok(())
}

/// Of a page of 8 KiB, behind its header.
const PAGE_ROOM_BYTES: i64 = 8192 - 24;
/// Line pointer and header of a row.
const ROW_HEADER_BYTES: i64 = 4 + 24;

/// Scales what the last VACUUM or ANALYZE found by how the table has grown. Without one `reltuples` is -1.
fn estimated_rows(pages: i64, pages_then: i64, rows_then: f64, width_bytes: i64) -> u64 {
    let per_page = if pages_then > 0 && rows_then >= 0.0 {
        rows_then / pages_then as f64
    } else {
        (PAGE_ROOM_BYTES / (width_bytes + ROW_HEADER_BYTES)).max(1) as f64
    };
    (per_page * pages as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates() {
        let check = |pages, pages_then, rows_then, width, wanted| {
            assert_eq!(estimated_rows(pages, pages_then, rows_then, width), wanted);
        };
        check(0, 0, -1.0, 8, 0);
        check(10, 10, 1000.0, 8, 1000);
        check(20, 10, 1000.0, 8, 2000);
        check(0, 10, 1000.0, 8, 0);
        // Never analyzed; analyzed while it was empty.
        check(10, 0, -1.0, 8, 2260);
        check(10, 0, 0.0, 8, 2260);
        check(10, 10, 0.0, 8, 0);
        check(10, 0, -1.0, 100_000, 10);
    }
}
