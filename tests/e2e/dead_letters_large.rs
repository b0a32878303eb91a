//! Letters that the dead letter topic does not take either: they halt, or go there without their value.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::dead_letters::{TABLES, config, letters, letters_topic, put, says};
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::{kafka, until};

async fn larger_than_the_topic_of_letters(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLES).await?;
    for complaint in
        ["went to the dead letter topic", "beginning again from the checkpoint", "max.message.bytes"]
    {
        test.expect_complaint(complaint);
    }
    let topic = test.topic("public.item");
    // Both with the limit that Kafka gives by default, 1 MiB.
    for topic in [&topic, &letters_topic(test)] {
        kafka::create_topic(&test.kafka.bootstrap, topic, 1).await?;
    }
    let config = config(test, "dead_letter");
    let mut headwater = test.start(config.clone()).await?;
    test.database.execute(&put(1, "1")).await?;
    // Random, so that no compression helps.
    test.database
        .execute(
            "insert into item (id, version, body) select 2, nextval('versions'),
               string_agg(md5(random()::text), '') from generate_series(1, 100000)",
        )
        .await?;
    test.database.execute(&put(3, "3")).await?;
    headwater.exits_with(52).await?;
    ensure!(letters(test)?.is_empty(), "a letter went where there is no room for it");

    let mut headwater = test.start(config.set("dead_letter.oversized", "leave_value_out")).await?;
    until(Duration::from_secs(60), "the letter", async || Ok(!letters(test)?.is_empty())).await?;
    test.settle().await?;
    let all = letters(test)?;
    let letter = all.first().context("no letter")?;
    ensure!(letter.value.is_none(), "the value is there after all");
    ensure!(
        says(letter, "stage") == "size" && says(letter, "key") == r#"{"id":"2"}"#,
        "{:?}",
        letter.headers
    );
    let left_out: usize = says(letter, "left_out_bytes").parse().context("how much was left out")?;
    ensure!(left_out > 3_200_000, "{left_out} bytes were left out");
    // Row 1 may have come again, since a refusal is learned by beginning again.
    let keys: BTreeSet<_> = test.raw_topic(&topic)?.into_iter().map(|record| record.key).collect();
    ensure!(keys.len() == 2, "records of {} rows instead of rows 1 and 3", keys.len());
    headwater.stop().await
}

#[test]
fn a_letter_that_is_too_large_halts_or_goes_without_its_value() {
    on_shared("dead_letter_large", larger_than_the_topic_of_letters);
}
