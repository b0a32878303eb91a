//! `make bench`: a backlog read by pg_recvlogical and by headwater in turn, and by an earlier headwater if there is one;
//! then latency; Markdown on stdout.
//!
//! All read the same WAL: the slots of all rounds are copies of one that was made before the backlog was written.
//! The time runs from the moment the slot has a reader (a process's start does not count) to pg_recvlogical's exit at
//! the end of the backlog, or to headwater's report that Kafka acknowledged everything up to there.

mod load;
mod report;
mod rival;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_postgres::Client;

use crate::latency;
use crate::{Servers, database, observe};
use load::Load;
use report::{LatencyRow, Measured, Shape};

/// What to measure, and with what.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    servers: Servers,
    /// The binary to measure.
    #[arg(long)]
    headwater: PathBuf,
    /// An earlier binary to measure in turn with it.
    #[arg(long, requires = "against_name")]
    against: Option<PathBuf>,
    /// What the report calls the earlier one.
    #[arg(long)]
    against_name: Option<String>,
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
    /// Changes of rows with fifty columns; 0 leaves them out.
    #[arg(long, default_value_t = 100_000)]
    wide: i64,
    /// Changes of rows with a document of 10 kB; 0 leaves them out.
    #[arg(long, default_value_t = 20_000)]
    documents: i64,
    /// Rates of the latency part, per second.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    rates: Vec<u32>,
    /// Length of each latency measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

/// Of every topic.
const PARTITIONS: i32 = 6;
/// Longer than anything measured takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often headwater's metrics are read while it is measured.
const SCRAPE: Duration = Duration::from_millis(20);
/// How often the slot is looked at for its reader.
const WATCH: Duration = Duration::from_millis(3);

/// Who reads the backlog, besides pg_recvlogical.
#[derive(Clone, Copy)]
struct Reader<'a> {
    /// In names of slots, and the topics' prefix: an earlier release has schemas and a checkpoint of its own.
    name: &'static str,
    binary: &'a Path,
}

impl Settings {
    /// Today's headwater, then the earlier one.
    fn readers(&self) -> Vec<Reader<'_>> {
        let earlier = self.against.iter().map(|binary| Reader { name: "earlier", binary });
        std::iter::once(Reader { name: "headwater", binary: &self.headwater }).chain(earlier).collect()
    }

    fn loads(&self) -> Vec<(Load, i64)> {
        let inventory = |&per_transaction| (Load::Inventory { per_transaction }, self.rows);
        let others = [(Load::Wide, self.wide), (Load::Documents, self.documents)];
        self.shapes.iter().map(inventory).chain(others.into_iter().filter(|(_, rows)| *rows > 0)).collect()
    }
}

/// Runs everything.
pub async fn run(settings: &Settings) -> Result<()> {
    for rows in [settings.wide, settings.documents] {
        ensure!(rows % 10 == 0, "wide rows and documents are written ten in a transaction");
    }
    let client = database::connect(&settings.servers.database_url).await?;
    note("warming up (not counted)");
    let warm = (settings.rows / 10).max(2000) / 2000 * 2000;
    shape(settings, &client, Load::Inventory { per_transaction: 10 }, warm, 1).await?;
    let mut throughput = Vec::new();
    for (load, rows) in settings.loads() {
        throughput.push(shape(settings, &client, load, rows, settings.rounds).await?);
    }
    let mut latencies = Vec::new();
    for &rate in &settings.rates {
        for reader in settings.readers() {
            latencies.push(latency_at(settings, &client, reader, rate).await?);
        }
    }
    let server = database::text(&client, "SHOW server_version").await?;
    report::print(&server, settings.rounds, &throughput, &latencies, settings.against_name.as_deref());
    Ok(())
}

