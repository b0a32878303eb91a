//! Which rows of a chunk the stream has overtaken: the pure heart of a snapshot beside the stream.
//!
//! A chunk is read under one MVCC snapshot S and its rows are written at a point of the stream where everything that
//! S sees has passed. What has passed and S does not see is newer than the chunk: its keys are remembered here, and
//! the chunk's rows of these keys are left out.
//!
//! A transaction can be committed in WAL, and have passed, while S still takes it for running (design, fact 13). That
//! is harmless for one whose keys are remembered. One that passed before the remembering began makes the chunk
//! unusable: it is read again when that transaction is over.

use std::collections::{HashMap, VecDeque};

use headwater_pg::transaction_snapshot::TransactionSnapshot;
use headwater_pgoutput::RelationId;

use super::moved::{Moved, MovedKeys};
use super::row_key::read_key;

/// Ids of transactions that are kept apart: 2 MiB of bits. What is older counts as unknown.
const SEEN_WORDS_MAX: usize = 16 * 1024 * 1024 / 64;

/// Transactions that a chunk waits for at a time; what is left is found when it is read again.
const PASSED_MAX: usize = 1000;

/// Keys that are remembered for all tables together, bytes. Beyond it they are forgotten and the chunk is read again,
/// smaller.
const TOUCHED_BYTES_MAX: usize = 16 << 20;

/// What a remembered key takes beside its own bytes.
const TOUCHED_OVERHEAD_BYTES: usize = 64;

/// What a remembered transaction takes.
const WRITER_BYTES: usize = size_of::<u32>();

/// The transactions that have passed: one bit for each id from `base` on.
///
/// Ids wrap; two that are compared are never 2^31 apart.
#[derive(Clone, Debug)]
pub(crate) struct SeenTransactions {
    base: u32,
    bits: VecDeque<u64>,
    /// Of all before it nothing is known; it may lie within the first word.
    known_from: u32,
}

impl SeenTransactions {
    /// `next` is the id that the server gives next: of all before it nothing is known.
    pub(crate) fn new(next: u32) -> SeenTransactions {
        SeenTransactions { base: next & !63, bits: VecDeque::new(), known_from: next }
    }

    pub(crate) fn insert(&mut self, xid: u32) {
        let Some(mut offset) = self.offset(xid) else { return };
        while offset / 64 >= SEEN_WORDS_MAX {
            let drop = (offset / 64 + 1 - SEEN_WORDS_MAX).max(SEEN_WORDS_MAX / 16);
            self.forget_words(drop);
            offset -= drop * 64;
        }
        if self.bits.len() <= offset / 64 {
            self.bits.resize(offset / 64 + 1, 0);
        }
        self.bits[offset / 64] |= 1 << (offset % 64);
    }

    /// Whether it has passed; None if it is too old for an answer.
    pub(crate) fn contains(&self, xid: u32) -> Option<bool> {
        let offset = self.offset(xid)?;
        if (xid.wrapping_sub(self.known_from) as i32) < 0 {
            return None;
        }
        Some(self.bits.get(offset / 64).is_some_and(|word| word & 1 << (offset % 64) != 0))
    }

    /// From this id on: what has passed, and what is too old for an answer.
    fn perhaps_passed_from(&self, xid: u64) -> Vec<u64> {
        let offset = |xid: u32| i64::from(xid.wrapping_sub(self.base) as i32);
        let (from, known) = (offset(xid as u32), offset(self.known_from).max(0));
        let words = self.bits.iter().enumerate().skip(from.max(known) as usize / 64);
        let passed = words.flat_map(|(at, word)| {
            let bits = (0..64).filter(move |bit| word & 1 << bit != 0);
            bits.map(move |bit| (at * 64 + bit) as i64)
        });
        let offsets = (from..known).chain(passed.filter(|offset| *offset >= from.max(known)));
        offsets.map(|offset| xid.saturating_add_signed(offset - from)).take(PASSED_MAX).collect()
    }

