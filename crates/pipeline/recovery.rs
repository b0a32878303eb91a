//! What to do about an error: the one place that decides between beginning again and halting with advice.
//!
//! There is one way to begin again: stop everything, and start from the checkpoint.

use headwater_avro::EncodeError;
use headwater_avro::registry::RegistryError;
use headwater_kafka::{Class, ErrorKind as KafkaErrorKind};
use headwater_pg::ErrorKind;

use crate::error::{StageError, chain};
use crate::halt::{ExitCode, Halt};
use crate::settings::Settings;

/// What to do about an error.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Begin again from the checkpoint; the peer is a label of the metric.
    Restart { peer: &'static str },
    /// Stop for good, and tell a person.
    Halt(Halt),
}

pub(crate) fn decide(error: StageError, settings: &Settings) -> Decision {
    match &error {
        StageError::Postgres { source, .. } if source.is_transient() => {
            Decision::Restart { peer: "postgres" }
        }
        StageError::Copy { source, .. } if source.is_transient() => Decision::Restart { peer: "postgres" },
        StageError::Postgres { source, .. } if is_missing_slot(source) => {
            Decision::Restart { peer: "postgres" }
        }
        StageError::Silent { whom: "Kafka", .. } | StageError::Stuck { .. } => {
            Decision::Restart { peer: "kafka" }
        }
        StageError::Silent { .. } => Decision::Restart { peer: "postgres" },
        StageError::Kafka { source, .. } if source.class() != Class::Fatal => {
            Decision::Restart { peer: "kafka" }
        }
        StageError::Registry { source, .. } if source.is_retriable() => {
            Decision::Restart { peer: "registry" }
        }
        StageError::Frozen { .. } | StageError::Stopped => Decision::Restart { peer: "postgres" },
        StageError::LearnedTooLarge { .. } => Decision::Restart { peer: "kafka" },
        StageError::Postgres { .. }
        | StageError::Copy { .. }
        | StageError::CopyRow { .. }
        | StageError::Kafka { .. }
        | StageError::Registry { .. }
        | StageError::Decode { .. }
        | StageError::Order { .. }
        | StageError::Schema { .. }
        | StageError::Encode { .. }
        | StageError::RowTooLarge { .. }
        | StageError::Outbox { .. }
        | StageError::UnknownRelation { .. }
        | StageError::TooLarge { .. }
        | StageError::Refused { .. }
        | StageError::KeyBlocked { .. }
        | StageError::Unplanned { .. }
        | StageError::NotAside { .. }
        | StageError::Local { .. }
        | StageError::Halt(_) => Decision::Halt(halt_of(error, settings)),
    }
}

/// The halt that an error is when nobody begins again.
pub(crate) fn halt_of(error: StageError, settings: &Settings) -> Halt {
    let what = chain(&error);
    let (code, advice) = match error {
        StageError::Halt(halt) => return halt,
        StageError::Postgres { source, .. } => postgres(&source, settings),
        StageError::Copy { source, table } => copy(&source, &table, settings),
        StageError::Kafka { source, .. } | StageError::TooLarge { source, .. } => kafka(&source),
        StageError::NotAside { advice, source, .. } => (halt_of(*source, settings).code, advice.to_owned()),
        StageError::Refused { .. } => (
            ExitCode::RecordTooLarge,
            "raise max.message.bytes of the topic, or leave the large column out with a column list in the publication".to_owned(),
        ),
        StageError::Unplanned { .. } | StageError::KeyBlocked { .. } => (
            ExitCode::TableUnsuitable,
            "correct what it names, or leave the table out of the publication".to_owned(),
        ),
        StageError::Registry { source, table, subject } => registry(&source, &table, &subject),
        StageError::Decode { .. } | StageError::Order { .. } | StageError::UnknownRelation { .. } | StageError::CopyRow { .. } => (
            ExitCode::Protocol,
            "nothing was confirmed; this is a bug of headwater or a server that speaks another pgoutput: \
             please report it with the server's version"
                .to_owned(),
        ),
        StageError::Schema { .. } => (
            ExitCode::TableUnsuitable,
            "correct what it names, or leave the table out of the publication".to_owned(),
        ),
        StageError::Encode { source, table, .. } => encode(&source, &table),
        StageError::RowTooLarge { .. } => (
            ExitCode::RowTooLarge,
            "raise pipeline.max_row_bytes (and the topic's max.message.bytes), or leave the large column out with a \
             column list in the publication"
                .to_owned(),
        ),
        StageError::Outbox { .. } => (
            ExitCode::OutboxInvalid,
            "nothing after it was confirmed; correct the configuration under [[outbox]], or the service that wrote it".to_owned(),
        ),
        StageError::Local { .. } => (ExitCode::LocalOutput, "make room, or correct the path or its rights".to_owned()),
        StageError::Silent { .. } | StageError::Stuck { .. } | StageError::Frozen { .. } | StageError::LearnedTooLarge { .. } | StageError::Stopped => (ExitCode::Unexpected, String::new()),
    };
    Halt { code, what, advice }
}

