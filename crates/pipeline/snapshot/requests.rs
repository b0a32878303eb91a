//! What was asked of snapshots and is not carried out yet, and how far those who ask were heard: one record beside the
//! checkpoint.
//!
//! ```text
//! key   …/headwater/requests   value {"version":1,"epoch":3,"last":7,"waiting":[…],"table":{…},"topic":{…},"tables":[…]}
//! ```
//!
//! In: signals, tables that were added. Out: requests for the coordinator, one at a time.
//! Invariants: a request and the place that it was heard at are stored in one record, so none is lost or heard twice.
//! What carrying it out changes is stored before the record without it, in the same partition. A job says which request
//! it was begun for, so one that was begun is not begun again.

use std::sync::Mutex;
use std::sync::mpsc::Sender;

use headwater_pg::publication::Membership;
use headwater_pgoutput::Lsn;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Input;
use super::ledger::LedgerEntry;
use super::table_pattern::TablePattern;
use crate::error::StageError;

/// Version of the value.
const VERSION: u32 = 1;

/// What follows the checkpoint's key.
pub(crate) const REQUESTS_PART: &str = "/requests";

/// Starts that may wait: more than a person has in mind at a time.
const STARTS_MAX: usize = 100;

/// Requests of any kind that may wait. What ends, pauses or resumes has room when no start has any more.
const WAITING_MAX: usize = 150;

/// Bytes of all of them, as they are stored.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// A value with more bytes is stored without the tables that are known: some 60,000 of them.
const VALUE_BYTES_MAX: usize = 900 << 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    /// Copy tables, but for some.
    Start {
        tables: Vec<TablePattern>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        filters: Vec<(TablePattern, String)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<TablePattern>,
        /// The table, where it was added to a publication.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relation: Option<u32>,
    },
    /// End what is under way and what waits, or these tables of it.
    Stop {
        tables: Vec<TablePattern>,
    },
    Pause,
    Resume,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asker {
    /// A row of the table of signals.
    Table,
    /// A record of the topic of signals.
    Topic,
    /// A table was added to a publication.
    NewTable,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// In the order in which they came.
    pub(crate) number: u64,
    /// The asker's name for it.
    pub(crate) id: String,
    pub(crate) asker: Asker,
    pub(crate) wish: Wish,
}

/// A row of the table of signals: its transaction and its place among the signals of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct RowPlace {
    pub(crate) commit_lsn: Lsn,
    pub(crate) row: u32,
}

/// The record of the topic of signals that comes next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicPlace {
    pub(crate) topic: String,
    pub(crate) offset: i64,
}

/// A published table that is not new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredTable", into = "StoredTable")]
pub(crate) struct KnownTable {
    pub(crate) relation: u32,
    /// What makes it published; none by FOR ALL TABLES.
    pub(crate) members: Vec<u32>,
}

/// As few bytes as JSON allows: there may be tens of thousands.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredTable {
    Plain(u32),
    /// Its relation, and then what makes it published.
    Member(Vec<u32>),
}

impl From<KnownTable> for StoredTable {
    fn from(table: KnownTable) -> StoredTable {
        match table.members.as_slice() {
            [] => StoredTable::Plain(table.relation),
            members => StoredTable::Member([&[table.relation], members].concat()),
        }
    }
}

impl From<StoredTable> for KnownTable {
    fn from(stored: StoredTable) -> KnownTable {
        let numbers = match stored {
            StoredTable::Plain(relation) => vec![relation],
            StoredTable::Member(numbers) => numbers,
        };
        let relation = numbers.first().copied().unwrap_or_default();
        KnownTable { relation, members: numbers.into_iter().skip(1).collect() }
    }
}

impl KnownTable {
    pub(crate) fn of(table: &Membership) -> KnownTable {
        KnownTable { relation: table.relation, members: table.members.clone() }
    }
}

/// All of it, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestsRecord {
    version: u32,
    /// Which owner of the slot wrote this.
    epoch: u64,
    /// The number of the last request.
    #[serde(default)]
    last: u64,
    #[serde(default)]
    waiting: Vec<Request>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<RowPlace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<TopicPlace>,
    /// None before anybody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tables: Option<Vec<KnownTable>>,
}

