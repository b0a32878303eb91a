//! The only waits on the path of a row: catalog, topics and registry, asked when a new version of a table appears.
//!
//! A task of its own, because the pump is a thread that must go on serving delivery reports, and the source must go on
//! answering keepalives, for as long as any of the three is away. One request at a time: the pump can't go on without it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use headwater_avro::registry::{Registry, RegistryError};
use headwater_avro::{OnIncompatible, SchemaId, Subject, TableDescription};
use headwater_kafka::{Admin, Class, NewTopic};
use headwater_pg::lock_wait::{LockWait, telling_locks};
use headwater_pg::{Client, ConnectSettings};
use headwater_pgoutput::TableSchema;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::backoff::Backoff;
use crate::dead_letter::LetterTopic;
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};
use crate::metrics::Metrics;
use crate::present::describe_now;
use crate::settings::TopicSettings;
use crate::status::{Readiness, Status};

/// Time between two looks at the partitions of the topics that were asked for.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);

/// What a letter has beside the record that it is of.
const LETTER_ROOM_BYTES: u64 = 64 << 10;

/// A question of the pump.
#[derive(Debug)]
pub(crate) enum Question {
    /// What a Relation message means by today's catalog.
    Describe { table: TableSchema, answer: oneshot::Sender<Result<TableDescription, StageError>> },
    /// That a topic exists, and how many partitions it has.
    Topic { topic: String, answer: oneshot::Sender<Result<i32, StageError>> },
    /// That the topic of dead letters exists, and what it takes.
    LetterTopic { topic: String, answer: oneshot::Sender<Result<LetterTopic, StageError>> },
    /// The largest record that a topic takes, where that can be asked.
    Limit { topic: String, answer: oneshot::Sender<Result<Option<u64>, StageError>> },
    /// The id of a schema under a subject.
    Register {
        table: String,
        subject: String,
        schema_json: String,
        on_incompatible: OnIncompatible,
        answer: oneshot::Sender<Result<SchemaId, StageError>>,
    },
    /// The schema that a subject has in this version, or in its latest; none where nothing is written to Kafka.
    WriterSchema {
        table: String,
        subject: String,
        version: Option<u32>,
        answer: oneshot::Sender<Result<Option<(SchemaId, String)>, StageError>>,
    },
}

/// Where topics and schemas live; the local sinks have neither.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) admin: Arc<Admin>,
    /// None where nothing is written as Avro.
    pub(crate) registry: Option<Arc<Registry>>,
    pub(crate) topics: TopicSettings,
}

/// The partitions of a topic: a number that grows moves keys, so a session goes on with the one that it began with.
struct Partitions {
    used: i32,
    /// What was last warned of.
    told: i32,
}

