//! THE checker. From the facts of one run ([`Evidence`]) it says everything that is untrue in Kafka: rows missing,
//! invented, reordered or wrong; duplicates without a fault, or not identical, or not a replay; a key in two
//! partitions; a fold of the records that is not the table; a slot confirmed ahead of what Kafka held.
//! It shares no code with the product. `checker_itself.rs` proves that it sees each of these.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::evidence::{Evidence, Id, Record};
use super::expected::{Expected, difference, expected_of};
use super::{fold, marks, samples};

/// What kind of untruth was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A committed row has no record.
    Missing,
    /// A record has no committed row.
    Invented,
    /// Records of a partition are not in commit order.
    Reordered,
    /// A record says something else than Postgres.
    Wrong,
    /// A record came twice in a run without a fault.
    Duplicate,
    /// Two records of one identity differ.
    NotIdentical,
    /// A repetition that does not start at a transaction or does not go on to the end.
    NotAReplay,
    /// A key was found in two partitions.
    TwoPartitions,
    /// The fold of the records is not the table.
    Fold,
    /// The slot had confirmed what Kafka did not hold.
    ConfirmedAhead,
}

/// Which repetitions are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// None: no fault, or a graceful stop.
    None,
    /// From some transaction on, identical and without a gap: after a fault.
    Replayed,
    /// As `Replayed`, and the requests of a frozen producer may arrive late.
    Late,
}

/// One untruth.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// Where, and what is known.
    pub what: String,
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Report {
    /// All untruths.
    pub problems: Vec<Problem>,
    /// Records in Kafka, repetitions included.
    pub records: usize,
    /// Repetitions.
    pub duplicates: usize,
    /// Transactions that had to be there.
    pub transactions: usize,
    /// Positions of the slot that were compared.
    pub samples: usize,
}

impl Report {
    pub(super) fn add(&mut self, kind: Kind, what: impl Into<String>) {
        self.problems.push(Problem { kind, what: what.into() });
    }

    /// The kinds of all problems.
    pub fn kinds(&self) -> HashSet<Kind> {
        self.problems.iter().map(|problem| problem.kind).collect()
    }

    /// Fails with the first problems of each kind.
    pub fn expect_true(&self) {
        if self.problems.is_empty() {
            return;
        }
        let mut by_kind: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
        for problem in &self.problems {
            by_kind.entry(problem.kind).or_default().push(&problem.what);
        }
        let mut text = format!("{} records, {} untrue:\n", self.records, self.problems.len());
        for (kind, whats) in by_kind {
            text += &format!("{kind:?} ({}):\n", whats.len());
            for what in whats.iter().take(5) {
                text += &format!("  {}\n", what.chars().take(600).collect::<String>());
            }
        }
        panic!("{text}");
    }
}

/// Judges a run.
pub fn check(evidence: &Evidence, repeats: Repeats) -> Report {
    let mut report =
        Report { records: evidence.records.len(), samples: evidence.samples.len(), ..Report::default() };
    let first = first_occurrences(evidence, repeats, &mut report);
    key_affinity(evidence, &mut report);
    transactions(evidence, &first, &mut report);
    // What arrives late is old: its consumers have to know what they have seen.
    let folded = if repeats == Repeats::Late { first.clone() } else { evidence.records.iter().collect() };
    fold::check(evidence, &folded, &mut report);
    samples::check(evidence, &first, &mut report);
    report
}

/// The first record of every identity, after the order of each partition was judged.
fn first_occurrences<'e>(evidence: &'e Evidence, repeats: Repeats, report: &mut Report) -> Vec<&'e Record> {
    let mut partitions: BTreeMap<(&str, i32), Vec<&Record>> = BTreeMap::new();
    for record in &evidence.records {
        partitions.entry((&record.topic, record.partition)).or_default().push(record);
    }
    let mut first: HashMap<Id, &Record> = HashMap::new();
    for records in partitions.values() {
        partition_order(evidence, records, &mut first, repeats, report);
    }
    let mut first: Vec<_> = first.into_values().collect();
    first.sort_by_key(|record| record.id);
    first
}

