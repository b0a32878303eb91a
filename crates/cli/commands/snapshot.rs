//! `headwater snapshot`: asks the running instance to copy tables while it streams, and shows how that goes.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use headwater_pipeline::ExitCode;
use serde_json::{Value, json};

use super::check::human_bytes;
use super::status::{instance_of, request};
use crate::Shared;

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
    },
}

/// An answer may wait for the chunk that is under way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks, and prints the answer; fails when it is a refusal.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    let Some(instance) = instance_of(arguments.instance.as_deref(), config.listen) else {
        bail!("the configuration has no [http] listen, so a running instance can't be asked");
    };
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
    let (code, answer) = super::block_on(async {
        request(&instance, method, path, body, ANSWER_TIMEOUT)
            .await
            .with_context(|| format!("no instance of headwater answers at {instance}"))
    })?;
    if code != 200 {
        bail!("{}", answer.trim());
    }
    let text = match &arguments.action {
        Action::Status { json: false } => {
            table_text(&serde_json::from_str(&answer).context("read the answer")?)
        }
        _ => answer,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::Success)
}

/// `schema.table=condition`.
fn condition(text: &str) -> anyhow::Result<(&str, &str)> {
    let (table, condition) = text.split_once('=').with_context(|| {
        format!("\"{text}\" is not TABLE=CONDITION; write for example \"public.orders=total > 100\"")
    })?;
    Ok((table.trim(), condition.trim()))
}

fn table_text(status: &Value) -> String {
    let Some(tables) = status["tables"].as_object() else { return "no snapshot was made yet\n".to_owned() };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text =
        format!("snapshot {}, {}, {}\n", word(&status["id"]), word(&status["kind"]), word(&status["state"]));
    if let Some(waiting) = status["waiting"].as_str() {
        text.push_str(&format!("waiting: {waiting}\n"));
    }
    if let Some(age) = status["transaction_age_seconds"].as_f64() {
        text.push_str(&format!("its transaction is {age:.0} s old\n"));
    }
    let width = tables.keys().map(String::len).max().unwrap_or(0).max(5);
    text.push_str(&format!(
        "{:width$}  {:8}  {:>12}  {:>12}  {:>9}\n",
        "table", "state", "rows", "of about", "bytes"
    ));
    for (name, table) in tables {
        let number = |key: &str| table[key].as_u64().unwrap_or(0);
        let (rows, estimated) = (number("rows"), number("rows_estimated"));
        let bytes = human_bytes(number("bytes"));
        let state = word(&table["state"]);
        text.push_str(&format!("{name:width$}  {state:8}  {rows:>12}  {estimated:>12}  {bytes:>9}\n"));
        if let Some(error) = table["error"].as_str() {
            text.push_str(&format!("  {error}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_split_at_the_first_sign() {
        assert_eq!(condition("public.t = a = 1").unwrap(), ("public.t", "a = 1"));
        assert!(condition("a > 1").unwrap_err().to_string().contains("TABLE=CONDITION"));
    }

    #[test]
    fn a_status_is_a_table() {
        let status = json!({
            "id": "initial", "kind": "initial", "state": "running", "waiting": null,
            "transaction_age_seconds": 3.2,
            "tables": { "public.orders": { "state": "copying", "rows": 5, "rows_estimated": 10, "bytes": 2048, "error": null } },
        });
        let text = table_text(&status);
        assert!(text.contains("snapshot initial, initial, running"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("public.orders  copying"), "{text}");
        assert_eq!(table_text(&Value::Null), "no snapshot was made yet\n");
    }
}