/// Answers the pump's questions, one at a time.
pub(crate) struct Resolver {
    pub(crate) client: Client,
    /// To look why that one stands still.
    pub(crate) postgres: ConnectSettings,
    pub(crate) destination: Option<Destination>,
    pub(crate) max_row_bytes: u64,
    pub(crate) status: Arc<Status>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Resolver {
    /// Runs until the pump is gone.
    pub(crate) async fn run(self, mut questions: mpsc::Receiver<Question>) {
        let mut partitions: HashMap<String, Partitions> = HashMap::new();
        let mut next_look = Instant::now() + PARTITIONS_INTERVAL;
        loop {
            // A receiver that is gone is a pump that has stopped: its answer is wanted by nobody.
            match timeout_at(next_look, questions.recv()).await {
                Ok(None) => return,
                Ok(Some(Question::Describe { table, answer })) => {
                    drop(answer.send(self.describe(&table).await));
                }
                Ok(Some(Question::Topic { topic, answer })) => {
                    let found = match partitions.get(&topic) {
                        Some(Partitions { used, .. }) => Ok(*used),
                        None => self.topic(&topic).await,
                    };
                    if let Ok(used) = found {
                        partitions.entry(topic).or_insert(Partitions { used, told: used });
                    }
                    drop(answer.send(found));
                }
                Ok(Some(Question::LetterTopic { topic, answer })) => {
                    drop(answer.send(self.letter_topic(&topic).await));
                }
                Ok(Some(Question::Limit { topic, answer })) => {
                    drop(answer.send(Ok(self.limit(&topic).await)));
                }
                Ok(Some(Question::Register { table, subject, schema_json, on_incompatible, answer })) => {
                    let registered = self.register(&table, subject, &schema_json, on_incompatible).await;
                    drop(answer.send(registered));
                }
                Ok(Some(Question::WriterSchema { table, subject, version, answer })) => {
                    drop(answer.send(self.writer_schema(&table, subject, version).await));
                }
                Err(_) => {
                    self.look_at_partitions(&mut partitions).await;
                    next_look = Instant::now() + PARTITIONS_INTERVAL;
                }
            }
        }
    }

    /// Makes the topic of dead letters, if it is missing and may be made.
    async fn letter_topic(&self, name: &str) -> Result<LetterTopic, StageError> {
        let Some(destination) = &self.destination else {
            return Ok(LetterTopic { partitions: 1, bytes_max: None });
        };
        let topics = &destination.topics;
        let new = NewTopic {
            name: name.to_owned(),
            partitions: topics.partitions,
            replication_factor: topics.replication_factor,
            config: headwater_dead_letter::topic_config(self.max_row_bytes + LETTER_ROOM_BYTES),
        };
        let partitions = ensure(destination.admin.clone(), new, topics.create, &self.status).await?;
        Ok(LetterTopic { partitions, bytes_max: self.limit(name).await })
    }

    async fn limit(&self, topic: &str) -> Option<u64> {
        let (admin, name) = (self.destination.as_ref()?.admin.clone(), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || admin.topic(&name));
        asked.await.expect("the admin call does not panic").ok()??.max_message_bytes
    }

    /// Warns of topics that have got more partitions.
    async fn look_at_partitions(&self, known: &mut HashMap<String, Partitions>) {
        let Some(destination) = &self.destination else { return };
        for (topic, Partitions { told, .. }) in known {
            let (admin, name) = (destination.admin.clone(), topic.clone());
            let asked = tokio::task::spawn_blocking(move || admin.partition_count(&name));
            // An answer that doesn't come is told by those who need Kafka for more than this.
            let Ok(found) = asked.await.expect("the admin call does not panic") else { return };
            if let Some(now) = found.filter(|now| now != told) {
                tracing::warn!(
                    topic,
                    before = *told,
                    now,
                    "partition_count_changed: keys stay where they are until the next start, which moves them to other partitions"
                );
                *told = now;
            }
        }
    }

    async fn describe(&self, table: &TableSchema) -> Result<TableDescription, StageError> {
        let reading = "reading the catalog for a table's description";
        let tell = |wait: Option<&LockWait>| match wait {
            Some(wait) => {
                let reason = format!("{reading} waits for {wait}");
                tracing::warn!("the stream is held up: {reason}");
                self.status.set(Readiness::Waiting { reason });
            }
            None => self.status.resume(),
        };
        let described = describe_now(&self.client, table);
        let described = telling_locks(&self.postgres, &[self.client.backend_pid()], tell, described).await;
        described.map_err(StageError::postgres(reading))
    }

    async fn topic(&self, name: &str) -> Result<i32, StageError> {
        let Some(destination) = &self.destination else { return Ok(1) };
        let partitions = ensure_topic(destination, name, &self.status).await?;
        self.status.resume();
        Ok(partitions)
    }

    async fn register(
        &self,
        table: &str,
        subject: String,
        schema_json: &str,
        mut on_incompatible: OnIncompatible,
    ) -> Result<SchemaId, StageError> {
        // What is thrown away is read by nobody.
        let Some(destination) = &self.destination else { return Ok(SchemaId(1)) };
        let Some(registry) = &destination.registry else {
            return Err(no_registry(&subject));
        };
        let subject = Subject(subject);
        let mut backoff = Backoff::new();
        loop {
            let mut outcome = registry.schema_id(&subject, schema_json).await;
            if let (Err(RegistryError::Incompatible { reason, .. }), OnIncompatible::SetCompatibilityNone) =
                (&outcome, on_incompatible)
            {
                match allow_any(registry, table, &subject, reason).await {
                    Ok(()) => {
                        // A registry that refuses even now has a reason of another kind.
                        on_incompatible = OnIncompatible::Halt;
                        continue;
                    }
                    Err(error) => outcome = Err(error),
                }
            }
            match outcome {
                Ok(id) => {
                    self.metrics.registry_calls.with_label_values(&["ok"]).inc();
                    self.resume(&backoff);
                    return Ok(id);
                }
                Err(error) if error.is_retriable() => {
                    self.metrics.registry_calls.with_label_values(&["unavailable"]).inc();
                    self.metrics.errors.with_label_values(&["registry"]).inc();
                    self.wait_out(&mut backoff, "the schema registry", &error).await;
                }
                Err(source) => {
                    self.metrics.registry_calls.with_label_values(&["refused"]).inc();
                    return Err(registry_refusal(table, subject.0, source));
                }
            }
        }
    }

    async fn writer_schema(
        &self,
        table: &str,
        subject: String,
        version: Option<u32>,
    ) -> Result<Option<(SchemaId, String)>, StageError> {
        let Some(destination) = &self.destination else { return Ok(None) };
        let Some(registry) = &destination.registry else { return Err(no_registry(&subject)) };
        let subject = Subject(subject);
        let mut backoff = Backoff::new();
        loop {
            let found = match version {
                Some(version) => registry.version(&subject, version).await,
                None => registry.latest(&subject).await,
            };
            match found {
                Ok(Some(found)) => {
                    self.metrics.registry_calls.with_label_values(&["ok"]).inc();
                    self.resume(&backoff);
                    return Ok(Some((SchemaId(found.id), found.schema)));
                }
                Ok(None) => return Err(no_schema(table, &subject.0, version)),
                Err(error) if error.is_retriable() => {
                    self.metrics.registry_calls.with_label_values(&["unavailable"]).inc();
                    self.metrics.errors.with_label_values(&["registry"]).inc();
                    self.wait_out(&mut backoff, "the schema registry", &error).await;
                }
                Err(source) => {
                    self.metrics.registry_calls.with_label_values(&["refused"]).inc();
                    return Err(registry_refusal(table, subject.0, source));
                }
            }
        }
    }

    async fn wait_out(&self, backoff: &mut Backoff, whom: &str, error: &(dyn std::error::Error + Sync)) {
        let pause = backoff.next();
        let reason = format!("waiting for {whom}: {}", crate::error::chain(error));
        if backoff.is_first() {
            tracing::warn!(retry_in_ms = pause.as_millis() as u64, "{reason}");
        } else {
            tracing::debug!(retry_in_ms = pause.as_millis() as u64, "{reason}");
        }
        self.status.set(Readiness::Waiting { reason });
        tokio::time::sleep(pause).await;
    }

    fn resume(&self, backoff: &Backoff) {
        if backoff.used() {
            tracing::info!("the schema registry answers again");
            self.status.resume();
        }
    }
}

/// `on_incompatible = "set_compatibility_none"`: readers of older records may fail on what comes, so it is said.
async fn allow_any(
    registry: &Registry,
    table: &str,
    subject: &Subject,
    reason: &str,
) -> Result<(), RegistryError> {
    let before = registry.compatibility(Some(subject)).await?;
    registry.allow_any(subject).await?;
    tracing::warn!(
        table,
        %subject,
        before,
        reason,
        "compatibility_set_to_none: the registry refused a table's new schema, and on_incompatible lets it pass"
    );
    Ok(())
}

fn no_registry(subject: &str) -> StageError {
    StageError::Halt(Halt::new(
        ExitCode::RegistryRefused,
        format!("{subject} is to be written as Avro, and no schema registry is configured"),
        "set schema_registry.url, or another encoding (for an outbox: payload = \"raw\")",
    ))
}

fn no_schema(table: &str, subject: &str, version: Option<u32>) -> StageError {
    let version = version.map_or_else(String::new, |version| format!(" in version {version}"));
    StageError::Halt(Halt::new(
        ExitCode::RegistryRefused,
        format!(
            "the registry has no schema {subject}{version}, in which the payloads of {table} are to be written"
        ),
        "register the event's schema under this subject before the first event of its kind, or choose another payload",
    ))
}

fn registry_refusal(table: &str, subject: String, source: RegistryError) -> StageError {
    StageError::Registry { table: table.to_owned(), subject, source }
}

/// Makes sure that a topic exists; waits while the brokers can't be reached.
pub(crate) async fn ensure_topic(
    destination: &Destination,
    name: &str,
    status: &Status,
) -> Result<i32, StageError> {
    let topics = &destination.topics;
    let new = NewTopic {
        name: name.to_owned(),
        partitions: topics.partitions,
        replication_factor: topics.replication_factor,
        config: topics.config.clone(),
    };
    ensure(destination.admin.clone(), new, topics.create, status).await
}

/// The compacted topic with one partition that holds the checkpoint.
pub(crate) async fn ensure_checkpoint_topic(
    admin: Arc<Admin>,
    name: &str,
    replication_factor: i32,
    status: &Status,
) -> Result<(), StageError> {
    let config = [
        ("cleanup.policy", "compact"),
        // Small segments, so that compaction comes to them: a reader at start reads what is not compacted.
        ("segment.bytes", "16777216"),
        ("min.cleanable.dirty.ratio", "0.1"),
    ];
    let config: BTreeMap<String, String> = config.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let new = NewTopic { name: name.to_owned(), partitions: 1, replication_factor, config };
    let partitions = ensure(admin.clone(), new, true, status).await?;
    let describe = {
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || admin.topic(&name)).await.expect("the admin call does not panic")
    };
    let compacted = match describe.map_err(StageError::kafka(format!("describing topic {name}")))? {
        Some(state) => state.cleanup_policy.is_none_or(|policy| policy.contains("compact")),
        None => true,
    };
    if partitions != 1 || !compacted {
        return Err(StageError::Halt(Halt::new(
            ExitCode::TopicUnsuitable,
            format!("the checkpoint topic {name} must have one partition and cleanup.policy=compact"),
            format!(
                "kafka-configs --alter --topic {name} --add-config cleanup.policy=compact, or name another topic in checkpoint.topic"
            ),
        )));
    }
    Ok(())
}

