//! Is this our slot? Compared at every start: server, database, slot and checkpoint. Pure.
//!
//! Every LSN is stored in the checkpoint before Postgres hears of it. So a slot that has confirmed more than its
//! checkpoint was recreated or advanced by somebody else, and what lies between the two is gone from this slot.

use headwater_pg::slot::SlotState;
use headwater_pgoutput::Lsn;

use crate::checkpoint::{Found, Identity, Progress, Stored};
use crate::halt::{ExitCode, Halt};
use crate::settings::SnapshotMode;

/// What to do with a slot that exists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on from the checkpoint.
    Resume(Lsn),
    /// Take the slot over at what it confirmed, after storing that as the checkpoint.
    Adopt { at: Lsn, why: Why },
}

/// Why a slot is taken over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// We were killed between creating the slot and storing its position; nothing was produced from it.
    CreationInterrupted,
    /// `--adopt-slot`.
    Asked,
    /// `--adopt-slot`, though the slot is past the checkpoint: the changes between are accepted as lost.
    AskedOverGap { checkpoint: Lsn },
}

/// What kind of slot it is; checked before anything is tried with it.
pub(crate) fn suitable(slot: &SlotState, database: &str) -> Result<(), Halt> {
    let name = &slot.name;
    if slot.slot_type != "logical" || slot.plugin != "pgoutput" || slot.temporary || slot.two_phase {
        let kind = format!(
            "{} {}slot{}{}",
            slot.slot_type,
            if slot.temporary { "temporary " } else { "" },
            if slot.plugin.is_empty() { String::new() } else { format!(" of {}", slot.plugin) },
            if slot.two_phase { " with two_phase" } else { "" },
        );
        return Err(Halt::new(
            ExitCode::SlotUnsuitable,
            format!(
                "slot {name} is a {kind}; headwater needs a permanent logical slot of pgoutput without two_phase"
            ),
            "name another slot in postgres.slot; headwater creates it",
        ));
    }
    if let Some(other) = slot.database.as_deref().filter(|other| *other != database) {
        return Err(Halt::new(
            ExitCode::OtherDatabase,
            format!("slot {name} belongs to the database {other}, and postgres.url leads to {database}"),
            format!("name the database {other} in postgres.url, or another slot in postgres.slot"),
        ));
    }
    if slot.wal_status.as_deref() == Some("lost") || slot.invalidation.is_some() {
        let reason = slot.invalidation.as_deref().unwrap_or("wal_removed");
        return Err(Halt::new(
            ExitCode::SlotLost,
            format!(
                "slot {name} is lost ({reason}): Postgres has removed WAL that it needed, and with it changes that were not delivered"
            ),
            format!(
                "drop it (SELECT pg_drop_replication_slot('{name}')), create it anew \
                 (SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')), run --adopt-slot, and bring the \
                 tables' topics up to date; then raise max_slot_wal_keep_size"
            ),
        ));
    }
    Ok(())
}

/// Compares a slot that exists, and that we own now, with what is stored.
pub(crate) fn verdict(
    present: &Identity,
    server_wal_end: Lsn,
    slot: &SlotState,
    stored: &Stored,
    adopt: bool,
) -> Result<Verdict, Halt> {
    let name = &slot.name;
    let confirmed = slot.confirmed_flush_lsn.unwrap_or_default();
    let Some(Found { identity, progress }) = &stored.own else {
        if let Some(elsewhere) = stored.elsewhere.first().filter(|_| !adopt) {
            return Err(other_home(present, elsewhere));
        }
        if adopt {
            return Ok(Verdict::Adopt { at: confirmed, why: Why::Asked });
        }
        return Err(Halt::new(
            ExitCode::SlotWithoutCheckpoint,
            format!("slot {name} exists, and no checkpoint says how far it was delivered"),
            format!(
                "if nothing else uses the slot and it is right to start from {confirmed}: headwater run --adopt-slot; \
                 else name another slot in postgres.slot, or the right checkpoint.topic"
            ),
        ));
    };
    if present.timeline < identity.timeline {
        return Err(Halt::new(
            ExitCode::TimelineBackwards,
            format!(
                "the server is on timeline {}, and the checkpoint was written on timeline {}",
                present.timeline, identity.timeline
            ),
            "this server is an older copy or a standby that was promoted elsewhere; lead postgres.url to the right one. \
             If it was restored on purpose, topics hold changes that it never had: bring them up to date after run --adopt-slot with a new slot",
        ));
    }
    match *progress {
        Progress::Creating => Ok(Verdict::Adopt { at: confirmed, why: Why::CreationInterrupted }),
        Progress::Streaming(checkpoint) if confirmed > checkpoint => {
            if adopt {
                return Ok(Verdict::Adopt { at: confirmed, why: Why::AskedOverGap { checkpoint } });
            }
            Err(Halt::new(
                ExitCode::SlotAhead,
                format!(
                    "slot {name} has confirmed {confirmed}, and everything up to {checkpoint} was delivered: \
                     the slot was dropped and created again, or somebody advanced it"
                ),
                format!(
                    "changes committed between {checkpoint} and {confirmed} will never come through this slot. Find out who did it; \
                     to go on without them: headwater run --adopt-slot, and bring the tables' topics up to date"
                ),
            ))
        }
        Progress::Streaming(checkpoint) if checkpoint > server_wal_end => Err(Halt::new(
            ExitCode::TimelineBackwards,
            format!(
                "the checkpoint is at {checkpoint}, and the server's WAL ends at {server_wal_end}: it has lost what was delivered"
            ),
            "the server was restored from a backup or failed over to a standby that was behind; topics hold changes that it never had. \
             Drop and create the slot, run --adopt-slot, and bring the tables' topics up to date",
        )),
        Progress::Streaming(checkpoint) => Ok(Verdict::Resume(checkpoint)),
    }
}

