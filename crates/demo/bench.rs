//! `make bench`: a backlog read by pg_recvlogical and by headwater in turn, then latency; Markdown on stdout.
//!
//! Both read the same WAL: the slots of all rounds are copies of one that was made before the backlog was written.
//! The time runs from the moment the slot has a reader (a process's start does not count) to pg_recvlogical's exit at
//! the end of the backlog, or to headwater's report that Kafka acknowledged everything up to there.

mod report;
mod rival;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_postgres::Client;

use crate::latency;
use crate::{Servers, backlog, database, observe};
use report::{LatencyRow, Measured};

/// What to measure, and with what.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    servers: Servers,
    /// The binary to measure.
    #[arg(long)]
    headwater: PathBuf,
    /// A folder for configurations and logs.
    #[arg(long)]
    folder: PathBuf,
    /// Where headwater serves its metrics.
    #[arg(long)]
    http: String,
    /// Changes of the backlog.
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
    /// Rounds; the medians are reported.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Rows per transaction, one table line each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 1000])]
    shapes: Vec<i64>,
    /// Rates of the latency part, per second.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    rates: Vec<u32>,
    /// Length of each latency measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

/// The topic of all rounds.
const PREFIX: &str = "bench";
const TOPIC: &str = "bench.public.inventory";
const PARTITIONS: i32 = 6;
/// Longer than anything measured takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often headwater's metrics are read while it is measured.
const SCRAPE: Duration = Duration::from_millis(20);
/// How often the slot is looked at for its reader.
const WATCH: Duration = Duration::from_millis(3);

/// Runs everything.
pub async fn run(settings: &Settings) -> Result<()> {
    let client = database::connect(&settings.servers.database_url).await?;
    // vacuum would write WAL of its own into the backlog
    client.batch_execute("ALTER TABLE public.inventory SET (autovacuum_enabled = off)").await?;
    note("warming up (not counted)");
    shape(settings, &client, (settings.rows / 10).max(2000) / 2000 * 2000, 10, 1).await?;
    let mut throughput = Vec::new();
    for &per_transaction in &settings.shapes {
        throughput.push((
            per_transaction,
            shape(settings, &client, settings.rows, per_transaction, settings.rounds).await?,
        ));
    }
    let mut latencies = Vec::new();
    for &rate in &settings.rates {
        latencies.push(latency_at(settings, &client, rate).await?);
    }
    let server = database::text(&client, "SHOW server_version").await?;
    report::print(&server, settings.rows, settings.rounds, &throughput, &latencies);
    Ok(())
}

/// The rounds of one backlog: the rival's and headwater's results.
async fn shape(
    settings: &Settings,
    client: &Client,
    rows: i64,
    per_transaction: i64,
    rounds: u32,
) -> Result<(Vec<Measured>, Vec<Measured>)> {
    drop_slots(client).await?;
    client.batch_execute("TRUNCATE public.inventory").await?;
    client
        .execute("SELECT pg_create_logical_replication_slot('bench_origin', 'pgoutput')", &[])
        .await
        .context("cannot create a slot")?;
    for round in 0..rounds {
        for who in ["rival", "headwater"] {
            let copy =
                format!("SELECT pg_copy_logical_replication_slot('bench_origin', 'bench_{who}_{round}')");
            client.execute(&copy, &[]).await.context("cannot copy the slot")?;
        }
    }
    note(&format!("writing {rows} changes, {per_transaction} per transaction"));
    let end = backlog::write(client, rows, per_transaction).await?;
    client.batch_execute("CHECKPOINT").await?;
    let (mut rivals, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        rivals.push(rival::measure(settings, client, &format!("bench_rival_{round}"), &end, rows).await?);
        note(&format!("  pg_recvlogical  {}", rivals[rivals.len() - 1]));
        ours.push(headwater(settings, client, &format!("bench_headwater_{round}"), &end, rows).await?);
        note(&format!("  headwater       {}", ours[ours.len() - 1]));
    }
    drop_slots(client).await?;
    Ok((rivals, ours))
}

