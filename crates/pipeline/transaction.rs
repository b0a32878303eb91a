//! From XLogData to changes: decodes each message and keeps track of Begin … Commit.
//!
//! States: between transactions, inside one. A message that doesn't fit the state is a broken stream and halts.
//! Transactions that the checkpoint covers are read past: `commit_lsn < checkpoint` is the same as
//! `end_lsn <= checkpoint`, because commit records do not overlap and the checkpoint is the end of a record
//! (the next transaction's commit may start exactly there, which is why it is `<` and not `<=`).

use headwater_pgoutput::{Delete, Insert, Logical, Lsn, Message, RelationId, TableSchema, Truncate, Update};

use crate::error::StageError;

/// The transaction that is being read.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) commit_lsn: Lsn,
    pub(crate) commit_unix_micros: i64,
    pub(crate) xid: u32,
    /// The checkpoint covers it: nothing of it is offered.
    pub(crate) skipped: bool,
    /// Where it came from, if it was replayed by logical replication: origin name and its commit LSN there.
    pub(crate) origin: Option<(String, Lsn)>,
}

/// What a message means to the pump.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Begin,
    Relation(TableSchema),
    Insert(Insert<'a>),
    Update(Update<'a>),
    Delete(Delete<'a>),
    Truncate(Truncate<'a>),
    /// A transactional one inside a transaction, or a non-transactional one anywhere.
    Message(Logical<'a>),
    Commit {
        end_lsn: Lsn,
    },
    /// Nothing to do: Origin, Type.
    Nothing,
}

/// Reads messages in order; owned by the pump.
#[derive(Debug)]
pub(crate) struct TransactionReader {
    checkpoint: Lsn,
    open: Option<Transaction>,
}

impl TransactionReader {
    /// Reads from a position up to which everything is acknowledged.
    pub(crate) fn new(checkpoint: Lsn) -> TransactionReader {
        TransactionReader { checkpoint, open: None }
    }

    /// The transaction that is being read; None between transactions.
    pub(crate) fn open(&self) -> Option<&Transaction> {
        self.open.as_ref()
    }

    /// One message of the stream.
    pub(crate) fn read<'a>(&mut self, lsn: Lsn, data: &'a [u8]) -> Result<Step<'a>, StageError> {
        let message = Message::decode(data).map_err(|source| StageError::Decode { lsn, source })?;
        let in_transaction = self.open.is_some();
        let step = match message {
            Message::Insert(insert) if in_transaction => Step::Insert(insert),
            Message::Update(update) if in_transaction => Step::Update(update),
            Message::Delete(delete) if in_transaction => Step::Delete(delete),
            Message::Begin(begin) if !in_transaction => {
                self.open = Some(Transaction {
                    commit_lsn: begin.commit_lsn,
                    commit_unix_micros: begin.commit_time.unix_micros(),
                    xid: begin.xid,
                    skipped: begin.commit_lsn < self.checkpoint,
                    origin: None,
                });
                Step::Begin
            }
            Message::Commit(commit) => {
                let Some(open) = self.open.as_ref() else {
                    return Err(StageError::Order { lsn, what: "a Commit without a Begin".to_owned() });
                };
                if open.commit_lsn != commit.commit_lsn {
                    let what = format!(
                        "Begin named the commit {}, Commit names {}",
                        open.commit_lsn, commit.commit_lsn
                    );
                    return Err(StageError::Order { lsn, what });
                }
                Step::Commit { end_lsn: commit.end_lsn }
            }
            Message::Origin(origin) => {
                if let Some(open) = self.open.as_mut() {
                    open.origin = Some((origin.name.to_owned(), origin.commit_lsn));
                }
                Step::Nothing
            }
            Message::Relation(table) if in_transaction => Step::Relation(table),
            Message::Truncate(truncate) if in_transaction => Step::Truncate(truncate),
            Message::Type(_) => Step::Nothing,
            Message::Logical(logical) if in_transaction || !logical.transactional => Step::Message(logical),
            other => {
                let what = format!(
                    "{} {}",
                    kind(&other),
                    if in_transaction { "inside a transaction" } else { "outside a transaction" }
                );
                return Err(StageError::Order { lsn, what });
            }
        };
        Ok(step)
    }

    /// The Commit was dealt with.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }
}

fn kind(message: &Message<'_>) -> &'static str {
    match message {
        Message::Begin(_) => "Begin",
        Message::Commit(_) => "Commit",
        Message::Origin(_) => "Origin",
        Message::Relation(_) => "Relation",
        Message::Type(_) => "Type",
        Message::Insert(_) => "Insert",
        Message::Update(_) => "Update",
        Message::Delete(_) => "Delete",
        Message::Truncate(_) => "Truncate",
        Message::Logical(_) => "Message",
    }
}

/// The relation a row belongs to, for errors.
pub(crate) fn unknown_relation(relation: RelationId, lsn: Lsn) -> StageError {
    StageError::UnknownRelation { relation, lsn }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(commit_lsn: u64) -> Vec<u8> {
        let mut bytes = vec![b'B'];
        bytes.extend(commit_lsn.to_be_bytes());
        bytes.extend(0i64.to_be_bytes());
        bytes.extend(9u32.to_be_bytes());
        bytes
    }

    fn commit(commit_lsn: u64, end_lsn: u64) -> Vec<u8> {
        let mut bytes = vec![b'C', 0];
        bytes.extend(commit_lsn.to_be_bytes());
        bytes.extend(end_lsn.to_be_bytes());
        bytes.extend(0i64.to_be_bytes());
        bytes
    }

    /// Two sessions that commit back to back: the second commit record starts where the first one ends. A filter
    /// `commit_lsn <= checkpoint` loses the second transaction after a restart at the first one's end.
    #[test]
    fn a_commit_that_starts_at_the_checkpoint_is_not_skipped() {
        let mut reader = TransactionReader::new(Lsn(200));
        for (commit_lsn, end_lsn, skipped) in [(150, 200, true), (200, 250, false), (300, 350, false)] {
            assert!(matches!(reader.read(Lsn(0), &begin(commit_lsn)).unwrap(), Step::Begin));
            assert_eq!(reader.open().unwrap().skipped, skipped, "{commit_lsn}");
            let bytes = commit(commit_lsn, end_lsn);
            let step = reader.read(Lsn(0), &bytes).unwrap();
            assert!(matches!(step, Step::Commit { end_lsn: end } if end == Lsn(end_lsn)));
            reader.close();
        }
    }

    #[test]
    fn a_stream_out_of_order_is_refused() {
        let mut reader = TransactionReader::new(Lsn(0));
        assert!(matches!(reader.read(Lsn(1), &commit(1, 2)), Err(StageError::Order { .. })));
        reader.read(Lsn(1), &begin(5)).unwrap();
        assert!(matches!(reader.read(Lsn(1), &begin(6)), Err(StageError::Order { .. })));
        assert!(matches!(reader.read(Lsn(1), &commit(6, 7)), Err(StageError::Order { .. })));
        assert!(matches!(reader.read(Lsn(1), b"?"), Err(StageError::Decode { .. })));
    }
}
