//! Which tables a snapshot copies, and whether this role may read all that is in them.
//!
//! Asked before a slot is made for them, and again before they are copied: what is refused leaves nothing behind.

use headwater_pg::Client;
use headwater_pg::lock_wait::{LockWait, telling_locks};
use headwater_pg::snapshot_tables::{SnapshotTable, snapshot_tables};

use super::copier::name_of;
use super::table_pattern::{Matcher, any_matches};
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};
use crate::settings::Settings;

/// The published tables that are to be copied, in their order; with patterns those that match. `tell` hears of locks
/// that reading the catalog has to wait for.
pub(crate) async fn chosen_tables(
    client: &Client,
    settings: &Settings,
    asked: &[Matcher],
    tell: impl FnMut(Option<&LockWait>),
) -> Result<Vec<SnapshotTable>, StageError> {
    let looking = StageError::postgres("looking for the tables of the snapshot");
    let published = snapshot_tables(client, &settings.publications);
    let published = telling_locks(&settings.postgres, &[client.backend_pid()], tell, published).await;
    let mut tables = published.map_err(looking)?;
    tables.retain(|table| {
        let (schema, name) = (table.table.namespace.as_str(), table.table.name.as_str());
        let asked = match asked {
            [] => settings.snapshot.tables.takes(schema, name),
            asked => any_matches(asked, schema, name),
        };
        // Commands of the past are no rows of the present.
        let asked = asked && !settings.signals.is_table(schema, name);
        let outbox = settings.outbox.iter().find(|outbox| outbox.schema == schema && outbox.table == name);
        asked && settings.takes_table(schema, name) && outbox.is_none_or(|outbox| outbox.snapshot)
    });
    let place = |table: &SnapshotTable| {
        let name = name_of(table);
        let order = &settings.snapshot.order;
        order.iter().position(|pattern| headwater_avro::glob_matches(pattern, &name)).unwrap_or(order.len())
    };
    tables.sort_by_key(place);
    Ok(tables)
}

/// All that this role can't read, at once.
pub(crate) fn readable(settings: &Settings, tables: &[SnapshotTable]) -> Result<(), StageError> {
    let user = &settings.postgres.user;
    let hidden: Vec<String> = tables.iter().filter(|table| !table.may_select).map(name_of).collect();
    if !hidden.is_empty() {
        return Err(StageError::Halt(Halt::new(
            ExitCode::SnapshotRefused,
            format!("the role {user} may not read {}, and a snapshot has to", hidden.join(", ")),
            format!(
                "GRANT SELECT ON {} TO {user}; or snapshot.mode = \"never\", or leave them out with snapshot.exclude_tables",
                hidden.join(", ")
            ),
        )));
    }
    let guarded: Vec<String> = tables.iter().filter(|table| table.row_security).map(name_of).collect();
    if !guarded.is_empty() {
        return Err(StageError::Halt(Halt::new(
            ExitCode::SnapshotRefused,
            format!(
                "row-level security hides rows of {} from the role {user}: a snapshot would lack them, and the stream has them",
                guarded.join(", ")
            ),
            format!("ALTER ROLE {user} BYPASSRLS, or leave the tables out with snapshot.exclude_tables"),
        )));
    }
    Ok(())
}

/// How many rows the server expects of a table under these filters. None without a filter, for then its pages tell
/// better, and where it can't be asked: a filter that is wrong is an error of the copy.
pub(crate) async fn planned_rows(
    client: &Client,
    table: &SnapshotTable,
    filter: Option<&str>,
) -> Option<u64> {
    let filters: Vec<String> =
        table.row_filter.as_deref().into_iter().chain(filter).map(|filter| format!("({filter}\n)")).collect();
    if filters.is_empty() {
        return None;
    }
    let sql = format!("EXPLAIN SELECT FROM {} WHERE {}", table.sql_name(), filters.join(" AND "));
    let rows = client.query(&sql, &[]).await.ok()?;
    rows_of_plan(rows.first()?.try_get(0).ok()?)
}

/// `Seq Scan on items  (cost=0.00..35.50 rows=850 width=0)` is 850.
fn rows_of_plan(first_line: &str) -> Option<u64> {
    let rows = first_line.split_once(" rows=")?.1;
    rows.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_many_rows() {
        assert_eq!(rows_of_plan("Seq Scan on items  (cost=0.00..35.50 rows=850 width=0)"), Some(850));
        assert_eq!(rows_of_plan("Append  (cost=0.00..1.00 rows=3 width=0)"), Some(3));
        assert_eq!(rows_of_plan("Result"), None);
    }
}
