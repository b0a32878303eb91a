//! The broker stops answering, writers go on, Headwater is killed: what was not acknowledged was not confirmed, and
//! comes again. A rival lost 37,538 of 1,000,000 rows in exactly this.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on};
use crate::harness::servers::{self, FaultKafka};

async fn frozen_then_killed(test: &mut Fixture, broker: &FaultKafka) -> Result<()> {
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item select g, 'before' from generate_series(1, 1000) g").await?;
    test.settle().await?;
    let sent = headwater.metric("headwater_received_bytes_total", &[]).unwrap_or(0.0);
    broker.freeze()?;
    let before = test.database.lsn("select pg_current_wal_insert_lsn()").await?;
    for batch in 0..20 {
        let first = 10_000 + batch * 2000;
        test.database
            .execute(&format!(
                "insert into item select g, 'while frozen' from generate_series({first}, {first} + 1999) g"
            ))
            .await?;
    }
    // Everything was read and handed to the producer, nothing of it can have been acknowledged.
    headwater.metric_until("headwater_received_bytes_total", &[], |n| n > sent + 100_000.0).await?;
    let confirmed = test.database.confirmed().await?.unwrap_or(0);
    let held = test.database.lsn("select pg_current_wal_insert_lsn()").await?;
    ensure!(
        confirmed < held && confirmed <= before + 8192,
        "{confirmed:X} was confirmed of {before:X}, {held:X}"
    );
    headwater.kill()?;
    broker.thaw()?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.records - report.duplicates == 41_000, "{report:?}");
    Ok(())
}

#[test]
fn then_headwater_killed() {
    let broker = FaultKafka::take().expect("start the second Kafka");
    let kafka = Ok(broker.kafka.clone());
    on("frozen_broker", servers::postgres(16), kafka, async |test| frozen_then_killed(test, &broker).await);
}
