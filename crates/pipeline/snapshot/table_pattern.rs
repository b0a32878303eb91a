//! Which tables are meant by whoever asks for a snapshot: by wildcards, by a regular expression, or by name.

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::topic_rewriting::compile_whole;

/// One of those; a request that waits is stored with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TablePattern {
    /// Over `schema.table`; `*` stands for any characters and `?` for any one.
    Glob(String),
    /// Matches `schema.table` as a whole, as Java's `matches` does: what Debezium's signals have.
    Regex(String),
    /// This table.
    Exact(String, String),
}

impl TablePattern {
    /// Patterns with wildcards.
    pub fn globs(patterns: Vec<String>) -> Vec<TablePattern> {
        patterns.into_iter().map(TablePattern::Glob).collect()
    }

    /// A regular expression.
    ///
    /// # Errors
    /// Why it is none here.
    pub(crate) fn regex(expression: &str) -> Result<TablePattern, String> {
        compile_whole(expression)?;
        Ok(TablePattern::Regex(expression.to_owned()))
    }
}

impl std::fmt::Display for TablePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TablePattern::Glob(text) | TablePattern::Regex(text) => f.write_str(text),
            TablePattern::Exact(schema, table) => write!(f, "{schema}.{table}"),
        }
    }
}

/// The same, for messages.
pub(crate) fn list(patterns: &[TablePattern]) -> String {
    patterns.iter().map(TablePattern::to_string).collect::<Vec<_>>().join(", ")
}

/// A pattern that is ready to be used on many tables.
pub(crate) enum Matcher {
    Glob(String),
    Regex(Regex),
    Exact(String, String),
    /// An expression that was stored by a version that knew more.
    Nothing,
}

impl Matcher {
    pub(crate) fn new(pattern: &TablePattern) -> Matcher {
        match pattern {
            TablePattern::Glob(glob) => Matcher::Glob(glob.clone()),
            TablePattern::Exact(schema, table) => Matcher::Exact(schema.clone(), table.clone()),
            TablePattern::Regex(expression) => {
                compile_whole(expression).map_or(Matcher::Nothing, Matcher::Regex)
            }
        }
    }

    pub(crate) fn all(patterns: &[TablePattern]) -> Vec<Matcher> {
        patterns.iter().map(Matcher::new).collect()
    }

    pub(crate) fn matches(&self, schema: &str, table: &str) -> bool {
        match self {
            Matcher::Glob(glob) => headwater_avro::glob_matches(glob, &format!("{schema}.{table}")),
            Matcher::Regex(regex) => regex.is_match(&format!("{schema}.{table}")),
            Matcher::Exact(of, name) => of == schema && name == table,
            Matcher::Nothing => false,
        }
    }
}

/// Whether any of them means this table.
pub(crate) fn any_matches(matchers: &[Matcher], schema: &str, table: &str) -> bool {
    matchers.iter().any(|matcher| matcher.matches(schema, table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &TablePattern, table: &str, wanted: bool| {
            assert_eq!(Matcher::new(pattern).matches("public", table), wanted, "{pattern} {table}");
        };
        let regex = |text| TablePattern::regex(text).unwrap();
        check(&TablePattern::Glob("public.*".to_owned()), "orders", true);
        check(&TablePattern::Glob("public.order".to_owned()), "orders", false);
        // An unescaped point is any character to Java, and the whole has to match.
        check(&regex("public.orders"), "orders", true);
        check(&regex(r"public\.ord"), "orders", false);
        check(&regex(r"public\.(a|orders)"), "orders", true);
        check(&regex(r"public\.a|public\.orders"), "orders", true);
        check(&TablePattern::Exact("public".to_owned(), "odd*name".to_owned()), "odd*name", true);
        check(&TablePattern::Exact("public".to_owned(), "odd*name".to_owned()), "odd1name", false);
        // What only Java has is refused, not taken for something else.
        assert!(TablePattern::regex(r"public\.(?!secret).*").is_err());
    }
}
