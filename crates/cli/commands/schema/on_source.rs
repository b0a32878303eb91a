//! `--on-source`: the statement runs where the tables are, inside a transaction that is rolled back.
//!
//! Only a statement that changes nothing but the catalog, so that its locks are held for the time of a look at the
//! catalog; sent by the extended protocol, which takes one statement and no more. Event triggers of the database see it.

use anyhow::{Context, bail};
use headwater_pg::Client;
use headwater_pipeline::present::present_tables;
use headwater_pipeline::{ExitCode, Halt, Settings};

use super::changes::Changed;
use super::statement;
use crate::commands::chain;

/// How long to stand in the queue for a lock, where everybody who comes later stands behind; and how long at most the
/// statement itself may take, should the list of harmless statements be wrong.
const LIMITS: &str = "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'";

/// Runs the statement, looks, and rolls back, whatever happens.
pub async fn run(client: &Client, settings: &Settings, sql: &str) -> anyhow::Result<Changed> {
    let allowed = statement::judge(sql).map_err(|why| {
        Halt::new(
            ExitCode::StatementRefused,
            format!("--on-source does not run this statement: {why}"),
            "try it with --scratch-url, which runs anything on empty copies",
        )
    })?;
    for type_name in &allowed.new_types {
        refuse_domain(client, type_name).await?;
    }
    let name = &settings.postgres.database;
    let before = super::present(client, settings).await?;
    let sent = headwater_pg::Error::from;
    client.batch_execute("BEGIN").await.map_err(sent)?;
    let after = async {
        client.batch_execute(LIMITS).await.map_err(sent)?;
        client.execute(sql, &[]).await.map_err(sent).map_err(|error| {
            Halt::new(
                ExitCode::StatementRefused,
                format!("the statement fails on the source: {}", chain(&error)),
                "nothing was changed; correct the statement, or try again when the table is less busy (lock_timeout is 1 s)",
            )
        })?;
        anyhow::Ok(present_tables(client, settings, name).await.context("read the changed tables")?)
    }
    .await;
    // A connection that fails here is closed, which rolls back as well.
    client.batch_execute("ROLLBACK").await.map_err(sent).context("roll back")?;
    let notes = vec!["the statement was rolled back; nothing was changed".to_owned()];
    Ok(Changed { before, after: after?, notes })
}

/// A domain's constraint makes Postgres rewrite the table for a new column; `serial` is no type but a default that does.
async fn refuse_domain(client: &Client, type_name: &str) -> anyhow::Result<()> {
    let found = client
        .query_opt(
            "SELECT t.typtype::text FROM pg_catalog.pg_type t WHERE t.oid = pg_catalog.to_regtype($1)",
            &[&type_name],
        )
        .await
        .map_err(headwater_pg::Error::from)
        .with_context(|| format!("look up the type {type_name}"))?;
    let kind: Option<String> = found.map(|row| row.get(0));
    match kind.as_deref() {
        Some("d") | None => bail!(Halt::new(
            ExitCode::StatementRefused,
            format!(
                "--on-source adds no column of type {type_name}: it is a domain, serial or unknown, and could rewrite the table"
            ),
            "try it with --scratch-url, which runs anything on empty copies",
        )),
        Some(_) => Ok(()),
    }
}
