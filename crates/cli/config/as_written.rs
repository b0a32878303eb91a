//! THE table of settings: every key, its type, its default and its documentation, in one place.
//!
//! From this table come the structs that hold a configuration as it was written, the reader that fills them
//! (unknown keys and wrong types are problems with file, line and key), and `docs/CONFIG.md`.
//! Nothing here knows what a setting means; `settings.rs` does.
//!
//! To add a setting: add a line here, follow the compiler into `settings.rs`, run
//! `headwater config-reference > docs/CONFIG.md`.

use std::path::PathBuf;
use std::time::Duration;

use headwater_avro::SubjectStrategy;
use headwater_avro::from_json::{EmptyArrays, NullFields};
use headwater_pg::Secret;
use headwater_pipeline::settings::{OnNewTable, OnUpdate, Oversized, SnapshotMode};

use super::layers::{Entry, Node, Table};
use super::outbox::{EventType, Feedback, LifeWritten, Mail, NotifyWritten};
use super::problem::{Origin, Problems, did_you_mean};
use super::quantity::Size;
use super::records::{Exception, Masking, Records, Route};
use super::value::{
    ChannelBinding, MissingColumns, Names, PayloadFormat, Properties, SinkType, SslMode, Value,
};

/// What a key of the configuration holds after reading.
#[derive(Clone, Default)]
pub enum Field<T> {
    /// Nobody wrote it and it has no default.
    #[default]
    Missing,
    /// It was written wrongly; the problem is noted already.
    Bad,
    /// Its value, and where that was written.
    Set(T, Origin),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        if let Field::Set(value, _) = self { Some(value) } else { None }
    }

    /// The value and its place, if there is one.
    pub fn located(&self) -> Option<(&T, &Origin)> {
        if let Field::Set(value, origin) = self { Some((value, origin)) } else { None }
    }

    /// Whether a person wrote it, rightly or wrongly.
    pub fn is_written(&self) -> bool {
        !matches!(self, Field::Missing | Field::Set(_, Origin::Default))
    }
}

/// One line of the table, for documentation and suggestions.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key's name inside its section.
    pub name: &'static str,
    /// What it holds, in words.
    pub kind: &'static str,
    /// The default as it would be written; none for keys that are required or off.
    pub default: Option<&'static str>,
    /// Its documentation, one line each.
    pub doc: &'static [&'static str],
}

/// A section of the file.
pub trait Section: Sized {
    /// Its name, `postgres`.
    const NAME: &'static str;
    /// Its documentation.
    const DOC: &'static [&'static str];
    /// Its keys, in the order of the reference.
    const KEYS: &'static [Key];
    /// Takes the section's keys out of its table; what is left over is a problem each.
    fn read(table: Table, problems: &mut Problems) -> Self;
}

macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])*
        $name:literal => pub struct $Section:ident {
            $( $(#[doc = $doc:literal])* $field:ident $(as $written:literal)?: $type:ty $(= $default:literal)?, )*
        }
    )*) => { $(
        $(#[doc = $section_doc])*
        #[derive(Clone, Default)]
        pub struct $Section { $( $(#[doc = $doc])* pub $field: Field<$type>, )* }

        impl Section for $Section {
            const NAME: &'static str = $name;
            const DOC: &'static [&'static str] = &[$($section_doc),*];
            const KEYS: &'static [Key] = &[$( Key {
                name: key_name!($field $($written)?),
                kind: <$type as Value>::KIND,
                default: default_text!($($default)?),
                doc: &[$($doc),*],
            }, )*];

            fn read(mut table: Table, problems: &mut Problems) -> Self {
                let section = $Section { $(
                    $field: read_field(
                        &mut table, $name, key_name!($field $($written)?), default_text!($($default)?), problems,
                    ),
                )* };
                refuse_unknown(table, $name, Self::KEYS, problems);
                section
            }
        }
    )* };
}
pub(super) use sections;

macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $written:literal) => {
        $written
    };
}
pub(super) use key_name;

macro_rules! default_text {
    () => {
        None
    };
    ($default:literal) => {
        Some($default)
    };
}
pub(super) use default_text;

