//! The pump's part of `unchanged_toast = "reselect"`: holds changes back from the first row whose values must be read,
//! and writes them once it is known what may be said of each.
//!
//! Whether a change is the last one of its key is known at its Commit, and what is read is of use only once the commit is
//! visible. So nothing is decided before the Commit; at the end of each batch of WAL all transactions that are complete
//! are decided together, in few reads. A transaction that holds more than the limit is written without reading, with
//! marks.

use std::collections::{HashMap, HashSet, VecDeque};

use headwater_pg::read_back::ReadBack;
use headwater_pgoutput::{Lsn, Message, OldTuple, RelationId, fill_unchanged};
use tokio::sync::mpsc;

use crate::ask::ask;
use crate::error::StageError;
use crate::held_wal::HeldWal;
use crate::pump::Pump;
use crate::reselect::{Answer, Marks};
use crate::reselector::Reading;
use crate::row_writer::Row;
use crate::settings::Settings;
use crate::table_cache::TablePlan;

/// Rows that are read at once at first, and at most: an index look-up each, and the text of one statement.
const ROWS_FIRST: usize = 32;
const ROWS_MAX: usize = 256;

/// What is held back, and how; owned by the pump.
pub(crate) struct Holding {
    pub(crate) held: HeldWal,
    /// The open transaction has held more than it may: the rest of it is marked.
    pub(crate) gave_up: bool,
    /// What was held is being written: nothing of it waits again.
    is_writing: bool,
    readings: mpsc::Sender<Reading>,
    bytes_max: u64,
    row_bytes_max: u64,
    /// How many rows the next read asks for.
    rows_at_once: usize,
    slot: String,
    publications: Vec<String>,
}

impl Holding {
    pub(crate) fn new(settings: &Settings, readings: mpsc::Sender<Reading>) -> Holding {
        Holding {
            held: HeldWal::default(),
            gave_up: false,
            is_writing: false,
            readings,
            // The rest of the budget keeps the stream moving, without which no Commit would come.
            bytes_max: settings.reselect.max_bytes.min(settings.max_in_flight_bytes / 2),
            row_bytes_max: settings.max_row_bytes,
            rows_at_once: ROWS_FIRST,
            slot: settings.slot.clone(),
            publications: settings.publications.clone(),
        }
    }
}

/// A row whose values are to be read.
#[derive(Clone, Debug)]
struct Waiting {
    /// Its message.
    at: usize,
    relation: RelationId,
    xid: u32,
    /// None if it has none that could be asked for.
    key: Option<Vec<String>>,
    /// No later change in its transaction touches its key.
    is_last: bool,
}

/// What is known of a row that was held.
struct Decided {
    answer: Answer,
    is_last: bool,
}

impl Pump {
    /// Holds a message back.
    pub(crate) fn hold(&mut self, lsn: Lsn, message: &[u8]) -> Result<(), StageError> {
        let charge = self.holding.held.push(lsn, message);
        self.writer.out.budget().charge(charge);
        if self.holding.held.charged() <= self.holding.bytes_max {
            return Ok(());
        }
        match self.holding.held.committed() {
            0 => self.give_up(),
            _ => self.release(),
        }
    }

    /// At the end of a batch of WAL: decides and writes what is complete.
    pub(crate) fn release_complete(&mut self) -> Result<(), StageError> {
        if self.holding.held.committed() > 0 { self.release() } else { Ok(()) }
    }

    /// Decides and writes everything up to the last Commit. What follows it is read as if it came only now.
    fn release(&mut self) -> Result<(), StageError> {
        let held = std::mem::take(&mut self.holding.held);
        let result = self.write_held(&held);
        self.writer.out.budget().release(held.charged());
        result
    }

