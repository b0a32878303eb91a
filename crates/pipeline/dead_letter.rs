//! What can't be delivered goes to the dead letter topic, in its place in the ack tracker: the checkpoint passes it when
//! the letter is acknowledged, and not before.
//!
//! In: a row and the error of writing it, or a record that goes aside because its key is blocked or its topic has refused
//! it. Out: a letter (`headwater_dead_letter`), a count, and a line of the log now and then.
//! Invariant: only what is about one row, under a policy that says so, is ever set aside.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_avro::{Change, ChangeSource, OnError, Op};
use headwater_dead_letter::{Cause, Form as LetterForm, LEFT_OUT_BYTES};
use headwater_kafka::{Refused, partition_for_key};
use headwater_pgoutput::{Lsn, OldTuple};
use serde::Deserialize;

use crate::aside_plan::{AsidePlan, keys_of};
use crate::ask::ask;
use crate::blocked_keys::{BlockedKeys, Entry};
use crate::error::{BLOCKED, StageError, chain};
use crate::resolver::Question;
use crate::row_writer::{Row, RowWriter};
use crate::sent::{AsideEvent, SentEvent};
use crate::settings::{DeadLetterSettings, Oversized};
use crate::table_cache::{Form, TablePlan};
use crate::writer::Writer;

/// How often the log tells of one table's and stage's letters.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Records that topics have refused and that are remembered; the rest is learned again, each at the cost of a session.
const REFUSED_MAX: usize = 10_000;

/// What a record takes in a batch beside key, value and headers, with room to spare.
const BATCH_OVERHEAD_BYTES: u64 = 512;

/// Records that were refused as too large, as the sessions of a process share them.
pub(crate) type RefusedRecords = Arc<Mutex<HashSet<Refused>>>;

/// The row whose records are being written, where any of them may go aside.
#[derive(Debug)]
struct Watched {
    table: String,
    key: Option<String>,
    old_key: Option<String>,
    on_error: OnError,
    /// The key is blocked since there.
    blocked_since: Option<Lsn>,
    /// An outbox' rows are set aside as they are, so that they can be written again.
    as_row: bool,
}

/// The topic as it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LetterTopic {
    pub(crate) partitions: i32,
    pub(crate) bytes_max: Option<u64>,
}

#[derive(Default)]
struct Told {
    at: Option<Instant>,
    untold: u64,
}

/// See the module's documentation. Owned by the writer.
pub(crate) struct DeadLetters {
    settings: DeadLetterSettings,
    topic: Option<LetterTopic>,
    pub(crate) blocked: BlockedKeys,
    refused: HashSet<Refused>,
    shared: RefusedRecords,
    watched: Option<Watched>,
    told: HashMap<(String, &'static str), Told>,
}

impl DeadLetters {
    pub(crate) fn new(
        settings: DeadLetterSettings,
        blocked: BlockedKeys,
        shared: RefusedRecords,
    ) -> DeadLetters {
        let refused = shared.lock().expect("no code panics while it holds them").clone();
        DeadLetters { settings, topic: None, blocked, refused, shared, watched: None, told: HashMap::new() }
    }

    /// Whether any row may have to go aside although it can be written.
    #[inline]
    pub(crate) fn is_watchful(&self) -> bool {
        !self.blocked.is_empty() || !self.refused.is_empty()
    }

    /// Whether any record of the row that is being written may go aside.
    #[inline]
    pub(crate) fn is_watching(&self) -> bool {
        self.watched.is_some()
    }

    /// Whether its key is blocked.
    pub(crate) fn is_blocking(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.blocked_since.is_some())
    }

    /// Remembers what a topic did not take, for the next session.
    pub(crate) fn remember(&self, refused: Vec<Refused>) {
        let mut shared = self.shared.lock().expect("no code panics while it holds them");
        if shared.len() + refused.len() > REFUSED_MAX {
            shared.clear();
        }
        shared.extend(refused);
    }

    pub(crate) fn topic_name(&self) -> &str {
        &self.settings.topic
    }

