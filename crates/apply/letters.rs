//! What is sent: records that can't be applied, as they came with their cause in headers (`headwater_dead_letter`), and
//! answers to events.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use headwater_dead_letter::{Cause, RECORD_BYTES_MAX, attempt_of, topic_config};
use headwater_kafka::{Fetched, OfferError, Producer, ProducerRecord, TopicPartition, partition_for_key};

use crate::answers::Answer;
use crate::halt::{Failure, Halt, HaltCause, Refusal};
use crate::session::of_kafka;
use crate::settings::Settings;

/// How long a broker may take to accept one.
const LIMIT: Duration = Duration::from_secs(30);

/// A record as it was.
#[derive(Clone, Debug)]
pub(crate) struct RawRecord {
    pub(crate) place: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl RawRecord {
    pub(crate) fn of(record: &Fetched<'_>) -> RawRecord {
        RawRecord {
            place: TopicPartition { topic: record.topic().to_owned(), partition: record.partition() },
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers: record.headers(),
        }
    }
}

/// The way to those topics; connects when the first record is sent.
#[derive(Default)]
pub(crate) struct Letters {
    partitions: HashMap<String, i32>,
    producer: Option<Producer>,
}

impl Letters {
    /// Sends a record that can't be applied, and waits until it is safe.
    pub(crate) fn set_aside(
        &mut self,
        settings: &Settings,
        record: &RawRecord,
        refusal: &Refusal,
        table: &str,
    ) -> Result<(), Failure> {
        let topic = settings.dead_letter_topic.replace("{topic}", &record.place.topic);
        let cause = Cause {
            stage: refusal.stage.to_owned(),
            reason: refusal.reason.clone(),
            attempt: attempt_of(&record.headers),
            table: Some(table.to_owned()),
            topic: Some(record.place.topic.clone()),
            place: Some((record.place.partition, record.offset)),
            consumer: Some(settings.group.clone()),
            ..Cause::default()
        };
        let causes = cause.headers();
        let mut headers: Vec<(&str, &[u8])> =
            record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        headers.extend(causes.iter().map(|(name, value)| (*name, value.as_slice())));
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let letter = Letter { key, value, headers: &headers, timestamp_ms: record.timestamp_ms };
        self.deliver(settings, &topic, topic_config(RECORD_BYTES_MAX), &[letter])
    }

    /// Sends answers, and waits until they are safe.
    pub(crate) fn answer(
        &mut self,
        settings: &Settings,
        topic: &str,
        answers: &[Answer],
    ) -> Result<(), Failure> {
        let mut letters = Vec::with_capacity(answers.len());
        for answer in answers {
            let (key, value) = (Some(answer.event_id.as_bytes()), Some(answer.body.as_slice()));
            letters.push(Letter { key, value, headers: &[], timestamp_ms: None });
        }
        self.deliver(settings, topic, BTreeMap::new(), &letters)
    }

    fn deliver(
        &mut self,
        settings: &Settings,
        topic: &str,
        config: BTreeMap<String, String>,
        letters: &[Letter<'_>],
    ) -> Result<(), Failure> {
        let count = match self.partitions.get(topic) {
            Some(count) => *count,
            None => partitions_of(settings, topic, config)?,
        };
        self.partitions.insert(topic.to_owned(), count);
        let producer = match &mut self.producer {
            Some(producer) => producer,
            none => none.insert(Producer::new(&settings.kafka).map_err(of_kafka)?),
        };
        let sent = letters.iter().try_for_each(|letter| send(producer, topic, count, letter));
        let delivered = sent.and_then(|()| wait(producer, letters.len()));
        if delivered.is_err() {
            // Whether it was sent is not known: the record comes again, and is perhaps sent twice.
            self.producer = None;
        }
        delivered
    }
}

/// One record to send.
struct Letter<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [(&'a str, &'a [u8])],
    timestamp_ms: Option<i64>,
}

fn send(producer: &mut Producer, topic: &str, count: i32, letter: &Letter<'_>) -> Result<(), Failure> {
    let offered = producer.offer(&ProducerRecord {
        topic,
        // Records of one key stay in their order.
        partition: letter.key.map_or(0, |key| partition_for_key(key, count)),
        key: letter.key,
        value: letter.value,
        headers: letter.headers,
        timestamp_ms: letter.timestamp_ms,
        token: 0,
    });
    match offered {
        Ok(()) => Ok(()),
        Err(OfferError::Full) => Err(Failure::Away("the producer is full".to_owned())),
        Err(OfferError::Failed(error)) => Err(of_kafka(error)),
    }
}

/// Until Kafka has so many.
fn wait(producer: &mut Producer, mut count: usize) -> Result<(), Failure> {
    let deadline = Instant::now() + LIMIT;
    let mut deliveries = Vec::new();
    while Instant::now() < deadline {
        producer.poll(Duration::from_millis(50), &mut deliveries);
        for delivery in deliveries.drain(..) {
            delivery.result.map_err(of_kafka)?;
            count -= 1;
        }
        if count == 0 {
            return Ok(());
        }
    }
    Err(Failure::Away("kafka does not accept a record".to_owned()))
}

/// The partitions of the topic, which is made if it is missing.
fn partitions_of(settings: &Settings, topic: &str, config: BTreeMap<String, String>) -> Result<i32, Failure> {
    let admin = headwater_kafka::Admin::new(&settings.kafka).map_err(of_kafka)?;
    if let Some(count) = admin.partition_count(topic).map_err(of_kafka)? {
        return Ok(count);
    }
    let made =
        headwater_kafka::NewTopic { name: topic.to_owned(), partitions: 1, replication_factor: -1, config };
    admin.create_topic(&made).map_err(|error| {
        Failure::Halt(Halt::new(
            HaltCause::Kafka,
            format!("topic {topic} is missing and can't be made: {error}"),
            "create it, or grant CREATE on it",
        ))
    })?;
    Ok(1)
}
