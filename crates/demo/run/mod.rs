//! What starts the services of a scenario, breaks them and looks at them: the scenario's director, not a service.

mod kafka;
mod mailbox;
mod process;
mod prometheus;
mod relay;
mod scenario;

pub use kafka::{Group, Record};
pub use mailbox::Mailbox;
pub use process::Process;
pub use prometheus::prometheus_config;
pub use relay::{Relay, apply_config, relay_config};
pub use scenario::{Playing, Scenario, Settings, perform};

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;
use tokio_postgres::{Client, Config};

use crate::database::{self, Database};
use crate::service::Stop;

/// Of each topic.
pub const PARTITIONS: i32 = 3;

/// Real servers, and where the scenario may write.
#[derive(Args, Clone)]
pub struct Servers {
    /// A superuser's postgres://user@host:port/database; the scenario creates databases of its own on that server.
    #[arg(long, env = "PG16_URL")]
    pub postgres_url: String,
    /// Kafka's host:port.
    #[arg(long, env = "KAFKA_BOOTSTRAP")]
    pub bootstrap: String,
    /// The schema registry's base URL.
    #[arg(long, env = "SCHEMA_REGISTRY_URL")]
    pub registry: String,
    /// Configurations and logs are written here.
    #[arg(long)]
    pub folder: PathBuf,
    /// Begins the names of databases, slots, topics and groups.
    #[arg(long)]
    pub name: String,
    /// The headwater binary; beside this one if not said.
    #[arg(long)]
    pub headwater: Option<PathBuf>,
    /// The script that runs the mail server.
    #[arg(long, default_value = "deploy/local/stack")]
    pub stack: PathBuf,
    /// The first of 100 ports for services.
    #[arg(long, default_value_t = 21_000)]
    pub ports: u16,
}

/// The name of the director's sessions.
const DIRECTOR: &str = "director";

/// Where a scenario plays: its servers, its folder, and what it has said.
pub struct Stage {
    pub servers: Servers,
    pub http: reqwest::Client,
    next_port: AtomicU16,
    begun: Instant,
    said: Mutex<Vec<String>>,
    databases: Mutex<Vec<String>>,
    /// SIGTERM and Ctrl-C, from the beginning on.
    pub stop: Stop,
}

impl Stage {
    /// Makes the folder.
    pub fn new(servers: &Servers) -> Result<Stage> {
        std::fs::create_dir_all(&servers.folder)
            .with_context(|| format!("cannot make {}", servers.folder.display()))?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let stop =
            STOP.get_or_init(|| Stop::at_signals().ok()).clone().context("cannot listen for signals")?;
        Ok(Stage {
            next_port: AtomicU16::new(servers.ports),
            servers: servers.clone(),
            http,
            begun: Instant::now(),
            said: Mutex::default(),
            databases: Mutex::default(),
            stop,
        })
    }

    /// Prints a line with the time since the beginning, and keeps it for the page.
    pub fn say(&self, line: impl AsRef<str>) {
        let line = format!("{:6.1} s  {}", self.begun.elapsed().as_secs_f64(), line.as_ref());
        println!("{line}");
        self.said.lock().expect("nobody panics with it").push(line);
    }

    /// The last lines that were said.
    pub fn said(&self, count: usize) -> Vec<String> {
        let said = self.said.lock().expect("nobody panics with it");
        said[said.len().saturating_sub(count)..].to_vec()
    }

    /// A name with the scenario's in front of it.
    pub fn named(&self, rest: &str) -> String {
        format!("{}_{rest}", self.servers.name)
    }