    /// Whether a record of the watched row goes aside, and why.
    fn goes_aside(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Option<(&'static str, String)> {
        let watched = self.watched.as_ref()?;
        if let Some(since) = watched.blocked_since {
            return Some((BLOCKED, format!("a change of its key that was committed at {since} went here")));
        }
        let value_bytes = value.map_or(0, <[u8]>::len);
        // A set is asked with an owned key; this is the way of sessions that have met a refusal.
        let record = Refused { topic: topic.to_owned(), key: key.map(<[u8]>::to_vec), value_bytes };
        let refused = self.refused.contains(&record);
        refused.then(|| ("size", format!("topic {topic} does not take its {value_bytes} bytes")))
    }

    /// One line of the log for many letters.
    fn tell(&mut self, table: &str, stage: &'static str, reason: &str) {
        let told = self.told.entry((table.to_owned(), stage)).or_default();
        told.untold += 1;
        if told.at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            return;
        }
        let letters = std::mem::take(&mut told.untold);
        told.at = Some(Instant::now());
        let topic = &self.settings.topic;
        tracing::warn!(
            table,
            stage,
            letters,
            reason,
            topic,
            "went to the dead letter topic; see headwater dlq ls"
        );
    }
}

impl Watched {
    fn new(plan: &TablePlan, aside: &AsidePlan, changed: &Row<'_>) -> Watched {
        let (key, old_key) = keys_of(aside, changed);
        let as_row = matches!(plan.form, Form::Event(..));
        let (table, on_error) = (plan.name.clone(), aside.on_error);
        Watched { table, key, old_key, on_error, blocked_since: None, as_row }
    }
}

fn change_of<'r>(changed: &'r Row<'_>, source: &'r ChangeSource<'r>) -> Change<'r> {
    let (op, old, new) = match changed {
        Row::Inserted(new) => (Op::Create, None, Some(new)),
        Row::Read(new) => (Op::Read, None, Some(new)),
        Row::Updated(old, new) => (Op::Update, old.as_ref(), Some(new)),
        Row::Deleted(old) => (Op::Delete, Some(old), None),
        Row::Truncated => (Op::Truncate, None, None),
    };
    let (before, before_is_full) = (old.map(OldTuple::tuple), old.is_some_and(OldTuple::is_full));
    Change { op, before, before_is_full, after: new, source }
}

/// What `headwater dlq` writes into the WAL, in front of the rows that it writes again: from this transaction on the keys
/// are not blocked. As a part of the WAL it has one place among the changes, also after a crash.
#[derive(Debug, Deserialize)]
struct Unblock {
    table: String,
    keys: Vec<String>,
    /// Which attempt the rows of the transaction are.
    #[serde(default)]
    attempt: u32,
}

/// The prefix of that logical message.
pub(crate) const UNBLOCK_PREFIX: &str = "headwater.unblock";

impl Writer {
    /// Such a message in the open transaction.
    pub(crate) fn unblock(&mut self, content: &[u8], commit_lsn: Lsn) -> Result<(), StageError> {
        let Ok(Unblock { table, keys, attempt }) = serde_json::from_slice(content) else {
            tracing::warn!(%commit_lsn, "a logical message {UNBLOCK_PREFIX} that headwater dlq did not write is ignored");
            return Ok(());
        };
        self.attempt = attempt;
        for key in keys {
            let entry = self.dead_letters.blocked.unblock(&table, &key, commit_lsn);
            self.store_blocked(entry)?;
        }
        Ok(())
    }

    /// The topic of letters; made sure of at the first one.
    fn letter_topic(&mut self) -> Result<LetterTopic, StageError> {
        if let Some(topic) = self.dead_letters.topic {
            return Ok(topic);
        }
        let name = self.dead_letters.settings.topic.clone();
        let topic =
            ask(&self.questions, &mut self.out, |answer| Question::LetterTopic { topic: name, answer })?;
        self.dead_letters.topic = Some(topic);
        Ok(topic)
    }

    /// Stores what has become of a blocked key.
    fn store_blocked(&mut self, entry: Option<Entry>) -> Result<(), StageError> {
        let Some(Entry { key_part, value }) = entry else { return Ok(()) };
        match value {
            Some(value) => self.out.store_note(&key_part, &value),
            None => self.out.take_note_away(&key_part),
        }
    }