/// A running headwater; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // it may have ended on its own
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn start(settings: &Settings, slot: &str) -> Result<Running> {
    let config = settings.folder.join(format!("{slot}.toml"));
    let text = format!(
        r#"[postgres]
url = "{}"
publication = "shop"
slot = "{slot}"

[kafka]
bootstrap_servers = "{}"

[schema_registry]
url = "{}"

[topics]
prefix = "{PREFIX}"
partitions = {PARTITIONS}

[http]
listen = "{}"
"#,
        settings.servers.database_url, settings.servers.bootstrap, settings.servers.registry, settings.http
    );
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let log = File::create(settings.folder.join(format!("{slot}.log"))).context("cannot create a log")?;
    let child = Command::new(&settings.headwater)
        .args(["run", "--adopt-slot", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start headwater")?;
    Ok(Running(child))
}

/// Measures headwater on a backlog that ends at `end`.
async fn headwater(
    settings: &Settings,
    client: &Client,
    slot: &str,
    end: &str,
    rows: i64,
) -> Result<Measured> {
    let end = observe::lsn_number(end)?;
    let mut running = start(settings, slot)?;
    let pid = running.0.id();
    let begun = reader_of(client, slot, &mut running.0).await?;
    let cpu_before = observe::cpu_seconds(pid)?;
    let elapsed = loop {
        tokio::time::sleep(SCRAPE).await;
        if let Ok(metrics) = observe::scrape(&settings.http)
            && metrics.get("headwater_acknowledged_lsn") >= end as f64
        {
            break begun.elapsed();
        }
        ended(&mut running.0, "headwater")?;
        if begun.elapsed() > PATIENCE {
            bail!("headwater did not finish; its log is in {}", settings.folder.display());
        }
    };
    let cpu = observe::cpu_seconds(pid)? - cpu_before;
    let peak = observe::memory(pid)?.peak;
    let records = observe::scrape(&settings.http)?.get("headwater_records_total");
    if records as i64 != rows {
        bail!("headwater produced {records} records from {rows} changes");
    }
    stop(running)?;
    empty_topic(settings).await?;
    Ok(Measured { rows, elapsed, cpu, peak })
}

async fn latency_at(settings: &Settings, client: &Client, rate: u32) -> Result<LatencyRow> {
    note(&format!("latency at {rate} transactions per second"));
    let slot = format!("bench_latency_{rate}");
    drop_slots(client).await?;
    client.batch_execute("TRUNCATE public.inventory").await?;
    client.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"), &[]).await?;
    let mut running = start(settings, &slot)?;
    reader_of(client, &slot, &mut running.0).await?;
    // connections, caches and the broker's JIT: not part of it
    latency::measure(&settings.servers, PREFIX, rate, 3).await?;
    let pid = running.0.id();
    let cpu_before = observe::cpu_seconds(pid)?;
    let report = latency::measure(&settings.servers, PREFIX, rate, settings.seconds).await?;
    let cores = (observe::cpu_seconds(pid)? - cpu_before) / report.elapsed.as_secs_f64();
    note(&format!("  {report}, {cores:.3} cores"));
    stop(running)?;
    drop_slots(client).await?;
    empty_topic(settings).await?;
    Ok(LatencyRow { report, cores })
}

/// Ends it as an operator would, so that its slot is free again.
fn stop(mut running: Running) -> Result<()> {
    let pid = running.0.id().to_string();
    Command::new("kill").arg(&pid).status().context("cannot run kill")?;
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(15) {
        if running.0.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("headwater did not stop within 15 s of SIGTERM")
}

/// Waits until `slot` has a reader, and returns that moment.
async fn reader_of(client: &Client, slot: &str, child: &mut Child) -> Result<Instant> {
    let active = client.prepare("SELECT active FROM pg_replication_slots WHERE slot_name = $1").await?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if client.query_one(&active, &[&slot]).await.context("the slot is gone")?.get(0) {
            return Ok(Instant::now());
        }
        ended(child, "the reader")?;
        tokio::time::sleep(WATCH).await;
    }
    bail!("slot {slot} found no reader within 60 s")
}

fn ended(child: &mut Child, what: &str) -> Result<()> {
    match child.try_wait()? {
        Some(status) => bail!("{what} ended: {status}"),
        None => Ok(()),
    }
}

async fn drop_slots(client: &Client) -> Result<()> {
    client
        .execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'bench\\_%'", &[])
        .await
        .context("cannot drop the slots")?;
    Ok(())
}

/// Gives the disk back between rounds. The topic and its schemas stay: creating them is not what is measured.
async fn empty_topic(settings: &Settings) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &settings.servers.bootstrap).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(TOPIC, partition, Offset::End)?;
    }
    admin.delete_records(&all, &AdminOptions::new()).await.context("cannot delete a topic's records")?;
    Ok(())
}

fn note(text: &str) {
    eprintln!("bench: {text}");
}
