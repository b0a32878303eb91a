//! Answers into rows: each batch in one transaction with the offsets behind it, so that none is lost and repeats change
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use headwater_pg::{Client, Error};
use serde::Serialize;

use crate::answer::Answer;
use crate::life::{Heard, Life, Status};
use crate::policy::Policies;
use crate::table::Table;

/// A row that an answer is about.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) event_type: String,
    pub(crate) life: Life,
    changed: bool,
}

/// How a row is written back; what has no value becomes NULL.
#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    status: &'static str,
    processed_by: Option<&'a [String]>,
    failed_by: Option<&'a str>,
    reason: Option<&'a str>,
    failing: bool,
    retry_in_ms: Option<u64>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By table and what was heard.
    pub(crate) heard: BTreeMap<(String, &'static str), u64>,
    /// Places in the batch of answers about events that no table has.
    pub(crate) unknown: BTreeSet<usize>,
    /// Whether a row is DEAD now.
    pub(crate) died: bool,
}

/// Takes answers in, inside of the open transaction.
pub(crate) async fn take_in(
    client: &Client,
    tables: &[Table],
    policies: &Policies,
    answers: &[(usize, Answer)],
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut open: Vec<&(usize, Answer)> = answers.iter().collect();
    for table in tables {
        let ids: BTreeSet<&str> = open
            .iter()
            .map(|(_, answer)| answer.event_id.as_str())
            .filter(|id| may_be_id(&table.id_type, id))
            .collect();
        let mut rows = lock(client, table, &ids).await?;
        open.retain(|(_, answer)| {
            // Postgres writes a uuid in lower case, and reads it in both.
            let lower = (table.id_type == "uuid").then(|| answer.event_id.to_ascii_lowercase());
            let id = lower.as_ref().unwrap_or(&answer.event_id);
            let Some(row) = rows.get_mut(id) else { return true };
            let heard = row.life.hear(answer, policies.of(&row.event_type));
            row.changed |= heard != Heard::Ignored;
            outcome.died |= heard == Heard::Dead;
            *outcome.heard.entry((table.name.to_string(), heard.label())).or_default() += 1;
            false
        });
        write_back(client, table, &rows).await?;
    }
    outcome.unknown = open.iter().map(|(place, _)| *place).collect();
    Ok(outcome)
}

/// Whether the text can be an id of this type: a statement must not fail because of what a consumer wrote.
fn may_be_id(id_type: &str, id: &str) -> bool {
    match id_type {
        "uuid" => {
            id.len() == 36
                && id.bytes().enumerate().all(|(at, byte)| match at {
                    8 | 13 | 18 | 23 => byte == b'-',
                    _ => byte.is_ascii_hexdigit(),
                })
        }
        "bigint" => id.parse::<i64>().is_ok(),
        "integer" => id.parse::<i32>().is_ok(),
        "smallint" => id.parse::<i16>().is_ok(),
        // As Postgres writes it, so that an answer finds the row by the text that was sent.
        "numeric" => {
            let digits = id.strip_prefix('-').unwrap_or(id);
            digits.len() <= 1000 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => !id.contains('\0'),
    }
}

/// Rows of these ids, locked in the order of their ids so that two instances don't wait for each other.
pub(crate) async fn lock(
    client: &Client,
    table: &Table,
    ids: &BTreeSet<&str>,
) -> Result<HashMap<String, Row>, Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!(
        "SELECT o.{id}::text, o.{event_type}::text, o.status, o.attempt, o.processed_by, o.failed_by, o.reason, \
         o.first_attempt FROM {table} o WHERE o.{id} = ANY ($1::text[]::{id_type}[]) ORDER BY o.{id} FOR UPDATE",
        id = table.id,
        event_type = table.event_type,
        table = table.sql,
        id_type = table.id_type,
    );
    let ids: Vec<&str> = ids.iter().copied().collect();
    let rows = client.query(&sql, &[&ids]).await?;
    let rows = rows.iter().map(|row| {
        let life = Life {
            // A word that is none of ours is somebody's own; the row is left alone.
            status: Status::parse(row.get(2)).unwrap_or(Status::Cancelled),
            attempt: row.get(3),
            first_attempt: row.get(7),
            processed_by: row.get::<_, Option<Vec<String>>>(4).unwrap_or_default(),
            failed_by: row.get(5),
            reason: row.get(6),
            retry_in_ms: None,
        };
        let event_type = row.get::<_, Option<String>>(1).unwrap_or_default();
        (row.get(0), Row { event_type, life, changed: false })
    });
    Ok(rows.collect())
}

/// Nobody answered for these rows, which are locked; says whether one is DEAD now.
pub(crate) fn time_out(rows: &mut HashMap<String, Row>, policies: &Policies) -> bool {
    let mut died = false;
    for row in rows.values_mut() {
        let heard = row.life.hear_nothing(policies.of(&row.event_type));
        row.changed |= heard != Heard::Ignored;
        died |= heard == Heard::Dead;
    }
    died
}

/// Writes what has changed. As long as all goes well, no index is touched.
pub(crate) async fn write_back(
    client: &Client,
    table: &Table,
    rows: &HashMap<String, Row>,
) -> Result<(), Error> {
    let written: Vec<Written<'_>> = rows
        .iter()
        .filter(|(_, row)| row.changed)
        .map(|(id, Row { life, .. })| Written {
            id,
            status: life.status.word(),
            processed_by: (!life.processed_by.is_empty()).then_some(&life.processed_by),
            failed_by: life.failed_by.as_deref(),
            reason: life.reason.as_deref(),
            failing: matches!(life.status, Status::Failed | Status::Dead),
            retry_in_ms: life.retry_in_ms,
        })
        .collect();
    if written.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE {table} o SET status = e.status, processed_by = e.processed_by, failed_by = e.failed_by, reason = e.reason, \
           processed_at = CASE WHEN e.status = 'PROCESSED' THEN clock_timestamp() END, \
           failed_at = CASE WHEN e.failing THEN coalesce(o.failed_at, clock_timestamp()) \
                            WHEN e.status IN ('NEW', 'SENT') THEN o.failed_at END, \
           next_attempt_at = clock_timestamp() + e.retry_in_ms * interval '1 millisecond', \
           notified_at = CASE WHEN e.failing THEN o.notified_at END \
         FROM jsonb_to_recordset($1::text::jsonb) AS e (id text, status text, processed_by text[], failed_by text, \
           reason text, failing boolean, retry_in_ms bigint) \
         WHERE o.{id} = e.id::{id_type}",
        table = table.sql,
        id = table.id,
        id_type = table.id_type,
    );
    let json = serde_json::to_string(&written).expect("plain data");
    client.execute(&sql, &[&json]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::may_be_id;

    #[test]
    fn what_can_not_be_an_id_is_unknown() {
        for (id_type, id, expected) in [
            ("uuid", "0b8f3b1e-8c5a-4f0e-9a55-0a8d1c0e4a11", true),
            ("uuid", "0b8f3b1e8c5a4f0e9a550a8d1c0e4a11", false),
            ("uuid", "zb8f3b1e-8c5a-4f0e-9a55-0a8d1c0e4a11", false),
            ("bigint", "-5", true),
            ("bigint", "5.0", false),
            ("integer", "3000000000", false),
            ("numeric", "12345678901234567890", true),
            ("numeric", "", false),
            ("numeric", "1e3", false),
            ("text", "anything", true),
            ("text", "a\0b", false),
        ] {
            assert_eq!(may_be_id(id_type, id), expected, "{id_type} {id:?}");
        }
    }
}
