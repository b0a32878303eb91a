//! Rows that were read, against the snapshot that Debezium made of the same tables: what stands around the row. The
//! rows themselves are in `golden.rs` and `golden_modes.rs`. Every deliberate difference is named here.

mod support;

use apache_avro::types::Value as Avro;
use headwater_avro::{
    Change, ChangeSource, Envelope, FORMAT_VERSION, MetadataField, MetadataFields, Op, PgType,
    RecordEncoding, RecordSettings, SnapshotMark, SourceSettings, TableDescription, ValuePlan,
    write_json_change,
};
use headwater_pgoutput::Lsn;
use serde_json::{Value as Json, json};
use support::{Row, SCHEMA_ID, column, field, parse, table, text};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden");
const MARKS: [SnapshotMark; 6] = [
    SnapshotMark::First,
    SnapshotMark::FirstInDataCollection,
    SnapshotMark::True,
    SnapshotMark::LastInDataCollection,
    SnapshotMark::Last,
    SnapshotMark::Incremental,
];
const MICROS: i64 = 1_795_244_637_189_025;

fn lines(path: &str) -> Vec<Json> {
    let path = format!("{FIXTURES}/{path}");
    let lines = std::fs::read_to_string(&path).expect(&path);
    lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn item(schema: &str, name: &str) -> TableDescription {
    TableDescription { schema: schema.to_owned(), ..table(name, &[0], vec![column("id", PgType::Int4)]) }
}

fn source(mark: SnapshotMark, lsn: u64, micros: i64) -> ChangeSource<'static> {
    ChangeSource {
        // None of these is known of a row that was read, and none may show.
        commit_lsn: Lsn(1_234_567),
        xid: 7_654_321,
        lsn: Lsn(lsn),
        commit_unix_micros: micros,
        origin: None,
        place: None,
        snapshot: mark,
    }
}

fn encoded(
    table: &TableDescription,
    settings: &SourceSettings,
    records: &RecordSettings,
    source: &ChangeSource<'_>,
) -> (ValuePlan, Vec<u8>) {
    let plan = ValuePlan::new(table, settings, records).expect("a schema");
    let row = Row::new(&[text("1")]);
    let after = row.tuple();
    let change = Change { op: Op::Read, before: None, before_is_full: false, after: Some(&after), source };
    let mut out = Vec::new();
    plan.encode_into(SCHEMA_ID, &change, &mut out).expect("a row");
    let is_avro_envelope =
        records.envelope != Envelope::Flat && records.value_encoding == RecordEncoding::Avro;
    let tail = plan.tail_of_reads(source);
    assert_eq!(tail.is_some(), is_avro_envelope, "{records:?}");
    if let Some(tail) = tail {
        let mut read = Vec::new();
        plan.encode_read_into(SCHEMA_ID, &after, source, &tail, &mut read).expect("a row");
        assert_eq!(read, out, "with the tail that was made once: {:?}", source.snapshot);
    }
    (plan, out)
}

fn string(record: &Avro, name: &str) -> String {
    match field(record, name) {
        Avro::String(text) => text,
        other => panic!("{name}: {other:?}"),
    }
}

fn long(record: &Avro, name: &str) -> i64 {
    match field(record, name) {
        Avro::Long(number) => number,
        other => panic!("{name}: {other:?}"),
    }
}

fn mark(word: &str) -> SnapshotMark {
    MARKS.into_iter().find(|mark| mark.word() == word).expect("a mark")
}

/// The same table at the same position and time gives what Debezium wrote around the row.
fn check(golden: &Avro, what: &str) {
    let theirs = field(golden, "source");
    let mark = mark(&string(&theirs, "snapshot"));
    let settings = SourceSettings { prefix: string(&theirs, "name"), database: string(&theirs, "db") };
    let source = source(mark, long(&theirs, "lsn") as u64, long(&theirs, "ts_us"));
    let described = item(&string(&theirs, "schema"), &string(&theirs, "table"));
    let (plan, out) = encoded(&described, &settings, &RecordSettings::default(), &source);
    let ours = support::decode(&parse(plan.schema_json()), &out);
    assert_eq!(field(&ours, "before"), field(golden, "before"), "{what}");
    assert_eq!(field(&ours, "op"), field(golden, "op"), "{what}");
    assert_eq!(field(&ours, "transaction"), field(golden, "transaction"), "{what}");
    let ours = field(&ours, "source");
    let Avro::Record(fields) = &theirs else { panic!("{theirs:?}") };
    for (name, _) in fields {
        let (ours, theirs) = (field(&ours, name), field(&theirs, name));
        match name.as_str() {
            "version" => assert_eq!(ours, Avro::String(FORMAT_VERSION.to_owned()), "{what}"),
            // Debezium makes its own transaction take an id, and writes that.
            "txId" => assert!(ours == Avro::Null && matches!(theirs, Avro::Long(_)), "{what}"),
            _ => assert_eq!(ours, theirs, "{name} of {what}"),
        }
    }
}

