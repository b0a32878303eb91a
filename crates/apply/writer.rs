//! The connection to the target: one transaction at a time, while the next batch is collected.
//!
//! In: a batch, and which offsets it moves. Out: what became of it. Invariant: nothing else is asked over the connection
//! while a transaction is under way, for it would become a part of it; so the writer is away then, and comes back with
//! the outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_pg::Client;
use tokio::task::JoinHandle;

use crate::batch::{Applier, Batch, Moves};
use crate::events::{Failing, Handlers};
use crate::halt::Failure;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::upsert::Staging;

/// What a transaction needs.
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) staging: Staging,
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handlers: Handlers,
}

/// A transaction under way.
pub(crate) struct Flight(JoinHandle<Landed>);

/// The writer, back.
pub(crate) struct Landed {
    pub(crate) writer: Writer,
    pub(crate) batch: Batch,
    pub(crate) moves: Moves,
    pub(crate) outcome: Result<(), Failure>,
    pub(crate) took: Duration,
}

impl Writer {
    pub(crate) fn new(client: Client, settings: Arc<Settings>, metrics: Arc<Metrics>) -> Writer {
        Writer { client, staging: Staging::default(), settings, metrics, handlers: Handlers::default() }
    }

    /// Begins.
    pub(crate) fn depart(mut self, runtime: &tokio::runtime::Handle, batch: Batch, moves: Moves) -> Flight {
        Flight(runtime.spawn(async move {
            let began = Instant::now();
            let outcome = self.apply(&batch, &moves).await;
            Landed { writer: self, batch, moves, outcome, took: began.elapsed() }
        }))
    }

    /// One transaction; another one, with each event apart, if an event failed and that is to be an answer.
    async fn apply(&mut self, batch: &Batch, moves: &Moves) -> Result<(), Failure> {
        let answers = self.settings.events.as_ref().is_some_and(|events| events.feedback_topic.is_some());
        match self.applier().apply(batch, moves, Failing::Refuses).await {
            Err(Failure::Refused(refusal)) if refusal.stage == "event" && answers => {
                self.applier().apply(batch, moves, Failing::IsNoted).await
            }
            outcome => outcome,
        }
    }

    fn applier(&mut self) -> Applier<'_> {
        Applier {
            client: &self.client,
            staging: &mut self.staging,
            handlers: &mut self.handlers,
            settings: &self.settings,
            metrics: &self.metrics,
        }
    }
}

impl Flight {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits. A task that panicked has ended the process already.
    pub(crate) fn land(self, runtime: &tokio::runtime::Handle) -> Result<Landed, Failure> {
        runtime.block_on(self.0).map_err(|_| Failure::Away("the transaction was given up".to_owned()))
    }
}