    fn write_held(&mut self, held: &HeldWal) -> Result<(), StageError> {
        let end = held.committed();
        let mut at = 0;
        self.holding.is_writing = true;
        while at < end {
            // A Relation message changes what rows mean: those behind it are looked at once it was read.
            let next = (at + 1..end).find(|at| held.tag(*at) == Some(b'R')).unwrap_or(end);
            self.write_stretch(held, at..next)?;
            at = next;
        }
        self.holding.is_writing = false;
        for at in end..held.len() {
            let (lsn, message) = held.message(at);
            self.message(lsn, message)?;
        }
        Ok(())
    }

    /// Writes messages of which only the first can be a Relation message.
    fn write_stretch(&mut self, held: &HeldWal, range: std::ops::Range<usize>) -> Result<(), StageError> {
        let mut at = range.start;
        if held.tag(at) == Some(b'R') {
            let (lsn, message) = held.message(at);
            self.read_message(lsn, message)?;
            at += 1;
        }
        let mut waiting = self.waiting(held, at..range.end)?;
        let mut decided = HashMap::new();
        while at < range.end {
            let bytes = self.read_some(&mut waiting, &mut decided)?;
            let until = waiting.front().map_or(range.end, |next| next.at);
            for at in at..until {
                let (lsn, message) = held.message(at);
                match decided.remove(&at) {
                    None => self.read_message(lsn, message)?,
                    Some(decided) => self.write_decided(lsn, message, &decided)?,
                }
            }
            at = until;
            self.writer.out.budget().release(bytes);
        }
        Ok(())
    }

    /// The rows that lack values, in order.
    fn waiting(
        &mut self,
        held: &HeldWal,
        range: std::ops::Range<usize>,
    ) -> Result<VecDeque<Waiting>, StageError> {
        let mut later = LaterChanges::default();
        let mut rows: VecDeque<Waiting> = VecDeque::new();
        let mut xid = self.reader.open().map_or(0, |open| open.xid);
        for at in range.start..held.len() {
            // What stands behind the range matters as long as it is of the same transaction.
            if at >= range.end && (rows.is_empty() || held.tag(at) == Some(b'B')) {
                break;
            }
            let (lsn, body) = held.message(at);
            let message = Message::decode(body).map_err(|source| StageError::Decode { lsn, source })?;
            let (relation, changed) = match message {
                Message::Begin(begin) => {
                    xid = begin.xid;
                    continue;
                }
                Message::Relation(table) => {
                    later.announced.insert((xid, table.id));
                    continue;
                }
                Message::Insert(insert) => (insert.relation, Row::Inserted(insert.new)),
                Message::Update(update) => (update.relation, Row::Updated(update.old, update.new)),
                Message::Delete(delete) => (delete.relation, Row::Deleted(delete.old)),
                _ => continue,
            };
            if at < range.end {
                self.resolve(relation, lsn)?;
            }
            if later.announced.contains(&(xid, relation)) {
                continue;
            }
            let Some(plan) = self.versions.tables.plan_for(relation) else { continue };
            let Some(reselect) = &plan.reselect else { continue };
            let keys = reselect.keys(&changed);
            if at < range.end && lacks(plan, &changed) {
                let key = keys.as_ref().and_then(|keys| keys.last()).cloned();
                rows.push_back(Waiting { at, relation, xid, key, is_last: true });
            }
            later.note(at, (xid, relation), keys);
        }
        for row in &mut rows {
            row.is_last = later.is_last(row);
        }
        Ok(rows)
    }

