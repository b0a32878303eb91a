//! Any order of events that a server can produce, played against [`Touched`]: transactions that are in WAL and not yet
//! visible, chunks read at any moment, a stream that lags, crashes. What comes out is what a consumer folds.

use std::collections::{BTreeMap, BTreeSet};

use headwater_pg::transaction_snapshot::TransactionSnapshot;
use headwater_pgoutput::RelationId;
use proptest::prelude::*;

use super::again::Again;
use super::moved::MovedRecord;
use super::row_key::{read_key, write_texts};
use super::touched::{ChunkVerdict, RowVerdict, Touched, Watch};

const TABLE: RelationId = RelationId(1);
const KEYS: u8 = 6;
const FIRST_XID: u32 = 100;

/// A row as the table has it: its version, and that of the value that is stored out of line.
type Stored = (u32, u32);

/// A change as the stream has it. The value is None where the server left it out.
#[derive(Clone, Copy, Debug)]
struct Change {
    key: u8,
    row: Option<(u32, Option<u32>)>,
    from: Option<u8>,
}

struct Writer {
    xid: u32,
    changes: Vec<Change>,
    rows: BTreeMap<u8, Option<Stored>>,
}

#[derive(Default)]
struct World {
    next_xid: u32,
    newest_ended: u32,
    next_version: u32,
    /// What a new snapshot sees.
    visible: BTreeMap<u8, Stored>,
    open: Vec<Writer>,
    /// Committed in WAL, not yet visible; their rows are locked.
    in_wal: Vec<Writer>,
    wal: Vec<(u32, Vec<Change>)>,
    passed: usize,
    /// Where the stream begins after a crash, and what the pump has stored of moved rows.
    checkpoint: usize,
    moved: Vec<Vec<String>>,
    topic: Vec<Sent>,
}

/// A record: of the stream or of a chunk.
#[derive(Clone, Copy, Debug)]
struct Sent {
    by: char,
    key: u8,
    row: Option<(u32, Option<u32>)>,
    /// The key that its row had before, as the record's headers say.
    from: Option<u8>,
    /// The transaction, and which of its changes this is: what comes again is known by it.
    id: Option<(usize, usize)>,
}

/// A chunk that was read.
struct Read {
    snapshot: TransactionSnapshot,
    rows: Vec<(u8, Stored)>,
    high: usize,
    keys: Vec<u8>,
    is_again: bool,
}

impl World {
    fn is_locked(&self, key: u8) -> bool {
        self.open.iter().chain(&self.in_wal).any(|writer| writer.rows.contains_key(&key))
    }

    fn version(&mut self) -> u32 {
        self.next_version += 1;
        self.next_version
    }

    /// One transaction with one statement.
    fn begin(&mut self, key: u8, what: u8) {
        let other = (key + 1 + what / 16 % (KEYS - 1)) % KEYS;
        if self.is_locked(key) || self.is_locked(other) {
            return;
        }
        let before = self.visible.get(&key).copied();
        let version = self.version();
        let change = |row| Change { key, row, from: None };
        let (changes, rows) = match (before, what % 6) {
            (None, _) => {
                (vec![change(Some((version, Some(version))))], vec![(key, Some((version, version)))])
            }
            (Some((_, large)), 0 | 1) => {
                (vec![change(Some((version, None)))], vec![(key, Some((version, large)))])
            }
            (Some(_), 2) => {
                (vec![change(Some((version, Some(version))))], vec![(key, Some((version, version)))])
            }
            (Some(_), 3) => (vec![change(None)], vec![(key, None)]),
            (Some(_), _) if self.visible.contains_key(&other) => return,
            (Some((_, large)), _) => {
                let arrived = Change { key: other, row: Some((version, None)), from: Some(key) };
                (vec![change(None), arrived], vec![(key, None), (other, Some((version, large)))])
            }
        };
        self.open.push(Writer { xid: self.next_xid, changes, rows: rows.into_iter().collect() });
        self.next_xid += 1;
    }

    fn commit_in_wal(&mut self, which: u8) {
        if !self.open.is_empty() {
            let writer = self.open.remove(usize::from(which) % self.open.len());
            self.wal.push((writer.xid, writer.changes.clone()));
            self.in_wal.push(writer);
        }
    }

    fn become_visible(&mut self, which: u8) {
        if !self.in_wal.is_empty() {
            let writer = self.in_wal.remove(usize::from(which) % self.in_wal.len());
            self.newest_ended = self.newest_ended.max(writer.xid);
            for (key, row) in writer.rows {
                match row {
                    Some(row) => drop(self.visible.insert(key, row)),
                    None => drop(self.visible.remove(&key)),
                }
            }
        }
    }

