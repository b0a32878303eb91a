//! The checker sees every kind of untruth: a true run is fabricated and then damaged, once per kind. A checker that
//! stays green here would prove nothing in the other tests.

use std::collections::HashMap;
use std::sync::Arc;

use crate::harness::cell::Cell;
use crate::harness::checker::{Kind, Repeats, Report, check};
use crate::harness::evidence::{
    AuditRow, Cells, Change, Commit, Evidence, Id, Identity, Operation, Record, Row, Sample, TableSpec,
};

/// Two partitions: even and odd ids.
fn partition(id: i64) -> i32 {
    (id % 2) as i32
}

fn row(id: i64, v: &str) -> Row {
    Row::from([("id".to_owned(), Some(id.to_string())), ("v".to_owned(), Some(v.to_owned()))])
}

fn cells(row: &Row) -> Cells {
    row.iter().map(|(name, text)| (name.clone(), text.clone().map_or(Cell::Null, Cell::Text))).collect()
}

/// A run in the making: transactions are committed to the audit and to Kafka at once.
#[derive(Default)]
struct Run {
    evidence: Evidence,
    ends: HashMap<(String, i32), i64>,
}

impl Run {
    fn commit(&mut self, changes: &[(Operation, i64, &str, &str)]) {
        let number = self.evidence.commits.len() as u64 + 1;
        let xid = 700 + number as u32;
        let commit =
            Commit { commit_lsn: number * 100, end_lsn: number * 100 + 50, unix_micros: number as i64 * 7 };
        self.evidence.commits.insert(xid, commit);
        let mut ordinal = 0;
        for (operation, id, old, new) in changes {
            let (old, new) = (row(*id, old), row(*id, new));
            let (old, new, op) = match operation {
                Operation::Insert => (None, Some(new), "c"),
                Operation::Update => (Some(old), Some(new), "u"),
                _ => (Some(old), None, "d"),
            };
            let before = old
                .as_ref()
                .filter(|_| op == "d")
                .map(|_| vec![("id".to_owned(), Cell::Text(id.to_string())), ("v".to_owned(), Cell::Null)]);
            let change = Change {
                op: op.to_owned(),
                before,
                after: new.as_ref().map(cells),
                database: "db".to_owned(),
                relation: "s.t".to_owned(),
                xid,
                sequence: format!("[\"{}\",\"1\"]", commit.commit_lsn),
                lsn: 1,
                times_micros: vec![commit.unix_micros],
            };
            self.record(*id, Id { commit_lsn: commit.commit_lsn, ordinal }, Some(change));
            ordinal += 1;
            if op == "d" {
                self.record(*id, Id { commit_lsn: commit.commit_lsn, ordinal }, None);
                ordinal += 1;
            }
            let operation = *operation;
            self.evidence.audit.push(AuditRow {
                xid,
                relation: "s.t".to_owned(),
                operation,
                old,
                new,
                spec: None,
            });
        }
        let ends = Arc::new(self.ends.clone());
        self.evidence.samples.push(Sample { confirmed: commit.end_lsn, ends });
    }

    fn record(&mut self, key: i64, id: Id, change: Option<Change>) {
        let home = ("p.s.t".to_owned(), partition(key));
        let offset = self.ends.entry(home.clone()).or_default();
        self.evidence.records.push(Record {
            topic: home.0,
            partition: home.1,
            offset: *offset,
            id,
            key_bytes: Some(key.to_string().into_bytes()),
            value_bytes: change.as_ref().map(|change| format!("{change:?}").into_bytes()),
            headers: vec![("headwater.id".to_owned(), format!("{id:?}").into_bytes())],
            key: Some(vec![("id".to_owned(), Cell::Text(key.to_string()))]),
            change,
        });
        *offset += 1;
    }
}