    /// Reads the first of the waiting rows. Returns what was charged for their values.
    fn read_some(
        &mut self,
        waiting: &mut VecDeque<Waiting>,
        decided: &mut HashMap<usize, Decided>,
    ) -> Result<u64, StageError> {
        let count = waiting.len().min(self.holding.rows_at_once);
        let mut by_relation: Vec<(RelationId, Vec<Waiting>)> = Vec::new();
        let mut again: Vec<Waiting> = Vec::new();
        for row in waiting.drain(..count) {
            if row.key.is_none() {
                decided.insert(row.at, Decided { answer: Answer::Nothing, is_last: false });
                continue;
            }
            match by_relation.iter_mut().find(|(relation, _)| *relation == row.relation) {
                Some((_, rows)) => rows.push(row),
                None => by_relation.push((row.relation, vec![row])),
            }
        }
        let mut bytes = 0;
        for (relation, rows) in by_relation {
            if bytes >= self.holding.bytes_max {
                again.extend(rows);
                continue;
            }
            let wanted = self.read_back(relation, &rows);
            let answers =
                ask(&self.holding.readings, &mut self.writer.out, |answer| Reading { wanted, answer })?;
            for (row, answer) in rows.into_iter().zip(answers) {
                match answer {
                    None => again.push(row),
                    Some(answer) => {
                        bytes += answer.bytes();
                        decided.insert(row.at, Decided { answer, is_last: row.is_last });
                    }
                }
            }
        }
        self.writer.out.budget().charge(bytes);
        // What had no room is asked for again, with fewer rows beside it.
        self.holding.rows_at_once = match again.len() {
            0 => (self.holding.rows_at_once * 2).min(ROWS_MAX),
            left => (count - left).max(1),
        };
        again.sort_by_key(|row| row.at);
        again.into_iter().rev().for_each(|row| waiting.push_front(row));
        Ok(bytes)
    }

    fn read_back(&mut self, relation: RelationId, rows: &[Waiting]) -> ReadBack {
        let plan = self.versions.tables.plan_for(relation).expect("a row that waits has a plan");
        let reselect = plan.reselect.as_ref().expect("only such tables have rows that wait");
        let key = |row: &Waiting| row.key.clone().expect("only rows with a key are read");
        ReadBack {
            relation,
            table: (plan.description.schema.clone(), plan.description.table.clone()),
            key: reselect.key_names.clone(),
            columns: reselect.column_names.clone(),
            rows: rows.iter().map(|row| (key(row), row.xid)).collect(),
            slot: self.holding.slot.clone(),
            publications: self.holding.publications.clone(),
            newer: reselect.allow_newer,
            bytes_max: self.holding.bytes_max,
            row_bytes_max: self.holding.row_bytes_max,
        }
    }

    /// Writes a row with what was found for it.
    fn write_decided(&mut self, lsn: Lsn, message: &[u8], decided: &Decided) -> Result<(), StageError> {
        let decode = |message| Message::decode(message).map_err(|source| StageError::Decode { lsn, source });
        let Message::Update(update) = decode(message)? else { unreachable!("only an update lacks values") };
        let plan = self.versions.tables.plan_for(update.relation).expect("a row that waits has a plan");
        let reselect = plan.reselect.as_ref().expect("only such tables have rows that wait");
        let (values, marks) =
            reselect.decide(&Row::Updated(update.old, update.new), &decided.answer, decided.is_last);
        let value = |index| values.iter().find(|(at, _)| *at == index).map(|(_, value)| value.as_bytes());
        let filled = fill_unchanged(message, value).map_err(|source| StageError::Decode { lsn, source })?;
        self.count_reselected(update.relation, &marks);
        self.writer.marks = Some(marks);
        let written = self.read_message(lsn, &filled);
        self.writer.marks = None;
        written
    }

    fn count_reselected(&mut self, relation: RelationId, marks: &Marks) {
        let Some(plan) = self.versions.tables.plan_for(relation) else { return };
        let labels = [plan.name.as_str(), marks.outcome()];
        self.writer.out.metrics().reselected.with_label_values(&labels).inc();
    }

    /// The open transaction has more than may wait: it goes on with marks, and nothing of it is read.
    fn give_up(&mut self) -> Result<(), StageError> {
        let held = std::mem::take(&mut self.holding.held);
        tracing::info!(
            bytes = held.charged(),
            "a transaction is larger than pipeline.reselect_max_bytes: its unchanged TOAST values are marked"
        );
        self.holding.gave_up = true;
        let result = (0..held.len()).try_for_each(|at| {
            let (lsn, message) = held.message(at);
            self.read_message(lsn, message)
        });
        self.writer.out.budget().release(held.charged());
        result
    }

