//! What the director does to Kafka: records that no relay would write, and groups that are sent back to the beginning.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Stage, until};

const LIMIT: Duration = Duration::from_secs(30);

/// A record as it is written by hand.
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub payload: Option<&'a [u8]>,
}

/// A consumer group and what it reads.
#[derive(Clone)]
pub struct Group {
    pub name: String,
    pub topics: Vec<String>,
}

impl Stage {
    /// Writes records one after the other.
    pub async fn produce(&self, records: &[Record<'_>]) -> Result<()> {
        let producer: FutureProducer =
            ClientConfig::new().set("bootstrap.servers", &self.servers.bootstrap).create()?;
        for record in records {
            let mut headers = OwnedHeaders::new();
            for &(key, value) in record.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let mut sent = FutureRecord::to(record.topic).key(record.key).headers(headers);
            sent.partition = record.partition;
            sent.payload = record.payload;
            producer.send(sent, LIMIT).await.map_err(|(error, _)| error).context("cannot write a record")?;
        }
        Ok(())
    }

    /// Has a group read everything again. Its members have to be stopped; those with a name of their own are members
    /// until their session has timed out.
    pub async fn rewind(&self, group: &Group) -> Result<()> {
        until(&format!("group {} to have no members", group.name), async || {
            let done = self.ask(group, |consumer, mut partitions| {
                partitions.set_all_offsets(Offset::Offset(0))?;
                consumer.commit(&partitions, CommitMode::Sync)
            });
            Ok(done.await?.is_ok())
        })
        .await
    }

    /// Waits until a group has read everything there is, and said so.
    pub async fn until_read(&self, group: &Group) -> Result<()> {
        until(&format!("group {} to have read everything", group.name), async || {
            let behind = self.ask(group, |consumer, partitions| {
                let mut behind = 0;
                for partition in consumer.committed_offsets(partitions, LIMIT)?.elements() {
                    let (first, end) =
                        consumer.fetch_watermarks(partition.topic(), partition.partition(), LIMIT)?;
                    behind += end - partition.offset().to_raw().map_or(first, |offset| offset.max(first));
                }
                Ok(behind)
            });
            // an error may pass: the group's coordinator is another one now
            Ok(behind.await?.is_ok_and(|behind| behind == 0))
        })
        .await
    }

    /// Runs what blocks on a thread of its own, with all partitions of the group's topics.
    async fn ask<T: Send + 'static>(
        &self,
        group: &Group,
        what: impl FnOnce(&BaseConsumer, TopicPartitionList) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<Result<T, KafkaError>> {
        let (bootstrap, group) = (self.servers.bootstrap.clone(), group.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", bootstrap)
                .set("group.id", group.name)
                .set("enable.auto.commit", "false")
                .create()?;
            let mut partitions = TopicPartitionList::new();
            for topic in &group.topics {
                let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
                for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                    partitions.add_partition(topic, partition.id());
                }
            }
            what(&consumer, partitions)
        });
        Ok(asked.await?)
    }
}
