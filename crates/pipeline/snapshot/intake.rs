//! The pump's side of snapshots: writes the rows of chunks, at their time and place.
//!
//! In: what the coordinator sends. Out: records through the writer, and reports.
//! Invariant: no chunk is written inside a transaction, and no row of one after something newer of the same key.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_avro::{EncodeError, SnapshotMark, TableDescription};
use headwater_pg::CopyRows;
use headwater_pg::transaction_snapshot::TransactionSnapshot;
use headwater_pgoutput::{Column, CopyTextError, Lsn, OldTuple, RelationId, read_copy_row};
use tokio::sync::mpsc::UnboundedSender;

use super::row_key::write_key;
use super::slices::Writing;
use super::touched::Touched;
use super::{Chunk, CopyInput, Report};
use crate::error::StageError;
use crate::event::{self, Origin};
use crate::row_writer::{Copied, Row};
use crate::table_cache::{Form, TablePlan};
use crate::transaction::Transaction;
use crate::versions::Versions;
use crate::writer::Writer;

/// Where the stream stands while it waits: a copy moves no position.
const NOWHERE: Lsn = Lsn(0);

/// A row that waits for the next one, because the last of a table is marked.
struct HeldRow {
    chunk: Arc<Chunk>,
    ordinal: u64,
    body: Vec<u8>,
    /// Chunks that ended with it: they are done when it is.
    ends: Vec<(u32, u64)>,
    first_of_table: bool,
}

/// See the module's documentation.
pub(crate) struct Intake {
    pub(super) reports: UnboundedSender<Report>,
    /// Of the owner of the slot: with a chunk's number it is unique.
    epoch: u64,
    pub(crate) touched: Touched,
    /// Tables without a key that were copied as a whole, and what the copies have seen.
    settled: HashMap<RelationId, TransactionSnapshot>,
    held_rows: HashMap<RelationId, HeldRow>,
    /// The last row of the table that ended last.
    last_row: Option<HeldRow>,
    /// Rows of each chunk under the slot's snapshot.
    rows_of: HashMap<u32, u64>,
    any_row: bool,
    pub(super) beside: Option<Writing>,
    /// Versions that began in the midst of a copy, to keep their places apart.
    amendments: u64,
    pub(super) row_bytes: Vec<u8>,
    pub(super) key_text: Vec<u8>,
}

impl Intake {
    pub(crate) fn new(reports: UnboundedSender<Report>, epoch: u64, next_xid: u32) -> Intake {
        Intake {
            reports,
            epoch,
            touched: Touched::new(next_xid),
            settled: HashMap::new(),
            held_rows: HashMap::new(),
            last_row: None,
            rows_of: HashMap::new(),
            any_row: false,
            beside: None,
            amendments: 0,
            row_bytes: Vec::new(),
            key_text: Vec::new(),
        }
    }

    /// Takes what the coordinator sent. `open` is the transaction that is being read.
    pub(crate) fn take(
        &mut self,
        input: CopyInput,
        open: Option<u32>,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        match input {
            CopyInput::Watch(relation, watch) => self.touched.watch(relation, watch, open),
            CopyInput::Rest(relation) => self.touched.rest(relation),
            CopyInput::Unwatch(relation) => self.touched.unwatch(relation),
            CopyInput::Settled { relation, snapshot } => drop(self.settled.insert(relation, snapshot)),
            CopyInput::Rows { chunk, rows, permit } => {
                self.rows(&chunk, &rows, versions, writer)?;
                drop(permit);
            }
            CopyInput::End { chunk, last_of_table } => self.end(&chunk, last_of_table, versions, writer)?,
            CopyInput::Release => {
                if let Some(row) = self.last_row.take() {
                    self.write_held(row, (true, true), versions, writer)?;
                }
                writer.out.offer_staged()?;
            }
            CopyInput::Beside(beside) => self.take_beside(beside),
            CopyInput::Store { key, value } => writer.out.store_progress(&key, &value)?,
        }
        Ok(())
    }

    /// What became of chunks and records of progress since this was asked last.
    pub(crate) fn tell(&mut self, writer: &mut Writer) {
        let tell = |report| {
            // A coordinator that is gone has failed: the pump is told so by its stop.
            drop(self.reports.send(report));
        };
        writer.out.tracker.take_notes().for_each(|(chunk, rows)| tell(Report::Acknowledged { chunk, rows }));
        (0..writer.out.take_stored_progress()).for_each(|_| tell(Report::Stored));
    }

    /// A transaction has been read to its end.
    pub(crate) fn passed(&mut self, xid: u32, writer: &mut Writer) -> Result<(), StageError> {
        self.touched.passed(xid);
        for (key, value) in self.touched.take_moved_records() {
            writer.out.store_note(&key, &value)?;
        }
        Ok(())
    }

    /// Whether a change of the stream is in a copy that was written before it.
    #[inline]
    pub(crate) fn is_settled(&self, relation: RelationId, xid: u32) -> bool {
        !self.settled.is_empty() && self.settled.get(&relation).is_some_and(|snapshot| snapshot.sees(xid))
    }

