//! When a copy is made and in which order, and when the first one leaves its transaction: its age, and the WAL that
//! its slot holds. A table that is rewritten between the slot and the lock looks empty to the slot's snapshot.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::joined;
use crate::harness::servers::{self, FaultKafka, PrivatePostgres};
use crate::harness::snapshots::{CHUNK_WAITS, Gate, ROWS, complete, gated, initial, prepare, status};
use crate::harness::traffic::Traffic;
use crate::harness::until;

fn mode(test: &Fixture, mode: &str) -> Config {
    initial(test).set("snapshot.mode", mode)
}

/// At each start, with the conditions of the configuration.
async fn always(test: &mut Fixture) -> Result<()> {
    prepare(test, 1000).await?;
    let wheres = toml::Table::from_iter([("public.items".to_owned(), "id % 2 = 0".into())]);
    let config = mode(test, "always").set("snapshot.where", wheres);
    for start in 1..=3 {
        let mut headwater = test.spawn(config.clone())?;
        complete(&headwater).await?;
        test.database.execute("update items set version = nextval('versions') where id = 4").await?;
        test.settle().await?;
        headwater.stop().await?;
        let rows = format!("{ROWS} where id % 2 = 0");
        let found = joined::check(test, &test.topic("public.items"), &rows).await?;
        ensure!((found.read, found.streamed) == (start * 500, start), "start {start}: {found:?}");
    }
    Ok(())
}

/// The slot is gone, however that came about: the tables are copied again.
async fn when_needed(test: &mut Fixture, lost: bool) -> Result<()> {
    prepare(test, 1000).await?;
    test.expect_complaint("the slot is gone: creating it anew");
    test.expect_complaint("the slot is lost: dropping it");
    let config = mode(test, "when_needed");
    let mut headwater = test.spawn(config.clone())?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    headwater.stop().await?;
    if lost {
        lose_slot(test).await?
    } else {
        drop_slot(test).await?
    }
    test.database
        .execute(
            "update items set version = nextval('versions'), body = 'unheard' where id % 3 = 0;
             insert into items (id, version, body) select i, nextval('versions'), 'unseen' from generate_series(2001, 2100) i",
        )
        .await?;
    let traffic = Traffic::start(
        &test.database,
        2,
        &["update items set version = nextval('versions') where id = {id}"],
    );
    let mut headwater = test.spawn(config)?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    traffic.commits(20).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read == 2100, "{found:?}");
    Ok(())
}

async fn drop_slot(test: &Fixture) -> Result<()> {
    test.database.execute(&format!("select pg_drop_replication_slot('{}')", test.database.slot())).await
}

async fn keep_size(test: &Fixture, size: &str) -> Result<()> {
    for statement in
        [&format!("alter system set max_slot_wal_keep_size = '{size}'"), "select pg_reload_conf()"]
    {
        test.database.execute(statement).await?;
    }
    Ok(())
}

async fn write_wal(test: &Fixture) -> Result<()> {
    test.database
        .execute(
            "create table junk as select repeat('x', 100) from generate_series(1, 50000); drop table junk",
        )
        .await
}

async fn lose_slot(test: &Fixture) -> Result<()> {
    keep_size(test, "1MB").await?;
    let sql =
        format!("select wal_status from pg_replication_slots where slot_name = '{}'", test.database.slot());
    until(Duration::from_secs(60), "the slot to be lost", async || {
        write_wal(test).await?;
        for statement in ["select pg_switch_wal()", "checkpoint"] {
            test.database.execute(statement).await?;
        }
        Ok(test.database.value(&sql).await?.as_deref() == Some("lost"))
    })
    .await?;
    keep_size(test, "-1").await
}

