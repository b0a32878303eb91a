//! `headwater check`: connects to everything and says of each requirement whether it is met, why not, and what mends
//! it. It changes nothing, and one thing that is wrong does not keep it from looking at the rest. The file says whether
//! it is about `headwater run` or about `headwater apply`.

mod report;

mod postgres;

mod tables;

mod read_back;

mod slot;

mod kafka;

mod registry;

mod apply;

use std::time::Duration;

use clap::Args;
use headwater_pg::Client;
use headwater_pg::publication::PublicationState;
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::{ExitCode, Settings};

use crate::Shared;
use crate::config::{self, Config};
use report::Report;

pub use kafka::routes;

/// How to say it.
#[derive(Args)]
pub struct Arguments {
    /// Print JSON: a list of objects with requirement, state (ok, warning, wrong), why and mend.
    #[arg(long)]
    json: bool,
}

/// Checks, prints, and fails when something is wrong.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let report = if config::apply::is_of_apply(&shared.config) {
        let config = super::apply::prepare(shared, None)?;
        super::block_on(async { Ok(apply::check(&config).await) })?
    } else {
        let config = super::prepare(shared)?;
        super::block_on(async { Ok(check(&config).await) })?
    };
    let stdout = std::io::stdout().lock();
    if arguments.json {
        report.write_json(stdout)?
    } else {
        report.write_text(stdout)?
    }
    Ok(if report.is_wrong() { ExitCode::Configuration } else { ExitCode::Success })
}

async fn check(config: &Config) -> Report {
    let mut report = Report::default();
    let settings = &config.settings;
    let (client, publications) = check_postgres(settings, &mut report).await;
    if let SinkSettings::Kafka { kafka, registry } = &settings.sink {
        kafka::check(settings, kafka.clone(), &publications, &mut report).await;
        if let Some(registry) = registry {
            registry::check(settings, registry, client.as_ref(), &mut report).await;
        }
    }
    report
}

/// Everything about the database. Returns the connection and the publications that exist.
async fn check_postgres(settings: &Settings, report: &mut Report) -> (Option<Client>, Vec<PublicationState>) {
    let Some(client) = postgres::connect(settings, report).await else { return (None, Vec::new()) };
    postgres::check_replication_connection(settings, report).await;
    let outcome = postgres::check_server(&client, settings, report).await;
    report.note_failure("server", outcome);
    let outcome = postgres::check_role(&client, report).await;
    report.note_failure("role", outcome);
    let publications = match tables::check_publications(&client, settings, report).await {
        Ok(publications) => publications,
        Err(error) => {
            report.failed("publication", &error);
            Vec::new()
        }
    };
    let outcome = tables::check_tables(&client, settings, &publications, report).await;
    report.note_failure("tables", outcome);
    let outcome = read_back::check(&client, settings, &publications, report).await;
    report.note_failure("unchanged_toast", outcome);
    let outcome = slot::check(&client, settings, report).await;
    report.note_failure("slot", outcome);
    (Some(client), publications)
}

/// A duration for people: `4 s`, `3 min`, `2 h`.
fn human_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Bytes for people: `512 B`, `3.4 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (64 << 20, "64.0 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
        for (seconds, text) in [(4, "4 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h")] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }
}
