//! From what was written to what can be run: every field of `as_written` is taken apart here, once.
//!
//! The destructuring is exhaustive, so a new setting does not compile until this file says what it means.
//! All problems are collected; a value is made only when there are none.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use headwater_avro::registry::{Password, RegistrySettings};
use headwater_pg::Secret;
use headwater_pipeline::Settings;
use headwater_pipeline::records::{RecordRules, TableChoice};
use headwater_pipeline::route::TopicRoute;
use headwater_pipeline::settings::{
    CheckpointSettings, DeadLetterSettings, MessageSettings, NotificationSettings, OnNewTable, OutboxTable,
    ReselectSettings, SignalSettings, SinkSettings, SnapshotMode, SnapshotSettings, TopicSettings,
    TransactionSettings,
};

use super::as_written::{self, AsWritten, Field};
use super::connection;
use super::layers::variable_of;
use super::outbox_table;
use super::password;
use super::problem::{Origin, Problems};
use super::records;
use super::value::{Names, Properties, SinkType};

/// What was found to be wrong, and what to warn of, while settings are made.
pub struct Findings {
    /// The file's name, to which a missing key is charged.
    pub file: Origin,
    /// What stops the start.
    pub problems: Problems,
    /// What does not.
    pub warnings: Vec<String>,
}

/// Settings of the pipeline and of the command around it.
#[derive(Debug)]
pub struct Made {
    /// For the pipeline.
    pub settings: Settings,
    /// Where to serve metrics and probes.
    pub listen: Option<SocketAddr>,
    /// For the life of outbox rows.
    pub life: super::outbox::Life,
}

/// Makes settings, or notes in `findings` why not.
pub fn make(written: AsWritten, findings: &mut Findings) -> Option<Made> {
    let AsWritten {
        postgres,
        kafka,
        schema_registry,
        topics,
        records,
        table,
        route,
        masking,
        outbox,
        outbox_messages,
        messages,
        transactions,
        snapshot,
        signals,
        notifications,
        dead_letter,
        checkpoint,
        pipeline,
        sink,
        http,
        life,
    } = written;
    let postgres = connection::make(postgres, findings);
    let routes: Vec<_> = route.into_iter().map(|route| records::make_route(route, findings)).collect();
    let topics = make_topics(topics, routes, findings);
    let records = records::make(records, table, masking, findings);
    let outbox: Vec<Option<OutboxTable>> =
        outbox.into_iter().map(|table| outbox_table::make(table, findings)).collect();
    let outbox_messages = outbox_table::make_messages(outbox_messages, findings);
    let messages = make_messages(messages);
    let transactions = make_transactions(transactions);
    let snapshot = make_snapshot(snapshot, findings);
    let signals = make_signals(signals, findings);
    let notifications = make_notifications(notifications);
    let dead_letters = make_dead_letters(dead_letter, topics.as_ref(), findings);
    let checkpoint = make_checkpoint(checkpoint);
    let limits = make_limits(pipeline, findings);
    let queue_bytes_max = limits.as_ref().map_or(0, |limits| limits.max_in_flight_bytes);
    // Messages and transactions are written as the records of all tables are.
    let needs_registry = records.as_ref().is_none_or(RecordRules::writes_avro)
        || outbox.iter().flatten().any(|outbox| outbox.route.payload.is_avro());
    let registry = Registry { written: schema_registry, is_needed: needs_registry };
    let sink = make_sink(sink, kafka, registry, queue_bytes_max, findings);
    let listen = make_listen(http, findings)?;
    let life = super::outbox::make_life(life, findings)?;
    let (postgres, limits, mut snapshot) = (postgres?, limits?, snapshot?);
    let outbox = outbox.into_iter().collect::<Option<Vec<_>>>()?;
    super::outbox::refuse_without_status(&life, &outbox, findings);
    super::outbox::copy_new_rows_only(&outbox, &mut snapshot);
    Some(Made {
        settings: Settings {
            postgres: postgres.connect,
            publications: postgres.publications,
            slot: postgres.slot,
            slot_create_timeout: postgres.slot_create_timeout,
            adopt_slot: false,
            status_interval: limits.status_interval,
            heartbeat_interval: limits.heartbeat_interval,
            heartbeat_sql: limits.heartbeat_sql,
            max_in_flight_bytes: limits.max_in_flight_bytes,
            max_row_bytes: limits.max_row_bytes,
            reselect: limits.reselect,
            shutdown_timeout: limits.shutdown_timeout,
            topics: topics?,
            records: records?,
            checkpoint: checkpoint?,
            outbox,
            reserved_topics: life.topics(),
            outbox_messages: outbox_messages?,
            messages: messages?,
            transactions: transactions?,
            snapshot,
            signals: signals?,
            notifications: notifications?,
            dead_letters: dead_letters?,
            sink: sink?,
            tombstones_on_delete: limits.tombstones_on_delete,
        },
        listen,
        life,
    })
}

