//! What `headwater check` asks before `headwater apply` is started: each requirement, whether it is met, and what mends
//! it. Changes nothing; one thing that is wrong does not keep it from looking at the rest.

use std::sync::Arc;

use headwater_avro::glob_matches;
use headwater_avro::registry::Registry;
use headwater_avro::{RecordPart, Subject};
use headwater_kafka::Admin;
use headwater_pg::catalog::quote_identifier;
use headwater_pg::{Client, Error, ErrorKind};

use crate::halt::{Failure, with_causes};
use crate::layout::Layouts;
use crate::naming::is_event_topic;
use crate::settings::{EventSettings, Settings};
use crate::target::{self, TargetName};

/// Topics whose tables are looked at one by one.
const TOPICS_MAX: usize = 200;

/// How a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It is.
    Yes,
    /// It works, but somebody should know.
    Partly,
    /// Applying would fail.
    No,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is asked for.
    pub requirement: String,
    /// Whether it is met.
    pub met: Met,
    /// By what, or why not.
    pub why: String,
    /// SQL or words that mend it; empty where nothing has to be.
    pub mend: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        met: Met,
        requirement: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let (requirement, why, mend) = (requirement.into(), why.into(), mend.into());
        self.0.push(Finding { requirement, met, why, mend });
    }

    fn ok(&mut self, requirement: impl Into<String>, why: impl Into<String>) {
        self.add(Met::Yes, requirement, why, "");
    }

    fn wrong(&mut self, requirement: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) {
        self.add(Met::No, requirement, why, mend);
    }

    fn failed(&mut self, requirement: impl Into<String>, error: &dyn std::error::Error) {
        let why = format!("could not be checked: {}", with_causes(error));
        self.add(Met::No, requirement, why, "see the words of the server");
    }
}

/// Asks everybody.
pub async fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = Findings::default();
    let client = check_target(settings, &mut findings).await;
    let topics = check_kafka(settings, &mut findings).await;
    let registry = check_registry(settings, &mut findings).await;
    if let Some(client) = &client {
        if let Err(error) = check_ledger(client, settings, &mut findings).await {
            findings.failed("schema headwater", &error);
        }
        if let Some(registry) = registry {
            let mut layouts = Layouts::new(Arc::new(settings.clone()), registry);
            for topic in topics.iter().take(TOPICS_MAX) {
                check_topic(client, &mut layouts, settings, topic, &mut findings).await;
            }
        }
        if let Some(events) = &settings.events {
            check_handlers(client, events, &mut findings).await;
        }
    }
    findings.0
}

async fn check_target(settings: &Settings, findings: &mut Findings) -> Option<Client> {
    const REQUIREMENT: &str = "target database";
    let to = &settings.postgres;
    let place = format!("{}, database {}, role {}", to.host, to.database, to.user);
    match headwater_pg::connect(to).await {
        Ok(client) => match client.query_one("SELECT pg_is_in_recovery()", &[]).await {
            Ok(row) if row.try_get(0).unwrap_or(false) => {
                findings.wrong(
                    REQUIREMENT,
                    format!("{place}: is a standby"),
                    "name its primary in target.url",
                );
                None
            }
            Ok(_) => {
                findings.ok(REQUIREMENT, place);
                Some(client)
            }
            Err(error) => {
                findings.failed(REQUIREMENT, &Error::from(error));
                None
            }
        },
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::Authentication => {
                    "check user and password (HEADWATER_TARGET__PASSWORD), and the server's pg_hba.conf"
                }
                ErrorKind::Tls => "name the server's root certificate in target.sslrootcert",
                _ => "check host, port and database in target.url, and what lies between",
            };
            findings.wrong(REQUIREMENT, format!("{place}: {}", with_causes(&error)), advice);
            None
        }
    }
}