/// `seen` holds the partition's records in commit order; `cursor` is how many of them precede the next one.
fn partition_order<'e>(
    evidence: &Evidence,
    records: &[&'e Record],
    first: &mut HashMap<Id, &'e Record>,
    repeats: Repeats,
    report: &mut Report,
) {
    let mut seen: Vec<Id> = Vec::new();
    let mut cursor = 0;
    for record in records {
        let place = place(record);
        match seen.binary_search(&record.id) {
            Err(at) if at == seen.len() => {
                if cursor != seen.len() && repeats != Repeats::Late {
                    report.add(
                        Kind::NotAReplay,
                        format!("{place}: a new record before the replay was complete"),
                    );
                }
                seen.push(record.id);
                cursor = seen.len();
            }
            Err(at) => {
                report.add(Kind::Reordered, format!("{place}: an unseen record after a later one"));
                seen.insert(at, record.id);
                cursor = at + 1;
            }
            Ok(at) => {
                report.duplicates += 1;
                if repeats == Repeats::None {
                    report.add(Kind::Duplicate, place.clone());
                }
                let begins = at == 0 || seen[at - 1].commit_lsn != record.id.commit_lsn;
                if at != cursor && !begins && repeats == Repeats::Replayed {
                    report.add(
                        Kind::NotAReplay,
                        format!("{place}: a repetition from the middle of a transaction"),
                    );
                }
                if at > cursor && repeats == Repeats::Replayed {
                    report.add(Kind::NotAReplay, format!("{place}: a repetition that leaves records out"));
                }
                cursor = at + 1;
            }
        }
        match first.get(&record.id) {
            None => {
                first.insert(record.id, record);
            }
            Some(earlier) if !identical(evidence, earlier, record) => {
                report.add(Kind::NotIdentical, format!("{place}, first at {}", self::place(earlier)));
            }
            Some(_) => {}
        }
    }
    if cursor != seen.len() && repeats != Repeats::Late {
        report.add(
            Kind::NotAReplay,
            format!("{}: the last replay is not complete", place(records[records.len() - 1])),
        );
    }
}

fn identical(evidence: &Evidence, left: &Record, right: &Record) -> bool {
    let same_place =
        left.topic == right.topic && left.partition == right.partition && left.key_bytes == right.key_bytes;
    let relation = left.change.as_ref().map(|change| &change.relation);
    match relation.is_some_and(|relation| evidence.reselected.contains(relation)) {
        true => same_place && marks::alike(left, right),
        false => same_place && left.value_bytes == right.value_bytes && left.headers == right.headers,
    }
}

/// Where a record is, for messages.
pub fn place(record: &Record) -> String {
    let op = record.change.as_ref().map_or("tombstone", |change| &change.op);
    let (high, low) = (record.id.commit_lsn >> 32, record.id.commit_lsn & 0xffff_ffff);
    format!(
        "{} partition {} offset {} ({op}, {high:X}/{low:X}/{})",
        record.topic, record.partition, record.offset, record.id.ordinal
    )
}

fn key_affinity(evidence: &Evidence, report: &mut Report) {
    let mut homes: HashMap<(&str, Option<&[u8]>), i32> = HashMap::new();
    for record in &evidence.records {
        let home = homes.entry((&record.topic, record.key_bytes.as_deref())).or_insert(record.partition);
        if *home != record.partition {
            report
                .add(Kind::TwoPartitions, format!("{}: its key was also in partition {home}", place(record)));
        }
    }
}

