//! One test: its database, its topics, its instances of the product, and the verdict at the end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::checker::{self, Repeats, Report};
use super::database::{Database, PUBLICATION, TableName};
use super::decode::Decoder;
use super::evidence::{Evidence, Id, Record};
use super::expected::topic_of;
use super::headwater::{Config, Headwater, complaints};
use super::kafka::{self, Raw};
use super::sampler::Sampler;
use super::servers::{self, Kafka, Postgres};
use super::workload::CANARY;
use super::{random::Random, until};

/// No test may hang the run.
const TEST_LIMIT: Duration = Duration::from_secs(240);
/// How long the slot may take to catch up on this machine with its two cores shared.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What a broker says to the first producer after its start; librdkafka asks again by itself.
const STARTING_BROKER: &str = "Coordinator load in progress: retrying";

/// What a test works with.
pub struct Fixture {
    /// Its database.
    pub database: Database,
    /// Where its records go.
    pub kafka: Kafka,
    /// Its files.
    pub directory: TempDir,
    sampler: Option<Sampler>,
    logs: Vec<PathBuf>,
    expected_complaints: Vec<&'static str>,
    unfolded: Vec<String>,
    reselected: std::collections::BTreeSet<String>,
    initial: std::collections::BTreeMap<String, Vec<super::evidence::Row>>,
}

/// Runs a test on the shared servers with PostgreSQL 16.
pub fn on_shared(name: &str, test: impl AsyncFnOnce(&mut Fixture) -> Result<()>) {
    on(name, servers::postgres(16), servers::kafka(), test);
}

/// Runs a test on these servers.
pub fn on(
    name: &str,
    postgres: Result<Postgres>,
    kafka: Result<Kafka>,
    test: impl AsyncFnOnce(&mut Fixture) -> Result<()>,
) {
    let (postgres, kafka) =
        (or_panic("start Postgres", postgres), or_panic("start Kafka and the registry", kafka));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut fixture = or_panic("prepare the test", Fixture::new(name, &postgres, kafka).await);
        let outcome = tokio::time::timeout(TEST_LIMIT, test(&mut fixture)).await;
        let outcome = outcome.unwrap_or_else(|_| bail!("the test took longer than {TEST_LIMIT:?}"));
        if outcome.is_err() {
            fixture.directory.disable_cleanup(true);
            println!("configurations and logs are kept in {}", fixture.directory.path().display());
        }
        or_panic(name, outcome);
        or_panic("after the test", fixture.finish().await);
    });
}

/// Every cause in one message, without the backtrace of the harness.
fn or_panic<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error:#}"))
}

impl Fixture {
    async fn new(name: &str, postgres: &Postgres, kafka: Kafka) -> Result<Fixture> {
        // Other runs may use the same servers.
        let mut random = Random::new(u64::from(std::process::id()) << 32 | u64::from(servers::free_port()));
        let name = format!("{name}_{}", random.text(5));
        Ok(Fixture {
            database: Database::create(postgres, &name).await?,
            kafka,
            directory: tempfile::Builder::new().prefix("headwater-").tempdir()?,
            sampler: None,
            logs: Vec::new(),
            expected_complaints: vec![STARTING_BROKER],
            unfolded: Vec::new(),
            reselected: Default::default(),
            initial: Default::default(),
        })
    }

    /// The topic prefix; equal to the database's name.
    pub fn prefix(&self) -> &str {
        &self.database.name
    }

    /// The configuration of the issue, for this test's database, slot and topics.
    pub fn config(&self) -> Config {
        Config::default()
            .set("postgres.url", self.database.url())
            .set("postgres.publication", PUBLICATION)
            .set("postgres.slot", self.database.slot())
            .set("kafka.bootstrap_servers", self.kafka.bootstrap.clone())
            .set("schema_registry.url", self.kafka.registry.clone())
            .set("topics.prefix", self.prefix())
            .set("topics.partitions", 3)
            // What was there before is the matter of the tests that say so.
            .set("snapshot.mode", "never")
            // Its own, so that no test reads another's.
            .set("checkpoint.topic", format!("checkpoint.{}", self.prefix()))
    }

    /// Allows a WARN or ERROR line that contains this.
    pub fn expect_complaint(&mut self, words: &'static str) {
        self.expected_complaints.push(words);
    }

    /// Says that a table's topic holds rows that were never deleted there: of another table, or before a rename.
    pub fn do_not_fold(&mut self, table: &str) {
        self.unfolded.push(table.to_owned());
    }

    /// Says that a table's unchanged TOAST values are read back: a record that is sent again may differ in what is marked.
    pub fn reselects(&mut self, table: &str) {
        self.reselected.insert(table.to_owned());
    }

