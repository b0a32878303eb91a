//! `unchanged_toast = "reselect"`: a value without a mark is the one of its change, as Postgres rendered it for the
//! trigger that saw the change; what can't be proved is marked. The checker compares each; these tests make the cases.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::cell::Cell;
use crate::harness::checker::Repeats;
use crate::harness::evidence::Evidence;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::Config;
use crate::harness::marks::Marks;
use crate::harness::random::Random;
use crate::harness::servers::{self, PrivatePostgres};
use crate::harness::workload::{self, STEADY, Workload};

/// One column that is always stored apart, and one that is not.
const DOC: &str = "create table doc (id int primary key, version int, body text storage external)";

/// A text of 4000 characters that depends on a letter.
fn body(letter: char) -> String {
    format!("repeat('{letter}', 4000)")
}

fn config(test: &Fixture) -> Config {
    test.config().set("topics.partitions", 1).set("records.unchanged_toast", "reselect")
}

/// Of each record with a new row of `public.doc`, in order: key, version, the first character of the body (`-` for the
/// placeholder, with `+` where it may be newer).
fn shown(evidence: &Evidence) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let fresh = evidence.records.iter().filter(|record| seen.insert(record.id));
    fresh
        .filter_map(|record| {
            let after = record.change.as_ref()?.after.as_ref()?;
            let text = |name: &str| match after.iter().find(|(n, _)| n == name) {
                Some((_, Cell::Text(text))) => text.clone(),
                _ => String::new(),
            };
            let marks = Marks::of(record);
            let body = match after.iter().find(|(name, _)| name == "body") {
                Some((_, cell)) if cell.is_unavailable() => "-".to_owned(),
                _ => text("body").chars().take(1).collect(),
            };
            let newer = if marks.newer.is_empty() { "" } else { "+" };
            Some(format!("{} v{} {body}{newer}", text("id"), text("version")))
        })
        .collect()
}

/// Runs statements (each a transaction) while the product is down, starts it, and tells what it sent.
async fn sent_late(test: &mut Fixture, config: Config, statements: &[String]) -> Result<Vec<String>> {
    test.reselects("public.doc");
    let mut headwater = test.start(config.clone()).await?;
    headwater.stop().await?;
    for statement in statements {
        test.database.execute(statement).await?;
    }
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    let evidence = test.evidence().await?;
    test.judge(&evidence, Repeats::None)?;
    Ok(shown(&evidence))
}

fn same(found: Vec<String>, expected: &[&str]) -> Result<()> {
    ensure!(found == expected, "\n found    {found:?}\n expected {expected:?}");
    Ok(())
}

fn insert(id: u32, letter: char) -> String {
    format!("insert into doc values ({id}, 1, {})", body(letter))
}

