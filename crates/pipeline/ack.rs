//! The heart: from delivery reports in any order to one LSN that is safe to confirm.
//!
//! A ring of transactions in commit order, each with a count of records that are not delivered and, once its Commit
//! was read, the LSN of its end.
//! 1. A transaction is finished when its Commit was read *and* all its records are delivered.
//! 2. The position moves over the finished prefix only.
//! 3. A keepalive is as good as an empty transaction: it counts when everything received before it is finished.
//!    While a transaction is being received it says nothing, for its rows are still to come.

use std::collections::VecDeque;

use headwater_pgoutput::Lsn;

/// Counts deliveries per transaction; owned by the pump.
#[derive(Debug)]
pub(crate) struct AckTracker {
    /// Sequence number of the ring's first transaction.
    first: u32,
    ring: VecDeque<Unit>,
    /// End of the finished prefix.
    acknowledged: Lsn,
    /// Of what the prefix has passed.
    notes: Vec<(u32, u64)>,
}

#[derive(Debug)]
struct Unit {
    undelivered: u64,
    /// Known once the Commit was read.
    end: Option<Lsn>,
    /// None for what has no time, as a message that stands for itself.
    commit_unix_micros: Option<i64>,
    /// A chunk of a snapshot that is whole with this unit, and its rows.
    note: Option<(u32, u64)>,
}

impl AckTracker {
    /// Starts at a position that is confirmed already.
    pub(crate) fn new(confirmed: Lsn) -> AckTracker {
        AckTracker { first: 0, ring: VecDeque::new(), acknowledged: confirmed, notes: Vec::new() }
    }

    /// A Begin was read. Returns the sequence number for the tokens of its records.
    pub(crate) fn begin(&mut self, commit_unix_micros: Option<i64>) -> u32 {
        debug_assert!(self.ring.back().is_none_or(|last| last.end.is_some()), "transactions do not nest");
        self.ring.push_back(Unit { undelivered: 0, end: None, commit_unix_micros, note: None });
        self.first.wrapping_add(self.ring.len() as u32 - 1)
    }

    /// A record of the open transaction was accepted by the sink.
    pub(crate) fn offered(&mut self) {
        let open = self.ring.back_mut().expect("a record belongs to a transaction");
        debug_assert!(open.end.is_none());
        open.undelivered += 1;
    }

    /// The Commit of the open transaction was read.
    pub(crate) fn commit(&mut self, end: Lsn) {
        self.commit_noted(end, None);
    }

    /// The same of a part of a snapshot, with the chunk that is whole when this is finished.
    pub(crate) fn commit_noted(&mut self, end: Lsn, note: Option<(u32, u64)>) {
        let open = self.ring.back_mut().expect("a Commit follows a Begin");
        debug_assert!(open.end.is_none());
        (open.end, open.note) = (Some(end), note);
    }

    /// The chunks that are whole since this was asked last.
    pub(crate) fn take_notes(&mut self) -> impl Iterator<Item = (u32, u64)> + use<> {
        std::mem::take(&mut self.notes).into_iter()
    }

    /// The server has sent everything up to `wal_end`.
    pub(crate) fn keepalive(&mut self, wal_end: Lsn) {
        match self.ring.back_mut() {
            None => self.acknowledged = self.acknowledged.max(wal_end),
            Some(Unit { end: Some(end), .. }) => *end = (*end).max(wal_end),
            Some(Unit { end: None, .. }) => {}
        }
    }

    /// A record was delivered.
    pub(crate) fn delivered(&mut self, sequence: u32) {
        let at = sequence.wrapping_sub(self.first) as usize;
        let unit = self.ring.get_mut(at).expect("a transaction stays until its records are delivered");
        debug_assert!(unit.undelivered > 0);
        unit.undelivered -= 1;
    }

