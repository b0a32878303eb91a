//! A connector's properties through the table: to a configuration, a verdict for each key, and the secrets to set.
//!
//! The invariants: every key of the input has exactly one verdict; the text that leaves is one that this version's
//! loader takes; and it holds no secret.

use std::collections::{BTreeMap, BTreeSet};

use toml::Value;

use super::document::Document;
use super::property_table::{Becomes, Property, all, find};
use super::report::{Fate, Verdict};
use super::source::{Connector, Given};
use super::{combined, converters, kafka, transforms};
use crate::config;

/// What only the user can know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `kafka.bootstrap_servers`, over what the connector and its worker say.
    pub bootstrap_servers: Option<String>,
    /// `schema_registry.url`, over what the converters say.
    pub registry_url: Option<String>,
    /// The tables that the outbox router is meant for.
    pub outbox_tables: Vec<String>,
}

/// What came out.
#[derive(Debug)]
pub struct Translation {
    /// The text of the configuration.
    pub toml: String,
    /// What is wrong with it although nothing in it was refused: keys that are required and were not found.
    pub missing: Vec<String>,
    /// One for each key.
    pub verdicts: Vec<Verdict>,
    /// Environment variables to set, each with the key that the secret was in.
    pub secrets: BTreeMap<String, String>,
}

/// The work in progress.
pub struct Work<'a> {
    /// Without the properties that only a worker can resolve.
    pub connector: Connector,
    pub options: &'a Options,
    pub document: Document,
    pub secrets: BTreeMap<String, String>,
    verdicts: Vec<Verdict>,
    /// Names that have their verdict.
    done: BTreeSet<String>,
    /// What was written twice in the input for one key of ours.
    emitted: BTreeMap<String, String>,
}

/// Translates everything.
pub fn translate(connector: &Connector, options: &Options) -> Translation {
    let mut work = Work {
        connector: connector.clone(),
        options,
        document: Document::default(),
        secrets: BTreeMap::new(),
        verdicts: Vec::new(),
        done: BTreeSet::new(),
        emitted: BTreeMap::new(),
    };
    work.references();
    combined::connection(&mut work);
    kafka::translate(&mut work);
    converters::translate(&mut work);
    work.by_table();
    // What Debezium makes up for columns that an old row lacks; its consumers have schemas with it.
    work.document.set("records.absent_before", "debezium", "as the connector does");
    transforms::translate(&mut work);
    work.unknown();
    work.finish()
}

