//! A table's batch into the database: one COPY into a staging table, then a handful of statements over it.
//!
//! ```text
//! _kind  c the whole row   u the whole row of an update   p a row without some columns   d a deleted key
//! ```
//!
//! Updates are tried as such first, which costs less than a conflict; only where rows are missing are they inserted.
//!
//! The guard is in the statements: a row is changed only by a record that stands behind its last one, and a key comes
//! back only by a record that stands behind its deletion. Measured against multi-row INSERT … VALUES, see docs/APPLY.md.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use bytes::Bytes;
use headwater_pg::catalog::{quote_identifier, quote_literal};
use headwater_pg::{Client, copy_in};

use crate::fold::{State, TableBatch};
use crate::halt::{Failure, of_postgres};
use crate::position::Position;
use crate::target::{LSN_COLUMN, ORDINAL_COLUMN, TargetName};

/// Staging tables of this connection, by the columns that they have.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    made: HashSet<String>,
}

impl Staging {
    /// Those of a transaction that was rolled back are gone, and those of a table that was altered have its old types.
    pub(crate) fn forget(&mut self) {
        self.made.clear();
    }
}

/// What older records are held against, beside the rows themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    /// The position up to which the table was emptied.
    pub(crate) truncated: Position,
    /// Whether any deleted key of the table is remembered.
    pub(crate) has_deleted: bool,
}

/// The statements that remain after the COPY, to be run in order with those of other tables.
#[derive(Debug)]
pub(crate) struct TableStatements {
    /// Whose affected rows count, and those whose don't matter.
    pub(crate) statements: Vec<(Counted, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Upserted,
    /// So many rows should be in the table; if fewer were changed, what is `IfFewer` is run as well.
    UpdatedOf(usize),
    IfFewer,
    Deleted,
    /// Rows that lack columns and are not in the table.
    Incomplete,
    No,
}

/// Copies the batch into its staging table. Inside of the batch's transaction.
pub(crate) async fn stage(
    client: &Client,
    staging: &mut Staging,
    batch: &TableBatch,
    guard: Guard,
) -> Result<TableStatements, Failure> {
    let table = batch.target.plain();
    let failed =
        |error: headwater_pg::Error| of_postgres(&error, &format!("applying to table {table}"), Some(&table));
    let columns: &[String] = batch.row.as_ref().map_or(&batch.key.columns, |row| &row.columns);
    let name = staging_name(batch, columns);
    if !staging.made.contains(&name) {
        let of_table = quoted_list(columns, "");
        let sql = format!(
            "DROP TABLE IF EXISTS pg_temp.{name}; CREATE TEMP TABLE {name} ON COMMIT DELETE ROWS AS SELECT ''::\"char\" AS _kind, 0 AS _group, ''::text AS _key, \
             '0/0'::pg_lsn AS _lsn, 0::bigint AS _ordinal, {of_table} FROM {} WITH NO DATA",
            batch.target.quoted()
        );
        client.batch_execute(&sql).await.map_err(|error| failed(error.into()))?;
        staging.made.insert(name.clone());
    }
    let (lines, groups) = lines(batch, columns);
    let copy = format!("COPY pg_temp.{name} FROM STDIN");
    copy_in(client, &copy, lines).await.map_err(failed)?;
    Ok(statements(batch, columns, &name, &groups, guard))
}

/// Short and the same for the same columns of a table.
fn staging_name(batch: &TableBatch, columns: &[String]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (&batch.target, columns).hash(&mut hasher);
    format!("headwater_stage_{:016x}", hasher.finish())
}

/// COPY's text, and of partial rows the columns that each group lacks.
fn lines(batch: &TableBatch, columns: &[String]) -> (Bytes, Vec<Vec<u16>>) {
    let mut out = Vec::with_capacity(batch.bytes_len() + batch.slots.len() * 48);
    let mut groups: BTreeMap<&[u16], usize> = BTreeMap::new();
    for slot in &batch.slots {
        let key = batch.bytes_of(slot.key);
        let (kind, group) = match &slot.state {
            State::Deleted => ('d', 0),
            State::Row(_) if slot.exists => ('u', 0),
            State::Row(_) => ('c', 0),
            State::Partial(_, missing) => {
                let next = groups.len();
                ('p', *groups.entry(missing).or_insert(next))
            }
        };
        // Writing into a vector can't fail.
        let _ = std::io::Write::write_fmt(&mut out, format_args!("{kind}\t{group}\t"));
        // The key's own escapes and tabs are characters of the column _key.
        for byte in key {
            match byte {
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte => out.push(*byte),
            }
        }
        let _ = std::io::Write::write_fmt(
            &mut out,
            format_args!(
                "\t{:X}/{:X}\t{}\t",
                slot.position.lsn >> 32,
                slot.position.lsn as u32,
                slot.position.ordinal
            ),
        );
        match &slot.state {
            State::Row(line) => out.extend_from_slice(batch.bytes_of(*line)),
            State::Partial(line, missing) => put_without(batch.bytes_of(*line), missing, &mut out),
            State::Deleted => put_key_only(key, &batch.key.columns, columns, &mut out),
        }
        out.push(b'\n');
    }
    let mut missing = vec![Vec::new(); groups.len()];
    for (columns, group) in groups {
        missing[group] = columns.to_vec();
    }
    (out.into(), missing)
}

/// The line with NULL for what is missing: the placeholder is no value of most types.
fn put_without(line: &[u8], missing: &[u16], out: &mut Vec<u8>) {
    for (index, field) in line.split(|byte| *byte == b'\t').enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        out.extend_from_slice(if missing.contains(&(index as u16)) { b"\\N" } else { field });
    }
}

