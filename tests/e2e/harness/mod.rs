//! What the end-to-end tests stand on. `fixture` is where a test begins: a database, a slot and topics of its own on
//! shared servers. `checker` is where it ends.

pub mod cell;
pub mod checker;
pub mod database;
pub mod debezium;
pub mod decode;
pub mod evidence;
pub mod expected;
pub mod fastavro;
pub mod fixture;
pub mod fold;
pub mod headwater;
pub mod http;
pub mod joined;
pub mod kafka;
pub mod mail;
pub mod marks;
pub mod process;
pub mod proxy;
pub mod random;
pub mod replica;
pub mod sampler;
pub mod samples;
pub mod servers;
pub mod snapshots;
pub mod time_text;
pub mod traffic;
pub mod workload;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Looks again and again until a condition holds; fails at the deadline.
pub async fn until(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition().await? {
        ensure!(Instant::now() < deadline, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
