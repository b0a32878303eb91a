//! Records on hold until the end of their batch of WAL, so that each partition is offered its own in one piece.
//!
//! librdkafka makes a request per partition whenever that partition's linger time ends. Offered in the order of the
//! stream, the records of a backlog trickle into all partitions at once, and each request holds the few that came
//! within its millisecond; offered partition by partition, a batch of WAL is one request for each. Within a partition
//! the order is the stream's. Without a backlog a batch is a transaction or a part of one, and nothing waits.

use std::ops::Range;

use crate::record::{Record, Token};

/// Bytes on hold at most, beside one last record: some thousand rows, which is what a read far behind brings.
const STAGED_BYTES_MAX: usize = 512 << 10;

/// Buffers that a large record has blown up are not kept.
const KEPT_BYTES_MAX: usize = 2 * STAGED_BYTES_MAX;

/// Owned by the outlet.
#[derive(Default)]
pub(crate) struct Stage {
    /// Keys, values and header values, end to end.
    bytes: Vec<u8>,
    /// Names of headers, end to end.
    names: String,
    headers: Vec<(Range<usize>, Range<usize>)>,
    records: Vec<Staged>,
    /// Topics of these records and of earlier ones; a record knows its topic's place in here.
    topics: Vec<String>,
}

/// One record, by places in the stage's buffers.
struct Staged {
    topic: usize,
    partition: i32,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
    timestamp_ms: Option<i64>,
    token: Token,
}

impl Stage {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= STAGED_BYTES_MAX
    }

    /// Takes a copy of the record.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        let topic = self.topic(record.topic);
        let key = record.key.map(|key| append(&mut self.bytes, key));
        let value = record.value.map(|value| append(&mut self.bytes, value));
        let first = self.headers.len();
        for (name, value) in record.headers {
            let start = self.names.len();
            self.names.push_str(name);
            self.headers.push((start..self.names.len(), append(&mut self.bytes, value)));
        }
        let headers = first..self.headers.len();
        let Record { partition, timestamp_ms, token, .. } = *record;
        self.records.push(Staged { topic, partition, key, value, headers, timestamp_ms, token });
    }

    /// Nearly always the topic of the record before.
    fn topic(&mut self, name: &str) -> usize {
        if let Some(last) = self.records.last().filter(|last| self.topics[last.topic] == name) {
            return last.topic;
        }
        self.topics.iter().position(|known| known == name).unwrap_or_else(|| {
            self.topics.push(name.to_owned());
            self.topics.len() - 1
        })
    }

    /// Lets go of the records whose tokens are not kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(Token) -> bool) {
        self.records.retain(|record| keep(record.token));
    }

    /// Brings the records of each partition together, in the order in which they came.
    pub(crate) fn sort_by_partition(&mut self) {
        self.records.sort_by_key(|record| (record.topic, record.partition));
    }

    /// Shows the records to `offer`, one by one, until it fails.
    pub(crate) fn try_for_each<E>(
        &self,
        mut offer: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = |range: &Range<usize>| &self.bytes[range.clone()];
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (&self.names[name.clone()], bytes(value))).collect();
        self.records.iter().try_for_each(|record| {
            offer(Record {
                topic: &self.topics[record.topic],
                partition: record.partition,
                key: record.key.as_ref().map(bytes),
                value: record.value.as_ref().map(bytes),
                headers: &headers[record.headers.clone()],
                timestamp_ms: record.timestamp_ms,
                token: record.token,
            })
        })
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.names.clear();
        self.headers.clear();
        self.records.clear();
        // Event topics can be many; those of the next batch are found again.
        self.topics.clear();
    }
}

fn append(bytes: &mut Vec<u8>, more: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(more);
    start..bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Record by record what the stage shows: topic, partition, key, value, headers, token.
    fn shown(stage: &Stage) -> Vec<String> {
        let mut shown = Vec::new();
        let text =
            |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |b| String::from_utf8_lossy(b).into_owned());
        let all: Result<(), ()> = stage.try_for_each(|record| {
            let headers: Vec<String> =
                record.headers.iter().map(|(name, value)| format!("{name}={}", text(Some(value)))).collect();
            let (key, value) = (text(record.key), text(record.value));
            let Record { topic, partition, token, .. } = record;
            shown.push(format!("{topic}/{partition} {key} {value} {} {}", headers.join(","), token.0));
            Ok(())
        });
        all.unwrap();
        shown
    }

    fn push(stage: &mut Stage, topic: &str, partition: i32, value: Option<&[u8]>, token: u64) {
        stage.push(&Record {
            topic,
            partition,
            key: Some(b"k"),
            value,
            headers: &[("id", b"1"), ("more", topic.as_bytes())],
            timestamp_ms: Some(9),
            token: Token(token),
        });
    }

    #[test]
    fn each_partition_keeps_its_order() {
        let mut stage = Stage::default();
        for (topic, partition, token) in
            [("a", 1, 1), ("b", 0, 2), ("a", 0, 3), ("a", 1, 4), ("b", 0, 5), ("a", 0, 6)]
        {
            push(&mut stage, topic, partition, (token != 4).then_some(b"v"), token);
        }
        let in_order = shown(&stage);
        assert_eq!(in_order[0], "a/1 k v id=1,more=a 1");
        assert_eq!(in_order[3], "a/1 k - id=1,more=a 4", "a tombstone stays one");
        stage.sort_by_partition();
        let tokens: Vec<String> =
            shown(&stage).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
        assert_eq!(tokens, ["3", "6", "1", "4", "2", "5"]);
        stage.clear();
        assert!(stage.is_empty());
        push(&mut stage, "c", 0, None, 7);
        assert_eq!(shown(&stage), ["c/0 k - id=1,more=c 7"]);
    }

    #[test]
    fn a_large_record_fills_it_and_leaves_no_buffer_behind() {
        let mut stage = Stage::default();
        push(&mut stage, "a", 0, Some(&vec![0; STAGED_BYTES_MAX - 100]), 1);
        assert!(!stage.is_full());
        push(&mut stage, "a", 0, Some(&vec![0; 4 * KEPT_BYTES_MAX]), 2);
        assert!(stage.is_full());
        stage.clear();
        assert!(stage.bytes.capacity() <= KEPT_BYTES_MAX);
    }
}
