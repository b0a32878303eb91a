//! The real servers: one Kafka, one registry and the Postgres versions that tests share, and private ones for tests
//! that stop servers. `deploy/local/stack` starts them; a watcher process ends them when this test process ends,
//! however it ends. Servers named in the environment (`KAFKA_BOOTSTRAP`, `SCHEMA_REGISTRY_URL`, `PG16_URL` …) are
//! used as they are.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock};

use anyhow::{Context, Result, ensure};

use super::process;

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

/// One run directory of `deploy/local/stack` with its own ports.
struct Stack {
    run: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Stack {
    fn new(name: &str, environment: Vec<(&'static str, String)>) -> Result<Stack> {
        let run = std::env::temp_dir().join(format!("headwater-e2e-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&run)?;
        let mut environment = environment;
        environment.push(("HEADWATER_LOCAL_RUN", run.display().to_string()));
        // Nothing here survives a power cut, and no test cuts it.
        environment.push(("PG_EXTRA", "-c fsync=off -c max_connections=200".into()));
        let stack = Stack { run, environment };
        stack.end_with_this_process()?;
        Ok(stack)
    }

    fn call(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(script())
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {}", script().display()))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "stack {}: {errors}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn exports(&self) -> Result<HashMap<String, String>> {
        let words = self.call(&["env"])?;
        let pairs = words.split_whitespace().filter_map(|word| word.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned())).collect())
    }

    /// `tail --pid` waits for this process, then the stack goes with its data: also after a panic or kill -9.
    fn end_with_this_process(&self) -> Result<()> {
        let rest = r#"tail --pid="$1" -f /dev/null; "$2" wipe; rm -rf "$3""#;
        Command::new("setsid")
            .args(["sh", "-c", rest, "sh"])
            .arg(std::process::id().to_string())
            .arg(script())
            .arg(&self.run)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the watcher that ends the servers")?;
        Ok(())
    }

    fn pid(&self, server: &str) -> Result<u32> {
        let path = self.run.join(server).join("pid");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim().parse()?)
    }
}

fn script() -> PathBuf {
    match std::env::var_os("HEADWATER_STACK") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local/stack"),
    }
}

/// The stack whose servers tests share, with ports for five versions of Postgres.
fn shared_stack() -> Result<&'static Stack> {
    static STACK: OnceLock<Stack> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = lock(&MAKING);
    if STACK.get().is_none() {
        let ports = free_ports(24);
        let stack = Stack::new(
            "shared",
            vec![
                ("KAFKA_PORT", ports.to_string()),
                ("REGISTRY_PORT", (ports + 2).to_string()),
                ("PG_PORT_BASE", (ports - 10).to_string()), // 14 to 18 become ports+4 to ports+8
            ],
        )?;
        STACK.set(stack).ok();
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
            let mut exports = stack.exports()?;
            let mut take = |name: &str| exports.remove(name).with_context(|| format!("no {name} in `stack env`"));
            Kafka { bootstrap: take("KAFKA_BOOTSTRAP")?, registry: take("SCHEMA_REGISTRY_URL")? }
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
    let url = match std::env::var(format!("PG{version}_URL")) {
        Ok(url) => url,
        Err(_) => {
            let stack = shared_stack()?;
            stack.call(&["up", "pg", &version.to_string()])?;
            let name = format!("PG{version}_URL");
            stack.exports()?.remove(&name).with_context(|| format!("no {name} in `stack env`"))?
        }
    };
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    let postgres = Postgres { port: port.with_context(|| format!("no port in {url}"))?, version };
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
        let port = free_ports(1);
        let base = port - u16::try_from(version)?;
        let stack = Stack::new(name, vec![("PG_PORT_BASE", base.to_string())])?;
        stack.call(&["up", "pg", &version.to_string()])?;
        Ok(PrivatePostgres { stack, postgres: Postgres { port, version } })
    }

    /// The postmaster, from its own file.
    fn pid(&self) -> Result<u32> {
        let exports = self.stack.exports()?;
        let run = exports.get("PG_RUN").context("no PG_RUN in `stack env`")?;
        let path = Path::new(run).join(format!("pg{}/data/postmaster.pid", self.postgres.version));
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.lines().next().unwrap_or("").parse()?)
    }

    /// Stops it and waits until it is gone.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let pid = self.pid()?;
        let signal = match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        };
        process::signal(pid, signal)?;
        process::wait_gone(pid)
    }

    /// Starts it again on the same port.
    pub fn start_again(&self) -> Result<()> {
        self.stack.call(&["up", "pg", &self.postgres.version.to_string()]).map(drop)
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
            let environment = vec![("KAFKA_PORT", free_ports(2).to_string()), ("KAFKA_HEAP", "256m".into())];
            STACK.set(Stack::new("fault", environment)?).ok();
        }
        let stack = STACK.get().expect("set above");
        stack.call(&["up", "kafka"])?;
        let bootstrap = stack.exports()?.remove("KAFKA_BOOTSTRAP").context("no KAFKA_BOOTSTRAP in `stack env`")?;
        let kafka = Kafka { bootstrap, registry: kafka()?.registry };
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
        self.stack.call(&["down", "kafka"]).map(drop)
    }

    /// The broker is started with the data it had.
    pub fn start_again(&self) -> Result<()> {
        self.stack.call(&["up", "kafka"]).map(drop)
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

/// The first of `count` ports in a row that nobody listens on, below the range for outgoing connections.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(20_000 + (std::process::id() % 150) as u16 * 80));
    loop {
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        assert!(first < 32_700, "no free ports below 32768");
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}
