//! The pump's side of snapshots: writes the rows of chunks, at their time and place.
//!
//! In: what the coordinator sends. Out: records through the writer, and reports.
//! Invariant: no chunk is written inside a transaction, and no row of one after something newer of the same key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use headwater_avro::{EncodeError, SnapshotMark, TableDescription};
use headwater_pg::CopyRows;
use headwater_pg::transaction_snapshot::TransactionSnapshot;
use headwater_pgoutput::{Column, CopyTextError, Lsn, OldTuple, RelationId, read_copy_row};
use tokio::sync::mpsc::UnboundedSender;

use super::row_key::{read_key, write_key, write_texts};
use super::touched::{ChunkVerdict, RowVerdict, Touched};
use super::{BesideChunk, Chunk, CopyInput, KeylessChunk, Report};
use crate::error::StageError;
use crate::event::{self, Origin};
use crate::row_writer::{Copied, Row};
use crate::table_cache::{Form, TablePlan};
use crate::transaction::Transaction;
use crate::versions::Versions;
use crate::writer::Writer;

/// Rows of a chunk beside the stream that are written in one go: some milliseconds of the stream's latency.
const ROWS_PER_SLICE: usize = 500;

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

/// How far a chunk beside the stream is written.
struct Writing {
    beside: BesideChunk,
    /// The places of the key's columns in its rows.
    key: Vec<usize>,
    /// The batch and the row in it that come next.
    batch: usize,
    row: usize,
    written: u64,
    overtaken: u64,
    again: Vec<Vec<String>>,
    /// Keys of its rows, where those that it lacks matter.
    found: HashSet<Vec<u8>>,
}

/// See the module's documentation.
pub(crate) struct Intake {
    reports: UnboundedSender<Report>,
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
    beside: Option<Writing>,
    /// Versions that began in the midst of a copy, to keep their places apart.
    amendments: u64,
    row_bytes: Vec<u8>,
    key_text: Vec<u8>,
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
            CopyInput::Beside(beside) => {
                // What it was told with the last chunk it has stored before this one.
                self.touched.heard_of_moved(beside.chunk.relation());
                let key = self.key_places(&beside.chunk);
                let (again, found) = (Vec::new(), HashSet::new());
                let writing =
                    Writing { beside, key, batch: 0, row: 0, written: 0, overtaken: 0, again, found };
                debug_assert!(self.beside.is_none(), "one chunk at a time");
                self.beside = Some(writing);
            }
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

    // --- beside the stream

    /// Whether a chunk waits to be written.
    #[inline]
    pub(crate) fn has_chunk(&self) -> bool {
        self.beside.is_some()
    }

