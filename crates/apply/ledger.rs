//! What apply keeps in the target database, in schema `headwater`: how far each partition is applied and by whom, which
//! keys were deleted, and how far tables were emptied. The same transaction that changes rows changes this.
//!
//! ```text
//! apply_offset   (consumer, topic, partition) -> next_offset, owner, newest and last position
//! apply_table    target -> truncated_lsn, truncated_ordinal
//! apply_deleted  (target, key) -> lsn, ordinal, deleted_at
//! inbox          (consumer, event_id) -> status, reason, attempt, …
//! ```
//!
//! Invariant: only the owner of a partition's row changes anything on behalf of the partition. It locks the row before,
//! so that whoever claims the partition meanwhile waits for the outcome and reads the offset that stands then.

use std::collections::BTreeMap;
use std::fmt::Write;

use headwater_kafka::TopicPartition;
use headwater_pg::catalog::quote_literal;
use headwater_pg::{Client, ConnectSettings, Error, TextParameter};

use crate::halt::{Failure, of_postgres};
use crate::position::Position;

/// Made at the start where they are missing; `sql/apply.sql` has the same for whoever wants to make them by hand.
pub(crate) const TABLES: &str = include_str!("../../sql/apply.sql");

/// A partition was never applied.
pub(crate) const NEVER: i64 = -1;

/// A partition is to be applied from its oldest record on, wherever unread ones begin.
pub(crate) const FROM_BEGINNING: i64 = -2;

/// A session of a connection that has to be gone before another instance can take over must not linger, neither between
/// statements nor in a COPY whose client is cut off. What roles and databases may have set otherwise and what the text
/// of values and statements is read by.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '20s'; \
                       SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; \
                       SET client_min_messages = 'warning'; SET synchronous_commit = on; \
                       SET standard_conforming_strings = on; SET xmloption = content; SET DateStyle = 'ISO, YMD'";

/// Connects, and makes what is missing.
pub(crate) async fn connect(settings: &ConnectSettings) -> Result<Client, Failure> {
    let doing = "preparing the target database";
    let client =
        headwater_pg::connect(settings).await.map_err(|error| of_postgres(&error, "connecting", None))?;
    let failed = |error: Error| of_postgres(&error, doing, None);
    client.batch_execute(SESSION).await.map_err(|error| failed(error.into()))?;
    // A role that may not create schemas can work with tables that somebody else made.
    let there = client
        .query_one("SELECT to_regclass('headwater.inbox') IS NOT NULL", &[])
        .await
        .and_then(|row| row.try_get::<_, bool>(0))
        .map_err(|error| failed(error.into()))?;
    if !there {
        // Two instances that start together would create the same names; the lock is freed by the commit.
        let sql = format!("BEGIN; SELECT pg_advisory_xact_lock(7237011923); {TABLES}; COMMIT");
        client.batch_execute(&sql).await.map_err(|error| failed(error.into()))?;
    }
    Ok(client)
}

/// A partition as its row has it.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    pub(crate) place: TopicPartition,
    /// Where it goes on, or [`NEVER`].
    pub(crate) next_offset: i64,
    pub(crate) newest_lsn: u64,
    pub(crate) newest_micros: i64,
    pub(crate) last: Position,
}

/// An LSN as Postgres writes it.
pub(crate) fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

/// Makes `owner` the owner of these partitions; gives where each goes on.
pub(crate) async fn claim(
    client: &Client,
    consumer: &str,
    owner: &str,
    places: &[TopicPartition],
) -> Result<Vec<Claimed>, Failure> {
    const SQL: &str = "INSERT INTO headwater.apply_offset AS o (consumer, topic, partition, next_offset, owner) \
                       VALUES ($1, $2, $3, -1, $4) ON CONFLICT (consumer, topic, partition) \
                       DO UPDATE SET owner = excluded.owner, updated_at = now() \
                       RETURNING o.next_offset, o.newest_lsn::text, o.newest_micros, o.last_lsn::text, o.last_ordinal";
    let failed = |error: Error| of_postgres(&error, "claiming partitions", None);
    let statement = client.prepare(SQL).await.map_err(|error| failed(error.into()))?;
    let mut claimed = Vec::new();
    for place in places {
        let row = client
            .query_one(&statement, &[&consumer, &place.topic, &place.partition, &owner])
            .await
            .map_err(|error| failed(error.into()))?;
        let read = || {
            let (newest, last): (String, String) = (row.try_get(1)?, row.try_get(3)?);
            Ok(Claimed {
                place: place.clone(),
                next_offset: row.try_get(0)?,
                newest_lsn: lsn(&newest).unwrap_or(0),
                newest_micros: row.try_get(2)?,
                last: Position { lsn: lsn(&last).unwrap_or(0), ordinal: row.try_get(4)? },
            })
        };
        claimed.push(read().map_err(failed)?);
    }
    Ok(claimed)
}

