//! Every message of protocol 1, one sample each, and every way to be none of them.

mod wire;

use headwater_pgoutput::{
    Begin, Column, Commit, DecodeError, Logical, Lsn, Message, OldTuple, Origin, PgTimestamp, Reason,
    RelationId, ReplicaIdentity, TableColumn, TableSchema, Tuple, TypeName,
};
use wire::{Value, Wire};

const T: RelationId = RelationId(16_384);

fn decode(body: &[u8]) -> Message<'_> {
    Message::decode(body).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn assert_columns(tuple: &Tuple<'_>, expected: &[Column<'_>]) {
    assert!(tuple.columns().eq(expected.iter().copied()), "{tuple:?}");
    assert_eq!(tuple.columns().len(), expected.len());
    assert_eq!(tuple.len(), expected.len());
    assert_eq!(tuple.is_empty(), expected.is_empty());
    for (index, column) in expected.iter().enumerate() {
        assert_eq!(tuple.column(index), Some(*column));
    }
    assert_eq!(tuple.column(expected.len()), None);
}

fn begin() -> Wire {
    Wire::message(b'B').u64(0x16_B374_D848).i64(800_000_000_000_000).u32(4_000_000_000)
}

fn commit() -> Wire {
    Wire::message(b'C').u8(0).u64(0x16_B374_D848).u64(0x16_B374_D878).i64(800_000_000_000_000)
}

fn origin() -> Wire {
    Wire::message(b'O').u64(0xAB).name("büro_süd")
}

fn relation() -> Wire {
    let head = Wire::message(b'R').u32(T.0).name("public").name("größen").u8(b'd').i16(2);
    head.u8(1).name("id").u32(23).i32(-1).u8(0).name("价格").u32(1700).i32(655_366)
}

fn type_name() -> Wire {
    Wire::message(b'Y').u32(16_390).name("public").name("mood")
}

fn row() -> Vec<Value> {
    vec![Value::text("7"), Value::Null, Value::Unchanged, Value::Binary(vec![0, 255]), Value::text("")]
}

const ROW: [Column<'static>; 5] =
    [Column::Text(b"7"), Column::Null, Column::Unchanged, Column::Binary(&[0, 255]), Column::Text(b"")];

fn insert() -> Wire {
    Wire::message(b'I').u32(T.0).u8(b'N').tuple(&row())
}

fn update(old: Option<u8>) -> Wire {
    let head = Wire::message(b'U').u32(T.0);
    let head = old.map_or(head.clone(), |marker| head.u8(marker).tuple(&[Value::text("6"), Value::Null]));
    head.u8(b'N').tuple(&row())
}

fn delete(marker: u8) -> Wire {
    Wire::message(b'D').u32(T.0).u8(marker).tuple(&[Value::text("7"), Value::Null])
}

fn truncate() -> Wire {
    Wire::message(b'T').i32(2).u8(3).u32(T.0).u32(16_400)
}

fn logical() -> Wire {
    Wire::message(b'M').u8(1).u64(0xCD).name("outbox.order").counted(b"{\"id\":1}")
}

/// One of each message, and of each form of it.
fn samples() -> Vec<Vec<u8>> {
    let all = [
        begin(),
        commit(),
        origin(),
        relation(),
        type_name(),
        insert(),
        update(None),
        update(Some(b'K')),
        update(Some(b'O')),
        delete(b'K'),
        delete(b'O'),
        truncate(),
        logical(),
    ];
    all.into_iter().map(Wire::bytes).collect()
}

#[test]
fn begin_commit_origin_type() {
    let (commit_lsn, commit_time) = (Lsn(0x16_B374_D848), PgTimestamp(800_000_000_000_000));
    let begun = Begin { commit_lsn, commit_time, xid: 4_000_000_000 };
    assert_eq!(decode(&begin().bytes()), Message::Begin(begun));
    let committed = Commit { commit_lsn, end_lsn: Lsn(0x16_B374_D878), commit_time };
    assert_eq!(decode(&commit().bytes()), Message::Commit(committed));
    let elsewhere = Origin { commit_lsn: Lsn(0xAB), name: "büro_süd" };
    assert_eq!(decode(&origin().bytes()), Message::Origin(elsewhere));
    let mood = TypeName { oid: 16_390, namespace: "public", name: "mood" };
    assert_eq!(decode(&type_name().bytes()), Message::Type(mood));
}

#[test]
fn relation_with_columns() {
    let column = |name: &str, type_oid, type_modifier, is_key| TableColumn {
        name: name.to_owned(),
        type_oid,
        type_modifier,
        is_key,
    };
    let table = TableSchema {
        id: T,
        namespace: "public".to_owned(),
        name: "größen".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("id", 23, -1, true), column("价格", 1700, 655_366, false)],
    };
    assert_eq!(decode(&relation().bytes()), Message::Relation(table.clone()));
    let json = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<TableSchema>(&json).unwrap(), table);
}

