//! The way out of the pump: offers records to the sink, serves delivery reports, stores the checkpoint and tells the
//! source what may be confirmed. Owns everything that counts what is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_pgoutput::Lsn;
use tokio::sync::watch;

use crate::ack::AckTracker;
use crate::boot_clock;
use crate::budget::Budget;
use crate::checkpoint::{self, CheckpointFile, Identity, Progress};
use crate::error::StageError;
use crate::history::HistoryRecord;
use crate::metrics::Metrics;
use crate::record::{RECORD_OVERHEAD_BYTES, Record, Token};
use crate::sink::{Offered, Sink};
use crate::sink_watch::SinkAnswers;
use crate::stage::Stage;
use crate::status::{Readiness, Status};

/// Time between two checkpoints: short, because a crash repeats what came after the last one; not shorter, because
/// each is a record in Kafka and a status message to Postgres.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two updates of gauges and status.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// How long one wait for the sink may block: the most that a stop or a frozen process goes unnoticed.
const WAIT: Duration = Duration::from_millis(5);

/// How long records may be in flight without any being acknowledged before that is said.
const SILENCE_TOLD_AFTER: Duration = Duration::from_secs(5);

/// How long nothing may be acknowledged, and for how long brokers must answer meanwhile, before the producer is taken
/// to be stuck and is replaced. Longer than a broker's own timeouts for fencing and electing (9 s and a few).
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// Records between two looks at delivery reports while the stream is busy: librdkafka queues reports, and each holds
/// its record's memory until it is served.
const OFFERS_PER_POLL: u32 = 256;

/// How a stop reaches the pump's thread.
#[derive(Debug, Default)]
pub(crate) struct StopSignal {
    /// Finish the open transaction, drain, confirm.
    pub(crate) graceful: AtomicBool,
    /// Let go at once.
    pub(crate) abandon: AtomicBool,
}

/// Where the checkpoint and the schema history are kept.
pub(crate) enum Store {
    Topic(String),
    File(CheckpointFile),
}

/// What an outlet is made of.
pub(crate) struct OutletParts {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) checkpoint: Lsn,
    pub(crate) confirmed: watch::Sender<Lsn>,
    pub(crate) max_row_bytes: u64,
    /// Longest time the process may have stood still and still own its slot; None without a limit.
    pub(crate) lease: Option<Duration>,
    pub(crate) stop: Arc<StopSignal>,
    /// Whether brokers answer while nothing is acknowledged.
    pub(crate) answers: Arc<SinkAnswers>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: Arc<Status>,
}

/// See the module's documentation.
pub(crate) struct Outlet {
    parts: OutletParts,
    pub(crate) tracker: AckTracker,
    /// Taken and not offered yet.
    stage: Stage,
    /// End of what was read from the stream.
    pub(crate) received: Lsn,
    acknowledged: Lsn,
    /// Stored in the checkpoint and acknowledged.
    stored: Lsn,
    /// A checkpoint on its way.
    storing: Option<Lsn>,
    last_store: Instant,
    /// Whether the history record on its way is still undelivered.
    history_on_its_way: bool,
    /// Records of a snapshot's progress that were acknowledged and not told yet.
    stored_progress: u32,
    /// The same of records of requests,
    stored_requests: u32,
    /// and of notifications.
    noted: u32,
    /// Since when one is on its way, and whether it was said that it takes long.
    noting: Option<(Instant, bool)>,
    in_flight_bytes: u64,
    in_flight_records: u64,
    offers_since_poll: u32,
    delivered: Vec<Token>,
    alive_ms: u64,
    last_report: Instant,
    /// When a record was last acknowledged, or none was in flight.
    last_delivery: Instant,
    /// Whether it was said that the sink acknowledges nothing.
    silence_told: bool,
}

