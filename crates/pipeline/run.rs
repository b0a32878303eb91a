//! The whole: owns the slot or stands by, runs source and pump, and begins again or halts when one of them fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_avro::registry::Registry;
use headwater_kafka::Admin;
use headwater_pg::Client;
use headwater_pgoutput::RelationId;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::backoff::Backoff;
use crate::blocked_keys::BlockedKeys;
use crate::budget::Budget;
use crate::dead_letter::{DeadLetters, RefusedRecords};
use crate::error::{StageError, chain};
use crate::halt::{ExitCode, Halt};
use crate::history::SchemaHistory;
use crate::metrics::Metrics;
use crate::outlet::{Outlet, OutletParts, StopSignal};
use crate::own_slot::{Owned, own_slot};
use crate::pump::{Pump, PumpEnd};
use crate::recovery::{Decision, decide};
use crate::release::Holding;
use crate::reselector::Reselector;
use crate::resolver::{Destination, Resolver};
use crate::sent::SentLog;
use crate::settings::{Settings, SinkSettings};
use crate::sink::{Sink, discard::DiscardSink, kafka::KafkaSink, lines::LineSink};
use crate::sink_watch::{self, SinkAnswers};
use crate::slot_watch::SlotWatch;
use crate::snapshot::control::SnapshotControl;
use crate::snapshot::coordinator::{CoordinatorParts, SnapshotEnd};
use crate::snapshot::intake::Intake;
use crate::snapshot::session::Asking;
use crate::source::Source;
use crate::status::{Readiness, Status};
use crate::versions::Versions;
use crate::writer::Writer;

/// How far a stop has come. The command's signal handler moves it forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownStage {
    /// Go on.
    Running,
    /// Read on to the Commit of the open transaction, drain, confirm.
    Graceful,
}

/// Runs the pipeline until it is stopped or can't go on.
///
/// # Errors
/// The halt, with its exit code and advice.
pub async fn run(
    settings: Settings,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    snapshots: Arc<SnapshotControl>,
    sent: Option<SentLog>,
    mut shutdown: watch::Receiver<ShutdownStage>,
) -> Result<(), Halt> {
    metrics.set_role("starting");
    let mut backoff = Backoff::new();
    let carried = Carried { sent, refused: RefusedRecords::default() };
    loop {
        let confirmed_before = status.snapshot().positions.confirmed;
        let ended = session(&settings, &metrics, &status, &snapshots, &carried, &mut shutdown).await;
        // A session that confirmed something was a good one, however short: the next pause is short again.
        if status.snapshot().positions.confirmed > confirmed_before {
            backoff.reset();
        }
        let error = match ended {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let text = chain(&error);
        match decide(error, &settings) {
            Decision::Halt(halt) => {
                metrics.errors.with_label_values(&["halt"]).inc();
                status.set(Readiness::Halted { reason: halt.what.clone() });
                return Err(halt);
            }
            Decision::Restart { peer } => {
                metrics.errors.with_label_values(&["restart"]).inc();
                metrics.restarts.with_label_values(&[peer]).inc();
                metrics.set_role("starting");
                let pause = backoff.next();
                tracing::warn!(
                    error = text,
                    retry_in_ms = pause.as_millis() as u64,
                    "beginning again from the checkpoint"
                );
                status.set(Readiness::Waiting { reason: text });
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = asked_to_stop(&mut shutdown) => return Ok(()),
                }
            }
        }
    }
}

/// What a session hands on to the next one of this process.
struct Carried {
    /// Events that were sent, for whoever writes that down.
    sent: Option<SentLog>,
    /// Records that their topics take for too large.
    refused: RefusedRecords,
}

impl Carried {
    /// A session's writer, which knows what the ones before it have learned.
    fn writer(&self, settings: &Settings, versions: &Versions, blocked: BlockedKeys, out: Outlet) -> Writer {
        let dead_letters = DeadLetters::new(settings.dead_letters.clone(), blocked, self.refused.clone());
        let mut writer = Writer::new(settings, versions.questions.clone(), dead_letters, out);
        writer.sent = self.sent.clone();
        writer
    }
}

