//! What one transaction will do: table batches, and how far each partition will have come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use headwater_kafka::TopicPartition;
use headwater_pg::Client;

use crate::events::{self, Event, Failing, Handlers};
use crate::fold::TableBatch;
use crate::halt::{Failure, Refusal, of_postgres};
use crate::layout::{KeyLayout, ValueLayout};
use crate::ledger::{self, Claimed};
use crate::metrics::Metrics;
use crate::position::Position;
use crate::settings::Settings;
use crate::target::{self, TargetName};
use crate::upsert::{self, Counted, Guard, Staging};

/// A partition that is ours.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub(crate) place: TopicPartition,
    /// The offset in the database.
    pub(crate) stored: i64,
    /// That behind the transaction under way; the same where there is none.
    pub(crate) sent: i64,
    /// The offset behind the last record of the batch.
    pub(crate) next: i64,
    /// The position of the last record that had one.
    pub(crate) last: Position,
    /// That before the first record behind `stored`, from where records may come again.
    pub(crate) stored_last: Position,
    pub(crate) newest_lsn: u64,
    pub(crate) newest_micros: i64,
}

impl Partition {
    pub(crate) fn new(claimed: &Claimed) -> Partition {
        Partition {
            place: claimed.place.clone(),
            stored: claimed.next_offset,
            sent: claimed.next_offset,
            next: claimed.next_offset,
            last: claimed.last,
            stored_last: claimed.last,
            newest_lsn: claimed.newest_lsn,
            newest_micros: claimed.newest_micros,
        }
    }

    fn claimed(&self) -> Claimed {
        Claimed {
            place: self.place.clone(),
            next_offset: self.next,
            newest_lsn: self.newest_lsn,
            newest_micros: self.newest_micros,
            last: self.last,
        }
    }
}

/// The batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) tables: Vec<TableBatch>,
    pub(crate) events: Vec<Event>,
    pub(crate) records: usize,
    pub(crate) began: Option<Instant>,
    /// The time of the newest record, in milliseconds since 1970.
    pub(crate) newest_ms: Option<i64>,
}

impl Batch {
    /// The batch of a table; none if it holds rows of another layout, which have to be applied first.
    pub(crate) fn table(
        &mut self,
        target: &TargetName,
        key: &Arc<KeyLayout>,
        row: Option<&Arc<ValueLayout>>,
    ) -> Option<&mut TableBatch> {
        let index = match self.tables.iter().position(|table| table.target == *target) {
            Some(index) => index,
            None => {
                self.tables.push(TableBatch::new(target.clone(), key.clone()));
                self.tables.len() - 1
            }
        };
        let table = &mut self.tables[index];
        if !table.takes(key, row) {
            return None;
        }
        if table.row.is_none() {
            table.row = row.cloned();
        }
        Some(table)
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.tables.iter().map(TableBatch::bytes_len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }
}

/// The connection, and who applies over it.
pub(crate) struct Applier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) staging: &'a mut Staging,
    pub(crate) handlers: &'a mut Handlers,
    pub(crate) settings: &'a Settings,
    pub(crate) metrics: &'a Metrics,
}

/// Which offsets a transaction moves, and whose they have to be.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    owner: String,
    pub(crate) next: Vec<Claimed>,
    /// The offsets that the database has to have.
    expected: BTreeMap<TopicPartition, i64>,
}

impl Moves {
    pub(crate) fn new(owner: &str, partitions: &[Partition]) -> Moves {
        let moved: Vec<_> = partitions.iter().filter(|partition| partition.next != partition.sent).collect();
        let expected = moved.iter().map(|partition| (partition.place.clone(), partition.sent)).collect();
        Moves { owner: owner.to_owned(), next: moved.into_iter().map(Partition::claimed).collect(), expected }
    }
}

