//! Topics and brokers: what exists, and making what doesn't. Blocking, each call with a time limit.
//!
//! In: names and settings. Out: facts, or an error that says whether the brokers are out of reach, the
//! principal lacks a right, or the request itself is wrong.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic as NativeTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;

use crate::connection::{Connection, connection_error, metadata};
use crate::error::{Error, ErrorKind};
use crate::settings::Settings;

/// How long one question may take. Long enough for a first TLS and SASL handshake and a controller election.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a created topic may take to be known with leaders by the broker that is asked.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection for questions about topics and brokers.
pub struct Admin {
    admin: AdminClient<DefaultClientContext>,
    /// Metadata goes through a consumer: unlike the admin client, it hands out why it can't connect.
    metadata: BaseConsumer<Connection>,
}

/// A topic as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of the first partition.
    pub replication: i32,
    /// `min.insync.replicas`; `None` where the principal may not read settings (DESCRIBE_CONFIGS).
    pub min_insync_replicas: Option<i32>,
    /// `cleanup.policy`, as above.
    pub cleanup_policy: Option<String>,
    /// `max.message.bytes`, as above.
    pub max_message_bytes: Option<u64>,
    /// `unclean.leader.election.enable`, as above.
    pub unclean_leader_election: Option<bool>,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions; -1 for the broker's default.
    pub partitions: i32,
    /// Replicas; -1 for the broker's default.
    pub replication_factor: i32,
    /// Settings such as `cleanup.policy`.
    pub config: BTreeMap<String, String>,
}

/// What became of a topic to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It is new, and its partitions have leaders.
    Created,
    /// It was there before; nothing was changed.
    Existed,
}

impl Admin {
    /// Makes the clients; connecting goes on in the background.
    ///
    /// # Errors
    /// Settings that librdkafka refuses.
    pub fn new(settings: &Settings) -> Result<Admin, Error> {
        if let Some(problem) = settings.problems().into_iter().next() {
            return Err(Error::configuration("starting the Kafka admin client", problem));
        }
        let config = settings.admin_config();
        let failed = |e: KafkaError| Error::from_rdkafka(&e, "starting the Kafka admin client");
        Ok(Admin {
            admin: config.create().map_err(failed)?,
            metadata: config.create_with_context(Connection::new(settings)?).map_err(failed)?,
        })
    }

    /// The topic's state, or `None` when there is none of that name.
    ///
    /// # Errors
    /// Brokers out of reach, or no right to describe the topic.
    pub fn topic(&self, name: &str) -> Result<Option<TopicState>, Error> {
        let doing = format!("describing topic {name}");
        let Some((partitions, replication)) = self.partitions(name, &doing)? else { return Ok(None) };
        let settings = match self.topic_settings(name, &doing) {
            Ok(settings) => settings,
            Err(error) if error.kind() == ErrorKind::NotAuthorized => None,
            Err(error) if error.kind() == ErrorKind::UnknownTopic => return Ok(None),
            Err(error) => return Err(error),
        };
        let setting = |key: &str| settings.as_ref()?.get(key)?.value.clone();
        Ok(Some(TopicState {
            partitions,
            replication,
            min_insync_replicas: setting("min.insync.replicas").and_then(|v| v.parse().ok()),
            cleanup_policy: setting("cleanup.policy"),
            max_message_bytes: setting("max.message.bytes").and_then(|v| v.parse().ok()),
            unclean_leader_election: setting("unclean.leader.election.enable").and_then(|v| v.parse().ok()),
        }))
    }

    /// How many partitions the topic has, or `None` when there is none of that name.
    ///
    /// # Errors
    /// Brokers out of reach, or no right to describe the topic.
    pub fn partition_count(&self, name: &str) -> Result<Option<i32>, Error> {
        let found = self.partitions(name, &format!("counting the partitions of topic {name}"))?;
        Ok(found.map(|(partitions, _)| partitions))
    }

