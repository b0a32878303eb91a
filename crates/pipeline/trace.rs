//! W3C trace context in record headers: `traceparent` and `tracestate`, from a column of the row or from a logical
//! message that stands before it in its transaction.
//!
//! What is not a trace context by the recommendation (https://www.w3.org/TR/trace-context/) is never sent on, because
//! a consumer that follows it would hang its spans on nothing; it is counted and stops nothing, because the row itself
//! is whole.

use std::borrow::Cow;
use std::collections::HashSet;

use headwater_avro::{RecordSettings, TableDescription};
use headwater_pgoutput::{Column, Tuple};

use crate::halt::{ExitCode, Halt};
use crate::metrics::Metrics;

/// The headers' names.
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// The recommendation's limit for members of a tracestate, and what it asks everybody to send on at least, in bytes.
const STATE_MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 512;

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const PARENT_BYTES: usize = 55;

/// A trace context that was found to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace<'a> {
    pub(crate) parent: Cow<'a, [u8]>,
    pub(crate) state: Option<Cow<'a, [u8]>>,
}

/// The columns of a table, or of an outbox, that a row's trace context is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceColumns {
    pub(crate) parent: usize,
    pub(crate) state: Option<usize>,
}

impl TraceColumns {
    /// Of a table. One that has no such column has no trace context: `[records]` may name it for those that have.
    pub(crate) fn of(
        table: &TableDescription,
        records: &RecordSettings,
    ) -> Result<Option<TraceColumns>, Halt> {
        let find = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            if records.masks.of(name).is_some() {
                return Err(Halt::new(
                    ExitCode::TableUnsuitable,
                    format!(
                        "{}.{} has its trace context in {name}, which is masked",
                        table.schema, table.table
                    ),
                    format!(
                        "take the mask from it (masks = {{ {name} = \"none\" }} under [[table]]), or traceparent_column"
                    ),
                ));
            }
            Ok(table.columns.iter().position(|column| column.name == *name))
        };
        let state = find(&records.tracestate_column.0)?;
        Ok(find(&records.traceparent_column.0)?.map(|parent| TraceColumns { parent, state }))
    }

    /// The context in a row; none where the column is NULL or was not sent. The error is a column that holds something
    /// else.
    pub(crate) fn read<'a>(
        &self,
        row: &Tuple<'a>,
        old: Option<&Tuple<'a>>,
    ) -> Result<Option<Trace<'a>>, Malformed> {
        let text = |at: usize| match row.column(at) {
            Some(Column::Unchanged) => match old.and_then(|old| old.column(at)) {
                Some(Column::Text(text)) => Some(text),
                _ => None,
            },
            Some(Column::Text(text)) => Some(text),
            _ => None,
        };
        let Some(parent) = text(self.parent) else { return Ok(None) };
        let mut trace = Trace::parse(parent).ok_or(Malformed)?;
        if let Some(state) = self.state.and_then(text).filter(|state| is_tracestate(state)) {
            trace.state = Some(Cow::Borrowed(state));
        }
        Ok(Some(trace))
    }
}

/// What was there is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Trace<'a> {
    /// A bare traceparent; or lines of `name=value`, as java.util.Properties are written, with one of that name and
    /// perhaps a tracestate: that is what Debezium's `tracingspancontext` column has.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Trace<'a>> {
        let text = text.trim_ascii();
        if is_traceparent(text) {
            return Some(Trace { parent: Cow::Borrowed(text), state: None });
        }
        let (mut parent, mut state) = (None, None);
        for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let Some(at) = line.iter().position(|byte| matches!(byte, b'=' | b':')) else { continue };
            let value = unescaped(line[at + 1..].trim_ascii());
            match line[..at].trim_ascii() {
                name if name == TRACEPARENT.as_bytes() => parent = Some(value),
                name if name == TRACESTATE.as_bytes() => state = Some(value),
                _ => {}
            }
        }
        let parent = parent.filter(|parent| is_traceparent(parent))?;
        Some(Trace { parent, state: state.filter(|state| is_tracestate(state)) })
    }

    pub(crate) fn into_owned(self) -> Trace<'static> {
        Trace {
            parent: Cow::Owned(self.parent.into_owned()),
            state: self.state.map(|state| Cow::Owned(state.into_owned())),
        }
    }

    /// Adds the headers, unless the record has one of its own.
    pub(crate) fn push_headers<'h>(&'h self, headers: &mut Vec<(&'h str, &'h [u8])>) {
        if headers.iter().any(|(name, _)| *name == TRACEPARENT) {
            return;
        }
        headers.push((TRACEPARENT, &self.parent));
        if let Some(state) = &self.state {
            headers.push((TRACESTATE, state));
        }
    }
}

/// Counts what was malformed and says it once per table.
#[derive(Debug, Default)]
pub(crate) struct MalformedTraces(HashSet<String>);