async fn asked_to_stop(shutdown: &mut watch::Receiver<ShutdownStage>) {
    // A sender that is gone can't ask any more.
    if shutdown.wait_for(|stage| *stage >= ShutdownStage::Graceful).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One session: from nothing to a stream, until it ends. `Ok` is a stop as asked.
async fn session(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    status: &Arc<Status>,
    snapshots: &Arc<SnapshotControl>,
    carried: &Carried,
    shutdown: &mut watch::Receiver<ShutdownStage>,
) -> Result<(), StageError> {
    status.set(Readiness::Starting { doing: "connecting to Postgres".to_owned() });
    let owned = tokio::select! {
        owned = own_slot(settings, metrics, status) => owned?,
        () = asked_to_stop(shutdown) => return Ok(()),
    };
    match stream(settings, metrics, status, snapshots, carried, shutdown, owned).await {
        Err(StageError::Postgres { source, .. }) if let Some(halt) = too_large(settings, &source).await => {
            Err(halt)
        }
        ended => ended,
    }
}

/// A change that is larger than the limit was never decoded; the catalog knows its table's name.
async fn too_large(settings: &Settings, error: &headwater_pg::Error) -> Option<StageError> {
    let headwater_pg::ErrorKind::FrameTooLarge { bytes, wal_start, relation } = error.kind() else {
        return None;
    };
    let name = match relation {
        Some(relation) => {
            relation_name(settings, relation).await.unwrap_or_else(|| format!("relation {relation}"))
        }
        None => "no table".to_owned(),
    };
    let (limit, slot) = (settings.max_row_bytes, &settings.slot);
    Some(StageError::Halt(Halt::new(
        ExitCode::RowTooLarge,
        format!(
            "a change of {name} at {wal_start} has {bytes} bytes, more than pipeline.max_row_bytes ({limit})"
        ),
        format!(
            "raise pipeline.max_row_bytes, and max.message.bytes of the topic; or leave the large column out with a column list in \
             the publication, which helps for later changes. Nothing was lost: slot {slot} keeps it"
        ),
    )))
}

/// None when it can't be asked: the halt says the number then.
async fn relation_name(settings: &Settings, relation: RelationId) -> Option<String> {
    let client = headwater_pg::connect(&settings.postgres).await.ok()?;
    let sql = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    client.query_opt(sql, &[&relation.0]).await.ok()??.get(0)
}

/// Source and pump, until one of them ends.
async fn stream(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    status: &Arc<Status>,
    snapshots: &Arc<SnapshotControl>,
    carried: &Carried,
    shutdown: &mut watch::Receiver<ShutdownStage>,
    owned: Owned,
) -> Result<(), StageError> {
    let budget = Arc::new(Budget::new(settings.max_in_flight_bytes));
    let stop = Arc::new(StopSignal::default());
    let answers = Arc::new(SinkAnswers::default());
    let destination = destination(settings)?;
    let (confirmed, confirmed_receiver) = watch::channel(owned.checkpoint);
    let (finish, finish_receiver) = watch::channel(false);
    let (inputs, input_receiver) = std::sync::mpsc::channel();
    let (reports, report_receiver) = mpsc::unbounded_channel();
    // A new slot's tables are copied first, and of others the coordinator knows what comes before the stream.
    let waits = owned.keeper.is_some() || owned.stored.snapshot.job.is_some();
    let (held, held_receiver) = watch::channel(waits);
    let ask = Arc::new(Notify::new());
    // One question at a time; one more may be left by a pump that was abandoned.
    let (questions, question_receiver) = mpsc::channel(2);
    let out = Outlet::new(OutletParts {
        sink: open_sink(settings)?,
        budget: budget.clone(),
        store: owned.store.into_pump(),
        identity: owned.identity.clone(),
        checkpoint: owned.checkpoint,
        confirmed,
        max_row_bytes: settings.max_row_bytes,
        // Half of it: the server counts from our last status, which may be a third of it old.
        lease: owned.wal_sender_timeout.map(|timeout| timeout / 2),
        stop: stop.clone(),
        answers: answers.clone(),
        metrics: metrics.clone(),
        status: status.clone(),
    });
    let (history, database) = (SchemaHistory::new(owned.stored.history), owned.identity.database.clone());
    let versions = Versions::new(settings.clone(), database, history, questions);
    let intake = Intake::new(reports, owned.identity.epoch, owned.next_xid);
    // As with questions.
    let (readings, reading_receiver) = mpsc::channel(2);
    let holding = Holding::new(settings, readings);
    let stored = (owned.stored.requests.unwrap_or_default(), owned.stored.snapshot.last_request());
    let (asking, pump_side) = Asking::new(settings, metrics, stored, &owned.identity, intake, &inputs);
    let blocked = BlockedKeys::new(owned.stored.blocked, owned.identity.epoch);
    let writer = carried.writer(settings, &versions, blocked, out);
    let pump = Pump::new(settings, owned.checkpoint, versions, holding, input_receiver, pump_side, writer);
    let coordinator = CoordinatorParts {
        settings: settings.clone(),
        control: snapshots.clone(),
        checkpoint_key: owned.identity.key(),
        epoch: owned.identity.epoch,
        consistent_point: owned.checkpoint,
        stored: owned.stored.snapshot,
        keeper: owned.keeper,
        inputs: inputs.clone(),
        reports: report_receiver,
        held,
        ask: ask.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
        requests: asking.requests.clone(),
        notifier: asking.notifier.clone(),
    };
    let source = Source {
        stream: owned.stream,
        inputs,
        held: held_receiver,
        ask,
        budget,
        confirmed: confirmed_receiver,
        finish: finish_receiver,
        status_interval: status_interval(settings, owned.wal_sender_timeout),
        metrics: metrics.clone(),
    };
    tracing::info!(slot = settings.slot, checkpoint = %owned.checkpoint, "streaming");
    if !waits {
        status.set(Readiness::Streaming);
    }
    let mut beside = vec![
        tokio::spawn(resolver(settings, owned.client, &destination, status, metrics).run(question_receiver)),
        tokio::spawn(reselector(settings, status).run(reading_receiver)),
        tokio::spawn(slot_watch(settings, metrics, status).run()),
    ];
    if let Some(Destination { admin, .. }) = destination {
        beside.push(tokio::spawn(sink_watch::watch(admin, status.clone(), answers)));
    }
    let running = Running {
        source: tokio::spawn(source.run()),
        pump: start_pump(pump),
        copying: tokio::spawn(asking.run(coordinator)),
        stop,
        finish,
    };
    let result = running.supervise(settings, status, shutdown).await;
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    result
}

fn resolver(
    settings: &Settings,
    client: Client,
    destination: &Option<Destination>,
    status: &Arc<Status>,
    metrics: &Arc<Metrics>,
) -> Resolver {
    Resolver {
        client,
        postgres: settings.postgres.clone(),
        destination: destination.clone(),
        max_row_bytes: settings.max_row_bytes,
        status: status.clone(),
        metrics: metrics.clone(),
    }
}

fn reselector(settings: &Settings, status: &Arc<Status>) -> Reselector {
    Reselector {
        postgres: settings.postgres.clone(),
        timeout: settings.reselect.timeout,
        status: status.clone(),
    }
}

fn slot_watch(settings: &Settings, metrics: &Arc<Metrics>, status: &Arc<Status>) -> SlotWatch {
    SlotWatch {
        postgres: settings.postgres.clone(),
        slot: settings.slot.clone(),
        heartbeat_interval: settings.heartbeat_interval,
        heartbeat_sql: settings.heartbeat_sql.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
    }
}

/// Between a third of the server's patience and what the configuration says.
fn status_interval(settings: &Settings, wal_sender_timeout: Option<Duration>) -> Duration {
    match wal_sender_timeout {
        Some(timeout) => settings.status_interval.min(timeout / 3),
        None => settings.status_interval,
    }
}

type PumpResult = (Result<PumpEnd, StageError>, u64);

/// A thread of its own: it blocks on the sink, and never for long on anything else.
fn start_pump(pump: Pump) -> oneshot::Receiver<PumpResult> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("pump".to_owned())
        // Nobody waits for the result of a pump that was abandoned at a second stop.
        .spawn(move || drop(done.send(pump.run())))
        .expect("the system has a thread for the pump");
    ended
}

