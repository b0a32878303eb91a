//! Taking over the slot of another connector: a checkpoint is stored where that connector had come to, so that the
//! next `run` goes on from there as if the slot had always been ours.
//!
//! In: what the other connector stored of its position. Out: our checkpoint, or a halt with advice. Nothing is
//! confirmed to the server. The invariant: no transaction that the other one has not delivered as a whole ends at or
//! before the checkpoint; when in doubt, the checkpoint is earlier and rows repeat.

use std::sync::Arc;

use headwater_pg::{PgoutputOptions, ReplicationStream, Session, slot};
use headwater_pgoutput::Lsn;

use crate::checkpoint::{Found, Identity, Progress, Stored};
use crate::error::StageError;
use crate::first_start::{identify, publications_exist};
use crate::halt::{ExitCode, Halt};
use crate::settings::Settings;
use crate::slot_watch::server_wal_end;
use crate::start::{other_home, suitable};
use crate::status::Status;
use crate::store::CheckpointStore;

/// How far the other connector came, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Every transaction that ends at or before this was delivered as a whole; none if it never said.
    pub committed: Option<Lsn>,
    /// The furthest position that was delivered, inside a transaction or not.
    pub seen: Lsn,
}

/// What to do beside the obvious.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeOverOptions {
    /// Put the new checkpoint in place of one that exists.
    pub replace: bool,
    /// Look at everything and store nothing.
    pub dry_run: bool,
}

/// Where `run` will begin, and what lies beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Transactions that end after this will be sent.
    pub checkpoint: Lsn,
    /// What the slot has confirmed.
    pub confirmed: Lsn,
    /// Where the server's WAL ends now: nothing committed after this can have been delivered by the other one.
    pub wal_end: Lsn,
}

/// Checks slot and offset against each other and stores the checkpoint.
///
/// # Errors
/// A halt with its advice: the slot is missing, in use, unsuitable or past the handover; the handover is past the
/// server; a checkpoint exists; or a server can't be reached.
pub async fn take_over(
    settings: &Settings,
    handover: Handover,
    options: TakeOverOptions,
) -> Result<TakenOver, Halt> {
    take(settings, handover, options).await.map_err(|error| crate::recovery::halt_of(error, settings))
}

async fn take(
    settings: &Settings,
    handover: Handover,
    options: TakeOverOptions,
) -> Result<TakenOver, StageError> {
    let connecting = "connecting to Postgres";
    let client = headwater_pg::connect(&settings.postgres).await.map_err(StageError::postgres(connecting))?;
    let mut session = Session::connect(&settings.postgres).await.map_err(StageError::postgres(connecting))?;
    let mut identity = identify(&mut session, settings).await?;
    let looking = "looking at the slot";
    let before = slot::slot_state(&client, &settings.slot).await.map_err(StageError::postgres(looking))?;
    let before = before.ok_or_else(|| StageError::Halt(missing(&settings.slot)))?;
    suitable(&before, &identity.database).map_err(StageError::Halt)?;
    let status = Arc::new(Status::new(&settings.slot));
    publications_exist(settings, &client, &status).await?;
    // Held until the checkpoint is stored: what is read of the slot below stays true.
    let lease = lease(settings, session).await?;
    let state = slot::slot_state(&client, &settings.slot).await.map_err(StageError::postgres(looking))?;
    let confirmed = state.and_then(|state| state.confirmed_flush_lsn).unwrap_or_default();
    let wal_end = server_wal_end(&client).await.map_err(StageError::postgres("asking where the WAL ends"))?;
    let checkpoint = position(&settings.slot, confirmed, wal_end, handover).map_err(StageError::Halt)?;
    let mut store = CheckpointStore::open(settings, &status).await?;
    let stored = store.read(&identity).await?;
    may_store(&identity, &stored, checkpoint, options.replace).map_err(StageError::Halt)?;
    // Later than the one it replaces, or a reader would take it for a late record of a former owner.
    identity.epoch = stored.own.as_ref().map_or(0, |found| found.identity.epoch) + 1;
    if !options.dry_run {
        store.store(&identity, Progress::Streaming(checkpoint)).await?;
    }
    drop(lease);
    Ok(TakenOver { checkpoint, confirmed, wal_end })
}

/// Streaming from the slot is owning it; nothing is read from the stream.
async fn lease(settings: &Settings, session: Session) -> Result<ReplicationStream, StageError> {
    let options = PgoutputOptions { publications: settings.publications.clone(), messages: false };
    match session.start_replication(&settings.slot, Lsn::INVALID, &options).await {
        Ok(stream) => Ok(stream),
        Err(error) if error.sqlstate() == Some("55006") => Err(StageError::Halt(Halt::new(
            ExitCode::TakeOverRefused,
            format!(
                "slot {} is in use: the connector still runs, or its connection is not closed yet",
                settings.slot
            ),
            "stop it (PUT /connectors/NAME/stop on the Connect worker; `pause` keeps the slot) and wait until active \
             is false in pg_replication_slots",
        ))),
        Err(source) => Err(StageError::Postgres { doing: "starting replication", source }),
    }
}

fn missing(slot: &str) -> Halt {
    Halt::new(
        ExitCode::SlotMissing,
        format!("slot {slot} does not exist: there is nothing to take over"),
        "name the connector's slot in postgres.slot. If it was dropped (slot.drop.on.stop), changes committed since \
         then will come through no slot: headwater run makes a new one, and the tables' topics must be brought up to date",
    )
}

