//! The slot: whether it is there, ours, free and alive, and what it holds.

use headwater_pg::catalog::quote_literal;
use headwater_pg::slot::{self, SlotState};
use headwater_pg::{Client, Error};
use headwater_pipeline::Settings;

use super::report::Report;
use super::{human_bytes, human_duration};

/// Transactions that young will likely be over before a slot is asked for.
const BLOCKER_AGE_SECONDS_MIN: f64 = 5.0;

/// A slot that holds more is worth a look even where nothing limits it.
const RETAINED_BYTES_WARN: u64 = 10 << 30;

/// Looks at the slot of the configuration and at what limits it.
pub async fn check(client: &Client, settings: &Settings, report: &mut Report) -> Result<(), Error> {
    match slot::slot_state(client, &settings.slot).await? {
        Some(state) => check_state(&state, settings, report),
        None => check_creation(client, settings, report).await?,
    }
    let row = client
        .query_one(
            "SELECT current_setting('max_slot_wal_keep_size'),
                    (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout')",
            &[],
        )
        .await?;
    match row.get::<_, &str>(0) {
        "-1" => report.warning(
            "max_slot_wal_keep_size",
            "is unlimited: while Headwater is away, the slot keeps WAL until the disk is full",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();  -- less than the disk has",
        ),
        size => report.ok("max_slot_wal_keep_size", format!("{size}; a slot that falls further behind is lost")),
    }
    match row.get::<_, i64>(1) {
        1..2000 => report.warning(
            "wal_sender_timeout",
            "is under two seconds: a short pause of network or machine ends the stream",
            "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();",
        ),
        0 => report.ok("wal_sender_timeout", "off"),
        millis => report.ok("wal_sender_timeout", format!("{} ms", millis)),
    }
    Ok(())
}

fn check_state(state: &SlotState, settings: &Settings, report: &mut Report) {
    let requirement = format!("slot {}", state.name);
    let literal = quote_literal(&state.name);
    let drop = format!("SELECT pg_drop_replication_slot({literal});  -- or choose another postgres.slot");
    if state.slot_type != "logical" || state.plugin != "pgoutput" {
        let kind = if state.plugin.is_empty() {
            "physical".to_owned()
        } else {
            format!("of plugin {}", state.plugin)
        };
        return report.wrong(requirement, format!("is {kind}; a logical slot of pgoutput is needed"), drop);
    }
    if state.database.as_deref() != Some(settings.postgres.database.as_str()) {
        let database = state.database.as_deref().unwrap_or("none");
        return report.wrong(
            requirement,
            format!("belongs to database {database}"),
            "choose another postgres.slot",
        );
    }
    if state.temporary || state.two_phase {
        let kind = if state.temporary { "temporary" } else { "made for two-phase commit" };
        return report.wrong(requirement, format!("is {kind}; a plain permanent slot is needed"), drop);
    }
    let lost = state.wal_status.as_deref() == Some("lost") || state.invalidation.is_some();
    if lost {
        let reason = state.invalidation.as_deref().unwrap_or("WAL it needed was removed");
        return report.wrong(
            requirement,
            format!("is lost ({reason}): changes since its position are gone from the server"),
            format!("SELECT pg_drop_replication_slot({literal});  -- then start over with a new slot, see OPERATIONS.md"),
        );
    }
    let position = state.confirmed_flush_lsn.map_or_else(|| "none".to_owned(), |lsn| lsn.to_string());
    match state.active_pid {
        None => report.ok(&requirement, format!("exists, not in use, confirmed {position}")),
        Some(pid) => report.warning(
            &requirement,
            format!("is in use by process {pid}, confirmed {position}; `run` would stand by"),
            format!("SELECT * FROM pg_stat_replication WHERE pid = {pid};  -- shows who it is"),
        ),
    }
    check_held(&requirement, state, report);
}

/// The WAL it holds and what is left before it is lost.
fn check_held(requirement: &str, state: &SlotState, report: &mut Report) {
    let retained = u64::try_from(state.retained_wal_bytes.unwrap_or(0)).unwrap_or(0);
    let left = state.safe_wal_size.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    let held = format!("holds {} of WAL", human_bytes(retained));
    let advice = "start headwater, and see with `headwater status` that it catches up";
    match left {
        Some(left) if state.wal_status.as_deref() == Some("unreserved") || left < retained / 2 => {
            report.warning(
                requirement,
                format!("{held} and is lost after {} more", human_bytes(left)),
                advice,
            );
        }
        Some(left) => report.ok(requirement, format!("{held}; {} more until it is lost", human_bytes(left))),
        None if retained > RETAINED_BYTES_WARN => report.warning(requirement, held, advice),
        None => report.ok(requirement, held),
    }
}

/// There is no slot yet: what would creating it wait for?
async fn check_creation(client: &Client, settings: &Settings, report: &mut Report) -> Result<(), Error> {
    let requirement = format!("slot {}", settings.slot);
    let blockers = slot::creation_blockers(client).await?;
    let old: Vec<_> =
        blockers.iter().filter(|blocker| blocker.age_seconds >= BLOCKER_AGE_SECONDS_MIN).collect();
    if old.is_empty() {
        report.ok(requirement, "does not exist yet; `headwater init` or the first `run` creates it");
        return Ok(());
    }
    let lines: Vec<String> = old
        .iter()
        .map(|blocker| {
            let age = human_duration(std::time::Duration::from_secs_f64(blocker.age_seconds.max(0.0)));
            let whose = format!("{}, {}, {}, open for {age}", blocker.database, blocker.user, blocker.what);
            match blocker.pid {
                0 => format!(
                    "SELECT * FROM pg_prepared_xacts;  -- COMMIT PREPARED or ROLLBACK PREPARED: {whose}"
                ),
                pid => format!("SELECT pg_terminate_backend({pid});  -- {whose}"),
            }
        })
        .collect();
    report.warning(
        requirement,
        format!("does not exist yet, and creating it would wait for {} open transactions", old.len()),
        lines.join("\n"),
    );
    Ok(())
}
