//! The boot clock: monotonic, and it goes on while the machine is suspended or the process is stopped.
//!
//! A lease that is measured with a clock that stands still during suspension is not a lease (clock_gettime(2)).

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot.
pub(crate) fn now_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    // Both parts are non-negative on a clock that starts at boot.
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
