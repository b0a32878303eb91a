//! An outbox table as statements name it: its columns quoted, the type of its id, what a row that is written again
//! takes along.

use std::sync::Arc;

use headwater_pg::{Client, Error};
use headwater_pipeline::settings::OutboxTable;

/// The columns that Headwater writes, in every outbox table with a status (`sql/outbox.sql`).
pub const LIFE_COLUMNS: &[&str] = &[
    "status",
    "attempt",
    "first_attempt",
    "txid",
    "lsn",
    "origin_lsn",
    "sent_at",
    "processed_at",
    "processed_by",
    "failed_at",
    "next_attempt_at",
    "failed_by",
    "reason",
    "notified_at",
];

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
    let missing: Vec<_> = ["created_at"]
        .iter()
        .chain(LIFE_COLUMNS)
        .filter(|wanted| !columns.iter().any(|(name, ..)| name == **wanted))
        .copied()
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::Unsuitable(format!(
            "the outbox table {name} has no columns {}, which [[outbox]] status = true needs; sql/outbox.sql has them",
            missing.join(", ")
        )));
    }
    let id_type =
        columns.iter().find(|(name, ..)| *name == settings.id_column).map(|(_, kind, _)| kind.clone());
    let written = columns
        .iter()
        .filter(|(name, _, generated)| !generated && !LIFE_COLUMNS.contains(&name.as_str()))
        .map(|(name, ..)| quoted(name))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Table {
        sql: format!("{}.{}", quoted(&settings.schema), quoted(&settings.table)),
        id: quoted(&settings.id_column),
        id_type: id_type.ok_or_else(|| {
            LoadError::Unsuitable(format!("the outbox table {name} has no column {}", settings.id_column))
        })?,
        aggregatetype: quoted(&settings.aggregatetype_column),
        aggregateid: quoted(&settings.aggregateid_column),
        event_type: quoted(&settings.type_column),
        payload: quoted(&settings.payload_column),
        written,
        name: name.into(),
    })
}

/// A name as an identifier of SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