fn is_missing_slot(error: &headwater_pg::Error) -> bool {
    // The start looks at the slot and has the right advice.
    error.server().is_some_and(|server| server.code == "42704" && server.message.contains("replication slot"))
}

fn postgres(error: &headwater_pg::Error, settings: &Settings) -> (ExitCode, String) {
    let user = &settings.postgres.user;
    match error.kind() {
        ErrorKind::Authentication => (
            ExitCode::PostgresRights,
            format!(
                "check the password (HEADWATER_POSTGRES__PASSWORD, postgres.password_file or ~/.pgpass), pg_hba.conf, and \
                 that the role may replicate: ALTER ROLE {user} LOGIN REPLICATION"
            ),
        ),
        ErrorKind::Tls | ErrorKind::Config => (ExitCode::Configuration, "correct the [postgres] section".to_owned()),
        ErrorKind::FrameTooLarge { .. } => (
            ExitCode::RowTooLarge,
            "raise pipeline.max_row_bytes (and the topic's max.message.bytes), or leave the large column out with a \
             column list in the publication"
                .to_owned(),
        ),
        ErrorKind::Connect | ErrorKind::Closed | ErrorKind::Timeout => {
            (ExitCode::PostgresError, "check postgres.url and that the server runs".to_owned())
        }
        ErrorKind::Server | ErrorKind::Protocol => match error.server() {
            Some(server) => refused(server, settings),
            None => (ExitCode::PostgresError, "headwater check looks at everything it needs".to_owned()),
        },
    }
}

/// Why a table can't be copied.
fn copy(error: &headwater_pg::Error, table: &str, settings: &Settings) -> (ExitCode, String) {
    let user = &settings.postgres.user;
    match error.server() {
        Some(server) if server.code == "42501" && server.message.contains("row-level security") => (
            ExitCode::SnapshotRefused,
            format!("ALTER ROLE {user} BYPASSRLS, or leave {table} out with snapshot.exclude_tables"),
        ),
        Some(server) if server.code == "42501" => (
            ExitCode::SnapshotRefused,
            format!("GRANT SELECT ON {table} TO {user}, or leave it out with snapshot.exclude_tables"),
        ),
        Some(_) => (
            ExitCode::SnapshotRefused,
            format!(
                "nothing of the stream is lost: the slot waits. Correct it, or leave {table} out with snapshot.exclude_tables"
            ),
        ),
        None => postgres(error, settings),
    }
}

/// By SQLSTATE (Postgres manual, appendix A), and by message only where one code has several meanings.
fn refused(server: &headwater_pg::ServerError, settings: &Settings) -> (ExitCode, String) {
    let message = server.message.as_str();
    let publication = settings.publications.join(", ");
    match server.code.as_str() {
        "42501" => (
            ExitCode::PostgresRights,
            format!("ALTER ROLE {} REPLICATION; sql/grants.sql has the whole recipe", settings.postgres.user),
        ),
        "3D000" => (ExitCode::PostgresNotReady, "name an existing database in postgres.url".to_owned()),
        "42704" if message.contains("publication") => (
            ExitCode::PublicationMissing,
            format!(
                "the publication must have existed before the slot's position: one that was created later, or dropped and created \
                 again, can't be used by this slot. If it is there now ({publication}), drop the slot, create it anew \
                 and run --adopt-slot; changes since the last confirmation don't come then"
            ),
        ),
        "55000" if message.contains("wal_level") => (
            ExitCode::PostgresNotReady,
            "ALTER SYSTEM SET wal_level = logical, then restart the server".to_owned(),
        ),
        "55000" if message.contains("no longer") || message.contains("invalidated") => (
            ExitCode::SlotLost,
            "Postgres has removed WAL that the slot needed: drop the slot, create it anew, run --adopt-slot and bring the \
             tables' topics up to date; then raise max_slot_wal_keep_size"
                .to_owned(),
        ),
        "53400" => (
            ExitCode::PostgresNotReady,
            "drop a slot that nobody uses (SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots \
             and restart the server"
                .to_owned(),
        ),
        _ => (ExitCode::PostgresError, "headwater check looks at everything it needs".to_owned()),
    }
}

