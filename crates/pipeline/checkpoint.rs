//! The checkpoint: which slot of which server this instance follows, and up to where everything is acknowledged.
//!
//! Written after the sink acknowledged and before Postgres is told, so at every moment
//! `slot.confirmed_flush_lsn <= checkpoint <= acknowledged`. Anything else is somebody else's doing, and halts.
//!
//! In Kafka it is one record of a compacted topic with one partition; the schema history lies beside it:
//!
//! ```text
//! key   7300111222333444555/shop/headwater              value {"version":1,"state":"streaming","end_lsn":"0/1A2B3C8",…}
//! key   7300111222333444555/shop/headwater/schema/16385/0/1A2B3C8/0   value {"version":1,"table":{…},"description":{…},…}
//! ```
//!
//! For the stdout and file sinks it is a local file with the same values, replaced atomically.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use headwater_pgoutput::Lsn;
use serde::{Deserialize, Serialize};

use crate::blocked_keys::{BLOCKED_PART, BlockedRecord};
use crate::error::StageError;
use crate::halt::{ExitCode, Halt};
use crate::history::HistoryRecord;
use crate::snapshot::moved::MOVED_PART;
use crate::snapshot::progress::{JOB_PART, StoredSnapshot, TABLE_PART};
use crate::snapshot::requests::{REQUESTS_PART, RequestsRecord};

/// Version of the values. A reader accepts this one and the one before it, and refuses newer ones.
const VERSION: u32 = 1;

/// Whose checkpoint it is: the key under which it is stored, and what is compared at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) system_identifier: u64,
    pub(crate) timeline: u32,
    pub(crate) database: String,
    pub(crate) slot: String,
    pub(crate) publications: Vec<String>,
    pub(crate) prefix: String,
    /// How many owners the slot had before this one. A late record of an owner that was frozen has a lower one, and
    /// must not take the place of its successor's.
    pub(crate) epoch: u64,
}

impl Identity {
    pub(crate) fn key(&self) -> String {
        format!("{}/{}/{}", self.system_identifier, self.database, self.slot)
    }
}

/// How far the slot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The slot is about to be created, or was, and nothing was produced from it yet.
    Creating,
    /// Everything that ends at or before this LSN is acknowledged.
    Streaming(Lsn),
}

/// The value as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CheckpointValue {
    version: u32,
    state: State,
    /// Zero while creating.
    end_lsn: Lsn,
    /// As a string: JSON numbers lose 64-bit integers in many readers.
    system_identifier: String,
    timeline: u32,
    database: String,
    slot: String,
    publications: Vec<String>,
    topic_prefix: String,
    #[serde(default)]
    epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Creating,
    Streaming,
}

/// A checkpoint that was found, ours or one that bears on ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) progress: Progress,
}

/// All that is stored and concerns this slot.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The checkpoint of this system, database and slot.
    pub(crate) own: Option<Found>,
    /// Checkpoints of a slot of this name and topic prefix in another system or database.
    pub(crate) elsewhere: Vec<Found>,
    /// The schema history of this slot, in no particular order.
    pub(crate) history: Vec<HistoryRecord>,
    /// The last snapshot of this slot.
    pub(crate) snapshot: StoredSnapshot,
    /// What is asked of snapshots and not done; none before anything was stored of it.
    pub(crate) requests: Option<RequestsRecord>,
    /// Keys whose changes go to the dead letter topic.
    pub(crate) blocked: Vec<BlockedRecord>,
}

impl Stored {
    /// The highest epoch of an owner of this slot.
    pub(crate) fn epoch(&self) -> u64 {
        let of_job = self.snapshot.job.as_ref().map_or(0, |job| job.epoch);
        self.own.as_ref().map_or(0, |found| found.identity.epoch).max(of_job)
    }
}

/// The checkpoint record of a progress: key and value.
pub(crate) fn record(identity: &Identity, progress: Progress) -> (String, Vec<u8>) {
    let (state, end_lsn) = match progress {
        Progress::Creating => (State::Creating, Lsn(0)),
        Progress::Streaming(end) => (State::Streaming, end),
    };
    let value = CheckpointValue {
        version: VERSION,
        state,
        end_lsn,
        system_identifier: identity.system_identifier.to_string(),
        timeline: identity.timeline,
        database: identity.database.clone(),
        slot: identity.slot.clone(),
        publications: identity.publications.clone(),
        topic_prefix: identity.prefix.clone(),
        epoch: identity.epoch,
    };
    (identity.key(), serde_json::to_vec(&value).expect("a checkpoint is plain data"))
}