sections! {
    /// The database whose changes are captured.
    "postgres" => pub struct Postgres {
        /// Required. `postgres://user@host:port/database`, with libpq's parameters `sslmode`, `sslrootcert`,
        /// `sslcert`, `sslkey`, `channel_binding`, `application_name`, `connect_timeout`, `host` and `port` behind a
        /// `?`. A Unix socket: `postgres://user@/database?host=/var/run/postgresql`. A password in it works and is
        /// warned about.
        url: String,
        /// The password. Meant for the environment (`HEADWATER_POSTGRES__PASSWORD`); in the file it is warned about.
        /// Without this, `password_file` and a password in the URL, `~/.pgpass` (or the file `PGPASSFILE` names) is
        /// searched by libpq's rules.
        password: Secret,
        /// A file that holds the password and nothing else, such as a mounted secret. One line end is cut off.
        password_file: PathBuf,
        /// Required. The publication to follow: one name or a list of names.
        publication: Names,
        /// Required. The replication slot, made by `headwater init` or by the first `headwater run`.
        /// It belongs to this configuration alone.
        slot: String,
        /// How long to wait for the server to create the slot. It waits for every transaction that is open in any
        /// database of the server; those are printed every five seconds.
        slot_create_timeout: Duration = "90s",
        /// How the connection is protected, as in libpq: `disable`, `prefer`, `require`, `verify-ca`,
        /// `verify-full`. The default is `verify-full`, and `prefer` for Unix sockets and loopback addresses.
        sslmode: SslMode,
        /// The certificates to trust, as a PEM file, or `system` for the system's roots, which is the default.
        sslrootcert: PathBuf,
        /// A client certificate in a PEM file, together with `sslkey`.
        sslcert: PathBuf,
        /// The key of `sslcert`, in a PEM file.
        sslkey: PathBuf,
        /// Whether SCRAM is bound to the TLS connection: `disable`, `prefer` or `require`. The default is `prefer`.
        channel_binding: ChannelBinding,
        /// Whether a server may ask for the password hashed with MD5.
        allow_md5: bool = "false",
        /// How long to wait for the server to accept a connection.
        connect_timeout: Duration = "10s",
    }

    /// The cluster the records go to. Required unless `sink.type` says otherwise.
    "kafka" => pub struct Kafka {
        /// Required. `host:port`, several with commas between them.
        bootstrap_servers: String,
        /// Any of librdkafka's settings by its own name, for example `"security.protocol" = "SASL_SSL"`. Nested
        /// tables are joined with dots, so `sasl.username = "me"` works without quotes. In an environment variable
        /// an underscore stands for a dot: `HEADWATER_KAFKA__PROPERTIES__SASL_PASSWORD` sets `sasl.password`.
        /// What delivery and order depend on (acks, idempotence, retries, timeouts, partitioner, queue limits)
        /// belongs to Headwater and is refused with the reason.
        properties: Properties,
    }

    /// The Schema Registry that keeps the Avro schemas. Required for Kafka, unless all keys and values are JSON.
    "schema_registry" => pub struct SchemaRegistry {
        /// Required. The registry's address; a list of addresses is tried in order.
        url: Names,
        /// The name for basic authentication.
        username: String,
        /// The password for basic authentication. Meant for the environment
        /// (`HEADWATER_SCHEMA_REGISTRY__PASSWORD`); in the file it is warned about.
        password: Secret,
        /// A file that holds the password and nothing else.
        password_file: PathBuf,
        /// The certificates to trust for `https`, as a PEM file. The default is the system's roots.
        ca_file: PathBuf,
        /// A client certificate in a PEM file, together with `key_file`.
        cert_file: PathBuf,
        /// The key of `cert_file`, in a PEM file.
        key_file: PathBuf,
        /// How long one request may take before it is tried again.
        timeout: Duration = "10s",
        /// Whether schemas are registered. If not, each must be there before its first row: in any version of its
        /// subject, or as a latest version under which the bytes mean the same. `headwater schema show` prints what
        /// to register; `run` looks at its start as well.
        auto_register: bool = "true",
        /// The subject of a key's schema, as Confluent's strategies: `topic_name` is `<topic>-key`, `record_name` the
        /// record's full name, `topic_record_name` both with `-` between. A schema that is no record (an outbox
        /// event's) keeps its topic's.
        key_subject_strategy: SubjectStrategy = "topic_name",
        /// The same for values: `topic_name` is `<topic>-value`.
        value_subject_strategy: SubjectStrategy = "topic_name",
    }

    /// The topics that rows are written to: `<prefix>.<schema>.<table>`, unless `records.topic` or a `[[route]]` says
    /// otherwise.
    "topics" => pub struct Topics {
        /// Required. The first part of every topic's name and of the schemas' namespaces, Debezium's `topic.prefix`.
        prefix: String,
        /// Whether missing topics are created. If not, they are refused with the command that creates them.
        create: bool = "true",
        /// Partitions of a topic that Headwater creates. A topic that exists is left alone.
        partitions: i32 = "6",
        /// Replicas of a topic that Headwater creates; -1 leaves it to the broker.
        replication_factor: i32 = "-1",
        /// Settings of a topic that Headwater creates, by Kafka's names: `"cleanup.policy" = "compact"`.
        config: Properties,
        /// Which of the published tables become records: `schema.table` or a list of those, `*` standing for any
        /// characters and `?` for any one. Better is a publication of these tables only: what is left out here is
        /// still sent by Postgres.
        include_tables: Names = "*",
        /// Which of those do not.
        exclude_tables: Names,
    }

    /// A table whose inserted rows are messages for other services; may be given several times.
    /// They go to `outbox.event.<aggregatetype>`, not to a topic of the table.
    "outbox" => pub struct Outbox {
        /// Required. The table, `schema.table`.
        table: String,
        /// What becomes of the payload column: `avro` writes it as Debezium's outbox router does with the same
        /// converters; `raw` writes the text's bytes as they are, and of a bytea the bytes; `avro_from_json` writes JSON
        /// in the schema that the registry has under `<topic>-value`, and a payload that does not fit it halts, or is set
        /// aside, with the name of its field; `avro_inferred` writes JSON in a schema inferred from each payload, as
        /// Debezium does with `table.expand.json.payload`: what a payload leaves out, its schema leaves out.
        payload: PayloadFormat = "avro",
        /// With `avro_from_json`, the version of the subject. Without it, the latest one at the start of a session: an
        /// event that is sent again may then be written in a later one.
        schema_version: i32,
        /// With `avro_inferred`, what becomes of a null: `ignore` leaves the field out, `optional_bytes` makes it nullable
        /// bytes (Debezium's `table.json.payload.null.behavior`).
        null_fields: NullFields = "ignore",
        /// With `avro_inferred`, what becomes of `[]`: `ignore` leaves the field out, `optional_string` makes it an array
        /// of nullable strings (Debezium's `table.json.payload.empty.array.behavior`).
        empty_arrays: EmptyArrays = "ignore",
        /// Whether a payload of nothing but blanks is a null value, as NULL is (Debezium's
        /// `route.tombstone.on.empty.payload`). A value with an `envelope` is null only then.
        tombstone_on_empty: bool = "false",
        /// The topic for a message; `${aggregatetype}` stands for the value of that column. Whatever it makes, a row never
        /// comes to a topic of Headwater's own, of Kafka's (`__…`) or of the registry (`_schemas`).
        topic: String = "outbox.event.${aggregatetype}",
        /// A regular expression that the value of that column must match as a whole. `topic` is what stands in its place
        /// then, with `$1` for the first group and `${name}` for a named one (Debezium's `route.topic.regex` and
        /// `route.topic.replacement`).
        matches as "match": String,
        /// Which aggregate types may name a topic; `*` stands for any characters. A row with another value halts
        /// Headwater: no row may choose a topic that was not meant for it.
        aggregatetypes: Names = "*",
        /// The columns, where they have other names than `id`, `aggregatetype`, `aggregateid`, `type` and `payload`:
        /// `columns = { payload = "body" }`.
        columns: Properties,
        /// More columns to send along as headers, `column = "header"`. `id` and `eventType` are always sent.
        headers: Properties,
        /// More columns to send along in the value, `column = "field"`, which is a record then: `payload` and these. Only
        /// with `payload = "avro"`.
        envelope: Properties,
        /// What it means that the table lacks a column of `headers` or `envelope`: `halt`, or `ignore`, which leaves it out.
        missing_columns: MissingColumns = "halt",
        /// The column with the number of the record's partition. A number that its topic does not have halts.
        partition_column: String,
        /// The column with the record's timestamp, a timestamp or timestamptz. Where it is NULL, and without this, it is
        /// the commit's time.
        timestamp_column: String,
        /// What an UPDATE of a row means, whose event is what was inserted: `skip`, `warn` (once per session) or `halt`
        /// (Debezium's `table.op.invalid.behavior`). In each case it is counted.
        on_update: OnUpdate = "skip",
        /// The attribute `source` of CloudEvents, `/shop/orders`. With it records have the headers of CloudEvents 1.0 in
        /// binary mode: `ce_id`, `ce_source`, `ce_type`, `ce_subject` (the aggregate's id), `ce_time` and `content-type`.
        cloudevents_source: String,
        /// That `content-type`. Without it, it goes by the form of the payload.
        content_type: String,
        /// The column with a W3C trace context, as `records.traceparent_column`.
        traceparent_column: String,
        /// The column with the header `tracestate`, where it is not beside the traceparent.
        tracestate_column: String,
        /// Whether a snapshot sends the rows that are there already; with `status`, those that are `NEW`.
        snapshot: bool = "true",
        /// A column of JSON objects whose members become headers too.
        headers_column: String,
        /// Whether the rows say what became of their events. The table has the columns of `sql/outbox.sql`, whose
        /// names are fixed, and the role may change them (`sql/outbox_grants.sql`).
        status: bool = "false",
    }

    /// Messages written without a table: `pg_logical_emit_message(true, 'outbox.<aggregatetype>', '{"id": …,
    /// "aggregateid": …, "type": …, "payload": …}')`.
    "outbox_messages" => pub struct OutboxMessages {
        /// As for a table.
        payload: PayloadFormat = "avro",
        /// As for a table.
        schema_version: i32,
        /// As for a table.
        topic: String = "outbox.event.${aggregatetype}",
        /// As for a table.
        matches as "match": String,
        /// As for a table.
        aggregatetypes: Names = "*",
        /// As for a table.
        cloudevents_source: String,
    }

    /// Other logical messages, which go to `<prefix>.<topic>` as Debezium writes them. Headwater's own
    /// (`headwater.…`) never do, and those of the outbox go where they are routed.
    "messages" => pub struct Messages {
        /// Which prefixes become records: one or a list, `*` standing for any characters. `"*"` is what Debezium
        /// does by default. Without it none do.
        include: Names,
        /// Which of those do not.
        exclude: Names,
        /// The topic, behind the prefix of topics and a dot. Keys and values are encoded as `[records]` says.
        topic: String = "message",
        /// The prefix of transactional messages whose content is a W3C trace context: the rows and events that follow
        /// in their transaction have it as the header `traceparent`, and the messages themselves are no records.
        traceparent_prefix: String,
    }

    /// Transaction metadata, as Debezium's `provide.transaction.metadata`.
    "transactions" => pub struct Transactions {
        /// Whether each change carries its transaction and its place in it (the field `transaction`), and a topic
        /// has BEGIN and END of each transaction, END with its counts by table.
        metadata: bool = "false",
        /// The topic, behind the prefix of topics and a dot. Keys and values are encoded as `[records]` says.
        topic: String = "transaction",
    }

    /// The rows that tables hold already.
    "snapshot" => pub struct Snapshot {
        /// `initial` copies them when the slot is created; `never` does not; `always` also copies them at each later
        /// start; `only` stops after the first copy; `when_needed` also copies them when the slot was lost.
        mode: SnapshotMode = "initial",
        /// Which of the published tables are copied: `schema.table` or a list of those, `*` standing for any
        /// characters and `?` for any one.
        include_tables: Names = "*",
        /// Which of those are not.
        exclude_tables: Names,
        /// Which tables come first, as a list of the same patterns.
        order: Names,
        /// Conditions in SQL for the rows that are copied: `where = { "public.orders" = "status <> 'done'" }`.
        filters as "where": Properties,
        /// How many tables, or parts of one, are copied at a time when a slot was created. Each has a connection.
        workers: i32 = "2",
        /// How old the transaction may grow that they copy under, since it keeps the server from cleaning up. After
        /// that, or when half of `max_slot_wal_keep_size` is used up, the stream begins and the rest is copied
        /// beside it.
        max_transaction_age: Duration = "30m",
        /// How much is copied at a time beside the stream. The stream's records stand behind it, so larger chunks
        /// make the copy quicker and the stream later.
        chunk_bytes: Size = "128KiB",
        /// Whether the copy beside the stream rests after each chunk for as long as the chunk took, while transactions
        /// come. Without the rests it copies more rows, and the stream has less of server, broker and processor.
        gives_way: bool = "true",
        /// Rows that all workers together may read in a second, also beside the stream; 0 is no limit.
        max_rows_per_second: i32 = "0",
        /// Bytes, as COPY sends them, that all workers together may read in a second, also beside the stream;
        /// `0MiB` is no limit.
        max_bytes_per_second: Size = "0MiB",
        /// How long a copy waits for a table's lock (ACCESS SHARE) before it lets go, so that those who stand behind
        /// it get their turn, and tries again; `0s` waits on.
        lock_timeout: Duration = "10s",
        /// How long one chunk may take on the server beside the stream before it is tried again with half the rows;
        /// `0s` is no limit. Under the slot's snapshot a copy may take as long as Kafka makes it wait.
        statement_timeout: Duration = "5m",
        /// What becomes of the rows that a table has when it is added to the publication, while Headwater runs or while
        /// it does not: `snapshot` copies them beside the stream, once the transactions that were open then are over;
        /// `stream_only` leaves them; `halt` stops, for somebody to decide. Default: `snapshot`, but `stream_only` with
        /// `mode = "never"` and `mode = "only"`: who does not want the rows of the first tables does not want those of
        /// the next one.
        on_new_table: OnNewTable,
    }

    /// Commands from a table or a topic, in Debezium's form: `execute-snapshot` (incremental), `stop-snapshot`,
    /// `pause-snapshot`, `resume-snapshot` and `log`. Whoever may write there may have tables copied.
    "signals" => pub struct Signals {
        /// The table of signals, `schema.table`: columns for an id, a verb and its data, in this order. It must be in
        /// the publication. Its rows are records too, unless `topics.exclude_tables` names it; no snapshot has them.
        table: String,
        /// The topic of signals, with one partition; records need `topics.prefix` as their key.
        topic: String,
        /// Whether signals may have conditions on rows (`additional-conditions`). They are SQL that runs with the
        /// rights of Headwater's role, so whoever may send signals can read what that role can read.
        allow_filters: bool = "false",
    }

    /// What is told of snapshots and signals, in Debezium's form.
    "notifications" => pub struct Notifications {
        /// The topic, by its whole name. Without it none are written.
        topic: String,
        /// Whether they are also lines of the log.
        log: bool = "false",
    }

    /// What is set aside because it can't be delivered. Which tables do that says `on_error` of `[records]` and `[[table]]`.
    "dead_letter" => pub struct DeadLetter {
        /// The topic, by its whole name. The default is `<topics.prefix>.dead_letter`. Headwater makes it, if
        /// `topics.create` allows, so that it keeps everything; one that exists should have `retention.ms=-1`.
        topic: String,
        /// How many keys may be blocked at a time (`dead_letter_and_block_key`). Beyond it Headwater halts: then it is not
        /// a few rows that are at fault.
        blocked_keys_max: i32 = "10000",
        /// What becomes of a letter that is larger than the topic takes: `halt`, or `leave_value_out`, a letter without
        /// its value. The row itself is in its table, as it is by then.
        oversized: Oversized = "halt",
    }

    /// Where the position is kept that was reached for certain.
    "checkpoint" => pub struct Checkpoint {
        /// The topic for it: one partition, compacted, created if missing; several configurations may share it.
        topic: String = "headwater.checkpoint",
        /// The file for it when records go to `stdout` or a file. Written atomically.
        file: PathBuf = "headwater.checkpoint.json",
    }

    /// Limits and deadlines.
    "pipeline" => pub struct Pipeline {
        /// The one limit on memory: bytes that may be under way between the socket and the broker's acknowledgement.
        max_in_flight_bytes: Size = "16MiB",
        /// The largest row that is let through, alone, when it is larger than the limit above. A larger one halts
        /// Headwater with its table and position.
        max_row_bytes: Size = "64MiB",
        /// With `unchanged_toast = "reselect"`: bytes of changes that may wait for their transaction's Commit, within
        /// `max_in_flight_bytes` and at most half of it. What a larger transaction holds goes on with placeholders.
        reselect_max_bytes: Size = "8MiB",
        /// How long reading rows back may take, and how long a commit may take to become visible, before they go on with
        /// placeholders.
        reselect_timeout: Duration = "5s",
        /// How long a shutdown may take to finish and confirm what is under way. What is not done in time is
        /// sent again after the next start.
        shutdown_timeout: Duration = "8s",
        /// How often the position is reported to Postgres when nothing else makes it due.
        status_interval: Duration = "10s",
        /// Writes a small logical message into the database this often, so that the slot moves although nothing is
        /// published. Off by default: Headwater also moves the slot with the server's own keepalives.
        heartbeat_interval: Duration,
        /// One SQL statement instead of that message, for example an UPDATE of a table of one's own that is
        /// published, so that its consumers see the heartbeat too. Needs `heartbeat_interval`.
        heartbeat_sql: String,
        /// Whether a delete is followed by a tombstone, which lets compaction drop the key.
        tombstones_on_delete: bool = "true",
    }

    /// Where the records go.
    "sink" => pub struct Sink {
        /// `kafka`; `stdout` for lines of JSON; `file` for the same in a file; `discard` to throw away what is made
        /// for Kafka, to measure everything before it.
        kind as "type": SinkType = "kafka",
        /// The file that `type = "file"` appends to.
        path: PathBuf,
    }

    /// The endpoints /metrics, /healthz, /readyz and /status. Without this section there are none.
    "http" => pub struct Http {
        /// The address and port to listen on. Table names can be read from it; commands (`headwater snapshot`) are
        /// taken from the same machine only.
        listen: String,
    }
}