async fn ensure(admin: Arc<Admin>, new: NewTopic, create: bool, status: &Status) -> Result<i32, StageError> {
    let mut backoff = Backoff::new();
    loop {
        let (admin, topic) = (admin.clone(), new.clone());
        let outcome = tokio::task::spawn_blocking(move || look_or_create(&admin, &topic, create))
            .await
            .expect("the admin call does not panic");
        match outcome {
            Ok(Some(partitions)) => {
                if backoff.used() {
                    tracing::info!("Kafka answers again");
                }
                return Ok(partitions);
            }
            Ok(None) if !create => return Err(StageError::Halt(missing_topic(&new))),
            // Created a moment ago, and the metadata does not show it yet.
            Ok(None) => tokio::time::sleep(Duration::from_millis(50)).await,
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
                return Err(StageError::Kafka { doing: format!("creating topic {}", new.name), source });
            }
        }
    }
}

fn look_or_create(
    admin: &Admin,
    new: &NewTopic,
    create: bool,
) -> Result<Option<i32>, headwater_kafka::Error> {
    if let Some(state) = admin.topic(&new.name)? {
        return Ok(Some(state.partitions));
    }
    if create {
        admin.create_topic(new)?;
        return Ok(admin.topic(&new.name)?.map(|state| state.partitions));
    }
    Ok(None)
}

fn missing_topic(new: &NewTopic) -> Halt {
    Halt::new(
        ExitCode::TopicUnsuitable,
        format!("topic {} does not exist, and topics.create is false", new.name),
        format!(
            "kafka-topics --create --topic {} --partitions {}, or set topics.create = true",
            new.name, new.partitions
        ),
    )
}
