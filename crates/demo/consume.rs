//! Reads events from Kafka and handles each of them once.
//!
//! Kafka may give an event twice: the relay or this service crashed, or the group moved partitions. So its id is written
//! into `inbox` in the transaction of what is done about it, and an id that is there already is passed over. The offset
//! is committed after that transaction; it is only where to read on, never the truth.
//!
//! What can't be handled now (the database is away) stays the next event, and what can never be is set aside into
//! `dead_letter`, in this service's own database: one record that nobody can use must not keep all others waiting.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::Value as Json;
use tokio_postgres::Transaction;

use crate::database::{Database, is_refusal, of_database};
use crate::service::Stop;
use crate::watch::{self, Outcome};

/// The tables that `consume` writes into: ids of events, and records that can't be used.
pub const INBOX: &str = "
    CREATE TABLE inbox (event_id text PRIMARY KEY, handled_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE dead_letter (
        topic         text NOT NULL,
        partition     integer NOT NULL,
        record_offset bigint NOT NULL,
        event_id      text,
        reason        text NOT NULL,
        payload       bytea,
        at            timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (topic, partition, record_offset)
    )";

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
        // a place that the topic does not have any more is an error; otherwise librdkafka goes on at the end, in silence
        .set("auto.offset.reset", "error")
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
        let outcome = loop {
            match once(database, &message, &handle).await {
                Ok(outcome) => break outcome,
                Err(_) if stop.is_wanted() => return Ok(()),
                Err(error) => {
                    // the database is away, or a deadlock was broken: the event stays the next one
                    let (error, place) = (format!("{error:#}"), place(&message));
                    tracing::warn!(error, place, "an event could not be handled yet");
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

/// Whether librdkafka goes on by itself. So it does after all errors but those that it calls fatal (another instance has
/// taken this one's name), and a place to read from that is gone. A broker that is away, a topic that is not there yet, a
/// pause that cost this instance its partitions: they come back.
pub fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, Fatal};
    if matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(error.rdkafka_error_code(), Some(AutoOffsetReset | Fatal))
    {
        return false;
    }
    tracing::debug!(%error, "reading goes on");
    true
}

/// The text of a header.
pub fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == name)?;
    header.value.map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Where a record is.
fn place(message: &BorrowedMessage<'_>) -> String {
    format!("{} {} {}", message.topic(), message.partition(), message.offset())
}

fn read(message: &BorrowedMessage<'_>) -> Result<Event> {
    let (id, kind) = (header(message, "id"), header(message, "eventType"));
    Ok(Event {
        // what PostgreSQL can't store can be no id
        id: id.filter(|id| !id.contains('\0')).context("there is no header id")?,
        kind: kind.context("there is no header eventType")?,
        key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
        payload: serde_json::from_slice(message.payload().unwrap_or(b"null")).context("no JSON")?,
    })
}

/// One record, to its end.
async fn once(
    database: &Database,
    message: &BorrowedMessage<'_>,
    handle: &impl AsyncFn(&Transaction<'_>, &Event) -> Result<()>,
) -> Result<Outcome> {
    let event = match read(message) {
        Ok(event) => event,
        Err(error) => return set_aside(database, message, None, &error).await,
    };
    match handled(database, &event, handle).await {
        // the event is to blame: the handler can't use it, or PostgreSQL refused what came of it
        Err(error) if of_database(&error).is_none() || is_refusal(&error) => {
            set_aside(database, message, Some(&event.id), &error).await
        }
        outcome => outcome,
    }
}

async fn handled(
    database: &Database,
    event: &Event,
    handle: &impl AsyncFn(&Transaction<'_>, &Event) -> Result<()>,
) -> Result<Outcome> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let new = is_new(&transaction, &event.id).await?;
    if new {
        handle(&transaction, event).await?;
    }
    transaction.commit().await?;
    Ok(if new { Outcome::Handled } else { Outcome::SeenBefore })
}

/// False where the event was handled before, or was set aside.
async fn is_new(transaction: &Transaction<'_>, id: &str) -> Result<bool> {
    let sql = "INSERT INTO inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING";
    Ok(transaction.execute(sql, &[&id]).await? == 1)
}

/// Nothing is done about it but that a person can find it. The reason may have values: it stays beside the payload.
async fn set_aside(
    database: &Database,
    message: &BorrowedMessage<'_>,
    id: Option<&str>,
    error: &anyhow::Error,
) -> Result<Outcome> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    if let Some(id) = id
        && !is_new(&transaction, id).await?
    {
        return Ok(Outcome::SeenBefore);
    }
    let new = transaction
        .execute(
            "INSERT INTO dead_letter VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            &[
                &message.topic(),
                &message.partition(),
                &message.offset(),
                &id,
                &format!("{error:#}"),
                &message.payload(),
            ],
        )
        .await?;
    transaction.commit().await?;
    if new == 0 {
        return Ok(Outcome::SeenBefore);
    }
    tracing::error!(place = place(message), "a record can't be used; dead_letter has it, with the reason");
    Ok(Outcome::DeadLetter)
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
