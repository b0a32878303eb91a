//! `headwater import-debezium`: a Debezium connector's configuration becomes Headwater's, and each of its keys is
//! told what becomes of it.
//!
//! In: a file of JSON or properties, or the address of a Connect worker (`source`). Through THE table of Debezium's
//! properties (`property_table`, with `transforms`, `converters` and `kafka` beside it). Out: a configuration that
//! this version's loader takes, without secrets, and a report on standard output.

mod source;

mod property_table;

mod combined;

mod transforms;

mod routers;
mod signals;

mod converters;

mod kafka;

mod outbox_options;
mod patterns;

mod translate;

mod document;

mod report;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use headwater_pipeline::{ExitCode, Halt};

use crate::Shared;
use source::Connector;
use translate::{Options, Translation};

/// What to import, and where to.
#[derive(Args)]
pub struct Arguments {
    /// A connector's JSON, a .properties file (of a standalone worker, or Debezium Server's application.properties),
    /// or the address of a Connect worker, http://connect:8083.
    source: String,
    /// The connector's name, where a worker has several.
    #[arg(long, value_name = "NAME")]
    connector: Option<String>,
    /// Where the configuration is written to. A file that exists is left alone.
    #[arg(long, value_name = "FILE", default_value = "headwater.toml")]
    output: PathBuf,
    /// Write over a file that exists.
    #[arg(long)]
    force: bool,
    /// The Connect worker's own properties: brokers, converters, where offsets are.
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Kafka's brokers, host:port,…; over what connector and worker say.
    #[arg(long, value_name = "SERVERS")]
    bootstrap_servers: Option<String>,
    /// The schema registry's address; over what the converters say.
    #[arg(long, value_name = "URL")]
    schema_registry_url: Option<String>,
    /// A table that the connector's outbox router reads, `schema.table`; may be repeated.
    #[arg(long = "outbox-table", value_name = "SCHEMA.TABLE")]
    outbox_tables: Vec<String>,
}

/// Writes the configuration and prints the report.
pub fn run(_: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let connector =
        source::read(&arguments.source, arguments.connector.as_deref(), arguments.worker.as_deref())
            .map_err(|error| {
                Halt::new(
                    ExitCode::Configuration,
                    format!("{error:#}"),
                    "see docs/MIGRATING.md for what can be imported",
                )
            })?;
    let options = Options {
        bootstrap_servers: arguments.bootstrap_servers.clone(),
        registry_url: arguments.schema_registry_url.clone(),
        outbox_tables: arguments.outbox_tables.clone(),
    };
    let translation = translate::translate(&connector, &options);
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report::write(&translation.verdicts))?;
    if !translation.missing.is_empty() {
        bail!(incomplete(&translation.missing));
    }
    write_file(&arguments.output, &translation.toml, arguments.force)?;
    write!(out, "\n{}", next_steps(&connector, &translation, &arguments.output))?;
    Ok(if report::is_incomplete(&translation.verdicts) {
        ExitCode::ImportIncomplete
    } else {
        ExitCode::Success
    })
}

/// Nothing is written that `headwater run` would refuse.
fn incomplete(missing: &[String]) -> Halt {
    let advice = "the connector alone does not say it: name the worker's file with --worker, or --bootstrap-servers and \
                  --schema-registry-url";
    Halt::new(
        ExitCode::Configuration,
        format!("no configuration is written, because it would not be complete: {}", missing.join("; ")),
        advice,
    )
}

fn write_file(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let name = path.display();
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let file = options.open(path);
    if let Err(error) = &file
        && error.kind() == std::io::ErrorKind::AlreadyExists
    {
        bail!(Halt::new(
            ExitCode::Configuration,
            format!("{name} exists, and is left alone"),
            "name another file with --output, or write over it with --force",
        ));
    }
    file.with_context(|| format!("write {name}"))?
        .write_all(text.as_bytes())
        .with_context(|| format!("write {name}"))
}

fn next_steps(connector: &Connector, translation: &Translation, output: &Path) -> String {
    let output = output.display();
    let mut text = format!("{output} is written.\n");
    for (variable, origin) in &translation.secrets {
        text.push_str(&format!("  set {variable} (from {origin})\n"));
    }
    let name = connector.value("name").map_or_else(String::new, |name| format!(" --connector {name}"));
    let place = match (
        connector.value("worker.offset.storage.file.filename"),
        connector.value("worker.offset.storage.topic"),
    ) {
        (Some(file), _) => format!(" --offsets-file {file}"),
        (None, Some(topic)) => format!(" --offsets-topic {topic}"),
        (None, None) => String::new(),
    };
    text.push_str(&format!(
        "Next: headwater check -c {output}; stop the connector; headwater take-over -c {output}{name}{place}; headwater run -c {output}\n\
         docs/MIGRATING.md has all of it, and the way back.\n"
    ));
    text
}
