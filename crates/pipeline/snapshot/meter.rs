//! How fast a table is copied and when that will be done, from what workers count as they read.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a rate is taken over: long enough that one chunk or one pause doesn't make it jump.
const WINDOW: Duration = Duration::from_secs(20);

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// Counts of one table; workers add, whoever shows them looks.
#[derive(Debug, Default)]
pub(crate) struct TableMeter {
    rows: AtomicU64,
    bytes: AtomicU64,
    clock: Mutex<Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    /// When it went on.
    since: Option<Instant>,
    /// How long it ran before that.
    before: Duration,
    samples: VecDeque<(Instant, u64, u64)>,
}

/// What a meter shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) rows_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) is_running: bool,
}

impl TableMeter {
    /// The copy of the table is at this many rows; its clock stands.
    pub(crate) fn set(&self, rows: u64, bytes: u64) {
        self.rows.store(rows, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.clock().samples.clear();
    }

    /// So much more was read.
    pub(crate) fn add(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// At least that much was read.
    pub(crate) fn at_least(&self, rows: u64, bytes: u64) {
        self.rows.fetch_max(rows, Ordering::Relaxed);
        self.bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// The clock runs from now on, if it does not yet.
    pub(crate) fn start(&self) {
        let now = Instant::now();
        let (rows, bytes) = (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let mut clock = self.clock();
        if clock.since.is_none() {
            clock.since = Some(now);
            clock.samples.clear();
            clock.samples.push_back((now, rows, bytes));
        }
    }

    /// The clock stands from now on.
    pub(crate) fn stop(&self) {
        let mut clock = self.clock();
        if let Some(since) = clock.since.take() {
            clock.before += since.elapsed();
            clock.samples.clear();
        }
    }

    pub(crate) fn read(&self) -> Reading {
        self.read_at(Instant::now())
    }

    fn read_at(&self, now: Instant) -> Reading {
        let (rows, bytes) = (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let mut clock = self.clock();
        let running = clock.since.map(|since| now.saturating_duration_since(since));
        let seconds = (clock.before + running.unwrap_or_default()).as_secs_f64();
        let mut reading =
            Reading { rows, bytes, seconds, is_running: running.is_some(), ..Reading::default() };
        if running.is_none() {
            return reading;
        }
        let is_due = |last: &(Instant, u64, u64)| now.saturating_duration_since(last.0) >= SAMPLE_INTERVAL;
        if clock.samples.back().is_none_or(is_due) {
            clock.samples.push_back((now, rows, bytes));
        }
        // The oldest that is still in the window, and one that is just outside of it.
        while clock.samples.get(1).is_some_and(|second| now.saturating_duration_since(second.0) > WINDOW) {
            clock.samples.pop_front();
        }
        if let Some((then, rows_then, bytes_then)) = clock.samples.front() {
            let passed = now.saturating_duration_since(*then).as_secs_f64();
            // Before that it is mostly what came at once.
            if passed >= SAMPLE_INTERVAL.as_secs_f64() {
                reading.rows_per_second = rows.saturating_sub(*rows_then) as f64 / passed;
                reading.bytes_per_second = bytes.saturating_sub(*bytes_then) as f64 / passed;
            }
        }
        reading
    }

    fn clock(&self) -> std::sync::MutexGuard<'_, Clock> {
        self.clock.lock().expect("no code panics while it holds the clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_late() {
        let meter = TableMeter::default();
        meter.set(1000, 10_000);
        assert_eq!(meter.read().rows_per_second, 0.0);
        meter.start();
        let began = meter.clock().since.unwrap();
        let at = |seconds: u64| meter.read_at(began + Duration::from_secs(seconds));
        for second in 1..=60 {
            // A hundred rows a second at first, ten at the end.
            let rows = if second <= 30 { 100 } else { 10 };
            meter.add(rows, 10 * rows);
            let reading = at(second);
            let wanted = match second {
                1..=30 => 100.0,
                55.. => 10.0,
                _ => continue,
            };
            assert!((reading.rows_per_second - wanted).abs() < 0.01, "{second}: {reading:?}");
            assert!((reading.bytes_per_second - 10.0 * wanted).abs() < 0.1, "{second}: {reading:?}");
        }
        let last = at(60);
        assert_eq!((last.rows, last.bytes, last.seconds), (4300, 43_000, 60.0));
    }

    #[test]
    fn a_clock_that_stands_counts_nothing() {
        let meter = TableMeter::default();
        meter.add(5, 5);
        meter.stop();
        let reading = meter.read_at(Instant::now() + Duration::from_secs(9));
        assert_eq!((reading.seconds, reading.rows_per_second, reading.is_running), (0.0, 0.0, false));
    }
}
