//! Sample connectors from file to configuration and verdicts.

use super::report::Fate;
use super::source::{self, Connector, Given};
use super::translate::{Options, Translation, translate};
use super::{property_table, report};
use crate::config;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/debezium");

fn import(name: &str, worker: Option<&str>, options: &Options) -> Translation {
    let worker = worker.map(|worker| format!("{FIXTURES}/{worker}"));
    let connector =
        source::read(&format!("{FIXTURES}/{name}"), None, worker.as_deref().map(str::as_ref)).expect(name);
    let translation = translate(&connector, options);
    let mut keys: Vec<_> = translation.verdicts.iter().map(|verdict| verdict.key.as_str()).collect();
    for given in connector.properties.values().filter(|given| given.shown != "debezium.source.name") {
        assert!(keys.contains(&given.shown.as_str()), "{name}: {} has no verdict", given.shown);
    }
    keys.sort_unstable();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count, "{name}: a key has two verdicts");
    assert!(!translation.toml.contains("hunter2"), "{name}: a secret was written\n{}", translation.toml);
    let report = report::write(&translation.verdicts);
    assert!(!report.contains("hunter2"), "{name}: a secret was printed\n{report}");
    translation
}

/// The verdict of a key must be this one, with these words.
fn check(translation: &Translation, key: &str, fate: Fate, words: &str) {
    let verdict = translation.verdicts.iter().find(|verdict| verdict.key == key);
    let verdict =
        verdict.unwrap_or_else(|| panic!("{key} is not in\n{}", report::write(&translation.verdicts)));
    assert_eq!(verdict.fate, fate, "{key}: {}", verdict.text);
    assert!(verdict.text.contains(words), "{key}: {}", verdict.text);
}

fn table(translation: &Translation) -> toml::Table {
    assert_eq!(translation.missing, [""; 0], "{}", translation.toml);
    translation.toml.parse().expect("it is TOML")
}

/// What a path of a table leads to, as TOML writes it.
fn at(table: &toml::Table, path: &[&str]) -> String {
    let (first, rest) = path.split_first().expect("a path");
    match table.get(*first) {
        None => String::new(),
        Some(toml::Value::Table(inner)) if !rest.is_empty() => at(inner, rest),
        Some(value) => value.to_string(),
    }
}

#[test]
fn a_connector_with_avro() {
    let translation = import("shop.json", None, &Options::default());
    let toml = table(&translation);
    for (path, expected) in [
        (&["postgres", "url"][..], "\"postgres://debezium%40shop@db.internal:5433/shop\""),
        (&["postgres", "sslmode"], "\"verify-full\""),
        (&["postgres", "sslrootcert"], "\"/etc/ssl/db-ca.pem\""),
        (&["postgres", "slot"], "\"shop_slot\""),
        (&["postgres", "publication"], "\"shop_publication\""),
        (&["pipeline", "status_interval"], "\"5000ms\""),
        (&["pipeline", "tombstones_on_delete"], "false"),
        (&["topics", "prefix"], "\"shop\""),
        (&["topics", "partitions"], "12"),
        (&["topics", "replication_factor"], "3"),
        (&["topics.config", "cleanup.policy"], ""),
        (&["topics", "config", "cleanup.policy"], "\"compact\""),
        (&["records", "decimal_handling"], "\"string\""),
        (&["records", "time_precision"], "\"adaptive_time_microseconds\""),
        (&["records", "unknown_types"], "\"bytes\""),
        (&["records", "absent_before"], "\"debezium\""),
        (&["kafka", "bootstrap_servers"], "\"kafka.internal:9093\""),
        (&["kafka", "properties", "sasl.mechanisms"], "\"SCRAM-SHA-512\""),
        (&["kafka", "properties", "sasl.username"], "\"shop\""),
        (&["kafka", "properties", "sasl.password"], ""),
        (&["schema_registry", "url"], "\"https://registry.internal:8081\""),
        (&["schema_registry", "username"], "\"shop\""),
        (&["schema_registry", "password"], ""),
    ] {
        assert_eq!(at(&toml, path), expected, "{path:?}");
    }
    check(&translation, "table.include.list", Fate::Carried, "publication shop_publication holds just these");
    check(&translation, "database.password", Fate::Carried, "HEADWATER_POSTGRES__PASSWORD");
    check(&translation, "producer.override.acks", Fate::Other, "in-sync replicas");
    check(&translation, "producer.override.buffer.memory", Fate::Other, "pipeline.max_in_flight_bytes");
    check(&translation, "heartbeat.interval.ms", Fate::Other, "keepalives");
    check(&translation, "tasks.max", Fate::Other, "one task");
    let secrets: Vec<_> = translation.secrets.keys().map(String::as_str).collect();
    assert_eq!(
        secrets,
        [
            "HEADWATER_KAFKA__PROPERTIES__SASL_PASSWORD",
            "HEADWATER_POSTGRES__PASSWORD",
            "HEADWATER_SCHEMA_REGISTRY__PASSWORD"
        ]
    );
    assert!(!report::is_incomplete(&translation.verdicts), "{}", report::write(&translation.verdicts));
}

