//! [`PgTimestamp`]: the server's clock as the replication protocol sends it.

/// Unix time of 2000-01-01 00:00:00 UTC, in microseconds.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// A time in microseconds since 2000-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PgTimestamp(pub i64);

impl PgTimestamp {
    /// Microseconds since 1970-01-01 00:00:00 UTC; the last representable one if that is exceeded.
    #[inline]
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(POSTGRES_EPOCH_UNIX_MICROS)
    }

    /// The time `micros` after 1970-01-01 00:00:00 UTC; the first representable one if it is before that.
    #[inline]
    pub fn from_unix_micros(micros: i64) -> PgTimestamp {
        PgTimestamp(micros.saturating_sub(POSTGRES_EPOCH_UNIX_MICROS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_unix_epoch() {
        let check = |postgres: i64, unix: i64| {
            assert_eq!(PgTimestamp(postgres).unix_micros(), unix);
            assert_eq!(PgTimestamp::from_unix_micros(unix).unix_micros(), unix);
        };
        check(0, 946_684_800_000_000);
        check(-946_684_800_000_000, 0);
        check(1, 946_684_800_000_001);
        check(i64::MIN, i64::MIN + 946_684_800_000_000);
    }

    #[test]
    fn saturates() {
        assert_eq!(PgTimestamp(i64::MAX).unix_micros(), i64::MAX);
        assert_eq!(PgTimestamp::from_unix_micros(i64::MIN), PgTimestamp(i64::MIN));
    }
}