/// The tables of `sql/apply.sql`, or the right to make them; staging tables.
async fn check_ledger(client: &Client, settings: &Settings, findings: &mut Findings) -> Result<(), Error> {
    let to = &settings.postgres;
    let (database, role) = (quote_identifier(&to.database), quote_identifier(&to.user));
    const DATABASE: &str = "SELECT has_database_privilege(current_database(), 'TEMPORARY'), \
                            has_database_privilege(current_database(), 'CREATE')";
    let row = client.query_one(DATABASE, &[]).await?;
    let (temporary, create): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    match temporary {
        true => findings.ok("staging tables", "may be made"),
        false => findings.wrong(
            "staging tables",
            "the role has no right to temporary tables",
            format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"),
        ),
    }
    const TABLES: &str = "SELECT n.name, to_regclass('headwater.' || n.name) IS NOT NULL, \
        coalesce(has_table_privilege(to_regclass('headwater.' || n.name), 'SELECT') \
        AND has_table_privilege(to_regclass('headwater.' || n.name), 'INSERT') \
        AND has_table_privilege(to_regclass('headwater.' || n.name), 'UPDATE') \
        AND has_table_privilege(to_regclass('headwater.' || n.name), 'DELETE'), false) \
        FROM unnest(ARRAY['apply_offset', 'apply_table', 'apply_deleted', 'inbox']) n (name)";
    let mut missing = false;
    for row in client.query(TABLES, &[]).await? {
        let (name, there, allowed): (String, bool, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        missing |= !there;
        if there && !allowed {
            findings.wrong(
                format!("table headwater.{name}"),
                "the role may not read and write it",
                format!("GRANT SELECT, INSERT, UPDATE, DELETE ON headwater.{name} TO {role};"),
            );
        }
    }
    match (missing, create) {
        (false, _) => findings.ok("schema headwater", "has its tables"),
        (true, true) => findings.ok("schema headwater", "is made at the first start"),
        (true, false) => findings.wrong(
            "schema headwater",
            "is missing or lacks tables, and the role may not make them",
            "run sql/apply.sql as an owner of the database",
        ),
    }
    Ok(())
}

/// The topics that rows are taken from, as far as they are there.
async fn check_kafka(settings: &Settings, findings: &mut Findings) -> Vec<String> {
    const REQUIREMENT: &str = "kafka";
    let kafka = settings.kafka.clone();
    let servers = kafka.bootstrap_servers.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let admin = Admin::new(&kafka)?;
        Ok::<_, headwater_kafka::Error>((admin.broker_count()?, admin.topic_names()?))
    });
    let names = match asked.await {
        Ok(Ok((brokers, names))) => {
            let noun = if brokers == 1 { "broker" } else { "brokers" };
            findings.ok(REQUIREMENT, format!("{servers}, {brokers} {noun}"));
            names
        }
        Ok(Err(error)) => {
            let advice = "check kafka.bootstrap_servers, kafka.properties and what lies between";
            findings.wrong(REQUIREMENT, format!("{servers}: {}", with_causes(&error)), advice);
            return Vec::new();
        }
        Err(error) => {
            findings.failed(REQUIREMENT, &error);
            return Vec::new();
        }
    };
    let letters = settings.dead_letter_topic.replace("{topic}", "*");
    let mut found = Vec::new();
    let events = settings.events.iter().flat_map(|events| &events.topics);
    for pattern in settings.topics.iter().chain(events) {
        let requirement = format!("topics {pattern}");
        if pattern.starts_with('^') {
            findings.ok(requirement, "a regular expression, which the brokers' client tries");
            continue;
        }
        let ours = |name: &&String| {
            glob_matches(pattern, name) && (*name == pattern || !glob_matches(&letters, name))
        };
        let matching: Vec<_> = names.iter().filter(ours).cloned().collect();
        match matching.len() {
            0 => findings.add(
                Met::Partly,
                requirement,
                "there is none yet; it is waited for",
                "start what writes it, or correct apply.topics; the right to describe the topic may be missing",
            ),
            count => findings.ok(requirement, format!("{count} found")),
        }
        found.extend(matching);
    }
    found.sort_unstable();
    found.dedup();
    found.retain(|topic| !is_event_topic(settings, topic));
    found
}

async fn check_registry(settings: &Settings, findings: &mut Findings) -> Option<Registry> {
    const REQUIREMENT: &str = "schema registry";
    let place = settings.registry.urls.join(", ");
    let registry = match Registry::new(&settings.registry) {
        Ok(registry) => registry,
        Err(error) => {
            let why = format!("{place}: {}", with_causes(&error));
            findings.wrong(REQUIREMENT, why, "correct [schema_registry]");
            return None;
        }
    };
    match registry.reachable().await {
        Ok(()) => {
            findings.ok(REQUIREMENT, format!("{place} answers"));
            Some(registry)
        }
        Err(error) => {
            let why = format!("{place}: {}", with_causes(&error));
            findings.wrong(REQUIREMENT, why, "check schema_registry.url, username and password");
            None
        }
    }
}

