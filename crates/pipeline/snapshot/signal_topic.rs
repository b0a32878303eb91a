//! Follows the topic of signals: partition 0, as Debezium does, from where it was left.
//!
//! In: the topic and the offset that is stored with the requests. Out: its records, one by one, to the reader. The
//! first time it begins at the topic's end: what was said before is not for this instance. Kafka that is away, or a
//! topic that is missing, is waited for; the stream goes on meanwhile.

use std::time::Duration;

use headwater_kafka::{Admin, NewTopic, TopicFollower, TopicRecord};
use tokio::sync::mpsc;

use super::requests::TopicPlace;
use super::signal_reader::SignalReader;
use crate::backoff::Backoff;
use crate::error::{StageError, chain};
use crate::settings::{Settings, SinkSettings};

/// How long one question to the brokers may take.
const ASK_MAX: Duration = Duration::from_secs(10);

/// The most that a follower whose session is over goes unnoticed.
const POLL: Duration = Duration::from_millis(250);

/// Records that are read ahead: signals are rare.
const AHEAD: usize = 16;

/// Follows until the session ends.
pub(crate) async fn follow(settings: &Settings, reader: &SignalReader) -> StageError {
    let (Some(topic), SinkSettings::Kafka { kafka, .. }) = (&settings.signals.topic, &settings.sink) else {
        return std::future::pending().await;
    };
    let mut backoff = Backoff::new();
    loop {
        let (records, mut received) = mpsc::channel(AHEAD);
        let following = Following {
            kafka: kafka.clone(),
            new: NewTopic {
                name: topic.clone(),
                partitions: 1,
                replication_factor: settings.topics.replication_factor,
                config: Default::default(),
            },
            create: settings.topics.create,
            from: reader.requests.topic_offset(topic),
            records,
        };
        let ended = tokio::task::spawn_blocking(move || following.run());
        while let Some(next) = received.recv().await {
            if backoff.used() {
                tracing::info!(topic, "the topic of signals can be read again");
                backoff.reset();
            }
            let taken = match next {
                Next::Begins(offset) => {
                    reader.requests.begin_topic(TopicPlace { topic: topic.clone(), offset })
                }
                Next::Reads => Ok(()),
                Next::Record(record) => reader.record(topic, &record),
            };
            if let Err(error) = taken {
                return error;
            }
        }
        if let Err(error) = ended.await.expect("the follower does not panic") {
            let pause = backoff.next();
            if backoff.is_first() {
                let error = chain(&error);
                tracing::warn!(
                    topic,
                    retry_in_ms = pause.as_millis() as u64,
                    error,
                    "the topic of signals can't be read"
                );
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// What comes from the follower's thread.
enum Next {
    /// The first record is to be this one.
    Begins(i64),
    /// The topic is there.
    Reads,
    Record(TopicRecord),
}

struct Following {
    kafka: headwater_kafka::Settings,
    new: NewTopic,
    create: bool,
    from: Option<i64>,
    records: mpsc::Sender<Next>,
}

impl Following {
    /// Blocks until nobody listens any more.
    fn run(self) -> Result<(), headwater_kafka::Error> {
        let admin = Admin::new(&self.kafka)?;
        let topic = self.new.name.as_str();
        let partitions = match admin.partition_count(topic)? {
            None if self.create => {
                admin.create_topic(&self.new)?;
                1
            }
            // Asking for its offsets has the words for a topic that is missing.
            found => found.unwrap_or(1),
        };
        if partitions > 1 {
            tracing::warn!(
                topic,
                partitions,
                "the topic of signals should have one partition: only partition 0 is read"
            );
        }
        drop(admin);
        let follower = TopicFollower::new(&self.kafka, topic, 0)?;
        let bounds = follower.bounds(ASK_MAX)?;
        let from = match self.from {
            Some(from) if (bounds.low..=bounds.high).contains(&from) => {
                self.send(Next::Reads);
                from
            }
            Some(from) => {
                tracing::warn!(
                    topic,
                    from,
                    low = bounds.low,
                    high = bounds.high,
                    "the signal to be read next is gone: the topic was made anew, or was not read for longer than it keeps records; reading what it has"
                );
                self.send(Next::Begins(bounds.low));
                bounds.low
            }
            None => {
                self.send(Next::Begins(bounds.high));
                bounds.high
            }
        };
        follower.begin_at(from)?;
        while !self.records.is_closed() {
            if let Some(record) = follower.next(POLL)? {
                self.send(Next::Record(record));
            }
        }
        Ok(())
    }

    /// Nobody listens any more once the session is over; what was read is read again then.
    fn send(&self, next: Next) {
        drop(self.records.blocking_send(next));
    }
}
