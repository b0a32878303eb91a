//! Following one partition of a topic of commands, from an offset on.
//!
//! In: a topic, a partition, where to begin. Out: its records one by one, as they come. The follower assigns itself,
//! commits nothing and joins no group: where it has come to is kept by whoever carries the records out.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::connection::{Connection, connection_error};
use crate::consumer::TopicRecord;
use crate::error::{Error, ErrorKind};
use crate::settings::Settings;

/// The offsets that a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of its first record.
    pub low: i64,
    /// Of the record that comes next.
    pub high: i64,
}

/// See the module's documentation. Blocks, with time limits.
pub struct TopicFollower {
    consumer: BaseConsumer<Connection>,
    topic: String,
    partition: i32,
    doing: String,
}

impl TopicFollower {
    /// A follower that reads nothing yet.
    ///
    /// # Errors
    /// Settings that librdkafka refuses.
    pub fn new(settings: &Settings, topic: &str, partition: i32) -> Result<TopicFollower, Error> {
        let doing = format!("reading {topic} partition {partition}");
        let consumer = settings
            .consumer_config()
            .create_with_context(Connection::new(settings)?)
            .map_err(|e| Error::from_rdkafka(&e, doing.clone()))?;
        Ok(TopicFollower { consumer, topic: topic.to_owned(), partition, doing })
    }

    /// The partition's offsets now.
    ///
    /// # Errors
    /// Brokers out of reach, a missing right or topic, or the time limit.
    pub fn bounds(&self, timeout: Duration) -> Result<Bounds, Error> {
        let (low, high) = self
            .consumer
            .fetch_watermarks(&self.topic, self.partition, timeout)
            .map_err(|e| self.failed(&e))?;
        Ok(Bounds { low, high })
    }

    /// Reads from this offset on.
    ///
    /// # Errors
    /// A partition that can't be assigned.
    pub fn begin_at(&self, offset: i64) -> Result<(), Error> {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.topic, self.partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(|e| self.failed(&e))
    }

    /// The next record, or `None` when none came within `timeout`. Connections that break are mended by librdkafka.
    ///
    /// # Errors
    /// What repeating does not mend: an offset that is gone, a missing right or topic.
    pub fn next(&self, timeout: Duration) -> Result<Option<TopicRecord>, Error> {
        match self.consumer.poll(timeout) {
            Some(Ok(message)) => Ok(Some(TopicRecord::of(&message))),
            Some(Err(error)) if !self.goes_on(&error) => Err(self.failed(&error)),
            Some(Err(_)) | None => Ok(None),
        }
    }

    fn goes_on(&self, error: &KafkaError) -> bool {
        if let KafkaError::PartitionEOF(_) = error {
            return true;
        }
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let error = Error::from_rdkafka(error, "");
        code == Code::GroupAuthorizationFailed
            || matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Unavailable)
    }

    fn failed(&self, error: &KafkaError) -> Error {
        Error::from_rdkafka(error, self.doing.clone()).because(connection_error(&self.consumer))
    }
}
