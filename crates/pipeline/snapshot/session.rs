//! The tasks of a session that have to do with snapshots, put together: they run and end as one.
//!
//! In: what is stored, the channels to and from the pump. Out: the pump's side of it, and one future.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Input;
use super::coordinator::{Coordinator, CoordinatorParts, SnapshotEnd};
use super::intake::Intake;
use super::new_tables::NewTables;
use super::notifications::Notifier;
use super::requests::{Requests, RequestsRecord};
use super::signal_reader::SignalReader;
use super::signal_rows::{SignalRow, SignalRows};
use super::signal_topic;
use crate::error::StageError;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// What the pump owns of it.
pub(crate) struct PumpSide {
    pub(crate) intake: Intake,
    pub(crate) signals: Option<SignalRows>,
    /// To be notified when a table is announced for the first time.
    pub(crate) look: Arc<Notify>,
}

/// What those who ask for snapshots share in a session.
pub(crate) struct Asking {
    pub(crate) requests: Arc<Requests>,
    pub(crate) notifier: Notifier,
    settings: Settings,
    metrics: Arc<Metrics>,
    rows: UnboundedReceiver<SignalRow>,
    look: Arc<Notify>,
}

impl Asking {
    /// Both sides of it. `begun` is the last request that a job was begun for.
    pub(crate) fn new(
        settings: &Settings,
        metrics: &Arc<Metrics>,
        stored: RequestsRecord,
        (checkpoint_key, epoch, begun): (&str, u64, u64),
        intake: Intake,
        inputs: &Sender<Input>,
    ) -> (Asking, PumpSide) {
        let (rows, received) = unbounded_channel();
        let look = Arc::new(Notify::new());
        let signals = settings.signals.table.is_some();
        let signals = signals.then(|| SignalRows::new(settings.signals.clone(), rows));
        let asking = Asking {
            requests: Arc::new(Requests::new(stored, checkpoint_key, epoch, begun, inputs.clone())),
            notifier: Notifier::new(settings, inputs.clone()),
            settings: settings.clone(),
            metrics: metrics.clone(),
            rows: received,
            look: look.clone(),
        };
        (asking, PumpSide { intake, signals, look })
    }

    /// Runs until the coordinator ends or one of the others fails; dropped, it lets go of all its ends of channels.
    pub(crate) async fn run(mut self, parts: CoordinatorParts) -> Result<SnapshotEnd, StageError> {
        let reader = SignalReader {
            settings: self.settings.signals.clone(),
            prefix: self.settings.topics.prefix.clone(),
            requests: self.requests.clone(),
            notifier: self.notifier.clone(),
            metrics: self.metrics.clone(),
        };
        let new_tables =
            NewTables::new(self.settings.clone(), self.requests.clone(), self.look, self.metrics.clone());
        let reads_rows = self.settings.signals.table.is_some();
        tokio::select! {
            ended = Coordinator::new(parts).run() => ended,
            error = reader.run(&mut self.rows), if reads_rows => Err(error),
            error = signal_topic::follow(&self.settings, &reader) => Err(error),
            error = new_tables.run() => Err(error),
        }
    }
}
