//! A record on its way to the sink, and the token that its delivery report carries back.

use headwater_pgoutput::Lsn;

/// What comes back with a delivery report: which transaction the record belongs to and what it was charged.
///
/// One `u64`, because librdkafka carries a pointer's worth for free and anything more is an allocation per record:
/// the upper half is the transaction's sequence number (wrapping), the lower half the charged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) u64);

/// The kinds of record that are no part of a transaction have sequence numbers of their own kind: none. They are
/// recognised by a charge of zero, which no row can have.
impl Token {
    /// The checkpoint's own record.
    pub(crate) const CHECKPOINT: Token = Token(1 << 32);
    /// A record of the schema history.
    pub(crate) const HISTORY: Token = Token(2 << 32);
    /// A record of a snapshot's progress.
    pub(crate) const PROGRESS: Token = Token(3 << 32);
    /// What only a later start asks for; nobody waits for it.
    pub(crate) const NOTE: Token = Token(4 << 32);
    /// A record of what is asked of snapshots.
    pub(crate) const REQUESTS: Token = Token(5 << 32);
    /// What somebody is told.
    pub(crate) const NOTIFICATION: Token = Token(6 << 32);

    pub(crate) fn row(sequence: u32, charged_bytes: u32) -> Token {
        debug_assert!(charged_bytes > 0);
        Token(u64::from(sequence) << 32 | u64::from(charged_bytes))
    }

    /// The transaction and the charge of a row's record.
    pub(crate) fn as_row(self) -> Option<(u32, u32)> {
        let charged = self.0 as u32;
        (charged > 0).then_some(((self.0 >> 32) as u32, charged))
    }
}

/// One record as it is offered to a sink. Borrowed: a full sink is offered the same record again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, &'a [u8])],
    /// Commit time; also the record's timestamp, so that a repeated record is the same record.
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) token: Token,
}

/// What a record takes beside its own bytes until it is delivered: librdkafka's message and header structures and
/// their allocations, as measured with a million queued records.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 400;

/// The header that identifies a record for de-duplication.
pub(crate) const ID_HEADER: &str = "headwater.id";

/// Writes `<commit LSN>/<ordinal>` into a reused buffer: the identity of a record, the same whenever it is sent.
pub(crate) fn write_record_id(out: &mut Vec<u8>, commit_lsn: Lsn, ordinal: u64) {
    out.clear();
    push_hex(out, (commit_lsn.0 >> 32) as u32);
    out.push(b'/');
    push_hex(out, commit_lsn.0 as u32);
    out.push(b'/');
    push_decimal(out, ordinal);
}

/// Writes `<LSN>/r<epoch>.<chunk>/`; behind it stands the row's number in its chunk: the identity of a row that a
/// snapshot read.
pub(crate) fn write_copied_id_prefix(out: &mut Vec<u8>, lsn: Lsn, (epoch, chunk): (u64, u32)) {
    push_hex(out, (lsn.0 >> 32) as u32);
    out.push(b'/');
    push_hex(out, lsn.0 as u32);
    out.extend_from_slice(b"/r");
    push_decimal(out, epoch);
    out.push(b'.');
    push_decimal(out, u64::from(chunk));
    out.push(b'/');
}

/// Upper-case hexadecimal without leading zeros, as Postgres prints the halves of an LSN.
fn push_hex(out: &mut Vec<u8>, value: u32) {
    let digits = (32 - value.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789ABCDEF"[(value >> (digit * 4) & 0xF) as usize]);
    }
}

pub(crate) fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_ids_are_lsn_and_ordinal() {
        let mut out = Vec::new();
        for (lsn, ordinal) in [(0u64, 0u64), (0x16_B374_D848, 7), (u64::MAX, u64::MAX), (0x1_0000_0000, 10)] {
            write_record_id(&mut out, Lsn(lsn), ordinal);
            assert_eq!(String::from_utf8(out.clone()).unwrap(), format!("{}/{ordinal}", Lsn(lsn)));
        }
    }

    #[test]
    fn ids_of_copied_rows_say_which_chunk() {
        let mut out = Vec::new();
        out.clear();
        write_copied_id_prefix(&mut out, Lsn(0x1_0000_00AB), (3, 12));
        push_decimal(&mut out, 499);
        assert_eq!(out, b"1/AB/r3.12/499");
    }

    #[test]
    fn tokens_keep_both_halves() {
        assert_eq!(Token::row(u32::MAX, u32::MAX).as_row(), Some((u32::MAX, u32::MAX)));
        assert_eq!(Token::row(0, 1).as_row(), Some((0, 1)));
        assert_eq!(Token::CHECKPOINT.as_row(), None);
        assert_eq!(Token::HISTORY.as_row(), None);
        assert_eq!(Token::PROGRESS.as_row(), None);
        assert_eq!(Token::REQUESTS.as_row(), None);
        assert_eq!(Token::NOTIFICATION.as_row(), None);
        assert_eq!(Token::NOTE.as_row(), None);
    }
}