/// Compares every transaction with what the triggers recorded in it.
fn transactions(evidence: &Evidence, first: &[&Record], report: &mut Report) {
    let mut by_commit: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in first {
        by_commit.entry(record.id.commit_lsn).or_default().push(record);
    }
    let mut by_xid: HashMap<u32, Vec<&Record>> = HashMap::new();
    for (commit_lsn, records) in by_commit {
        match envelope_xid(&records, report) {
            Some(xid) => {
                if by_xid.insert(xid, records).is_some() {
                    report.add(
                        Kind::Wrong,
                        format!("transaction {xid} has two commit LSNs, {commit_lsn:X} is one"),
                    );
                }
            }
            None => {
                report.add(Kind::Invented, format!("{}: only tombstones in a transaction", place(records[0])))
            }
        }
    }
    let mut expected: BTreeMap<u32, Vec<Expected<'_>>> = BTreeMap::new();
    for row in &evidence.audit {
        let records = expected.entry(row.xid).or_default();
        if let Some(spec) = row.spec.as_ref().or_else(|| evidence.tables.get(&row.relation)) {
            records.extend(expected_of(row, spec));
        }
    }
    expected.retain(|_, records| !records.is_empty());
    report.transactions = expected.len();
    for (xid, expected) in &expected {
        match by_xid.remove(xid) {
            None => report.add(
                Kind::Missing,
                format!("transaction {xid} with {} records, the first: {}", expected.len(), expected[0]),
            ),
            Some(records) => transaction(evidence, *xid, expected, &records, report),
        }
    }
    for (xid, records) in by_xid {
        report
            .add(Kind::Invented, format!("{}: transaction {xid} did not commit anything", place(records[0])));
    }
}

fn envelope_xid(records: &[&Record], report: &mut Report) -> Option<u32> {
    let mut xids =
        records.iter().filter_map(|record| record.change.as_ref().map(|change| (change.xid, record)));
    let (xid, _) = xids.next()?;
    for (other, record) in xids {
        if other != xid {
            report.add(Kind::Wrong, format!("{}: transaction {other} among records of {xid}", place(record)));
        }
    }
    Some(xid)
}

/// Walks what is expected and what is there side by side.
fn transaction(
    evidence: &Evidence,
    xid: u32,
    expected: &[Expected<'_>],
    records: &[&Record],
    report: &mut Report,
) {
    match evidence.commits.get(&xid) {
        None => report.add(Kind::Invented, format!("transaction {xid} is unknown to the server's decoder")),
        Some(commit) => {
            for record in records {
                if record.id.commit_lsn != commit.commit_lsn {
                    report.add(
                        Kind::Wrong,
                        format!("{}: the commit LSN is {:X}", place(record), commit.commit_lsn),
                    );
                }
                let Some(change) = &record.change else { continue };
                let expected_millis = commit.unix_micros.div_euclid(1000) * 1000;
                if !change.times_micros.iter().all(|t| *t == commit.unix_micros || *t == expected_millis) {
                    report.add(Kind::Wrong, format!("{}: times are not the commit's", place(record)));
                }
                if change.sequence != format!("[\"{}\",\"{}\"]", commit.commit_lsn, change.lsn) {
                    report.add(Kind::Wrong, format!("{}: sequence {}", place(record), change.sequence));
                }
            }
        }
    }
    let (mut e, mut r) = (0, 0);
    while e < expected.len() && r < records.len() {
        let Some(why) = difference(&expected[e], records[r], evidence) else {
            (e, r) = (e + 1, r + 1);
            continue;
        };
        let matches = |e: usize, r: usize| difference(&expected[e], records[r], evidence).is_none();
        if let Some(skip) = (e + 1..expected.len().min(e + 200)).find(|e| matches(*e, r)) {
            for expected in &expected[e..skip] {
                report.add(Kind::Missing, format!("transaction {xid}: {expected}"));
            }
            e = skip;
        } else if let Some(skip) = (r + 1..records.len().min(r + 200)).find(|r| matches(e, *r)) {
            for record in &records[r..skip] {
                report.add(Kind::Invented, place(record));
            }
            r = skip;
        } else {
            report.add(Kind::Wrong, format!("{}: {why}; expected {}", place(records[r]), expected[e]));
            (e, r) = (e + 1, r + 1);
        }
    }
    for expected in &expected[e..] {
        report.add(Kind::Missing, format!("transaction {xid}: {expected}"));
    }
    for record in &records[r..] {
        report.add(Kind::Invented, place(record));
    }
}