impl Findings {
    /// The value of a key that must be written; one that is missing becomes a problem.
    pub fn require<T>(&mut self, field: Field<T>, key: &str, example: &str) -> Option<T> {
        if let Field::Missing = field {
            let (section, _) = key.split_once('.').unwrap_or((key, ""));
            self.problems.add(&self.file, key, format!("is missing; write {example} below [{section}]"));
        }
        field.value()
    }

    /// Notes a problem; there is no value then.
    pub fn wrong<T>(&mut self, origin: &Origin, key: &str, message: impl Into<String>) -> Option<T> {
        self.problems.add(origin, key, message);
        None
    }
}

/// Two settings that are only good together. The outer option is none when one was wrong.
pub fn make_pair<A, B>(
    a: Field<A>,
    a_key: &str,
    b: Field<B>,
    b_key: &str,
    findings: &mut Findings,
) -> Option<Option<(A, B)>> {
    match (a, b) {
        (Field::Missing, Field::Missing) => Some(None),
        (Field::Set(a, _), Field::Set(b, _)) => Some(Some((a, b))),
        (Field::Set(_, origin), Field::Missing) => {
            findings.wrong(&origin, a_key, format!("needs {b_key} as well"))
        }
        (Field::Missing, Field::Set(_, origin)) => {
            findings.wrong(&origin, b_key, format!("needs {a_key} as well"))
        }
        _ => None,
    }
}

/// A secret from its own key, or from the file another key names.
pub fn take_secret(
    secret: Field<Secret>,
    secret_key: &str,
    file: Field<PathBuf>,
    file_key: &str,
    findings: &mut Findings,
) -> Option<Secret> {
    if let Field::Set(secret, origin) = secret {
        if let Origin::File(..) = origin {
            let variable = format!("HEADWATER_{}", secret_key.to_uppercase().replace('.', "__"));
            findings.warnings.push(format!(
                "{origin}: {secret_key} is a secret in a configuration file; keep it in {variable} or use {file_key}"
            ));
        }
        return Some(secret);
    }
    let Field::Set(path, origin) = file else { return None };
    match password::read_secret_file(&path) {
        Ok(secret) => Some(secret),
        Err(message) => findings.wrong(&origin, file_key, message),
    }
}

fn make_topics(
    written: as_written::Topics,
    routes: Vec<Option<TopicRoute>>,
    findings: &mut Findings,
) -> Option<TopicSettings> {
    let as_written::Topics {
        prefix,
        create,
        partitions,
        replication_factor,
        config,
        include_tables,
        exclude_tables,
    } = written;
    Some(TopicSettings {
        prefix: findings.require(prefix, "topics.prefix", "prefix = \"shop\"")?,
        create: create.value()?,
        partitions: partitions.value()?,
        replication_factor: replication_factor.value()?,
        config: plain(config),
        tables: TableChoice {
            include: include_tables.value()?.0,
            exclude: exclude_tables.value().unwrap_or_default().0,
        },
        routes: routes.into_iter().collect::<Option<_>>()?,
    })
}

/// The properties without their places.
pub fn plain(field: Field<Properties>) -> BTreeMap<String, String> {
    let properties = field.value().unwrap_or_default();
    properties.0.into_iter().map(|(name, (value, _))| (name, value)).collect()
}

