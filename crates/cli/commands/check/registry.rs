//! The schema registry: whether it answers, and what it would refuse.

use headwater_avro::registry::{Registry, RegistrySettings};

use super::report::Report;
use crate::commands::chain;

/// Asks for the registry's own compatibility level.
pub async fn check(settings: &RegistrySettings, report: &mut Report) {
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
}