    /// Remembers the keys of a change of the stream, if its table is watched: no chunk may bring back what was before.
    /// A row that went aside is not in the stream: whatever a chunk has of it is read again.
    pub(crate) fn touch(&mut self, table: &TableDescription, xid: u32, changed: &Row<'_>, aside: bool) {
        let Some(key) = self.touched.key_of(table.relation) else { return };
        let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
        let Some(columns) = key.iter().map(place).collect::<Option<Vec<usize>>>() else {
            // Renamed or dropped: the copy ends for that, and until then nothing of it is newer than the stream.
            return self.touched.truncated(table.relation, xid);
        };
        let (old, new) = match changed {
            Row::Inserted(new) | Row::Read(new) => (None, Some(new)),
            Row::Updated(old, new) => (old.as_ref(), Some(new)),
            Row::Deleted(old) => (Some(old), None),
            Row::Truncated => (None, None),
        };
        let mut old_key = Vec::new();
        if let Some(old) = old {
            write_key(&columns, old.tuple(), None, &mut old_key);
            self.touched.touch(table.relation, &old_key, xid, aside, false);
        }
        let Some(new) = new else { return };
        write_key(&columns, new, old.map(OldTuple::tuple), &mut self.key_text);
        // Under REPLICA IDENTITY FULL the old row has what the new one leaves out.
        let is_full = old.is_some_and(OldTuple::is_full);
        let unchanged = aside || !is_full && new.columns().any(|column| column == Column::Unchanged);
        let moved = !old_key.is_empty() && old_key != self.key_text;
        self.touched.touch(table.relation, &self.key_text, xid, unchanged, moved);
    }

    // --- under the slot's own snapshot

    fn rows(
        &mut self,
        chunk: &Arc<Chunk>,
        rows: &CopyRows,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        self.ready(chunk, versions, writer)?;
        let mut ordinal = *self.rows_of.entry(chunk.number).or_insert(0);
        let mut bodies = rows.rows().peekable();
        if bodies.peek().is_none() {
            return Ok(());
        }
        let held = self.held_rows.remove(&chunk.relation());
        let mut first_of_table = held.is_none();
        if let Some(held) = held {
            self.write_held(held, (false, false), versions, writer)?;
        }
        writer.begin_copied();
        while let Some(body) = bodies.next() {
            if bodies.peek().is_none() {
                let (chunk, body, ends) = (chunk.clone(), body.to_vec(), Vec::new());
                let held = HeldRow { chunk, ordinal, body, ends, first_of_table };
                self.held_rows.insert(held.chunk.relation(), held);
            } else {
                let mark = self.mark(first_of_table, false, false);
                let place = Place { chunk, ordinal, mark, at: (chunk.lsn, 0), attempt: 0, is_gone: false };
                self.write(&place, body, versions, writer)?;
                first_of_table = false;
            }
            ordinal += 1;
        }
        writer.end_copied(NOWHERE, None);
        self.rows_of.insert(chunk.number, ordinal);
        Ok(())
    }

    fn end(
        &mut self,
        chunk: &Arc<Chunk>,
        last_of_table: bool,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let note = (chunk.number, self.rows_of.remove(&chunk.number).unwrap_or(0));
        match self.held_rows.get_mut(&chunk.relation()) {
            Some(held) if held.chunk.number == chunk.number => held.ends.push(note),
            _ => {
                writer.begin_copied();
                writer.end_copied(NOWHERE, Some(note));
            }
        }
        if !last_of_table {
            return Ok(());
        }
        // Only the last row of all is marked as that, so the last row of each table waits for another table's.
        if let Some(row) = self.held_rows.remove(&chunk.relation())
            && let Some(before) = self.last_row.replace(row)
        {
            self.write_held(before, (true, false), versions, writer)?;
        }
        Ok(())
    }

    /// Writes a row that was held back.
    fn write_held(
        &mut self,
        held: HeldRow,
        (last_of_table, last_of_all): (bool, bool),
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let HeldRow { chunk, ordinal, body, ends, first_of_table } = held;
        let mark = self.mark(first_of_table, last_of_table, last_of_all);
        writer.begin_copied();
        let place = Place { chunk: &chunk, ordinal, mark, at: (chunk.lsn, 0), attempt: 0, is_gone: false };
        self.write(&place, &body, versions, writer)?;
        writer.end_copied(NOWHERE, None);
        for note in ends {
            writer.begin_copied();
            writer.end_copied(NOWHERE, Some(note));
        }
        Ok(())
    }

    fn mark(&mut self, first_of_table: bool, last_of_table: bool, last_of_all: bool) -> SnapshotMark {
        let first = !std::mem::replace(&mut self.any_row, true);
        match (last_of_all, first, last_of_table, first_of_table) {
            (true, ..) => SnapshotMark::Last,
            (_, true, ..) => SnapshotMark::First,
            (_, _, true, _) => SnapshotMark::LastInDataCollection,
            (.., true) => SnapshotMark::FirstInDataCollection,
            _ => SnapshotMark::True,
        }
    }

