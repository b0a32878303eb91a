//! Reads events from Kafka and handles each of them once.
//!
//! Kafka may give an event twice: the relay or this service crashed, or the group moved partitions. So its id is written
//! into `inbox` in the transaction of what is done about it, and an id that is there already is passed over. The offset
//! is committed after that transaction; it is only where to read on, never the truth.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::Value as Json;
use tokio_postgres::Transaction;

use crate::database::Database;
use crate::service::Stop;
use crate::watch::{self, Outcome};

/// The table that `consume` writes ids into.
pub const INBOX: &str =
    "CREATE TABLE inbox (event_id text PRIMARY KEY, handled_at timestamptz NOT NULL DEFAULT now())";

/// An event, as the relay sent it with `payload = "raw"`.
#[derive(Debug)]
pub struct Event {
    /// Stays the same when it comes again.
    pub id: String,
    pub kind: String,
    /// The aggregate's id.
    pub key: String,
    pub payload: Json,
}

/// A consumer of a group, from the beginning, whose offsets are stored by hand.
///
/// `instance` is a name that this instance has again after a restart: then it takes its partitions back at once, also
/// after a crash, and nobody waits for its session to time out. Without one it leaves the group when it ends in order.
pub fn subscribe(
    bootstrap: &str,
    group: &str,
    instance: Option<&str>,
    topics: &[&str],
) -> Result<Arc<StreamConsumer>> {
    let mut config = ClientConfig::new();
    if let Some(instance) = instance {
        config.set("group.instance.id", instance);
    }
    let consumer: StreamConsumer = config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        // what was stored is committed in the background and at the end
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false")
        .set("session.timeout.ms", "6000")
        // a topic appears with its first event
        .set("topic.metadata.refresh.interval.ms", "1000")
        .create()
        .context("cannot create a consumer")?;
    consumer.subscribe(topics).context("cannot subscribe")?;
    watch::expect(topics);
    Ok(Arc::new(consumer))
}

/// A consumer that takes partitions by hand and keeps no offsets in Kafka.
pub fn reader(bootstrap: &str) -> Result<Arc<StreamConsumer>> {
    let consumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // never joined, but librdkafka wants one
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .create()
        .context("cannot create a consumer")?;
    Ok(Arc::new(consumer))
}

/// Handles events until `stop`, and shows how far it is behind. What `handle` writes through its transaction is committed
/// with the event's id.
pub async fn consume(
    consumer: &Arc<StreamConsumer>,
    database: &Database,
    stop: &Stop,
    handle: impl AsyncFn(&Transaction<'_>, &Event) -> Result<()>,
) -> Result<()> {
    tokio::try_join!(each(consumer, database, stop, handle), watch::measure(consumer, stop))?;
    Ok(())
}

async fn each(
    consumer: &StreamConsumer,
    database: &Database,
    stop: &Stop,
    handle: impl AsyncFn(&Transaction<'_>, &Event) -> Result<()>,
) -> Result<()> {
    loop {
        let received = tokio::select! {
            received = consumer.recv() => received,
            () = stop.wanted() => return Ok(()),
        };
        let message = match received {
            Ok(message) => message,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error).context("cannot read from Kafka"),
        };
        let event = read(&message)?;
        let outcome = loop {
            match once(database, &event, &handle).await {
                Ok(outcome) => break outcome,
                Err(_) if stop.is_wanted() => return Ok(()),
                Err(error) => {
                    // the database is away, or a deadlock was broken: the event stays the next one
                    let error = format!("{error:#}");
                    tracing::warn!(error, id = event.id, "an event could not be handled yet");
                    watch::count(message.topic(), Outcome::NotYet);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        watch::count(message.topic(), outcome);
        // refused when the partition has moved: then another instance reads the event again, and its inbox knows it
        consumer.store_offset_from_message(&message).ok();
    }
}

/// The topic is not there yet, or the broker is away for a moment: librdkafka goes on by itself.
pub fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, UnknownTopicOrPartition};
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| matches!(code, AllBrokersDown | BrokerTransportFailure | UnknownTopicOrPartition))
}

/// The text of a header.
pub fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == name)?;
    header.value.map(|value| String::from_utf8_lossy(value).into_owned())
}

fn read(message: &BorrowedMessage<'_>) -> Result<Event> {
    let place = || format!("{} {} {}", message.topic(), message.partition(), message.offset());
    let (Some(id), Some(kind)) = (header(message, "id"), header(message, "eventType")) else {
        bail!("the record at {} is no event", place());
    };
    let payload = serde_json::from_slice(message.payload().unwrap_or(b"null"));
    Ok(Event {
        id,
        kind,
        key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
        payload: payload.with_context(|| format!("the event at {} is no JSON", place()))?,
    })
}

async fn once(
    database: &Database,
    event: &Event,
    handle: &impl AsyncFn(&Transaction<'_>, &Event) -> Result<()>,
) -> Result<Outcome> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let new = transaction
        .execute("INSERT INTO inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING", &[&event.id])
        .await?;
    if new == 1 {
        handle(&transaction, event).await?;
    }
    transaction.commit().await?;
    Ok(if new == 1 { Outcome::Handled } else { Outcome::SeenBefore })
}

/// Writes an event into the outbox of the database that the transaction is in.
pub async fn emit(
    transaction: &Transaction<'_>,
    aggregate: &str,
    id: &str,
    kind: &str,
    payload: &Json,
) -> Result<()> {
    transaction
        .execute(
            "SELECT headwater.outbox_put($1, $2, $3, $4::text::jsonb)",
            &[&aggregate, &id, &kind, &payload.to_string()],
        )
        .await?;
    Ok(())
}