    /// All before this id are over: nobody will ask for them.
    pub(crate) fn forget_before(&mut self, xid: u32) {
        if let Some(offset) = self.offset(xid) {
            self.forget_words(offset / 64);
        }
    }

    fn forget_words(&mut self, count: usize) {
        self.bits.drain(..count.min(self.bits.len()));
        self.base = self.base.wrapping_add(count as u32 * 64);
    }

    fn offset(&self, xid: u32) -> Option<usize> {
        usize::try_from(xid.wrapping_sub(self.base) as i32).ok()
    }
}

/// What has happened to a key since its table is watched.
#[derive(Clone, Copy, Debug)]
struct Touch {
    /// The last transaction that changed it.
    xid: u32,
    /// Whether a change left a TOAST value out: what the stream says of the row is not all of it.
    unchanged: bool,
}

/// What has happened to a table since it is watched.
#[derive(Debug)]
struct WatchedTable {
    /// Its chunks are being read. Asleep, as while a snapshot is paused, only moved rows are remembered.
    awake: bool,
    /// The columns of its key.
    key: Vec<String>,
    keys: HashMap<Box<[u8]>, Touch>,
    /// Of a table without a key, all transactions that changed it. Those that change one key wait for each other, so
    /// what sees the last of them sees the ones before; changes of rows without a key don't.
    writers: Vec<u32>,
    /// The last transaction that truncated it.
    truncated: Option<u32>,
    /// The last transaction in which its Relation message came.
    announced: Option<u32>,
    /// What had passed when the watch began, and the transaction that was open then: their keys are not remembered.
    before: SeenTransactions,
    /// Keys were forgotten since the last chunk.
    overflowed: bool,
    moved: Moved,
}

/// Whether a chunk can be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChunkVerdict {
    /// Row by row, with [`Touched::overtaken`].
    Write,
    /// It has to be read again, after these transactions are over.
    ReadAgain { after: Vec<u64> },
}

/// What becomes of one row of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RowVerdict {
    /// The stream has said nothing newer.
    Write,
    /// The stream has said something newer.
    Overtaken,
    /// The stream has said something newer, but not all of it.
    OvertakenInPart,
}

impl WatchedTable {
    /// What it remembers, bytes.
    fn bytes(&self) -> usize {
        self.keys.keys().map(|key| cost(key)).sum::<usize>() + self.writers.len() * WRITER_BYTES
    }
}

/// The tables that are watched; owned by the pump.
#[derive(Debug)]
pub(crate) struct Touched {
    seen: SeenTransactions,
    tables: HashMap<RelationId, WatchedTable>,
    bytes: usize,
    /// A row came to another key without all of its values since that was asked last.
    any_moved: bool,
}

/// How a table is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The columns of its key.
    pub(crate) key: Vec<String>,
    /// The job's token.
    pub(crate) job: String,
    /// `schema.table`
    pub(crate) table: String,
    /// Keys that are stored for it from before this session.
    pub(crate) moved: MovedKeys,
    /// Whether chunks of it are read from here on.
    pub(crate) awake: bool,
}

impl Touched {
    /// `next_xid` is the id that the server gave next when this session began.
    pub(crate) fn new(next_xid: u32) -> Touched {
        Touched { seen: SeenTransactions::new(next_xid), tables: HashMap::new(), bytes: 0, any_moved: false }
    }