    /// At the end of a transaction: forgets keys that are no longer blocked anywhere behind the checkpoint.
    pub(crate) fn prune_blocked(&mut self) -> Result<(), StageError> {
        let gone = self.dead_letters.blocked.prune(self.out.stored());
        if gone.is_empty() {
            return Ok(());
        }
        gone.into_iter().try_for_each(|entry| self.store_blocked(Some(entry)))
    }

    pub(crate) fn tell_blocked(&mut self) {
        for (table, count) in self.dead_letters.blocked.take_counts() {
            self.out.metrics().blocked_keys.with_label_values(&[table]).set(count as i64);
        }
    }
}

/// What a letter is made of.
struct NewLetter<'a> {
    cause: Cause,
    stage: &'static str,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [(&'a str, &'a [u8])],
}

impl RowWriter<'_> {
    /// Before a row is written: whether its key is blocked. The present row of a key, which a copy has read, ends that.
    pub(crate) fn watch(&mut self, plan: &TablePlan, changed: &Row<'_>) -> Result<(), StageError> {
        let Some(aside) = plan.aside.as_deref() else { return Ok(()) };
        let watched = Watched::new(plan, aside, changed);
        let (key, old_key) = (&watched.key, &watched.old_key);
        if let Some(passed) = self.copied_at() {
            return self.write_present(&plan.name, key.as_deref().unwrap_or_default(), passed);
        }
        let at = self.place();
        let blocked = &self.writer.dead_letters.blocked;
        let since = |key: &Option<String>| blocked.since(&plan.name, key.as_deref().unwrap_or_default(), at);
        let blocked_since = since(key).or_else(|| old_key.as_ref().and_then(|_| since(old_key)));
        let watched = Watched { blocked_since, ..watched };
        if blocked_since.is_some() && watched.old_key.is_some() {
            // The row goes on under the other key, and so does what is missing of it.
            self.block(&watched, at)?;
        }
        self.writer.dead_letters.watched = Some(watched);
        Ok(())
    }

    /// After it.
    pub(crate) fn unwatch(&mut self) {
        self.writer.dead_letters.watched = None;
    }

    /// The row that a copy has read is the present one: what was set aside is in it.
    fn write_present(&mut self, table: &str, key: &str, passed: Lsn) -> Result<(), StageError> {
        let entry = self.writer.dead_letters.blocked.unblock(table, key, passed);
        self.writer.store_blocked(entry)
    }

    fn block(&mut self, watched: &Watched, at: (Lsn, u64)) -> Result<(), StageError> {
        for key in [watched.key.as_deref(), watched.old_key.as_deref()] {
            // A table without a key has one partition, and is blocked as a whole.
            let Some(key) = key.or(watched.key.is_none().then_some("")) else { continue };
            let blocked = &mut self.writer.dead_letters.blocked;
            let attempt = blocked.attempt(&watched.table, key);
            let entry = blocked.block(&watched.table, key, at, attempt);
            self.writer.store_blocked(entry)?;
        }
        Ok(())
    }

    /// Whether there is room for its key, or it is blocked already.
    fn may_block(&self, watched: &Watched) -> bool {
        let DeadLetters { blocked, settings, .. } = &self.writer.dead_letters;
        let key = watched.key.as_deref().unwrap_or_default();
        blocked.len() < settings.blocked_keys_max || blocked.is_known(&watched.table, key)
    }

    /// A row that could not be written goes to the dead letter topic instead, if its table's policy says so; else the
    /// error is what it was.
    pub(crate) fn set_aside(
        &mut self,
        plan: &TablePlan,
        changed: &Row<'_>,
        error: StageError,
    ) -> Result<(), StageError> {
        let (Some(aside), Some(stage)) = (plan.aside.as_deref(), error.stage_of_row()) else {
            return Err(error);
        };
        let on_error = aside.on_error;
        let watched = Watched::new(plan, aside, changed);
        // A TRUNCATE is of no key.
        let blocks = on_error == OnError::DeadLetterAndBlockKey && !matches!(changed, Row::Truncated);
        if blocks && !self.may_block(&watched) {
            return Err(self.too_many_blocked(error));
        }
        let mut value = Vec::new();
        let source = self.source(None);
        aside.lines.write(&plan.description, &change_of(changed, &source), &mut value);
        let at = self.place();
        let mut cause =
            Cause { reason: chain(&error), form: LetterForm::Row, ..self.cause(&watched, &plan.topic) };
        let key_text = watched.key.clone();
        let key = key_text.as_deref().map(str::as_bytes);
        let failed = aside.life.as_ref().and_then(|life| life.failed(changed));
        if let Some(event) = &failed {
            cause.attempt = u32::try_from(event.attempt).unwrap_or(1);
        }
        let reason = cause.reason.clone();
        self.send(NewLetter { cause, stage, key, value: Some(&value), headers: &[] }, error)?;
        if let Some(event) = failed {
            self.mark_dead(event, reason)?;
        }
        if blocks { self.block(&watched, at) } else { Ok(()) }
    }

    /// Waits until the outbox row says DEAD. The checkpoint can't pass the row before that: a row that were still NEW
    /// behind it would be taken for sent.
    fn mark_dead(&mut self, event: SentEvent, reason: String) -> Result<(), StageError> {
        let Some(sent) = &self.writer.sent else { return Ok(()) };
        ask(&sent.asides, &mut self.writer.out, |answer| AsideEvent { event, reason, answer })
    }

    /// The same of what is no row: a logical message that is no event.
    pub(crate) fn set_message_aside(
        &mut self,
        name: &str,
        content: &[u8],
        on_error: OnError,
        error: StageError,
    ) -> Result<(), StageError> {
        let Some(stage) = error.stage_of_row().filter(|_| on_error != OnError::Halt) else {
            return Err(error);
        };
        let (table, key, old_key) = (name.to_owned(), None, None);
        let watched = Watched { table, key, old_key, on_error, blocked_since: None, as_row: true };
        let cause = Cause { reason: chain(&error), form: LetterForm::Row, ..self.cause(&watched, "") };
        self.send(NewLetter { cause, stage, key: None, value: Some(content), headers: &[] }, error)
    }

    /// Where copied rows stand in the stream, and others in theirs.
    fn place(&self) -> (Lsn, u64) {
        match self.copied_at() {
            Some(passed) => (passed, 0),
            None => (self.transaction.commit_lsn, self.writer.ordinal),
        }
    }

    fn cause(&self, watched: &Watched, topic: &str) -> Cause {
        let key = watched.key.as_deref().unwrap_or_default();
        let attempt = match self.attempt() {
            0 => self.writer.dead_letters.blocked.attempt(&watched.table, key),
            attempt => attempt,
        };
        Cause {
            attempt,
            table: Some(watched.table.clone()),
            key: watched.key.clone(),
            old_key: watched.old_key.clone(),
            lsn: Some(self.transaction.commit_lsn.to_string()),
            topic: (!topic.is_empty()).then(|| topic.to_owned()),
            ..Cause::default()
        }
    }

    /// Offers a record of the watched row to the dead letter topic if it goes aside. False if it is to be offered as it is.
    pub(crate) fn offer_aside(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<bool, StageError> {
        let Some((stage, reason)) = self.writer.dead_letters.goes_aside(topic, key, value) else {
            return Ok(false);
        };
        let Some(watched) = self.writer.dead_letters.watched.take() else { return Ok(false) };
        let table = watched.table.clone();
        let refused = match watched.blocked_since {
            Some(since) => StageError::KeyBlocked { table, since },
            None => StageError::Refused { topic: topic.to_owned(), table },
        };
        if watched.as_row {
            return Err(refused);
        }
        let at = self.place();
        let mut cause = Cause { reason, ..self.cause(&watched, topic) };
        // One of the three records of a changed key is of the old one.
        if value.is_none() || headers.iter().any(|(name, _)| *name == "__debezium.newkey") {
            cause.key = watched.old_key.clone().or(cause.key);
        }
        if stage != BLOCKED && watched.on_error == OnError::DeadLetterAndBlockKey {
            if !self.may_block(&watched) {
                return Err(self.too_many_blocked(refused));
            }
            self.block(&watched, at)?;
        }
        self.send(NewLetter { cause, stage, key, value, headers }, refused)?;
        self.writer.dead_letters.watched = Some(watched);
        Ok(true)
    }

    /// Offers the letter; `error` is what it is if the letter can't be sent.
    fn send(&mut self, letter: NewLetter<'_>, error: StageError) -> Result<(), StageError> {
        let NewLetter { mut cause, stage, key, mut value, headers } = letter;
        cause.stage = stage.to_owned();
        let LetterTopic { partitions, bytes_max } = self.writer.letter_topic()?;
        // Of one row's key, whatever the form of the letter's own.
        let of = [cause.table.as_deref(), cause.key.as_deref()].map(Option::unwrap_or_default).concat();
        let partition = partition_for_key(of.as_bytes(), partitions);
        let causes = cause.headers();
        let mut all = headers.to_vec();
        all.extend(causes.iter().map(|(name, value)| (*name, value.as_slice())));
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let of_headers: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = (length(key) + length(value) + of_headers) as u64 + BATCH_OVERHEAD_BYTES;
        let left_out = length(value).to_string();
        if bytes_max.is_some_and(|max| bytes > max) || bytes > self.writer.out.max_row_bytes() {
            if self.writer.dead_letters.settings.oversized == Oversized::Halt {
                return Err(self.no_room(bytes, error));
            }
            value = None;
            all.push((LEFT_OUT_BYTES, left_out.as_bytes()));
        }
        let table = cause.table.as_deref().unwrap_or_default();
        let topic = self.writer.dead_letters.settings.topic.clone();
        let watched = self.writer.dead_letters.watched.take();
        let offered = match headers.first() {
            // It has its identity already.
            Some((name, _)) if *name == crate::record::ID_HEADER => {
                self.offer_record(&topic, partition, key, value, &all)
            }
            _ => self.offer_to(&topic, partition, key, value, &all),
        };
        self.writer.dead_letters.watched = watched;
        offered?;
        self.writer.out.metrics().dead_letters.with_label_values(&[table, stage]).inc();
        self.writer.dead_letters.tell(table, stage, &cause.reason);
        Ok(())
    }

    fn too_many_blocked(&self, error: StageError) -> StageError {
        let max = self.writer.dead_letters.settings.blocked_keys_max;
        StageError::NotAside {
            why: format!("{max} keys are blocked, as many as dead_letter.blocked_keys_max allows"),
            advice: "headwater dlq ls shows why; replay or drop them (headwater dlq replay), or raise the limit",
            source: Box::new(error),
        }
    }

    fn no_room(&self, bytes: u64, error: StageError) -> StageError {
        let topic = self.writer.dead_letters.topic_name();
        StageError::NotAside {
            why: format!("its letter has {bytes} bytes, more than the dead letter topic {topic} takes"),
            advice: "raise max.message.bytes of the dead letter topic, or set dead_letter.oversized = \"leave_value_out\"",
            source: Box::new(error),
        }
    }
}

/// The refused records that were too large by themselves, and not only beside others in a batch.
pub(crate) fn too_large_alone(refused: Vec<Refused>, limit: u64) -> Vec<Refused> {
    let is_too_large = |record: &Refused| {
        let bytes = record.value_bytes + record.key.as_ref().map_or(0, Vec::len);
        bytes as u64 + BATCH_OVERHEAD_BYTES > limit
    };
    refused.into_iter().filter(is_too_large).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_large_by_itself_is_refused_for_good() {
        let record = |value_bytes| Refused { topic: "t".to_owned(), key: Some(vec![0; 10]), value_bytes };
        let check = |sizes: &[usize], limit, expected: &[usize]| {
            let left = too_large_alone(sizes.iter().map(|size| record(*size)).collect(), limit);
            assert_eq!(left.iter().map(|record| record.value_bytes).collect::<Vec<_>>(), expected);
        };
        check(&[10, 2000, 20], 1000, &[2000]);
        check(&[10, 20], 1000, &[]);
        check(&[479, 478], 1000, &[479]);
    }
}
