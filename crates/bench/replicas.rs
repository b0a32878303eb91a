//! `make bench-apply`: rows from Kafka into tables of another server by `headwater apply`, beside psql's COPY of the
//! same rows; then the whole way, from commits at the source to the replica's table. Markdown on stdout.
//!
//! Timed from the first record that was read to the commit of the last, as `/metrics` says. Source, relay, broker,
//! registry, replica and apply run on the same machine, and the relay is connected throughout.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio_postgres::Client;

use crate::copies::{Running, drop_slots, median, note, stop};
use crate::{Servers, database, observe};

/// What to measure, and with what.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    servers: Servers,
    /// postgres://user@host:port of the server for the replica's databases.
    #[arg(long)]
    target_url: String,
    /// The binary to measure.
    #[arg(long)]
    headwater: PathBuf,
    /// A folder for configurations and logs.
    #[arg(long)]
    folder: PathBuf,
    /// Where the relay serves its metrics.
    #[arg(long)]
    http: String,
    /// Where apply serves its metrics.
    #[arg(long)]
    apply_http: String,
    /// Rows of each load.
    #[arg(long, default_value_t = 500_000)]
    rows: i64,
    /// Rounds; the medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

const PREFIX: &str = "bench_apply";
const PARTITIONS: i32 = 6;
/// Rows in a transaction of the source.
const TOGETHER: i64 = 1000;
/// Longer than anything measured takes.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often metrics are asked for: a hundredth of the shortest load.
const LOOK: Duration = Duration::from_millis(20);