fn kafka(error: &headwater_kafka::Error) -> (ExitCode, String) {
    let code = match error.kind() {
        KafkaErrorKind::TooLarge => ExitCode::RecordTooLarge,
        KafkaErrorKind::UnknownTopic => ExitCode::TopicUnsuitable,
        KafkaErrorKind::Configuration => ExitCode::Configuration,
        KafkaErrorKind::Unreachable
        | KafkaErrorKind::Authentication
        | KafkaErrorKind::NotAuthorized
        | KafkaErrorKind::Unavailable
        | KafkaErrorKind::Purged
        | KafkaErrorKind::Sequence
        | KafkaErrorKind::Other => ExitCode::KafkaRefused,
    };
    let advice = error
        .advice()
        .unwrap_or("nothing after the last confirmation is lost; start again when it is mended");
    (code, advice.to_owned())
}

fn registry(error: &RegistryError, table: &str, subject: &str) -> (ExitCode, String) {
    match error {
        RegistryError::Incompatible { .. } => (
            ExitCode::SchemaIncompatible,
            format!(
                "the registry keeps {subject} from changing as {table} did. Allow this change (PUT /config/{subject} with \
                 {{\"compatibility\": \"NONE\"}}, start headwater, set it back), set on_incompatible = \"set_compatibility_none\" for the table, or undo the ALTER TABLE"
            ),
        ),
        RegistryError::NotRegistered { .. } => (
            ExitCode::SchemaIncompatible,
            format!(
                "register the schema under {subject}: `headwater schema show {table}` prints it with the request that does so. \
                 Or set schema_registry.auto_register = true"
            ),
        ),
        RegistryError::Rejected { .. } => (
            ExitCode::RegistryRefused,
            "check schema_registry.url, its credentials and their rights on the subject".to_owned(),
        ),
        RegistryError::Unavailable { .. } => {
            (ExitCode::RegistryRefused, "check schema_registry.url and that the registry runs".to_owned())
        }
    }
}

