//! Outbox events handled by a statement of one's own: once per id, in the transaction of the offset, answered.

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::replica::Replica;

const OUTBOX: &str = "create table item (id int primary key);
create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text not null,
  type text not null, payload jsonb)";

/// Counts what it is given; refuses what is negative.
const SHOP: &str = "create schema shop;
create table shop.stock (article text primary key, quantity int, calls int not null default 1);
create function shop.apply(event jsonb, envelope jsonb) returns void language plpgsql as $$
begin
  if (event->>'quantity')::int < 0 then raise exception 'there is no negative stock'; end if;
  insert into shop.stock as s values (envelope->>'key', (event->>'quantity')::int)
  on conflict (article) do update set quantity = excluded.quantity, calls = s.calls + 1;
end $$";

fn source(test: &Fixture) -> Config {
    let table = toml::Table::from_iter([
        ("table".to_owned(), "public.outbox".into()),
        ("topic".to_owned(), format!("outbox.{}.${{aggregatetype}}", test.prefix()).into()),
    ]);
    test.config().push("outbox", table)
}

fn target(test: &Fixture, replica: &Replica, format: &str) -> Config {
    let handlers = toml::Table::from_iter([("Changed".to_owned(), "select shop.apply($1, $2)".into())]);
    replica
        .config(test, &["public.item"])
        .set("apply.event_topics", format!("outbox.{}.*", test.prefix()))
        .set("apply.on_event", handlers)
        .set("apply.feedback_topic", format!("feedback.{}", test.prefix()))
        .set("apply.feedback_format", format)
}

/// What `check_answers` looks at, whatever the format.
fn answer(test: &Fixture, value: &[u8]) -> Result<Json> {
    if value.first() == Some(&b'{') {
        return Ok(serde_json::from_slice(value)?);
    }
    Decoder::new(&test.kafka.registry).json(Some(value))
}

fn event(article: &str, quantity: i32) -> String {
    format!(
        "insert into outbox (aggregatetype, aggregateid, type, payload)
         values ('stock', '{article}', 'Changed', jsonb_build_object('quantity', {quantity}))"
    )
}

async fn handled(test: &mut Fixture, format: &str) -> Result<()> {
    test.capture(OUTBOX, &["public.item"]).await?;
    test.database.execute("alter publication captured add table outbox").await?;
    let mut headwater = test.start(source(test)).await?;
    let replica = Replica::create(test).await?;
    replica.database.execute(SHOP).await?;
    for (article, quantity) in [("a", 1), ("b", 2), ("c", -1), ("a", 3)] {
        test.database.execute(&event(article, quantity)).await?;
    }
    test.database
        .execute("insert into outbox (aggregatetype, aggregateid, type) values ('stock', 'z', 'NobodyCares')")
        .await?;
    let mut apply = replica.start(test, target(test, &replica, format)).await?;
    apply.metric_until("headwater_apply_events_total", &["outcome=\"success\""], |n| n == 3.0).await?;
    apply.metric_until("headwater_apply_events_total", &["outcome=\"failed\""], |n| n == 1.0).await?;
    let stock =
        "select string_agg(article || quantity || 'x' || calls, ' ' order by article) from shop.stock";
    ensure!(replica.database.value(stock).await?.as_deref() == Some("a3x2 b2x1"), "the stock is wrong");
    apply.kill()?;
    // The same records once more: no call is made again, but the failed one gets another chance.
    replica
        .database
        .execute(
            "create or replace function shop.apply(event jsonb, envelope jsonb) returns void language sql as
      $$ insert into shop.stock values (envelope->>'key', (event->>'quantity')::int) $$",
        )
        .await?;
    let mut apply =
        test.spawn_command(&["apply", "--replay", "beginning"], target(test, &replica, format))?;
    apply.metric_until("headwater_apply_events_total", &["outcome=\"duplicate\""], |n| n == 3.0).await?;
    apply.metric_until("headwater_apply_events_total", &["outcome=\"success\""], |n| n == 1.0).await?;
    ensure!(replica.database.value(stock).await?.as_deref() == Some("a3x2 b2x1 c-1x1"), "the stock is wrong");
    apply.stop().await?;
    headwater.stop().await?;
    check_answers(test)
}

fn check_answers(test: &Fixture) -> Result<()> {
    let mut of_event: std::collections::BTreeMap<String, Vec<Json>> = std::collections::BTreeMap::new();
    for raw in test.raw_topic(&format!("feedback.{}", test.prefix()))? {
        let json = answer(test, raw.value.as_deref().context("a value")?)?;
        let key = String::from_utf8(raw.key.context("a key")?)?;
        ensure!(json["event_id"] == key.as_str() && json["attempt"] == 1 && !json["at"].is_null(), "{json}");
        of_event.entry(key).or_default().push(json);
    }
    ensure!(of_event.len() == 4, "{} events were answered", of_event.len());
    let failed: Vec<_> = of_event.values().filter(|answers| answers[0]["status"] == "FAILED").collect();
    ensure!(failed.len() == 1, "{failed:?}");
    let last = failed[0].last().context("an answer")?;
    ensure!(failed[0][0]["reason"] == "SQLSTATE P0001: there is no negative stock", "{failed:?}");
    ensure!(last["status"] == "SUCCESS", "the second attempt was not answered: {last}");
    Ok(())
}

#[test]
fn events_are_handled_once_and_answered() {
    on_shared("apply_events", async |test| handled(test, "json").await);
}

#[test]
fn answers_as_avro() {
    on_shared("apply_events_avro", async |test| handled(test, "avro").await);
}