#[test]
fn replica_identities() {
    let check = |byte, expected| {
        let body = Wire::message(b'R').u32(1).name("s").name("t").u8(byte).i16(0).bytes();
        let Message::Relation(table) = decode(&body) else { panic!("no relation") };
        assert_eq!(table.replica_identity, expected);
        assert!(table.columns.is_empty());
    };
    check(b'd', ReplicaIdentity::Default);
    check(b'n', ReplicaIdentity::Nothing);
    check(b'f', ReplicaIdentity::Full);
    check(b'i', ReplicaIdentity::Index);
}

#[test]
fn an_empty_namespace_is_pg_catalog() {
    let body = Wire::message(b'R').u32(1).name("").name("pg_class").u8(b'n').i16(0).bytes();
    assert!(matches!(decode(&body), Message::Relation(table) if table.namespace == "pg_catalog"));
    let body = Wire::message(b'Y').u32(1).name("").name("t").bytes();
    assert!(matches!(decode(&body), Message::Type(name) if name.namespace == "pg_catalog"));
}

#[test]
fn rows() {
    let old = [Column::Text(b"6"), Column::Null];
    let body = insert().bytes();
    let Message::Insert(insert) = decode(&body) else { panic!("no insert") };
    assert_eq!(insert.relation, T);
    assert_columns(&insert.new, &ROW);

    for marker in [None, Some(b'K'), Some(b'O')] {
        let body = update(marker).bytes();
        let Message::Update(update) = decode(&body) else { panic!("no update") };
        assert_eq!(update.relation, T);
        assert_columns(&update.new, &ROW);
        assert_eq!(update.old.map(|old| old.is_full()), marker.map(|marker| marker == b'O'));
        if let Some(tuple) = update.old {
            assert_columns(tuple.tuple(), &old);
        }
    }

    for marker in [b'K', b'O'] {
        let body = delete(marker).bytes();
        let Message::Delete(delete) = decode(&body) else { panic!("no delete") };
        assert_eq!(delete.relation, T);
        assert_eq!(matches!(delete.old, OldTuple::Full(_)), marker == b'O');
        assert_columns(delete.old.tuple(), &[Column::Text(b"7"), Column::Null]);
    }
}

#[test]
fn a_row_without_columns() {
    let body = Wire::message(b'I').u32(T.0).u8(b'N').tuple(&[]).bytes();
    let Message::Insert(insert) = decode(&body) else { panic!("no insert") };
    assert_columns(&insert.new, &[]);
}

#[test]
fn truncate_and_its_options() {
    for options in 0..=3 {
        let body = Wire::message(b'T').i32(2).u8(options).u32(T.0).u32(16_400).bytes();
        let Message::Truncate(truncate) = decode(&body) else { panic!("no truncate") };
        assert_eq!(truncate.cascade(), options & 1 != 0);
        assert_eq!(truncate.restart_identity(), options & 2 != 0);
        assert_eq!(truncate.relations.len(), 2);
        assert_eq!(truncate.relations.collect::<Vec<_>>(), [T, RelationId(16_400)]);
    }
}