/// The checkpoint for a handover.
///
/// The slot's own position may be inside a transaction T, at a row that was delivered. A transaction that ends at or
/// before that row was committed before T, and so delivered before it.
fn position(slot: &str, confirmed: Lsn, wal_end: Lsn, handover: Handover) -> Result<Lsn, Halt> {
    let furthest = handover.seen.max(handover.committed.unwrap_or_default());
    if furthest > wal_end {
        return Err(Halt::new(
            ExitCode::TimelineBackwards,
            format!("the connector's offset is at {furthest}, and the server's WAL ends at {wal_end}"),
            "this is another server than the connector's, or it was restored from a backup or failed over to a standby \
             that was behind: lead postgres.url to the right one",
        ));
    }
    if confirmed > furthest {
        return Err(Halt::new(
            ExitCode::SlotAhead,
            format!("slot {slot} has confirmed {confirmed}, and the connector's offset ends at {furthest}"),
            format!(
                "changes committed between the two will never come through this slot: it was created again or advanced \
                 by somebody else, or this is not the connector's newest offset (another file or topic, another \
                 connector of the same prefix). If nothing is missing (lsn.flush.mode=connector_and_driver confirms \
                 beyond the offset while nothing is captured): headwater run --adopt-slot goes on from {confirmed}"
            ),
        ));
    }
    Ok(confirmed.max(handover.committed.unwrap_or_default()))
}

/// A checkpoint that exists is replaced only when asked for; the same one again is no replacement.
fn may_store(identity: &Identity, stored: &Stored, checkpoint: Lsn, replace: bool) -> Result<(), Halt> {
    let Some(Found { progress, .. }) = &stored.own else {
        return match stored.elsewhere.first() {
            Some(elsewhere) if !replace => Err(other_home(identity, elsewhere)),
            _ => Ok(()),
        };
    };
    match *progress {
        _ if replace => Ok(()),
        Progress::Streaming(present) if present == checkpoint => Ok(()),
        Progress::Streaming(present) => Err(Halt::new(
            ExitCode::TakeOverRefused,
            format!(
                "slot {} has a checkpoint of headwater at {present}; the connector's offset would put it at {checkpoint}",
                identity.slot
            ),
            "headwater has already run with this slot: start it with headwater run. If the connector ran again after \
             that and its offset is the newer one: --replace-checkpoint",
        )),
        Progress::Creating => Err(Halt::new(
            ExitCode::TakeOverRefused,
            format!("a creation of slot {} by headwater was interrupted", identity.slot),
            "if the slot that exists is the connector's: --replace-checkpoint",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_is_never_beyond_what_was_delivered() {
        let check = |confirmed, wal_end, committed: Option<u64>, seen, expected| {
            let handover = Handover { committed: committed.map(Lsn), seen: Lsn(seen) };
            let result = position("s", Lsn(confirmed), Lsn(wal_end), handover);
            assert_eq!(
                result.map(|lsn| lsn.0).map_err(|halt| halt.code),
                expected,
                "{confirmed} {wal_end} {handover:?}"
            );
        };
        // After a clean stop the offset is ahead of the slot.
        check(100, 900, Some(300), 350, Ok(300));
        check(300, 900, Some(300), 350, Ok(300));
        // It never saw a commit: the slot's own position.
        check(100, 900, None, 150, Ok(100));
        // Confirmed inside the transaction in which it stopped.
        check(320, 900, Some(300), 350, Ok(320));
        check(350, 900, Some(300), 350, Ok(350));
        // A row of a transaction that began before others were committed.
        check(300, 900, Some(300), 250, Ok(300));
        // Somebody else moved the slot.
        check(351, 900, Some(300), 350, Err(ExitCode::SlotAhead));
        check(100, 900, None, 99, Err(ExitCode::SlotAhead));
        // The server has lost what was delivered.
        check(100, 349, Some(300), 350, Err(ExitCode::TimelineBackwards));
        check(100, 299, Some(300), 250, Err(ExitCode::TimelineBackwards));
    }

    #[test]
    fn a_checkpoint_that_exists_is_replaced_only_when_asked_for() {
        let identity = Identity {
            system_identifier: 7,
            timeline: 1,
            database: "shop".to_owned(),
            slot: "debezium".to_owned(),
            publications: vec!["dbz_publication".to_owned()],
            prefix: "shop".to_owned(),
            epoch: 0,
        };
        let found = |progress| Some(Found { identity: identity.clone(), progress });
        let elsewhere = Identity { database: "other".to_owned(), ..identity.clone() };
        let check = |own, elsewhere: Option<Found>, replace, expected| {
            let stored = Stored { own, elsewhere: elsewhere.into_iter().collect(), ..Stored::default() };
            let result = may_store(&identity, &stored, Lsn(300), replace);
            assert_eq!(result.map_err(|halt| halt.code), expected);
        };
        let other = Some(Found { identity: elsewhere, progress: Progress::Streaming(Lsn(5)) });
        check(None, None, false, Ok(()));
        check(found(Progress::Streaming(Lsn(300))), None, false, Ok(()));
        check(found(Progress::Streaming(Lsn(299))), None, false, Err(ExitCode::TakeOverRefused));
        check(found(Progress::Streaming(Lsn(301))), None, false, Err(ExitCode::TakeOverRefused));
        check(found(Progress::Streaming(Lsn(301))), None, true, Ok(()));
        check(found(Progress::Creating), None, false, Err(ExitCode::TakeOverRefused));
        check(None, other.clone(), false, Err(ExitCode::OtherDatabase));
        check(None, other, true, Ok(()));
    }
}
