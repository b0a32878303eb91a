//! What tests of snapshots share: a table whose rows change in all ways, commands to a running instance, and a gate
//! at which a copy waits, so that what a test does meets it in the midst of a table and not by luck.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tokio_postgres::Client;

use super::database::Database;
use super::fixture::Fixture;
use super::headwater::{BINARY, Config, Headwater};
use super::joined::{self, CHURNED};
use super::{servers, until};

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
    answer(begin_command(test, headwater, config, arguments)?)
}

/// Begins such a command, whose answer may take as long as a chunk.
pub fn begin_command(
    test: &Fixture,
    headwater: &Headwater,
    config: &Config,
    arguments: &[&str],
) -> Result<Child> {
    let path = test.directory.path().join(format!("snapshot-{}.toml", servers::free_port()));
    config.write(&path)?;
    let mut command = Command::new(BINARY);
    command.arg("snapshot").args(arguments).arg("--instance").arg(headwater.address()).arg("-c").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("run headwater snapshot")
}

/// Whether such a command succeeded, and what it printed.
pub fn answer(child: Child) -> Result<(bool, String)> {
    let output = tokio::task::block_in_place(|| child.wait_with_output())?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

/// The same for a command that has to succeed.
pub fn commanded(
    test: &Fixture,
    headwater: &Headwater,
    config: &Config,
    arguments: &[&str],
) -> Result<String> {
    let (ok, text) = command(test, headwater, config, arguments)?;
    ensure!(ok, "{arguments:?}: {text}");
    Ok(text)
}

/// `GET /snapshot`.
pub fn status(headwater: &Headwater) -> Result<Json> {
    let (_, body) = headwater.get("/snapshot").context("no answer")?;
    Ok(serde_json::from_str(&body)?)
}

/// Starts a copy of one table beside the stream that waits at a new gate, and waits until it does.
pub async fn start_gated(
    test: &Fixture,
    headwater: &Headwater,
    config: &Config,
    table: &str,
    (number, which): (i32, &str),
) -> Result<Gate> {
    let gate = Gate::closed(&test.database, number).await?;
    let condition = format!("{table}={}", gate.condition(which));
    commanded(test, headwater, config, &["start", table, "--where", &condition])?;
    gate.reached().await?;
    Ok(gate)
}

/// Runs a statement that waits for the copy at a gate, opens the gate, and waits for the statement's end.
pub async fn change_at(test: &Fixture, gate: Gate, sql: &str) -> Result<()> {
    let client = test.database.connect().await?;
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await?.get(0);
    let statement = sql.to_owned();
    let change = tokio::spawn(async move { client.batch_execute(&statement).await });
    let waits = format!("select 1 from pg_locks where pid = {pid} and not granted");
    until(Duration::from_secs(30), "the change to wait or to be made", async || {
        Ok(change.is_finished() || test.database.value(&waits).await?.is_some())
    })
    .await?;
    gate.open().await?;
    change.await?.with_context(|| sql.to_owned())
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

    /// Whether a copy waits.
    pub async fn holds(&self) -> Result<bool> {
        let sql = format!(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted
                and classid = {GATE} and objid = {} and database = (select oid from pg_database where datname = current_database())",
            self.number
        );
        Ok(self.client.query_one(&sql, &[]).await?.get::<_, i64>(0) > 0)
    }

    /// Waits until a copy waits.
    pub async fn reached(&self) -> Result<()> {
        until(Duration::from_secs(60), "a copy to come to the gate", async || self.holds().await).await
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