    /// Whether a row must wait for its values. One that was decided, or of a transaction that may not wait, gets its
    /// marks.
    pub(crate) fn must_wait(&mut self, relation: RelationId, changed: &Row<'_>) -> bool {
        if self.writer.marks.is_some() {
            return false;
        }
        let Some(plan) = self.versions.tables.plan_for(relation) else { return false };
        let Some(reselect) = plan.reselect.as_ref().filter(|_| lacks(plan, changed)) else { return false };
        if !self.holding.gave_up && !self.holding.is_writing {
            return true;
        }
        let (_, marks) = reselect.decide(changed, &Answer::Nothing, false);
        self.count_reselected(relation, &marks);
        self.writer.marks = Some(marks);
        false
    }
}

/// Whether a record of the row would lack a value. A filter that needs the value halts as it always does, and a row that it
/// leaves out needs none.
fn lacks(plan: &TablePlan, changed: &Row<'_>) -> bool {
    if !plan.reselect.as_ref().is_some_and(|reselect| reselect.lacks(changed)) {
        return false;
    }
    match (&plan.filter, changed) {
        (Some(filter), Row::Updated(old, new)) => {
            filter.passes(new, old.as_ref().map(OldTuple::tuple)).unwrap_or(false)
        }
        _ => true,
    }
}

/// Which changes of a transaction come last for their key.
#[derive(Default)]
struct LaterChanges {
    last: HashMap<(u32, RelationId, Vec<String>), usize>,
    /// Tables of whose keys not all could be told.
    unknown: HashSet<(u32, RelationId)>,
    /// Tables that were described anew later on: their keys may be other columns there.
    announced: HashSet<(u32, RelationId)>,
}

impl LaterChanges {
    fn note(&mut self, at: usize, (xid, relation): (u32, RelationId), keys: Option<Vec<Vec<String>>>) {
        match keys {
            None => {
                self.unknown.insert((xid, relation));
            }
            Some(keys) => keys.into_iter().for_each(|key| {
                self.last.insert((xid, relation, key), at);
            }),
        }
    }

    fn is_last(&self, row: &Waiting) -> bool {
        let table = (row.xid, row.relation);
        let Some(key) = &row.key else { return false };
        !self.unknown.contains(&table)
            && !self.announced.contains(&table)
            && self.last.get(&(row.xid, row.relation, key.clone())) == Some(&row.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_changes_of_the_same_key_count() {
        let key = |name: &str| vec![name.to_owned()];
        let row = |at, xid, relation, name| Waiting {
            at,
            relation: RelationId(relation),
            xid,
            key: Some(key(name)),
            is_last: true,
        };
        let mut later = LaterChanges::default();
        // Transaction 7: a; b becomes c; c; transaction 8: a; relation 2 has a key that can't be told.
        for (at, xid, relation, keys) in [
            (0, 7, 1, vec!["a"]),
            (1, 7, 1, vec!["b", "c"]),
            (2, 7, 1, vec!["c"]),
            (3, 8, 1, vec!["a"]),
            (4, 8, 2, vec!["a"]),
        ] {
            let keys = keys.into_iter().map(key).collect();
            later.note(at, (xid, RelationId(relation)), Some(keys));
        }
        later.note(5, (8, RelationId(2)), None);
        later.announced.insert((9, RelationId(1)));
        later.note(6, (9, RelationId(1)), Some(vec![key("a")]));
        for (row, expected) in [
            (row(0, 7, 1, "a"), true),
            (row(1, 7, 1, "c"), false),
            (row(2, 7, 1, "c"), true),
            (row(3, 8, 1, "a"), true),
            (row(4, 8, 2, "a"), false),
            (row(6, 9, 1, "a"), false),
            (Waiting { key: None, ..row(0, 7, 1, "a") }, false),
        ] {
            assert_eq!(later.is_last(&row), expected, "{row:?}");
        }
    }
}
