//! `headwater dlq`: what was set aside, and what to do about it.
//!
//! Everything is read from the topic and everything that is done is noted there (`headwater_dead_letter`), so any machine
//! that reaches Kafka will do. Only a replay of rows needs more: the running instance, which alone can write the present
//! row in its place, or the database, in which an outbox' rows are written again.

mod replay;
mod rows;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use headwater_dead_letter::{Done, Letter, LetterId, Mark, Shelf, read_shelf, read_values};
use headwater_kafka::{Admin, OfferError, Producer, ProducerRecord};
use headwater_pg::ConnectSettings;
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::{ExitCode, Settings};

use super::status::instance_of;
use crate::Shared;

/// What to do, and with which topic.
#[derive(Args)]
pub struct Arguments {
    /// The topic of dead letters, if it is not the configuration's `dead_letter.topic`: also one of `headwater apply`
    /// or of answers to outbox events.
    #[arg(long, value_name = "TOPIC", global = true)]
    topic: Option<String>,
    /// The configuration is that of `headwater apply`.
    #[arg(long, global = true)]
    apply: bool,
    /// The running instance's address, if it is not the configuration's `http.listen`.
    #[arg(long, value_name = "HOST:PORT", global = true)]
    instance: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List letters, the oldest first.
    Ls {
        #[command(flatten)]
        which: Which,
        /// Also those that were replayed or dropped.
        #[arg(long)]
        done: bool,
        /// How many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show all of one letter.
    Show {
        /// PARTITION:OFFSET, as `ls` shows it.
        id: LetterId,
    },
    /// Deliver again: rows as they are now, outbox events and records of consumers as they were, in order.
    Replay {
        #[command(flatten)]
        which: Which,
        /// All that are open.
        #[arg(long)]
        all: bool,
        /// Also what has failed as often as --attempts says.
        #[arg(long)]
        force: bool,
        /// How often a letter may fail before it is no longer replayed without --force.
        #[arg(long, default_value_t = 5)]
        attempts: u32,
    },
    /// Give letters up. A key that was blocked is delivered again from its next change on.
    Drop {
        #[command(flatten)]
        which: Which,
        /// All that are open.
        #[arg(long)]
        all: bool,
    },
}

/// Which letters are meant.
#[derive(Args)]
struct Which {
    /// PARTITION:OFFSET, as `ls` shows them.
    ids: Vec<LetterId>,
    /// Of this table.
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: Option<String>,
    /// Of this stage: encode, schema, outbox, size, blocked, and those of consumers.
    #[arg(long)]
    stage: Option<String>,
}

impl Which {
    fn is_everything(&self) -> bool {
        self.ids.is_empty() && self.table.is_none() && self.stage.is_none()
    }

    fn takes(&self, letter: &Letter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.table.as_ref().is_none_or(|table| letter.cause.table.as_ref() == Some(table))
            && self.stage.as_ref().is_none_or(|stage| letter.cause.stage == *stage)
    }
}

/// How long one partition may take to be read.
const READ_MAX: Duration = Duration::from_secs(300);

/// How long the marks may take to be acknowledged.
const STORE_MAX: Duration = Duration::from_secs(60);

/// A topic of letters, and whom to ask about them.
struct Desk {
    kafka: headwater_kafka::Settings,
    topic: String,
    partitions: i32,
    /// Of the pipeline, where the configuration is its.
    pipeline: Option<Box<Settings>>,
    instance: Option<String>,
}

/// Reads the topic and does it.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let desk = Desk::open(shared, arguments)?;
    match &arguments.action {
        Action::Ls { which, done, limit } => {
            let shelf = desk.read()?;
            let wanted = |letter: &&Letter| which.takes(letter) && (*done || letter.done.is_none());
            let letters: Vec<&Letter> = shelf.letters.values().filter(wanted).take(*limit).collect();
            print!("{}", text::list(&letters, arguments.json));
        }
        Action::Show { id } => {
            let shelf = desk.read()?;
            let letter =
                shelf.letters.get(id).with_context(|| format!("{} has no letter {id}", desk.topic))?;
            let mut values = read_values(&desk.kafka, &desk.topic, &BTreeSet::from([*id]), READ_MAX)?;
            print!("{}", text::show(letter, values.remove(id).flatten().as_deref(), arguments.json));
        }
        Action::Replay { which, all, force, attempts } => {
            let (shelf, chosen) = desk.choose(which, *all)?;
            let limit = if *force { u32::MAX } else { *attempts };
            let done = super::block_on(replay::replay(&desk, &shelf, &chosen, limit))?;
            print!("{}", text::done("replayed", &done, arguments.json));
        }
        Action::Drop { which, all } => {
            let (shelf, chosen) = desk.choose(which, *all)?;
            super::block_on(rows::unblock_dropped(&desk, &shelf, &chosen))?;
            desk.mark(Done::Dropped, &chosen)?;
            print!("{}", text::done("dropped", &[format!("{} letters", chosen.len())], arguments.json));
        }
    }
    Ok(ExitCode::Success)
}

