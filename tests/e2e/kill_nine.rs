//! kill -9, twenty times, at any moment, while writers write.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::random::Random;
use crate::harness::workload::{self, STEADY, Workload};

const KILLS: usize = 20;
const SEED: u64 = 20_259;

async fn twenty_times(test: &mut Fixture) -> Result<()> {
    workload::create_tables(&test.database).await?;
    let mut headwater = test.start(test.config()).await?;
    let workload = Workload::start(&test.database, SEED, STEADY);
    let mut random = Random::new(SEED);
    for _ in 0..KILLS {
        // It must have done something, so that every kill meets records under way; then any moment will do.
        headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 0.0).await?;
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        headwater.kill()?;
        headwater = test.start(test.config()).await?;
    }
    workload.commits(50).await?;
    let committed = workload.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(committed > 1000, "only {committed} transactions were written");
    println!("{} of {} records repeated by {KILLS} kills", report.duplicates, report.records);
    Ok(())
}

#[test]
fn twenty_times_under_load() {
    on_shared("kill_nine", twenty_times);
}
