//! What `unchanged_toast = "reselect"` needs: the right to read the tables, all of their rows, and every INSERT published.

use std::collections::BTreeSet;

use headwater_avro::UnchangedToast;
use headwater_pg::catalog::quote_identifier;
use headwater_pg::publication::PublicationState;
use headwater_pg::{Client, Error};
use headwater_pipeline::Settings;

use super::report::Report;
use super::tables::{each, list};

const REQUIREMENT: &str = "unchanged_toast = \"reselect\"";

/// Looks at every published table that is read back; says nothing where none is.
pub async fn check(
    client: &Client,
    settings: &Settings,
    publications: &[PublicationState],
    report: &mut Report,
) -> Result<(), Error> {
    let tables: BTreeSet<(&str, &str)> = publications
        .iter()
        .flat_map(|publication| &publication.tables)
        .map(|table| (table.schema.as_str(), table.name.as_str()))
        .filter(|(schema, table)| is_read_back(settings, schema, table))
        .collect();
    if tables.is_empty() {
        return Ok(());
    }
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.into_iter().unzip();
    // xmin can be read with the right to the whole table only.
    let rows = client
        .query(
            "SELECT n.nspname::text, c.relname::text, has_schema_privilege(n.oid, 'USAGE'),
                    has_table_privilege(c.oid, 'SELECT'), c.relrowsecurity AND row_security_active(c.oid)
               FROM unnest($1::text[], $2::text[]) AS wanted(schema, name)
               JOIN pg_namespace n ON n.nspname = wanted.schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
              ORDER BY 1, 2",
            &[&schemas, &names],
        )
        .await?;
    let mut found = Findings::default();
    for row in &rows {
        let (schema, table) = (quote_identifier(row.get(0)), quote_identifier(row.get(1)));
        if !row.get::<_, bool>(2) {
            found.closed_schemas.insert(schema.clone());
        }
        if !row.get::<_, bool>(3) {
            found.unreadable.push(format!("{schema}.{table}"));
        }
        if row.get::<_, bool>(4) {
            found.filtered.push(format!("{schema}.{table}"));
        }
    }
    found.tell(rows.len(), &settings.postgres.user, report);
    for publication in publications.iter().filter(|publication| !publication.insert) {
        report.warning(
            REQUIREMENT,
            format!(
                "publication {} leaves out INSERT: a row may have been replaced unseen, so every value is marked",
                publication.name
            ),
            format!(
                "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                quote_identifier(&publication.name)
            ),
        );
    }
    Ok(())
}

fn is_read_back(settings: &Settings, schema: &str, table: &str) -> bool {
    let is_outbox = settings.outbox.iter().any(|outbox| outbox.schema == schema && outbox.table == table);
    !is_outbox
        && settings.takes_table(schema, table)
        && settings.records.records_for(schema, table).unchanged_toast == UnchangedToast::Reselect
}

/// Tables, quoted as in SQL.
#[derive(Default)]
struct Findings {
    closed_schemas: BTreeSet<String>,
    unreadable: Vec<String>,
    filtered: Vec<String>,
}

impl Findings {
    fn tell(self, tables: usize, user: &str, report: &mut Report) {
        let role = quote_identifier(user);
        if !self.closed_schemas.is_empty() || !self.unreadable.is_empty() {
            let closed: Vec<String> = self.closed_schemas.into_iter().collect();
            let mut grants: Vec<String> =
                closed.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO {role};")).collect();
            if !self.unreadable.is_empty() {
                grants.push(each(&self.unreadable, |table| format!("GRANT SELECT ON {table} TO {role};")));
            }
            let named = if self.unreadable.is_empty() { &closed } else { &self.unreadable };
            return report.wrong(
                REQUIREMENT,
                format!("rows of {} are read back, and the role may not read them", list(named)),
                grants.join("\n"),
            );
        }
        if !self.filtered.is_empty() {
            return report.wrong(
                REQUIREMENT,
                format!("row-level security hides rows of {} that are to be read back", list(&self.filtered)),
                format!("ALTER ROLE {role} BYPASSRLS;"),
            );
        }
        let noun = if tables == 1 { "table" } else { "tables" };
        report.ok(REQUIREMENT, format!("{tables} {noun} can be read back"));
    }
}
