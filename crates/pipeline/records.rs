//! Which table's rows become records in which way: one setting for all tables, and exceptions for some by name.

use headwater_avro::{RecordEncoding, RecordOverrides, RecordSettings, glob_matches};

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

    /// Whether any record of any table may be Avro, and so needs a registry.
    pub fn writes_avro(&self) -> bool {
        let is_avro = |encoding: Option<RecordEncoding>| encoding == Some(RecordEncoding::Avro);
        [self.all.key_encoding, self.all.value_encoding].contains(&RecordEncoding::Avro)
            || self
                .tables
                .iter()
                .any(|rule| is_avro(rule.overrides.key_encoding) || is_avro(rule.overrides.value_encoding))
    }

    /// Patterns and names that match nothing of these tables, each as a sentence: a misspelt mask hides nothing.
    pub fn without_effect(&self, tables: &[PublishedColumns]) -> Vec<String> {
        let mut sentences = Vec::new();
        if tables.is_empty() {
            return sentences;
        }
        let every: Vec<&PublishedColumns> = tables.iter().collect();
        columns_without_effect("records", &RecordOverrides::of_columns(&self.all), &every, &mut sentences);
        for rule in &self.tables {
            let place = format!("table ({})", rule.tables.join(", "));
            let covered: Vec<_> =
                tables.iter().filter(|table| rule.covers(&table.schema, &table.table)).collect();
            for pattern in &rule.tables {
                let name = |table: &PublishedColumns| format!("{}.{}", table.schema, table.table);
                if !tables.iter().any(|table| glob_matches(pattern, &name(table))) {
                    sentences.push(format!("table.tables: \"{pattern}\" matches no published table"));
                }
            }
            if !covered.is_empty() {
                columns_without_effect(&place, &rule.overrides, &covered, &mut sentences);
            }
        }
        sentences
    }
}

/// A published table and the columns that it publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedColumns {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
}

impl PublishedColumns {
    /// From rows of schema, table and columns.
    pub fn all(rows: Vec<(String, String, Vec<String>)>) -> Vec<PublishedColumns> {
        let one = |(schema, table, columns)| PublishedColumns { schema, table, columns };
        rows.into_iter().map(one).collect()
    }
}

fn columns_without_effect(
    place: &str,
    overrides: &RecordOverrides,
    tables: &[&PublishedColumns],
    sentences: &mut Vec<String>,
) {
    let RecordOverrides {
        columns_include,
        columns_exclude,
        propagate_source_type,
        renames,
        masks,
        traceparent_column,
        tracestate_column,
        ..
    } = overrides;
    let mut patterns: Vec<(&str, &str)> = Vec::new();
    patterns.extend(columns_include.iter().flat_map(|p| &p.0).map(|p| ("columns_include", p.as_str())));
    patterns.extend(columns_exclude.iter().flat_map(|p| &p.0).map(|p| ("columns_exclude", p.as_str())));
    let propagated = propagate_source_type.iter().flat_map(|p| &p.0);
    patterns.extend(propagated.map(|p| ("propagate_source_type", p.as_str())));
    patterns.extend(masks.iter().flat_map(|masks| masks.patterns()).map(|p| ("masks", p)));
    for (key, pattern) in patterns {
        if !tables.iter().any(|table| table.columns.iter().any(|column| glob_matches(pattern, column))) {
            sentences.push(format!("{place}.{key}: \"{pattern}\" matches no column of a published table"));
        }
    }
    let mut names: Vec<(&str, &String)> = Vec::new();
    names.extend(renames.iter().flat_map(|names| names.0.keys()).map(|name| ("renames", name)));
    names.extend(traceparent_column.iter().flat_map(|name| &name.0).map(|name| ("traceparent_column", name)));
    names.extend(tracestate_column.iter().flat_map(|name| &name.0).map(|name| ("tracestate_column", name)));
    for (key, name) in names {
        if !tables.iter().any(|table| table.columns.contains(name)) {
            sentences.push(format!("{place}.{key}: there is no column \"{name}\" in a published table"));
        }
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
        let listed = |patterns: &[String]| patterns.iter().any(|pattern| glob_matches(pattern, &name));
        listed(&self.include) && !listed(&self.exclude)
    }

    /// Patterns that match none of these tables, each given as `schema.table`: most likely misspelt.
    pub fn idle_patterns(&self, tables: &[String]) -> Vec<&str> {
        let patterns = self.include.iter().chain(&self.exclude).filter(|pattern| *pattern != "*");
        patterns
            .filter(|pattern| !tables.iter().any(|table| glob_matches(pattern, table)))
            .map(String::as_str)
            .collect()
    }
}

impl TableRule {
    /// Whether a pattern matches the table.
    pub fn covers(&self, schema: &str, table: &str) -> bool {
        let name = format!("{schema}.{table}");
        self.tables.iter().any(|pattern| glob_matches(pattern, &name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_avro::{BinaryHandling, ColumnMasks, ColumnName, ColumnPatterns, DecimalHandling, Mask};

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

    #[test]
    fn what_matches_nothing_is_named() {
        let masks = |patterns: &[&str]| {
            ColumnMasks::new(patterns.iter().map(|&pattern| (pattern.to_owned(), Mask::Hash)))
        };
        let exclude = |patterns: &[&str]| ColumnPatterns(patterns.iter().map(|&p| p.to_owned()).collect());
        let rules = RecordRules {
            all: RecordSettings { masks: masks(&["*email*", "emial"]), ..RecordSettings::default() },
            tables: vec![TableRule {
                tables: vec!["public.user".to_owned(), "public.usr".to_owned()],
                overrides: RecordOverrides {
                    columns_exclude: Some(exclude(&["secret_*", "id"])),
                    traceparent_column: Some(ColumnName(Some("trace".to_owned()))),
                    tracestate_column: Some(ColumnName(None)),
                    ..RecordOverrides::default()
                },
            }],
        };
        let columns = ["id", "email"].map(str::to_owned).to_vec();
        let table = PublishedColumns { schema: "public".to_owned(), table: "user".to_owned(), columns };
        assert_eq!(
            rules.without_effect(&[table]),
            [
                "records.masks: \"emial\" matches no column of a published table",
                "table.tables: \"public.usr\" matches no published table",
                "table (public.user, public.usr).columns_exclude: \"secret_*\" matches no column of a published table",
                "table (public.user, public.usr).traceparent_column: there is no column \"trace\" in a published table",
            ]
        );
    }
}
