//! What `headwater apply` does when something is wrong: records that can't be applied, a database that is away, another
//! source, tables that don't fit.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::replica::Replica;
use crate::harness::servers::{PrivatePostgres, Stop};

const ITEM: &str = "create table item (id int primary key, name text, note text)";

/// The replica's table refuses one row; the others, before and behind it, are many.
async fn with_a_refused_row(test: &mut Fixture) -> Result<Replica> {
    test.capture(ITEM, &["public.item"]).await?;
    let mut headwater = test.start(test.config().set("topics.partitions", 2)).await?;
    let replica = Replica::create(test).await?;
    replica
        .database
        .execute("create table item (id int primary key, name text check (name <> 'bad'), note text)")
        .await?;
    test.database
        .execute("insert into item select g, case g when 77 then 'bad' else 'n' || g end, 'x' from generate_series(1, 200) g")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    Ok(replica)
}

/// Nothing behind the record is applied, and the halt says where it is, but never what is in it.
async fn halts(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("halted: topic");
    let replica = with_a_refused_row(test).await?;
    let mut apply = test.spawn_command(&["apply"], replica.config(test, &["public.item"]))?;
    apply.exits_with(81).await?;
    let line = apply.log_line(&["halted", "table public.item", "23514"]).await?;
    ensure!(!line.contains("bad"), "a value is in the log: {line}");
    // The reason taken away, it goes on.
    replica.database.execute("alter table item drop constraint item_name_check").await?;
    let mut apply = replica.start(test, replica.config(test, &["public.item"])).await?;
    replica.equals(test, &["public.item"]).await?;
    apply.stop().await
}

async fn sets_aside(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("a record went to the dead letter topic");
    let replica = with_a_refused_row(test).await?;
    let config = replica.config(test, &["public.item"]).set("apply.on_poison", "dead_letter");
    let mut apply = replica.start(test, config).await?;
    apply.metric_until("headwater_apply_dead_letters_total", &[], |n| n == 1.0).await?;
    test.database.execute("delete from item where id = 77").await?;
    replica.equals(test, &["public.item"]).await?;
    apply.stop().await?;
    let topic = test.topic("public.item");
    let letters = test.raw_topic(&format!("{topic}.dead_letter"))?;
    ensure!(letters.len() == 1, "{} dead letters", letters.len());
    let letter = &letters[0];
    let original = test.raw_topic(&topic)?;
    let header = |name: &str| letter.header(&format!("headwater.dead_letter.{name}")).unwrap_or_default();
    let (partition, offset): (i32, i64) = (header("partition").parse()?, header("offset").parse()?);
    let original = original
        .iter()
        .find(|raw| raw.partition == partition && raw.offset == offset)
        .context("its original")?;
    ensure!((&letter.key, &letter.value) == (&original.key, &original.value), "key or value differ");
    ensure!(letter.headers.starts_with(&original.headers), "headers differ");
    ensure!(
        (header("stage"), header("table"), header("topic")) == ("apply".into(), "public.item".into(), topic)
    );
    ensure!(header("reason").contains("23514"), "reason {}", header("reason"));
    Ok(())
}