impl Work<'_> {
    /// Gives a property its verdict; a second one is not taken.
    pub fn judge(&mut self, name: &str, fate: Fate, text: impl Into<String>) {
        if !self.done.insert(name.to_owned()) {
            return;
        }
        let shown = self
            .connector
            .properties
            .get(name)
            .map_or_else(|| format!("{name} (default)"), |given| given.shown.clone());
        // Debezium Server has one key for what are two in Connect.
        if !self.verdicts.iter().any(|verdict| verdict.key == shown) {
            self.verdicts.push(Verdict { key: shown, fate, text: text.into() });
        }
    }

    /// Sets a key of ours, if this version has it.
    pub fn emit(&mut self, path: &str, value: impl Into<Value>, origin: &str) -> (Fate, String) {
        let value = value.into();
        let text = format!("{path} = {value}");
        if let (Some(other), Some(present)) = (self.emitted.get(path), self.document.get(path))
            && other != origin
            && *present != value
        {
            return (Fate::Unsupported, format!("{other} has already set {path} to something else"));
        }
        if !self.document.set(path, value, origin) {
            return (Fate::Unsupported, format!("not yet: this version has no {path}"));
        }
        self.emitted.insert(path.to_owned(), origin.to_owned());
        (Fate::Carried, text)
    }

    /// The value of a property or its default in the table.
    pub fn effective(&self, name: &str) -> String {
        let default = || find(all(), name).map_or("", |property| property.default);
        self.connector.value(name).unwrap_or_else(default).to_owned()
    }

    /// What a line of a table says of a value.
    pub fn apply(&mut self, property: &Property, given: &Given) -> (Fate, String) {
        let value = given.value.trim();
        let origin = &given.shown;
        match property.becomes {
            Becomes::Key(path) if value.is_empty() => {
                (Fate::Other, format!("it is empty, and {path} is left at its default"))
            }
            Becomes::Key(path) => self.emit(path, value, origin),
            Becomes::Flag(path) => match value.to_lowercase().as_str() {
                "true" => self.emit(path, true, origin),
                "false" => self.emit(path, false, origin),
                _ => (Fate::Unsupported, "it is neither true nor false".to_owned()),
            },
            Becomes::Milliseconds(path) => match value.parse::<u64>() {
                Ok(number) => self.emit(path, format!("{number}ms"), origin),
                Err(_) => (Fate::Unsupported, "it is no number of milliseconds".to_owned()),
            },
            Becomes::Number(path) => match value.parse::<i64>() {
                Ok(number) => self.emit(path, number, origin),
                Err(_) => (Fate::Unsupported, "it is no number".to_owned()),
            },
            Becomes::Words(path, words, otherwise) => {
                match words.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(value)) {
                    Some((_, ours)) => self.emit(path, *ours, origin),
                    None => (Fate::Unsupported, otherwise.to_owned()),
                }
            }
            Becomes::AsHere(values, how, otherwise) => {
                match values.iter().any(|known| known.eq_ignore_ascii_case(value)) {
                    true => (Fate::Carried, format!("as here: {how}")),
                    false => (Fate::Unsupported, otherwise.to_owned()),
                }
            }
            Becomes::Other(why) => (Fate::Other, why.to_owned()),
            Becomes::Not(_) if value == property.default => {
                (Fate::Carried, "Debezium's default, which asks for nothing".to_owned())
            }
            Becomes::Not(why) => (Fate::Unsupported, why.to_owned()),
            Becomes::ByHand(..) if value == property.default => {
                (Fate::Carried, "Debezium's default, which asks for nothing".to_owned())
            }
            Becomes::ByHand(path, why) => {
                let (section, key) = path.split_once('.').expect("paths are section.key");
                match config::knows(section, key) {
                    true => (
                        Fate::Unsupported,
                        format!("not translated by itself: write {path} by hand, see docs/CONFIG.md"),
                    ),
                    false => (Fate::Unsupported, format!("not yet: {why}")),
                }
            }
            Becomes::Special(function) => function(self, given),
        }
    }

    /// A reference such as `${file:/etc/secrets:password}` is resolved by the worker only.
    fn references(&mut self) {
        let is_reference = |value: &str| {
            value
                .split("${")
                .skip(1)
                .any(|rest| rest.split('}').next().is_some_and(|inside| inside.contains(':')))
        };
        let references: Vec<String> = self
            .connector
            .properties
            .iter()
            .filter(|(name, given)| is_reference(&given.value) && !is_secret(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in references {
            self.judge(
                &name,
                Fate::Unsupported,
                "it refers to a config provider, which only the Connect worker can ask: write the value itself, and import again",
            );
            self.connector.properties.remove(&name);
        }
    }

    /// The properties of the table that have no verdict yet, in its order.
    fn by_table(&mut self) {
        for property in all() {
            let names: Vec<(String, Given)> = self
                .connector
                .properties
                .iter()
                .filter(|(name, _)| find([property], name).is_some() && !self.done.contains(*name))
                .map(|(name, given)| (name.clone(), given.clone()))
                .collect();
            let absent = property.always
                && !self.connector.properties.contains_key(property.name)
                && !self.done.contains(property.name);
            let default = absent.then(|| {
                let given = Given {
                    shown: format!("{}, by default", property.name),
                    value: property.default.to_owned(),
                };
                (property.name.to_owned(), given)
            });
            for (name, given) in names.into_iter().chain(default) {
                let (fate, text) = self.apply(property, &given);
                self.judge(&name, fate, text);
            }
        }
    }

    fn unknown(&mut self) {
        let left: Vec<String> =
            self.connector.properties.keys().filter(|name| !self.done.contains(*name)).cloned().collect();
        for name in left {
            let near = all().map(|property| property.name).filter(|known| !known.contains('*'));
            let text = match config::did_you_mean(&name, near) {
                Some(near) => format!("did you mean {near}? As it is, Debezium ignores it"),
                None => "no property of Debezium or Connect that is known here".to_owned(),
            };
            self.judge(&name, Fate::Unknown, text);
        }
    }

    /// Reads the text with our own loader; a key that it refuses is taken out and not supported.
    fn finish(mut self) -> Translation {
        let variables: Vec<(String, String)> = self
            .secrets
            .keys()
            .map(|variable| (variable.clone(), "not known to the import".to_owned()))
            .collect();
        let preamble = self.preamble();
        let mut missing: Vec<String> = Vec::new();
        let mut toml = self.document.to_toml(&preamble);
        while let Err(problems) = config::check_text(&toml, &variables) {
            let mut refused = false;
            for (key, message) in &problems {
                for origin in self.document.remove(key) {
                    refused = true;
                    match self.verdicts.iter_mut().find(|verdict| verdict.key == origin) {
                        Some(verdict) => {
                            verdict.fate = Fate::Unsupported;
                            verdict.text = format!("{key} {message}");
                        }
                        // Made of several, or from the command line: nothing can stand for it.
                        None => missing.push(format!("{key} (from {origin}) {message}")),
                    }
                }
            }
            toml = self.document.to_toml(&preamble);
            if !refused {
                let problems = problems.into_iter().map(|(key, message)| format!("{key} {message}"));
                missing.extend(problems);
                break;
            }
        }
        Translation { toml, missing, verdicts: self.verdicts, secrets: self.secrets }
    }

    fn preamble(&self) -> String {
        let mut text = format!(
            "Written by headwater import-debezium from the connector {}.\nBehind each key stands the property it comes from.",
            self.connector.value("name").unwrap_or("(without a name)")
        );
        if !self.secrets.is_empty() {
            text.push_str("\n\nSecrets are not written here. Set these in the environment:");
        }
        for (variable, origin) in &self.secrets {
            text.push_str(&format!("\n  {variable}  ({origin})"));
        }
        text
    }
}

/// Whether a property's value is a secret, by its name. Errs on the side of hiding.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["password", "secret", "token", "jaas", "user.info", "credentials", "passphrase"]
        .iter()
        .any(|part| name.contains(part))
}
