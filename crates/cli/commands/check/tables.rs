//! Publications and the tables in them.

use std::collections::BTreeSet;

use headwater_pg::catalog::quote_identifier;
use headwater_pg::publication::{PublicationState, PublishedTable};
use headwater_pg::{Client, Error};
use headwater_pipeline::Settings;
use headwater_pipeline::records::PublishedColumns;
use headwater_pipeline::route::TableRoute;
use headwater_pipeline::settings::SnapshotMode;

use super::report::Report;

/// How many tables are named before "and n more".
const NAMES_SHOWN_MAX: usize = 8;

/// Whether the publications exist, and what they publish. Returns those that exist.
pub async fn check_publications(
    client: &Client,
    settings: &Settings,
    report: &mut Report,
) -> Result<Vec<PublicationState>, Error> {
    let found = headwater_pg::publication::publications(client, &settings.publications).await?;
    for name in &settings.publications {
        let requirement = format!("publication {name}");
        match found.iter().find(|publication| publication.name == *name) {
            None => report.wrong(
                requirement,
                "does not exist",
                format!(
                    "CREATE PUBLICATION {} FOR TABLE …;  -- or: headwater init --table schema.table",
                    quote_identifier(name)
                ),
            ),
            Some(publication) => check_publication(&requirement, publication, report),
        }
    }
    let columns = headwater_pg::publication::published_columns(client, &settings.publications).await?;
    for sentence in settings.records.without_effect(&PublishedColumns::all(columns)) {
        report.warning("records", sentence, "correct the name, or take it out of the configuration");
    }
    check_signals(settings, &found, report);
    Ok(found)
}

/// Whether anybody would hear what is inserted into the table of signals.
fn check_signals(settings: &Settings, publications: &[PublicationState], report: &mut Report) {
    let Some((schema, table)) = &settings.signals.table else { return };
    let mut published = publications.iter().flat_map(|publication| &publication.tables);
    if published.any(|each| each.schema == *schema && each.name == *table) {
        return report.ok("signals", format!("{schema}.{table} is published"));
    }
    let publication = settings.publications.first().map_or("", String::as_str);
    report.warning(
        "signals",
        format!("{schema}.{table} is not published: no signal is heard from it"),
        format!(
            "ALTER PUBLICATION {} ADD TABLE {}.{};  -- the table: sql/signals.sql",
            quote_identifier(publication),
            quote_identifier(schema),
            quote_identifier(table)
        ),
    );
}

fn check_publication(requirement: &str, publication: &PublicationState, report: &mut Report) {
    let name = quote_identifier(&publication.name);
    let PublicationState { insert, update, delete, via_root, all_tables, tables, .. } = publication;
    let names: Vec<String> = tables.iter().map(full_name).collect();
    if tables.is_empty() && !all_tables {
        report.warning(requirement, "holds no table", format!("ALTER PUBLICATION {name} ADD TABLE …;"));
    } else {
        let scope = if *all_tables { "all tables, now " } else { "" };
        report.ok(requirement, format!("{scope}{}", list(&names)));
    }
    let missing: Vec<&str> = [(insert, "INSERT"), (update, "UPDATE"), (delete, "DELETE")]
        .into_iter()
        .filter_map(|(published, verb)| (!published).then_some(verb))
        .collect();
    if !missing.is_empty() {
        report.warning(
            requirement,
            format!("leaves out {}: such changes never reach Kafka", missing.join(" and ")),
            format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');"),
        );
    }
    let filtered: Vec<String> =
        tables.iter().filter(|table| table.row_filter.is_some()).map(full_name).collect();
    if !filtered.is_empty() {
        report.warning(
            requirement,
            format!(
                "filters rows of {}: a row that stops fitting the filter arrives as a delete",
                list(&filtered)
            ),
            format!("ALTER PUBLICATION {name} SET TABLE …;  -- without WHERE, if that is not wanted"),
        );
    }
    let narrowed: Vec<String> =
        tables.iter().filter(|table| table.columns.is_some()).map(full_name).collect();
    if !narrowed.is_empty() {
        report.ok(requirement, format!("publishes chosen columns only of {}", list(&narrowed)));
    }
    if *via_root && publication.truncate {
        report.ok(requirement, "changes of partitions appear under the partitioned table's name");
    }
}

/// Tables that are left out, and patterns that match nothing.
fn check_choice(settings: &Settings, tables: &BTreeSet<(String, String)>, report: &mut Report) {
    let requirement = "tables";
    let names: Vec<String> = tables.iter().map(|(schema, table)| format!("{schema}.{table}")).collect();
    for pattern in settings.topics.tables.idle_patterns(&names) {
        report.warning(
            requirement,
            format!("\"{pattern}\" matches no published table"),
            "correct include_tables or exclude_tables below [topics], or publish the table".to_owned(),
        );
    }
    let left_out = tables.iter().filter(|(schema, table)| !settings.takes_table(schema, table));
    let left_out: Vec<String> = left_out.map(|(schema, table)| format!("{schema}.{table}")).collect();
    if !left_out.is_empty() {
        report.ok(requirement, format!("left out by configuration: {}", list(&left_out)));
    }
}

