//! One connection to the target: claim the group's partitions, read, apply, until something ends it.
//!
//! The offsets in the database are read when partitions are claimed and never believed from elsewhere, so a session that
//! broke anywhere leaves nothing to repair: the next one claims again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_avro::SchemaId;
use headwater_kafka::{AssignmentChange, Fetched, GroupConsumer, StartOffset, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::answers::{self, Written};
use crate::batch::{self, Batch, Moves, Partition};
use crate::collect::{self, Scratch, Taken};
use crate::commit::Connection;
use crate::events::{self, ReadEvent};
use crate::halt::{Failure, Halt, HaltCause, Refusal};
use crate::lag::Lag;
use crate::layout::Layouts;
use crate::ledger::{self, NEVER};
use crate::letters::{Letters, RawRecord};
use crate::metrics::Metrics;
use crate::naming::is_event_topic;
use crate::replay;
use crate::settings::{Replay, Settings, StartAt};
use crate::status::{Progress, State, Status};
use crate::writer::Writer;

/// How long the loop waits for a record before it looks around.
const LOOK_AROUND: Duration = Duration::from_millis(50);
/// How often lag, Kafka's offsets and probes are brought up to date.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often what is old is forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(30);
/// How long Kafka may take to tell offsets.
pub(crate) const OFFSETS_LIMIT: Duration = Duration::from_secs(20);

/// What outlives a session.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) runtime: Handle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: Arc<Status>,
    pub(crate) shutdown: watch::Receiver<bool>,
    pub(crate) layouts: Layouts,
    pub(crate) letters: Letters,
    pub(crate) lag: Lag,
    /// A replay that was asked for and not begun.
    pub(crate) replay_pending: bool,
}

/// The session.
pub(crate) struct Session<'a> {
    pub(crate) shared: &'a mut Shared,
    consumer: &'a GroupConsumer,
    pub(crate) connection: Connection,
    /// How answers are written, once that is known.
    written: Option<Written>,
    pub(crate) owner: String,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) batch: Batch,
    scratch: Scratch,
    /// Up to here records are applied one by one, because one of them was refused.
    pub(crate) careful: BTreeMap<TopicPartition, i64>,
    /// While careful: the record of the batch.
    pub(crate) record: Option<RawRecord>,
    told: Instant,
    lag_told: Instant,
    pruned: Instant,
}

/// How long is waited for a record while a transaction is under way.
const BESIDE: Duration = Duration::from_millis(2);

impl<'a> Session<'a> {
    /// Runs until it is asked to stop. `assigned` is what the group gave; it outlives the session.
    pub(crate) fn run(
        shared: &'a mut Shared,
        consumer: &'a GroupConsumer,
        assigned: &mut Vec<TopicPartition>,
    ) -> Result<(), Failure> {
        let client = shared.runtime.block_on(ledger::connect(&shared.settings.postgres))?;
        if let Some(from) = shared.settings.replay.filter(|_| shared.replay_pending) {
            replay::begin(shared, consumer, &client, from)?;
            shared.replay_pending = false;
        }
        shared.layouts.forget_tables();
        let writer = Writer::new(client, shared.settings.clone(), shared.metrics.clone());
        let now = Instant::now();
        let mut session = Session {
            shared,
            consumer,
            connection: Connection::Idle(Box::new(writer)),
            written: None,
            owner: owner(),
            partitions: Vec::new(),
            batch: Batch::default(),
            scratch: Scratch::default(),
            careful: BTreeMap::new(),
            record: None,
            told: now,
            lag_told: now,
            pruned: now,
        };
        session.claim(assigned)?;
        session.shared.status.set(State::Applying);
        while !*session.shared.shutdown.borrow() {
            session.turn(assigned)?;
        }
        session.shared.status.set(State::Stopping);
        session.apply()?;
        session.answer()?;
        session.tell();
        Ok(())
    }

    /// One turn of the loop.
    fn turn(&mut self, assigned: &mut Vec<TopicPartition>) -> Result<(), Failure> {
        if let Some(change) = self.consumer.take_change() {
            return self.change(change, assigned);
        }
        let is_busy = match &self.connection {
            Connection::Busy(flight) if flight.is_over() => {
                self.land()?;
                false
            }
            Connection::Busy(_) => true,
            _ => false,
        };
        let wait = match self.batch.began {
            _ if is_busy => BESIDE,
            None => LOOK_AROUND,
            Some(began) => self.shared.settings.linger.saturating_sub(began.elapsed()),
        };
        match self.consumer.poll(wait).map_err(of_kafka)? {
            Some(record) => self.take(&record)?,
            None if is_busy || !self.batch.is_empty() => {}
            None => self.look_around()?,
        }
        // A statement that hangs, on a lock for instance, must not make the lag stand still.
        if is_busy && self.lag_told.elapsed() >= TELL_EVERY {
            self.tell_lag();
        }
        let settings = &self.shared.settings;
        let full =
            self.batch.records >= settings.batch_rows || self.batch.bytes_len() >= settings.batch_bytes;
        let due = !is_busy && self.batch.began.is_some_and(|began| began.elapsed() >= settings.linger);
        if !self.batch.is_empty() && self.is_careful() {
            self.apply()?;
            self.look_around()?;
        } else if full || due {
            self.depart()?;
        }
        Ok(())
    }

