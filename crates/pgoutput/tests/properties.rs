//! Any message survives writing and reading; any bytes are read or refused, never a panic.

mod wire;

use headwater_pgoutput::{Column, Lsn, Message, OldTuple, PgTimestamp, RelationId, ReplicaIdentity, Tuple};
use proptest::collection::vec;
use proptest::prelude::*;
use wire::{Value, Wire};

type Row = Vec<Value>;

/// A message to be written, then compared with what was read.
#[derive(Debug, Clone)]
enum Sample {
    Begin(u64, i64, u32),
    Commit(u64, u64, i64),
    Origin(u64, String),
    Relation(u32, String, String, u8, Vec<(bool, String, u32, i32)>),
    Type(u32, String, String),
    Insert(u32, Row),
    Update(u32, Option<(u8, Row)>, Row),
    Delete(u32, u8, Row),
    Truncate(u8, Vec<u32>),
    Logical(bool, u64, String, Vec<u8>),
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{1,20}"
}

fn row() -> impl Strategy<Value = Row> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        vec(any::<u8>(), 0..20).prop_map(Value::Text),
        vec(any::<u8>(), 0..20).prop_map(Value::Binary),
    ];
    vec(value, 0..12)
}

fn old_marker() -> impl Strategy<Value = u8> {
    prop_oneof![Just(b'K'), Just(b'O')]
}

fn sample() -> impl Strategy<Value = Sample> {
    let identity = prop_oneof![Just(b'd'), Just(b'n'), Just(b'f'), Just(b'i')];
    let columns = vec((any::<bool>(), name(), any::<u32>(), any::<i32>()), 0..8);
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(lsn, time, xid)| Sample::Begin(lsn, time, xid)),
        any::<(u64, u64, i64)>().prop_map(|(lsn, end, time)| Sample::Commit(lsn, end, time)),
        (any::<u64>(), name()).prop_map(|(lsn, name)| Sample::Origin(lsn, name)),
        (any::<u32>(), name(), name(), identity, columns).prop_map(
            |(id, namespace, name, identity, columns)| {
                Sample::Relation(id, namespace, name, identity, columns)
            }
        ),
        (any::<u32>(), name(), name()).prop_map(|(oid, namespace, name)| Sample::Type(oid, namespace, name)),
        (any::<u32>(), row()).prop_map(|(id, new)| Sample::Insert(id, new)),
        (any::<u32>(), proptest::option::of((old_marker(), row())), row())
            .prop_map(|(id, old, new)| Sample::Update(id, old, new)),
        (any::<u32>(), old_marker(), row()).prop_map(|(id, marker, old)| Sample::Delete(id, marker, old)),
        (0..4u8, vec(any::<u32>(), 0..5)).prop_map(|(options, ids)| Sample::Truncate(options, ids)),
        (any::<bool>(), any::<u64>(), name(), vec(any::<u8>(), 0..40)).prop_map(
            |(transactional, lsn, prefix, content)| Sample::Logical(transactional, lsn, prefix, content)
        ),
    ]
}

fn encode(sample: &Sample) -> Vec<u8> {
    let wire = match sample {
        Sample::Begin(lsn, time, xid) => Wire::message(b'B').u64(*lsn).i64(*time).u32(*xid),
        Sample::Commit(lsn, end, time) => Wire::message(b'C').u8(0).u64(*lsn).u64(*end).i64(*time),
        Sample::Origin(lsn, name) => Wire::message(b'O').u64(*lsn).name(name),
        Sample::Relation(id, namespace, name, identity, columns) => {
            let head = Wire::message(b'R').u32(*id).name(namespace).name(name).u8(*identity);
            columns.iter().fold(head.i16(columns.len() as i16), |wire, (is_key, name, oid, modifier)| {
                wire.u8(u8::from(*is_key)).name(name).u32(*oid).i32(*modifier)
            })
        }
        Sample::Type(oid, namespace, name) => Wire::message(b'Y').u32(*oid).name(namespace).name(name),
        Sample::Insert(id, new) => Wire::message(b'I').u32(*id).u8(b'N').tuple(new),
        Sample::Update(id, None, new) => Wire::message(b'U').u32(*id).u8(b'N').tuple(new),
        Sample::Update(id, Some((marker, old)), new) => {
            Wire::message(b'U').u32(*id).u8(*marker).tuple(old).u8(b'N').tuple(new)
        }
        Sample::Delete(id, marker, old) => Wire::message(b'D').u32(*id).u8(*marker).tuple(old),
        Sample::Truncate(options, ids) => {
            let head = Wire::message(b'T').i32(ids.len() as i32).u8(*options);
            ids.iter().fold(head, |wire, id| wire.u32(*id))
        }
        Sample::Logical(transactional, lsn, prefix, content) => {
            Wire::message(b'M').u8(u8::from(*transactional)).u64(*lsn).name(prefix).counted(content)
        }
    };
    wire.bytes()
}

