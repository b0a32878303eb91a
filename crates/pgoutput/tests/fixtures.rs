//! What PostgreSQL 14 to 18 really send, recorded by `tests/fixtures/pgoutput/record.sh`.
//!
//! Each recording is written out as a transcript, without what differs at every recording (LSNs, times,
//! transaction ids, oids), and compared with `expected.txt`, which was checked by eye against `workload.sql`.
//! The one difference between the versions: 14 sends transactions without a published change, as Begin and
//! Commit; later ones leave them out. Those lines are marked `14 only` in `expected.txt`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use headwater_pgoutput::{
    Column, Lsn, Message, OldTuple, Reason, RelationId, ReplicaIdentity, TableSchema, Tuple,
};

const VERSIONS: [u32; 5] = [14, 15, 16, 17, 18];

struct Recorded {
    lsn: Lsn,
    body: Vec<u8>,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pgoutput").join(name)
}

fn recording(version: u32) -> Vec<Recorded> {
    let text = fs::read_to_string(path(&format!("pg{version}.hex"))).expect("the fixture is there");
    assert!(
        text.starts_with(&format!("# PostgreSQL {version}")),
        "a recording of the version it is named after"
    );
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (lsn, hex) = line.split_once(' ').expect("LSN and bytes");
            let digits = hex.as_bytes().chunks_exact(2).map(|two| str::from_utf8(two).expect("ASCII"));
            let body = digits.map(|two| u8::from_str_radix(two, 16).expect("hexadecimal")).collect();
            Recorded { lsn: lsn.parse().expect("an LSN"), body }
        })
        .collect()
}

fn decode(body: &[u8]) -> Message<'_> {
    Message::decode(body).unwrap_or_else(|error| panic!("{error}"))
}

/// Names for what a recording only numbers.
#[derive(Default)]
struct Names {
    tables: BTreeMap<RelationId, String>,
    types: BTreeMap<u32, String>,
}

impl Names {
    fn line(&mut self, message: &Message<'_>) -> String {
        match message {
            Message::Begin(_) => "Begin".to_owned(),
            Message::Commit(_) => "Commit".to_owned(),
            Message::Origin(origin) => format!("Origin {} {}", origin.name, origin.commit_lsn),
            Message::Relation(table) => self.table(table),
            Message::Type(name) => {
                let text = format!("{}.{}", name.namespace, name.name);
                self.types.insert(name.oid, text.clone());
                format!("Type {text}")
            }
            Message::Insert(insert) => {
                format!("Insert {} {}", self.tables[&insert.relation], row(&insert.new))
            }
            Message::Update(update) => {
                let old = update.old.as_ref().map(|old| format!("{} ", old_row(old))).unwrap_or_default();
                format!("Update {} {old}new {}", self.tables[&update.relation], row(&update.new))
            }
            Message::Delete(delete) => {
                format!("Delete {} {}", self.tables[&delete.relation], old_row(&delete.old))
            }
            Message::Truncate(truncate) => {
                let cascade = if truncate.cascade() { " cascade" } else { "" };
                let restart = if truncate.restart_identity() { " restart identity" } else { "" };
                let tables = truncate.relations.clone().map(|id| self.tables[&id].as_str());
                format!("Truncate{cascade}{restart} {}", tables.collect::<Vec<_>>().join(" "))
            }
            Message::Logical(logical) => {
                let kind = if logical.transactional { "transactional" } else { "not transactional" };
                format!("Logical {kind} {:?} {}", logical.prefix, value(logical.content))
            }
        }
    }

    fn table(&mut self, table: &TableSchema) -> String {
        let name = format!("{}.{}", table.namespace, table.name);
        let identity = match table.replica_identity {
            ReplicaIdentity::Default => "default",
            ReplicaIdentity::Nothing => "nothing",
            ReplicaIdentity::Full => "full",
            ReplicaIdentity::Index => "index",
        };
        let mut line = format!("Relation {name} {identity}");
        for column in &table.columns {
            let key = if column.is_key { "*" } else { "" };
            let type_name = self.types.get(&column.type_oid).cloned().unwrap_or(column.type_oid.to_string());
            write!(line, " | {}{key} {type_name} {}", column.name, column.type_modifier)
                .expect("a String takes it");
        }
        self.tables.insert(table.id, name);
        line
    }
}

fn old_row(old: &OldTuple<'_>) -> String {
    format!("{} {}", if old.is_full() { "old" } else { "key" }, row(old.tuple()))
}

