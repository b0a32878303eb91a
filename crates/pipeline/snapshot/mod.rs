//! Snapshots: the rows that a table holds now, as records of its topic, joined to the stream without a seam.
//!
//! Two ways lead there, and both end in the pump, which alone writes records:
//!
//! - **Under the slot's own snapshot** (`copier.rs`): when a slot is created, what is visible at its consistent point
//!   is copied by several workers while the stream waits. The stream then begins exactly where the copy ends.
//! - **Beside the stream** (`chunker.rs`): chunk by chunk, each under a snapshot of its own, written where everything
//!   that this snapshot sees has passed, without the rows that the stream has overtaken (`touched.rs`).
//!
//! The first is quicker and dies with its connection; what it leaves undone is done in the second way.
//! Whoever asks for one is heard by `control.rs` (the administrator), `signal_reader.rs` (a table or a topic) or
//! `new_tables.rs` (a publication), and what was asked for and is not done yet is kept in `requests.rs`.
//! `coordinator.rs` decides which, keeps the progress (`progress.rs`), and owns neither records nor positions.

mod again;
mod beside;
mod changed;
pub(crate) mod choice;
mod chunker;
mod commands;
pub mod control;
pub(crate) mod coordinator;
mod copier;
mod hand_over;
pub(crate) mod intake;
mod keyless;
mod keyless_beside;
pub(crate) mod ledger;
mod meter;
pub(crate) mod moved;
mod new_tables;
mod notifications;
mod pace;
pub mod progress;
mod replay;
mod requested;
pub(crate) mod requests;
mod row_key;
pub(crate) mod seen;
pub(crate) mod session;
mod signal_reader;
pub(crate) mod signal_rows;
mod signal_topic;
mod signals;
#[cfg(test)]
mod simulation;
mod slices;
pub mod table_pattern;
mod touched;
mod under;
mod wait_for;

use std::sync::Arc;

use headwater_pg::CopyRows;
use headwater_pg::transaction_snapshot::TransactionSnapshot;
use headwater_pgoutput::{Lsn, RelationId, TableSchema};
use tokio::sync::OwnedSemaphorePermit;

use self::moved::MovedKeys;
use self::touched::Watch;
use crate::pump::SourceBatch;

/// What the pump takes in, in one order.
pub(crate) enum Input {
    /// WAL from the source.
    Wal(SourceBatch),
    /// Something of a snapshot.
    Copy(CopyInput),
    /// What is stored beside the checkpoint, or told.
    Ledger(ledger::LedgerEntry),
}

/// A part of a table that is copied as a whole or again.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Its number in this session.
    pub(crate) number: u32,
    /// The table as its next Relation message would have it; the columns of the rows.
    pub(crate) table: TableSchema,
    /// The slot's consistent point, or the position up to which everything that the chunk's snapshot sees was written.
    pub(crate) lsn: Lsn,
    /// When its snapshot was taken.
    pub(crate) unix_micros: i64,
}

impl Chunk {
    pub(crate) fn relation(&self) -> RelationId {
        self.table.id
    }
}

/// What the coordinator sends to the pump.
pub(crate) enum CopyInput {
    /// From here on the table's changes are remembered.
    Watch(RelationId, Watch),
    /// It is not copied for a while.
    Rest(RelationId),
    /// Its copy is over.
    Unwatch(RelationId),
    /// A table without a key was copied: its changes by what this snapshot sees are in the copy.
    Settled { relation: RelationId, snapshot: TransactionSnapshot },
    /// Rows under the slot's own snapshot, while the stream waits.
    Rows { chunk: Arc<Chunk>, rows: CopyRows, permit: OwnedSemaphorePermit },
    /// The end of such a chunk.
    End { chunk: Arc<Chunk>, last_of_table: bool },
    /// All chunks under the slot's own snapshot are in: the stream may go on.
    Release,
    /// A chunk that was read beside the stream.
    Beside(BesideChunk),
    /// A record of progress.
    Store { key: String, value: Vec<u8> },
}

/// A chunk that was read beside the stream, whole.
pub(crate) struct BesideChunk {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) snapshot: TransactionSnapshot,
    /// A standby has made visible what it has streamed, and its snapshots do not say so.
    pub(crate) on_standby: bool,
    pub(crate) rows: Vec<CopyRows>,
    /// The keys that it was to have, if it was read for them only.
    pub(crate) asked: Vec<Vec<String>>,
    /// Which attempt it is to deliver the rows of these keys; 0 if it is a copy like any other.
    pub(crate) attempt: u32,
    /// Of a table without a key: all of its chunks are of one snapshot.
    pub(crate) keyless: Option<KeylessChunk>,
}

/// Which chunk of a table without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeylessChunk {
    /// It has no rows: it is written only where the stream has said nothing of the table that the snapshot does not see.
    First,
    /// One with rows, behind it.
    Later,
}

/// What the pump tells the coordinator.
#[derive(Debug)]
pub(crate) enum Report {
    /// The rows of a chunk beside the stream are on their way, but for those that the stream overtook.
    Written { chunk: u32, overtaken: u64, again: Vec<Vec<String>>, moved: MovedKeys },
    /// It has to be read again once these transactions are over.
    ReadAgain { chunk: u32, after: Vec<u64> },
    /// Every row of a chunk is acknowledged.
    Acknowledged { chunk: u32, rows: u64 },
    /// A record of progress is acknowledged.
    Stored,
}