/// Reads what a store holds: the newest value per key, in any order.
pub(crate) fn read<'a>(
    entries: impl Iterator<Item = (&'a str, &'a [u8])>,
    identity: &Identity,
    place: &str,
) -> Result<Stored, Halt> {
    let own_key = identity.key();
    let history_prefix = format!("{own_key}/schema/");
    let job_key = format!("{own_key}{JOB_PART}");
    let requests_key = format!("{own_key}{REQUESTS_PART}");
    let table_prefix = format!("{own_key}{TABLE_PART}");
    let moved_prefix = format!("{own_key}{MOVED_PART}");
    let blocked_prefix = format!("{own_key}{BLOCKED_PART}");
    let mut stored = Stored::default();
    for (key, value) in entries {
        if key.starts_with(&blocked_prefix) {
            check_version(value, key, place)?;
            let blocked = serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
            stored.blocked.push(blocked);
        } else if key.contains(BLOCKED_PART) {
            // Another slot's; a key can be any text.
        } else if key == job_key {
            check_version(value, key, place)?;
            let job = serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
            stored.snapshot.job = Some(job);
        } else if key == requests_key {
            check_version(value, key, place)?;
            let requests = serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
            stored.requests = Some(requests);
        } else if key.starts_with(&table_prefix) {
            check_version(value, key, place)?;
            let table = serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
            stored.snapshot.tables.push(table);
        } else if key.starts_with(&moved_prefix) {
            check_version(value, key, place)?;
            let moved = serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
            stored.snapshot.moved.push(moved);
        } else if key.starts_with(&history_prefix) {
            check_version(value, key, place)?;
            let record = serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
            stored.history.push(record);
        } else if key == own_key || !key.contains("/schema/") && !key.contains(JOB_PART) {
            let Some(found) = read_checkpoint(key, value, identity, key == own_key, place)? else { continue };
            if key == own_key {
                stored.own = Some(found);
            } else if found.identity.slot == identity.slot && found.identity.prefix == identity.prefix {
                stored.elsewhere.push(found);
            }
        }
    }
    stored.snapshot.put_together();
    Ok(stored)
}

/// A value of another slot that can't be read is that slot's problem: None.
fn read_checkpoint(
    key: &str,
    value: &[u8],
    identity: &Identity,
    own: bool,
    place: &str,
) -> Result<Option<Found>, Halt> {
    if own {
        check_version(value, key, place)?;
    }
    let parsed: CheckpointValue = match serde_json::from_slice(value) {
        Ok(parsed) => parsed,
        Err(error) if own => return Err(unreadable(key, place, &error)),
        Err(_) => return Ok(None),
    };
    let Ok(system_identifier) = parsed.system_identifier.parse() else {
        return if own {
            Err(unreadable(key, place, &"system_identifier is not a number"))
        } else {
            Ok(None)
        };
    };
    let progress = match parsed.state {
        State::Creating => Progress::Creating,
        State::Streaming => Progress::Streaming(parsed.end_lsn),
    };
    let found = Identity {
        system_identifier,
        timeline: parsed.timeline,
        database: parsed.database,
        slot: parsed.slot,
        publications: parsed.publications,
        prefix: parsed.topic_prefix,
        epoch: parsed.epoch,
    };
    debug_assert!(!own || found.key() == identity.key());
    Ok(Some(Found { identity: found, progress }))
}

fn check_version(value: &[u8], key: &str, place: &str) -> Result<(), Halt> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } =
        serde_json::from_slice(value).map_err(|error| unreadable(key, place, &error))?;
    if version > VERSION {
        return Err(Halt::new(
            ExitCode::Checkpoint,
            format!(
                "the checkpoint {key} in {place} has version {version}; this headwater reads up to {VERSION}"
            ),
            "run the newer headwater that wrote it",
        ));
    }
    Ok(())
}

fn unreadable(key: &str, place: &str, error: &dyn std::fmt::Display) -> Halt {
    Halt::new(
        ExitCode::Checkpoint,
        format!("the checkpoint {key} in {place} can't be read: {error}"),
        "nothing was delivered or confirmed; find out who wrote it, or restore it, before starting again",
    )
}

/// Of two values of one key, whether the one that came later is that of an earlier owner: written by a producer that
/// was frozen, after its successor had begun.
pub(crate) fn is_of_earlier_owner(later: &[u8], earlier: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Owned {
        #[serde(default)]
        epoch: u64,
    }
    let epoch = |value| serde_json::from_slice::<Owned>(value).map_or(0, |owned| owned.epoch);
    epoch(later) < epoch(earlier)
}

/// The local file of the stdout and file sinks: the same keys and values as the topic's.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    values: BTreeMap<String, serde_json::Value>,
}

