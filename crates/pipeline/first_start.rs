//! The first start: a checkpoint `creating`, then the slot, then a checkpoint with the slot's consistent point.
//!
//! In this order a crash at any moment leaves something that the next start understands: no slot and `creating`
//! (create it), a slot and `creating` (adopt it: nothing was produced from it).

use std::sync::Arc;
use std::time::Duration;

use headwater_pg::lock_wait::telling_locks;
use headwater_pg::publication::{PublicationState, memberships};
use headwater_pg::transaction_snapshot::SnapshotKeeper;
use headwater_pg::{Client, Session, slot};
use headwater_pgoutput::Lsn;

use crate::checkpoint::{Found, Identity, Progress, Stored};
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};
use crate::records::{PublishedColumns, RecordRules};
use crate::route::Routes;
use crate::settings::{Settings, SnapshotMode};
use crate::snapshot::choice::{chosen_tables, readable};
use crate::snapshot::progress::JobRecord;
use crate::snapshot::seen::tell_lock_of_start;
use crate::start::may_create;
use crate::status::{Readiness, Status};
use crate::store::CheckpointStore;

/// How often the transactions that block the creation are printed.
const BLOCKERS_INTERVAL: Duration = Duration::from_secs(5);

/// A slot that was just created.
pub(crate) struct Created {
    pub(crate) consistent_point: Lsn,
    /// What was visible there; none if nothing is to be copied.
    pub(crate) keeper: Option<SnapshotKeeper>,
}

/// What `headwater init` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotOutcome {
    /// The slot was created at this position.
    Created(Lsn),
    /// It existed; nothing was done.
    Existed,
}

/// Creates the slot with its checkpoint, unless it exists: what `run` does at its first start.
///
/// # Errors
/// A halt with its advice, also when a server can't be reached.
pub async fn create_slot(settings: &Settings) -> Result<SlotOutcome, Halt> {
    let status = Arc::new(Status::new(&settings.slot));
    create_slot_with(settings, &status).await.map_err(|error| crate::recovery::halt_of(error, settings))
}

async fn create_slot_with(settings: &Settings, status: &Arc<Status>) -> Result<SlotOutcome, StageError> {
    let client = headwater_pg::connect(&settings.postgres)
        .await
        .map_err(StageError::postgres("connecting to Postgres"))?;
    let mut session =
        Session::connect(&settings.postgres).await.map_err(StageError::postgres("connecting to Postgres"))?;
    let identity = identify(&mut session, settings).await?;
    if slot::slot_state(&client, &settings.slot)
        .await
        .map_err(StageError::postgres("looking at the slot"))?
        .is_some()
    {
        return Ok(SlotOutcome::Existed);
    }
    let mut store = CheckpointStore::open(settings, status).await?;
    let stored = store.read(&identity).await?;
    let created = create(settings, &client, session, &identity, &stored, &mut store, status).await?;
    Ok(SlotOutcome::Created(created.consistent_point))
}

/// Who we are to this server.
pub(crate) async fn identify(session: &mut Session, settings: &Settings) -> Result<Identity, StageError> {
    let system = session.identify_system().await.map_err(StageError::postgres("identifying the server"))?;
    Ok(Identity {
        system_identifier: system.system_identifier,
        timeline: system.timeline,
        database: system.database,
        slot: settings.slot.clone(),
        publications: settings.publications.clone(),
        prefix: settings.topics.prefix.clone(),
        // Known once the checkpoint was read.
        epoch: 0,
    })
}