/// Topics that two tables would come to unasked, that Kafka refuses, or that its metrics mix; and the tables whose
/// topics have other names than theirs.
fn check_routes(settings: &Settings, publications: &[PublicationState], report: &mut Report) {
    let requirement = "topics";
    let routes = super::kafka::routes(settings, publications);
    for halt in &routes.problems {
        report.wrong(requirement, halt.what.clone(), halt.advice.clone());
    }
    for warning in &routes.warnings {
        report.warning(
            requirement,
            warning.clone(),
            "correct topic or [[route]] in the configuration".to_owned(),
        );
    }
    let is_routed = |(_, route): &(&String, &TableRoute)| route.topic != route.own_topic;
    let routed: Vec<String> = routes
        .tables
        .iter()
        .filter(is_routed)
        .map(|(name, route)| {
            format!("{name} to {}{}", route.topic, if route.is_shared { " (shared)" } else { "" })
        })
        .collect();
    if !routed.is_empty() {
        report.ok(requirement, list(&routed));
    }
}

/// Replica identity, rights and row-level security of every published table.
pub async fn check_tables(
    client: &Client,
    settings: &Settings,
    publications: &[PublicationState],
    report: &mut Report,
) -> Result<(), Error> {
    let mut tables: BTreeSet<(String, String)> = BTreeSet::new();
    for table in publications.iter().flat_map(|publication| &publication.tables) {
        tables.insert((table.schema.clone(), table.name.clone()));
    }
    check_outbox(settings, publications, &tables, report);
    check_choice(settings, &tables, report);
    check_routes(settings, publications, report);
    let (schemas, names): (Vec<String>, Vec<String>) = tables.into_iter().unzip();
    let rows = client
        .query(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                    CASE c.relreplident
                      WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
                      WHEN 'i' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
                      ELSE c.relreplident = 'f'
                    END,
                    has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'),
                    c.relrowsecurity AND row_security_active(c.oid)
             FROM unnest($1::text[], $2::text[]) AS wanted(schema, name)
             JOIN pg_namespace n ON n.nspname = wanted.schema
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
             ORDER BY 1",
            &[&schemas, &names],
        )
        .await?;
    if rows.is_empty() {
        return Ok(());
    }
    let those = |column: usize, value: bool| -> Vec<String> {
        rows.iter().filter(|row| row.get::<_, bool>(column) == value).map(|row| row.get(0)).collect()
    };
    let (without_identity, unreadable, filtered) = (those(1, false), those(2, false), those(3, true));
    if without_identity.is_empty() {
        report.ok("replica identity", format!("{} of {} tables have one", rows.len(), rows.len()));
    } else {
        report.warning(
            "replica identity",
            format!("none on {}: Postgres refuses every UPDATE and DELETE there", list(&without_identity)),
            each(&without_identity, |table| {
                format!("ALTER TABLE {table} ADD PRIMARY KEY (…);  -- or: ALTER TABLE {table} REPLICA IDENTITY FULL;")
            }),
        );
    }
    if unreadable.is_empty() {
        report.ok("SELECT right", "on every published table");
    } else {
        report.warning(
            "SELECT right",
            match settings.snapshot.mode {
                SnapshotMode::Never => format!("none on {}; streaming does not need it", list(&unreadable)),
                _ => format!("none on {}; streaming does not need it, a snapshot does", list(&unreadable)),
            },
            each(&unreadable, |table| {
                format!("GRANT SELECT ON {table} TO {};", quote_identifier(&settings.postgres.user))
            }),
        );
    }
    if filtered.is_empty() {
        report.ok("row-level security", "hides nothing from this role");
    } else {
        report.warning(
            "row-level security",
            format!(
                "hides rows of {} from this role; streaming is not affected, a snapshot of them is refused",
                list(&filtered)
            ),
            format!("ALTER ROLE {} BYPASSRLS;", quote_identifier(&settings.postgres.user)),
        );
    }
    Ok(())
}

/// An outbox table that is not published sends nothing, without any error.
fn check_outbox(
    settings: &Settings,
    publications: &[PublicationState],
    tables: &BTreeSet<(String, String)>,
    report: &mut Report,
) {
    for outbox in &settings.outbox {
        let requirement = format!("outbox {}.{}", outbox.schema, outbox.table);
        if tables.contains(&(outbox.schema.clone(), outbox.table.clone())) {
            report.ok(requirement, "is published");
        } else if let Some(publication) = publications.first() {
            let table = format!("{}.{}", quote_identifier(&outbox.schema), quote_identifier(&outbox.table));
            report.warning(
                requirement,
                "is in none of the publications: its rows go nowhere",
                format!("ALTER PUBLICATION {} ADD TABLE {table};", quote_identifier(&publication.name)),
            );
        }
    }
}

fn full_name(table: &PublishedTable) -> String {
    format!("{}.{}", table.schema, table.name)
}

/// `a, b and 3 more`.
pub fn list(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// One line of SQL per table, as many as are named.
pub fn each(tables: &[String], line: impl Fn(&str) -> String) -> String {
    tables.iter().take(NAMES_SHOWN_MAX).map(|table| line(table)).collect::<Vec<_>>().join("\n")
}