impl Default for RequestsRecord {
    fn default() -> RequestsRecord {
        RequestsRecord {
            version: VERSION,
            epoch: 0,
            last: 0,
            waiting: Vec::new(),
            table: None,
            topic: None,
            tables: None,
        }
    }
}

impl RequestsRecord {
    /// The same with the tables that a slot is about to be created with: what is added later is new.
    pub(crate) fn before_slot(mut self, epoch: u64, tables: &[Membership]) -> RequestsRecord {
        self.epoch = epoch;
        self.tables = Some(tables.iter().map(KnownTable::of).collect());
        // Places in WAL that this slot has not: those of another server, or of this one before it was restored.
        self.table = None;
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let bytes = serde_json::to_vec(self).expect("a record is plain data");
        if bytes.len() <= VALUE_BYTES_MAX || self.tables.is_none() {
            return bytes;
        }
        // Topics take 1 MB by default. Without them the tables of the next start are taken for known.
        RequestsRecord { tables: None, ..self.clone() }.to_bytes()
    }
}

/// Shared by the tasks of a session that ask and the one that answers.
pub(crate) struct Requests {
    key: String,
    inputs: Sender<Input>,
    record: Mutex<RequestsRecord>,
    changed: Notify,
}

impl Requests {
    /// `begun` is the number of the request that the last job was begun for.
    pub(crate) fn new(
        stored: RequestsRecord,
        checkpoint_key: &str,
        epoch: u64,
        begun: u64,
        inputs: Sender<Input>,
    ) -> Requests {
        let mut record = stored;
        record.epoch = epoch;
        record
            .waiting
            .retain(|request| request.number > begun || !matches!(request.wish, Wish::Start { .. }));
        let key = format!("{checkpoint_key}{REQUESTS_PART}");
        // What waits from before is looked for at once.
        let changed = Notify::new();
        changed.notify_one();
        Requests { key, inputs, record: Mutex::new(record), changed }
    }

    /// What [`Requests::heard_row`] would say now.
    pub(crate) fn would_hear_row(&self, place: RowPlace, request: Option<&(String, Wish)>) -> Heard {
        let record = self.lock();
        record.would_hear(record.table.is_some_and(|heard| heard >= place), request)
    }

    /// What [`Requests::heard_record`] would say now.
    pub(crate) fn would_hear_record(&self, next: &TopicPlace, request: Option<&(String, Wish)>) -> Heard {
        let record = self.lock();
        let before = record.topic.as_ref().filter(|before| before.topic == next.topic);
        record.would_hear(before.is_some_and(|before| before.offset >= next.offset), request)
    }

    /// A signal came in a row. `sequence` is its transaction, which is not confirmed before this is stored.
    pub(crate) fn heard_row(
        &self,
        place: RowPlace,
        sequence: u32,
        request: Option<(String, Wish)>,
    ) -> Result<Heard, StageError> {
        let mut record = self.lock();
        let repeated = record.table.is_some_and(|heard| heard >= place);
        let mut heard = if repeated { Heard::Again } else { Heard::Taken };
        if !repeated {
            record.table = Some(place);
            if let Some((id, wish)) = request {
                heard = record.push(id, Asker::Table, wish);
            }
        }
        self.store(&record, Some(sequence))?;
        Ok(heard)
    }

    /// A signal came in a record of the topic.
    pub(crate) fn heard_record(
        &self,
        next: TopicPlace,
        request: Option<(String, Wish)>,
    ) -> Result<Heard, StageError> {
        let mut record = self.lock();
        let before = record.topic.as_ref().filter(|before| before.topic == next.topic);
        if before.is_some_and(|before| before.offset >= next.offset) {
            return Ok(Heard::Again);
        }
        record.topic = Some(next);
        let heard = match request {
            Some((id, wish)) => record.push(id, Asker::Topic, wish),
            None => Heard::Taken,
        };
        self.store(&record, None)?;
        Ok(heard)
    }