/// The three that make a session: it ends when one of them does.
struct Running {
    source: tokio::task::JoinHandle<Result<(), StageError>>,
    pump: oneshot::Receiver<PumpResult>,
    copying: tokio::task::JoinHandle<Result<SnapshotEnd, StageError>>,
    stop: Arc<StopSignal>,
    finish: watch::Sender<bool>,
}

/// What ended first.
enum First {
    Pump(PumpResult),
    Source(Result<(), StageError>),
    Copying(Result<SnapshotEnd, StageError>),
    Asked,
}

impl Running {
    async fn supervise(
        mut self,
        settings: &Settings,
        status: &Status,
        shutdown: &mut watch::Receiver<ShutdownStage>,
    ) -> Result<(), StageError> {
        let lost = "the pump's thread ends with a result";
        let first = tokio::select! {
            ended = &mut self.pump => First::Pump(ended.expect(lost)),
            joined = &mut self.source => First::Source(joined.expect("the source does not panic")),
            joined = &mut self.copying => First::Copying(joined.expect("the coordinator does not panic")),
            () = asked_to_stop(shutdown) => First::Asked,
        };
        // With it goes the last sender but the source's: the pump ends when nobody sends any more.
        self.copying.abort();
        let (pump_result, repeats) = match first {
            First::Pump((pump_result, _)) => {
                let source_error = self.end_source().await.err().unwrap_or(StageError::Stopped);
                return why(pump_result, source_error);
            }
            First::Source(source_result) => {
                let (pump_result, _) = self.pump.await.expect(lost);
                return why(pump_result, source_result.err().unwrap_or(StageError::Stopped));
            }
            First::Copying(Err(error)) => {
                // What came before is sound; what is left of it comes again. A coordinator that was merely stopped
                // lost its pump.
                let (pump_result, _) = self.drain(settings).await;
                return match error {
                    StageError::Stopped => why(pump_result, StageError::Stopped),
                    error => Err(error),
                };
            }
            First::Copying(Ok(SnapshotEnd::OnlySnapshot)) => {
                tracing::info!("the snapshot is all that was asked for: stopping");
                status.set(Readiness::Stopping);
                self.drain(settings).await
            }
            First::Asked => {
                tracing::info!("stopping: draining what was read");
                status.set(Readiness::Stopping);
                self.drain(settings).await
            }
        };
        match pump_result {
            Ok(PumpEnd::Stopped) => tracing::info!("stopped; everything that was read is confirmed"),
            _ => tracing::warn!(
                repeats,
                "stopped before everything was acknowledged; these records will be repeated"
            ),
        }
        Ok(())
    }

