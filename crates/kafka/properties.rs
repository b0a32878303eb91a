//! The table of librdkafka's properties: which are ours and why, which defaults differ and why, which are secret.

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use crate::error::Error;

/// Defaults of every client, whatever it does. The user may override each of them.
pub(crate) const DEFAULT_CONNECTION: &[(&str, &str)] = &[
    ("client.id", "headwater"),
    // OpenSSL is linked in, with paths of the machine it was built on: without this no public certificate could
    // be verified. librdkafka then looks where distributions keep their roots. A location of the user's wins.
    ("ssl.ca.location", "probe"),
    ("https.ca.location", "probe"),
    // Finds a peer that vanished behind a firewall while nothing is produced.
    ("socket.keepalive.enable", "true"),
    // librdkafka's 10 s would be waited out in full after an outage, while WAL piles up.
    ("reconnect.backoff.max.ms", "2000"),
    // Brokers close idle connections; that is no news.
    ("log.connection.close", "false"),
];

/// The producer's defaults that differ from librdkafka's. The user may override each of them.
pub const DEFAULT_PROPERTIES: &[(&str, &str)] = &[
    // Latency against requests per second. librdkafka's 5 ms would be most of the latency budget; with 0 every
    // record is a request of its own, which costs a fifth more CPU at 1,000 to 5,000 records/s. Under backlog
    // batches fill by themselves and it makes no difference.
    ("linger.ms", "1"),
    // A tenth of the client's CPU for two to four times fewer bytes; zstd takes half as much CPU again.
    ("compression.type", "lz4"),
    // One batch is one send(); waiting for a previous segment's ACK would only add delay.
    ("socket.nagle.disable", "true"),
    // A broker that was away for a moment leaves partitions without a leader in the metadata, and librdkafka asks
    // again only at this interval; its 5 minutes would be 5 minutes of standstill.
    ("topic.metadata.refresh.interval.ms", "5000"),
    // librdkafka's 1 MB would refuse rows that the topic may well accept. Above a broker's
    // socket.request.max.bytes (100 MiB) the broker just closes the connection, again and again: this stays
    // below, so that such a record is refused here, with its size.
    ("message.max.bytes", "104000000"),
];

/// Defaults of members of a consumer group. The user may override each of them.
pub(crate) const DEFAULT_GROUP: &[(&str, &str)] = &[
    // Everything is revoked and assigned together, which is what the owner of the offsets expects. Spreads the
    // partitions of all topics, where `range` gives partition 0 of every topic to one member.
    ("partition.assignment.strategy", "roundrobin"),
    // A member that was killed is missed after this. Missing one too early is harmless: its offsets are fenced.
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "2000"),
    // New topics that a pattern matches are found at this interval; librdkafka's are 5 minutes.
    ("topic.metadata.refresh.interval.ms", "10000"),
    // Where the ends of partitions come from, and so the lag.
    ("statistics.interval.ms", "2000"),
    // What is fetched ahead waits in memory; librdkafka's 64 MiB is per process as well, but counts no overhead.
    ("queued.max.messages.kbytes", "32768"),
];

/// What the producer's promises rest on.
pub(crate) const OWN_PRODUCER: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("message.timeout.ms", "0"),
    // Only bytes limit the queue, and `Producer` counts them itself: librdkafka's count leaves out keys and
    // its own overhead, and never admits a record that is larger than the limit.
    ("queue.buffering.max.messages", "0"),
    ("queue.buffering.max.kbytes", "2147483647"),
];

/// What the reader of the checkpoint topic needs.
pub(crate) const OWN_CONSUMER: &[(&str, &str)] = &[
    ("group.id", "headwater"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("isolation.level", "read_committed"),
    ("auto.offset.reset", "error"),
];

const IDEMPOTENCE: &str = "the order per key and the absence of duplicates rest on the idempotent producer";
const ACKS: &str = "a position is confirmed to Postgres only when all in-sync replicas have the records";
const TIMEOUT: &str =
    "a record that times out would be lost or overtaken: Headwater waits as long as it takes";
const PARTITIONER: &str = "the partition is Java's murmur2 of the key, chosen before the record is offered";
const QUEUE: &str = "memory has one knob: set pipeline.max_in_flight_bytes instead";
const SERVERS: &str = "set kafka.bootstrap_servers instead";
const TRANSACTIONS: &str = "the producer is idempotent, not transactional";
const REPORTS: &str = "every record needs its delivery report: the confirmed position is counted from them";
const TOPICS: &str = "topics are created with [topics], never by accident";
const CHECKPOINT: &str = "the checkpoint topic's reader sets it";
const LOGS: &str = "logs go through Headwater's own";

/// Properties that are ours, with librdkafka's aliases.
const OWNED: &[(&str, &str)] = &[
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("enable.idempotence", IDEMPOTENCE),
    ("enable.gapless.guarantee", IDEMPOTENCE),
    ("max.in.flight", IDEMPOTENCE),
    ("max.in.flight.requests.per.connection", IDEMPOTENCE),
    ("retries", IDEMPOTENCE),
    ("message.send.max.retries", IDEMPOTENCE),
    ("queuing.strategy", IDEMPOTENCE),
    ("message.timeout.ms", TIMEOUT),
    ("delivery.timeout.ms", TIMEOUT),
    ("partitioner", PARTITIONER),
    ("queue.buffering.max.messages", QUEUE),
    ("queue.buffering.max.kbytes", QUEUE),
    ("bootstrap.servers", SERVERS),
    ("metadata.broker.list", SERVERS),
    ("transactional.id", TRANSACTIONS),
    ("transaction.timeout.ms", TRANSACTIONS),
    ("delivery.report.only.error", REPORTS),
    ("allow.auto.create.topics", TOPICS),
    ("group.id", CHECKPOINT),
    ("enable.auto.commit", CHECKPOINT),
    ("auto.commit.enable", CHECKPOINT),
    ("enable.auto.offset.store", CHECKPOINT),
    ("enable.partition.eof", CHECKPOINT),
    ("isolation.level", CHECKPOINT),
    ("auto.offset.reset", CHECKPOINT),
    ("log.queue", LOGS),
];

/// Properties whose values must never be shown.
const SECRET: &[&str] = &[
    "sasl.password",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
];

/// Why the user may not set a property; `None` when it passes through to librdkafka.
pub fn owned_property(name: &str) -> Option<&'static str> {
    OWNED.iter().find(|(owned, _)| *owned == name).map(|(_, reason)| *reason)
}

