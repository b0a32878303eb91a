//! A second reader that isn't ours and isn't Rust: `fastavro_reader.py` under Python's fastavro, a process that is
//! given records and answers with cells.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use super::cell::{Cell, hex};
use super::evidence::Cells;
use super::kafka::Raw;
use super::servers::SCRIPT;

const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/harness/fastavro_reader.py");

/// A running Python.
pub struct Fastavro {
    child: Child,
    records: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// The rows of one record.
#[derive(Debug, Default)]
pub struct Rows {
    /// The key, if there is one.
    pub key: Option<Cells>,
    /// The old row.
    pub before: Option<Cells>,
    /// The new row.
    pub after: Option<Cells>,
}

impl Fastavro {
    /// Starts it, fetching fastavro if it isn't there; schemas come from this registry.
    pub fn start(registry: &str) -> Result<Fastavro> {
        let mut child = Command::new(SCRIPT)
            .args(["fastavro", READER, registry])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start Python's reader")?;
        let records = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Fastavro { child, records, answers })
    }

    /// Reads one record.
    pub fn read(&mut self, raw: &Raw) -> Result<Rows> {
        let word = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or_else(|| "-".to_owned(), hex);
        writeln!(self.records, "{} {}", word(&raw.key), word(&raw.value)).context("write to Python")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read from Python")?;
        ensure!(!line.is_empty(), "Python's reader ended; what it said is on stderr");
        let answer: Json = serde_json::from_str(&line)?;
        Ok(Rows { key: row(&answer["key"])?, before: row(&answer["before"])?, after: row(&answer["after"])? })
    }
}

impl Drop for Fastavro {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn row(json: &Json) -> Result<Option<Cells>> {
    let Json::Object(columns) = json else { return Ok(None) };
    let cells = columns.iter().map(|(name, json)| Ok((name.clone(), cell(json)?)));
    cells.collect::<Result<_>>().map(Some)
}

/// `null` or `{tag: content}`.
fn cell(json: &Json) -> Result<Cell> {
    let Some((tag, content)) = json.as_object().and_then(|object| object.iter().next()) else {
        ensure!(json.is_null(), "not a cell");
        return Ok(Cell::Null);
    };
    let text = || content.as_str().map(str::to_owned).context("not a text");
    Ok(match tag.as_str() {
        "text" => Cell::Text(text()?),
        "number" => Cell::Number(text()?),
        "double" => Cell::Double(text()?.parse()?),
        // Python has doubles only: this one was a float, so nothing is lost.
        "float" => Cell::Float(text()?.parse::<f64>()? as f32),
        "duration" => Cell::Duration(content.as_i64().context("not a number")?),
        "bits" => Cell::Bits(from_hex(&text()?)?),
        "numbers" => {
            let numbers = content.as_array().context("not a list")?.iter();
            Cell::Numbers(
                numbers.map(|n| Ok(n.as_str().context("not a text")?.parse()?)).collect::<Result<_>>()?,
            )
        }
        "array" => {
            Cell::Array(content.as_array().context("not a list")?.iter().map(cell).collect::<Result<_>>()?)
        }
        other => bail!("an unknown tag {other}"),
    })
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2), "half a byte");
    let digits = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    digits.collect::<Result<_, _>>().context("not hexadecimal")
}
