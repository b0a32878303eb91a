//! One record into the batch: which table, which key, where it stands, what it does.
//!
//! Decodes into the batch's own memory; nothing here waits. What needs the registry, the database or a batch applied first
//! is handed back as [`Taken`].

use headwater_avro::SchemaId;
use headwater_avro::reading::{ChangeOp, EnvelopeReader, ReadChange, ReadError, confluent_parts};
use headwater_kafka::Fetched;

use crate::batch::{Batch, Partition};
use crate::fold::Change;
use crate::halt::Refusal;
use crate::layout::{Known, Layouts};
use crate::position::Position;

/// The header with a record's identity.
const ID_HEADER: &str = "headwater.id";

/// How much later than the newest a record may have been committed whose position lies before it. Producers that send
/// again send what was there; a source that was made anew starts its positions over.
const TIME_GOES_BACK_MICROS: i64 = 10 * 60 * 1_000_000;

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is in the batch, or there is nothing to do for it.
    Done,
    /// Its schemas have to be resolved first.
    Resolve { key: SchemaId, value: Option<SchemaId> },
    /// The value's schema has to be fetched first: the record has no key.
    Fetch(SchemaId),
    /// The batch has to be applied first.
    ApplyFirst,
    /// The table is to be emptied, in a transaction of its own.
    Truncate(Position),
    /// It can't be applied.
    Refused(Refusal),
    /// Its position lies before the newest, its time long behind: another source, or the source made anew.
    AnotherSource,
}

/// Memory that is reused from record to record.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    key: Vec<u8>,
    line: Vec<u8>,
    unchanged: Vec<u16>,
}

/// Takes one record of a table's topic.
pub(crate) fn take(
    record: &Fetched<'_>,
    partition: &mut Partition,
    batch: &mut Batch,
    layouts: &Layouts,
    scratch: &mut Scratch,
    schema_of: impl Fn(SchemaId) -> Option<std::sync::Arc<str>>,
) -> Taken {
    let refused = |error: ReadError| Taken::Refused(refusal(error.to_string()));
    let value = match record.value().map(confluent_parts).transpose() {
        Ok(value) => value,
        Err(error) => return refused(error),
    };
    let own = record.header(ID_HEADER).and_then(Position::of_header);
    let Some(key) = record.key() else {
        return match value {
            None => Taken::Done,
            Some((id, body)) => match schema_of(id) {
                None => Taken::Fetch(id),
                Some(schema) => take_keyless(&schema, body, own, partition),
            },
        };
    };
    let (key_id, key_body) = match confluent_parts(key) {
        Ok(parts) => parts,
        Err(error) => return refused(error),
    };
    let value_id = value.map(|(id, _)| id);
    let Some(Known { target, key: key_layout, row: row_layout }) =
        layouts.known(record.topic(), key_id, value_id)
    else {
        return Taken::Resolve { key: key_id, value: value_id };
    };
    let Scratch { key: key_text, line, unchanged } = scratch;
    key_text.clear();
    line.clear();
    unchanged.clear();
    if let Err(error) = key_layout.plan.read(key_body, key_text) {
        return refused(error);
    }
    let mut said = Said { op: None, position: own, micros: commit_micros(record) };
    if let (Some((_, body)), Some(layout)) = (value, row_layout) {
        said = match layout.plan.read(body, own.is_none(), line, unchanged) {
            Ok(read) => Said::of(&read, said),
            Err(error) => return refused(error),
        };
    }
    let change = match said.op {
        None | Some((ChangeOp::Delete, _)) => Change::Delete,
        Some((op @ (ChangeOp::Create | ChangeOp::Update | ChangeOp::Read), true)) => {
            Change::Row { line, unchanged, is_update: op == ChangeOp::Update }
        }
        Some((ChangeOp::Other, _)) => return Taken::Done,
        Some(_) => {
            return Taken::Refused(refusal(
                "the operation does not go with what the record holds".to_owned(),
            ));
        }
    };
    let Said { position, micros, .. } = said;
    if goes_back(partition, position, micros) {
        return Taken::AnotherSource;
    }
    let is_row = matches!(change, Change::Row { .. });
    let Some(table) = batch.table(target, key_layout, row_layout.filter(|_| is_row)) else {
        return Taken::ApplyFirst;
    };
    table.add(key_text, position.unwrap_or(partition.last.inherited()), &change);
    note(partition, position, micros);
    Taken::Done
}

/// What a record says of itself.
struct Said {
    /// The operation, and whether there is a row; none in a tombstone.
    op: Option<(ChangeOp, bool)>,
    position: Option<Position>,
    /// The time of its commit.
    micros: Option<i64>,
}

impl Said {
    /// The source's block counts where the header says nothing.
    fn of(read: &ReadChange, header: Said) -> Said {
        let op = Some((read.op, read.has_row));
        match header.position {
            Some(_) => Said { op, ..header },
            None => Said {
                op,
                position: Position::of_source(&read.source, read.op == ChangeOp::Read),
                micros: read.source.micros,
            },
        }
    }
}

/// Headwater's records have the time of the commit; of others it is the source's that counts.
fn commit_micros(record: &Fetched<'_>) -> Option<i64> {
    record.timestamp_ms().and_then(|ms| ms.checked_mul(1000))
}

/// Only a TRUNCATE may have no key.
fn take_keyless(schema: &str, body: &[u8], own: Option<Position>, partition: &mut Partition) -> Taken {
    let plan = match EnvelopeReader::parse(schema).and_then(|reader| reader.plan(&[], "")) {
        Ok(plan) => plan,
        Err(why) => return Taken::Refused(refusal(why.to_string())),
    };
    match plan.read(body, own.is_none(), &mut Vec::new(), &mut Vec::new()) {
        Err(error) => Taken::Refused(refusal(error.to_string())),
        Ok(read) if read.op == ChangeOp::Truncate => match own.or_else(|| Position::of_source(&read.source, false)) {
            Some(position) => {
                note(partition, Some(position), None);
                Taken::Truncate(position)
            }
            None => Taken::Refused(refusal("a TRUNCATE that does not say where it stands in its source".to_owned())),
        },
        Ok(read) if read.op == ChangeOp::Other => Taken::Done,
        Ok(_) => Taken::Refused(refusal(
            "the record has no key, so that no row can be told from another; set message_key_columns at the source, or \
             leave the topic out"
                .to_owned(),
        )),
    }
}

fn refusal(reason: String) -> Refusal {
    Refusal { stage: "decode", table: None, reason }
}

fn goes_back(partition: &Partition, position: Option<Position>, micros: Option<i64>) -> bool {
    let (Some(position), Some(micros)) = (position, micros) else { return false };
    position.lsn < partition.newest_lsn
        && micros > partition.newest_micros.saturating_add(TIME_GOES_BACK_MICROS)
}

fn note(partition: &mut Partition, position: Option<Position>, micros: Option<i64>) {
    let Some(position) = position else { return };
    partition.last = position;
    if position.lsn >= partition.newest_lsn {
        partition.newest_lsn = position.lsn;
        partition.newest_micros = micros.unwrap_or(0).max(partition.newest_micros);
    }
}
