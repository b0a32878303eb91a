//! What writing takes from one row to the next: the way out, the open transaction's place, buffers, what goes aside.
//!
//! Owned by the pump; a [`RowWriter`] borrows it for one row.

use headwater_pgoutput::Lsn;
use tokio::sync::mpsc;

use crate::copied_run::CopiedRun;
use crate::dead_letter::DeadLetters;
use crate::outlet::Outlet;
use crate::reselect::Marks;
use crate::reserved_topics::ReservedTopics;
use crate::resolver::Question;
use crate::row_writer::{Copied, RowWriter};
use crate::sent::SentLog;
use crate::settings::Settings;
use crate::trace::{MalformedTraces, Trace};
use crate::transaction::Transaction;
use crate::transaction_topic::TransactionTopic;

/// Buffers that are used again for every record.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) key_json: Vec<u8>,
    pub(crate) old_key_json: Vec<u8>,
    pub(crate) topic: String,
    pub(crate) partition_text: Vec<u8>,
    pub(crate) copied_run: CopiedRun,
}

/// See the module's documentation.
pub(crate) struct Writer {
    pub(crate) out: Outlet,
    /// Whom to ask about topics and schemas.
    pub(crate) questions: mpsc::Sender<Question>,
    /// The open transaction's place in the ack tracker.
    pub(crate) sequence: u32,
    /// Records of the open transaction so far.
    pub(crate) ordinal: u64,
    pub(crate) scratch: Scratch,
    /// What is said of the row being written, if its values were to be read back.
    pub(crate) marks: Option<Marks>,
    pub(crate) tombstones: bool,
    /// Where transaction metadata is wanted.
    pub(crate) transactions: Option<TransactionTopic>,
    /// The trace context that the open transaction has from here on, where a logical message gave one.
    pub(crate) trace: Option<Trace<'static>>,
    malformed_traces: MalformedTraces,
    /// Set where outbox tables have a status.
    pub(crate) sent: Option<SentLog>,
    pub(crate) dead_letters: DeadLetters,
    /// Which attempt the rows of the open transaction are, where it says so; else 0.
    pub(crate) attempt: u32,
    /// Topics that no row's content may choose.
    pub(crate) reserved: ReservedTopics,
    /// The timestamp of the record that is being written, where an outbox row has its own.
    pub(crate) event_time_ms: Option<i64>,
}

impl Writer {
    pub(crate) fn new(
        settings: &Settings,
        questions: mpsc::Sender<Question>,
        dead_letters: DeadLetters,
        out: Outlet,
    ) -> Writer {
        let transactions = settings
            .transactions
            .metadata
            .then(|| TransactionTopic::new(settings, &settings.transactions.topic));
        Writer {
            out,
            questions,
            sequence: 0,
            ordinal: 0,
            scratch: Scratch::default(),
            marks: None,
            tombstones: settings.tombstones_on_delete,
            transactions,
            trace: None,
            malformed_traces: MalformedTraces::default(),
            sent: None,
            dead_letters,
            attempt: 0,
            reserved: ReservedTopics::of(settings),
            event_time_ms: None,
        }
    }

    /// A transaction begins.
    pub(crate) fn begin(&mut self, commit_unix_micros: i64) {
        debug_assert!(self.marks.is_none(), "marks are of the row that they were made for");
        self.sequence = self.out.tracker.begin(Some(commit_unix_micros));
        self.ordinal = 0;
        self.attempt = 0;
        self.trace = None;
    }

    /// A logical message gives the trace context of what follows it in the open transaction; one that is malformed
    /// takes it away.
    pub(crate) fn set_trace(&mut self, content: &[u8]) {
        self.trace = Trace::parse(content).map(Trace::into_owned);
        if self.trace.is_none() {
            self.note_malformed_trace("message");
        }
    }

    /// What should be a trace context of a table's row or of a message is none.
    pub(crate) fn note_malformed_trace(&mut self, origin: &str) {
        self.malformed_traces.note(origin, self.out.metrics());
    }

    /// A row whose first record could not be written is written again: its place in the transaction is free.
    pub(crate) fn uncount(&mut self) {
        if let Some(topic) = &mut self.transactions {
            topic.uncount();
        }
    }

    /// The records of one row of the open transaction.
    pub(crate) fn row<'a>(&'a mut self, lsn: Lsn, transaction: &'a Transaction) -> RowWriter<'a> {
        RowWriter { lsn, transaction, copied: None, writer: self }
    }

    /// Something of the open transaction is done elsewhere: it is not confirmed before the ack tracker is told so, under
    /// the number that this gives.
    pub(crate) fn hold_open(&mut self) -> u32 {
        self.out.tracker.offered();
        self.sequence
    }

    /// A part of a chunk of a snapshot begins: a unit of its own in the ack tracker, between transactions.
    pub(crate) fn begin_copied(&mut self) {
        self.sequence = self.out.tracker.begin(None);
    }

    /// It ends; `end` is where the stream stands.
    pub(crate) fn end_copied(&mut self, end: Lsn, note: Option<(u32, u64)>) {
        self.out.tracker.commit_noted(end, note);
        // A position behind all that was received is confirmed only when this is delivered.
        let behind = Lsn(self.out.received.0 + 1);
        self.tell_sent(behind);
    }

    /// What was written of outbox tables is sent when this position is confirmed.
    pub(crate) fn tell_sent(&mut self, confirmed_at: Lsn) {
        if let Some(sent) = &mut self.sent {
            sent.ended(confirmed_at);
        }
    }

    /// The records of one row that a snapshot read.
    pub(crate) fn copied_row<'a>(
        &'a mut self,
        transaction: &'a Transaction,
        copied: Copied,
    ) -> RowWriter<'a> {
        RowWriter { lsn: transaction.commit_lsn, transaction, copied: Some(copied), writer: self }
    }

    /// Lets go of what was taken of the open transaction and not offered.
    pub(crate) fn discard_staged(&mut self) {
        self.out.discard_staged(self.sequence);
    }
}
