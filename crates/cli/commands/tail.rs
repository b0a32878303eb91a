//! `headwater tail`: changes from now on as lines of JSON, for a person who wants to see what happens.
//!
//! It has a connection and a temporary slot of its own, so the configured slot is not touched and nothing is left
//! behind, however it ends. That slot holds WAL while it lasts: when the output is blocked for too long, tail ends.
//! The lines are written by a thread of their own, because a blocked write must not keep the server waiting.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use headwater_avro::{
    Change, ChangeSource, ColumnDescription, Op, PgType, SnapshotMark, TableDescription, write_json_change,
};
use headwater_pg::catalog::{CatalogType, TypeKind};
use headwater_pg::{
    Client, Frame, PgoutputOptions, ReplicationStream, Session, StandbyStatus, WalBatch, slot,
};
use headwater_pgoutput::{Lsn, Message, OldTuple, RelationId, TableSchema, Tuple};
use headwater_pipeline::{ExitCode, Halt, Settings};
use tokio::sync::mpsc;

use crate::Shared;

/// What to print.
#[derive(Args)]
pub struct Arguments {
    /// Print changes of this table only, `schema.table`; may be repeated.
    #[arg(long = "table", value_name = "SCHEMA.TABLE")]
    tables: Vec<String>,
    /// End after so many changes.
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
}

/// The slot of `tail` holds WAL, and a terminal in scroll lock should not fill the server's disk.
const BLOCKED_MAX: Duration = Duration::from_secs(10);

/// How often the position is reported and the writer looked at; well inside the shortest sensible wal_sender_timeout.
const TICK: Duration = Duration::from_secs(1);

/// Batches on their way to the writer; the next ones stay in the server.
const QUEUE_BATCHES_MAX: usize = 4;

/// Prints until the reader goes away, enough was printed, or it is killed.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    super::block_on(tail(&config.settings, arguments))?;
    Ok(ExitCode::Success)
}

async fn tail(settings: &Settings, arguments: &Arguments) -> anyhow::Result<()> {
    let mut connect = settings.postgres.clone();
    connect.application_name = "headwater tail".to_owned();
    let client = headwater_pg::connect(&connect).await.context("connect to Postgres")?;
    let missing = missing_publications(&client, &settings.publications).await?;
    if !missing.is_empty() {
        let what = format!("publication {} does not exist", missing.join(", "));
        bail!(Halt::new(ExitCode::PublicationMissing, what, "create it with headwater init"));
    }
    let mut session = Session::connect(&connect).await.context("connect to Postgres for replication")?;
    let name = format!("headwater_tail_{}", session.backend_pid());
    let start = create_slot(&client, &mut session, &name, settings.slot_create_timeout).await?;
    let options = PgoutputOptions { publications: settings.publications.clone(), messages: false };
    let mut stream = session.start_replication(&name, start, &options).await.context("start the stream")?;
    stream.set_max_frame_bytes(settings.max_row_bytes);
    tracing::info!(from = %start, publications = settings.publications.join(","), "printing changes from now on");
    let printer = Printer::new(&client, arguments);
    follow(stream, start, printer).await
}

async fn missing_publications(client: &Client, wanted: &[String]) -> anyhow::Result<Vec<String>> {
    let found =
        headwater_pg::publication::publications(client, wanted).await.context("look for the publications")?;
    Ok(wanted.iter().filter(|name| !found.iter().any(|known| known.name == **name)).cloned().collect())
}

/// Creates the temporary slot; Postgres waits with that for every open transaction, and so they are named.
async fn create_slot(
    client: &Client,
    session: &mut Session,
    name: &str,
    timeout: Duration,
) -> anyhow::Result<Lsn> {
    let creation = session.create_logical_slot(name, true, false);
    tokio::pin!(creation);
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let mut interval = tokio::time::interval(Duration::from_secs(5));
    interval.tick().await;
    loop {
        tokio::select! {
            created = &mut creation => return Ok(created.context("create a temporary slot")?.consistent_point),
            _ = interval.tick() => {
                for blocker in slot::creation_blockers(client).await.context("look at open transactions")? {
                    tracing::info!(pid = blocker.pid, database = blocker.database, user = blocker.user,
                        age_seconds = blocker.age_seconds, "waiting for an open transaction");
                }
            }
            () = &mut deadline => {
                let what = format!("a temporary slot could not be made in {} s: Postgres waits for every open transaction",
                    timeout.as_secs());
                bail!(Halt::new(ExitCode::SlotCreateTimeout, what, "end the transactions that are named above"));
            }
        }
    }
}