/// Three tables, one after the other, of which the first waits at a gate.
async fn three_tables(test: &mut Fixture, config: Config) -> Result<(Headwater, Gate)> {
    prepare(test, 2000).await?;
    test.expect_complaint(CHUNK_WAITS);
    test.expect_complaint("the stream begins now");
    test.database
        .execute(
            "create table orders (like items including all); create table lines (like items including all);
             insert into orders (id, version) select i, nextval('versions') from generate_series(1, 2000) i;
             insert into lines (id, version) select i, nextval('versions') from generate_series(1, 2000) i;
             alter publication captured add table orders, lines",
        )
        .await?;
    let first = toml::Value::Array(vec!["public.items".into()]);
    let config = gated(config, 1, "id >= 100").set("snapshot.workers", 1).set("snapshot.order", first);
    let gate = Gate::closed(&test.database, 1).await?;
    let headwater = test.spawn(config)?;
    gate.reached().await?;
    Ok((headwater, gate))
}

/// What was begun under the slot's snapshot is finished, the rest is copied beside the stream.
async fn rest_is_beside(test: &Fixture, mut headwater: Headwater, gate: Gate) -> Result<()> {
    let statements = [
        "select churn(2000)",
        "update orders set version = nextval('versions') where id = {id}",
        "update lines set version = nextval('versions') where id = {id}",
    ];
    let traffic = Traffic::start(&test.database, 2, &statements);
    gate.open().await?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    traffic.commits(20).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    for (table, beside) in [("items", false), ("orders", true), ("lines", true)] {
        let rows = ROWS.replace("items", table);
        let found = joined::check(test, &test.topic(&format!("public.{table}")), &rows).await?;
        ensure!(found.marks.contains_key("incremental") == beside, "{table}: {found:?}");
    }
    Ok(())
}

async fn too_old(test: &mut Fixture) -> Result<()> {
    let config = initial(test).set("snapshot.max_transaction_age", "1s");
    let (headwater, gate) = three_tables(test, config).await?;
    headwater.log_line(&["more than snapshot.max_transaction_age", "the stream begins now"]).await?;
    ensure!(status(&headwater)?["transaction_age_seconds"].as_f64() > Some(1.0), "no age in the status");
    rest_is_beside(test, headwater, gate).await
}

async fn too_much_wal(test: &mut Fixture) -> Result<()> {
    keep_size(test, "128MB").await?;
    let config = initial(test);
    let (headwater, gate) = three_tables(test, config).await?;
    let sql = format!(
        "select safe_wal_size < 60 * 1024 * 1024 from pg_replication_slots where slot_name = '{}'",
        test.database.slot()
    );
    until(Duration::from_secs(60), "half of the WAL to be used up", async || {
        write_wal(test).await?;
        Ok(test.database.value(&sql).await?.as_deref() == Some("t"))
    })
    .await?;
    headwater.log_line(&["more than half of max_slot_wal_keep_size", "the stream begins now"]).await?;
    rest_is_beside(test, headwater, gate).await?;
    keep_size(test, "-1").await
}

/// Kafka holds up the start after the slot was made and before the tables are locked.
async fn rewritten_before_the_lock(test: &mut Fixture, broker: &FaultKafka) -> Result<()> {
    for words in
        ["was rewritten since the slot was created", "creating the slot waits", "\"target\":\"librdkafka\""]
    {
        test.expect_complaint(words);
    }
    test.expect_complaint("waiting for the sink");
    prepare(test, 3000).await?;
    let blocker = test.database.connect().await?;
    blocker.batch_execute("begin; select pg_current_xact_id()").await?;
    let mut headwater = test.spawn(initial(test))?;
    let slot = format!("select 1 from pg_replication_slots where slot_name = '{}'", test.database.slot());
    until(Duration::from_secs(60), "the slot to be begun", async || {
        Ok(test.database.value(&slot).await?.is_some())
    })
    .await?;
    broker.freeze()?;
    blocker.batch_execute("commit").await?;
    until(Duration::from_secs(60), "the slot to be made", async || {
        Ok(test.database.confirmed().await?.is_some())
    })
    .await?;
    test.database.execute("vacuum full items").await?;
    let traffic = Traffic::start(&test.database, 2, &["select churn(3000)"]);
    broker.thaw()?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    ensure!(!headwater.log_lines(&["was rewritten since"]).is_empty(), "the rewrite came too late");
    traffic.commits(20).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.read > 2500, "{found:?}");
    Ok(())
}