/// A whole configuration as it was written.
#[derive(Clone, Default)]
pub struct AsWritten {
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub schema_registry: SchemaRegistry,
    pub topics: Topics,
    pub records: Records,
    pub table: Vec<Exception>,
    pub route: Vec<Route>,
    pub masking: Masking,
    pub outbox: Vec<Outbox>,
    pub outbox_messages: OutboxMessages,
    pub messages: Messages,
    pub transactions: Transactions,
    pub snapshot: Snapshot,
    pub signals: Signals,
    pub notifications: Notifications,
    pub dead_letter: DeadLetter,
    pub checkpoint: Checkpoint,
    pub pipeline: Pipeline,
    pub sink: Sink,
    pub http: Http,
    pub life: LifeWritten,
}

/// Name, documentation and keys of each section, in the order of the reference.
pub const SECTIONS: &[(&str, &[&str], &[Key])] = &[
    section::<Postgres>(),
    section::<Kafka>(),
    section::<SchemaRegistry>(),
    section::<Topics>(),
    section::<Records>(),
    section::<Exception>(),
    section::<Route>(),
    section::<Masking>(),
    section::<Outbox>(),
    section::<OutboxMessages>(),
    section::<Feedback>(),
    section::<EventType>(),
    section::<NotifyWritten>(),
    section::<Mail>(),
    section::<Messages>(),
    section::<Transactions>(),
    section::<Snapshot>(),
    section::<Signals>(),
    section::<Notifications>(),
    section::<DeadLetter>(),
    section::<Checkpoint>(),
    section::<Pipeline>(),
    section::<Sink>(),
    section::<Http>(),
];