impl Outlet {
    pub(crate) fn new(parts: OutletParts) -> Outlet {
        Outlet {
            tracker: AckTracker::new(parts.checkpoint),
            stage: Stage::default(),
            received: parts.checkpoint,
            acknowledged: parts.checkpoint,
            stored: parts.checkpoint,
            storing: None,
            last_store: Instant::now(),
            history_on_its_way: false,
            stored_progress: 0,
            stored_requests: 0,
            noted: 0,
            noting: None,
            in_flight_bytes: 0,
            in_flight_records: 0,
            offers_since_poll: 0,
            delivered: Vec::new(),
            alive_ms: boot_clock::now_ms(),
            last_report: Instant::now(),
            last_delivery: Instant::now(),
            silence_told: false,
            parts,
        }
    }

    /// Takes a record of the open transaction; it is offered to the sink with the rest of its batch.
    ///
    /// `record.token` is made here, since it carries the charge.
    pub(crate) fn take(
        &mut self,
        sequence: u32,
        mut record: Record<'_>,
        commit_lsn: Lsn,
    ) -> Result<(), StageError> {
        let charge = self.charge_of(&record, commit_lsn)?;
        record.token = Token::row(sequence, charge);
        self.parts.budget.charge(u64::from(charge));
        self.tracker.offered();
        self.stage.push(&record);
        if self.stage.is_full() { self.offer_staged() } else { Ok(()) }
    }

    /// Offers what was taken: at the end of a batch, and before anything that can take long. Waits while the budget is
    /// spent or the sink is full.
    pub(crate) fn offer_staged(&mut self) -> Result<(), StageError> {
        if self.stage.is_empty() {
            return Ok(());
        }
        let mut stage = std::mem::take(&mut self.stage);
        if self.parts.sink.has_partitions() {
            stage.sort_by_partition();
        }
        let result = stage.try_for_each(|record| self.offer(&record));
        stage.clear();
        self.stage = stage;
        result
    }

    /// Lets go of what was taken of one transaction: it can't be finished in this session.
    pub(crate) fn discard_staged(&mut self, sequence: u32) {
        self.stage.retain(|token| token.as_row().is_none_or(|(of, _)| of != sequence));
    }

    fn offer(&mut self, record: &Record<'_>) -> Result<(), StageError> {
        // For each: a process can be stopped between any two, and must offer nothing when it goes on.
        self.still_alive()?;
        let charge = record.token.as_row().map_or(0, |(_, charge)| u64::from(charge));
        // A record larger than the whole budget passes when nothing else is in flight.
        while self.in_flight_bytes > 0 && self.in_flight_bytes + charge > self.parts.budget.limit() {
            self.serve(WAIT)?;
        }
        while self.parts.sink.offer(record)? == Offered::Full {
            self.serve(WAIT)?;
        }
        self.in_flight_bytes += charge;
        self.in_flight_records += 1;
        self.offers_since_poll += 1;
        if self.offers_since_poll >= OFFERS_PER_POLL {
            self.serve(Duration::ZERO)?;
        }
        Ok(())
    }

    fn charge_of(&self, record: &Record<'_>, commit_lsn: Lsn) -> Result<u32, StageError> {
        let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let own = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers;
        let limit = self.parts.max_row_bytes;
        let charge = u32::try_from(own + RECORD_OVERHEAD_BYTES).ok().filter(|_| own as u64 <= limit);
        charge.ok_or_else(|| StageError::RowTooLarge {
            topic: record.topic.to_owned(),
            bytes: own as u64,
            limit,
            commit_lsn,
        })
    }

    /// Stores a version of a table and waits for its acknowledgement: nothing may be offered under it before.
    pub(crate) fn store_history(&mut self, record: &HistoryRecord) -> Result<(), StageError> {
        let key = record.key(&self.parts.identity.key());
        let value = serde_json::to_vec(record).expect("a history record is plain data");
        match &mut self.parts.store {
            Store::File(file) => return file.store(&key, &value),
            Store::Topic(_) => {}
        }
        self.history_on_its_way = true;
        self.offer_to_store(&key, &value, Token::HISTORY)?;
        while self.history_on_its_way {
            self.serve(WAIT)?;
        }
        Ok(())
    }

