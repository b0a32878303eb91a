//! The Kafka sink: one idempotent producer, owned by the pump's thread.

use std::time::Duration;

use headwater_kafka::{Delivery, OfferError, Producer, ProducerRecord, Settings};

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
            Err(OfferError::Failed(source)) => {
                Err(StageError::Kafka { doing: format!("producing to {}", record.topic), source })
            }
        }
    }

    fn poll(&mut self, timeout: Duration, delivered: &mut Vec<Token>) -> Result<(), StageError> {
        self.producer.poll(timeout, &mut self.deliveries);
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
