//! What it means for a copy beside the stream that its table has changed between two chunks.
//!
//! In: the table as it was and as it is, under the lock of the next chunk. Out: whether what is left has to be found
//! anew, or all of it copied anew. No row may be taken for copied because another one was.

use headwater_pg::snapshot_tables::{KeyColumn, SnapshotTable};

use super::coordinator::{Coordinator, Pending};

impl Coordinator {
    /// Whether rows may be elsewhere than where they were looked for.
    pub(crate) fn was_moved(&mut self, at: usize, before: &SnapshotTable, now: &SnapshotTable) -> bool {
        self.begin_anew_if_other(at, now);
        let storage = |table: &SnapshotTable| -> Vec<(u32, u32)> {
            table.leaves.iter().map(|leaf| (leaf.oid, leaf.filenode)).collect()
        };
        storage(before) != storage(now)
    }

    /// Of a table that was made anew, or of a partition that was attached, nobody has copied what is before the place
    /// that was reached.
    pub(crate) fn begin_anew_if_other(&mut self, at: usize, now: &SnapshotTable) {
        let record = &mut self.tables[at];
        let partitions = partitions_of(now);
        let is_known = record.relation == now.table.id
            && partitions.iter().all(|partition| record.partitions.contains(partition));
        record.partitions = partitions;
        if is_known {
            return;
        }
        tracing::info!(table = record.name(), "made anew, or with a new partition: its copy begins anew");
        record.begin_anew();
        for pending in self.pending.values_mut() {
            let (Pending::Pages { table, .. } | Pending::Key { table, .. }) = pending;
            if *table == at {
                // When it is acknowledged, that is no progress.
                *pending = Pending::Key { table: at, after: None, bytes: 0 };
            }
        }
    }
}

/// By the same columns of the same types, wherever they stand.
pub(crate) fn has_key_of(now: &SnapshotTable, before: &SnapshotTable) -> bool {
    let same = |(a, b): (&KeyColumn, &KeyColumn)| a.name == b.name && a.type_sql == b.type_sql;
    now.key.len() == before.key.len() && now.key.iter().zip(&before.key).all(same)
}

/// What holds the rows of a partitioned table.
pub(crate) fn partitions_of(table: &SnapshotTable) -> Vec<u32> {
    let leaves = if table.relkind == 'p' { table.leaves.as_slice() } else { &[] };
    leaves.iter().map(|leaf| leaf.oid).collect()
}
