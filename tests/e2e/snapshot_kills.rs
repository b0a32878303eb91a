//! Killed at twenty random moments in the midst of one copy: under the slot's snapshot and then beside the stream, and
//! in one that was asked for. What is done stays done, what is not is copied, and no row is lost or overtaken.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::joined;
use crate::harness::random::Random;
use crate::harness::snapshots::{
    CHUNK_WAITS, Gate, ROWS, beside, commanded, complete, condition, initial, prepare_toasted,
};
use crate::harness::traffic::Traffic;

const KILLS: usize = 20;
const ROWS_THERE: u64 = 8000;

/// Slow, so that kills meet a copy under way; and its last rows wait until the last kill is done.
fn slow() -> String {
    let last = condition(1, "id >= 7000");
    format!("case when id % 40 = 0 then pg_sleep(0.003) is not null else true end and {last}")
}

async fn kill_again_and_again(
    test: &mut Fixture,
    mut headwater: Headwater,
    config: Config,
    gate: Gate,
    traffic: Traffic,
) -> Result<()> {
    let mut random = Random::new(4711);
    for kill in 0..KILLS {
        // At any moment of what a start does and of some chunks.
        tokio::time::sleep(Duration::from_millis(random.below(250))).await;
        let done = headwater.log_lines(&["the snapshot is complete"]);
        ensure!(done.is_empty(), "the copy was complete before kill {kill}");
        headwater.kill()?;
        headwater = test.start(config.clone()).await?;
    }
    gate.open().await?;
    complete(&headwater).await?;
    traffic.commits(50).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    println!("{KILLS} kills: {found:?}");
    ensure!(found.marks.contains_key("incremental"), "{found:?}");
    Ok(())
}

async fn first_copy(test: &mut Fixture) -> Result<()> {
    test.expect_complaint(CHUNK_WAITS);
    prepare_toasted(test, ROWS_THERE).await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(8000)"]);
    let wheres = toml::Table::from_iter([("public.items".to_owned(), slow().into())]);
    let config = initial(test).set("snapshot.where", wheres);
    let gate = Gate::closed(&test.database, 1).await?;
    let headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    kill_again_and_again(test, headwater, config, gate, traffic).await
}

async fn asked_for(test: &mut Fixture) -> Result<()> {
    test.expect_complaint(CHUNK_WAITS);
    prepare_toasted(test, ROWS_THERE).await?;
    let config = beside(test);
    let headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(8000)"]);
    let gate = Gate::closed(&test.database, 1).await?;
    let wheres = format!("public.items={}", slow());
    commanded(test, &headwater, &config, &["start", "public.items", "--where", &wheres])?;
    kill_again_and_again(test, headwater, config, gate, traffic).await
}

#[test]
fn the_first_copy() {
    on_shared("kills_first", first_copy);
}

#[test]
fn a_copy_that_was_asked_for() {
    on_shared("kills_beside", asked_for);
}
