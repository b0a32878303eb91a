//! The producer: records in, in order; one delivery per record out, on the same thread.
//!
//! In: records that already know their partition, each with a token. Out: the token again, with the broker's
//! acknowledgement or an error. Invariants: a record is accepted at most once and reported exactly once; `Full`
//! leaves nothing behind, so offering the same record again keeps the order; the bytes held never exceed
//! [`Settings::queue_bytes_max`], except for one record that is larger by itself.

use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use crate::bootstrap::BootstrapServers;
use crate::connection::ClientLog;
use crate::error::{Error, ErrorKind};
use crate::settings::Settings;

/// What librdkafka holds for a record beside its key and value: message, headers and allocator rounding.
///
/// Measured with the broker frozen and the queue full of 64 MiB by this count: the process grew by 50 MiB with
/// values of 40 bytes, by 56 MiB with 250, by 76 MiB with 2,000 (batches in flight are there twice).
pub const RECORD_OVERHEAD_BYTES: usize = 512;

/// How long `poll` sleeps between two looks. librdkafka's own wait has millisecond steps, and rdkafka spins
/// through the last of them; a sleep costs nothing and delays only confirmations, never records.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long dropping a client may take before it is left to a thread of its own.
const DROP_WAIT: Duration = Duration::from_secs(1);

// Tokens travel through librdkafka as pointers.
const _: () = assert!(size_of::<usize>() >= size_of::<u64>(), "Headwater needs 64-bit pointers");

/// One record as it is offered.
#[derive(Debug, Clone, Copy)]
pub struct ProducerRecord<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition, from [`crate::partition_for_key`] or fixed by the caller.
    pub partition: i32,
    /// The serialised key.
    pub key: Option<&'a [u8]>,
    /// The serialised value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in their order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Milliseconds since the Unix epoch; the time of the call where it is absent.
    pub timestamp_ms: Option<i64>,
    /// Comes back in the [`Delivery`].
    pub token: u64,
}

impl ProducerRecord<'_> {
    /// What the record takes in memory until it is delivered.
    pub fn cost_bytes(&self) -> usize {
        cost_bytes(self.key.map_or(0, <[u8]>::len), self.value.map_or(0, <[u8]>::len))
    }
}

/// The end of a record's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The record's token.
    pub token: u64,
    /// `Ok` once all in-sync replicas have it.
    pub result: Result<(), Error>,
    /// Of one that the broker took for too large, or shared a batch with such a one.
    pub refused: Option<Box<Refused>>,
}

/// A record that was refused for its size, or beside one that was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Where it was to go.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The bytes of its value.
    pub value_bytes: usize,
}

/// Why a record was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Poll and offer the same record again.
    #[error("the producer's queue is full")]
    Full,
    /// It won't be accepted; the class says what to do.
    #[error(transparent)]
    Failed(Error),
}

/// An idempotent producer with `acks=all`, owned by one thread.
pub struct Producer {
    client: BaseProducer<Reports>,
    servers: BootstrapServers,
    bytes_max: u64,
    bytes_in_flight: u64,
    in_flight: usize,
}

impl Producer {
    /// Makes a producer; connecting goes on in the background.
    ///
    /// # Errors
    /// A property that can't be set or that librdkafka refuses, or a file named in `ssl.*` that can't be read.
    pub fn new(settings: &Settings) -> Result<Producer, Error> {
        if let Some(problem) = settings.problems().into_iter().next() {
            return Err(Error::configuration("starting the Kafka producer", problem));
        }
        let servers = BootstrapServers::new(&settings.bootstrap_servers)?;
        let client: BaseProducer<Reports> = settings
            .producer_config()
            .create_with_context(Reports::new())
            .map_err(|e| Error::from_rdkafka(&e, "starting the Kafka producer"))?;
        Ok(Producer {
            client,
            servers,
            bytes_max: settings.queue_bytes_max,
            bytes_in_flight: 0,
            in_flight: 0,
        })
    }

    /// Appends the record to its partition's queue. Never blocks; copies key and value.
    ///
    /// # Errors
    /// [`OfferError::Full`] when it must wait its turn, [`OfferError::Failed`] when waiting doesn't help.
    pub fn offer(&mut self, record: &ProducerRecord<'_>) -> Result<(), OfferError> {
        let cost = record.cost_bytes() as u64;
        if self.in_flight > 0 && self.bytes_in_flight + cost > self.bytes_max {
            return Err(OfferError::Full);
        }
        // The assertion above makes the cast exact.
        let mut native: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(record.topic, record.token as usize).partition(record.partition);
        native.key = record.key;
        native.payload = record.value;
        native.timestamp = record.timestamp_ms;
        native.headers = native_headers(record.headers);
        match self.client.send(native) {
            Ok(()) => {
                self.in_flight += 1;
                self.bytes_in_flight += cost;
                Ok(())
            }
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => Err(OfferError::Full),
            Err((error, _)) => Err(OfferError::Failed(self.refusal(&error, record))),
        }
    }

    /// Appends what has been delivered to `deliveries`; returns as soon as that is something, or after
    /// `timeout`. A zero timeout never waits. Meant once per batch of records: a call costs a microsecond.
    ///
    /// Must be called while nothing is offered, too: librdkafka's log lines and token refreshes come with it.
    pub fn poll(&mut self, timeout: Duration, deliveries: &mut Vec<Delivery>) {
        let deadline = Instant::now() + timeout;
        let before = deliveries.len();
        loop {
            self.serve(deliveries);
            self.rescue();
            let remaining = deadline.saturating_duration_since(Instant::now());
            if deliveries.len() > before || remaining.is_zero() {
                return;
            }
            std::thread::sleep(remaining.min(LOOK_AGAIN));
        }
    }

