//! What the records of rows have in common that a snapshot read in one chunk, made once for all of them: what stands
//! behind the columns in their values, and the beginning of their ids.

use headwater_avro::{ChangeSource, SchemaId, SnapshotMark, ValuePlan};
use headwater_pgoutput::Lsn;

use crate::record::{push_decimal, write_copied_id_prefix};
use crate::row_writer::Copied;

/// Of the chunk that was written last; a chunk's number is its own within a session.
#[derive(Default)]
pub(crate) struct CopiedRun {
    tail_of: Option<(u32, SnapshotMark, SchemaId)>,
    /// None where values have no such tail.
    tail: Option<Vec<u8>>,
    id_of: Option<(u64, u32, Lsn)>,
    id: Vec<u8>,
    id_prefix_bytes: usize,
}

impl CopiedRun {
    /// What stands behind the columns of a row's value.
    #[inline]
    pub(crate) fn tail(
        &mut self,
        copied: Copied,
        plan: &ValuePlan,
        id: SchemaId,
        source: &ChangeSource<'_>,
    ) -> Option<&[u8]> {
        let of = (copied.chunk, copied.mark, id);
        if self.tail_of != Some(of) {
            self.tail = plan.tail_of_reads(source);
            self.tail_of = Some(of);
        }
        self.tail.as_deref()
    }

    /// The id of a row's record.
    #[inline]
    pub(crate) fn id(&mut self, copied: Copied, lsn: Lsn, row: u64) -> &mut Vec<u8> {
        let of = (copied.epoch, copied.chunk, lsn);
        if self.id_of != Some(of) {
            self.id.clear();
            write_copied_id_prefix(&mut self.id, lsn, (copied.epoch, copied.chunk));
            self.id_prefix_bytes = self.id.len();
            self.id_of = Some(of);
        }
        self.id.truncate(self.id_prefix_bytes);
        push_decimal(&mut self.id, row);
        &mut self.id
    }

    /// Takes back an id that was taken.
    #[inline]
    pub(crate) fn keep_id(&mut self, id: Vec<u8>) {
        self.id = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_that_of_its_row() {
        let mut run = CopiedRun::default();
        let copied = |chunk| Copied { epoch: 3, chunk, mark: SnapshotMark::True, passed: Lsn(0), attempt: 0 };
        for (chunk, lsn, row, id) in [
            (7, 0x1_0000_00AB, 0, "1/AB/r3.7/0"),
            (7, 0x1_0000_00AB, 12, "1/AB/r3.7/12"),
            (7, 0x1_0000_00AB, 5, "1/AB/r3.7/5"),
            (8, 0x1_0000_00AB, 5, "1/AB/r3.8/5"),
            (8, 0x1_0000_00AC, 5, "1/AC/r3.8/5"),
        ] {
            assert_eq!(run.id(copied(chunk), Lsn(lsn), row).as_slice(), id.as_bytes());
        }
    }
}