    /// Creates the topic and waits until its partitions have leaders. An existing one is left as it is.
    ///
    /// # Errors
    /// Brokers out of reach, a missing right, or settings that the cluster refuses.
    pub fn create_topic(&self, topic: &NewTopic) -> Result<CreateOutcome, Error> {
        let doing = format!("creating topic {}", topic.name);
        let replication = TopicReplication::Fixed(topic.replication_factor);
        let mut native = NativeTopic::new(&topic.name, topic.partitions, replication);
        for (key, value) in &topic.config {
            native = native.set(key, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let results = self.answer(self.admin.create_topics([&native], &options), &doing)?;
        match results.into_iter().next() {
            Some(Ok(_)) => self.wait_until_visible(topic, &doing).map(|()| CreateOutcome::Created),
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(CreateOutcome::Existed),
            Some(Err((_, code))) => Err(Error::from_code(code, doing, "")),
            None => Err(Error::from_code(Code::BadMessage, doing, "the answer is empty")),
        }
    }

    /// Deletes a topic; one that doesn't exist is no error. For demos and tests.
    ///
    /// # Errors
    /// Brokers out of reach or a missing right.
    pub fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let doing = format!("deleting topic {name}");
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let results = self.answer(self.admin.delete_topics(&[name], &options), &doing)?;
        match results.into_iter().next() {
            Some(Err((_, code))) if code != Code::UnknownTopicOrPartition => {
                Err(Error::from_code(code, doing, ""))
            }
            _ => Ok(()),
        }
    }

    /// Brokers in the cluster; also the way to ask whether Kafka can be reached and lets us in.
    ///
    /// # Errors
    /// Brokers out of reach, or credentials refused.
    pub fn broker_count(&self) -> Result<usize, Error> {
        // A topic of no name asks for the brokers only where a plain request would list every topic.
        Ok(self.fetch_metadata(None, "asking for the brokers")?.brokers().len())
    }

    /// The names of all topics that may be seen.
    ///
    /// # Errors
    /// Brokers out of reach, or credentials refused.
    pub fn topic_names(&self) -> Result<Vec<String>, Error> {
        let metadata = self.fetch_metadata(None, "listing the topics")?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    fn partitions(&self, name: &str, doing: &str) -> Result<Option<(i32, i32)>, Error> {
        let metadata = self.fetch_metadata(Some(name), doing)?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        match topic.error().map(Code::from) {
            None => {
                let replicas = topic.partitions().first().map_or(0, |p| p.replicas().len());
                Ok(Some((count(topic.partitions().len()), count(replicas))))
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId) => Ok(None),
            Some(code) => Err(Error::from_code(code, doing, "")),
        }
    }

    fn topic_settings(&self, name: &str, doing: &str) -> Result<Option<ConfigResource>, Error> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let results =
            self.answer(self.admin.describe_configs([&ResourceSpecifier::Topic(name)], &options), doing)?;
        match results.into_iter().next() {
            Some(Ok(resource)) => Ok(Some(resource)),
            Some(Err(code)) => Err(Error::from_code(code, doing, "")),
            None => Ok(None),
        }
    }

    fn wait_until_visible(&self, topic: &NewTopic, doing: &str) -> Result<(), Error> {
        let deadline = Instant::now() + VISIBLE_TIMEOUT;
        loop {
            let metadata = self.fetch_metadata(Some(&topic.name), doing)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic.name);
            if found
                .is_some_and(|t| !t.partitions().is_empty() && t.partitions().iter().all(|p| p.leader() >= 0))
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::from_code(
                    Code::LeaderNotAvailable,
                    doing,
                    "it was created but has no leaders yet",
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn fetch_metadata(&self, topic: Option<&str>, doing: &str) -> Result<Metadata, Error> {
        metadata(&self.metadata, topic, REQUEST_TIMEOUT, doing)
    }

    fn answer<T>(
        &self,
        request: impl Future<Output = Result<T, KafkaError>>,
        doing: &str,
    ) -> Result<T, Error> {
        match block_on(request, REQUEST_TIMEOUT * 2) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => {
                Err(Error::from_rdkafka(&error, doing).because(connection_error(&self.metadata)))
            }
            None => Err(Error::from_code(Code::OperationTimedOut, doing, "")
                .because(connection_error(&self.metadata))),
        }
    }
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// Waits for one future on this thread. rdkafka's admin futures are completed by its own thread.
fn block_on<T>(future: impl Future<Output = T>, timeout: Duration) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let deadline = Instant::now() + timeout;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return None;
        }
        std::thread::park_timeout(remaining);
    }
}