    /// Whether any table is watched: the one question that every change asks.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.tables.is_empty()
    }

    /// From here on the table's changes are remembered. `open` is the transaction whose rows are being read.
    pub(crate) fn watch(&mut self, relation: RelationId, watch: Watch, open: Option<u32>) {
        let mut before = self.seen.clone();
        if let Some(open) = open {
            before.insert(open);
        }
        let moved = match self.forget(relation) {
            Some(asleep) => asleep.moved,
            None => Moved::new(watch.job, watch.table, watch.moved),
        };
        let watched = WatchedTable {
            awake: watch.awake,
            key: watch.key,
            keys: HashMap::new(),
            writers: Vec::new(),
            truncated: None,
            announced: None,
            before,
            overflowed: false,
            moved,
        };
        self.tables.insert(relation, watched);
    }

    pub(crate) fn unwatch(&mut self, relation: RelationId) {
        drop(self.forget(relation));
    }

    /// Its chunks are not read for a while.
    pub(crate) fn rest(&mut self, relation: RelationId) {
        if let Some(mut table) = self.forget(relation) {
            (table.awake, table.keys, table.writers) = (false, HashMap::new(), Vec::new());
            self.tables.insert(relation, table);
        }
    }

    fn forget(&mut self, relation: RelationId) -> Option<WatchedTable> {
        let table = self.tables.remove(&relation)?;
        self.bytes -= table.bytes();
        Some(table)
    }

    /// The columns by which a watched table's rows are told apart.
    pub(crate) fn key_of(&self, relation: RelationId) -> Option<&[String]> {
        self.tables.get(&relation).map(|table| table.key.as_slice())
    }

    /// A key of a watched table was changed by the open transaction. `unchanged`: its new row has a TOAST value that
    /// the stream left out; `moved`: the row came to this key from another.
    pub(crate) fn touch(&mut self, relation: RelationId, key: &[u8], xid: u32, unchanged: bool, moved: bool) {
        let Some(table) = self.tables.get_mut(&relation) else { return };
        if unchanged && moved {
            table.moved.add(read_key(key));
            self.any_moved = true;
        }
        if !table.awake {
            return;
        }
        if table.key.is_empty() {
            if table.writers.last() != Some(&xid) {
                table.writers.push(xid);
                self.remembered(WRITER_BYTES, xid);
            }
            return;
        }
        if let Some(touch) = table.keys.get_mut(key) {
            *touch = Touch { xid, unchanged: unchanged || (touch.unchanged && touch.xid == xid) };
            return;
        }
        table.keys.insert(key.into(), Touch { xid, unchanged });
        self.remembered(cost(key), xid);
    }

    fn remembered(&mut self, bytes: usize, open: u32) {
        self.bytes += bytes;
        if self.bytes > TOUCHED_BYTES_MAX {
            self.overflow(open);
        }
    }

    /// Begins to remember anew, in all tables: a chunk that is under way in any of them is read again.
    fn overflow(&mut self, open: u32) {
        for table in self.tables.values_mut() {
            (table.keys, table.writers) = (HashMap::new(), Vec::new());
            table.overflowed = true;
            table.before = self.seen.clone();
            table.before.insert(open);
        }
        self.bytes = 0;
    }

    pub(crate) fn truncated(&mut self, relation: RelationId, xid: u32) {
        if let Some(table) = self.tables.get_mut(&relation) {
            table.truncated = Some(xid);
        }
    }

    pub(crate) fn announced(&mut self, relation: RelationId, xid: u32) {
        if let Some(table) = self.tables.get_mut(&relation) {
            table.announced = Some(xid);
        }
    }

    /// A transaction has passed.
    #[inline]
    pub(crate) fn passed(&mut self, xid: u32) {
        self.seen.insert(xid);
    }

    /// Whether a chunk that was read under this snapshot can be written now that everything it sees has passed.
    ///
    /// The list of running transactions ends with the newest that has ended: from `xmax` on the snapshot names none.
    pub(crate) fn verdict(&mut self, relation: RelationId, snapshot: &TransactionSnapshot) -> ChunkVerdict {
        let Some(table) = self.tables.get_mut(&relation) else {
            return ChunkVerdict::ReadAgain { after: Vec::new() };
        };
        let unsafe_to_ignore = |xid: &&u64| {
            // A running transaction that may have passed before the watch began: the chunk has the rows as they were
            // before it, and the stream will not say its changes again.
            let xid = **xid as u32;
            table.before.contains(xid) != Some(false)
        };
        let mut after: Vec<u64> = snapshot.in_progress.iter().filter(unsafe_to_ignore).copied().collect();
        after.extend(table.before.perhaps_passed_from(snapshot.xmax));
        if std::mem::take(&mut table.overflowed) || !table.awake || !after.is_empty() {
            return ChunkVerdict::ReadAgain { after };
        }
        ChunkVerdict::Write
    }

    /// The same on a standby: what has passed there is visible, so no chunk has the rows of before.
    pub(crate) fn verdict_on_standby(&mut self, relation: RelationId) -> ChunkVerdict {
        let again = |table: &mut WatchedTable| std::mem::take(&mut table.overflowed) || !table.awake;
        if self.tables.get_mut(&relation).is_none_or(again) {
            ChunkVerdict::ReadAgain { after: Vec::new() }
        } else {
            ChunkVerdict::Write
        }
    }

    /// Whether the table's last Relation message came from a transaction that this snapshot does not see: the chunk
    /// has the columns of before.
    pub(crate) fn announced_after(&self, relation: RelationId, snapshot: &TransactionSnapshot) -> bool {
        let announced = self.tables.get(&relation).and_then(|table| table.announced);
        announced.is_some_and(|xid| !snapshot.sees(xid))
    }

    /// What becomes of one row of such a chunk.
    pub(crate) fn judge(
        &self,
        relation: RelationId,
        key: &[u8],
        snapshot: &TransactionSnapshot,
    ) -> RowVerdict {
        let Some(table) = self.tables.get(&relation) else { return RowVerdict::Write };
        if table.truncated.is_some_and(|xid| !snapshot.sees(xid)) {
            return RowVerdict::Overtaken;
        }
        match table.keys.get(key) {
            Some(touch) if !snapshot.sees(touch.xid) => {
                if touch.unchanged {
                    RowVerdict::OvertakenInPart
                } else {
                    RowVerdict::Overtaken
                }
            }
            _ => RowVerdict::Write,
        }
    }

    /// Of a table without a key, the transactions that have passed since it is watched and that this snapshot does not
    /// see.
    pub(crate) fn unseen_writers(&self, relation: RelationId, snapshot: &TransactionSnapshot) -> Vec<u64> {
        let writers = self.tables.get(&relation).map(|table| table.writers.as_slice()).unwrap_or_default();
        let unseen = writers.iter().filter(|xid| !snapshot.sees(**xid));
        unseen.map(|xid| snapshot.widen(*xid)).take(PASSED_MAX).collect()
    }

    /// Whether keys were forgotten while a chunk was being written.
    pub(crate) fn overflowed(&self, relation: RelationId) -> bool {
        self.tables.get(&relation).is_some_and(|table| table.overflowed)
    }

    /// A chunk was written: what its snapshot sees, every later one sees.
    pub(crate) fn forget_seen(&mut self, snapshot: &TransactionSnapshot) {
        let mut bytes = 0;
        for table in self.tables.values_mut() {
            table.keys.retain(|_, touch| !snapshot.sees(touch.xid));
            table.writers.retain(|xid| !snapshot.sees(*xid));
            bytes += table.bytes();
            table.before.forget_before(snapshot.xmin as u32);
        }
        self.bytes = bytes;
        self.seen.forget_before(snapshot.xmin as u32);
    }

    /// Rows that came to another key without all of their values, since this was asked last.
    pub(crate) fn tell_moved(&mut self, relation: RelationId) -> MovedKeys {
        self.tables.get_mut(&relation).map(|table| table.moved.tell()).unwrap_or_default()
    }

    /// The coordinator has stored what it was told.
    pub(crate) fn heard_of_moved(&mut self, relation: RelationId) {
        if let Some(table) = self.tables.get_mut(&relation) {
            self.any_moved |= table.moved.heard();
        }
    }

    /// What is to be stored of moved rows before the checkpoint passes them: the ends of keys, and values.
    #[inline]
    pub(crate) fn take_moved_records(&mut self) -> Vec<(String, Vec<u8>)> {
        if !std::mem::take(&mut self.any_moved) {
            return Vec::new();
        }
        self.tables.values_mut().filter_map(|table| table.moved.take_record()).collect()
    }
}

