//! Delivering letters again, each in the way that is right for what it is of.
//!
//! - Rows of tables: not what was set aside is written but the present row, by the running instance, in its place in the
//!   stream. An old row never comes behind a newer one, and what was dropped between them is in it.
//! - Outbox rows and messages: written again into the database, in their order.
//! - What a consumer could not use: sent to its topic again. Rows that `headwater apply` could not write are not among
//!   them: other readers of the topic would take the old for new.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use headwater_dead_letter::{ATTEMPT, Done, Form, Letter, LetterId, Shelf, read_values};
use serde_json::{Value, json};

use super::rows::{self, MESSAGE_OF};
use super::{Desk, READ_MAX, Sent};
use crate::commands::status::request;
use crate::config::qualified_name;

/// Letters that one command replays at most, of what is held in memory for that.
pub(super) const LETTERS_MAX: usize = 5_000;

/// An answer may wait for a chunk that is under way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two looks at how far the running instance is.
const LOOK: Duration = Duration::from_millis(100);

/// What letters are of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Rows of a table.
    Table(String),
    /// Rows of an outbox, which are events.
    Outbox(String),
    /// Logical messages with this prefix.
    Messages(String),
    /// What a consumer could not use.
    Consumer,
}

/// Replays what is chosen, and says what was done.
pub(super) async fn replay(
    desk: &Desk,
    shelf: &Shelf,
    chosen: &[LetterId],
    attempts_max: u32,
) -> anyhow::Result<Vec<String>> {
    let letters: Vec<&Letter> = chosen.iter().map(|id| &shelf.letters[id]).collect();
    if let Some(tired) = letters.iter().find(|letter| letter.cause.attempt >= attempts_max) {
        bail!(
            "letter {} is of attempt {}: mend what its reason says, and replay it with --force",
            tired.id,
            tired.cause.attempt
        );
    }
    let mut kinds: BTreeMap<Kind, Vec<&Letter>> = BTreeMap::new();
    for letter in letters {
        kinds.entry(kind_of(desk, letter)?).or_default().push(letter);
    }
    let mut done = Vec::new();
    for (kind, letters) in kinds {
        // Of rows none of the values are read.
        if letters.len() > LETTERS_MAX && !matches!(kind, Kind::Table(_)) {
            bail!("{} letters are too many for one replay; name some of them", letters.len());
        }
        done.push(match kind {
            Kind::Table(table) => replay_table(desk, shelf, &table, &letters).await?,
            Kind::Outbox(table) => rows::write_again(desk, &table, &letters).await?,
            Kind::Messages(prefix) => rows::emit_again(desk, &prefix, &letters).await?,
            Kind::Consumer => send_again(desk, &letters)?,
        });
    }
    Ok(done)
}

fn kind_of(desk: &Desk, letter: &Letter) -> anyhow::Result<Kind> {
    let cause = &letter.cause;
    if cause.consumer.is_some() {
        return match cause.stage.as_str() {
            "event" | "feedback" => Ok(Kind::Consumer),
            stage => bail!(
                "letter {} (stage {stage}) is of a row that headwater apply could not write. Sent to its topic again it would be \
                 an old row behind newer ones to all other readers: mend the cause, and read again with headwater apply --replay",
                letter.id
            ),
        };
    }
    let table = cause.table.as_deref().with_context(|| format!("letter {} names no table", letter.id))?;
    if let Some(prefix) = table.strip_prefix(MESSAGE_OF) {
        return Ok(Kind::Messages(prefix.to_owned()));
    }
    let outbox = &desk.pipeline()?.outbox;
    let is_outbox = outbox.iter().any(|outbox| format!("{}.{}", outbox.schema, outbox.table) == table);
    Ok(if is_outbox { Kind::Outbox(table.to_owned()) } else { Kind::Table(table.to_owned()) })
}

/// The keys that a letter is of, each as texts by column.
fn keys_of(letter: &Letter) -> anyhow::Result<Vec<BTreeMap<String, String>>> {
    let keys = [letter.cause.key.as_deref(), letter.cause.old_key.as_deref()];
    let parse = |key: &str| {
        serde_json::from_str(key).with_context(|| format!("read the key of letter {}", letter.id))
    };
    let keys = keys.into_iter().flatten().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
    if keys.is_empty() {
        bail!(
            "letter {} is of a table without a key, of which no single row can be read again: headwater snapshot start copies \
             the table",
            letter.id
        );
    }
    Ok(keys)
}