    /// Sends the answers that are owed: those of the last batches, and those that a crash left behind.
    fn answer(&mut self) -> Result<(), Failure> {
        let settings = self.shared.settings.clone();
        let Some(topic) = settings.events.as_ref().and_then(|events| events.feedback_topic.as_deref()) else {
            return Ok(());
        };
        let written = match self.written {
            Some(written) => written,
            None => {
                let registry = self.shared.layouts.registry();
                self.shared.runtime.block_on(Written::of(&settings, registry, topic))?
            }
        };
        self.written = Some(written);
        loop {
            let runtime = self.shared.runtime.clone();
            let client = &self.writer()?.client;
            let answers = runtime.block_on(answers::owed(client, &settings.group, written))?;
            if answers.is_empty() {
                return Ok(());
            }
            self.shared.letters.answer(&settings, topic, &answers)?;
            let client = &self.writer()?.client;
            runtime.block_on(answers::answered(client, &settings.group, &answers))?;
        }
    }

    pub(crate) fn look_around(&mut self) -> Result<(), Failure> {
        self.shared.status.alive();
        if self.told.elapsed() >= TELL_EVERY {
            self.tell();
            self.answer()?;
        }
        if self.pruned.elapsed() >= PRUNE_EVERY {
            self.pruned = Instant::now();
            let seconds = self.shared.settings.deleted_retention.as_secs();
            let inbox = self.shared.settings.events.as_ref().map(|events| events.inbox_retention.as_secs());
            let runtime = self.shared.runtime.clone();
            runtime.block_on(ledger::prune(&self.writer()?.client, seconds, inbox))?;
        }
        Ok(())
    }

    fn change(
        &mut self,
        change: AssignmentChange,
        assigned: &mut Vec<TopicPartition>,
    ) -> Result<(), Failure> {
        self.end_flight()?;
        self.batch = Batch::default();
        self.partitions.clear();
        self.careful.clear();
        // What others have now is theirs to show: it would stand still here.
        self.shared.metrics.lag_records.reset();
        match change {
            AssignmentChange::Assigned(places) => {
                *assigned = places;
                self.owner = owner();
                self.claim(assigned)?;
            }
            AssignmentChange::Revoked(_) => {
                tracing::info!(partitions = assigned.len(), "the group takes the partitions back");
                assigned.clear();
                self.consumer.unassign().map_err(of_kafka)?;
            }
        }
        self.tell();
        Ok(())
    }

    /// Becomes the owner of the assigned partitions and reads on from where the database says.
    fn claim(&mut self, assigned: &[TopicPartition]) -> Result<(), Failure> {
        self.shared.metrics.partitions.set(assigned.len() as i64);
        if assigned.is_empty() {
            return Ok(());
        }
        let group = self.shared.settings.group.clone();
        let (runtime, owner) = (self.shared.runtime.clone(), self.owner.clone());
        let client = &self.writer()?.client;
        let claimed = runtime.block_on(ledger::claim(client, &group, &owner, assigned))?;
        self.partitions = claimed.iter().map(Partition::new).collect();
        self.begin_unread()?;
        self.read_from_stored()?;
        let place = |partition: &Partition| {
            format!("{}/{}@{}", partition.place.topic, partition.place.partition, partition.stored)
        };
        let offsets: Vec<_> = self.partitions.iter().map(place).collect();
        tracing::info!(partitions = offsets.join(" "), "applying");
        Ok(())
    }