/// Whether the latest schemas of a topic fit its table.
async fn check_topic(
    client: &Client,
    layouts: &mut Layouts,
    settings: &Settings,
    topic: &str,
    findings: &mut Findings,
) {
    let requirement = format!("topic {topic}");
    let mut schemas = Vec::new();
    for part in [RecordPart::Key, RecordPart::Value] {
        let subject: Subject = settings.registry.subject(topic, part, "");
        match layouts.registry().latest(&subject).await {
            Ok(Some(found)) => schemas.push(found.schema),
            Ok(None) => {
                let why = format!("no schema under subject {subject}: whether its table fits is seen later");
                let mend = "where the producer has another strategy for subjects, this is no fault";
                return findings.add(Met::Partly, requirement, why, mend);
            }
            Err(error) => return findings.failed(requirement, &error),
        }
    }
    match layouts.check(client, topic, &schemas[0], &schemas[1]).await {
        Ok((target, None)) => match check_table(client, &target, settings, findings).await {
            Ok(()) => findings.ok(requirement, format!("fits table {}", target.plain())),
            Err(error) => findings.failed(requirement, &error),
        },
        Ok((target, Some(sql))) => {
            findings.ok(requirement, format!("table {} is made or altered: {sql}", target.plain()));
            let outcome = check_table(client, &target, settings, findings).await;
            outcome.unwrap_or_else(|error| findings.failed(format!("table {}", target.plain()), &error));
        }
        Err(Failure::Halt(halt)) => findings.wrong(requirement, halt.what, halt.advice),
        Err(Failure::Refused(refusal)) => findings.wrong(
            requirement,
            format!("table {}: {}", refusal.table.unwrap_or_default(), refusal.reason),
            "give the column another type, or leave it out with exclude in [[apply_table]]",
        ),
        Err(Failure::Away(reason) | Failure::Fenced(reason)) => {
            findings.wrong(requirement, format!("could not be checked: {reason}"), "ask again");
        }
    }
}

/// What the role may do with the table, and what stands in the way of rows that are not applied in step.
async fn check_table(
    client: &Client,
    target: &TargetName,
    settings: &Settings,
    findings: &mut Findings,
) -> Result<(), Error> {
    let requirement = format!("table {}", target.plain());
    let role = quote_identifier(&settings.postgres.user);
    let schema = quote_identifier(&target.schema);
    let Some(rights) = target::rights(client, target).await? else {
        if !target::may_create(client, target).await? {
            let mend = format!("GRANT CREATE ON SCHEMA {schema} TO {role};  -- or create the table yourself");
            findings.wrong(requirement, "the role may not create it", mend);
        }
        return Ok(());
    };
    if !rights.writes {
        let mend = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role};", target.quoted());
        findings.wrong(&requirement, "the role may not read and write it", mend);
    }
    if !rights.owns && settings.alter_tables {
        let why = "the role does not own it: columns that come later can't be added";
        findings.add(
            Met::Partly,
            &requirement,
            why,
            format!("ALTER TABLE {} OWNER TO {role};", target.quoted()),
        );
    }
    for name in rights.foreign_keys {
        let why = format!("foreign key {name}: tables are not applied in step, so rows can be refused");
        let mend = format!("ALTER TABLE {} DROP CONSTRAINT {};", target.quoted(), quote_identifier(&name));
        findings.add(Met::Partly, &requirement, why, mend);
    }
    if rights.row_security {
        let why = "row-level security applies to the role: rows that it may not see look missing";
        findings.wrong(&requirement, why, format!("ALTER ROLE {role} BYPASSRLS;"));
    }
    Ok(())
}

/// Each statement as the server reads it.
async fn check_handlers(client: &Client, events: &EventSettings, findings: &mut Findings) {
    for (kind, sql) in &events.handlers {
        let requirement = format!("on_event.'{kind}'");
        match client.prepare(sql).await {
            Ok(statement) if statement.params().len() > 2 => findings.wrong(
                requirement,
                "has more than two parameters",
                "$1 is the payload, $2 the event as JSON; there is no $3",
            ),
            Ok(statement) => {
                let types: Vec<_> = statement.params().iter().map(|each| each.name().to_owned()).collect();
                findings.ok(requirement, format!("takes ({})", types.join(", ")));
            }
            Err(error) => {
                let error = Error::from(error);
                findings.wrong(requirement, with_causes(&error), "correct the statement");
            }
        }
    }
}
