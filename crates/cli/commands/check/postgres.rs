//! The server and the role: what a logical slot needs of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater_pg::catalog::quote_identifier;
use headwater_pg::{Client, Error, ErrorKind, Session};
use headwater_pipeline::Settings;

use super::report::Report;
use crate::commands::chain;

/// Versions that the tests run against, as `server_version_num` counts them.
const VERSION_MIN: u32 = 140_000;
const VERSION_NEXT: u32 = 190_000;

/// Clocks that differ by more make lag in seconds meaningless.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(1);

/// Opens a SQL connection.
pub async fn connect(settings: &Settings, report: &mut Report) -> Option<Client> {
    let to = &settings.postgres;
    let place = format!("{}, database {}, role {}", to.host, to.database, to.user);
    match headwater_pg::connect(to).await {
        Ok(client) => {
            report.ok("connection", place);
            Some(client)
        }
        Err(error) => {
            report.wrong(
                "connection",
                format!("{place}: {}", chain(&error)),
                connect_advice(&error, settings),
            );
            None
        }
    }
}

fn connect_advice(error: &Error, settings: &Settings) -> String {
    let to = &settings.postgres;
    match (error.kind(), error.sqlstate()) {
        // 28000: there is no such role, or no line of pg_hba.conf for it.
        (ErrorKind::Authentication, Some("28000")) => {
            let role = quote_identifier(&to.user);
            return format!("CREATE ROLE {role} LOGIN REPLICATION;  -- or a line for it in the server's pg_hba.conf");
        }
        (ErrorKind::Authentication, _) if to.password.is_none() => {
            "no password was found: set HEADWATER_POSTGRES__PASSWORD, postgres.password_file or a line in ~/.pgpass"
        }
        (ErrorKind::Authentication, _) => "check user and password, and the server's pg_hba.conf",
        (ErrorKind::Tls, _) => {
            "name the server's root certificate in postgres.sslrootcert, or weaken postgres.sslmode knowingly"
        }
        (ErrorKind::Config, _) => "correct the setting that is named",
        (ErrorKind::Server, Some("3D000")) => "correct the database in postgres.url; psql -l lists those of the server",
        (ErrorKind::Server, _) => "see the server's own words above",
        _ => "check host and port in postgres.url, listen_addresses on the server and what lies between",
    }
    .to_owned()
}

/// Opens a connection as a walsender, which shows a missing right and a pooler in between.
pub async fn check_replication_connection(settings: &Settings, report: &mut Report) {
    const REQUIREMENT: &str = "replication connection";
    const DIRECT: &str =
        "connect to the server itself, not to the pooler: change host and port in postgres.url";
    let mut session = match Session::connect(&settings.postgres).await {
        Ok(session) => session,
        Err(error) => {
            let text = chain(&error);
            let advice = if text.contains("unsupported startup parameter") {
                DIRECT.to_owned()
            } else if error.sqlstate() == Some("42501") || text.contains("REPLICATION") {
                format!("ALTER ROLE {} REPLICATION;", quote_identifier(&settings.postgres.user))
            } else if error.sqlstate() == Some("53300") {
                "ALTER SYSTEM SET max_wal_senders = 10;  -- then restart the server".to_owned()
            } else {
                connect_advice(&error, settings)
            };
            return report.wrong(REQUIREMENT, text, advice);
        }
    };
    let identity = match session.identify_system().await {
        Ok(identity) => identity,
        Err(error) if error.sqlstate() == Some("42601") => {
            return report.wrong(REQUIREMENT, "a pooler answers: it does not know IDENTIFY_SYSTEM", DIRECT);
        }
        Err(error) => return report.failed(REQUIREMENT, &error),
    };
    let told = session.backend_pid();
    match session.simple_query("SELECT pg_backend_pid()").await.as_deref() {
        Ok([row]) if row.first().and_then(|pid| pid.as_deref()) != Some(told.to_string().as_str()) => {
            report.wrong(
                REQUIREMENT,
                "a pooler is in between: another process answers than the one that greeted",
                DIRECT,
            );
        }
        _ => report.ok(
            REQUIREMENT,
            format!("system {}, timeline {}", identity.system_identifier, identity.timeline),
        ),
    }
}

