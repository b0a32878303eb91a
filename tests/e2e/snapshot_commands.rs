//! Copies that were asked for, under load: of one table, of three and of all; paused and resumed, cancelled as a whole
//! and in part and begun anew; and commands at the wrong moment, which change nothing.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::joined::{self, CHURNED, Joined};
use crate::harness::snapshots::{
    CHUNK_WAITS, Gate, ROWS, answer, begin_command, beside, command, commanded, complete, condition, gated,
    initial, prepare, start_gated, state, status,
};
use crate::harness::traffic::Traffic;
use crate::harness::until;

const TABLES: [&str; 4] = ["items", "orders", "lines", "parts"];

/// Tables that are all changed as `items` is.
async fn prepare_tables(test: &Fixture, rows: u64) -> Result<()> {
    for table in TABLES {
        let sql = CHURNED.replace("items", table).replace("churn(", &format!("churn_{table}("));
        test.database.execute(&sql).await?;
        let fill = format!(
            "insert into {table} (id, version, body, big)
             select i, nextval('versions'), md5(i::text), big_of(i) from generate_series(1, {rows}) i"
        );
        test.database.execute(&fill).await?;
    }
    test.database.execute(&format!("create publication captured for table {}", TABLES.join(", "))).await
}

fn traffic(test: &Fixture, rows: u64) -> Traffic {
    let statements = TABLES.map(|table| format!("select churn_{table}({rows})"));
    Traffic::start(&test.database, 3, &statements.each_ref().map(String::as_str))
}

async fn judged(test: &Fixture, table: &str) -> Result<Joined> {
    let rows = ROWS.replace("items", table);
    joined::check(test, &test.topic(&format!("public.{table}")), &rows).await
}

async fn one_three_and_all(test: &mut Fixture) -> Result<()> {
    prepare_tables(test, 1500).await?;
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = traffic(test, 1500);
    for (count, patterns) in [
        (1, &["public.items"][..]),
        (3, &["public.items", "public.orders", "public.li*"]),
        (4, &["public.*"]),
    ] {
        let text = commanded(test, &headwater, &config, &[&["start"], patterns].concat())?;
        ensure!(text.contains(&format!("copying {count} tables")), "{text}");
        state(&headwater, "done").await?;
        let tables = status(&headwater)?["tables"].as_object().map_or(0, |tables| tables.len());
        ensure!(tables == count, "{tables} tables in the status of a copy of {count}");
    }
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    for (table, times) in TABLES.into_iter().zip([3, 2, 2, 1]) {
        let found = judged(test, table).await?;
        ensure!(found.read > times * 1000 && found.read < times * 1900, "{table}: {found:?}");
    }
    Ok(())
}

