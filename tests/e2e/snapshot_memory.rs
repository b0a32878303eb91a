//! A big table does not become memory: copied under a budget of 64 MiB, both ways, with the peak of resident memory
//! bounded whatever the number of rows.
//!
//! `HEADWATER_TEST_BIG_ROWS=5000000` copies as many; without it fewer, which take less than a minute here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::snapshots::initial;
use crate::harness::until;

const ROWS: u64 = 1_500_000;
const BUDGET: &str = "64MiB";

/// What is promised for tables of any size.
const RESIDENT_MAX: u64 = 100_000_000;

async fn big_table(test: &mut Fixture) -> Result<()> {
    let rows = match std::env::var("HEADWATER_TEST_BIG_ROWS") {
        Ok(rows) => rows.parse().context("HEADWATER_TEST_BIG_ROWS")?,
        Err(_) => ROWS,
    };
    let began = Instant::now();
    test.database
        .execute(&format!(
            "create table stock (id int not null, amount int not null);
             insert into stock select i, i % 77 from generate_series(1, {rows}) i;
             alter table stock add primary key (id);
             create publication captured for table stock"
        ))
        .await?;
    let filled = began.elapsed();
    let began = Instant::now();
    let config = initial(test)
        .set("pipeline.max_in_flight_bytes", BUDGET)
        .set("snapshot.chunk_bytes", "1MiB")
        .set("topics.partitions", 1);
    let mut headwater = test.spawn(config)?;
    until(Duration::from_secs(200), "the table to be copied", async || {
        Ok(!headwater.log_lines(&["the snapshot is complete"]).is_empty())
    })
    .await
    .with_context(|| headwater.log_tail())?;
    let (peak, _) = headwater.resident_bytes()?;
    println!(
        "{rows} rows: filled in {:.1} s, copied in {:.1} s, peak resident memory {} MB",
        filled.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        peak / 1_000_000
    );
    ensure!(peak < RESIDENT_MAX, "{peak} bytes resident under a budget of {BUDGET}");
    let written = headwater.metric("headwater_snapshot_rows_total", &["stock"]).unwrap_or(0.0);
    ensure!(written == rows as f64, "{written} rows of {rows}");
    headwater.stop().await
}

#[test]
fn of_a_big_table_is_bounded() {
    on_shared("copy_big", big_table);
}
