//! Beginning again: the offsets of all the group's partitions are set back at once, whoever has them now.
//!
//! In: where to read from. Out: rows of `headwater.apply_offset` under a new owner, so that the other instances are
//! fenced, join again and go on from there as well. Partitions without a row begin where the replay says if this
//! instance gets them, and else where `apply.start` says.

use std::collections::BTreeMap;

use headwater_kafka::GroupConsumer;
use headwater_pg::Client;

use crate::halt::Failure;
use crate::ledger::{self, FROM_BEGINNING};
use crate::session::{OFFSETS_LIMIT, Shared, of_kafka, owner};
use crate::settings::Replay;

/// Sets the offsets back.
pub(crate) fn begin(
    shared: &Shared,
    consumer: &GroupConsumer,
    client: &Client,
    from: Replay,
) -> Result<(), Failure> {
    let group = shared.settings.group.as_str();
    let known = shared.runtime.block_on(ledger::partitions(client, group))?;
    let mut next = BTreeMap::new();
    for (topic, places) in known {
        let Replay::Since(since_ms) = from else {
            next.extend(places.into_iter().map(|place| (place, FROM_BEGINNING)));
            continue;
        };
        match consumer.offsets_at(&places, since_ms, OFFSETS_LIMIT) {
            Ok(found) => {
                for (place, offset) in found {
                    let offset = match offset {
                        Some(offset) => offset,
                        None => consumer.end(&place, OFFSETS_LIMIT).map_err(of_kafka)?,
                    };
                    next.insert(place, offset);
                }
            }
            // A topic that was applied once and is gone. If it comes back, it does so from its beginning.
            Err(error) if error.is_unknown_topic() => {
                tracing::info!(topic, "the topic is not there any more");
                next.extend(places.into_iter().map(|place| (place, FROM_BEGINNING)));
            }
            Err(error) => return Err(of_kafka(error)),
        }
    }
    shared.runtime.block_on(ledger::rewind(client, group, &owner(), &next))?;
    tracing::info!(partitions = next.len(), "the offsets are set back: reading again");
    Ok(())
}