    /// Of partitions that were never read, the first offset, where it is not simply the oldest record.
    fn begin_unread(&mut self) -> Result<(), Failure> {
        let places = self.partitions.iter().filter(|partition| partition.stored == NEVER);
        let places: Vec<_> = places.map(|partition| partition.place.clone()).collect();
        if places.is_empty() {
            return Ok(());
        }
        let Settings { replay, start, .. } = &*self.shared.settings;
        let found = match (replay, start) {
            (Some(Replay::Since(ms)), _) => {
                self.consumer.offsets_at(&places, *ms, OFFSETS_LIMIT).map_err(of_kafka)?
            }
            (None, StartAt::End) => places.iter().map(|place| (place.clone(), None)).collect(),
            (Some(Replay::Beginning), _) | (None, StartAt::Beginning) => return Ok(()),
        };
        for partition in &mut self.partitions {
            let Some(offset) = found.get(&partition.place) else { continue };
            let offset = match offset {
                Some(offset) => *offset,
                None => self.consumer.end(&partition.place, OFFSETS_LIMIT).map_err(of_kafka)?,
            };
            partition.next = offset;
        }
        // Stored at once: what is read "from the end" must not move with the end.
        self.apply_offsets()
    }

    pub(crate) fn read_from_stored(&mut self) -> Result<(), Failure> {
        let from = |partition: &Partition| match partition.stored {
            ..0 => StartOffset::Beginning,
            offset => StartOffset::Offset(offset),
        };
        let list: Vec<_> =
            self.partitions.iter().map(|partition| (partition.place.clone(), from(partition))).collect();
        self.consumer.assign(&list).map_err(of_kafka)
    }

    /// Takes one record into the batch.
    fn take(&mut self, record: &Fetched<'_>) -> Result<(), Failure> {
        let is_ours = |partition: &Partition| {
            partition.place.partition == record.partition() && partition.place.topic == record.topic()
        };
        // Records of partitions that were given back may still be in the queue.
        let Some(index) = self.partitions.iter().position(is_ours) else { return Ok(()) };
        if record.offset() < self.partitions[index].next {
            return Ok(());
        }
        self.shared.metrics.records.with_label_values(&[record.topic()]).inc();
        if self.is_careful() {
            self.record = Some(RawRecord::of(record));
        }
        let done = match is_event_topic(&self.shared.settings, record.topic()) {
            true => self.take_event(record, index)?,
            false => self.take_row(record, index)?,
        };
        if done {
            self.partitions[index].next = record.offset() + 1;
            self.batch.records += 1;
            self.batch.began.get_or_insert_with(Instant::now);
            self.batch.newest_ms = record.timestamp_ms().max(self.batch.newest_ms);
        }
        Ok(())
    }

    fn take_event(&mut self, record: &Fetched<'_>, index: usize) -> Result<bool, Failure> {
        loop {
            let layouts = &self.shared.layouts;
            match events::read(record, |id| layouts.known_schema(id)) {
                ReadEvent::Event(event) => {
                    self.batch.events.push(event);
                    return Ok(true);
                }
                ReadEvent::Fetch(id) => {
                    if let Some(refusal) = self.fetch(id)? {
                        return self.poison(record, index, &refusal).map(|()| false);
                    }
                }
                ReadEvent::Refused(refusal) => return self.poison(record, index, &refusal).map(|()| false),
            }
        }
    }

    /// Fetches a schema; the refusal if there is none.
    fn fetch(&mut self, id: SchemaId) -> Result<Option<Refusal>, Failure> {
        let Shared { runtime, layouts, .. } = &mut *self.shared;
        match runtime.block_on(layouts.schema(id)) {
            Ok(_) => Ok(None),
            Err(Failure::Refused(refusal)) => Ok(Some(refusal)),
            Err(other) => Err(other),
        }
    }

    /// False if the record was dealt with apart from the batch.
    fn take_row(&mut self, record: &Fetched<'_>, index: usize) -> Result<bool, Failure> {
        loop {
            let layouts = &self.shared.layouts;
            let taken = collect::take(
                record,
                &mut self.partitions[index],
                &mut self.batch,
                layouts,
                &mut self.scratch,
                |id| layouts.known_schema(id),
            );
            match taken {
                Taken::Done => return Ok(true),
                Taken::ApplyFirst if !self.apply()? => return Ok(false),
                Taken::ApplyFirst => {}
                Taken::Resolve { key, value } => {
                    if !self.apply()? {
                        return Ok(false);
                    }
                    match self.resolve(record.topic(), key, value) {
                        Ok(true) => {}
                        // A tombstone of a table that isn't there.
                        Ok(false) => return Ok(true),
                        Err(Failure::Refused(refusal)) => {
                            return self.poison(record, index, &refusal).map(|()| false);
                        }
                        Err(other) => return Err(other),
                    }
                }
                Taken::Fetch(id) => {
                    if let Some(refusal) = self.fetch(id)? {
                        return self.poison(record, index, &refusal).map(|()| false);
                    }
                }
                Taken::Truncate(position) => {
                    if !self.apply()? {
                        return Ok(false);
                    }
                    self.partitions[index].next = record.offset() + 1;
                    return match self.truncate(record.topic(), position) {
                        Err(Failure::Refused(refusal)) => {
                            self.partitions[index].next = self.partitions[index].stored;
                            self.poison(record, index, &refusal).map(|()| false)
                        }
                        done => done.map(|()| false),
                    };
                }
                Taken::Refused(refusal) => return self.poison(record, index, &refusal).map(|()| false),
                Taken::AnotherSource => return Err(another_source(record).into()),
            }
        }
    }