fn same_row(tuple: &Tuple<'_>, row: &Row) -> bool {
    tuple.len() == row.len() && tuple.columns().eq(row.iter().map(Value::column))
}

fn same_old(old: &OldTuple<'_>, marker: u8, row: &Row) -> bool {
    old.is_full() == (marker == b'O') && same_row(old.tuple(), row)
}

fn identity_byte(identity: ReplicaIdentity) -> u8 {
    match identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    }
}

fn same(sample: &Sample, message: &Message<'_>) -> bool {
    match (sample, message) {
        (Sample::Begin(lsn, time, xid), Message::Begin(m)) => {
            (m.commit_lsn, m.commit_time, m.xid) == (Lsn(*lsn), PgTimestamp(*time), *xid)
        }
        (Sample::Commit(lsn, end, time), Message::Commit(m)) => {
            (m.commit_lsn, m.end_lsn, m.commit_time) == (Lsn(*lsn), Lsn(*end), PgTimestamp(*time))
        }
        (Sample::Origin(lsn, name), Message::Origin(m)) => (m.commit_lsn, m.name) == (Lsn(*lsn), name),
        (Sample::Relation(id, namespace, name, identity, columns), Message::Relation(m)) => {
            let head = (m.id, &m.namespace, &m.name, identity_byte(m.replica_identity));
            let sent = columns.iter().map(|(is_key, name, oid, modifier)| (name, *oid, *modifier, *is_key));
            head == (RelationId(*id), namespace, name, *identity)
                && m.columns.iter().map(|c| (&c.name, c.type_oid, c.type_modifier, c.is_key)).eq(sent)
        }
        (Sample::Type(oid, namespace, name), Message::Type(m)) => {
            (m.oid, m.namespace, m.name) == (*oid, namespace, name)
        }
        (Sample::Insert(id, new), Message::Insert(m)) => m.relation.0 == *id && same_row(&m.new, new),
        (Sample::Update(id, old, new), Message::Update(m)) => {
            let old_is_same = match (old, &m.old) {
                (None, None) => true,
                (Some((marker, old)), Some(read)) => same_old(read, *marker, old),
                _ => false,
            };
            m.relation.0 == *id && old_is_same && same_row(&m.new, new)
        }
        (Sample::Delete(id, marker, old), Message::Delete(m)) => {
            m.relation.0 == *id && same_old(&m.old, *marker, old)
        }
        (Sample::Truncate(options, ids), Message::Truncate(m)) => {
            m.options == *options && m.relations.clone().eq(ids.iter().copied().map(RelationId))
        }
        (Sample::Logical(transactional, lsn, prefix, content), Message::Logical(m)) => {
            (m.transactional, m.lsn, m.prefix, m.content) == (*transactional, Lsn(*lsn), prefix, content)
        }
        _ => false,
    }
}

/// Uses all that a message offers; what was decoded must not fail afterwards.
fn exercise(body: &[u8]) {
    match Message::decode(body) {
        Err(error) => {
            assert!(error.offset <= body.len(), "{error:?}");
            assert!(!error.to_string().is_empty());
        }
        Ok(message) => {
            assert!(!format!("{message:?}").is_empty());
            let walk = |tuple: &Tuple<'_>| {
                assert_eq!(tuple.columns().count(), tuple.len());
                let value_bytes = tuple.columns().map(|column| match column {
                    Column::Null | Column::Unchanged => 0,
                    Column::Text(value) | Column::Binary(value) => value.len(),
                });
                assert!(value_bytes.sum::<usize>() < body.len());
            };
            match message {
                Message::Insert(insert) => walk(&insert.new),
                Message::Update(update) => {
                    walk(&update.new);
                    update.old.iter().for_each(|old| walk(old.tuple()));
                }
                Message::Delete(delete) => walk(delete.old.tuple()),
                Message::Truncate(truncate) => assert!(truncate.relations.count() < body.len()),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(sample in sample()) {
        let body = encode(&sample);
        let message = Message::decode(&body);
        prop_assert!(message.as_ref().is_ok_and(|message| same(&sample, message)), "{:?}", message);
    }

    #[test]
    fn a_part_is_never_a_message(sample in sample(), at in any::<prop::sample::Index>()) {
        let body = encode(&sample);
        prop_assert!(Message::decode(&body[..at.index(body.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in vec(any::<u8>(), 0..200)) {
        exercise(&body);
    }

    #[test]
    fn any_bytes_behind_a_known_tag(
        tag in prop::sample::select(b"BCORYIUDTM".as_slice()),
        rest in vec(any::<u8>(), 0..200),
    ) {
        exercise(&[&[tag], rest.as_slice()].concat());
    }

    /// Closer to a message than any bytes are: one with a few of its bytes changed.
    #[test]
    fn a_damaged_message_is_read_or_refused(
        sample in sample(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = encode(&sample);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        exercise(&body);
    }
}
