//! Concurrent writers that do what applications do, seeded: hot keys, several tables, key changes, deletes, several
//! rows at once, rollbacks, savepoints, transactions held open. The audit knows what was committed, so a writer may
//! lose its connection at any moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::database::{self, Database};
use super::random::Random;
use super::servers::Postgres;

/// A text that is in many rows and must never be in a log, a metric or an error.
pub const CANARY: &str = "canary7f3a9c";

/// The tables that writers use.
pub const TABLES: &[&str] =
    &["public.inventory", "public.order_line", "public.document", "public.journal", "public.ledger"];

/// Their definitions: hot keys, a composite key in another order than the columns, TOAST, no key, identity FULL.
const SCHEMA: &str = "
create table inventory (id bigint primary key, sku text not null, quantity int, price numeric(10,2), changed timestamptz);
create table order_line (note text, position int, order_id uuid, amount numeric, primary key (order_id, position));
create table document (id int primary key, version int not null, body text);
alter table document alter body set storage external;
create table journal (at timestamp, entry jsonb);
create table ledger (id int, balance float8, tags text[], primary key (id));
alter table ledger replica identity full;
";

/// Running writers.
pub struct Workload {
    ended: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

/// How hard to write.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Concurrent sessions.
    pub writers: u64,
    /// Longest time between two transactions of one session; also how long some are held open.
    pub pause: Duration,
}

/// A pace that leaves two cores room for the servers.
pub const STEADY: Pace = Pace { writers: 4, pause: Duration::from_millis(12) };

/// Creates and captures the writers' tables.
pub async fn create_tables(database: &Database) -> Result<()> {
    database.execute(SCHEMA).await?;
    database.capture(TABLES).await
}

impl Workload {
    /// Starts writing until [`Workload::finish`].
    pub fn start(database: &Database, seed: u64, pace: Pace) -> Workload {
        println!("workload seed {seed}");
        let ended = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let writers = (0..pace.writers).map(|number| {
            let writer = Writer {
                server: database.server.clone(),
                database: database.name.clone(),
                random: Random::new(seed.wrapping_mul(1000) + number),
                pause: pace.pause,
                ended: ended.clone(),
                committed: committed.clone(),
            };
            tokio::spawn(writer.run())
        });
        let writers = writers.collect();
        Workload { ended, committed, writers }
    }

    /// Transactions committed so far, as the writers know.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until `more` transactions were committed from now on.
    pub async fn commits(&self, more: u64) -> Result<()> {
        let target = self.committed() + more;
        super::until(Duration::from_secs(60), "writers to go on", async || Ok(self.committed() >= target))
            .await
    }

    /// Ends the writers after their present transactions.
    pub async fn finish(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("writers do not panic");
        }
        self.committed.load(Ordering::Relaxed)
    }
}

struct Writer {
    server: Postgres,
    database: String,
    random: Random,
    pause: Duration,
    ended: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self) {
        let mut client: Option<Client> = None;
        while !self.ended.load(Ordering::Relaxed) {
            if client.as_ref().is_none_or(Client::is_closed) {
                client = database::connect(&self.server, &self.database).await.ok();
            }
            if let Some(client) = &client {
                self.transaction(client).await;
            }
            // The pace of the load, not a wait for anything.
            let micros = self.random.below(self.pause.as_micros() as u64 + 1);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }

    /// Errors (deadlocks, lost connections, a shutdown) end the transaction; the audit tells what became of it.
    async fn transaction(&mut self, client: &Client) {
        let statements = self.statements();
        let hold = self.random.chance(10).then(|| self.pause.mul_f64(self.random.below(20) as f64));
        let end = if self.random.chance(6) { "rollback" } else { "commit" };
        let done = async {
            client.batch_execute(&format!("begin; {}", statements.join("; "))).await?;
            if let Some(hold) = hold {
                tokio::time::sleep(hold).await;
            }
            client.batch_execute(end).await
        };
        match done.await {
            Ok(()) if end == "commit" => {
                self.committed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(_) => {
                client.batch_execute("rollback").await.ok();
            }
        }
    }

    fn statements(&mut self) -> Vec<String> {
        let mut statements = Vec::new();
        let count = if self.random.chance(70) { 1 } else { 1 + self.random.below(12) };
        for _ in 0..count {
            let savepoint = self.random.chance(12);
            if savepoint {
                statements.push("savepoint s".to_owned());
            }
            statements.push(self.statement());
            if savepoint {
                let end = if self.random.chance(50) { "rollback to s" } else { "release s" };
                statements.push(end.to_owned());
            }
        }
        statements
    }

    fn statement(&mut self) -> String {
        let random = &mut self.random;
        let id = if random.chance(40) { random.below(10) } else { random.below(100_000) };
        let (word, quantity, cents) = (random.text(8), random.below(1000), random.below(1_000_000));
        match random.below(11) {
            0..=2 => format!(
                "insert into inventory values ({id}, '{CANARY} {word}', {quantity}, {cents} / 100.0, clock_timestamp())
                 on conflict (id) do update set quantity = inventory.quantity + 1, changed = excluded.changed"
            ),
            3 => format!("update inventory set price = {cents} / 100.0 where id in ({id}, {})", random.below(10)),
            4 => format!("delete from inventory where id = {id}"),
            5 => format!(
                "insert into order_line select '{word}', g, md5('{id}')::uuid, {cents}::numeric / 7
                 from generate_series(1, {}) g on conflict do nothing",
                1 + quantity % 20
            ),
            // Negative positions meet nothing: a key changes.
            6 => format!("update order_line set position = -position where order_id = md5('{id}')::uuid and position % 3 = 0"),
            7 => format!("delete from order_line where order_id = md5('{}')::uuid", random.below(10)),
            8 => format!(
                "insert into document values ({}, 1, repeat('{word}', {}))
                 on conflict (id) do update set version = document.version + 1",
                id % 200,
                300 + quantity
            ),
            9 => format!("insert into journal select now(), jsonb_build_object('{word}', g) from generate_series(1, 3) g"),
            _ => format!(
                "insert into ledger values ({}, {quantity}::float8 / 3, array['{word}', null, 'a \"b\"'])
                 on conflict (id) do update set balance = ledger.balance / 3",
                id % 50
            ),
        }
    }
}
