//! A member of a consumer group whose offsets are kept elsewhere.
//!
//! In: topics by name or pattern. Out: records in their partition's order, and every change of what is assigned as an
//! [`AssignmentChange`] that the owner has to answer. Invariants: nothing is read of a partition before the owner said
//! from where ([`GroupConsumer::assign`]), and offsets are committed to Kafka only when it says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use crate::connection::ClientLog;
use crate::error::{Class, Error};
use crate::settings::Settings;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// Counted from 0.
    pub partition: i32,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOffset {
    /// The oldest record that is there.
    Beginning,
    /// Behind the newest record.
    End,
    /// This record.
    Offset(i64),
}

/// What the group decided. The whole of it each time: partitions are assigned and revoked together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignmentChange {
    /// These are this member's from now on; it has to say from where.
    Assigned(Vec<TopicPartition>),
    /// They are not any more; it has to finish with them.
    Revoked(Vec<TopicPartition>),
}

/// A record as it was fetched.
pub struct Fetched<'a>(BorrowedMessage<'a>);

impl Fetched<'_> {
    /// The topic.
    pub fn topic(&self) -> &str {
        self.0.topic()
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// Milliseconds since 1970, if the record has a time.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.0.timestamp().to_millis()
    }

    /// The key's bytes.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// The value's bytes; none in a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// The value of the last header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let headers = self.0.headers()?;
        (0..headers.count()).rev().map(|index| headers.get(index)).find(|header| header.key == name)?.value
    }

    /// All headers in their order.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        let headers = self.0.headers().into_iter().flat_map(Headers::iter);
        headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    }
}

/// The consumer. Owned by one thread, which has to poll within `max.poll.interval.ms`.
pub struct GroupConsumer {
    client: BaseConsumer<Membership>,
}

impl GroupConsumer {
    /// Makes a consumer and joins the group in the background. A topic that begins with `^` is a pattern.
    ///
    /// # Errors
    /// Settings or patterns that librdkafka refuses.
    pub fn join(
        settings: &Settings,
        group: &str,
        instance: Option<&str>,
        topics: &[String],
    ) -> Result<GroupConsumer, Error> {
        GroupConsumer::join_ignoring(settings, group, instance, topics, &[])
    }

    /// The same; topics that match one of `ignored`, regular expressions, are not there for it.
    ///
    /// # Errors
    /// Settings or patterns that librdkafka refuses.
    pub fn join_ignoring(
        settings: &Settings,
        group: &str,
        instance: Option<&str>,
        topics: &[String],
        ignored: &[String],
    ) -> Result<GroupConsumer, Error> {
        let doing = "joining the consumer group";
        if let Some(problem) = settings.problems().into_iter().next() {
            return Err(Error::configuration(doing, problem));
        }
        let mut config = settings.group_config();
        config.set("group.id", group);
        if let Some(instance) = instance {
            config.set("group.instance.id", instance);
        }
        if !ignored.is_empty() {
            config.set("topic.blacklist", ignored.join(","));
        }
        let client: BaseConsumer<Membership> = config
            .create_with_context(Membership::default())
            .map_err(|error| Error::from_rdkafka(&error, doing))?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        client.subscribe(&names).map_err(|error| Error::from_rdkafka(&error, doing))?;
        Ok(GroupConsumer { client })
    }