    /// Moves the position over the finished prefix, telling the commit time of each transaction it passes.
    pub(crate) fn advance(&mut self, mut passed: impl FnMut(i64)) -> Lsn {
        while let Some(Unit { undelivered: 0, end: Some(end), commit_unix_micros, note }) = self.ring.front()
        {
            self.acknowledged = self.acknowledged.max(*end);
            self.notes.extend(*note);
            commit_unix_micros.iter().for_each(|micros| passed(*micros));
            self.ring.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.acknowledged
    }

    /// Commit time of the oldest transaction that is not finished, µs since 1970.
    pub(crate) fn oldest_commit_unix_micros(&self) -> Option<i64> {
        self.ring.iter().find_map(|unit| unit.commit_unix_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn advance(tracker: &mut AckTracker) -> u64 {
        tracker.advance(|_| {}).0
    }

    #[test]
    fn the_position_moves_over_the_finished_prefix_only() {
        let mut tracker = AckTracker::new(Lsn(10));
        let a = tracker.begin(Some(0));
        tracker.offered();
        tracker.commit(Lsn(20));
        let b = tracker.begin(Some(0));
        tracker.offered();
        tracker.commit(Lsn(30));
        tracker.delivered(b);
        assert_eq!(advance(&mut tracker), 10, "b is delivered before a: nothing moves");
        tracker.delivered(a);
        assert_eq!(advance(&mut tracker), 30);
        assert!(tracker.ring.is_empty());
    }

    #[test]
    fn delivered_records_of_an_open_transaction_move_nothing() {
        let mut tracker = AckTracker::new(Lsn(10));
        let a = tracker.begin(Some(0));
        tracker.offered();
        tracker.delivered(a);
        tracker.keepalive(Lsn(99));
        assert_eq!(
            advance(&mut tracker),
            10,
            "its Commit was not read, and a keepalive inside it says nothing"
        );
        tracker.commit(Lsn(20));
        assert_eq!(advance(&mut tracker), 20);
    }

    #[test]
    fn a_keepalive_waits_for_what_was_received_before_it() {
        let mut tracker = AckTracker::new(Lsn(10));
        let a = tracker.begin(Some(0));
        tracker.offered();
        tracker.commit(Lsn(20));
        tracker.keepalive(Lsn(50));
        assert_eq!(advance(&mut tracker), 10);
        tracker.delivered(a);
        assert_eq!(advance(&mut tracker), 50);
        tracker.keepalive(Lsn(60));
        assert_eq!(advance(&mut tracker), 60);
        tracker.keepalive(Lsn(40));
        assert_eq!(advance(&mut tracker), 60, "positions never go back");
    }

    #[test]
    fn an_empty_transaction_moves_the_position() {
        let mut tracker = AckTracker::new(Lsn(10));
        tracker.begin(Some(0));
        tracker.commit(Lsn(20));
        assert_eq!(advance(&mut tracker), 20);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut tracker = AckTracker::new(Lsn(0));
        tracker.first = u32::MAX;
        let a = tracker.begin(Some(0));
        tracker.offered();
        tracker.commit(Lsn(1));
        let b = tracker.begin(Some(0));
        tracker.offered();
        tracker.commit(Lsn(2));
        assert_eq!((a, b), (u32::MAX, 0));
        tracker.delivered(a);
        assert_eq!(advance(&mut tracker), 1);
        tracker.delivered(b);
        assert_eq!(advance(&mut tracker), 2);
    }

    proptest! {
        /// Against the definition: for any order of deliveries the position is the end of the longest prefix of
        /// transactions all of whose records are delivered.
        #[test]
        fn any_order_of_deliveries_gives_the_finished_prefix(
            sizes in proptest::collection::vec(0usize..5, 1..20),
            order in any::<u64>(),
        ) {
            let mut tracker = AckTracker::new(Lsn(0));
            let mut undelivered = Vec::new();
            for (n, size) in sizes.iter().enumerate() {
                let sequence = tracker.begin(Some(0));
                for _ in 0..*size {
                    tracker.offered();
                    undelivered.push((n, sequence));
                }
                tracker.commit(Lsn((n as u64 + 1) * 10));
            }
            let mut left = sizes.clone();
            let mut random = order;
            loop {
                let prefix = left.iter().take_while(|left| **left == 0).count() as u64;
                prop_assert_eq!(advance(&mut tracker), prefix * 10);
                if undelivered.is_empty() { break; }
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (n, sequence) = undelivered.swap_remove((random >> 33) as usize % undelivered.len());
                left[n] -= 1;
                tracker.delivered(sequence);
            }
            prop_assert!(tracker.ring.is_empty());
        }
    }
}
