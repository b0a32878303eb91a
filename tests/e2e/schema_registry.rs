//! What the registry has to say of a change: refusals halt or are let through, table by table; registering can be
//! forbidden; subjects follow Confluent's strategies.

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::http;

fn get(test: &Fixture, path: &str) -> Result<http::Response> {
    http::get(&format!("{}/{path}", test.kafka.registry)).with_context(|| path.to_owned())
}

fn send(test: &Fixture, method: &str, path: &str, body: &str) -> Result<()> {
    let response = http::request(method, &format!("{}/{path}", test.kafka.registry), Some(body))?;
    ensure!(response.status == 200, "{method} {path}: {} {}", response.status, response.body);
    Ok(())
}

/// The first schema makes the subject; then its level is its own.
fn backward(test: &Fixture, subject: &str) -> Result<()> {
    send(test, "PUT", &format!("config/{subject}"), r#"{"compatibility": "BACKWARD"}"#)
}

async fn refusals(test: &mut Fixture) -> Result<()> {
    let tables =
        "create table loose (id int primary key, v int); create table strict (id int primary key, v int)";
    test.capture(tables, &["public.loose", "public.strict"]).await?;
    test.expect_complaint("compatibility_set_to_none");
    test.expect_complaint("refuses the schema");
    let mut exception = toml::Table::new();
    exception.insert("tables".to_owned(), "public.loose".into());
    exception.insert("on_incompatible".to_owned(), "set_compatibility_none".into());
    let config = test.config().push("table", exception);
    let mut headwater = test.start(config.clone()).await?;
    test.database.execute("insert into loose values (1, 1); insert into strict values (1, 1)").await?;
    test.settle().await?;
    let (loose, strict) =
        (format!("{}-value", test.topic("public.loose")), format!("{}-value", test.topic("public.strict")));
    backward(test, &loose)?;
    backward(test, &strict)?;
    test.database
        .execute("begin; insert into loose values (2, 2); alter table loose alter v type text; insert into loose values (3, 'three'); commit")
        .await?;
    test.settle().await?;
    let warning =
        headwater.log_line(&["compatibility_set_to_none", &loose, "public.loose", "BACKWARD"]).await?;
    ensure!(warning.contains("WARN"), "{warning}");
    let level = get(test, &format!("config/{loose}"))?.body;
    ensure!(level.contains("NONE"), "the level of {loose} is {level}");
    test.database
        .execute("begin; insert into strict values (2, 2); alter table strict alter v type text; insert into strict values (3, 'three'); commit")
        .await?;
    headwater.exits_with(40).await?;
    let log = headwater.log_text();
    for words in ["public.strict", strict.as_str(), "on_incompatible", "incompatible"] {
        ensure!(log.contains(words), "the halt does not say {words}: {}", headwater.log_tail());
    }
    let level = get(test, &format!("config/{strict}"))?.body;
    ensure!(level.contains("BACKWARD"), "the level of {strict} is {level}");
    // As the advice says.
    send(test, "PUT", &format!("config/{strict}"), r#"{"compatibility": "NONE"}"#)?;
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

/// Topics beside those of tables go by what is said for all tables, those of an outbox by what is said for it.
async fn refusals_beside_tables(test: &mut Fixture) -> Result<()> {
    test.capture(
        "create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null,
           aggregateid text not null, type text not null, payload jsonb)",
        &["public.outbox"],
    )
    .await?;
    test.expect_complaint("compatibility_set_to_none");
    test.expect_complaint("refuses the schema");
    let outbox = toml::Table::from_iter([
        ("table".to_owned(), "public.outbox".into()),
        ("topic".to_owned(), format!("{}.event.${{aggregatetype}}", test.prefix()).into()),
    ]);
    let config =
        test.config().set("messages.include", "*").set("transactions.metadata", true).push("outbox", outbox);
    // Somebody else's schema is there already, and nothing may differ from it.
    let prefix = test.prefix().to_owned();
    let subjects =
        ["message-value", "transaction-value", "event.order-value"].map(|name| format!("{prefix}.{name}"));
    for subject in &subjects {
        send(test, "POST", &format!("subjects/{subject}/versions"), r#"{"schema": "\"int\""}"#)?;
        backward(test, subject)?;
    }
    let writes = [
        "select pg_logical_emit_message(false, 'note', 'one')",
        "select pg_logical_emit_message(true, 'note', 'two')",
        "insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', '1', 'Made', '{}')",
    ];
    for (write, subject) in writes.into_iter().zip(&subjects) {
        let mut headwater = test.start(config.clone()).await?;
        test.database.execute(write).await?;
        headwater.exits_with(40).await?;
        let log = headwater.log_text();
        for words in [subject.as_str(), "on_incompatible", "incompatible"] {
            ensure!(log.contains(words), "the halt does not say {words}: {}", headwater.log_tail());
        }
        let let_through = config.clone().set("records.on_incompatible", "set_compatibility_none");
        let mut headwater = test.start(let_through).await?;
        headwater.log_line(&["compatibility_set_to_none", subject, "BACKWARD"]).await?;
        test.settle().await?;
        headwater.stop().await?;
    }
    Ok(())
}

/// What `schema show --request` prints is what a person sends.
fn register(test: &Fixture, config: &Config, table: &str, part: &str) -> Result<()> {
    let output = test.command(&["schema", "show", table, "--request", part], config)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let subject = format!("{}-{part}", test.topic(table));
    send(test, "POST", &format!("subjects/{subject}/versions"), &String::from_utf8(output.stdout)?)
}

async fn nothing_may_be_registered(test: &mut Fixture) -> Result<()> {
    let tables = "create table item (id int primary key, name text); create table twin (id int primary key, at timestamp(3))";
    test.capture(tables, &["public.item", "public.twin"]).await?;
    test.expect_complaint("auto_register is false");
    let config = test.config().set("schema_registry.auto_register", false);
    let mut headwater = test.spawn(config.clone())?;
    headwater.exits_with(40).await?;
    let log = headwater.log_text();
    let topic = test.topic("public.item");
    for words in [
        format!("{topic}-key"),
        format!("{topic}-value"),
        "schema show public.item --request value".to_owned(),
    ] {
        ensure!(log.contains(&words), "the halt does not say {words}: {}", headwater.log_tail());
    }
    let check = test.command(&["check"], &config)?;
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    ensure!(!check.status.success() && text.contains("--request key"), "check says {text}");
    for (table, part) in [("public.item", "key"), ("public.item", "value"), ("public.twin", "key")] {
        register(test, &config, table, part)?;
    }
    // Somebody's own spelling of the same: documented, without an order of its own.
    let shown = test.command(&["schema", "show", "public.twin"], &config)?.stdout;
    let mut schema = serde_json::from_slice::<Json>(&shown)?["value"]["schema"].take();
    schema["doc"] = "ours".into();
    schema["fields"][4]["doc"] = "c, u or d".into();
    let twin = format!("{}-value", test.topic("public.twin"));
    let body = serde_json::json!({ "schema": schema.to_string() }).to_string();
    send(test, "POST", &format!("subjects/{twin}/versions"), &body)?;
    let check = test.command(&["check"], &config)?;
    ensure!(
        String::from_utf8_lossy(&check.stdout).contains("of every published table"),
        "check is not content"
    );
    let mut headwater = test.start(config.clone()).await?;
    test.database
        .execute("insert into item values (1, 'one'); insert into twin values (1, '2026-01-02 03:04:05.678')")
        .await?;
    test.settle().await?;
    let versions = get(test, &format!("subjects/{twin}/versions"))?.body;
    ensure!(versions == "[1]", "{twin} has the versions {versions}");
    // A change is not registered either, and comes through once a person has done so.
    test.database.execute("insert into item values (2, 'two'); alter table item add column price int; insert into item values (3, 'three', 3)").await?;
    headwater.exits_with(40).await?;
    ensure!(
        headwater.log_text().contains("price"),
        "the halt does not name the field: {}",
        headwater.log_tail()
    );
    register(test, &config, "public.item", "value")?;
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

async fn strategies(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let config = test
        .config()
        .set("schema_registry.key_subject_strategy", "record_name")
        .set("schema_registry.value_subject_strategy", "topic_record_name");
    let mut headwater = test.start(config).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let topic = test.topic("public.item");
    for (subject, status) in [
        (format!("{topic}.Key"), 200),
        (format!("{topic}-{topic}.Envelope"), 200),
        (format!("{topic}-key"), 404),
        (format!("{topic}-value"), 404),
    ] {
        let response = get(test, &format!("subjects/{subject}/versions"))?;
        ensure!(response.status == status, "{subject}: {} {}", response.status, response.body);
    }
    test.check(Repeats::None).await.map(drop)
}

#[test]
fn a_refused_schema_halts_or_is_let_through() {
    on_shared("registry_policies", refusals);
}

#[test]
fn a_refused_schema_beside_tables_halts_or_is_let_through() {
    on_shared("registry_beside", refusals_beside_tables);
}

#[test]
fn registering_can_be_forbidden() {
    on_shared("registry_forbidden", nothing_may_be_registered);
}

#[test]
fn subjects_have_strategies() {
    on_shared("registry_subjects", strategies);
}
