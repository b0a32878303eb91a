//! What a task does that can't go on: says so once per cause, and waits longer each time.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST_MS: u64 = 200;
const LONGEST_MS: u64 = 30_000;

/// The pauses of one task.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    attempts: u32,
    told: String,
    /// Whether the stream waits for the task.
    holds_up: bool,
}

impl Pause {
    /// Of a task that the stream waits for.
    pub(crate) fn holding_up() -> Pause {
        Pause { holds_up: true, ..Pause::default() }
    }

    /// Tells of an error unless the last one had the same words, and waits.
    pub(crate) async fn after(&mut self, doing: &str, error: &(dyn std::error::Error + Sync)) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            cause = error.source();
        }
        let whole = (FIRST_MS << self.attempts.min(10)).min(LONGEST_MS);
        self.attempts += 1;
        let pause = jittered(Duration::from_millis(whole));
        if self.told == text {
            tracing::debug!(error = text, "{doing} still fails");
        } else {
            let stream = if self.holds_up { "waits for it" } else { "goes on" };
            tracing::warn!(error = text, "{doing} fails and is tried again; the stream {stream}");
        }
        self.told = text;
        tokio::time::sleep(pause).await;
    }

    /// It went well.
    pub(crate) fn over(&mut self) {
        *self = Pause { holds_up: self.holds_up, ..Pause::default() };
    }
}

/// Between a half and the whole of it.
pub(crate) fn jittered(whole: Duration) -> Duration {
    let half = whole.as_millis() as u64 / 2;
    // A hasher's random keys are randomness enough for jitter.
    Duration::from_millis(half + RandomState::new().build_hasher().finish() % (half + 1))
}
