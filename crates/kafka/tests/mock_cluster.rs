//! The producer's promises, against librdkafka's mock cluster: order, `Full`, error classes, a quick end. And that a
//! member leaves its group whatever it was told and has not answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_kafka::{
    Admin, AssignmentChange, Class, Delivery, ErrorKind, GroupConsumer, OfferError, Producer, ProducerRecord,
    Settings, StartOffset, read_topic_to_end,
};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Resp};

const TOPIC: &str = "shop.public.inventory";
const PATIENCE: Duration = Duration::from_secs(30);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).expect("a mock cluster starts");
    cluster.create_topic(TOPIC, partitions, 1).expect("a mock topic is created");
    cluster
}

fn settings(cluster: &Cluster, queue_bytes_max: u64, properties: &[(&str, &str)]) -> Settings {
    Settings {
        bootstrap_servers: cluster.bootstrap_servers(),
        queue_bytes_max,
        properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn record(value: &[u8], partition: i32, token: u64) -> ProducerRecord<'_> {
    ProducerRecord {
        topic: TOPIC,
        partition,
        key: Some(b"key"),
        value: Some(value),
        headers: &[("headwater.id", b"0/16B3748/0")],
        timestamp_ms: Some(1),
        token,
    }
}

/// Offers until accepted; how often it had to wait.
fn offer(producer: &mut Producer, record: &ProducerRecord<'_>, deliveries: &mut Vec<Delivery>) -> usize {
    let start = Instant::now();
    for full in 0.. {
        match producer.offer(record) {
            Ok(()) => return full,
            Err(OfferError::Full) => producer.poll(Duration::from_millis(50), deliveries),
            Err(OfferError::Failed(error)) => panic!("{error:?}"),
        }
        assert!(start.elapsed() < PATIENCE, "the queue stays full");
    }
    unreachable!("the loop has no end")
}

fn drain(producer: &mut Producer, deliveries: &mut Vec<Delivery>) {
    let start = Instant::now();
    while producer.in_flight() > 0 {
        producer.poll(Duration::from_millis(50), deliveries);
        assert!(start.elapsed() < PATIENCE, "{} records stay in flight", producer.in_flight());
    }
    assert_eq!(producer.bytes_in_flight(), 0);
}

fn values(settings: &Settings, partition: i32) -> Vec<u64> {
    let records = read_topic_to_end(settings, TOPIC, partition, PATIENCE).expect("the topic can be read");
    records
        .iter()
        .map(|r| {
            u64::from_be_bytes(r.value.as_deref().expect("a value")[..8].try_into().expect("eight bytes"))
        })
        .collect()
}

/// Produces one record after `error` was injected into the next requests; its delivery.
fn delivery_after(api: Api, errors: &[Resp]) -> (Delivery, Producer) {
    let cluster = cluster(1);
    cluster.request_errors(api, errors);
    let mut producer = Producer::new(&settings(&cluster, 1 << 20, &[])).expect("a producer");
    let mut deliveries = Vec::new();
    offer(&mut producer, &record(b"12345678", 0, 7), &mut deliveries);
    drain(&mut producer, &mut deliveries);
    (deliveries.pop().expect("one delivery"), producer)
}

#[test]
fn a_tiny_queue_says_full_and_keeps_the_order() {
    let cluster = cluster(3);
    let settings = settings(&cluster, 4_000, &[]);
    let mut producer = Producer::new(&settings).expect("a producer");
    let (mut deliveries, mut full) = (Vec::new(), 0);
    for n in 0..3_000_u64 {
        full += offer(&mut producer, &record(&n.to_be_bytes(), (n % 3) as i32, n), &mut deliveries);
        assert!(producer.bytes_in_flight() <= 4_000);
    }
    drain(&mut producer, &mut deliveries);
    assert!(full > 100, "the queue was full {full} times only");
    let mut tokens: Vec<u64> = deliveries.iter().map(|d| d.token).collect();
    assert!(deliveries.iter().all(|d| d.result.is_ok()));
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..3_000), "each record is reported once");
    for partition in 0..3 {
        let expected: Vec<u64> = (0..3_000).filter(|n| n % 3 == partition).collect();
        assert_eq!(values(&settings, partition as i32), expected);
    }
}

