//! From one changed row to its records: change, tombstone, or the three records of a changed key.

use headwater_avro::{Change, ChangeSource, EncodeError, EnumLabels, Op, UnseenLabel};
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

impl Row<'_> {
    /// A label in it, old or new, that the schema does not list.
    pub(crate) fn unseen_label(&self, labels: &EnumLabels) -> Option<UnseenLabel> {
        let (old, new) = match self {
            Row::Inserted(new) => (None, Some(new)),
            Row::Updated(old, new) => (old.as_ref(), Some(new)),
            Row::Deleted(old) => (Some(old), None),
        };
        new.and_then(|new| labels.unseen(new)).or_else(|| labels.unseen(old?.tuple()))
    }
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
        match changed {
            Row::Inserted(new) => {
                self.record(plan, Op::Create, None, Some(new), None)?;
                plan.counts.create += 1;
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
        }
    }

    fn key_changed(&self, plan: &TablePlan, old: &OldTuple<'_>, new: &Tuple<'_>) -> bool {
        match &plan.form {
            Form::Avro { key: Some((key, _)), .. } => key.changed(old.tuple(), new),
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
        let Form::Avro { key: Some((key, _)), .. } = &plan.form else {
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
        self.record(plan, Op::Delete, Some(old), None, header)?;
        plan.counts.delete += 1;
        let keyed = matches!(plan.form, Form::Avro { key: Some(_), .. });
        if !keyed || !self.tombstones {
            return Ok(());
        }
        plan.counts.tombstone += 1;
        let key = std::mem::take(&mut self.scratch.key);
        let result = self.offer(plan, &plan.topic, Some(&key), None, header);
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
            Form::Avro { key: key_plan, value: value_plan, value_id, .. } => {
                value_plan.encode_into(*value_id, change, value).map_err(failed)?;
                let Some((key_plan, key_id)) = key_plan else { return Ok(false) };
                let keyed_by = change.after.or(change.before).expect("a change has a tuple");
                key_plan.encode_with_old_into(*key_id, keyed_by, change.before, key).map_err(failed)?;
                Ok(true)
            }
            Form::Lines => {
                headwater_avro::write_json_change(&plan.description, change, value);
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
            (Form::Avro { partitions, .. }, Some(key)) => partition_for_key(key, *partitions),
            (Form::Avro { keyless_partition, .. }, None) => *keyless_partition,
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