impl MalformedTraces {
    pub(crate) fn note(&mut self, origin: &str, metrics: &Metrics) {
        metrics.malformed_traces.with_label_values(&[origin]).inc();
        if self.0.insert(origin.to_owned()) {
            tracing::warn!(
                table = origin,
                "what should be a traceparent is none: such records have no trace headers (headwater_malformed_traces_total counts them)"
            );
        }
    }
}

/// In java.util.Properties a backslash takes the next character as it is.
fn unescaped(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'\\') {
        return Cow::Borrowed(value);
    }
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        plain.extend(if byte == b'\\' { bytes.next().copied() } else { Some(byte) });
    }
    Cow::Owned(plain)
}

/// Version 00 exactly; of a later version what it shares with 00, with more behind a dash.
fn is_traceparent(text: &[u8]) -> bool {
    let hex = |digits: &[u8]| digits.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    let is_set = |digits: &[u8]| hex(digits) && digits.iter().any(|byte| *byte != b'0');
    if text.len() < PARENT_BYTES || [2, 35, 52].iter().any(|at| text[*at] != b'-') {
        return false;
    }
    let (version, rest) = (&text[..2], &text[PARENT_BYTES..]);
    let ends_well = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => rest.is_empty() || (rest[0] == b'-' && rest.iter().all(u8::is_ascii_graphic)),
    };
    ends_well && hex(version) && is_set(&text[3..35]) && is_set(&text[36..52]) && hex(&text[53..55])
}

/// A list of `key=value` with commas between them.
fn is_tracestate(text: &[u8]) -> bool {
    let key = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let value = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'=');
    let members: Vec<&[u8]> = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let is_member = |member: &&[u8]| match member.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            at > 0
                && at + 1 < member.len()
                && member[..at].iter().all(key)
                && member[at + 1..].iter().all(value)
        }
        None => member.is_empty(),
    };
    text.len() <= STATE_BYTES_MAX
        && members.len() <= STATE_MEMBERS_MAX
        && members.iter().all(is_member)
        && members.iter().any(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// What becomes of a text: the two headers, as text.
    fn check(text: &str, expected: Option<(&str, Option<&str>)>) {
        let found = Trace::parse(text.as_bytes());
        let shown = found.as_ref().map(|trace| {
            let text = |bytes| std::str::from_utf8(bytes).expect("ASCII");
            (text(trace.parent.as_ref()), trace.state.as_ref().map(|state| text(state.as_ref())))
        });
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn only_a_trace_context_is_one() {
        check(PARENT, Some((PARENT, None)));
        check(&format!(" {PARENT}\n"), Some((PARENT, None)));
        let later = PARENT.replacen("00", "cc", 1);
        check(&later, Some((&later, None)));
        check(
            &format!("{later}-what-the-future-brings"),
            Some((&format!("{later}-what-the-future-brings"), None)),
        );
        for wrong in [
            "",
            "traceparent",
            &PARENT[..54],
            &format!("{PARENT}-"),
            &format!("{PARENT}0"),
            &format!("{later}0"),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace('-', "_"),
            &PARENT.replace("4bf9", "4bg9"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn properties_of_java_are_read() {
        let dated = format!("#Fri Oct 10 11:12:13 UTC 2025\ntraceparent={PARENT}\n");
        check(&dated, Some((PARENT, None)));
        check(
            &format!("tracestate=vendor\\=1,other\\=a b\r\ntraceparent: {PARENT}"),
            Some((PARENT, Some("vendor=1,other=a b"))),
        );
        // A tracestate that is none does not spoil its traceparent.
        for state in ["", "novalue", "UPPER=1", "a=1=2", "a=é"] {
            check(&format!("traceparent={PARENT}\ntracestate={state}"), Some((PARENT, None)));
        }
        check("traceparent=00-1-2-3", None);
        check("tracestate=a=1", None);
        check("uber-trace-id=1:2:3", None);
    }

    #[test]
    fn states_have_limits() {
        let members = |count: usize| vec!["a=1"; count].join(",");
        assert!(is_tracestate(members(32).as_bytes()) && !is_tracestate(members(33).as_bytes()));
        let long = |length: usize| format!("a={}", "x".repeat(length - 2));
        assert!(is_tracestate(long(512).as_bytes()) && !is_tracestate(long(513).as_bytes()));
    }

    #[test]
    fn a_record_keeps_the_header_that_it_has() {
        let trace = Trace::parse(PARENT.as_bytes()).expect("it is one");
        let mut headers: Vec<(&str, &[u8])> = vec![("traceparent", b"own")];
        trace.push_headers(&mut headers);
        assert_eq!(headers, [("traceparent", &b"own"[..])]);
        headers.clear();
        trace.push_headers(&mut headers);
        assert_eq!(headers, [("traceparent", PARENT.as_bytes())]);
    }
}
