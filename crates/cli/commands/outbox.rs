//! `headwater outbox`: what became of the events of outbox tables with a status, and what to do about them. All of it is
//! done in the database; a running instance is not needed, and sees it.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table as Grid, presets};
use headwater_outbox::listing::{self, Filter};
use headwater_outbox::table::{self, Table};
use headwater_pg::Client;
use headwater_pipeline::ExitCode;
use serde_json::{Value, json};

use crate::Shared;

/// What to do.
#[derive(Args)]
pub struct Arguments {
    /// The outbox table, where the configuration has several.
    #[arg(long, value_name = "SCHEMA.TABLE", global = true)]
    outbox: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List rows, the newest first.
    Ls {
        /// NEW, SENT, PROCESSED, FAILED, DEAD, CANCELLED or BLOCKED.
        #[arg(long, value_parser = status_word)]
        status: Option<String>,
        /// Of this event type.
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Of this aggregate, by its id.
        #[arg(long, value_name = "ID")]
        aggregate: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show all of one row.
    Show {
        /// The event's id.
        id: String,
    },
    /// Send rows again that failed, with all their attempts before them.
    Retry {
        /// The events' ids.
        #[arg(required_unless_present = "status")]
        ids: Vec<String>,
        /// All rows in this status, FAILED or DEAD.
        #[arg(long, conflicts_with = "ids", value_parser = ["FAILED", "DEAD"])]
        status: Option<String>,
    },
    /// Give rows up that are not processed. What is on its way is not called back.
    Cancel {
        /// The events' ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Count rows by status.
    Stats {
        /// Also those that are at their end, which reads the whole table.
        #[arg(long)]
        all: bool,
    },
    /// Take rows away that are at their end: whole days of headwater.outbox, rows of other tables.
    Cleanup {
        /// Written more than so many days ago.
        #[arg(long, value_name = "DAYS")]
        older_than: u16,
        /// SENT is the end, where no consumer answers.
        #[arg(long)]
        sent: bool,
    },
    /// Send the events of a time again, whatever became of them.
    Replay {
        /// Written at or after this time, as Postgres reads it: '2026-01-31 12:00 UTC'.
        #[arg(long, value_name = "TIME")]
        from: String,
        /// Written before this time.
        #[arg(long, value_name = "TIME")]
        to: String,
        /// Of this event type.
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
    },
}

/// Rows that one command retries at most.
const RETRIED_MAX: i64 = 100_000;

fn status_word(text: &str) -> Result<String, String> {
    let words: Vec<_> = headwater_outbox::Status::WORDS.iter().map(|(word, _)| *word).collect();
    let text = text.to_uppercase();
    if words.contains(&text.as_str()) { Ok(text) } else { Err(format!("there are {}", words.join(", "))) }
}

/// Connects, does it and prints.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    let Some(outbox) = config.outbox else {
        bail!("the configuration has no [[outbox]] with status = true");
    };
    super::block_on(async {
        let named = |table: &&headwater_pipeline::settings::OutboxTable| {
            arguments.outbox.as_ref().is_none_or(|name| *name == format!("{}.{}", table.schema, table.table))
        };
        let table = outbox.tables.iter().find(named).context("no [[outbox]] of that name has a status")?;
        let client = headwater_pg::connect(&outbox.postgres).await.context("connect to Postgres")?;
        let table = table::load(&client, table).await?;
        act(&client, &table, arguments).await
    })
}

async fn act(client: &Client, table: &Table, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    match &arguments.action {
        Action::Ls { status, event_type, aggregate, limit } => {
            let filter = Filter {
                status: status.clone(),
                event_type: event_type.clone(),
                aggregateid: aggregate.clone(),
            };
            let rows = listing::list(client, table, &filter, i64::from(*limit)).await?;
            let rows = rows.iter().map(|row| serde_json::from_str(row)).collect::<Result<Vec<Value>, _>>()?;
            print(json, &Value::Array(rows.clone()), || list_text(&rows));
        }
        Action::Show { id } => {
            let Some(row) = listing::show(client, table, id).await? else {
                bail!("{} has no event {id}", table.name);
            };
            let row: Value = serde_json::from_str(&row)?;
            print(json, &row, || row_text(&row));
        }
        Action::Retry { ids, status } => {
            let ids = match status {
                Some(status) => listing::ids_in(client, table, status, RETRIED_MAX).await?,
                None => ids.clone(),
            };
            tell(json, "sent again", listing::retry(client, table, &ids).await?);
        }
        Action::Cancel { ids } => tell(json, "cancelled", listing::cancel(client, table, ids).await?),
        Action::Stats { all } => {
            let stats: Value = serde_json::from_str(&listing::stats(client, table, *all).await?)?;
            print(json, &stats, || row_text(&stats));
        }
        Action::Cleanup { older_than, sent } => {
            let taken = listing::clean_up(client, table, i32::from(*older_than), *sent).await?;
            print(json, &json!({ "removed": taken }), || match taken.as_slice() {
                [] => "nothing is old enough and at its end\n".to_owned(),
                taken => taken.iter().map(|what| format!("removed {what}\n")).collect(),
            });
        }
        Action::Replay { from, to, event_type } => {
            tell(json, "sent again", listing::replay(client, table, from, to, event_type.as_deref()).await?);
        }
    }
    Ok(ExitCode::Success)
}

fn print(as_json: bool, json: &Value, text: impl FnOnce() -> String) {
    if as_json { println!("{json}") } else { print!("{}", text()) }
}

fn tell(as_json: bool, what: &str, rows: u64) {
    print(as_json, &json!({ "rows": rows }), || format!("{rows} rows {what}\n"));
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn grid() -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    grid
}

fn list_text(rows: &[Value]) -> String {
    const COLUMNS: [&str; 9] = [
        "id",
        "status",
        "attempt",
        "type",
        "aggregatetype",
        "aggregateid",
        "created_at",
        "failed_by",
        "reason",
    ];
    let mut grid = grid();
    grid.set_header(COLUMNS);
    for row in rows {
        grid.add_row(COLUMNS.map(|column| cell(&row[column])));
    }
    format!("{}\n", grid.trim_fmt())
}

fn row_text(row: &Value) -> String {
    let mut grid = grid();
    for (name, value) in row.as_object().into_iter().flatten() {
        grid.add_row([name.clone(), cell(value)]);
    }
    format!("{}\n", grid.trim_fmt())
}
