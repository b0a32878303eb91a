//! The tasks, begun by `headwater run` and ended with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headwater_pg::Client;
use headwater_pgoutput::Lsn;
use headwater_pipeline::sent::SentEvents;
use headwater_pipeline::{Metrics, Status};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::aside::Asides;
use crate::attempts::Attempts;
use crate::feedback::Feedback;
use crate::mark_sent::{self, Queue};
use crate::notify::Notifier;
use crate::pause::Pause;
use crate::reconcile::{self, Pass};
use crate::settings::Settings;
use crate::table::{self, LoadError, Table};

/// How often it is looked whether what waits is confirmed.
const TICK: Duration = Duration::from_millis(100);

/// Time between two looks for rows that were left behind.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the statuses of outbox rows until the pipeline has ended; then marks what is confirmed, and leaves.
pub async fn run(settings: Settings, mut sent: SentEvents, status: Arc<Status>, metrics: Arc<Metrics>) {
    let died = Arc::new(Notify::new());
    let (policies, feedback) = match settings.feedback.clone() {
        Some(feedback) => (Some(feedback.policies.clone()), Some(feedback)),
        None => (None, None),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let thread = feedback.map(|feedback| {
        let (settings, metrics, died) = (settings.clone(), metrics.clone(), died.clone());
        Feedback { settings, feedback, metrics, died, stop: stop.clone() }.start()
    });
    let mut others = tokio::task::JoinSet::new();
    let attempts =
        Attempts { settings: settings.clone(), policies, metrics: metrics.clone(), died: died.clone() };
    others.spawn(attempts.run());
    if let Some(events) = sent.take_asides() {
        let (settings, metrics, died) = (settings.clone(), metrics.clone(), died.clone());
        others.spawn(Asides { settings, metrics, died }.run(events));
    }
    if let Some(notify) = settings.notify.clone() {
        let (settings, metrics, status) = (settings.clone(), metrics.clone(), status.clone());
        let (called, mailed) = Default::default();
        let died = died.clone();
        others.spawn(Notifier { settings, notify, metrics, status, died, called, mailed }.run());
    }
    let mut writer = SentWriter { settings, sent, status, metrics, queue: Queue::default() };
    let mut pause = Pause::default();
    while let Err(error) = writer.session(&mut pause).await {
        if writer.sent.is_closed() {
            break;
        }
        pause.after("writing the status of outbox rows", &error).await;
    }
    drop(others);
    stop.store(true, Ordering::Relaxed);
    if let Some(thread) = thread {
        // Leaving the group lets another instance take over at once. A thread that panicked has ended the process.
        drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
    }
}

/// NEW to SENT, on a connection of its own.
struct SentWriter {
    settings: Settings,
    sent: SentEvents,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    /// Outlives connections.
    queue: Queue,
}

/// One table's search for rows that were left behind.
struct Search {
    table: Table,
    pass: Option<Pass>,
    due: Instant,
}

impl SentWriter {
    /// Writes until no pump will ever send any more.
    async fn session(&mut self, pause: &mut Pause) -> Result<(), LoadError> {
        // Nothing is to be written before there is a position to compare with.
        while self.confirmed() == Lsn(0) {
            if self.sent.is_closed() {
                return Ok(());
            }
            tokio::time::sleep(TICK).await;
        }
        let client = headwater_pg::connect(&self.settings.postgres).await?;
        // What a crash of the server takes back is found again.
        client.batch_execute("SET synchronous_commit = off").await.map_err(headwater_pg::Error::from)?;
        let mut searches = Vec::new();
        for table in &self.settings.tables {
            let table = table::load(&client, table).await?;
            searches.push(Search { table, pass: None, due: Instant::now() });
        }
        let mut began_at = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // First the position, then what the pump has said: so what it says of rows up to here is known before a
            // search takes them for rows of which it said nothing.
            let confirmed = self.confirmed();
            while let Some(batch) = self.sent.take_ready() {
                self.queue.push(batch);
            }
            let begun = Some(self.status.began_at());
            if began_at != begun {
                self.begin(&client, &mut searches, confirmed).await?;
                began_at = begun;
            }
            self.write_confirmed(&client, &searches, confirmed).await?;
            let mut next_look = Instant::now() + RECONCILE_INTERVAL;
            for search in &mut searches {
                self.search(&client, search, confirmed).await?;
                next_look = next_look.min(search.due);
            }
            pause.over();
            let waits = !self.queue.is_empty() || searches.iter().any(|search| search.pass.is_some());
            tokio::select! {
                batch = self.sent.next() => match batch {
                    Some(batch) => self.queue.push(batch),
                    None => {
                        self.write_confirmed(&client, &searches, self.confirmed()).await?;
                        return Ok(());
                    }
                },
                _ = tick.tick(), if waits => {}
                () = tokio::time::sleep_until(next_look) => {}
            }
        }
    }

    /// At the start of a connection, and when the slot was begun anew while this process ran: then the position has
    /// jumped over what was never sent, and what waited for it to come by is not SENT.
    async fn begin(
        &mut self,
        client: &Client,
        searches: &mut [Search],
        confirmed: Lsn,
    ) -> Result<(), headwater_pg::Error> {
        let gap = self.status.began_at();
        if let Some(gap) = gap {
            let events = self.queue.drop_through(gap);
            self.sent.done(events);
        }
        for search in searches {
            (search.pass, search.due) = (None, Instant::now());
            reconcile::begin(client, &search.table, &self.settings.slot, confirmed, gap).await?;
        }
        Ok(())
    }

    fn confirmed(&self) -> Lsn {
        self.status.confirmed()
    }

    async fn write_confirmed(
        &mut self,
        client: &Client,
        searches: &[Search],
        confirmed: Lsn,
    ) -> Result<(), headwater_pg::Error> {
        loop {
            let (batches, by_table) = self.queue.confirmed(confirmed);
            if batches == 0 {
                break;
            }
            for (name, events) in by_table {
                let Some(search) = searches.iter().find(|search| search.table.name == name) else { continue };
                let events: Vec<_> = events.iter().map(|event| (&*event.id, event.attempt)).collect();
                let marked = mark_sent::mark(client, &search.table, &events).await?;
                self.metrics.outbox_rows.with_label_values(&[&*name, "sent"]).inc_by(marked);
            }
            let events = self.queue.drop_front(batches);
            self.sent.done(events);
        }
        self.metrics.outbox_waiting.set(self.sent.waiting() as i64);
        self.metrics.outbox_forgotten.inc_by(self.sent.take_forgotten());
        Ok(())
    }

    /// Begins a pass when it is time, and ends it when its position is confirmed.
    async fn search(
        &self,
        client: &Client,
        search: &mut Search,
        confirmed: Lsn,
    ) -> Result<(), headwater_pg::Error> {
        let (table, slot) = (&search.table, self.settings.slot.as_str());
        if let Some(pass) = search.pass.take_if(|pass| pass.confirmed_at <= confirmed) {
            let marked = reconcile::finish(client, table, slot, &pass).await?;
            if marked > 0 {
                self.metrics.outbox_rows.with_label_values(&[&*table.name, "found_sent"]).inc_by(marked);
                tracing::info!(table = %table.name, rows = marked, "rows were sent without saying so; they are marked now");
            }
            if pass.is_full {
                search.due = Instant::now();
            }
        }
        if search.pass.is_none() && search.due <= Instant::now() {
            search.pass = reconcile::look(client, table, slot).await?;
            search.due = Instant::now() + RECONCILE_INTERVAL;
        }
        Ok(())
    }
}