    fn pass(&mut self, touched: &mut Touched) {
        let Some((xid, changes)) = self.wal.get(self.passed) else { return };
        for (at, change) in changes.iter().enumerate() {
            let unchanged = change.row.is_some_and(|(_, large)| large.is_none());
            touched.touch(TABLE, &key_bytes(change.key), *xid, unchanged, change.from.is_some());
            let Change { key, row, from } = *change;
            self.topic.push(Sent { by: 's', key, row, from, id: Some((self.passed, at)) });
        }
        touched.passed(*xid);
        for (_, record) in touched.take_moved_records() {
            self.moved = serde_json::from_slice::<MovedRecord>(&record).unwrap().keys;
        }
        self.passed += 1;
    }

    fn read(&self, keys: Vec<u8>, is_again: bool) -> Read {
        // The list ends with the newest transaction that has ended; what runs behind it is not named.
        let xmax = u64::from(self.newest_ended) + 1;
        let running = self.open.iter().chain(&self.in_wal).map(|writer| u64::from(writer.xid));
        let mut in_progress: Vec<u64> = running.filter(|xid| *xid < xmax).collect();
        in_progress.sort_unstable();
        let snapshot =
            TransactionSnapshot { xmin: in_progress.first().copied().unwrap_or(xmax), xmax, in_progress };
        let rows = self.visible.iter().filter(|(key, _)| keys.contains(key));
        let rows = rows.map(|(key, row)| (*key, *row)).collect();
        Read { snapshot, rows, high: self.wal.len(), keys, is_again }
    }
}

fn key_bytes(key: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_texts(&[key.to_string()], &mut bytes);
    bytes
}

fn key_of(texts: &[String]) -> u8 {
    texts[0].parse().unwrap()
}

/// What a coordinator does, for a table in two chunks.
struct Copy {
    touched: Touched,
    places: Vec<Vec<u8>>,
    again: Again,
    read: Option<Read>,
    waits_for: Vec<u64>,
    chunk: u32,
    asleep: bool,
    /// What a crash leaves of the progress.
    stored: (Vec<Vec<u8>>, Again),
    /// How a chunk without the transactions of its snapshot would be written.
    naive: bool,
}

impl Copy {
    fn begin(world: &World, naive: bool) -> Copy {
        let mut touched = Touched::new(FIRST_XID);
        world.wal[..world.passed].iter().for_each(|(xid, _)| touched.passed(*xid));
        touched.watch(TABLE, watch(true), None);
        let places: Vec<Vec<u8>> = vec![(KEYS / 2..KEYS).collect(), (0..KEYS / 2).collect()];
        Copy {
            touched,
            places: places.clone(),
            again: Again::default(),
            read: None,
            waits_for: Vec::new(),
            chunk: 0,
            asleep: false,
            stored: (places, Again::default()),
            naive,
        }
    }

    /// A new session: it watches what was begun, and copies what is left.
    fn crash(&mut self, world: &mut World) {
        world.passed = world.checkpoint;
        let (places, again) = self.stored.clone();
        let text = serde_json::to_string(&again).unwrap();
        let mut touched = Touched::new(world.next_xid);
        touched.watch(TABLE, watch(false), None);
        *self = Copy {
            touched,
            places,
            again: serde_json::from_str(&text).unwrap(),
            asleep: true,
            ..Copy::begin(world, self.naive)
        };
        self.again.add(world.moved.clone());
        self.stored = (self.places.clone(), self.again.clone());
    }

    fn is_done(&self) -> bool {
        self.places.is_empty() && self.again.is_empty() && self.read.is_none()
    }

    /// Reads what is next, or writes what was read if the stream is there.
    fn step(&mut self, world: &mut World) {
        let is_running =
            |xid: &u64| world.open.iter().chain(&world.in_wal).any(|writer| u64::from(writer.xid) == *xid);
        if self.waits_for.iter().any(is_running) {
            return;
        }
        if std::mem::take(&mut self.asleep) {
            self.touched.watch(TABLE, watch(true), None);
        }
        if self.read.is_none() {
            self.touched.heard_of_moved(TABLE);
            self.chunk += 1;
            if let Some(keys) = self.again.next(self.places.is_empty()) {
                let asked = keys.iter().map(|key| key_of(key)).collect();
                self.again.read_in(self.chunk, keys);
                self.read = Some(world.read(asked, true));
            } else if let Some(keys) = self.places.last() {
                self.read = Some(world.read(keys.clone(), false));
            }
            return;
        }
        let Some(read) = self.read.take_if(|read| read.high <= world.passed) else { return };
        if !self.naive
            && let ChunkVerdict::ReadAgain { after } = self.touched.verdict(TABLE, &read.snapshot)
        {
            self.waits_for = after;
            self.again.not_written(self.chunk);
            return;
        }
        self.write(&read, world);
    }

