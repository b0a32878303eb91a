//! The topic of dead letters, as a person on call reads it: from its beginning, and again and again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use rdkafka::consumer::Consumer;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Serialize;

use crate::consume::{header, is_passing, reader};
use crate::run::PARTITIONS;

/// The newest ones are kept.
const KEPT: usize = 50;

/// An event that its consumer could not use.
#[derive(Clone, Serialize)]
pub struct DeadLetter {
    pub event_id: String,
    pub user: String,
    pub reason: String,
    /// Where the event was.
    pub partition: String,
    pub offset: String,
}

/// What was read so far.
pub struct DeadLetters(Arc<Mutex<VecDeque<DeadLetter>>>);

impl DeadLetters {
    /// Reads from now on, in the background.
    pub fn read(bootstrap: &str, topic: &str) -> Result<DeadLetters> {
        let consumer = reader(bootstrap)?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions).context("cannot read the dead letters")?;
        let letters = Arc::new(Mutex::new(VecDeque::new()));
        let read = Arc::clone(&letters);
        tokio::spawn(async move {
            loop {
                match consumer.recv().await {
                    Ok(message) => {
                        let mut letters = read.lock().expect("nobody panics with it");
                        letters.push_front(letter(&message));
                        letters.truncate(KEPT);
                    }
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return tracing::error!(%error, "the dead letters can't be read any more"),
                }
            }
        });
        Ok(DeadLetters(letters))
    }

    /// The newest ones, the newest first.
    pub fn newest(&self) -> Vec<DeadLetter> {
        self.0.lock().expect("nobody panics with it").iter().cloned().collect()
    }
}

fn letter(message: &BorrowedMessage<'_>) -> DeadLetter {
    let text = |name| header(message, name).unwrap_or_default();
    DeadLetter {
        event_id: text("id"),
        user: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
        reason: text("dead_letter.reason"),
        partition: text("dead_letter.partition"),
        offset: text("dead_letter.offset"),
    }
}
