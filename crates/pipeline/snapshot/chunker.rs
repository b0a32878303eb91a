//! Reads one chunk of a table beside the stream: rows under a snapshot of its own, and what that snapshot sees.
//!
//! In: a table and where to go on. Out: a chunk for the pump, and where the next one begins. No lock beyond ACCESS
//! SHARE, and that for the time of one chunk.

use std::ops::Range;
use std::time::{Duration, Instant};

use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::transaction_snapshot::{Watermark, begin_at_present};
use headwater_pg::{CopyRows, CopySession};
use headwater_pgoutput::{Column, RelationId, read_copy_row};

use super::copier::name_of;
use super::pace::Pace;
use crate::error::StageError;

/// Rows of a table's first chunk; the next ones follow from the time and the bytes that it took.
const ROWS_FIRST: u64 = 1024;

/// Pages of the first chunk of a storage.
const PAGES_FIRST: u32 = 64;

/// What a chunk may take to be read: it is how much newer the stream can be than its rows.
const TIME_AIM: Duration = Duration::from_millis(300);

/// More bytes than this end a chunk early, whatever was asked for.
const CUT_AT: u64 = 4;

/// Rows of a chunk at most.
const ROWS_MAX: u64 = 100_000;

/// Where the next chunk of a table begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Behind this key; None is the table's first row.
    Key(Option<Vec<String>>),
    /// At this page of one of its storages, up to a last one.
    Pages { leaf: usize, pages: Range<u32> },
    /// The rows of these keys only.
    Again(Vec<Vec<String>>),
}

/// A chunk that was read.
pub(crate) struct ChunkRead {
    pub(crate) watermark: Watermark,
    pub(crate) rows: Vec<CopyRows>,
    pub(crate) bytes: u64,
    /// Where the table is copied up to with this chunk.
    pub(crate) reached: Reached,
    /// It was ended early.
    pub(crate) cut: bool,
}

/// How far a chunk got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// There may be more behind this key.
    Key(Vec<String>),
    /// There is no row behind it.
    End,
    /// These pages are read.
    Pages { leaf: usize, pages: Range<u32> },
    /// The rows were read that were asked for.
    Again,
}

/// How much is asked for at a time; it follows what the last chunk took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkSize {
    rows: u64,
    pages: u32,
    bytes_aim: u64,
    rows_max: u64,
}

impl ChunkSize {
    /// A chunk that is to be no more than the pace allows at once takes no pause after which nothing moves.
    pub(crate) fn new(chunk_bytes: u64, pace: &Pace) -> ChunkSize {
        let rows_max = pace.rows_at_once().map_or(ROWS_MAX, |rows| rows.min(ROWS_MAX));
        let bytes_aim = pace.bytes_at_once().map_or(chunk_bytes, |bytes| bytes.min(chunk_bytes));
        let pages = if rows_max < ROWS_MAX || bytes_aim < chunk_bytes { 1 } else { PAGES_FIRST };
        ChunkSize { rows: ROWS_FIRST.min(rows_max), pages, bytes_aim, rows_max }
    }

    /// The stream overtook too much of a chunk, or it was cut: the next is smaller.
    pub(crate) fn halve(&mut self) {
        self.rows = (self.rows / 2).max(1);
        self.pages = (self.pages / 2).max(1);
    }

    fn follow(&mut self, rows: u64, bytes: u64, took: Duration) {
        let by_rows = self.rows_max as f64 / rows.max(1) as f64;
        let by_bytes = self.bytes_aim as f64 / bytes.max(1) as f64;
        let by_time = TIME_AIM.as_secs_f64() / took.as_secs_f64().max(1e-4);
        let factor = by_bytes.min(by_time).min(by_rows).clamp(0.25, 2.0);
        self.rows = ((self.rows as f64 * factor) as u64).clamp(1, self.rows_max);
        self.pages = ((f64::from(self.pages) * factor) as u32).clamp(1, 8192);
    }
}

/// A table's moment: locked against DDL, with what its snapshot sees and what its columns are.
pub(crate) struct Opened {
    watermark: Watermark,
    began: Instant,
    /// Two chunks with the same one have the same columns, key and filter.
    pub(crate) signature: Vec<Vec<Option<String>>>,
}

