//! Commit-to-consumer latency: from the return of a commit to the return of a stock consumer's poll.
//!
//! The load is open: each transaction has its moment, whether or not those before it are done, over several
//! connections whose commits are synchronous. Rows and records are matched by the row's id.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use apache_avro::types::Value;
use schema_registry_converter::async_impl::avro::AvroDecoder;
use schema_registry_converter::async_impl::schema_registry::SrSettings;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::consumer::{self, Arrival, From};
use crate::{Servers, database};

/// Connections that share the load: enough for 5,000 synchronous commits a second on a slow disk.
const CONNECTIONS: u32 = 16;
/// How long a record may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured.
pub struct Report {
    pub asked_per_second: u32,
    pub held_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub transactions: u32,
    /// From the first transaction to the last record.
    pub elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        write!(
            f,
            "{} transactions, {:.0} of {} per second held: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
            self.transactions,
            self.held_per_second,
            self.asked_per_second,
            ms(self.p50),
            ms(self.p99),
            ms(self.p999)
        )
    }
}

/// When each row's commit returned, in nanoseconds after the start; zero: not yet.
struct Commits {
    start: Instant,
    first_id: i64,
    nanos: Vec<AtomicU64>,
    next: AtomicI64,
}

impl Commits {
    /// Zero for a record that arrived before its commit returned: others may see a commit before its own session does.
    fn age(&self, index: usize, arrived: Instant) -> Duration {
        let commit = Duration::from_nanos(self.nanos[index].load(Ordering::Acquire));
        arrived.saturating_duration_since(self.start).saturating_sub(commit)
    }
}

/// Runs `rate` single-row transactions per second for `seconds`, while a consumer reads the table's topic.
pub async fn measure(servers: &Servers, prefix: &str, rate: u32, seconds: u32) -> Result<Report> {
    let topic = format!("{prefix}.public.inventory");
    let client = database::connect(&servers.database_url).await?;
    // the topic may only appear with its first record
    client
        .batch_execute(
            "INSERT INTO public.inventory (id, sku, name, price)
             SELECT coalesce(max(id), 0) + 1, 'WARM', 'warm-up', 1 FROM public.inventory",
        )
        .await?;
    let bootstrap = servers.bootstrap.clone();
    let awaited = topic.clone();
    tokio::task::spawn_blocking(move || consumer::wait_for_topic(&bootstrap, &awaited, PATIENCE)).await??;
    let (reader, mut arrivals) = consumer::start(&servers.bootstrap, &[topic], From::End)?;

    let first_id: i64 = client
        .query_one("SELECT greatest(coalesce(max(id), 0), 1000000000) + 1 FROM public.inventory", &[])
        .await?
        .get(0);
    let mut writers = Vec::new();
    for _ in 0..CONNECTIONS {
        writers.push(database::connect(&servers.database_url).await?);
    }
    let total = rate * seconds;
    let commits = Arc::new(Commits {
        start: Instant::now(),
        first_id,
        nanos: (0..total).map(|_| AtomicU64::new(0)).collect(),
        next: AtomicI64::new(0),
    });
    let mut running = JoinSet::new();
    for writer in writers {
        running.spawn(write(writer, Arc::clone(&commits), f64::from(rate)));
    }
    let received = receive(servers, &commits, &mut arrivals);
    let written = async {
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(commits.start.elapsed())
    };
    let (received, written) = tokio::try_join!(received, written)?;
    let elapsed = commits.start.elapsed();
    drop(reader);
    let mut latencies: Vec<Duration> = received.iter().map(|(index, at)| commits.age(*index, *at)).collect();
    latencies.sort_unstable();
    let quantile =
        |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
    Ok(Report {
        asked_per_second: rate,
        held_per_second: f64::from(total) / written.as_secs_f64(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        p999: quantile(0.999),
        transactions: total,
        elapsed,
    })
}

async fn write(client: Client, commits: Arc<Commits>, rate: f64) -> Result<()> {
    let insert = client
        .prepare("INSERT INTO public.inventory (id, sku, name, quantity, price) VALUES ($1, 'LATENCY', 'one of many', 1, 9.99)")
        .await?;
    loop {
        let index = commits.next.fetch_add(1, Ordering::Relaxed);
        let Some(commit) = usize::try_from(index).ok().and_then(|index| commits.nanos.get(index)) else {
            return Ok(());
        };
        let moment = commits.start + Duration::from_secs_f64(index as f64 / rate);
        tokio::time::sleep_until(moment.into()).await;
        client.execute(&insert, &[&(commits.first_id + index)]).await.context("cannot insert")?;
        commit.store(commits.start.elapsed().as_nanos() as u64, Ordering::Release);
    }
}

/// Collects one arrival per row, as the row's index and the moment.
async fn receive(
    servers: &Servers,
    commits: &Commits,
    arrivals: &mut UnboundedReceiver<Arrival>,
) -> Result<Vec<(usize, Instant)>> {
    let decoder = AvroDecoder::new(SrSettings::new(servers.registry.clone()));
    let total = commits.nanos.len();
    let mut received = Vec::with_capacity(total);
    while received.len() < total {
        let Ok(Some(arrival)) = tokio::time::timeout(PATIENCE, arrivals.recv()).await else {
            bail!("{} of {total} records arrived, then none for {} s", received.len(), PATIENCE.as_secs())
        };
        let id = row_id(&decoder, arrival.key.as_deref()).await?;
        // the warm-up row may come late
        if let Some(index) = usize::try_from(id - commits.first_id).ok().filter(|index| *index < total) {
            received.push((index, arrival.at));
        }
    }
    Ok(received)
}

async fn row_id(decoder: &AvroDecoder, key: Option<&[u8]>) -> Result<i64> {
    let Value::Record(fields) = decoder.decode(key).await?.value else { bail!("the key is not a record") };
    match fields.first() {
        Some((_, Value::Long(id))) => Ok(*id),
        _ => bail!("the key does not begin with the row's id"),
    }
}