/// The database is stopped at once, twice, under load; nothing is lost, nothing is done twice.
async fn target_away(test: &mut Fixture) -> Result<()> {
    test.capture("create table counter (id int primary key, n bigint)", &["public.counter"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let private = PrivatePostgres::start("apply_target", 16)?;
    let replica = Replica::create_on(test, &private.postgres).await?;
    test.database.execute("insert into counter select g, 0 from generate_series(1, 50) g").await?;
    let mut apply = replica.start(test, replica.config(test, &["public.counter"])).await?;
    for round in 0..2 {
        test.database.execute("update counter set n = n + 1").await?;
        replica.equals(test, &["public.counter"]).await?;
        private.stop(if round == 0 { Stop::Immediate } else { Stop::Fast })?;
        test.database
            .execute("update counter set n = n + 1 where id % 2 = 0; delete from counter where id = 7")
            .await?;
        apply.says("waiting").await?;
        private.start_again()?;
        replica.equals(test, &["public.counter"]).await?;
    }
    apply.stop().await?;
    headwater.stop().await
}

/// A source that was made anew writes positions that lie before those that are applied.
async fn another_source(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("halted: topic");
    test.capture(ITEM, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    test.database.execute("insert into item values (1, 'one', '')").await?;
    let config = replica.config(test, &["public.item"]);
    let mut apply = replica.start(test, config.clone()).await?;
    replica.equals(test, &["public.item"]).await?;
    apply.stop().await?;
    // As if a source with higher positions had been applied, an hour ago.
    replica
        .database
        .execute(
            "update headwater.apply_offset set newest_lsn = 'FF/0',
               newest_micros = extract(epoch from now() - interval '1 hour') * 1000000;
             update item set _headwater_lsn = 'FF/0'",
        )
        .await?;
    test.database.execute("update item set name = 'two'").await?;
    test.settle().await?;
    headwater.stop().await?;
    let mut apply = test.spawn_command(&["apply"], config.clone())?;
    apply.exits_with(82).await?;
    // What the documentation says.
    replica
        .database
        .execute(
            "update item set _headwater_lsn = '0/0', _headwater_ordinal = 0; delete from headwater.apply_deleted;
             delete from headwater.apply_table; update headwater.apply_offset set newest_lsn = '0/0', newest_micros = 0",
        )
        .await?;
    let mut apply = replica.start(test, config).await?;
    replica.equals(test, &["public.item"]).await?;
    apply.stop().await
}

/// Columns come, tables are emptied, names differ; a table that may not be altered halts with the SQL.
async fn shapes(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("halted: table");
    test.capture(ITEM, &["public.item"]).await?;
    let mut headwater = test.start(test.config().set("records.truncate", "emit")).await?;
    let replica = Replica::create(test).await?;
    let rule = toml::Table::from_iter([
        ("topics".to_owned(), test.topic("public.item").into()),
        ("target".to_owned(), "shop.article".into()),
        ("exclude".to_owned(), "note".into()),
        ("renames".to_owned(), toml::Table::from_iter([("name".to_owned(), "title".into())]).into()),
    ]);
    let config = replica.config(test, &["public.item"]).push("apply_table", rule);
    test.database.execute("insert into item select g, 'n' || g, 'x' from generate_series(1, 20) g").await?;
    let mut apply = replica.start(test, config.clone()).await?;
    let rows = async |expected: &str, sql: &str| -> Result<()> {
        let mut seen = None;
        crate::harness::until(Duration::from_secs(60), expected, async || {
            let there =
                replica.database.value("select to_regclass('shop.article') is not null::bool").await?;
            if there.as_deref() == Some("t") {
                seen = replica.database.value(sql).await.ok().flatten();
            }
            Ok(seen.as_deref() == Some(expected))
        })
        .await
        .with_context(|| format!("{seen:?}"))
    };
    rows("20 n20", "select count(*) || ' ' || max(title) filter (where id = 20) from shop.article").await?;
    ensure!(!Replica::columns(&replica.database, "shop.article").await?.contains(&"note".to_owned()));
    test.database.execute("truncate item").await?;
    rows("0", "select count(*) from shop.article").await?;
    test.database
        .execute("alter table item add price numeric(10,2); insert into item values (1, 'a', 'b', 2.50)")
        .await?;
    rows("2.50", "select max(price) from shop.article").await?;
    apply.stop().await?;
    test.database
        .execute("alter table item add more text; insert into item values (2, 'a', 'b', 3, 'm')")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    let mut apply = test.spawn_command(&["apply"], config.set("apply.alter_tables", false))?;
    apply.exits_with(80).await?;
    apply
        .log_line(&["halted: table shop.article", "ADD COLUMN IF NOT EXISTS \\\"more\\\" text"])
        .await
        .map(drop)
}

/// Types that grew at the source grow in the replica. A column that may not grow takes what fits, exactly or not at all.
async fn types_grow(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("halted: topic");
    let table = "create table item (id int primary key, n smallint, price numeric(10,2), rate real)";
    test.capture(table, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    let replica = Replica::create(test).await?;
    let config = replica.config(test, &["public.item"]);
    test.database.execute("insert into item values (1, 1, 1.25, 0.5)").await?;
    let mut apply = replica.start(test, config.clone()).await?;
    replica.equals(test, &["public.item"]).await?;
    test.database
        .execute(
            "alter table item alter id type bigint, alter n type bigint, alter price type numeric(14,4), alter rate type float8;
             insert into item values (5000000000, 6000000000, 1234567890.1234, 1.0000000001);
             update item set n = 7000000000 where id = 1",
        )
        .await?;
    replica.equals(test, &["public.item"]).await?;
    let types = "select string_agg(format_type(atttypid, atttypmod), ' ' order by attnum) from pg_attribute
                 where attrelid = 'item'::regclass and attnum > 0 and attname !~ '^_'";
    let seen = replica.database.value(types).await?;
    ensure!(seen.as_deref() == Some("bigint bigint numeric(14,4) double precision"), "{seen:?}");
    apply.stop().await?;
    // A column of one's own choice stays; a value that it would round is refused.
    replica.database.execute("alter table item alter price type numeric(14,1)").await?;
    let config = config.set("apply.alter_tables", false);
    test.database.execute("insert into item values (2, 1, 2.5, 0.5)").await?;
    let mut apply = replica.start(test, config.clone()).await?;
    apply.metric_until("headwater_apply_rows_total", &["outcome=\"upserted\""], |n| n == 1.0).await?;
    test.database.execute("insert into item values (3, 1, 2.55, 0.5)").await?;
    apply.exits_with(81).await?;
    apply.log_line(&["halted", "field price", "more digits behind the point"]).await?;
    replica.database.execute("alter table item alter price type numeric(14,4)").await?;
    test.database.execute("update item set price = price + 1").await?;
    let mut apply = replica.start(test, config).await?;
    replica.equals(test, &["public.item"]).await?;
    apply.stop().await?;
    headwater.stop().await
}

#[test]
fn types_grow_and_nothing_is_rounded() {
    on_shared("apply_grow", types_grow);
}

/// What `headwater check` says of apply's file, before a start and with things that would keep it from working.
async fn checked(test: &mut Fixture) -> Result<()> {
    test.capture(ITEM, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'a', 'b')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let replica = Replica::create(test).await?;
    let handlers = toml::Table::from_iter([("Changed".to_owned(), "select length($1)".into())]);
    let config = replica
        .config(test, &["public.item"])
        .set("apply.event_topics", "none.such")
        .set("apply.on_event", handlers);
    let text = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let output = test.command(&["check"], &config)?;
    let (code, said) = (output.status.code(), text(output));
    ensure!(code == Some(0), "{said}");
    for words in [
        "CREATE TABLE IF NOT EXISTS \"public\".\"item\"",
        "takes (text)",
        "none.such",
        "is made at the first start",
    ] {
        ensure!(said.contains(words), "{words} is not in {said}");
    }
    let nothing = replica
        .database
        .value("select to_regclass('item') is null and to_regnamespace('headwater') is null")
        .await?;
    ensure!(nothing.as_deref() == Some("t"), "check changed something");
    // A table without a key, a role without rights, a statement that names nothing, a registry that is not there.
    let role = format!("{}_weak", test.prefix());
    replica
        .database
        .execute(&format!(
            "create table item (id int, name text, note text); create role {role} login;
             revoke temporary on database {} from public",
            crate::harness::database::quote(&replica.database.name)
        ))
        .await?;
    let url = replica.database.url().replace("postgres@", &format!("{role}@"));
    let handlers = toml::Table::from_iter([("Changed".to_owned(), "select no_such($1)".into())]);
    let wrong = config.clone().set("target.url", url).set("apply.on_event", handlers);
    let output = test.command(&["check"], &wrong)?;
    let (code, said) = (output.status.code(), text(output));
    replica.database.execute(&format!("drop role {role}")).await?;
    ensure!(code == Some(2), "{said}");
    for words in ["GRANT TEMPORARY", "sql/apply.sql", "ADD PRIMARY KEY (id)", "no_such"] {
        ensure!(said.contains(words), "{words} is not in {said}");
    }
    let output = test.command(&["check"], &config.set("schema_registry.url", "http://127.0.0.1:9"))?;
    ensure!(output.status.code() == Some(2) && text(output).contains("check schema_registry.url"));
    Ok(())
}

#[test]
fn check_says_what_would_keep_it_from_applying() {
    on_shared("apply_check", checked);
}

#[test]
fn a_record_that_cannot_be_applied_halts() {
    on_shared("apply_halts", halts);
}

#[test]
fn a_record_that_cannot_be_applied_is_set_aside() {
    on_shared("apply_aside", sets_aside);
}

#[test]
fn a_target_that_is_away_is_waited_for() {
    on_shared("apply_away", target_away);
}

#[test]
fn another_source_is_noticed() {
    on_shared("apply_source", another_source);
}

#[test]
fn tables_are_made_and_widened() {
    on_shared("apply_shapes", shapes);
}