/// Begins a chunk. `name` is quoted and qualified.
pub(crate) async fn open(
    session: &mut CopySession,
    name: &str,
    relation: RelationId,
) -> Result<Opened, headwater_pg::Error> {
    let began = Instant::now();
    let watermark = begin_at_present(session, &[name.to_owned()]).await?;
    let signature = session.query(&signature_sql(relation, session.server_version())).await?;
    Ok(Opened { watermark, began, signature })
}

/// Reads a chunk that was begun, and ends its transaction. A chunk that was cut leaves the session in the midst of a
/// COPY: it is to be dropped, as after an error.
pub(crate) async fn read(
    session: &mut CopySession,
    opened: Opened,
    table: &SnapshotTable,
    filter: Option<&str>,
    next: &Next,
    size: &mut ChunkSize,
) -> Result<ChunkRead, StageError> {
    let failed = |source| StageError::Copy { table: name_of(table), source };
    let limit = size.rows;
    let (sql, asked) = match next {
        Next::Key(after) => (table.copy_chunk(after.as_deref(), limit, filter), None),
        Next::Pages { leaf, pages } => {
            let end = pages.end.min(pages.start.saturating_add(size.pages));
            let asked = pages.start..end;
            let sql = table.copy_pages(&table.leaves[*leaf], Some(asked.clone()), filter);
            (sql, Some(Reached::Pages { leaf: *leaf, pages: asked }))
        }
        Next::Again(keys) => (table.copy_keys(keys, filter), Some(Reached::Again)),
    };
    session.copy_out(&sql).await.map_err(failed)?;
    let (mut rows, mut count, mut bytes) = (Vec::new(), 0, 0);
    let mut cut = false;
    while let Some(batch) = session.next_rows().await.map_err(failed)? {
        bytes += batch.len_bytes() as u64;
        count += batch.rows().count() as u64;
        rows.push(batch);
        // Only a chunk by key can end anywhere.
        cut = asked.is_none() && bytes > CUT_AT * size.bytes_aim;
        if cut {
            break;
        }
    }
    if !cut {
        session.query("ROLLBACK").await.map_err(failed)?;
    }
    let reached = match asked {
        Some(reached) => reached,
        None if count < limit && !cut => Reached::End,
        None => Reached::Key(last_key(table, &rows)?),
    };
    size.follow(count, bytes, opened.began.elapsed());
    Ok(ChunkRead { watermark: opened.watermark, rows, bytes, reached, cut })
}

/// What the rows, their places and the statements for them depend on. Under the snapshot of a transaction that has locked the table
/// it is the present.
fn signature_sql(relation: RelationId, server_version: u32) -> String {
    let published =
        if server_version >= 150_000 { "r.prattrs::text || coalesce(r.prqual::text, '')" } else { "''" };
    format!(
        "SELECT c.relnamespace::text, c.relname::text, c.relreplident::text, c.relkind::text,
                (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
                                             a.attisdropped, a.attgenerated), ',' ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
                (SELECT string_agg(concat_ws(' ', i.indexrelid, i.indisprimary, i.indisreplident, i.indkey), ','
                                   ORDER BY i.indexrelid)
                   FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid),
                (SELECT string_agg({published}, ',' ORDER BY r.oid)
                   FROM pg_catalog.pg_publication_rel r WHERE r.prrelid = c.oid),
                (SELECT string_agg(concat_ws(' ', l.oid, pg_catalog.pg_relation_filenode(l.oid)), ',' ORDER BY l.oid)
                   FROM (SELECT c.oid UNION
                         SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf) l)
           FROM pg_catalog.pg_class c WHERE c.oid = {}",
        relation.0
    )
}

/// The key of the last row.
fn last_key(table: &SnapshotTable, rows: &[CopyRows]) -> Result<Vec<String>, StageError> {
    let last = rows.iter().rev().find_map(|rows| rows.rows().last());
    let mut bytes = Vec::new();
    let columns = table.table.columns.len() as u16;
    let failed = |source| StageError::CopyRow { table: name_of(table), lsn: Default::default(), source };
    let tuple = read_copy_row(last.unwrap_or_default(), columns, &mut bytes).map_err(failed)?;
    let text = |column: usize| match tuple.column(column) {
        Some(Column::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    Ok(table.key.iter().map(|key| text(key.index)).collect())
}
