//! Tables that are added to a publication: noticed, and their rows copied where that is wanted.
//!
//! In: what is published, looked up at a start, at a pace, and when the stream announces a table for the first time; and
//! what was known, which is stored with the requests. Out: requests to copy, or a halt.
//!
//! Adding a table does not wait for those who write to it (design, fact 12): a row written by a transaction that was
//! open then is not in the stream, and no snapshot sees it before its Commit. So a copy is asked for only when every
//! transaction that was open when the table was noticed, which is later, is over. Every chunk of the copy then sees
//! them all, and what comes after is in the stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_pg::Client;
use headwater_pg::open_transactions::open_transactions;
use headwater_pg::publication::{Membership, memberships};
use tokio::sync::Notify;

use super::requests::{KnownTable, Requests, Wish};
use super::table_pattern::TablePattern;
use crate::error::{StageError, chain};
use crate::halt::{ExitCode, Halt};
use crate::metrics::Metrics;
use crate::settings::{OnNewTable, Settings};

/// Time between two looks when nothing asks for one: a query of the catalog each.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two looks while open transactions are waited for.
const WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// How long the server may not be asked before that is said: longer than a restart of it.
const UNASKED_TOLD_AFTER: Duration = Duration::from_secs(60);

/// How long open transactions may take before that is said again.
const TOLD_INTERVAL: Duration = Duration::from_secs(30);

/// Tables that were noticed at one time and wait for the transactions of that time.
struct Noticed {
    tables: Vec<Membership>,
    /// The first transaction that began later.
    before: u64,
    told: Option<Instant>,
}

/// See the module's documentation; one task of a session.
pub(crate) struct NewTables {
    settings: Settings,
    requests: Arc<Requests>,
    /// A table was announced for the first time in this session.
    look: Arc<Notify>,
    metrics: Arc<Metrics>,
    noticed: Vec<Noticed>,
    /// Whether it was said that the table of signals is not published.
    told_of_signals: bool,
}

/// Why a look came to nothing.
enum Failed {
    /// The server can't be asked now.
    Asking(headwater_pg::Error),
    /// The session ends.
    Stage(StageError),
}

impl From<headwater_pg::Error> for Failed {
    fn from(error: headwater_pg::Error) -> Failed {
        Failed::Asking(error)
    }
}

impl NewTables {
    pub(crate) fn new(
        settings: Settings,
        requests: Arc<Requests>,
        look: Arc<Notify>,
        metrics: Arc<Metrics>,
    ) -> NewTables {
        NewTables { settings, requests, look, metrics, noticed: Vec::new(), told_of_signals: false }
    }