/// Inserts, updates, several rows at once, a delete; every record in its place.
fn true_run() -> Evidence {
    use Operation::{Delete, Insert, Update};
    let mut run = Run::default();
    run.evidence.prefix = "p".to_owned();
    run.evidence.database = "db".to_owned();
    let spec = TableSpec {
        schema: "s".to_owned(),
        table: "t".to_owned(),
        key: vec!["id".to_owned()],
        identity: Identity::Columns(vec!["id".to_owned()]),
    };
    run.evidence.tables.insert("s.t".to_owned(), spec);
    run.commit(&[(Insert, 1, "", "a"), (Insert, 2, "", "b"), (Insert, 3, "", "c")]);
    run.commit(&[(Update, 1, "a", "a2")]);
    run.commit(&[(Delete, 2, "b", ""), (Insert, 4, "", "d")]);
    run.commit(&[(Update, 1, "a2", "a3"), (Update, 1, "a3", "a4"), (Update, 4, "d", "d2")]);
    run.commit(&[(Insert, 6, "", "f")]);
    let last = vec![row(1, "a4"), row(3, "c"), row(4, "d2"), row(6, "f")];
    run.evidence.last.insert("s.t".to_owned(), last);
    run.evidence
}

/// Sends the transactions from `from` on again, as after a restart, into one partition.
fn replay(evidence: &mut Evidence, home: i32, from: u64) {
    let again: Vec<_> =
        evidence.records.iter().filter(|r| r.partition == home && r.id.commit_lsn >= from).cloned().collect();
    append(evidence, again);
}

fn append(evidence: &mut Evidence, records: Vec<Record>) {
    for mut record in records {
        let same = evidence.records.iter().filter(|r| r.partition == record.partition);
        record.offset = same.map(|r| r.offset).max().unwrap_or(-1) + 1;
        evidence.records.push(record);
    }
}

fn expect(report: &Report, kind: Kind) {
    assert!(report.kinds().contains(&kind), "{kind:?} was not seen: {:?}", report.problems);
}

fn damaged(kind: Kind, repeats: Repeats, damage: impl FnOnce(&mut Evidence)) {
    let mut evidence = true_run();
    damage(&mut evidence);
    expect(&check(&evidence, repeats), kind);
}

fn at(evidence: &Evidence, commit_lsn: u64, ordinal: u64) -> usize {
    let id = Id { commit_lsn, ordinal };
    evidence.records.iter().position(|record| record.id == id).expect("the record exists")
}

#[test]
fn a_true_run_is_true() {
    let report = check(&true_run(), Repeats::None);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.transactions, report.records, report.duplicates), (5, 11, 0));
}

#[test]
fn a_replay_is_true_after_a_fault_only() {
    let mut evidence = true_run();
    replay(&mut evidence, 0, 300);
    replay(&mut evidence, 1, 400);
    let report = check(&evidence, Repeats::Replayed);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.duplicates > 0);
    expect(&check(&evidence, Repeats::None), Kind::Duplicate);
}

#[test]
fn a_missing_row_is_seen() {
    for ordinal in 0..3 {
        damaged(Kind::Missing, Repeats::None, |e| drop(e.records.remove(at(e, 100, ordinal))));
        damaged(Kind::Missing, Repeats::None, |e| drop(e.records.remove(at(e, 400, ordinal))));
    }
    damaged(Kind::Missing, Repeats::None, |e| e.records.retain(|r| r.id.commit_lsn != 200));
    // The tombstone too.
    damaged(Kind::Missing, Repeats::None, |e| drop(e.records.remove(at(e, 300, 1))));
}

#[test]
fn an_invented_row_is_seen() {
    damaged(Kind::Invented, Repeats::None, |e| {
        let mut record = e.records[at(e, 500, 0)].clone();
        record.id.ordinal = 1;
        append(e, vec![record]);
    });
    // A transaction that was rolled back.
    damaged(Kind::Invented, Repeats::None, |e| {
        let mut record = e.records[at(e, 500, 0)].clone();
        record.id.commit_lsn = 600;
        record.change.as_mut().expect("a change").xid = 999;
        append(e, vec![record]);
    });
}

#[test]
fn reordering_is_seen() {
    damaged(Kind::Reordered, Repeats::None, |e| {
        let (l, r) = (at(e, 400, 0), at(e, 400, 1));
        e.records.swap(l, r);
    });
    damaged(Kind::Reordered, Repeats::Replayed, |e| {
        let (l, r) = (at(e, 100, 0), at(e, 200, 0));
        e.records.swap(l, r);
    });
}

