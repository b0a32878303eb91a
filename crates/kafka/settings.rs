//! What the service is told about Kafka, and the one place where it becomes librdkafka's configuration.
//!
//! In: bootstrap servers, the user's properties and the byte limit of the queue. Out: a checked
//! `ClientConfig` per role. The invariant: properties that carry a promise of Headwater can't be overridden,
//! whichever name the user finds for them.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;

use crate::error::Error;
use crate::properties::{
    DEFAULT_CONNECTION, DEFAULT_GROUP, DEFAULT_PROPERTIES, OWN_CONSUMER, OWN_PRODUCER, check_property,
    is_secret_property,
};

/// How to reach Kafka, and how much may wait for it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `host:port,…`, librdkafka's `bootstrap.servers`.
    pub bootstrap_servers: String,
    /// The user's librdkafka properties, by their full names. They win over [`DEFAULT_PROPERTIES`].
    pub properties: BTreeMap<String, String>,
    /// Bytes of records, with their overhead in memory, that may be unacknowledged at once. A larger record is
    /// admitted alone.
    pub queue_bytes_max: u64,
}

impl Settings {
    /// Everything that is wrong with these settings, in the user's words; empty when librdkafka takes them.
    ///
    /// Reads the files named in `ssl.*`, but connects to nothing.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .properties
            .iter()
            .filter_map(|(name, value)| check_property(name, value).err().map(|why| format!("{name}: {why}")))
            .collect();
        if self.bootstrap_servers.trim().is_empty() {
            problems.push("bootstrap_servers: must name at least one host:port".to_owned());
        }
        if problems.is_empty()
            && let Err(error) = self.try_client()
        {
            problems.push(error.to_string());
        }
        problems
    }

    /// The value in force of a producer property: the user's, ours, or librdkafka's default.
    pub fn effective(&self, name: &str) -> Option<String> {
        self.producer_config().create_native_config().ok()?.get(name).ok()
    }

    pub(crate) fn producer_config(&self) -> ClientConfig {
        let mut config = self.shared_config();
        for (name, value) in DEFAULT_PROPERTIES {
            if !self.properties.contains_key(*name) {
                config.set(*name, *value);
            }
        }
        for (name, value) in OWN_PRODUCER {
            config.set(*name, *value);
        }
        config
    }

    pub(crate) fn consumer_config(&self) -> ClientConfig {
        let mut config = self.shared_config();
        for (name, value) in OWN_CONSUMER {
            config.set(*name, *value);
        }
        config
    }

    pub(crate) fn group_config(&self) -> ClientConfig {
        let mut config = self.shared_config();
        for (name, value) in DEFAULT_GROUP {
            if !self.properties.contains_key(*name) {
                config.set(*name, *value);
            }
        }
        for (name, value) in OWN_CONSUMER {
            config.set(*name, *value);
        }
        config.set("enable.partition.eof", "false");
        config
    }

    pub(crate) fn admin_config(&self) -> ClientConfig {
        self.shared_config()
    }

    /// What every role shares: the user's properties, who we are, and where the brokers are.
    fn shared_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // rdkafka takes its level from the `log` crate, which nobody sets here; tracing filters instead.
        config.set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in DEFAULT_CONNECTION {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config.set("allow.auto.create.topics", "false");
        config
    }

    /// The checks that librdkafka makes only when a client starts: combinations, files, mechanisms.
    fn try_client(&self) -> Result<(), Error> {
        let mut config = self.admin_config();
        config.remove("bootstrap.servers");
        config
            .create::<BaseConsumer>()
            .map(drop)
            .map_err(|e| Error::from_rdkafka(&e, "checking kafka.properties"))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: BTreeMap<&str, &str> = self
            .properties
            .iter()
            .map(|(name, value)| {
                (name.as_str(), if is_secret_property(name) { "***" } else { value.as_str() })
            })
            .collect();
        f.debug_struct("Settings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &shown)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> Settings {
        Settings {
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            queue_bytes_max: 1 << 20,
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let wrong = Settings {
            bootstrap_servers: " ".to_owned(),
            ..settings(&[("acks", "1"), ("linger.ms", "soon"), ("compression.type", "lz4")])
        };
        let problems = wrong.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("acks: can't be set: "), "{problems:?}");
        assert_eq!(settings(&[]).problems(), Vec::<String>::new());
    }

    #[test]
    fn what_only_a_client_can_tell_is_told_without_connecting() {
        let missing_file =
            settings(&[("security.protocol", "ssl"), ("ssl.ca.location", "/no/such/file.pem")]);
        let problems = missing_file.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("/no/such/file.pem") || problems[0].contains("ssl.ca.location"),
            "{problems:?}"
        );
        let no_user = settings(&[("security.protocol", "sasl_ssl"), ("sasl.mechanisms", "SCRAM-SHA-512")]);
        assert_eq!(no_user.problems().len(), 1, "{:?}", no_user.problems());
    }

    #[test]
    fn a_secret_is_in_no_text() {
        let settings = settings(&[
            ("sasl.password", "hunter2"),
            ("ssl.key.pem", "hunter2"),
            ("ssl.key.password", "hunter2"),
            ("security.protocol", "ssl"),
        ]);
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert!(format!("{settings:?}").contains("***"));
        let problems = settings.problems();
        assert!(!problems.is_empty(), "it is no key");
        assert!(!problems.join(" ").contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn the_user_wins_over_defaults_and_loses_against_promises() {
        let settings = settings(&[("linger.ms", "7")]);
        assert_eq!(settings.effective("linger.ms").as_deref(), Some("7"));
        assert_eq!(settings.effective("enable.idempotence").as_deref(), Some("true"));
        assert_eq!(settings.effective("message.timeout.ms").as_deref(), Some("0"));
        assert_eq!(settings.effective("request.required.acks").as_deref(), Some("-1"));
        assert_eq!(settings.effective("no.such.property"), None);
    }
}
