//! What an answer, or none, makes of a row. Pure: no clock, no database.
//!
//! Answers come in any order and any number of times. A SUCCESS counts whichever attempt it is of, and stands; a FAILED
//! counts only of the attempt that the row is in, and not of a consumer that has succeeded.

use crate::answer::{Answer, Verdict};
use crate::policy::{Policy, ProcessedWhen};

/// The statuses, as the column has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Written and not sent yet.
    New,
    /// Kafka has it.
    Sent,
    /// All consumers that have to have processed it.
    Processed,
    /// An attempt failed; the next one is due.
    Failed,
    /// The last attempt failed.
    Dead,
    /// A person has called it off.
    Cancelled,
    /// It waits for an earlier event of its aggregate.
    Blocked,
}

impl Status {
    /// As they are written.
    pub const WORDS: &[(&str, Status)] = &[
        ("NEW", Status::New),
        ("SENT", Status::Sent),
        ("PROCESSED", Status::Processed),
        ("FAILED", Status::Failed),
        ("DEAD", Status::Dead),
        ("CANCELLED", Status::Cancelled),
        ("BLOCKED", Status::Blocked),
    ];

    /// None for a word that is none of them.
    pub fn parse(word: &str) -> Option<Status> {
        Status::WORDS.iter().find(|(known, _)| *known == word).map(|(_, status)| *status)
    }

    /// As the column has it.
    pub fn word(self) -> &'static str {
        Status::WORDS.iter().find(|(_, status)| *status == self).map_or("", |(word, _)| word)
    }
}

/// The part of a row that answers change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Where it stands.
    pub status: Status,
    /// The number of its present sending. It only grows.
    pub attempt: i32,
    /// The sending from which attempts are counted.
    pub first_attempt: i32,
    /// Consumers that have succeeded.
    pub processed_by: Vec<String>,
    /// Who failed last.
    pub failed_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Milliseconds until the next attempt, if one was decided upon just now.
    pub retry_in_ms: Option<u64>,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The row is PROCESSED now.
    Processed,
    /// A success; others are still awaited.
    Noted,
    /// It is to be sent again.
    Failed,
    /// It will not be sent again.
    Dead,
    /// Known, late, or of no consequence any more.
    Ignored,
}

impl Heard {
    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Heard::Processed => "processed",
            Heard::Noted => "noted",
            Heard::Failed => "failed",
            Heard::Dead => "dead",
            Heard::Ignored => "ignored",
        }
    }
}

impl Life {
    /// Takes an answer in.
    pub fn hear(&mut self, answer: &Answer, policy: &Policy) -> Heard {
        if !policy.consumers.is_empty() && !policy.consumers.contains(&answer.consumer) {
            return Heard::Ignored;
        }
        match answer.status {
            Verdict::Success => self.succeeded(&answer.consumer, policy),
            Verdict::Failed if self.processed_by.contains(&answer.consumer) => Heard::Ignored,
            Verdict::Failed if answer.attempt != self.attempt => Heard::Ignored,
            Verdict::Failed => self.failed(Some(&answer.consumer), answer.reason.as_deref(), policy),
        }
    }

    /// Nobody answered in time.
    pub fn hear_nothing(&mut self, policy: &Policy) -> Heard {
        self.failed(None, Some("no answer in time"), policy)
    }

    fn succeeded(&mut self, consumer: &str, policy: &Policy) -> Heard {
        // What waits as BLOCKED was never sent, so nobody can have processed it.
        let is_open = !matches!(self.status, Status::Processed | Status::Cancelled | Status::Blocked);
        if !is_open || self.processed_by.iter().any(|known| known == consumer) {
            return Heard::Ignored;
        }
        self.processed_by.push(consumer.to_owned());
        let complete = match policy.processed_when {
            ProcessedWhen::Any => true,
            ProcessedWhen::All => policy.consumers.iter().all(|name| self.processed_by.contains(name)),
        };
        if !complete {
            return Heard::Noted;
        }
        self.status = Status::Processed;
        (self.failed_by, self.reason, self.retry_in_ms) = (None, None, None);
        Heard::Processed
    }

