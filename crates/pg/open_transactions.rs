//! Which transactions are open at a moment, by their ids.

use std::ops::Range;

use crate::transaction_snapshot::TransactionSnapshot;
use crate::{Client, Error};

/// `start` is the oldest transaction with an id that is open, or the next one; every transaction that is open or over has
/// an id before `end`.
///
/// A snapshot alone does not say it: it ends with the newest transaction that has *ended*, and names none of those that
/// run behind that one. But each of them holds a lock on its id before it writes (manual, "pg_locks"). On a standby
/// those locks are not to be seen, and neither are the transactions.
///
/// # Errors
/// When the server does not answer, or not with ids.
pub async fn open_transactions(client: &Client) -> Result<Range<u64>, Error> {
    let sql = "SELECT pg_catalog.pg_snapshot_xmin(s)::text, pg_catalog.pg_snapshot_xmax(s)::text,
                      ARRAY(SELECT l.transactionid::text FROM pg_catalog.pg_locks l
                             WHERE l.locktype = 'transactionid' AND l.transactionid IS NOT NULL)
                 FROM pg_catalog.pg_current_snapshot() s";
    let row = client.query_one(sql, &[]).await?;
    let unreadable = |_| Error::protocol("the server's transaction ids cannot be read");
    let xmin: u64 = row.get::<_, &str>(0).parse().map_err(unreadable)?;
    let xmax: u64 = row.get::<_, &str>(1).parse().map_err(unreadable)?;
    let locked: Result<Vec<u32>, _> = row.get::<_, Vec<&str>>(2).into_iter().map(str::parse).collect();
    Ok(range(xmin, xmax, &locked.map_err(unreadable)?))
}

fn range(xmin: u64, xmax: u64, locked: &[u32]) -> Range<u64> {
    let ended = TransactionSnapshot { xmin, xmax, in_progress: Vec::new() };
    let ids = locked.iter().map(|xid| ended.widen(*xid));
    let (start, end) = ids.fold((xmin, xmax), |(start, end), xid| (start.min(xid), end.max(xid + 1)));
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_behind_the_newest_that_ended_is_open() {
        let check = |xmin, xmax, locked: &[u32], wanted: Range<u64>| {
            assert_eq!(range(xmin, xmax, locked), wanted, "{xmin} {xmax} {locked:?}");
        };
        check(101, 101, &[], 101..101);
        check(101, 101, &[101], 101..102);
        // 101 was never used, or has ended since: whoever runs behind it is the oldest.
        check(102, 102, &[105, 107], 102..108);
        check(90, 101, &[90, 95], 90..101);
        // Around the circle of 32 bits.
        check((1 << 32) - 2, (1 << 32) - 1, &[u32::MAX - 1, 3], (1 << 32) - 2..(1 << 32) + 4);
    }
}
