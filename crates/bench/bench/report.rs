//! The figures and their Markdown.

use std::fmt;
use std::time::Duration;

use super::load::Load;
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
    pub reader: &'static str,
    pub report: Report,
    /// CPU seconds of headwater per second.
    pub cores: f64,
}

/// The rounds of one load.
pub struct Shape {
    pub load: Load,
    pub rows: i64,
    pub rival: Vec<Measured>,
    pub headwater: Vec<Measured>,
    /// Empty unless an earlier release is measured too.
    pub earlier: Vec<Measured>,
}

/// Prints the report; `earlier` is the name of an earlier release that was measured too.
pub fn print(
    server: &str,
    rounds: u32,
    throughput: &[Shape],
    latencies: &[LatencyRow],
    earlier: Option<&str>,
) {
    println!("Machine: {}. PostgreSQL {server}, Kafka and registry on the same machine.", machine());
    println!();
    println!(
        "Backlogs of changes, half inserts and half updates; medians of {rounds} rounds, taken in turn on the same WAL."
    );
    println!(
        "Timed from the moment the slot has a reader to pg_recvlogical's exit at the end of the backlog, or to the last"
    );
    println!("acknowledgement of Kafka (six partitions, Avro). CPU is that of the reader alone.");
    println!();
    beside_pg_recvlogical(throughput);
    if let Some(name) = earlier {
        println!();
        println!(
            "Beside {name}, in turn on the same WAL: this divided by that, so more is better in the first column only."
        );
        println!();
        beside_earlier(throughput);
    }
    println!();
    println!(
        "Commit to consumer: from the return of a synchronous commit to the return of a stock consumer's poll."
    );
    println!();
    latency_table(latencies, earlier);
}

fn beside_pg_recvlogical(throughput: &[Shape]) {
    println!(
        "| load | changes | pg_recvlogical, rows/s | CPU s per million | headwater, rows/s | lowest–highest | CPU s per million | peak MiB | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for Shape { load, rows, rival, headwater, .. } in throughput {
        let rival_rate = median(rival, Measured::rows_per_second);
        let rates = sorted(headwater, Measured::rows_per_second);
        let own = median(headwater, Measured::rows_per_second);
        println!(
            "| {} | {rows} | {rival_rate:.0} | {:.2} | {own:.0} | {:.0}–{:.0} | {:.2} | {:.0} | {:.2} |",
            load.name(),
            median(rival, Measured::cpu_per_million),
            rates.first().copied().unwrap_or_default(),
            rates.last().copied().unwrap_or_default(),
            median(headwater, Measured::cpu_per_million),
            highest_peak(headwater),
            own / rival_rate
        );
    }
}

/// Ratios, because figures of another day say nothing.
fn beside_earlier(throughput: &[Shape]) {
    println!(
        "| load | rows/s | CPU s per million | peak memory | then: rows/s | CPU s per million | peak MiB |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for Shape { load, headwater, earlier, .. } in throughput {
        let (rate, cpu) = (Measured::rows_per_second, Measured::cpu_per_million);
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.2} | {:.0} |",
            load.name(),
            median(headwater, rate) / median(earlier, rate),
            median(headwater, cpu) / median(earlier, cpu),
            highest_peak(headwater) / highest_peak(earlier),
            median(earlier, rate),
            median(earlier, cpu),
            highest_peak(earlier)
        );
    }
}

fn latency_table(latencies: &[LatencyRow], earlier: Option<&str>) {
    println!("| | transactions/s | held | p50 ms | p99 ms | p99.9 ms | cores |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    for LatencyRow { reader, report, cores } in latencies {
        let name = if *reader == "earlier" { earlier.unwrap_or(reader) } else { reader };
        println!(
            "| {name} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {cores:.3} |",
            report.asked_per_second,
            report.held_per_second,
            ms(report.p50),
            ms(report.p99),
            ms(report.p999)
        );
    }
}

fn highest_peak(rounds: &[Measured]) -> f64 {
    sorted(rounds, |measured| measured.peak).last().copied().unwrap_or_default()
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