async fn replay_table(
    desk: &Desk,
    shelf: &Shelf,
    table: &str,
    letters: &[&Letter],
) -> anyhow::Result<String> {
    let instance = desk.instance.as_deref();
    let instance = instance
        .context("rows are replayed by the running instance, and the configuration has no [http] listen")?;
    let (schema, name) = qualified_name(table).with_context(|| format!("{table} is not schema.table"))?;
    let mut keys = BTreeSet::new();
    for letter in letters {
        keys.extend(keys_of(letter)?);
    }
    let attempt = letters.iter().map(|letter| letter.cause.attempt).max().unwrap_or(1) + 1;
    let body = json!({ "schema": schema, "table": name, "keys": keys, "attempt": attempt });
    let (code, answer) = request(instance, "POST", "/dead_letters/replay", Some(&body), ANSWER_TIMEOUT)
        .await
        .with_context(|| format!("no instance of headwater answers at {instance}"))?;
    if code != 200 {
        bail!("{}", answer.trim());
    }
    wait_for_job(instance, answer.trim(), table).await?;
    let after = desk.read()?;
    let of_keys = |letter: &&Letter| {
        letter.cause.table.as_deref() == Some(table)
            && letter.done.is_none()
            && keys_of(letter).is_ok_and(|of| of.iter().all(|key| keys.contains(key)))
    };
    // What has failed again is a letter of this attempt; with it the key stays as it is.
    let failed: BTreeSet<_> = after
        .letters
        .values()
        .filter(of_keys)
        .filter(|letter| !shelf.letters.contains_key(&letter.id) && letter.cause.attempt >= attempt)
        .flat_map(|letter| keys_of(letter).unwrap_or_default())
        .collect();
    let is_replayed = |letter: &&Letter| {
        let fails = keys_of(letter).is_ok_and(|of| of.iter().any(|key| failed.contains(key)));
        shelf.letters.contains_key(&letter.id) || !fails
    };
    let marked: Vec<LetterId> =
        after.letters.values().filter(of_keys).filter(is_replayed).map(|letter| letter.id).collect();
    desk.mark(Done::Replayed, &marked)?;
    let rows = keys.len() - failed.len();
    Ok(match failed.len() {
        0 => format!("{rows} rows of {table}"),
        failed => {
            format!("{rows} rows of {table}; {failed} failed again and are letters of attempt {attempt}")
        }
    })
}

/// Until the running instance has written the rows, and that is acknowledged.
async fn wait_for_job(instance: &str, id: &str, table: &str) -> anyhow::Result<()> {
    loop {
        let (_, answer) = request(instance, "GET", "/snapshot", None, ANSWER_TIMEOUT).await?;
        let status: Value = serde_json::from_str(&answer).context("read the answer")?;
        if status["id"] != id {
            bail!(
                "the running instance does something else by now; look whether {table} was replayed: headwater dlq ls"
            );
        }
        let of_table = &status["tables"][table];
        match (status["state"].as_str(), of_table["state"].as_str()) {
            (_, Some("failed")) => {
                bail!("{table}: {}", of_table["error"].as_str().unwrap_or("it could not be read"))
            }
            (Some("done"), _) => return Ok(()),
            (Some("cancelled"), _) => bail!("it was cancelled (headwater snapshot cancel)"),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

fn send_again(desk: &Desk, letters: &[&Letter]) -> anyhow::Result<String> {
    let ids: BTreeSet<LetterId> = letters.iter().map(|letter| letter.id).collect();
    let mut values = read_values(&desk.kafka, &desk.topic, &ids, READ_MAX)?;
    let mut records = Vec::new();
    for letter in letters {
        let cause = &letter.cause;
        let (Some(topic), Some((partition, _)), Form::Record) = (&cause.topic, cause.place, cause.form)
        else {
            bail!("letter {} does not say where it was", letter.id);
        };
        if let Some(bytes) = cause.left_out_bytes {
            bail!(
                "letter {} has no value: its {bytes} bytes were more than the topic of letters takes, so it can't be sent again. \
                 {topic} has it at {partition}:{}, while that is kept",
                letter.id,
                cause.place.map_or(0, |(_, offset)| offset)
            );
        }
        let value = values.remove(&letter.id).with_context(|| format!("letter {} is gone", letter.id))?;
        let mut headers = letter.headers.clone();
        headers.push((ATTEMPT.to_owned(), (cause.attempt + 1).to_string().into_bytes()));
        records.push(Sent { topic: topic.clone(), partition, key: letter.key.clone(), value, headers });
    }
    desk.send(&records)?;
    let ids: Vec<LetterId> = letters.iter().map(|letter| letter.id).collect();
    desk.mark(Done::Replayed, &ids)?;
    Ok(format!("{} records to their topics", ids.len()))
}