    /// Records that were accepted and not yet reported.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What those records take, by [`ProducerRecord::cost_bytes`].
    pub fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }

    /// The error after which this producer accepts nothing more.
    pub fn fatal_error(&self) -> Option<Error> {
        let (code, reason) = self.client.client().fatal_error()?;
        Some(Error::producer_fatal(code, "producing to Kafka", reason))
    }

    /// Why nothing was acknowledged lately: the last connection's error, taken. For logs and status; librdkafka
    /// goes on trying by itself.
    pub fn take_trouble(&self) -> Option<Error> {
        let (code, reason) = self.client.context().log.take_last_error()?;
        Some(Error::from_code(code, "connecting to Kafka", reason))
    }

    /// Drops everything that is unacknowledged and ends the client, within about a second whatever the brokers
    /// do. Requests that are already with a broker may still be carried out.
    pub fn purge_and_drop(self) {
        let (done, wait) = mpsc::channel();
        let client = self.client;
        let spawned = std::thread::Builder::new().name("kafka-drop".to_owned()).spawn(move || {
            // rdkafka purges queue and in-flight records, then waits for their reports for up to 500 ms.
            drop(client);
            // The receiver is gone when this took too long: nobody waits any more.
            let _ = done.send(());
        });
        if spawned.is_ok() && wait.recv_timeout(DROP_WAIT).is_err() {
            tracing::warn!("the Kafka client takes long to end; it is left behind");
        }
    }

    fn serve(&mut self, deliveries: &mut Vec<Delivery>) {
        loop {
            // One event at a time with a zero timeout: a batch of reports, a log line or an error.
            self.client.poll(Duration::ZERO);
            let mut served = self.client.context().served();
            if !served.anything {
                return;
            }
            served.anything = false;
            // Events come in their order: what was delivered before all brokers went down says nothing.
            if !served.deliveries.is_empty() {
                self.client.context().log.note_answer();
            }
            self.in_flight -= served.deliveries.len();
            self.bytes_in_flight -= std::mem::take(&mut served.bytes);
            deliveries.append(&mut served.deliveries);
        }
    }

    /// Helps a client out that would wait for ever.
    fn rescue(&self) {
        if self.client.context().log.take_stranded() {
            self.servers.add_to(self.client.client());
        }
    }

    #[cold]
    fn refusal(&self, error: &KafkaError, record: &ProducerRecord<'_>) -> Error {
        let doing = format!("offering a record to {} partition {}", record.topic, record.partition);
        match error.rdkafka_error_code() {
            Some(Code::Fatal) => {
                self.fatal_error().unwrap_or_else(|| Error::from_code(Code::Fatal, doing, ""))
            }
            Some(Code::MessageSizeTooLarge) => {
                let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                let reason =
                    format!("the record has {bytes} bytes, more than kafka.properties message.max.bytes");
                Error::from_code(Code::MessageSizeTooLarge, doing, reason)
            }
            _ => Error::from_rdkafka(error, doing),
        }
    }
}

fn cost_bytes(key_bytes: usize, value_bytes: usize) -> usize {
    key_bytes + value_bytes + RECORD_OVERHEAD_BYTES
}

fn native_headers(headers: &[(&str, &[u8])]) -> Option<OwnedHeaders> {
    if headers.is_empty() {
        return None;
    }
    let mut native = OwnedHeaders::new_with_capacity(headers.len());
    for (key, value) in headers {
        native = native.insert(Header { key, value: Some(*value) });
    }
    Some(native)
}

/// Collects what librdkafka reports while the producer is polled.
struct Reports {
    served: Mutex<Served>,
    log: ClientLog,
}

#[derive(Default)]
struct Served {
    deliveries: Vec<Delivery>,
    bytes: u64,
    /// Whether anything came, so that serving goes on until the queue is empty.
    anything: bool,
}

impl Reports {
    fn new() -> Reports {
        Reports { served: Mutex::default(), log: ClientLog::new() }
    }

    /// Never contended: librdkafka's events are served by the thread that polls. A panic aborts the process,
    /// so poison can't be seen.
    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.served().anything = true;
        self.log.line(level, facility, text);
    }

    fn stats_raw(&self, _: &[u8]) {
        self.served().anything = true;
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.served().anything = true;
        self.log.error(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, token: usize) {
        let (message, result, refused) = match report {
            Ok(message) => (message, Ok(()), None),
            Err((error, message)) => {
                let doing = format!("producing to {} partition {}", message.topic(), message.partition());
                let error = Error::from_rdkafka(error, doing);
                let refused = (error.kind() == ErrorKind::TooLarge).then(|| {
                    let (topic, key) = (message.topic().to_owned(), message.key().map(<[u8]>::to_vec));
                    Box::new(Refused { topic, key, value_bytes: message.payload_len() })
                });
                (message, Err(error), refused)
            }
        };
        let mut served = self.served();
        served.anything = true;
        served.bytes += cost_bytes(message.key_len(), message.payload_len()) as u64;
        served.deliveries.push(Delivery { token: token as u64, result, refused });
    }
}
