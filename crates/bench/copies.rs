//! `make bench-snapshots`: a table copied by psql and by headwater in turn, into nothing and into Kafka; then the
//! latency of the stream while a table is copied beside it. Markdown on stdout.
//!
//! psql's part is `COPY table TO STDOUT` to /dev/null, as many at a time as headwater has workers, each of the whole
//! table. Headwater's time is what it says itself: from the session's beginning to the last acknowledgement, and to
//! everything that is known of that stored.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_postgres::Client;

use crate::latency::{self, Report};
use crate::{Servers, database, observe};

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
    /// Rows of the table.
    #[arg(long, default_value_t = 5_000_000)]
    rows: i64,
    /// Rounds; the medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Copies at a time.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Transactions per second of the latency part; 0 leaves it out.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Length of each latency measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// `snapshot.max_rows_per_second` of the limited copy of the latency part.
    #[arg(long, default_value_t = 50_000)]
    limit: u32,
}

const TABLE: &str = "bench_copied";
const PREFIX: &str = "bench_copy";
/// Of every topic.
const PARTITIONS: i32 = 6;
/// Longer than anything measured takes.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often the kernel is asked what a process took: what it says is gone once that has ended.
const LOOK: Duration = Duration::from_millis(5);

/// One copy.
struct Copied {
    rows: i64,
    seconds: f64,
    /// CPU seconds, user and system.
    cpu: f64,
    /// Peak resident memory, MiB.
    peak: f64,
}

impl Copied {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    fn cpu_per_million(&self) -> f64 {
        self.cpu * 1e6 / self.rows as f64
    }
}

/// Who copies, and where to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Psql,
    Nothing,
    Kafka,
}

impl Way {
    const ALL: [Way; 3] = [Way::Psql, Way::Nothing, Way::Kafka];

    fn name(self) -> &'static str {
        match self {
            Way::Psql => "psql, COPY to /dev/null",
            Way::Nothing => "headwater, Avro into nothing",
            Way::Kafka => "headwater, Avro into Kafka",
        }
    }
}

/// What is copied while latency is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Unlimited,
    Limited,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nothing, Beside::Unlimited, Beside::Limited];
}

/// Runs everything.
pub async fn run(settings: &Settings) -> Result<()> {
    let client = database::connect(&settings.servers.database_url).await?;
    drop_slots(&client).await?;
    fill(&client, settings.rows).await?;
    let bytes: i64 = client.query_one(&format!("SELECT pg_table_size('public.{TABLE}')"), &[]).await?.get(0);
    note("warming up (not counted)");
    for way in Way::ALL {
        copy(settings, &client, way, 0).await?;
    }
    let mut measured: Vec<Vec<Copied>> = Way::ALL.iter().map(|_| Vec::new()).collect();
    for round in 1..=settings.rounds {
        for (way, results) in Way::ALL.into_iter().zip(&mut measured) {
            let copied = copy(settings, &client, way, round).await?;
            note(&format!(
                "  {:<30} {:>9.0} rows/s  {:.2} CPU s per million  {:.0} MiB",
                way.name(),
                copied.rate(),
                copied.cpu_per_million(),
                copied.peak
            ));
            results.push(copied);
        }
    }
    print_copies(settings, &database::text(&client, "SHOW server_version").await?, bytes, &measured);
    if settings.rate > 0 {
        let mut reports: Vec<Vec<(Report, f64)>> = Beside::ALL.iter().map(|_| Vec::new()).collect();
        for round in 1..=settings.rounds {
            for (beside, results) in Beside::ALL.into_iter().zip(&mut reports) {
                results.push(latency_beside(settings, &client, beside, round).await?);
            }
        }
        print_latencies(settings, &reports);
    }
    client.batch_execute(&format!("DROP TABLE public.{TABLE}")).await?;
    Ok(())
}