    /// Runs until the session ends. A server that can't be asked is asked again: the stream has its own connection, and
    /// says itself when the server is gone. What it says only to us is said once it has lasted.
    pub(crate) async fn run(mut self) -> StageError {
        let mut client = None;
        let mut unasked: Option<Instant> = None;
        let mut told = false;
        loop {
            match self.look(&mut client).await {
                Ok(()) => {
                    unasked = None;
                    if std::mem::take(&mut told) {
                        tracing::info!("tables that are added to the publication are noticed again");
                    }
                }
                Err(Failed::Stage(error)) => return error,
                Err(Failed::Asking(error)) => {
                    client = None;
                    let reason = chain(&error);
                    let since = *unasked.get_or_insert_with(Instant::now);
                    if since.elapsed() < UNASKED_TOLD_AFTER {
                        tracing::debug!(reason, "looking for tables that were added");
                    } else if !std::mem::replace(&mut told, true) {
                        self.metrics.errors.with_label_values(&["snapshot"]).inc();
                        tracing::warn!(
                            "tables that are added to the publication are not noticed at the moment: {reason}"
                        );
                    }
                }
            }
            let pause = if self.noticed.is_empty() { LOOK_INTERVAL } else { WAIT_INTERVAL };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.look.notified() => {}
            }
        }
    }

    async fn look(&mut self, client: &mut Option<Client>) -> Result<(), Failed> {
        let client = match client {
            Some(client) if !client.is_closed() => client,
            client => client.insert(headwater_pg::connect(&self.settings.postgres).await?),
        };
        let published = memberships(client, &self.settings.publications).await?;
        // Later than the look: whoever wrote to one of these tables before it was published has ended or is open here.
        let open = open_transactions(client).await?;
        self.tell_of_signals(&published);
        let Some(known) = self.requests.known() else {
            // Nobody has looked before: what is there is where this begins.
            let known = published.iter().map(KnownTable::of).collect();
            return self.requests.know(known, []).map_err(Failed::Stage);
        };
        self.forget_unpublished(&published);
        let waiting = |table: &Membership| {
            self.noticed.iter().any(|noticed| noticed.tables.iter().any(|each| each == table))
        };
        let new: Vec<Membership> =
            published.iter().filter(|table| is_new(table, &known) && !waiting(table)).cloned().collect();
        if !new.is_empty() {
            self.notice(new, open.end).map_err(Failed::Stage)?;
        }
        self.ask_for_copies(&published, &known, open.start).map_err(Failed::Stage)
    }

    /// Tables that are noticed and gone again, or were put back in the meantime, are nobody's business.
    fn forget_unpublished(&mut self, published: &[Membership]) {
        for noticed in &mut self.noticed {
            noticed.tables.retain(|table| published.contains(table));
        }
        self.noticed.retain(|noticed| !noticed.tables.is_empty());
    }

    fn notice(&mut self, new: Vec<Membership>, before: u64) -> Result<(), StageError> {
        let on_new_table = self.settings.snapshot.on_new_table;
        let (wanted, others): (Vec<_>, Vec<_>) = new.into_iter().partition(|table| self.is_wanted(table));
        for table in &others {
            tracing::info!(
                table = name(table),
                "a table was added to the publication; its rows are not wanted"
            );
        }
        let mut tables = others;
        match on_new_table {
            OnNewTable::Halt if !wanted.is_empty() => return Err(halt(&wanted)),
            OnNewTable::Halt | OnNewTable::StreamOnly => {
                for table in &wanted {
                    tracing::info!(
                        table = name(table),
                        "a table was added to the publication; the rows that it has are not copied (snapshot.on_new_table)"
                    );
                }
                tables.extend(wanted);
            }
            OnNewTable::Snapshot => {
                for table in &wanted {
                    tracing::info!(
                        table = name(table),
                        before,
                        "a table was added to the publication: its rows are copied when the transactions that are open now are over"
                    );
                }
                if !wanted.is_empty() {
                    self.noticed.push(Noticed { tables: wanted, before, told: None });
                }
            }
        }
        if !tables.is_empty() {
            // There is nothing to wait for.
            self.noticed.push(Noticed { tables, before: 0, told: None });
        }
        Ok(())
    }

    /// Whether the rows of a table are to be copied, but for the setting that decides it for all.
    fn is_wanted(&self, table: &Membership) -> bool {
        let (schema, name) = (table.schema.as_str(), table.table.as_str());
        let settings = &self.settings;
        let outbox = settings.outbox.iter().find(|outbox| outbox.schema == schema && outbox.table == name);
        settings.takes_table(schema, name)
            && settings.snapshot.tables.takes(schema, name)
            && !settings.signals.is_table(schema, name)
            && outbox.is_none_or(|outbox| outbox.snapshot)
    }

    /// Asks for copies of the tables whose transactions are over, and stores what is known now.
    fn ask_for_copies(
        &mut self,
        published: &[Membership],
        known: &[KnownTable],
        oldest_open: u64,
    ) -> Result<(), StageError> {
        let (over, open): (Vec<Noticed>, Vec<Noticed>) =
            std::mem::take(&mut self.noticed).into_iter().partition(|noticed| noticed.before <= oldest_open);
        self.noticed = open;
        self.tell_of_waiting(oldest_open);
        let still_new = |table: &Membership| {
            is_new(table, known) && !over.iter().any(|noticed| noticed.tables.contains(table))
        };
        let now: Vec<KnownTable> =
            published.iter().filter(|table| !still_new(table)).map(KnownTable::of).collect();
        let copies: Vec<&Membership> =
            over.iter().filter(|noticed| noticed.before > 0).flat_map(|noticed| &noticed.tables).collect();
        if now == known && copies.is_empty() {
            return Ok(());
        }
        // One each: what keeps one of them from being copied is no reason for the others.
        let copies = copies.into_iter().map(|table| {
            let id = super::signals::clean_id(&format!("new-table {}", name(table)));
            let tables = vec![TablePattern::Exact(table.schema.clone(), table.table.clone())];
            let relation = Some(table.relation);
            (id, Wish::Start { tables, filters: Vec::new(), except: Vec::new(), relation })
        });
        self.requests.know(now, copies)
    }

    fn tell_of_waiting(&mut self, oldest_open: u64) {
        let waiting: usize = self.noticed.iter().map(|noticed| noticed.tables.len()).sum();
        self.metrics.snapshot_new_tables_waiting.set(waiting as i64);
        for noticed in &mut self.noticed {
            let tables = noticed.tables.iter().map(name).collect::<Vec<_>>().join(", ");
            match noticed.told {
                None => noticed.told = Some(Instant::now()),
                Some(told) if told.elapsed() > TOLD_INTERVAL => {
                    noticed.told = Some(Instant::now());
                    tracing::info!(
                        tables,
                        transaction = oldest_open,
                        "the copy of new tables waits for a transaction that was open when they were added"
                    );
                }
                Some(_) => {}
            }
        }
    }

    /// A table of signals that is not published is one that nobody hears.
    fn tell_of_signals(&mut self, published: &[Membership]) {
        let Some((schema, table)) = &self.settings.signals.table else { return };
        let found = published.iter().any(|each| each.schema == *schema && each.table == *table);
        let publication = self.settings.publications.join(", ");
        if !found && !std::mem::replace(&mut self.told_of_signals, true) {
            tracing::warn!(
                table = format!("{schema}.{table}"),
                publication,
                "the table of signals (signals.table) is not published, so no signal is heard from it: ALTER PUBLICATION … ADD TABLE {schema}.{table}"
            );
        } else if found && std::mem::replace(&mut self.told_of_signals, false) {
            tracing::info!(table = format!("{schema}.{table}"), "the table of signals is published now");
        }
    }
}

