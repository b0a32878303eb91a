//! From the Java producer's properties to librdkafka's.
//!
//! They come from the connector (`producer.override.*`), from the worker's file (`producer.*`, then its own keys), or
//! from Debezium Server (`debezium.sink.kafka.producer.*`); the first that has a property wins. What Headwater owns
//! (acks, idempotence, retries, limits) is refused by the Kafka crate with its reason, which becomes the report's.

use headwater_kafka::{check_property, is_secret_property, owned_property};

use super::combined::secret;
use super::report::Fate;
use super::source::Given;
use super::translate::Work;

/// Java's name, librdkafka's, where the two differ.
const RENAMED: &[(&str, &str)] = &[
    ("max.request.size", "message.max.bytes"),
    ("send.buffer.bytes", "socket.send.buffer.bytes"),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes"),
    ("metadata.max.age.ms", "topic.metadata.refresh.interval.ms"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("connections.max.idle.ms", "connections.max.idle.ms"),
];

/// Java's properties that have no meaning for librdkafka, and why none is needed.
const OTHERWISE: &[(&str, &str)] = &[
    ("buffer.memory", "memory has one limit: pipeline.max_in_flight_bytes"),
    ("max.block.ms", "a full producer is waited for: the source stops reading meanwhile"),
    ("key.serializer", "records are bytes already"),
    ("value.serializer", "records are bytes already"),
    ("partitioner.ignore.keys", "the partition is that of the key"),
    ("partitioner.class", "the partition is Java's murmur2 of the key, as its default partitioner"),
    ("metadata.max.idle.ms", "librdkafka forgets topics by itself"),
    ("metric.reporters", "/metrics"),
    ("auto.include.jmx.reporter", "/metrics"),
    ("sasl.client.callback.handler.class", "librdkafka has its own mechanisms"),
    ("sasl.login.callback.handler.class", "librdkafka has its own mechanisms"),
];

/// The settings of a worker that are its Kafka client's.
const CLIENT: &[&str] = &["security.", "sasl.", "ssl."];

/// Everything that concerns Kafka.
pub fn translate(work: &mut Work<'_>) {
    let mut servers = None;
    for prefix in ["producer.override.", "worker.producer.", "worker."] {
        let group: Vec<(String, String, Given)> = work
            .connector
            .properties
            .iter()
            .filter_map(|(full, given)| {
                let name = full.strip_prefix(prefix)?;
                let ours = prefix != "worker."
                    || name == "bootstrap.servers"
                    || CLIENT.iter().any(|part| name.starts_with(part));
                ours.then(|| (full.clone(), name.to_owned(), given.clone()))
            })
            .collect();
        let truststore_is_pem =
            group.iter().any(|(_, name, given)| name == "ssl.truststore.type" && given.value == "PEM");
        let keystore_type = group
            .iter()
            .find(|(_, name, _)| name == "ssl.keystore.type")
            .map_or("JKS", |(.., given)| given.value.as_str());
        for (full, name, given) in &group {
            let (fate, text) = match name.as_str() {
                "bootstrap.servers" => {
                    servers.get_or_insert_with(|| given.clone());
                    (Fate::Carried, "kafka.bootstrap_servers".to_owned())
                }
                name if name.starts_with("ssl.truststore") => {
                    truststore(work, name, given, truststore_is_pem)
                }
                name if name.starts_with("ssl.key") => keystore(work, name, given, keystore_type),
                "sasl.jaas.config" => jaas(work, given),
                name => property(work, name, given),
            };
            work.judge(full, fate, text);
        }
    }
    let given = work
        .options
        .bootstrap_servers
        .clone()
        .map(|value| Given { shown: "--bootstrap-servers".to_owned(), value });
    if let Some(Given { shown, value }) = given.or(servers) {
        work.document.set("kafka.bootstrap_servers", value, &shown);
    }
}

/// A property that is the same for both, or has another name.
fn property(work: &mut Work<'_>, java: &str, given: &Given) -> (Fate, String) {
    if let Some((_, why)) = OTHERWISE.iter().find(|(name, _)| *name == java) {
        return (Fate::Other, (*why).to_owned());
    }
    if java == "interceptor.classes" {
        return (Fate::Unsupported, "interceptors are Java".to_owned());
    }
    let name = RENAMED.iter().find(|(theirs, _)| *theirs == java).map_or(java, |(_, ours)| ours);
    if let Some(why) = owned_property(name) {
        return (Fate::Other, why.to_owned());
    }
    let value = match (name, given.value.as_str()) {
        // Java turns the check of host names off with an empty text.
        ("ssl.endpoint.identification.algorithm", "") => "none",
        (_, value) => value,
    };
    if is_secret_property(name) {
        return secret(work, &variable(name), &given.shown);
    }
    set(work, name, value, given)
}

/// Sets a property that librdkafka takes; what was set before comes from a nearer place.
fn set(work: &mut Work<'_>, name: &str, value: &str, given: &Given) -> (Fate, String) {
    if work.document.get_below("kafka.properties", name).is_some() {
        return (Fate::Other, format!("{name} is set nearer to the producer"));
    }
    match check_property(name, value) {
        Ok(()) => {
            work.document.set_below("kafka.properties", name, value, &given.shown);
            (Fate::Carried, format!("kafka.properties.\"{name}\""))
        }
        Err(why) => (Fate::Unsupported, format!("librdkafka: {why}")),
    }
}

/// The variable for one of Kafka's secrets.
fn variable(name: &str) -> String {
    format!("HEADWATER_KAFKA__PROPERTIES__{}", name.replace('.', "_").to_uppercase())
}

/// librdkafka reads authorities as PEM.
fn truststore(work: &mut Work<'_>, name: &str, given: &Given, pem: bool) -> (Fate, String) {
    match name {
        "ssl.truststore.location" if pem => set(work, "ssl.ca.location", &given.value, given),
        "ssl.truststore.location" => (
            Fate::Unsupported,
            format!(
                "authorities are read as PEM: keytool -exportcert -rfc -keystore {} -file ca.pem, then set \
                 kafka.properties.\"ssl.ca.location\" to it",
                given.value
            ),
        ),
        "ssl.truststore.certificates" => set(work, "ssl.ca.pem", &given.value, given),
        _ => (Fate::Other, "authorities are read as PEM, which has no password".to_owned()),
    }
}

/// librdkafka reads a key store as PKCS#12.
fn keystore(work: &mut Work<'_>, name: &str, given: &Given, kind: &str) -> (Fate, String) {
    match (name, kind) {
        ("ssl.keystore.type", _) => {
            (Fate::Other, "a key store is PKCS#12, or certificate and key are PEM".to_owned())
        }
        ("ssl.keystore.location", "PKCS12") => set(work, name, &given.value, given),
        ("ssl.keystore.location", _) => (
            Fate::Unsupported,
            format!(
                "a key store is read as PKCS#12: keytool -importkeystore -srckeystore {} -destkeystore client.p12 \
                 -deststoretype PKCS12, then set kafka.properties.\"ssl.keystore.location\" to it",
                given.value
            ),
        ),
        ("ssl.keystore.password" | "ssl.key.password" | "ssl.keystore.key", _) => {
            let name = if name == "ssl.keystore.key" { "ssl.key.pem" } else { name };
            secret(work, &variable(name), &given.shown)
        }
        ("ssl.keystore.certificate.chain", _) => set(work, "ssl.certificate.pem", &given.value, given),
        _ => property(work, name, given),
    }
}

/// `…PlainLoginModule required username="u" password="p";` — name and password of PLAIN and SCRAM.
fn jaas(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let text = &given.value;
    let known = text.contains("PlainLoginModule") || text.contains("ScramLoginModule");
    let Some(user) = quoted(text, "username").filter(|_| known) else {
        return (
            Fate::Unsupported,
            "only PlainLoginModule and ScramLoginModule with username and password are understood: set librdkafka's \
             sasl.* or sasl.oauthbearer.* in kafka.properties by hand"
                .to_owned(),
        );
    };
    let (fate, name) = set(work, "sasl.username", &user, given);
    if fate != Fate::Carried {
        return (fate, name);
    }
    let (fate, password) = secret(work, &variable("sasl.password"), &given.shown);
    (fate, format!("{name}; the password is {password}"))
}

fn quoted(text: &str, name: &str) -> Option<String> {
    let rest = text.split_once(&format!("{name}="))?.1;
    let mark = rest.chars().next().filter(|mark| matches!(mark, '"' | '\''))?;
    rest[1..].split_once(mark).map(|(value, _)| value.to_owned())
}
