//! The byte budget: the one limit on what is between the Postgres socket and the broker's acknowledgement.
//!
//! The source charges what it read and waits while the budget is spent; the pump charges records for what they really
//! take, and gives back raw bytes when they are encoded and records when they are delivered. A counter and a wake-up;
//! no permits to hold, since charges are corrected after the fact.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Shared by exactly one source and one pump.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Budget {
        Budget { limit, used: AtomicU64::new(0), freed: Notify::new() }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) fn charge(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives bytes back and wakes the source when that makes room.
    pub(crate) fn release(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "released more than was charged");
        if before >= self.limit && before - bytes < self.limit {
            self.freed.notify_one();
        }
    }

    /// Whether more may be read. A row larger than the whole budget passes when nothing else is in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    /// Waits until there is room. Cancel-safe: nothing is taken.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            // `notify_one` stores a permit when nobody waits, so a release between the check and the wait is not lost.
            self.freed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_release_between_check_and_wait_is_not_lost() {
        let budget = Budget::new(100);
        budget.charge(150);
        assert!(!budget.has_room());
        budget.release(100);
        tokio::time::timeout(std::time::Duration::from_secs(5), budget.room()).await.expect("room");
        assert_eq!(budget.used(), 50);
    }
}
