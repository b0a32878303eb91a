//! Which table's rows become records in which way: one setting for all tables, and exceptions for some by name.

use headwater_avro::{RecordOverrides, RecordSettings};

/// How rows become records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordRules {
    /// For every table.
    pub all: RecordSettings,
    /// For some; where several name a table, the later one wins, key by key.
    pub tables: Vec<TableRule>,
}

/// What the tables that match a pattern have otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// Patterns over `schema.table`, in which `*` stands for any run of characters and `?` for any one.
    pub tables: Vec<String>,
    /// What they have otherwise.
    pub overrides: RecordOverrides,
}

impl RecordRules {
    /// What holds for one table.
    pub fn records_for(&self, schema: &str, table: &str) -> RecordSettings {
        let mut settings = self.all.clone();
        self.tables
            .iter()
            .filter(|rule| rule.covers(schema, table))
            .for_each(|rule| rule.overrides.apply_to(&mut settings));
        settings
    }
}

/// Which of the published tables become records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChoice {
    /// Patterns over `schema.table`; only what matches one.
    pub include: Vec<String>,
    /// And none of these.
    pub exclude: Vec<String>,
}

impl Default for TableChoice {
    fn default() -> TableChoice {
        TableChoice { include: vec!["*".to_owned()], exclude: Vec::new() }
    }
}

impl TableChoice {
    /// Whether rows of the table become records.
    pub fn takes(&self, schema: &str, table: &str) -> bool {
        let name = format!("{schema}.{table}");
        let listed = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &name));
        listed(&self.include) && !listed(&self.exclude)
    }

    /// Patterns that match none of these tables, each given as `schema.table`: most likely misspelt.
    pub fn idle_patterns(&self, tables: &[String]) -> Vec<&str> {
        let patterns = self.include.iter().chain(&self.exclude).filter(|pattern| *pattern != "*");
        patterns
            .filter(|pattern| !tables.iter().any(|table| matches(pattern, table)))
            .map(String::as_str)
            .collect()
    }
}

impl TableRule {
    /// Whether a pattern matches the table.
    pub fn covers(&self, schema: &str, table: &str) -> bool {
        let name = format!("{schema}.{table}");
        self.tables.iter().any(|pattern| matches(pattern, &name))
    }
}

/// Whether the whole text matches. After a mismatch the last `*` takes one character more, which is enough: what an
/// earlier one could take in its place, the last one can as well.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&c) if c == '?' || c == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    at = star_at + 1;
                    from = taken + 1;
                    star = Some((star_at, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_avro::{BinaryHandling, DecimalHandling};

    #[test]
    fn patterns_cover_whole_names() {
        for (pattern, name, expected) in [
            ("public.orders", "public.orders", true),
            ("public.orders", "public.orders2", false),
            ("public.*", "public.orders", true),
            ("*.orders", "shop.orders", true),
            ("public.audit_*", "public.audit", false),
            ("public.audit_*", "public.audit_", true),
            ("*a*b*c", "xaxbxbxc", true),
            ("*a*b*c", "xaxbxbx", false),
            ("public.part_????", "public.part_2024", true),
            ("public.part_????", "public.part_24", false),
            ("*", "a.ü", true),
            ("?.?", "a.ü", true),
            ("", "a.b", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn tables_are_taken_by_pattern() {
        let list = |patterns: &str| patterns.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (include, exclude, table, expected) in [
            ("*", "", "orders", true),
            ("public.o*", "", "orders", true),
            ("public.o*", "", "parts", false),
            ("*", "public.orders", "orders", false),
            ("public.o* public.p*", "public.pa*", "parts", false),
        ] {
            let choice = TableChoice { include: list(include), exclude: list(exclude) };
            assert_eq!(choice.takes("public", table), expected, "{include} {exclude} {table}");
        }
        let choice = TableChoice { include: list("* public.ordres"), exclude: list("public.p*") };
        assert_eq!(choice.idle_patterns(&list("public.orders public.parts")), ["public.ordres"]);
    }

    #[test]
    fn later_rules_win_key_by_key() {
        let rule = |tables: &[&str], overrides| TableRule {
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            overrides,
        };
        let none = RecordOverrides::default;
        let rules = RecordRules {
            all: RecordSettings::default(),
            tables: vec![
                rule(
                    &["public.*", "other.t"],
                    RecordOverrides {
                        decimal_handling: Some(DecimalHandling::String),
                        binary_handling: Some(BinaryHandling::Hex),
                        ..none()
                    },
                ),
                rule(
                    &["public.a"],
                    RecordOverrides { decimal_handling: Some(DecimalHandling::Double), ..none() },
                ),
            ],
        };
        let found = |schema, table| {
            let settings = rules.records_for(schema, table);
            (settings.decimal_handling, settings.binary_handling)
        };
        assert_eq!(found("public", "a"), (DecimalHandling::Double, BinaryHandling::Hex));
        assert_eq!(found("other", "t"), (DecimalHandling::String, BinaryHandling::Hex));
        assert_eq!(found("third", "t"), (DecimalHandling::Precise, BinaryHandling::Bytes));
    }
}
