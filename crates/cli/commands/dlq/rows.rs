//! What is done in the database: outbox rows and messages written again, and keys that are no longer blocked.
//!
//! A logical message in front of them says from which transaction on a key is delivered again, and as a part of the WAL it
//! has exactly one place. For an outbox that blocks keys, writers wait from the moment when its letters are read until its
//! rows are written: otherwise an event could overtake one that was set aside before it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use headwater_avro::OnError;
use headwater_dead_letter::{Done, Letter, LetterId, Shelf, read_values};
use headwater_outbox::{listing, table};
use headwater_pg::Client;
use headwater_pipeline::settings::OutboxTable;
use serde_json::{Value, json};

use super::replay::LETTERS_MAX;
use super::{Desk, READ_MAX};
use crate::commands::status::request;

/// What a letter of a logical message has in the place of a table, before its prefix.
pub(super) const MESSAGE_OF: &str = "a logical message with prefix ";

/// How long everything that was committed may take to be delivered or set aside, while writers wait.
const CAUGHT_UP_SECONDS: u64 = 30;

/// Keys of one message.
const KEYS_MAX: usize = 1_000;

async fn connect(desk: &Desk) -> anyhow::Result<Client> {
    headwater_pg::connect(desk.postgres()?).await.context("connect to Postgres")
}

/// Says in the open transaction that these keys are delivered again.
async fn unblock(client: &Client, table: &str, keys: &[String], attempt: u32) -> anyhow::Result<()> {
    for keys in keys.chunks(KEYS_MAX) {
        let message = json!({ "table": table, "keys": keys, "attempt": attempt }).to_string();
        client
            .execute(
                "SELECT pg_catalog.pg_logical_emit_message(true, 'headwater.unblock', $1::text)",
                &[&message],
            )
            .await?;
    }
    Ok(())
}

/// The keys of letters as they are blocked, by table; a table without a key is blocked as a whole.
fn keys_by_table<'a>(letters: impl Iterator<Item = &'a Letter>) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for letter in letters {
        let Some(table) = &letter.cause.table else { continue };
        let keys = tables.entry(table.clone()).or_default();
        keys.insert(letter.cause.key.clone().unwrap_or_default());
        keys.extend(letter.cause.old_key.clone());
    }
    tables
}

