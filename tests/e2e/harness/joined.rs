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

/// What Debezium, and so the product, writes for a TOAST value that the server did not send.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Rows that change in all ways, some with a value that is stored out of line and rarely touched.
pub const CHURNED: &str = "
    create sequence versions;
    create table items (id bigint primary key, version bigint not null, body text, big text);
    alter table items alter column big set storage external;
    create function big_of(id bigint) returns text language sql volatile as
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
            insert into items values (other, nextval('versions'), 'new', big_of(other)) on conflict do nothing;
        else
            -- With its value: of one that was not touched nobody could know under the new key.
            update items set id = other, version = nextval('versions'), big = big_of(other)
             where id = chosen and not exists (select from items where id = other);
        end if;
    end $$";

/// Fills the table.
pub async fn fill(database: &Database, rows: u64) -> Result<()> {
    let sql = format!(
        "insert into items select i, nextval('versions'), md5(i::text), big_of(i) from generate_series(1, {rows}) i"
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

/// Reads the table's topic and compares.
pub async fn check(test: &Fixture, topic: &str, rows_sql: &str) -> Result<Joined> {
    let raw = test.raw_topic(topic)?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut found = Joined::default();
    let mut fold: BTreeMap<i64, BTreeMap<String, Json>> = BTreeMap::new();
    let mut newest: HashMap<i64, i64> = HashMap::new();
    let mut ids: HashSet<String> = HashSet::new();
    let mut homes: HashMap<i64, i32> = HashMap::new();
    for record in &raw {
        let place = format!("{} partition {} offset {}", record.topic, record.partition, record.offset);
        let key = decoder.json(record.key.as_deref())?;
        let id = key["id"].as_i64().with_context(|| format!("{place}: no id in the key"))?;
        ensure!(
            *homes.entry(id).or_insert(record.partition) == record.partition,
            "{place}: another partition"
        );
        let identity = record.header("headwater.id").context("no headwater.id")?;
        let again = !ids.insert(identity.clone());
        found.repeated += u64::from(again);
        let value = decoder.json(record.value.as_deref())?;
        if value.is_null() {
            if !again {
                newest.remove(&id);
            }
            fold.remove(&id);
            continue;
        }
        let op = value["op"].as_str().unwrap_or_default().to_owned();
        let mark = value["source"]["snapshot"].as_str().unwrap_or("false").to_owned();
        *found.marks.entry(mark).or_default() += 1;
        match op.as_str() {
            "r" => found.read += 1,
            _ => found.streamed += 1,
        }
        let Some(after) = value["after"].as_object() else {
            fold.remove(&id);
            continue;
        };
        let version = after["version"].as_i64().with_context(|| format!("{place}: no version"))?;
        if !again {
            let before = newest.insert(id, version).unwrap_or(i64::MIN);
            ensure!(
                before <= version,
                "{place} ({op}, {identity}): version {version} of key {id} comes after version {before}"
            );
        }
        let mut row: BTreeMap<String, Json> = after.clone().into_iter().collect();
        if row["big"] == UNAVAILABLE {
            let kept = fold.get(&id).map_or(Json::String(UNAVAILABLE.to_owned()), |row| row["big"].clone());
            row.insert("big".to_owned(), kept);
        }
        fold.insert(id, row);
    }
    compare(&fold, &test.database, rows_sql).await?;
    Ok(found)
}

async fn compare(
    fold: &BTreeMap<i64, BTreeMap<String, Json>>,
    database: &Database,
    rows_sql: &str,
) -> Result<()> {
    let rows = database.rows(rows_sql).await?;
    let mut left: HashSet<i64> = fold.keys().copied().collect();
    for row in &rows {
        let id: i64 = row[0].as_deref().context("an id")?.parse()?;
        let folded = fold.get(&id).with_context(|| format!("row {id} is not in the topic"))?;
        let text = |json: &Json| match json {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        for (column, cell) in ["id", "version", "body", "big"].iter().zip(row) {
            let short =
                |cell: &Option<String>| cell.as_ref().map(|text| text.chars().take(40).collect::<String>());
            let there = text(&folded[*column]);
            ensure!(
                there == *cell,
                "row {id}: {column} is {:?} in the topic and {:?} in the table",
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
