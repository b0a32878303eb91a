//! Watches the slot while a test runs: every 50 ms what it has confirmed, and right after a change, how far every
//! partition of the test's topics reaches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::database::{self, parse_lsn};
use super::evidence::Sample;
use super::kafka::Watermarks;
use super::servers::{Kafka, Postgres};

const EVERY: Duration = Duration::from_millis(50);

/// A running watch.
pub struct Sampler {
    ended: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sampler {
    /// Starts watching a slot and the topics that begin with `prefix`.
    pub fn start(server: &Postgres, slot: &str, kafka: &Kafka, prefix: &str) -> Sampler {
        let ended = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let watch = Watch {
            server: server.clone(),
            sql: format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{slot}'"),
            kafka: kafka.clone(),
            prefix: prefix.to_owned(),
            ended: ended.clone(),
            samples: samples.clone(),
        };
        Sampler { ended, samples, task: tokio::spawn(watch.run()) }
    }

    /// Stops watching and gives what was seen.
    pub async fn finish(self) -> Vec<Sample> {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await.expect("the sampler does not panic");
        std::mem::take(&mut self.samples.lock().expect("no panic while locked"))
    }
}

struct Watch {
    server: Postgres,
    sql: String,
    kafka: Kafka,
    prefix: String,
    ended: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Watch {
    async fn run(self) {
        let mut watermarks = Arc::new(Mutex::new(Watermarks::new(&self.kafka.bootstrap, &self.prefix)));
        let mut client = None;
        let mut last = 0;
        while !self.ended.load(Ordering::Relaxed) {
            tokio::time::sleep(EVERY).await;
            // A stopped server has no position to sample; the next look finds it again.
            if client.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
                client = database::connect(&self.server, "postgres").await.ok();
            }
            let Some(connected) = &client else { continue };
            let Some(confirmed) = position(connected, &self.sql).await else { continue };
            if confirmed == last {
                continue;
            }
            let reader = watermarks.clone();
            let read = tokio::task::spawn_blocking(move || reader.lock().ok()?.read()).await;
            match read {
                Ok(Some(ends)) => {
                    last = confirmed;
                    let sample = Sample { confirmed, ends: Arc::new(ends) };
                    self.samples.lock().expect("no panic while locked").push(sample);
                }
                // The broker is away: the same position is looked at again.
                Ok(None) => {}
                Err(_) => {
                    watermarks = Arc::new(Mutex::new(Watermarks::new(&self.kafka.bootstrap, &self.prefix)))
                }
            }
        }
    }
}

async fn position(client: &tokio_postgres::Client, sql: &str) -> Option<u64> {
    let messages = client.simple_query(sql).await.ok()?;
    messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => parse_lsn(row.get(0)?).ok(),
        _ => None,
    })
}

/// Partition ends by topic and partition.
pub type Ends = HashMap<(String, i32), i64>;
