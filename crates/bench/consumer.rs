//! A stock consumer on a thread of its own: each record with the moment at which `poll` returned it.
//!
//! It takes its partitions by hand, from their beginning, and picks up a topic when it appears: a group would pause
//! everything for a rebalance whenever that happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A record, as it arrived.
pub struct Arrival {
    /// When `poll` returned it.
    pub at: Instant,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

/// Where to begin.
#[derive(Clone, Copy)]
pub enum From {
    Beginning,
    End,
}

/// The thread; it stops when this is dropped.
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // a panic of the thread has been printed by then
            let _panic = thread.join();
        }
    }
}

/// How often it looks for topics that do not exist yet.
const DISCOVERY: Duration = Duration::from_millis(300);

/// Starts reading `topics`; returns once every topic that exists is being read.
pub fn start(bootstrap: &str, topics: &[String], from: From) -> Result<(Reader, UnboundedReceiver<Arrival>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("headwater-bench-{}", std::process::id()))
        .set("enable.auto.commit", "false")
        .create()
        .context("cannot create a consumer")?;
    let mut missing = topics.to_vec();
    discover(&consumer, &mut missing, from)?;
    let (sender, receiver) = unbounded_channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        if let Err(error) = read(&consumer, missing, &sender, &stopped) {
            eprintln!("the consumer stopped: {error:#}");
        }
    });
    Ok((Reader { stop, thread: Some(thread) }, receiver))
}

fn read(
    consumer: &BaseConsumer,
    mut missing: Vec<String>,
    sender: &UnboundedSender<Arrival>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut discovered = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if !missing.is_empty() && discovered.elapsed() > DISCOVERY {
            // a topic that appears now was written to already: read all of it
            discover(consumer, &mut missing, From::Beginning)?;
            discovered = Instant::now();
        }
        let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
        let at = Instant::now();
        let message = message.context("cannot read from Kafka")?;
        let headers = message.headers().map(|headers| {
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
        });
        let arrival = Arrival {
            at,
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        };
        if sender.send(arrival).is_err() {
            break;
        }
    }
    Ok(())
}

/// Takes the partitions of those topics that exist, and takes them off the list.
fn discover(consumer: &BaseConsumer, missing: &mut Vec<String>, from: From) -> Result<()> {
    let metadata =
        consumer.fetch_metadata(None, Duration::from_secs(10)).context("cannot ask Kafka for its topics")?;
    let mut found = TopicPartitionList::new();
    for topic in metadata.topics() {
        if !missing.iter().any(|name| name == topic.name()) {
            continue;
        }
        for partition in topic.partitions() {
            let offset = match from {
                From::Beginning => Offset::Beginning,
                From::End => Offset::Offset(end_of(consumer, topic.name(), partition.id())?),
            };
            found.add_partition_offset(topic.name(), partition.id(), offset)?;
        }
        missing.retain(|name| name != topic.name());
    }
    if found.count() > 0 {
        consumer.incremental_assign(&found).context("cannot take partitions")?;
    }
    Ok(())
}

/// The partition's end. A topic that was just created may have no leader yet.
fn end_of(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<i64> {
    let begun = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)) {
            Ok((_, end)) => return Ok(end),
            Err(error) if begun.elapsed() > Duration::from_secs(10) => {
                return Err(error).context("cannot ask Kafka for the end of a partition");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Waits until `topic` exists.
pub fn wait_for_topic(bootstrap: &str, topic: &str, timeout: Duration) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .context("cannot create a consumer")?;
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let metadata = consumer
            .fetch_metadata(None, Duration::from_secs(10))
            .context("cannot ask Kafka for its topics")?;
        if metadata.topics().iter().any(|found| found.name() == topic) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("topic {topic} did not appear within {} s", timeout.as_secs());
}
