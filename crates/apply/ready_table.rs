//! A target table that can take the rows of a schema: found, made or widened.
//!
//! In: the columns of key and row under their names in the table. Out: the table as it is then. This is the only place
//! that changes a target table's definition; it runs outside of the batches' transactions. Nothing is ever dropped or
//! narrowed: what has to be done is decided while no other instance changes a table.

use headwater_avro::reading::OfferedColumn;
use headwater_pg::{Client, Error};

use crate::halt::{Failure, Halt, HaltCause, of_postgres};
use crate::settings::Settings;
use crate::target::{self, TargetName, TargetTable};

/// The table with its key, all columns and the columns of positions; none if it is missing and there is nothing to make
/// it of.
pub(crate) async fn ready_table(
    client: &Client,
    settings: &Settings,
    name: &TargetName,
    key: &[Option<OfferedColumn>],
    row: &[Option<OfferedColumn>],
) -> Result<Option<TargetTable>, Failure> {
    let key: Vec<String> = key.iter().flatten().map(|column| column.name.clone()).collect();
    let row: Vec<OfferedColumn> = row.iter().flatten().cloned().collect();
    let found = target::look_up(client, name).await?;
    if found.is_none() && row.is_empty() {
        return Ok(None);
    }
    if changes(settings, name, &key, &row, found.as_ref())?.is_none() {
        return Ok(found);
    }
    let doing = format!("changing table {}", name.plain());
    let failed = |error: Error| of_postgres(&error, &doing, None);
    // Another instance may be at the same, or have gone further meanwhile.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(7237011924)";
    client.batch_execute(begin).await.map_err(|error| failed(error.into()))?;
    let found = target::look_up(client, name).await?;
    if let Some(sql) = changes(settings, name, &key, &row, found.as_ref())? {
        tracing::info!(table = name.plain(), sql, "changing the target table");
        client.batch_execute(&sql).await.map_err(|error| failed(error.into()))?;
    }
    client.batch_execute("COMMIT").await.map_err(|error| failed(error.into()))?;
    target::look_up(client, name).await
}

/// The SQL that makes the table or widens it; none where it is ready. A halt where it may not be changed.
pub(crate) fn changes(
    settings: &Settings,
    name: &TargetName,
    key: &[String],
    row: &[OfferedColumn],
    found: Option<&TargetTable>,
) -> Result<Option<String>, Halt> {
    let mut statements = Vec::new();
    let mut missing = "";
    match found {
        None => {
            missing = "the table does not exist";
            statements.push((settings.create_tables, target::create_statement(name, row, key)?));
        }
        Some(table) => {
            if !table.has_key(key) {
                return Err(no_key(name, key));
            }
            let lacks = |column: &&OfferedColumn| {
                table.column(&column.name).is_none() && !table.generated.contains(&column.name)
            };
            let lacking: Vec<_> = row.iter().filter(lacks).collect();
            // A column that is too narrow is no reason to halt: the rows that it can't take are.
            let narrower = if settings.alter_tables { table.narrower(row) } else { Vec::new() };
            if !lacking.is_empty() {
                missing = "the table lacks columns that the topic has";
            }
            if !lacking.is_empty() || !narrower.is_empty() {
                let widen = target::widen_statement(name, &lacking, &narrower)?;
                statements.push((settings.alter_tables, widen));
            }
        }
    }
    if found.is_none_or(|table| !table.has_positions) {
        let allowed = settings.alter_tables || found.is_none() && settings.create_tables;
        missing = if missing.is_empty() { "the table lacks the columns of positions" } else { missing };
        statements.push((allowed, target::positions_statement(name)));
    }
    if statements.is_empty() {
        return Ok(None);
    }
    let sql: Vec<_> = statements.iter().map(|(_, sql)| format!("{sql};")).collect();
    let sql = sql.join("\n");
    if statements.iter().all(|(allowed, _)| *allowed) {
        return Ok(Some(sql));
    }
    let advice = format!("run this, or allow it with create_tables and alter_tables:\n{sql}");
    Err(Halt::new(HaltCause::TargetUnsuitable, format!("table {}: {missing}", name.plain()), advice))
}

fn no_key(name: &TargetName, key: &[String]) -> Halt {
    let columns = key.join(", ");
    Halt::new(
        HaltCause::TargetUnsuitable,
        format!("table {} has no primary key or unique index on the key's columns ({columns})", name.plain()),
        format!(
            "ALTER TABLE {} ADD PRIMARY KEY ({columns}), or choose other columns at the source with message_key_columns",
            name.quoted()
        ),
    )
}