#[test]
fn a_wrong_value_is_seen() {
    let set = |e: &mut Evidence, cell: Cell| {
        let index = at(e, 200, 0);
        let after = e.records[index].change.as_mut().and_then(|change| change.after.as_mut());
        after.expect("an after image")[1].1 = cell;
    };
    damaged(Kind::Wrong, Repeats::None, |e| set(e, Cell::Text("other".into())));
    damaged(Kind::Wrong, Repeats::None, |e| set(e, Cell::Null));
    // A placeholder for a value that was sent.
    damaged(Kind::Wrong, Repeats::None, |e| set(e, Cell::Text("__debezium_unavailable_value".into())));
    damaged(Kind::Wrong, Repeats::None, |e| {
        let index = at(e, 200, 0);
        e.records[index].key = Some(vec![("id".into(), Cell::Text("0".into()))]);
    });
    damaged(Kind::Wrong, Repeats::None, |e| {
        let index = at(e, 300, 0);
        e.records[index].change.as_mut().expect("a change").before = None;
    });
    damaged(Kind::Wrong, Repeats::None, |e| {
        let index = at(e, 200, 0);
        e.records[index].change.as_mut().expect("a change").times_micros.push(12345);
    });
    damaged(Kind::Wrong, Repeats::None, |e| {
        let index = at(e, 200, 0);
        e.records[index].change.as_mut().expect("a change").lsn = 0;
    });
}

#[test]
fn duplicates_that_differ_are_seen() {
    damaged(Kind::NotIdentical, Repeats::Replayed, |e| {
        replay(e, 1, 400);
        e.records.last_mut().expect("records").value_bytes = Some(b"other".to_vec());
    });
    damaged(Kind::NotIdentical, Repeats::Late, |e| {
        replay(e, 1, 400);
        e.records.last_mut().expect("records").headers.clear();
    });
}

#[test]
fn repetitions_that_are_no_replay_are_seen() {
    // One record of the past alone.
    damaged(Kind::NotAReplay, Repeats::Replayed, |e| {
        let record = e.records[at(e, 200, 0)].clone();
        append(e, vec![record]);
    });
    // From the middle of a transaction.
    damaged(Kind::NotAReplay, Repeats::Replayed, |e| {
        let record = e.records[at(e, 400, 1)].clone();
        append(e, vec![record]);
    });
    // With a hole.
    damaged(Kind::NotAReplay, Repeats::Replayed, |e| {
        replay(e, 1, 100);
        let hole = e.records.iter().rposition(|r| r.id.commit_lsn == 200).expect("a repetition");
        e.records.remove(hole);
    });
}

#[test]
fn a_key_in_two_partitions_is_seen() {
    damaged(Kind::TwoPartitions, Repeats::None, |e| {
        let index = at(e, 400, 1);
        e.records[index].partition = 0;
    });
}

#[test]
fn a_fold_that_is_not_the_table_is_seen() {
    damaged(Kind::Fold, Repeats::None, |e| {
        e.last.get_mut("s.t").expect("rows").push(row(9, "never sent"));
    });
    damaged(Kind::Fold, Repeats::None, |e| {
        e.last.get_mut("s.t").expect("rows").pop();
    });
    damaged(Kind::Fold, Repeats::None, |e| {
        e.last.get_mut("s.t").expect("rows")[0] = row(1, "other");
    });
}

#[test]
fn confirmation_ahead_of_kafka_is_seen() {
    // The slot said "done" to the second transaction when Kafka held the first only.
    damaged(Kind::ConfirmedAhead, Repeats::None, |e| e.samples[0].confirmed = 250);
    // Kafka held nothing at all.
    damaged(Kind::ConfirmedAhead, Repeats::None, |e| e.samples[4].ends = Arc::default());
    // Held, but one record short.
    damaged(Kind::ConfirmedAhead, Repeats::None, |e| {
        let mut ends = (*e.samples[4].ends).clone();
        *ends.get_mut(&("p.s.t".to_owned(), 0)).expect("partition 0") -= 1;
        e.samples[4].ends = Arc::new(ends);
    });
}