    /// A path in the scenario's folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.servers.folder.join(file)
    }

    /// An address on loopback that nobody listens on.
    pub fn address(&self) -> String {
        loop {
            let address = format!("127.0.0.1:{}", self.next_port.fetch_add(1, Ordering::Relaxed));
            if TcpListener::bind(&address).is_ok() {
                return address;
            }
        }
    }

    /// The URL of a database of the scenario.
    pub fn database_url(&self, database: &str) -> Result<String> {
        let (server, _) = self.servers.postgres_url.rsplit_once('/').context("the URL names no database")?;
        Ok(format!("{server}/{database}"))
    }

    /// The same, for the director's own sessions, which are not cut with the others.
    pub fn own_url(&self, database: &str) -> Result<String> {
        Ok(format!("{}?application_name={DIRECTOR}", self.database_url(database)?))
    }

    /// Ends the sessions of all others in a database, as a failover would.
    pub async fn cut_sessions(&self, database: &str) -> Result<()> {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = $1 AND application_name <> $2";
        self.server().await?.execute(sql, &[&self.named(database), &DIRECTOR]).await?;
        Ok(())
    }

    /// Creates a database, anew if it exists, and runs `scripts` in it.
    pub async fn create_database(&self, rest: &str, scripts: &[&str]) -> Result<Database> {
        let name = self.named(rest);
        // what an earlier run left behind when it was killed
        self.drop_database(&name).await?;
        self.server().await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let database = Database::new(&self.own_url(&name)?)?;
        for script in scripts {
            database.execute(script).await.with_context(|| format!("cannot fill database {name}"))?;
        }
        self.databases.lock().expect("nobody panics with it").push(name);
        Ok(database)
    }

    /// Drops the databases and their slots, once everything has ended.
    async fn clean(&self) -> Result<()> {
        let databases = std::mem::take(&mut *self.databases.lock().expect("nobody panics with it"));
        for name in databases {
            self.drop_database(&name).await?;
        }
        Ok(())
    }

    async fn drop_database(&self, name: &str) -> Result<()> {
        let server = self.server().await?;
        let slots =
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1";
        server.execute(slots, &[&name]).await.with_context(|| format!("cannot drop the slots of {name}"))?;
        Ok(server.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?)
    }

    async fn server(&self) -> Result<Client> {
        let server: Config =
            self.servers.postgres_url.parse().context("cannot read the URL of PostgreSQL")?;
        database::connect(&server).await
    }

    /// Topics, as a deployment makes them; those that are there stay as they are.
    pub async fn make_topics(&self, names: &[&str]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.servers.bootstrap).create()?;
        let topics: Vec<_> = names
            .iter()
            .map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)).set("retention.ms", "-1"))
            .collect();
        let results = admin.create_topics(&topics, &AdminOptions::new()).await;
        for result in results.context("cannot make topics")? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => bail!("cannot make topic {topic}: {code}"),
            }
        }
        Ok(())
    }

    fn headwater_program(&self) -> Result<PathBuf> {
        let program = match &self.servers.headwater {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("headwater"),
        };
        if !program.exists() {
            bail!("there is no {}: cargo build --release --workspace --bins", program.display());
        }
        Ok(program)
    }

    /// A process of the headwater binary.
    pub fn headwater(&self, name: &'static str, what: &'static str, arguments: &[&str]) -> Result<Process> {
        Ok(Process::new(name, what, self.headwater_program()?, arguments, &self.servers.folder))
    }

    /// `headwater outbox …`, what a person on call would type.
    pub async fn outbox(&self, config: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.headwater_program()?);
        command.arg("outbox").args(arguments).arg("-c").arg(config);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        if !output.status.success() {
            bail!("headwater outbox {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A process of one of the services of this crate.
    pub fn service(&self, name: &'static str, what: &'static str, arguments: &[&str]) -> Result<Process> {
        Ok(Process::new(name, what, std::env::current_exe()?, arguments, &self.servers.folder))
    }

    /// Whether a GET of `url` answers 200.
    pub async fn answers(&self, url: &str) -> bool {
        self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until a GET of `url` answers 200, which takes `processes` that run: one that has ended says why.
    pub async fn until_answers(&self, url: &str, processes: &[Process]) -> Result<()> {
        until(&format!("an answer of {url}"), async || {
            if let Some(words) = processes.iter().find_map(Process::last_words) {
                bail!(words);
            }
            Ok(self.answers(url).await)
        })
        .await
    }

    /// Plays a script until its end, or until a signal.
    pub async fn play(&self, script: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::select! {
            result = script => result,
            () = self.stop.wanted() => bail!("stopped before the script was at its end"),
        }
    }

    /// Ends the processes in good order; what a scenario that failed leaves behind stays to be looked at.
    pub async fn end(&self, processes: impl IntoIterator<Item = &Process>, result: Result<()>) -> Result<()> {
        for process in processes {
            if let Some(status) = process.stop().await? {
                ensure!(status.success() || result.is_err(), "{} ended with {status}", process.name);
            }
        }
        result?;
        self.clean().await
    }

    /// Writes a file into the folder.
    pub fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// SIGTERM and Ctrl-C: whoever waits for a process that ended by the same signal would wait in vain.
static STOP: OnceLock<Option<Stop>> = OnceLock::new();

/// How long a step waits for what it expects: far more than it takes, since the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    until_within(PATIENCE, what, condition).await
}

/// The same with another patience.
pub async fn until_within(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !condition().await.with_context(|| format!("waiting for {what}"))? {
        if STOP.get().is_some_and(|stop| stop.as_ref().is_some_and(Stop::is_wanted)) {
            bail!("stopped while waiting for {what}");
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The path as an argument.
pub fn argument(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))
}
