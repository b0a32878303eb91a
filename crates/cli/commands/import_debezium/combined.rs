//! Properties that need more than a line of the table: several make one of ours, or the value must be taken apart.

use toml::Value;

use super::patterns;
use super::report::Fate;
use super::source::Given;
use super::transforms::OUTBOX_COLUMNS;
use super::translate::Work;
use crate::config;

/// `postgres.url`, before the keys beside it.
pub fn connection(work: &mut Work<'_>) {
    let value = |name: &str| work.effective(name);
    let (host, port) = (value("database.hostname"), value("database.port"));
    let (user, database) = (value("database.user"), value("database.dbname"));
    if host.is_empty() || user.is_empty() || database.is_empty() {
        return;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { percent_encoded(&host) };
    let url = format!("postgres://{}@{host}:{port}/{}", percent_encoded(&user), percent_encoded(&database));
    work.document.set("postgres.url", url, "database.hostname, .port, .user, .dbname");
}

pub fn database_url(work: &mut Work<'_>, _: &Given) -> (Fate, String) {
    match work.document.get("postgres.url") {
        Some(url) => (Fate::Carried, format!("postgres.url = {url}")),
        None => (
            Fate::Unsupported,
            "postgres.url needs database.hostname, database.user and database.dbname together".to_owned(),
        ),
    }
}

pub fn database_password(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    secret(work, "HEADWATER_POSTGRES__PASSWORD", &given.shown)
}

/// A secret is carried over by the user, in an environment variable.
pub fn secret(work: &mut Work<'_>, variable: &str, origin: &str) -> (Fate, String) {
    work.secrets.insert(variable.to_owned(), origin.to_owned());
    (Fate::Carried, format!("not written: set {variable}"))
}

/// The JDBC driver reads PKCS#8 in DER and PKCS#12, Headwater PEM.
pub fn sslkey(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let path = &given.value;
    if path.ends_with(".p12") || path.ends_with(".pfx") {
        return (
            Fate::Unsupported,
            format!(
                "keys are read as PEM: openssl pkcs12 -in {path} -nodes -out client.pem, then set postgres.sslcert and postgres.sslkey to it"
            ),
        );
    }
    if path.ends_with(".pk8") || path.ends_with(".der") {
        return (
            Fate::Unsupported,
            format!(
                "keys are read as PEM: openssl pkcs8 -inform DER -nocrypt -in {path} -out client.key, then set postgres.sslkey to it"
            ),
        );
    }
    let (fate, text) = work.emit("postgres.sslkey", path.as_str(), &given.shown);
    (fate, format!("{text}; it must be PEM"))
}

/// Include and exclude lists of schemas and tables.
///
/// What is captured is what the publication holds. A connector with `publication.autocreate.mode=filtered` has made
/// it hold just the tables of its lists.
pub fn tables(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if given.value.trim().is_empty() {
        return (Fate::Carried, "empty: every table of the publication".to_owned());
    }
    let kind = given.shown.rsplit("debezium.source.").next().unwrap_or_default();
    let (key, of_schemas) = match kind {
        "schema.include.list" => ("topics.include_tables", true),
        "schema.exclude.list" => ("topics.exclude_tables", true),
        "table.exclude.list" => ("topics.exclude_tables", false),
        _ => ("topics.include_tables", false),
    };
    if work.effective("publication.autocreate.mode") == "filtered" {
        return (
            Fate::Carried,
            format!("the publication {} holds just these tables", work.effective("publication.name")),
        );
    }
    let globs = match patterns::globs(&given.value) {
        Ok(globs) => globs,
        Err(pattern) => {
            return (
                Fate::Unsupported,
                format!(
                    "{pattern} is more than a name with wildcards; {}",
                    set_table(work, "the tables that it means")
                ),
            );
        }
    };
    let globs: Vec<String> =
        if of_schemas { globs.into_iter().map(|schema| format!("{schema}.*")).collect() } else { globs };
    let literal = key == "topics.include_tables" && !globs.iter().any(|glob| glob.contains('*'));
    match work.emit(key, globs.clone(), &given.shown) {
        (Fate::Carried, text) => (Fate::Carried, text),
        (fate, text) => {
            let tables = if literal { globs.join(", ") } else { "the tables that are captured".to_owned() };
            (fate, format!("{text}; what the publication holds is captured: {}", set_table(work, &tables)))
        }
    }
}

fn set_table(work: &Work<'_>, tables: &str) -> String {
    format!("ALTER PUBLICATION {} SET TABLE {tables}", work.effective("publication.name"))
}

/// Column patterns over `schema.table.column`, as table and column globs, gathered by table.
fn by_table(list: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for glob in patterns::globs(list)? {
        let (table, column) = glob.rsplit_once('.').ok_or_else(|| glob.clone())?;
        match tables.iter_mut().find(|(known, _)| known == table) {
            Some((_, columns)) => columns.push(column.to_owned()),
            None => tables.push((table.to_owned(), vec![column.to_owned()])),
        }
    }
    Ok(tables)
}

/// Include and exclude lists of columns become a `[[table]]` for each table.
pub fn columns(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let include = given.shown.ends_with("column.include.list");
    let key = if include { "columns_include" } else { "columns_exclude" };
    let tables = match by_table(&given.value) {
        Ok(tables) if tables.is_empty() => return (Fate::Carried, "empty: every column".to_owned()),
        Ok(tables) => tables,
        Err(pattern) => {
            return (
                Fate::Unsupported,
                format!("{pattern} is more than a name with wildcards: write [[table]] {key} by hand"),
            );
        }
    };
    // Of two entries for one table only the later one would count.
    if tables.len() > 1 && tables.iter().any(|(table, _)| table.contains('*')) {
        return (
            Fate::Unsupported,
            format!("patterns may name a table twice: write [[table]] {key} by hand"),
        );
    }
    for (table, columns) in tables {
        let lines = vec![("tables", Value::from(vec![table])), (key, Value::from(columns))];
        if !work.document.push("table", lines, &given.shown) {
            return (
                Fate::Unsupported,
                format!("not yet: this version has no {key}; a column list of the publication does it"),
            );
        }
    }
    (Fate::Carried, format!("[[table]] {key}"))
}

/// `column.propagate.source.type`: a `[[table]]` for each table, or `[records]` for all.
pub fn source_types_of_columns(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    const KEY: &str = "propagate_source_type";
    if is_everything(&given.value) {
        return work.emit(&format!("records.{KEY}"), "*", &given.shown);
    }
    let tables = match by_table(&given.value) {
        Ok(tables) if tables.is_empty() => return (Fate::Carried, "empty: no column".to_owned()),
        Ok(tables) => tables,
        Err(pattern) => {
            let text = format!("{pattern} is more than a name with wildcards: write [[table]] {KEY} by hand");
            return (Fate::Unsupported, text);
        }
    };
    // Of two entries for one table only the later one would count.
    if tables.len() > 1 && tables.iter().any(|(table, _)| table.contains('*')) {
        let text = format!("patterns may name a table twice: write [[table]] {KEY} by hand");
        return (Fate::Unsupported, text);
    }
    for (table, columns) in tables {
        let lines = vec![("tables", Value::from(vec![table])), (KEY, Value::from(columns))];
        if !work.document.push("table", lines, &given.shown) {
            return (Fate::Unsupported, format!("not yet: this version has no {KEY}"));
        }
    }
    (Fate::Carried, format!("[[table]] {KEY}"))
}

/// `datatype.propagate.source.type` names types, Headwater columns.
pub fn source_types_of_types(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if is_everything(&given.value) {
        return work.emit("records.propagate_source_type", "*", &given.shown);
    }
    let text = "propagate_source_type names columns, not types: write those of these types by hand";
    (Fate::Unsupported, text.to_owned())
}

/// Whether a pattern names everything, as `.*` does.
fn is_everything(pattern: &str) -> bool {
    let parts: Vec<_> = pattern.trim().split("\\.").collect();
    !pattern.trim().is_empty() && parts.iter().all(|part| matches!(*part, ".*" | ".+"))
}

/// `column.mask.with.N.chars` and `column.truncate.to.N.chars` become masks of each table.
pub fn mask(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let number = given.shown.split('.').rev().nth(1).and_then(|number| number.parse::<usize>().ok());
    let Some(number) = number.filter(|number| *number <= 10_000) else {
        return (Fate::Unsupported, "its name holds no number of characters".to_owned());
    };
    let (mask, note) = match given.shown.contains("column.truncate.to.") {
        true => (format!("truncate:{number}"), ""),
        false => (format!("fixed:{}", "*".repeat(number)), "; NULL stays NULL, which Debezium masks too"),
    };
    let tables = match by_table(&given.value) {
        Ok(tables) => tables,
        Err(pattern) => {
            return (
                Fate::Unsupported,
                format!("{pattern} is more than a name with wildcards: write [[table]] masks by hand"),
            );
        }
    };
    for (table, columns) in tables {
        let masks: toml::Table =
            columns.into_iter().map(|column| (column, Value::from(mask.as_str()))).collect();
        let lines = vec![("tables", Value::from(vec![table])), ("masks", Value::Table(masks))];
        if !work.document.push("table", lines, &given.shown) {
            return (Fate::Unsupported, "not yet: this version masks no columns; leave them out with a column list in the publication".to_owned());
        }
    }
    (Fate::Carried, format!("[[table]] masks, {}{note}", mask.split(':').next().unwrap_or_default()))
}

/// Which logical messages go to `<prefix>.message`; Debezium sends all of them by default.
pub fn message_prefixes(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let include = !given.shown.ends_with("message.prefix.exclude.list");
    let key = if include { "messages.include" } else { "messages.exclude" };
    let by_default = given.shown.ends_with(", by default");
    match patterns::globs(&given.value) {
        Err(pattern) => {
            (Fate::Unsupported, format!("{pattern} is more than a name with wildcards: write {key} by hand"))
        }
        Ok(globs) => match work.emit(key, globs, &given.shown) {
            (Fate::Unsupported, _) if by_default => {
                (Fate::Other, "logical messages go to no topic, except those of the outbox".to_owned())
            }
            outcome => outcome,
        },
    }
}

/// `schema.table:a,b;…` becomes a `[[table]]` for each.
pub fn message_key_columns(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if !config::knows("table", "message_key_columns") {
        return (
            Fate::Unsupported,
            "not yet: this version has no message_key_columns; the key is the primary key, or the replica identity's index".to_owned(),
        );
    }
    for rule in given.value.split(';').map(str::trim).filter(|rule| !rule.is_empty()) {
        let Some((table, columns)) = rule.rsplit_once(':') else {
            return (Fate::Unsupported, format!("{rule} is not table:column,column"));
        };
        let Some(glob) = patterns::glob(table.trim()) else {
            return (
                Fate::Unsupported,
                format!(
                    "{table} is more than a name with wildcards: write it as [[table]] message_key_columns"
                ),
            );
        };
        let columns: Vec<Value> = columns.split(',').map(|column| Value::from(column.trim())).collect();
        let lines = vec![("tables", Value::from(vec![glob])), ("message_key_columns", Value::Array(columns))];
        work.document.push("table", lines, &given.shown);
    }
    (Fate::Carried, "[[table]] message_key_columns".to_owned())
}

pub fn skipped_operations(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let mut operations: Vec<&str> =
        given.value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    operations.sort_unstable();
    match operations.as_slice() {
        ["t"] => (Fate::Carried, "as here: TRUNCATE is skipped and counted".to_owned()),
        [] | ["none"] => match work.emit("records.truncate", "emit", &given.shown) {
            (Fate::Carried, text) => (Fate::Carried, text),
            (fate, text) => (fate, format!("{text}; TRUNCATE is skipped and counted")),
        },
        _ => (
            Fate::Unsupported,
            "the publication leaves operations out: ALTER PUBLICATION … SET (publish = 'insert, update')"
                .to_owned(),
        ),
    }
}

pub fn unknown_types(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match given.value.trim() {
        "true" => work.emit("records.unknown_types", "bytes", &given.shown),
        _ => (
            Fate::Other,
            "a column of an unknown type is its text (records.unknown_types): no column is dropped"
                .to_owned(),
        ),
    }
}

pub fn transaction_metadata(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if given.value.trim() != "true" {
        return (Fate::Carried, "as here: the transaction block is null".to_owned());
    }
    match work.emit("transactions.metadata", true, &given.shown) {
        (Fate::Carried, text) => (Fate::Carried, text),
        (fate, text) => {
            (fate, format!("{text}; headwater.id on every record names its transaction and its place in it"))
        }
    }
}

pub fn transaction_topic(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if work.effective("provide.transaction.metadata") != "true" {
        return (Fate::Carried, "as here: no transaction records are written".to_owned());
    }
    work.emit("transactions.topic", given.value.trim(), &given.shown)
}

pub fn snapshot_mode(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let mode = match given.value.trim() {
        "initial" => "initial",
        "no_data" | "never" | "schema_only" => "never",
        "always" => "always",
        "initial_only" | "initial_schema_only" => "only",
        "when_needed" => "when_needed",
        _ => return (Fate::Unsupported, "there are initial, never, always, only and when_needed".to_owned()),
    };
    let (fate, text) = work.emit("snapshot.mode", mode, &given.shown);
    (fate, format!("{text}; of a slot that is taken over nothing is copied again"))
}

pub fn snapshot_tables(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match patterns::globs(&given.value) {
        Ok(globs) => work.emit("snapshot.include_tables", globs, &given.shown),
        Err(pattern) => (
            Fate::Unsupported,
            format!("{pattern} is more than a name with wildcards; set snapshot.include_tables"),
        ),
    }
}

pub fn heartbeat(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let value = given.value.trim();
    if value == "0" {
        return (Fate::Carried, "as here: no heartbeats".to_owned());
    }
    // A statement of the user's own is seen by others; the interval alone has no purpose here.
    if work.connector.value("heartbeat.action.query").is_some() && config::knows("pipeline", "heartbeat_sql")
    {
        return work.emit("pipeline.heartbeat_interval", format!("{value}ms"), &given.shown);
    }
    (
        Fate::Other,
        "the slot moves with the server's keepalives, so none are needed; nothing is written to the heartbeat topic".to_owned(),
    )
}

pub fn heartbeat_query(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let never = matches!(work.connector.value("heartbeat.interval.ms"), None | Some("0"));
    if never || given.value.trim().is_empty() || !config::knows("pipeline", "heartbeat_sql") {
        return (
            Fate::Other,
            "no rows are needed: the slot moves with the server's keepalives; other users of that table must write to it themselves".to_owned(),
        );
    }
    work.emit("pipeline.heartbeat_sql", given.value.trim(), &given.shown)
}

pub fn offsets_topic(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let kind = if given.shown.ends_with("filename") { "--offsets-file" } else { "--offsets-topic" };
    let _ = work;
    (
        Fate::Other,
        format!(
            "the position is kept in checkpoint.topic; headwater take-over {kind} {} reads the connector's",
            given.value
        ),
    )
}

pub fn topic_config(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let name = given.shown.rsplit_once("topic.creation.default.").map_or("", |(_, name)| name);
    match name {
        "include" | "exclude" => {
            (Fate::Other, "every topic that Headwater makes has the shape of [topics]".to_owned())
        }
        _ => {
            work.document.set_below("topics.config", name, &given.value, &given.shown);
            (Fate::Carried, format!("topics.config.\"{name}\""))
        }
    }
}

pub fn metadata_fields(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let fields: Vec<String> = given
        .value
        .split(',')
        .map(|field| field.trim().to_owned())
        .filter(|field| !field.is_empty())
        .collect();
    work.emit("records.metadata_fields", fields, &given.shown)
}

pub fn outbox_column(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let column = OUTBOX_COLUMNS
        .iter()
        .find(|(option, ..)| given.shown.ends_with(option))
        .map_or("", |(.., name)| name);
    (Fate::Carried, format!("outbox.columns.{column} = \"{}\"", given.value))
}

pub fn value_converter<'a>(work: &'a Work<'_>) -> Option<&'a str> {
    work.connector.value("value.converter").or_else(|| work.connector.value("worker.value.converter"))
}

/// Whether payloads pass through as their bytes.
pub fn payload_is_raw(work: &Work<'_>) -> bool {
    matches!(
        value_converter(work),
        Some(
            "io.debezium.converters.BinaryDataConverter"
                | "io.debezium.converters.ByteArrayConverter"
                | "org.apache.kafka.connect.converters.ByteArrayConverter"
                | "org.apache.kafka.connect.storage.StringConverter"
        )
    )
}

/// What a URL does not take as it is.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