#[test]
fn retriable_broker_errors_keep_the_order_and_are_never_seen() {
    let cluster = cluster(1);
    let settings = settings(&cluster, 1 << 20, &[("retry.backoff.ms", "1"), ("batch.num.messages", "10")]);
    let mut producer = Producer::new(&settings).expect("a producer");
    let mut deliveries = Vec::new();
    for n in 0..1_000_u64 {
        if n % 200 == 0 {
            let errors = [
                Resp::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                Resp::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                Resp::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                Resp::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            ];
            cluster.request_errors(Api::Produce, &errors);
        }
        offer(&mut producer, &record(&n.to_be_bytes(), 0, n), &mut deliveries);
        if n % 50 == 0 {
            producer.poll(Duration::from_millis(5), &mut deliveries);
        }
    }
    drain(&mut producer, &mut deliveries);
    assert!(deliveries.iter().all(|d| d.result.is_ok()));
    assert!(deliveries.iter().map(|d| d.token).eq(0..1_000), "acknowledged in order");
    assert_eq!(values(&settings, 0), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn broker_errors_get_their_class() {
    let cases = [
        (Resp::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Class::Fatal, ErrorKind::TooLarge),
        (Resp::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Class::Fatal, ErrorKind::NotAuthorized),
        (Resp::RD_KAFKA_RESP_ERR_INVALID_RECORD, Class::Fatal, ErrorKind::Configuration),
        (Resp::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Class::Rebuild, ErrorKind::Sequence),
    ];
    for (injected, class, kind) in cases {
        let (delivery, producer) = delivery_after(Api::Produce, &[injected; 5]);
        assert_eq!(delivery.token, 7);
        let error = producer.fatal_error().or(delivery.result.err()).expect("the record failed");
        assert_eq!((error.class(), error.kind()), (class, kind), "{injected:?}: {error}");
        assert_eq!(error.advice().is_some(), class == Class::Fatal, "{error}");
        assert!(!error.to_string().contains("12345678"), "an error never shows a value");
    }
}

#[test]
fn a_producer_id_that_is_refused_ends_the_producer_with_its_cause() {
    let refused = [Resp::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 5];
    let (delivery, mut producer) = delivery_after(Api::InitProducerId, &refused);
    let error = producer.fatal_error().expect("the producer is of no use any more");
    assert_eq!((error.class(), error.kind()), (Class::Fatal, ErrorKind::NotAuthorized), "{error}");
    assert!(delivery.result.is_err());
    match producer.offer(&record(b"12345678", 0, 8)) {
        Err(OfferError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::NotAuthorized),
        other => panic!("a dead producer accepts nothing: {other:?}"),
    }
}

#[test]
fn a_record_larger_than_the_queue_is_admitted_alone() {
    let cluster = cluster(1);
    let mut producer = Producer::new(&settings(&cluster, 10_000, &[])).expect("a producer");
    let mut deliveries = Vec::new();
    let large = vec![0_u8; 900_000];
    offer(&mut producer, &record(&large, 0, 1), &mut deliveries);
    assert!(matches!(producer.offer(&record(b"12345678", 0, 2)), Err(OfferError::Full)));
    offer(&mut producer, &record(b"12345678", 0, 2), &mut deliveries);
    drain(&mut producer, &mut deliveries);
    assert!(deliveries.iter().all(|d| d.result.is_ok()), "{deliveries:?}");
}

#[test]
fn a_record_above_the_clients_own_limit_is_refused_with_its_size() {
    let cluster = cluster(1);
    let settings = settings(&cluster, 1 << 20, &[("message.max.bytes", "2000")]);
    let mut producer = Producer::new(&settings).expect("a producer");
    match producer.offer(&record(&[0; 3_000], 0, 1)) {
        Err(OfferError::Failed(error)) => {
            assert_eq!((error.class(), error.kind()), (Class::Fatal, ErrorKind::TooLarge));
            assert!(error.to_string().contains("3003 bytes"), "{error}");
        }
        other => panic!("too large: {other:?}"),
    }
    assert_eq!(producer.in_flight(), 0);
}

#[test]
fn ending_is_quick_while_the_broker_is_silent() {
    for silent in [true, false] {
        let cluster = cluster(1);
        let mut producer = Producer::new(&settings(&cluster, 1 << 20, &[])).expect("a producer");
        let mut deliveries = Vec::new();
        offer(&mut producer, &record(b"12345678", 0, 0), &mut deliveries);
        drain(&mut producer, &mut deliveries);
        if silent {
            cluster.broker_round_trip_time(1, Duration::from_secs(60)).expect("slow down");
        } else {
            cluster.broker_down(1).expect("broker down");
        }
        for n in 0..500 {
            offer(&mut producer, &record(b"12345678", 0, n), &mut deliveries);
        }
        producer.poll(Duration::from_millis(200), &mut deliveries);
        let start = Instant::now();
        producer.purge_and_drop();
        assert!(start.elapsed() < Duration::from_millis(1_500), "it took {:?}", start.elapsed());
    }
}

#[test]
fn polling_returns_at_once_when_there_is_something_and_waits_when_there_is_not() {
    let cluster = cluster(1);
    let mut producer = Producer::new(&settings(&cluster, 1 << 20, &[])).expect("a producer");
    let mut deliveries = Vec::new();
    offer(&mut producer, &record(b"12345678", 0, 0), &mut deliveries);
    let start = Instant::now();
    producer.poll(PATIENCE, &mut deliveries);
    assert_eq!(deliveries.len(), 1);
    assert!(start.elapsed() < PATIENCE / 2);
    let start = Instant::now();
    producer.poll(Duration::from_millis(60), &mut deliveries);
    assert!(start.elapsed() >= Duration::from_millis(60));
}

/// Polls until the group says something.
fn told(consumer: &GroupConsumer) -> AssignmentChange {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        consumer.poll(Duration::from_millis(50)).expect("the mock cluster answers");
        if let Some(change) = consumer.take_change() {
            return change;
        }
    }
    panic!("the group says nothing");
}

fn join(settings: &Settings) -> GroupConsumer {
    GroupConsumer::join(settings, "shop", None, &[TOPIC.to_owned()]).expect("a consumer")
}

/// Lets a consumer go, which takes for ever where librdkafka waits for an answer.
fn leaves(consumer: GroupConsumer, unanswered: &str) {
    let (done, left) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(consumer);
        done.send(()).expect("the test waits");
    });
    left.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it waits for an answer to {unanswered}"));
}