fn make_messages(written: as_written::Messages) -> Option<MessageSettings> {
    let as_written::Messages { include, exclude, topic, traceparent_prefix } = written;
    let names = |field: Field<Names>| field.value().unwrap_or_default().0;
    Some(MessageSettings {
        include: names(include),
        exclude: names(exclude),
        topic: topic.value()?,
        traceparent_prefix: traceparent_prefix.value(),
    })
}

fn make_transactions(written: as_written::Transactions) -> Option<TransactionSettings> {
    let as_written::Transactions { metadata, topic } = written;
    Some(TransactionSettings { metadata: metadata.value()?, topic: topic.value()? })
}

fn make_snapshot(written: as_written::Snapshot, findings: &mut Findings) -> Option<SnapshotSettings> {
    let as_written::Snapshot {
        mode,
        include_tables,
        exclude_tables,
        order,
        filters,
        workers,
        max_transaction_age,
        chunk_bytes,
        gives_way,
        max_rows_per_second,
        max_bytes_per_second,
        lock_timeout,
        statement_timeout,
        on_new_table,
    } = written;
    let names = |field: Field<Names>| field.value().unwrap_or_default().0;
    let origin = workers.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let workers = workers.value()?;
    if !(1..=64).contains(&workers) {
        let message = format!("{workers} is not between 1 and 64");
        return findings.wrong(&origin, "snapshot.workers", message);
    }
    let origin = max_rows_per_second.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let Ok(max_rows_per_second) = u64::try_from(max_rows_per_second.value()?) else {
        return findings.wrong(
            &origin,
            "snapshot.max_rows_per_second",
            "is negative; 0 is no limit".to_owned(),
        );
    };
    let mode = mode.value()?;
    let on_new_table = match (on_new_table, mode) {
        (Field::Bad, _) => return None,
        (Field::Set(on_new_table, _), _) => on_new_table,
        (Field::Missing, SnapshotMode::Never | SnapshotMode::Only) => OnNewTable::StreamOnly,
        (Field::Missing, SnapshotMode::Initial | SnapshotMode::Always | SnapshotMode::WhenNeeded) => {
            OnNewTable::Snapshot
        }
    };
    Some(SnapshotSettings {
        mode,
        tables: TableChoice { include: names(include_tables), exclude: names(exclude_tables) },
        order: names(order),
        filters: plain(filters).into_iter().collect(),
        workers: workers as usize,
        max_transaction_age: max_transaction_age.value()?,
        chunk_bytes: chunk_bytes.value()?.0.clamp(16 << 10, 64 << 20),
        gives_way: gives_way.value()?,
        max_rows_per_second,
        max_bytes_per_second: max_bytes_per_second.value()?.0,
        lock_timeout: lock_timeout.value()?,
        statement_timeout: statement_timeout.value()?,
        on_new_table,
    })
}

fn make_signals(written: as_written::Signals, findings: &mut Findings) -> Option<SignalSettings> {
    let as_written::Signals { table, topic, allow_filters } = written;
    if let Field::Bad = topic {
        return None;
    }
    let table = match table {
        Field::Bad => return None,
        Field::Missing => None,
        Field::Set(text, origin) => match qualified_name(&text) {
            Some(table) => Some(table),
            None => {
                let message =
                    format!("\"{text}\" is not schema.table; write for example \"public.debezium_signal\"");
                return findings.wrong(&origin, "signals.table", message);
            }
        },
    };
    Some(SignalSettings { table, topic: topic.value(), allow_filters: allow_filters.value()? })
}

fn make_dead_letters(
    written: as_written::DeadLetter,
    topics: Option<&TopicSettings>,
    findings: &mut Findings,
) -> Option<DeadLetterSettings> {
    let as_written::DeadLetter { topic, blocked_keys_max, oversized } = written;
    let topic = match topic {
        Field::Bad => return None,
        Field::Missing => format!("{}.dead_letter", topics?.prefix),
        Field::Set(topic, _) => topic,
    };
    let origin = blocked_keys_max.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let Some(blocked_keys_max) = usize::try_from(blocked_keys_max.value()?).ok().filter(|max| *max > 0)
    else {
        return findings.wrong(&origin, "dead_letter.blocked_keys_max", "is not at least 1");
    };
    Some(DeadLetterSettings { topic, blocked_keys_max, oversized: oversized.value()? })
}