/// Keys of which no letter stays open are delivered again from here on.
pub(super) async fn unblock_dropped(desk: &Desk, shelf: &Shelf, dropped: &[LetterId]) -> anyhow::Result<()> {
    let is_of_rows = |letter: &&Letter| {
        let of_message = letter.cause.table.as_deref().is_some_and(|table| table.starts_with(MESSAGE_OF));
        letter.cause.consumer.is_none() && !of_message
    };
    let is_dropped = |letter: &&Letter| dropped.contains(&letter.id);
    let stays = |letter: &&Letter| letter.done.is_none() && !dropped.contains(&letter.id);
    let mut gone = keys_by_table(shelf.letters.values().filter(is_dropped).filter(is_of_rows));
    for (table, keys) in keys_by_table(shelf.letters.values().filter(stays).filter(is_of_rows)) {
        if let Some(of_table) = gone.get_mut(&table) {
            of_table.retain(|key| !keys.contains(key));
        }
    }
    gone.retain(|_, keys| !keys.is_empty());
    if gone.is_empty() {
        return Ok(());
    }
    let client = connect(desk).await?;
    client.batch_execute("BEGIN").await?;
    for (table, keys) in gone {
        unblock(&client, &table, &keys.into_iter().collect::<Vec<_>>(), 0).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}

/// Writes the messages of letters again.
pub(super) async fn emit_again(desk: &Desk, prefix: &str, letters: &[&Letter]) -> anyhow::Result<String> {
    let ids: BTreeSet<LetterId> = letters.iter().map(|letter| letter.id).collect();
    let values = read_values(&desk.kafka, &desk.topic, &ids, READ_MAX)?;
    let client = connect(desk).await?;
    client.batch_execute("BEGIN").await?;
    let attempt = letters.iter().map(|letter| letter.cause.attempt).max().unwrap_or(1) + 1;
    unblock(&client, "", &[String::new()], attempt).await?;
    for id in &ids {
        let content =
            values.get(id).cloned().flatten().with_context(|| format!("letter {id} has no content"))?;
        let sql = "SELECT pg_catalog.pg_logical_emit_message(true, $1::text, $2::bytea)";
        client.execute(sql, &[&prefix, &content]).await?;
    }
    client.batch_execute("COMMIT").await?;
    desk.mark(Done::Replayed, &ids.iter().copied().collect::<Vec<_>>())?;
    Ok(format!("{} messages {prefix}", ids.len()))
}

/// Writes the rows of an outbox again that letters are of.
pub(super) async fn write_again(desk: &Desk, table: &str, letters: &[&Letter]) -> anyhow::Result<String> {
    let settings = desk.pipeline()?;
    let outbox = settings.outbox.iter().find(|outbox| format!("{}.{}", outbox.schema, outbox.table) == table);
    let outbox = outbox.with_context(|| format!("{table} is no [[outbox]] of the configuration"))?;
    if outbox.status {
        return send_again(desk, outbox, letters).await;
    }
    let on_error = settings.records.records_for(&outbox.schema, &outbox.table).on_error;
    let client = connect(desk).await?;
    let sql = "SELECT pg_catalog.format('%I.%I', $1::text, $2::text)";
    let name: String = client.query_one(sql, &[&outbox.schema, &outbox.table]).await?.get(0);
    client.batch_execute("BEGIN").await?;
    let mut ids: BTreeSet<LetterId> = letters.iter().map(|letter| letter.id).collect();
    if on_error == OnError::DeadLetterAndBlockKey {
        client.batch_execute(&format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")).await?;
        wait_until_caught_up(desk).await?;
        let keys: BTreeSet<_> = letters.iter().map(|letter| letter.cause.key.clone()).collect();
        // All of a key, also what has come since: its order is kept by writing all of it or nothing.
        let now = desk.read()?;
        let of_keys = now.letters.values().filter(|letter| {
            letter.done.is_none()
                && letter.cause.table.as_deref() == Some(table)
                && keys.contains(&letter.cause.key)
        });
        ids.extend(of_keys.map(|letter| letter.id));
        if ids.len() > LETTERS_MAX {
            bail!("{} letters of these keys are too many for one replay; name fewer", ids.len());
        }
    }
    let keys: BTreeSet<String> = letters.iter().filter_map(|letter| letter.cause.key.clone()).collect();
    let attempt = letters.iter().map(|letter| letter.cause.attempt).max().unwrap_or(1) + 1;
    unblock(&client, table, &keys.into_iter().collect::<Vec<_>>(), attempt).await?;
    let mut values = read_values(&desk.kafka, &desk.topic, &ids, READ_MAX)?;
    let columns = columns_of(&client, outbox).await?;
    for id in &ids {
        let value = values.remove(id).flatten().with_context(|| format!("letter {id} has no value"))?;
        write_row(&client, &name, outbox, &columns, &value)
            .await
            .with_context(|| format!("write letter {id} again"))?;
    }
    client.batch_execute("COMMIT").await?;
    desk.mark(Done::Replayed, &ids.iter().copied().collect::<Vec<_>>())?;
    Ok(format!("{} rows of {table}, written again", ids.len()))
}

/// The same of an outbox whose rows have a status: they are DEAD, and are sent again as `headwater outbox retry` does it.
/// One that is gone is written as the letter has it.
async fn send_again(desk: &Desk, outbox: &OutboxTable, letters: &[&Letter]) -> anyhow::Result<String> {
    let ids: BTreeSet<LetterId> = letters.iter().map(|letter| letter.id).collect();
    let values = read_values(&desk.kafka, &desk.topic, &ids, READ_MAX)?;
    let client = connect(desk).await?;
    let table = table::load(&client, outbox).await?;
    let columns = columns_of(&client, outbox).await?;
    client.batch_execute("BEGIN").await?;
    let (mut events, mut written) = (BTreeSet::new(), 0);
    for id in &ids {
        let value = values.get(id).and_then(Option::as_deref);
        let value = value.with_context(|| format!("letter {id} has no value"))?;
        let event = event_of(outbox, value).with_context(|| format!("read letter {id}"))?;
        if events.contains(&event) || listing::show(&client, &table, &event).await?.is_some() {
            events.insert(event);
            continue;
        }
        write_row(&client, &table.sql, outbox, &columns, value)
            .await
            .with_context(|| format!("write letter {id} again"))?;
        written += 1;
    }
    let events: Vec<String> = events.into_iter().collect();
    let sent = listing::retry(&client, &table, &events).await?;
    client.batch_execute("COMMIT").await?;
    desk.mark(Done::Replayed, &ids.into_iter().collect::<Vec<_>>())?;
    let mut done = format!("{} rows of {}, sent again", sent + written, table.name);
    let others = events.len() as u64 - sent;
    if others > 0 {
        done +=
            &format!("; {others} were sent again before (headwater outbox show says what became of them)");
    }
    Ok(done)
}

/// The id of the event that a letter is of.
fn event_of(outbox: &OutboxTable, letter: &[u8]) -> anyhow::Result<String> {
    let letter: Value = serde_json::from_slice(letter)?;
    match &letter["after"][&outbox.id_column] {
        Value::String(id) => Ok(id.clone()),
        Value::Number(id) => Ok(id.to_string()),
        _ => bail!("its row has no {}", outbox.id_column),
    }
}

/// Whatever was committed so far is delivered or a letter.
async fn wait_until_caught_up(desk: &Desk) -> anyhow::Result<()> {
    let instance = desk.instance.as_deref();
    let instance =
        instance.context("that needs the running instance, and the configuration has no [http] listen")?;
    // Over a connection of its own: what is written in the open transaction comes later.
    let sql = "SELECT pg_catalog.pg_logical_emit_message(false, 'headwater.caught_up', '')::text";
    let lsn: String = connect(desk).await?.query_one(sql, &[]).await?.get(0);
    let path = format!("/wait?lsn={lsn}&timeout_seconds={CAUGHT_UP_SECONDS}");
    let limit = Duration::from_secs(CAUGHT_UP_SECONDS + 5);
    let (code, answer) = request(instance, "GET", &path, None, limit)
        .await
        .with_context(|| format!("no instance of headwater answers at {instance}"))?;
    if code != 200 {
        bail!("{}", answer.trim());
    }
    Ok(())
}

/// A column as SQL writes it.
struct Column {
    name: String,
    sql_name: String,
    sql_type: String,
}

async fn columns_of(client: &Client, outbox: &OutboxTable) -> anyhow::Result<Vec<Column>> {
    let sql = "SELECT a.attname, pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod)
                 FROM pg_catalog.pg_attribute a
                 JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                ORDER BY a.attnum";
    let rows = client.query(sql, &[&outbox.schema, &outbox.table]).await?;
    Ok(rows
        .iter()
        .map(|row| Column { name: row.get(0), sql_name: row.get(1), sql_type: row.get(2) })
        .collect())
}

/// In the place of the row, if it is still there.
async fn write_row(
    client: &Client,
    name: &str,
    outbox: &OutboxTable,
    columns: &[Column],
    letter: &[u8],
) -> anyhow::Result<()> {
    let letter: Value = serde_json::from_slice(letter).context("read its value")?;
    let Some(row) = letter["after"].as_object() else { bail!("its value has no row") };
    let written: Vec<&Column> = columns.iter().filter(|column| row.contains_key(&column.name)).collect();
    let text = |column: &Column| match &row[&column.name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    if let Some(id) = written.iter().find(|column| column.name == outbox.id_column) {
        let sql = format!("DELETE FROM {name} WHERE {} = $1::text::{}", id.sql_name, id.sql_type);
        client.execute(&sql, &[&text(id)]).await?;
    }
    let names: Vec<&str> = written.iter().map(|column| column.sql_name.as_str()).collect();
    let value = |(at, column): (usize, &&Column)| format!("($1::text[])[{}]::{}", at + 1, column.sql_type);
    let values: Vec<String> = written.iter().enumerate().map(value).collect();
    let sql = format!(
        "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        names.join(", "),
        values.join(", ")
    );
    let texts: Vec<Option<String>> = written.iter().map(|column| text(column)).collect();
    client.execute(&sql, &[&texts]).await?;
    Ok(())
}
