//! Confirmed means held: whatever the slot had confirmed at a moment, Kafka held everything that ended before it.
//! This needs no crash to be seen, and sees a confirmation that was merely lucky.

use std::collections::HashMap;

use super::checker::{Kind, Report};
use super::evidence::{Evidence, Record};

/// Walks samples and transactions in LSN order; per partition only the highest offset so far matters.
pub fn check(evidence: &Evidence, first: &[&Record], report: &mut Report) {
    let ends: HashMap<u64, u64> =
        evidence.commits.values().map(|commit| (commit.commit_lsn, commit.end_lsn)).collect();
    let mut records: Vec<_> =
        first.iter().filter_map(|record| Some((*ends.get(&record.id.commit_lsn)?, *record))).collect();
    records.sort_by_key(|(end_lsn, _)| *end_lsn);
    let mut samples: Vec<_> = evidence.samples.iter().collect();
    samples.sort_by_key(|sample| sample.confirmed);
    let mut needed: HashMap<(String, i32), i64> = HashMap::new();
    let mut next = 0;
    for sample in samples {
        while let Some((end_lsn, record)) = records.get(next)
            && *end_lsn <= sample.confirmed
        {
            let offset = needed.entry((record.topic.clone(), record.partition)).or_default();
            *offset = (*offset).max(record.offset + 1);
            next += 1;
        }
        for (partition, offset) in &needed {
            let held = sample.ends.get(partition).copied().unwrap_or(0);
            if held < *offset {
                report.add(
                    Kind::ConfirmedAhead,
                    format!(
                        "{:X} was confirmed when {partition:?} held {held} of {offset} records",
                        sample.confirmed
                    ),
                );
            }
        }
    }
}
