//! Reads a slot's backlog to nowhere and says how fast: the upper bound of what a service on top can reach.
//!
//! `drain HOST PORT DATABASE SLOT PUBLICATION`, where a HOST with a `/` is the directory of a unix socket. The role
//! is `postgres`, the password comes from PGPASSWORD, `sslmode` from PGSSLMODE (`disable` without it, or `require`).
//! Nothing is confirmed, so it can be run again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use headwater_pg::{
    ChannelBinding, ConnectSettings, Frame, Host, PgoutputOptions, RootCert, Secret, Session, SslMode,
    StandbyStatus, TlsSettings,
};
use headwater_pgoutput::Lsn;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, database, slot, publication] = arguments.as_slice() else {
        bail!("usage: drain HOST PORT DATABASE SLOT PUBLICATION");
    };
    let settings = settings(host, port.parse()?, database);
    let mut session = Session::connect(&settings).await?;
    let target = session.identify_system().await?.xlogpos;
    let options = PgoutputOptions { publications: vec![publication.clone()], messages: true };
    let mut stream = session.start_replication(slot, Lsn::INVALID, &options).await?;

    let mut total = Total::default();
    // The server first reads WAL up to the slot's position: the clock starts with the first change.
    let mut started = None;
    let mut status_due = Instant::now() + Duration::from_secs(10);
    while total.position < target {
        let batch = stream.recv().await?;
        if total.rows > 0 {
            started.get_or_insert_with(|| (Instant::now(), cpu_seconds()));
        }
        total.add(&batch);
        if batch.reply_requested || Instant::now() > status_due {
            let status =
                StandbyStatus { write: total.position, flush: Lsn(0), apply: Lsn(0), reply_requested: false };
            stream.send_status(status).await?;
            status_due = Instant::now() + Duration::from_secs(10);
        }
    }
    let (started, cpu_before) = started.context("there was no backlog")?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} rows, {} MB in {seconds:.2} s: {:.0} rows/s, {:.2} CPU-seconds per million, {} batches of {} bytes",
        total.rows,
        total.bytes / 1_000_000,
        total.rows as f64 / seconds,
        (cpu_seconds() - cpu_before) / total.rows as f64 * 1e6,
        total.batches,
        total.bytes / total.batches.max(1),
    );
    Ok(())
}

#[derive(Default)]
struct Total {
    rows: u64,
    bytes: u64,
    batches: u64,
    position: Lsn,
}

impl Total {
    fn add(&mut self, batch: &headwater_pg::WalBatch) {
        self.batches += 1;
        self.bytes += batch.len_bytes() as u64;
        for frame in batch.frames() {
            match frame {
                Frame::XLogData { wal_end, data, .. } => {
                    self.rows += u64::from(matches!(data.first(), Some(b'I' | b'U' | b'D')));
                    self.position = self.position.max(wal_end);
                }
                Frame::Keepalive { wal_end, .. } => self.position = self.position.max(wal_end),
            }
        }
    }
}

fn settings(host: &str, port: u16, database: &str) -> ConnectSettings {
    let host = if host.contains('/') {
        Host::Unix { directory: host.into(), port }
    } else {
        Host::Tcp { host: host.to_owned(), port }
    };
    let tls = std::env::var("PGSSLMODE").is_ok_and(|mode| mode == "require");
    ConnectSettings {
        host,
        user: "postgres".to_owned(),
        password: std::env::var("PGPASSWORD").ok().map(Secret::new),
        database: database.to_owned(),
        tls: TlsSettings {
            mode: if tls { SslMode::Require } else { SslMode::Disable },
            root_cert: RootCert::System,
            client_cert: None,
        },
        channel_binding: ChannelBinding::Prefer,
        allow_md5: false,
        application_name: "drain".to_owned(),
        connect_timeout: Duration::from_secs(10),
    }
}

/// User and system time of this process. /proc/self/stat, fields 14 and 15, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