/// A load.
struct Measured {
    rows: i64,
    seconds: f64,
    cpu: f64,
    peak: f64,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

/// The loads, in the order in which a round measures them.
const LOADS: [&str; 4] =
    ["psql, COPY of the same rows", "inserts", "updates", "inserts, from commit to replica"];

/// Runs everything.
pub async fn run(settings: &Settings) -> Result<()> {
    let client = database::connect(&settings.servers.database_url).await?;
    drop_slots(&client).await?;
    let mut relay = start(settings, "relay", &relay_config(settings), "run")?;
    ready(&settings.http, relay.0.id()).await?;
    let mut measured: Vec<Vec<Measured>> = LOADS.iter().map(|_| Vec::new()).collect();
    // The first is for warming up.
    for round in 0..=settings.rounds {
        let results = one_round(settings, &client, round).await?;
        for ((load, result), all) in LOADS.iter().zip(results).zip(&mut measured) {
            note(&format!("  {load:<32} {:>8.0} rows/s", result.rate()));
            if round > 0 {
                all.push(result);
            }
        }
    }
    stop(&mut relay)?;
    drop_slots(&client).await?;
    print(settings, &database::text(&client, "SHOW server_version").await?, &measured);
    Ok(())
}

async fn one_round(settings: &Settings, client: &Client, round: u32) -> Result<[Measured; 4]> {
    let (table, later) = (format!("applied_{round}"), format!("applied_later_{round}"));
    for name in [&table, &later] {
        let sql = format!(
            "DROP TABLE IF EXISTS public.{name}; CREATE TABLE public.{name} (LIKE public.inventory INCLUDING ALL);
             ALTER PUBLICATION shop ADD TABLE public.{name}"
        );
        client.batch_execute(&sql).await.context("cannot create a table")?;
    }
    let database = new_database(settings, round).await?;
    write(settings, client, &insert(&table), settings.rows).await?;
    let copied = copy(settings, &database, &table)?;
    let config = apply_config(settings, &database, round);
    let log = format!("apply_{round}");
    let inserted = catch_up(settings, &log, &config).await?;
    write(settings, client, &update(&table), settings.rows).await?;
    let updated = catch_up(settings, &log, &config).await?;
    let mut apply = start(settings, &log, &config, "apply")?;
    ready(&settings.apply_http, apply.0.id()).await?;
    let before = Seen::of(settings, apply.0.id())?;
    let begun = Instant::now();
    in_transactions(client, &insert(&later), settings.rows).await?;
    let seen = until_written(settings, apply.0.id(), before.written + settings.rows as f64).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let whole = Measured { rows: settings.rows, seconds, cpu: seen.cpu - before.cpu, peak: seen.peak };
    stop(&mut apply)?;
    Ok([copied, inserted, updated, whole])
}

fn insert(table: &str) -> String {
    format!(
        "INSERT INTO public.{table} (id, sku, name, quantity, price)
         SELECT id, 'SKU-' || id, 'backlog item number ' || id, id % 1000, (id % 100000) / 100.0
         FROM generate_series(low, low + {TOGETHER} - 1) AS id"
    )
}

fn update(table: &str) -> String {
    format!(
        "UPDATE public.{table} SET quantity = quantity + 1, updated_at = clock_timestamp()
         WHERE id BETWEEN low AND low + {TOGETHER} - 1"
    )
}

async fn in_transactions(client: &Client, statement: &str, rows: i64) -> Result<()> {
    let sql = format!(
        "DO $$ DECLARE low bigint := 1; BEGIN
           WHILE low <= {rows} LOOP {statement}; COMMIT; low := low + {TOGETHER}; END LOOP;
         END $$"
    );
    client.batch_execute("SET synchronous_commit = off").await?;
    client.batch_execute(&sql).await.context("cannot write the rows")
}

/// Writes a load and waits until Kafka has it.
async fn write(settings: &Settings, client: &Client, statement: &str, rows: i64) -> Result<()> {
    let acknowledged = || {
        Ok::<_, anyhow::Error>(observe::scrape(&settings.http)?.get("headwater_records_acknowledged_total"))
    };
    let before = acknowledged()?;
    in_transactions(client, statement, rows).await?;
    let begun = Instant::now();
    while acknowledged()? < before + rows as f64 {
        ensure!(begun.elapsed() < PATIENCE, "the relay did not finish");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn new_database(settings: &Settings, round: u32) -> Result<String> {
    let server = database::connect(&format!("{}/postgres", settings.target_url)).await?;
    let name = format!("bench_replica_{round}");
    server.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await?;
    server.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    Ok(format!("{}/{name}", settings.target_url))
}

/// What the server can take at best: the rows as text into a table with the same key, without guard or offsets.
fn copy(settings: &Settings, target: &str, table: &str) -> Result<Measured> {
    let file = settings.folder.join(format!("{table}.copy"));
    let psql = |url: &str, sql: &str| -> Result<()> {
        let status = Command::new("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
            .stdin(Stdio::null())
            .status()
            .context("cannot start psql")?;
        ensure!(status.success(), "psql: {status}");
        Ok(())
    };
    psql(&settings.servers.database_url, &format!("\\copy public.{table} TO '{}'", file.display()))?;
    psql(
        target,
        "CREATE TABLE copied (id bigint PRIMARY KEY, sku text, name text, quantity integer, price numeric(10, 2),
         updated_at timestamptz)",
    )?;
    let begun = Instant::now();
    psql(target, &format!("\\copy copied FROM '{}'", file.display()))?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&file).context("cannot remove the copy")?;
    Ok(Measured { rows: settings.rows, seconds, cpu: 0.0, peak: 0.0 })
}

/// What is known of a running apply.
struct Seen {
    read: f64,
    written: f64,
    cpu: f64,
    peak: f64,
}

impl Seen {
    fn of(settings: &Settings, pid: u32) -> Result<Seen> {
        let metrics = observe::scrape(&settings.apply_http)?;
        Ok(Seen {
            read: metrics.get("headwater_apply_records_total"),
            written: metrics.get("headwater_apply_rows_total"),
            cpu: observe::cpu_seconds(pid)?,
            peak: observe::memory(pid)?.peak,
        })
    }
}

/// Starts apply on what waits in its topic, and stops it when that is written.
async fn catch_up(settings: &Settings, name: &str, config: &str) -> Result<Measured> {
    let mut apply = start(settings, name, config, "apply")?;
    let pid = apply.0.id();
    ready(&settings.apply_http, pid).await?;
    let mut seen = Seen::of(settings, pid)?;
    let waiting = Instant::now();
    while seen.read == 0.0 {
        ensure!(waiting.elapsed() < PATIENCE, "apply reads nothing");
        tokio::time::sleep(LOOK / 4).await;
        seen = Seen::of(settings, pid)?;
    }
    let (begun, already) = (Instant::now(), seen.written);
    let seen = until_written(settings, pid, settings.rows as f64).await?;
    let seconds = begun.elapsed().as_secs_f64();
    stop(&mut apply)?;
    let rows = settings.rows - already as i64;
    Ok(Measured { rows, seconds, cpu: seen.cpu, peak: seen.peak })
}

async fn until_written(settings: &Settings, pid: u32, rows: f64) -> Result<Seen> {
    let begun = Instant::now();
    loop {
        let seen = Seen::of(settings, pid)?;
        if seen.written >= rows {
            return Ok(seen);
        }
        ensure!(begun.elapsed() < PATIENCE, "apply did not finish: {} of {rows} rows", seen.written);
        tokio::time::sleep(LOOK).await;
    }
}

async fn ready(http: &str, pid: u32) -> Result<()> {
    let http = http.to_owned();
    tokio::task::spawn_blocking(move || observe::wait_until_ready(&http, Some(pid), PATIENCE)).await?
}

fn relay_config(settings: &Settings) -> String {
    let slot = format!("bench_apply_{}", std::process::id());
    let Servers { database_url, bootstrap, registry } = &settings.servers;
    format!(
        r#"[postgres]
url = "{database_url}"
publication = "shop"
slot = "{slot}"
[kafka]
bootstrap_servers = "{bootstrap}"
[schema_registry]
url = "{registry}"
[topics]
prefix = "{PREFIX}_{pid}"
partitions = {PARTITIONS}
[checkpoint]
topic = "{slot}.checkpoint"
[snapshot]
mode = "never"
[http]
listen = "{http}"
"#,
        pid = std::process::id(),
        http = settings.http
    )
}

fn apply_config(settings: &Settings, target: &str, round: u32) -> String {
    let Servers { bootstrap, registry, .. } = &settings.servers;
    format!(
        r#"[target]
url = "{target}"
[kafka]
bootstrap_servers = "{bootstrap}"
[kafka.properties]
"topic.metadata.refresh.interval.ms" = "1000"
[schema_registry]
url = "{registry}"
[apply]
group = "bench_{pid}_{round}"
topics = ["{PREFIX}_{pid}.public.applied_{round}", "{PREFIX}_{pid}.public.applied_later_{round}"]
[http]
listen = "{http}"
"#,
        pid = std::process::id(),
        http = settings.apply_http
    )
}

fn start(settings: &Settings, name: &str, config: &str, command: &str) -> Result<Running> {
    let path = settings.folder.join(format!("bench_{name}.toml"));
    std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let log =
        File::create(settings.folder.join(format!("bench_{name}.log"))).context("cannot create a log")?;
    let child = Command::new(&settings.headwater)
        .args([command, "-c"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start headwater")?;
    Ok(Running(child))
}

fn print(settings: &Settings, server: &str, measured: &[Vec<Measured>]) {
    println!(
        "{} rows of `inventory` in each load, {TOGETHER} to a transaction of the source, {PARTITIONS} partitions, PostgreSQL \
         {server}; medians of {} rounds.\n",
        settings.rows, settings.rounds
    );
    println!("| load | rows/s | lowest–highest | of COPY, by round | CPU s per million | peak MiB |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (load, results) in LOADS.iter().zip(measured) {
        let rates: Vec<f64> = results.iter().map(Measured::rate).collect();
        let ratios: Vec<f64> =
            results.iter().zip(&measured[0]).map(|(one, copy)| one.rate() / copy.rate()).collect();
        let cpu: Vec<f64> = results.iter().map(|one| one.cpu * 1e6 / one.rows as f64).collect();
        let own = |text: String| if *load == LOADS[0] { "–".to_owned() } else { text };
        println!(
            "| {load} | {:.0} | {:.0}–{:.0} | {:.2} | {} | {} |",
            median(&rates),
            rates.iter().copied().fold(f64::MAX, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
            median(&ratios),
            own(format!("{:.1}", median(&cpu))),
            own(format!("{:.0}", results.iter().map(|one| one.peak).fold(0.0, f64::max))),
        );
    }
}