fn make_notifications(written: as_written::Notifications) -> Option<NotificationSettings> {
    let as_written::Notifications { topic, log } = written;
    if let Field::Bad = topic {
        return None;
    }
    Some(NotificationSettings { topic: topic.value(), log: log.value()? })
}

/// `schema.table`, exactly as Postgres spells the names; with a dot inside a name, `"odd.schema".table`.
pub fn qualified_name(text: &str) -> Option<(String, String)> {
    let (schema, table) = match text.strip_prefix('"') {
        Some(rest) => rest.split_once("\".")?,
        None => text.split_once('.')?,
    };
    let table = table.strip_prefix('"').map_or(Some(table), |rest| rest.strip_suffix('"'))?;
    let (schema, table) = (schema.replace("\"\"", "\""), table.replace("\"\"", "\""));
    (!schema.is_empty() && !table.is_empty()).then_some((schema, table))
}

fn make_checkpoint(written: as_written::Checkpoint) -> Option<CheckpointSettings> {
    let as_written::Checkpoint { topic, file } = written;
    Some(CheckpointSettings { topic: topic.value()?, file: file.value()? })
}

struct Limits {
    max_in_flight_bytes: u64,
    max_row_bytes: u64,
    reselect: ReselectSettings,
    shutdown_timeout: Duration,
    status_interval: Duration,
    heartbeat_interval: Option<Duration>,
    heartbeat_sql: Option<String>,
    tombstones_on_delete: bool,
}

fn make_limits(written: as_written::Pipeline, findings: &mut Findings) -> Option<Limits> {
    let as_written::Pipeline {
        max_in_flight_bytes,
        max_row_bytes,
        reselect_max_bytes,
        reselect_timeout,
        shutdown_timeout,
        status_interval,
        heartbeat_interval,
        heartbeat_sql,
        tombstones_on_delete,
    } = written;
    if let (Field::Missing, Some((_, origin))) = (&heartbeat_interval, heartbeat_sql.located()) {
        let message = "needs pipeline.heartbeat_interval, for example \"60s\"";
        findings.problems.add(origin, "pipeline.heartbeat_sql", message);
    }
    Some(Limits {
        max_in_flight_bytes: max_in_flight_bytes.value()?.0,
        max_row_bytes: max_row_bytes.value()?.0,
        reselect: ReselectSettings {
            max_bytes: reselect_max_bytes.value()?.0,
            timeout: reselect_timeout.value()?,
        },
        shutdown_timeout: shutdown_timeout.value()?,
        status_interval: status_interval.value()?,
        heartbeat_interval: heartbeat_interval.value(),
        heartbeat_sql: heartbeat_sql.value(),
        tombstones_on_delete: tombstones_on_delete.value()?,
    })
}

/// The section as it was written, and whether anything is written as Avro.
struct Registry {
    written: as_written::SchemaRegistry,
    is_needed: bool,
}

fn make_sink(
    written: as_written::Sink,
    kafka: as_written::Kafka,
    registry: Registry,
    queue_bytes_max: u64,
    findings: &mut Findings,
) -> Option<SinkSettings> {
    let as_written::Sink { kind, path } = written;
    let kind = kind.value()?;
    if let (Field::Set(_, origin), SinkType::Kafka | SinkType::Stdout | SinkType::Discard) = (&path, kind) {
        findings.problems.add(origin, "sink.path", "has a meaning only with type = \"file\"");
    }
    match kind {
        SinkType::Stdout => Some(SinkSettings::Stdout),
        SinkType::Discard => Some(SinkSettings::Discard),
        SinkType::File => Some(SinkSettings::File {
            path: findings.require(path, "sink.path", "path = \"changes.jsonl\"")?,
        }),
        SinkType::Kafka => {
            let kafka = make_kafka(kafka, queue_bytes_max, findings);
            let registry = match registry.is_needed || registry.written.url.is_written() {
                true => Some(make_registry(registry.written, findings)),
                false => None,
            };
            Some(SinkSettings::Kafka {
                kafka: kafka?,
                registry: registry.map_or(Some(None), |made| made.map(Some))?,
            })
        }
    }
}