#[test]
fn logical_messages() {
    let expected =
        Logical { transactional: true, lsn: Lsn(0xCD), prefix: "outbox.order", content: b"{\"id\":1}" };
    assert_eq!(decode(&logical().bytes()), Message::Logical(expected));
    let body = Wire::message(b'M').u8(0).u64(1).name("").counted(&[0, 159, 146, 150]).bytes();
    let expected = Logical { transactional: false, lsn: Lsn(1), prefix: "", content: &[0, 159, 146, 150] };
    assert_eq!(decode(&body), Message::Logical(expected));
}

#[test]
fn cut_off_at_every_length() {
    for body in samples() {
        for length in 0..body.len() {
            let error = Message::decode(&body[..length]).expect_err("a part of a message is none");
            assert_eq!(error.tag, if length == 0 { 0 } else { body[0] });
            assert!(error.offset <= length, "{error}");
            assert!(matches!(error.reason, Reason::Short { .. } | Reason::UnterminatedName), "{error}");
            if let Reason::Short { needed, left } = error.reason {
                assert!(needed > left && error.offset + left == length, "{error}");
            }
        }
    }
}

#[test]
fn followed_by_anything() {
    for body in samples() {
        for bytes in 1..4 {
            let longer = [body.as_slice(), &[0, 1, 2][..bytes]].concat();
            let expected =
                DecodeError { tag: body[0], offset: body.len(), reason: Reason::Trailing { bytes } };
            assert_eq!(Message::decode(&longer), Err(expected));
        }
    }
}

/// Messages that protocol 1 does not know, but later versions and the `streaming` and `two_phase` options do.
#[test]
fn unknown_tags() {
    for tag in (0..=255u8).filter(|tag| !b"BCORYIUDTM".contains(tag)) {
        let body = [tag, 0, 0, 0, 0];
        let expected = DecodeError { tag, offset: 0, reason: Reason::UnknownTag };
        assert_eq!(Message::decode(&body), Err(expected));
    }
}

#[track_caller]
fn check_refused(body: Wire, offset: usize, reason: Reason) {
    let body = body.bytes();
    assert_eq!(Message::decode(&body), Err(DecodeError { tag: body[0], offset, reason }));
}

#[test]
fn undefined_flags_and_markers() {
    let undefined = |field, expected| Reason::Undefined { field, expected };
    let flags = undefined("flags byte", "0");
    check_refused(Wire::message(b'C').u8(1).u64(1).u64(2).i64(3), 1, flags);
    let flags = undefined("flags byte", "0 or 1");
    check_refused(Wire::message(b'M').u8(2).u64(1).name("p").counted(b""), 1, flags);
    let options = undefined("options byte", "0 to 3");
    check_refused(Wire::message(b'T').i32(1).u8(4).u32(1), 5, options);
    let identity = undefined("replica identity", "d, n, f or i");
    check_refused(Wire::message(b'R').u32(1).name("s").name("t").u8(b'x').i16(0), 9, identity);
    let flags = undefined("column's flags byte", "0 or 1");
    let table = Wire::message(b'R').u32(1).name("s").name("t").u8(b'd').i16(1);
    check_refused(table.u8(2).name("c").u32(23).i32(-1), 12, flags);

    let new_only = undefined("tuple marker", "N");
    check_refused(Wire::message(b'I').u32(1).u8(b'O').tuple(&row()), 5, new_only);
    check_refused(
        Wire::message(b'U').u32(1).u8(b'X').tuple(&row()),
        5,
        undefined("tuple marker", "K, O or N"),
    );
    let twice_old = Wire::message(b'U').u32(1).u8(b'K').tuple(&[Value::Null]).u8(b'K').tuple(&row());
    check_refused(twice_old, 9, new_only);
    check_refused(Wire::message(b'D').u32(1).u8(b'N').tuple(&row()), 5, undefined("tuple marker", "K or O"));
    let kind = undefined("column kind", "n, u, t or b");
    check_refused(Wire::message(b'I').u32(1).u8(b'N').i16(2).u8(b'n').u8(b'x'), 9, kind);
}