    /// Stores a record of a snapshot's progress; [`Outlet::take_stored_progress`] tells when it is acknowledged.
    pub(crate) fn store_progress(&mut self, key: &str, value: &[u8]) -> Result<(), StageError> {
        if let Store::File(file) = &mut self.parts.store {
            self.stored_progress += 1;
            return file.store(key, value);
        }
        self.offer_to_store(key, value, Token::PROGRESS)
    }

    /// Stores what only a later start asks for, under the checkpoint's key and `key`. No checkpoint that is offered
    /// later can be stored without it.
    pub(crate) fn store_note(&mut self, key: &str, value: &[u8]) -> Result<(), StageError> {
        let key = format!("{}{key}", self.parts.identity.key());
        match &mut self.parts.store {
            Store::File(file) => file.store(&key, value),
            Store::Topic(_) => self.offer_to_store(&key, value, Token::NOTE),
        }
    }

    /// Takes such a record away.
    pub(crate) fn take_note_away(&mut self, key: &str) -> Result<(), StageError> {
        let key = format!("{}{key}", self.parts.identity.key());
        let Store::Topic(topic) = &self.parts.store else { return Ok(()) };
        let topic = topic.clone();
        self.offer_apart(&topic, 0, Some(key.as_bytes()), None, Token::NOTE)
    }

    /// What the checkpoint has passed.
    pub(crate) fn stored(&self) -> Lsn {
        self.stored
    }

    pub(crate) fn max_row_bytes(&self) -> u64 {
        self.parts.max_row_bytes
    }

    /// How many such records were acknowledged since this was asked last.
    pub(crate) fn take_stored_progress(&mut self) -> u32 {
        std::mem::take(&mut self.stored_progress)
    }

    /// Stores a record of requests; [`Outlet::take_stored_requests`] tells when it is acknowledged.
    pub(crate) fn store_requests(&mut self, key: &str, value: &[u8]) -> Result<(), StageError> {
        if let Store::File(file) = &mut self.parts.store {
            self.stored_requests += 1;
            return file.store(key, value);
        }
        self.offer_to_store(key, value, Token::REQUESTS)
    }

    /// How many such records were acknowledged since this was asked last.
    pub(crate) fn take_stored_requests(&mut self) -> u32 {
        std::mem::take(&mut self.stored_requests)
    }

