//! The answers of consumers: a member of a consumer group reads them and writes them into the rows.
//!
//! In: records of the feedback topic. Out: statuses, with the offsets in the same transaction; what is no answer, or is
//! about an event that no table has, goes to the dead letter topic with its reason. A thread of its own: librdkafka
//! blocks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headwater_avro::registry::{Registry, RegistryError, RegistrySettingsError};
use headwater_kafka::{AssignmentChange, Fetched, GroupConsumer, StartOffset, TopicPartition};
use headwater_pg::Client;
use headwater_pipeline::Metrics;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::answer::Answer;
use crate::answer_reader::AnswerReader;
use crate::answers::{self, Outcome};
use crate::letters;
use crate::pause::Pause;
use crate::settings::{FeedbackSettings, Settings};
use crate::table::{self, LoadError, Table};

/// Records of one transaction.
const RECORDS_MAX: usize = 500;

/// How long a record waits for others to share its transaction.
const GATHER: Duration = Duration::from_millis(20);

/// How long the group is listened to when nothing comes.
const POLL: Duration = Duration::from_millis(200);

/// How long an event's row may take to be seen: its record is in Kafka before other sessions see its commit where
/// replication is synchronous, and a row that is written again is out of sight for a moment.
const LOOK_AGAIN: [Duration; 2] = [Duration::ZERO, Duration::from_millis(250)];

/// Why reading answers stopped for now.
#[derive(Debug)]
pub(crate) enum Trouble {
    Table(LoadError),
    Kafka(headwater_kafka::Error),
    Registry(RegistryError),
    RegistrySettings(RegistrySettingsError),
    Unsent,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Table(error) => error.fmt(f),
            Trouble::Kafka(error) => error.fmt(f),
            Trouble::Registry(error) => error.fmt(f),
            Trouble::RegistrySettings(error) => error.fmt(f),
            Trouble::Unsent => f.write_str("a dead letter was not accepted in time"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Trouble {
        Trouble::Table(error)
    }
}

impl From<headwater_pg::Error> for Trouble {
    fn from(error: headwater_pg::Error) -> Trouble {
        Trouble::Table(LoadError::Postgres(error))
    }
}

impl From<headwater_kafka::Error> for Trouble {
    fn from(error: headwater_kafka::Error) -> Trouble {
        Trouble::Kafka(error)
    }
}

/// A record as it was read.
pub(crate) struct Read {
    pub(crate) place: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Read {
    fn of(record: &Fetched<'_>) -> Read {
        Read {
            place: TopicPartition { topic: record.topic().to_owned(), partition: record.partition() },
            offset: record.offset(),
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers: record.headers(),
        }
    }
}

/// See the module's documentation.
pub(crate) struct Feedback {
    pub(crate) settings: Settings,
    pub(crate) feedback: FeedbackSettings,
    pub(crate) metrics: Arc<Metrics>,
    /// Rung when a row is DEAD.
    pub(crate) died: Arc<Notify>,
    /// Set when it is to leave the group and end.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Feedback {
    /// Begins, on a thread of its own.
    pub(crate) fn start(self) -> JoinHandle<()> {
        std::thread::Builder::new()
            .name("outbox-feedback".to_owned())
            .spawn(move || self.run())
            .expect("the system has a thread for the answers")
    }

    fn run(mut self) {
        // Its own, so that it may outlive that of the process' main task at a stop.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the system has what a runtime needs");
        let mut pause = Pause::default();
        while let Err(trouble) = self.session(&runtime, &mut pause) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            runtime.block_on(pause.after("reading the answers of consumers", &trouble));
        }
    }

    /// Reads until it is stopped.
    fn session(&mut self, runtime: &Runtime, pause: &mut Pause) -> Result<(), Trouble> {
        let client = runtime.block_on(headwater_pg::connect(&self.settings.postgres))?;
        let mut tables = Vec::new();
        for table in &self.settings.tables {
            tables.push(runtime.block_on(table::load(&client, table))?);
        }
        let registry = self.feedback.registry.as_ref().map(Registry::new).transpose();
        let mut reader = AnswerReader::new(registry.map_err(Trouble::RegistrySettings)?);
        letters::make_topic(&self.feedback, &self.feedback.topic, BTreeMap::new())?;
        let group = GroupConsumer::join(
            &self.feedback.kafka,
            &self.feedback.group,
            self.feedback.instance.as_deref(),
            std::slice::from_ref(&self.feedback.topic),
        )?;
        while !self.stop.load(Ordering::Relaxed) {
            let (batch, change) = gather(&group)?;
            if !batch.is_empty() {
                let next = self.write(runtime, &client, &tables, &mut reader, &batch)?;
                group.commit(&next);
            }
            match change {
                Some(AssignmentChange::Assigned(places)) => {
                    let starts = runtime.block_on(starts(&client, &group, places))?;
                    group.assign(&starts)?;
                }
                Some(AssignmentChange::Revoked(_)) => group.unassign()?,
                None => {}
            }
            pause.over();
        }
        Ok(())
    }

