//! What can't be delivered is set aside and the stream goes on: each kind of poison, keys that are blocked over restarts,
//! replays that bring topic and table together again, kill -9 meanwhile, and a dead letter topic that can't be used.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::kafka::{self, Raw};
use crate::harness::random::Random;
use crate::harness::{http, until};

/// Every change is also a row of `changes`, in the same transaction: what topic and letters together must have.
pub const TABLES: &str = "
create table item (id int primary key, version bigint not null, amount numeric(20, 2), tags int[], body text);
create table changes (seq bigserial primary key, id int, version bigint, op text);
create sequence versions;
create function note() returns trigger language plpgsql as $$
begin
  insert into changes (id, version, op) values (coalesce(new.id, old.id), coalesce(new.version, old.version), tg_op);
  return null;
end $$;
create trigger note after insert or update or delete on item for each row execute function note();
create publication captured for table item;
";

pub fn letters_topic(test: &Fixture) -> String {
    // Beside the topics of tables, so that those can be read by their prefix.
    format!("letters.{}", test.prefix())
}

pub fn config(test: &Fixture, policy: &str) -> Config {
    test.config().set("dead_letter.topic", letters_topic(test)).set("records.on_error", policy)
}

pub fn put(id: u64, amount: &str) -> String {
    format!(
        "insert into item (id, version, amount) values ({id}, nextval('versions'), '{amount}')
         on conflict (id) do update set version = excluded.version, amount = excluded.amount"
    )
}

pub fn letters(test: &Fixture) -> Result<Vec<Raw>> {
    let records = test.raw_topic(&letters_topic(test))?;
    Ok(records.into_iter().filter(|record| record.header("headwater.dead_letter.stage").is_some()).collect())
}

pub fn says(record: &Raw, name: &str) -> String {
    let full = format!("headwater.dead_letter.{name}");
    record.header(&full).unwrap_or_default()
}

/// Stages of the letters with how many of each.
fn stages(test: &Fixture) -> Result<BTreeMap<String, usize>> {
    let mut stages = BTreeMap::new();
    for letter in letters(test)? {
        *stages.entry(says(&letter, "stage")).or_default() += 1;
    }
    Ok(stages)
}

fn dlq(test: &Fixture, headwater: &Headwater, config: &Config, arguments: &[&str]) -> Result<(bool, String)> {
    let address = headwater.address();
    let all = [&["dlq", "--instance", &address], arguments].concat();
    let output = test.command(&all, config)?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

fn dlq_done(test: &Fixture, headwater: &Headwater, config: &Config, arguments: &[&str]) -> Result<String> {
    let (ok, text) = dlq(test, headwater, config, arguments)?;
    ensure!(ok, "{arguments:?}: {text}");
    Ok(text)
}

/// Open letters, as `ls --json` has them.
fn open(test: &Fixture, headwater: &Headwater, config: &Config) -> Result<Vec<Json>> {
    let text = dlq_done(test, headwater, config, &["--json", "ls", "--limit", "100000"])?;
    let line = text.lines().find(|line| line.starts_with('[')).context("no JSON")?;
    Ok(serde_json::from_str(line)?)
}

/// The newest row of every key, as a consumer of the topic has it: id to version.
fn folded(test: &Fixture, topic: &str) -> Result<BTreeMap<i64, i64>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut rows = BTreeMap::new();
    for record in test.raw_topic(topic)? {
        let key = decoder.json(record.key.as_deref())?;
        let id = key["id"].as_i64().context("no id in a key")?;
        let value = decoder.json(record.value.as_deref())?;
        match value["after"]["version"].as_i64() {
            Some(version) => drop(rows.insert(id, version)),
            None => drop(rows.remove(&id)),
        }
    }
    Ok(rows)
}

async fn in_table(test: &Fixture) -> Result<BTreeMap<i64, i64>> {
    let rows = test.database.rows("select id, version from item").await?;
    let number = |cell: &Option<String>| cell.as_deref().and_then(|text| text.parse().ok()).unwrap_or(-1);
    Ok(rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect())
}

async fn topic_is_table(test: &Fixture) -> Result<()> {
    let (folded, table) = (folded(test, &test.topic("public.item"))?, in_table(test).await?);
    ensure!(folded == table, "a consumer has {folded:?}, the table {table:?}");
    Ok(())
}

