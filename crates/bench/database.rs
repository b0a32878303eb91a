//! The connection of an ordinary client, and the SQL files of `sql/`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

/// Connects; the driver task ends with the client.
pub async fn connect(url: &str) -> Result<Client> {
    let config: Config = url.parse().context("cannot read the database URL")?;
    connect_with(&config).await
}

async fn connect_with(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("cannot connect to PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("connection to PostgreSQL: {error}");
        }
    });
    Ok(client)
}

/// Runs `files` in the database that `url` names, which is created if it does not exist.
pub async fn apply(url: &str, files: &[PathBuf]) -> Result<()> {
    let config: Config = url.parse().context("cannot read the database URL")?;
    let Some(database) = config.get_dbname() else { bail!("the URL names no database") };
    let server = connect_with(config.clone().dbname("postgres")).await?;
    let create = format!("CREATE DATABASE \"{}\"", database.replace('"', "\"\""));
    match server.batch_execute(&create).await {
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => {}
        other => other.context("cannot create the database")?,
    }
    let client = connect_with(&config).await?;
    for file in files {
        let sql = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        client.batch_execute(&sql).await.with_context(|| format!("cannot run {}", file.display()))?;
        println!("   {} applied to database {database}", file.display());
    }
    Ok(())
}

/// One text column of one row.
pub async fn text(client: &Client, sql: &str) -> Result<String> {
    let row = client.query_one(sql, &[]).await.with_context(|| format!("cannot run {sql}"))?;
    Ok(row.get(0))
}

/// The end of the WAL that has been written.
pub async fn wal_end(client: &Client) -> Result<String> {
    text(client, "SELECT pg_current_wal_lsn()::text").await
}
