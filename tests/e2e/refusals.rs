//! What can't work is said at the start, with the key or the SQL that mends it, and a documented exit code.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;

/// It ends with this code, and its output has all the words.
async fn refused(test: &mut Fixture, config: Config, code: i32, words: &[&str]) -> Result<()> {
    test.expect_complaint("");
    let mut headwater = test.spawn(config)?;
    headwater.exits_with(code).await?;
    let log = headwater.log_text();
    for word in words {
        ensure!(log.contains(word), "'{word}' is not in what it says:\n{}", headwater.log_tail());
    }
    Ok(())
}

async fn publication_missing(test: &mut Fixture) -> Result<()> {
    test.database.execute("create table item (id int primary key)").await?;
    refused(test, test.config(), 22, &["captured"]).await?;
    ensure!(
        test.database.confirmed().await?.is_none(),
        "a slot was made for a publication that does not exist"
    );
    Ok(())
}

async fn role_without_rights(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    let role = format!("poor_{}", test.prefix());
    test.database.execute(&format!("create role {role} login")).await?;
    let url = test.database.url().replace("postgres@", &format!("{role}@"));
    refused(test, test.config().set("postgres.url", url), 20, &[&role]).await?;
    test.database.execute(&format!("drop role {role}")).await
}

/// REPLICATION is all that streaming needs.
async fn role_with_just_enough_rights(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, v text)", &["public.item"]).await?;
    let role = format!("enough_{}", test.prefix());
    test.database.execute(&format!("create role {role} login replication")).await?;
    let url = test.database.url().replace("postgres@", &format!("{role}@"));
    let mut headwater = test.start(test.config().set("postgres.url", url)).await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(crate::harness::checker::Repeats::None).await?;
    test.database.execute(&format!("drop role {role}")).await
}

async fn wrong_configurations(test: &mut Fixture) -> Result<()> {
    let base = test.config();
    refused(
        test,
        base.clone().set("postgres.pubblication", "x"),
        2,
        &["postgres.pubblication", "headwater-"],
    )
    .await?;
    refused(
        test,
        base.clone().set("pipeline.max_in_flight_bytes", "32 parsecs"),
        2,
        &["max_in_flight_bytes"],
    )
    .await?;
    refused(test, base.clone().set("pipeline.shutdown_timeout", 8), 2, &["shutdown_timeout"]).await?;
    let acks = toml::Table::from_iter([("acks".to_owned(), "1".into())]);
    refused(test, base.clone().set("kafka.properties", acks), 2, &["acks"]).await?;
    refused(test, base.clone().set("sink.type", "kafkaesque"), 2, &["sink.type"]).await?;
    // Several at once, each named.
    let several =
        base.set("topics.partitions", 0).set("postgres.slot", "Not A Slot").set("topics.prefix", "a b");
    refused(test, several, 2, &["topics.partitions", "postgres.slot", "topics.prefix"]).await
}

async fn environment_overrides(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    let config = test.config().set("postgres.slot", "overridden");
    let slot = test.database.slot();
    let mut headwater = test.spawn_with(
        config,
        &[("HEADWATER_POSTGRES__SLOT", &slot), ("HEADWATER_KAFKA__PROPERTIES__LINGER_MS", "1")],
    )?;
    headwater.streaming().await?;
    ensure!(test.database.confirmed().await?.is_some(), "the environment did not choose the slot");
    headwater.stop().await
}

async fn topic_missing(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key)", &["public.item"]).await?;
    test.expect_complaint("");
    let mut headwater = test.start(test.config().set("topics.create", false)).await?;
    test.database.execute("insert into item values (1)").await?;
    headwater.exits_with(51).await?;
    let topic = test.topic("public.item");
    ensure!(
        headwater.log_text().contains(&topic),
        "the halt does not name {topic}:\n{}",
        headwater.log_tail()
    );
    Ok(())
}

#[test]
fn publication_that_does_not_exist() {
    on_shared("refuse_publication", publication_missing);
}

#[test]
fn role_that_may_not_replicate() {
    on_shared("refuse_role", role_without_rights);
}

#[test]
fn role_that_may_only_replicate_is_enough() {
    on_shared("accept_role", role_with_just_enough_rights);
}

#[test]
fn configurations_that_are_wrong() {
    on_shared("refuse_config", wrong_configurations);
}

#[test]
fn environment_comes_before_the_file() {
    on_shared("environment", environment_overrides);
}

#[test]
fn topics_that_may_not_be_created() {
    on_shared("refuse_topic", topic_missing);
}