/// What waits for a lock has to see what was committed meanwhile, whatever the role's default is.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl Applier<'_> {
    /// Applies the batch in one transaction, offsets included. After an error nothing of it was done, or the connection
    /// is lost and the offsets in the database tell.
    pub(crate) async fn apply(
        &mut self,
        batch: &Batch,
        moves: &Moves,
        failing: Failing,
    ) -> Result<(), Failure> {
        let outcome = self.transaction(batch, moves, failing).await;
        if let Err(Failure::Refused(_) | Failure::Fenced(_)) = &outcome {
            self.staging.forget();
            let rolled_back = self.client.batch_execute("ROLLBACK").await;
            rolled_back.map_err(|error| of_postgres(&error.into(), "rolling back", None))?;
        }
        outcome
    }

    async fn transaction(&mut self, batch: &Batch, moves: &Moves, failing: Failing) -> Result<(), Failure> {
        let failed = |error: headwater_pg::Error| of_postgres(&error, "applying a batch", None);
        let Moves { owner, next, expected } = moves;
        let group = &self.settings.group;
        let mut begin = format!("{BEGIN}; {};", ledger::lock_statement(group, owner, expected));
        for table in &batch.tables {
            begin.push_str(&lock_table(table));
        }
        let results = self.client.simple_query(&begin).await.map_err(|error| failed(error.into()))?;
        let replies = Replies::new(&results);
        // The first answer is BEGIN's.
        if replies.rows(1) != expected.len() {
            return Err(fenced(expected));
        }
        let mut last = Vec::new();
        for (index, table) in batch.tables.iter().enumerate() {
            // Three answers of each table.
            let answer = 3 + index * 3;
            let guard = Guard {
                truncated: replies.truncated(answer).unwrap_or_default(),
                has_deleted: replies.rows(answer + 1) > 0,
            };
            let made = upsert::stage(self.client, self.staging, table, guard).await?;
            last.extend(made.statements.into_iter().map(|(counted, sql)| (index, counted, sql)));
        }
        let rows = run_statements(self.client, batch, &last).await?;
        let handled = match &self.settings.events {
            Some(settings) => {
                events::handle(self.client, self.handlers, settings, group, &batch.events, failing).await?
            }
            None => Vec::new(),
        };
        let end = format!("{}; COMMIT", ledger::advance_statement(group, next));
        self.client.batch_execute(&end).await.map_err(|error| failed(error.into()))?;
        for (kind, outcome) in handled {
            self.metrics.events.with_label_values(&[kind.as_str(), outcome]).inc();
        }
        for (table, outcome, rows) in rows {
            self.metrics.rows.with_label_values(&[table.as_str(), outcome]).inc_by(rows);
        }
        Ok(())
    }
}

fn fenced(expected: &BTreeMap<TopicPartition, i64>) -> Failure {
    let first = expected.keys().next().map_or("", |place| place.topic.as_str());
    Failure::Fenced(format!("another instance has taken over a partition (one of {first})"))
}

/// Empties a table, and moves the offset behind the record that says so.
pub(crate) async fn truncate(
    client: &Client,
    target: &TargetName,
    position: Position,
    consumer: &str,
    moves: &Moves,
) -> Result<(), Failure> {
    let table = target::look_up(client, target).await?;
    let has_positions = table.is_some_and(|table| table.has_positions);
    let failed = |error: headwater_pg::Error| of_postgres(&error, "emptying a table", Some(&target.plain()));
    let Moves { owner, next, expected } = moves;
    let begin = format!("{BEGIN}; {}", ledger::lock_statement(consumer, owner, expected));
    let results = client.simple_query(&begin).await.map_err(|error| failed(error.into()))?;
    if Replies::new(&results).rows(1) != expected.len() {
        client.batch_execute("ROLLBACK").await.map_err(|error| failed(error.into()))?;
        return Err(fenced(expected));
    }
    let sql = format!(
        "{}; {}; COMMIT",
        upsert::truncate_statements(target, position, has_positions),
        ledger::advance_statement(consumer, next)
    );
    let emptied = client.batch_execute(&sql).await.map_err(|error| failed(error.into()));
    if let Err(Failure::Refused(_)) = &emptied {
        client.batch_execute("ROLLBACK").await.map_err(|error| failed(error.into()))?;
    }
    emptied
}

/// The position up to which the table was emptied, and whether any deleted key of it is remembered.
///
/// The lock keeps other instances from emptying the table meanwhile, and from deleting while this one inserts: neither
/// would see what the other has not committed, and an older insert could bring a deleted row back. The same key is with
/// two instances only where a topic got more partitions. Whether keys are remembered is asked behind the lock, in a
/// statement of its own, so that it is true until the commit.
fn lock_table(table: &TableBatch) -> String {
    let name = headwater_pg::catalog::quote_literal(&table.target.plain());
    let strength = if table.deletes() { "UPDATE" } else { "SHARE" };
    format!(
        " INSERT INTO headwater.apply_table (target) SELECT {name} WHERE NOT EXISTS \
         (SELECT FROM headwater.apply_table WHERE target = {name}) ON CONFLICT DO NOTHING; \
         SELECT truncated_lsn::text, truncated_ordinal::text FROM headwater.apply_table WHERE target = {name} \
         FOR {strength}; SELECT 1 FROM headwater.apply_deleted WHERE target = {name} LIMIT 1;"
    )
}