/// As `check`, of a record in JSON.
fn check_json(golden: &Json, what: &str) -> SnapshotMark {
    let theirs = &golden["source"];
    let word = |name: &str| theirs[name].as_str().expect(what).to_owned();
    let mark = mark(&word("snapshot"));
    let settings = SourceSettings { prefix: word("name"), database: word("db") };
    let (lsn, micros) = (theirs["lsn"].as_u64().expect(what), theirs["ts_us"].as_i64().expect(what));
    let records = RecordSettings { value_encoding: RecordEncoding::Json, ..RecordSettings::default() };
    let described = item(&word("schema"), &word("table"));
    let (_, out) = encoded(&described, &settings, &records, &source(mark, lsn, micros));
    let ours: Json = serde_json::from_slice(&out).expect("JSON");
    let (mut wanted, differ) = (theirs.clone(), ["version", "txId"]);
    for name in differ {
        wanted[name] = ours["source"][name].clone();
    }
    assert_eq!(ours["source"], wanted, "{what}");
    assert_eq!((&ours["op"], &ours["transaction"]), (&golden["op"], &golden["transaction"]), "{what}");
    mark
}

#[test]
fn what_stands_around_a_row_is_debeziums() {
    for recording in ["", "strings/", "doubles/", "micros/", "all-events/"] {
        let records = lines(&format!("{recording}events.jsonl"));
        let read: Vec<_> = records.iter().filter(|record| record["op"] == "r").collect();
        assert!(!read.is_empty(), "no row was read in {recording}");
        for record in read {
            let name = record["table"].as_str().expect("a table");
            let path = format!("{FIXTURES}/{recording}schemas/{name}-value.json");
            let schema = parse(&std::fs::read_to_string(&path).expect(&path));
            let value = support::base64(record["value_b64"].as_str().expect("a value"));
            check(&support::decode(&schema, &value), &format!("{recording}{name}"));
        }
    }
}

#[test]
fn what_stands_around_a_row_is_debeziums_json() {
    let mut seen = Vec::new();
    for recording in ["default", "strings", "doubles", "micros"] {
        for record in lines(&format!("json/{recording}.jsonl")) {
            if record["value"]["op"] == "r" {
                seen.push(check_json(&record["value"], &format!("{recording} {}", record["table"])));
            }
        }
    }
    for mark in [
        SnapshotMark::First,
        SnapshotMark::FirstInDataCollection,
        SnapshotMark::LastInDataCollection,
        SnapshotMark::Last,
    ] {
        assert!(seen.contains(&mark), "no record is marked {}", mark.word());
    }
}

#[test]
fn every_mark_in_every_form() {
    let described = item("zoo", "item");
    for mark in MARKS {
        let lsn = if mark == SnapshotMark::Incremental { Json::Null } else { json!(2_094_379_232_u64) };
        let source = source(mark, 2_094_379_232, MICROS);
        let json = RecordSettings { value_encoding: RecordEncoding::Json, ..RecordSettings::default() };
        let (_, out) = encoded(&described, &support::source(), &json, &source);
        let record: Json = serde_json::from_slice(&out).expect("JSON");
        let ours = &record["source"];
        assert_eq!(ours["snapshot"], mark.word());
        assert_eq!(ours["sequence"], r#"[null,"2094379232"]"#, "{mark:?}");
        assert_eq!(
            (&ours["lsn"], &ours["txId"], &ours["xmin"]),
            (&lsn, &Json::Null, &Json::Null),
            "{mark:?}"
        );
        assert_eq!((&ours["origin"], &ours["origin_lsn"]), (&Json::Null, &Json::Null), "{mark:?}");
        assert_eq!((&record["op"], &record["transaction"]), (&json!("r"), &Json::Null), "{mark:?}");
        assert_eq!((&record["ts_us"], &ours["ts_us"]), (&json!(MICROS), &json!(MICROS)), "{mark:?}");

        let names = ["op", "source.snapshot", "lsn", "txId", "sequence", "ts_us"];
        let fields = names.map(|name| MetadataField::parse(name).expect("a field"));
        let flat = RecordSettings {
            envelope: Envelope::Flat,
            metadata_fields: MetadataFields(fields.to_vec()),
            ..json
        };
        let (_, out) = encoded(&described, &support::source(), &flat, &source);
        let wanted = json!({
            "id": 1, "__op": "r", "__source_snapshot": mark.word(), "__lsn": lsn, "__txId": null,
            "__sequence": r#"[null,"2094379232"]"#, "__ts_us": MICROS,
        });
        assert_eq!(serde_json::from_slice::<Json>(&out).expect("JSON"), wanted, "{mark:?}");

        let row = Row::new(&[text("1")]);
        let after = row.tuple();
        let change = Change {
            op: Op::Read,
            before: None,
            before_is_full: false,
            after: Some(&after),
            source: &source,
        };
        let mut line = Vec::new();
        write_json_change(&described, &change, &mut line);
        let wanted = format!(
            r#"{{"op":"r","before":null,"after":{{"id":1}},"source":{{"schema":"zoo","table":"item","snapshot":"{}","ts_us":{MICROS},"lsn":"0/7CD5B0E0"}}}}"#,
            mark.word()
        );
        assert_eq!(String::from_utf8(line).expect("text"), wanted);
    }
}