    /// Offers a notification; [`Outlet::take_noted`] tells when it is acknowledged.
    pub(crate) fn offer_note(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<(), StageError> {
        self.noting = Some((Instant::now(), false));
        self.offer_apart(topic, partition, key, Some(value), Token::NOTIFICATION)
    }

    /// How many notifications were acknowledged since this was asked last.
    pub(crate) fn take_noted(&mut self) -> u32 {
        std::mem::take(&mut self.noted)
    }

    fn offer_to_store(&mut self, key: &str, value: &[u8], token: Token) -> Result<(), StageError> {
        let Store::Topic(topic) = &self.parts.store else { unreachable!("a file is written in place") };
        let topic = topic.clone();
        self.offer_apart(&topic, 0, Some(key.as_bytes()), Some(value), token)
    }

    /// Offers a record that is no part of the stream.
    fn offer_apart(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        token: Token,
    ) -> Result<(), StageError> {
        let record = Record { topic, partition, key, value, headers: &[], timestamp_ms: None, token };
        while self.parts.sink.offer(&record)? == Offered::Full {
            self.parts.sink.poll(WAIT, &mut self.delivered)?;
            self.take_deliveries();
            self.still_alive()?;
        }
        Ok(())
    }

    /// Waits up to `timeout` for deliveries, moves the position and, when it is time, stores and reports it.
    pub(crate) fn serve(&mut self, timeout: Duration) -> Result<(), StageError> {
        self.still_alive()?;
        self.offers_since_poll = 0;
        self.parts.sink.poll(timeout, &mut self.delivered)?;
        self.take_deliveries();
        let now = Instant::now();
        if now.duration_since(self.last_store) >= CHECKPOINT_INTERVAL {
            self.begin_checkpoint(now)?;
        }
        if now.duration_since(self.last_report) >= REPORT_INTERVAL {
            self.report(now)?;
        }
        Ok(())
    }

    fn take_deliveries(&mut self) {
        let mut released = 0;
        let mut rows = 0;
        let mut stored = None;
        for token in self.delivered.drain(..) {
            match token.as_row() {
                Some((sequence, charge)) => {
                    self.tracker.delivered(sequence);
                    released += u64::from(charge);
                    rows += 1;
                }
                None if token == Token::CHECKPOINT => {
                    stored = self.storing.take();
                }
                None if token == Token::PROGRESS => self.stored_progress += 1,
                None if token == Token::REQUESTS => self.stored_requests += 1,
                None if token == Token::NOTIFICATION => {
                    self.noted += 1;
                    self.noting = None;
                }
                None if token == Token::NOTE => {}
                None => self.history_on_its_way = false,
            }
        }
        if let Some(lsn) = stored {
            self.stored_now(lsn);
            self.sink_answers();
        }
        if rows > 0 {
            self.in_flight_bytes -= released;
            self.in_flight_records -= rows;
            self.parts.budget.release(released);
            self.parts.metrics.acknowledged.inc_by(rows);
            self.sink_answers();
        }
        let now_micros = unix_micros();
        let latency = &self.parts.metrics.commit_to_ack_seconds;
        let acknowledged = self.tracker.advance(|commit_micros| {
            // The server's clock may be ahead of ours.
            latency.observe(now_micros.saturating_sub(commit_micros).max(0) as f64 / 1e6);
        });
        self.acknowledged = acknowledged;
    }

    /// Stores the acknowledged position, unless it is stored or on its way.
    fn begin_checkpoint(&mut self, now: Instant) -> Result<(), StageError> {
        if self.storing.is_some() || self.acknowledged <= self.stored {
            return Ok(());
        }
        self.last_store = now;
        let lsn = self.acknowledged;
        let (key, value) = checkpoint::record(&self.parts.identity, Progress::Streaming(lsn));
        if let Store::File(file) = &mut self.parts.store {
            file.store(&key, &value)?;
            self.stored_now(lsn);
            return Ok(());
        }
        self.storing = Some(lsn);
        self.offer_to_store(&key, &value, Token::CHECKPOINT)
    }

    /// A checkpoint is stored: only now may Postgres hear of it.
    fn stored_now(&mut self, lsn: Lsn) {
        self.stored = lsn;
        self.parts.metrics.checkpoints.inc();
        self.parts.confirmed.send_replace(lsn);
    }

    /// Delivers and checkpoints everything that is complete. True when it is done, false when `patience` ran out
    /// without any progress.
    pub(crate) fn drain(&mut self, patience: Duration) -> Result<bool, StageError> {
        self.offer_staged()?;
        let mut last_progress = Instant::now();
        let mut before = (self.in_flight_records, self.stored);
        loop {
            self.serve(WAIT.min(patience))?;
            let acknowledged = self.tracker.advance(|_| {});
            if self.in_flight_records == 0 && self.storing.is_none() && acknowledged <= self.stored {
                self.report(Instant::now())?;
                return Ok(true);
            }
            self.acknowledged = acknowledged;
            if self.in_flight_records == 0 {
                self.begin_checkpoint(Instant::now())?;
            }
            let present = (self.in_flight_records, self.stored);
            if present != before {
                (before, last_progress) = (present, Instant::now());
            } else if last_progress.elapsed() > patience {
                return Ok(false);
            }
        }
    }

    /// A process that stood still longer than its lease may have lost its slot to another one: what it holds must not
    /// be offered any more. Also notices that the pipeline was abandoned.
    pub(crate) fn still_alive(&mut self) -> Result<(), StageError> {
        let now_ms = boot_clock::now_ms();
        let stood_still_ms = now_ms.saturating_sub(self.alive_ms);
        self.alive_ms = now_ms;
        if self.parts.lease.is_some_and(|lease| stood_still_ms > lease.as_millis() as u64) {
            return Err(StageError::Frozen { stood_still_ms });
        }
        if self.parts.stop.abandon.load(Ordering::Relaxed) {
            return Err(StageError::Stopped);
        }
        Ok(())
    }

    fn sink_answers(&mut self) {
        self.last_delivery = Instant::now();
        self.parts.status.progress();
        if std::mem::take(&mut self.silence_told) {
            tracing::info!("records are acknowledged again");
            self.parts.status.resume();
        }
    }

    /// Nothing in flight is nothing to wait for; a silence gives its reason, so that a probe can tell it from a hang.
    fn watch_silence(&mut self, now: Instant) -> Result<(), StageError> {
        if self.in_flight_records == 0 && self.storing.is_none() && !self.history_on_its_way {
            self.last_delivery = now;
            self.parts.status.progress();
            return Ok(());
        }
        let silence = now.duration_since(self.last_delivery);
        if silence < SILENCE_TOLD_AFTER {
            return Ok(());
        }
        if silence > STUCK_AFTER && self.parts.answers.for_how_long() > STUCK_AFTER {
            return Err(StageError::Stuck { seconds: silence.as_secs() });
        }
        let records = self.in_flight_records;
        let seconds = silence.as_secs();
        if !std::mem::replace(&mut self.silence_told, true) {
            self.parts.metrics.errors.with_label_values(&["sink"]).inc();
            tracing::warn!(records, "waiting for the sink: no record was acknowledged for {seconds} s");
        }
        let reason = format!("waiting for the sink: {records} records, none acknowledged for {seconds} s");
        self.parts.status.set(Readiness::Waiting { reason });
        Ok(())
    }

    /// What is told waits in one line, and requests wait behind it; rows may go on meanwhile.
    fn watch_notification(&mut self, now: Instant) {
        if let Some((since, told)) = &mut self.noting
            && !*told
            && now.duration_since(*since) >= SILENCE_TOLD_AFTER
        {
            *told = true;
            self.parts.metrics.errors.with_label_values(&["sink"]).inc();
            tracing::warn!(
                "a notification is not acknowledged by its topic (notifications.topic): what snapshots and signals have to tell and to store waits for it"
            );
        }
    }

    fn report(&mut self, now: Instant) -> Result<(), StageError> {
        self.last_report = now;
        self.watch_silence(now)?;
        self.watch_notification(now);
        let (metrics, status) = (&self.parts.metrics, &self.parts.status);
        metrics.in_flight_bytes.set(self.parts.budget.used() as i64);
        metrics.in_flight_records.set(self.in_flight_records as i64);
        metrics.received_lsn.set(self.received.0 as i64);
        metrics.acknowledged_lsn.set(self.acknowledged.0 as i64);
        metrics.confirmed_lsn.set(self.stored.0 as i64);
        let lag =
            self.tracker.oldest_commit_unix_micros().map_or(0, |commit| unix_micros().saturating_sub(commit));
        let lag_seconds = lag.max(0) as f64 / 1e6;
        metrics.lag_seconds.set(lag_seconds);
        status.set_lag_seconds(lag_seconds);
        status.set_positions(self.received, self.acknowledged, self.stored);
        Ok(())
    }

    pub(crate) fn in_flight_records(&self) -> u64 {
        self.in_flight_records
    }

    pub(crate) fn stop(&self) -> &StopSignal {
        &self.parts.stop
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.parts.budget
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    pub(crate) fn status(&self) -> &Status {
        &self.parts.status
    }

    /// Ends without waiting; what is in flight is given back to the budget by whoever drops the budget.
    pub(crate) fn abandon(self) {
        self.parts.sink.abandon();
    }
}

fn unix_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
