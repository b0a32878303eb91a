//! `headwater status`: what a running instance says of itself, and what the server says of its slot.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use headwater_pg::slot::SlotState;
use headwater_pipeline::{ExitCode, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::check::human_bytes;
use crate::Shared;

/// Whom to ask.
#[derive(Args)]
pub struct Arguments {
    /// The instance's address, if it is not the configuration's `http.listen`.
    #[arg(long, value_name = "HOST:PORT")]
    instance: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// An instance answers at once or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Prints both; fails when no instance answers.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    let instance = instance_of(arguments.instance.as_deref(), config.listen);
    let (answer, slot) = super::block_on(async {
        Ok(tokio::join!(ask(instance.as_deref()), look_at_slot(&config.settings)))
    })?;
    let text = if arguments.json {
        json_text(&answer, &slot)
    } else {
        let mut text = instance_text(instance.as_deref(), &answer);
        text.push_str(&slot_text(&config.settings.slot, &slot));
        if let Ok(status) = &answer {
            text.push_str(&tables_text(status));
        }
        text
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if answer.is_ok() { ExitCode::Success } else { ExitCode::Unexpected })
}

/// Where the running instance answers, if that is known.
pub(super) fn instance_of(asked: Option<&str>, listen: Option<SocketAddr>) -> Option<String> {
    asked.map(str::to_owned).or_else(|| listen.map(|listen| reachable(listen).to_string()))
}

/// An instance that listens on every address answers on the loopback one.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(if listen.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() });
    }
    listen
}

async fn ask(instance: Option<&str>) -> anyhow::Result<Value> {
    let Some(instance) = instance else {
        bail!("the configuration has no [http] listen, so a running instance can't be asked");
    };
    match request(instance, "GET", "/status", None, ANSWER_TIMEOUT).await? {
        (200, body) => serde_json::from_str(&body).context("the answer is no status of headwater"),
        (code, _) => bail!("it answered with the status {code}"),
    }
}

/// One request over HTTP/1.0, whose answer ends with the connection (RFC 1945); what answers is our own endpoint.
pub(super) async fn request(
    instance: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
    limit: Duration,
) -> anyhow::Result<(u16, String)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {instance}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(instance).await?;
        stream.write_all((head + &body).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(limit, exchange)
        .await
        .with_context(|| format!("no answer in {} s", limit.as_secs()))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer is not HTTP")?;
    Ok((code, body.to_owned()))
}

async fn look_at_slot(settings: &Settings) -> anyhow::Result<Option<SlotState>> {
    let client = headwater_pg::connect(&settings.postgres).await.context("connect to Postgres")?;
    headwater_pg::slot::slot_state(&client, &settings.slot).await.context("look at the slot")
}

fn line(text: &mut String, name: &str, value: &str) {
    writeln!(text, "{name:<14}{value}").expect("a String takes everything");
}

fn instance_text(instance: Option<&str>, answer: &anyhow::Result<Value>) -> String {
    let mut text = String::new();
    let place = instance.unwrap_or("unknown");
    let status = match answer {
        Ok(status) => status,
        Err(error) => {
            line(&mut text, "instance", &format!("none answers at {place}: {error:#}"));
            return text;
        }
    };
    let readiness = &status["readiness"];
    let state = readiness["state"].as_str().unwrap_or("unknown");
    let about = ["doing", "reason", "owner"].iter().find_map(|key| readiness[key].as_str());
    let state = about.map_or_else(|| state.to_owned(), |about| format!("{state}: {about}"));
    line(&mut text, "instance", &format!("{place}, {state}"));
    let bytes = status["lag_bytes"].as_u64().unwrap_or(0);
    let seconds = status["lag_seconds"].as_f64().unwrap_or(0.0);
    line(&mut text, "lag", &format!("{} of WAL, {seconds:.1} s", human_bytes(bytes)));
    for position in ["server", "received", "acknowledged", "confirmed"] {
        line(&mut text, position, status["positions"][position].as_str().unwrap_or("unknown"));
    }
    text
}

