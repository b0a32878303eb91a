//! Writers whose tables change under them: each runs one statement after another from a list that the test replaces
//! when names change. A statement that fails (the table is gone, a column is renamed) is a transaction that is rolled back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use super::database::{self, Database};
use super::random::Random;
use super::until;

/// Running writers.
pub struct Traffic {
    statements: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

/// The pace of a writer; two cores are shared with the servers.
const PAUSE: Duration = Duration::from_millis(4);

impl Traffic {
    /// Starts writers. In a statement `{id}` is one of a few ids, `{new}` one that was never used.
    pub fn start(database: &Database, writers: u64, statements: &[&str]) -> Traffic {
        let traffic = Traffic {
            statements: Arc::default(),
            ended: Arc::default(),
            committed: Arc::default(),
            writers: Vec::new(),
        };
        traffic.now(statements);
        let writers = (0..writers).map(|number| {
            let writer = Writer {
                server: database.server.clone(),
                database: database.name.clone(),
                random: Random::new(77 + number),
                next_id: 1_000_000 * (number + 1),
                statements: traffic.statements.clone(),
                ended: traffic.ended.clone(),
                committed: traffic.committed.clone(),
            };
            tokio::spawn(writer.run())
        });
        let writers = writers.collect();
        Traffic { writers, ..traffic }
    }

    /// Replaces the statements.
    pub fn now(&self, statements: &[&str]) {
        let statements = statements.iter().map(|statement| (*statement).to_owned()).collect();
        *self.statements.lock().expect("no panic while locked") = statements;
    }

    /// Waits until so many transactions more were committed.
    pub async fn commits(&self, more: u64) -> Result<()> {
        let target = self.committed.load(Ordering::Relaxed) + more;
        until(Duration::from_secs(60), "the writers to go on", async || {
            Ok(self.committed.load(Ordering::Relaxed) >= target)
        })
        .await
    }

    /// Ends the writers after their present transactions.
    pub async fn finish(self) {
        self.ended.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("writers do not panic");
        }
    }
}

struct Writer {
    server: super::servers::Postgres,
    database: String,
    random: Random,
    next_id: u64,
    statements: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self) {
        let client = database::connect(&self.server, &self.database).await.expect("the server runs");
        while !self.ended.load(Ordering::Relaxed) {
            // Several statements, with a pause among them, so that transactions overlap.
            let mut transaction = vec!["begin".to_owned()];
            for _ in 0..1 + self.random.below(3) {
                transaction.push(self.statement());
            }
            let mut failed = false;
            for statement in transaction {
                failed = failed || client.batch_execute(&statement).await.is_err();
                tokio::time::sleep(Duration::from_micros(self.random.below(PAUSE.as_micros() as u64))).await;
            }
            let end = if failed || self.random.chance(8) { "rollback" } else { "commit" };
            if client.batch_execute(end).await.is_ok() && end == "commit" {
                self.committed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn statement(&mut self) -> String {
        let statements = self.statements.lock().expect("no panic while locked").clone();
        let statement = &statements[self.random.below(statements.len() as u64) as usize];
        self.next_id += 1;
        statement
            .replace("{id}", &(1 + self.random.below(40)).to_string())
            .replace("{new}", &self.next_id.to_string())
    }
}
