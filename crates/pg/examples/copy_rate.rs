//! How fast tables are copied into nothing, beside psql: in turns, since a machine is never quite idle.
//!
//! `copy_rate HOST PORT DATABASE TABLE WORKERS ROUNDS [psql|Nothing|Tuple|Avro]`, where a HOST with a `/` is the directory of a unix socket and
//! TABLE is as `public.inventory`, published by any publication. The role is `postgres`, without a password. Each round
//! has psql, as many as workers, each with `COPY table TO STDOUT` into /dev/null; and workers that share the table's
//! pages, once for each thing that is done with a row: nothing, a tuple, the Avro key and value of it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headwater_avro::{
    Change, ChangeSource, ColumnDescription, KeyPlan, Op, PgType, RecordSettings, SchemaId, SnapshotMark,
    SourceSettings, TableDescription, ValuePlan,
};
use headwater_pg::snapshot_tables::{SnapshotTable, snapshot_tables};
use headwater_pg::transaction_snapshot::{SnapshotKeeper, begin_at_exported, begin_at_present};
use headwater_pg::{
    ChannelBinding, ConnectSettings, CopyRows, CopySession, Host, RootCert, SslMode, TlsSettings, connect,
};
use headwater_pgoutput::{Lsn, read_copy_row};

/// Pages that a worker copies at a time: 128 MiB.
const RANGE_PAGES: u32 = 16_384;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Nothing,
    Tuple,
    Avro,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, database, table, workers, rounds, ..] = arguments.as_slice() else {
        bail!("usage: copy_rate HOST PORT DATABASE TABLE WORKERS ROUNDS");
    };
    let settings = settings(host, port.parse()?, database);
    let (workers, rounds): (u32, u32) = (workers.parse()?, rounds.parse()?);
    let found = Arc::new(runtime()?.block_on(find(&settings, table))?);
    println!("| round | what | rows | seconds | rows/s | to psql | CPU s per million rows, here |");
    println!("|---|---|---|---|---|---|---|");
    for round in 1..=rounds {
        let mut of_psql = 0.0;
        for work in [None, Some(Work::Nothing), Some(Work::Tuple), Some(Work::Avro)] {
            let only = arguments.get(6);
            if only.is_some_and(|only| *only != work.map_or("psql".to_owned(), |work| format!("{work:?}"))) {
                continue;
            }
            let (begun, cpu) = (Instant::now(), cpu_seconds());
            let rows = match work {
                None => psql(&arguments, workers)?,
                Some(work) => copy(&settings, &found, workers, work)?,
            };
            let seconds = begun.elapsed().as_secs_f64();
            let rate = rows as f64 / seconds;
            if work.is_none() {
                of_psql = rate;
            }
            let what = work.map_or("psql".to_owned(), |work| format!("{work:?}"));
            let cpu = (cpu_seconds() - cpu) / rows as f64 * 1e6;
            println!(
                "| {round} | {what} | {rows} | {seconds:.2} | {rate:.0} | {:.2} | {cpu:.2} |",
                rate / of_psql
            );
        }
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn find(settings: &ConnectSettings, table: &str) -> Result<SnapshotTable> {
    let client = connect(settings).await?;
    let rows = client.query("SELECT pubname::text FROM pg_publication", &[]).await?;
    let publications: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let tables = snapshot_tables(&client, &publications).await?;
    let named = |found: &SnapshotTable| format!("{}.{}", found.table.namespace, found.table.name) == table;
    tables.into_iter().find(named).with_context(|| format!("{table} is not published"))
}

/// As many psql as workers, each of the whole table; all rows that they copied.
fn psql(arguments: &[String], workers: u32) -> Result<u64> {
    let [host, port, database, table, ..] = arguments else { bail!("too few arguments") };
    let psql = |sql: String| {
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-h", host, "-p", port, "-U", "postgres", "-c", &sql, database]);
        command
    };
    let copies = (0..workers)
        .map(|_| psql(format!("COPY {table} TO STDOUT")).stdout(Stdio::null()).spawn())
        .collect::<Result<Vec<_>, _>>()?;
    for mut copy in copies {
        ensure!(copy.wait()?.success(), "psql failed");
    }
    let count =
        psql(format!("SELECT reltuples::bigint FROM pg_class WHERE oid = '{table}'::regclass")).output()?;
    Ok(u64::from(workers) * String::from_utf8(count.stdout)?.trim().parse::<u64>()?)
}

/// Workers that share the table's pages under one snapshot.
fn copy(settings: &ConnectSettings, table: &Arc<SnapshotTable>, workers: u32, work: Work) -> Result<u64> {
    let runtime = runtime()?;
    let (keeper, _exporter) = runtime.block_on(async {
        let mut exporter = CopySession::connect(settings).await?;
        begin_at_present(&mut exporter, &[]).await?;
        let rows = exporter.query("SELECT pg_export_snapshot()").await?;
        let name = rows[0][0].clone().context("no snapshot")?;
        anyhow::Ok((SnapshotKeeper::import(settings, &name).await?, exporter))
    })?;
    let next = Arc::new(AtomicU32::new(0));
    let rows = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (settings, table, next, rows) = (settings.clone(), table.clone(), next.clone(), rows.clone());
            let snapshot = keeper.name().to_owned();
            std::thread::spawn(move || {
                let mut worker = Worker::new(&table, work)?;
                copy_ranges(&mut worker, &settings, &snapshot, &next)?;
                eprintln!("{} rows a batch", worker.rows / worker.batches);
                *rows.lock().expect("no worker panics") += worker.rows;
                anyhow::Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no worker panics")?;
    }
    let rows = *rows.lock().expect("no worker panics");
    Ok(rows)
}

fn copy_ranges(
    worker: &mut Worker<'_>,
    settings: &ConnectSettings,
    snapshot: &str,
    next: &AtomicU32,
) -> Result<()> {
    runtime()?.block_on(async {
        let mut session = CopySession::connect(settings).await?;
        begin_at_exported(&mut session, snapshot).await?;
        let leaf = &worker.table.leaves[0];
        loop {
            let start = next.fetch_add(RANGE_PAGES, Ordering::Relaxed);
            if start >= leaf.pages {
                return Ok(());
            }
            let end = if start + RANGE_PAGES >= leaf.pages { u32::MAX } else { start + RANGE_PAGES };
            session.copy_out(&worker.table.copy_pages(leaf, Some(start..end), None)).await?;
            while let Some(rows) = session.next_rows().await? {
                worker.take(&rows)?;
            }
        }
    })
}

struct Worker<'t> {
    table: &'t SnapshotTable,
    plans: (KeyPlan, ValuePlan),
    work: Work,
    tuple: Vec<u8>,
    record: Vec<u8>,
    rows: u64,
    bytes: u64,
    batches: u64,
}

impl Worker<'_> {
    fn new(table: &SnapshotTable, work: Work) -> Result<Worker<'_>> {
        let description = describe(table)?;
        let source = SourceSettings { prefix: "bench".to_owned(), database: "bench".to_owned() };
        let records = RecordSettings::default();
        let key = KeyPlan::new(&description, &source, &records)?.context("no key")?;
        let plans = (key, ValuePlan::new(&description, &source, &records)?);
        Ok(Worker {
            table,
            plans,
            work,
            tuple: Vec::new(),
            record: Vec::new(),
            rows: 0,
            bytes: 0,
            batches: 0,
        })
    }

    fn take(&mut self, rows: &CopyRows) -> Result<()> {
        self.rows += rows.len() as u64;
        self.batches += 1;
        if self.work == Work::Nothing {
            return Ok(());
        }
        let source = ChangeSource {
            commit_lsn: Lsn(97_500_111_222),
            lsn: Lsn(97_500_111_222),
            commit_unix_micros: 1_771_061_213_589_793,
            xid: 0,
            origin: None,
            place: None,
            snapshot: SnapshotMark::True,
        };
        let columns = self.table.table.columns.len() as u16;
        for row in rows.rows() {
            let tuple = read_copy_row(row, columns, &mut self.tuple)?;
            if self.work == Work::Avro {
                self.record.clear();
                self.plans.0.encode_into(SchemaId(1), &tuple, &mut self.record)?;
                let change = Change {
                    op: Op::Read,
                    before: None,
                    before_is_full: false,
                    after: Some(&tuple),
                    source: &source,
                };
                self.plans.1.encode_into(SchemaId(2), &change, &mut self.record)?;
                self.bytes += self.record.len() as u64;
            }
        }
        Ok(())
    }
}

