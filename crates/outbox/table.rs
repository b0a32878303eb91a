//! An outbox table as statements name it: its columns quoted, the type of its id, what a row that is written again
//! takes along.

use std::sync::Arc;

use headwater_pg::{Client, Error};
use headwater_pipeline::settings::OutboxTable;

/// The columns that Headwater writes, in every outbox table with a status, and their types (`sql/outbox.sql`).
pub const LIFE_COLUMNS: &[(&str, &str)] = &[
    ("status", "text"),
    ("attempt", "integer"),
    ("first_attempt", "integer"),
    ("txid", "xid8"),
    ("lsn", "pg_lsn"),
    ("origin_lsn", "pg_lsn"),
    ("sent_at", "timestamp with time zone"),
    ("processed_at", "timestamp with time zone"),
    ("processed_by", "text[]"),
    ("failed_at", "timestamp with time zone"),
    ("next_attempt_at", "timestamp with time zone"),
    ("failed_by", "text"),
    ("reason", "text"),
    ("notified_at", "timestamp with time zone"),
];

/// The column that says on which day a row was written; it is the service's.
const CREATED_AT: (&str, &str) = ("created_at", "timestamp with time zone");

/// The table and its columns, quoted for SQL.
#[derive(Clone, Debug)]
pub struct Table {
    /// As people write it, `schema.table`.
    pub name: Arc<str>,
    /// For statements.
    pub sql: String,
    /// The column of the event's id.
    pub id: String,
    /// Its type.
    pub id_type: String,
    /// The columns of aggregate type, aggregate id and event type.
    pub aggregatetype: String,
    /// See `aggregatetype`.
    pub aggregateid: String,
    /// See `aggregatetype`.
    pub event_type: String,
    /// The payload.
    pub payload: String,
    /// All columns that a service writes, separated by commas.
    pub written: String,
}

/// Why a table can't be used.
#[derive(Debug)]
pub enum LoadError {
    /// The server's word.
    Postgres(Error),
    /// The table is not what it has to be.
    Unsuitable(String),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoadError::Postgres(error) => error.fmt(f),
            LoadError::Unsuitable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Postgres(error) => std::error::Error::source(error),
            LoadError::Unsuitable(_) => None,
        }
    }
}

impl From<Error> for LoadError {
    fn from(error: Error) -> LoadError {
        LoadError::Postgres(error)
    }
}

/// Looks the table up.
///
/// # Errors
/// The server's, or what the table lacks.
pub async fn load(client: &Client, settings: &OutboxTable) -> Result<Table, LoadError> {
    const SQL: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '' \
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let name = format!("{}.{}", settings.schema, settings.table);
    let rows = client.query(SQL, &[&settings.schema, &settings.table]).await.map_err(Error::from)?;
    let columns: Vec<(String, String, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let missing: Vec<_> = [CREATED_AT]
        .iter()
        .chain(LIFE_COLUMNS)
        .filter(|(wanted, as_type)| !columns.iter().any(|(name, kind, _)| name == wanted && kind == as_type))
        .map(|(name, as_type)| format!("{name} {as_type}"))
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::Unsuitable(format!(
            "the outbox table {name} lacks the columns {}, which [[outbox]] status = true needs; sql/outbox.sql has them",
            missing.join(", ")
        )));
    }
    let is_life = |name: &str| LIFE_COLUMNS.iter().any(|(known, _)| *known == name);
    let written = columns
        .iter()
        .filter(|(name, _, generated)| !generated && !is_life(name))
        .map(|(name, ..)| quoted(name))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Table {
        sql: format!("{}.{}", quoted(&settings.schema), quoted(&settings.table)),
        id: quoted(&settings.id_column),
        id_type: id_type(&name, &settings.id_column, &columns)?,
        aggregatetype: quoted(&settings.aggregatetype_column),
        aggregateid: quoted(&settings.aggregateid_column),
        event_type: quoted(&settings.type_column),
        payload: quoted(&settings.payload_column),
        written,
        name: name.into(),
    })
}

/// The type that the text of an id is cast to. Of other types, what a consumer answers could fail a statement.
fn id_type(table: &str, column: &str, columns: &[(String, String, bool)]) -> Result<String, LoadError> {
    let Some((_, kind, _)) = columns.iter().find(|(name, ..)| name == column) else {
        return Err(LoadError::Unsuitable(format!("the outbox table {table} has no column {column}")));
    };
    // Without length and precision: a cast to them would cut an id off, or fail.
    let bare = kind.split('(').next().unwrap_or(kind);
    match bare {
        "uuid" | "bigint" | "integer" | "smallint" | "text" | "numeric" | "character varying" => {
            Ok(bare.to_owned())
        }
        _ => Err(LoadError::Unsuitable(format!(
            "{column}, the id of the outbox table {table}, is of type {kind}; with status = true it has to be uuid, text, \
             varchar, or a number without a fraction"
        ))),
    }
}

/// A name as an identifier of SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