async fn outbox(test: &mut Fixture, routed: bool) -> Result<()> {
    test.database
        .execute(
            "create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null,
               aggregateid text not null, type text not null, payload jsonb);
             insert into outbox (aggregatetype, aggregateid, type, payload) values
               ('order', 'a', 'Made', '{}'), ('order', 'b', 'Made', '{}'), ('order', 'c', 'Made', '{}');
             create table items (id int primary key); insert into items values (1);
             create publication captured for table outbox, items",
        )
        .await?;
    let topic = format!("outbox.{}.order", test.prefix());
    let table = toml::Table::from_iter([
        ("table".to_owned(), "public.outbox".into()),
        ("topic".to_owned(), format!("outbox.{}.${{aggregatetype}}", test.prefix()).into()),
        ("aggregatetypes".to_owned(), toml::Value::Array(vec!["order".into()])),
        ("snapshot".to_owned(), routed.into()),
    ]);
    let mut headwater = test.spawn(initial(test).push("outbox", table))?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    test.database
        .execute("insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', 'd', 'Made', '{}')")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    let events = test.raw_topic(&topic)?.len();
    ensure!(events == if routed { 4 } else { 1 }, "{events} events");
    ensure!(
        test.raw_topic(&test.topic("public.outbox")).map_or(0, |records| records.len()) == 0,
        "rows of the outbox"
    );
    ensure!(test.raw_topic(&test.topic("public.items"))?.len() == 1, "rows of another table");
    Ok(())
}

/// Tables come in the order that is configured, others behind them.
async fn in_order(test: &mut Fixture) -> Result<()> {
    for table in ["a1", "a2", "b1", "z1"] {
        let sql = format!("create table {table} (id int primary key); insert into {table} values (1), (2)");
        test.database.execute(&sql).await?;
    }
    test.database.execute("create publication captured for table a1, a2, b1, z1").await?;
    let order = toml::Value::Array(vec!["public.z*".into(), "public.b1".into()]);
    let config = mode(test, "only")
        .set("snapshot.order", order)
        .set("snapshot.workers", 1)
        .set("topics.partitions", 1);
    let mut headwater = test.spawn(config)?;
    headwater.exits_with(0).await?;
    let copied: Vec<String> = headwater.log_lines(&["\"copied\""]);
    let place = |table: &str| copied.iter().position(|line| line.contains(&format!("public.{table}\"")));
    let places = ["z1", "b1", "a1", "a2"].map(place);
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {copied:#?}");
    let mut decoder = Decoder::new(&test.kafka.registry);
    for (table, mark) in [("z1", "first"), ("a2", "last")] {
        let mut found = false;
        for record in test.raw_topic(&test.topic(&format!("public.{table}")))? {
            found |= decoder.json(record.value.as_deref())?["source"]["snapshot"] == mark;
        }
        ensure!(found, "{table} has no record marked {mark}");
    }
    Ok(())
}

#[test]
fn always_copies_at_each_start() {
    on_shared("mode_always", always);
}

#[test]
fn when_needed_after_the_slot_was_dropped() {
    on_shared("mode_needed", async |test| when_needed(test, false).await);
}

#[test]
fn wal_is_limited_and_lost() {
    let server = PrivatePostgres::start("mode_wal", 16).expect("start a Postgres of its own");
    on("mode_wal", Ok(server.postgres.clone()), servers::kafka(), too_much_wal);
    on("mode_lost", Ok(server.postgres.clone()), servers::kafka(), async |test| {
        when_needed(test, true).await
    });
}

#[test]
fn an_old_transaction_is_left() {
    on_shared("mode_old", too_old);
}

#[test]
fn a_table_rewritten_before_it_is_locked() {
    let broker = FaultKafka::take().expect("start the second Kafka");
    let kafka = Ok(broker.kafka.clone());
    on("mode_rewritten", servers::postgres(16), kafka, async |test| {
        rewritten_before_the_lock(test, &broker).await
    });
}

#[test]
fn an_outbox_is_routed() {
    on_shared("mode_outbox", async |test| outbox(test, true).await);
}

#[test]
fn an_outbox_is_left_out() {
    on_shared("mode_no_outbox", async |test| outbox(test, false).await);
}

#[test]
fn order_of_tables() {
    on_shared("mode_order", in_order);
}
