//! Rows that were set aside, delivered after all: a job that reads their keys beside the stream and nothing else.
//!
//! What is written is the row as it is now, in its place among the changes of its key, so that nothing old comes behind
//! something new; a key that has no row any more is deleted. It is stored before it is answered, as any job.

use std::collections::BTreeMap;

use headwater_pg::snapshot_tables::SnapshotTable;

use super::coordinator::Coordinator;
use super::progress::{JobKind, TableState};
use super::requested::{NewJob, NotBegun, no_table};
use super::table_pattern::{Matcher, TablePattern};

/// Keys of one job: a record of progress has all of them.
const KEYS_MAX: usize = 5_000;

impl Coordinator {
    /// Begins to read the rows of these keys. Answers with the job's name.
    pub(crate) async fn begin_replay(
        &mut self,
        (schema, name): &(String, String),
        keys: &[BTreeMap<String, String>],
        attempt: u32,
    ) -> Result<String, NotBegun> {
        if keys.is_empty() || keys.len() > KEYS_MAX || attempt == 0 {
            return Err(NotBegun::Refused(format!(
                "a replay has 1 to {KEYS_MAX} keys, and an attempt from 1 on"
            )));
        }
        let is_outbox =
            self.parts.settings.outbox.iter().any(|outbox| outbox.schema == *schema && outbox.table == *name);
        if is_outbox {
            return Err(NotBegun::Refused(format!(
                "{schema}.{name} is an outbox: its events are written again"
            )));
        }
        let pattern = [TablePattern::Exact(schema.clone(), name.clone())];
        let known: Vec<SnapshotTable> = self.choose(&Matcher::all(&pattern)).await?;
        let table = known.first().ok_or_else(|| no_table(&pattern))?;
        let keys = self.texts_of(table, keys).map_err(NotBegun::Refused)?;
        let columns = table.key.iter().map(|column| column.name.clone()).collect();
        let count = keys.len();
        let (epoch, number) = (self.parts.epoch, self.number());
        let id = format!("replay-{epoch}-{number}");
        self.begin_unstored(JobKind::AdHoc, NewJob { id: id.clone(), tables: &pattern, ..NewJob::default() })
            .await?;
        let record = &mut self.tables[0];
        (record.key_columns, record.attempt) = (columns, attempt);
        record.state = TableState::Copying;
        record.again.add(keys);
        self.store_all()?;
        tracing::info!(
            table = record_name(schema, name),
            keys = count,
            attempt,
            "replaying rows that were set aside"
        );
        Ok(id)
    }

    /// The keys in the order of the columns by which the table is read.
    fn texts_of(
        &self,
        table: &SnapshotTable,
        keys: &[BTreeMap<String, String>],
    ) -> Result<Vec<Vec<String>>, String> {
        let (schema, name) = (&table.table.namespace, &table.table.name);
        let wanted: Vec<&str> = table.key.iter().map(|column| column.name.as_str()).collect();
        let whole = "copy the table as a whole: headwater snapshot start";
        if wanted.is_empty() {
            return Err(format!("{schema}.{name} has no key; {whole}"));
        }
        let masks = self.parts.settings.records.records_for(schema, name).masks;
        let is_masked = |column: &&&str| masks.of(column).is_some();
        if let Some(column) = wanted.iter().find(is_masked) {
            return Err(format!(
                "{schema}.{name}: letters have a mask for {column}, which is in its key; {whole}"
            ));
        }
        let text = |key: &BTreeMap<String, String>| -> Option<Vec<String>> {
            wanted.iter().map(|column| key.get(*column).cloned()).collect()
        };
        let not_by = || {
            format!(
                "{schema}.{name} is read by its key ({}), and its letters have another; {whole}",
                wanted.join(", ")
            )
        };
        keys.iter().map(|key| text(key).ok_or_else(not_by)).collect()
    }
}

fn record_name(schema: &str, name: &str) -> String {
    format!("{schema}.{name}")
}
