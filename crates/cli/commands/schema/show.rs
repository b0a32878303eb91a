//! `headwater schema show TABLE`.

use std::io::Write;

use anyhow::bail;
use headwater_pipeline::present::{RecordSchema, Schemas};
use headwater_pipeline::{ExitCode, Halt, Settings};

use super::pretty::indented;
use super::{Part, connect, present};

/// Prints both schemas, or the request that registers one.
pub async fn run(settings: &Settings, name: &str, request: Option<Part>) -> anyhow::Result<ExitCode> {
    let client = connect(settings).await?;
    let tables = present(&client, settings).await?;
    let Some(table) = tables.iter().find(|table| table.name() == name) else {
        let known: Vec<String> = tables.iter().map(|table| table.name()).collect();
        bail!(Halt::new(
            ExitCode::Configuration,
            format!("the table {name} is in none of the publications {}", settings.publications.join(", ")),
            format!("write schema.table as it is in the catalog; published are {}", known.join(", ")),
        ));
    };
    let (key, value) = match &table.schemas {
        Schemas::Record { key, value } => (key.as_ref(), value),
        Schemas::Outbox => bail!(Halt::new(
            ExitCode::Configuration,
            format!(
                "{name} is an outbox table: its rows are events, whose topics and subjects are in the rows"
            ),
            "look at the subjects of the event topics in the registry",
        )),
        Schemas::Unregistered => bail!(Halt::new(
            ExitCode::Configuration,
            format!("the values of {name} are JSON: nothing is registered for them"),
            "set value_encoding = \"avro\" for this table to have a schema",
        )),
        Schemas::Impossible(error) => bail!(Halt::new(
            ExitCode::TableUnsuitable,
            format!("{name}: {error}"),
            "rename, or leave the column out of the publication",
        )),
    };
    let text = match request {
        None => document(name, &table.topic, key, value),
        Some(Part::Value) => request_body(value),
        Some(Part::Key) => match key {
            Some(key) => request_body(key),
            None => bail!(Halt::new(
                ExitCode::Configuration,
                format!("{name} has no key, so its records have none"),
                "a primary key or a replica identity gives it one",
            )),
        },
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::Success)
}

fn document(name: &str, topic: &str, key: Option<&RecordSchema>, value: &RecordSchema) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let part = |schema: &RecordSchema| {
        format!(r#"{{"subject":{},"schema":{}}}"#, quoted(&schema.subject.0), schema.json)
    };
    let json = format!(
        r#"{{"table":{},"topic":{},"key":{},"value":{}}}"#,
        quoted(name),
        quoted(topic),
        key.map_or_else(|| "null".to_owned(), part),
        part(value)
    );
    indented(&json, 0)
}

fn request_body(schema: &RecordSchema) -> String {
    serde_json::json!({ "schema": schema.json }).to_string()
}
