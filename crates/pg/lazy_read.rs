//! When to read: at once, or only when much has come.
//!
//! A walsender makes one `send()` per change, and each wakes a reader that waits: that costs this side a system call
//! per change and the walsender more than the change itself. So while there is a backlog the socket is told to wake
//! nobody before it holds [`LOW_WATER_BYTES`], and a read waits for [`PATIENCE`] at most. Without a backlog nothing
//! waits: the stream's own clocks tell how long ago the last transaction was committed.
//!
//! ```text
//!          many small reads, and the stream is behind
//!  Eager ────────────────────────────────────────────> Waiting ──┐ enough came
//!    ^                                                  │   ^ <──┘
//!    │ nothing came for a while,            deadline    v   │ something came
//!    │ or the stream is not behind                    Overdue
//!    └──────────────────────────────────────────────────┘
//! ```
//!
//! A unix socket has no such mark and is read eagerly: its buffer holds so few small messages that a pause would
//! hold up the walsender.
//!
//! Pure: the caller brings the time, reads, and sets the socket's mark.

use std::time::Duration;

use tokio::time::Instant;

/// What wakes a waiting read: half a block of the frame reader, and less than Linux lets a socket hold by default.
pub(crate) const LOW_WATER_BYTES: u32 = 128 << 10;
/// A walsender sends 40 to 100 kB in this time when changes are small, so waiting longer gains little.
const PATIENCE: Duration = Duration::from_millis(2);
/// In a deep backlog nobody feels ten milliseconds, and larger reads make larger batches for everyone behind: a broker
/// that is sent a few rows at a time works more for them than we do.
const DEEP_PATIENCE: Duration = Duration::from_millis(10);
const DEEP_LAG_MICROS: i64 = 2_000_000;
/// A read of less than this cost more than it brought.
const SMALL_READ_BYTES: usize = 8 << 10;
/// This many small reads within a window are more than a few sessions that commit row by row cause.
const SMALL_READS_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_millis(5);
/// When the stream's clocks say nothing: if at least this much came during the patience, waiting saved some ten reads
/// and as many wake-ups of each side. When they say that it is behind, whatever came is reason to wait again: on a
/// busy machine the walsender may just not have been on a processor.
const WORTHWHILE_BYTES: usize = 2 << 10;
/// Nothing for this long after the deadline means that the stream rests, whatever its clocks said last.
const REST: Duration = Duration::from_millis(10);
/// Less than this from commit to sending is no backlog: it is the time that a flush of WAL and its decoding take.
const BACKLOG_LAG_MICROS: i64 = 10_000;

/// Decides when to read.
#[derive(Debug)]
pub(crate) struct LazyReads {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Eager { window_ends: Instant, small_reads: u32 },
    Waiting { deadline: Instant },
    Overdue { deadline: Instant },
}

impl LazyReads {
    pub(crate) fn new(now: Instant) -> LazyReads {
        LazyReads { state: State::eager(now) }
    }

    /// Until when the next read may wait for the low-water mark. It belongs to the state, not to the call, so a
    /// caller that gives up and comes back does not wait anew.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { deadline } => Some(deadline),
            State::Eager { .. } | State::Overdue { .. } => None,
        }
    }

    /// The deadline passed: the next read takes what there is.
    pub(crate) fn deadline_passed(&mut self) {
        if let State::Waiting { deadline } = self.state {
            self.state = State::Overdue { deadline };
        }
    }

    /// A read brought `bytes`, after which the stream was `lag_micros` behind, if that is known.
    pub(crate) fn read(&mut self, bytes: usize, now: Instant, lag_micros: Option<i64>) {
        let behind = lag_micros.is_none_or(|lag| lag >= BACKLOG_LAG_MICROS);
        self.state = match self.state {
            _ if !behind => State::eager(now),
            State::Eager { window_ends, small_reads } => {
                let small = u32::from(bytes < SMALL_READ_BYTES);
                if now >= window_ends {
                    State::Eager { window_ends: now + WINDOW, small_reads: small }
                } else if small_reads + small <= SMALL_READS_MAX {
                    State::Eager { window_ends, small_reads: small_reads + small }
                } else {
                    State::waiting(now, lag_micros)
                }
            }
            State::Waiting { .. } => State::waiting(now, lag_micros),
            State::Overdue { deadline } if now >= deadline + REST => State::eager(now),
            State::Overdue { .. } if lag_micros.is_some() || bytes >= WORTHWHILE_BYTES => {
                State::waiting(now, lag_micros)
            }
            State::Overdue { .. } => State::eager(now),
        };
    }

    /// The mark that the socket should have now.
    pub(crate) fn low_water_bytes(&self) -> u32 {
        if self.deadline().is_some() { LOW_WATER_BYTES } else { 1 }
    }
}

