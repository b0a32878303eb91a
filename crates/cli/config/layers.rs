//! The three places a setting can be written, laid over one another: flag, environment, file.
//!
//! In: the text of the file, the process's environment, the `--set` flags. Out: one tree of values in which each
//! value knows where it was written, so that every later message can name the place.
//! Precedence: a flag hides a variable, a variable hides the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::as_written;
use super::problem::{Origin, Problems};

/// Environment variables that configure how the command runs, not what it does; they are no settings.
pub const RESERVED_VARIABLES: &[&str] = &["HEADWATER_LOG", "HEADWATER_CONFIG"];

const PREFIX: &str = "HEADWATER_";

/// A value of the tree and where it was written. Not printable: it may be a secret.
#[derive(Clone)]
pub struct Entry {
    /// The place to name when something is wrong with it.
    pub origin: Origin,
    /// The value.
    pub node: Node,
}

/// A TOML value; the text of an environment variable or flag is `Typed`, since it may stand for any scalar.
#[derive(Clone)]
pub enum Node {
    Table(Table),
    Array(Vec<Entry>),
    Text(String),
    Integer(String),
    Float(String),
    Bool(bool),
    Datetime,
    Typed(String),
}

/// A table of the tree.
pub type Table = BTreeMap<String, Entry>;

impl Node {
    /// What to call this value in a message; the value itself might be a secret.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Table(_) => "a table",
            Node::Array(_) => "a list",
            Node::Text(_) | Node::Typed(_) => "text",
            Node::Integer(_) => "a whole number",
            Node::Float(_) => "a fraction",
            Node::Bool(_) => "true or false",
            Node::Datetime => "a date",
        }
    }
}

/// Reads the file's text; every syntax error becomes a problem with its line.
pub fn read_file(name: &str, text: &str, problems: &mut Problems) -> Table {
    let file: Arc<str> = Arc::from(name);
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(0, |span| lines.line_of(span.start));
        problems.add(&Origin::File(file.clone(), line), "", error.message().trim());
    }
    from_toml(table.get_ref(), &file, &lines)
}

/// Lays `HEADWATER_<SECTION>__<KEY>` variables over the tree.
///
/// Returns warnings about variables that look meant for Headwater but are not read.
pub fn lay_environment(
    tree: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
    problems: &mut Problems,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if RESERVED_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some((section, key)) = rest.split_once("__") else {
            warnings.extend(misspelt_variable(&name, rest));
            continue;
        };
        let path = variable_path(section, key);
        lay(tree, &path, value, Origin::Environment(name), problems);
    }
    warnings
}

