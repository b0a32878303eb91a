//! Configurations of `headwater run` and `headwater apply`, as a team would write them.

use super::Stage;

/// What differs between the relays of the scenarios.
pub struct Relay<'a> {
    pub database_url: &'a str,
    pub slot: &'a str,
    pub publication: &'a str,
    /// Its page, host:port.
    pub listen: &'a str,
    /// `[[outbox]]` and what else there is.
    pub sections: &'a str,
}

/// `headwater run` for an outbox.
pub fn relay_config(stage: &Stage, relay: &Relay<'_>) -> String {
    let Relay { database_url, slot, publication, listen, sections } = relay;
    let (bootstrap, registry, name) =
        (&stage.servers.bootstrap, &stage.servers.registry, &stage.servers.name);
    format!(
        r#"[postgres]
url = "{database_url}"
publication = "{publication}"
slot = "{slot}"
slot_create_timeout = "5m"    # others may have transactions open on this server

[kafka]
bootstrap_servers = "{bootstrap}"

[schema_registry]
url = "{registry}"

[topics]
prefix = "{name}"
partitions = 3

[http]
listen = "{listen}"

{sections}"#
    )
}

/// `headwater apply` for events.
pub fn apply_config(stage: &Stage, database_url: &str, listen: &str, apply: &str) -> String {
    let (bootstrap, registry) = (&stage.servers.bootstrap, &stage.servers.registry);
    format!(
        r#"[target]
url = "{database_url}"

[kafka]
bootstrap_servers = "{bootstrap}"

[schema_registry]
url = "{registry}"

[apply]
{apply}

[http]
listen = "{listen}"
"#
    )
}
