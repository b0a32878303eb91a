//! Tells a Kafka that is away from a producer that is stuck.
//!
//! A broker that is away is waited for, as long as it takes. A producer that forgot its brokers is helped where it is
//! (`kafka/bootstrap.rs`). Should it be stuck for a reason that nobody knows yet, and deliver nothing although
//! everything answers, the last resort is a new producer, which begins again from the checkpoint. So while nothing is
//! acknowledged, another client asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_kafka::Admin;

use crate::boot_clock;
use crate::status::{Readiness, Status};

/// Time between two questions while nothing is acknowledged.
const INTERVAL: Duration = Duration::from_secs(5);

/// Since when brokers answer without a break while nothing is acknowledged; shared with the pump.
#[derive(Debug, Default)]
pub(crate) struct SinkAnswers {
    /// Boot clock, milliseconds; 0 while they don't answer or nobody needs to know.
    since_ms: AtomicU64,
}

impl SinkAnswers {
    /// How long they have been answering.
    pub(crate) fn for_how_long(&self) -> Duration {
        match self.since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(boot_clock::now_ms().saturating_sub(since)),
        }
    }

    fn note(&self, answers: bool) {
        if !answers {
            self.since_ms.store(0, Ordering::Relaxed);
        } else if self.since_ms.load(Ordering::Relaxed) == 0 {
            self.since_ms.store(boot_clock::now_ms().max(1), Ordering::Relaxed);
        }
    }
}

/// Asks while the status says that something is waited for; runs until it is dropped.
pub(crate) async fn watch(admin: Arc<Admin>, status: Arc<Status>, answers: Arc<SinkAnswers>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let waiting = matches!(status.snapshot().readiness, Readiness::Waiting { .. });
        let answered = waiting && {
            let admin = admin.clone();
            let asked = tokio::task::spawn_blocking(move || admin.broker_count()).await;
            asked.is_ok_and(|brokers| brokers.is_ok_and(|count| count > 0))
        };
        answers.note(answered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_starts_the_count_anew() {
        let answers = SinkAnswers::default();
        assert_eq!(answers.for_how_long(), Duration::ZERO);
        answers.note(true);
        let since = answers.since_ms.load(Ordering::Relaxed);
        answers.note(true);
        assert_eq!(answers.since_ms.load(Ordering::Relaxed), since);
        answers.note(false);
        assert_eq!(answers.for_how_long(), Duration::ZERO);
    }
}