/// Creates a slot that does not exist. The session is used up: dropping it is how a creation is cancelled.
pub(crate) async fn create(
    settings: &Settings,
    client: &Client,
    mut session: Session,
    identity: &Identity,
    stored: &Stored,
    store: &mut CheckpointStore,
    status: &Status,
) -> Result<Created, StageError> {
    may_create(identity, stored, settings.snapshot.mode).map_err(StageError::Halt)?;
    if let Some(Found { progress: Progress::Streaming(checkpoint), .. }) = &stored.own {
        tracing::warn!(
            slot = settings.slot,
            %checkpoint,
            "the slot is gone: creating it anew and copying all tables; rows that were deleted since the checkpoint stay in their topics"
        );
    }
    publications_exist(settings, client, status).await?;
    // Of the last owner: a record of an earlier one counts as late and is not read.
    let identity = &Identity { epoch: stored.epoch(), ..identity.clone() };
    let copies = settings.snapshot.mode != SnapshotMode::Never;
    if copies {
        // Afterwards there is a slot that keeps WAL, and nobody who reads it.
        let tell = tell_lock_of_start(status, "looking for the tables of the snapshot");
        readable(settings, &chosen_tables(client, settings, &[], tell).await?)?;
    }
    store.store(identity, Progress::Creating).await?;
    // A transaction that is open when a table is added before this is over when the slot is there; one that is added
    // later is new.
    let tables = memberships(client, &settings.publications)
        .await
        .map_err(StageError::postgres("looking at the published tables"))?;
    let requests = stored.requests.clone().unwrap_or_default().before_slot(stored.epoch(), &tables);
    store.store_requests(identity, &requests).await?;
    if copies {
        store.store_job(identity, &JobRecord::initial(stored.epoch())).await?;
    }
    status.set(Readiness::Starting { doing: format!("creating slot {}", settings.slot) });
    let pid = session.backend_pid();
    let created = {
        let creation = session.create_logical_slot(&settings.slot, false, copies);
        tokio::pin!(creation);
        let deadline = tokio::time::sleep(settings.slot_create_timeout);
        tokio::pin!(deadline);
        let mut blockers = tokio::time::interval(BLOCKERS_INTERVAL);
        blockers.tick().await;
        loop {
            tokio::select! {
                created = &mut creation => break Some(created),
                _ = blockers.tick() => report_blockers(client, &settings.slot, status).await?,
                () = &mut deadline => break None,
            }
        }
    };
    let Some(created) = created else {
        drop(session);
        return Err(timed_out(settings, client, pid).await);
    };
    let created = created.map_err(StageError::postgres("creating the slot"))?;
    // The session exports the snapshot for as long as it does nothing else.
    let keeper = match &created.snapshot_name {
        Some(name) => Some(
            SnapshotKeeper::import(&settings.postgres, name)
                .await
                .map_err(StageError::postgres("joining the snapshot of the new slot"))?,
        ),
        None => None,
    };
    drop(session);
    store.store(identity, Progress::Streaming(created.consistent_point)).await?;
    tracing::info!(slot = settings.slot, consistent_point = %created.consistent_point, "created the slot");
    Ok(Created { consistent_point: created.consistent_point, keeper })
}

/// A misspelt column hides nothing and filters nothing, so it is told. A table may come later: it stops nothing.
async fn warn_of_names_without_effect(settings: &Settings, client: &Client) -> Result<(), StageError> {
    if settings.records == RecordRules::default() {
        return Ok(());
    }
    let columns = headwater_pg::publication::published_columns(client, &settings.publications)
        .await
        .map_err(StageError::postgres("looking for the published columns"))?;
    for sentence in settings.records.without_effect(&PublishedColumns::all(columns)) {
        tracing::warn!("{sentence}");
    }
    Ok(())
}

/// A publication must exist before the slot's start point (design, fact 11): later is too late for this slot.
pub(crate) async fn publications_exist(
    settings: &Settings,
    client: &Client,
    status: &Status,
) -> Result<(), StageError> {
    // What a publication has is not to be asked while one of its tables is locked by ACCESS EXCLUSIVE.
    let tell = tell_lock_of_start(status, "looking for the publication");
    let looking = look_at_publications(settings, client);
    telling_locks(&settings.postgres, &[client.backend_pid()], tell, looking).await
}