/// New is a table that nobody knew, and one that was taken out of its publications and put back: what was written in
/// between is in no stream.
fn is_new(table: &Membership, known: &[KnownTable]) -> bool {
    let Some(known) = known.iter().find(|known| known.relation == table.relation) else { return true };
    !known.members.is_empty()
        && !table.members.is_empty()
        && !table.members.iter().any(|member| known.members.contains(member))
}

fn name(table: &Membership) -> String {
    format!("{}.{}", table.schema, table.table)
}

fn halt(tables: &[Membership]) -> StageError {
    let names = tables.iter().map(name).collect::<Vec<_>>().join(", ");
    StageError::Halt(Halt::new(
        ExitCode::NewTable,
        format!("{names}: added to the publication, and snapshot.on_new_table = \"halt\""),
        "decide what becomes of the rows that are there: start once with snapshot.on_new_table = \"snapshot\" or \"stream_only\", \
         or take the table out of the publication",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new() {
        let check = |known: &[(u32, &[u32])], table: (u32, &[u32]), wanted: bool| {
            let known: Vec<KnownTable> = known
                .iter()
                .map(|(relation, members)| KnownTable { relation: *relation, members: members.to_vec() })
                .collect();
            let (relation, members) = (table.0, table.1.to_vec());
            let table = Membership { relation, members, schema: "public".to_owned(), table: "t".to_owned() };
            assert_eq!(is_new(&table, &known), wanted, "{known:?} {table:?}");
        };
        check(&[], (1, &[]), true);
        check(&[(1, &[])], (1, &[]), false);
        check(&[(1, &[50])], (1, &[50]), false);
        check(&[(1, &[50])], (2, &[51]), true);
        // In one more publication, and out of one of two.
        check(&[(1, &[50])], (1, &[50, 60]), false);
        check(&[(1, &[50, 60])], (1, &[60]), false);
        // Taken out and put back.
        check(&[(1, &[50])], (1, &[70]), true);
        // FOR ALL TABLES beside it.
        check(&[(1, &[50])], (1, &[]), false);
        check(&[(1, &[])], (1, &[70]), false);
    }
}