    /// One transaction: rows and offsets. Gives the next offset of each partition.
    fn write(
        &self,
        runtime: &Runtime,
        client: &Client,
        tables: &[Table],
        reader: &mut AnswerReader,
        batch: &[Read],
    ) -> Result<BTreeMap<TopicPartition, i64>, Trouble> {
        let mut letters: Vec<(usize, String)> = Vec::new();
        let mut answers: Vec<(usize, Answer)> = Vec::new();
        for (place, read) in batch.iter().enumerate() {
            let read = runtime.block_on(reader.read(read.value.as_deref())).map_err(Trouble::Registry)?;
            match read {
                Ok(answer) => answers.push((place, answer)),
                Err(reason) => letters.push((place, reason)),
            }
        }
        runtime.block_on(client.batch_execute("BEGIN")).map_err(headwater_pg::Error::from)?;
        let outcome = runtime.block_on(self.take_in(client, tables, &answers))?;
        let unknown = |place: &usize| (*place, "no outbox has an event of this id".to_owned());
        letters.extend(outcome.unknown.iter().map(unknown));
        let mut next = BTreeMap::new();
        for read in batch {
            next.insert(read.place.clone(), read.offset + 1);
        }
        if !letters.is_empty() {
            // Before the commit: a letter may be sent twice, and is never missing.
            letters::send(&self.feedback, batch, &letters)?;
        }
        runtime.block_on(store(client, &next))?;
        runtime.block_on(client.batch_execute("COMMIT")).map_err(headwater_pg::Error::from)?;
        self.count(&outcome, letters.len() as u64 - outcome.unknown.len() as u64);
        if outcome.died {
            tracing::warn!("the last attempt of outbox events failed: they are DEAD");
            self.died.notify_one();
        }
        Ok(next)
    }

    async fn take_in(
        &self,
        client: &Client,
        tables: &[Table],
        answers: &[(usize, Answer)],
    ) -> Result<Outcome, headwater_pg::Error> {
        let policies = &self.feedback.policies;
        let mut outcome = answers::take_in(client, tables, policies, answers).await?;
        for wait in LOOK_AGAIN {
            if outcome.unknown.is_empty() {
                break;
            }
            tokio::time::sleep(wait).await;
            let left: Vec<_> =
                answers.iter().filter(|(place, _)| outcome.unknown.contains(place)).cloned().collect();
            let more = answers::take_in(client, tables, policies, &left).await?;
            for (what, count) in more.heard {
                *outcome.heard.entry(what).or_default() += count;
            }
            outcome.died |= more.died;
            outcome.unknown = more.unknown;
        }
        Ok(outcome)
    }

    fn count(&self, outcome: &Outcome, unreadable: u64) {
        for ((table, heard), count) in &outcome.heard {
            self.metrics.outbox_answers.with_label_values(&[table.as_str(), heard]).inc_by(*count);
        }
        let refused = |outcome| self.metrics.outbox_answers.with_label_values(&["", outcome]);
        refused("unknown").inc_by(outcome.unknown.len() as u64);
        refused("unreadable").inc_by(unreadable);
        if unreadable > 0 || !outcome.unknown.is_empty() {
            tracing::warn!(
                topic = self.feedback.topic,
                unreadable,
                unknown = outcome.unknown.len(),
                "answers that can't be used went to {}",
                self.feedback.dead_letter_topic
            );
        }
    }
}

/// What has come within a moment, and what the group decided meanwhile.
fn gather(group: &GroupConsumer) -> Result<(Vec<Read>, Option<AssignmentChange>), Trouble> {
    let mut batch = Vec::new();
    let mut deadline = Instant::now() + POLL;
    loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        if let Some(record) = group.poll(wait)? {
            if batch.is_empty() {
                deadline = Instant::now() + GATHER;
            }
            batch.push(Read::of(&record));
        }
        let change = group.take_change();
        if change.is_some() || batch.len() >= RECORDS_MAX || Instant::now() >= deadline {
            return Ok((batch, change));
        }
    }
}

/// From where these partitions are read: behind what is in the rows already, or from their beginning.
async fn starts(
    client: &Client,
    group: &GroupConsumer,
    places: Vec<TopicPartition>,
) -> Result<Vec<(TopicPartition, StartOffset)>, Trouble> {
    const SQL: &str = "SELECT next_offset FROM headwater.outbox_feedback WHERE topic = $1 AND partition = $2";
    let mut starts = Vec::new();
    for place in places {
        let row = client
            .query_opt(SQL, &[&place.topic, &place.partition])
            .await
            .map_err(headwater_pg::Error::from)?;
        let start = match row.map(|row| row.get::<_, i64>(0)) {
            // A topic that was made anew is read from its beginning: repeats change nothing.
            Some(offset) if offset <= group.end(&place, POLL * 50)? => StartOffset::Offset(offset),
            _ => StartOffset::Beginning,
        };
        starts.push((place, start));
    }
    Ok(starts)
}

async fn store(client: &Client, next: &BTreeMap<TopicPartition, i64>) -> Result<(), headwater_pg::Error> {
    const SQL: &str = "INSERT INTO headwater.outbox_feedback (topic, partition, next_offset) VALUES ($1, $2, $3) \
        ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset";
    for (place, offset) in next {
        client.execute(SQL, &[&place.topic, &place.partition, offset]).await?;
    }
    Ok(())
}
