//! W3C trace context in headers: from a column, from a logical message, of outbox events; and what is no trace context.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::kafka::Raw;

/// A traceparent that ends in this number.
fn parent(number: u8) -> String {
    format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902{number:02x}-01")
}

const TABLES: &str = "
create table item (id int primary key, trace text, state text, name text);
create table plain (id int primary key);
create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text not null,
  type text not null, payload jsonb, tracingspancontext text);
";

fn headers(record: &Raw) -> (Option<String>, Option<String>) {
    (record.header("traceparent"), record.header("tracestate"))
}

/// A record: its key, its operation (`-` for a tombstone), and its two headers.
type Found = (i64, String, Option<String>, Option<String>);

/// Each record of a table.
fn found(test: &Fixture, table: &str) -> Result<Vec<Found>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let records = test.raw_topic(&test.topic(table))?;
    records
        .iter()
        .map(|record| {
            let key = decoder.json(record.key.as_deref())?["id"].as_i64().context("no id")?;
            let value = decoder.json(record.value.as_deref())?;
            ensure!(value["after"]["trace"].is_null(), "the column is in the value: {value}");
            let (parent, state) = headers(record);
            Ok((key, value["op"].as_str().unwrap_or("-").to_owned(), parent, state))
        })
        .collect()
}

async fn trace_context(test: &mut Fixture) -> Result<()> {
    test.capture(TABLES, &["public.item", "public.plain", "public.outbox"]).await?;
    test.expect_complaint("what should be a traceparent is none");
    let exclude = toml::Value::Array(vec!["trace".into(), "state".into()]);
    let outbox = [
        ("table", "public.outbox".to_owned()),
        ("topic", format!("{}.${{aggregatetype}}", test.prefix())),
        ("traceparent_column", "tracingspancontext".to_owned()),
    ];
    let config = test
        .config()
        .set("topics.partitions", 1)
        .set("records.columns_exclude", exclude)
        .set("records.traceparent_column", "trace")
        .set("records.tracestate_column", "state")
        .set("messages.traceparent_prefix", "trace")
        .set("messages.include", "*")
        .set("outbox_messages.topic", format!("{}.${{aggregatetype}}", test.prefix()))
        .push("outbox", outbox.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect());
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    let message = |content: &str| format!("select pg_logical_emit_message(true, 'trace', '{content}')");
    let event = |column: &str| {
        format!(
            "insert into outbox (aggregatetype, aggregateid, type, tracingspancontext) values ('order', 'o', 'New', {column})"
        )
    };
    let statements = [
        // From the column; NULL has none, and what is none is not sent on.
        format!("insert into item values (1, '{}', 'v=1'), (2, '{}', null), (3, null, null)", parent(1), parent(2)),
        "insert into item values (4, 'not a trace context')".to_owned(),
        format!("update item set trace = '{}', state = 'not a state' where id = 1", parent(3)),
        // A changed key: the new row tells; the deletes don't know.
        format!("update item set id = 10, trace = '{}', state = null where id = 1", parent(4)),
        "delete from item where id = 2".to_owned(),
        // From a message: what follows it, what has none of its own, until the next one; and only in its transaction.
        format!(
            "begin; insert into plain values (1); {}; insert into plain values (2); insert into item values (5, null), (6, '{}');
             delete from item where id = 3; {}; insert into plain values (3); {}; insert into plain values (4); commit",
            message(&parent(5)), parent(6), message(&format!("traceparent={}\ntracestate=v\\=2", parent(7))), message("nonsense")
        ),
        "insert into plain values (5)".to_owned(),
        format!("begin; {}; rollback", message(&parent(8))),
        format!("select pg_logical_emit_message(false, 'trace', '{}')", parent(8)),
        "insert into plain values (6)".to_owned(),
        // Of events: Debezium's column has java.util.Properties; the message holds for the others.
        event(&format!("'#Mon Nov 03 10:00:00 UTC 2025\ntraceparent={}'", parent(9))),
        format!("begin; {}; {}; commit", message(&parent(10)), event("null")),
        format!(
            r#"begin; {}; select pg_logical_emit_message(true, 'outbox.order', '{{"id": "m", "aggregateid": "o", "type": "Said"}}');
               select pg_logical_emit_message(true, 'outbox.order', '{{"id": "m", "aggregateid": "o", "type": "Said", "headers": {{"traceparent": "own"}}}}'); commit"#,
            message(&parent(11))
        ),
    ];
    for statement in &statements {
        test.database.execute(statement).await?;
    }
    test.settle().await?;
    headwater.metric_until("headwater_malformed_traces_total", &["public.item"], |n| n == 1.0).await?;
    headwater.metric_until("headwater_malformed_traces_total", &["\"message\""], |n| n == 2.0).await?;
    headwater.stop().await?;

    let row = |key: i64, op: &str, parent: Option<String>, state: Option<&str>| {
        (key, op.to_owned(), parent, state.map(str::to_owned))
    };
    let expected = vec![
        row(1, "c", Some(parent(1)), Some("v=1")),
        row(2, "c", Some(parent(2)), None),
        row(3, "c", None, None),
        row(4, "c", None, None),
        row(1, "u", Some(parent(3)), None),
        row(1, "d", None, None),
        row(1, "-", None, None),
        row(10, "c", Some(parent(4)), None),
        row(2, "d", None, None),
        row(2, "-", None, None),
        row(5, "c", Some(parent(5)), None),
        row(6, "c", Some(parent(6)), None),
        row(3, "d", Some(parent(5)), None),
        row(3, "-", Some(parent(5)), None),
    ];
    let items = found(test, "public.item")?;
    ensure!(items == expected, "item: {items:#?}");
    let expected = vec![
        row(1, "c", None, None),
        row(2, "c", Some(parent(5)), None),
        row(3, "c", Some(parent(7)), Some("v=2")),
        row(4, "c", None, None),
        row(5, "c", None, None),
        row(6, "c", None, None),
    ];
    let plain = found(test, "public.plain")?;
    ensure!(plain == expected, "plain: {plain:#?}");
    let events = test.raw_topic(&format!("{}.order", test.prefix()))?;
    let traces: Vec<_> = events.iter().map(|record| record.header("traceparent")).collect();
    let expected = [Some(parent(9)), Some(parent(10)), Some(parent(11)), Some("own".to_owned())];
    ensure!(traces == expected, "events: {traces:?}");
    // None has two.
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for record in test.raw_records()? {
        let count = record.headers.iter().filter(|(name, _)| name == "traceparent").count();
        *counts.entry(count).or_default() += 1;
    }
    ensure!(counts.keys().all(|count| *count < 2), "{counts:?}");
    // The messages themselves are no records, though all others would be.
    ensure!(test.raw_topic(&format!("{}.message", test.prefix()))?.is_empty(), "a trace context is a record");
    Ok(())
}

/// A mask hides a column wherever it shows, and a header shows it.
async fn masked(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, trace text)", &["public.item"]).await?;
    test.expect_complaint("masked");
    let masks = toml::Table::from_iter([("trace".to_owned(), "fixed:x".into())]);
    let config = test.config().set("records.traceparent_column", "trace").set("records.masks", masks);
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.database.execute(&format!("insert into item values (1, '{}')", parent(1))).await?;
    headwater.exits_with(46).await
}

#[test]
fn trace_context_in_headers() {
    on_shared("trace_context", trace_context);
}

#[test]
fn a_masked_trace_context_is_refused() {
    on_shared("trace_masked", masked);
}
