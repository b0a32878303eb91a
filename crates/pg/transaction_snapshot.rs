//! What a transaction sees: its snapshot, the position in WAL that belongs to it, and how to keep and share it.
//!
//! A snapshot is not a position. A transaction can be committed in WAL and not yet visible, so a copied row may be
//! older than what the stream has sent before the copy's [`Watermark::high`]; only [`TransactionSnapshot::sees`] tells.

use std::str::FromStr;
use std::time::Duration;

use headwater_pgoutput::Lsn;

use crate::catalog::quote_literal;
use crate::copy_out::CopySession;
use crate::error::{Error, ErrorKind};
use crate::settings::ConnectSettings;

/// `pg_current_snapshot()`: `xmin:xmax:xip,xip`, all of 64 bits. Of a transaction with savepoints it has the id of
/// the whole, which is the one that Begin carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSnapshot {
    /// Everything before it has ended.
    pub xmin: u64,
    /// Nothing from here on had ended.
    pub xmax: u64,
    /// What had not ended in between, in ascending order.
    pub in_progress: Vec<u64>,
}

impl TransactionSnapshot {
    /// Whether it sees what the transaction with this 32-bit id did, given that it was committed.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// The 64-bit id of a transaction: of those with these lower 32 bits the one that is nearest to `xmax`, since ids
    /// that are in use at a time lie within half of the 32-bit circle.
    pub fn widen(&self, xid: u32) -> u64 {
        // As a signed number, the way around the circle that is the shorter one.
        let distance = xid.wrapping_sub(self.xmax as u32).cast_signed();
        self.xmax.saturating_add_signed(i64::from(distance))
    }
}

/// A text that is no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseSnapshotError;

impl std::fmt::Display for ParseSnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this is no snapshot of transactions, expected xmin:xmax:xip,xip with xmin <= xip < xmax")
    }
}

impl std::error::Error for ParseSnapshotError {}

impl FromStr for TransactionSnapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<TransactionSnapshot, ParseSnapshotError> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| ParseSnapshotError);
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(list), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseSnapshotError);
        };
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let in_progress = match list {
            "" => Vec::new(),
            list => list.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
        };
        let ascends = in_progress.is_sorted_by(|a, b| a < b);
        if xmin > xmax || !ascends || !in_progress.iter().all(|xid| (xmin..xmax).contains(xid)) {
            return Err(ParseSnapshotError);
        }
        Ok(TransactionSnapshot { xmin, xmax, in_progress })
    }
}

/// A transaction's snapshot and the position by which the stream has sent all that it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// What the transaction sees.
    pub snapshot: TransactionSnapshot,
    /// Every transaction that the snapshot sees was committed before this position. An idle server's keepalives
    /// reach it.
    pub high: Lsn,
    /// When the transaction began, by the server's clock, in microseconds since 1970.
    pub unix_micros: i64,
    /// A standby said so: whatever it has streamed is visible, though `snapshot` does not see all of it.
    pub is_standby: bool,
}

/// The first statement of a transaction takes its snapshot before anything of it is evaluated, so the position asked
/// for in it is not before any commit that the snapshot sees.
///
/// A standby decodes up to what it has replayed, and shows a commit to snapshots just before it says that it has
/// replayed it; what it has received is never less.
const PRESENT: &str = "
    SELECT pg_catalog.pg_current_snapshot()::text,
           CASE WHEN r.is_standby
                THEN greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
                ELSE pg_catalog.pg_current_wal_insert_lsn() END::text,
           (extract(epoch FROM pg_catalog.transaction_timestamp()) * 1000000)::bigint::text,
           r.is_standby::text,
           pg_catalog.current_setting('wal_block_size'),
           pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))::text
      FROM (SELECT pg_catalog.pg_is_in_recovery() AS is_standby) r";

/// Begins a transaction (REPEATABLE READ, READ ONLY) and says what it sees and where in WAL that is.
///
/// `tables`, quoted and qualified, are locked against DDL (ACCESS SHARE) before the snapshot is taken: a table that is
/// rewritten or truncated between snapshot and COPY looks empty to it (manual, "Caveats" of MVCC).
pub async fn begin_at_present(session: &mut CopySession, tables: &[String]) -> Result<Watermark, Error> {
    let lock = match tables {
        [] => String::new(),
        tables => format!("LOCK TABLE {} IN ACCESS SHARE MODE;", tables.join(", ")),
    };
    let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {lock} {PRESENT}");
    let rows = session.query(&sql).await?;
    rows.first()
        .and_then(|row| watermark(row))
        .ok_or_else(|| Error::protocol("the server's words on its snapshot and position cannot be read"))
}

fn watermark(row: &[Option<String>]) -> Option<Watermark> {
    let [Some(snapshot), Some(position), Some(unix_micros), Some(is_standby), Some(block), Some(segment)] =
        row
    else {
        return None;
    };
    let mut snapshot: TransactionSnapshot = snapshot.parse().ok()?;
    let is_standby = is_standby == "true";
    if is_standby {
        // The server does not list what is in progress on its primary: all of it must count as unseen.
        snapshot = TransactionSnapshot { xmin: snapshot.xmin, xmax: snapshot.xmin, in_progress: Vec::new() };
    }
    let pages = WalPages { page_bytes: block.parse().ok()?, segment_bytes: segment.parse().ok()? };
    Some(Watermark {
        snapshot,
        high: pages.without_header(position.parse().ok()?)?,
        unix_micros: unix_micros.parse().ok()?,
        is_standby,
    })
}

