//! When an event counts as processed, and how often and how fast it is sent again, by event type.

use std::time::Duration;

use crate::pause::jittered;

/// What holds for one event type.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whose success makes an event PROCESSED.
    pub processed_when: ProcessedWhen,
    /// Those who have to answer; empty with `any` means whoever answers.
    pub consumers: Vec<String>,
    /// Sendings until a row is DEAD.
    pub max_attempts: i32,
    /// The pause before the second sending; it doubles each time.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How long after a sending no answer counts as a failure.
    pub answer_timeout: Option<Duration>,
}

/// One of them, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessedWhen {
    /// One is enough.
    Any,
    /// Everyone on the list.
    All,
}

impl ProcessedWhen {
    /// As configurations write them.
    pub const WORDS: &[(&str, ProcessedWhen)] = &[("any", ProcessedWhen::Any), ("all", ProcessedWhen::All)];
}

/// The policies of all event types.
#[derive(Clone, Debug)]
pub struct Policies {
    /// What holds where no rule does.
    pub default: Policy,
    /// Patterns over event types with `*`; the later one holds.
    pub rules: Vec<(Vec<String>, Policy)>,
}

impl Policies {
    /// What holds for an event type.
    pub fn of(&self, event_type: &str) -> &Policy {
        let fits = |(patterns, _): &&(Vec<String>, Policy)| {
            patterns.iter().any(|pattern| headwater_pipeline::outbox_pattern_matches(pattern, event_type))
        };
        self.rules.iter().rev().find(fits).map_or(&self.default, |(_, policy)| policy)
    }

    /// The shortest time after which somebody's silence counts.
    pub fn shortest_timeout(&self) -> Option<Duration> {
        self.rules
            .iter()
            .map(|(_, policy)| policy)
            .chain([&self.default])
            .filter_map(|policy| policy.answer_timeout)
            .min()
    }
}

impl Policy {
    /// The pause behind a failed attempt: doubled each time, between a half and the whole of it.
    pub fn backoff_ms(&self, attempt: i32) -> u64 {
        let doublings = attempt.saturating_sub(1).clamp(0, 30) as u32;
        let whole = self.backoff.saturating_mul(1 << doublings).min(self.backoff_max);
        jittered(whole).as_millis() as u64
    }
}
