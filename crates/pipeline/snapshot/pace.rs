//! How fast the server may be asked for rows: so many rows and bytes a second, by all that copy together.
//!
//! Who has read something waits until that much was due. What one read takes too much, the next ones make up for, so
//! the average holds whatever a read brings; a pause is not made up for beyond [`BURST`]. Beside a stream that is not
//! idle, [`GiveWay`] rests between chunks.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::settings::SnapshotSettings;

/// What may be read at once after a pause: enough that reads of some size don't stop and go.
const BURST: Duration = Duration::from_millis(200);

/// Rows that a read may bring at a low limit.
const ROWS_AT_ONCE_MIN: u64 = 500;

/// Bytes that a read may bring at a low limit.
const BYTES_AT_ONCE_MIN: u64 = 64 << 10;

/// Shared by the workers; one for each session.
#[derive(Debug)]
pub(crate) struct Pace {
    rows_per_second: u64,
    bytes_per_second: u64,
    /// When everything that was read is due.
    due: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(settings: &SnapshotSettings) -> Pace {
        Pace {
            rows_per_second: settings.max_rows_per_second,
            bytes_per_second: settings.max_bytes_per_second,
            due: Mutex::new(None),
        }
    }

    /// Waits until what was read is due. Cancel-safe: it counts as read all the same.
    pub(crate) async fn read(&self, rows: u64, bytes: u64) {
        if self.rows_per_second == 0 && self.bytes_per_second == 0 {
            return;
        }
        let due = self.count(rows, bytes, Instant::now());
        tokio::time::sleep_until(due).await;
    }

    fn count(&self, rows: u64, bytes: u64, now: Instant) -> Instant {
        let takes = share(rows, self.rows_per_second).max(share(bytes, self.bytes_per_second));
        let mut due = self.due.lock().expect("no code panics while it holds the pace");
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let next = due.map_or(earliest, |due| due.max(earliest)) + takes;
        *due = Some(next);
        next
    }

    /// Rows that one read may bring without a burst that the stream feels; None without a limit. The floor is there
    /// because every read costs a wait for the stream, which low limits would otherwise be made of.
    pub(crate) fn rows_at_once(&self) -> Option<u64> {
        (self.rows_per_second > 0).then(|| at_once(self.rows_per_second, ROWS_AT_ONCE_MIN))
    }

    /// The same of bytes.
    pub(crate) fn bytes_at_once(&self) -> Option<u64> {
        (self.bytes_per_second > 0).then(|| at_once(self.bytes_per_second, BYTES_AT_ONCE_MIN))
    }
}

/// What a rest takes at most: a chunk that took longer waited for something, and kept nobody busy.
const REST_MAX: Duration = Duration::from_millis(250);

/// The rests of a copy beside the stream: as long after a chunk as the chunk took, when transactions came meanwhile.
/// Server, broker and this process then have half of their time for the stream, whatever the machine.
#[derive(Debug)]
pub(crate) struct GiveWay {
    wanted: bool,
    transactions: u64,
}

impl GiveWay {
    /// `transactions` that have passed so far.
    pub(crate) fn new(wanted: bool, transactions: u64) -> GiveWay {
        GiveWay { wanted, transactions }
    }

    /// How long to rest behind a chunk.
    pub(crate) fn rest(&mut self, took: Duration, transactions: u64) -> Duration {
        let before = std::mem::replace(&mut self.transactions, transactions);
        if self.wanted && transactions != before { took.min(REST_MAX) } else { Duration::ZERO }
    }
}

/// A tenth of a second's worth; at low rates more, but never more than half a second's.
fn at_once(per_second: u64, floor: u64) -> u64 {
    (per_second / 10).max(floor.min(per_second / 2)).max(1)
}

/// The time that something takes at a rate; none without one. A day is long enough for one read.
fn share(amount: u64, per_second: u64) -> Duration {
    if per_second == 0 {
        return Duration::ZERO;
    }
    Duration::from_secs_f64((amount as f64 / per_second as f64).min(86_400.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(max_rows_per_second: u64, max_bytes_per_second: u64) -> Pace {
        Pace::new(&SnapshotSettings {
            max_rows_per_second,
            max_bytes_per_second,
            ..SnapshotSettings::default()
        })
    }

    #[test]
    fn the_stricter_limit_holds() {
        let check = |rows_limit, bytes_limit, reads: &[(u64, u64)], wanted_ms: u64| {
            let (pace, now) = (pace(rows_limit, bytes_limit), Instant::now() + BURST);
            let due = reads.iter().fold(None, |_, (rows, bytes)| Some(pace.count(*rows, *bytes, now)));
            let wanted = now - BURST + Duration::from_millis(wanted_ms);
            assert_eq!(due, Some(wanted), "{rows_limit} {bytes_limit} {reads:?}");
        };
        check(1000, 0, &[(500, 1 << 30)], 500);
        check(1000, 0, &[(500, 0), (250, 0), (250, 0)], 1000);
        check(0, 1000, &[(1 << 30, 500)], 500);
        check(1000, 1000, &[(100, 900)], 900);
        check(1000, 1000, &[(900, 100)], 900);
    }

    #[test]
    fn a_read_is_a_tenth_of_a_second() {
        let check = |limit, wanted: Option<u64>| {
            assert_eq!(pace(limit, 0).rows_at_once(), wanted, "{limit}");
        };
        check(0, None);
        check(1, Some(1));
        check(100, Some(50));
        check(2000, Some(500));
        check(50_000, Some(5000));
        assert_eq!(pace(0, 10 << 20).bytes_at_once(), Some(1 << 20));
    }

    #[test]
    fn rests_only_beside_transactions() {
        let check = |wanted, before, now, took_ms, rest_ms| {
            let rest = GiveWay::new(wanted, before).rest(Duration::from_millis(took_ms), now);
            assert_eq!(rest, Duration::from_millis(rest_ms), "{wanted} {before} {now} {took_ms}");
        };
        check(true, 7, 8, 12, 12);
        check(true, 7, 7, 12, 0);
        check(true, 0, 900, 3000, 250);
        check(false, 7, 8, 12, 0);
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let pace = pace(1000, 0);
        let now = Instant::now() + BURST;
        pace.count(100, 0, now);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.count(1000, 0, later), later - BURST + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let pace = pace(0, 0);
        pace.read(u64::MAX, u64::MAX).await;
        assert!(pace.due.lock().unwrap().is_none());
    }
}
