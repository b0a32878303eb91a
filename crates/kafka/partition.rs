//! Which partition a key belongs to: the rule of Kafka's Java producer, so that consumers which join topics by
//! partition find Headwater's records where a Java producer would have put them.
//!
//! librdkafka's `murmur2` partitioner computes the same, but the choice is made here, so that the record's
//! partition is known before it is offered and never depends on what librdkafka thinks is available.

/// Multiplier of MurmurHash2 and the seed that `org.apache.kafka.common.utils.Utils.murmur2` fixes.
const MIX: u32 = 0x5bd1_e995;
const SEED: u32 = 0x9747_b28c;

/// MurmurHash2 (32 bits, little-endian words) with the seed of Kafka's Java client.
#[inline]
pub fn murmur2(bytes: &[u8]) -> u32 {
    // Java's arrays have an int length; a key that long does not exist, and truncation is what Java would do.
    let mut hash = SEED ^ (bytes.len() as u32);
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k ^= k >> 24;
        hash = hash.wrapping_mul(MIX) ^ k.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

/// The partition of a serialised key, as Java's default partitioner chooses it: `(murmur2 & 0x7fffffff) % n`.
///
/// # Panics
/// When `partitions` is not positive: no topic has such a count.
#[inline]
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition, not {partitions}");
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_equals_javas() {
        let vectors: &[(&[u8], i32)] = &[
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (bytes, expected) in vectors {
            assert_eq!(murmur2(bytes).cast_signed(), *expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    /// What Kafka's own Java producer chose; `tests/fixtures/java_partitions` has the program that asked it.
    #[test]
    fn partitions_are_those_of_the_java_producer() {
        let recorded = include_str!("../../tests/fixtures/java_partitions/partitions.csv");
        let mut checked = 0;
        for line in recorded.lines() {
            let [key, partitions, expected]: [&str; 3] =
                line.split(',').collect::<Vec<_>>().try_into().expect("three fields");
            let key: Vec<u8> = (0..key.len() / 2)
                .map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).expect("hexadecimal"))
                .collect();
            let chosen = partition_for_key(&key, partitions.parse().expect("a number"));
            assert_eq!(chosen.to_string(), expected, "{line}");
            checked += 1;
        }
        assert_eq!(checked, 400);
    }

    #[test]
    fn every_tail_length_differs_and_stays_in_range() {
        let bytes = [0xff_u8; 9];
        let mut seen = std::collections::BTreeSet::new();
        for length in 0..=bytes.len() {
            assert!(seen.insert(murmur2(&bytes[..length])));
            for partitions in [1, 2, 6, 7, 1000] {
                let partition = partition_for_key(&bytes[..length], partitions);
                assert!((0..partitions).contains(&partition));
            }
        }
    }
}