/// Reads, formats, hands over. The position of the temporary slot is reported as what was read: nothing hangs on it.
async fn follow(mut stream: ReplicationStream, start: Lsn, mut printer: Printer<'_>) -> anyhow::Result<()> {
    let writer = Writer::start();
    let mut tick = tokio::time::interval(TICK);
    let (mut pending, mut received) = (Vec::new(), start);
    let mut waiting_since: Option<Instant> = None;
    while !(printer.is_done() && pending.is_empty()) {
        let mut report = false;
        tokio::select! {
            batch = stream.recv(), if pending.is_empty() => {
                let batch = batch.context("read the stream")?;
                printer.print(&batch, &mut pending).await?;
                received = received.max(batch.last_wal_end);
                report = batch.reply_requested;
            }
            Ok(permit) = writer.lines.reserve(), if !pending.is_empty() => {
                permit.send(std::mem::take(&mut pending));
                waiting_since = None;
            }
            () = writer.lines.closed() => break,
            _ = tick.tick() => report = true,
        }
        if !pending.is_empty() {
            waiting_since.get_or_insert_with(Instant::now);
        }
        if writer.blocked().max(waiting_since.map_or(Duration::ZERO, |since| since.elapsed())) >= BLOCKED_MAX
        {
            let what = format!("nobody has read the output for {} s", BLOCKED_MAX.as_secs());
            let advice =
                "read faster, or filter with --table; tail ends, since its slot keeps WAL on the server";
            bail!(Halt::new(ExitCode::LocalOutput, what, advice));
        }
        if report {
            let status =
                StandbyStatus { write: received, flush: received, apply: received, reply_requested: false };
            stream.send_status(status).await.context("report the position")?;
        }
    }
    writer.finish()
}

/// The thread that writes to standard output.
struct Writer {
    lines: mpsc::Sender<Vec<u8>>,
    thread: JoinHandle<io::Result<()>>,
    /// When the present write began, in milliseconds since `born`; 0 between writes.
    writing_since_ms: Arc<AtomicU64>,
    born: Instant,
}

impl Writer {
    fn start() -> Writer {
        let (lines, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE_BATCHES_MAX);
        let writing_since_ms = Arc::new(AtomicU64::new(0));
        let (since, born) = (Arc::clone(&writing_since_ms), Instant::now());
        let thread = std::thread::spawn(move || {
            let mut out = io::stdout().lock();
            while let Some(lines) = queue.blocking_recv() {
                since.store(millis_since(born).max(1), Ordering::Relaxed);
                out.write_all(&lines)?;
                out.flush()?;
                since.store(0, Ordering::Relaxed);
            }
            Ok(())
        });
        Writer { lines, thread, writing_since_ms, born }
    }

    /// For how long the present write has not come back.
    fn blocked(&self) -> Duration {
        match self.writing_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(millis_since(self.born).saturating_sub(since)),
        }
    }

    /// Waits for the last line.
    fn finish(self) -> anyhow::Result<()> {
        drop(self.lines);
        match self.thread.join() {
            Ok(result) => result.context("write to standard output"),
            Err(_) => bail!("the writer panicked"),
        }
    }
}

fn millis_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The transaction that is being read.
#[derive(Default)]
struct Transaction {
    commit_lsn: Lsn,
    commit_unix_micros: i64,
    xid: u32,
    origin: Option<(String, Lsn)>,
}

/// Turns batches into lines.
struct Printer<'a> {
    client: &'a Client,
    wanted: &'a [String],
    /// Lines that may still be printed.
    left: u64,
    tables: HashMap<RelationId, TableDescription>,
    transaction: Transaction,
}

