//! Owning the slot: created or adopted where that is safe, taken over from another instance, or waited for.
//!
//! In: settings. Out: a stream from a slot that is ours, with the checkpoint it goes on from.

use std::sync::Arc;
use std::time::Duration;

use headwater_pg::open_transactions::open_transactions;
use headwater_pg::transaction_snapshot::SnapshotKeeper;
use headwater_pg::{Client, PgoutputOptions, ReplicationStream, Session, slot};
use headwater_pgoutput::Lsn;

use crate::checkpoint::{Identity, Progress, Stored};
use crate::error::StageError;
use crate::first_start::{create, identify, publications_exist};
use crate::halt::{ExitCode, Halt};
use crate::metrics::Metrics;
use crate::settings::{Settings, SnapshotMode};
use crate::slot_watch::server_wal_end;
use crate::snapshot::progress::{JobRecord, StoredSnapshot};
use crate::start::{Verdict, Why, suitable, verdict};
use crate::status::{Readiness, Status};
use crate::store::CheckpointStore;

/// How long between two attempts of a standby to take the slot: a takeover takes this much longer.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);

/// Versions below this have no logical messages in pgoutput.
const MESSAGES_SINCE: u32 = 140_000;

/// A slot that we own, and all that is needed to stream from it.
pub(crate) struct Owned {
    pub(crate) stream: ReplicationStream,
    pub(crate) client: Client,
    pub(crate) identity: Identity,
    pub(crate) checkpoint: Lsn,
    pub(crate) stored: Stored,
    pub(crate) store: CheckpointStore,
    pub(crate) wal_sender_timeout: Option<Duration>,
    /// Of a slot that was created just now, to copy from.
    pub(crate) keeper: Option<SnapshotKeeper>,
    /// The transaction id that the server gives next.
    pub(crate) next_xid: u32,
}

/// Owning a slot is having START_REPLICATION accepted: the slot is the lease, and nothing is read from the
/// checkpoint before, because its owner is still writing it.
pub(crate) async fn own_slot(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    status: &Arc<Status>,
) -> Result<Owned, StageError> {
    let connecting = "connecting to Postgres";
    let client = headwater_pg::connect(&settings.postgres).await.map_err(StageError::postgres(connecting))?;
    let mut session = Session::connect(&settings.postgres).await.map_err(StageError::postgres(connecting))?;
    ready_for_logical_replication(&session, &mut *shown(&client).await?)?;
    let mut identity = identify(&mut session, settings).await?;
    let (mut store, mut keeper) = (None, None);
    if settings.snapshot.mode == SnapshotMode::WhenNeeded {
        drop_lost(&client, settings).await?;
    }
    if slot_state(&client, settings).await?.is_none() {
        let mut opened = CheckpointStore::open(settings, status).await?;
        let stored = opened.read(&identity).await?;
        let creating =
            Session::connect(&settings.postgres).await.map_err(StageError::postgres(connecting))?;
        let created = create(settings, &client, creating, &identity, &stored, &mut opened, status).await?;
        (store, keeper) = (Some(opened), created.keeper);
    }
    let is_new = store.is_some();
    let wal_sender_timeout = wal_sender_timeout(&client).await?;
    let options = PgoutputOptions {
        publications: settings.publications.clone(),
        messages: session.server_version() >= MESSAGES_SINCE,
    };
    let mut stream = take(settings, metrics, status, &client, session, &identity, &options).await?;
    stream.set_max_frame_bytes(settings.max_row_bytes);
    metrics.set_role("active");
    status.set(Readiness::Starting { doing: "reading the checkpoint".to_owned() });
    let mut store = match store {
        Some(store) => store,
        None => CheckpointStore::open(settings, status).await?,
    };
    let mut stored = store.read(&identity).await?;
    identity.epoch = stored.epoch() + 1;
    let state =
        slot_state(&client, settings).await?.ok_or(StageError::Silent { whom: "Postgres", seconds: 0 })?;
    // Asked now and not before: a standby may have waited for days, and a new slot moves the end of WAL.
    let wal_end = server_wal_end(&client).await.map_err(StageError::postgres("asking where the WAL ends"))?;
    let adopts =
        settings.adopt_slot || settings.snapshot.mode == SnapshotMode::WhenNeeded && stored.own.is_some();
    let verdict = verdict(&identity, wal_end, &state, &stored, adopts).map_err(StageError::Halt)?;
    let begins = is_new || matches!(verdict, Verdict::Adopt { .. });
    let checkpoint = match verdict {
        Verdict::Resume(checkpoint) => checkpoint,
        Verdict::Adopt { at, why } => {
            tell_adoption(&settings.slot, at, &why);
            if matches!(why, Why::AskedOverGap { .. }) && settings.snapshot.mode == SnapshotMode::WhenNeeded {
                let job = JobRecord::initial(identity.epoch);
                store.store_job(&identity, &job).await?;
                stored.snapshot = StoredSnapshot { job: Some(job), ..StoredSnapshot::default() };
            }
            store.store(&identity, Progress::Streaming(at)).await?;
            at
        }
    };
    if begins {
        status.set_began_at(checkpoint);
    }
    let next_xid = next_xid(&client).await?;
    Ok(Owned { stream, client, identity, checkpoint, stored, store, wal_sender_timeout, keeper, next_xid })
}

