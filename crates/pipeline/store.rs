//! Reading and writing the checkpoint outside the pump: at a start, before there is a stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_kafka::{Admin, Class, Producer, ProducerRecord, read_topic_to_end};

use crate::backoff::Backoff;
use crate::checkpoint::{self, CheckpointFile, Identity, Progress, Stored};
use crate::error::StageError;
use crate::outlet::Store;
use crate::resolver::ensure_checkpoint_topic;
use crate::settings::{Settings, SinkSettings};
use crate::snapshot::progress::{JOB_PART, JobRecord};
use crate::snapshot::requests::{REQUESTS_PART, RequestsRecord};
use crate::status::{Readiness, Status};

/// How long one reading of the checkpoint topic may take before it is tried again.
const READ_MAX: Duration = Duration::from_secs(30);

/// How long storing one checkpoint at a start may take before the start is given up and begun again.
const STORE_MAX: Duration = Duration::from_secs(60);

/// The checkpoint's home.
pub(crate) enum CheckpointStore {
    Topic { kafka: Box<headwater_kafka::Settings>, topic: String, status: Arc<Status> },
    File(CheckpointFile),
}

impl CheckpointStore {
    /// Opens it, creating the topic if need be; waits while Kafka is away.
    pub(crate) async fn open(
        settings: &Settings,
        status: &Arc<Status>,
    ) -> Result<CheckpointStore, StageError> {
        let SinkSettings::Kafka { kafka, .. } = &settings.sink else {
            return Ok(CheckpointStore::File(CheckpointFile::open(&settings.checkpoint.file)?));
        };
        let admin = Arc::new(Admin::new(kafka).map_err(StageError::kafka("connecting to Kafka"))?);
        let topic = settings.checkpoint.topic.clone();
        ensure_checkpoint_topic(admin, &topic, settings.topics.replication_factor, status).await?;
        Ok(CheckpointStore::Topic { kafka: Box::new(kafka.clone()), topic, status: status.clone() })
    }

    /// Everything that is stored for this slot.
    pub(crate) async fn read(&self, identity: &Identity) -> Result<Stored, StageError> {
        let (entries, place) = match self {
            CheckpointStore::File(file) => (file.entries(), "the checkpoint file".to_owned()),
            CheckpointStore::Topic { kafka, topic, status } => {
                (read_topic(kafka, topic, status).await?, format!("topic {topic}"))
            }
        };
        let entries = entries.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        checkpoint::read(entries, identity, &place).map_err(StageError::Halt)
    }

    /// Stores a progress and waits for its acknowledgement.
    pub(crate) async fn store(&mut self, identity: &Identity, progress: Progress) -> Result<(), StageError> {
        let (key, value) = checkpoint::record(identity, progress);
        self.store_value(key, value).await
    }

    async fn store_value(&mut self, key: String, value: Vec<u8>) -> Result<(), StageError> {
        match self {
            CheckpointStore::File(file) => file.store(&key, &value),
            CheckpointStore::Topic { kafka, topic, .. } => {
                let (kafka, topic) = (kafka.clone(), topic.clone());
                tokio::task::spawn_blocking(move || produce(&kafka, &topic, &key, &value))
                    .await
                    .expect("producing does not panic")
            }
        }
    }

    /// Stores that a snapshot is to be made, and waits for its acknowledgement.
    pub(crate) async fn store_job(&mut self, identity: &Identity, job: &JobRecord) -> Result<(), StageError> {
        let key = format!("{}{JOB_PART}", identity.key());
        let value = serde_json::to_vec(job).expect("a record is plain data");
        self.store_value(key, value).await
    }

    /// Stores what is asked of snapshots and what is known, and waits for its acknowledgement.
    pub(crate) async fn store_requests(
        &mut self,
        identity: &Identity,
        requests: &RequestsRecord,
    ) -> Result<(), StageError> {
        self.store_value(format!("{}{REQUESTS_PART}", identity.key()), requests.to_bytes()).await
    }

    /// For the pump.
    pub(crate) fn into_pump(self) -> Store {
        match self {
            CheckpointStore::Topic { topic, .. } => Store::Topic(topic),
            CheckpointStore::File(file) => Store::File(file),
        }
    }
}

/// The newest value of every key; a tombstone removes it.
async fn read_topic(
    kafka: &headwater_kafka::Settings,
    topic: &str,
    status: &Status,
) -> Result<Vec<(String, Vec<u8>)>, StageError> {
    let mut backoff = Backoff::new();
    let records = loop {
        let (kafka, name) = (kafka.clone(), topic.to_owned());
        let read = tokio::task::spawn_blocking(move || read_topic_to_end(&kafka, &name, 0, READ_MAX)).await;
        match read.expect("reading does not panic") {
            Ok(records) => break records,
            Err(error) if error.class() == Class::Retriable => {
                let pause = backoff.next();
                let reason = format!("waiting for Kafka: {}", crate::error::chain(&error));
                if backoff.is_first() {
                    tracing::warn!(retry_in_ms = pause.as_millis() as u64, "{reason}");
                }
                status.set(Readiness::Waiting { reason });
                tokio::time::sleep(pause).await;
            }
            Err(source) => {
                return Err(StageError::Kafka {
                    doing: format!("reading the checkpoint topic {topic}"),
                    source,
                });
            }
        }
    };
    let mut newest: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for record in records {
        // Keys that are not text were not written by us.
        let Some(key) = record.key.and_then(|key| String::from_utf8(key).ok()) else { continue };
        match record.value {
            Some(value) => match newest.get(&key) {
                Some(present) if checkpoint::is_of_earlier_owner(&value, present) => {}
                _ => drop(newest.insert(key, value)),
            },
            None => drop(newest.remove(&key)),
        }
    }
    Ok(newest.into_iter().collect())
}

fn produce(
    kafka: &headwater_kafka::Settings,
    topic: &str,
    key: &str,
    value: &[u8],
) -> Result<(), StageError> {
    let mut producer = Producer::new(kafka).map_err(StageError::kafka("starting the producer"))?;
    let record = ProducerRecord {
        topic,
        partition: 0,
        key: Some(key.as_bytes()),
        value: Some(value),
        headers: &[],
        timestamp_ms: None,
        token: 0,
    };
    let storing = || "storing the checkpoint".to_owned();
    match producer.offer(&record) {
        Ok(()) => {}
        Err(headwater_kafka::OfferError::Full) => unreachable!("an empty queue has room for one record"),
        Err(headwater_kafka::OfferError::Failed(source)) => {
            return Err(StageError::Kafka { doing: storing(), source });
        }
    }
    let deadline = Instant::now() + STORE_MAX;
    let mut deliveries = Vec::new();
    while deliveries.is_empty() {
        producer.poll(Duration::from_millis(100), &mut deliveries);
        if let Some(source) = producer.fatal_error() {
            return Err(StageError::Kafka { doing: storing(), source });
        }
        if Instant::now() > deadline {
            producer.purge_and_drop();
            return Err(StageError::Silent { whom: "Kafka", seconds: STORE_MAX.as_secs() });
        }
    }
    let delivery = deliveries.remove(0);
    delivery.result.map_err(|source| StageError::Kafka { doing: storing(), source })
}
