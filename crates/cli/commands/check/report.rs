//! What a check found, and how it is printed.

use std::error::Error;
use std::io::{self, Write};

use serde::Serialize;

use crate::commands::chain;

/// How a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is met.
    Ok,
    /// It works, but somebody should know.
    Warning,
    /// `run` would fail.
    Wrong,
}

#[derive(Debug, Serialize)]
struct Finding {
    requirement: String,
    state: State,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// All findings, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// The requirement is met; `why` says by what.
    pub fn ok(&mut self, requirement: impl Into<String>, why: impl Into<String>) {
        self.add(requirement.into(), State::Ok, why.into(), None);
    }

    /// It works, but; `mend` is the SQL or command that changes it.
    pub fn warning(
        &mut self,
        requirement: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(requirement.into(), State::Warning, why.into(), Some(mend.into()));
    }

    /// It does not work; `mend` is the SQL or command that changes it.
    pub fn wrong(&mut self, requirement: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) {
        self.add(requirement.into(), State::Wrong, why.into(), Some(mend.into()));
    }

    /// The question itself failed, which is no answer.
    pub fn failed(&mut self, requirement: &str, error: &dyn Error) {
        let why = format!("could not be checked: {}", chain(error));
        self.add(requirement.to_owned(), State::Wrong, why, None);
    }

    /// Notes if a group of checks failed as a whole.
    pub fn note_failure(&mut self, requirement: &str, outcome: Result<(), headwater_pg::Error>) {
        if let Err(error) = outcome {
            self.failed(requirement, &error);
        }
    }

    /// Whether anything is wrong.
    pub fn is_wrong(&self) -> bool {
        self.findings.iter().any(|finding| finding.state == State::Wrong)
    }

    /// Prints the findings aligned, what mends them below each, and a last line that sums up.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        let width =
            self.findings.iter().map(|finding| finding.requirement.chars().count()).max().unwrap_or(0);
        for Finding { requirement, state, why, mend } in &self.findings {
            let state = state.word();
            writeln!(out, "{state:<8} {requirement:<width$}  {why}")?;
            for line in mend.iter().flat_map(|mend| mend.lines()) {
                writeln!(out, "{:<8} {:<width$}  -> {line}", "", "")?;
            }
        }
        let count = |state| self.findings.iter().filter(|finding| finding.state == state).count();
        let (wrong, warnings) = (count(State::Wrong), count(State::Warning));
        let verdict = match (wrong, warnings) {
            (0, 0) => "everything is fine".to_owned(),
            (0, _) => format!("nothing is wrong, {}", plural(warnings, "warning")),
            _ => format!("{} to mend, {}", plural(wrong, "thing"), plural(warnings, "warning")),
        };
        writeln!(out, "\n{verdict}")
    }

    /// Prints the findings as a JSON list.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, &self.findings)?;
        writeln!(out)
    }

    fn add(&mut self, requirement: String, state: State, why: String, mend: Option<String>) {
        self.findings.push(Finding { requirement, state, why, mend });
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Wrong => "wrong",
        }
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_aligned_and_sums_up() {
        let mut report = Report::default();
        report.ok("wal_level", "logical");
        report.warning("slot", "holds 3 GiB", "start headwater");
        report.wrong("publication shop", "does not exist", "CREATE PUBLICATION shop\n  FOR TABLE a;");
        let mut text = Vec::new();
        report.write_text(&mut text).expect("writes");
        assert_eq!(
            String::from_utf8_lossy(&text),
            "ok       wal_level         logical\n\
             warning  slot              holds 3 GiB\n\
             \x20                          -> start headwater\n\
             wrong    publication shop  does not exist\n\
             \x20                          -> CREATE PUBLICATION shop\n\
             \x20                          ->   FOR TABLE a;\n\
             \n1 thing to mend, 1 warning\n"
        );
        assert!(report.is_wrong());
    }
}