/// A row that can't be encoded, one that is too large for its topic, and one whose schema the registry refuses.
async fn poison_of_each_kind(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    test.expect_complaint("beginning again from the checkpoint");
    let topic = test.topic("public.item");
    kafka::create_topic(&test.kafka.bootstrap, &topic, 1).await?;
    let mut headwater = test.start(config(test, "dead_letter")).await?;
    test.database.execute(&put(1, "1")).await?;
    test.database.execute(&put(2, "NaN")).await?;
    test.database
        .execute("update item set tags = '{{1,2},{3,4}}', version = nextval('versions') where id = 1")
        .await?;
    test.database.execute(&put(3, "3")).await?;
    // Random, so that no compression helps, and more than a topic takes by default.
    test.database
        .execute(
            "insert into item (id, version, body) select 4, nextval('versions'),
               string_agg(md5(random()::text), '') from generate_series(1, 200000)",
        )
        .await?;
    test.database.execute(&put(5, "5")).await?;
    test.settle().await?;
    ensure!(
        stages(test)? == BTreeMap::from([("encode".to_owned(), 2), ("size".to_owned(), 1)]),
        "letters {:?}",
        stages(test)?
    );
    ensure!(folded(test, &topic)?.keys().copied().eq([1, 3, 5]), "the stream did not go on past them");
    let all = letters(test)?;
    let nan =
        all.iter().find(|letter| says(letter, "key") == r#"{"id":"2"}"#).context("no letter of key 2")?;
    let row: Json = serde_json::from_slice(nan.value.as_deref().unwrap_or_default())?;
    ensure!(row["op"] == "c" && row["after"]["amount"] == "NaN", "the row in the letter is {row}");
    ensure!(says(nan, "table") == "public.item" && says(nan, "form") == "row", "{:?}", nan.headers);
    let large = all.iter().find(|letter| says(letter, "stage") == "size").context("no letter of size")?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    let value = decoder.json(large.value.as_deref())?;
    ensure!(
        value["after"]["body"].as_str().is_some_and(|body| body.len() == 6_400_000),
        "its value is not whole"
    );
    let counted = headwater.metric("headwater_dead_letters_total", &["public.item"]).unwrap_or(0.0);
    ensure!(counted >= 3.0, "{counted} were counted");
    // What was a number is a string from now on, which no reader of both can read.
    let subject = format!("{}/config/{topic}-value", test.kafka.registry);
    let answer = http::request("PUT", &subject, Some(r#"{"compatibility": "BACKWARD"}"#))?;
    ensure!(answer.status == 200, "{}", answer.body);
    test.database
        .execute("drop trigger note on item; alter table item alter version type text using version::text")
        .await?;
    test.database.execute(&put(6, "6")).await?;
    test.settle().await?;
    ensure!(stages(test)?.get("schema") == Some(&1), "letters {:?}", stages(test)?);
    headwater.stop().await
}

/// Changes of a key behind one that was set aside are set aside too, over kill -9, until the key is replayed.
async fn a_key_is_blocked(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    let config = config(test, "dead_letter_and_block_key");
    let mut headwater = test.start(config.clone()).await?;
    for id in 1..=4 {
        test.database.execute(&put(id, "1")).await?;
    }
    for sql in [put(1, "NaN"), put(1, "2"), put(2, "2"), put(3, "NaN")] {
        test.database.execute(&sql).await?;
    }
    test.settle().await?;
    headwater.kill()?;
    test.database.execute(&put(1, "3")).await?;
    // The row moves on to a key that nobody has blocked.
    test.database
        .execute("update item set id = 30, version = nextval('versions'), amount = 1 where id = 3")
        .await?;
    let headwater = test.start(config.clone()).await?;
    test.database.execute(&put(1, "4")).await?;
    test.database.execute(&put(30, "5")).await?;
    test.database.execute(&put(4, "NaN")).await?;
    test.database.execute("delete from item where id = 4").await?;
    test.settle().await?;
    let blocked = headwater.metric("headwater_blocked_keys", &["public.item"]);
    ensure!(blocked == Some(4.0), "{blocked:?} keys are blocked");
    let of_one: Vec<String> = letters(test)?
        .iter()
        .filter(|letter| says(letter, "key") == r#"{"id":"1"}"#)
        .map(|letter| says(letter, "stage"))
        .collect();
    ensure!(of_one == ["encode", "blocked", "blocked", "blocked"], "letters of key 1: {of_one:?}");
    ensure!(folded(test, &test.topic("public.item"))?.len() == 4, "the topic has what it had");
    // One that fails again is a letter of the second attempt, and the others are delivered.
    test.database.execute(&put(2, "NaN")).await?;
    test.settle().await?;
    let text = dlq_done(test, &headwater, &config, &["replay", "--all"])?;
    ensure!(text.contains("1 failed again"), "{text}");
    let left = open(test, &headwater, &config)?;
    ensure!(left.len() == 1 && left[0]["attempt"] == 2, "open letters {left:?}");
    for id in [1, 2, 30] {
        test.database.execute(&put(id, "7")).await?;
    }
    test.settle().await?;
    dlq_done(test, &headwater, &config, &["replay", "--table", "public.item"])?;
    test.database.execute(&put(2, "8")).await?;
    test.settle().await?;
    topic_is_table(test).await?;
    ensure!(open(test, &headwater, &config)?.is_empty(), "letters are still open");
    let mut headwater = restarted(test, headwater, &config).await?;
    test.database.execute(&put(1, "9")).await?;
    test.settle().await?;
    topic_is_table(test).await?;
    ensure!(
        headwater.metric("headwater_blocked_keys", &["public.item"]).unwrap_or(0.0) == 0.0,
        "a key is blocked"
    );
    headwater.stop().await
}

async fn restarted(test: &mut Fixture, mut headwater: Headwater, config: &Config) -> Result<Headwater> {
    headwater.kill()?;
    test.start(config.clone()).await
}

/// Dropped letters are given up, and their key goes on.
async fn dropped(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    let config = config(test, "dead_letter_and_block_key");
    let mut headwater = test.start(config.clone()).await?;
    for sql in [put(1, "1"), put(1, "NaN"), put(1, "2"), put(2, "2")] {
        test.database.execute(&sql).await?;
    }
    test.settle().await?;
    let (ok, text) = dlq(test, &headwater, &config, &["drop"])?;
    ensure!(!ok && text.contains("say which"), "{text}");
    let all = open(test, &headwater, &config)?;
    ensure!(all.len() == 2, "{all:?}");
    let id = all[0]["id"].as_str().context("no id")?;
    let shown = dlq_done(test, &headwater, &config, &["show", id])?;
    ensure!(shown.contains("public.item") && shown.contains("NaN"), "{shown}");
    dlq_done(test, &headwater, &config, &["drop", "--table", "public.item"])?;
    test.database.execute(&put(1, "3")).await?;
    test.settle().await?;
    topic_is_table(test).await?;
    ensure!(open(test, &headwater, &config)?.is_empty(), "letters are still open");
    let text = dlq_done(test, &headwater, &config, &["replay", "--all"])?;
    ensure!(text.contains("nothing to be replayed"), "{text}");
    headwater.stop().await
}

/// Versions of each key in these records, in the order of the first time that each was seen.
fn versions(of: impl Iterator<Item = (i64, i64)>) -> BTreeMap<i64, Vec<i64>> {
    let mut seen = BTreeSet::new();
    let mut keys: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (id, version) in of {
        if seen.insert((id, version)) {
            keys.entry(id).or_default().push(version);
        }
    }
    keys
}

fn delivered(test: &Fixture) -> Result<BTreeMap<i64, Vec<i64>>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut pairs = Vec::new();
    for record in test.raw_topic(&test.topic("public.item"))? {
        let value = decoder.json(record.value.as_deref())?;
        if let (Some(id), Some(version)) = (value["after"]["id"].as_i64(), value["after"]["version"].as_i64())
        {
            pairs.push((id, version));
        }
    }
    Ok(versions(pairs.into_iter()))
}

fn set_aside(test: &Fixture) -> Result<BTreeMap<i64, Vec<i64>>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut pairs = Vec::new();
    for letter in letters(test)? {
        let value = match says(&letter, "form").as_str() {
            "row" => serde_json::from_slice(letter.value.as_deref().unwrap_or_default())?,
            _ => decoder.json(letter.value.as_deref())?,
        };
        if let (Some(id), Some(version)) = (value["after"]["id"].as_i64(), value["after"]["version"].as_i64())
        {
            pairs.push((id, version));
        }
    }
    Ok(versions(pairs.into_iter()))
}

/// Writers that write poison, and kill -9: no change is in neither topic nor letters, and each has its order per key.
async fn killed_while_letters_are_written(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    let config = config(test, "dead_letter_and_block_key");
    let mut headwater = test.start(config.clone()).await?;
    let client = test.database.connect().await?;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut random = Random::new(27);
        let mut written = 0;
        while stopped.try_recv().is_err() {
            let amount = if random.chance(10) { "NaN" } else { "1" };
            client.batch_execute(&put(random.below(200), amount)).await?;
            written += 1;
        }
        anyhow::Ok(written)
    });
    let mut random = Random::new(28);
    for _ in 0..10 {
        headwater.metric_until("headwater_dead_letters_total", &[], |n| n > 0.0).await?;
        // Any moment will do.
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        headwater = restarted(test, headwater, &config).await?;
    }
    let _ = stop.send(());
    let written = writing.await??;
    test.settle().await?;
    let (topic, aside) = (delivered(test)?, set_aside(test)?);
    let changes = test.database.rows("select id, version from changes order by seq").await?;
    ensure!(changes.len() == written, "{} changes of {written}", changes.len());
    let has = |of: &BTreeMap<i64, Vec<i64>>, id: i64, version: i64| {
        of.get(&id).is_some_and(|versions| versions.contains(&version))
    };
    let mut both = 0;
    for row in &changes {
        let [id, version] = [&row[0], &row[1]].map(|cell| cell.as_deref().unwrap_or_default().parse::<i64>());
        let (id, version) = (id?, version?);
        match (has(&topic, id, version), has(&aside, id, version)) {
            (false, false) => bail!("version {version} of {id} is nowhere"),
            (true, true) => both += 1,
            _ => {}
        }
    }
    ensure!(both == 0, "{both} changes went both ways");
    for versions in topic.values().chain(aside.values()) {
        ensure!(versions.is_sorted(), "out of order: {versions:?}");
    }
    test.database.execute("update item set amount = 1, version = nextval('versions')").await?;
    dlq_done(test, &headwater, &config, &["replay", "--all", "--force"])?;
    test.settle().await?;
    topic_is_table(test).await?;
    println!("{written} changes, {} keys set aside", aside.len());
    headwater.stop().await
}

