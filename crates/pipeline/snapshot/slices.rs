//! Chunks beside the stream on their way into it: slice by slice, between transactions, without what the stream has
//! overtaken.

use std::collections::HashSet;

use headwater_avro::SnapshotMark;
use headwater_pgoutput::{Lsn, read_copy_row};

use super::intake::{Intake, Place, copy_error};
use super::row_key::{read_key, write_key, write_texts};
use super::touched::{ChunkVerdict, RowVerdict};
use super::{BesideChunk, Chunk, KeylessChunk, Report};
use crate::error::StageError;
use crate::versions::Versions;
use crate::writer::Writer;

/// Rows of a chunk beside the stream that are written in one go: some milliseconds of the stream's latency.
const ROWS_PER_SLICE: usize = 500;

/// How far a chunk beside the stream is written.
pub(super) struct Writing {
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

impl Intake {
    /// A chunk came; it waits for the stream.
    pub(super) fn take_beside(&mut self, beside: BesideChunk) {
        // What it was told with the last chunk it has stored before this one.
        self.touched.heard_of_moved(beside.chunk.relation());
        let key = self.key_places(&beside.chunk);
        let (again, found) = (Vec::new(), HashSet::new());
        let writing = Writing { beside, key, batch: 0, row: 0, written: 0, overtaken: 0, again, found };
        debug_assert!(self.beside.is_none(), "one chunk at a time");
        self.beside = Some(writing);
    }

    /// Whether a chunk waits to be written.
    #[inline]
    pub(crate) fn has_chunk(&self) -> bool {
        self.beside.is_some()
    }

    /// The position of a chunk without rows, which joins a copy to the stream, if everything that was committed before it
    /// was so before `commit_lsn`.
    #[inline]
    pub(crate) fn joins_before(&self, commit_lsn: Lsn) -> Option<Lsn> {
        let BesideChunk { chunk, keyless, .. } = &self.beside.as_ref()?.beside;
        (*keyless == Some(KeylessChunk::First) && chunk.lsn <= commit_lsn).then_some(chunk.lsn)
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

#[cfg(test)]
mod tests {
    use headwater_pgoutput::Column;

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