pub(super) const fn section<S: Section>() -> (&'static str, &'static [&'static str], &'static [Key]) {
    (S::NAME, S::DOC, S::KEYS)
}

/// Every key with the name of its section.
pub fn all_keys() -> impl Iterator<Item = (&'static str, &'static Key)> {
    SECTIONS
        .iter()
        .chain(super::apply::SECTIONS)
        .flat_map(|(section, _, keys)| keys.iter().map(|key| (*section, key)))
}

/// Whether this key, `section.key`, holds a secret.
pub fn is_secret(key: &str) -> bool {
    let by_type =
        all_keys().any(|(section, k)| k.kind == Secret::KIND && key == format!("{section}.{}", k.name));
    by_type || key.strip_prefix("kafka.properties.").is_some_and(headwater_kafka::is_secret_property)
}

impl AsWritten {
    /// Reads the merged tree; every key that is unknown or of the wrong type becomes a problem.
    pub fn read(mut tree: Table, problems: &mut Problems) -> AsWritten {
        let written = AsWritten {
            postgres: read_section(&mut tree, problems),
            kafka: read_section(&mut tree, problems),
            schema_registry: read_section(&mut tree, problems),
            topics: read_section(&mut tree, problems),
            records: read_section(&mut tree, problems),
            table: read_list(&mut tree, problems),
            route: read_list(&mut tree, problems),
            masking: read_section(&mut tree, problems),
            outbox: read_list(&mut tree, problems),
            outbox_messages: read_section(&mut tree, problems),
            messages: read_section(&mut tree, problems),
            transactions: read_section(&mut tree, problems),
            snapshot: read_section(&mut tree, problems),
            signals: read_section(&mut tree, problems),
            notifications: read_section(&mut tree, problems),
            dead_letter: read_section(&mut tree, problems),
            checkpoint: read_section(&mut tree, problems),
            pipeline: read_section(&mut tree, problems),
            sink: read_section(&mut tree, problems),
            http: read_section(&mut tree, problems),
            life: LifeWritten {
                feedback: read_section(&mut tree, problems),
                event_type: read_list(&mut tree, problems),
                notify: read_section(&mut tree, problems),
                mail: read_section(&mut tree, problems),
            },
        };
        refuse_unknown_sections(tree, SECTIONS, problems);
        written
    }
}

/// Every section that is left over is a problem.
pub(super) fn refuse_unknown_sections(
    tree: Table,
    sections: &[(&str, &[&str], &[Key])],
    problems: &mut Problems,
) {
    for (name, entry) in tree {
        let suggestion = did_you_mean(&name, sections.iter().map(|(section, ..)| *section));
        let home = all_keys().find(|(_, key)| key.name == name);
        let advice = match (&entry.node, suggestion, home) {
            (Node::Table(_) | Node::Array(_), Some(section), _) => format!("; did you mean [{section}]?"),
            (_, _, Some((section, _))) => format!("; it belongs below [{section}]"),
            (_, Some(section), _) => format!("; did you mean [{section}]?"),
            _ => {
                let known: Vec<_> = sections.iter().map(|(section, ..)| *section).collect();
                format!("; there are {}", known.join(", "))
            }
        };
        problems.add(&entry.origin, &name, format!("unknown section{advice}"));
    }
}

pub(super) fn read_section<S: Section>(tree: &mut Table, problems: &mut Problems) -> S {
    match tree.remove(S::NAME) {
        None => S::read(Table::new(), problems),
        Some(Entry { node: Node::Table(table), .. }) => S::read(table, problems),
        Some(Entry { origin, node }) => {
            problems.add(&origin, S::NAME, format!("is {}; write a section [{}]", node.kind(), S::NAME));
            S::read(Table::new(), problems)
        }
    }
}

pub(super) fn read_list<S: Section>(tree: &mut Table, problems: &mut Problems) -> Vec<S> {
    let Some(Entry { origin, node }) = tree.remove(S::NAME) else { return Vec::new() };
    let advice = format!("is one table; write [[{}]] with two brackets, since there may be several", S::NAME);
    let Node::Array(entries) = node else {
        problems.add(&origin, S::NAME, advice);
        return Vec::new();
    };
    let mut sections = Vec::new();
    for Entry { origin, node } in entries {
        match node {
            Node::Table(table) => sections.push(S::read(table, problems)),
            other => problems.add(&origin, S::NAME, format!("is {}; write [[{}]]", other.kind(), S::NAME)),
        }
    }
    sections
}

pub(super) fn read_field<T: Value>(
    table: &mut Table,
    section: &str,
    name: &str,
    default: Option<&str>,
    problems: &mut Problems,
) -> Field<T> {
    let (entry, written) = match (table.remove(name), default) {
        (Some(entry), _) => (entry, true),
        (None, Some(text)) => (Entry { origin: Origin::Default, node: Node::Typed(text.to_owned()) }, false),
        (None, None) => return Field::Missing,
    };
    let Entry { origin, node } = entry;
    match T::read(node) {
        Ok(value) => Field::Set(value, origin),
        Err(message) => {
            debug_assert!(written, "the default of {section}.{name} does not parse: {message}");
            problems.add(&origin, &format!("{section}.{name}"), message);
            Field::Bad
        }
    }
}

pub(super) fn refuse_unknown(rest: Table, section: &str, keys: &[Key], problems: &mut Problems) {
    for (name, entry) in rest {
        let key = format!("{section}.{name}");
        let elsewhere = all_keys().find(|(other, key)| *other != section && key.name == name);
        let advice = match (did_you_mean(&name, keys.iter().map(|key| key.name)), elsewhere) {
            (Some(near), None) => format!("; did you mean {near}?"),
            (_, Some((other, _))) => format!("; it belongs below [{other}]"),
            (None, None) => {
                let known: Vec<_> = keys.iter().map(|key| key.name).collect();
                format!("; [{section}] has {}", known.join(", "))
            }
        };
        problems.add(&entry.origin, &key, format!("unknown key{advice}"));
    }
}
