//! A projection: a view of all orders, made of the topic alone, which may be thrown away and made again.
//!
//! How far it has read is stored in the transaction of what it made of it, so Kafka keeps no offsets for it. The relay may
//! repeat events after a crash; the version in the view tells them. A version that is missing halts, and so does a record
//! that can't be read: a view with a hole would be wrong for ever. Two instances may run: the row of a partition in
//! `progress` is locked by the one that makes the next step.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use clap::Args;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::order::Order;
use super::store;
use crate::consume::{header, is_passing};
use crate::database::{Database, is_refusal, of_database};
use crate::service::{self, Stop};
use crate::watch::{self, Outcome};

/// What it is called with.
#[derive(Args)]
pub struct Settings {
    /// host:port of its API.
    #[arg(long)]
    listen: SocketAddr,
    /// Its own database.
    #[arg(long)]
    database_url: String,
    /// Kafka's host:port.
    #[arg(long)]
    bootstrap: String,
    /// The topic of the events.
    #[arg(long)]
    topic: String,
    /// Forget the view and read everything again.
    #[arg(long)]
    rebuild: bool,
}

/// Runs until SIGTERM.
pub async fn run(settings: &Settings) -> Result<()> {
    let stop = Stop::at_signals()?;
    let database = Database::new(&settings.database_url)?;
    if settings.rebuild {
        // in the order in which they are locked below; one transaction: a crash leaves the old view or none, and never a view that counts twice
        database.execute("BEGIN; TRUNCATE progress, order_view; COMMIT").await?;
    }
    watch::expect(&[&settings.topic]);
    let consumer = crate::consume::reader(&settings.bootstrap)?;
    tokio::try_join!(
        service::serve(settings.listen, Router::new(), stop.clone()),
        read(&consumer, &database, &settings.topic, &stop),
        watch::measure(&consumer, &stop),
    )?;
    Ok(())
}

async fn read(consumer: &StreamConsumer, database: &Database, topic: &str, stop: &Stop) -> Result<()> {
    let view = tokio::select! {
        assigned = assign(consumer, database, topic) => assigned?,
        () = stop.wanted() => return Ok(()),
    };
    loop {
        let received = tokio::select! {
            received = consumer.recv() => received,
            () = stop.wanted() => return Ok(()),
        };
        match received {
            Ok(message) => {
                let outcome = loop {
                    match project(database, &view, &message).await {
                        Ok(outcome) => break outcome,
                        Err(error) if !may_pass(&error) => return Err(error),
                        Err(_) if stop.is_wanted() => return Ok(()),
                        Err(error) => {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "an event could not be projected yet"
                            );
                            watch::count(topic, Outcome::NotYet);
                            tokio::time::sleep(Duration::from_millis(200)).await;
                        }
                    }
                };
                watch::count(topic, outcome);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error).context("cannot read from Kafka"),
        }
    }
}

/// Which view this instance works on, by partition: when another one is made, its place in the topic means nothing.
type View = HashMap<i32, String>;

/// Takes all partitions, once the topic exists, each where the view ends.
async fn assign(consumer: &StreamConsumer, database: &Database, topic: &str) -> Result<View> {
    let mut list = TopicPartitionList::new();
    let mut view = View::new();
    while list.count() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let metadata = tokio::task::block_in_place(|| consumer.fetch_metadata(None, Duration::from_secs(10)));
        let Ok(metadata) = metadata else { continue };
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        for partition in found.iter().flat_map(|found| found.partitions()) {
            let (offset, made) = next_offset(database, partition.id()).await?;
            view.insert(partition.id(), made);
            list.add_partition_offset(topic, partition.id(), Offset::Offset(offset))?;
        }
    }
    consumer.assign(&list).context("cannot take the partitions")?;
    Ok(view)
}

/// Where a partition is read on: at its beginning the first time. The row is there from then on.
async fn next_offset(database: &Database, partition: i32) -> Result<(i64, String)> {
    let sql = "INSERT INTO progress AS p VALUES ($1, 0) ON CONFLICT (partition) DO UPDATE SET next_offset = p.next_offset
               RETURNING next_offset, made::text";
    let row = database.client().await?.query_one(sql, &[&partition]).await?;
    Ok((row.get(0), row.get(1)))
}

/// An event is missing before the one that came.
#[derive(Debug)]
struct Hole;

impl std::fmt::Display for Hole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an event is missing: the topic does not have the whole history")
    }
}

impl std::error::Error for Hole {}

/// The database is away, or a deadlock was broken. Whatever else there is, is the same at every try.
fn may_pass(error: &anyhow::Error) -> bool {
    of_database(error).is_some() && !is_refusal(error)
}

async fn project(database: &Database, view: &View, message: &BorrowedMessage<'_>) -> Result<Outcome> {
    let (Some(kind), Some(version)) = (header(message, "eventType"), header(message, "version")) else {
        bail!("the record at {} {} is no event", message.partition(), message.offset());
    };
    let version: i32 = version.parse().context("a version that is no number")?;
    let order_id = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
    let event = store::parse(&kind, std::str::from_utf8(message.payload().unwrap_or(b"null"))?)?;

    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let sql = "SELECT next_offset FROM progress WHERE partition = $1 AND made::text = $2 FOR UPDATE";
    let next = transaction.query_opt(sql, &[&message.partition(), &view.get(&message.partition())]).await?;
    let next = next.context("the view was thrown away: another instance makes it anew")?;
    if message.offset() < next.get(0) {
        // another instance was faster
        return Ok(Outcome::SeenBefore);
    }
    let row =
        transaction.query_opt("SELECT state::text FROM order_view WHERE order_id = $1", &[&order_id]).await?;
    let mut order: Order = match row {
        Some(row) => serde_json::from_str(row.get(0)).context("a state that can't be read")?,
        None => Order::default(),
    };
    if version > order.version + 1 {
        return Err(Hole.into());
    }
    // an older one comes again
    let is_new = version == order.version + 1;
    if is_new {
        order.apply(&event);
        let status = serde_json::to_value(order.status)?;
        transaction
            .execute(
                "INSERT INTO order_view VALUES ($1, $2, $3, $4, $5::text::jsonb) ON CONFLICT (order_id) DO UPDATE
                 SET version = excluded.version, status = excluded.status, total_cents = excluded.total_cents,
                     state = excluded.state",
                &[&order_id, &order.version, &status.as_str(), &order.total_cents, &serde_json::to_string(&order)?],
            )
            .await?;
    }
    transaction
        .execute(
            "UPDATE progress SET next_offset = $2 WHERE partition = $1",
            &[&message.partition(), &(message.offset() + 1)],
        )
        .await?;
    transaction.commit().await?;
    Ok(if is_new { Outcome::Handled } else { Outcome::SeenBefore })
}