/// Writers go on while keys are replayed: what they write meanwhile is neither lost nor overwritten.
async fn replayed_under_load(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    let config = config(test, "dead_letter_and_block_key");
    let mut headwater = test.start(config.clone()).await?;
    for id in 0..300 {
        test.database.execute(&put(id, if id % 3 == 0 { "NaN" } else { "1" })).await?;
    }
    test.database.execute("update item set amount = 1, version = nextval('versions')").await?;
    test.settle().await?;
    let client = test.database.connect().await?;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut random = Random::new(29);
        while stopped.try_recv().is_err() {
            let id = random.below(300);
            let sql =
                if random.chance(10) { format!("delete from item where id = {id}") } else { put(id, "2") };
            client.batch_execute(&sql).await?;
        }
        anyhow::Ok(())
    });
    dlq_done(test, &headwater, &config, &["replay", "--all"])?;
    let _ = stop.send(());
    writing.await??;
    test.settle().await?;
    topic_is_table(test).await?;
    let left = open(test, &headwater, &config)?;
    ensure!(left.is_empty(), "open letters {left:?}");
    headwater.stop().await
}

/// Outbox rows and messages that can't be routed, and the events of the same aggregate behind them.
async fn events_in_their_order(test: &mut Fixture) -> Result<()> {
    test.database
        .execute(
            "create table outbox (id serial primary key, aggregatetype text not null, aggregateid text not null,
               type text not null, payload jsonb);
             create publication captured for table outbox",
        )
        .await?;
    test.expect_complaint("went to the dead letter topic");
    let prefix = test.prefix().to_owned();
    let topic = |kind: &str| format!("events.{prefix}.{kind}");
    let with = |test: &Fixture, allowed: &[&str]| {
        let allowed = allowed.iter().map(|kind| toml::Value::from(*kind)).collect();
        let table = toml::Table::from_iter([
            ("table".to_owned(), "public.outbox".into()),
            ("payload".to_owned(), "raw".into()),
            ("topic".to_owned(), topic("${aggregatetype}").into()),
            ("aggregatetypes".to_owned(), toml::Value::Array(allowed)),
        ]);
        config(test, "dead_letter_and_block_key")
            .push("outbox", table)
            .set("topics.partitions", 1)
            .set("outbox_messages.payload", "raw")
            .set("outbox_messages.topic", topic("${aggregatetype}"))
    };
    let before = with(test, &["order"]);
    let after = with(test, &["order", "refund"]);
    let event = |kind: &str, aggregate: &str, number: i32| {
        format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload) values ('{kind}', '{aggregate}', 'T', '{number}')"
        )
    };
    let mut headwater = test.start(before).await?;
    for (kind, aggregate, number) in
        [("order", "a", 1), ("refund", "a", 2), ("order", "a", 3), ("order", "b", 4), ("order", "a", 5)]
    {
        test.database.execute(&event(kind, aggregate, number)).await?;
    }
    test.database.execute("select pg_logical_emit_message(true, 'outbox.order', 'not json')").await?;
    test.settle().await?;
    ensure!(
        stages(test)? == BTreeMap::from([("outbox".to_owned(), 2), ("blocked".to_owned(), 2)]),
        "letters {:?}",
        stages(test)?
    );
    headwater.stop().await?;
    let mut headwater = test.start(after.clone()).await?;
    test.database.execute(&event("order", "a", 6)).await?;
    dlq_done(test, &headwater, &after, &["replay", "--table", "public.outbox"])?;
    test.database.execute(&event("order", "a", 7)).await?;
    test.settle().await?;
    let numbers = |test: &Fixture, kind: &str| -> Result<Vec<String>> {
        let records = test.raw_topic(&topic(kind))?;
        Ok(records
            .iter()
            .map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned())
            .collect())
    };
    let (orders, refunds) = (numbers(test, "order")?, numbers(test, "refund")?);
    ensure!(orders == ["1", "4", "3", "5", "6", "7"], "events of orders {orders:?}");
    ensure!(refunds == ["2"], "events of refunds {refunds:?}");
    // The message is as wrong as it was: a letter of the second attempt, and never a loop.
    dlq_done(test, &headwater, &after, &["replay", "--all"])?;
    test.settle().await?;
    let left = open(test, &headwater, &after)?;
    ensure!(left.len() == 1 && left[0]["attempt"] == 2, "open letters {left:?}");
    let (ok, text) = dlq(test, &headwater, &after, &["replay", "--all", "--attempts", "2"])?;
    ensure!(!ok && text.contains("--force"), "{text}");
    headwater.stop().await
}

