//! The Kafka sink: one idempotent producer, owned by the pump's thread.

use std::time::Duration;

use headwater_kafka::{Delivery, ErrorKind, OfferError, Producer, ProducerRecord, Refused, Settings};

use crate::error::StageError;
use crate::record::{Record, Token};
use crate::sink::{Offered, Sink};

/// A producer and its delivery reports.
pub(crate) struct KafkaSink {
    producer: Producer,
    /// Reused by every poll.
    deliveries: Vec<Delivery>,
}

impl KafkaSink {
    pub(crate) fn new(settings: &Settings) -> Result<KafkaSink, StageError> {
        let producer = Producer::new(settings).map_err(StageError::kafka("starting the producer"))?;
        Ok(KafkaSink { producer, deliveries: Vec::new() })
    }
}

impl Sink for KafkaSink {
    fn has_partitions(&self) -> bool {
        true
    }

    fn offer(&mut self, record: &Record<'_>) -> Result<Offered, StageError> {
        let offered = self.producer.offer(&ProducerRecord {
            topic: record.topic,
            partition: record.partition,
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp_ms: record.timestamp_ms,
            token: record.token.0,
        });
        match offered {
            Ok(()) => Ok(Offered::Accepted),
            Err(OfferError::Full) => Ok(Offered::Full),
            Err(OfferError::Failed(source)) if source.kind() == ErrorKind::TooLarge => {
                let (topic, key) = (record.topic.to_owned(), record.key.map(<[u8]>::to_vec));
                let value_bytes = record.value.map_or(0, <[u8]>::len);
                Err(StageError::TooLarge { refused: vec![Refused { topic, key, value_bytes }], source })
            }
            Err(OfferError::Failed(source)) => {
                Err(StageError::Kafka { doing: format!("producing to {}", record.topic), source })
            }
        }
    }

    fn poll(&mut self, timeout: Duration, delivered: &mut Vec<Token>) -> Result<(), StageError> {
        self.producer.poll(timeout, &mut self.deliveries);
        if self.deliveries.iter().any(|delivery| delivery.refused.is_some()) {
            return Err(too_large(std::mem::take(&mut self.deliveries)));
        }
        for delivery in self.deliveries.drain(..) {
            delivery.result.map_err(StageError::kafka("delivering a record"))?;
            delivered.push(Token(delivery.token));
        }
        match self.producer.fatal_error() {
            Some(source) => Err(StageError::Kafka { doing: "producing".to_owned(), source }),
            None => Ok(()),
        }
    }

    fn abandon(self: Box<Self>) {
        self.producer.purge_and_drop();
    }
}

/// The error of a batch that a topic did not take, with all that was in it.
#[cold]
fn too_large(deliveries: Vec<Delivery>) -> StageError {
    let (mut refused, mut first) = (Vec::new(), None);
    for delivery in deliveries {
        if let (Some(record), Err(error)) = (delivery.refused, delivery.result) {
            refused.push(*record);
            first.get_or_insert(error);
        }
    }
    let source = first.expect("one was refused");
    StageError::TooLarge { refused, source }
}