/// How WAL is cut: each page begins with a header, which no record counts.
struct WalPages {
    page_bytes: u64,
    segment_bytes: u64,
}

/// `SizeOfXLogShortPHD`, and `SizeOfXLogLongPHD` for the first page of a segment.
const SHORT_HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;

impl WalPages {
    /// The end of the last record, where the server says where the next one begins. Of a record that fills its page
    /// the former is the page's end and the latter lies behind the next page's header: an idle server has flushed,
    /// and says in keepalives, the former and no more.
    fn without_header(&self, position: Lsn) -> Option<Lsn> {
        let in_page = position.0.checked_rem(self.page_bytes)?;
        let in_segment = position.0.checked_rem(self.segment_bytes)?;
        let header = if in_segment < self.page_bytes { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        Some(if in_page <= header { Lsn(position.0 - in_page) } else { position })
    }
}

/// Locks tables, quoted and qualified, against DDL until the end of the open transaction. One that can't be had within
/// the session's lock timeout is an error that leaves the transaction, and the locks that it had, as they were.
pub async fn lock_tables(session: &mut CopySession, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let lock = format!("SAVEPOINT before_locks; LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
    match session.query(&lock).await {
        Ok(_) => session.query("RELEASE SAVEPOINT before_locks").await.map(drop),
        Err(error) if error.sqlstate().is_some() => {
            session.query("ROLLBACK TO SAVEPOINT before_locks; RELEASE SAVEPOINT before_locks").await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Begins a transaction (REPEATABLE READ, READ ONLY) that sees what an exported snapshot sees.
pub async fn begin_at_exported(session: &mut CopySession, snapshot_name: &str) -> Result<(), Error> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        quote_literal(snapshot_name)
    );
    session.query(&sql).await.map(drop)
}

/// A transaction that does nothing but see what an exported snapshot sees, exported once more: it can be imported
/// for as long as this lives, whatever becomes of the session that exported it first.
pub struct SnapshotKeeper {
    session: CopySession,
    name: String,
    unix_micros: i64,
}

impl SnapshotKeeper {
    /// Imports a snapshot and exports it again.
    pub async fn import(settings: &ConnectSettings, snapshot_name: &str) -> Result<SnapshotKeeper, Error> {
        let mut session = CopySession::connect(settings).await?;
        begin_at_exported(&mut session, snapshot_name).await?;
        let rows = session
            .query(
                "SELECT pg_catalog.pg_export_snapshot(),
                        (extract(epoch FROM pg_catalog.transaction_timestamp()) * 1000000)::bigint::text",
            )
            .await?;
        let Some([Some(name), Some(unix_micros)]) = rows.first().map(Vec::as_slice) else {
            return Err(Error::protocol("the server's answer to pg_export_snapshot cannot be read"));
        };
        let unix_micros = unix_micros.parse().map_err(|cause| {
            Error::because(ErrorKind::Protocol, "the time of a transaction is no number", cause)
        })?;
        Ok(SnapshotKeeper { name: name.clone(), unix_micros, session })
    }

    /// What to import; of this export, not of the first one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When this transaction began, by the server's clock, in microseconds since 1970.
    pub fn unix_micros(&self) -> i64 {
        self.unix_micros
    }

    /// The process that holds it.
    pub fn backend_pid(&self) -> i32 {
        self.session.backend_pid()
    }

    /// Limits how long one of its statements waits for a lock.
    pub async fn set_lock_timeout(&mut self, timeout: Duration) -> Result<(), Error> {
        self.session.set_timeouts(timeout, Duration::ZERO).await
    }

    /// Locks tables (relation id; name, quoted and qualified) against DDL for as long as this lives, and says of which
    /// the storage is another one than the snapshot saw: those were rewritten in between. After a lock timeout it can
    /// be tried again.
    pub async fn lock(&mut self, tables: &[(u32, String)]) -> Result<Vec<u32>, Error> {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = tables.iter().map(|(_, name)| name.clone()).collect();
        let oids: Vec<String> = tables.iter().map(|(oid, _)| oid.to_string()).collect();
        lock_tables(&mut self.session, &names).await?;
        // A query sees the catalog as the snapshot does; the function sees it as it is.
        let sql = format!(
            "SELECT w.oid::text FROM unnest(ARRAY[{}]::oid[]) w (oid)
               LEFT JOIN pg_catalog.pg_class c ON c.oid = w.oid
              WHERE c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(w.oid)",
            oids.join(", ")
        );
        let rows = self.session.query(&sql).await?;
        Ok(rows.iter().filter_map(|row| row.first()?.as_deref()?.parse().ok()).collect())
    }

    /// An error if the transaction is gone, and the snapshot with it. Not cancel-safe: a future that is dropped may
    /// end it.
    pub async fn alive(&mut self) -> Result<(), Error> {
        self.session.query("SELECT 1").await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(text: &str) -> TransactionSnapshot {
        text.parse().expect("a snapshot")
    }

    #[test]
    fn texts() {
        let none = Vec::new();
        assert_eq!(
            snapshot("10:20:10,14,15"),
            TransactionSnapshot { xmin: 10, xmax: 20, in_progress: vec![10, 14, 15] }
        );
        assert_eq!(snapshot("10:10:"), TransactionSnapshot { xmin: 10, xmax: 10, in_progress: none });
        for text in
            ["", "1", "1:2", "1:2:3", "2:1:", "1:9:2,2", "1:9:3,2", "1:9:0", "1:9:2,", "1:9::", "a:9:"]
        {
            assert_eq!(text.parse::<TransactionSnapshot>(), Err(ParseSnapshotError), "{text}");
        }
    }

    #[test]
    fn what_is_seen() {
        let check = |text: &str, xid: u32, seen: bool| {
            assert_eq!(snapshot(text).sees(xid), seen, "{xid} in {text}");
        };
        check("10:20:10,14", 9, true);
        check("10:20:10,14", 10, false);
        check("10:20:10,14", 11, true);
        check("10:20:10,14", 14, false);
        check("10:20:10,14", 19, true);
        check("10:20:10,14", 20, false);
        check("10:20:10,14", 21, false);
        // 2^32 = 4294967296: the circle begins again.
        check("4294967290:4294967300:4294967295,4294967299", u32::MAX, false);
        check("4294967290:4294967300:4294967295,4294967299", u32::MAX - 1, true);
        check("4294967290:4294967300:4294967295,4294967299", 3, false);
        check("4294967290:4294967300:4294967295,4294967299", 2, true);
        check("4294967290:4294967300:4294967295,4294967299", 4, false);
        // In the first round nothing is before the beginning.
        check("10:20:10", u32::MAX, true);
    }

    #[test]
    fn a_position_behind_a_page_header_is_the_end_of_the_page_before() {
        let check = |position: u64, wanted: u64| {
            let pages = WalPages { page_bytes: 8192, segment_bytes: 16 << 20 };
            assert_eq!(pages.without_header(Lsn(position)), Some(Lsn(wanted)), "{position:X}");
        };
        check(0x0100_2000, 0x0100_2000);
        check(0x0100_2018, 0x0100_2000);
        check(0x0100_2020, 0x0100_2020);
        check(0x0100_2028, 0x0100_2028);
        check(0x0100_0000, 0x0100_0000);
        check(0x0100_0028, 0x0100_0000);
        check(0x0100_0018, 0x0100_0000);
        check(0x0100_0030, 0x0100_0030);
        check(0x0100_1FF8, 0x0100_1FF8);
        let nonsense = WalPages { page_bytes: 0, segment_bytes: 0 };
        assert_eq!(nonsense.without_header(Lsn(1)), None);
    }

    #[test]
    fn of_a_standby_nothing_from_xmin_on_is_taken_as_seen() {
        let row = |is_standby: &str| {
            ["10:20:14", "0/2002018", "1700000000000000", is_standby, "8192", "16777216"]
                .map(|text| Some(text.to_owned()))
        };
        let primary = watermark(&row("false")).expect("a watermark");
        assert_eq!((primary.high, primary.unix_micros), (Lsn(0x200_2000), 1_700_000_000_000_000));
        assert!(primary.snapshot.sees(9) && primary.snapshot.sees(12) && !primary.snapshot.sees(14));
        let standby = watermark(&row("true")).expect("a watermark");
        assert!(standby.snapshot.sees(9) && !standby.snapshot.sees(10) && !standby.snapshot.sees(12));
        assert_eq!(watermark(&row("false")[1..]), None);
    }

    proptest! {
        /// Ids of transactions that a server can have at a time, wherever on the circle it is.
        #[test]
        fn an_id_that_lost_its_upper_half_is_seen_as_the_whole_one(
            xmin in 3u64..1 << 40,
            width in 0u64..1000,
            gaps in prop::collection::vec(0u64..1000, 0..20),
            before in 0u64..1 << 31,
            after in 0u64..(1 << 31) - 1000,
        ) {
            let xmax = xmin + width;
            let mut in_progress: Vec<u64> = gaps.iter().map(|gap| xmin + gap).filter(|xid| *xid < xmax).collect();
            in_progress.sort_unstable();
            in_progress.dedup();
            let snapshot = TransactionSnapshot { xmin, xmax, in_progress: in_progress.clone() };
            let list = in_progress.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(format!("{xmin}:{xmax}:{list}").parse(), Ok(snapshot.clone()));
            let around = xmin.saturating_sub(20)..xmax + 20;
            for xid in around.chain([xmax.saturating_sub(before), xmax + after]).chain(in_progress.clone()) {
                let seen = xid < xmin || (xid < xmax && !in_progress.contains(&xid));
                prop_assert_eq!(snapshot.widen(xid as u32), xid);
                prop_assert_eq!(snapshot.sees(xid as u32), seen, "{} in {:?}", xid, &snapshot);
            }
        }
    }
}
