//! Transaction metadata: BEGIN and END of each transaction with its counts, on a topic of their own.
//!
//! Begin comes without a count of rows, so the counts stand in END only; BEGIN is written before the transaction's
//! first change, and a transaction whose changes were all left out has neither. The ids of both records are no
//! ordinals, so that those of changes are the same with and without this topic.

use headwater_avro::{
    ChangeSource, TRANSACTION_KEY_JSON, TRANSACTION_VALUE_JSON, TransactionPlace, TransactionStatus,
    write_json_transaction, write_transaction, write_transaction_key,
};

use crate::error::StageError;
use crate::row_writer::RowWriter;
use crate::settings::Settings;
use crate::side_topic::{SideForms, SideTopic};
use crate::versions::writes_avro;

/// The changes of the open transaction, by table.
#[derive(Debug, Default)]
struct TransactionCounts {
    total: u64,
    tables: Vec<(String, u64)>,
    /// The table of the change before: most often also of the next one.
    last: usize,
}

impl TransactionCounts {
    /// Counts one change and tells its place.
    fn count(&mut self, table: &str) -> TransactionPlace {
        if self.tables.get(self.last).is_none_or(|(name, _)| name != table) {
            self.last = self.tables.iter().position(|(name, _)| name == table).unwrap_or_else(|| {
                self.tables.push((table.to_owned(), 0));
                self.tables.len() - 1
            });
        }
        self.total += 1;
        let count = &mut self.tables[self.last].1;
        *count += 1;
        TransactionPlace { total_order: self.total, data_collection_order: *count }
    }

    /// Takes the last count back.
    fn uncount(&mut self) {
        self.total -= 1;
        self.tables[self.last].1 -= 1;
    }
}

/// Owned by the pump.
pub(crate) struct TransactionTopic {
    topic: SideTopic,
    /// None for the local sinks.
    forms: Option<SideForms>,
    /// BEGIN of the open transaction is written.
    begun: bool,
    counts: TransactionCounts,
}

impl TransactionTopic {
    pub(crate) fn new(settings: &Settings, name: &str) -> TransactionTopic {
        let (key, value) = (TRANSACTION_KEY_JSON, TRANSACTION_VALUE_JSON);
        let records = &settings.records.all;
        TransactionTopic {
            topic: SideTopic::new(&settings.topics.prefix, name, records),
            forms: writes_avro(settings).then(|| SideForms::new(key.to_owned(), value.to_owned(), records)),
            begun: false,
            counts: TransactionCounts::default(),
        }
    }

    /// Counts a change, after BEGIN if it is the first.
    pub(crate) fn count(
        &mut self,
        table: &str,
        row: &mut RowWriter<'_>,
    ) -> Result<TransactionPlace, StageError> {
        if !self.begun {
            self.topic.place(self.forms.as_ref(), row.writer)?;
            self.write(TransactionStatus::Begin, "begin", row)?;
            self.begun = true;
        }
        Ok(self.counts.count(table))
    }

    /// The change that was counted last was not written, and will be counted again.
    pub(crate) fn uncount(&mut self) {
        self.counts.uncount();
    }

    /// Writes END, if BEGIN was written.
    pub(crate) fn end(&mut self, row: &mut RowWriter<'_>) -> Result<(), StageError> {
        if !std::mem::take(&mut self.begun) {
            return Ok(());
        }
        let counts = std::mem::take(&mut self.counts);
        self.write(TransactionStatus::End(&counts.tables), "end", row)
    }

    fn write(
        &self,
        status: TransactionStatus<'_>,
        id: &str,
        row: &mut RowWriter<'_>,
    ) -> Result<(), StageError> {
        let place = self.topic.known();
        let source: ChangeSource<'_> = row.source(None);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        match &self.forms {
            Some(forms) => {
                forms.key.write(place.key_id, |out| write_transaction_key(&source, out), &mut key);
                forms.value.write(place.value_id, |out| write_transaction(&source, status, out), &mut value);
            }
            None => write_json_transaction(&source, status, &mut value),
        }
        let id = format!("{}/{id}", row.transaction.commit_lsn);
        let key = self.forms.is_some().then_some(key.as_slice());
        let partition = place.partition(key.unwrap_or_default());
        row.offer_as(id.as_bytes(), &self.topic.name, partition, key, Some(&value), &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_by_table_and_in_all() {
        let mut counts = TransactionCounts::default();
        let places: Vec<_> = ["a", "a", "b", "a", "c", "b"]
            .iter()
            .map(|table| counts.count(table))
            .map(|place| (place.total_order, place.data_collection_order))
            .collect();
        assert_eq!(places, [(1, 1), (2, 2), (3, 1), (4, 3), (5, 1), (6, 2)]);
        let tables: Vec<_> = counts.tables.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(tables, [("a", 3), ("b", 2), ("c", 1)]);
        // One that was not written takes the same place again.
        counts.uncount();
        let place = counts.count("b");
        assert_eq!((place.total_order, place.data_collection_order), (6, 2));
    }
}