/// The types of the inventory table and its like.
fn describe(table: &SnapshotTable) -> Result<TableDescription> {
    let columns = table.table.columns.iter().map(|column| {
        let pg_type = match (column.type_oid, column.type_modifier) {
            (20, _) => PgType::Int8,
            (23, _) => PgType::Int4,
            (25, _) => PgType::Text,
            (1184, _) => PgType::TimestampTz { precision: 6 },
            (1700, modifier) if modifier >= 4 => PgType::Numeric {
                precision: ((modifier - 4) >> 16) as u16,
                scale: ((modifier - 4) & 0x7ff) as i16,
            },
            (oid, _) => bail!("column {} has the type {oid}, for which there is nothing here", column.name),
        };
        Ok(ColumnDescription {
            name: column.name.clone(),
            type_name: String::new(),
            pg_type,
            not_null: column.is_key,
            default: None,
            in_identity: column.is_key,
            declared: None,
            key_labels: None,
        })
    });
    Ok(TableDescription {
        relation: table.table.id,
        schema: table.table.namespace.clone(),
        table: table.table.name.clone(),
        replica_identity: table.table.replica_identity,
        columns: columns.collect::<Result<_>>()?,
        key: table.key.iter().map(|column| column.index).collect(),
    })
}

fn settings(host: &str, port: u16, database: &str) -> ConnectSettings {
    let host = if host.contains('/') {
        Host::Unix { directory: host.into(), port }
    } else {
        Host::Tcp { host: host.to_owned(), port }
    };
    ConnectSettings {
        host,
        user: "postgres".to_owned(),
        password: None,
        database: database.to_owned(),
        tls: TlsSettings { mode: SslMode::Disable, root_cert: RootCert::System, client_cert: None },
        channel_binding: ChannelBinding::Prefer,
        allow_md5: false,
        application_name: "copy_rate".to_owned(),
        connect_timeout: Duration::from_secs(10),
    }
}

/// User and system time of this process and of its children that have ended. /proc/self/stat, fields 14 to 17, in
/// ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
