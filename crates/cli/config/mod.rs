//! Configuration: from a file, the environment and flags to validated settings, or to every problem at once.
//!
//! `layers` lays the three sources over one another, `as_written` holds the table of settings and reads it,
//! `settings` gives it meaning. The invariant: what leaves this module can be run, and no message quotes a secret.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use headwater_pipeline::Settings;

pub mod apply;
pub mod reference;

mod as_written;
mod connection;
mod layers;
mod outbox;
mod outbox_table;
mod password;
mod problem;
mod quantity;
mod records;
mod settings;
mod url;
mod value;

use as_written::AsWritten;
use layers::{Node, Table};
use problem::{Origin, Problem, Problems};
use settings::Findings;

pub use connection::from_flag;
pub use problem::did_you_mean;
pub use settings::qualified_name;

/// A configuration that can be run.
#[derive(Debug)]
pub struct Config {
    /// For the pipeline.
    pub settings: Settings,
    /// How the statuses of outbox rows are kept, if they are.
    pub outbox: Option<headwater_outbox::Settings>,
    /// Where to serve metrics and probes, if anywhere.
    pub listen: Option<SocketAddr>,
    /// What the user should know although it stops nothing.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "the configuration is wrong: {one}")?,
            many => {
                write!(f, "the configuration is wrong in {} places:", many.len())?;
                for problem in many {
                    write!(f, "\n  {problem}")?;
                }
            }
        }
        for warning in &self.warnings {
            write!(f, "\n  note: {warning}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Loads the configuration: `flags` (`key=value`) over this process's environment over the file.
pub fn load(file: &Path, flags: &[String]) -> Result<Config, ConfigError> {
    let (name, text, variables) = read_sources(file)?;
    read(&name, &text, variables, flags)
}

/// The file's name and text, and this process's environment.
type Sources = (String, String, Vec<(String, String)>);

fn read_sources(file: &Path) -> Result<Sources, ConfigError> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("can't be read: {error}; name the file with -c or in HEADWATER_CONFIG");
        let problem = Problem { origin: Origin::File(name.as_str().into(), 0), key: String::new(), message };
        ConfigError { problems: vec![problem], warnings: Vec::new() }
    })?;
    // A variable that is not UTF-8 can't be one of ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok((name, text, variables.collect()))
}

/// File, variables and flags as one tree, with the problems and warnings found on the way.
fn lay(
    name: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
) -> (Table, Problems, Vec<String>) {
    let mut problems = Problems::default();
    let mut tree = layers::read_file(name, text, &mut problems);
    let warnings = layers::lay_environment(&mut tree, variables, &mut problems);
    layers::lay_flags(&mut tree, flags, &mut problems);
    (tree, problems, warnings)
}

/// Whether this version has the key.
pub fn knows(section: &str, key: &str) -> bool {
    as_written::all_keys().any(|(known_section, known)| known_section == section && known.name == key)
}

/// Whether a text is a configuration that can be run with these environment variables and no others; if not, each
/// key that is wrong and why.
pub fn check_text(text: &str, variables: &[(String, String)]) -> Result<(), Vec<(String, String)>> {
    match read("", text, variables.iter().cloned(), &[]) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.problems.into_iter().map(|problem| (problem.key, problem.message)).collect()),
    }
}

/// The part of [`load`] that touches neither the file nor the environment.
fn read(
    name: &str,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
) -> Result<Config, ConfigError> {
    let (tree, mut problems, warnings) = lay(name, text, variables, flags);
    let origins = origins(&tree);
    let written = AsWritten::read(tree, &mut problems);
    let file = Origin::File(name.into(), 0);
    let mut findings = Findings { file: file.clone(), problems, warnings };
    let made = settings::make(written, &mut findings);
    let Findings { mut problems, warnings, .. } = findings;
    if let Some(made) = &made {
        for problem in made.settings.validate() {
            problems.add(origins.get(problem.key).unwrap_or(&file), problem.key, problem.message);
        }
    }
    match made {
        Some(settings::Made { settings, listen, life }) if problems.is_empty() => {
            let outbox = outbox::make(&settings, life);
            Ok(Config { settings, outbox, listen, warnings })
        }
        _ => Err(ConfigError { problems: problems.into_sorted(), warnings }),
    }
}

/// Where each `section.key` was written; of a list of sections, the first that writes it.
fn origins(tree: &Table) -> BTreeMap<String, Origin> {
    let mut origins = BTreeMap::new();
    for (section, entry) in tree {
        let tables: Vec<&Table> = match &entry.node {
            Node::Table(table) => vec![table],
            Node::Array(entries) => entries
                .iter()
                .filter_map(|entry| if let Node::Table(table) = &entry.node { Some(table) } else { None })
                .collect(),
            _ => continue,
        };
        for (key, entry) in tables.into_iter().flatten() {
            origins.entry(format!("{section}.{key}")).or_insert_with(|| entry.origin.clone());
        }
    }
    origins
}

#[cfg(test)]
mod tests;