impl State {
    fn eager(now: Instant) -> State {
        State::Eager { window_ends: now + WINDOW, small_reads: 0 }
    }

    fn waiting(now: Instant, lag_micros: Option<i64>) -> State {
        let deep = lag_micros.is_some_and(|lag| lag >= DEEP_LAG_MICROS);
        State::Waiting { deadline: now + if deep { DEEP_PATIENCE } else { PATIENCE } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEHIND: Option<i64> = Some(1_000_000);

    /// Small reads, `gap` apart, until it waits or 1000 were made.
    fn reads_until_waiting(gap: Duration, lag: Option<i64>) -> Option<u32> {
        let mut now = Instant::now();
        let mut lazy = LazyReads::new(now);
        (1..=1000).find(|_| {
            now += gap;
            lazy.read(100, now, lag);
            lazy.deadline().is_some()
        })
    }

    #[test]
    fn a_deep_backlog_has_more_patience() {
        let now = Instant::now();
        let deadline = |lag| LazyReads { state: State::waiting(now, lag) }.deadline().map(|at| at - now);
        assert_eq!(deadline(None), Some(PATIENCE));
        assert_eq!(deadline(Some(DEEP_LAG_MICROS - 1)), Some(PATIENCE));
        assert_eq!(deadline(Some(DEEP_LAG_MICROS)), Some(DEEP_PATIENCE));
    }

    #[test]
    fn only_many_small_reads_under_a_backlog_lead_to_waiting() {
        let quick = Duration::from_micros(20);
        assert_eq!(reads_until_waiting(quick, BEHIND), Some(21));
        assert_eq!(reads_until_waiting(quick, None), Some(21));
        assert_eq!(reads_until_waiting(quick, Some(500)), None);
        assert_eq!(reads_until_waiting(Duration::from_micros(400), BEHIND), None);
    }

    #[test]
    fn it_goes_on_waiting_while_that_pays() {
        let now = Instant::now();
        let soon = PATIENCE + Duration::from_millis(1);
        let late = PATIENCE + REST;
        for (overdue, after, bytes, lag, waits) in [
            (false, soon, 200_000, BEHIND, true),
            (false, soon, 200_000, Some(100), false),
            (true, soon, 50_000, BEHIND, true),
            (true, soon, 100, BEHIND, true),
            (true, late, 100, BEHIND, false),
            (true, soon, 50_000, None, true),
            (true, soon, 200, None, false),
            (true, soon, 50_000, Some(100), false),
        ] {
            let mut lazy = LazyReads { state: State::waiting(now, None) };
            assert_eq!(lazy.low_water_bytes(), LOW_WATER_BYTES);
            if overdue {
                lazy.deadline_passed();
                assert_eq!((lazy.low_water_bytes(), lazy.deadline()), (1, None));
            }
            lazy.read(bytes, now + after, lag);
            assert_eq!(lazy.deadline().is_some(), waits, "{overdue} {after:?} {bytes} {lag:?}");
        }
    }
}
