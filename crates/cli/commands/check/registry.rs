//! The schema registry: whether it answers, and what it would refuse.

use headwater_avro::registry::{Registry, RegistrySettings};
use headwater_pg::Client;
use headwater_pipeline::Settings;
use headwater_pipeline::present::present_tables;

use super::report::Report;
use crate::commands::{chain, schema};

/// Asks for the registry's own compatibility level and, where nothing may be registered, for every table's schemas.
pub async fn check(
    all: &Settings,
    settings: &RegistrySettings,
    client: Option<&Client>,
    report: &mut Report,
) {
    let place = settings.urls.join(", ");
    let registry = match Registry::new(settings) {
        Ok(registry) => registry,
        Err(error) => {
            return report.wrong(
                "schema registry",
                format!("{place}: {}", chain(&error)),
                "correct [schema_registry]",
            );
        }
    };
    if let Err(error) = registry.reachable().await {
        let advice = if error.is_retriable() {
            "check schema_registry.url, and that the registry runs"
        } else {
            "check schema_registry.username and its password"
        };
        return report.wrong("schema registry", format!("{place}: {}", chain(&error)), advice);
    }
    report.ok("schema registry", format!("{place} answers"));
    match registry.compatibility(None).await {
        Ok(level) if level == "NONE" => report.warning(
            "compatibility",
            "is NONE: the registry lets through schemas that readers of older records can't use",
            format!("curl -X PUT -H 'Content-Type: application/json' -d '{{\"compatibility\": \"BACKWARD\"}}' {place}/config"),
        ),
        Ok(level) => report.ok("compatibility", level),
        Err(error) => report.warning("compatibility", chain(&error), "ask whoever runs the registry for the right to read it"),
    }
    if let (false, Some(client)) = (settings.auto_register, client) {
        check_registered(all, &registry, client, report).await;
    }
}

async fn check_registered(settings: &Settings, registry: &Registry, client: &Client, report: &mut Report) {
    let requirement = "registered schemas";
    let tables = match present_tables(client, settings, &settings.postgres.database).await {
        Ok(tables) => tables,
        Err(error) => return report.failed(requirement, &error),
    };
    match schema::not_registered(registry, &tables).await {
        Ok(missing) if missing.is_empty() => report.ok(requirement, "of every published table"),
        Ok(missing) => {
            for each in missing {
                let mend = schema::advice_to_register(settings, std::slice::from_ref(&each));
                report.wrong(requirement, each.1, mend);
            }
        }
        Err(error) => report.failed(requirement, &error),
    }
}