/// The partitions that a consumer has applied, by topic.
pub(crate) async fn partitions(
    client: &Client,
    consumer: &str,
) -> Result<BTreeMap<String, Vec<TopicPartition>>, Failure> {
    const SQL: &str = "SELECT topic, partition FROM headwater.apply_offset WHERE consumer = $1";
    let failed = |error: Error| of_postgres(&error, "reading the offsets", None);
    let rows = client.query(SQL, &[&consumer]).await.map_err(|error| failed(error.into()))?;
    let mut found: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
    for row in rows {
        let read = || Ok((row.try_get::<_, String>(0)?, row.try_get(1)?));
        let (topic, partition) = read().map_err(failed)?;
        found.entry(topic.clone()).or_default().push(TopicPartition { topic, partition });
    }
    Ok(found)
}

/// Sets a consumer's offsets back, all in one transaction; whoever is at it is fenced by the new owner.
pub(crate) async fn rewind(
    client: &Client,
    consumer: &str,
    owner: &str,
    next: &BTreeMap<TopicPartition, i64>,
) -> Result<(), Failure> {
    const SQL: &str = "UPDATE headwater.apply_offset o SET next_offset = v.next_offset, owner = $2, last_lsn = '0/0', \
                       last_ordinal = 0, updated_at = now() \
                       FROM unnest($3::text[], $4::int[], $5::bigint[]) v (topic, partition, next_offset) \
                       WHERE o.consumer = $1 AND o.topic = v.topic AND o.partition = v.partition";
    let topics: Vec<&str> = next.keys().map(|place| place.topic.as_str()).collect();
    let numbers: Vec<i32> = next.keys().map(|place| place.partition).collect();
    let offsets: Vec<i64> = next.values().copied().collect();
    client
        .execute(SQL, &[&consumer, &owner, &topics, &numbers, &offsets])
        .await
        .map(drop)
        .map_err(|error| of_postgres(&error.into(), "setting the offsets back", None))
}

/// The statement that locks the partitions of a batch and tells whether they are still the owner's, at the offsets that
/// it left them at. In one order, so that two instances can't wait for each other.
pub(crate) fn lock_statement(
    consumer: &str,
    owner: &str,
    expected: &BTreeMap<TopicPartition, i64>,
) -> String {
    let mut sql = String::from("SELECT 1 FROM headwater.apply_offset o JOIN (VALUES ");
    for (index, (place, offset)) in expected.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ =
            write!(sql, "{comma}({}, {}, {offset}::bigint)", quote_literal(&place.topic), place.partition);
    }
    let _ = write!(
        sql,
        ") v (topic, partition, next_offset) ON o.topic = v.topic AND o.partition = v.partition \
         AND o.next_offset = v.next_offset WHERE o.consumer = {} AND o.owner = {} \
         ORDER BY o.topic, o.partition FOR UPDATE OF o",
        quote_literal(consumer),
        quote_literal(owner)
    );
    sql
}

/// The statement that moves the offsets, and notes the newest position of the source.
pub(crate) fn advance_statement(consumer: &str, next: &[Claimed]) -> String {
    let mut sql = String::from(
        "UPDATE headwater.apply_offset o SET next_offset = v.next_offset, newest_lsn = v.newest_lsn, \
         newest_micros = v.newest_micros, last_lsn = v.last_lsn, last_ordinal = v.last_ordinal, updated_at = now() \
         FROM (VALUES ",
    );
    for (index, Claimed { place, next_offset, newest_lsn, newest_micros, last }) in next.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(
            sql,
            "{comma}({}, {}, {next_offset}::bigint, '{:X}/{:X}'::pg_lsn, {newest_micros}::bigint, '{}'::pg_lsn, {}::bigint)",
            quote_literal(&place.topic),
            place.partition,
            newest_lsn >> 32,
            *newest_lsn as u32,
            last.lsn_text(),
            last.ordinal,
        );
    }
    let _ = write!(
        sql,
        ") v (topic, partition, next_offset, newest_lsn, newest_micros, last_lsn, last_ordinal) \
         WHERE o.consumer = {} AND o.topic = v.topic AND o.partition = v.partition",
        quote_literal(consumer)
    );
    sql
}

/// How many remembered keys, and events, are forgotten at a time: a transaction of milliseconds.
const PRUNED_ROWS: i64 = 5000;

/// Forgets keys that were deleted, and events that were handled, longer ago than this; gives how many.
pub(crate) async fn prune(
    client: &Client,
    deleted_seconds: u64,
    inbox_seconds: Option<u64>,
) -> Result<u64, Failure> {
    let failed = |error: Error| of_postgres(&error, "forgetting what is old", None);
    let old = "DELETE FROM headwater.apply_deleted WHERE ctid = ANY (ARRAY(SELECT ctid FROM headwater.apply_deleted \
               WHERE deleted_at < now() - make_interval(secs => $1::text::float8) LIMIT $2))";
    let seconds = deleted_seconds.to_string();
    let mut rows = client
        .execute(old, &[&TextParameter(Some(&seconds)), &PRUNED_ROWS])
        .await
        .map_err(|error| failed(error.into()))?;
    if let Some(seconds) = inbox_seconds {
        let old = "DELETE FROM headwater.inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM headwater.inbox \
                   WHERE handled_at < now() - make_interval(secs => $1::text::float8) AND NOT unanswered LIMIT $2))";
        let seconds = seconds.to_string();
        rows += client
            .execute(old, &[&TextParameter(Some(&seconds)), &PRUNED_ROWS])
            .await
            .map_err(|error| failed(error.into()))?;
    }
    Ok(rows)
}
