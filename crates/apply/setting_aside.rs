//! A record that can't be applied: finding it, and what becomes of it.
//!
//! A batch that the database refuses comes again record by record, until the one is alone in its transaction. Invariant:
//! nothing behind a record is applied before it was applied or set aside.

use headwater_kafka::Fetched;

use crate::batch::Batch;
use crate::halt::{Failure, Halt, HaltCause, Refusal};
use crate::letters::RawRecord;
use crate::naming::at;
use crate::session::Session;
use crate::settings::OnPoison;

impl Session<'_> {
    pub(crate) fn is_careful(&self) -> bool {
        !self.careful.is_empty()
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal, batch: &Batch) -> Result<(), Failure> {
        if batch.records == 1
            && let Some(record) = self.record.take()
        {
            for partition in &mut self.partitions {
                partition.next = partition.stored;
            }
            let index = self.partitions.iter().position(|partition| partition.place == record.place);
            let Some(index) = index else { return Ok(()) };
            return self.set_aside(&record, index, refusal);
        }
        tracing::info!(
            records = batch.records,
            reason = refusal.reason,
            "a batch was refused: applying its records one by one"
        );
        self.careful =
            self.partitions.iter().map(|partition| (partition.place.clone(), partition.next)).collect();
        let partitions = &self.partitions;
        self.careful.retain(|place, until| {
            partitions.iter().any(|partition| partition.place == *place && partition.stored < *until)
        });
        for partition in &mut self.partitions {
            partition.next = partition.stored;
        }
        self.read_from_stored()
    }

    /// A record that could not even be read.
    pub(crate) fn poison(
        &mut self,
        record: &Fetched<'_>,
        index: usize,
        refusal: &Refusal,
    ) -> Result<(), Failure> {
        if self.apply()? { self.set_aside(&RawRecord::of(record), index, refusal) } else { Ok(()) }
    }

    /// Halts, or sends the record to the dead letter topic and goes on behind it.
    fn set_aside(&mut self, record: &RawRecord, index: usize, refusal: &Refusal) -> Result<(), Failure> {
        let topic = record.place.topic.as_str();
        let rule = self.shared.layouts.rule(topic)?.clone();
        let table = refusal.table.clone().unwrap_or_else(|| rule.target.plain());
        let place = at(&record.place, record.offset);
        if rule.on_poison == OnPoison::Halt {
            return Err(Halt::new(
                HaltCause::Record,
                format!("{place}, table {table}: {}", refusal.reason),
                "mend the table or the source and start again, or set on_poison = \"dead_letter\"; nothing behind this \
                 record is applied before",
            )
            .into());
        }
        self.shared.letters.set_aside(&self.shared.settings, record, refusal, &table)?;
        self.shared.metrics.dead_letters.with_label_values(&[topic, refusal.stage]).inc();
        tracing::warn!(
            table,
            place,
            stage = refusal.stage,
            reason = refusal.reason,
            "a record went to the dead letter topic"
        );
        self.partitions[index].next = record.offset + 1;
        self.apply_offsets()?;
        self.stored();
        Ok(())
    }
}