/// Rows of the demo's inventory, vacuumed, so that nobody sets hint bits while it is measured.
async fn fill(client: &Client, rows: i64) -> Result<()> {
    note(&format!("filling a table with {rows} rows"));
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS public.{TABLE};
             CREATE TABLE public.{TABLE} (LIKE public.inventory INCLUDING ALL);
             ALTER PUBLICATION shop ADD TABLE public.{TABLE};
             INSERT INTO public.{TABLE} (id, sku, name, quantity, price)
             SELECT id, 'SKU-' || id, 'backlog item number ' || id, id % 1000, (id % 100000) / 100.0
               FROM generate_series(1, {rows}) AS id"
        ))
        .await
        .context("cannot fill the table")?;
    client.batch_execute(&format!("VACUUM (FREEZE, ANALYZE) public.{TABLE}")).await?;
    client.batch_execute("CHECKPOINT").await.context("cannot checkpoint")
}

async fn copy(settings: &Settings, client: &Client, way: Way, round: u32) -> Result<Copied> {
    match way {
        Way::Psql => psql(settings),
        Way::Nothing | Way::Kafka => {
            let name = if way == Way::Kafka { "kafka" } else { "nothing" };
            let slot = slot_name(&format!("{name}_{round}"));
            let copied = headwater(settings, way, &slot);
            drop_slots(client).await?;
            if way == Way::Kafka && copied.is_ok() {
                empty_topic(settings).await?;
            }
            copied
        }
    }
}

/// One that no checkpoint of an earlier run knows.
fn slot_name(of: &str) -> String {
    format!("bench_copy_{}_{of}", std::process::id())
}