/// Runs what follows the COPY; gives rows by table and outcome, for the metrics.
async fn run_statements(
    client: &Client,
    batch: &Batch,
    statements: &[(usize, Counted, String)],
) -> Result<Vec<(String, &'static str, u64)>, Failure> {
    let mut rows = Vec::new();
    // Errors are told of the table that they are about, so the tables' statements go one table at a time.
    for (index, table) in batch.tables.iter().enumerate() {
        let of_table: Vec<_> = statements.iter().filter(|(of, ..)| *of == index).collect();
        if of_table.is_empty() {
            continue;
        }
        let name = table.target.plain();
        let (rest, at_once): (Vec<_>, Vec<_>) =
            of_table.into_iter().partition(|(_, counted, _)| *counted == Counted::IfFewer);
        let replies = of_statements(client, &name, &at_once).await?;
        let (mut upserted, mut deleted, mut fewer) = (0, 0, false);
        for (at, (_, counted, _)) in at_once.iter().enumerate() {
            match counted {
                Counted::Upserted => upserted += replies.affected(at),
                Counted::UpdatedOf(rows) => {
                    upserted += replies.affected(at);
                    fewer |= replies.affected(at) < *rows as u64;
                }
                Counted::Deleted => deleted += replies.affected(at),
                Counted::Incomplete if replies.rows(at) > 0 => {
                    let reason = "the record leaves a large column out that did not change (unchanged TOAST), and the \
                                  table does not have the row; begin with a snapshot, or set REPLICA IDENTITY FULL at \
                                  the source"
                        .to_owned();
                    return Err(Failure::Refused(Refusal { stage: "apply", table: Some(name), reason }));
                }
                Counted::Incomplete | Counted::IfFewer | Counted::No => {}
            }
        }
        if fewer {
            let replies = of_statements(client, &name, &rest).await?;
            upserted += (0..rest.len()).map(|at| replies.affected(at)).sum::<u64>();
        }
        let superseded = table.changes.saturating_sub(upserted + deleted);
        let outcomes = [("upserted", upserted), ("deleted", deleted), ("superseded", superseded)];
        rows.extend(outcomes.map(|(outcome, count)| (name.clone(), outcome, count)));
    }
    Ok(rows)
}

async fn of_statements(
    client: &Client,
    table: &str,
    statements: &[&(usize, Counted, String)],
) -> Result<Replies, Failure> {
    let sql: Vec<&str> = statements.iter().map(|(_, _, sql)| sql.as_str()).collect();
    let results = client
        .simple_query(&sql.join("; "))
        .await
        .map_err(|error| of_postgres(&error.into(), &format!("applying to table {table}"), Some(table)))?;
    Ok(Replies::new(&results))
}

/// Answers to several statements: per statement its rows and its count.
struct Replies {
    of_statement: Vec<(Vec<Vec<Option<String>>>, u64)>,
}

impl Replies {
    fn new(results: &[headwater_pg::SimpleQueryMessage]) -> Replies {
        let mut of_statement = Vec::new();
        let mut rows = Vec::new();
        for result in results {
            match result {
                headwater_pg::SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                headwater_pg::SimpleQueryMessage::CommandComplete(count) => {
                    of_statement.push((std::mem::take(&mut rows), *count));
                }
                _ => {}
            }
        }
        Replies { of_statement }
    }

    fn rows(&self, statement: usize) -> usize {
        self.of_statement.get(statement).map_or(0, |(rows, _)| rows.len())
    }

    fn affected(&self, statement: usize) -> u64 {
        self.of_statement.get(statement).map_or(0, |(_, count)| *count)
    }

    fn truncated(&self, statement: usize) -> Option<Position> {
        let (rows, _) = self.of_statement.get(statement)?;
        let row = rows.first()?;
        let lsn = ledger::lsn(row.first()?.as_deref()?)?;
        Some(Position { lsn, ordinal: row.get(1)?.as_deref()?.parse().ok()? })
    }
}
