//! What librdkafka says beside its answers: log lines and error events, on their way to tracing and to errors.
//!
//! In: what librdkafka says while a client is polled. Out: at most [`LINES_PER_INTERVAL`] lines per interval
//! and client, with a count of what was left out, and the latest reason why brokers can't be reached. No
//! property's value and no record's bytes are in librdkafka's lines below its debug level.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;

use crate::bootstrap::BootstrapServers;
use crate::error::{Class, Error};
use crate::settings::Settings;

/// A broker that is away makes librdkafka say so at each attempt; twenty lines in ten seconds tell enough.
const LINES_PER_INTERVAL: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);

/// How long a client without brokers may stay silent before it counts as stranded: one that still tries to connect
/// fails again within `reconnect.backoff.max.ms`.
const STRANDED_AFTER: Duration = Duration::from_secs(3);

/// One attempt to get metadata: long enough for TLS and SASL across an ocean.
const ATTEMPT: Duration = Duration::from_secs(3);

/// One client's way to the log.
pub(crate) struct ClientLog(Mutex<State>);

struct State {
    since: Instant,
    lines: u32,
    left_out: u64,
    last_error: Option<(Code, String)>,
    /// The last sign of life since all brokers were down; `None` while there is a connection.
    all_down_at: Option<Instant>,
}

impl ClientLog {
    pub(crate) fn new() -> ClientLog {
        let since = Instant::now();
        ClientLog(Mutex::new(State { since, lines: 0, left_out: 0, last_error: None, all_down_at: None }))
    }

    pub(crate) fn line(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Producer settings go to every role, and each would complain of the others'.
        let other_role = facility == "CONFWARN" && text.contains("property and will be ignored by this");
        if other_role || !self.admit() {
            return;
        }
        let text = without_client_name(text);
        if facility == "FAIL" {
            // Some refusals (a listener that wants SASL) are only logged.
            self.state().last_error.get_or_insert_with(|| (Code::BrokerTransportFailure, text.to_owned()));
        }
        // A broker that has just started loads its coordinator for a moment, and librdkafka asks again by itself.
        let passes = facility == "GETPID" && text.contains("retrying");
        match level {
            _ if passes => tracing::info!(target: "librdkafka", facility, "{text}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{text}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{text}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{text}"),
        }
    }

    /// An error event: kept as the reason for time-outs; the log line that comes with it says the same.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut state = self.state();
        if code == Code::AllBrokersDown || state.all_down_at.is_some() {
            state.all_down_at = Some(Instant::now());
        }
        let reason = without_client_name(reason).to_owned();
        // "all brokers down" follows the event that says why; the reason is worth more.
        if code != Code::AllBrokersDown || state.last_error.is_none() {
            state.last_error = Some((code, reason));
        }
    }

    /// The latest reason, taken.
    pub(crate) fn take_last_error(&self) -> Option<(Code, String)> {
        self.state().last_error.take()
    }

    /// A broker answered.
    pub(crate) fn note_answer(&self) {
        self.state().all_down_at = None;
    }

    /// Whether all brokers went down and no attempt to connect followed; tells so once.
    pub(crate) fn take_stranded(&self) -> bool {
        let mut state = self.state();
        let stranded = state.all_down_at.is_some_and(|at| at.elapsed() > STRANDED_AFTER);
        if stranded {
            state.all_down_at = None;
        }
        stranded
    }

    fn admit(&self) -> bool {
        let mut state = self.state();
        if state.since.elapsed() >= INTERVAL {
            let left_out = state.left_out;
            (state.since, state.lines, state.left_out) = (Instant::now(), 0, 0);
            if left_out > 0 {
                tracing::warn!(target: "librdkafka", left_out, "log lines were left out in the last interval");
            }
        }
        state.lines += 1;
        let admitted = state.lines <= LINES_PER_INTERVAL;
        state.left_out += u64::from(!admitted);
        admitted
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The context of consumers: their only duty beside records is to say why they can't connect.
pub(crate) struct Connection {
    log: ClientLog,
    servers: BootstrapServers,
}

impl Connection {
    pub(crate) fn new(settings: &Settings) -> Result<Connection, Error> {
        Ok(Connection { log: ClientLog::new(), servers: BootstrapServers::new(&settings.bootstrap_servers)? })
    }
}

impl ClientContext for Connection {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.log.line(level, facility, text);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }
}

impl ConsumerContext for Connection {}

/// Asks for brokers, and for a topic if one is named, until there is an answer or a reason why there is none.
pub(crate) fn metadata(
    client: &BaseConsumer<Connection>,
    topic: Option<&str>,
    timeout: Duration,
    doing: &str,
) -> Result<Metadata, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let failed = match client.fetch_metadata(topic, remaining.min(ATTEMPT)) {
            Ok(metadata) => {
                client.context().log.note_answer();
                return Ok(metadata);
            }
            Err(error) => Error::from_rdkafka(&error, doing).because(connection_error(client)),
        };
        if client.context().log.take_stranded() {
            client.context().servers.add_to(client.client());
        }
        // A refused password is refused again; an address that doesn't answer may be the first of several.
        if failed.class() != Class::Retriable || failed.has_reason() || remaining <= ATTEMPT {
            return Err(failed);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Serves a failed client's queue, where its connection's errors wait, and takes the latest.
pub(crate) fn connection_error(client: &BaseConsumer<Connection>) -> Option<(Code, String)> {
    // A log line looks like an empty queue from here, so the number of looks is fixed: more than the handful of
    // events that one failed attempt leaves, and next to nothing when there are none.
    for _ in 0..100 {
        let _event = client.poll(Duration::ZERO);
    }
    client.context().log.take_last_error()
}

/// `[thrd:…]: text` and `host:port/1: text` without the thread's name, which says nothing to an operator.
fn without_client_name(text: &str) -> &str {
    match text.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")) {
        Some((_, rest)) => rest,
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also tells whether librdkafka was compiled with `librdkafka.cmake`: without it, it never notices.
    #[test]
    fn all_brokers_down_is_noticed() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let settings = Settings { bootstrap_servers: closed.to_string(), ..Settings::default() };
        let connection = Connection::new(&settings).expect("settings");
        let client: BaseConsumer<Connection> =
            settings.admin_config().create_with_context(connection).expect("a client");
        let start = Instant::now();
        while client.context().log.state().all_down_at.is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "clean rdkafka-sys and build it again");
            let _event = client.poll(Duration::from_millis(50));
        }
    }

    #[test]
    fn stranded_is_who_was_down_and_went_silent() {
        let log = ClientLog::new();
        let long_ago = Instant::now().checked_sub(STRANDED_AFTER * 2);
        assert!(!log.take_stranded(), "nothing happened");
        log.error(&KafkaError::Global(Code::BrokerTransportFailure), "refused");
        assert!(log.state().all_down_at.is_none(), "one broker of several");
        log.error(&KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert!(!log.take_stranded(), "it may be trying");
        log.state().all_down_at = long_ago;
        log.error(&KafkaError::Global(Code::BrokerTransportFailure), "refused");
        assert!(!log.take_stranded(), "it is trying");
        log.state().all_down_at = long_ago;
        assert!(log.take_stranded());
        assert!(!log.take_stranded(), "told once");
        log.state().all_down_at = long_ago;
        log.note_answer();
        assert!(!log.take_stranded(), "it is back");
    }
}
