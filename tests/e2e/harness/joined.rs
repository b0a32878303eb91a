//! Judges a topic whose table was copied while writers wrote: its fold is the table, and of one key nothing older
//! comes after something newer. Shares no code with the product.
//!
//! Each row has a `version` that grows with every change of its key (the writers hold a lock on the key), so order is
//! read from the rows themselves, not from what the product says of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use super::database::Database;
use super::decode::Decoder;
use super::fixture::Fixture;
use super::kafka::Raw;

/// What Debezium, and so the product, writes for a TOAST value that the server did not send.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Rows that change in all ways, some with a value that is stored out of line and rarely touched.
pub const CHURNED: &str = "
    create sequence if not exists versions;
    create table items (id bigint primary key, version bigint not null, body text, big text);
    alter table items alter column big set storage external;
    create or replace function big_of(id bigint) returns text language sql volatile as
        $$ select case when id % 7 = 0 then repeat(md5(id::text || random()::text), 100) end $$;
    create function churn(id_max bigint) returns void language plpgsql as $$
    declare
        chosen bigint := 1 + floor(random() * id_max);
        other bigint := 1 + floor(random() * id_max * 1.2);
        dice float := random();
    begin
        -- In one order, so that writers do not wait for each other in a circle.
        perform pg_advisory_xact_lock(least(chosen, other));
        perform pg_advisory_xact_lock(greatest(chosen, other));
        if dice < 0.6 then
            update items set version = nextval('versions'), body = md5(random()::text) where id = chosen;
        elsif dice < 0.7 then
            update items set version = nextval('versions'), big = big_of(id) where id = chosen;
        elsif dice < 0.8 then
            delete from items where id = chosen;
        elsif dice < 0.9 then
            insert into items (id, version, body, big)
                values (other, nextval('versions'), 'new', big_of(other)) on conflict do nothing;
        else
            -- With its value: of one that was not touched nobody could know under the new key.
            update items set id = other, version = nextval('versions'), big = big_of(other)
             where id = chosen and not exists (select from items where id = other);
        end if;
    end $$";

/// Fills the table.
pub async fn fill(database: &Database, rows: u64) -> Result<()> {
    let sql = format!(
        "insert into items (id, version, body, big)
         select i, nextval('versions'), md5(i::text), big_of(i) from generate_series(1, {rows}) i"
    );
    database.execute(&sql).await
}

/// What was found in the topic.
#[derive(Debug, Default)]
pub struct Joined {
    /// Records that a snapshot read.
    pub read: u64,
    /// Records of the stream.
    pub streamed: u64,
    /// Records that came again, in full.
    pub repeated: u64,
    /// What `source.snapshot` said, and how often.
    pub marks: BTreeMap<String, u64>,
}

/// The columns of [`CHURNED`].
pub const COLUMNS: &[&str] = &["id", "version", "body", "big"];

/// Reads the table's topic and compares.
pub async fn check(test: &Fixture, topic: &str, rows_sql: &str) -> Result<Joined> {
    check_columns(test, topic, rows_sql, COLUMNS).await
}

/// The same for a table whose columns have changed: the rows' columns in their order, `id` and `version` first. After
/// a rename a column is named as `new|old`: the last record of a row may be older than that. One that may be younger
/// than the last record of a row ends with `?`.
pub async fn check_columns(test: &Fixture, topic: &str, rows_sql: &str, columns: &[&str]) -> Result<Joined> {
    let mut reader = Reader::default();
    let mut decoder = Decoder::new(&test.kafka.registry);
    for record in &test.raw_topic(topic)? {
        reader.read(record, &mut decoder)?;
    }
    compare(&reader.fold, &test.database, rows_sql, columns).await?;
    Ok(reader.found)
}

type FoldedRow = BTreeMap<String, Json>;

/// A consumer of the topic.
#[derive(Default)]
struct Reader {
    found: Joined,
    fold: BTreeMap<i64, FoldedRow>,
    /// The least version that the next record of a key may have.
    newest: HashMap<i64, i64>,
    ids: HashSet<String>,
    homes: HashMap<i64, i32>,
}

impl Reader {
    fn read(&mut self, record: &Raw, decoder: &mut Decoder) -> Result<()> {
        let place = format!("{} partition {} offset {}", record.topic, record.partition, record.offset);
        let identity = record.header("headwater.id").context("no headwater.id")?;
        let again = !self.ids.insert(identity.clone());
        self.found.repeated += u64::from(again);
        let value = decoder.json(record.value.as_deref())?;
        let op = value["op"].as_str().unwrap_or_default().to_owned();
        if op == "t" {
            // In a topic with one partition: what comes next comes after it.
            self.fold.clear();
            return Ok(());
        }
        let key = decoder.json(record.key.as_deref())?;
        let id = key["id"].as_i64().with_context(|| format!("{place}: no id in the key"))?;
        let home = *self.homes.entry(id).or_insert(record.partition);
        ensure!(home == record.partition, "{place}: another partition");
        if value.is_null() {
            self.fold.remove(&id);
            return Ok(());
        }
        let mark = value["source"]["snapshot"].as_str().unwrap_or("false").to_owned();
        *self.found.marks.entry(mark).or_default() += 1;
        match op.as_str() {
            "r" => self.found.read += 1,
            _ => self.found.streamed += 1,
        }
        let Some(after) = value["after"].as_object() else {
            if !again && let Some(least) = self.newest.get_mut(&id) {
                // What was deleted must not come back.
                *least += 1;
            }
            self.fold.remove(&id);
            return Ok(());
        };
        let version = after["version"].as_i64().with_context(|| format!("{place}: no version"))?;
        if !again {
            let least = self.newest.insert(id, version).unwrap_or(i64::MIN);
            ensure!(
                least <= version,
                "{place} ({op}, {identity}): version {version} of key {id} comes where {least} is the least"
            );
        }
        let mut row: FoldedRow = after.clone().into_iter().collect();
        for (name, value) in &mut row {
            if *value == UNAVAILABLE
                && let Some(known) = self.fold.get(&id).and_then(|row| row.get(name))
            {
                *value = known.clone();
            }
        }
        self.fold.insert(id, row);
        Ok(())
    }
}

async fn compare(
    fold: &BTreeMap<i64, FoldedRow>,
    database: &Database,
    rows_sql: &str,
    columns: &[&str],
) -> Result<()> {
    let rows = database.rows(rows_sql).await?;
    let mut left: HashSet<i64> = fold.keys().copied().collect();
    for row in &rows {
        let id: i64 = row[0].as_deref().context("an id")?.parse()?;
        let folded = fold.get(&id).with_context(|| format!("row {id} is not in the topic"))?;
        for (column, cell) in columns.iter().zip(row) {
            let (names, may_lack) = column.strip_suffix('?').map_or((*column, false), |names| (names, true));
            let Some(json) = names.split('|').find_map(|name| folded.get(name)) else {
                ensure!(may_lack, "row {id} has no {names} in the topic");
                continue;
            };
            let there = text(json);
            ensure!(
                there == *cell,
                "row {id}: {names} is {:?} in the topic and {:?} in the table",
                short(&there),
                short(cell)
            );
        }
        left.remove(&id);
    }
    ensure!(
        left.is_empty(),
        "{} rows are in the topic and not in the table, one is {:?}",
        left.len(),
        left.iter().next()
    );
    Ok(())
}

fn text(json: &Json) -> Option<String> {
    match json {
        Json::Null => None,
        Json::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn short(cell: &Option<String>) -> Option<String> {
    cell.as_ref().map(|text| text.chars().take(40).collect())
}
