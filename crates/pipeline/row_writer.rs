//! From one changed row to its records: change, tombstone, or the three records of a changed key.
//!
//! Under a row filter an update that brings a row into the filter is a create, and one that takes it out is a delete,
//! as Postgres has it for a publication's WHERE.

use headwater_avro::{
    Change, ChangeSource, Deletes, EncodeError, EnumLabels, FilterPlan, Op, SnapshotMark, TransactionPlace,
    UnseenLabel,
};
use headwater_kafka::partition_for_key;
use headwater_pgoutput::{Column, Lsn, OldTuple, Tuple};

use crate::error::StageError;
use crate::table_cache::{Form, TablePlan};
use crate::transaction::Transaction;
use crate::writer::Writer;

/// What happened to a row. An update carries its old tuple only where the replica identity says so.
pub(crate) enum Row<'a> {
    Inserted(Tuple<'a>),
    /// By a snapshot.
    Read(Tuple<'a>),
    Updated(Option<OldTuple<'a>>, Tuple<'a>),
    Deleted(OldTuple<'a>),
    /// All of them.
    Truncated,
}

impl Row<'_> {
    /// A label in it, old or new, that the schema does not list.
    pub(crate) fn unseen_label(&self, labels: &EnumLabels) -> Option<UnseenLabel> {
        let (old, new) = match self {
            Row::Inserted(new) | Row::Read(new) => (None, Some(new)),
            Row::Updated(old, new) => (old.as_ref(), Some(new)),
            Row::Deleted(old) => (Some(old), None),
            Row::Truncated => (None, None),
        };
        new.and_then(|new| labels.unseen(new)).or_else(|| labels.unseen(old?.tuple()))
    }
}

/// Where a row comes from that a snapshot read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) epoch: u64,
    pub(crate) chunk: u32,
    pub(crate) mark: SnapshotMark,
    /// Where the stream stands.
    pub(crate) passed: Lsn,
    /// Which attempt at its delivery it is, if it is read for that; 0 if not.
    pub(crate) attempt: u32,
}

/// Writes the records of one row.
pub(crate) struct RowWriter<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) transaction: &'a Transaction,
    /// None for a row of the stream.
    pub(crate) copied: Option<Copied>,
    pub(crate) writer: &'a mut Writer,
}

impl<'a> RowWriter<'a> {
    pub(crate) fn write(&mut self, plan: &mut TablePlan, changed: &Row<'_>) -> Result<(), StageError> {
        match plan.filter.take() {
            None => self.write_row(plan, changed),
            Some(filter) => {
                let result = self.write_filtered(plan, &filter, changed);
                plan.filter = Some(filter);
                result
            }
        }
    }

    fn write_filtered(
        &mut self,
        plan: &mut TablePlan,
        filter: &FilterPlan,
        changed: &Row<'_>,
    ) -> Result<(), StageError> {
        let passes = |row: &Tuple<'_>, old: Option<&OldTuple<'_>>| {
            filter.passes(row, old.map(OldTuple::tuple)).map_err(|source| self.encode_error(plan, source))
        };
        let (before, after) = match changed {
            Row::Inserted(new) | Row::Read(new) => (false, passes(new, None)?),
            Row::Deleted(old) => (passes(old.tuple(), None)?, false),
            Row::Truncated => (true, true),
            Row::Updated(Some(old), new) => (passes(old.tuple(), None)?, passes(new, Some(old))?),
            // Without an old row the identity is what it was, and the filter looks at nothing else.
            Row::Updated(None, new) => {
                let same = passes(new, None)?;
                (same, same)
            }
        };
        match (changed, before, after) {
            (_, false, false) => {
                plan.counts.filtered += 1;
                Ok(())
            }
            (Row::Updated(old, new), false, true) => {
                self.record(plan, Op::Create, old.as_ref(), Some(new), None)?;
                plan.counts.create += 1;
                Ok(())
            }
            (Row::Updated(Some(old), _), true, false) => self.delete(plan, old, None),
            _ => self.write_row(plan, changed),
        }
    }

    fn write_row(&mut self, plan: &mut TablePlan, changed: &Row<'_>) -> Result<(), StageError> {
        match changed {
            Row::Inserted(new) => {
                self.record(plan, Op::Create, None, Some(new), None)?;
                plan.counts.create += 1;
                Ok(())
            }
            Row::Read(new) => {
                self.record(plan, Op::Read, None, Some(new), None)?;
                plan.counts.read += 1;
                Ok(())
            }
            Row::Updated(Some(old), new) if self.key_changed(plan, old, new) => {
                self.key_change(plan, old, new)
            }
            Row::Updated(old, new) => {
                self.record(plan, Op::Update, old.as_ref(), Some(new), None)?;
                plan.counts.update += 1;
                Ok(())
            }
            Row::Deleted(old) => self.delete(plan, old, None),
            Row::Truncated => self.truncated(plan),
        }
    }

    fn key_changed(&self, plan: &TablePlan, old: &OldTuple<'_>, new: &Tuple<'_>) -> bool {
        match &plan.form {
            Form::Record { key: Some((key, _)), .. } => key.changed(old.tuple(), new),
            _ => false,
        }
    }

