//! One change becomes the Avro bytes of an envelope.
//!
//! ```text
//! 00  schema id, 4 bytes, big-endian
//! before, after     union branch, then the columns
//! source            version connector name | ts_ms | snapshot db | sequence ts_us ts_ns | schema table | txId lsn xmin origin origin_lsn
//! transaction       null
//! op ts_ms ts_us ts_ns
//! ```
//!
//! What stands between bars and never differs within a table is a run of bytes prepared in the plan (`snapshot db` one
//! for each mark). The columns go
//! straight from the tuple to the output: no value in between, no allocation.

use headwater_pgoutput::{Column, Lsn, Tuple};

use crate::binary;
use crate::error::EncodeError;
use crate::json_form::JsonForm;
use crate::plan::{Constants, SchemaId, ValueForm, ValuePlan, check_len};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Inserted.
    Create,
    /// Updated.
    Update,
    /// Deleted.
    Delete,
    /// Read by a snapshot.
    Read,
    /// The table was truncated.
    Truncate,
}

impl Op {
    /// Debezium's letter for it.
    pub fn code(self) -> &'static str {
        match self {
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Read => "r",
            Op::Truncate => "t",
        }
    }
}

/// One change of one row.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What happened.
    pub op: Op,
    /// The old tuple, if one was sent: the identity's columns or all of them. A create has no `before` in its
    /// envelope, also when it is one half of a changed key: then the old tuple only lends its unchanged values.
    pub before: Option<&'a Tuple<'a>>,
    /// True if `before` carries every column (`O`), false if only the identity's (`K`).
    pub before_is_full: bool,
    /// The new tuple. Its unchanged TOAST values are taken from `before` where that carries them.
    pub after: Option<&'a Tuple<'a>>,
    /// Where it happened.
    pub source: &'a ChangeSource<'a>,
}

/// Where a change stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeSource<'a> {
    /// LSN of the transaction's commit record.
    pub commit_lsn: Lsn,
    /// LSN of the row's record. Several rows can share one.
    pub lsn: Lsn,
    /// Commit time, microseconds since 1970-01-01 UTC.
    pub commit_unix_micros: i64,
    /// Transaction id.
    pub xid: u32,
    /// Replication origin and the LSN that the commit had there.
    pub origin: Option<(&'a str, Lsn)>,
    /// Its place among the changes of its transaction, where that is wanted.
    pub place: Option<TransactionPlace>,
    /// Whether it is a row that was read from the table. Then `lsn` is the position by which the stream has what the
    /// reading transaction sees, `commit_unix_micros` that transaction's time, and there is neither id nor origin:
    /// whoever wrote the row is not known.
    pub snapshot: SnapshotMark,
}

/// A row's place in a snapshot: Debezium's `source.snapshot`.
///
/// Where several fit a row, Debezium writes the first of: last, first, last in data collection, first in data
/// collection. (Its recordings show it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SnapshotMark {
    /// In none: the change was streamed.
    #[default]
    None,
    /// The first row of the first table.
    First,
    /// The first row of another table.
    FirstInDataCollection,
    /// Any other row.
    True,
    /// The last row of a table.
    LastInDataCollection,
    /// The last row of the last table.
    Last,
    /// A row of a snapshot that was made while the stream went on.
    Incremental,
}

impl SnapshotMark {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [SnapshotMark; 7] = [
        SnapshotMark::None,
        SnapshotMark::First,
        SnapshotMark::FirstInDataCollection,
        SnapshotMark::True,
        SnapshotMark::LastInDataCollection,
        SnapshotMark::Last,
        SnapshotMark::Incremental,
    ];

    /// Debezium's word for it.
    pub fn word(self) -> &'static str {
        match self {
            SnapshotMark::None => "false",
            SnapshotMark::First => "first",
            SnapshotMark::FirstInDataCollection => "first_in_data_collection",
            SnapshotMark::True => "true",
            SnapshotMark::LastInDataCollection => "last_in_data_collection",
            SnapshotMark::Last => "last",
            SnapshotMark::Incremental => "incremental",
        }
    }
}

/// A change's place in its transaction: Debezium's `transaction` block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionPlace {
    /// Among all changes of the transaction, from 1.
    pub total_order: u64,
    /// Among those of the same table, from 1.
    pub data_collection_order: u64,
}