    /// Where to read the topic from; none if it was never read.
    pub(crate) fn topic_offset(&self, topic: &str) -> Option<i64> {
        self.lock().topic.as_ref().filter(|place| place.topic == topic).map(|place| place.offset)
    }

    /// The topic is read from here on: the first time, or because what was to come next is not there.
    pub(crate) fn begin_topic(&self, place: TopicPlace) -> Result<(), StageError> {
        let mut record = self.lock();
        record.topic = Some(place);
        self.store(&record, None)
    }

    /// The tables that are not new.
    pub(crate) fn known(&self) -> Option<Vec<KnownTable>> {
        self.lock().tables.clone()
    }

    /// These tables are known from now on, and some of them are to be copied.
    pub(crate) fn know(
        &self,
        tables: Vec<KnownTable>,
        requests: impl IntoIterator<Item = (String, Wish)>,
    ) -> Result<(), StageError> {
        let mut record = self.lock();
        record.tables = Some(tables);
        for (id, wish) in requests {
            // Beyond the limit too: nobody would ask again.
            record.push_any(id, Asker::NewTable, wish);
        }
        self.store(&record, None)
    }

    /// What is to be done next. While a job is under way a new one waits, and what concerns the present one does not.
    pub(crate) fn next(&self, is_idle: bool) -> Option<Request> {
        let record = self.lock();
        record.waiting.iter().find(|each| is_idle || !matches!(each.wish, Wish::Start { .. })).cloned()
    }

    /// A request is carried out or refused; what it changed was sent to the pump before.
    pub(crate) fn done(&self, request: &Request) -> Result<(), StageError> {
        let mut record = self.lock();
        record.waiting.retain(|each| each.number != request.number);
        if let Wish::Stop { tables } = &request.wish {
            record.stop(request.number, tables);
        }
        self.store(&record, None)
    }

    /// The table that a request is about has another name by now, or is gone: whoever looks finds it new, or not at all.
    /// The request itself is done.
    pub(crate) fn not_found(&self, request: &Request) -> Result<(), StageError> {
        let Wish::Start { relation: Some(relation), .. } = &request.wish else { return Ok(()) };
        let mut record = self.lock();
        if let Some(tables) = &mut record.tables {
            tables.retain(|table| table.relation != *relation);
        }
        record.waiting.retain(|each| each.number != request.number);
        self.store(&record, None)
    }

    /// Whether anything waits that a stop with this number would end.
    pub(crate) fn has_start_before(&self, number: u64) -> bool {
        let record = self.lock();
        record.waiting.iter().any(|each| each.number < number && matches!(each.wish, Wish::Start { .. }))
    }