    /// The next record, or none within the time. Ask for [`GroupConsumer::take_change`] after each.
    ///
    /// # Errors
    /// What waiting does not mend: rights, credentials, an offset that is not there. What passes is waited for.
    pub fn poll(&self, wait: Duration) -> Result<Option<Fetched<'_>>, Error> {
        match self.client.poll(wait) {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(Fetched(message))),
            Some(Err(error)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                let error = Error::from_rdkafka(&error, "reading")
                    .because(self.client.context().log.take_last_error());
                // A topic of the list that does not exist yet is looked for again; a member that was put out joins again.
                let passes = matches!(
                    code,
                    Code::UnknownTopicOrPartition
                        | Code::UnknownTopic
                        | Code::UnknownPartition
                        | Code::PollExceeded
                );
                // Another process took this member's name: librdkafka never recovers from that.
                let is_put_out = code == Code::FencedInstanceId;
                if error.class() == Class::Fatal && !passes || is_put_out {
                    return Err(error);
                }
                tracing::debug!(%error, "reading from kafka goes on");
                Ok(None)
            }
        }
    }

    /// What the group decided since the last call, oldest first.
    pub fn take_change(&self) -> Option<AssignmentChange> {
        self.client.context().changes().pop_front()
    }

    /// Begins reading these partitions, and no others.
    ///
    /// # Errors
    /// librdkafka's refusal.
    pub fn assign(&self, partitions: &[(TopicPartition, StartOffset)]) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        for (place, start) in partitions {
            let offset = match start {
                StartOffset::Beginning => Offset::Beginning,
                StartOffset::End => Offset::End,
                StartOffset::Offset(offset) => Offset::Offset(*offset),
            };
            list.add_partition_offset(&place.topic, place.partition, offset)
                .map_err(|error| assigning(&error))?;
        }
        self.client.assign(&list).map_err(|error| assigning(&error))
    }

    /// Stops reading, which also answers a revocation.
    ///
    /// # Errors
    /// librdkafka's refusal.
    pub fn unassign(&self) -> Result<(), Error> {
        self.client.unassign().map_err(|error| assigning(&error))
    }

    /// The offset behind a partition's newest record.
    ///
    /// # Errors
    /// Brokers out of reach.
    pub fn end(&self, place: &TopicPartition, limit: Duration) -> Result<i64, Error> {
        let marks = self.client.fetch_watermarks(&place.topic, place.partition, limit);
        marks
            .map(|(_, high)| high)
            .map_err(|error| Error::from_rdkafka(&error, "asking for a partition's end"))
    }

    /// The first offsets at or after a time; none where there is no such record.
    ///
    /// # Errors
    /// Brokers out of reach.
    pub fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        timestamp_ms: i64,
        limit: Duration,
    ) -> Result<BTreeMap<TopicPartition, Option<i64>>, Error> {
        let failed = |error: &KafkaError| Error::from_rdkafka(error, "asking for the offsets of a time");
        let mut list = TopicPartitionList::new();
        for place in partitions {
            list.add_partition_offset(&place.topic, place.partition, Offset::Offset(timestamp_ms))
                .map_err(|error| failed(&error))?;
        }
        let found = self.client.offsets_for_times(list, limit).map_err(|error| failed(&error))?;
        let found = found.elements().into_iter().map(|element| {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            (TopicPartition { topic: element.topic().to_owned(), partition: element.partition() }, offset)
        });
        Ok(found.collect())
    }

    /// Tells Kafka how far reading has come, for those who look at the group there. Failures are not reported:
    /// whoever keeps the offsets does not depend on it.
    pub fn commit(&self, offsets: &BTreeMap<TopicPartition, i64>) {
        let mut list = TopicPartitionList::new();
        for (place, next) in offsets {
            if list.add_partition_offset(&place.topic, place.partition, Offset::Offset(*next)).is_err() {
                return;
            }
        }
        if let Err(error) = self.client.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "offsets were not committed to kafka");
        }
    }

    /// The ends of the partitions, as the latest fetches told.
    pub fn ends(&self) -> BTreeMap<TopicPartition, i64> {
        self.client.context().ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        // Leaving the group revokes what is assigned, and nobody is there any more to answer. Nor is for a change that was
        // told and not answered yet, for which librdkafka would wait before it leaves, for ever.
        self.client.context().leaving.store(true, Ordering::Relaxed);
        if let Err(error) = self.client.unassign() {
            tracing::debug!(%error, "partitions were not given back");
        }
    }
}

fn assigning(error: &KafkaError) -> Error {
    Error::from_rdkafka(error, "taking partitions")
}

/// The context: keeps what librdkafka tells beside records.
struct Membership {
    log: ClientLog,
    changes: Mutex<VecDeque<AssignmentChange>>,
    ends: Mutex<BTreeMap<TopicPartition, i64>>,
    leaving: AtomicBool,
}

impl Default for Membership {
    fn default() -> Membership {
        Membership {
            log: ClientLog::new(),
            changes: Mutex::default(),
            ends: Mutex::default(),
            leaving: AtomicBool::new(false),
        }
    }
}

impl Membership {
    fn changes(&self) -> MutexGuard<'_, VecDeque<AssignmentChange>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Kafka's offsets are for those who look at the group; a member that was put out can't write them.
        let level = if facility == "COMMITFAIL" { RDKafkaLogLevel::Debug } else { level };
        self.log.line(level, facility, text);
    }

    fn stats(&self, statistics: Statistics) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (topic, of_topic) in statistics.topics {
            for (partition, of_partition) in of_topic.partitions {
                if partition >= 0 && of_partition.hi_offset >= 0 {
                    ends.insert(TopicPartition { topic: topic.clone(), partition }, of_partition.hi_offset);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(
        &self,
        client: &BaseConsumer<Membership>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if self.leaving.load(Ordering::Relaxed) {
            // librdkafka waits for the answer before it leaves.
            if let Err(error) = client.unassign() {
                tracing::debug!(%error, "partitions were not given back");
            }
            return;
        }
        let places = list.elements().into_iter().map(|element| TopicPartition {
            topic: element.topic().to_owned(),
            partition: element.partition(),
        });
        let places = places.collect();
        self.changes().push_back(match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => AssignmentChange::Assigned(places),
            // An error of the group takes everything away.
            _ => AssignmentChange::Revoked(places),
        });
    }
}
