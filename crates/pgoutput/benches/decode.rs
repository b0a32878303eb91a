//! What it costs to decode a row message, and to decode it and touch each of its columns.
//!
//! The rows are of the kinds that a stream consists of: an inventory change of five short columns, a row of
//! forty, a row with one value of 100 kB. The walk over the columns bounds decoding; the size of a value must
//! not matter.

#[path = "../tests/wire/mod.rs"]
mod wire;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater_pgoutput::{Column, Message, Tuple};
use wire::{Value, Wire};

fn inventory(quantity: &str) -> Vec<Value> {
    ["4711", "SKU-000004711", quantity, "warehouse-7", "2026-01-02 03:04:05.678901+00"]
        .map(Value::text)
        .to_vec()
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let insert = |row: &[Value]| Wire::message(b'I').u32(16_384).u8(b'N').tuple(row).bytes();
    let update =
        Wire::message(b'U').u32(16_384).u8(b'O').tuple(&inventory("41")).u8(b'N').tuple(&inventory("40"));
    let wide: Vec<Value> =
        (0..40).map(|n| if n % 4 == 3 { Value::Null } else { Value::text("some text") }).collect();
    let large = [Value::text("4711"), Value::Text(vec![b'x'; 100_000])];
    vec![
        ("begin", Wire::message(b'B').u64(0x16_B374_D848).i64(800_000_000_000_000).u32(7).bytes()),
        ("insert of 5 columns", insert(&inventory("41"))),
        ("update of 5 columns with the old row", update.bytes()),
        ("insert of 40 columns", insert(&wide)),
        ("insert of 100 kB", insert(&large)),
    ]
}

/// Stands for an encoder: looks at the kind and the length of every column.
fn touch(tuple: &Tuple<'_>) -> usize {
    let lengths = tuple.columns().map(|column| match column {
        Column::Null | Column::Unchanged => 1,
        Column::Text(value) | Column::Binary(value) => value.len(),
    });
    lengths.sum()
}

fn decode_and_touch(body: &[u8]) -> usize {
    match Message::decode(body) {
        Ok(Message::Insert(insert)) => touch(&insert.new),
        Ok(Message::Update(update)) => touch(&update.new) + update.old.map_or(0, |old| touch(old.tuple())),
        Ok(_) => 0,
        Err(error) => panic!("{error}"),
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, body) in samples() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Message::decode(black_box(&body)).is_ok());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("decode and read every column");
    group.throughput(Throughput::Elements(1));
    for (name, body) in samples() {
        group.bench_function(name, |bencher| bencher.iter(|| decode_and_touch(black_box(&body))));
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