/// The key's columns at their places, NULL in the others.
fn put_key_only(key: &[u8], key_columns: &[String], columns: &[String], out: &mut Vec<u8>) {
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        let place = key_columns.iter().position(|name| name == column);
        let field = place.and_then(|place| key.split(|byte| *byte == b'\t').nth(place));
        out.extend_from_slice(field.unwrap_or(b"\\N"));
    }
}

fn quoted_list(columns: &[String], prefix: &str) -> String {
    let quoted: Vec<_> =
        columns.iter().map(|column| format!("{prefix}{}", quote_identifier(column))).collect();
    quoted.join(", ")
}

fn statements(
    batch: &TableBatch,
    columns: &[String],
    stage: &str,
    groups: &[Vec<u16>],
    guard: Guard,
) -> TableStatements {
    let parts = Parts::new(batch, stage, guard);
    let mut statements = Vec::new();
    let rows = batch.slots.iter().filter(|slot| matches!(slot.state, State::Row(_)));
    let (updates, inserts): (Vec<_>, Vec<_>) = rows.partition(|slot| slot.exists);
    if !inserts.is_empty() {
        statements.push((Counted::Upserted, parts.upsert(columns, 'c')));
    }
    if !updates.is_empty() {
        statements.push((Counted::UpdatedOf(updates.len()), parts.update(columns, "s._kind = 'u'", &[])));
        statements.push((Counted::IfFewer, parts.upsert(columns, 'u')));
    }
    for (group, missing) in groups.iter().enumerate() {
        statements.push((Counted::Incomplete, parts.incomplete(group)));
        let of_group = format!("s._kind = 'p' AND s._group = {group}");
        statements.push((Counted::Upserted, parts.update(columns, &of_group, missing)));
    }
    if batch.deletes() {
        statements.push((Counted::Deleted, parts.delete()));
        statements.push((Counted::No, parts.remember()));
    }
    TableStatements { statements }
}

/// Pieces that the statements share.
struct Parts {
    table: String,
    target: String,
    stage: String,
    key: Vec<String>,
    /// Both sides' keys are equal.
    same_key: String,
    /// The staged record stands behind the row's last one; an inherited (odd) position may equal it.
    newer: String,
    /// The staged record stands behind its key's deletion and the table's emptying. An inherited position may equal it.
    alive: String,
}

impl Parts {
    fn new(batch: &TableBatch, stage: &str, Guard { truncated, has_deleted }: Guard) -> Parts {
        let key = batch.key.columns.clone();
        let equal: Vec<_> = key
            .iter()
            .map(|column| quote_identifier(column))
            .map(|column| format!("t.{column} = s.{column}"))
            .collect();
        let target = quote_literal(&batch.target.plain());
        // A subquery that the planner can't turn into a join: it would read all deleted keys for it.
        let mut alive = match has_deleted {
            false => "true".to_owned(),
            true => format!(
                "coalesce((SELECT (s._lsn, s._ordinal) > (d.lsn, d.ordinal - (s._ordinal & 1)) \
                 FROM headwater.apply_deleted d WHERE d.target = {target} AND d.key = s._key), true)"
            ),
        };
        if truncated > Position::default() {
            let _ = write!(
                alive,
                " AND (s._lsn, s._ordinal) >= ('{}', {})",
                truncated.lsn_text(),
                truncated.ordinal
            );
        }
        Parts {
            table: batch.target.quoted(),
            target,
            stage: format!("pg_temp.{stage}"),
            key,
            same_key: equal.join(" AND "),
            newer: format!("(s._lsn, s._ordinal) > (t.{LSN_COLUMN}, t.{ORDINAL_COLUMN} - (s._ordinal & 1))"),
            alive,
        }
    }