/// Version, settings, what is left of slots and senders, encoding, role of the server, clock.
pub async fn check_server(client: &Client, settings: &Settings, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4,
                    current_setting('wal_level'),
                    current_setting('max_replication_slots')::int8,
                    (SELECT count(*) FROM pg_replication_slots),
                    current_setting('max_wal_senders')::int8,
                    (SELECT count(*) FROM pg_stat_replication),
                    current_setting('server_encoding'),
                    pg_is_in_recovery(),
                    current_setting('server_version'),
                    extract(epoch FROM clock_timestamp())::float8",
            &[],
        )
        .await?;
    let server_seconds: f64 = row.get(9);
    check_version(u32::try_from(row.get::<_, i32>(0)).unwrap_or(0), row.get(8), row.get(7), report);
    match row.get::<_, &str>(1) {
        "logical" => report.ok("wal_level", "logical"),
        other => report.wrong(
            "wal_level",
            format!("is {other}; logical decoding needs logical"),
            "ALTER SYSTEM SET wal_level = logical;  -- then restart the server",
        ),
    }
    let exists = headwater_pg::slot::slot_state(client, &settings.slot).await?.is_some();
    check_room("max_replication_slots", "slots", row.get(2), row.get(3), if exists { 0 } else { 1 }, report);
    check_room("max_wal_senders", "senders", row.get(4), row.get(5), 1, report);
    match row.get::<_, &str>(6) {
        "UTF8" => report.ok("encoding", "UTF8"),
        "SQL_ASCII" => report.wrong(
            "encoding",
            "the database is SQL_ASCII: its bytes have no known encoding and can't be written as text",
            "dump it and restore it into a database created WITH ENCODING 'UTF8'",
        ),
        other => report.warning(
            "encoding",
            format!("the database is {other}; the server converts, and a character without a counterpart in UTF-8 stops it"),
            "dump it and restore it into a database created WITH ENCODING 'UTF8'",
        ),
    }
    check_clock(server_seconds, report);
    Ok(())
}

fn check_version(number: u32, name: &str, standby: bool, report: &mut Report) {
    if number < VERSION_MIN {
        report.wrong("version", format!("Postgres {name} is too old"), "upgrade the server to 14 or later");
    } else if number >= VERSION_NEXT {
        report.warning("version", format!("Postgres {name} is newer than what was tested"), "use 14 to 18");
    } else {
        report.ok("version", format!("Postgres {name}"));
    }
    if !standby {
        return report.ok("primary", "the server is a primary");
    }
    let advice = "name the primary in postgres.url";
    if number < 160_000 {
        report.wrong(
            "primary",
            "the server is a standby, and before version 16 a standby can't decode",
            advice,
        );
    } else {
        report.warning(
            "primary",
            "the server is a standby: the slot is lost if it is promoted late or falls behind, creating it may wait for \
             the primary, and publications must be made there",
            advice,
        );
    }
}

fn check_room(setting: &str, noun: &str, max: i64, used: i64, needed: i64, report: &mut Report) {
    let left = max - used;
    let why = format!("{used} of {max} {noun} in use");
    if left < needed {
        let mend = format!("ALTER SYSTEM SET {setting} = {};  -- then restart the server", max.max(5) * 2);
        report.wrong(setting, format!("{why}, none left"), mend);
    } else {
        report.ok(setting, why);
    }
}

fn check_clock(server_seconds: f64, report: &mut Report) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let skew = server_seconds - now;
    if skew.abs() > CLOCK_SKEW_MAX.as_secs_f64() {
        report.warning(
            "clock",
            format!("this machine and the server differ by {skew:.1} s, and so will every lag in seconds"),
            "let both follow the same time source (NTP)",
        );
    } else {
        report.ok("clock", "agrees with the server's");
    }
}

/// What the role may do.
pub async fn check_role(client: &Client, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_one(
            "SELECT r.rolname::text, r.rolsuper, r.rolreplication,
                    EXISTS (SELECT FROM pg_roles g
                            WHERE g.rolname IN ('rds_replication', 'rds_superuser', 'azure_pg_admin')
                              AND pg_has_role(r.oid, g.oid, 'MEMBER')),
                    pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE')
             FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .await?;
    let (name, superuser): (&str, bool) = (row.get(0), row.get(1));
    let (replication, hosted): (bool, bool) = (row.get(2), row.get(3));
    if superuser {
        report.warning(
            "role",
            format!("{name} is a superuser, which is more than Headwater needs"),
            "CREATE ROLE headwater LOGIN REPLICATION;  -- and use it in postgres.url",
        );
    } else if replication || hosted {
        report.ok("role", format!("{name} may replicate"));
    } else {
        report.wrong(
            "role",
            format!("{name} lacks the REPLICATION right"),
            format!(
                "ALTER ROLE {0} REPLICATION;  -- on Amazon RDS: GRANT rds_replication TO {0};",
                quote_identifier(name)
            ),
        );
    }
    if row.get::<_, bool>(4) {
        report.ok(
            "pg_read_all_stats",
            format!("{name} sees which transactions hold up the creation of a slot"),
        );
    } else {
        report.warning(
            "pg_read_all_stats",
            format!("{name} can't see which transactions hold up the creation of a slot; streaming does not need it"),
            format!("GRANT pg_read_all_stats TO {};", quote_identifier(name)),
        );
    }
    Ok(())
}