impl ChangeSource<'_> {
    /// `lsn` as `source` has it. That of a row which was read while the stream went on would not say whether the row
    /// is older or newer than a change in WAL: Debezium leaves it out, and so do we.
    pub(crate) fn shown_lsn(&self) -> Option<Lsn> {
        (self.snapshot != SnapshotMark::Incremental).then_some(self.lsn)
    }

    /// `txId` as `source` has it.
    pub(crate) fn shown_xid(&self) -> Option<u32> {
        (self.snapshot == SnapshotMark::None).then_some(self.xid)
    }

    /// The transaction's name in blocks and in its topic. (Debezium's second half is the LSN of whatever it is at, so
    /// that no two of a transaction's are equal; ours is the commit's.)
    pub fn transaction_id(&self) -> String {
        format!("{}:{}", self.xid, self.commit_lsn.0)
    }
}

/// Branches of a union, as Avro writes their index.
const NULL: u8 = 0;
const VALUE: u8 = 2;

/// More than all that isn't columns usually takes, so that a row's buffer grows at most once.
pub(crate) const ENVELOPE_BYTES: usize = 256;

impl ValuePlan {
    /// Appends the change, Avro in the registry's wire format under this id.
    ///
    /// # Errors
    /// [`EncodeError`], and `out` is as it was.
    pub fn encode_into(
        &self,
        id: SchemaId,
        change: &Change<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if let Some(json) = &self.json {
            return self.encode_json(json, change, out);
        }
        let start = out.len();
        out.reserve(ENVELOPE_BYTES);
        binary::write_header(id, out);
        let result = self.write_value(change, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Out of the way of the path that most tables take.
    #[inline(never)]
    fn encode_json(
        &self,
        json: &JsonForm,
        change: &Change<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut avro = Vec::with_capacity(ENVELOPE_BYTES);
        self.write_value(change, &mut avro)?;
        json.write(&avro, out);
        Ok(())
    }

    #[inline]
    fn write_value(&self, change: &Change<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match &self.form {
            ValueForm::Envelope(constants) => {
                self.write_rows(change, out)?;
                constants.write_envelope(change, out);
            }
            ValueForm::Flat(flat) => {
                self.write_present_row(change, out)?;
                flat.write(change, out);
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn write_rows(&self, change: &Change<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match change.before {
            Some(before) if change.op != Op::Create => {
                out.push(VALUE);
                self.write_old_row(before, change.before_is_full, out)?
            }
            _ => out.push(NULL),
        }
        match change.after {
            Some(_) => {
                out.push(VALUE);
                self.write_new_row(change, out)
            }
            None => {
                out.push(NULL);
                Ok(())
            }
        }
    }

    /// The one row of a flat record: the new one, or a delete's old one.
    #[inline(never)]
    fn write_present_row(&self, change: &Change<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (change.after, change.before) {
            (None, Some(before)) => self.write_old_row(before, change.before_is_full, out),
            _ => self.write_new_row(change, out),
        }
    }

    #[inline]
    fn write_new_row(&self, change: &Change<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Some(after) = change.after else { return Ok(()) };
        let old = change.before.map(|before| Old { tuple: before, is_full: change.before_is_full });
        check_len(after, self.tuple_len)?;
        if let Some(chosen) = &self.chosen {
            return self.write_chosen(chosen, after, old, out);
        }
        for (index, (plan, column)) in self.columns.iter().zip(after.columns()).enumerate() {
            let column = match (column, old) {
                (Column::Unchanged, Some(old)) => old.value(index, plan.in_identity),
                (column, _) => column,
            };
            plan.write(column, out)?;
        }
        Ok(())
    }

    /// A new row of which some columns are left out.
    #[inline(never)]
    fn write_chosen(
        &self,
        chosen: &[bool],
        tuple: &Tuple<'_>,
        old: Option<Old<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let columns = tuple.columns().enumerate().filter(|(index, _)| chosen[*index]);
        for (plan, (index, column)) in self.columns.iter().zip(columns) {
            let column = match (column, old) {
                (Column::Unchanged, Some(old)) => old.value(index, plan.in_identity),
                (column, _) => column,
            };
            plan.write(column, out)?;
        }
        Ok(())
    }

    /// An old row; if it isn't full, only the identity was sent.
    fn write_old_row(&self, tuple: &Tuple<'_>, is_full: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        check_len(tuple, self.tuple_len)?;
        let is_chosen = |index: usize| self.chosen.as_ref().is_none_or(|chosen| chosen[index]);
        let columns = tuple.columns().enumerate().filter(|(index, _)| is_chosen(*index));
        for (plan, (_, column)) in self.columns.iter().zip(columns) {
            match column {
                Column::Null if !is_full && !plan.in_identity => plan.write_absent(out)?,
                column => plan.write(column, out)?,
            }
        }
        Ok(())
    }
}

impl Constants {
    #[inline]
    pub(crate) fn write_envelope(&self, change: &Change<'_>, out: &mut Vec<u8>) {
        let source = change.source;
        let times = Times::new(source.commit_unix_micros);
        out.extend_from_slice(&self.before_ts_ms);
        out.extend_from_slice(times.ms());
        out.extend_from_slice(&self.before_sequence[source.snapshot as usize]);
        if source.snapshot == SnapshotMark::None {
            write_sequence(source.commit_lsn, source.lsn, out);
            out.extend_from_slice(times.us_and_ns());
            out.extend_from_slice(&self.before_tx_id);
            write_positions(change, out);
        } else {
            write_read_sequence(source.lsn, out);
            out.extend_from_slice(times.us_and_ns());
            out.extend_from_slice(&self.before_tx_id);
            write_read_positions(change, out);
        }
        out.extend_from_slice(times.all());
    }
}

/// As `write_positions`, of a row that was read.
fn write_read_positions(change: &Change<'_>, out: &mut Vec<u8>) {
    // txId, lsn, xmin, origin, origin_lsn, transaction, op
    let mut bytes = [NULL; binary::VARINT_BYTES_MAX + 8];
    let mut end = 2;
    if let Some(lsn) = change.source.shown_lsn() {
        bytes[1] = VALUE;
        end = binary::put_long(signed(lsn), &mut bytes, 2);
    }
    bytes[end + 4] = 2; // length 1
    bytes[end + 5] = change.op.code().as_bytes()[0];
    out.extend_from_slice(&bytes[..end + 6]);
}

/// From `source.txId` to `op`, put together first: appending costs more than writing.
#[inline]
fn write_positions(change: &Change<'_>, out: &mut Vec<u8>) {
    let source = change.source;
    // Two numbers with their branches, up to four nulls, a string of one letter.
    let mut bytes = [NULL; 2 * binary::VARINT_BYTES_MAX + 8];
    bytes[0] = VALUE;
    let branch = binary::put_long(i64::from(source.xid), &mut bytes, 1);
    bytes[branch] = VALUE;
    let xmin = binary::put_long(signed(source.lsn), &mut bytes, branch + 1);
    let mut transaction = xmin + 3;
    if let Some((name, lsn)) = source.origin {
        out.extend_from_slice(&bytes[..=xmin]);
        out.push(VALUE);
        binary::write_bytes(name.as_bytes(), out);
        out.push(VALUE);
        binary::write_long(signed(lsn), out);
        bytes[0] = NULL;
        transaction = 0;
    }
    let op = change.op.code().as_bytes()[0];
    if let Some(place) = source.place {
        out.extend_from_slice(&bytes[..transaction]);
        write_block(source, place, out);
        out.extend_from_slice(&[2, op]);
        return;
    }
    bytes[transaction + 1] = 2; // length 1
    bytes[transaction + 2] = op;
    out.extend_from_slice(&bytes[..transaction + 3]);
}

/// The `transaction` block with its branch.
#[cold]
pub(crate) fn write_block(source: &ChangeSource<'_>, place: TransactionPlace, out: &mut Vec<u8>) {
    out.push(VALUE);
    binary::write_bytes(source.transaction_id().as_bytes(), out);
    binary::write_long(place.total_order as i64, out);
    binary::write_long(place.data_collection_order as i64, out);
}

/// The old tuple, for the values that an update left alone.
#[derive(Clone, Copy)]
struct Old<'a> {
    tuple: &'a Tuple<'a>,
    is_full: bool,
}

impl<'a> Old<'a> {
    /// The old value of a column whose new one is unchanged. A null of a key tuple means nothing outside the
    /// identity; and a column of the identity that is null wasn't in TOAST.
    #[cold]
    fn value(self, index: usize, in_identity: bool) -> Column<'a> {
        match self.tuple.column(index) {
            Some(value @ Column::Text(_)) if self.is_full || in_identity => value,
            _ => Column::Unchanged,
        }
    }
}

/// The commit time in three units as they end an envelope; `source` has the same bytes in other places.
pub(crate) struct Times {
    /// `VALUE ms VALUE us VALUE ns`
    bytes: [u8; 3 + 3 * binary::VARINT_BYTES_MAX],
    ms_end: usize,
    end: usize,
}

impl Times {
    #[inline]
    pub(crate) fn new(unix_micros: i64) -> Times {
        let mut bytes = [VALUE; 3 + 3 * binary::VARINT_BYTES_MAX];
        let ms_end = binary::put_long(unix_micros.div_euclid(1000), &mut bytes, 1);
        let us_end = binary::put_long(unix_micros, &mut bytes, ms_end + 1);
        bytes[us_end] = VALUE;
        // Nanoseconds end in the year 2262; a clock beyond that stands still there.
        let end = binary::put_long(unix_micros.saturating_mul(1000), &mut bytes, us_end + 1);
        Times { bytes, ms_end, end }
    }

    /// `ms` without the branch: `source.ts_ms` is no union.
    pub(crate) fn ms(&self) -> &[u8] {
        &self.bytes[1..self.ms_end]
    }

    pub(crate) fn us_and_ns(&self) -> &[u8] {
        &self.bytes[self.ms_end..self.end]
    }

    fn all(&self) -> &[u8] {
        &self.bytes[..self.end]
    }
}

/// LSNs are below 2^63: a log of eight exabytes is further away than any other limit.
pub(crate) fn signed(lsn: Lsn) -> i64 {
    lsn.0 as i64
}

const U64_DIGITS_MAX: usize = 20;
const SEQUENCE_BYTES_MAX: usize = 1 + 2 * U64_DIGITS_MAX + br#"["",""]"#.len();

/// The string `["<commit LSN>","<row LSN>"]`, both in decimal, written from its end.
#[inline]
pub(crate) fn write_sequence(commit_lsn: Lsn, lsn: Lsn, out: &mut Vec<u8>) {
    let mut bytes = [0; SEQUENCE_BYTES_MAX];
    let at = put_before(br#""]"#, &mut bytes, SEQUENCE_BYTES_MAX);
    let at = put_decimal_before(lsn.0, &mut bytes, at);
    let at = put_before(br#"",""#, &mut bytes, at);
    let at = put_decimal_before(commit_lsn.0, &mut bytes, at);
    let at = put_before(br#"[""#, &mut bytes, at);
    write_from(&mut bytes, at, out);
}

/// The string `[null,"<LSN>"]`, of a row that was read.
pub(crate) fn write_read_sequence(lsn: Lsn, out: &mut Vec<u8>) {
    let mut bytes = [0; SEQUENCE_BYTES_MAX];
    let at = put_before(br#""]"#, &mut bytes, SEQUENCE_BYTES_MAX);
    let at = put_decimal_before(lsn.0, &mut bytes, at);
    let at = put_before(br#"[null,""#, &mut bytes, at);
    write_from(&mut bytes, at, out);
}

/// Appends what stands at the end of `bytes` as a string.
#[inline]
fn write_from(bytes: &mut [u8; SEQUENCE_BYTES_MAX], at: usize, out: &mut Vec<u8>) {
    // At most 47, so its zigzag has one byte.
    bytes[at - 1] = ((SEQUENCE_BYTES_MAX - at) * 2) as u8;
    out.extend_from_slice(&bytes[at - 1..]);
}

#[inline]
fn put_before<const N: usize>(text: &[u8; N], bytes: &mut [u8; SEQUENCE_BYTES_MAX], end: usize) -> usize {
    bytes[end - N..end].copy_from_slice(text);
    end - N
}

#[inline]
fn put_decimal_before(mut value: u64, bytes: &mut [u8; SEQUENCE_BYTES_MAX], mut at: usize) -> usize {
    loop {
        at -= 1;
        bytes[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_at_their_limits() {
        for (commit, row) in [(0, 9), (10, 2_100_153_024), (u64::MAX, u64::MAX)] {
            let mut out = Vec::new();
            write_sequence(Lsn(commit), Lsn(row), &mut out);
            let text = format!(r#"["{commit}","{row}"]"#);
            assert_eq!(usize::from(out[0]), text.len() * 2);
            assert_eq!(&out[1..], text.as_bytes());
            out.clear();
            write_read_sequence(Lsn(row), &mut out);
            let text = format!(r#"[null,"{row}"]"#);
            assert_eq!(usize::from(out[0]), text.len() * 2);
            assert_eq!(&out[1..], text.as_bytes());
        }
    }

    #[test]
    fn marks_stand_at_their_numbers() {
        for (number, mark) in SnapshotMark::ALL.into_iter().enumerate() {
            assert_eq!(mark as usize, number, "{}", mark.word());
        }
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        let times = Times::new(-1);
        assert_eq!(times.all(), [2, 1, 2, 1, 2, 0xcf, 0x0f], "-1 ms, -1 us, -1000 ns");
        assert_eq!(times.ms(), [1]);
        assert_eq!(times.us_and_ns(), [2, 1, 2, 0xcf, 0x0f]);
    }
}
