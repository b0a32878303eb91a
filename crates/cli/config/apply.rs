//! The settings of `headwater apply`: a file of its own, read by the same machinery.
//!
//! `[kafka]`, `[schema_registry]` and `[http]` are those of `headwater run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_apply::{EventSettings, FeedbackFormat, OnPoison, Replay, Settings, StartAt, TableRule};
use headwater_pg::Secret;
use toml::de::DeTable;

use super::as_written::{
    Field, Http, Kafka, Key, SchemaRegistry, Section, default_text, key_name, read_field, read_list,
    read_section, refuse_unknown, refuse_unknown_sections, section, sections,
};
use super::connection::{self, Connection};
use super::layers::Table;
use super::problem::Problems;
use super::quantity::Size;
use super::settings::{Findings, make_kafka, make_listen, make_registry, plain};
use super::value::{ChannelBinding, Names, Properties, SslMode, Value};
use super::{ConfigError, origins};

sections! {
    /// Of `headwater apply`: the database whose tables are kept equal to their topics.
    "target" => pub struct Target {
        /// Required. As `postgres.url`.
        url: String,
        /// As `postgres.password`; meant for the environment (`HEADWATER_TARGET__PASSWORD`).
        password: Secret,
        /// A file that holds the password and nothing else.
        password_file: PathBuf,
        /// As `postgres.sslmode`.
        sslmode: SslMode,
        /// As `postgres.sslrootcert`.
        sslrootcert: PathBuf,
        /// A client certificate in a PEM file, together with `sslkey`.
        sslcert: PathBuf,
        /// The key of `sslcert`, in a PEM file.
        sslkey: PathBuf,
        /// As `postgres.channel_binding`.
        channel_binding: ChannelBinding,
        /// Whether the server may ask for the password hashed with MD5.
        allow_md5: bool = "false",
        /// How long to wait for the server to accept a connection.
        connect_timeout: Duration = "10s",
    }

    /// Of `headwater apply`: what is read and how it is written. See [APPLY.md](APPLY.md).
    "apply" => pub struct Apply {
        /// Required. The consumer group. The offsets that count are kept under this name in the target database.
        group: String,
        /// A name of this instance that stays the same across restarts (`group.instance.id`): a restart then costs no
        /// rebalance, and an instance that was killed takes its partitions back at once.
        instance: String,
        /// The topics of tables: names, patterns with `*` and `?`, or regular expressions that begin with `^`.
        topics: Names,
        /// The table of a topic, where no `[[apply_table]]` names one. `{schema}` and `{table}` are the last two parts of
        /// the topic's name.
        target: String = "{schema}.{table}",
        /// Whether a table that is missing is created, with the columns that the topic's schema has.
        create_tables: bool = "true",
        /// Whether columns that the schema has and the table lacks are added, the columns of positions among them.
        alter_tables: bool = "true",
        /// Where a partition begins that was never applied: `beginning` or `end`.
        start: StartAt = "beginning",
        /// How many records go into one transaction at most.
        batch_rows: i32 = "10000",
        /// How many bytes of rows go into one transaction at most. One is written while the next is collected, and the rows
        /// are in memory once more while they are copied.
        batch_bytes: Size = "16MiB",
        /// How long the first record of a transaction waits for more.
        linger: Duration = "50ms",
        /// What stands for an unchanged TOAST value: the producer's `unavailable_value_placeholder`.
        unavailable_value_placeholder: String = "__debezium_unavailable_value",
        /// What becomes of a record that can't be applied: `halt`, or `dead_letter`.
        on_poison: OnPoison = "halt",
        /// The topic for records that can't be applied; `{topic}` is their own.
        dead_letter_topic: String = "{topic}.dead_letter",
        /// How long deleted keys are remembered, so that older records don't bring them back.
        deleted_retention: Duration = "168h",
        /// How long a shutdown may take.
        shutdown_timeout: Duration = "10s",
        /// The topics of outbox events.
        event_topics: Names,
        /// What is done with an event, by its type: one SQL statement in the transaction of its offset. `$1` is the
        /// payload, `$2`, where the statement has it, the event as JSON: `'InventoryChanged' = "select
        /// shop.apply_inventory($1)"`. Types without a statement are passed over.
        on_event: Properties,
        /// The topic for answers to events: event id, status, reason, consumer, attempt, time. Without it none are sent,
        /// and an event whose statement fails is treated as `on_poison` says.
        feedback_topic: String,
        /// How answers are written: `json`, or `avro` under the schema `headwater.Feedback`, which is registered.
        feedback_format: FeedbackFormat = "json",
        /// How long handled events are remembered.
        inbox_retention: Duration = "168h",
    }

    /// Of `headwater apply`: what differs for some topics; may be given several times, and the first that matches counts.
    "apply_table" => pub struct ApplyTable {
        /// Required. The topics, with `*` and `?`.
        topics: Names,
        /// Their table, `schema.table`.
        target: String,
        /// The columns to take, by their names in the topic, with `*` and `?`. Key columns are always taken.
        include: Names,
        /// The columns to leave out.
        exclude: Names,
        /// Other names in the table: `renames = { old = "new" }`.
        renames: Properties,
        /// As `apply.on_poison`.
        on_poison: OnPoison,
    }
}

