//! Reading a small topic from its beginning: the checkpoint and the schema history.
//!
//! In: a topic, a partition, a time limit. Out: every record up to the end that the partition had when the
//! reading began. The reader assigns itself, commits nothing and joins no group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::connection::{Connection, connection_error, metadata};
use crate::error::{Error, ErrorKind};
use crate::settings::Settings;

/// One record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its offset.
    pub offset: i64,
    /// Its time, milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its headers in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl TopicRecord {
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> TopicRecord {
        let headers = message.headers().map(|headers| {
            let pair = |header: Header<'_, &[u8]>| {
                (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
            };
            headers.iter().map(pair).collect()
        });
        TopicRecord {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            headers: headers.unwrap_or_default(),
        }
    }
}

/// Reads one partition from its first record to the end it has now, aborted transactions left out.
///
/// # Errors
/// Brokers out of reach, a missing right or topic, or the time limit.
pub fn read_topic_to_end(
    settings: &Settings,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> Result<Vec<TopicRecord>, Error> {
    let mut records = Vec::new();
    read_partition(settings, topic, partition, 0, timeout, |record| {
        records.push(record);
        true
    })?;
    Ok(records)
}

/// Shows the records of one partition, from this offset or the first one behind it to the end it has now, until `take`
/// has enough.
///
/// # Errors
/// As [`read_topic_to_end`].
pub fn read_partition(
    settings: &Settings,
    topic: &str,
    partition: i32,
    from: i64,
    timeout: Duration,
    take: impl FnMut(TopicRecord) -> bool,
) -> Result<(), Error> {
    let doing = format!("reading {topic} partition {partition}");
    if let Some(problem) = settings.problems().into_iter().next() {
        return Err(Error::configuration(doing, problem));
    }
    let reader = Reader::open(settings, topic, partition, Instant::now() + timeout, doing)?;
    reader.read(from, take)
}

struct Reader<'a> {
    consumer: BaseConsumer<Connection>,
    topic: &'a str,
    partition: i32,
    deadline: Instant,
    doing: String,
}

impl<'a> Reader<'a> {
    fn open(
        settings: &Settings,
        topic: &'a str,
        partition: i32,
        deadline: Instant,
        doing: String,
    ) -> Result<Reader<'a>, Error> {
        let consumer = settings
            .consumer_config()
            .create_with_context(Connection::new(settings)?)
            .map_err(|e| Error::from_rdkafka(&e, doing.clone()))?;
        Ok(Reader { consumer, topic, partition, deadline, doing })
    }

    fn read(&self, from: i64, mut take: impl FnMut(TopicRecord) -> bool) -> Result<(), Error> {
        self.must_exist()?;
        let (low, high) = self
            .consumer
            .fetch_watermarks(self.topic, self.partition, self.remaining())
            .map_err(|e| self.failed(&e))?;
        let from = from.max(low);
        if from >= high {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(self.topic, self.partition, Offset::Offset(from))
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(|e| self.failed(&e))?;
        loop {
            match self.consumer.poll(self.remaining().min(Duration::from_millis(100))) {
                Some(Ok(message)) => {
                    if !take(TopicRecord::of(&message)) || message.offset() + 1 >= high {
                        return Ok(());
                    }
                }
                // The last offsets may hold control records or have been compacted away.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if !self.goes_on(&error) => return Err(self.failed(&error)),
                Some(Err(_)) | None => {}
            }
            if self.remaining().is_zero() {
                return Err(self.failed(&KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
        }
    }

    /// Asking for offsets calls a topic that may not be seen unknown; metadata tells the two apart.
    fn must_exist(&self) -> Result<(), Error> {
        let metadata = metadata(&self.consumer, Some(self.topic), self.remaining(), &self.doing)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.map(|topic| topic.error().map(Code::from)) {
            Some(None) => Ok(()),
            Some(Some(code)) => Err(Error::from_code(code, self.doing.clone(), "")),
            None => Err(Error::from_code(Code::UnknownTopicOrPartition, self.doing.clone(), "")),
        }
    }

    /// Connections that break are mended by librdkafka; group errors don't matter to a reader without a group.
    fn goes_on(&self, error: &KafkaError) -> bool {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let error = Error::from_rdkafka(error, "");
        code == Code::GroupAuthorizationFailed
            || matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Unavailable)
    }

    fn failed(&self, error: &KafkaError) -> Error {
        Error::from_rdkafka(error, self.doing.clone()).because(connection_error(&self.consumer))
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
