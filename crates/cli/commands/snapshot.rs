//! `headwater snapshot`: asks the running instance to copy tables while it streams, and shows how that goes.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use headwater_pipeline::ExitCode;
use serde_json::{Value, json};

use super::status::{instance_of, request};
use crate::Shared;
use crate::snapshot_text::table_text;

/// Whom to ask, and for what.
#[derive(Args)]
pub struct Arguments {
    /// The instance's address, if it is not the configuration's `http.listen`.
    #[arg(long, value_name = "HOST:PORT", global = true)]
    instance: Option<String>,
    #[command(subcommand)]
    action: Action,
}

/// What can be asked for.
#[derive(Subcommand)]
enum Action {
    /// Copy tables as they are now, beside the stream.
    Start {
        /// Tables, `schema.table`; `*` stands for any characters and `?` for any one.
        #[arg(required = true)]
        tables: Vec<String>,
        /// Only the rows for which this SQL condition holds, as TABLE=CONDITION; may be given several times.
        #[arg(long = "where", value_name = "TABLE=CONDITION")]
        conditions: Vec<String>,
        /// A name for it.
        #[arg(long)]
        id: Option<String>,
    },
    /// Copy no further until `resume`; the stream goes on.
    Pause,
    /// Go on.
    Resume,
    /// End it, or the copy of these tables; what was written stays.
    Cancel {
        /// Tables, as for `start`.
        tables: Vec<String>,
    },
    /// Show how it goes.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Show it again every second until it is over; with `--json`, a line each time.
        #[arg(long)]
        watch: bool,
    },
}

/// An answer may wait for the chunk that is under way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Asks, and prints the answer; fails when it is a refusal.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    let Some(instance) = instance_of(arguments.instance.as_deref(), config.listen) else {
        bail!("the configuration has no [http] listen, so a running instance can't be asked");
    };
    if let Action::Status { json, watch: true } = arguments.action {
        return super::block_on(watch(&instance, json));
    }
    let (method, path, body) = match &arguments.action {
        Action::Start { tables, conditions, id } => {
            let filters =
                conditions.iter().map(|text| condition(text)).collect::<anyhow::Result<Vec<_>>>()?;
            ("POST", "/snapshot/start", json!({ "id": id, "tables": tables, "filters": filters }))
        }
        Action::Pause => ("POST", "/snapshot/pause", json!({})),
        Action::Resume => ("POST", "/snapshot/resume", json!({})),
        Action::Cancel { tables } => ("POST", "/snapshot/cancel", json!({ "tables": tables })),
        Action::Status { .. } => ("GET", "/snapshot", Value::Null),
    };
    let body = (!body.is_null()).then_some(&body);
    let answer = super::block_on(ask(&instance, method, path, body))?;
    let text = match &arguments.action {
        Action::Status { json: false, .. } => {
            table_text(&serde_json::from_str(&answer).context("read the answer")?)
        }
        _ => answer,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::Success)
}

/// The answer, which is no refusal.
async fn ask(instance: &str, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<String> {
    let asked = request(instance, method, path, body, ANSWER_TIMEOUT).await;
    let (code, answer) = asked.with_context(|| match path {
        "/snapshot" => format!("no instance of headwater answers at {instance}"),
        _ => format!(
            "the instance at {instance} has not answered within {} s, or there is none. A command that was not answered \
             is not carried out; headwater snapshot status says what the snapshot waits for",
            ANSWER_TIMEOUT.as_secs()
        ),
    })?;
    if code != 200 {
        bail!("{}", answer.trim());
    }
    Ok(answer)
}

/// Shows the status again and again until there is nothing more to see. On a terminal each takes the place of the one
/// before.
async fn watch(instance: &str, json: bool) -> anyhow::Result<ExitCode> {
    let in_place = std::io::stdout().is_terminal() && !json;
    let mut lines_before = 0;
    loop {
        let answer = ask(instance, "GET", "/snapshot", None).await?;
        let status: Value = serde_json::from_str(&answer).context("read the answer")?;
        let text = if json { format!("{status}\n") } else { table_text(&status) };
        let mut out = std::io::stdout().lock();
        if in_place && lines_before > 0 {
            // Cursor to the first line of the last one, and what is below it away (ECMA-48: CPL, ED).
            write!(out, "\x1b[{lines_before}F\x1b[J")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        drop(out);
        lines_before = text.lines().count();
        if !matches!(status["state"].as_str(), Some("running" | "paused")) {
            return Ok(ExitCode::Success);
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// `schema.table=condition`.
fn condition(text: &str) -> anyhow::Result<(&str, &str)> {
    let (table, condition) = text.split_once('=').with_context(|| {
        format!("\"{text}\" is not TABLE=CONDITION; write for example \"public.orders=total > 100\"")
    })?;
    Ok((table.trim(), condition.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_split_at_the_first_sign() {
        assert_eq!(condition("public.t = a = 1").unwrap(), ("public.t", "a = 1"));
        assert!(condition("a > 1").unwrap_err().to_string().contains("TABLE=CONDITION"));
    }
}
