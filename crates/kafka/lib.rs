//! Kafka for Headwater: the only crate that knows rdkafka.
//!
//! What comes in: [`Settings`] and records with a partition and a token. What goes out: one [`Delivery`] per
//! accepted record, topics made or described by [`Admin`], a small topic read from its beginning by
//! [`read_topic_to_end`], one that is followed by [`TopicFollower`], and the records of a group's member
//! ([`GroupConsumer`]). The invariant: one producer keeps the order in which records were offered, per
//! partition, or it ends with an error; no record is ever dropped in silence.
//!
//! Everything blocks with a time limit; nothing here needs an async runtime.

mod settings;

mod properties;

mod partition;

mod producer;

mod admin;

mod consumer;

mod follower;

mod group_consumer;

mod connection;

mod bootstrap;

mod error;

pub use admin::{Admin, CreateOutcome, NewTopic, TopicState};
pub use consumer::{TopicRecord, read_partition, read_topic_to_end};
pub use error::{Class, Error, ErrorKind};
pub use follower::{Bounds, TopicFollower};
pub use group_consumer::{AssignmentChange, Fetched, GroupConsumer, StartOffset, TopicPartition};
pub use partition::{murmur2, partition_for_key};
pub use producer::{Delivery, OfferError, Producer, ProducerRecord, RECORD_OVERHEAD_BYTES, Refused};
pub use properties::{DEFAULT_PROPERTIES, check_property, is_secret_property, owned_property};
pub use settings::Settings;

/// The version of the librdkafka that is linked in, for the build info metric and `check`.
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