fn row(tuple: &Tuple<'_>) -> String {
    let columns = tuple.columns().map(|column| match column {
        Column::Null => "null".to_owned(),
        Column::Unchanged => "unchanged".to_owned(),
        Column::Text(text) => value(text),
        Column::Binary(_) => panic!("binary was not asked for"),
    });
    format!("({})", columns.collect::<Vec<_>>().join(", "))
}

fn value(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if text.len() > 1000 => format!("{:?} {} times", &text[..1], text.len()),
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("{bytes:02x?}"),
    }
}

fn transcript(version: u32) -> String {
    let mut names = Names::default();
    let recorded = recording(version);
    recorded.iter().map(|recorded| names.line(&decode(&recorded.body)) + "\n").collect()
}

#[test]
fn every_version_sends_what_is_expected() {
    let expected = fs::read_to_string(path("expected.txt")).expect("the transcript is there");
    for version in VERSIONS {
        let lines = expected.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter_map(|line| match line.strip_suffix(" -- 14 only") {
            Some(line) => (version == 14).then_some(line),
            None => Some(line),
        });
        let read = transcript(version);
        for (index, (read, expected)) in read.lines().zip(lines.clone()).enumerate() {
            assert_eq!(read, expected, "PostgreSQL {version}, message {index}");
        }
        assert_eq!(read.lines().count(), lines.count(), "PostgreSQL {version}");
    }
}

#[test]
fn every_kind_of_message_is_there() {
    for version in VERSIONS {
        for tag in b"BCORYIUDTM" {
            assert!(recording(version).iter().any(|recorded| recorded.body[0] == *tag), "{version} {tag}");
        }
    }
}

#[test]
fn transactions_follow_each_other() {
    for version in VERSIONS {
        let mut open = None;
        let mut last_end = Lsn::INVALID;
        for recorded in recording(version) {
            match decode(&recorded.body) {
                Message::Begin(begin) => {
                    assert_eq!(open, None);
                    // The commit of one can start where that of the one before ended.
                    assert!(begin.commit_lsn >= last_end);
                    open = Some(begin);
                }
                Message::Commit(commit) => {
                    let begin = open.take().expect("a transaction is open");
                    assert_eq!(
                        (commit.commit_lsn, commit.commit_time),
                        (begin.commit_lsn, begin.commit_time)
                    );
                    assert!(commit.end_lsn > commit.commit_lsn);
                    last_end = commit.end_lsn;
                }
                Message::Origin(origin) => {
                    assert_eq!(origin.commit_lsn, Lsn(0x16_B374_D848));
                    // Of the commit on the other server: 2024-02-29 12:00 UTC, long before the one before it.
                    let commit_time = open.expect("a transaction is open").commit_time;
                    assert_eq!(commit_time.unix_micros(), 1_709_208_000_000_000);
                }
                Message::Logical(logical) => {
                    assert_eq!(logical.transactional, open.is_some());
                    assert!(logical.lsn > Lsn::INVALID && logical.lsn <= recorded.lsn);
                }
                _ => assert!(open.is_some_and(|begin| recorded.lsn <= begin.commit_lsn)),
            }
        }
        assert_eq!(open, None);
    }
}

#[test]
fn cut_off_at_every_length_and_followed_by_anything() {
    for version in VERSIONS {
        for Recorded { body, .. } in recording(version) {
            for length in 0..body.len() {
                let error = Message::decode(&body[..length]).expect_err("a part of a message is none");
                assert!(error.offset <= length, "{error}");
                assert!(matches!(error.reason, Reason::Short { .. } | Reason::UnterminatedName), "{error}");
            }
            let longer = [body.as_slice(), b"\0"].concat();
            let error = Message::decode(&longer).expect_err("a message and a byte are none");
            assert_eq!((error.offset, error.reason), (body.len(), Reason::Trailing { bytes: 1 }));
        }
    }
}

/// One byte set to each other value: read or refused, and what is read can be used.
#[test]
fn damaged_anywhere() {
    for Recorded { mut body, .. } in recording(16) {
        for at in 0..body.len().min(200) {
            let was = body[at];
            for byte in 0..=255 {
                body[at] = byte;
                if let Ok(Message::Insert(insert)) = Message::decode(&body) {
                    assert_eq!(insert.new.columns().count(), insert.new.len());
                }
            }
            body[at] = was;
        }
    }
}