/// A slot that does not exist may be created only where no checkpoint says that it did, or where all tables are then
/// copied anew.
pub(crate) fn may_create(present: &Identity, stored: &Stored, mode: SnapshotMode) -> Result<(), Halt> {
    match &stored.own {
        Some(Found { progress: Progress::Streaming(_), .. }) if mode == SnapshotMode::WhenNeeded => Ok(()),
        Some(Found { progress: Progress::Streaming(checkpoint), .. }) => Err(Halt::new(
            ExitCode::SlotMissing,
            format!("slot {} is gone; everything up to {checkpoint} was delivered from it", present.slot),
            format!(
                "a new slot starts now, and changes committed since {checkpoint} will never come through it. If the slot lives on \
                 another server (a failover), lead postgres.url there; to go on without them: \
                 SELECT pg_create_logical_replication_slot('{}', 'pgoutput'), then headwater run --adopt-slot",
                present.slot
            ),
        )),
        Some(Found { progress: Progress::Creating, .. }) => Ok(()),
        None => match stored.elsewhere.first() {
            Some(elsewhere) => Err(other_home(present, elsewhere)),
            None => Ok(()),
        },
    }
}

/// The checkpoint of this slot and prefix is another server's or database's.
pub(crate) fn other_home(present: &Identity, elsewhere: &Found) -> Halt {
    let other = &elsewhere.identity;
    if other.system_identifier == present.system_identifier {
        return Halt::new(
            ExitCode::OtherDatabase,
            format!(
                "the checkpoint of slot {} with topics.prefix {} is for the database {}, and postgres.url leads to {}",
                present.slot, present.prefix, other.database, present.database
            ),
            format!(
                "name the database {} in postgres.url, or another postgres.slot and topics.prefix for this one",
                other.database
            ),
        );
    }
    Halt::new(
        ExitCode::OtherSystem,
        format!(
            "the checkpoint of slot {} with topics.prefix {} is for the server with system identifier {}, and postgres.url leads to {}",
            present.slot, present.prefix, other.system_identifier, present.system_identifier
        ),
        "lead postgres.url to the right server. If the database moved here (dump and restore, a new cluster): \
         create the slot (SELECT pg_create_logical_replication_slot(…, 'pgoutput')) and headwater run --adopt-slot, \
         or give the new server another topics.prefix",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            system_identifier: 7,
            timeline: 2,
            database: "shop".to_owned(),
            slot: "headwater".to_owned(),
            publications: vec!["shop".to_owned()],
            prefix: "shop".to_owned(),
            epoch: 0,
        }
    }

    fn slot(confirmed: u64) -> SlotState {
        SlotState {
            name: "headwater".to_owned(),
            plugin: "pgoutput".to_owned(),
            slot_type: "logical".to_owned(),
            database: Some("shop".to_owned()),
            active_pid: None,
            temporary: false,
            two_phase: false,
            restart_lsn: Some(Lsn(1)),
            confirmed_flush_lsn: Some(Lsn(confirmed)),
            wal_status: Some("reserved".to_owned()),
            safe_wal_size: None,
            retained_wal_bytes: None,
            invalidation: None,
        }
    }

    fn found(progress: Progress) -> Option<Found> {
        Some(Found { identity: identity(), progress })
    }

    fn stored(own: Option<Found>, elsewhere: Option<Found>) -> Stored {
        Stored { own, elsewhere: elsewhere.into_iter().collect(), ..Stored::default() }
    }

    #[test]
    fn each_start_has_its_verdict() {
        let streaming = |lsn| found(Progress::Streaming(Lsn(lsn)));
        let elsewhere = |identity| Some(Found { identity, progress: Progress::Streaming(Lsn(5)) });
        let other_system = Identity { system_identifier: 8, ..identity() };
        let other_database = Identity { database: "other".to_owned(), ..identity() };
        let newer = Some(Found {
            identity: Identity { timeline: 3, ..identity() },
            progress: Progress::Streaming(Lsn(100)),
        });
        let adopt_at_100 = |why| Ok(Verdict::Adopt { at: Lsn(100), why });
        let cases: Vec<(&str, Stored, bool, Result<Verdict, ExitCode>)> = vec![
            (
                "checkpoint ahead of the slot: normal",
                stored(streaming(150), None),
                false,
                Ok(Verdict::Resume(Lsn(150))),
            ),
            ("checkpoint at the slot", stored(streaming(100), None), false, Ok(Verdict::Resume(Lsn(100)))),
            ("slot ahead", stored(streaming(99), None), false, Err(ExitCode::SlotAhead)),
            (
                "slot ahead, accepted",
                stored(streaming(99), None),
                true,
                adopt_at_100(Why::AskedOverGap { checkpoint: Lsn(99) }),
            ),
            (
                "server behind the checkpoint",
                stored(streaming(1001), None),
                false,
                Err(ExitCode::TimelineBackwards),
            ),
            ("older timeline", stored(newer, None), false, Err(ExitCode::TimelineBackwards)),
            (
                "creation interrupted",
                stored(found(Progress::Creating), None),
                false,
                adopt_at_100(Why::CreationInterrupted),
            ),
            ("no checkpoint", stored(None, None), false, Err(ExitCode::SlotWithoutCheckpoint)),
            ("no checkpoint, adopted", stored(None, None), true, adopt_at_100(Why::Asked)),
            (
                "another system",
                stored(None, elsewhere(other_system.clone())),
                false,
                Err(ExitCode::OtherSystem),
            ),
            (
                "another database",
                stored(None, elsewhere(other_database)),
                false,
                Err(ExitCode::OtherDatabase),
            ),
            (
                "another system, adopted",
                stored(None, elsewhere(other_system)),
                true,
                adopt_at_100(Why::Asked),
            ),
        ];
        for (name, stored, adopt, expected) in cases {
            let result =
                verdict(&identity(), Lsn(1000), &slot(100), &stored, adopt).map_err(|halt| halt.code);
            assert_eq!(result, expected, "{name}");
        }
    }

    #[test]
    fn a_slot_is_never_created_over_a_checkpoint() {
        let check = |own: Option<Found>, expected| {
            let create = |mode| may_create(&identity(), &stored(own.clone(), None), mode);
            assert_eq!(create(SnapshotMode::Initial).map_err(|halt| halt.code), expected);
            assert_eq!(create(SnapshotMode::WhenNeeded).map_err(|halt| halt.code), Ok(()));
        };
        check(None, Ok(()));
        check(found(Progress::Creating), Ok(()));
        check(found(Progress::Streaming(Lsn(1))), Err(ExitCode::SlotMissing));
    }

    #[test]
    fn unsuitable_slots_are_refused() {
        let check = |change: fn(&mut SlotState), expected| {
            let mut slot = slot(1);
            change(&mut slot);
            assert_eq!(suitable(&slot, "shop").map_err(|halt| halt.code), expected);
        };
        check(|_| {}, Ok(()));
        check(|slot| slot.plugin = "wal2json".to_owned(), Err(ExitCode::SlotUnsuitable));
        check(|slot| slot.slot_type = "physical".to_owned(), Err(ExitCode::SlotUnsuitable));
        check(|slot| slot.temporary = true, Err(ExitCode::SlotUnsuitable));
        check(|slot| slot.database = Some("other".to_owned()), Err(ExitCode::OtherDatabase));
        check(|slot| slot.wal_status = Some("lost".to_owned()), Err(ExitCode::SlotLost));
    }
}