    /// Writes a slice of the waiting chunk, if the stream has come far enough. To be called between transactions.
    /// True if there is more to write now.
    pub(crate) fn slice(
        &mut self,
        passed: Lsn,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<bool, StageError> {
        let Some(mut writing) = self.beside.take_if(|writing| writing.beside.chunk.lsn <= passed) else {
            return Ok(false);
        };
        let chunk = writing.beside.chunk.clone();
        let begins = writing.batch == 0 && writing.row == 0;
        let verdict = if begins {
            self.begin_beside(&writing.beside, passed, versions, writer)?
        } else if writing.beside.keyless.is_none() && self.touched.overflowed(chunk.relation()) {
            self.touched.verdict(chunk.relation(), &writing.beside.snapshot)
        } else {
            ChunkVerdict::Write
        };
        if let ChunkVerdict::ReadAgain { after } = verdict {
            drop(self.reports.send(Report::ReadAgain { chunk: chunk.number, after }));
            return Ok(false);
        }
        let ended = self.write_slice(&mut writing, passed, versions, writer)?;
        writer.end_copied(passed, ended.then_some((chunk.number, writing.written)));
        if !ended {
            self.beside = Some(writing);
            return Ok(true);
        }
        writer.out.offer_staged()?;
        writing.again.extend(self.not_there_yet(&writing.beside));
        self.touched.forget_seen(&writing.beside.snapshot);
        let moved = self.touched.tell_moved(chunk.relation());
        let (overtaken, again) = (writing.overtaken, writing.again);
        drop(self.reports.send(Report::Written { chunk: chunk.number, overtaken, again, moved }));
        Ok(false)
    }

    /// Keys whose row the chunk's snapshot does not see where the stream has it: its transaction is in WAL, and not yet
    /// visible.
    fn not_there_yet(&mut self, beside: &BesideChunk) -> Vec<Vec<String>> {
        let mut keys = Vec::new();
        for key in &beside.asked {
            write_texts(key, &mut self.key_text);
            let verdict = self.touched.judge(beside.chunk.relation(), &self.key_text, &beside.snapshot);
            if verdict == RowVerdict::OvertakenInPart {
                keys.push(key.clone());
            }
        }
        keys
    }

    fn begin_beside(
        &mut self,
        beside: &BesideChunk,
        passed: Lsn,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<ChunkVerdict, StageError> {
        let relation = beside.chunk.relation();
        let verdict = if beside.keyless == Some(KeylessChunk::Later) {
            ChunkVerdict::Write
        } else if beside.on_standby {
            self.touched.verdict_on_standby(relation)
        } else {
            self.touched.verdict(relation, &beside.snapshot)
        };
        if verdict != ChunkVerdict::Write {
            return Ok(verdict);
        }
        if beside.keyless == Some(KeylessChunk::First) {
            let after = self.touched.unseen_writers(relation, &beside.snapshot);
            let truncated = self.touched.judge(relation, &[], &beside.snapshot) != RowVerdict::Write;
            if truncated || !after.is_empty() {
                return Ok(ChunkVerdict::ReadAgain { after });
            }
        }
        if versions.tables.schema_of(relation) != Some(&beside.chunk.table) {
            if self.touched.announced_after(relation, &beside.snapshot) {
                return Ok(ChunkVerdict::ReadAgain { after: Vec::new() });
            }
            versions.tables.announce(beside.chunk.table.clone(), (passed, 0));
        }
        versions.ask_again(relation, (passed, 0), beside.attempt > 0);
        versions.make_ready(relation, passed, &mut writer.out)?;
        Ok(ChunkVerdict::Write)
    }

    /// A chunk has its key's columns: their names were taken from the table as it was when it was read.
    fn key_places(&self, chunk: &Chunk) -> Vec<usize> {
        let names = self.touched.key_of(chunk.relation()).unwrap_or_default();
        let place = |name: &String| chunk.table.columns.iter().position(|column| column.name == *name);
        names.iter().filter_map(place).collect()
    }

    /// True at the chunk's end.
    fn write_slice(
        &mut self,
        writing: &mut Writing,
        passed: Lsn,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<bool, StageError> {
        let chunk = writing.beside.chunk.clone();
        writer.begin_copied();
        let mut left = ROWS_PER_SLICE;
        while let Some(rows) = writing.beside.rows.get(writing.batch) {
            for body in rows.rows().skip(writing.row) {
                if left == 0 {
                    return Ok(false);
                }
                left -= 1;
                writing.row += 1;
                let judged = match writing.beside.keyless {
                    Some(_) => (RowVerdict::Write, Vec::new()),
                    None => self.judge(&writing.beside, &writing.key, body, versions)?,
                };
                if writing.beside.attempt > 0 {
                    writing.found.insert(self.key_text.clone());
                }
                match judged {
                    (RowVerdict::Write, _) => {
                        let place = Place {
                            chunk: &chunk,
                            ordinal: writing.written,
                            mark: SnapshotMark::Incremental,
                            at: (passed, 0),
                            attempt: writing.beside.attempt,
                            is_gone: false,
                        };
                        self.write(&place, body, versions, writer)?;
                        writing.written += 1;
                    }
                    (verdict, key) => {
                        writing.overtaken += 1;
                        if verdict == RowVerdict::OvertakenInPart {
                            writing.again.push(key);
                        }
                    }
                }
            }
            writing.batch += 1;
            writing.row = 0;
        }
        if writing.beside.attempt > 0 {
            self.write_gone(writing, passed, versions, writer)?;
        }
        Ok(true)
    }

    /// Rows that were asked for to deliver what had gone aside, and that the table has no more: their deletes.
    fn write_gone(
        &mut self,
        writing: &mut Writing,
        passed: Lsn,
        versions: &mut Versions,
        writer: &mut Writer,
    ) -> Result<(), StageError> {
        let chunk = writing.beside.chunk.clone();
        for key in std::mem::take(&mut writing.beside.asked) {
            write_texts(&key, &mut self.key_text);
            let is_known = writing.found.contains(&self.key_text);
            let verdict = self.touched.judge(chunk.relation(), &self.key_text, &writing.beside.snapshot);
            if !is_known && verdict == RowVerdict::Write {
                let place = Place {
                    chunk: &chunk,
                    ordinal: writing.written,
                    mark: SnapshotMark::Incremental,
                    at: (passed, 0),
                    attempt: writing.beside.attempt,
                    is_gone: true,
                };
                let body = copy_text_of_key(chunk.table.columns.len(), &writing.key, &key);
                self.write(&place, &body, versions, writer)?;
                writing.written += 2;
            }
            writing.beside.asked.push(key);
        }
        Ok(())
    }

    /// Whether the stream has overtaken a row, and the row's key if it has in part.
    fn judge(
        &mut self,
        beside: &BesideChunk,
        key: &[usize],
        body: &[u8],
        versions: &mut Versions,
    ) -> Result<(RowVerdict, Vec<String>), StageError> {
        let (chunk, relation) = (&beside.chunk, beside.chunk.relation());
        let plan = versions.tables.plan_for(relation).expect("a chunk that is being written is ready");
        let tuple = read_copy_row(body, chunk.table.columns.len() as u16, &mut self.row_bytes)
            .map_err(|source| copy_error(plan, chunk, source))?;
        write_key(key, &tuple, None, &mut self.key_text);
        let verdict = self.touched.judge(relation, &self.key_text, &beside.snapshot);
        let key = if verdict == RowVerdict::OvertakenInPart { read_key(&self.key_text) } else { Vec::new() };
        Ok((verdict, key))
    }

    // --- both

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

    fn write(
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
struct Place<'a> {
    chunk: &'a Chunk,
    ordinal: u64,
    mark: SnapshotMark,
    at: (Lsn, u64),
    /// As [`BesideChunk::attempt`].
    attempt: u32,
    /// The row was asked for, and the table has none.
    is_gone: bool,
}

/// A line of COPY with the columns of a key, and NULL in all others.
fn copy_text_of_key(columns: usize, places: &[usize], key: &[String]) -> Vec<u8> {
    let mut line = String::new();
    for column in 0..columns {
        if column > 0 {
            line.push('\t');
        }
        let Some(text) = places.iter().position(|place| *place == column).and_then(|at| key.get(at)) else {
            line.push_str("\\N");
            continue;
        };
        for character in text.chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\t' => line.push_str("\\t"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                other => line.push(other),
            }
        }
    }
    line.into_bytes()
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

fn copy_error(plan: &TablePlan, chunk: &Chunk, source: CopyTextError) -> StageError {
    StageError::CopyRow { table: plan.name.clone(), lsn: chunk.lsn, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_alone_is_a_line_of_copy() {
        let key = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (columns, places, texts, expected) in [
            (1, vec![0], key(&["7"]), vec![Column::Text(b"7")]),
            (
                3,
                vec![2, 0],
                key(&["a\tb\\c\nd\re", ""]),
                vec![Column::Text(b""), Column::Null, Column::Text(b"a\tb\\c\nd\re")],
            ),
        ] {
            let line = copy_text_of_key(columns, &places, &texts);
            let mut bytes = Vec::new();
            let tuple = read_copy_row(&line, columns as u16, &mut bytes).unwrap();
            assert_eq!(tuple.columns().collect::<Vec<_>>(), expected);
        }
    }
}
