//! What becomes of each key of the connector, as a table for a person.

use std::fmt::Write;

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The same is done here, by a setting or anyway.
    Carried,
    /// It is done in another way here, and nothing has to be set.
    Other,
    /// It is not done here.
    Unsupported,
    /// It is no key of Debezium, Connect or Kafka that is known here.
    Unknown,
}

impl Fate {
    fn words(self) -> &'static str {
        match self {
            Fate::Carried => "carried over",
            Fate::Other => "has another default here",
            Fate::Unsupported => "not supported",
            Fate::Unknown => "unknown",
        }
    }
}

/// One key and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The key as it was written.
    pub key: String,
    /// What becomes of it.
    pub fate: Fate,
    /// The key of ours, or the reason.
    pub text: String,
}

/// All keys, the groups in the order of [`Fate`].
pub fn write(verdicts: &[Verdict]) -> String {
    let width = verdicts.iter().map(|verdict| verdict.key.chars().count()).max().unwrap_or(0).min(60);
    let mut text = String::new();
    for fate in [Fate::Carried, Fate::Other, Fate::Unsupported, Fate::Unknown] {
        let mut group = verdicts.iter().filter(|verdict| verdict.fate == fate).peekable();
        if group.peek().is_none() {
            continue;
        }
        writeln!(text, "{}", fate.words()).expect("a String takes everything");
        for Verdict { key, text: why, .. } in group {
            writeln!(text, "  {key:<width$}  {why}").expect("a String takes everything");
        }
        text.push('\n');
    }
    let count = |fate| verdicts.iter().filter(|verdict| verdict.fate == fate).count();
    writeln!(
        text,
        "{} carried over, {} with another default here, {} not supported, {} unknown",
        count(Fate::Carried),
        count(Fate::Other),
        count(Fate::Unsupported),
        count(Fate::Unknown)
    )
    .expect("a String takes everything");
    text
}

/// Whether something of the connector has no equivalent.
pub fn is_incomplete(verdicts: &[Verdict]) -> bool {
    verdicts.iter().any(|verdict| verdict.fate >= Fate::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_grouped_and_counted() {
        let verdict =
            |key: &str, fate, text: &str| Verdict { key: key.to_owned(), fate, text: text.to_owned() };
        let verdicts = [
            verdict("tasks.max", Fate::Other, "one process"),
            verdict("slot.name", Fate::Carried, "postgres.slot"),
            verdict("topic.prefix", Fate::Carried, "topics.prefix"),
            verdict("slot.nmae", Fate::Unknown, "did you mean slot.name?"),
        ];
        assert_eq!(
            write(&verdicts),
            "carried over\n  slot.name     postgres.slot\n  topic.prefix  topics.prefix\n\n\
             has another default here\n  tasks.max     one process\n\n\
             unknown\n  slot.nmae     did you mean slot.name?\n\n\
             2 carried over, 1 with another default here, 0 not supported, 1 unknown\n"
        );
        assert!(is_incomplete(&verdicts));
        assert!(!is_incomplete(&verdicts[..3]));
    }
}