#[test]
fn an_outbox() {
    let options = Options { bootstrap_servers: Some("kafka:9092".to_owned()), ..Options::default() };
    let translation = import("outbox.json", None, &options);
    let toml = table(&translation);
    let expected: toml::Table = "
        [[outbox]]
        table = \"public.outbox_event\"
        topic = \"events.${aggregatetype}\"
        columns = { aggregateid = \"aggregate_id\", aggregatetype = \"aggregate_type\", payload = \"body\" }
        headers = { traceparent = \"traceparent\", tenant = \"tenantId\" }
        payload = \"avro_inferred\"
    "
    .parse()
    .expect("TOML");
    assert_eq!(toml["outbox"], expected["outbox"]);
    assert_eq!(at(&toml, &["schema_registry", "url"]), "\"http://registry.internal:8080/apis/ccompat/v7\"");
    assert_eq!(at(&toml, &["postgres", "slot"]), "\"debezium\"", "Debezium's default");
    assert_eq!(at(&toml, &["postgres", "publication"]), "\"dbz_publication\"", "Debezium's default");
    check(&translation, "slot.name (default)", Fate::Carried, "postgres.slot = \"debezium\"");
    check(&translation, "transforms.outbox.table.expand.json.payload", Fate::Carried, "avro_inferred");
    check(&translation, "key.converter (default)", Fate::Other, "--worker");
}

#[test]
fn what_has_no_equivalent_is_said_and_left_out() {
    let options = Options { registry_url: Some("http://registry:8081".to_owned()), ..Options::default() };
    let translation = import("flat.properties", Some("worker.properties"), &options);
    check(&translation, "plugin.name", Fate::Unsupported, "can't be taken over");
    check(&translation, "database.dbname", Fate::Unsupported, "config provider");
    check(
        &translation,
        "table.include.list",
        Fate::Unsupported,
        "ALTER PUBLICATION dbz_publication SET TABLE",
    );
    check(&translation, "slot.nmae", Fate::Unknown, "did you mean slot.name?");
    check(&translation, "worker: bootstrap.servers", Fate::Carried, "kafka.bootstrap_servers");
    check(&translation, "worker: producer.compression.type", Fate::Carried, "compression.type");
    check(&translation, "worker: producer.ssl.truststore.location", Fate::Unsupported, "keytool");
    check(&translation, "worker: security.protocol", Fate::Carried, "security.protocol");
    check(&translation, "worker: offset.storage.topic", Fate::Other, "--offsets-topic my-offsets");
    check(&translation, "worker: plugin.path", Fate::Other, "worker");
    // After the transform that flattens, Debezium leaves the table's name in the value's schema.
    check(&translation, "transforms.route.type", Fate::Other, "named after the new topic");
    check(&translation, "transforms.route.topic.regex", Fate::Carried, "in [[route]]");
    check(&translation, "column.mask.with.5.chars", Fate::Carried, "masks");
    check(&translation, "column.propagate.source.type", Fate::Carried, "propagate_source_type");
    check(&translation, "datatype.propagate.source.type", Fate::Unsupported, "columns, not types");
    let toml: toml::Table = translation.toml.parse().expect("TOML, though not complete");
    let expected: toml::Table = "
        [[table]]
        tables = [\"public.customers\"]
        masks = { email = \"fixed:*****\" }
        [[table]]
        tables = [\"public.customers\"]
        propagate_source_type = [\"name\"]
        [[table]]
        tables = [\"public.journal\"]
        message_key_columns = [\"id\", \"at\"]
        [[table]]
        tables = [\"public.log_*\"]
        message_key_columns = [\"id\"]
    "
    .parse()
    .expect("TOML");
    assert_eq!(toml["table"], expected["table"]);
    for (path, value) in [
        (&["records", "envelope"][..], "\"flat\""),
        (&["records", "flat_deletes"], "\"rewrite\""),
        (&["records", "metadata_fields"], "[\"op\", \"source.ts_ms\"]"),
        (&["records", "value_encoding"], "\"json\""),
        (&["records", "truncate"], "\"emit\""),
    ] {
        assert_eq!(at(&toml, path), value, "{path:?}");
    }
    assert!(report::is_incomplete(&translation.verdicts));
    // What this version may learn is carried over then, and is not silently dropped until then.
    for (key, section, ours) in [
        ("transforms.unwrap.type", "records", "envelope"),
        ("message.key.columns", "table", "message_key_columns"),
        ("worker: value.converter", "records", "value_encoding"),
    ] {
        if !config::knows(section, ours) {
            check(&translation, key, Fate::Unsupported, "not yet");
        }
    }
    assert!(
        translation.missing.iter().any(|missing| missing.starts_with("postgres.url")),
        "{:?}",
        translation.missing
    );
}

#[test]
fn routed_topics() {
    let options = Options { bootstrap_servers: Some("kafka:9092".to_owned()), ..Options::default() };
    let translation = import("routed.json", None, &options);
    let toml = table(&translation);
    let expected: toml::Table = r#"
        [[route]]
        match = 'shop\.(.*)_v\d+'
        topic = "shop.$1"
        shared_topic = "unique_keys"
        [[route]]
        match = "(.*)customers_shard(.*)"
        topic = "$1customers_all_shards"
        table_key_field = "shard_id"
        table_key_match = "(.*)customers_shard(.*)"
        table_key_value = "$2"
        [[route]]
        match = 'shop\.tenant_\w+\.(?<table>.*)'
        topic = "shop.tenants.${table}"
        [[route]]
        match = 'shop\.(.*)'
        topic = "prod.$1"
        shared_topic = "unique_keys"
        schema_names = "table"
    "#
    .parse()
    .expect("TOML");
    assert_eq!(toml["route"], expected["route"]);
    assert_eq!(at(&toml, &["records", "traceparent_column"]), "\"tracingspancontext\"");
    for (key, fate, words) in [
        ("topic.naming.strategy", Fate::Carried, "[[route]]"),
        ("topic.key.enforce.uniqueness", Fate::Carried, "[[route]]"),
        ("transforms.shards.type", Fate::Carried, "[[route]] match"),
        ("transforms.shards.key.field.regex", Fate::Carried, "[[route]]"),
        ("transforms.shards.logical.table.cache.size", Fate::Other, "plan"),
        ("transforms.rename.type", Fate::Carried, "RegexRouter"),
        ("transforms.possessive.type", Fate::Unsupported, "the possessive quantifier *+"),
        ("transforms.ahead.type", Fate::Unsupported, "look-around"),
        ("transforms.ahead.regex", Fate::Unsupported, "see its type"),
        ("transforms.some.type", Fate::Unsupported, "predicates"),
        ("transforms.trace.type", Fate::Other, "spans are not made"),
    ] {
        check(&translation, key, fate, words);
    }
}

#[test]
fn debezium_server() {
    let translation = import("application.properties", None, &Options::default());
    let toml = table(&translation);
    assert_eq!(at(&toml, &["postgres", "url"]), "\"postgres://debezium@db.internal:5432/tutorial\"");
    assert_eq!(at(&toml, &["kafka", "bootstrap_servers"]), "\"kafka:9092\"");
    assert_eq!(at(&toml, &["schema_registry", "url"]), "\"http://registry:8081\"");
    assert_eq!(at(&toml, &["topics", "include_tables"]), "[\"inventory.*\"]");
    check(&translation, "debezium.source.schema.include.list", Fate::Carried, "topics.include_tables");
    check(
        &translation,
        "debezium.source.offset.storage.file.filename",
        Fate::Other,
        "--offsets-file data/offsets.dat",
    );
    check(&translation, "debezium.sink.type", Fate::Carried, "Kafka");
    check(&translation, "quarkus.log.console.json", Fate::Other, "--log");
}

/// The sample with more properties.
fn shop_with(properties: &[(&str, &str)]) -> Translation {
    let mut connector = source::read(&format!("{FIXTURES}/shop.json"), None, None).expect("the sample");
    for (name, value) in properties {
        let given = Given { shown: (*name).to_owned(), value: (*value).to_owned() };
        connector.properties.insert((*name).to_owned(), given);
    }
    translate(&connector, &Options::default())
}

#[test]
fn signals_and_notifications() {
    let translation = shop_with(&[
        ("signal.data.collection", "public.debezium_signal"),
        ("signal.enabled.channels", "source,kafka"),
        ("signal.kafka.groupId", "mine"),
        ("notification.enabled.channels", "sink,log"),
        ("notification.sink.topic.name", "told"),
    ]);
    check(&translation, "signal.kafka.groupId", Fate::Other, "[kafka]");
    let toml = table(&translation);
    for (path, value) in [
        (&["signals", "table"][..], "\"public.debezium_signal\""),
        (&["signals", "topic"], "\"shop-signal\""),
        (&["notifications", "topic"], "\"told\""),
        (&["notifications", "log"], "true"),
    ] {
        assert_eq!(at(&toml, path), value, "{path:?}");
    }
    let translation = shop_with(&[
        ("signal.data.collection", "public.debezium_signal"),
        ("signal.kafka.topic", "asked"),
        ("notification.enabled.channels", "jmx"),
        ("notification.sink.topic.name", "told"),
    ]);
    check(&translation, "signal.data.collection", Fate::Carried, "signals.allow_filters");
    check(&translation, "signal.kafka.topic", Fate::Other, "not enabled");
    check(&translation, "notification.enabled.channels", Fate::Unsupported, "jmx");
    check(&translation, "notification.sink.topic.name", Fate::Other, "not enabled");
}

#[test]
fn every_property_of_debezium_is_in_the_table() {
    let names = std::fs::read_to_string(format!("{FIXTURES}/properties.txt")).expect("the list");
    assert!(names.lines().count() > 140, "the list is not whole");
    let missing: Vec<_> =
        names.lines().filter(|name| property_table::find(property_table::all(), name).is_none()).collect();
    assert_eq!(missing, [""; 0]);
}

/// With each default and with nonsense: no panic, nothing unknown, and what comes out can be loaded.
#[test]
fn any_value_of_any_property_ends_in_a_configuration_that_loads() {
    let mut base = source::read(&format!("{FIXTURES}/shop.json"), None, None).expect("the sample");
    // A client with TLS reads the system's certificates, which takes long a thousand times.
    base.properties.retain(|name, _| !name.starts_with("producer.override.s"));
    for property in property_table::all().filter(|property| !property.name.contains('*')) {
        for value in [property.default, "", "true", "17", "no such word", "a,b;c:d"] {
            // Without these there is nothing to load, and that is said.
            let needed =
                ["database.hostname", "database.port", "database.user", "database.dbname", "topic.prefix"];
            if needed.contains(&property.name) {
                continue;
            }
            let mut connector: Connector = base.clone();
            let given = Given { shown: property.name.to_owned(), value: value.to_owned() };
            connector.properties.insert(property.name.to_owned(), given);
            let translation = translate(&connector, &Options::default());
            let verdict = translation.verdicts.iter().find(|verdict| verdict.key == property.name);
            let verdict = verdict.unwrap_or_else(|| panic!("{} has no verdict", property.name));
            assert_ne!(verdict.fate, Fate::Unknown, "{} = {value}", property.name);
            let required = ["slot.name", "publication.name"].contains(&property.name);
            assert!(
                translation.missing.is_empty() || required,
                "{} = {value}: {:?}",
                property.name,
                translation.missing
            );
        }
    }
}

#[test]
fn wrong_inputs_are_told_apart() {
    let directory = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let check = |source: &str, name: Option<&str>, words: &str| {
        let error = format!("{:#}", source::read(source, name, None).expect_err(source));
        assert!(error.contains(words), "{error}");
    };
    check("/no/such/file.json", None, "/no/such/file.json: No such file");
    check(&write("broken.json", "{\"name\": "), None, "is not JSON");
    check(&write("empty.json", "{}"), None, "has no connector.class");
    check(&write("worker.properties", "bootstrap.servers=x"), None, "has no connector.class");
    check(&format!("{FIXTURES}/mysql.json"), None, "only Debezium's connector for PostgreSQL");
    check(
        &format!("{FIXTURES}/shop.json"),
        Some("billing"),
        "holds the connector shop-connector, not billing",
    );
    check("ftp://connect:8083", None, "ftp:// is no address of a Connect worker");
    check("http://127.0.0.1:1", None, "no answer from the Connect worker at 127.0.0.1/connectors");
    check("http://user:hunter2@:8083", None, "the address of the Connect worker");
}

/// The parts of the REST interface that are used, over a socket that answers once for each path.
#[test]
fn a_connect_worker_is_asked() {
    let config = std::fs::read_to_string(format!("{FIXTURES}/outbox.json")).expect("the sample");
    let worker = |names: &'static str| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let config = config.clone();
        std::thread::spawn(move || {
            use std::io::{BufRead, Write};
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = String::new();
                let mut lines = std::io::BufReader::new(stream.try_clone().expect("a copy"));
                lines.read_line(&mut request).expect("a request");
                while lines.read_line(&mut String::new()).is_ok_and(|bytes| bytes > 2) {}
                let (status, body) = match request.split(' ').nth(1) {
                    Some("/connectors") => ("200 OK", names),
                    Some("/connectors/orders-outbox/config") => ("200 OK", config.as_str()),
                    _ => ("404 Not Found", "{}"),
                };
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                )
                .ok();
            }
        });
        address
    };
    let one = worker("[\"orders-outbox\"]");
    for address in [one.clone(), format!("{one}/"), format!("{one}/connectors/orders-outbox/config")] {
        let connector =
            source::read(&address, None, None).unwrap_or_else(|error| panic!("{address}: {error:#}"));
        assert_eq!(connector.value("topic.prefix"), Some("orders"), "{address}");
        assert_eq!(connector.value("name"), Some("orders-outbox"));
    }
    let missing = format!("{:#}", source::read(&one, Some("billing"), None).expect_err("there is none"));
    assert!(missing.contains("404"), "{missing}");
    let several = worker("[\"a\",\"orders-outbox\"]");
    let error = format!("{:#}", source::read(&several, None, None).expect_err("which one?"));
    assert!(error.contains("--connector (a, orders-outbox)"), "{error}");
    assert!(source::read(&several, Some("orders-outbox"), None).is_ok());
}
