//! Pauses between attempts: doubling from 100 ms to 5 s, with jitter, so that many instances do not come back at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 5_000;

/// The pauses of one series of attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { attempts: 0 }
    }

    /// The next pause: between a half and the whole of the doubled one.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = (FIRST_MS << self.attempts.min(10)).min(LONGEST_MS);
        self.attempts += 1;
        // A hasher's random keys are randomness enough for jitter.
        let random = RandomState::new().build_hasher().finish();
        Duration::from_millis(whole / 2 + random % (whole / 2 + 1))
    }

    pub(crate) fn used(&self) -> bool {
        self.attempts > 0
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let mut backoff = Backoff::new();
        for attempt in 0..100u32 {
            let whole = (100u64 << attempt.min(10)).min(5_000);
            let pause = backoff.next().as_millis() as u64;
            assert!((whole / 2..=whole).contains(&pause), "attempt {attempt}: {pause} ms");
        }
    }
}
