//! One row of an inventory table: pgoutput decoded, the change encoded, both together; beside it apache-avro's own
//! encoder on a ready-made value of the same schema, which is a lower bound of any way through a value tree.
//!
//! `cargo bench -p headwater-avro`

use std::hint::black_box;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater_avro::{
    Change, ChangeSource, ColumnDescription, ColumnMasks, ColumnPatterns, Envelope, KeyPlan, Mask, Op,
    PgType, RecordEncoding, RecordSettings, SchemaId, SnapshotMark, SourceSettings, TableDescription,
    ValuePlan,
};
use headwater_pgoutput::{Lsn, Message, RelationId, ReplicaIdentity};

const ROW: [&str; 6] = [
    "1234567",
    "SKU-00012345",
    "Rubber boots, green, size 43",
    "250",
    "39.90",
    "2026-02-14 09:26:53.589793+00",
];

fn insert_message() -> Vec<u8> {
    let mut body = b"I\0\0\x40\x01N\0\x06".to_vec();
    for text in ROW {
        body.push(b't');
        body.extend((text.len() as u32).to_be_bytes());
        body.extend(text.as_bytes());
    }
    body
}

fn inventory() -> TableDescription {
    let types = [
        ("id", PgType::Int8),
        ("sku", PgType::Text),
        ("name", PgType::Text),
        ("quantity", PgType::Int4),
        ("price", PgType::Numeric { precision: 10, scale: 2 }),
        ("updated_at", PgType::TimestampTz { precision: 6 }),
    ];
    let columns = types.map(|(name, pg_type)| ColumnDescription {
        name: name.to_owned(),
        type_name: String::new(),
        pg_type,
        not_null: name == "id",
        default: None,
        in_identity: name == "id",
        declared: None,
        key_labels: None,
    });
    TableDescription {
        relation: RelationId(16_385),
        schema: "public".to_owned(),
        table: "inventory".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.to_vec(),
        key: vec![0],
    }
}

const SOURCE: ChangeSource<'static> = ChangeSource {
    commit_lsn: Lsn(97_500_111_222),
    lsn: Lsn(97_500_110_000),
    commit_unix_micros: 1_771_061_213_589_793,
    xid: 987_654,
    origin: None,
    place: None,
    snapshot: SnapshotMark::None,
};

fn encode(value: &ValuePlan, key: &KeyPlan, message: &Message<'_>, out: &mut Vec<u8>) {
    let Message::Insert(insert) = message else { panic!("not an insert") };
    let change = Change {
        op: Op::Create,
        before: None,
        before_is_full: false,
        after: Some(&insert.new),
        source: &SOURCE,
    };
    key.encode_into(SchemaId(1), &insert.new, out).expect("a key");
    value.encode_into(SchemaId(2), &change, out).expect("a value");
}

fn inventory_row(criterion: &mut Criterion) {
    let (table, source) =
        (inventory(), SourceSettings { prefix: "shop".to_owned(), database: "shop".to_owned() });
    let value = ValuePlan::new(&table, &source, &RecordSettings::default()).expect("a schema");
    let key = KeyPlan::new(&table, &source, &RecordSettings::default()).expect("a schema").expect("a key");
    let body = insert_message();
    let message = Message::decode(&body).expect("an insert");
    let mut out = Vec::with_capacity(4096);

    let mut group = criterion.benchmark_group("inventory row");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Message::decode(black_box(&body)).expect("an insert"));
    });
    group.bench_function("encode key and value", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(&value, &key, black_box(&message), &mut out);
            black_box(out.len())
        });
    });
    let shaped = |records: RecordSettings| {
        let value = ValuePlan::new(&table, &source, &records).expect("a schema");
        let key = KeyPlan::new(&table, &source, &records).expect("a schema").expect("a key");
        (value, key)
    };
    let json = RecordSettings {
        key_encoding: RecordEncoding::Json,
        value_encoding: RecordEncoding::Json,
        ..RecordSettings::default()
    };
    let flat = RecordSettings { envelope: Envelope::Flat, ..RecordSettings::default() };
    let masked = RecordSettings {
        masks: ColumnMasks::new([("name".to_owned(), Mask::Hash)]),
        columns_exclude: ColumnPatterns(vec!["sku".to_owned()]),
        ..RecordSettings::default()
    };
    for (name, records) in [("flat", flat), ("one column hashed, one left out", masked), ("as JSON", json)] {
        let (value, key) = shaped(records);
        group.bench_function(format!("encode key and value, {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(&value, &key, black_box(&message), &mut out);
                black_box(out.len())
            });
        });
    }
    group.bench_function("decode and encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(&value, &key, &Message::decode(black_box(&body)).expect("an insert"), &mut out);
            black_box(out.len())
        });
    });

    out.clear();
    let Message::Insert(insert) = &message else { panic!("not an insert") };
    let change = Change {
        op: Op::Create,
        before: None,
        before_is_full: false,
        after: Some(&insert.new),
        source: &SOURCE,
    };
    value.encode_into(SchemaId(2), &change, &mut out).expect("a value");
    let schema = Schema::parse_str(value.schema_json()).expect("a valid schema");
    let reader = GenericDatumReader::builder(&schema).build().expect("a resolved schema");
    let tree = reader.read_value(&mut &out[5..]).expect("valid Avro");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a resolved schema");
    assert_eq!(writer.write_value_to_vec(tree.clone()).expect("valid Avro"), out[5..], "the same bytes");
    group.bench_function("apache-avro, value only, tree given", |bencher| {
        bencher.iter_batched(
            || tree.clone(),
            |tree| black_box(&writer).write_value_to_vec(tree).expect("valid Avro"),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, inventory_row);
criterion_main!(benches);
