//! `headwater schema`: what tables look like in the registry, now and after a change that is only planned.
//!
//! Nothing here registers anything, and nothing here touches the slot or the schema history.

mod show;

mod plan;

mod changes;

mod scratch;

mod on_source;

mod statement;

mod pretty;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use headwater_avro::registry::{Registry, RegistryError};
use headwater_pg::Client;
use headwater_pg::lock_wait::{LockWait, telling_locks};
use headwater_pipeline::present::{PresentTable, Schemas, present_tables};
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::{ExitCode, Halt, Settings};

use crate::Shared;
use crate::commands::chain;

/// What to do with schemas.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the schemas of a table's next record, with their subjects, as JSON.
    Show {
        /// The table, `schema.table`; it must be in a configured publication.
        table: String,
        /// Print only the body of the request that registers the schema of this part, for
        /// `curl -X POST -d @- REGISTRY/subjects/SUBJECT/versions`.
        #[arg(long, value_name = "PART")]
        request: Option<Part>,
    },
    /// Compare all published tables with the registry: what is new, what changes, and whether the registry would take
    /// it. Exits with 40 when it would refuse something. With `--sql`, what a statement would change.
    Plan(PlanArguments),
}

/// One half of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Key,
    Value,
}

/// What to plan.
#[derive(Args)]
struct PlanArguments {
    /// A DDL statement to try out; exits with 48 when it fails or is refused.
    #[arg(long, value_name = "STATEMENT")]
    sql: Option<String>,
    /// Where to try it: a database `headwater_plan_…` is made on this server, gets empty copies of the published tables,
    /// and is dropped again. The role needs CREATEDB.
    #[arg(long, value_name = "URL", requires = "sql", conflicts_with = "on_source")]
    scratch_url: Option<String>,
    /// Try it on the source itself: one statement that is known to change the catalog only, with `lock_timeout = 1s`,
    /// rolled back. It takes the same locks as the real one for as long as a look at the catalog takes.
    #[arg(long, requires = "sql")]
    on_source: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    super::block_on(async {
        match &arguments.command {
            Command::Show { table, request } => show::run(&config.settings, table, *request).await,
            Command::Plan(arguments) => plan(&config.settings, arguments).await,
        }
    })
}

async fn plan(settings: &Settings, arguments: &PlanArguments) -> anyhow::Result<ExitCode> {
    let registry = registry(settings)?;
    let client = connect(settings).await?;
    let plan = match &arguments.sql {
        None => {
            let tables = present(&client, settings).await?;
            plan::of_present(&registry, settings, tables).await?
        }
        Some(sql) => {
            let changed = match (&arguments.scratch_url, arguments.on_source) {
                (Some(url), _) => scratch::run(&client, settings, url, sql).await?,
                (None, true) => on_source::run(&client, settings, sql).await?,
                (None, false) => bail!(Halt::new(
                    ExitCode::Configuration,
                    "--sql needs a place to be tried",
                    "--scratch-url postgres://… for empty copies of the tables elsewhere, or --on-source, which locks them for a moment",
                )),
            };
            plan::of_change(&registry, settings, changed).await?
        }
    };
    let stdout = std::io::stdout().lock();
    if arguments.json {
        plan.write_json(stdout)?
    } else {
        plan.write_text(stdout)?
    }
    Ok(if plan.is_refused() { ExitCode::SchemaIncompatible } else { ExitCode::Success })
}

/// With `auto_register = false`: every published table must have its schemas in the registry before its rows come. A
/// registry or a server that is away is no answer; the pipeline waits for both.
pub async fn check_registered(settings: &Settings) -> Result<(), Halt> {
    let SinkSettings::Kafka { registry: Some(registry), .. } = &settings.sink else { return Ok(()) };
    if registry.auto_register {
        return Ok(());
    }
    let Ok(registry) = Registry::new(registry) else { return Ok(()) };
    let Ok(client) = headwater_pg::connect(&settings.postgres).await else { return Ok(()) };
    let tell = |wait: Option<&LockWait>| {
        if let Some(wait) = wait {
            tracing::warn!("looking up the published tables waits for {wait}");
        }
    };
    let present = present_tables(&client, settings, &settings.postgres.database);
    let Ok(tables) = telling_locks(&settings.postgres, &[client.backend_pid()], tell, present).await else {
        return Ok(());
    };
    let missing = not_registered(&registry, &tables).await;
    match missing {
        Ok(missing) if missing.is_empty() => Ok(()),
        Ok(missing) => Err(Halt::new(
            ExitCode::SchemaIncompatible,
            missing.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>().join("\n"),
            advice_to_register(settings, &missing),
        )),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "the schemas of the published tables can't be looked up yet"
            );
            Ok(())
        }
    }
}

/// The tables whose schemas the registry does not have, each with what is wrong.
pub async fn not_registered(
    registry: &Registry,
    tables: &[PresentTable],
) -> Result<Vec<(Missing, String)>, RegistryError> {
    let mut missing = Vec::new();
    for table in tables {
        let Schemas::Record { key, value } = &table.schemas else { continue };
        for (part, schema) in [("key", key.as_ref()), ("value", Some(value))] {
            let Some(schema) = schema else { continue };
            match registry.schema_id(&schema.subject, &schema.json).await {
                Ok(_) => {}
                Err(error @ RegistryError::NotRegistered { .. }) => {
                    let subject = schema.subject.0.clone();
                    missing.push((Missing { table: table.name(), part, subject }, chain(&error)));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(missing)
}

/// A schema that the registry does not have.
pub struct Missing {
    /// `schema.table`.
    pub table: String,
    /// `key` or `value`.
    pub part: &'static str,
    /// Where it is looked for.
    pub subject: String,
}

/// The commands that register what is missing.
pub fn advice_to_register(settings: &Settings, missing: &[(Missing, String)]) -> String {
    let SinkSettings::Kafka { registry: Some(registry), .. } = &settings.sink else { return String::new() };
    let place = registry.urls.first().map_or("REGISTRY", |url| url.trim_end_matches('/'));
    let lines = missing.iter().map(|(Missing { table, part, subject }, _)| {
        format!(
            "headwater schema show {table} --request {part} | curl -X POST \
             -H 'Content-Type: application/vnd.schemaregistry.v1+json' -d @- {place}/subjects/{subject}/versions"
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn registry(settings: &Settings) -> anyhow::Result<Registry> {
    let SinkSettings::Kafka { registry: Some(registry), .. } = &settings.sink else {
        bail!(Halt::new(
            ExitCode::Configuration,
            "this sink has no schema registry to compare with",
            "sink.type = \"kafka\"; headwater schema show works without",
        ));
    };
    Registry::new(registry).context("use the section [schema_registry]")
}

async fn connect(settings: &Settings) -> anyhow::Result<Client> {
    headwater_pg::connect(&settings.postgres).await.context("connect to Postgres")
}

/// The published tables; none at all is a mistake in the configuration.
async fn present(client: &Client, settings: &Settings) -> anyhow::Result<Vec<PresentTable>> {
    let tables = present_tables(client, settings, &settings.postgres.database)
        .await
        .context("read the published tables from the catalog")?;
    if tables.is_empty() {
        bail!(Halt::new(
            ExitCode::PublicationMissing,
            format!("nothing is published by {}", settings.publications.join(", ")),
            "headwater check says which publication is missing or empty",
        ));
    }
    Ok(tables)
}

/// An answer of the registry that makes a plan impossible.
fn registry_failed(error: &RegistryError) -> Halt {
    Halt::new(
        ExitCode::RegistryRefused,
        chain(error),
        "check schema_registry.url, that the registry runs, and the credentials",
    )
}
