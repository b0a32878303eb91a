//! From Connect's converters to the registry and the encoding of keys and values.
//!
//! They are the connector's own or, where it names none, its worker's. Key and value have one registry here.

use super::combined::secret;
use super::property_table::Becomes::{AsHere, ByHand, Not, Other, Special, Words};
use super::property_table::{Becomes, Property, find};
use super::report::Fate;
use super::source::Given;
use super::translate::Work;

const fn p(name: &'static str, default: &'static str, becomes: Becomes) -> Property {
    Property { name, default, always: false, becomes }
}

const CACHES: &str = "a schema is looked up once for each version of a table";
const CONFLUENT_FORMAT: &str =
    "the wire format is Confluent's: a zero byte and the id in four bytes in front of the value";

/// Options of `io.confluent.connect.avro.AvroConverter`.
const CONFLUENT_AVRO: &[Property] = &[
    p("schema.registry.url", "", Special(registry_url)),
    p(
        "basic.auth.credentials.source",
        "URL",
        AsHere(
            &["USER_INFO", "URL"],
            "schema_registry.username",
            "name and password are schema_registry.username and its variable",
        ),
    ),
    p("basic.auth.user.info", "", Special(registry_login)),
    p("schema.registry.basic.auth.user.info", "", Special(registry_login)),
    p(
        "schema.registry.ssl.truststore.location",
        "",
        Not("authorities are read as PEM: set schema_registry.ca_file"),
    ),
    p(
        "schema.registry.ssl.keystore.location",
        "",
        Not(
            "certificate and key are read as PEM: set schema_registry.cert_file and schema_registry.key_file",
        ),
    ),
    p(
        "schema.registry.ssl.*",
        "",
        Other("certificates are PEM: schema_registry.ca_file, cert_file, key_file"),
    ),
    p("auto.register.schemas", "true", Special(auto_register)),
    p(
        "use.latest.version",
        "false",
        ByHand("schema_registry.auto_register", "schemas are registered when a version's first row comes"),
    ),
    p(
        "key.subject.name.strategy",
        SUBJECTS[0].0,
        Words("schema_registry.key_subject_strategy", SUBJECTS, "a strategy of your own is Java"),
    ),
    p(
        "value.subject.name.strategy",
        SUBJECTS[0].0,
        Words("schema_registry.value_subject_strategy", SUBJECTS, "a strategy of your own is Java"),
    ),
    p("schemas.enable", "true", Other("Avro always has a schema")),
    p("schemas.cache.*", "", Other(CACHES)),
    p("max.schemas.per.subject", "1000", Other(CACHES)),
    p("enhanced.avro.schema.support", "false", Not("schemas are those of the plain converter")),
    p(
        "connect.meta.data",
        "true",
        AsHere(
            &["true"],
            "schemas carry connect.name and connect.version",
            "schemas carry connect.name and connect.version; records.types = \"avro\" leaves them out, with other forms of values",
        ),
    ),
    p("scrub.invalid.names", "false", Other("names are made valid for Avro")),
    p("normalize.schemas", "false", Other("schemas are sent in one canonical form")),
];

const SUBJECTS: &[(&str, &str)] = &[
    ("io.confluent.kafka.serializers.subject.TopicNameStrategy", "topic_name"),
    ("io.confluent.kafka.serializers.subject.RecordNameStrategy", "record_name"),
    ("io.confluent.kafka.serializers.subject.TopicRecordNameStrategy", "topic_record_name"),
];

