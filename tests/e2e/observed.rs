//! What an operator sees: metrics that add up and are documented, probes that are honest, records where any other
//! producer would put them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};

const TABLE: &str = "create table item (id int primary key, name text)";

async fn metrics(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item select g, 'x' from generate_series(1, 100) g").await?;
    test.database.execute("update item set name = 'y' where id <= 30").await?;
    test.database.execute("delete from item where id <= 10").await?;
    test.settle().await?;
    let confirmed = test.database.confirmed().await?.unwrap_or(0) as f64;
    for (name, labels, expected) in [
        ("headwater_records_total", &["item", "op=\"c\""][..], 100.0),
        ("headwater_records_total", &["item", "op=\"u\""], 30.0),
        ("headwater_records_total", &["item", "op=\"d\""], 10.0),
        ("headwater_records_total", &["item", "op=\"tombstone\""], 10.0),
        ("headwater_records_acknowledged_total", &[], 150.0),
        ("headwater_transactions_total", &[], 3.0),
        ("headwater_in_flight_bytes", &[], 0.0),
        ("headwater_producer_queue_records", &[], 0.0),
        ("headwater_role", &["active"], 1.0),
        ("headwater_commit_to_ack_seconds_count", &[], 3.0),
    ] {
        headwater
            .metric_until(name, labels, |value| value == expected)
            .await
            .with_context(|| format!("{name} {labels:?}"))?;
    }
    headwater.metric_until("headwater_confirmed_lsn", &[], |lsn| lsn >= confirmed).await?;
    let (_, body) = headwater.get("/metrics").context("no metrics")?;
    documented(&body)?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

/// Every name that is served is in docs/METRICS.md, and the other way round for what is not labelled.
fn documented(body: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let document = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let served: BTreeSet<_> =
        body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    ensure!(served.len() > 10, "only {} metrics are served", served.len());
    for name in &served {
        ensure!(document.contains(&format!("`{name}`")), "{name} is not in docs/METRICS.md");
    }
    Ok(())
}

async fn probes(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    for (path, expected) in
        [("/healthz", 200), ("/readyz", 200), ("/readyz?role=active", 200), ("/nowhere", 404)]
    {
        let (status, body) = headwater.get(path).context("no answer")?;
        ensure!(status == expected, "{path} is {status}: {body}");
    }
    headwater.stop().await
}

/// What a stock librdkafka producer with the partitioner of Java clients does with the same keys.
async fn partitions(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int, name text, primary key (name, id))", &["public.item"]).await?;
    let mut headwater = test.start(test.config().set("topics.partitions", 7)).await?;
    test.database
        .execute("insert into item select g, repeat('k', g % 11) from generate_series(1, 300) g")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    let records = test.raw_records()?;
    ensure!(records.len() == 300, "{} records", records.len());
    let topic = test.topic("public.item");
    let producer: ThreadedProducer<Chosen> = ClientConfig::new()
        .set("bootstrap.servers", &test.kafka.bootstrap)
        .set("partitioner", "murmur2")
        .create_with_context(Chosen::default())?;
    for record in &records {
        let key = record.key.as_deref().context("a record without a key")?;
        let again = BaseRecord::with_opaque_to(&topic, Box::new(record.partition)).key(key).payload("again");
        producer.send(again).map_err(|(error, _)| error)?;
    }
    tokio::task::block_in_place(|| producer.flush(std::time::Duration::from_secs(10)))?;
    let differing = producer.context().differing.load(std::sync::atomic::Ordering::Relaxed);
    let same = producer.context().same.load(std::sync::atomic::Ordering::Relaxed);
    ensure!(same == 300 && differing == 0, "{same} keys in the same partition, {differing} in another");
    Ok(())
}

/// More partitions while it runs: said within the minute, and keys stay where they are.
async fn more_partitions(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    test.expect_complaint("partition_count_changed");
    let mut headwater = test.start(test.config().set("topics.partitions", 2)).await?;
    test.database.execute("insert into item select g, 'x' from generate_series(1, 50) g").await?;
    test.settle().await?;
    let topic = test.topic("public.item");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &test.kafka.bootstrap).create()?;
    let grown = admin.create_partitions(&[NewPartitions::new(&topic, 5)], &AdminOptions::new()).await?;
    ensure!(grown.iter().all(Result::is_ok), "{grown:?}");
    let line = headwater.log_line(&["partition_count_changed", &topic]).await?;
    ensure!(line.contains('2') && line.contains('5'), "{line}");
    test.database.execute("update item set name = 'y'").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

/// Counts whether the producer chose the partition that the record came from.
#[derive(Default)]
struct Chosen {
    same: std::sync::atomic::AtomicUsize,
    differing: std::sync::atomic::AtomicUsize,
}

impl rdkafka::ClientContext for Chosen {}

impl ProducerContext for Chosen {
    type DeliveryOpaque = Box<i32>;

    fn delivery(&self, result: &DeliveryResult<'_>, expected: Box<i32>) {
        let same = result.as_ref().is_ok_and(|message| rdkafka::Message::partition(message) == *expected);
        let counter = if same { &self.same } else { &self.differing };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A password is in no line of the log, in no metric, and in no error.
async fn secrets(test: &mut Fixture) -> Result<()> {
    const SECRET: &str = "s3cr3t-9c1f";
    test.capture(TABLE, &["public.item"]).await?;
    test.expect_complaint("");
    let url = test.database.url().replace("postgres@", &format!("postgres:{SECRET}@"));
    let mut headwater = test.spawn(test.config().set("postgres.url", url.clone()))?;
    headwater.streaming().await?;
    let (_, body) = headwater.get("/metrics").context("no metrics")?;
    ensure!(!body.contains(SECRET), "a password is in the metrics");
    headwater.stop().await?;
    ensure!(!headwater.log_text().contains(SECRET), "a password is in the log");
    // In the errors of a server that does not answer, too.
    let nowhere = url.replace(&format!(":{}/", test.database.server.port), ":1/");
    let output = test.command(&["check"], &test.config().set("postgres.url", nowhere))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success() && !text.contains(SECRET), "check: {text}");
    Ok(())
}

#[test]
fn metrics_add_up_and_are_documented() {
    on_shared("metrics", metrics);
}

#[test]
fn probes_are_honest() {
    on_shared("probes", probes);
}

#[test]
fn partitions_are_those_of_java_clients() {
    on_shared("partitions", partitions);
}

#[test]
fn more_partitions_are_noticed() {
    on_shared("more_partitions", more_partitions);
}

#[test]
fn secrets_stay_secret() {
    on_shared("secrets", secrets);
}