/// The sections that only `headwater apply` has.
pub const SECTIONS: &[(&str, &[&str], &[Key])] =
    &[section::<Target>(), section::<Apply>(), section::<ApplyTable>()];

/// What the file of `headwater apply` may have.
const FILE: &[(&str, &[&str], &[Key])] = &[
    section::<Target>(),
    section::<Kafka>(),
    section::<SchemaRegistry>(),
    section::<Apply>(),
    section::<ApplyTable>(),
    section::<Http>(),
];

/// A configuration that can be applied.
#[derive(Debug)]
pub struct ApplyConfig {
    /// For the applier.
    pub settings: Settings,
    /// Where to serve metrics and probes, if anywhere.
    pub listen: Option<SocketAddr>,
    /// What the user should know although it stops nothing.
    pub warnings: Vec<String>,
}

/// Whether a file is one of `headwater apply`: it has a section that only such a file has. What can't be read is not.
pub fn is_of_apply(file: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let Ok(tree) = DeTable::parse(&text) else { return false };
    SECTIONS.iter().any(|(name, ..)| tree.get_ref().contains_key(*name))
}

/// Loads the configuration of `headwater apply`, as [`super::load`] does that of `headwater run`.
pub fn load(file: &Path, flags: &[String], replay: Option<Replay>) -> Result<ApplyConfig, ConfigError> {
    let (name, text, variables) = super::read_sources(file)?;
    read(&name, &text, variables, flags, replay)
}

pub(super) fn read(
    name: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
    replay: Option<Replay>,
) -> Result<ApplyConfig, ConfigError> {
    let (mut tree, mut problems, warnings) = super::lay(name, text, variables, flags);
    let origins = origins(&tree);
    let target: Target = read_section(&mut tree, &mut problems);
    let kafka: Kafka = read_section(&mut tree, &mut problems);
    let registry: SchemaRegistry = read_section(&mut tree, &mut problems);
    let apply: Apply = read_section(&mut tree, &mut problems);
    let tables: Vec<ApplyTable> = read_list(&mut tree, &mut problems);
    let http: Http = read_section(&mut tree, &mut problems);
    refuse_unknown_sections(tree, FILE, &mut problems);
    let mut findings =
        super::settings::Findings { file: super::problem::Origin::File(name.into(), 0), problems, warnings };
    let made = make(target, (kafka, registry), apply, tables, replay, &mut findings);
    let listen = make_listen(http, &mut findings);
    let Findings { file, mut problems, warnings } = findings;
    for (key, message) in made.iter().flat_map(Settings::validate) {
        problems.add(origins.get(key).unwrap_or(&file), key, message);
    }
    match (made, listen) {
        (Some(settings), Some(listen)) if problems.is_empty() => {
            Ok(ApplyConfig { settings, listen, warnings })
        }
        _ => Err(ConfigError { problems: problems.into_sorted(), warnings }),
    }
}

fn make(
    target: Target,
    (kafka, registry): (Kafka, SchemaRegistry),
    apply: Apply,
    tables: Vec<ApplyTable>,
    replay: Option<Replay>,
    findings: &mut Findings,
) -> Option<Settings> {
    let postgres = make_target(target, findings);
    // Of records that are sent there are only dead letters and answers: one at a time.
    let kafka = make_kafka(kafka, 16 << 20, findings);
    let registry = make_registry(registry, findings);
    let tables: Vec<_> = tables.into_iter().map(|table| make_table(table, findings)).collect();
    let Apply {
        group,
        instance,
        topics,
        target,
        create_tables,
        alter_tables,
        start,
        batch_rows,
        batch_bytes,
        linger,
        unavailable_value_placeholder,
        on_poison,
        dead_letter_topic,
        deleted_retention,
        shutdown_timeout,
        event_topics,
        on_event,
        feedback_topic,
        feedback_format,
        inbox_retention,
    } = apply;
    let feedback = (feedback_topic, feedback_format);
    let events = make_events(event_topics, on_event, feedback, inbox_retention, findings)?;
    let rows_origin = batch_rows.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let batch_rows = batch_rows.value()?;
    if !(1..=1_000_000).contains(&batch_rows) {
        let message = format!("{batch_rows} is not between 1 and 1000000");
        return findings.wrong(&rows_origin, "apply.batch_rows", message);
    }
    Some(Settings {
        group: findings.require(group, "apply.group", "group = \"shop-replica\"")?,
        postgres: postgres?,
        kafka: kafka?,
        registry: registry?,
        instance: instance.value(),
        topics: topics.value().unwrap_or_default().0,
        target: target.value()?,
        tables: tables.into_iter().collect::<Option<_>>()?,
        create_tables: create_tables.value()?,
        alter_tables: alter_tables.value()?,
        start: start.value()?,
        replay,
        batch_rows: batch_rows as usize,
        batch_bytes: batch_bytes.value()?.0.clamp(64 << 10, 1 << 30) as usize,
        linger: linger.value()?,
        placeholder: unavailable_value_placeholder.value()?,
        on_poison: on_poison.value()?,
        dead_letter_topic: dead_letter_topic.value()?,
        deleted_retention: deleted_retention.value()?,
        shutdown_timeout: shutdown_timeout.value()?,
        events,
    })
}