/// Lays `--set key=value` flags over the tree.
pub fn lay_flags(tree: &mut Table, flags: &[String], problems: &mut Problems) {
    for flag in flags {
        let Some((key, value)) = flag.split_once('=') else {
            problems.add(&Origin::Flag(flag.clone()), "", "has no value; write --set section.key=value");
            continue;
        };
        let origin = Origin::Flag(key.to_owned());
        if as_written::is_secret(key) {
            let mut parts = key.splitn(3, '.');
            let variable = variable_of(parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
            let advice =
                format!("a secret on the command line shows in the process list; set {variable} instead");
            problems.add(&origin, "", advice);
            continue;
        }
        let Some((section, rest)) = key.split_once('.') else {
            problems.add(&origin, "", "names no section; write --set section.key=value");
            continue;
        };
        let path = match rest.split_once('.') {
            Some((map, property)) => vec![section.to_owned(), map.to_owned(), property.to_owned()],
            None => vec![section.to_owned(), rest.to_owned()],
        };
        lay(tree, &path, value.to_owned(), origin, problems);
    }
}

/// The environment variable for a key, and for a property below it.
pub fn variable_of(section: &str, key: &str, property: Option<&str>) -> String {
    let below = property.map(|name| format!("__{}", name.replace('.', "_"))).unwrap_or_default();
    format!("{PREFIX}{section}__{key}{below}").to_uppercase()
}

/// `POSTGRES`, `PASSWORD` -> `postgres.password`; below a map of properties one underscore is a dot.
fn variable_path(section: &str, key: &str) -> Vec<String> {
    let section = section.to_lowercase();
    match key.split_once("__") {
        None => vec![section, key.to_lowercase()],
        Some((map, property)) => vec![section, map.to_lowercase(), property.to_lowercase().replace('_', ".")],
    }
}

/// `HEADWATER_POSTGRES_PASSWORD` was surely meant to be `HEADWATER_POSTGRES__PASSWORD`.
fn misspelt_variable(name: &str, rest: &str) -> Option<String> {
    let lower = rest.to_lowercase();
    let meant = as_written::all_keys().find(|(section, key)| lower == format!("{section}_{}", key.name))?;
    let variable = variable_of(meant.0, meant.1.name, None);
    Some(format!("environment variable {name} is not read; did you mean {variable}?"))
}

fn lay(tree: &mut Table, path: &[String], value: String, origin: Origin, problems: &mut Problems) {
    let Some((last, tables)) = path.split_last() else { return };
    let mut table = tree;
    for name in tables {
        let entry = table
            .entry(name.clone())
            .or_insert_with(|| Entry { origin: origin.clone(), node: Node::Table(Table::new()) });
        match &mut entry.node {
            Node::Table(inner) => table = inner,
            Node::Array(_) => {
                let advice = format!("[[{name}]] is a list of tables and can only be written in the file");
                return problems.add(&origin, "", advice);
            }
            _ => return problems.add(&origin, "", format!("{name} is not a table")),
        }
    }
    let mut leaf = Entry { origin, node: Node::Typed(value) };
    // `linger.ms` as one key hides a nested `linger = { ms = … }` as well as a quoted "linger.ms".
    remove_nested(table, last);
    if let Some(Entry { node: Node::Table(_), .. }) = table.get(last.as_str()) {
        problems.add(&leaf.origin, "", format!("{last} is a table; name a key below it"));
        leaf.node = table.remove(last.as_str()).map_or(leaf.node, |entry| entry.node);
    }
    table.insert(last.clone(), leaf);
}

fn remove_nested(table: &mut Table, dotted: &str) {
    let Some((first, rest)) = dotted.split_once('.') else { return };
    if let Some(Entry { node: Node::Table(inner), .. }) = table.get_mut(first) {
        inner.remove(rest);
        remove_nested(inner, rest);
    }
}

fn from_toml(table: &DeTable<'_>, file: &Arc<str>, lines: &Lines) -> Table {
    let mut tree = Table::new();
    for (key, value) in table {
        let origin = Origin::File(file.clone(), lines.line_of(key.span().start));
        let node = node_from_toml(value.get_ref(), file, lines);
        tree.insert(key.get_ref().to_string(), Entry { origin, node });
    }
    tree
}

fn node_from_toml(value: &DeValue<'_>, file: &Arc<str>, lines: &Lines) -> Node {
    match value {
        DeValue::String(text) => Node::Text(text.to_string()),
        DeValue::Integer(number) => match number.radix() {
            10 => Node::Integer(number.as_str().to_owned()),
            radix => i64::from_str_radix(number.as_str(), radix)
                .map_or_else(|_| Node::Integer(number.to_string()), |n| Node::Integer(n.to_string())),
        },
        DeValue::Float(number) => Node::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Node::Bool(*value),
        DeValue::Datetime(_) => Node::Datetime,
        DeValue::Array(values) => Node::Array(
            values
                .iter()
                .map(|value| Entry {
                    origin: Origin::File(file.clone(), lines.line_of(value.span().start)),
                    node: node_from_toml(value.get_ref(), file, lines),
                })
                .collect(),
        ),
        DeValue::Table(table) => Node::Table(from_toml(table, file, lines)),
    }
}

/// Where each line starts, to turn a byte offset into a line number.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Lines {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { starts }
    }

    fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}