/// Letters of a consumer go to their topic again, once, with their attempt; rows that apply could not write do not.
async fn letters_of_consumers(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    let (topic, answers) = (letters_topic(test), format!("answers.{}", test.prefix()));
    kafka::create_topic(&test.kafka.bootstrap, &topic, 2).await?;
    kafka::create_topic(&test.kafka.bootstrap, &answers, 2).await?;
    let name = |name: &str| format!("headwater.dead_letter.{name}");
    let bootstrap = test.kafka.bootstrap.clone();
    let letter = |key: &str, stage: &str, attempt: &str| {
        let (stage_name, reason, of, partition, offset, consumer, attempt_name) = (
            name("stage"),
            name("reason"),
            name("topic"),
            name("partition"),
            name("offset"),
            name("consumer"),
            name("attempt"),
        );
        let headers = [
            ("id", "e-1"),
            (stage_name.as_str(), stage),
            (reason.as_str(), "no outbox has an event of this id"),
            (of.as_str(), answers.as_str()),
            (partition.as_str(), "1"),
            (offset.as_str(), "7"),
            (consumer.as_str(), "relay"),
            (attempt_name.as_str(), attempt),
        ];
        kafka::produce_with(&bootstrap, &topic, (key, "{\"status\":\"SUCCESS\"}"), &headers)
    };
    letter("a", "feedback", "1")?;
    letter("b", "event", "2")?;
    let config = config(test, "halt");
    let headwater = test.start(config.clone()).await?;
    let text = dlq_done(test, &headwater, &config, &["replay", "--all"])?;
    ensure!(text.contains("2 records to their topics"), "{text}");
    let text = dlq_done(test, &headwater, &config, &["replay", "--all"])?;
    ensure!(text.contains("nothing to be replayed"), "{text}");
    let sent = test.raw_topic(&answers)?;
    ensure!(sent.len() == 2 && sent.iter().all(|record| record.partition == 1), "{sent:?}");
    for record in &sent {
        let attempt = if record.key.as_deref() == Some(b"a") { "2" } else { "3" };
        ensure!(
            says(record, "attempt") == attempt && record.header("id").as_deref() == Some("e-1"),
            "{record:?}"
        );
        ensure!(record.headers.len() == 2, "what made it a letter is gone: {:?}", record.headers);
    }
    letter("c", "apply", "1")?;
    letter("d", "feedback", "5")?;
    let (ok, text) = dlq(test, &headwater, &config, &["replay", "--stage", "apply"])?;
    ensure!(!ok && text.contains("headwater apply --replay"), "{text}");
    let (ok, text) = dlq(test, &headwater, &config, &["replay", "--stage", "feedback"])?;
    ensure!(!ok && text.contains("--force"), "{text}");
    dlq_done(test, &headwater, &config, &["replay", "--stage", "feedback", "--force"])?;
    dlq_done(test, &headwater, &config, &["drop", "--stage", "apply"])?;
    ensure!(open(test, &headwater, &config)?.is_empty(), "letters are still open");
    ensure!(test.raw_topic(&answers)?.len() == 3, "one more was sent");
    let mut headwater = headwater;
    headwater.stop().await
}

