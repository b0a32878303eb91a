//! From one changed row to its records: change, tombstone, or the three records of a changed key.
//!
//! Under a row filter an update that brings a row into the filter is a create, and one that takes it out is a delete,
//! as Postgres has it for a publication's WHERE.

use headwater_avro::{Change, ChangeSource, Deletes, EncodeError, FilterPlan, Op};
use headwater_kafka::partition_for_key;
use headwater_pgoutput::{Lsn, OldTuple, Tuple};

use crate::error::StageError;
use crate::outlet::Outlet;
use crate::record::{ID_HEADER, Record, Token, write_record_id};
use crate::table_cache::{Form, TablePlan};
use crate::transaction::Transaction;

/// Buffers that are used again for every record.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) key_json: Vec<u8>,
    pub(crate) old_key_json: Vec<u8>,
    pub(crate) topic: String,
}

/// What happened to a row. An update carries its old tuple only where the replica identity says so.
pub(crate) enum Row<'a> {
    Inserted(Tuple<'a>),
    Updated(Option<OldTuple<'a>>, Tuple<'a>),
    Deleted(OldTuple<'a>),
}

/// Writes the records of one row.
pub(crate) struct RowWriter<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) transaction: &'a Transaction,
    pub(crate) sequence: u32,
    pub(crate) ordinal: &'a mut u64,
    pub(crate) out: &'a mut Outlet,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) tombstones: bool,
}

impl RowWriter<'_> {
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
            Row::Inserted(new) => (false, passes(new, None)?),
            Row::Deleted(old) => (passes(old.tuple(), None)?, false),
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
                plan.counts.create += 1;
                self.record(plan, Op::Create, old.as_ref(), Some(new), None)
            }
            (Row::Updated(Some(old), _), true, false) => self.delete(plan, old, None),
            _ => self.write_row(plan, changed),
        }
    }

    fn write_row(&mut self, plan: &mut TablePlan, changed: &Row<'_>) -> Result<(), StageError> {
        match changed {
            Row::Inserted(new) => {
                plan.counts.create += 1;
                self.record(plan, Op::Create, None, Some(new), None)
            }
            Row::Updated(Some(old), new) if self.key_changed(plan, old, new) => {
                self.key_change(plan, old, new)
            }
            Row::Updated(old, new) => {
                plan.counts.update += 1;
                self.record(plan, Op::Update, old.as_ref(), Some(new), None)
            }
            Row::Deleted(old) => self.delete(plan, old, None),
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
        let (mut new_json, mut old_json) =
            (std::mem::take(&mut self.scratch.key_json), std::mem::take(&mut self.scratch.old_key_json));
        new_json.clear();
        old_json.clear();
        let written = key
            .write_json_with_old(new, Some(old.tuple()), &mut new_json)
            .and_then(|()| key.write_json(old.tuple(), &mut old_json));
        written.map_err(|source| self.encode_error(plan, source))?;
        self.delete(plan, old, Some(("__debezium.newkey", &new_json)))?;
        plan.counts.create += 1;
        self.record(plan, Op::Create, Some(old), Some(new), Some(("__debezium.oldkey", &old_json)))?;
        (self.scratch.key_json, self.scratch.old_key_json) = (new_json, old_json);
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
                let tombstone = key.is_some() && deletes.tombstone.unwrap_or(self.tombstones);
                Deletes { tombstone: Some(tombstone), ..deletes }
            }
            _ => Deletes { record: true, tombstone: None },
        };
        if deletes.record {
            plan.counts.delete += 1;
            self.record(plan, Op::Delete, Some(old), None, header)?;
        }
        if deletes.tombstone == Some(true) {
            plan.counts.tombstone += 1;
            self.tombstone(plan, old, header)?;
        } else if !deletes.record {
            plan.counts.flat_delete += 1;
        }
        Ok(())
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
        let mut key = std::mem::take(&mut self.scratch.key);
        key.clear();
        let result = key_plan
            .encode_into(*key_id, old.tuple(), &mut key)
            .map_err(|source| self.encode_error(plan, source))
            .and_then(|()| self.offer(plan, &plan.topic, Some(&key), None, header));
        self.scratch.key = key;
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
        let source = ChangeSource {
            commit_lsn: self.transaction.commit_lsn,
            lsn: self.lsn,
            commit_unix_micros: self.transaction.commit_unix_micros,
            xid: self.transaction.xid,
            origin: self.transaction.origin.as_ref().map(|(name, lsn)| (name.as_str(), *lsn)),
        };
        let change = Change {
            op,
            before: old.map(OldTuple::tuple),
            before_is_full: old.is_some_and(OldTuple::is_full),
            after: new,
            source: &source,
        };
        let (mut key, mut value) =
            (std::mem::take(&mut self.scratch.key), std::mem::take(&mut self.scratch.value));
        key.clear();
        value.clear();
        let result = self.encode(plan, &change, &mut key, &mut value).and_then(|keyed| {
            self.offer(plan, &plan.topic, keyed.then_some(key.as_slice()), Some(&value), header)
        });
        (self.scratch.key, self.scratch.value) = (key, value);
        result
    }

    /// Whether there is a key.
    fn encode(
        &self,
        plan: &TablePlan,
        change: &Change<'_>,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<bool, StageError> {
        let failed = |source| self.encode_error(plan, source);
        match &plan.form {
            Form::Record { key: key_plan, value: value_plan, value_id, .. } => {
                value_plan.encode_into(*value_id, change, value).map_err(failed)?;
                let Some((key_plan, key_id)) = key_plan else { return Ok(false) };
                let keyed_by = change.after.or(change.before).expect("a change has a tuple");
                key_plan.encode_with_old_into(*key_id, keyed_by, change.before, key).map_err(failed)?;
                Ok(true)
            }
            Form::Lines(lines) => {
                lines.write(&plan.description, change, value);
                Ok(false)
            }
            Form::Event(..) => unreachable!("events are written elsewhere"),
        }
    }

    fn offer(
        &mut self,
        plan: &TablePlan,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        let partition = match (&plan.form, key) {
            (Form::Record { partitions, .. }, Some(key)) => partition_for_key(key, *partitions),
            (Form::Record { keyless_partition, .. }, None) => *keyless_partition,
            _ => 0,
        };
        match header {
            None => self.offer_to(topic, partition, key, value, &[]),
            Some(header) => self.offer_to(topic, partition, key, value, &[header]),
        }
    }

    /// Offers one record with its identity and up to a few more headers.
    pub(crate) fn offer_to(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        write_record_id(&mut self.scratch.id, self.transaction.commit_lsn, *self.ordinal);
        *self.ordinal += 1;
        let id = (ID_HEADER, self.scratch.id.as_slice());
        let timestamp_ms = Some(self.transaction.commit_unix_micros.div_euclid(1000));
        let record = |headers| Record {
            topic,
            partition,
            key,
            value,
            headers,
            timestamp_ms,
            token: Token::CHECKPOINT,
        };
        let commit_lsn = self.transaction.commit_lsn;
        match more {
            [] => self.out.take(self.sequence, record(&[id]), commit_lsn),
            [one] => self.out.take(self.sequence, record(&[id, *one]), commit_lsn),
            more => {
                let mut headers = vec![id];
                headers.extend_from_slice(more);
                self.out.take(self.sequence, record(&headers), commit_lsn)
            }
        }
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