fn cost(key: &[u8]) -> usize {
    key.len() + TOUCHED_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: RelationId = RelationId(7);

    /// Whether a chunk under `snapshot` is written, or waits for these; `passed` had passed before the watch.
    #[track_caller]
    fn check(next: u32, passed: &[u32], snapshot: &str, waits_for: &[u64]) {
        let mut touched = Touched::new(next);
        passed.iter().for_each(|xid| touched.passed(*xid));
        let (key, job, table) = (vec!["id".to_owned()], String::new(), String::new());
        touched.watch(TABLE, Watch { key, job, table, moved: Default::default(), awake: true }, None);
        let verdict = touched.verdict(TABLE, &snapshot.parse().unwrap());
        let expected = match waits_for {
            [] => ChunkVerdict::Write,
            after => ChunkVerdict::ReadAgain { after: after.to_vec() },
        };
        assert_eq!(verdict, expected, "{passed:?} {snapshot}");
    }

    #[test]
    fn a_chunk_waits_for_what_passed_and_counts_as_running() {
        check(640, &[700, 701], "702:702:", &[]);
        check(640, &[700, 701], "700:702:700", &[700]);
        check(640, &[701], "700:702:700", &[]);
        // What was open at the start may have passed in the session before.
        check(640, &[], "630:702:630,650", &[630]);
        // The newest of all: no list names it, since none after it has ended.
        check(640, &[700], "700:700:", &[700]);
        check(640, &[700, 765], "690:699:690", &[700, 765]);
        check(640, &[640], "637:638:637", &[637, 638, 639, 640]);
        check(4, &[2, 5], "4294967300:4294967300:", &[4_294_967_301]);
        check(650, &[], "645:645:", &[645, 646, 647, 648, 649]);
    }

    #[test]
    fn without_a_key_every_writer_has_to_be_seen() {
        let mut touched = Touched::new(640);
        let (job, table) = (String::new(), String::new());
        let watch = Watch { key: Vec::new(), job, table, moved: Default::default(), awake: true };
        touched.watch(TABLE, watch, None);
        for xid in [700, 701, 700, 702] {
            touched.touch(TABLE, &[], xid, false, false);
        }
        // 701 is committed in WAL and not yet visible, though a later one is.
        for (snapshot, unseen) in [
            ("701:703:701", &[701][..]),
            ("700:703:700,702", &[700, 700, 702]),
            ("703:703:", &[]),
            ("701:701:", &[701, 702]),
        ] {
            assert_eq!(touched.unseen_writers(TABLE, &snapshot.parse().unwrap()), unseen, "{snapshot}");
        }
        touched.forget_seen(&"702:702:".parse().unwrap());
        assert_eq!(touched.bytes, WRITER_BYTES, "what is seen is forgotten");
        touched.unwatch(TABLE);
        assert_eq!(touched.bytes, 0);
    }

    #[test]
    fn what_passed_is_known_from_the_first_id_on() {
        for first in [100u32, 64, u32::MAX - 10] {
            let mut seen = SeenTransactions::new(first);
            for (after, expected) in [(0, Some(false)), (5, Some(true)), (6, Some(false)), (70, Some(true))] {
                let xid = first.wrapping_add(after);
                if expected == Some(true) {
                    seen.insert(xid);
                }
                assert_eq!(seen.contains(xid), expected, "{first} + {after}");
            }
            assert_eq!(
                seen.contains(first.wrapping_sub(1)),
                None,
                "it may have passed in an earlier session"
            );
            seen.forget_before(first.wrapping_add(70));
            assert_eq!(seen.contains(first.wrapping_add(70)), Some(true));
            assert_eq!(seen.contains(first.wrapping_sub(60)), None);
        }
    }

    #[test]
    fn what_is_too_old_is_unknown() {
        let mut seen = SeenTransactions::new(100);
        seen.insert(101);
        seen.insert(101 + (SEEN_WORDS_MAX as u32) * 64 * 2);
        assert_eq!(seen.contains(101), None);
    }
}
