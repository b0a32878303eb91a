//! Rows that come to another key while their table is copied, without the value that is stored out of line: the stream
//! says that it did not change, and under the new key nobody knows what it is. The copy says it.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::joined;
use crate::harness::snapshots::{
    CHUNK_WAITS, Gate, ROWS, answer, begin_command, beside, commanded, complete, gated, initial,
    prepare_toasted, start_gated, state,
};
use crate::harness::traffic::Traffic;

const FILLED: u64 = 4000;

/// To any free key, before or behind where the copy is; the value stays.
const MOVES: &str = "
    create function move_any() returns void language plpgsql as $$
    declare
        chosen bigint := 1 + floor(random() * 4000);
        other bigint := 1 + floor(random() * 6000);
    begin
        perform pg_advisory_xact_lock(least(chosen, other));
        perform pg_advisory_xact_lock(greatest(chosen, other));
        update items set id = other, version = nextval('versions')
         where id = chosen and not exists (select from items where id = other);
    end $$";

const STATEMENTS: [&str; 3] = [
    "select move_any()",
    "select churn(4000)",
    "update items set version = nextval('versions') where id = 1000 + {id}",
];

async fn prepared(test: &Fixture) -> Result<()> {
    prepare_toasted(test, FILLED).await?;
    test.database.execute(MOVES).await
}

/// The last rows wait until the writers are done: what moves after the end of a copy is a matter of the stream.
async fn beside_the_stream(test: &mut Fixture) -> Result<()> {
    prepared(test).await?;
    test.expect_complaint(CHUNK_WAITS);
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 3, &STATEMENTS);
    traffic.commits(20).await?;
    // Chunks are read while rows move.
    let gate = start_gated(test, &headwater, &config, "public.items", (1, "id >= 3500")).await?;
    traffic.commits(100).await?;
    traffic.finish().await;
    gate.open().await?;
    state(&headwater, "done").await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    println!("{found:?}");
    Ok(())
}

/// Rows move while the copy goes on, while it is paused, and while it begins again after kills.
async fn paused_and_killed(test: &mut Fixture) -> Result<()> {
    prepared(test).await?;
    test.expect_complaint(CHUNK_WAITS);
    let config = beside(test);
    let mut headwater = test.start(config.clone()).await?;
    let gate = Gate::closed(&test.database, 1).await?;
    let condition = format!("public.items={}", gate.condition("id >= 3500"));
    commanded(test, &headwater, &config, &["start", "public.items", "--where", &condition])?;
    let traffic = Traffic::start(&test.database, 3, &STATEMENTS);
    traffic.commits(60).await?;
    gate.reached().await?;
    for _ in 0..3 {
        headwater.kill()?;
        traffic.commits(20).await?;
        headwater = test.start(config.clone()).await?;
        traffic.commits(40).await?;
    }
    gate.reached().await?;
    // Between two chunks, the first of which waits.
    let asked = begin_command(test, &headwater, &config, &["pause"])?;
    gate.open().await?;
    let (paused, _) = answer(asked)?;
    traffic.commits(60).await?;
    traffic.finish().await;
    if paused {
        commanded(test, &headwater, &config, &["resume"])?;
    }
    state(&headwater, "done").await?;
    test.settle().await?;
    headwater.stop().await?;
    ensure!(paused, "the copy was complete before it could be paused");
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

/// Under the slot's snapshot every row is copied under its old key, and what is left goes on beside the stream.
async fn interrupted_first_copy(test: &mut Fixture) -> Result<()> {
    prepared(test).await?;
    test.expect_complaint(CHUNK_WAITS);
    let config = gated(initial(test), 1, "id >= 2000");
    let gate = Gate::closed(&test.database, 1).await?;
    let mut headwater = test.spawn(config.clone())?;
    gate.reached().await?;
    let traffic = Traffic::start(&test.database, 3, &STATEMENTS);
    traffic.commits(50).await?;
    headwater.kill()?;
    headwater = test.start(config.clone()).await?;
    traffic.commits(50).await?;
    traffic.finish().await;
    gate.open().await?;
    complete(&headwater).await?;
    test.settle().await?;
    headwater.stop().await?;
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

#[test]
fn while_chunks_are_read() {
    on_shared("moves_beside", beside_the_stream);
}

#[test]
fn over_kills_and_a_pause() {
    on_shared("moves_killed", paused_and_killed);
}

#[test]
fn after_an_interrupted_first_copy() {
    on_shared("moves_first", interrupted_first_copy);
}