/// Every type that TOAST can hold, odd names, a key of two columns of which one has a quote, a changed key, many rows in
/// one transaction, and rows of other tables between them.
async fn exact(test: &mut Fixture) -> Result<()> {
    test.capture(
        "create table \"Odd \"\"Table\" (
           \"K \"\"1\" text, k2 numeric, n int, \"odd 'text\" text storage external, c char(4000) storage external,
           v varchar storage external, j jsonb storage external, js json storage external, x xml storage external,
           b bytea storage external, a text[] storage external, ts timestamptz[] storage external,
           f float8[] storage external, num numeric storage external, bits varbit storage external,
           tsv tsvector storage external, primary key (k2, \"K \"\"1\"));
         create table plain (id int primary key, v text);
         create extension citext;
         create table named (name citext primary key, n int, body text storage external);
         create table whole (id int primary key, n int, body text storage external);
         alter table whole replica identity full",
        &["public.Odd \"Table", "public.plain", "public.whole", "public.named"],
    )
    .await?;
    test.reselects("public.Odd \"Table");
    test.reselects("public.whole");
    test.reselects("public.named");
    let rule = toml::Table::from_iter([
        ("tables".to_owned(), "public.Odd*".into()),
        ("array_handling".to_owned(), "text".into()),
        ("decimal_handling".to_owned(), "string".into()),
    ]);
    let config = config(test).push("table", rule);
    let mut headwater = test.start(config).await?;
    test.database
        .execute(
            "insert into \"Odd \"\"Table\" select 'it''s \\ ' || g, g * 1.50, 0, repeat('ü''\\', 3000), 'c', repeat('v', 5000),
               jsonb_build_object('z', repeat('j', 4000), 'a', 1.10), ('{\"b\": \"' || repeat('s', 4000) || '\",  \"a\":1}')::json,
               ('<a>' || repeat('x', 4000) || '</a>')::xml, decode(repeat('00ff', 2000), 'hex'),
               array[null, 'a \"b\"', repeat('e', 4000)], array_fill('2024-02-29 12:00:00.123456+02'::timestamptz, array[500]),
               array_fill(0.1::float8 + g, array[500]), (repeat('123456789', 1000) || '.50')::numeric,
               repeat('10', 10000)::varbit, array_to_tsvector((select array_agg('w' || i) from generate_series(1, 900) i))
             from generate_series(1, 50) g",
        )
        .await?;
    for statement in [
        "update \"Odd \"\"Table\" set n = 1",
        "begin; insert into plain values (1, 'a'); update \"Odd \"\"Table\" set n = 2 where k2 < 30;
           update plain set v = 'b'; update \"Odd \"\"Table\" set n = 2 where k2 >= 30; delete from plain; commit",
        "update \"Odd \"\"Table\" set k2 = k2 + 1000 where k2 < 10",
        "insert into named values ('Ab', 1, repeat('n', 5000)), ('ac', 1, repeat('N', 5000))",
        "update named set n = 2 where name in ('aB', 'AC')",
        // The old row has the values: nothing is read.
        "insert into whole values (1, 1, repeat('w', 5000))",
        "update whole set n = 2",
        "update whole set id = 2",
    ] {
        test.database.execute(statement).await?;
        // Each must be read before the next one changes the rows again.
        test.settle().await?;
    }
    let exact = headwater.metric("headwater_reselected_rows_total", &["exact"]).unwrap_or(0.0);
    let other = headwater.metric("headwater_reselected_rows_total", &[]).unwrap_or(0.0) - exact;
    headwater.stop().await?;
    let evidence = test.evidence().await?;
    test.judge(&evidence, Repeats::None)?;
    let marked = evidence.records.iter().find(|record| Marks::of(record) != Marks::default());
    ensure!(marked.is_none(), "marked: {marked:?}");
    ensure!((exact, other) == (108.0, 0.0), "{exact} rows were exact and {other} not");
    Ok(())
}

/// What a later transaction, a savepoint or a delete leaves behind proves nothing; a placeholder comes with its mark.
async fn not_provable(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    let statements = [
        "insert into doc select g, 1, repeat('a', 4000) from generate_series(1, 9) g".to_owned(),
        // 1: changed again later. 2: nothing. 3: deleted later. 4: in a savepoint. 5: its body changed in the same
        // transaction. 6: twice, the second is the last. 7: to a new key, 8: and that one deleted.
        "update doc set version = 2 where id in (1, 2, 3)".to_owned(),
        format!("update doc set version = 3, body = {} where id = 1", body('b')),
        "delete from doc where id = 3".to_owned(),
        "begin; savepoint s; update doc set version = 2 where id = 4; release s; commit".to_owned(),
        format!(
            "begin; update doc set version = 2 where id = 5; update doc set version = 3, body = {} where id = 5; commit",
            body('c')
        ),
        "begin; update doc set version = 2 where id = 6; update doc set version = 3 where id = 6; commit"
            .to_owned(),
        "update doc set id = 70 where id = 7; update doc set id = 80 where id = 8".to_owned(),
        "delete from doc where id = 80".to_owned(),
        // One that takes another's key within the transaction.
        "begin; update doc set id = 90 where id = 9; delete from doc where id = 90;
           insert into doc values (90, 5, repeat('z', 4000)); commit"
            .to_owned(),
    ];
    let found = sent_late(test, config(test), &statements).await?;
    let mut expected: Vec<String> = (1..=9).map(|id| format!("{id} v1 a")).collect();
    expected.extend(
        ["1 v2 -", "2 v2 a", "3 v2 -", "1 v3 b", "4 v2 -", "5 v2 -", "5 v3 c", "6 v2 -", "6 v3 a", "70 v1 a"]
            .map(str::to_owned),
    );
    expected.extend(["80 v1 -", "90 v1 -", "90 v5 z"].map(str::to_owned));
    same(found, &expected.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same with `allow_newer`: what is there is sent with another mark; what is gone or NULL is not there.
async fn newer(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    let statements = [
        insert(1, 'a'),
        insert(2, 'a'),
        insert(3, 'a'),
        insert(4, 'a'),
        "update doc set version = 2".to_owned(),
        format!("update doc set version = 3, body = {} where id = 1", body('b')),
        "delete from doc where id = 2".to_owned(),
        "update doc set version = 3, body = null where id = 3".to_owned(),
        "begin; savepoint s; update doc set version = 3 where id = 4; release s; commit".to_owned(),
    ];
    let found = sent_late(test, config(test).set("records.allow_newer", true), &statements).await?;
    let expected = [
        "1 v1 a", "2 v1 a", "3 v1 a", "4 v1 a", "1 v2 b+", "2 v2 -", "3 v2 -", "4 v2 a+", "1 v3 b", "3 v3 ",
        "4 v3 a+",
    ];
    same(found, &expected)
}

/// A column, a key or a table that only has the name of the one that was: nothing of it was the row's.
async fn another_of_that_name(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.do_not_fold("public.doc");
    let statements = [
        insert(1, 'a'),
        "update doc set version = 2".to_owned(),
        // The row is not written by this, and its xmin stays.
        format!(
            "alter table doc drop column body; alter table doc add column body text default {}",
            body('x')
        ),
    ];
    let found = sent_late(test, config(test).set("records.allow_newer", true), &statements).await?;
    same(found, &["1 v1 a", "1 v2 -"])
}

/// A transaction that holds more than it may goes on with marks, in its order; the next one is read again.
async fn bounded(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.reselects("public.doc");
    let config = config(test).set("pipeline.reselect_max_bytes", "4KiB");
    let mut headwater = test.start(config).await?;
    test.database
        .execute("insert into doc select g, 1, repeat('a', 4000) from generate_series(1, 500) g")
        .await?;
    test.settle().await?;
    test.database.execute("update doc set version = 2").await?;
    test.settle().await?;
    test.database.execute("update doc set version = 3 where id <= 10").await?;
    test.settle().await?;
    let count = |outcome| headwater.metric("headwater_reselected_rows_total", &[outcome]).unwrap_or(0.0);
    let (exact, marked) = (count("exact"), count("marked"));
    headwater.stop().await?;
    test.check(Repeats::None).await?;
    ensure!((exact, marked) == (10.0, 500.0), "{exact} rows were exact and {marked} marked");
    Ok(())
}

/// Values far larger than what is kept at once are read in turns, not left out.
async fn large_values(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.reselects("public.doc");
    let mut headwater = test.start(config(test).set("pipeline.reselect_max_bytes", "64KiB")).await?;
    test.database
        .execute("insert into doc select g, 1, repeat(chr(64 + g), 200000 * (g % 3) + 5000) from generate_series(1, 20) g")
        .await?;
    test.settle().await?;
    test.database.execute("update doc set version = 2").await?;
    test.settle().await?;
    let exact = headwater.metric("headwater_reselected_rows_total", &["exact"]);
    headwater.stop().await?;
    test.check(Repeats::None).await?;
    ensure!(exact == Some(20.0), "{exact:?} rows were exact");
    Ok(())
}

/// Many small transactions of many writers, and kills: whatever is sent again is true or marked.
async fn killed(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    test.reselects("public.document");
    let rule = toml::Table::from_iter([
        ("tables".to_owned(), "public.document".into()),
        ("unchanged_toast".to_owned(), "reselect".into()),
    ]);
    let config = test.config().push("table", rule);
    let mut headwater = test.start(config.clone()).await?;
    let workload = Workload::start(&test.database, 42, STEADY);
    let mut random = Random::new(42);
    for _ in 0..8 {
        headwater.metric_until("headwater_reselected_rows_total", &[], |n| n > 0.0).await?;
        // Any moment will do.
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        headwater.kill()?;
        headwater = test.start(config.clone()).await?;
    }
    workload.commits(300).await?;
    workload.finish().await;
    test.settle().await?;
    let exact = headwater.metric("headwater_reselected_rows_total", &["exact"]).unwrap_or(0.0);
    let marked = headwater.metric("headwater_reselected_rows_total", &["marked"]).unwrap_or(0.0);
    println!("{exact} exact, {marked} marked since the last start");
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

/// The connection that reads is cut again and again: it is made anew, and no session ends for it.
async fn reader_cut(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.reselects("public.doc");
    let mut headwater = test.start(config(test)).await?;
    test.database.execute(&format!("{}; {}", insert(1, 'a'), insert(2, 'b'))).await?;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and query like '%txid_visible_in_snapshot%' and pid <> pg_backend_pid()";
    for round in 0..5 {
        test.database.execute(&format!("update doc set version = {}", round + 2)).await?;
        test.settle().await?;
        ensure!(!test.database.rows(cut).await?.is_empty(), "no connection was found to cut");
    }
    let exact = headwater.metric("headwater_reselected_rows_total", &["exact"]);
    let restarts = headwater.metric("headwater_reconnects_total", &[]).unwrap_or(0.0);
    headwater.stop().await?;
    test.check(Repeats::None).await?;
    ensure!(exact == Some(10.0) && restarts == 0.0, "{exact:?} exact, {restarts} sessions began again");
    Ok(())
}

/// A table that is locked: reading takes as long as it may, then the rows are marked, and the stream goes on.
async fn locked(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.reselects("public.doc");
    let mut headwater = test.start(config(test).set("pipeline.reselect_timeout", "300ms")).await?;
    test.database.execute(&insert(1, 'a')).await?;
    test.settle().await?;
    // Frozen, so that the lock is there before it reads.
    headwater.signal("STOP")?;
    test.database.execute("update doc set version = 2").await?;
    let mut other = test.database.connect().await?;
    let lock = other.transaction().await?;
    lock.batch_execute("lock table doc in access exclusive mode").await?;
    headwater.signal("CONT")?;
    test.settle().await?;
    lock.rollback().await?;
    test.database.execute("update doc set version = 3").await?;
    test.settle().await?;
    headwater.stop().await?;
    let evidence = test.evidence().await?;
    test.judge(&evidence, Repeats::None)?;
    same(shown(&evidence), &["1 v1 a", "1 v2 -", "1 v3 a"])
}

/// A role that may only replicate: the halt and `check` name the GRANT, and after it everything comes.
async fn without_select(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.reselects("public.doc");
    test.expect_complaint("");
    let role = format!("reader_{}", test.prefix());
    test.database.execute(&format!("create role {role} login replication")).await?;
    let url = test.database.url().replace("postgres@", &format!("{role}@"));
    let config = config(test).set("postgres.url", url);
    let mut headwater = test.start(config.clone()).await?;
    test.database.execute(&insert(1, 'a')).await?;
    test.database.execute("update doc set version = 2").await?;
    headwater.exits_with(20).await?;
    let grant = format!("GRANT SELECT ON \"public\".\"doc\" TO \"{role}\"");
    let log = headwater.log_text().replace("\\\"", "\"");
    ensure!(log.contains("public.doc") && log.contains(&grant), "no advice:\n{}", headwater.log_tail());
    let checked = test.command(&["check"], &config)?;
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(checked.status.code() == Some(2) && text.contains(&grant), "check says:\n{text}");

    test.database.execute(&grant).await?;
    // A policy makes rows look deleted, which must not pass for one.
    test.database
        .execute(
            "alter table doc enable row level security; create policy visible on doc for select using (id > 5)",
        )
        .await?;
    let mut headwater = test.spawn(config.clone())?;
    headwater.exits_with(20).await?;
    ensure!(headwater.log_text().contains("BYPASSRLS"), "no advice:\n{}", headwater.log_tail());
    test.database.execute("alter table doc disable row level security").await?;
    let checked = test.command(&["check"], &config)?;
    ensure!(checked.status.success(), "check says:\n{}", String::from_utf8_lossy(&checked.stdout));
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    let evidence = test.evidence().await?;
    test.judge(&evidence, Repeats::Replayed)?;
    test.database.execute(&format!("drop owned by {role}; drop role {role}")).await?;
    same(shown(&evidence), &["1 v1 a", "1 v2 a"])
}

/// Flat records and JSON carry the headers as well, and names of fields in them.
async fn other_shapes(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    let config = config(test)
        .without("schema_registry")
        .set("records.envelope", "flat")
        .set("records.key_encoding", "json")
        .set("records.value_encoding", "json")
        .set("records.renames", toml::Table::from_iter([("body".to_owned(), "text".into())]));
    let mut headwater = test.spawn(config.clone())?;
    headwater.streaming().await?;
    headwater.stop().await?;
    for statement in [
        insert(1, 'a'),
        insert(2, 'a'),
        "update doc set version = 2".to_owned(),
        "update doc set version = 3 where id = 1".to_owned(),
    ] {
        test.database.execute(&statement).await?;
    }
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.settle().await?;
    headwater.stop().await?;
    let mut found = Vec::new();
    for raw in test.raw_topic(&test.topic("public.doc"))? {
        let row: serde_json::Value = serde_json::from_slice(raw.value.as_deref().context("a value")?)?;
        let text = row["text"].as_str().context("a text")?;
        let mark = raw.header("headwater.unchanged").unwrap_or_default();
        found.push(format!("{} v{} {} {mark}", row["id"], row["version"], text.get(..2).unwrap_or_default()));
    }
    same(found, &["1 v1 aa ", "2 v1 aa ", "1 v2 __ text", "2 v2 aa ", "1 v3 aa "])
}

/// A commit that waits for a standby is streamed before anybody sees it: what is there until then is the row before,
/// which is neither the value of the change nor a newer one.
async fn not_visible(test: &mut Fixture) -> Result<()> {
    test.capture(DOC, &["public.doc"]).await?;
    test.reselects("public.doc");
    let config = config(test).set("records.allow_newer", true).set("pipeline.reselect_timeout", "500ms");
    let mut headwater = test.start(config).await?;
    test.database.execute(&format!("{}; {}", insert(1, 'a'), insert(2, 'z'))).await?;
    test.settle().await?;
    let standbys = |names: &str| {
        format!("alter system set synchronous_standby_names = '{names}'; select pg_reload_conf()")
    };
    for statement in standbys("nobody").split("; ") {
        test.database.execute(statement).await?;
    }
    let other = test.database.connect().await?;
    let wait = tokio::spawn(async move {
        // Key 2 was another row until then.
        other
            .batch_execute("set synchronous_commit = on; begin; delete from doc where id = 2; update doc set id = 2 where id = 1; commit")
            .await
    });
    headwater.metric_until("headwater_reselected_rows_total", &["marked"], |n| n == 1.0).await?;
    ensure!(!wait.is_finished(), "the commit did not wait for a standby");
    for statement in standbys("").split("; ") {
        test.database.execute(statement).await?;
    }
    wait.await??;
    test.settle().await?;
    headwater.stop().await?;
    let evidence = test.evidence().await?;
    test.judge(&evidence, Repeats::None)?;
    same(shown(&evidence), &["1 v1 a", "2 v1 z", "2 v1 -"])
}

/// Partitions, under their own names and under their root's; a row that moves has a new home and its whole value.
async fn partitioned(test: &mut Fixture) -> Result<()> {
    test.database
        .execute(
            "create table doc (id int primary key, version int, body text storage external) partition by range (id);
             create table doc_1 partition of doc for values from (0) to (100);
             create table doc_2 partition of doc for values from (100) to (200)",
        )
        .await?;
    test.database.capture_changing(&["public.doc"], true).await?;
    test.reselects("public.doc");
    let mut headwater = test.start(config(test)).await?;
    for statement in [
        format!("{}; {}", insert(1, 'a'), insert(101, 'b')),
        "update doc set version = 2".to_owned(),
        "update doc set version = 3, id = 102 where id = 1".to_owned(),
        "update doc set version = 4 where id = 102".to_owned(),
    ] {
        test.database.execute(&statement).await?;
        test.settle().await?;
    }
    headwater.stop().await?;
    let evidence = test.evidence().await?;
    test.judge(&evidence, Repeats::None)?;
    same(shown(&evidence), &["1 v1 a", "101 v1 b", "1 v2 a", "101 v2 b", "102 v3 a", "102 v4 a"])
}

#[test]
fn values_of_every_type_are_those_of_the_change() {
    on_shared("reselect_exact", exact);
}

#[test]
fn what_can_not_be_proved_is_marked() {
    on_shared("reselect_marks", not_provable);
}

#[test]
fn newer_values_are_marked() {
    on_shared("reselect_newer", newer);
}

#[test]
fn a_column_of_that_name_is_not_that_column() {
    on_shared("reselect_ddl", another_of_that_name);
}

#[test]
fn waiting_is_bounded() {
    on_shared("reselect_bounded", bounded);
}

#[test]
fn large_values_come_in_turns() {
    on_shared("reselect_large", large_values);
}

#[test]
fn killed_in_the_middle() {
    on_shared("reselect_killed", killed);
}

#[test]
fn the_reading_connection_is_cut() {
    on_shared("reselect_cut", reader_cut);
}

#[test]
fn a_table_is_locked() {
    on_shared("reselect_locked", locked);
}

#[test]
fn a_role_that_may_not_read() {
    on_shared("reselect_role", without_select);
}

#[test]
fn flat_json_carries_the_marks() {
    on_shared("reselect_json", other_shapes);
}

#[test]
fn a_commit_that_nobody_sees_yet() {
    let server = PrivatePostgres::start("reselect_sync", 16).expect("start a Postgres of its own");
    let postgres = Ok(server.postgres.clone());
    on("reselect_sync", postgres, servers::kafka(), not_visible);
}

#[test]
fn partitions_under_their_root() {
    on_shared("reselect_parts", partitioned);
}
