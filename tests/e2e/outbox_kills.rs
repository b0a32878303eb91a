//! kill -9 at random while services write events and consumers answer: no event is lost, nothing says SENT that Kafka
//! does not have, the order of each aggregate is kept, and in the end every row says what became of its event. Once with
//! one instance that is started again, once with another that stands by. The oracles are psql and a stock consumer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::kafka::{self, Raw};
use crate::harness::random::Random;
use crate::harness::until;
use crate::outbox_status::{self, prepare};

const KILLS: usize = 8;
const SEED: u64 = 20_261;
const WRITERS: u64 = 3;

/// Services: each writes its own aggregates, counting, and now and then takes back what it wrote.
struct Services {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<u64>>>,
}

impl Services {
    async fn start(test: &Fixture) -> Result<Services> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let (client, stop) = (test.database.connect().await?, stop.clone());
            tasks.push(tokio::spawn(async move {
                let mut random = Random::new(SEED + writer);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let rows = 1 + random.below(5);
                    let end = if random.chance(10) { "rollback" } else { "commit" };
                    let sql = format!(
                        "begin; select headwater.outbox_put('order', 'o-{writer}', 'OrderPlaced', jsonb_build_object('n', n, 'kept', {})) \
                         from generate_series({n} + 1, {n} + {rows}) n; {end}",
                        end == "commit"
                    );
                    client.batch_execute(&sql).await?;
                    n += if end == "commit" { rows } else { 0 };
                }
                Ok(n)
            }));
        }
        Ok(Services { stop, tasks })
    }

    /// How many events were committed.
    async fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut events = 0;
        for task in self.tasks {
            events += task.await??;
        }
        Ok(events)
    }
}

fn config(test: &Fixture) -> Config {
    outbox_status::config(test)
        .set("feedback.topic", format!("feedback.{}", test.prefix()))
        .set("feedback.group", test.prefix())
}

fn events(test: &Fixture) -> Result<Vec<Raw>> {
    test.raw_topic(&format!("outbox.{}.order", test.prefix()))
}

/// Whoever says SENT is in Kafka: the topic is read after the rows.
async fn sent_is_true(test: &Fixture) -> Result<usize> {
    let rows = test.database.rows("select id from headwater.outbox where status <> 'NEW'").await?;
    let in_kafka: HashSet<String> = events(test)?.iter().filter_map(|event| event.header("id")).collect();
    for row in &rows {
        let id = row[0].as_deref().context("an id")?;
        ensure!(in_kafka.contains(id), "{id} says that it was sent, and Kafka does not have it");
    }
    Ok(rows.len())
}

/// A consumer answers for every second event that it has not answered for.
fn answer(test: &Fixture, answered: &mut BTreeSet<String>) -> Result<()> {
    let mut answers = Vec::new();
    for event in events(test)? {
        let id = event.header("id").context("an event without its id")?;
        let number = number(&event)?;
        if number % 2 == 0 && answered.insert(id.clone()) {
            let body =
                json!({ "event_id": id, "status": "SUCCESS", "consumer": "stock", "attempt": 1 }).to_string();
            answers.push((id, body));
        }
    }
    let answers: Vec<(&str, &str)> = answers.iter().map(|(id, body)| (id.as_str(), body.as_str())).collect();
    tokio::task::block_in_place(|| {
        kafka::produce(&test.kafka.bootstrap, &format!("feedback.{}", test.prefix()), &answers)
    })
}

fn number(event: &Raw) -> Result<u64> {
    let payload: serde_json::Value = serde_json::from_slice(event.value.as_deref().context("no value")?)?;
    ensure!(payload["kept"] == true, "an event of a transaction that was rolled back");
    payload["n"].as_u64().context("no number")
}

/// First occurrences count upwards without a gap, in every aggregate.
fn whole_and_in_order(events: &[Raw]) -> Result<u64> {
    let mut last: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut ids = HashSet::new();
    for event in events {
        if !ids.insert(event.header("id").context("no id")?) {
            continue;
        }
        let seen = last.entry(event.key.clone().context("no key")?).or_default();
        let number = number(event)?;
        ensure!(number == *seen + 1, "{number} follows {seen}");
        *seen = number;
    }
    Ok(last.values().sum())
}

async fn next(test: &mut Fixture, standby: Option<Headwater>) -> Result<Headwater> {
    let mut next = match standby {
        Some(standby) => standby,
        None => test.spawn(config(test))?,
    };
    next.streaming().await?;
    Ok(next)
}

async fn killed(test: &mut Fixture, stands_by: bool) -> Result<()> {
    prepare(test).await?;
    // An instance that goes away in the middle of a rebalance, and one that comes before the topic is there.
    test.expect_complaint("reading the answers of consumers");
    let mut headwater = next(test, None).await?;
    let services = Services::start(test).await?;
    let mut random = Random::new(SEED);
    let mut answered = BTreeSet::new();
    for _ in 0..KILLS {
        let standby = match stands_by {
            true => Some(test.spawn(config(test))?),
            false => None,
        };
        headwater.metric_until("headwater_outbox_rows_total", &["sent"], |n| n > 0.0).await?;
        answer(test, &mut answered)?;
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        headwater.kill()?;
        sent_is_true(test).await?;
        headwater = next(test, standby).await?;
    }
    let written = services.finish().await?;
    test.settle().await?;
    answer(test, &mut answered)?;
    until(Duration::from_secs(90), "every row to say what became of its event", async || {
        let sql = "select count(*) filter (where status = 'PROCESSED') || ' ' || count(*) filter (where status = 'SENT') || ' ' || count(*) from headwater.outbox";
        let counts = test.database.value(sql).await?.unwrap_or_default();
        Ok(counts == format!("{} {} {written}", answered.len(), written - answered.len() as u64))
    })
    .await?;
    let told = sent_is_true(test).await?;
    headwater.stop().await?;
    let events = events(test)?;
    let kept = whole_and_in_order(&events)?;
    ensure!(kept == written && told as u64 == written, "{kept} of {written} events, {told} rows");
    println!(
        "{written} events, {} answered, {} records repeated by {KILLS} kills",
        answered.len(),
        events.len() as u64 - written
    );
    Ok(())
}

#[test]
fn killed_at_random_under_load() {
    on_shared("outbox_kills", async |test| killed(test, false).await);
}

#[test]
fn killed_with_another_standing_by() {
    on_shared("outbox_standby", async |test| killed(test, true).await);
}
