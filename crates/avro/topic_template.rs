//! A topic's name with named parts: `{prefix}.{schema}.{table}`.
//!
//! What stands between the parts must be legal in a topic's name; what stands for them becomes so as Debezium does it,
//! `_` for each character that Kafka refuses. Whether the whole is a legal name is for [`check_topic_name`].

use crate::name_adjustment::topic_part;

/// Kafka's limit for a topic's name.
pub const TOPIC_LENGTH_MAX: usize = 249;

/// A template that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Fixed(String),
    Part(Part),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Prefix,
    Database,
    Schema,
    Table,
}

const PARTS: &[(&str, Part)] = &[
    ("prefix", Part::Prefix),
    ("database", Part::Database),
    ("schema", Part::Schema),
    ("table", Part::Table),
];

/// What the parts stand for.
#[derive(Clone, Copy, Debug)]
pub struct TopicParts<'a> {
    /// The topics' prefix.
    pub prefix: &'a str,
    /// The database.
    pub database: &'a str,
    /// The table's schema.
    pub schema: &'a str,
    /// The table.
    pub table: &'a str,
}

impl Default for TopicTemplate {
    /// Debezium's: `{prefix}.{schema}.{table}`.
    fn default() -> TopicTemplate {
        TopicTemplate::parse("{prefix}.{schema}.{table}").expect("its parts are known")
    }
}

impl TopicTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// Says which part is unknown and which there are, or which character no topic can have.
    pub fn parse(text: &str) -> Result<TopicTemplate, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (fixed, after) =
                rest.split_once('{').map_or((rest, None), |(fixed, after)| (fixed, Some(after)));
            if let Some(odd) = fixed.chars().find(|c| !legal_in_topic(*c)) {
                return Err(format!(
                    "\"{text}\" has '{odd}', which no topic can have; there are A-Z, a-z, 0-9, '.', '_', '-' and parts in braces"
                ));
            }
            if !fixed.is_empty() {
                pieces.push(Piece::Fixed(fixed.to_owned()));
            }
            let Some(after) = after else { break };
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("\"{text}\" has a {{ without its }}"));
            };
            match PARTS.iter().find(|(known, _)| *known == name) {
                Some((_, part)) => pieces.push(Piece::Part(*part)),
                None => {
                    let known: Vec<_> = PARTS.iter().map(|(name, _)| format!("{{{name}}}")).collect();
                    return Err(format!(
                        "\"{text}\" has the unknown part {{{name}}}; there are {}",
                        known.join(", ")
                    ));
                }
            }
            rest = after;
        }
        if pieces.is_empty() { Err("is empty".to_owned()) } else { Ok(TopicTemplate(pieces)) }
    }

    /// The name that it gives.
    pub fn fill(&self, parts: TopicParts<'_>) -> String {
        let filled = self.0.iter().map(|piece| match piece {
            Piece::Fixed(text) => text.clone(),
            Piece::Part(Part::Prefix) => topic_part(parts.prefix),
            Piece::Part(Part::Database) => topic_part(parts.database),
            Piece::Part(Part::Schema) => topic_part(parts.schema),
            Piece::Part(Part::Table) => topic_part(parts.table),
        });
        filled.collect()
    }
}

/// Whether Kafka allows this character in a topic's name.
pub fn legal_in_topic(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether Kafka takes the name.
///
/// # Errors
/// Says why not.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if matches!(name, "." | "..") {
        return Err("is \".\" or \"..\", which Kafka refuses".to_owned());
    }
    if let Some(odd) = name.chars().find(|c| !legal_in_topic(*c)) {
        return Err(format!("has '{odd}', which no topic can have"));
    }
    if name.len() > TOPIC_LENGTH_MAX {
        return Err(format!("has {} characters, more than Kafka's {TOPIC_LENGTH_MAX}", name.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let parts = TopicParts { prefix: "shop", database: "shopdb", schema: "pub lic", table: "a{table}" };
        for (template, expected) in [
            ("{prefix}.{schema}.{table}", Ok("shop.pub_lic.a_table_")),
            ("{table}", Ok("a_table_")),
            ("all-of.{database}_v1", Ok("all-of.shopdb_v1")),
            ("fixed", Ok("fixed")),
            ("", Err("is empty")),
            (
                "{prefix}.{tabel}",
                Err("unknown part {tabel}; there are {prefix}, {database}, {schema}, {table}"),
            ),
            ("{prefix", Err("a { without its }")),
            ("prefix}", Err("'}', which no topic can have")),
            ("a b", Err("' ', which no topic can have")),
            ("{}", Err("unknown part {}")),
        ] {
            let found = TopicTemplate::parse(template).map(|parsed| parsed.fill(parts));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{template}"),
                (Err(found), Err(words)) => assert!(found.contains(words), "{template}: {found}"),
                (found, _) => panic!("{template}: {found:?}"),
            }
        }
    }

    #[test]
    fn names_that_kafka_refuses() {
        let longest = "t".repeat(TOPIC_LENGTH_MAX);
        for name in ["a", "a.b_c-1", &longest] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
        for (name, words) in [
            ("", "empty"),
            (".", "refuses"),
            ("..", "refuses"),
            ("a b", "' '"),
            ("ä", "'ä'"),
            (&format!("{longest}t"), "has 250 characters"),
        ] {
            assert!(check_topic_name(name).is_err_and(|why| why.contains(words)), "{name}");
        }
    }
}