/// The rounds of one backlog.
async fn shape(settings: &Settings, client: &Client, load: Load, rows: i64, rounds: u32) -> Result<Shape> {
    drop_slots(client).await?;
    load.prepare(client).await?;
    client
        .execute("SELECT pg_create_logical_replication_slot('bench_origin', 'pgoutput')", &[])
        .await
        .context("cannot create a slot")?;
    let readers = settings.readers();
    for round in 0..rounds {
        for who in readers.iter().map(|reader| reader.name).chain(["rival"]) {
            let copy =
                format!("SELECT pg_copy_logical_replication_slot('bench_origin', 'bench_{who}_{round}')");
            client.execute(&copy, &[]).await.context("cannot copy the slot")?;
        }
    }
    note(&format!("writing {rows} changes: {}", load.name()));
    let end = load.write(client, rows).await?;
    client.batch_execute("CHECKPOINT").await?;
    let mut measured = Shape { load, rows, rival: Vec::new(), headwater: Vec::new(), earlier: Vec::new() };
    for round in 0..rounds {
        let rival = rival::measure(settings, client, &format!("bench_rival_{round}"), &end, rows).await?;
        note(&format!("  pg_recvlogical  {rival}"));
        measured.rival.push(rival);
        for &reader in &readers {
            let slot = format!("bench_{}_{round}", reader.name);
            let result = headwater(settings, client, reader, &slot, load, (&end, rows)).await?;
            note(&format!("  {:<15} {result}", reader.name));
            let list = if reader.name == "earlier" { &mut measured.earlier } else { &mut measured.headwater };
            list.push(result);
        }
    }
    drop_slots(client).await?;
    Ok(measured)
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

fn start(settings: &Settings, reader: Reader<'_>, slot: &str) -> Result<Running> {
    let config = settings.folder.join(format!("{slot}.toml"));
    let text = format!(
        r#"[postgres]
url = "{1}"
publication = "shop"
slot = "{slot}"

[kafka]
bootstrap_servers = "{2}"

[schema_registry]
url = "{3}"

[topics]
prefix = "bench_{0}"
partitions = {PARTITIONS}

[checkpoint]
topic = "bench_{0}.checkpoint"

[http]
listen = "{4}"
"#,
        reader.name,
        settings.servers.database_url,
        settings.servers.bootstrap,
        settings.servers.registry,
        settings.http
    );
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let log = File::create(settings.folder.join(format!("{slot}.log"))).context("cannot create a log")?;
    let child = Command::new(reader.binary)
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
    reader: Reader<'_>,
    slot: &str,
    load: Load,
    (end, rows): (&str, i64),
) -> Result<Measured> {
    let end = observe::lsn_number(end)?;
    let mut running = start(settings, reader, slot)?;
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
    empty_topic(settings, reader, load).await?;
    Ok(Measured { rows, elapsed, cpu, peak })
}

async fn latency_at(
    settings: &Settings,
    client: &Client,
    reader: Reader<'_>,
    rate: u32,
) -> Result<LatencyRow> {
    note(&format!("latency of {} at {rate} transactions per second", reader.name));
    let load = Load::Inventory { per_transaction: 1 };
    let prefix = format!("bench_{}", reader.name);
    let slot = format!("bench_latency_{rate}");
    drop_slots(client).await?;
    load.prepare(client).await?;
    client.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"), &[]).await?;
    let mut running = start(settings, reader, &slot)?;
    reader_of(client, &slot, &mut running.0).await?;
    // connections, caches and the broker's JIT: not part of it
    latency::measure(&settings.servers, &prefix, rate, 3).await?;
    let pid = running.0.id();
    let cpu_before = observe::cpu_seconds(pid)?;
    let report = latency::measure(&settings.servers, &prefix, rate, settings.seconds).await?;
    let cores = (observe::cpu_seconds(pid)? - cpu_before) / report.elapsed.as_secs_f64();
    note(&format!("  {report}, {cores:.3} cores"));
    stop(running)?;
    drop_slots(client).await?;
    empty_topic(settings, reader, load).await?;
    Ok(LatencyRow { reader: reader.name, report, cores })
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
async fn empty_topic(settings: &Settings, reader: Reader<'_>, load: Load) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &settings.servers.bootstrap).create()?;
    let topic = format!("bench_{}.public.{}", reader.name, load.table());
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&topic, partition, Offset::End)?;
    }
    admin.delete_records(&all, &AdminOptions::new()).await.context("cannot delete a topic's records")?;
    Ok(())
}

fn note(text: &str) {
    eprintln!("bench: {text}");
}
