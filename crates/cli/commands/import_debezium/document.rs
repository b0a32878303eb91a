//! The configuration in the making: sections and keys with the property that each comes from, written as TOML.
//!
//! Only keys that this version's loader knows get in; what it refuses afterwards is taken out by its key.

use std::fmt::Write;

use toml::Value;

use crate::config;

/// A key with its value and the property of Debezium that it comes from.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    key: String,
    value: Value,
    origin: String,
}

/// A section, or one of several of the same name.
#[derive(Clone, Debug, PartialEq)]
struct Section {
    name: String,
    several: bool,
    lines: Vec<Line>,
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    sections: Vec<Section>,
}

impl Document {
    /// Sets `section.key`; false if this version has no such key.
    pub fn set(&mut self, path: &str, value: impl Into<Value>, origin: &str) -> bool {
        let (section, key) = path.split_once('.').expect("paths are section.key");
        if !config::knows(section, key) {
            return false;
        }
        let lines = &mut self.section(section).lines;
        lines.retain(|line| line.key != key);
        lines.push(Line { key: key.to_owned(), value: value.into(), origin: origin.to_owned() });
        true
    }

    /// Sets one of the free keys below `section.map`, such as Kafka's properties.
    pub fn set_below(&mut self, map: &str, key: &str, value: &str, origin: &str) {
        let lines = &mut self.section(map).lines;
        lines.retain(|line| line.key != key);
        lines.push(Line { key: key.to_owned(), value: value.into(), origin: origin.to_owned() });
    }

    /// Adds an entry to a list of sections; false if this version has not all of the keys.
    pub fn push(&mut self, list: &str, lines: Vec<(&str, Value)>, origin: &str) -> bool {
        if lines.iter().any(|(key, _)| !config::knows(list, key)) {
            return false;
        }
        let lines = lines
            .into_iter()
            .map(|(key, value)| Line { key: key.to_owned(), value, origin: origin.to_owned() })
            .collect();
        self.sections.push(Section { name: list.to_owned(), several: true, lines });
        true
    }

    /// The value of `section.key`, if it was set.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let (section, key) = path.split_once('.')?;
        let section = self.sections.iter().find(|known| known.name == section)?;
        section.lines.iter().find(|line| line.key == key).map(|line| &line.value)
    }

    /// Whether a list of sections has an entry.
    pub fn has_several(&self, list: &str) -> bool {
        self.sections.iter().any(|section| section.several && section.name == list)
    }

    /// The value of one of the free keys below `section.map`.
    pub fn get_below(&self, map: &str, key: &str) -> Option<&Value> {
        let section = self.sections.iter().find(|known| known.name == map)?;
        section.lines.iter().find(|line| line.key == key).map(|line| &line.value)
    }

    /// Takes out what the loader refuses under this path; gives the properties it came from.
    pub fn remove(&mut self, path: &str) -> Vec<String> {
        let mut origins = Vec::new();
        self.sections.retain_mut(|section| {
            let Some(key) = path.strip_prefix(&section.name).and_then(|rest| rest.strip_prefix('.')) else {
                return true;
            };
            let before = section.lines.len();
            section.lines.retain(|line| {
                let refused = line.key == key;
                if refused {
                    origins.push(line.origin.clone());
                }
                !refused
            });
            // One of several has no meaning without the part that was refused.
            !section.several || section.lines.len() == before
        });
        origins
    }

    /// The text of the file.
    pub fn to_toml(&self, preamble: &str) -> String {
        let mut text: String =
            preamble.lines().map(|line| format!("# {line}\n").replace(" \n", "\n")).collect();
        for section in self.sections.iter().filter(|section| !section.lines.is_empty()) {
            let (open, close) = if section.several { ("[[", "]]") } else { ("[", "]") };
            writeln!(text, "\n{open}{}{close}", section.name).expect("a String takes everything");
            for Line { key, value, origin } in &section.lines {
                let key = toml_key(key);
                let comment = if origin.is_empty() { String::new() } else { format!("  # {origin}") };
                writeln!(text, "{key} = {value}{comment}").expect("a String takes everything");
            }
        }
        text
    }

    fn section(&mut self, name: &str) -> &mut Section {
        let place = self.sections.iter().position(|section| section.name == name && !section.several);
        let place = place.unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), several: false, lines: Vec::new() });
            self.sections.len() - 1
        });
        &mut self.sections[place]
    }
}

/// Bare where it can be, else quoted.
fn toml_key(key: &str) -> String {
    let bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_toml_and_only_known_keys_are() {
        let mut document = Document::default();
        assert!(document.set("postgres.slot", "debezium", "slot.name"));
        assert!(!document.set("postgres.slot_of_tomorrow", "x", "y"));
        document.set_below("kafka.properties", "sasl.username", "a \"b\"", "");
        assert!(document.push("outbox", vec![("table", "public.outbox".into())], "transforms.outbox.type"));
        assert!(!document.push("outbox", vec![("table", "t".into()), ("tomorrow", 1.into())], ""));
        let text = document.to_toml("one\n\ntwo");
        assert_eq!(
            text,
            "# one\n#\n# two\n\n[postgres]\nslot = \"debezium\"  # slot.name\n\n[kafka.properties]\n\"sasl.username\" = 'a \"b\"'\n\n\
             [[outbox]]\ntable = \"public.outbox\"  # transforms.outbox.type\n"
        );
        text.parse::<toml::Table>().expect("it is TOML");
        assert_eq!(document.remove("postgres.slot"), ["slot.name"]);
        assert_eq!(document.remove("postgres.slot"), [""; 0]);
        assert_eq!(document.get("postgres.slot"), None);
    }
}
