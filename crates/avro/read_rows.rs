//! Rows that a snapshot read: what stands behind their columns is the same for all that were read under one snapshot
//! and have one mark, so it is made once and copied.
//!
//! Invariant: byte by byte what [`ValuePlan::encode_into`] writes.

use headwater_pgoutput::Tuple;

use crate::binary;
use crate::encode::{Change, ChangeSource, ENVELOPE_BYTES, Op};
use crate::error::EncodeError;
use crate::plan::{SchemaId, ValueForm, ValuePlan};

impl ValuePlan {
    /// What stands behind the columns of each row that was read at this source; None where values are no Avro
    /// envelopes.
    pub fn tail_of_reads(&self, source: &ChangeSource<'_>) -> Option<Vec<u8>> {
        let ValueForm::Envelope(constants) = &self.form else { return None };
        if self.json.is_some() {
            return None;
        }
        let mut tail = Vec::with_capacity(ENVELOPE_BYTES);
        let change = Change { op: Op::Read, before: None, before_is_full: false, after: None, source };
        constants.write_envelope(&change, &mut tail);
        Some(tail)
    }

    /// Appends a row that was read, with the tail that was made for its source.
    ///
    /// # Errors
    /// [`EncodeError`], and `out` is as it was.
    pub fn encode_read_into(
        &self,
        id: SchemaId,
        row: &Tuple<'_>,
        source: &ChangeSource<'_>,
        tail: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        out.reserve(ENVELOPE_BYTES);
        binary::write_header(id, out);
        let change = Change { op: Op::Read, before: None, before_is_full: false, after: Some(row), source };
        let result = self.write_rows(&change, out);
        match result {
            Ok(()) => out.extend_from_slice(tail),
            Err(_) => out.truncate(start),
        }
        result
    }
}