fn make_target(written: Target, findings: &mut Findings) -> Option<headwater_pg::ConnectSettings> {
    let Target {
        url,
        password,
        password_file,
        sslmode,
        sslrootcert,
        sslcert,
        sslkey,
        channel_binding,
        allow_md5,
        connect_timeout,
    } = written;
    let connection = Connection {
        section: "target",
        url,
        password,
        password_file,
        sslmode,
        sslrootcert,
        sslcert,
        sslkey,
        channel_binding,
        allow_md5,
        connect_timeout,
    };
    connection::make_connect(connection, findings)
}

fn make_table(written: ApplyTable, findings: &mut Findings) -> Option<TableRule> {
    let ApplyTable { topics, target, include, exclude, renames, on_poison } = written;
    Some(TableRule {
        topics: findings.require(topics, "apply_table.topics", "topics = \"shop.public.item\"")?.0,
        target: target.value(),
        include: include.value().unwrap_or_default().0,
        exclude: exclude.value().unwrap_or_default().0,
        renames: plain(renames).into_iter().collect(),
        on_poison: on_poison.value(),
    })
}

/// The outer option is none when something is wrong.
fn make_events(
    topics: Field<Names>,
    on_event: Field<Properties>,
    (feedback_topic, feedback_format): (Field<String>, Field<FeedbackFormat>),
    inbox_retention: Field<Duration>,
    findings: &mut Findings,
) -> Option<Option<EventSettings>> {
    let inbox_retention = inbox_retention.value()?;
    match (topics, on_event.is_written()) {
        (Field::Missing, false) => Some(None),
        (Field::Missing, true) => {
            let origin = on_event.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
            findings.wrong(&origin, "apply.on_event", "needs apply.event_topics as well")
        }
        (topics, _) => Some(Some(EventSettings {
            topics: topics.value()?.0,
            handlers: plain(on_event).into_iter().collect(),
            feedback_topic: feedback_topic.value(),
            feedback_format: feedback_format.value()?,
            inbox_retention,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "
[target]
url = \"postgres://me@localhost/replica\"
[kafka]
bootstrap_servers = \"localhost:9092\"
[schema_registry]
url = \"http://localhost:8081\"
[apply]
group = \"replica\"
topics = [\"shop.public.*\"]
on_event.'InventoryChanged' = \"select shop.apply_inventory($1)\"
event_topics = \"outbox.event.*\"
[[apply_table]]
topics = \"shop.public.item\"
renames = { name = \"title\" }
";

    #[test]
    fn a_file_that_works() {
        let config = read("f", RIGHT, [], &[], None).expect("it is right");
        let settings = config.settings;
        assert_eq!((settings.group.as_str(), settings.batch_rows), ("replica", 10_000));
        assert_eq!(settings.tables[0].renames, [("name".to_owned(), "title".to_owned())]);
        let events = settings.events.expect("events");
        assert_eq!(events.handlers[0].0, "InventoryChanged");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, expected) in [
            ("group = \"replica\"", "", "apply.group: is missing"),
            ("group", "grouop", "did you mean group?"),
            ("[target]", "[targett]", "did you mean [target]?"),
            ("[apply]", "[topics]\nprefix = \"x\"\n[apply]", "unknown section"),
            ("event_topics = \"outbox.event.*\"", "", "needs apply.event_topics"),
            ("topics = [\"shop.public.*\"]", "start = \"middle\"", "\"middle\" is not one of beginning, end"),
            ("topics = \"shop.public.item\"", "", "apply_table.topics: is missing"),
            ("postgres://me@localhost/replica", "mysql://x", "target.url"),
        ] {
            let text = RIGHT.replacen(from, to, 1);
            let error = read("f", &text, [], &[], None).expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected} is not in {error}");
        }
    }
}
