//! What a user of Headwater sees: rows go into Postgres, records come out of Kafka, and a clock stands beside them.
//!
//! `make demo` and `make bench*` run it. It knows no crate of Headwater, only what any service would use:
//! tokio-postgres, a stock Kafka consumer, and a decoder that asks the schema registry.

mod backlog;
mod bench;
mod consumer;
mod copies;
mod database;
mod display;
mod latency;
mod observe;
mod replicas;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// Loads the reference tables and shows what arrives in Kafka.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run SQL files in a database, which is created if it is missing.
    Apply {
        /// postgres://user@host:port/database
        #[arg(long)]
        database_url: String,
        /// Files, in order.
        files: Vec<PathBuf>,
    },
    /// Wait until a headwater that was just started says that it is ready.
    Ready {
        /// Its `http.listen`.
        #[arg(long)]
        http: String,
        /// Its process id.
        #[arg(long)]
        pid: Option<u32>,
        /// How long to wait.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// The visible load of `make demo`: single rows, updates, deletes, events, one large transaction; then a table.
    Load {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        instance: Instance,
        /// Rows of the large transaction.
        #[arg(long, default_value_t = 50_000)]
        rows: i64,
    },
    /// Commit-to-consumer latency of single-row transactions at a fixed rate.
    Latency {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        instance: Instance,
        /// Transactions per second.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// How long.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
    },
    /// Write a backlog of inventory changes, half inserts and half updates.
    Backlog {
        /// postgres://user@host:port/database
        #[arg(long)]
        database_url: String,
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        changes: i64,
        /// How many of them share a transaction.
        #[arg(long, default_value_t = 10)]
        rows_per_transaction: i64,
    },
    /// Throughput beside pg_recvlogical, then latency; a Markdown report on stdout.
    Bench(bench::Settings),
    /// Copies of a table beside psql's, and latency during one; a Markdown report on stdout.
    BenchSnapshots(copies::Settings),
    /// Rows from Kafka into a replica, beside psql's COPY; a Markdown report on stdout.
    BenchApply(replicas::Settings),
}

/// Where everything is.
#[derive(Args, Clone)]
pub struct Servers {
    /// postgres://user@host:port/database
    #[arg(long)]
    pub database_url: String,
    /// Kafka's host:port.
    #[arg(long)]
    pub bootstrap: String,
    /// The schema registry's base URL.
    #[arg(long)]
    pub registry: String,
}

/// The running headwater that is looked at.
#[derive(Args, Clone)]
pub struct Instance {
    /// Its `topics.prefix`.
    #[arg(long)]
    pub prefix: String,
    /// Its `http.listen`.
    #[arg(long)]
    pub http: Option<String>,
    /// Its process id, for memory and CPU time.
    #[arg(long)]
    pub pid: Option<u32>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    // reqwest, below the registry's client, takes the process's TLS provider even for plain HTTP; one may be set already
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    match command {
        Command::Apply { database_url, files } => database::apply(&database_url, &files).await,
        Command::Ready { http, pid, seconds } => {
            observe::wait_until_ready(&http, pid, Duration::from_secs(seconds))
        }
        Command::Load { servers, instance, rows } => scenario::run(&servers, &instance, rows).await,
        Command::Latency { servers, instance, rate, seconds } => {
            let before = instance.pid.map(observe::cpu_seconds).transpose()?;
            let report = latency::measure(&servers, &instance.prefix, rate, seconds).await?;
            println!("{report}");
            if let (Some(pid), Some(before)) = (instance.pid, before) {
                let share = (observe::cpu_seconds(pid)? - before) / report.elapsed.as_secs_f64();
                println!("headwater used {share:.3} cores");
            }
            Ok(())
        }
        Command::Backlog { database_url, changes, rows_per_transaction } => {
            let client = database::connect(&database_url).await?;
            let end = backlog::write(&client, changes, rows_per_transaction)
                .await
                .context("cannot write the backlog")?;
            println!("{changes} changes, {rows_per_transaction} per transaction, end at {end}");
            Ok(())
        }
        Command::Bench(settings) => bench::run(&settings).await,
        Command::BenchSnapshots(settings) => copies::run(&settings).await,
        Command::BenchApply(settings) => replicas::run(&settings).await,
    }
}
