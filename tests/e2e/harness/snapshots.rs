//! What tests of snapshots share: a table whose rows change in all ways, commands to a running instance, and a gate
//! at which a copy waits, so that what a test does meets it in the midst of a table and not by luck.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tokio_postgres::Client;

use super::database::Database;
use super::fixture::Fixture;
use super::headwater::{Config, Headwater};
use super::joined::{self, CHURNED};
use super::until;

/// The rows of [`CHURNED`] as the oracle wants them.
pub const ROWS: &str = "select id, version, body, big from items";

/// What a gate in the way of a chunk makes the product say after 10 s on a machine that is busy.
pub const CHUNK_WAITS: &str = "a chunk can't be read now";

/// Creates, fills and publishes `items`.
pub async fn prepare(test: &Fixture, rows: u64) -> Result<()> {
    test.database.execute(CHURNED).await?;
    joined::fill(&test.database, rows).await?;
    test.database.execute("create publication captured for table items").await
}

/// As [`prepare`], and every other row has a value out of line, which most updates leave alone.
pub async fn prepare_toasted(test: &Fixture, rows: u64) -> Result<()> {
    test.database.execute(CHURNED).await?;
    test.database
        .execute(
            "create or replace function big_of(id bigint) returns text language sql volatile as
             $$ select case when id % 2 = 0 then repeat(md5(id::text || random()::text), 80) end $$",
        )
        .await?;
    joined::fill(&test.database, rows).await?;
    test.database.execute("create publication captured for table items").await
}

/// The first copy, with chunks of 64 KiB where it goes on beside the stream.
pub fn initial(test: &Fixture) -> Config {
    test.config().set("snapshot.mode", "initial").set("snapshot.chunk_bytes", "64KiB")
}

/// No first copy, and small chunks, so that there are many.
pub fn beside(test: &Fixture) -> Config {
    test.config().set("snapshot.chunk_bytes", "64KiB")
}

/// Runs `headwater snapshot …` and gives what it prints.
pub fn command(
    test: &Fixture,
    headwater: &Headwater,
    config: &Config,
    arguments: &[&str],
) -> Result<(bool, String)> {
    let instance = headwater.address();
    let all: Vec<&str> =
        ["snapshot"].iter().chain(arguments).copied().chain(["--instance", &instance]).collect();
    let output = test.command(&all, config)?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

/// The same for a command that has to succeed.
pub fn commanded(test: &Fixture, headwater: &Headwater, config: &Config, arguments: &[&str]) -> Result<String> {
    let (ok, text) = command(test, headwater, config, arguments)?;
    ensure!(ok, "{arguments:?}: {text}");
    Ok(text)
}

/// `GET /snapshot`.
pub fn status(headwater: &Headwater) -> Result<Json> {
    let (_, body) = headwater.get("/snapshot").context("no answer")?;
    Ok(serde_json::from_str(&body)?)
}

/// Waits until the job is in this state.
pub async fn state(headwater: &Headwater, wanted: &str) -> Result<()> {
    let mut seen = Json::Null;
    until(Duration::from_secs(120), &format!("the snapshot to be {wanted}"), async || {
        // An instance that begins again does not answer at every moment.
        seen = status(headwater).unwrap_or_default();
        Ok(seen["state"] == wanted)
    })
    .await
    .with_context(|| format!("{seen}\n{}", headwater.log_tail()))
}

/// Waits until this instance says that the job is complete.
pub async fn complete(headwater: &Headwater) -> Result<()> {
    headwater.log_line(&["the snapshot is complete"]).await.map(drop)
}

/// A lock of the test's that a copy waits for, in the condition under which rows are copied.
pub struct Gate {
    client: Client,
    number: i32,
}

/// Tells gates from other advisory locks.
const GATE: i32 = 0x6761;

impl Gate {
    /// A closed one; the number tells it from others of the same database.
    pub async fn closed(database: &Database, number: i32) -> Result<Gate> {
        let client = database.connect().await?;
        client.batch_execute(&format!("select pg_advisory_lock({GATE}, {number})")).await?;
        Ok(Gate { client, number })
    }

    /// A condition that all rows meet, and those for which `which` holds only when the gate is open.
    pub fn condition(&self, which: &str) -> String {
        condition(self.number, which)
    }

    /// Waits until a copy waits.
    pub async fn reached(&self) -> Result<()> {
        let sql = format!(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted
                and classid = {GATE} and objid = {} and database = (select oid from pg_database where datname = current_database())",
            self.number
        );
        until(Duration::from_secs(60), "a copy to come to the gate", async || {
            Ok(self.client.query_one(&sql, &[]).await?.get::<_, i64>(0) > 0)
        })
        .await
    }

    /// The copy goes on.
    pub async fn open(self) -> Result<()> {
        self.client.batch_execute("select pg_advisory_unlock_all()").await?;
        Ok(())
    }
}

/// See [`Gate::condition`]; for a configuration that is written before the gate is closed.
pub fn condition(number: i32, which: &str) -> String {
    format!("case when {which} then pg_advisory_xact_lock_shared({GATE}, {number}) is not null else true end")
}

/// A configuration in which the first copy of `items` waits at a gate.
pub fn gated(config: Config, number: i32, which: &str) -> Config {
    let conditions = toml::Table::from_iter([("public.items".to_owned(), condition(number, which).into())]);
    config.set("snapshot.where", conditions)
}
