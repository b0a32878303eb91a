//! How far behind this instance is, in seconds: 0 while everything is applied, and growing while nothing is.
//!
//! In: the times of records that were applied, and moments at which none was left. Out: the time since the later of the
//! two. So it grows while the database is away as well, and an idle topic has no lag.

use std::time::{SystemTime, UNIX_EPOCH};

/// The two times, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    newest_ms: Option<i64>,
    caught_up_ms: Option<i64>,
}

impl Lag {
    /// A transaction was committed whose newest record has this time.
    pub(crate) fn applied(&mut self, newest_ms: Option<i64>) {
        self.newest_ms = self.newest_ms.max(newest_ms);
    }

    /// Nothing is left to apply.
    pub(crate) fn caught_up(&mut self) {
        self.caught_up_ms = Some(now_ms());
    }

    /// Nothing known is no lag.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds_at(now_ms())
    }

    fn seconds_at(&self, now_ms: i64) -> f64 {
        let since = self.newest_ms.max(self.caught_up_ms).unwrap_or(now_ms);
        now_ms.saturating_sub(since).max(0) as f64 / 1000.0
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_the_two_counts() {
        for (newest_ms, caught_up_ms, expected) in [
            (None, None, 0.0),
            (Some(4_000), None, 6.0),
            (Some(4_000), Some(9_500), 0.5),
            (None, Some(9_500), 0.5),
            // Clocks of producers may be ahead.
            (Some(12_000), None, 0.0),
        ] {
            let lag = Lag { newest_ms, caught_up_ms };
            assert_eq!(lag.seconds_at(10_000), expected, "{newest_ms:?} {caught_up_ms:?}");
        }
    }
}
