//! NEW to SENT: one statement for many rows, of events whose position is confirmed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use headwater_pg::{Client, Error};
use headwater_pgoutput::Lsn;
use headwater_pipeline::sent::{SentBatch, SentEvent};

use crate::table::Table;

/// Rows of one statement: large enough that its cost is that of its rows, small enough that its locks are short.
const ROWS_MAX: usize = 1_000;

/// What has not been marked yet, in the order of the stream.
#[derive(Default)]
pub(crate) struct Queue {
    batches: VecDeque<SentBatch>,
}

impl Queue {
    pub(crate) fn push(&mut self, batch: SentBatch) {
        self.batches.push_back(batch);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The oldest events that are confirmed, about as many as one statement takes. They stay until [`Queue::drop_front`].
    pub(crate) fn confirmed(&self, confirmed: Lsn) -> (usize, BTreeMap<Arc<str>, Vec<&SentEvent>>) {
        let mut by_table: BTreeMap<Arc<str>, Vec<&SentEvent>> = BTreeMap::new();
        let (mut batches, mut events) = (0, 0);
        for batch in self.batches.iter().take_while(|batch| batch.confirmed_at <= confirmed) {
            if events > 0 && events + batch.events.len() > ROWS_MAX {
                break;
            }
            batches += 1;
            events += batch.events.len();
            for event in &batch.events {
                by_table.entry(event.table.clone()).or_default().push(event);
            }
        }
        (batches, by_table)
    }

    /// Forgets what was to be confirmed at or before a position; gives how many events that were.
    pub(crate) fn drop_through(&mut self, position: Lsn) -> usize {
        let (dropped, kept) = self.batches.drain(..).partition(|batch| batch.confirmed_at <= position);
        self.batches = kept;
        let dropped: VecDeque<SentBatch> = dropped;
        dropped.iter().map(|batch| batch.events.len()).sum()
    }

    /// They are marked; gives how many events they had.
    pub(crate) fn drop_front(&mut self, batches: usize) -> usize {
        self.batches.drain(..batches).map(|batch| batch.events.len()).sum()
    }
}

/// Marks rows that are still NEW in the attempt that is meant; gives how many.
pub(crate) async fn mark(client: &Client, table: &Table, events: &[(&str, i32)]) -> Result<u64, Error> {
    let sql = format!(
        "UPDATE {table} o SET status = 'SENT', sent_at = clock_timestamp() \
         FROM unnest($1::text[], $2::int[]) AS e (id, attempt) \
         WHERE o.{id} = e.id::{id_type} AND o.attempt = e.attempt AND o.status = 'NEW'",
        table = table.sql,
        id = table.id,
        id_type = table.id_type,
    );
    let mut marked = 0;
    for events in events.chunks(ROWS_MAX) {
        let (ids, attempts): (Vec<&str>, Vec<i32>) = events.iter().copied().unzip();
        marked += client.execute(&sql, &[&ids, &attempts]).await?;
    }
    Ok(marked)
}