/// Options of `io.apicurio.registry.utils.converter.AvroConverter`.
const APICURIO_AVRO: &[Property] = &[
    p("apicurio.registry.url", "", Special(registry_url)),
    p(
        "apicurio.registry.auto-register",
        "false",
        AsHere(
            &["true"],
            "schemas are registered when a version's first row comes",
            "schemas are registered when a version's first row comes",
        ),
    ),
    p(
        "apicurio.registry.find-latest",
        "false",
        Other("schemas are registered when a version's first row comes"),
    ),
    p("apicurio.registry.as-confluent", "false", AsHere(&["true"], CONFLUENT_FORMAT, CONFLUENT_FORMAT)),
    p("apicurio.registry.headers.enabled", "false", AsHere(&["false"], CONFLUENT_FORMAT, CONFLUENT_FORMAT)),
    p(
        "apicurio.registry.use-id",
        "globalId",
        AsHere(
            &["contentId"],
            "ids are those of the registry's Confluent API",
            "ids are those of the registry's Confluent API, which are content ids: consumers must look them up as such",
        ),
    ),
    p(
        "apicurio.registry.artifact-resolver-strategy",
        "",
        Other("subjects are <topic>-key and <topic>-value"),
    ),
    p("apicurio.registry.check-period-ms", "", Other(CACHES)),
    p("apicurio.registry.converter.*", "", Other("the converter is built in")),
    p(
        "apicurio.auth.*",
        "",
        Not(
            "the registry is spoken to with basic authentication (schema_registry.username) or a client certificate",
        ),
    ),
    p(
        "apicurio.registry.auth.*",
        "",
        Not(
            "the registry is spoken to with basic authentication (schema_registry.username) or a client certificate",
        ),
    ),
    p("schemas.enable", "true", Other("Avro always has a schema")),
];

/// Options of `org.apache.kafka.connect.json.JsonConverter`.
const JSON: &[Property] = &[
    p("schemas.enable", "true", Other("part of the encoding")),
    p("schemas.cache.size", "1000", Other(CACHES)),
    p("decimal.format", "BASE64", Not("decimals are written as Connect writes them by default")),
    p(
        "replace.null.with.default",
        "true",
        AsHere(&["false"], "a NULL is null", "a NULL is null, never its column's default"),
    ),
];

/// What a converter is here.
enum Converter {
    /// Avro behind Confluent's five bytes.
    Avro,
    /// JSON, with or without its schema.
    Json,
    /// The payload's own bytes, of an outbox.
    Bytes,
}

const CONVERTERS: &[(&str, Converter, &[Property])] = &[
    ("io.confluent.connect.avro.AvroConverter", Converter::Avro, CONFLUENT_AVRO),
    ("io.apicurio.registry.utils.converter.AvroConverter", Converter::Avro, APICURIO_AVRO),
    ("org.apache.kafka.connect.json.JsonConverter", Converter::Json, JSON),
    // Debezium Server's words.
    ("avro", Converter::Avro, CONFLUENT_AVRO),
    ("jsonbytearray", Converter::Json, JSON),
    ("json", Converter::Json, JSON),
    ("io.debezium.converters.BinaryDataConverter", Converter::Bytes, &[]),
    ("io.debezium.converters.ByteArrayConverter", Converter::Bytes, &[]),
    ("org.apache.kafka.connect.converters.ByteArrayConverter", Converter::Bytes, &[]),
    ("org.apache.kafka.connect.storage.StringConverter", Converter::Bytes, &[]),
];

/// Both converters with all their options.
pub fn translate(work: &mut Work<'_>) {
    for part in ["key", "value"] {
        let own = format!("{part}.converter");
        let worker = format!("worker.{part}.converter");
        let place = if work.connector.value(&own).is_some() { own.clone() } else { worker.clone() };
        match work.connector.properties.get(&place).cloned() {
            Some(given) => converter(work, part, &place, &given),
            None => work.judge(
                &own,
                Fate::Other,
                "the worker's converter counts, and is not known here: Avro is assumed (name the worker's file with --worker)",
            ),
        }
        // A worker's converter that the connector replaces counts for nothing, nor do options without a converter.
        let left: Vec<String> =
            work.connector.properties.keys().filter(|name| name.starts_with(&worker)).cloned().collect();
        for name in left {
            work.judge(&name, Fate::Other, "the connector has a converter of its own");
        }
    }
    if let Some(url) = work.options.registry_url.clone() {
        work.document.set("schema_registry.url", url, "--schema-registry-url");
    }
}