pub fn make_kafka(
    written: as_written::Kafka,
    queue_bytes_max: u64,
    findings: &mut Findings,
) -> Option<headwater_kafka::Settings> {
    let as_written::Kafka { bootstrap_servers, properties } = written;
    let servers_origin =
        bootstrap_servers.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let servers =
        findings.require(bootstrap_servers, "kafka.bootstrap_servers", "bootstrap_servers = \"host:9092\"");
    let properties = properties.value().unwrap_or_default();
    let mut refused = false;
    for (name, (value, origin)) in &properties.0 {
        if headwater_kafka::is_secret_property(name) && matches!(origin, Origin::File(..)) {
            let (key, variable) =
                (format!("kafka.properties.{name}"), variable_of("kafka", "properties", Some(name)));
            findings
                .warnings
                .push(format!("{origin}: {key} is a secret in a configuration file; keep it in {variable}"));
        }
        if let Err(why) = headwater_kafka::check_property(name, value) {
            refused = true;
            findings.problems.add(origin, &format!("kafka.properties.{name}"), why);
        }
    }
    let settings = headwater_kafka::Settings {
        bootstrap_servers: servers?,
        properties: properties.0.into_iter().map(|(name, (value, _))| (name, value)).collect(),
        queue_bytes_max,
    };
    if !refused {
        for problem in settings.problems() {
            findings.problems.add(&servers_origin, "kafka", problem);
        }
    }
    Some(settings)
}

pub fn make_registry(
    written: as_written::SchemaRegistry,
    findings: &mut Findings,
) -> Option<RegistrySettings> {
    let as_written::SchemaRegistry {
        url,
        username,
        password,
        password_file,
        ca_file,
        cert_file,
        key_file,
        timeout,
        auto_register,
        key_subject_strategy,
        value_subject_strategy,
    } = written;
    let url_origin = url.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let urls = findings.require(url, "schema_registry.url", "url = \"http://registry:8081\"");
    for url in urls.iter().flat_map(|urls| &urls.0) {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            findings.problems.add(
                &url_origin,
                "schema_registry.url",
                "does not start with http:// or https://; write for example \"http://registry:8081\"",
            );
        }
        if url.contains('@') && matches!(url_origin, Origin::File(..)) {
            let message = "holds a password; write username, and keep the password in the environment";
            findings.warnings.push(format!("{url_origin}: schema_registry.url {message}"));
        }
    }
    let (secret_key, file_key) = ("schema_registry.password", "schema_registry.password_file");
    let password = match take_secret(password, secret_key, password_file, file_key, findings) {
        Some(secret) => Field::Set(secret, findings.file.clone()),
        None => Field::Missing,
    };
    let login = make_pair(username, "schema_registry.username", password, secret_key, findings)?;
    let client_cert =
        make_pair(cert_file, "schema_registry.cert_file", key_file, "schema_registry.key_file", findings)?;
    let (username, password) = login.unzip();
    Some(RegistrySettings {
        urls: urls?.0,
        username,
        password: password.map(|secret| Password::new(secret.expose())),
        ca_file: ca_file.value(),
        client_cert,
        timeout: timeout.value()?,
        auto_register: auto_register.value()?,
        key_subject: key_subject_strategy.value()?,
        value_subject: value_subject_strategy.value()?,
    })
}

/// The outer option is none when the address is wrong.
pub fn make_listen(written: as_written::Http, findings: &mut Findings) -> Option<Option<SocketAddr>> {
    let as_written::Http { listen } = written;
    let Field::Set(text, origin) = listen else {
        return if let Field::Bad = listen { None } else { Some(None) };
    };
    match text.parse() {
        Ok(address) => Some(Some(address)),
        Err(_) => findings.wrong(
            &origin,
            "http.listen",
            format!("\"{text}\" is not an address and a port; write for example \"127.0.0.1:9187\""),
        ),
    }
}