#[test]
fn negative_lengths_and_counts() {
    let negative = |field, value| Reason::Negative { field, value };
    let insert = || Wire::message(b'I').u32(1).u8(b'N');
    check_refused(insert().i16(-1), 6, negative("number of columns", -1));
    check_refused(insert().i16(1).u8(b't').i32(-1), 9, negative("column length", -1));
    check_refused(insert().i16(1).u8(b'b').i32(i32::MIN), 9, negative("column length", i32::MIN));
    check_refused(Wire::message(b'T').i32(-2).u8(0), 1, negative("number of tables", -2));
    let logical = Wire::message(b'M').u8(0).u64(1).name("p").i32(-3);
    check_refused(logical, 12, negative("content length", -3));
    let table = Wire::message(b'R').u32(1).name("s").name("t").u8(b'd');
    check_refused(table.i16(-4), 10, negative("number of columns", -4));
}

/// A length is compared with what is there before anything of that size is taken.
#[test]
fn lengths_beyond_the_message() {
    let short = |needed, left| Reason::Short { needed, left };
    let insert = Wire::message(b'I').u32(1).u8(b'N');
    check_refused(insert.clone().i16(1).u8(b't').i32(i32::MAX).raw(b"ab"), 13, short(i32::MAX as usize, 2));
    check_refused(insert.i16(i16::MAX).u8(b'n'), 9, short(1, 0));
    let truncate = Wire::message(b'T').i32(i32::MAX).u8(0).u32(1);
    check_refused(truncate, 6, short(i32::MAX as usize * 4, 4));
    let table = Wire::message(b'R').u32(1).name("s").name("t").u8(b'd');
    check_refused(table.i16(i16::MAX).u8(0), 12, short(i16::MAX as usize * 10, 1));
}

#[test]
fn names_that_are_not_utf8() {
    let reason = Reason::NameNotUtf8;
    check_refused(Wire::message(b'O').u64(1).raw(b"ab\xFF\0"), 9, reason);
    check_refused(Wire::message(b'Y').u32(1).raw(b"\xC3\0").name("t"), 5, reason);
    check_refused(Wire::message(b'Y').u32(1).name("s").raw(b"\xC3\0"), 7, reason);
    check_refused(Wire::message(b'M').u8(0).u64(1).raw(b"\x80\0").counted(b""), 10, reason);
    check_refused(Wire::message(b'R').u32(1).raw(b"\xED\xA0\x80\0").name("t").u8(b'd').i16(0), 5, reason);
    let table = Wire::message(b'R').u32(1).name("s").name("t").u8(b'd').i16(1);
    check_refused(table.u8(0).raw(b"\xF8\0").u32(23).i32(-1), 13, reason);
    check_refused(Wire::message(b'O').u64(1).raw(b"no end"), 9, Reason::UnterminatedName);
}

#[test]
fn values_are_not_in_debug_nor_in_errors() {
    let secret = || Value::text("s3cr3t");
    let row = Wire::message(b'U').u32(1).u8(b'O').tuple(&[secret()]).u8(b'N').tuple(&[secret()]).bytes();
    let message = Wire::message(b'M').u8(1).u64(1).name("p").counted(b"s3cr3t").bytes();
    for body in [row, message] {
        let text = format!("{:?}", decode(&body));
        assert!(!text.contains("s3cr3t") && !text.contains("115") && text.contains("6 bytes"), "{text}");
    }
    let body = Wire::message(b'I').u32(1).u8(b'N').i16(2).u8(b't').counted(b"s3cr3t").raw(b"s3cr3t").bytes();
    let error = Message::decode(&body).unwrap_err();
    assert_eq!(error.to_string(), "Insert message, byte 19: the column kind is not n, u, t or b");
}
