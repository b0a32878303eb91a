//! `--scratch-url`: the statement runs on empty copies of the published tables, in a database that lives no longer than
//! the command.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use headwater_pg::catalog::{quote_identifier, quote_literal};
use headwater_pg::definition::{Definition, definition};
use headwater_pg::{Client, ConnectSettings};
use headwater_pipeline::present::{PresentTable, Schemas, present_tables};
use headwater_pipeline::{ExitCode, Halt, Settings};

use super::changes::Changed;
use crate::commands::chain;

/// Copies, runs the statement, looks, and drops the copy, whatever happens.
pub async fn run(source: &Client, settings: &Settings, url: &str, sql: &str) -> anyhow::Result<Changed> {
    let server = crate::config::from_flag("--scratch-url", url)?;
    let admin = headwater_pg::connect(&server).await.context("connect to --scratch-url")?;
    let search_path = value(source, "SHOW search_path").await?;
    source.batch_execute("SET search_path = pg_catalog").await.map_err(headwater_pg::Error::from)?;
    let definition =
        definition(source, &settings.publications).await.context("read the tables' definitions")?;
    let present = super::present(source, settings).await?;
    let name = format!("headwater_plan_{}_{}", std::process::id(), unix_micros());
    let quoted = quote_identifier(&name);
    // As the source has it, or labels and names could not be copied.
    admin
        .batch_execute(&format!("CREATE DATABASE {quoted} TEMPLATE template0 ENCODING 'UTF8'"))
        .await
        .map_err(headwater_pg::Error::from)
        .context("create the scratch database (the role needs CREATEDB)")?;
    let result = tokio::select! {
        result = work(&server, &name, &definition, settings, &search_path, sql, &present) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let dropped = admin.batch_execute(&format!("DROP DATABASE {quoted} WITH (FORCE)")).await;
    if let Err(error) = dropped.map_err(headwater_pg::Error::from) {
        tracing::warn!(
            database = name,
            error = chain(&error),
            "the scratch database could not be dropped; drop it"
        );
    }
    result
}

fn unix_micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros())
}

async fn value(client: &Client, sql: &str) -> Result<String, headwater_pg::Error> {
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

async fn work(
    server: &ConnectSettings,
    database: &str,
    definition: &Definition,
    settings: &Settings,
    search_path: &str,
    sql: &str,
    present: &[PresentTable],
) -> anyhow::Result<Changed> {
    let connection = ConnectSettings { database: database.to_owned(), ..server.clone() };
    let client = headwater_pg::connect(&connection).await.context("connect to the scratch database")?;
    client.batch_execute("SET search_path = pg_catalog").await.map_err(headwater_pg::Error::from)?;
    let mut notes = copy(&client, definition).await?;
    let looked = "read the scratch database";
    let name = &settings.postgres.database;
    let before = present_tables(&client, settings, name).await.context(looked)?;
    notes.extend(differences(present, &before));
    set_search_path(&client, search_path).await?;
    client.batch_execute(sql).await.map_err(headwater_pg::Error::from).map_err(|error| {
        Halt::new(
            ExitCode::StatementRefused,
            format!("the statement fails on copies of the tables: {}", chain(&error)),
            "correct the statement. Copied are the published tables with types, defaults, keys and partitions; what else \
             it names (views, functions, triggers, foreign keys, other tables) is not there",
        )
    })?;
    client.batch_execute("SET search_path = pg_catalog").await.map_err(headwater_pg::Error::from)?;
    let after = present_tables(&client, settings, name).await.context(looked)?;
    Ok(Changed { before, after, notes })
}

/// `search_path` as the source's session has it, so that names without a schema mean the same.
async fn set_search_path(client: &Client, search_path: &str) -> Result<(), headwater_pg::Error> {
    let sql = format!("SELECT set_config('search_path', {}, false)", quote_literal(search_path));
    Ok(client.batch_execute(&sql).await?)
}

/// Makes the tables; what could not be copied without harm becomes a note.
async fn copy(client: &Client, definition: &Definition) -> anyhow::Result<Vec<String>> {
    let Definition { homes, types, tables, defaults, publications } = definition;
    let mut notes = Vec::new();
    for statement in homes {
        copied(client, statement).await?;
    }
    let mut left: Vec<&String> = types.iter().collect();
    while !left.is_empty() {
        let mut failed = Vec::new();
        for statement in &left {
            if client.batch_execute(statement).await.is_err() {
                failed.push(*statement);
            }
        }
        if failed.len() == left.len() {
            copied(client, failed[0]).await?;
        }
        left = failed;
    }
    for statement in tables {
        copied(client, statement).await?;
    }
    for statement in defaults {
        if client.batch_execute(statement).await.is_err() {
            notes.push(format!(
                "a default could not be copied, since it is computed by what is not there: {statement}"
            ));
        }
    }
    for (statement, fallback) in publications {
        if client.batch_execute(statement).await.is_err() {
            copied(client, fallback).await?;
            notes.push(
                "the scratch role may not publish whole schemas: tables that the statement creates are not in the plan"
                    .to_owned(),
            );
        }
    }
    Ok(notes)
}

async fn copied(client: &Client, statement: &str) -> anyhow::Result<()> {
    match client.batch_execute(statement).await.map_err(headwater_pg::Error::from) {
        Ok(()) => Ok(()),
        Err(error) => bail!(Halt::new(
            ExitCode::PostgresError,
            format!("the tables can't be copied to the scratch server: {}: {statement}", chain(&error)),
            "use a server of the same version with the same extensions, and a role that may create what is missing",
        )),
    }
}

/// A copy whose records would have other schemas is no ground for a plan.
fn differences(source: &[PresentTable], copy: &[PresentTable]) -> Vec<String> {
    let json = |table: &PresentTable| match &table.schemas {
        Schemas::Record { key, value } => Some((key.clone(), value.clone())),
        _ => None,
    };
    source
        .iter()
        .filter(|table| {
            let twin = copy.iter().find(|twin| twin.name() == table.name());
            twin.is_none_or(|twin| json(twin) != json(table))
        })
        .map(|table| {
            format!(
                "the copy of {} has other schemas than the table itself: do not rely on its plan",
                table.name()
            )
        })
        .collect()
}