/// Without its topic nothing is set aside, and nothing is lost.
async fn no_topic(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    test.expect_complaint("does not exist, and topics.create is false");
    kafka::create_topic(&test.kafka.bootstrap, &test.topic("public.item"), 1).await?;
    let config = config(test, "dead_letter").set("topics.create", false);
    let mut headwater = test.start(config.clone()).await?;
    for sql in [put(1, "1"), put(2, "NaN"), put(3, "3")] {
        test.database.execute(&sql).await?;
    }
    headwater.exits_with(51).await?;
    kafka::create_topic(&test.kafka.bootstrap, &letters_topic(test), 1).await?;
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    ensure!(folded(test, &test.topic("public.item"))?.keys().copied().eq([1, 3]), "a row is lost");
    ensure!(letters(test)?.len() == 1, "{} letters", letters(test)?.len());
    Ok(())
}

/// More keys than may be blocked: then it is not a few rows that are at fault.
async fn too_many_keys(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.expect_complaint("went to the dead letter topic");
    test.expect_complaint("blocked_keys_max");
    let config = config(test, "dead_letter_and_block_key").set("dead_letter.blocked_keys_max", 2);
    let mut headwater = test.start(config.clone()).await?;
    for id in 1..=3 {
        test.database.execute(&put(id, "NaN")).await?;
    }
    headwater.exits_with(43).await?;
    let mut headwater = test.start(config.set("dead_letter.blocked_keys_max", 3)).await?;
    until(Duration::from_secs(30), "the third letter", async || Ok(letters(test)?.len() >= 3)).await?;
    test.settle().await?;
    headwater.stop().await
}

#[test]
fn each_kind_of_poison_is_set_aside() {
    on_shared("dead_letter_poison", poison_of_each_kind);
}

#[test]
fn a_key_stays_blocked_until_it_is_replayed() {
    on_shared("dead_letter_blocked", a_key_is_blocked);
}

#[test]
fn what_is_dropped_is_given_up() {
    on_shared("dead_letter_dropped", dropped);
}

#[test]
fn kill_nine_loses_no_letter() {
    on_shared("dead_letter_kills", killed_while_letters_are_written);
}

#[test]
fn a_replay_under_load_ends_where_the_table_is() {
    on_shared("dead_letter_load", replayed_under_load);
}

#[test]
fn events_keep_their_order_over_a_replay() {
    on_shared("dead_letter_events", events_in_their_order);
}

#[test]
fn letters_of_consumers_go_back_once() {
    on_shared("dead_letter_consumers", letters_of_consumers);
}

#[test]
fn a_missing_topic_of_letters_halts() {
    on_shared("dead_letter_topic", no_topic);
}

#[test]
fn too_many_blocked_keys_halt() {
    on_shared("dead_letter_limit", too_many_keys);
}
