//! Where a setting came from, and what is wrong with it, as a sentence that names the place.

use std::fmt;
use std::sync::Arc;

/// Where the value of a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, counted from 1; line 0 is the file as a whole.
    File(Arc<str>, usize),
    /// An environment variable, by name.
    Environment(String),
    /// `--set <key>=…`.
    Flag(String),
    /// Nobody wrote it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(name, 0) => write!(f, "{name}"),
            Origin::File(name, line) => write!(f, "{name}:{line}"),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(key) => write!(f, "--set {key}"),
            Origin::Default => write!(f, "default"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key in full, `postgres.slot`; empty for syntax errors.
    pub key: String,
    /// What is wrong and what to write instead; never quotes a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { origin, key, message } = self;
        if key.is_empty() {
            write!(f, "{origin}: {message}")
        } else {
            write!(f, "{origin}: {key}: {message}")
        }
    }
}

/// Everything that is wrong, collected while reading goes on.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Notes one problem.
    pub fn add(&mut self, origin: &Origin, key: &str, message: impl Into<String>) {
        self.0.push(Problem { origin: origin.clone(), key: key.to_owned(), message: message.into() });
    }

    /// The problems in the order of the file, then those of environment and flags.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.0.sort_by_key(|problem| match &problem.origin {
            Origin::File(_, line) => (0, *line),
            Origin::Environment(_) => (1, 0),
            Origin::Flag(_) => (2, 0),
            Origin::Default => (3, 0),
        });
        self.0
    }

    /// Whether nothing was wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The name among `known` that `written` was most likely meant to be.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (edit_distance(&written, name), name))
        // A third of the name may be wrong: `max_inflight` finds `max_in_flight_bytes` no more than `url` finds `ca`.
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's distance, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let known = ["slot", "publication", "password_file", "max_in_flight_bytes"];
        for (written, meant) in [
            ("solt", Some("slot")),
            ("publications", Some("publication")),
            ("password-file", Some("password_file")),
            ("max_inflight_bytes", Some("max_in_flight_bytes")),
            ("SLOT", Some("slot")),
            ("wholly_different", None),
        ] {
            assert_eq!(did_you_mean(written, known), meant, "{written}");
        }
    }
}
