//! What a million records cost in CPU, time and memory, by thread, into a real Kafka.
//!
//! `cargo run --release -p headwater-kafka --example produce_cost -- BOOTSTRAP [key=value]…`
//! Own keys: `records`, `bytes` (of a value), `headers` (0 or 1), `queue` (bytes), `partitions`, `rate`
//! (records/s, 0 = as fast as it goes), `topics`; every other key is a librdkafka property.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_kafka::{
    Admin, Delivery, NewTopic, OfferError, Producer, ProducerRecord, Settings, partition_for_key,
};

/// Records offered between two looks at the deliveries, as a pump would do per batch of WAL.
const OFFERS_PER_POLL: u64 = 500;

struct Options {
    records: u64,
    bytes: usize,
    headers: bool,
    partitions: i32,
    topics: u64,
    rate: u64,
    settings: Settings,
}

fn main() {
    let options = options();
    let admin = Admin::new(&options.settings).expect("settings");
    let topics: Vec<String> =
        (0..options.topics).map(|n| format!("produce-cost-{}-{n}", options.partitions)).collect();
    for name in &topics {
        let topic = NewTopic {
            name: name.clone(),
            partitions: options.partitions,
            replication_factor: 1,
            config: BTreeMap::new(),
        };
        admin.create_topic(&topic).expect("create the topic");
    }
    let mut producer = Producer::new(&options.settings).expect("producer");
    let mut deliveries = Vec::new();
    offer_all(&mut producer, &topics, 0..options.topics, &options, &mut deliveries);
    drain(&mut producer, &mut deliveries);

    let before = cpu_by_thread();
    let start = Instant::now();
    let full = offer_all(&mut producer, &topics, 0..options.records, &options, &mut deliveries);
    let offered = start.elapsed();
    let last = drain(&mut producer, &mut deliveries);
    let wall = start.elapsed();
    report(&before, &options, wall);
    println!(
        "  {:.0} records/s, offered after {offered:.2?}, all acknowledged after {wall:.2?}, full {full} times, \
         failed {last}, peak rss {} MiB",
        options.records as f64 / wall.as_secs_f64(),
        status_kib("VmHWM:") / 1024,
    );
    let dropping = Instant::now();
    producer.purge_and_drop();
    println!("  dropped in {:.2?}", dropping.elapsed());
}

fn options() -> Options {
    let mut arguments = std::env::args().skip(1);
    let bootstrap_servers = arguments.next().expect("usage: produce_cost BOOTSTRAP [key=value]…");
    let mut properties: BTreeMap<String, String> = arguments
        .map(|a| a.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("key=value"))
        .collect();
    let mut number = |key: &str, default: u64| {
        properties
            .remove(key)
            .map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{key} must be a number")))
    };
    Options {
        records: number("records", 1_000_000),
        bytes: number("bytes", 250) as usize,
        headers: number("headers", 1) != 0,
        partitions: number("partitions", 6) as i32,
        topics: number("topics", 1),
        rate: number("rate", 0),
        settings: Settings { bootstrap_servers, queue_bytes_max: number("queue", 32 << 20), properties },
    }
}

fn offer_all(
    producer: &mut Producer,
    topics: &[String],
    records: std::ops::Range<u64>,
    options: &Options,
    deliveries: &mut Vec<Delivery>,
) -> u64 {
    let mut value = vec![b'x'; options.bytes];
    let mut full = 0;
    let start = Instant::now();
    for n in records {
        if let Some(nanos) = (n * 1_000_000_000).checked_div(options.rate) {
            let due = start + Duration::from_nanos(nanos);
            while Instant::now() < due {
                producer.poll((due - Instant::now()).min(Duration::from_millis(1)), deliveries);
                deliveries.clear();
            }
        }
        let key = key(n);
        fill(&mut value, n);
        let id = id(n);
        let headers: &[(&str, &[u8])] = if options.headers { &[("headwater.id", &id)] } else { &[] };
        let record = ProducerRecord {
            topic: &topics[(n % topics.len() as u64) as usize],
            partition: partition_for_key(&key, options.partitions),
            key: Some(&key),
            value: Some(&value),
            headers,
            timestamp_ms: None,
            token: n,
        };
        loop {
            match producer.offer(&record) {
                Ok(()) => break,
                Err(OfferError::Full) => {
                    full += 1;
                    producer.poll(Duration::from_millis(1), deliveries);
                    deliveries.clear();
                }
                Err(OfferError::Failed(error)) => panic!("{error}"),
            }
        }
        if n % OFFERS_PER_POLL == 0 {
            producer.poll(Duration::ZERO, deliveries);
            deliveries.clear();
        }
    }
    full
}

fn drain(producer: &mut Producer, deliveries: &mut Vec<Delivery>) -> usize {
    let mut failed = 0;
    while producer.in_flight() > 0 {
        producer.poll(Duration::from_millis(100), deliveries);
        failed += deliveries.drain(..).filter(|d| d.result.is_err()).count();
    }
    failed
}

/// A registry header and a long, as the key of an inventory row is.
fn key(n: u64) -> [u8; 9] {
    let mut key = [0, 0, 0, 0, 7, 0, 0, 0, 0];
    key[5..].copy_from_slice(&((n % 50_000) as u32).to_be_bytes());
    key
}

/// About as repetitive as envelopes are: names stay, numbers change.
fn fill(value: &mut [u8], n: u64) {
    let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (offset, word) in [(5, n), (30, noise), (38, noise.rotate_left(17)), (90, n / 10), (150, n / 1000)] {
        if let Some(place) = value.get_mut(offset..offset + 8) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// `16/B374D848/12` in the length that real ones have, without allocating.
fn id(n: u64) -> [u8; 16] {
    let mut id = *b"16/00000000/0001";
    for (digit, place) in id[3..11].iter_mut().rev().enumerate() {
        *place = b"0123456789ABCDEF"[((n >> (4 * digit)) & 15) as usize];
    }
    id
}

/// Nanoseconds on the CPU per thread, from the scheduler.
fn cpu_by_thread() -> BTreeMap<(String, String), u64> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    tasks
        .filter_map(|task| {
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
            let ran = std::fs::read_to_string(path.join("schedstat")).ok()?;
            let id = path.file_name()?.to_string_lossy().into_owned();
            Some(((name, id), ran.split(' ').next()?.parse().ok()?))
        })
        .collect()
}

fn report(before: &BTreeMap<(String, String), u64>, options: &Options, wall: Duration) {
    let millions = options.records as f64 / 1e6;
    let mut total = 0.0;
    for (thread, nanos) in cpu_by_thread() {
        let seconds = (nanos - before.get(&thread).unwrap_or(&0)) as f64 / 1e9;
        total += seconds;
        if seconds > 0.005 {
            println!("  {:<16} {:.3} CPU-seconds per million", thread.0, seconds / millions);
        }
    }
    println!(
        "  {:<16} {:.3} CPU-seconds per million, {:.3} cores",
        "total",
        total / millions,
        total / wall.as_secs_f64()
    );
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
