//! How far `headwater apply` is, for people: a bar for each topic that is behind, on a terminal; elsewhere a line of the
//! log now and then, for as long as there is something left.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_apply::{Report, State, Status};
use indicatif::ProgressBar;

use crate::snapshot_text::{clear_bars, duration, grouped, new_bar, remove_bar};

/// Time between two looks.
const REFRESH: Duration = Duration::from_millis(500);

/// Time between two lines of the log.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// A topic with fewer records left is not worth a bar: they are gone before it is read.
const BEHIND_MIN: i64 = 1000;

/// Bars at a time.
const BARS_MAX: usize = 8;

/// Tells for as long as the process runs.
pub async fn show(status: Arc<Status>) {
    if std::io::stderr().is_terminal() { show_bars(&status).await } else { write_lines(&status).await }
}

/// Nothing is left on the terminal.
pub fn clear() {
    clear_bars();
}

/// Of one topic, over all partitions of this instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Behind {
    next: i64,
    left: i64,
}

fn by_topic(report: &Report) -> BTreeMap<String, Behind> {
    let mut topics: BTreeMap<String, Behind> = BTreeMap::new();
    for (place, progress) in &report.partitions {
        let topic = place.rsplit_once('/').map_or(place.as_str(), |(topic, _)| topic);
        let sum = topics.entry(topic.to_owned()).or_default();
        let next = progress.next_offset.max(0);
        sum.next += next;
        sum.left += progress.end_offset.map_or(0, |end| (end - next).max(0));
    }
    topics
}

struct Shown {
    bar: ProgressBar,
    began: Instant,
    first: i64,
}

async fn show_bars(status: &Status) {
    let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
    loop {
        tokio::time::sleep(REFRESH).await;
        let topics = by_topic(&status.report());
        shown.retain(|topic, Shown { bar, .. }| {
            let stays = topics.get(topic).is_some_and(|topic| topic.left > 0);
            if !stays {
                remove_bar(bar);
            }
            stays
        });
        for (topic, behind) in topics {
            if !shown.contains_key(&topic) && (behind.left < BEHIND_MIN || shown.len() >= BARS_MAX) {
                continue;
            }
            let Shown { bar, began, first } = shown.entry(topic.clone()).or_insert_with(|| Shown {
                bar: new_bar(&topic),
                began: Instant::now(),
                first: behind.next,
            });
            let done = (behind.next - *first).max(0);
            bar.set_length((done + behind.left).unsigned_abs());
            bar.set_position(done.unsigned_abs());
            bar.set_message(message(done, behind.left, began.elapsed()));
        }
    }
}

/// What stands beside a bar: what a narrow terminal has no room for comes last.
fn message(done: i64, left: i64, elapsed: Duration) -> String {
    let (done, left) = (done.unsigned_abs(), left.unsigned_abs());
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let eta = if rate >= 1.0 { duration(left as f64 / rate) } else { "?".to_owned() };
    let percent = 100.0 * done as f64 / (done + left).max(1) as f64;
    format!("{percent:4.1} %  {} records/s  {eta} left  {} records left", grouped(rate as u64), grouped(left))
}

async fn write_lines(status: &Status) {
    let mut before: BTreeMap<String, Behind> = BTreeMap::new();
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        if status.state() != State::Applying {
            continue;
        }
        let report = status.report();
        let topics = by_topic(&report);
        let moved = |(topic, now): (&String, &Behind)| {
            now.next - before.get(topic).map_or(now.next, |before| before.next)
        };
        let applied: i64 = topics.iter().map(moved).sum();
        if report.lag_records > 0 {
            let per_second = applied.max(0).unsigned_abs() / LINE_EVERY.as_secs();
            tracing::info!(records_left = report.lag_records, records_per_second = per_second, "applying");
        }
        before = topics;
    }
}

#[cfg(test)]
mod tests {
    use headwater_apply::Progress;

    use super::*;

    #[test]
    fn partitions_are_summed() {
        let progress = |next_offset, end_offset| Progress { next_offset, end_offset };
        let partitions = BTreeMap::from([
            ("a/0".to_owned(), progress(10, Some(25))),
            ("a/1".to_owned(), progress(-1, Some(5))),
            ("b/0".to_owned(), progress(7, None)),
        ]);
        let report = Report { state: "applying", reason: None, partitions, lag_records: 20 };
        let topics = by_topic(&report);
        assert_eq!(topics["a"], Behind { next: 10, left: 20 });
        assert_eq!(topics["b"], Behind { next: 7, left: 0 });
    }

    #[test]
    fn what_stands_beside_a_bar() {
        let text = message(30_000, 10_000, Duration::from_secs(2));
        assert_eq!(text, "75.0 %  15,000 records/s  1s left  10,000 records left");
        assert!(message(0, 10, Duration::from_secs(2)).contains("? left"));
    }
}
