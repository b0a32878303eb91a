//! A row's records on their last step: identity, trace context, and whether they go aside.

use headwater_pgoutput::Tuple;

use crate::error::StageError;
use crate::record::{ID_HEADER, Record, Token, write_record_id};
use crate::row_writer::RowWriter;
use crate::trace::{Trace, TraceColumns};

impl RowWriter<'_> {
    pub(crate) fn offer(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header: Option<(&str, &[u8])>,
    ) -> Result<(), StageError> {
        match header {
            None => self.offer_to(topic, partition, key, value, &[]),
            Some(header) => self.offer_to(topic, partition, key, value, &[header]),
        }
    }

    /// The trace context in a row. (An old row tells who wrote it and not who deleted it, so deletes have none.)
    pub(crate) fn trace_of<'t>(
        &mut self,
        columns: &TraceColumns,
        table: &str,
        row: &Tuple<'t>,
        old: Option<&Tuple<'t>>,
    ) -> Option<Trace<'t>> {
        columns.read(row, old).unwrap_or_else(|_| {
            self.writer.note_malformed_trace(table);
            None
        })
    }

    /// Offers one record with its trace context, or with that of its transaction.
    pub(crate) fn offer_traced(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
        trace: Option<&Trace<'_>>,
    ) -> Result<(), StageError> {
        let Some(trace) = trace else { return self.offer_to(topic, partition, key, value, more) };
        let mut headers = more.to_vec();
        trace.push_headers(&mut headers);
        self.offer_to(topic, partition, key, value, &headers)
    }

    /// Offers one record with its identity and up to a few more headers.
    pub(crate) fn offer_to(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        match &self.writer.trace {
            None => self.offer_with_id(topic, partition, key, value, more),
            Some(_) => self.offer_in_trace(topic, partition, key, value, more),
        }
    }

    /// Out of the way of the path that most records take.
    #[inline(never)]
    fn offer_in_trace(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        let trace = self.writer.trace.take();
        let mut headers = more.to_vec();
        if let Some(trace) = &trace {
            trace.push_headers(&mut headers);
        }
        let result = self.offer_with_id(topic, partition, key, value, &headers);
        self.writer.trace = trace;
        result
    }

    fn offer_with_id(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        let (lsn, ordinal) = (self.transaction.commit_lsn, self.writer.ordinal);
        self.writer.ordinal += 1;
        if let Some(copied) = self.copied {
            let id = std::mem::take(self.writer.scratch.copied_run.id(copied, lsn, ordinal));
            let result = self.offer_as(&id, topic, partition, key, value, more);
            self.writer.scratch.copied_run.keep_id(id);
            return result;
        }
        let mut id = std::mem::take(&mut self.writer.scratch.id);
        write_record_id(&mut id, lsn, ordinal);
        let result = self.offer_as(&id, topic, partition, key, value, more);
        self.writer.scratch.id = id;
        result
    }

    /// Offers one record under an identity of its own.
    pub(crate) fn offer_as(
        &mut self,
        id: &[u8],
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        more: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        let id = (ID_HEADER, id);
        if self.writer.dead_letters.is_watching() {
            let mut headers = vec![id];
            headers.extend_from_slice(more);
            if self.offer_aside(topic, key, value, &headers)? {
                return Ok(());
            }
        }
        match more {
            [] => self.offer_record(topic, partition, key, value, &[id]),
            [one] => self.offer_record(topic, partition, key, value, &[id, *one]),
            more => {
                let mut headers = vec![id];
                headers.extend_from_slice(more);
                self.offer_record(topic, partition, key, value, &headers)
            }
        }
    }

    /// Offers one record with all its headers.
    #[inline]
    pub(crate) fn offer_record(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<(), StageError> {
        let commit_ms = self.transaction.commit_unix_micros.div_euclid(1000);
        let timestamp_ms = self.writer.event_time_ms.or(Some(commit_ms));
        let record = Record { topic, partition, key, value, headers, timestamp_ms, token: Token::CHECKPOINT };
        self.writer.out.take(self.writer.sequence, record, self.transaction.commit_lsn)
    }
}