fn psql(settings: &Settings) -> Result<Copied> {
    let begun = Instant::now();
    let mut running = Vec::new();
    for _ in 0..settings.workers {
        let child = Command::new("psql")
            .args([
                "-XAtq",
                "-d",
                &settings.servers.database_url,
                "-c",
                &format!("COPY public.{TABLE} TO STDOUT"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start psql")?;
        running.push((Running(child), 0.0, 0.0));
    }
    while look_at(&mut running)? {
        ensure!(begun.elapsed() < PATIENCE, "psql did not finish");
        std::thread::sleep(LOOK);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = running.iter().map(|(_, cpu, _)| cpu).sum();
    let peak = running.iter().map(|(_, _, peak)| peak).sum();
    Ok(Copied { rows: settings.rows * i64::from(settings.workers), seconds, cpu, peak })
}

/// Notes what each took; false once all of them have ended, and well.
fn look_at(running: &mut [(Running, f64, f64)]) -> Result<bool> {
    let mut any = false;
    for (child, cpu, peak) in running {
        let pid = child.0.id();
        if let (Ok(used), Ok(memory)) = (observe::cpu_seconds(pid), observe::memory(pid))
            && memory.peak > 0.0
        {
            (*cpu, *peak) = (used, memory.peak);
        }
        match child.0.try_wait()? {
            None => any = true,
            Some(status) => ensure!(status.success(), "a copy ended: {status}"),
        }
    }
    Ok(any)
}

fn headwater(settings: &Settings, way: Way, slot: &str) -> Result<Copied> {
    let more = match way {
        Way::Kafka => String::new(),
        _ => {
            let file = settings.folder.join(format!("{slot}.checkpoint.json"));
            format!("[sink]\ntype = \"discard\"\n[checkpoint]\nfile = \"{}\"\n", file.display())
        }
    };
    let snapshot = format!(
        "[snapshot]\nmode = \"only\"\ninclude_tables = \"public.{TABLE}\"\nworkers = {}\n",
        settings.workers
    );
    let mut running = vec![(start(settings, slot, &(snapshot + &more))?, 0.0, 0.0)];
    let begun = Instant::now();
    while look_at(&mut running)
        .with_context(|| format!("its log is {slot}.log in {}", settings.folder.display()))?
    {
        ensure!(begun.elapsed() < PATIENCE, "headwater did not finish");
        std::thread::sleep(LOOK);
    }
    let log = std::fs::read_to_string(settings.folder.join(format!("{slot}.log")))?;
    let complete = log.lines().find(|line| line.contains("the snapshot is complete"));
    let complete = complete.context("headwater does not say that the snapshot is complete")?;
    let (rows, seconds) = (field(complete, "rows")?, field(complete, "seconds")?);
    ensure!(rows as i64 == settings.rows, "headwater copied {rows} of {} rows", settings.rows);
    let (_, cpu, peak) = running.remove(0);
    Ok(Copied { rows: settings.rows, seconds, cpu, peak })
}

/// A number of a line of the log, which is JSON.
fn field(line: &str, name: &str) -> Result<f64> {
    let after = line.split_once(&format!("\"{name}\":")).map(|(_, after)| after);
    let text = after.and_then(|after| after.split([',', '}']).next());
    text.and_then(|text| text.parse().ok()).with_context(|| format!("no {name} in {line}"))
}

/// A running process; killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // it may have ended on its own
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn start(settings: &Settings, slot: &str, more: &str) -> Result<Running> {
    let config = settings.folder.join(format!("{slot}.toml"));
    let checkpoint = if more.contains("[checkpoint]") {
        String::new()
    } else {
        format!("[checkpoint]\ntopic = \"{slot}.checkpoint\"\n")
    };
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

{checkpoint}
{more}
"#,
        settings.servers.database_url, settings.servers.bootstrap, settings.servers.registry, settings.http
    );
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let log = File::create(settings.folder.join(format!("{slot}.log"))).context("cannot create a log")?;
    let child = Command::new(&settings.headwater)
        .args(["run", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start headwater")?;
    Ok(Running(child))
}

/// Latency of the stream, and rows per second of the copy beside it.
async fn latency_beside(
    settings: &Settings,
    client: &Client,
    beside: Beside,
    round: u32,
) -> Result<(Report, f64)> {
    client.batch_execute("TRUNCATE public.inventory").await?;
    let number = Beside::ALL.iter().position(|each| *each == beside).unwrap_or_default();
    let slot = slot_name(&format!("beside_{number}_{round}"));
    let limit = if beside == Beside::Limited { settings.limit } else { 0 };
    let snapshot = format!("[snapshot]\nmode = \"never\"\nmax_rows_per_second = {limit}\n");
    let mut running = start(settings, &slot, &snapshot)?;
    let pid = running.0.id();
    let http = settings.http.clone();
    tokio::task::spawn_blocking(move || observe::wait_until_ready(&http, Some(pid), PATIENCE)).await??;
    // connections, caches and the broker's JIT: not part of it
    latency::measure(&settings.servers, PREFIX, settings.rate, 3).await?;
    let rows_before = if beside == Beside::Nothing {
        0.0
    } else {
        command(settings, &slot, &["start", &format!("public.{TABLE}")])?;
        observe::scrape(&settings.http)?.get("headwater_snapshot_rows_total")
    };
    let report = latency::measure(&settings.servers, PREFIX, settings.rate, settings.seconds).await?;
    let metrics = observe::scrape(&settings.http)?;
    let rate = (metrics.get("headwater_snapshot_rows_total") - rows_before) / report.elapsed.as_secs_f64();
    if beside != Beside::Nothing && metrics.get("headwater_snapshot_tables_left") < 1.0 {
        note("  the copy ended before the measurement did: more ROWS= or less SECONDS_EACH=");
    }
    note(&format!("  {report}, {rate:.0} rows/s copied beside it"));
    stop(&mut running)?;
    drop_slots(client).await?;
    empty_topic(settings).await?;
    Ok((report, rate))
}

fn command(settings: &Settings, slot: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(&settings.headwater)
        .arg("snapshot")
        .args(arguments)
        .arg("-c")
        .arg(settings.folder.join(format!("{slot}.toml")))
        .stdout(Stdio::null())
        .status()
        .context("cannot run headwater snapshot")?;
    ensure!(status.success(), "headwater snapshot {arguments:?}: {status}");
    Ok(())
}

/// Ends it as an operator would, so that its slot is free again.
pub fn stop(running: &mut Running) -> Result<()> {
    Command::new("kill").arg(running.0.id().to_string()).status().context("cannot run kill")?;
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(30) {
        if running.0.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("headwater did not stop within 30 s of SIGTERM")
}

pub async fn drop_slots(client: &Client) -> Result<()> {
    let asked = Instant::now();
    loop {
        let active: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'bench\\_%' AND active",
                &[],
            )
            .await?
            .get(0);
        if active == 0 {
            break;
        }
        ensure!(asked.elapsed() < Duration::from_secs(30), "a slot of the benchmark is still in use");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client
        .execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'bench\\_%'", &[])
        .await
        .context("cannot drop the slots")?;
    Ok(())
}

/// Gives the disk back between rounds. The topics and their schemas stay: creating them is not what is measured.
async fn empty_topic(settings: &Settings) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &settings.servers.bootstrap).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&format!("{PREFIX}.public.{TABLE}"), partition, Offset::End)?;
    }
    // It is not there before the first copy.
    drop(admin.delete_records(&all, &AdminOptions::new()).await.context("cannot delete a topic's records")?);
    Ok(())
}

fn print_copies(settings: &Settings, server: &str, bytes: i64, measured: &[Vec<Copied>]) {
    println!(
        "{} rows of `inventory` ({} MB), PostgreSQL {server}, {} at a time; medians of {} rounds in turn.\n",
        settings.rows,
        bytes / 1_000_000,
        settings.workers,
        settings.rounds
    );
    println!("| what | rows/s | lowest–highest | of psql's, by round | CPU s per million | peak MiB |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (way, copies) in Way::ALL.into_iter().zip(measured) {
        let rates: Vec<f64> = copies.iter().map(Copied::rate).collect();
        let ratios: Vec<f64> =
            copies.iter().zip(&measured[0]).map(|(copied, psql)| copied.rate() / psql.rate()).collect();
        println!(
            "| {} | {:.0} | {:.0}–{:.0} | {:.2} | {:.2} | {:.0} |",
            way.name(),
            median(&rates),
            rates.iter().copied().fold(f64::MAX, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
            median(&ratios),
            median(&copies.iter().map(Copied::cpu_per_million).collect::<Vec<_>>()),
            copies.iter().map(|copied| copied.peak).fold(0.0, f64::max)
        );
    }
}

fn print_latencies(settings: &Settings, reports: &[Vec<(Report, f64)>]) {
    println!(
        "\nCommit to consumer at {} transactions/s, {} s each, medians of {} rounds in turn.\n",
        settings.rate, settings.seconds, settings.rounds
    );
    println!("| beside it | rows/s copied | held | p50 ms | p99 ms | p99.9 ms | p99, of that alone |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let of = |reports: &[(Report, f64)], what: fn(&Report) -> f64| {
        median(&reports.iter().map(|(report, _)| what(report)).collect::<Vec<_>>())
    };
    let p99 = |report: &Report| report.p99.as_secs_f64() * 1e3;
    let alone = of(&reports[0], p99);
    for (beside, reports) in Beside::ALL.into_iter().zip(reports) {
        let name = match beside {
            Beside::Nothing => "nothing".to_owned(),
            Beside::Unlimited => "a copy".to_owned(),
            Beside::Limited => format!("a copy, max_rows_per_second = {}", settings.limit),
        };
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
            median(&reports.iter().map(|(_, rate)| *rate).collect::<Vec<_>>()),
            of(reports, |report| report.held_per_second),
            of(reports, |report| report.p50.as_secs_f64() * 1e3),
            of(reports, p99),
            of(reports, |report| report.p999.as_secs_f64() * 1e3),
            of(reports, p99) / alone
        );
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

pub fn note(text: &str) {
    eprintln!("bench: {text}");
}
