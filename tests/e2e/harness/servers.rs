//! The real servers: one Kafka, one registry and the Postgres versions that tests share, and private ones for tests
//! that stop servers. `deploy/local/stack` starts them; a watcher process ends them when this test process ends,
//! however it ends. Servers named in the environment (`KAFKA_BOOTSTRAP`, `SCHEMA_REGISTRY_URL`, `PG16_URL` …) are
//! used as they are.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock};

use anyhow::{Context, Result, ensure};

use super::process;

/// What starts them.
pub const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/stack");

/// A Postgres server with trust authentication on loopback.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Where it listens.
    pub port: u16,
    /// The major version.
    pub version: u32,
}

/// Where records and schemas go.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// For `bootstrap_servers`.
    pub bootstrap: String,
    /// The registry's base address.
    pub registry: String,
}

/// One run directory of `deploy/local/stack`, which chooses its own ports.
struct Stack {
    run: PathBuf,
}

impl Stack {
    fn new(name: &str) -> Result<Stack> {
        let run = std::env::temp_dir().join(format!("headwater-e2e-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&run)?;
        let stack = Stack { run };
        stack.end_with_this_process()?;
        Ok(stack)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("HEADWATER_LOCAL_RUN", &self.run)
            // Those of another stack, when the tests run inside `make test`.
            .env_remove("HEADWATER_LOCAL_PORTS")
            // Nothing here survives a power cut, and no test cuts it.
            .env("PG_EXTRA", "-c fsync=off")
            .stdin(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<String> {
        let output =
            self.command(SCRIPT).args(arguments).output().with_context(|| format!("start {SCRIPT}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "stack {}: {errors}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The value of a variable of `stack env`.
    fn export(&self, name: &str) -> Result<String> {
        let words = self.call(&["env"])?;
        let value = words.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
        Ok(value.with_context(|| format!("no {name} in `stack env`"))?.to_owned())
    }

    fn port_of_postgres(&self, version: u32) -> Result<u16> {
        port_of(&self.export(&format!("PG{version}_URL"))?)
    }

    /// `tail --pid` waits for this process, then the stack goes with its data: also after a panic or kill -9.
    fn end_with_this_process(&self) -> Result<()> {
        let rest = r#"tail --pid="$1" -f /dev/null; "$2" wipe; rm -rf "$3""#;
        self.command("setsid")
            .args(["sh", "-c", rest, "sh", &std::process::id().to_string(), SCRIPT])
            .arg(&self.run)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the watcher that ends the servers")?;
        Ok(())
    }

    fn pid(&self, server: &str) -> Result<u32> {
        Ok(self.call(&["pid", server])?.trim().parse()?)
    }
}

fn port_of(url: &str) -> Result<u16> {
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    port.with_context(|| format!("no port in {url}"))
}

/// The stack whose servers tests share, unless the environment names servers.
fn shared_stack() -> Result<&'static Stack> {
    static STACK: OnceLock<Stack> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = lock(&MAKING);
    if STACK.get().is_none() {
        STACK.set(Stack::new("shared")?).ok();
    }
    Ok(STACK.get().expect("set above"))
}

/// The Kafka and the registry that tests share.
pub fn kafka() -> Result<Kafka> {
    static STARTED: Mutex<Option<Kafka>> = Mutex::new(None);
    let mut started = lock(&STARTED);
    if let Some(kafka) = &*started {
        return Ok(kafka.clone());
    }
    let kafka = match (std::env::var("KAFKA_BOOTSTRAP"), std::env::var("SCHEMA_REGISTRY_URL")) {
        (Ok(bootstrap), Ok(registry)) => Kafka { bootstrap, registry },
        _ => {
            let stack = shared_stack()?;
            stack.call(&["up", "kafka", "registry"])?;
            Kafka {
                bootstrap: stack.export("KAFKA_BOOTSTRAP")?,
                registry: stack.export("SCHEMA_REGISTRY_URL")?,
            }
        }
    };
    *started = Some(kafka.clone());
    Ok(kafka)
}

/// The shared Postgres of a major version.
pub fn postgres(version: u32) -> Result<Postgres> {
    static STARTED: Mutex<BTreeMap<u32, Postgres>> = Mutex::new(BTreeMap::new());
    let mut started = lock(&STARTED);
    if let Some(postgres) = started.get(&version) {
        return Ok(postgres.clone());
    }
    let port = match std::env::var(format!("PG{version}_URL")) {
        Ok(url) => port_of(&url)?,
        Err(_) => {
            let stack = shared_stack()?;
            stack.call(&["up", "pg", &version.to_string()])?;
            stack.port_of_postgres(version)?
        }
    };
    let postgres = Postgres { port, version };
    started.insert(version, postgres.clone());
    Ok(postgres)
}

/// A Postgres of one test's own, which it may stop.
pub struct PrivatePostgres {
    stack: Stack,
    /// How to reach it.
    pub postgres: Postgres,
}

/// How a Postgres is stopped: `pg_ctl -m fast` and `-m immediate`.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Sessions are ended, walsenders send what is left, a checkpoint is written.
    Fast,
    /// As in a crash.
    Immediate,
}

impl PrivatePostgres {
    /// A new cluster, started.
    pub fn start(name: &str, version: u32) -> Result<PrivatePostgres> {
        let stack = Stack::new(name)?;
        stack.call(&["up", "pg", &version.to_string()])?;
        let port = stack.port_of_postgres(version)?;
        Ok(PrivatePostgres { stack, postgres: Postgres { port, version } })
    }

    /// A physical standby of it, started; it is stopped for a moment to be copied.
    pub fn standby(&self, name: &str) -> Result<PrivatePostgres> {
        let standby = PrivatePostgres::start(name, self.postgres.version)?;
        for server in [&standby, self] {
            server.stop(Stop::Fast)?;
        }
        let (from, to) = (self.data()?, standby.data()?);
        let copy = format!(
            "rm -rf '{to}' && cp -a '{from}' '{to}' && cp -a '{to}/PG_VERSION' '{to}/standby.signal' &&
             printf '%s\n' \"primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\" 'hot_standby_feedback = on' \
               >>'{to}/postgresql.conf'",
            self.postgres.port
        );
        let status = Command::new("sh").args(["-ec", &copy]).status()?;
        ensure!(status.success(), "copying {from} to {to} failed");
        self.start_again()?;
        standby.start_again()?;
        Ok(standby)
    }

    fn data(&self) -> Result<String> {
        let log = self.stack.call(&["log", "pg", &self.postgres.version.to_string()])?;
        let folder = log.trim().strip_suffix("/log").context("the path of a log")?;
        Ok(format!("{folder}/data"))
    }

    /// Stops it and waits until it is gone.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.stack.call(&["pg-stop", &self.postgres.version.to_string(), mode]).map(drop)
    }

    /// Starts it again on the same port.
    pub fn start_again(&self) -> Result<()> {
        self.stack.call(&["pg-start", &self.postgres.version.to_string()]).map(drop)
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // The watcher does it again, and more loudly, if this fails.
        self.stack.call(&["wipe"]).ok();
    }
}

/// The second Kafka, for tests that freeze or stop one. The guard keeps other such tests out.
pub struct FaultKafka {
    stack: &'static Stack,
    /// How to reach it; the registry is the shared one.
    pub kafka: Kafka,
    _alone: MutexGuard<'static, ()>,
}

impl FaultKafka {
    /// Waits for its turn and starts the broker if it does not run.
    pub fn take() -> Result<FaultKafka> {
        static ALONE: Mutex<()> = Mutex::new(());
        static STACK: OnceLock<Stack> = OnceLock::new();
        let alone = lock(&ALONE);
        if STACK.get().is_none() {
            STACK.set(Stack::new("fault")?).ok();
        }
        let stack = STACK.get().expect("set above");
        stack.call(&["up", "kafka"])?;
        let kafka = Kafka { bootstrap: stack.export("KAFKA_BOOTSTRAP")?, registry: kafka()?.registry };
        Ok(FaultKafka { stack, kafka, _alone: alone })
    }

    /// The broker stops answering, its sockets stay.
    pub fn freeze(&self) -> Result<()> {
        process::signal(self.stack.pid("kafka")?, "STOP")
    }

    /// The broker goes on where it was.
    pub fn thaw(&self) -> Result<()> {
        process::signal(self.stack.pid("kafka")?, "CONT")
    }

    /// The broker is shut down.
    pub fn stop(&self) -> Result<()> {
        self.stack.call(&["stop", "kafka"]).map(drop)
    }

    /// The broker is started with the data it had.
    pub fn start_again(&self) -> Result<()> {
        self.stack.call(&["start", "kafka"]).map(drop)
    }
}

impl Drop for FaultKafka {
    fn drop(&mut self) {
        self.thaw().ok();
    }
}

/// A guard also after another test panicked: the servers are fine, only that test is not.
fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A port that nobody listens on, below those that stacks choose from and those of outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new((std::process::id() % 40) as u16 * 100));
    loop {
        let port = 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 4000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
