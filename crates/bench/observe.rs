//! What can be seen of a running headwater from outside: its metrics page, and what the kernel accounts to it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One scrape: the sum over the labels of each metric.
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// The metric's value; zero if it was not there.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }
}

/// Reads `/metrics` of `address` (host:port).
pub fn scrape(address: &str) -> Result<Metrics> {
    let body = http_get(address, "/metrics")?;
    let mut metrics = HashMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or(name);
        *metrics.entry(name.to_owned()).or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
    }
    Ok(Metrics(metrics))
}

/// Waits until `/readyz` says yes, as long as the process lives.
pub fn wait_until_ready(address: &str, pid: Option<u32>, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = http_get(address, "/readyz") else { return Ok(()) };
        if pid.is_some_and(|pid| cfg!(target_os = "linux") && cpu_seconds(pid).is_err()) {
            bail!("headwater ended before it was ready");
        }
        if begun.elapsed() > patience {
            return Err(error.context("headwater did not get ready"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("cannot read {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path} answers {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// CPU time the process has used, user and system, in seconds (proc(5): fields 14 and 15 of stat, in 1/100 s).
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read the process's CPU time")?;
    // the command's name may hold spaces and parentheses
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        bail!("/proc/{pid}/stat is not as expected")
    };
    Ok((user + system) / 100.0)
}

/// Memory of a process, in MiB.
pub struct Memory {
    pub resident: f64,
    pub peak: f64,
}

/// Reads `VmRSS` and `VmHWM`.
pub fn memory(pid: u32) -> Result<Memory> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read the process's memory")?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    };
    Ok(Memory { resident: field("VmRSS:").unwrap_or(0.0), peak: field("VmHWM:").unwrap_or(0.0) })
}

/// An LSN's number, `16/B374D848` as Postgres writes it.
pub fn lsn_number(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').context("not an LSN")?;
    Ok((u64::from_str_radix(high, 16)? << 32) | u64::from_str_radix(low, 16)?)
}
