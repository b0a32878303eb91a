//! A stock consumer that reads everything: read_uncommitted, all partitions, from offset 0, offsets, headers and raw
//! bytes kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::sampler::Ends;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A frozen broker must not hold up sampling for long.
const WATERMARK_TIMEOUT: Duration = Duration::from_secs(2);

/// A record as it is in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The record's timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Raw {
    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "e2e")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_uncommitted")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "50")
        .set("allow.auto.create.topics", "false")
        .set("message.max.bytes", "100000000")
        .set("receive.message.max.bytes", "200000000")
        .create()
        .expect("the consumer's settings are constants")
}

/// Creates a topic that the test needs to have a shape of its own.
pub async fn create_topic(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let topics = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
    for outcome in admin.create_topics(&topics, &AdminOptions::new()).await? {
        if let Err((name, code)) = outcome {
            bail!("create {name}: {code}");
        }
    }
    Ok(())
}

/// Writes records as another program would.
pub fn produce(bootstrap: &str, topic: &str, records: &[(&str, &str)]) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    for (key, value) in records {
        let record = BaseRecord::to(topic).key(*key).payload(*value);
        producer.send(record).map_err(|(error, _)| error).context("produce")?;
    }
    producer.flush(TIMEOUT).context("produce")
}

/// Writes one record with headers, as another program would.
pub fn produce_with(
    bootstrap: &str,
    topic: &str,
    (key, value): (&str, &str),
    headers: &[(&str, &str)],
) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let mut native = OwnedHeaders::new();
    for (key, value) in headers {
        native = native.insert(Header { key, value: Some(*value) });
    }
    let record = BaseRecord::to(topic).key(key).payload(value).headers(native);
    producer.send(record).map_err(|(error, _)| error).context("produce")?;
    producer.flush(TIMEOUT).context("produce")
}

/// Topic, key and value.
pub type Bare = (String, Option<Vec<u8>>, Option<Vec<u8>>);

/// Writes records of bytes into topics of one partition, which are made.
pub async fn produce_raw(bootstrap: &str, records: &[Bare]) -> Result<()> {
    let topics: BTreeSet<_> = records.iter().map(|(topic, ..)| topic.as_str()).collect();
    for topic in topics {
        create_topic(bootstrap, topic, 1).await?;
    }
    append_raw(bootstrap, records)
}

/// Writes records of bytes into the first partition of topics that are there.
pub fn append_raw(bootstrap: &str, records: &[Bare]) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    for (topic, key, value) in records {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0);
        (record.key, record.payload) = (key.as_deref(), value.as_deref());
        producer.send(record).map_err(|(error, _)| error).context("produce")?;
    }
    producer.flush(TIMEOUT).context("produce")
}

/// Partition counts of the topics that begin with `prefix`.
fn partitions(consumer: &BaseConsumer, prefix: &str, timeout: Duration) -> Option<BTreeMap<String, i32>> {
    let metadata = consumer.fetch_metadata(None, timeout).ok()?;
    let topics = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
    Some(topics.map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32)).collect())
}

/// The first offset and the end. A topic that was just made has no leader for a moment.
fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64)> {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, UnknownTopicOrPartition};
    let began = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition, TIMEOUT) {
            Err(error)
                if began.elapsed() < TIMEOUT
                    && matches!(
                        error.rdkafka_error_code(),
                        Some(LeaderNotAvailable | NotLeaderForPartition | UnknownTopicOrPartition)
                    ) =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            marks => return marks.context("fetch watermarks"),
        }
    }
}

/// Everything in the topics that begin with `prefix`, up to their ends of now; by topic, partition and offset.
pub fn read_all(bootstrap: &str, prefix: &str) -> Result<Vec<Raw>> {
    let consumer = consumer(bootstrap);
    let topics = partitions(&consumer, prefix, TIMEOUT).context("fetch metadata")?;
    let mut open: BTreeSet<(String, i32)> = BTreeSet::new();
    let mut ends = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for (topic, count) in topics {
        for partition in 0..count {
            let (low, high) = watermarks(&consumer, &topic, partition)?;
            ensure!(low == 0, "{topic} no longer begins at 0");
            if high > 0 {
                assignment.add_partition_offset(&topic, partition, Offset::Beginning)?;
                ends.insert((topic.clone(), partition), high);
                open.insert((topic.clone(), partition));
            }
        }
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    let mut moved = Instant::now();
    while !open.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            ensure!(moved.elapsed() < Duration::from_secs(30), "records of {open:?} can't be read");
            continue;
        };
        let message = message?;
        moved = Instant::now();
        let home = (message.topic().to_owned(), message.partition());
        let end = ends[&home];
        if message.offset() < end {
            records.push(raw(&message));
        }
        if message.offset() + 1 >= end {
            open.remove(&home);
        }
    }
    records.sort_by(|l, r| (&l.topic, l.partition, l.offset).cmp(&(&r.topic, r.partition, r.offset)));
    Ok(records)
}

fn raw(message: &rdkafka::message::BorrowedMessage<'_>) -> Raw {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect()
    });
    Raw {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// Reads the ends of the partitions of a test's topics again and again.
pub struct Watermarks {
    consumer: BaseConsumer,
    prefix: String,
}

impl Watermarks {
    /// For the topics that begin with `prefix`.
    pub fn new(bootstrap: &str, prefix: &str) -> Watermarks {
        Watermarks { consumer: consumer(bootstrap), prefix: prefix.to_owned() }
    }

    /// The ends of now; none when the broker does not answer.
    pub fn read(&mut self) -> Option<Ends> {
        // New topics matter at once (their first record may just have been confirmed), so metadata comes first.
        let mut list = TopicPartitionList::new();
        for (topic, count) in partitions(&self.consumer, &self.prefix, WATERMARK_TIMEOUT)? {
            for partition in 0..count {
                list.add_partition_offset(&topic, partition, Offset::End).ok()?;
            }
        }
        if list.count() == 0 {
            return Some(Ends::new());
        }
        // One request for all: "the offset at the time END" is the next offset.
        let ends = self.consumer.offsets_for_times(list, WATERMARK_TIMEOUT).ok()?;
        let ends = ends.elements().into_iter().map(|element| {
            element.error().ok()?;
            let offset = element.offset().to_raw()?;
            Some(((element.topic().to_owned(), element.partition()), offset))
        });
        ends.collect()
    }
}