/// Two updates that leave a large value alone, of a table that is read back: the first is marked, the second has it.
fn read_back_run() -> Evidence {
    use Operation::{Insert, Update};
    let large = "x".repeat(2000);
    let mut run = Run { evidence: true_run(), ends: HashMap::new() };
    run.evidence.records.clear();
    run.evidence.audit.clear();
    run.evidence.commits.clear();
    run.evidence.samples.clear();
    run.evidence.reselected.insert("s.t".to_owned());
    run.commit(&[(Insert, 1, "", &large)]);
    run.commit(&[(Update, 1, &large, &large)]);
    run.commit(&[(Update, 1, &large, &large)]);
    run.evidence.last.insert("s.t".to_owned(), vec![row(1, &large)]);
    mark(&mut run.evidence, 1, "headwater.unchanged", "v");
    set_v(&mut run.evidence, 1, Cell::Text("__debezium_unavailable_value".into()));
    run.evidence
}

fn mark(evidence: &mut Evidence, at: usize, header: &str, names: &str) {
    evidence.records[at].headers.push((header.to_owned(), names.as_bytes().to_vec()));
}

fn set_v(evidence: &mut Evidence, at: usize, cell: Cell) {
    let record = &mut evidence.records[at];
    let after = record.change.as_mut().and_then(|change| change.after.as_mut());
    after.expect("an after image")[1].1 = cell;
    record.value_bytes = Some(format!("{:?}", record.change).into_bytes());
}

#[test]
fn values_that_were_read_back_are_judged_by_their_marks() {
    let unavailable = || Cell::Text("__debezium_unavailable_value".into());
    let damaged = |kind: Option<Kind>, repeats, damage: &dyn Fn(&mut Evidence)| {
        let mut evidence = read_back_run();
        damage(&mut evidence);
        let report = check(&evidence, repeats);
        match kind {
            Some(kind) => expect(&report, kind),
            None => assert!(report.problems.is_empty(), "{:?}", report.problems),
        }
    };
    damaged(None, Repeats::None, &|_| {});
    // No mark, a mark of what is there, of what isn't, of a table that is not read back.
    damaged(Some(Kind::Wrong), Repeats::None, &|e| drop(e.records[1].headers.pop()));
    damaged(Some(Kind::Wrong), Repeats::None, &|e| mark(e, 2, "headwater.unchanged", "v"));
    damaged(Some(Kind::Wrong), Repeats::None, &|e| mark(e, 2, "headwater.unchanged", "w"));
    damaged(Some(Kind::Wrong), Repeats::None, &|e| e.reselected.clear());
    // A newer value must have been one of the row's; without its mark it is wrong.
    let newer = |e: &mut Evidence, text: &str| {
        e.records[1].headers.pop();
        mark(e, 1, "headwater.reselected", "v");
        set_v(e, 1, Cell::Text(text.to_owned()));
    };
    damaged(None, Repeats::None, &|e| newer(e, &"x".repeat(2000)));
    damaged(Some(Kind::Wrong), Repeats::None, &|e| newer(e, "never there"));
    damaged(Some(Kind::Wrong), Repeats::None, &|e| set_v(e, 2, Cell::Text("y".repeat(2000))));
    // Sent again, what had a value may be marked, and nothing else may differ.
    let again = |e: &mut Evidence| {
        replay(e, 1, 300);
        let last = e.records.len() - 1;
        mark(e, last, "headwater.unchanged", "v");
        set_v(e, last, unavailable());
        last
    };
    damaged(None, Repeats::Replayed, &|e| {
        again(e);
    });
    damaged(Some(Kind::NotIdentical), Repeats::Replayed, &|e| {
        let last = again(e);
        e.records[last].change.as_mut().expect("a change").op = "c".to_owned();
    });
    damaged(Some(Kind::NotIdentical), Repeats::Replayed, &|e| {
        replay(e, 1, 300);
        let last = e.records.len() - 1;
        set_v(e, last, unavailable());
    });
}
