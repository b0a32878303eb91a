//! THE table of Debezium's properties (connector for PostgreSQL 3.x): each with its default and what becomes of it.
//!
//! Read it like a document. A name may hold one `*`. A property with `always` counts with its default where it is not
//! written: its default is not Headwater's. What needs more than a line is a function of `combined.rs`.
//! Keys of Headwater that this version's loader does not know are reported as not supported yet, by themselves.

use super::combined;
use super::report::Fate;
use super::routers;
use super::signals;
use super::source::Given;
use super::translate::Work;

/// What becomes of a property.
#[derive(Clone, Copy)]
pub enum Becomes {
    /// This key of ours, with the same words.
    Key(&'static str),
    /// This key of ours, true or false.
    Flag(&'static str),
    /// This key of ours, a number of milliseconds there and a duration here.
    Milliseconds(&'static str),
    /// This key of ours, a number in both.
    Number(&'static str),
    /// This key of ours, for the words that have one of ours; others don't, because.
    Words(&'static str, &'static [(&'static str, &'static str)], &'static str),
    /// What is done here anyway, if it has one of these values; with others it is not supported, because.
    AsHere(&'static [&'static str], &'static str, &'static str),
    /// Done in another way here, because.
    Other(&'static str),
    /// Not done here, because. With its default nothing is lost.
    Not(&'static str),
    /// There may be a key of ours by now, but no rule to translate it; until then not supported, because.
    ByHand(&'static str, &'static str),
    /// See the function.
    Special(fn(&mut Work<'_>, &Given) -> (Fate, String)),
}

use Becomes::{AsHere, Flag, Key, Milliseconds, Not, Number, Other, Special, Words};

/// One line of the table.
pub struct Property {
    /// Its name, with at most one `*`.
    pub name: &'static str,
    /// Debezium's default; empty for none.
    pub default: &'static str,
    /// Whether it counts where it is not written.
    pub always: bool,
    /// What becomes of it.
    pub becomes: Becomes,
}

const fn p(name: &'static str, default: &'static str, becomes: Becomes) -> Property {
    Property { name, default, always: false, becomes }
}

const fn always(name: &'static str, default: &'static str, becomes: Becomes) -> Property {
    Property { name, default, always: true, becomes }
}

const NO_SNAPSHOT: &str = "snapshots are made in another way here: see [snapshot] in docs/CONFIG.md";
const SIGNAL_CONSUMER: &str = "signals are read with the settings of [kafka], without a group: the position is kept beside the checkpoint";
const BYTES: &str = "memory has one limit, pipeline.max_in_flight_bytes, and rows are not polled for";
const RETRIES: &str =
    "a server that is away is waited for, with growing pauses and without an end; what can't pass halts";
const FAILURES: &str = "a value that can't be written truthfully halts, with table, column and LSN";

/// The whole table, section by section.
pub const TABLE: &[(&str, &[Property])] = &[
    ("connector", CONNECTOR),
    ("connection", CONNECTION),
    ("slot and publication", SLOT),
    ("what is captured", CAPTURED),
    ("columns", COLUMNS),
    ("values", VALUES),
    ("records and topics", RECORDS),
    ("snapshots and signals", SNAPSHOTS),
    ("streaming", STREAMING),
    ("errors", ERRORS),
    ("watching", WATCHING),
    ("Kafka Connect", CONNECT),
    ("Debezium Server", SERVER),
];

const CONNECTOR: &[Property] = &[
    p("name", "", Other("an instance has no name; take-over finds the stored offset by it (--connector)")),
    p(
        "connector.class",
        "",
        AsHere(&["io.debezium.connector.postgresql.PostgresConnector"], "PostgreSQL", "another database"),
    ),
    p("tasks.max", "1", Other("Debezium has one task whatever this says, and so has Headwater")),
    always(
        "plugin.name",
        "decoderbufs",
        AsHere(
            &["pgoutput"],
            "pgoutput is the only plugin",
            "Headwater reads pgoutput, and a slot keeps its plugin: it can't be taken over. Stop the writers, let the connector \
         come to the end, drop its slot and let headwater init make a new one",
        ),
    ),
    p(
        "converters",
        "",
        Not("custom converters are Java; records.* and [[table]] choose the forms that there are"),
    ),
    p(
        "post.processors",
        "",
        Not(
            "post processors are Java; for the one that reselects columns, write unchanged_toast = \"reselect\" and allow_newer = true",
        ),
    ),
    p("custom.sanitize.pattern", "", Other("values of secrets are never logged")),
    p("custom.metric.tags", "", Other("labels are added by whoever scrapes")),
    p("sourceinfo.struct.maker", "", Not("the source block is Debezium's own form and no other")),
    p("transaction.metadata.factory", "", Not("the factory is Java")),
    p(
        "executor.shutdown.timeout.ms",
        "4000",
        Other("pipeline.shutdown_timeout bounds a stop; what is not done comes again"),
    ),
    p("openlineage.*", "", Not("no lineage is reported")),
];

const CONNECTION: &[Property] = &[
    p("database.hostname", "", Special(combined::database_url)),
    p("database.port", "5432", Special(combined::database_url)),
    p("database.user", "", Special(combined::database_url)),
    p("database.dbname", "", Special(combined::database_url)),
    p("database.password", "", Special(combined::database_password)),
    always(
        "database.sslmode",
        "prefer",
        Words(
            "postgres.sslmode",
            &[
                ("disable", "disable"),
                ("allow", "prefer"),
                ("prefer", "prefer"),
                ("require", "require"),
                ("verify-ca", "verify-ca"),
                ("verify-full", "verify-full"),
            ],
            "it is no mode of libpq",
        ),
    ),
    p("database.sslrootcert", "", Key("postgres.sslrootcert")),
    p("database.sslcert", "", Key("postgres.sslcert")),
    p("database.sslkey", "", Special(combined::sslkey)),
    p(
        "database.sslpassword",
        "",
        Not(
            "keys are read without a passphrase: write it decrypted to a file that only the service can read",
        ),
    ),
    p("database.sslfactory", "", Not("a socket factory is Java")),
    p(
        "database.tcpKeepAlive",
        "true",
        Other("the stream has its own deadlines: keepalives of the protocol find a dead server"),
    ),
    p(
        "database.initial.statements",
        "",
        Not("no statements are run in its sessions; ALTER ROLE … SET does it for a role"),
    ),
    p(
        "database.query.timeout.ms",
        "600000",
        Other("only catalogs are queried; set statement_timeout for the role"),
    ),
    p(
        "database.connection.factory.class",
        "",
        Not(
            "a connection factory is Java; a password can come from a file that is renewed (postgres.password_file)",
        ),
    ),
    p(
        "connection.validation.timeout.ms",
        "60000",
        Other("headwater check looks at everything before a start, postgres.connect_timeout bounds it"),
    ),
    p("driver.*", "", Not("settings of the JDBC driver have no meaning here")),
];

const SLOT: &[Property] = &[
    always("slot.name", "debezium", Key("postgres.slot")),
    p(
        "slot.drop.on.stop",
        "false",
        AsHere(
            &["false"],
            "a slot is never dropped",
            "a dropped slot loses what is committed until the next start",
        ),
    ),
    p(
        "slot.failover",
        "false",
        Not("slots are made without FAILOVER; one that has it keeps it when it is taken over"),
    ),
    p(
        "slot.stream.params",
        "",
        Not("START_REPLICATION gets protocol, publications and messages, no other options"),
    ),
    p("slot.max.retries", "6", Other("a slot in use is stood by for, without an end")),
    p("slot.retry.delay.ms", "10000", Other("a standby tries every second")),
    p("internal.create.slot.command.timeout", "90", Other("postgres.slot_create_timeout, 90 s as well")),
    p(
        "internal.slot.seek.to.known.offset.on.start",
        "",
        Other("checkpoint and slot are compared at every start, and a gap halts"),
    ),
    p(
        "offset.mismatch.strategy",
        "no_validation",
        Other("checkpoint and slot are compared at every start, and a gap halts"),
    ),
    p("log.position.check.enable", "true", Other("the same check can't be turned off")),
    p(
        "lsn.flush.mode",
        "connector",
        AsHere(
            &["connector", "connector_and_driver"],
            "the slot moves with what Kafka acknowledged, and with keepalives when nothing is open",
            "a slot that its user moves can't be told from one that lost changes",
        ),
    ),
    p(
        "flush.lsn.source",
        "true",
        AsHere(
            &["true"],
            "the slot moves with what Kafka acknowledged",
            "a slot that its user moves can't be told from one that lost changes",
        ),
    ),
    p(
        "lsn.flush.timeout.ms",
        "30000",
        Other("positions are reported on the replication connection, without waiting"),
    ),
    p(
        "lsn.flush.timeout.action",
        "fail",
        Other("positions are reported on the replication connection, without waiting"),
    ),
    p("status.update.interval.ms", "10000", Milliseconds("pipeline.status_interval")),
    p("xmin.fetch.interval.ms", "0", Not("source.xmin is always null")),
    always("publication.name", "dbz_publication", Key("postgres.publication")),
    p(
        "publication.autocreate.mode",
        "all_tables",
        Other(
            "the publication that the connector made or found is used as it is; headwater init makes a new one when asked",
        ),
    ),
    p(
        "publish.via.partition.root",
        "false",
        Other("it is a property of the publication, which is used as it is"),
    ),
    p(
        "replica.identity.autoset.values",
        "",
        Not(
            "replica identities are left alone: ALTER TABLE … REPLICA IDENTITY … (what the connector set stays)",
        ),
    ),
    p(
        "read.only",
        "false",
        Other("nothing is ever written to the database, unless pipeline.heartbeat_interval is set"),
    ),
];

const CAPTURED: &[Property] = &[
    p("schema.include.list", "", Special(combined::tables)),
    p("schema.exclude.list", "", Special(combined::tables)),
    p("table.include.list", "", Special(combined::tables)),
    p("table.exclude.list", "", Special(combined::tables)),
    p(
        "table.ignore.builtin",
        "true",
        AsHere(&["true"], "catalogs can't be published", "catalogs can't be published"),
    ),
    p("skipped.operations", "t", Special(combined::skipped_operations)),
    p(
        "skip.messages.without.change",
        "false",
        Not(
            "an update that changes no captured column is sent; a row filter of the publication can leave it out",
        ),
    ),
    always("message.prefix.include.list", ".*", Special(combined::message_prefixes)),
    p("message.prefix.exclude.list", "", Special(combined::message_prefixes)),
    p("guardrail.collections.max", "0", Not("tables are what the publication holds, any number")),
    p(
        "guardrail.collections.limit.action",
        "warn",
        Other("tables are what the publication holds, any number"),
    ),
];

const COLUMNS: &[Property] = &[
    p("column.include.list", "", Special(combined::columns)),
    p("column.exclude.list", "", Special(combined::columns)),
    p(
        "column.mask.hash.v2.*",
        "",
        Not(
            "hashes are HMAC-SHA-256 under masking.salt, which gives other values than Debezium's digests: write [[table]] masks by hand if that will do",
        ),
    ),
    p(
        "column.mask.hash.*",
        "",
        Not(
            "hashes are HMAC-SHA-256 under masking.salt, which gives other values than Debezium's digests: write [[table]] masks by hand if that will do",
        ),
    ),
    p("column.mask.with.*", "", Special(combined::mask)),
    p("column.truncate.to.*", "", Special(combined::mask)),
    p("column.propagate.source.type", "", Special(combined::source_types_of_columns)),
    p("datatype.propagate.source.type", "", Special(combined::source_types_of_types)),
    p("message.key.columns", "", Special(combined::message_key_columns)),
    p("include.schema.comments", "false", Not("schemas do not carry comments")),
];

const VALUES: &[Property] = &[
    p(
        "decimal.handling.mode",
        "precise",
        Words(
            "records.decimal_handling",
            &[("precise", "precise"), ("double", "double"), ("string", "string")],
            "it is no mode of Debezium",
        ),
    ),
    p(
        "time.precision.mode",
        "adaptive",
        Words(
            "records.time_precision",
            &[
                ("adaptive", "adaptive"),
                ("adaptive_time_microseconds", "adaptive_time_microseconds"),
                ("microseconds", "microseconds"),
                ("nanoseconds", "nanoseconds"),
                ("connect", "connect"),
                ("isostring", "isostring"),
            ],
            "there are no structured times; choose another mode, for consumers as well",
        ),
    ),
    p(
        "interval.handling.mode",
        "numeric",
        Words(
            "records.interval_handling",
            &[("numeric", "numeric"), ("string", "string")],
            "it is no mode of Debezium",
        ),
    ),
    p(
        "hstore.handling.mode",
        "json",
        Words("records.hstore_handling", &[("json", "json"), ("map", "map")], "it is no mode of Debezium"),
    ),
    p(
        "binary.handling.mode",
        "bytes",
        Words(
            "records.binary_handling",
            &[
                ("bytes", "bytes"),
                ("base64", "base64"),
                ("base64-url-safe", "base64-url-safe"),
                ("hex", "hex"),
            ],
            "it is no mode of Debezium",
        ),
    ),
    p("money.fraction.digits", "2", Number("records.money_fraction_digits")),
    p("include.unknown.datatypes", "false", Special(combined::unknown_types)),
    p(
        "unavailable.value.placeholder",
        "__debezium_unavailable_value",
        Key("records.unavailable_value_placeholder"),
    ),
    always(
        "schema.name.adjustment.mode",
        "none",
        AsHere(
            &["avro", "none"],
            "names are made valid for Avro as mode avro does; without odd characters none is the same",
            "characters that Avro refuses become _ and nothing else",
        ),
    ),
    always(
        "field.name.adjustment.mode",
        "none",
        AsHere(
            &["avro", "none"],
            "names are made valid for Avro as mode avro does; without odd characters none is the same",
            "characters that Avro refuses become _ and nothing else",
        ),
    ),
    p(
        "schema.refresh.mode",
        "columns_diff",
        Other("each version of a table is described once, when its first row comes"),
    ),
    p("event.converting.failure.handling.mode", "warn", Other(FAILURES)),
];

const RECORDS: &[Property] = &[
    p("topic.prefix", "", Key("topics.prefix")),
    p("database.server.name", "", Key("topics.prefix")),
    p(
        "topic.naming.strategy",
        "io.debezium.schema.SchemaTopicNamingStrategy",
        Special(routers::naming_strategy),
    ),
    p(
        "topic.delimiter",
        ".",
        AsHere(&["."], "<prefix>.<schema>.<table>", "topics are named <prefix>.<schema>.<table>, with dots"),
    ),
    p("topic.cache.size", "10000", Other("a table's topic is part of its plan")),
    p("topic.regex", "", Special(routers::naming_option)),
    p("topic.replacement", "", Special(routers::naming_option)),
    p("topic.key.*", "", Special(routers::naming_option)),
    p("tombstones.on.delete", "true", Flag("pipeline.tombstones_on_delete")),
    p("provide.transaction.metadata", "false", Special(combined::transaction_metadata)),
    p("topic.transaction", "transaction", Special(combined::transaction_topic)),
    p(
        "extended.headers.enabled",
        "true",
        Other(
            "headers __debezium.context.* name a task and a run of Debezium; headwater.id names the record",
        ),
    ),
];

const SNAPSHOTS: &[Property] = &[
    p("snapshot.mode", "initial", Special(combined::snapshot_mode)),
    p("snapshot.mode.*", "", Not(NO_SNAPSHOT)),
    p("snapshot.isolation.mode", "serializable", Other(NO_SNAPSHOT)),
    p("snapshot.locking.mode", "none", Other(NO_SNAPSHOT)),
    p("snapshot.lock.timeout.ms", "10000", Other(NO_SNAPSHOT)),
    p("snapshot.query.mode", "select_all", Other(NO_SNAPSHOT)),
    p("snapshot.select.statement.overrides", "", Other(NO_SNAPSHOT)),
    p("snapshot.select.statement.overrides.*", "", Other(NO_SNAPSHOT)),
    p("snapshot.include.collection.list", "", Special(combined::snapshot_tables)),
    p("snapshot.fetch.size", "10240", Other(NO_SNAPSHOT)),
    p("snapshot.delay.ms", "0", Other(NO_SNAPSHOT)),
    p("snapshot.tables.order.by.row.count", "disabled", Other(NO_SNAPSHOT)),
    p("snapshot.max.threads", "1", Other(NO_SNAPSHOT)),
    p("snapshot.max.threads.multiplier", "1", Other(NO_SNAPSHOT)),
    p("snapshot.max.threads.multiplier.*", "", Other(NO_SNAPSHOT)),
    p("legacy.snapshot.max.threads", "false", Other(NO_SNAPSHOT)),
    p("query.fetch.size", "0", Other(NO_SNAPSHOT)),
    p("streaming.delay.ms", "0", Other("streaming begins at once")),
    p("incremental.snapshot.*", "", Other(NO_SNAPSHOT)),
    p("signal.data.collection", "", Special(signals::signal_table)),
    p("signal.enabled.channels", "source", Special(signals::signal_channels)),
    p("signal.poll.interval.ms", "5000", Other("signals are taken as they come")),
    p("signal.emit.failure.*", "", Other("nothing is written to the table of signals")),
    p("signal.kafka.topic", "", Special(signals::signal_topic)),
    p("signal.kafka.*", "", Other(SIGNAL_CONSUMER)),
    p("signal.consumer.*", "", Other(SIGNAL_CONSUMER)),
    p("signal.file", "file-signals.txt", Special(signals::signal_file)),
    p("notification.enabled.channels", "", Special(signals::notification_channels)),
    p("notification.sink.topic.name", "", Special(signals::notification_topic)),
    p("notification.*", "", Not("there are the channels sink and log")),
];

const STREAMING: &[Property] = &[
    p("heartbeat.interval.ms", "0", Special(combined::heartbeat)),
    p("heartbeat.action.query", "", Special(combined::heartbeat_query)),
    p("topic.heartbeat.prefix", "__debezium-heartbeat", Not("no heartbeat records are written")),
    p("topic.heartbeat.name", "", Not("no heartbeat records are written")),
    p("max.batch.size", "2048", Other(BYTES)),
    p("max.queue.size", "8192", Other(BYTES)),
    p("max.queue.size.in.bytes", "0", Other(BYTES)),
    p("poll.interval.ms", "500", Other(BYTES)),
    p("poll.dispatch.interval.ms", "0", Other(BYTES)),
    p("queue.provider.*", "", Other(BYTES)),
    p("record.processing.*", "", Other("one thread writes a slot's changes, in their order")),
    p("task.management.timeout.ms", "180000", Other("there are no tasks")),
];

const ERRORS: &[Property] = &[
    p("errors.max.retries", "-1", Other(RETRIES)),
    p("errors.retry.*", "", Other(RETRIES)),
    p(
        "errors.tolerance",
        "none",
        AsHere(&["none"], FAILURES, "nothing is skipped: a change that can't be written halts"),
    ),
    p("errors.log.*", "", Other("what halts is logged, without values")),
    p(
        "errors.deadletterqueue.*",
        "",
        Not("there is no dead letter topic: a change that can't be written halts"),
    ),
    p("retriable.restart.connector.wait.ms", "10000", Other(RETRIES)),
    p("custom.retriable.exception", "", Other(RETRIES)),
    p(
        "event.processing.failure.handling.mode",
        "fail",
        AsHere(&["fail"], FAILURES, "nothing is skipped: a change that can't be written halts"),
    ),
    p(
        "offset.activity.monitor.interval.ms",
        "",
        Other("headwater_lag_bytes and /healthz tell when nothing moves"),
    ),
];

const WATCHING: &[Property] = &[
    p("advanced.metrics.enable", "false", Other("counts per table are always there, at /metrics")),
    p("statistics.metrics.enabled", "true", Other("/metrics, in Prometheus' format, with [http] listen")),
];

const CONNECT: &[Property] = &[
    p(
        "exactly.once.support",
        "requested",
        AsHere(
            &["requested"],
            "at least once, and a repeated record is the same record",
            "records are delivered at least once; a repeated record is the same record with the same headwater.id",
        ),
    ),
    p(
        "transaction.boundary",
        "poll",
        Other(
            "records are delivered at least once; a repeated record is the same record with the same headwater.id",
        ),
    ),
    p("transaction.boundary.interval.ms", "", Other("records are delivered at least once")),
    p("offsets.storage.topic", "", Special(combined::offsets_topic)),
    p("config.action.reload", "restart", Other("a configuration is read at a start")),
    p("header.converter", "", Other("headers are text")),
    p(
        "topic.creation.groups",
        "",
        Not("topics that Headwater makes all have the shape of [topics]; those that exist are left alone"),
    ),
    p("topic.creation.default.partitions", "", Number("topics.partitions")),
    p("topic.creation.default.replication.factor", "", Number("topics.replication_factor")),
    p("topic.creation.default.*", "", Special(combined::topic_config)),
    p(
        "topic.creation.*",
        "",
        Not("topics that Headwater makes all have the shape of [topics]; those that exist are left alone"),
    ),
    p("worker.topic.creation.enable", "true", Flag("topics.create")),
    p("worker.offset.storage.topic", "", Special(combined::offsets_topic)),
    p("worker.offset.storage.file.filename", "", Special(combined::offsets_topic)),
    p("worker.*", "", Other("a setting of the worker")),
];

const SERVER: &[Property] = &[
    p(
        "debezium.sink.type",
        "",
        AsHere(
            &["kafka"],
            "records go to Kafka",
            "records go to Kafka, or as JSON to a file or standard output",
        ),
    ),
    p("debezium.sink.kafka.*", "", Other("every record is waited for, without a limit of time")),
    p("debezium.format.header", "", Other("headers are text")),
    p("debezium.format.header.*", "", Other("headers are text")),
    p("debezium.*", "", Not("it is a setting of Debezium Server that has no equivalent")),
    p(
        "quarkus.*",
        "",
        Other("logs are set with --log, the address of metrics and probes with [http] listen"),
    ),
];

/// The line of a property; the first that fits.
pub fn find<'t>(properties: impl IntoIterator<Item = &'t Property>, name: &str) -> Option<&'t Property> {
    properties.into_iter().find(|property| match property.name.split_once('*') {
        None => property.name == name,
        Some((before, after)) => {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
    })
}

/// All lines of the table.
pub fn all() -> impl Iterator<Item = &'static Property> {
    TABLE.iter().flat_map(|(_, properties)| properties.iter())
}
