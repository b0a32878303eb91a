//! Applying from start to stop: join the group, run sessions one after another, wait where waiting helps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_avro::registry::Registry;
use headwater_kafka::{AssignmentChange, GroupConsumer, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::backoff::Backoff;
use crate::halt::{Failure, Halt, HaltCause};
use crate::lag::Lag;
use crate::layout::Layouts;
use crate::letters::Letters;
use crate::metrics::Metrics;
use crate::naming::{own_topics, subscription};
use crate::session::{Session, Shared, of_kafka};
use crate::settings::Settings;
use crate::status::{State, Status};

/// What held for so long ended for a new reason.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// Runs until `shutdown` says so, or until a person is needed.
///
/// The work is done on a thread of its own: the consumer has to be polled whatever else waits.
///
/// # Errors
/// [`Halt`]
pub async fn run(
    settings: Settings,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Halt> {
    let registry = Registry::new(&settings.registry)
        .map_err(|error| Halt::new(HaltCause::Registry, error.to_string(), "correct [schema_registry]"))?;
    let settings = Arc::new(settings);
    let shared = Shared {
        layouts: Layouts::new(settings.clone(), registry),
        replay_pending: settings.replay.is_some(),
        runtime: Handle::current(),
        letters: Letters::default(),
        lag: Lag::default(),
        settings,
        metrics,
        status: status.clone(),
        shutdown,
    };
    let (done, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("apply".to_owned()).spawn(move || {
        // Nobody listens only when the process ends.
        let _ = done.send(memberships(shared));
    });
    let failed = |what: &str| Halt::new(HaltCause::TargetError, what, "");
    thread.map_err(|error| failed(&format!("no thread to apply on: {error}")))?;
    let outcome = ended.await.unwrap_or_else(|_| Err(failed("the applying thread is gone")));
    if let Err(halt) = &outcome {
        status.set(State::Halted(halt.what.clone()));
    }
    outcome
}

/// One membership of the group after another; a new one only after being fenced.
fn memberships(mut shared: Shared) -> Result<(), Halt> {
    let mut backoff = Backoff::new();
    loop {
        let began = Instant::now();
        let ended = membership(&mut shared);
        if began.elapsed() > LONG_ENOUGH {
            backoff.reset();
        }
        match ended {
            Ok(()) => return Ok(()),
            Err(Failure::Halt(halt)) => return Err(halt),
            Err(Failure::Fenced(reason)) => {
                shared.metrics.restarts.with_label_values(&["fenced"]).inc();
                tracing::info!(reason, "joining the group anew");
                if !pause(&shared, None, backoff.next()) {
                    return Ok(());
                }
            }
            Err(Failure::Away(reason)) => {
                waiting(&mut shared, &mut backoff, &reason);
                if !pause(&shared, None, backoff.next()) {
                    return Ok(());
                }
            }
            Err(Failure::Refused(refusal)) => {
                // Each refusal belongs to a record, and the session that has the record decides.
                return Err(Halt::new(HaltCause::Record, refusal.reason, ""));
            }
        }
    }
}

fn membership(shared: &mut Shared) -> Result<(), Failure> {
    shared.status.set(State::Joining);
    let settings = shared.settings.clone();
    let events = settings.events.iter().flat_map(|events| &events.topics);
    let topics: Vec<String> = settings.topics.iter().chain(events).map(|topic| subscription(topic)).collect();
    let instance = settings.instance.as_deref();
    let ignored = own_topics(&settings);
    let consumer =
        GroupConsumer::join_ignoring(&settings.kafka, &settings.group, instance, &topics, &ignored)
            .map_err(of_kafka)?;
    let mut assigned = Vec::new();
    let mut backoff = Backoff::new();
    loop {
        let began = Instant::now();
        match Session::run(shared, &consumer, &mut assigned) {
            Err(Failure::Away(reason)) => {
                if began.elapsed() > LONG_ENOUGH {
                    backoff.reset();
                }
                waiting(shared, &mut backoff, &reason);
                consumer.unassign().map_err(of_kafka)?;
                if !pause(shared, Some((&consumer, &mut assigned)), backoff.next()) {
                    return Ok(());
                }
            }
            other => return other,
        }
    }
}

fn waiting(shared: &mut Shared, backoff: &mut Backoff, reason: &str) {
    shared.metrics.restarts.with_label_values(&["away"]).inc();
    shared.status.set(State::Waiting(reason.to_owned()));
    if !backoff.used() {
        tracing::info!(reason, "waiting; nothing is lost, the offsets are in the database");
    }
}

/// Waits, and goes on answering the group. False when it is time to stop.
fn pause(
    shared: &Shared,
    mut member: Option<(&GroupConsumer, &mut Vec<TopicPartition>)>,
    wait: Duration,
) -> bool {
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline {
        if *shared.shutdown.borrow() {
            return false;
        }
        let step = Duration::from_millis(50);
        let Some((consumer, assigned)) = &mut member else {
            std::thread::sleep(step);
            continue;
        };
        // Nothing is assigned to librdkafka, so there is no record; its errors come again in the session.
        drop(consumer.poll(step));
        while let Some(change) = consumer.take_change() {
            match change {
                AssignmentChange::Assigned(places) => **assigned = places,
                AssignmentChange::Revoked(_) => {
                    assigned.clear();
                    if let Err(error) = consumer.unassign() {
                        tracing::debug!(%error, "partitions were not given back");
                    }
                }
            }
        }
        shared.status.alive();
        shared.metrics.lag_seconds.set(shared.lag.seconds());
    }
    true
}