async fn paused_and_resumed(test: &mut Fixture) -> Result<()> {
    prepare(test, 8000).await?;
    test.expect_complaint(CHUNK_WAITS);
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(8000)"]);
    // Slow enough to be paused more than once.
    let slow = "public.items=case when id % 20 = 0 then pg_sleep(0.004) is not null else true end";
    commanded(test, &headwater, &config, &["start", "public.items", "--where", slow])?;
    let mut pauses = 0;
    while pauses < 4 {
        commanded(test, &headwater, &config, &["pause"])?;
        state(&headwater, "paused").await?;
        pauses += 1;
        let rows = status(&headwater)?["tables"]["public.items"]["rows"].clone();
        traffic.commits(20).await?;
        let after = status(&headwater)?["tables"]["public.items"]["rows"].clone();
        ensure!(rows == after, "{rows} rows before and {after} in the midst of a pause");
        commanded(test, &headwater, &config, &["resume"])?;
    }
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// Cancelled between two chunks, and begun anew.
async fn cancelled(test: &mut Fixture) -> Result<()> {
    prepare_tables(test, 4000).await?;
    test.expect_complaint(CHUNK_WAITS);
    test.expect_complaint("giving up the copy of a table");
    let config = beside(test).set("snapshot.order", toml::Value::Array(vec!["public.items".into()]));
    let mut headwater = test.start(config.clone()).await?;
    let traffic = traffic(test, 4000);
    for (first, arguments, end) in
        [(1, &["cancel"][..], "cancelled"), (3, &["cancel", "public.orders", "public.lines"], "done")]
    {
        // The command comes before the second gate, which is in a later chunk than the first one.
        let (near, far) =
            (Gate::closed(&test.database, first).await?, Gate::closed(&test.database, first + 1).await?);
        let gates =
            format!("public.items={} and {}", near.condition("id >= 100"), far.condition("id >= 2500"));
        commanded(test, &headwater, &config, &["start", "public.*", "--where", &gates])?;
        near.reached().await?;
        let asked = begin_command(test, &headwater, &config, arguments)?;
        near.open().await?;
        until(std::time::Duration::from_secs(60), "the command or the second gate", async || {
            Ok(status(&headwater)?["state"] == "cancelled" || far.holds().await?)
        })
        .await?;
        far.open().await?;
        let (ok, text) = answer(asked)?;
        ensure!(ok, "{text}");
        state(&headwater, end).await?;
        traffic.commits(20).await?;
    }
    let parts = status(&headwater)?["tables"].clone();
    for (table, state) in [("items", "done"), ("orders", "failed"), ("lines", "failed"), ("parts", "done")] {
        ensure!(parts[format!("public.{table}")]["state"] == state, "{table}: {parts}");
    }
    ensure!(parts["public.orders"]["error"] == "cancelled", "{parts}");
    commanded(test, &headwater, &config, &["start", "public.orders", "public.lines"])?;
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    for table in TABLES {
        judged(test, table).await?;
    }
    Ok(())
}

/// Each is refused with a sentence, and the copy goes on as if nobody had asked.
async fn at_wrong_moments(test: &mut Fixture) -> Result<()> {
    prepare(test, 3000).await?;
    test.expect_complaint(CHUNK_WAITS);
    let traffic = Traffic::start(&test.database, 2, &["select churn(3000)"]);
    let config = gated(initial(test), 1, "id >= 1000");
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    let check = |headwater: &_, arguments: &[&str], words: &str| -> Result<()> {
        let (ok, text) = command(test, headwater, &config, arguments)?;
        ensure!(!ok && text.contains(words), "{arguments:?}: {text}");
        Ok(())
    };
    for arguments in [&["start", "public.items"][..], &["pause"], &["resume"], &["cancel"]] {
        check(&headwater, arguments, "the first copy is under way")?;
    }
    gate.open().await?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    check(&headwater, &["pause"], "no snapshot is running")?;
    check(&headwater, &["resume"], "no snapshot is paused")?;
    check(&headwater, &["cancel"], "no snapshot is under way")?;
    let slow = format!("public.items={}", condition(9, "false"));
    let gate = start_gated(test, &headwater, &config, "public.items", (2, "id >= 500")).await?;
    let asked = [
        begin_command(test, &headwater, &config, &["resume"])?,
        begin_command(test, &headwater, &config, &["start", "public.items", "--where", &slow])?,
    ];
    gate.open().await?;
    for (asked, words) in asked.into_iter().zip(["no snapshot is paused", "a snapshot is under way"]) {
        let (ok, text) = answer(asked)?;
        // It may have come when the copy was over: then there is another one.
        ensure!(ok || text.contains(words), "{text}");
    }
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let (ok, text) = command(test, &headwater, &config, &["pause"])?;
    ensure!(!ok && !text.is_empty(), "a stopped instance answers: {text}");
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

#[test]
fn one_table_three_and_all() {
    on_shared("copy_tables", one_three_and_all);
}

#[test]
fn paused_and_resumed_under_load() {
    on_shared("copy_paused", paused_and_resumed);
}

#[test]
fn cancelled_and_begun_anew() {
    on_shared("copy_cancelled", cancelled);
}

#[test]
fn refused_at_wrong_moments() {
    on_shared("copy_refused", at_wrong_moments);
}
