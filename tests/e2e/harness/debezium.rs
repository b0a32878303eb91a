//! A real Debezium: the PostgreSQL connector with Avro in a standalone Kafka Connect, one process of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::database::{Database, PUBLICATION};
use super::process;
use super::servers::{Kafka, SCRIPT, free_port};

/// The connector's name.
pub const CONNECTOR: &str = "shop-connector";

/// A running worker with its one connector.
pub struct Debezium {
    child: Child,
    log: PathBuf,
    /// The worker's properties.
    pub worker: PathBuf,
    /// The connector's properties.
    pub connector: PathBuf,
    /// Where Connect keeps the connector's position.
    pub offsets: PathBuf,
}

impl Debezium {
    /// Starts it with its defaults, on the database's slot and publication and the test's topics.
    pub fn start(database: &Database, kafka: &Kafka, prefix: &str, directory: &Path) -> Result<Debezium> {
        Debezium::start_with(database, kafka, prefix, directory, "")
    }

    /// The same with more properties of the connector.
    pub fn start_with(
        database: &Database,
        kafka: &Kafka,
        prefix: &str,
        directory: &Path,
        more: &str,
    ) -> Result<Debezium> {
        let path = |name: &str| directory.join(name);
        let (worker, connector, offsets) =
            (path("worker.properties"), path("connector.properties"), path("offsets"));
        std::fs::write(&worker, worker_properties(kafka, &offsets))?;
        std::fs::write(&connector, connector_properties(database, prefix) + more)?;
        let log = path("connect.log");
        let out = std::fs::File::create(&log)?;
        let child = Command::new(SCRIPT)
            .arg("debezium")
            .args([&worker, &connector])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("start Debezium")?;
        Ok(Debezium { child, log, worker, connector, offsets })
    }

    /// Waits until it streams from its slot.
    pub async fn streaming(&mut self, database: &Database) -> Result<()> {
        let active =
            format!("select active from pg_replication_slots where slot_name = '{}'", database.slot());
        let deadline = Instant::now() + Duration::from_secs(120);
        while database.value(&active).await?.as_deref() != Some("t") {
            if let Some(status) = self.child.try_wait()? {
                bail!("Debezium ended with {status}:\n{}", self.log_tail());
            }
            ensure!(Instant::now() < deadline, "Debezium does not stream:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self) -> Result<()> {
        process::signal(self.child.id(), "TERM")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "Debezium does not stop:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it has stored a position.
    pub fn has_offset(&self) -> bool {
        std::fs::metadata(&self.offsets).is_ok_and(|file| file.len() > 200)
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Debezium {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn worker_properties(kafka: &Kafka, offsets: &Path) -> String {
    let registry = kafka.registry.replace("/ccompat/v7", "/registry/v2");
    let mut text = format!(
        "bootstrap.servers={}\nlisteners=http://127.0.0.1:{}\noffset.storage.file.filename={}\noffset.flush.interval.ms=2000\n",
        kafka.bootstrap,
        free_port(),
        offsets.display()
    );
    for part in ["key", "value"] {
        text += &format!(
            "{part}.converter=io.apicurio.registry.utils.converter.AvroConverter
{part}.converter.apicurio.registry.url={registry}
{part}.converter.apicurio.registry.auto-register=true
{part}.converter.apicurio.registry.as-confluent=true
{part}.converter.apicurio.registry.use-id=contentId
{part}.converter.apicurio.registry.headers.enabled=false
"
        );
    }
    text
}

fn connector_properties(database: &Database, prefix: &str) -> String {
    format!(
        "name={CONNECTOR}
connector.class=io.debezium.connector.postgresql.PostgresConnector
tasks.max=1
plugin.name=pgoutput
database.hostname=127.0.0.1
database.port={}
database.user=postgres
database.password=unused
database.dbname={}
topic.prefix={prefix}
slot.name={}
publication.name={PUBLICATION}
publication.autocreate.mode=disabled
snapshot.mode=no_data
schema.name.adjustment.mode=avro
field.name.adjustment.mode=avro
topic.creation.default.partitions=3
topic.creation.default.replication.factor=1
",
        database.server.port,
        database.name,
        database.slot()
    )
}