impl<'a> Printer<'a> {
    fn new(client: &'a Client, arguments: &'a Arguments) -> Printer<'a> {
        Printer {
            client,
            wanted: &arguments.tables,
            left: arguments.count.unwrap_or(u64::MAX),
            tables: HashMap::new(),
            transaction: Transaction::default(),
        }
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    async fn print(&mut self, batch: &WalBatch, out: &mut Vec<u8>) -> anyhow::Result<()> {
        for frame in batch.frames() {
            let Frame::XLogData { wal_start, data, .. } = frame else { continue };
            let message =
                Message::decode(data).with_context(|| format!("decode the change at {wal_start}"))?;
            match message {
                Message::Begin(begin) => {
                    self.transaction = Transaction {
                        commit_lsn: begin.commit_lsn,
                        commit_unix_micros: begin.commit_time.unix_micros(),
                        xid: begin.xid,
                        origin: None,
                    };
                }
                Message::Origin(origin) => {
                    self.transaction.origin = Some((origin.name.to_owned(), origin.commit_lsn));
                }
                Message::Relation(table) => {
                    let description = describe(self.client, table).await?;
                    self.tables.insert(description.relation, description);
                }
                Message::Insert(insert) => {
                    self.line(insert.relation, wal_start, Op::Create, None, Some(&insert.new), out);
                }
                Message::Update(update) => {
                    self.line(
                        update.relation,
                        wal_start,
                        Op::Update,
                        update.old.as_ref(),
                        Some(&update.new),
                        out,
                    );
                }
                Message::Delete(delete) => {
                    self.line(delete.relation, wal_start, Op::Delete, Some(&delete.old), None, out);
                }
                Message::Truncate(truncate) => {
                    for relation in truncate.relations {
                        self.line(relation, wal_start, Op::Truncate, None, None, out);
                    }
                }
                Message::Commit(_) | Message::Type(_) | Message::Logical(_) => {}
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        relation: RelationId,
        lsn: Lsn,
        op: Op,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
        out: &mut Vec<u8>,
    ) {
        let Some(table) = self.tables.get(&relation) else { return };
        let name = format!("{}.{}", table.schema, table.table);
        if self.left == 0 || !(self.wanted.is_empty() || self.wanted.contains(&name)) {
            return;
        }
        self.left -= 1;
        let Transaction { commit_lsn, commit_unix_micros, xid, origin } = &self.transaction;
        let source = ChangeSource {
            commit_lsn: *commit_lsn,
            lsn,
            commit_unix_micros: *commit_unix_micros,
            xid: *xid,
            origin: origin.as_ref().map(|(name, lsn)| (name.as_str(), *lsn)),
            place: None,
            snapshot: SnapshotMark::None,
        };
        let change = Change {
            op,
            before: old.map(OldTuple::tuple),
            before_is_full: matches!(old, Some(OldTuple::Full(_))),
            after: new,
            source: &source,
        };
        write_json_change(table, &change, out);
        out.push(b'\n');
    }
}

/// What the JSON writer needs to know of a table: which values are numbers and which are text.
async fn describe(client: &Client, table: TableSchema) -> anyhow::Result<TableDescription> {
    let unknown: Vec<u32> = table
        .columns
        .iter()
        .filter(|column| PgType::builtin(column.type_oid, column.type_modifier).is_none())
        .map(|column| column.type_oid)
        .collect();
    let types = match unknown.as_slice() {
        [] => Vec::new(),
        oids => headwater_pg::catalog::types(client, oids).await.context("look at the types of a table")?,
    };
    let columns = table
        .columns
        .into_iter()
        .map(|column| ColumnDescription {
            name: column.name,
            type_name: String::new(),
            pg_type: pg_type(column.type_oid, column.type_modifier, &types),
            not_null: false,
            default: None,
            in_identity: column.is_key,
            declared: None,
            key_labels: None,
        })
        .collect();
    Ok(TableDescription {
        relation: table.id,
        schema: table.namespace,
        table: table.name,
        replica_identity: table.replica_identity,
        columns,
        key: Vec::new(),
    })
}

/// A type of Postgres' own, or the one below a domain; all others are text.
fn pg_type(oid: u32, modifier: i32, types: &[CatalogType]) -> PgType {
    let mut at = (oid, modifier);
    // Each step uses up one of the types, so a circle ends.
    for _ in 0..=types.len() {
        if let Some(builtin) = PgType::builtin(at.0, at.1) {
            return builtin;
        }
        match types.iter().find(|known| known.oid == at.0).map(|known| &known.kind) {
            Some(TypeKind::Domain { base_oid, type_modifier }) => at = (*base_oid, *type_modifier),
            _ => return PgType::Other,
        }
    }
    PgType::Other
}