/// Asked after the slot is ours: what passes from now on has an id before it, or is seen to pass.
async fn next_xid(client: &Client) -> Result<u32, StageError> {
    let asking = |source| StageError::Postgres { doing: "asking for the next transaction id", source };
    let open = open_transactions(client).await.map_err(asking)?;
    Ok(open.end as u32)
}

/// Settings of the server that a start depends on.
struct Shown {
    wal_level: String,
}

async fn shown(client: &Client) -> Result<Box<Shown>, StageError> {
    let row = client.query_one("SELECT current_setting('wal_level')", &[]).await;
    let row =
        row.map_err(|error| StageError::Postgres { doing: "asking for wal_level", source: error.into() })?;
    Ok(Box::new(Shown { wal_level: row.get(0) }))
}

fn ready_for_logical_replication(session: &Session, shown: &mut Shown) -> Result<(), StageError> {
    if shown.wal_level != "logical" {
        return Err(StageError::Halt(Halt::new(
            ExitCode::PostgresNotReady,
            format!("wal_level is {}; logical decoding needs logical", shown.wal_level),
            "ALTER SYSTEM SET wal_level = logical, then restart the server",
        )));
    }
    let encoding = session.parameter("server_encoding").unwrap_or("UTF8");
    if encoding != "UTF8" {
        return Err(StageError::Halt(Halt::new(
            ExitCode::PostgresNotReady,
            format!("the database is encoded in {encoding}; headwater reads UTF8 databases only"),
            "dump it and restore it into a database with ENCODING 'UTF8'",
        )));
    }
    Ok(())
}

async fn slot_state(client: &Client, settings: &Settings) -> Result<Option<slot::SlotState>, StageError> {
    slot::slot_state(client, &settings.slot).await.map_err(StageError::postgres("looking at the slot"))
}

/// A slot that Postgres gave up is of no use, and its tables will be copied anew.
async fn drop_lost(client: &Client, settings: &Settings) -> Result<(), StageError> {
    let Some(state) = slot_state(client, settings).await? else { return Ok(()) };
    if state.active_pid.is_some()
        || state.plugin != "pgoutput"
        || (state.wal_status.as_deref() != Some("lost") && state.invalidation.is_none())
    {
        return Ok(());
    }
    tracing::warn!(
        slot = settings.slot,
        "the slot is lost: dropping it, as snapshot.mode = \"when_needed\" allows"
    );
    let dropped = client.execute("SELECT pg_drop_replication_slot($1)", &[&settings.slot]).await;
    dropped
        .map(drop)
        .map_err(|error| StageError::Postgres { doing: "dropping the lost slot", source: error.into() })
}

/// None when the server waits for ever.
async fn wal_sender_timeout(client: &Client) -> Result<Option<Duration>, StageError> {
    let sql = "SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|error| StageError::Postgres {
        doing: "asking for wal_sender_timeout",
        source: error.into(),
    })?;
    let milliseconds: i64 = row.get(0);
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds.unsigned_abs())))
}

/// Tries to own the slot until it does; in between it is a standby.
async fn take(
    settings: &Settings,
    metrics: &Metrics,
    status: &Status,
    client: &Client,
    session: Session,
    identity: &Identity,
    options: &PgoutputOptions,
) -> Result<ReplicationStream, StageError> {
    let mut session = Some(session);
    let mut standing_by = false;
    loop {
        let state =
            slot_state(client, settings).await?.ok_or(StageError::Silent { whom: "the slot", seconds: 0 })?;
        suitable(&state, &identity.database).map_err(StageError::Halt)?;
        if !standing_by {
            publications_exist(settings, client, status).await?;
        }
        let next = match session.take() {
            Some(session) => session,
            None => Session::connect(&settings.postgres)
                .await
                .map_err(StageError::postgres("connecting to Postgres"))?,
        };
        // From the slot's own position: a position of ours would be skipped over, or waited for, in silence.
        match next.start_replication(&settings.slot, Lsn(0), options).await {
            Ok(stream) => {
                if standing_by {
                    tracing::info!(slot = settings.slot, "took over the slot");
                }
                return Ok(stream);
            }
            Err(error) if error.sqlstate() == Some("55006") => {
                let owner = state.active_pid.map_or_else(
                    || "another process".to_owned(),
                    |pid| format!("the walsender with pid {pid}"),
                );
                if !standing_by {
                    tracing::info!(
                        slot = settings.slot,
                        owner,
                        "standing by: another instance owns the slot"
                    );
                    metrics.set_role("standby");
                    standing_by = true;
                }
                status.set(Readiness::Standby { owner });
                tokio::time::sleep(STANDBY_INTERVAL).await;
            }
            Err(source) => return Err(StageError::Postgres { doing: "starting replication", source }),
        }
    }
}

fn tell_adoption(slot: &str, at: Lsn, why: &Why) {
    match why {
        Why::CreationInterrupted => {
            tracing::info!(slot, %at, "the slot was created by a start that was interrupted; going on with it")
        }
        Why::Asked => tracing::info!(slot, %at, "adopting the slot at what it confirmed, as asked"),
        Why::AskedOverGap { checkpoint } => {
            tracing::warn!(slot, %at, %checkpoint, "adopting the slot as asked: changes committed between checkpoint and slot are lost to it");
        }
    }
}