impl Desk {
    fn open(shared: &Shared, arguments: &Arguments) -> anyhow::Result<Desk> {
        let (kafka, topic, pipeline, instance) = if arguments.apply {
            crate::telemetry::start(&shared.log)?;
            let config = crate::config::apply::load(&shared.config, &shared.set, None)?;
            (config.settings.kafka, config.settings.dead_letter_topic, None, None)
        } else {
            let config = super::prepare(shared)?;
            let SinkSettings::Kafka { kafka, .. } = &config.settings.sink else {
                bail!("only the Kafka sink has dead letters");
            };
            let instance = instance_of(arguments.instance.as_deref(), config.listen);
            let topic = config.settings.dead_letters.topic.clone();
            (kafka.clone(), topic, Some(Box::new(config.settings)), instance)
        };
        let topic = arguments.topic.clone().unwrap_or(topic);
        if topic.contains("{topic}") {
            bail!(
                "name the topic of dead letters with --topic; the configuration has one for each topic, {topic}"
            );
        }
        let admin = Admin::new(&kafka).context("connect to Kafka")?;
        let partitions = admin.partition_count(&topic)?.unwrap_or(0);
        Ok(Desk { kafka, topic, partitions, pipeline, instance })
    }

    /// All letters. A topic that is not there has none.
    fn read(&self) -> anyhow::Result<Shelf> {
        read_shelf(&self.kafka, &self.topic, self.partitions, READ_MAX)
            .with_context(|| format!("read {}", self.topic))
    }

    /// The open letters that are meant, and all of them.
    fn choose(&self, which: &Which, all: bool) -> anyhow::Result<(Shelf, Vec<LetterId>)> {
        if which.is_everything() && !all {
            bail!("say which: PARTITION:OFFSET, --table, --stage, or --all");
        }
        let shelf = self.read()?;
        let open = shelf.letters.values().filter(|letter| letter.done.is_none() && which.takes(letter));
        let chosen: Vec<LetterId> = open.map(|letter| letter.id).collect();
        if let Some(id) = which.ids.iter().find(|id| !chosen.contains(id)) {
            bail!("{} has no open letter {id}", self.topic);
        }
        Ok((shelf, chosen))
    }

    fn pipeline(&self) -> anyhow::Result<&Settings> {
        self.pipeline.as_deref().context("that needs the configuration of headwater run")
    }

    fn postgres(&self) -> anyhow::Result<&ConnectSettings> {
        Ok(&self.pipeline()?.postgres)
    }

    /// Notes what became of letters, and waits until that is safe.
    fn mark(&self, done: Done, letters: &[LetterId]) -> anyhow::Result<()> {
        let mut by_partition: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for id in letters {
            by_partition.entry(id.partition).or_default().push(id.offset);
        }
        let marks = by_partition.into_iter().flat_map(|(partition, offsets)| {
            // A mark is a record, and a record has a limit.
            let pieces: Vec<Mark> =
                offsets.chunks(5_000).map(|offsets| Mark { done, offsets: offsets.to_vec() }).collect();
            pieces.into_iter().map(move |mark| (partition, mark))
        });
        let records: Vec<Sent> = marks
            .map(|(partition, mark)| Sent {
                topic: self.topic.clone(),
                partition,
                key: None,
                value: Some(mark.value()),
                headers: vec![(Mark::HEADER.to_owned(), mark.done.word().into())],
            })
            .collect();
        self.send(&records).context("note what became of the letters")
    }

    /// Sends records in order, and waits until they are safe.
    fn send(&self, records: &[Sent]) -> anyhow::Result<()> {
        let settings = headwater_kafka::Settings { queue_bytes_max: QUEUE_BYTES_MAX, ..self.kafka.clone() };
        let mut producer = Producer::new(&settings)?;
        let deadline = std::time::Instant::now() + STORE_MAX;
        let mut deliveries = Vec::new();
        for record in records {
            let headers: Vec<(&str, &[u8])> =
                record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            let offered = ProducerRecord {
                topic: &record.topic,
                partition: record.partition,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
                timestamp_ms: None,
                token: 0,
            };
            loop {
                match producer.offer(&offered) {
                    Ok(()) => break,
                    Err(OfferError::Full) if std::time::Instant::now() < deadline => {
                        producer.poll(Duration::from_millis(50), &mut deliveries);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        while producer.in_flight() > 0 {
            if std::time::Instant::now() > deadline {
                bail!("the brokers accept nothing for {} s", STORE_MAX.as_secs());
            }
            producer.poll(Duration::from_millis(50), &mut deliveries);
        }
        deliveries.into_iter().try_for_each(|delivery| delivery.result)?;
        Ok(())
    }
}

/// What may wait to be sent.
const QUEUE_BYTES_MAX: u64 = 64 << 20;

/// A record to send.
struct Sent {
    topic: String,
    partition: i32,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}
