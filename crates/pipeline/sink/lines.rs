//! The stdout and file sinks: a line of JSON per record. A file's lines are delivered once they are on the disk.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use crate::error::StageError;
use crate::record::{Record, Token};
use crate::sink::{Offered, Sink};

/// Lines that may wait for one flush: bounds memory and the work that a crash repeats.
const UNFLUSHED_MAX: usize = 10_000;

/// Writes lines and reports them after a flush.
pub(crate) struct LineSink {
    name: String,
    output: BufWriter<Output>,
    unflushed: Vec<Token>,
}

enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(stdout) => stdout.write(bytes),
            Output::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.flush(),
            Output::File(file) => file.sync_data(),
        }
    }
}

impl LineSink {
    pub(crate) fn stdout() -> LineSink {
        LineSink::new("the standard output".to_owned(), Output::Stdout(io::stdout()))
    }

    pub(crate) fn file(path: &Path) -> Result<LineSink, StageError> {
        let name = path.display().to_string();
        match File::options().create(true).append(true).open(path) {
            Ok(file) => Ok(LineSink::new(name, Output::File(file))),
            Err(source) => Err(StageError::Local { path: name, source }),
        }
    }

    fn new(name: String, output: Output) -> LineSink {
        LineSink { name, output: BufWriter::with_capacity(64 << 10, output), unflushed: Vec::new() }
    }
}

impl Sink for LineSink {
    fn has_partitions(&self) -> bool {
        false
    }

    fn offer(&mut self, record: &Record<'_>) -> Result<Offered, StageError> {
        if self.unflushed.len() >= UNFLUSHED_MAX {
            return Ok(Offered::Full);
        }
        // A tombstone has no line: it would say nothing that the delete before it did not.
        let written = match record.value {
            Some(value) => self.output.write_all(value).and_then(|()| self.output.write_all(b"\n")),
            None => Ok(()),
        };
        written.map_err(|source| StageError::Local { path: self.name.clone(), source })?;
        self.unflushed.push(record.token);
        Ok(Offered::Accepted)
    }

    fn poll(&mut self, timeout: Duration, delivered: &mut Vec<Token>) -> Result<(), StageError> {
        if self.unflushed.is_empty() {
            std::thread::sleep(timeout);
            return Ok(());
        }
        self.output.flush().map_err(|source| StageError::Local { path: self.name.clone(), source })?;
        delivered.append(&mut self.unflushed);
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        // Without BufWriter's own flush: what was not reported as delivered is written again after the restart.
        drop(self.output.into_parts());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_delivered_once_they_are_on_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.jsonl");
        let mut sink = LineSink::file(&path).unwrap();
        let record = |value| Record {
            topic: "t",
            partition: 0,
            key: None,
            value,
            headers: &[],
            timestamp_ms: None,
            token: Token::row(3, 9),
        };
        assert_eq!(sink.offer(&record(Some(b"{}"))).unwrap(), Offered::Accepted);
        assert_eq!(sink.offer(&record(None)).unwrap(), Offered::Accepted);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        let mut delivered = Vec::new();
        sink.poll(Duration::ZERO, &mut delivered).unwrap();
        assert_eq!(delivered.len(), 2);
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n");
    }
}