    /// Starts the product and waits until it streams. The first start also begins sampling and remembers the tables
    /// as they are: what was written before the slot existed is not expected in Kafka.
    pub async fn start(&mut self, config: Config) -> Result<Headwater> {
        let mut headwater = self.spawn(config)?;
        headwater.streaming().await?;
        if self.sampler.is_none() {
            self.begin().await?;
        }
        Ok(headwater)
    }

    /// Begins sampling, and forgets what was written before.
    pub async fn begin(&mut self) -> Result<()> {
        self.database.forget_audit().await?;
        for (name, spec) in self.database.specs().await? {
            self.initial.insert(name, self.database.table_rows(&spec).await?);
        }
        let topics = format!("{}.", self.prefix());
        self.sampler =
            Some(Sampler::start(&self.database.server, &self.database.slot(), &self.kafka, &topics));
        Ok(())
    }

    /// Starts the product and does not wait.
    pub fn spawn(&mut self, config: Config) -> Result<Headwater> {
        self.spawn_with(config, &[])
    }

    /// Starts the product with more environment variables and does not wait.
    pub fn spawn_with(&mut self, config: Config, environment: &[(&str, &str)]) -> Result<Headwater> {
        self.launch(&["run"], config, environment)
    }

    /// Starts a long-running subcommand, such as `run` with flags, and does not wait.
    pub fn spawn_command(&mut self, arguments: &[&str], config: Config) -> Result<Headwater> {
        self.launch(arguments, config, &[])
    }

    fn launch(
        &mut self,
        arguments: &[&str],
        config: Config,
        environment: &[(&str, &str)],
    ) -> Result<Headwater> {
        let http = servers::free_port();
        let path = self.write_config(&config.set("http.listen", format!("127.0.0.1:{http}")))?;
        let log = self.directory.path().join(format!("headwater-{}.log", self.logs.len()));
        self.logs.push(log.clone());
        Headwater::start(arguments, &path, http, &log, environment)
    }

    /// Writes a configuration file.
    pub fn write_config(&self, config: &Config) -> Result<PathBuf> {
        let path = self.directory.path().join(format!("headwater-{}.toml", self.logs.len()));
        config.write(&path)?;
        Ok(path)
    }

    /// Waits until the slot has confirmed everything written so far.
    pub async fn settle(&self) -> Result<()> {
        self.settle_within(CATCH_UP).await
    }

    /// Waits so long at most until the slot has confirmed everything written so far.
    pub async fn settle_within(&self, limit: Duration) -> Result<()> {
        let target = self.database.lsn("select pg_current_wal_flush_lsn()").await?;
        let mut confirmed = None;
        until(limit, "the slot to catch up", async || {
            confirmed = self.database.confirmed().await?;
            Ok(confirmed.is_some_and(|confirmed| confirmed >= target))
        })
        .await
        .with_context(|| format!("confirmed {confirmed:X?} of {target:X}; log:\n{}", self.last_log()))
    }

