//! Real servers: those that the environment names, or else their own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The services and their scenarios.
const BINARY: &str = env!("CARGO_BIN_EXE_headwater-demo");
/// What starts the servers.
const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/local/stack");
const VARIABLES: [&str; 3] = ["PG16_URL", "KAFKA_BOOTSTRAP", "SCHEMA_REGISTRY_URL"];

/// Values of `VARIABLES`.
fn servers() -> &'static [(String, String)] {
    static SERVERS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let given = VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let given: Vec<_> = given.collect();
        if given.len() == VARIABLES.len() { given } else { started() }
    })
}

/// The value of one of `VARIABLES`.
pub fn server(variable: &str) -> &'static str {
    let found = servers().iter().find(|(name, _)| name == variable);
    &found.expect("one of VARIABLES").1
}

/// A stack of this test's own; a watcher wipes it when this process has ended, however it ends.
fn started() -> Vec<(String, String)> {
    let run = std::env::temp_dir().join(format!("headwater-demo-{}", std::process::id()));
    std::fs::create_dir_all(&run).expect("a folder for the servers");
    let stack = |program: &str| {
        let mut command = Command::new(program);
        command.env("HEADWATER_LOCAL_RUN", &run).env_remove("HEADWATER_LOCAL_PORTS").stdin(Stdio::null());
        command
    };
    let rest = r#"tail --pid="$1" -f /dev/null; "$2" wipe; rm -rf "$3""#;
    let watcher = stack("setsid")
        .args(["sh", "-c", rest, "sh", &std::process::id().to_string(), STACK])
        .arg(&run)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    assert!(watcher.is_ok(), "the watcher that ends the servers: {watcher:?}");
    let up = stack(STACK).args(["up", "kafka", "registry", "pg", "16"]).status().expect("the stack runs");
    assert!(up.success(), "the servers did not start");
    let env = stack(STACK).arg("env").output().expect("the stack runs");
    let env = String::from_utf8(env.stdout).expect("addresses are UTF-8");
    let value = |name: &str| {
        env.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    VARIABLES.iter().map(|name| ((*name).to_owned(), value(name).expect("stack env names it"))).collect()
}

/// A folder for one test's files.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The first of 100 ports that are this process's, and of no other run on this machine: their first one is held as long
/// as the process lives. They are below those that the system gives to connections, since a service that is stopped and
/// started has to find its port free again.
fn ports() -> u16 {
    for first in (19_000..32_000).step_by(100) {
        if let Ok(held) = TcpListener::bind(("127.0.0.1", first)) {
            std::mem::forget(held);
            return first;
        }
    }
    panic!("no 100 ports are free between 19000 and 32000");
}

/// An address on loopback that nobody listens on, and that no other run takes.
pub fn address() -> String {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(ports()));
    loop {
        let address = format!("127.0.0.1:{}", next.fetch_add(1, Ordering::Relaxed));
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// `scenario`, ready to be started; its logs are in the folder.
pub fn scenario(scenario: &str) -> (Command, PathBuf) {
    let ports = ports();
    let name = format!("{scenario}{}p{ports}", std::process::id());
    let folder = folder(&name);
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    let mut command = Command::new(BINARY);
    command
        .args([scenario, "--name", &name, "--stack", STACK, "--ports", &ports.to_string(), "--folder"])
        .arg(&folder)
        .envs(servers().iter().map(|(name, value)| (name, value)));
    (command, folder)
}

/// A process that ends with this, by SIGTERM, so that it can end its own.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        Command::new("kill").arg(self.0.id().to_string()).status().ok();
        self.0.wait().ok();
    }
}
