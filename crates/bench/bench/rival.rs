//! pg_recvlogical over TCP, its output thrown away: the fastest that a client of Postgres's own does with a slot.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use super::report::Measured;
use super::{PATIENCE, Settings, reader_of};
use crate::observe;

/// Reads `slot` up to `end`.
pub async fn measure(
    settings: &Settings,
    client: &Client,
    slot: &str,
    end: &str,
    rows: i64,
) -> Result<Measured> {
    let mut child = Command::new("pg_recvlogical")
        .args(["--start", "--no-loop", "-f", "/dev/null", "-S", slot, "-E", end])
        .args(["-o", "proto_version=1", "-o", "publication_names=shop"])
        .args(["-d", &settings.servers.database_url])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start pg_recvlogical")?;
    let pid = child.id();
    let begun = reader_of(client, slot, &mut child).await?;
    let (mut cpu, mut peak) = (0.0, 0.0);
    let elapsed = loop {
        // what the kernel accounts to it is gone once it has been waited for
        if let (Ok(used), Ok(memory)) = (observe::cpu_seconds(pid), observe::memory(pid))
            && memory.peak > 0.0
        {
            (cpu, peak) = (used, memory.peak);
        }
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("pg_recvlogical ended: {status}");
            }
            break begun.elapsed();
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            bail!("pg_recvlogical did not finish");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    wait_until_free(client, slot).await?;
    Ok(Measured { rows, elapsed, cpu, peak })
}

/// Its walsender may outlive it by a moment.
async fn wait_until_free(client: &Client, slot: &str) -> Result<()> {
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(30) {
        let row = client
            .query_one("SELECT active FROM pg_replication_slots WHERE slot_name = $1", &[&slot])
            .await?;
        if !row.get::<_, bool>(0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("slot {slot} is still in use")
}