async fn look_at_publications(settings: &Settings, client: &Client) -> Result<(), StageError> {
    let existing = headwater_pg::publication::publications(client, &settings.publications)
        .await
        .map_err(StageError::postgres("looking for the publication"))?;
    let missing: Vec<&str> = settings
        .publications
        .iter()
        .filter(|wanted| !existing.iter().any(|known| known.name == **wanted))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        warn_of_idle_patterns(settings, &existing);
        find_conflicts(settings, &existing)?;
        return warn_of_names_without_effect(settings, client).await;
    }
    Err(StageError::Halt(Halt::new(
        ExitCode::PublicationMissing,
        format!(
            "there is no publication {} in the database {}",
            missing.join(", "),
            settings.postgres.database
        ),
        format!("CREATE PUBLICATION {} FOR TABLE …; or headwater init", missing[0]),
    )))
}

/// A table that is published later may be what a pattern waits for, so this halts nothing.
fn warn_of_idle_patterns(settings: &Settings, publications: &[PublicationState]) {
    let tables = publications.iter().flat_map(|publication| &publication.tables);
    let names: Vec<String> = tables.map(|table| format!("{}.{}", table.schema, table.name)).collect();
    for pattern in settings.topics.tables.idle_patterns(&names) {
        tracing::warn!(
            pattern,
            "no published table matches this pattern of include_tables or exclude_tables"
        );
    }
}

/// Two tables that come to one topic, and topics that Kafka would refuse, are said before the first row of either.
fn find_conflicts(settings: &Settings, publications: &[PublicationState]) -> Result<(), StageError> {
    let tables = publications.iter().flat_map(|publication| &publication.tables);
    let routes = Routes::of(settings, tables.map(|table| (table.schema.clone(), table.name.clone())));
    routes.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    match routes.problems.into_iter().next() {
        Some(halt) => Err(StageError::Halt(halt)),
        None => Ok(()),
    }
}

async fn report_blockers(client: &Client, slot_name: &str, status: &Status) -> Result<(), StageError> {
    let blockers = slot::creation_blockers(client)
        .await
        .map_err(StageError::postgres("looking for what blocks the slot's creation"))?;
    status.set(Readiness::Starting {
        doing: format!("creating slot {slot_name}: waiting for {} transactions", blockers.len()),
    });
    if blockers.is_empty() {
        tracing::warn!(
            slot = slot_name,
            "creating the slot takes long, and no open transaction is to be seen; on a standby it waits for its primary: \
             SELECT pg_log_standby_snapshot() there"
        );
    }
    for blocker in blockers {
        tracing::warn!(
            slot = slot_name,
            pid = blocker.pid,
            database = blocker.database,
            user = blocker.user,
            state = blocker.state,
            age_seconds = blocker.age_seconds as u64,
            "creating the slot waits for a transaction that was open before it: {}",
            blocker.what
        );
    }
    Ok(())
}

/// The server notices only when it next writes that its client is gone: end it by its pid, and make sure that no slot
/// is left half-made.
async fn timed_out(settings: &Settings, client: &Client, pid: i32) -> StageError {
    let ended = client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await;
    let mut left = true;
    for _ in 0..100 {
        match slot::slot_state(client, &settings.slot).await {
            Ok(None) => {
                left = false;
                break;
            }
            Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => break,
        }
    }
    let mut advice = "end the transactions named above (SELECT pg_terminate_backend(pid)), or raise postgres.slot_create_timeout".to_owned();
    if left || ended.is_err() {
        advice.push_str(&format!(
            "; then make sure that the slot is gone: SELECT pg_drop_replication_slot('{}')",
            settings.slot
        ));
    }
    StageError::Halt(Halt::new(
        ExitCode::SlotCreateTimeout,
        format!(
            "creating slot {} took longer than {} s: Postgres waits for every transaction that was open before, in any database",
            settings.slot,
            settings.slot_create_timeout.as_secs()
        ),
        advice,
    ))
}
