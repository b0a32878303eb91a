//! Answers that can't be used, on the dead letter topic with their reasons: sent and acknowledged, or an error.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_dead_letter::{Cause, RECORD_BYTES_MAX, attempt_of, topic_config};
use headwater_kafka::{
    Admin, Delivery, Error, ErrorKind, NewTopic, OfferError, Producer, ProducerRecord, partition_for_key,
};

use crate::feedback::{Read, Trouble};
use crate::settings::FeedbackSettings;

/// How long the brokers may take to accept the letters of a batch.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes sure that a topic exists; gives its partitions.
pub(crate) fn make_topic(
    feedback: &FeedbackSettings,
    topic: &str,
    config: BTreeMap<String, String>,
) -> Result<i32, Trouble> {
    let admin = Admin::new(&feedback.kafka)?;
    if let Some(partitions) = admin.partition_count(topic)? {
        return Ok(partitions);
    }
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: feedback.partitions,
        replication_factor: feedback.replication_factor,
        config,
    };
    admin.create_topic(&new)?;
    Ok(feedback.partitions)
}

/// Sends what can't be used, by its place in the batch and with its reason, and waits until it is safe.
pub(crate) fn send(
    feedback: &FeedbackSettings,
    batch: &[Read],
    letters: &[(usize, String)],
) -> Result<(), Trouble> {
    let partitions = make_topic(feedback, &feedback.dead_letter_topic, topic_config(RECORD_BYTES_MAX))?;
    let mut sending = Sending {
        feedback,
        partitions,
        producer: Producer::new(&feedback.kafka)?,
        deadline: Instant::now() + LIMIT,
    };
    let mut too_large = Vec::new();
    let mut deliveries = Vec::new();
    for (at, (place, reason)) in letters.iter().enumerate() {
        if let Err(error) = sending.offer(&batch[*place], reason, true, at as u64, &mut deliveries)? {
            too_large_or(error, at, &mut too_large)?;
        }
    }
    sending.wait(&mut deliveries)?;
    for Delivery { token, result, .. } in deliveries {
        if let Err(error) = result {
            too_large_or(error, token as usize, &mut too_large)?;
        }
    }
    // Its place in the feedback topic is in its headers; a letter that can never be sent would block all answers.
    let mut deliveries = Vec::new();
    for at in too_large {
        let (place, reason) = &letters[at];
        sending.offer(&batch[*place], reason, false, at as u64, &mut deliveries)?.map_err(Trouble::Kafka)?;
    }
    sending.wait(&mut deliveries)?;
    deliveries.into_iter().try_for_each(|delivery| delivery.result).map_err(Trouble::Kafka)
}

fn too_large_or(error: Error, at: usize, too_large: &mut Vec<usize>) -> Result<(), Trouble> {
    if error.kind() != ErrorKind::TooLarge {
        return Err(Trouble::Kafka(error));
    }
    too_large.push(at);
    Ok(())
}

struct Sending<'a> {
    feedback: &'a FeedbackSettings,
    partitions: i32,
    producer: Producer,
    deadline: Instant,
}

impl Sending<'_> {
    /// The inner error is the record's own.
    fn offer(
        &mut self,
        read: &Read,
        reason: &str,
        with_value: bool,
        token: u64,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<Result<(), Error>, Trouble> {
        let cause = Cause {
            stage: "feedback".to_owned(),
            reason: reason.to_owned(),
            attempt: attempt_of(&read.headers),
            topic: Some(read.place.topic.clone()),
            place: Some((read.place.partition, read.offset)),
            consumer: Some(self.feedback.group.clone()),
            left_out_bytes: read.value.as_ref().filter(|_| !with_value).map(|value| value.len() as u64),
            ..Cause::default()
        };
        let causes = cause.headers();
        let mut headers: Vec<(&str, &[u8])> = Vec::new();
        if with_value {
            headers.extend(read.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        }
        headers.extend(causes.iter().map(|(name, value)| (*name, value.as_slice())));
        let key = read.key.as_deref().filter(|_| with_value);
        let record = ProducerRecord {
            topic: &self.feedback.dead_letter_topic,
            partition: read.key.as_deref().map_or(0, |key| partition_for_key(key, self.partitions)),
            key,
            value: read.value.as_deref().filter(|_| with_value),
            headers: &headers,
            timestamp_ms: None,
            token,
        };
        loop {
            match self.producer.offer(&record) {
                Ok(()) => return Ok(Ok(())),
                Err(OfferError::Failed(error)) => return Ok(Err(error)),
                Err(OfferError::Full) => self.poll(deliveries)?,
            }
        }
    }

    fn wait(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), Trouble> {
        while self.producer.in_flight() > 0 {
            self.poll(deliveries)?;
        }
        Ok(())
    }

    fn poll(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), Trouble> {
        if Instant::now() > self.deadline {
            return Err(Trouble::Unsent);
        }
        self.producer.poll(Duration::from_millis(50), deliveries);
        Ok(())
    }
}