    /// A changed key is a delete of the old key and a create of the new one, linked by Debezium's headers.
    fn key_change(
        &mut self,
        plan: &mut TablePlan,
        old: &OldTuple<'_>,
        new: &Tuple<'_>,
    ) -> Result<(), StageError> {
        let Form::Record { key: Some((key, _)), .. } = &plan.form else {
            unreachable!("only a key can change")
        };
        let (mut new_json, mut old_json) = (
            std::mem::take(&mut self.writer.scratch.key_json),
            std::mem::take(&mut self.writer.scratch.old_key_json),
        );
        new_json.clear();
        old_json.clear();
        let written = key
            .write_json_with_old(new, Some(old.tuple()), &mut new_json)
            .and_then(|()| key.write_json(old.tuple(), &mut old_json));
        written.map_err(|source| self.encode_error(plan, source))?;
        self.delete(plan, old, Some(("__debezium.newkey", &new_json)))?;
        plan.counts.create += 1;
        self.record(plan, Op::Create, Some(old), Some(new), Some(("__debezium.oldkey", &old_json)))?;
        (self.writer.scratch.key_json, self.writer.scratch.old_key_json) = (new_json, old_json);
        Ok(())
    }

    fn delete(
        &mut self,
        plan: &mut TablePlan,
        old: &OldTuple<'_>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        let deletes = match &plan.form {
            Form::Record { key, value, .. } => {
                let deletes = value.deletes();
                let tombstone = key.is_some() && deletes.tombstone.unwrap_or(self.writer.tombstones);
                Deletes { tombstone: Some(tombstone), ..deletes }
            }
            _ => Deletes { record: true, tombstone: None },
        };
        if deletes.record {
            self.record(plan, Op::Delete, Some(old), None, header)?;
            plan.counts.delete += 1;
        }
        if deletes.tombstone == Some(true) {
            plan.counts.tombstone += 1;
            self.tombstone(plan, old, header)?;
        } else if !deletes.record {
            plan.counts.flat_delete += 1;
        }
        Ok(())
    }

    /// A row that was read by its key for another delivery, and is not there any more. Under REPLICA IDENTITY FULL a delete
    /// would have all of its columns, which nobody knows: the tombstone says it alone then.
    pub(crate) fn write_gone(&mut self, plan: &mut TablePlan, old: &OldTuple<'_>) -> Result<(), StageError> {
        let has_key = matches!(plan.form, Form::Record { key: Some(_), .. });
        if !plan.description.has_full_identity() || !has_key {
            return self.delete(plan, old, None);
        }
        plan.counts.tombstone += 1;
        self.tombstone(plan, old, None)
    }

    fn tombstone(
        &mut self,
        plan: &TablePlan,
        old: &OldTuple<'_>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        let Form::Record { key: Some((key_plan, key_id)), .. } = &plan.form else {
            unreachable!("only what has a key has a tombstone")
        };
        let mut key = std::mem::take(&mut self.writer.scratch.key);
        key.clear();
        let result = key_plan
            .encode_into(*key_id, old.tuple(), &mut key)
            .map_err(|source| self.encode_error(plan, source))
            .and_then(|()| {
                let partition = self.partition(plan, Some(&key), Some(old.tuple()), None);
                self.offer(&plan.topic, partition, Some(&key), None, header)
            });
        self.writer.scratch.key = key;
        result
    }

    fn record(
        &mut self,
        plan: &TablePlan,
        op: Op,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        let source = self.counted_source(&plan.name)?;
        let change = Change {
            op,
            before: old.map(OldTuple::tuple),
            before_is_full: old.is_some_and(OldTuple::is_full),
            after: new,
            source: &source,
        };
        let (mut key, mut value) =
            (std::mem::take(&mut self.writer.scratch.key), std::mem::take(&mut self.writer.scratch.value));
        key.clear();
        value.clear();
        let result = self.encode(plan, &change, &mut key, &mut value).and_then(|keyed| {
            let key = keyed.then_some(key.as_slice());
            let partition = self.partition(plan, key, change.after.or(change.before), change.before);
            let marks = change.after.and_then(|_| self.writer.marks.take());
            match (&plan.trace, change.after) {
                (Some(columns), Some(after)) => {
                    let mut more: Vec<(&str, &[u8])> = header.into_iter().collect();
                    more.extend(marks.iter().flat_map(|marks| marks.headers()));
                    let trace = self.trace_of(columns, &plan.name, after, change.before);
                    self.offer_traced(&plan.topic, partition, key, Some(&value), &more, trace.as_ref())
                }
                _ => match marks {
                    None => self.offer(&plan.topic, partition, key, Some(&value), header),
                    Some(marks) => {
                        let mut headers: Vec<(&str, &[u8])> = header.into_iter().collect();
                        headers.extend(marks.headers());
                        self.offer_to(&plan.topic, partition, key, Some(&value), &headers)
                    }
                },
            }
        });
        (self.writer.scratch.key, self.writer.scratch.value) = (key, value);
        result
    }

    /// The table was truncated: a record without a row, and without a key, so that it stands with the other keyless
    /// records of its topic. It follows what came before it in its own partition only.
    pub(crate) fn truncated(&mut self, plan: &mut TablePlan) -> Result<(), StageError> {
        plan.counts.truncate += 1;
        self.record(plan, Op::Truncate, None, None, None)
    }

    /// Counts a change of a table, and tells where it stands. The first one of a transaction begins it in its topic.
    pub(crate) fn counted_source(&mut self, table: &str) -> Result<ChangeSource<'a>, StageError> {
        if self.copied.is_some() {
            return Ok(self.source(None));
        }
        let Some(mut topic) = self.writer.transactions.take() else { return Ok(self.source(None)) };
        let counted = topic.count(table, self);
        self.writer.transactions = Some(topic);
        Ok(self.source(Some(counted?)))
    }

    /// The Commit was read: ends the transaction in its topic, if it was begun there.
    pub(crate) fn end_transaction(&mut self) -> Result<(), StageError> {
        let Some(mut topic) = self.writer.transactions.take() else { return Ok(()) };
        let ended = topic.end(self);
        self.writer.transactions = Some(topic);
        ended
    }

    pub(crate) fn source(&self, place: Option<TransactionPlace>) -> ChangeSource<'a> {
        ChangeSource {
            commit_lsn: self.transaction.commit_lsn,
            lsn: self.lsn,
            commit_unix_micros: self.transaction.commit_unix_micros,
            xid: self.transaction.xid,
            origin: self.transaction.origin.as_ref().map(|(name, lsn)| (name.as_str(), *lsn)),
            place,
            snapshot: self.copied.map_or(SnapshotMark::None, |copied| copied.mark),
        }
    }

    /// Whether there is a key.
    fn encode(
        &mut self,
        plan: &TablePlan,
        change: &Change<'_>,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<bool, StageError> {
        match &plan.form {
            Form::Record { key: key_plan, value: value_plan, value_id, .. } => {
                let run = &mut self.writer.scratch.copied_run;
                let tail =
                    self.copied.and_then(|copied| run.tail(copied, value_plan, *value_id, change.source));
                let written = match (tail, change.after) {
                    (Some(tail), Some(row)) => {
                        value_plan.encode_read_into(*value_id, row, change.source, tail, value)
                    }
                    _ => value_plan.encode_into(*value_id, change, value),
                };
                let failed = |source| self.encode_error(plan, source);
                written.map_err(failed)?;
                let Some((key_plan, key_id)) = key_plan else { return Ok(false) };
                let Some(keyed_by) = change.after.or(change.before) else { return Ok(false) };
                key_plan.encode_with_old_into(*key_id, keyed_by, change.before, key).map_err(failed)?;
                Ok(true)
            }
            Form::Lines(lines) => {
                lines.write(&plan.description, change, value);
                Ok(false)
            }
            Form::Unplanned { reason, .. } => {
                Err(StageError::Unplanned { table: plan.name.clone(), reason: reason.clone() })
            }
            Form::Event(..) | Form::LeftOut => unreachable!("the pump sends no such row here"),
        }
    }

    /// The partition of a record: of its key, of the columns that were chosen for it, or the table's one.
    fn partition(
        &mut self,
        plan: &TablePlan,
        key: Option<&[u8]>,
        tuple: Option<&Tuple<'_>>,
        old: Option<&Tuple<'_>>,
    ) -> i32 {
        let Form::Record { partitions, keyless_partition, partition_by, .. } = &plan.form else { return 0 };
        match (key, tuple) {
            (_, Some(tuple)) if !partition_by.is_empty() => {
                let text = &mut self.writer.scratch.partition_text;
                text.clear();
                partition_by.iter().for_each(|at| write_partition_text(*at, tuple, old, text));
                partition_for_key(text, *partitions)
            }
            (Some(key), _) => partition_for_key(key, *partitions),
            (None, _) => *keyless_partition,
        }
    }

    /// Where the stream stands while a copied row is written; none for a row of the stream.
    pub(crate) fn copied_at(&self) -> Option<Lsn> {
        self.copied.map(|copied| copied.passed)
    }

    /// Which attempt a row is that is written for another delivery; else 0.
    pub(crate) fn attempt(&self) -> u32 {
        self.copied.map_or(self.writer.attempt, |copied| copied.attempt)
    }

    pub(crate) fn encode_error(&self, plan: &TablePlan, source: EncodeError) -> StageError {
        StageError::Encode {
            table: plan.name.clone(),
            commit_lsn: self.transaction.commit_lsn,
            lsn: self.lsn,
            source,
        }
    }
}

/// A column's text and a zero byte, which no text holds; a NULL is the zero byte alone and an empty text is `0x01`.
fn write_partition_text(at: usize, tuple: &Tuple<'_>, old: Option<&Tuple<'_>>, out: &mut Vec<u8>) {
    let column = match tuple.column(at) {
        Some(Column::Unchanged) => old.and_then(|old| old.column(at)),
        column => column,
    };
    match column {
        Some(Column::Text(b"")) => out.push(1),
        Some(Column::Text(text)) => out.extend_from_slice(text),
        _ => {}
    }
    out.push(0);
}