    /// Makes sure that the rows of a chunk under the slot's snapshot can be written.
    fn ready(
        &mut self,
        chunk: &Chunk,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        if versions.tables.schema_of(chunk.relation()) != Some(&chunk.table) {
            versions.tables.announce(chunk.table.clone(), (chunk.lsn, 0));
        }
        versions.make_ready(chunk.relation(), chunk.lsn, &mut writer.out)
    }

    pub(super) fn write(
        &mut self,
        place: &Place<'_>,
        body: &[u8],
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let mut row_bytes = std::mem::take(&mut self.row_bytes);
        let written = self.write_row(place, body, &mut row_bytes, versions, writer);
        self.row_bytes = row_bytes;
        written
    }

    fn write_row(
        &mut self,
        place: &Place<'_>,
        body: &[u8],
        row_bytes: &mut Vec<u8>,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let chunk = place.chunk;
        let relation = chunk.relation();
        let columns = chunk.table.columns.len() as u16;
        let plan = versions.tables.plan_for(relation).expect("the chunk's table is ready");
        let tuple =
            read_copy_row(body, columns, row_bytes).map_err(|source| copy_error(plan, chunk, source))?;
        // What the table has no more is known by its key alone.
        let read = if place.is_gone { Row::Deleted(OldTuple::Key(tuple)) } else { Row::Read(tuple) };
        match self.write_read(place, &read, versions, writer) {
            Err(error) if error.stage_of_row().is_some() => {
                let plan = versions.tables.plan_for(relation).expect("the chunk's table is ready");
                let transaction = copied_transaction(chunk);
                writer.copied_row(&transaction, self.copied(place)).set_aside(plan, &read, error)
            }
            written => written,
        }
    }

    fn copied(&self, place: &Place<'_>) -> Copied {
        let (chunk, mark, passed) = (place.chunk.number, place.mark, place.at.0);
        Copied { epoch: self.epoch, chunk, mark, passed, attempt: place.attempt }
    }

    fn write_read(
        &mut self,
        place: &Place<'_>,
        read: &Row<'_>,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let Place { chunk, ordinal, at, .. } = *place;
        let relation = chunk.relation();
        loop {
            let plan = versions.tables.plan_for(relation).expect("the chunk's table is ready");
            if let Some(unseen) = (!plan.labels.is_empty()).then(|| read.unseen_label(&plan.labels)).flatten()
            {
                self.amendments += 1;
                let at = (at.0, at.1 + self.amendments);
                versions.label_added(relation, at, &unseen, &mut writer.out)?;
                continue;
            }
            let transaction = copied_transaction(chunk);
            writer.ordinal = ordinal;
            let mut row = writer.copied_row(&transaction, self.copied(place));
            let watches = row.writer.dead_letters.is_watchful();
            if watches {
                row.watch(plan, read)?;
            }
            let written = match (&mut plan.form, read) {
                (Form::LeftOut, _) => Ok(()),
                (Form::Event(events, topics), Row::Read(tuple)) => {
                    let origin = Origin { name: &plan.name };
                    event::write_row(events, topics, tuple, &origin, &mut row)
                        .map(|written| plan.counts.create += u64::from(written))
                }
                (Form::Event(..), _) => Ok(()),
                (_, Row::Deleted(old)) => row.write_gone(plan, old),
                _ => row.write(plan, read),
            };
            if watches {
                row.unwatch();
            }
            match written {
                Err(StageError::Encode {
                    source: EncodeError::UnexpectedNull { column, type_name },
                    table,
                    commit_lsn,
                    lsn,
                }) => {
                    self.amendments += 1;
                    let at = (at.0, at.1 + self.amendments);
                    if !versions.null_met(relation, at, &column, &mut writer.out)? {
                        let source = EncodeError::UnexpectedNull { column, type_name };
                        return Err(StageError::Encode { source, table, commit_lsn, lsn });
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

/// Which row of which chunk, and where in the stream it stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) chunk: &'a Chunk,
    pub(super) ordinal: u64,
    pub(super) mark: SnapshotMark,
    pub(super) at: (Lsn, u64),
    /// As [`BesideChunk::attempt`].
    pub(super) attempt: u32,
    /// The row was asked for, and the table has none.
    pub(super) is_gone: bool,
}

/// A chunk has no transaction; its records say when and where its snapshot was taken.
fn copied_transaction(chunk: &Chunk) -> Transaction {
    Transaction {
        commit_lsn: chunk.lsn,
        commit_unix_micros: chunk.unix_micros,
        xid: 0,
        skipped: false,
        origin: None,
    }
}

pub(super) fn copy_error(plan: &TablePlan, chunk: &Chunk, source: CopyTextError) -> StageError {
    StageError::CopyRow { table: plan.name.clone(), lsn: chunk.lsn, source }
}
