//! The figures and their Markdown.

use std::fmt;
use std::time::Duration;

use crate::latency::Report;

/// One reader, one round.
pub struct Measured {
    pub rows: i64,
    pub elapsed: Duration,
    /// CPU seconds, user and system.
    pub cpu: f64,
    /// Peak resident memory, MiB.
    pub peak: f64,
}

impl Measured {
    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_per_million(&self) -> f64 {
        self.cpu * 1e6 / self.rows as f64
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, cpu) = (self.rows_per_second(), self.cpu_per_million());
        write!(f, "{rate:>8.0} rows/s  {cpu:.2} CPU s per million  {:.0} MiB", self.peak)
    }
}

/// One rate of the latency part.
pub struct LatencyRow {
    pub report: Report,
    /// CPU seconds of headwater per second.
    pub cores: f64,
}

/// Rows per transaction with the results of pg_recvlogical and of headwater.
pub type Shape = (i64, (Vec<Measured>, Vec<Measured>));

/// Prints the report.
pub fn print(server: &str, rows: i64, rounds: u32, throughput: &[Shape], latencies: &[LatencyRow]) {
    println!("Machine: {}. PostgreSQL {server}, Kafka and registry on the same machine.", machine());
    println!();
    println!(
        "Backlog of {rows} changes of `inventory`, half inserts and half updates; medians of {rounds} rounds, taken in"
    );
    println!(
        "turn on the same WAL. Timed from the moment the slot has a reader to pg_recvlogical's exit at the end of the"
    );
    println!(
        "backlog, or to the last acknowledgement of Kafka (six partitions, Avro). CPU is that of the reader alone."
    );
    println!();
    println!(
        "| rows per transaction | pg_recvlogical, rows/s | CPU s per million | headwater, rows/s | lowest–highest | CPU s per million | peak MiB | ratio |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (per_transaction, (rivals, ours)) in throughput {
        let rival = median(rivals, Measured::rows_per_second);
        let rates = sorted(ours, Measured::rows_per_second);
        let own = median(ours, Measured::rows_per_second);
        println!(
            "| {per_transaction} | {rival:.0} | {:.2} | {own:.0} | {:.0}–{:.0} | {:.2} | {:.0} | {:.2} |",
            median(rivals, Measured::cpu_per_million),
            rates.first().copied().unwrap_or_default(),
            rates.last().copied().unwrap_or_default(),
            median(ours, Measured::cpu_per_million),
            sorted(ours, |measured| measured.peak).last().copied().unwrap_or_default(),
            own / rival
        );
    }
    println!();
    println!(
        "Commit to consumer: from the return of a synchronous commit to the return of a stock consumer's poll."
    );
    println!();
    println!("| transactions/s | held | p50 ms | p99 ms | p99.9 ms | cores of headwater |");
    println!("|---:|---:|---:|---:|---:|---:|");
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    for LatencyRow { report, cores } in latencies {
        println!(
            "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {cores:.3} |",
            report.asked_per_second,
            report.held_per_second,
            ms(report.p50),
            ms(report.p99),
            ms(report.p999)
        );
    }
}

fn sorted(rounds: &[Measured], figure: impl Fn(&Measured) -> f64) -> Vec<f64> {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures
}

fn median(rounds: &[Measured], figure: impl Fn(&Measured) -> f64) -> f64 {
    let figures = sorted(rounds, figure);
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[count / 2],
        count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
    }
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores{}{model}", if model.is_empty() { "" } else { " of " })
}