/// Whether a property's value is a secret. Errs on the side of hiding.
pub fn is_secret_property(name: &str) -> bool {
    SECRET.contains(&name)
        || ["password", "secret", "passphrase", "private.key", "key.pem"]
            .iter()
            .any(|part| name.contains(part))
}

/// Whether the user may set a property to a value, by our rules and by librdkafka's own parser.
///
/// # Errors
/// The reason, fit to be shown behind the property's name.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    if let Some(reason) = owned_property(name) {
        return Err(format!("can't be set: {reason}"));
    }
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => Ok(()),
        // librdkafka ends with the property's name, at times another one than the user wrote.
        Err(KafkaError::ClientConfig(_, reason, ..)) if !is_secret_property(name) => {
            Err(reason.split(" for configuration property").next().unwrap_or_default().to_owned())
        }
        Err(error) => Err(Error::from_rdkafka(&error, "librdkafka refuses it").to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    #[test]
    fn every_table_holds_only_names_that_librdkafka_knows() {
        let tables = DEFAULT_PROPERTIES
            .iter()
            .chain(DEFAULT_CONNECTION)
            .chain(OWN_PRODUCER)
            .chain(OWN_CONSUMER)
            .chain(DEFAULT_GROUP)
            .chain(OWNED);
        for (name, _) in tables {
            let mut config = ClientConfig::new();
            config.set(*name, "\u{1}");
            let unknown = RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN;
            let result = config.create_native_config();
            assert!(!matches!(&result, Err(KafkaError::ClientConfig(r, ..)) if *r == unknown), "{name}");
        }
    }

    #[test]
    fn what_the_producer_promises_cannot_be_overridden() {
        for (name, _) in OWN_PRODUCER.iter().chain(OWN_CONSUMER) {
            assert!(owned_property(name).is_some(), "{name}");
            let refused = check_property(name, "1").expect_err("it is ours");
            assert!(refused.starts_with("can't be set: "), "{refused}");
        }
        for name in
            ["delivery.timeout.ms", "max.in.flight", "message.send.max.retries", "request.required.acks"]
        {
            assert!(check_property(name, "1").is_err(), "an alias is no way around: {name}");
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_refused_with_its_reason() {
        let cases = [
            ("linger.ms", "5", None),
            ("linger.ms", "soon", Some("Invalid value")),
            ("linger.millis", "5", Some("linger.millis")),
            ("compression.type", "zstd", None),
            ("compression.type", "brotli", Some("brotli")),
            ("security.protocol", "sasl_ssl", None),
            ("sasl.mechanisms", "OAUTHBEARER", None),
            ("sasl.oauthbearer.method", "oidc", None),
            ("ssl.key.pem", "hunter2", None),
        ];
        for (name, value, reason) in cases {
            match (check_property(name, value), reason) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{name}: {why}"),
                (result, _) => panic!("{name}={value}: {result:?}"),
            }
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for name in SECRET {
            assert!(is_secret_property(name));
        }
        assert!(is_secret_property("ssl.truststore.password"));
        assert!(!is_secret_property("sasl.username"));
        assert!(!is_secret_property("linger.ms"));
    }

    /// The build's features decide this; a missing one would only show at a user's cluster.
    #[test]
    fn mechanisms_and_codecs_are_compiled_in() {
        let native = ClientConfig::new().create_native_config().expect("an empty configuration");
        let features = native.get("builtin.features").expect("librdkafka tells its features");
        let features: Vec<&str> = features.split(',').collect();
        for feature in
            ["gzip", "snappy", "lz4", "zstd", "ssl", "sasl", "sasl_plain", "sasl_scram", "sasl_oauthbearer"]
        {
            assert!(features.contains(&feature), "{feature} is not in {features:?}");
        }
        assert!(features.contains(&"http"), "token endpoints (OIDC) need libcurl: {features:?}");
        for (mechanism, protocol) in
            [("PLAIN", "sasl_ssl"), ("SCRAM-SHA-256", "sasl_plaintext"), ("SCRAM-SHA-512", "sasl_ssl")]
        {
            let mut config = ClientConfig::new();
            config.set("security.protocol", protocol).set("sasl.mechanisms", mechanism);
            config.set("sasl.username", "u").set("sasl.password", "p");
            let client: Result<rdkafka::producer::BaseProducer, _> = config.create();
            assert!(client.is_ok(), "{mechanism}: {:?}", client.err());
        }
    }
}