    fn failed(&mut self, consumer: Option<&str>, reason: Option<&str>, policy: &Policy) -> Heard {
        // NEW: the answer was faster than the mark.
        if !matches!(self.status, Status::New | Status::Sent) {
            return Heard::Ignored;
        }
        (self.failed_by, self.reason) = (consumer.map(str::to_owned), reason.map(str::to_owned));
        let attempts = self.attempt.saturating_sub(self.first_attempt).saturating_add(1);
        if attempts >= policy.max_attempts {
            self.status = Status::Dead;
            self.retry_in_ms = None;
            return Heard::Dead;
        }
        self.status = Status::Failed;
        self.retry_in_ms = Some(policy.backoff_ms(attempts));
        Heard::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn policy(when: ProcessedWhen, consumers: &[&str]) -> Policy {
        Policy {
            processed_when: when,
            consumers: consumers.iter().map(|name| (*name).to_owned()).collect(),
            max_attempts: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(3),
            answer_timeout: None,
        }
    }

    fn life(attempt: i32) -> Life {
        Life {
            status: Status::Sent,
            attempt,
            first_attempt: 1,
            processed_by: Vec::new(),
            failed_by: None,
            reason: None,
            retry_in_ms: None,
        }
    }

    /// `a1+` is a SUCCESS of consumer a for attempt 1, `b2-` a FAILED of b for attempt 2.
    fn answer(text: &str) -> Answer {
        Answer {
            event_id: "e".to_owned(),
            status: if text.ends_with('+') { Verdict::Success } else { Verdict::Failed },
            reason: None,
            consumer: text[..1].to_owned(),
            attempt: text[1..2].parse().unwrap(),
        }
    }

    #[test]
    fn answers_in_any_order() {
        let (any, all) = (policy(ProcessedWhen::Any, &[]), policy(ProcessedWhen::All, &["a", "b"]));
        let chosen = policy(ProcessedWhen::Any, &["a"]);
        use Status::{Dead, Failed, Processed, Sent};
        for (policy, attempt, answers, status) in [
            (&any, 1, "a1+", Processed),
            (&any, 1, "a1+ a1+ a1- b1-", Processed),
            (&any, 1, "a1-", Failed),
            (&any, 1, "a1- a1-", Failed),
            (&any, 1, "a1- a1+", Processed),
            (&any, 3, "a3-", Dead),
            (&any, 3, "a3- a3+", Processed),
            (&any, 2, "a1-", Sent),
            (&any, 2, "a1+", Processed),
            (&any, 2, "a9-", Sent),
            (&chosen, 1, "b1+", Sent),
            (&chosen, 1, "b1+ a1+", Processed),
            (&chosen, 1, "b1-", Sent),
            (&chosen, 3, "b3- a3-", Dead),
            (&all, 3, "c3- c3+", Sent),
            (&all, 1, "a1+", Sent),
            (&all, 1, "a1+ b1+", Processed),
            (&all, 1, "b1+ b1+", Sent),
            (&all, 1, "a1+ b1-", Failed),
            (&all, 1, "b1- a1+", Failed),
            (&all, 1, "a1+ a1- b1+", Processed),
            (&all, 2, "a1+ b2+", Processed),
        ] {
            let mut life = life(attempt);
            for text in answers.split(' ') {
                life.hear(&answer(text), policy);
            }
            assert_eq!(life.status, status, "{answers} in attempt {attempt}");
        }
    }

    #[test]
    fn nobody_processes_what_was_never_sent() {
        for status in [Status::Blocked, Status::Cancelled] {
            let mut life = Life { status, ..life(1) };
            let policy = policy(ProcessedWhen::Any, &[]);
            assert_eq!(life.hear(&answer("a1+"), &policy), Heard::Ignored);
            assert_eq!(life.hear(&answer("a1-"), &policy), Heard::Ignored);
            assert_eq!(life.status, status);
        }
    }

    #[test]
    fn attempts_are_counted_from_where_a_person_began_again() {
        let policy = policy(ProcessedWhen::Any, &[]);
        let mut life = Life { first_attempt: 4, ..life(4) };
        assert_eq!(life.hear(&answer("a3-"), &policy), Heard::Ignored);
        assert_eq!(life.hear(&answer("a4-"), &policy), Heard::Failed);
        let mut life = Life { first_attempt: 4, ..self::life(6) };
        assert_eq!(life.hear(&answer("a6-"), &policy), Heard::Dead);
    }

    #[test]
    fn pauses_double_up_to_the_limit() {
        let policy = policy(ProcessedWhen::Any, &[]);
        for (attempt, whole) in [(1, 1000), (2, 2000), (3, 3000), (40, 3000), (i32::MAX, 3000)] {
            let pause = policy.backoff_ms(attempt);
            assert!((whole / 2..=whole).contains(&pause), "attempt {attempt}: {pause} ms");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for (word, status) in Status::WORDS {
            assert_eq!((Status::parse(word), status.word()), (Some(*status), *word));
        }
        assert_eq!(Status::parse("sent"), None);
    }
}