impl CheckpointFile {
    /// Opens the file; a missing one is empty.
    pub(crate) fn open(path: &Path) -> Result<CheckpointFile, StageError> {
        let values = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| StageError::Halt(unreadable("file", &path.display().to_string(), &error)))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(StageError::Local { path: path.display().to_string(), source }),
        };
        Ok(CheckpointFile { path: path.to_owned(), values })
    }

    /// Everything in it, as bytes per key.
    pub(crate) fn entries(&self) -> Vec<(String, Vec<u8>)> {
        self.values
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::to_vec(value).expect("JSON that was parsed")))
            .collect()
    }

    /// Stores a value so that after a crash either the old file or the new one is there, whole.
    pub(crate) fn store(&mut self, key: &str, value: &[u8]) -> Result<(), StageError> {
        let value = serde_json::from_slice(value).expect("values are JSON that we made");
        self.values.insert(key.to_owned(), value);
        self.replace().map_err(|source| StageError::Local { path: self.path.display().to_string(), source })
    }

    fn replace(&self) -> std::io::Result<()> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(&self.values).expect("JSON"))?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        // The rename itself is durable only once the directory is.
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            system_identifier: 7_300_111_222_333_444_555,
            timeline: 3,
            database: "shop".to_owned(),
            slot: "headwater".to_owned(),
            publications: vec!["shop".to_owned()],
            prefix: "shop".to_owned(),
            epoch: 4,
        }
    }

    fn read_one(key: &str, value: &[u8]) -> Result<Stored, Halt> {
        read([(key, value)].into_iter(), &identity(), "topic t")
    }

    #[test]
    fn what_is_written_is_read() {
        for progress in [Progress::Creating, Progress::Streaming(Lsn(0x1_2345_6789))] {
            let (key, value) = record(&identity(), progress);
            let stored = read_one(&key, &value).unwrap();
            assert_eq!(stored.own, Some(Found { identity: identity(), progress }));
        }
    }

    #[test]
    fn a_late_record_of_a_frozen_owner_is_told_from_its_successors() {
        let value = |epoch, lsn| record(&Identity { epoch, ..identity() }, Progress::Streaming(Lsn(lsn))).1;
        assert!(is_of_earlier_owner(&value(4, 100), &value(5, 200)));
        assert!(
            !is_of_earlier_owner(&value(5, 100), &value(4, 200)),
            "a new owner may begin again further back"
        );
        assert!(!is_of_earlier_owner(&value(5, 300), &value(5, 200)));
    }

    #[test]
    fn a_newer_version_is_refused_with_advice() {
        let (key, value) = record(&identity(), Progress::Creating);
        let newer = String::from_utf8(value).unwrap().replace("\"version\":1", "\"version\":2");
        let halt = read_one(&key, newer.as_bytes()).unwrap_err();
        assert_eq!(halt.code, ExitCode::Checkpoint);
        assert!(halt.advice.contains("newer"), "{halt}");
    }

    #[test]
    fn torn_values_of_ours_halt_and_of_others_do_not() {
        let (key, value) = record(&identity(), Progress::Streaming(Lsn(5)));
        for cut in 0..value.len() {
            assert!(read_one(&key, &value[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read_one("1/other/slot", b"{").unwrap().own.is_none());
    }

    #[test]
    fn the_same_slot_elsewhere_is_seen() {
        let other = Identity { system_identifier: 1, ..identity() };
        let (key, value) = record(&other, Progress::Streaming(Lsn(5)));
        let stored = read_one(&key, &value).unwrap();
        assert_eq!(stored.elsewhere.len(), 1);
        let other = Identity { system_identifier: 1, prefix: "another".to_owned(), ..identity() };
        let (key, value) = record(&other, Progress::Streaming(Lsn(5)));
        assert!(read_one(&key, &value).unwrap().elsewhere.is_empty(), "another pipeline's, by its prefix");
    }

    #[test]
    fn the_file_survives_and_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.json");
        let mut file = CheckpointFile::open(&path).unwrap();
        let (key, value) = record(&identity(), Progress::Streaming(Lsn(5)));
        file.store(&key, &value).unwrap();
        let again = CheckpointFile::open(&path).unwrap();
        let entries = again.entries();
        let stored =
            read(entries.iter().map(|(k, v)| (k.as_str(), v.as_slice())), &identity(), "file").unwrap();
        assert_eq!(stored.own.unwrap().progress, Progress::Streaming(Lsn(5)));
        std::fs::write(&path, b"{ torn").unwrap();
        assert!(CheckpointFile::open(&path).is_err());
    }
}
