//! Outbox rows and logical messages become events: routed, in commit order, with key, payload and headers; and never
//! anywhere a row should not reach.

use anyhow::{Result, ensure};

use crate::harness::decode::{Decoder, text};
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::kafka::Raw;

const TABLES: &str = "
create table item (id int primary key, name text);
create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text not null,
  type text not null, payload jsonb, tenant text);
";

fn config(test: &Fixture, payload: &str) -> Config {
    let headers = toml::Table::from_iter([("tenant".to_owned(), "tenant".into())]);
    let table = toml::Table::from_iter([
        ("table".to_owned(), "public.outbox".into()),
        ("payload".to_owned(), payload.into()),
        ("headers".to_owned(), headers.into()),
        ("topic".to_owned(), format!("outbox.{}.${{aggregatetype}}", test.prefix()).into()),
        ("aggregatetypes".to_owned(), toml::Value::Array(vec!["order".into(), "cust*".into()])),
    ]);
    test.config()
        .push("outbox", table)
        .set("outbox_messages.payload", payload)
        .set("outbox_messages.topic", format!("outbox.{}.${{aggregatetype}}", test.prefix()))
}

fn event(kind: &str, aggregate: &str, number: i32) -> String {
    format!(
        "insert into outbox (aggregatetype, aggregateid, type, payload, tenant)
         values ('{kind}', '{aggregate}', 'Changed', jsonb_build_object('n', {number}, 'text', 'ü \"quoted\"'), 'acme')"
    )
}

async fn write_events(test: &Fixture) -> Result<()> {
    let statements = [
        event("order", "o-1", 1),
        event("customer", "c-1", 2),
        "update outbox set type = 'Later'".to_owned(),
        // With the row it is about, and deleted at once with the others: the inserts are what counts.
        format!("begin; insert into item values (1, 'one'); {}; delete from outbox; commit", event("order", "o-1", 3)),
        format!("begin; {}; rollback", event("order", "o-1", 99)),
        // The same without a table.
        r#"select pg_logical_emit_message(true, 'outbox.order', '{"id": "m-1", "aggregateid": "o-1", "type": "Said",
           "payload": {"n": 4}, "headers": {"tenant": "acme"}}')"#
            .to_owned(),
        "select pg_logical_emit_message(true, 'audit.order', 'not ours')".to_owned(),
        event("order", "o-1", 5),
    ];
    for statement in statements {
        test.database.execute(&statement).await?;
    }
    Ok(())
}

fn number(payload: &str) -> Result<i64> {
    let json: serde_json::Value = serde_json::from_str(payload)?;
    json["n"].as_i64().ok_or_else(|| anyhow::anyhow!("no n in {payload}"))
}

fn check_headers(order: &[Raw]) -> Result<()> {
    for record in order {
        ensure!(record.header("headwater.id").is_some(), "no headwater.id");
        ensure!(record.header("tenant").as_deref() == Some("acme"), "headers {:?}", record.headers);
        let id = record.header("id").unwrap_or_default();
        ensure!(id == "m-1" || id.len() == 36, "header id is {id}");
    }
    let types: Vec<_> = order.iter().map(|record| record.header("eventType").unwrap_or_default()).collect();
    ensure!(types == ["Changed", "Changed", "Said", "Changed"], "event types {types:?}");
    Ok(())
}

async fn routed(test: &mut Fixture, payload: &str) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    test.database.execute("alter publication captured add table outbox").await?;
    let mut headwater = test.spawn(config(test, payload).set("topics.partitions", 1))?;
    headwater.streaming().await?;
    write_events(test).await?;
    test.settle().await?;
    let skipped = headwater.metric("headwater_skipped_total", &["outbox"]).unwrap_or(0.0);
    ensure!(skipped == 5.0, "{skipped} updates and deletes were counted as skipped");
    headwater.stop().await?;
    let order = test.raw_topic(&format!("outbox.{}.order", test.prefix()))?;
    let customer = test.raw_topic(&format!("outbox.{}.customer", test.prefix()))?;
    ensure!(order.len() == 4 && customer.len() == 1, "{} and {} events", order.len(), customer.len());
    ensure!(test.raw_topic(&test.topic("public.outbox"))?.is_empty(), "outbox rows in the table's own topic");
    ensure!(test.raw_topic(&test.topic("public.item"))?.len() == 1, "the row beside the event is missing");
    check_headers(&order)?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    let mut numbers = Vec::new();
    for record in &order {
        let (key, value) =
            (record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default());
        let (key, value) = if payload == "raw" {
            (String::from_utf8(key.to_vec())?, String::from_utf8(value.to_vec())?)
        } else {
            tokio::task::block_in_place(|| {
                anyhow::Ok((text(decoder.decode(key)?.value())?, text(decoder.decode(value)?.value())?))
            })?
        };
        ensure!(key == "o-1", "key {key}");
        numbers.push(number(&value)?);
    }
    ensure!(numbers == [1, 3, 4, 5], "events out of order: {numbers:?}");
    Ok(())
}

/// A row names an aggregate type that was not allowed.
async fn topic_not_allowed(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    test.database.execute("alter publication captured add table outbox").await?;
    test.expect_complaint("outbox");
    let mut headwater = test.spawn(config(test, "avro"))?;
    headwater.streaming().await?;
    test.database.execute(&event("__consumer_offsets", "x", 1)).await?;
    headwater.exits_with(45).await
}

/// A message under our prefix that is not an event.
async fn message_that_is_no_event(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item"]).await?;
    test.expect_complaint("outbox");
    let mut headwater = test.spawn(config(test, "avro"))?;
    headwater.streaming().await?;
    test.database.execute("select pg_logical_emit_message(true, 'outbox.order', 'not json')").await?;
    headwater.exits_with(45).await
}

#[test]
fn routes_rows_and_messages_as_avro() {
    on_shared("outbox_avro", async |test| routed(test, "avro").await);
}

#[test]
fn routes_rows_and_messages_raw() {
    on_shared("outbox_raw", async |test| routed(test, "raw").await);
}

#[test]
fn row_cannot_choose_any_topic() {
    on_shared("outbox_topic", topic_not_allowed);
}

#[test]
fn message_that_is_no_event_halts() {
    on_shared("outbox_message", message_that_is_no_event);
}