    fn last_log(&self) -> String {
        let text = self.logs.last().and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// All raw records of this test's table topics.
    pub fn raw_records(&self) -> Result<Vec<Raw>> {
        tokio::task::block_in_place(|| kafka::read_all(&self.kafka.bootstrap, &format!("{}.", self.prefix())))
    }

    /// All raw records of one topic.
    pub fn raw_topic(&self, topic: &str) -> Result<Vec<Raw>> {
        let records = tokio::task::block_in_place(|| kafka::read_all(&self.kafka.bootstrap, topic))?;
        Ok(records.into_iter().filter(|record| record.topic == topic).collect())
    }

    /// Everything the checker judges, as of now. Call it when the slot has settled.
    pub async fn evidence(&mut self) -> Result<Evidence> {
        let raw = self.raw_records()?;
        self.evidence_with(raw).await
    }

    /// The same, of these records.
    pub async fn evidence_with(&mut self, raw: Vec<Raw>) -> Result<Evidence> {
        let samples = match self.sampler.take() {
            Some(sampler) => sampler.finish().await,
            None => Vec::new(),
        };
        let tables = self.database.specs().await?;
        let mut last = std::collections::BTreeMap::new();
        for (name, spec) in &tables {
            last.insert(name.clone(), self.database.table_rows(spec).await?);
        }
        let mut decoder = Decoder::new(&self.kafka.registry);
        let records = tokio::task::block_in_place(|| decode_all(raw, &mut decoder))?;
        let audit = self.database.audit_rows().await?;
        let noted = audit.iter().filter_map(|row| row.spec.as_ref());
        let topics: std::collections::BTreeSet<String> =
            tables.values().chain(noted).map(|spec| topic_of(self.prefix(), spec)).collect();
        for record in &records {
            if !topics.contains(&record.topic) {
                bail!("a topic of no captured table: {}", record.topic);
            }
        }
        Ok(Evidence {
            prefix: self.prefix().to_owned(),
            database: self.database.name.clone(),
            tables,
            audit,
            unfolded: self.unfolded.clone(),
            reselected: self.reselected.clone(),
            commits: self.database.commits().await?,
            initial: std::mem::take(&mut self.initial),
            last,
            records,
            samples,
        })
    }

    /// Judges, and fails the test on any untruth. Call it when the slot has settled.
    pub async fn check(&mut self, repeats: Repeats) -> Result<Report> {
        let evidence = self.evidence().await?;
        self.judge(&evidence, repeats)
    }

    /// The same, of evidence that the test has prepared.
    pub fn judge(&self, evidence: &Evidence, repeats: Repeats) -> Result<Report> {
        let report = checker::check(evidence, repeats);
        report.expect_true();
        println!(
            "{}: {} transactions, {} records, {} repeated, {} samples",
            self.prefix(),
            report.transactions,
            report.records,
            report.duplicates,
            report.samples
        );
        Ok(report)
    }

    /// Runs a subcommand to its end.
    pub fn command(&self, arguments: &[&str], config: &Config) -> Result<std::process::Output> {
        let path = self.directory.path().join(format!("command-{}.toml", servers::free_port()));
        config.write(&path)?;
        let mut command = std::process::Command::new(super::headwater::BINARY);
        command.args(arguments).arg("-c").arg(path).stdin(std::process::Stdio::null());
        tokio::task::block_in_place(|| command.output()).context("run headwater")
    }

    /// A captured table's definition in one call.
    pub async fn capture(&self, schema: &str, tables: &[&str]) -> Result<()> {
        self.database.execute(schema).await?;
        self.database.capture(tables).await
    }

    /// The specification's topic.
    pub fn topic(&self, table: &str) -> String {
        let name = TableName::new(table);
        format!("{}.{}.{}", self.prefix(), name.schema, name.table)
    }

    async fn finish(mut self) -> Result<()> {
        if let Some(sampler) = self.sampler.take() {
            sampler.finish().await;
        }
        for log in &self.logs {
            let text = std::fs::read_to_string(log)?;
            let leak = text.lines().find(|line| line.contains(CANARY));
            ensure!(leak.is_none(), "a row's value is in the log: {leak:?}");
            for line in complaints(&text) {
                // Tests share a server, and a slot's creation waits for the transactions of all of them.
                let neighbours = line.contains("creating the slot waits for a transaction");
                let expected =
                    neighbours || self.expected_complaints.iter().any(|words| line.contains(words));
                ensure!(expected, "an unexpected complaint in {}: {line}", log.display());
            }
        }
        self.database.drop().await
    }
}

/// Decodes the records of table topics.
pub fn decode_all(raw: Vec<Raw>, decoder: &mut Decoder) -> Result<Vec<Record>> {
    raw.into_iter().map(|raw| decode_one(raw, decoder)).collect()
}

fn decode_one(raw: Raw, decoder: &mut Decoder) -> Result<Record> {
    let at = format!("{} partition {} offset {}", raw.topic, raw.partition, raw.offset);
    let ids = raw.headers.iter().filter(|(name, _)| name == "headwater.id").count();
    ensure!(ids == 1, "{at}: {ids} headers headwater.id");
    let id = parse_id(&raw.header("headwater.id").expect("counted")).with_context(|| at.clone())?;
    let key = raw
        .key
        .as_deref()
        .map(|bytes| decoder.decode(bytes)?.key())
        .transpose()
        .with_context(|| at.clone())?;
    let value = raw.value.as_deref().map(|bytes| decoder.decode(bytes)?.change()).transpose();
    Ok(Record {
        id,
        key,
        change: value.with_context(|| at.clone())?,
        topic: raw.topic,
        partition: raw.partition,
        offset: raw.offset,
        key_bytes: raw.key,
        value_bytes: raw.value,
        headers: raw.headers,
    })
}

/// `<commit LSN>/<ordinal>`; the LSN itself has a slash.
pub fn parse_id(text: &str) -> Result<Id> {
    let (lsn, ordinal) = text.rsplit_once('/').with_context(|| format!("odd headwater.id {text}"))?;
    let commit_lsn = match lsn.contains('/') {
        true => super::database::parse_lsn(lsn)?,
        false => lsn.parse()?,
    };
    Ok(Id { commit_lsn, ordinal: ordinal.parse()? })
}