fn slot_text(name: &str, slot: &anyhow::Result<Option<SlotState>>) -> String {
    let mut text = String::new();
    let state = match slot {
        Ok(Some(state)) => state,
        Ok(None) => {
            line(&mut text, "slot", &format!("{name} does not exist"));
            return text;
        }
        Err(error) => {
            line(&mut text, "slot", &format!("{name}: {error:#}"));
            return text;
        }
    };
    let in_use =
        state.active_pid.map_or_else(|| "not in use".to_owned(), |pid| format!("in use by process {pid}"));
    let bytes = |bytes: i64| human_bytes(u64::try_from(bytes).unwrap_or(0));
    let mut about = format!("{name}, {in_use}");
    if let Some(retained) = state.retained_wal_bytes {
        write!(about, ", holds {} of WAL", bytes(retained)).expect("a String takes everything");
    }
    if let Some(safe) = state.safe_wal_size {
        write!(about, ", {} more until it is lost", bytes(safe)).expect("a String takes everything");
    }
    if let Some(why) = &state.invalidation {
        write!(about, ", LOST: {why}").expect("a String takes everything");
    }
    line(&mut text, "slot", &about);
    if let Some(lsn) = state.confirmed_flush_lsn {
        line(&mut text, "", &format!("confirmed {lsn} according to the server"));
    }
    text
}

/// The counts since the instance started: a row per table, a column per operation.
fn tables_text(status: &Value) -> String {
    let Some(tables) = status["tables"].as_object().filter(|tables| !tables.is_empty()) else {
        return "\nno record since it started\n".to_owned();
    };
    let present: BTreeSet<&str> =
        tables.values().filter_map(Value::as_object).flat_map(|ops| ops.keys().map(String::as_str)).collect();
    let known = OPERATIONS.iter().map(|(code, _)| *code).filter(|code| present.contains(code));
    let unknown = present.iter().copied().filter(|code| OPERATIONS.iter().all(|(known, _)| known != code));
    let ops: Vec<&str> = known.chain(unknown).collect();
    let width = tables.keys().map(|name| name.chars().count()).max().unwrap_or(0).max("records".len());
    let mut text = format!("\n{:<width$}", "records");
    for op in &ops {
        write!(text, "  {:>10}", op_name(op)).expect("a String takes everything");
    }
    text.push('\n');
    for (name, counts) in tables {
        write!(text, "{name:<width$}").expect("a String takes everything");
        for op in &ops {
            let count = counts[op].as_u64().unwrap_or(0);
            write!(text, "  {count:>10}").expect("a String takes everything");
        }
        text.push('\n');
    }
    text
}

/// Codes of operations and what people call them, in the order of the columns.
const OPERATIONS: &[(&str, &str)] = &[
    ("c", "inserted"),
    ("u", "updated"),
    ("d", "deleted"),
    ("tombstone", "tombstones"),
    ("event", "events"),
];

fn op_name(code: &str) -> &str {
    OPERATIONS.iter().find(|(known, _)| *known == code).map_or(code, |(_, name)| name)
}

fn json_text(answer: &anyhow::Result<Value>, slot: &anyhow::Result<Option<SlotState>>) -> String {
    let instance = match answer {
        Ok(status) => status.clone(),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    let slot = match slot {
        Ok(None) => Value::Null,
        Ok(Some(slot)) => json!({
            "name": slot.name,
            "active_pid": slot.active_pid,
            "confirmed_flush_lsn": slot.confirmed_flush_lsn.map(|lsn| lsn.to_string()),
            "restart_lsn": slot.restart_lsn.map(|lsn| lsn.to_string()),
            "wal_status": slot.wal_status,
            "retained_wal_bytes": slot.retained_wal_bytes,
            "safe_wal_bytes": slot.safe_wal_size,
            "invalidation": slot.invalidation,
        }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    format!("{:#}\n", json!({ "instance": instance, "slot": slot }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_counts() {
        let status =
            json!({ "tables": { "public.inventory": { "c": 1200, "d": 3 }, "outbox": { "event": 7 } } });
        assert_eq!(
            tables_text(&status),
            "\nrecords             inserted     deleted      events\n\
             outbox                     0           0           7\n\
             public.inventory        1200           3           0\n"
        );
        assert_eq!(tables_text(&json!({})), "\nno record since it started\n");
    }

    #[test]
    fn nobody_answers() {
        let answer = Err(anyhow::anyhow!("Connection refused"));
        assert_eq!(
            instance_text(Some("127.0.0.1:9187"), &answer),
            "instance      none answers at 127.0.0.1:9187: Connection refused\n"
        );
        assert_eq!(slot_text("hw", &Ok(None)), "slot          hw does not exist\n");
    }

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        for (listen, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), asked);
        }
    }
}