    fn resolve(&mut self, topic: &str, key: SchemaId, value: Option<SchemaId>) -> Result<bool, Failure> {
        let Connection::Idle(writer) = &mut self.connection else {
            return Err(Failure::Away("the connection is not free".to_owned()));
        };
        // The table may have been altered, by this or by another instance.
        writer.staging.forget();
        let Shared { runtime, layouts, .. } = &mut *self.shared;
        runtime.block_on(layouts.resolve(&writer.client, topic, key, value))
    }

    fn truncate(&mut self, topic: &str, position: crate::position::Position) -> Result<(), Failure> {
        let target = self.shared.layouts.rule(topic)?.target.clone();
        let moves = Moves::new(&self.owner, &self.partitions);
        let (runtime, settings) = (self.shared.runtime.clone(), self.shared.settings.clone());
        let client = &self.writer()?.client;
        runtime.block_on(batch::truncate(client, &target, position, &settings.group, &moves))?;
        tracing::info!(table = target.plain(), lsn = position.lsn_text(), "emptied, as its source was");
        self.stored();
        Ok(())
    }

    /// The lag, and that there is life.
    fn tell(&mut self) {
        self.told = Instant::now();
        self.tell_lag();
        self.shared.status.alive();
    }

    /// Lag, progress, and Kafka's idea of the group's offsets.
    fn tell_lag(&mut self) {
        self.lag_told = Instant::now();
        let ends = self.consumer.ends();
        let mut progress = BTreeMap::new();
        let mut committed = BTreeMap::new();
        let mut caught_up = true;
        for partition in &self.partitions {
            let end = ends.get(&partition.place).copied();
            caught_up &= end.is_some_and(|end| end <= partition.stored.max(0));
            progress
                .insert(partition.place.clone(), Progress { next_offset: partition.stored, end_offset: end });
            if partition.stored >= 0 {
                committed.insert(partition.place.clone(), partition.stored);
            }
            if let Some(end) = end {
                let number = partition.place.partition.to_string();
                let labels = [partition.place.topic.as_str(), number.as_str()];
                self.shared
                    .metrics
                    .lag_records
                    .with_label_values(&labels)
                    .set((end - partition.stored.max(0)).max(0));
            }
        }
        if !committed.is_empty() {
            self.consumer.commit(&committed);
        }
        if caught_up {
            self.shared.lag.caught_up();
        }
        self.shared.metrics.lag_seconds.set(self.shared.lag.seconds());
        self.shared.status.progress(progress);
    }
}

/// A name that nobody else has: a new one for each assignment, so that it fences this process's own past as well.
pub(crate) fn owner() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = || RandomState::new().build_hasher().finish();
    format!("{}-{:016x}{:016x}", std::process::id(), random(), random())
}

pub(crate) fn of_kafka(error: headwater_kafka::Error) -> Failure {
    let code = error.code();
    if code == "FencedInstanceId" {
        return Failure::Halt(Halt::new(
            HaltCause::Kafka,
            "another process with the same apply.instance has joined the group",
            "give each instance a name of its own, or none",
        ));
    }
    if code == "AutoOffsetReset" || code == "OffsetOutOfRange" {
        return Failure::Halt(Halt::new(
            HaltCause::Offsets,
            format!("{error}: the records at the stored offset are gone, or the topic was made anew"),
            "records that were deleted before they were applied are missing in the tables: find out which, then read what is \
             there with --replay beginning; docs/APPLY.md has the steps",
        ));
    }
    if error.class() == headwater_kafka::Class::Fatal {
        let advice = error.advice().unwrap_or("the broker's own words say what is wrong");
        return Failure::Halt(Halt::new(HaltCause::Kafka, error.to_string(), advice));
    }
    Failure::Away(error.to_string())
}

fn another_source(record: &Fetched<'_>) -> Halt {
    Halt::new(
        HaltCause::Offsets,
        format!(
            "topic {} partition {} offset {}: the record is much younger than what was applied, but its position in the \
             source lies before it: the source was made anew, or another one writes to the topic",
            record.topic(),
            record.partition(),
            record.offset()
        ),
        "if the new source is the right one, set the positions of the tables back as docs/APPLY.md says, and start again",
    )
}