fn converter(work: &mut Work<'_>, part: &str, place: &str, given: &Given) {
    let class = given.value.as_str();
    let known = CONVERTERS.iter().find(|(name, ..)| *name == class);
    let (fate, text) = match known {
        Some((_, Converter::Avro, _)) => (Fate::Carried, "Avro, as here".to_owned()),
        Some((_, Converter::Json, _)) => {
            let with_schema = work.connector.value(&format!("{place}.schemas.enable")) != Some("false");
            let encoding = if with_schema { "json_schema_envelope" } else { "json" };
            work.emit(&format!("records.{part}_encoding"), encoding, &given.shown)
        }
        Some((_, Converter::Bytes, _)) if work.connector.value("transforms").is_some() => {
            (Fate::Carried, "for an outbox: payload = \"raw\"".to_owned())
        }
        _ => (Fate::Unsupported, "keys and values are Avro".to_owned()),
    };
    work.judge(place, fate, text);
    let prefix = format!("{place}.");
    let options: Vec<(String, Given)> = work
        .connector
        .properties
        .iter()
        .filter(|(name, _)| name.starts_with(&prefix))
        .map(|(name, given)| (name.clone(), given.clone()))
        .collect();
    for (full, given) in options {
        let option = &full[prefix.len()..];
        let property = known.and_then(|(.., properties)| find(properties.iter(), option));
        let (fate, text) = match property {
            Some(property) => work.apply(property, &given),
            None if known.is_some() => (Fate::Unknown, format!("no option of {class} that is known here")),
            None => (Fate::Unsupported, "its converter is not supported".to_owned()),
        };
        work.judge(&full, fate, text);
    }
    if class.starts_with("io.apicurio") {
        let option = |name: &str| work.connector.value(&format!("{prefix}apicurio.registry.{name}"));
        if option("as-confluent") != Some("true") {
            work.judge(
                &format!("{prefix}apicurio.registry.as-confluent"),
                Fate::Unsupported,
                CONFLUENT_FORMAT,
            );
        }
    }
}

/// Apicurio's own address becomes that of its Confluent API; a login in it is a secret.
fn registry_url(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let mut urls = Vec::new();
    for url in given.value.split(',').map(str::trim) {
        let mut url = url.trim_end_matches('/').to_owned();
        for own in ["/apis/registry/v2", "/apis/registry/v3"] {
            if let Some(base) = url.strip_suffix(own) {
                url = format!("{base}/apis/ccompat/v7");
            }
        }
        if let Some((scheme, rest)) = url.split_once("://")
            && let Some((login, host)) = rest.split_once('@')
        {
            let user = login.split(':').next().unwrap_or_default().to_owned();
            let host = format!("{scheme}://{host}");
            work.emit("schema_registry.username", user, &given.shown);
            secret(work, "HEADWATER_SCHEMA_REGISTRY__PASSWORD", &given.shown);
            url = host;
        }
        urls.push(url);
    }
    match urls.as_slice() {
        [one] => work.emit("schema_registry.url", one.as_str(), &given.shown),
        _ => work.emit("schema_registry.url", urls, &given.shown),
    }
}

/// Schemas that nobody registers must be there.
fn auto_register(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match given.value.trim() {
        "true" => {
            (Fate::Carried, "as here: schemas are registered when a version's first row comes".to_owned())
        }
        _ => work.emit("schema_registry.auto_register", false, &given.shown),
    }
}

/// `user:password`.
fn registry_login(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let Some((user, _)) = given.value.split_once(':').filter(|_| !given.value.contains("${")) else {
        return (
            Fate::Unsupported,
            "it is not user:password: set schema_registry.username and HEADWATER_SCHEMA_REGISTRY__PASSWORD"
                .to_owned(),
        );
    };
    let (fate, text) = work.emit("schema_registry.username", user, &given.shown);
    if fate != Fate::Carried {
        return (fate, text);
    }
    let (fate, password) = secret(work, "HEADWATER_SCHEMA_REGISTRY__PASSWORD", &given.shown);
    (fate, format!("{text}; the password is {password}"))
}