    /// Finishes what is under way, for as long as a shutdown may take; then lets the source report it and end.
    async fn drain(&mut self, settings: &Settings) -> PumpResult {
        let lost = "the pump's thread ends with a result";
        self.stop.graceful.store(true, Ordering::Relaxed);
        let result = match tokio::time::timeout(settings.shutdown_timeout, &mut self.pump).await {
            Ok(ended) => ended.expect(lost),
            Err(_) => {
                self.stop.abandon.store(true, Ordering::Relaxed);
                (&mut self.pump).await.expect(lost)
            }
        };
        // What it says is of no use any more.
        drop(self.end_source().await);
        result
    }

    /// The pump is done: what it confirmed last still has to reach Postgres.
    async fn end_source(&mut self) -> Result<(), StageError> {
        self.finish.send_replace(true);
        match tokio::time::timeout(Duration::from_secs(2), &mut self.source).await {
            Ok(joined) => joined.expect("the source does not panic"),
            Err(_) => Ok(()),
        }
    }
}

/// Why a session ended that nobody asked to: a pump that was merely stopped has its reason elsewhere.
fn why(pump: Result<PumpEnd, StageError>, other: StageError) -> Result<(), StageError> {
    match pump {
        Err(StageError::Stopped) | Ok(_) => Err(other),
        Err(error) => Err(error),
    }
}

/// librdkafka's queue must never be the tighter limit: it counts otherwise than the budget does, and a record larger
/// than its queue would be refused for ever.
fn producer_settings(settings: &Settings, kafka: &headwater_kafka::Settings) -> headwater_kafka::Settings {
    let queue_bytes_max = settings.max_in_flight_bytes.saturating_add(settings.max_row_bytes);
    headwater_kafka::Settings { queue_bytes_max, ..kafka.clone() }
}

fn open_sink(settings: &Settings) -> Result<Box<dyn Sink>, StageError> {
    Ok(match &settings.sink {
        SinkSettings::Kafka { kafka, .. } => Box::new(KafkaSink::new(&producer_settings(settings, kafka))?),
        SinkSettings::Stdout => Box::new(LineSink::stdout()),
        SinkSettings::Discard => {
            tracing::warn!("sink.type = \"discard\": what the slot sends is thrown away");
            Box::new(DiscardSink::default())
        }
        SinkSettings::File { path } => Box::new(LineSink::file(path)?),
    })
}

fn destination(settings: &Settings) -> Result<Option<Destination>, StageError> {
    let SinkSettings::Kafka { kafka, registry } = &settings.sink else { return Ok(None) };
    let admin = Admin::new(kafka).map_err(StageError::kafka("connecting to Kafka"))?;
    let registry = registry.as_ref().map(Registry::new).transpose().map_err(|error| {
        StageError::Halt(Halt::new(
            ExitCode::Configuration,
            error.to_string(),
            "correct the [schema_registry] section",
        ))
    })?;
    Ok(Some(Destination {
        admin: Arc::new(admin),
        registry: registry.map(Arc::new),
        topics: settings.topics.clone(),
    }))
}