    /// Resolves after something came. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Under the lock, so that the newest record is the last one.
    fn store(&self, record: &RequestsRecord, release: Option<u32>) -> Result<(), StageError> {
        let entry = LedgerEntry::Requests { key: self.key.clone(), value: record.to_bytes(), release };
        self.inputs.send(Input::Ledger(entry)).map_err(|_| StageError::Stopped)?;
        self.changed.notify_one();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RequestsRecord> {
        self.record.lock().expect("no code panics while it holds the requests")
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Taken,
    /// It came again after a crash.
    Again,
    /// Too many wait.
    Full,
}

impl RequestsRecord {
    fn push(&mut self, id: String, asker: Asker, wish: Wish) -> Heard {
        if self.is_full_for(&wish) {
            return Heard::Full;
        }
        self.push_any(id, asker, wish);
        Heard::Taken
    }

    fn would_hear(&self, repeated: bool, request: Option<&(String, Wish)>) -> Heard {
        match request {
            _ if repeated => Heard::Again,
            Some((_, wish)) if self.is_full_for(wish) => Heard::Full,
            _ => Heard::Taken,
        }
    }

    fn is_full_for(&self, wish: &Wish) -> bool {
        let is_start = |wish: &Wish| matches!(wish, Wish::Start { .. });
        let starts = self.waiting.iter().filter(|each| is_start(&each.wish)).count();
        let bytes = |wish: &Wish| serde_json::to_vec(wish).map_or(0, |json| json.len());
        let waiting: usize = self.waiting.iter().map(|each| bytes(&each.wish)).sum();
        is_start(wish) && (starts >= STARTS_MAX || waiting + bytes(wish) > WAITING_BYTES_MAX)
            || self.waiting.len() >= WAITING_MAX
    }

    fn push_any(&mut self, id: String, asker: Asker, wish: Wish) {
        self.last += 1;
        self.waiting.push(Request { number: self.last, id, asker, wish });
    }

    /// A stop also ends what was asked for before it and waits.
    fn stop(&mut self, number: u64, stopped: &[TablePattern]) {
        let is_start = |each: &Request| each.number < number && matches!(each.wish, Wish::Start { .. });
        if stopped.is_empty() {
            self.waiting.retain(|each| !is_start(each));
        }
        for each in &mut self.waiting {
            if let Wish::Start { except, .. } = &mut each.wish
                && each.number < number
            {
                except.extend(
                    stopped.iter().filter(|pattern| !except.contains(pattern)).cloned().collect::<Vec<_>>(),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(table: &str) -> Wish {
        let tables = vec![TablePattern::Regex(table.to_owned())];
        Wish::Start { tables, filters: Vec::new(), except: Vec::new(), relation: None }
    }

    fn requests(stored: RequestsRecord, begun: u64) -> (Requests, std::sync::mpsc::Receiver<Input>) {
        let (inputs, receiver) = std::sync::mpsc::channel();
        (Requests::new(stored, "1/shop/s", 2, begun, inputs), receiver)
    }

    /// What is stored after all that was sent.
    fn stored(receiver: &std::sync::mpsc::Receiver<Input>) -> RequestsRecord {
        let mut last = None;
        while let Ok(Input::Ledger(LedgerEntry::Requests { key, value, .. })) = receiver.try_recv() {
            assert_eq!(key, "1/shop/s/requests");
            last = Some(serde_json::from_slice(&value).unwrap());
        }
        last.expect("something was stored")
    }

    fn named(id: &str, wish: Wish) -> Option<(String, Wish)> {
        Some((id.to_owned(), wish))
    }

    #[test]
    fn a_signal_that_comes_again_is_not_heard_twice() {
        let (all, receiver) = requests(RequestsRecord::default(), 0);
        let place = |lsn, row| RowPlace { commit_lsn: Lsn(lsn), row };
        assert_eq!(all.heard_row(place(10, 0), 1, named("a", start("a"))).unwrap(), Heard::Taken);
        assert_eq!(all.heard_row(place(10, 1), 1, named("b", start("b"))).unwrap(), Heard::Taken);
        let record = stored(&receiver);
        // After a crash, from what is stored.
        let (again, receiver) = requests(record, 0);
        assert_eq!(again.heard_row(place(10, 0), 7, named("a", start("a"))).unwrap(), Heard::Again);
        let Ok(Input::Ledger(LedgerEntry::Requests { release, .. })) = receiver.try_recv() else { panic!() };
        assert_eq!(release, Some(7), "its transaction is confirmed all the same");
        assert_eq!(again.heard_row(place(10, 1), 7, named("b", start("b"))).unwrap(), Heard::Again);
        assert_eq!(again.heard_row(place(20, 0), 8, None).unwrap(), Heard::Taken);
        assert_eq!(again.next(true).unwrap().id, "a");
        let topic = |offset| TopicPlace { topic: "t".to_owned(), offset };
        assert_eq!(again.heard_record(topic(5), named("c", Wish::Pause)).unwrap(), Heard::Taken);
        assert_eq!(again.heard_record(topic(5), named("c", Wish::Pause)).unwrap(), Heard::Again);
        assert_eq!((again.topic_offset("t"), again.topic_offset("other")), (Some(5), None));
    }

    #[test]
    fn a_start_waits_for_the_job_and_what_concerns_the_job_does_not() {
        let (all, receiver) = requests(RequestsRecord::default(), 0);
        for (offset, id, wish) in [(1, "a", start("a")), (2, "b", start("b")), (3, "p", Wish::Pause)] {
            let place = TopicPlace { topic: "t".to_owned(), offset };
            all.heard_record(place, named(id, wish)).unwrap();
        }
        let a = all.next(true).unwrap();
        assert_eq!(a.id, "a");
        // The job is stored, and then headwater is killed: the job knows its request.
        let (again, _receiver) = requests(stored(&receiver), a.number);
        assert_eq!(again.next(true).unwrap().id, "b");
        assert_eq!(again.next(false).unwrap().id, "p");
        again.done(&again.next(false).unwrap()).unwrap();
        assert_eq!(again.next(false), None);
    }

    #[test]
    fn a_stop_ends_what_waits_before_it() {
        let check = |tables: &[&str], left: &[(&str, usize)]| {
            let (all, receiver) = requests(RequestsRecord::default(), 0);
            let tables = tables.iter().map(|each| TablePattern::Regex((*each).to_owned())).collect();
            let wishes =
                [("a", start("a")), ("b", start("b")), ("s", Wish::Stop { tables }), ("c", start("c"))];
            for (offset, (id, wish)) in wishes.into_iter().enumerate() {
                let place = TopicPlace { topic: "t".to_owned(), offset: offset as i64 };
                all.heard_record(place, named(id, wish)).unwrap();
            }
            let stop = all.next(false).unwrap();
            assert!(all.has_start_before(stop.number));
            all.done(&stop).unwrap();
            let found: Vec<(String, usize)> = stored(&receiver)
                .waiting
                .into_iter()
                .map(|each| match each.wish {
                    Wish::Start { except, .. } => (each.id, except.len()),
                    wish => panic!("{wish:?}"),
                })
                .collect();
            let left: Vec<_> = left.iter().map(|(id, except)| ((*id).to_owned(), *except)).collect();
            assert_eq!(found, left);
        };
        check(&[], &[("c", 0)]);
        check(&["x"], &[("a", 1), ("b", 1), ("c", 0)]);
    }

    #[test]
    fn tables_are_stored_in_few_bytes_and_not_beyond_a_limit() {
        let table = |relation, members: &[u32]| KnownTable { relation, members: members.to_vec() };
        let (all, receiver) = requests(RequestsRecord::default(), 0);
        all.know(vec![table(16385, &[]), table(16390, &[7, 8])], []).unwrap();
        let record = stored(&receiver);
        assert_eq!(record.tables, all.known());
        let json = String::from_utf8(record.to_bytes()).unwrap();
        assert!(json.contains(r#""tables":[16385,[16390,7,8]]"#), "{json}");
        all.know((0..500_000).map(|relation| table(relation, &[])).collect(), []).unwrap();
        assert_eq!(stored(&receiver).tables, None);
        assert_eq!(all.known().map(|known| known.len()), Some(500_000), "in this session they are known");
    }

    #[test]
    fn too_many_are_refused_and_heard() {
        let (all, receiver) = requests(RequestsRecord::default(), 0);
        let mut offset = 0;
        let mut hear = |wish: Wish| {
            offset += 1;
            let place = TopicPlace { topic: "t".to_owned(), offset };
            all.heard_record(place, named("a", wish)).unwrap()
        };
        for at in 0..=STARTS_MAX {
            assert_eq!(hear(start("a")) == Heard::Full, at == STARTS_MAX);
        }
        assert_eq!(hear(Wish::Stop { tables: Vec::new() }), Heard::Taken, "the way out stays open");
        assert_eq!(stored(&receiver).waiting.len(), STARTS_MAX + 1);
        let (all, _receiver) = requests(RequestsRecord::default(), 0);
        let large = start(&"x".repeat(200 << 10));
        let place = |offset| TopicPlace { topic: "t".to_owned(), offset };
        assert_eq!(all.heard_record(place(1), named("a", large.clone())).unwrap(), Heard::Taken);
        assert_eq!(all.heard_record(place(2), named("b", large)).unwrap(), Heard::Full);
    }
}
