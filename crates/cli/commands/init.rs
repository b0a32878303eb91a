//! `headwater init`: publication, topics and slot, in this order, after showing what will be done.
//!
//! A publication must exist before the slot's start point, or the slot could never be decoded with it.
//! What exists is left as it is, so `init` can be run again.

use anyhow::{Context, bail};
use clap::Args;
use headwater_kafka::{Admin, CreateOutcome, NewTopic};
use headwater_pg::Client;
use headwater_pg::catalog::quote_identifier;
use headwater_pg::publication::publications;
use headwater_pipeline::first_start::SlotOutcome;
use headwater_pipeline::route::Routes;
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::{ExitCode, Halt, Settings};

use crate::Shared;
use crate::config::qualified_name;

/// What goes into a publication that does not exist yet.
#[derive(Args)]
pub struct Arguments {
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// A table for the new publication, `schema.table`; may be repeated. Outbox tables are added by themselves.
    #[arg(long = "table", value_name = "SCHEMA.TABLE", conflicts_with = "all_tables")]
    tables: Vec<String>,
    /// Put all tables into the new publication, future ones too. Needs a superuser.
    #[arg(long)]
    all_tables: bool,
}

/// Shows the plan, then carries it out.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    super::block_on(init(&config.settings, arguments))?;
    Ok(ExitCode::Success)
}

async fn init(settings: &Settings, arguments: &Arguments) -> anyhow::Result<()> {
    let client = headwater_pg::connect(&settings.postgres).await.context("connect to Postgres")?;
    let statements = publication_statements(&client, settings, arguments).await?;
    for statement in &statements {
        println!("{statement}");
        if !arguments.dry_run {
            client
                .batch_execute(statement)
                .await
                .map_err(headwater_pg::Error::from)
                .context(
                "create the publication (this takes the CREATE right on the database and ownership of the tables; \
                 whoever has them can run the statement above)",
            )?;
        }
    }
    if let SinkSettings::Kafka { kafka, .. } = &settings.sink {
        let topics = wanted_topics(&client, settings, arguments).await?;
        create_topics(kafka.clone(), topics, arguments.dry_run).await?;
    }
    create_slot(&client, settings, arguments.dry_run).await
}

/// The statements that make the publications that are missing.
async fn publication_statements(
    client: &Client,
    settings: &Settings,
    arguments: &Arguments,
) -> anyhow::Result<Vec<String>> {
    let existing = publications(client, &settings.publications).await.context("look for the publications")?;
    let missing: Vec<&String> = settings
        .publications
        .iter()
        .filter(|name| !existing.iter().any(|publication| publication.name == **name))
        .collect();
    for publication in &existing {
        println!("-- publication {} exists, {} tables", publication.name, publication.tables.len());
    }
    match missing.as_slice() {
        [] => Ok(Vec::new()),
        [one] => Ok(vec![create_publication(one, settings, arguments)?]),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            bail!(Halt::new(
                ExitCode::PublicationMissing,
                format!(
                    "publications {} do not exist, and init can't know which table belongs to which",
                    names.join(", ")
                ),
                format!(
                    "create them by hand: CREATE PUBLICATION {} FOR TABLE …;",
                    quote_identifier(names[0])
                ),
            ))
        }
    }
}

fn create_publication(name: &str, settings: &Settings, arguments: &Arguments) -> anyhow::Result<String> {
    // Changes of partitions go to one topic, that of the partitioned table.
    const OPTIONS: &str = "WITH (publish_via_partition_root = true)";
    let name = quote_identifier(name);
    if arguments.all_tables {
        return Ok(format!("CREATE PUBLICATION {name} FOR ALL TABLES {OPTIONS};"));
    }
    if arguments.tables.is_empty() {
        bail!(Halt::new(
            ExitCode::PublicationMissing,
            format!("publication {name} does not exist"),
            "say what goes into it: headwater init --table schema.table (may be repeated), or --all-tables",
        ));
    }
    let mut tables = Vec::new();
    for table in &arguments.tables {
        let Some((schema, table)) = qualified_name(table) else {
            let what = format!("--table {table} is not schema.table");
            bail!(Halt::new(ExitCode::Configuration, what, "write for example --table public.inventory"));
        };
        tables.push(format!("{}.{}", quote_identifier(&schema), quote_identifier(&table)));
    }
    for outbox in &settings.outbox {
        let table = format!("{}.{}", quote_identifier(&outbox.schema), quote_identifier(&outbox.table));
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    Ok(format!("CREATE PUBLICATION {name} FOR TABLE {} {OPTIONS};", tables.join(", ")))
}

/// One topic for each published table; in a dry run also for those that would be published.
async fn wanted_topics(
    client: &Client,
    settings: &Settings,
    arguments: &Arguments,
) -> anyhow::Result<Vec<NewTopic>> {
    let existing = publications(client, &settings.publications).await.context("look for the publications")?;
    let routes = if arguments.dry_run && existing.is_empty() {
        Routes::of(settings, arguments.tables.iter().filter_map(|table| qualified_name(table)))
    } else {
        super::check::routes(settings, &existing)
    };
    let names = routes.topics();
    // The publication stays: it is `run` that would halt.
    if let Some(halt) = routes.problems.into_iter().next() {
        bail!(halt);
    }
    let shape = &settings.topics;
    let new_topic = |name| NewTopic {
        name,
        partitions: shape.partitions,
        replication_factor: shape.replication_factor,
        config: shape.config.clone(),
    };
    Ok(if shape.create { names.into_iter().map(new_topic).collect() } else { Vec::new() })
}

/// The Kafka client blocks, so it has a thread of its own.
async fn create_topics(
    kafka: headwater_kafka::Settings,
    topics: Vec<NewTopic>,
    dry_run: bool,
) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let admin = Admin::new(&kafka)?;
        for topic in topics {
            let name = &topic.name;
            if let Some(state) = admin.topic(name)? {
                println!("-- topic {name} exists, {} partitions", state.partitions);
                continue;
            }
            println!("{}", topic_command(&topic));
            if !dry_run && admin.create_topic(&topic)? == CreateOutcome::Existed {
                println!("-- topic {name} was created by somebody else meanwhile");
            }
        }
        Ok::<(), headwater_kafka::Error>(())
    })
    .await
    .context("wait for the Kafka client")?
    .context("create topics")
}

/// What a person would type for it.
fn topic_command(topic: &NewTopic) -> String {
    let NewTopic { name, partitions, replication_factor, config } = topic;
    let mut command = format!("kafka-topics.sh --create --topic {name} --partitions {partitions}");
    if *replication_factor > 0 {
        command.push_str(&format!(" --replication-factor {replication_factor}"));
    }
    for (setting, value) in config {
        command.push_str(&format!(" --config {setting}={value}"));
    }
    command
}

async fn create_slot(client: &Client, settings: &Settings, dry_run: bool) -> anyhow::Result<()> {
    let slot = &settings.slot;
    let exists = headwater_pg::slot::slot_state(client, slot).await.context("look at the slot")?.is_some();
    if exists {
        println!("-- slot {slot} exists");
        return Ok(());
    }
    println!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput;  -- with its checkpoint, before and after");
    if dry_run {
        return Ok(());
    }
    match headwater_pipeline::first_start::create_slot(settings).await? {
        SlotOutcome::Created(at) => println!("-- slot {slot} starts at {at}"),
        SlotOutcome::Existed => println!("-- slot {slot} was created by somebody else meanwhile"),
    }
    Ok(())
}