    fn upsert(&self, columns: &[String], kind: char) -> String {
        let set =
            columns.iter().filter(|column| !self.key.contains(column)).map(|column| quote_identifier(column));
        let mut set: Vec<_> = set.map(|column| format!("{column} = excluded.{column}")).collect();
        set.push(format!(
            "{LSN_COLUMN} = excluded.{LSN_COLUMN}, {ORDINAL_COLUMN} = excluded.{ORDINAL_COLUMN}"
        ));
        format!(
            "INSERT INTO {} AS t ({}, {LSN_COLUMN}, {ORDINAL_COLUMN}) OVERRIDING SYSTEM VALUE \
             SELECT {}, s._lsn, s._ordinal FROM {} s WHERE s._kind = '{kind}' AND {} \
             ON CONFLICT ({}) DO UPDATE SET {} \
             WHERE (excluded.{LSN_COLUMN}, excluded.{ORDINAL_COLUMN}) \
             > (t.{LSN_COLUMN}, t.{ORDINAL_COLUMN} - (excluded.{ORDINAL_COLUMN} & 1))",
            self.table,
            quoted_list(columns, ""),
            quoted_list(columns, "s."),
            self.stage,
            self.alive,
            quoted_list(&self.key, ""),
            set.join(", "),
        )
    }

    /// Only where there is such a row; it keeps the missing columns.
    fn update(&self, columns: &[String], which: &str, missing: &[u16]) -> String {
        let sent = columns
            .iter()
            .enumerate()
            .filter(|(index, column)| !missing.contains(&(*index as u16)) && !self.key.contains(column));
        let mut set: Vec<_> = sent
            .map(|(_, column)| quote_identifier(column))
            .map(|column| format!("{column} = s.{column}"))
            .collect();
        set.push(format!("{LSN_COLUMN} = s._lsn, {ORDINAL_COLUMN} = s._ordinal"));
        format!(
            "UPDATE {} t SET {} FROM {} s WHERE {which} AND {} AND {}",
            self.table,
            set.join(", "),
            self.stage,
            self.same_key,
            self.newer
        )
    }

    /// Rows of which columns are missing for good.
    fn incomplete(&self, group: usize) -> String {
        format!(
            "SELECT 1 FROM {} s WHERE s._kind = 'p' AND s._group = {group} AND {} \
             AND NOT EXISTS (SELECT FROM {} t WHERE {})",
            self.stage, self.alive, self.table, self.same_key
        )
    }

    fn delete(&self) -> String {
        format!(
            "DELETE FROM {} t USING {} s WHERE s._kind = 'd' AND {} AND {}",
            self.table, self.stage, self.same_key, self.newer
        )
    }

    fn remember(&self) -> String {
        format!(
            "INSERT INTO headwater.apply_deleted AS d (target, key, lsn, ordinal) \
             SELECT {}, s._key, s._lsn, s._ordinal FROM {} s WHERE s._kind = 'd' \
             ON CONFLICT (target, key) DO UPDATE SET lsn = excluded.lsn, ordinal = excluded.ordinal, deleted_at = now() \
             WHERE (excluded.lsn, excluded.ordinal) > (d.lsn, d.ordinal)",
            self.target, self.stage
        )
    }
}

/// Empties a table up to a position: rows that came behind, perhaps by another partition, stay. Remembered, so that older
/// rows of partitions that are behind don't come back.
pub(crate) fn truncate_statements(target: &TargetName, position: Position, has_positions: bool) -> String {
    let (lsn, ordinal, name) = (position.lsn_text(), position.ordinal, quote_literal(&target.plain()));
    let mut sql = format!(
        "INSERT INTO headwater.apply_table AS a (target, truncated_lsn, truncated_ordinal) \
         VALUES ({name}, '{lsn}', {ordinal}) ON CONFLICT (target) DO UPDATE SET truncated_lsn = excluded.truncated_lsn, \
         truncated_ordinal = excluded.truncated_ordinal \
         WHERE (excluded.truncated_lsn, excluded.truncated_ordinal) > (a.truncated_lsn, a.truncated_ordinal)"
    );
    if has_positions {
        let _ = write!(
            sql,
            "; DELETE FROM {} WHERE ({LSN_COLUMN}, {ORDINAL_COLUMN}) < ('{lsn}', {ordinal})",
            target.quoted()
        );
    }
    sql
}