#[test]
fn a_member_leaves_whatever_it_has_not_answered() {
    let cluster = cluster(2);
    let settings = settings(&cluster, 1 << 20, &[("session.timeout.ms", "6000")]);
    let consumer = join(&settings);
    let AssignmentChange::Assigned(places) = told(&consumer) else { panic!("nothing to begin with") };
    leaves(consumer, "an assignment");

    let first = join(&settings);
    assert_eq!(told(&first), AssignmentChange::Assigned(places.clone()));
    let all = places.clone();
    let from: Vec<_> = places.into_iter().map(|place| (place, StartOffset::Beginning)).collect();
    first.assign(&from).expect("an answer");
    let second = join(&settings);
    assert!(matches!(told(&first), AssignmentChange::Revoked(_)));
    leaves(first, "a revocation");

    // Its session has timed out: what it had is lost.
    assert_eq!(told(&second), AssignmentChange::Assigned(all));
    second.assign(&from).expect("an answer");
    cluster.broker_round_trip_time(1, Duration::from_secs(60)).expect("slow down");
    assert!(matches!(told(&second), AssignmentChange::Revoked(_)));
    cluster.broker_round_trip_time(1, Duration::ZERO).expect("as before");
    leaves(second, "a loss");
}

#[test]
fn topics_and_brokers_that_are_missing_are_told_apart() {
    let cluster = cluster(4);
    let admin = Admin::new(&settings(&cluster, 0, &[])).expect("an admin client");
    assert_eq!(admin.broker_count(), Ok(1));
    assert_eq!(admin.topic("no.such.topic"), Ok(None));
    let error = read_topic_to_end(&settings(&cluster, 0, &[]), "no.such.topic", 0, Duration::from_secs(5))
        .expect_err("it doesn't exist");
    assert_eq!(error.kind(), ErrorKind::UnknownTopic, "{error}");

    // Nobody listens on port 1.
    let nowhere = Settings {
        bootstrap_servers: "127.0.0.1:1".to_owned(),
        queue_bytes_max: 0,
        properties: BTreeMap::from([("socket.connection.setup.timeout.ms".to_owned(), "1000".to_owned())]),
    };
    let error = read_topic_to_end(&nowhere, TOPIC, 0, Duration::from_secs(2)).expect_err("nobody is there");
    assert_eq!((error.class(), error.kind()), (Class::Retriable, ErrorKind::Unreachable), "{error}");
    assert!(error.to_string().contains("refused"), "the reason is said: {error}");
}