fn encode(error: &EncodeError, table: &str) -> (ExitCode, String) {
    let advice = match error {
        EncodeError::UnchangedWithoutOldValue { .. } => format!(
            "Postgres does not send a large value that an update leaves unchanged. ALTER TABLE {table} REPLICA IDENTITY FULL makes \
             it send the old row (for changes from then on); or leave the column out with a column list in the publication"
        ),
        EncodeError::Value { .. } | EncodeError::UnexpectedNull { .. } | EncodeError::ColumnCount { .. } => {
            format!(
                "a wrong value would be worse than this halt. Leave the column out of the publication's list for {table}, \
             or change its type; nothing after the last confirmation was lost"
            )
        }
    };
    (ExitCode::ValueUnencodable, advice)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::time::Duration;

    use headwater_avro::Subject;
    use headwater_pg::{ChannelBinding, ConnectSettings, Host, RootCert, SslMode, TlsSettings};
    use headwater_pgoutput::{Lsn, RelationId};

    use crate::settings::{
        CheckpointSettings, MessageSettings, OutboxRoute, SinkSettings, SnapshotSettings, TopicSettings,
        TransactionSettings,
    };

    pub(crate) fn settings() -> Settings {
        Settings {
            postgres: ConnectSettings {
                host: Host::Tcp { host: "localhost".to_owned(), port: 5432 },
                user: "headwater".to_owned(),
                password: None,
                database: "shop".to_owned(),
                tls: TlsSettings { mode: SslMode::Disable, root_cert: RootCert::System, client_cert: None },
                channel_binding: ChannelBinding::Prefer,
                allow_md5: false,
                application_name: "headwater".to_owned(),
                connect_timeout: Duration::from_secs(1),
            },
            publications: vec!["shop".to_owned()],
            slot: "headwater".to_owned(),
            slot_create_timeout: Duration::from_secs(90),
            adopt_slot: false,
            status_interval: Duration::from_secs(10),
            heartbeat_interval: None,
            heartbeat_sql: None,
            max_in_flight_bytes: 1 << 20,
            max_row_bytes: 1 << 20,
            reselect: Default::default(),
            shutdown_timeout: Duration::from_secs(8),
            topics: TopicSettings {
                prefix: "shop".to_owned(),
                create: true,
                partitions: 1,
                replication_factor: 1,
                config: Default::default(),
                tables: Default::default(),
                routes: Vec::new(),
            },
            checkpoint: CheckpointSettings { topic: "c".to_owned(), file: PathBuf::from("c") },
            outbox: Vec::new(),
            records: crate::records::RecordRules::default(),
            reserved_topics: Vec::new(),
            outbox_messages: OutboxRoute::default(),
            messages: MessageSettings {
                include: Vec::new(),
                exclude: Vec::new(),
                topic: "m".to_owned(),
                traceparent_prefix: None,
            },
            transactions: TransactionSettings { metadata: false, topic: "t".to_owned() },
            snapshot: SnapshotSettings::default(),
            signals: Default::default(),
            notifications: Default::default(),
            dead_letters: crate::settings::DeadLetterSettings {
                topic: "d".to_owned(),
                blocked_keys_max: 1,
                oversized: crate::settings::Oversized::Halt,
            },
            sink: SinkSettings::Stdout,
            tombstones_on_delete: true,
        }
    }

    /// None is a restart.
    fn decided(error: StageError) -> Option<ExitCode> {
        match decide(error, &settings()) {
            Decision::Restart { .. } => None,
            Decision::Halt(halt) => {
                assert!(!halt.advice.is_empty(), "a halt without advice: {halt}");
                Some(halt.code)
            }
        }
    }

    fn registry(source: RegistryError) -> StageError {
        StageError::Registry { table: "public.t".to_owned(), subject: "t-value".to_owned(), source }
    }

    #[test]
    fn each_error_has_its_decision() {
        let at = Lsn(1);
        let text = || "x".to_owned();
        let subject = Subject("t-value".to_owned());
        let absent = EncodeError::UnchangedWithoutOldValue { column: text(), type_name: text() };
        let io = std::io::Error::other("disk full");
        let cases: Vec<(StageError, Option<ExitCode>)> = vec![
            (StageError::Stopped, None),
            (StageError::Frozen { stood_still_ms: 1 }, None),
            (StageError::Silent { whom: "Postgres", seconds: 60 }, None),
            (StageError::Silent { whom: "Kafka", seconds: 60 }, None),
            (StageError::Stuck { seconds: 20 }, None),
            (registry(RegistryError::Unavailable { url: text(), reason: text() }), None),
            (
                registry(RegistryError::Incompatible { subject: subject.clone(), reason: text() }),
                Some(ExitCode::SchemaIncompatible),
            ),
            (
                registry(RegistryError::NotRegistered { subject: subject.clone(), reason: text() }),
                Some(ExitCode::SchemaIncompatible),
            ),
            (
                registry(RegistryError::Rejected { status: 401, code: 0, reason: text() }),
                Some(ExitCode::RegistryRefused),
            ),
            (StageError::Order { lsn: at, what: text() }, Some(ExitCode::Protocol)),
            (StageError::UnknownRelation { relation: RelationId(1), lsn: at }, Some(ExitCode::Protocol)),
            (
                StageError::Encode { table: text(), commit_lsn: at, lsn: at, source: absent },
                Some(ExitCode::ValueUnencodable),
            ),
            (
                StageError::RowTooLarge { topic: text(), bytes: 2, limit: 1, commit_lsn: at },
                Some(ExitCode::RowTooLarge),
            ),
            (
                StageError::Outbox { origin: text(), commit_lsn: at, what: text() },
                Some(ExitCode::OutboxInvalid),
            ),
            (StageError::LearnedTooLarge { records: 1, topic: text() }, None),
            (StageError::Refused { table: text(), topic: text() }, Some(ExitCode::RecordTooLarge)),
            (StageError::KeyBlocked { table: text(), since: at }, Some(ExitCode::TableUnsuitable)),
            (StageError::Unplanned { table: text(), reason: text() }, Some(ExitCode::TableUnsuitable)),
            (
                StageError::NotAside {
                    why: text(),
                    advice: "more room",
                    source: Box::new(StageError::Outbox { origin: text(), commit_lsn: at, what: text() }),
                },
                Some(ExitCode::OutboxInvalid),
            ),
            (StageError::Local { path: text(), source: io }, Some(ExitCode::LocalOutput)),
            (StageError::Halt(Halt::new(ExitCode::SlotLost, "w", "a")), Some(ExitCode::SlotLost)),
        ];
        for (error, expected) in cases {
            let name = format!("{error:?}");
            assert_eq!(decided(error), expected, "{name}");
        }
    }

    #[test]
    fn what_the_server_says_decides_its_exit_code() {
        for (code, message, expected) in [
            ("42501", "must be superuser or replication role to start walsender", ExitCode::PostgresRights),
            ("3D000", "database \"x\" does not exist", ExitCode::PostgresNotReady),
            ("42704", "publication \"shop\" does not exist", ExitCode::PublicationMissing),
            ("55000", "logical decoding requires wal_level >= logical", ExitCode::PostgresNotReady),
            ("55000", "can no longer get changes from replication slot \"headwater\"", ExitCode::SlotLost),
            ("53400", "all replication slots are in use", ExitCode::PostgresNotReady),
            ("XX000", "something else", ExitCode::PostgresError),
        ] {
            let server = headwater_pg::ServerError {
                severity: "ERROR".to_owned(),
                code: code.to_owned(),
                message: message.to_owned(),
                detail: None,
                hint: None,
            };
            assert_eq!(refused(&server, &settings()).0, expected, "{message}");
        }
    }
}