    fn write(&mut self, read: &Read, world: &mut World) {
        let mut in_part = Vec::new();
        for (key, (version, large)) in &read.rows {
            assert!(read.keys.contains(key));
            let verdict = self.touched.judge(TABLE, &key_bytes(*key), &read.snapshot);
            match verdict {
                RowVerdict::Write => {
                    let row = Some((*version, Some(*large)));
                    world.topic.push(Sent { by: 'r', key: *key, row, from: None, id: None });
                }
                RowVerdict::Overtaken => {}
                RowVerdict::OvertakenInPart => in_part.push(read_key(&key_bytes(*key))),
            }
        }
        for key in read.keys.iter().filter(|_| read.is_again) {
            if self.touched.judge(TABLE, &key_bytes(*key), &read.snapshot) == RowVerdict::OvertakenInPart {
                in_part.push(read_key(&key_bytes(*key)));
            }
        }
        self.touched.forget_seen(&read.snapshot);
        self.again.add(in_part);
        self.again.add(self.touched.tell_moved(TABLE).keys);
        self.stored.1 = self.again.clone();
        self.again.acknowledged(self.chunk);
        if !read.is_again {
            self.places.pop();
        }
    }
}

fn watch(awake: bool) -> Watch {
    Watch {
        key: vec!["id".to_owned()],
        job: String::new(),
        table: String::new(),
        moved: Default::default(),
        awake,
    }
}

fn play(steps: &[(u8, u8, u8)], naive: bool) -> Result<(), String> {
    let mut world = World { next_xid: FIRST_XID, newest_ended: FIRST_XID - 1, ..World::default() };
    for key in (0..KEYS).step_by(2) {
        let version = world.version();
        world.visible.insert(key, (version, version));
    }
    let mut copy = None;
    for (what, key, detail) in steps {
        match what % 14 {
            0..4 => world.begin(key % KEYS, *detail),
            4..6 => world.commit_in_wal(*detail),
            6 => world.become_visible(*detail),
            7..9 => match &mut copy {
                Some(Copy { touched, .. }) => world.pass(touched),
                None => world.pass(&mut Touched::new(FIRST_XID)),
            },
            12 => match &mut copy {
                Some(copy) if detail % 4 == 0 => copy.crash(&mut world),
                // Acknowledged: of the stream as much as of the copy, or less.
                Some(copy) => copy.stored = (copy.places.clone(), copy.again.clone()),
                None => {}
            },
            13 => {
                world.checkpoint = world.passed.saturating_sub(usize::from(*detail) % 4).max(world.checkpoint)
            }
            _ => match &mut copy {
                Some(copy) => copy.step(&mut world),
                None => copy = Some(Copy::begin(&world, naive)),
            },
        }
    }
    let mut copy = copy.unwrap_or_else(|| Copy::begin(&world, naive));
    while !copy.is_done()
        || world.passed < world.wal.len()
        || !world.open.is_empty()
        || !world.in_wal.is_empty()
    {
        copy.step(&mut world);
        world.pass(&mut copy.touched);
        world.commit_in_wal(0);
        world.become_visible(0);
    }
    judge(&world)
}

/// The fold of the topic is the table, and of a key nothing older comes after something newer.
fn judge(world: &World) -> Result<(), String> {
    let mut fold: BTreeMap<u8, (u32, Option<u32>)> = BTreeMap::new();
    let mut newest: BTreeMap<u8, u32> = BTreeMap::new();
    // The large values of rows that are gone, for those that come back under another key.
    let mut gone: BTreeMap<u8, Option<u32>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for Sent { by, key, row, from, id } in &world.topic {
        if id.is_some_and(|id| !seen.insert(id)) {
            continue;
        }
        let Some((version, large)) = row else {
            gone.insert(*key, fold.remove(key).and_then(|(_, large)| large));
            continue;
        };
        let before = newest.insert(*key, *version).unwrap_or(0);
        if before > *version {
            return Err(format!("{by}: version {version} of {key} comes after {before}"));
        }
        let known = match from {
            Some(from) => gone.get(from).copied().flatten(),
            None => fold.get(key).and_then(|(_, large)| *large),
        };
        let large = large.or(known);
        fold.insert(*key, (*version, large));
    }
    let table: BTreeMap<u8, (u32, Option<u32>)> =
        world.visible.iter().map(|(key, (version, large))| (*key, (*version, Some(*large)))).collect();
    let keys: BTreeSet<&u8> = fold.keys().chain(table.keys()).collect();
    match keys.into_iter().find(|key| fold.get(key) != table.get(key)) {
        Some(key) => Err(format!("{key} is {:?}, the table has {:?}", fold.get(key), table.get(key))),
        None => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_server_does_the_fold_is_the_table(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..160)
    ) {
        let outcome = play(&steps, false);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

/// Without a look at the transactions of the snapshot (design, fact 13) an old row overwrites a newer one.
#[test]
fn the_naive_method_fails() {
    let (begin, in_wal, visible, pass, copy) = (0, 4, 6, 7, 9);
    // An update of key 0 is committed in WAL and passes before the watch; a chunk is read while it is not visible.
    let steps = [
        (begin, 0, 2),
        (in_wal, 0, 0),
        (pass, 0, 0),
        (copy, 0, 0),
        (copy, 0, 0),
        (copy, 0, 0),
        (visible, 0, 0),
    ];
    assert_eq!(play(&steps, true), Err("r: version 1 of 0 comes after 4".to_owned()));
    assert_eq!(play(&steps, false), Ok(()));
}
