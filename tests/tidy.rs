//! The house rules that no compiler knows: which crate may depend on which, how files begin, how long they and their
//! functions may be, where `unsafe` is, and that documents say what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Files may be longer than this only if they are tables, listed here with what they list.
const FILE_LINES_MAX: usize = 800;
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions by habit have 70 lines at most; more than this only if they are listed here with the reason.
const FUNCTION_LINES_MAX: usize = 100;
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("crates/pipeline/metrics.rs:new", "one entry per metric"),
    ("crates/avro/types/mod.rs:connect_row", "one line per type and mode"),
    ("crates/avro/tests/formats.rs:connect_lines", "one entry per line of the document"),
    ("crates/cli/config/tests.rs:wrong_files", "a table of wrong files and what is said of them"),
];

/// The two calls that no crate wraps, see `docs/ARCHITECTURE.md`.
const UNSAFE_FILES: &[&str] = &["crates/kafka/bootstrap.rs", "crates/pg/receive_low_water.rs"];

/// Normal dependencies between our own crates. The root package, `cli`, may use them all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("pgoutput", &[]),
    ("pg", &["pgoutput"]),
    ("avro", &["pgoutput"]),
    ("kafka", &[]),
    ("dead_letter", &["kafka"]),
    ("pipeline", &["pg", "pgoutput", "avro", "kafka", "dead-letter"]),
    ("apply", &["pg", "avro", "kafka", "dead-letter"]),
    ("outbox", &["pg", "pgoutput", "avro", "kafka", "dead-letter", "pipeline"]),
    ("bench", &[]),
    ("demo", &[]),
];

/// What only one crate knows. `bench` and `demo` are users' programs and may use any library.
const ONLY_KNOWN_BY: &[(&str, &[&str])] = &[
    ("rdkafka", &["kafka"]),
    ("postgres-protocol", &["pg"]),
    ("tokio-postgres", &["pg"]),
    ("tokio-rustls", &["pg"]),
    ("apache-avro", &["avro"]),
    ("schema_registry_converter", &["avro"]),
    ("clap", &["cli"]),
    ("lettre", &["outbox"]),
    ("anyhow", &["cli"]),
];

fn root(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// All files under a folder of the tree, without what builds and tools leave behind.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.expect("a readable folder").path()) {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
        if entry.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts") {
                files(&entry, found);
            }
        } else {
            found.push(entry);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap_or(path).display().to_string()
}

/// Path and text of every Rust file of the tree.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root("crates"), &mut found);
    files(&root("tests"), &mut found);
    found.sort();
    let rust = found.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (relative(path), fs::read_to_string(path).expect("Rust files are UTF-8"))).collect()
}

fn assert_none(what: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

/// Names of the normal dependencies of a manifest, those of every target included.
fn normal_dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    let manifest: toml::Table = text.parse().expect("manifests are TOML");
    let mut names = BTreeSet::new();
    let mut add = |table: Option<&toml::Value>| {
        names.extend(
            table.and_then(toml::Value::as_table).into_iter().flatten().map(|(name, _)| name.clone()),
        );
    };
    add(manifest.get("dependencies"));
    add(manifest.get("build-dependencies"));
    for (_, target) in manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten() {
        add(target.get("dependencies"));
    }
    names
}

/// Crates by the name of their folder; `cli` is the root package.
fn manifests() -> BTreeMap<String, PathBuf> {
    let mut manifests = BTreeMap::from([("cli".to_owned(), root("Cargo.toml"))]);
    for entry in fs::read_dir(root("crates")).expect("crates/ exists") {
        let path = entry.expect("a readable folder").path();
        if path.join("Cargo.toml").exists() {
            let name = path.file_name().and_then(|name| name.to_str()).expect("folders have plain names");
            manifests.insert(name.to_owned(), path.join("Cargo.toml"));
        }
    }
    manifests
}

#[test]
fn dependencies_point_downward_only() {
    let mut problems = Vec::new();
    for (name, manifest) in manifests() {
        if name == "cli" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(crate_name, _)| *crate_name == name) else {
            problems.push(format!("crates/{name} is not in the table"));
            continue;
        };
        for dependency in normal_dependencies(&manifest) {
            if let Some(ours) = dependency.strip_prefix("headwater-")
                && !allowed.contains(&ours)
            {
                problems.push(format!("crates/{name} depends on {ours}"));
            }
        }
    }
    assert_none("dependencies that the table does not allow", &problems);
}

#[test]
fn every_outside_format_has_one_crate_that_knows_it() {
    let mut problems = Vec::new();
    for (name, manifest) in manifests() {
        if matches!(name.as_str(), "bench" | "demo") {
            continue;
        }
        let dependencies = normal_dependencies(&manifest);
        for (library, knowing) in ONLY_KNOWN_BY {
            if dependencies.contains(*library) && !knowing.contains(&name.as_str()) {
                problems.push(format!("{name} depends on {library}, which is for {}", knowing.join(", ")));
            }
        }
    }
    assert_none("libraries in the wrong crate", &problems);
}

#[test]
fn every_module_opens_with_what_it_is() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path);
    assert_none("files that do not begin with `//!`", &silent.collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(file, _)| *file == path) {
            problems.push(format!("{path}: {lines} lines"));
        }
    }
    assert_none("files that are too long", &problems);
}

/// Name, first line and length of every function of a formatted file.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else { continue };
        // rustfmt closes a function at its own indentation; a declaration ends with a semicolon before that.
        let rest = lines[first..].iter().enumerate();
        for (offset, line) in rest {
            let at_indent = line.len() - line.trim_start().len() == indent;
            if at_indent && (line.trim_end() == &" ".repeat(indent)[..] || line.trim() == "}")
                || one_line(offset, line)
            {
                found.push((name.to_owned(), first + 1, offset + 1));
                break;
            }
            if line.trim_end().ends_with(';') && at_indent {
                break;
            }
        }
    }
    found
}

fn one_line(offset: usize, line: &str) -> bool {
    offset == 0 && line.trim_end().ends_with('}')
}

fn function_name(line: &str) -> Option<&str> {
    let words = ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe ", "extern \"C\" "];
    let mut rest = line;
    while let Some(shorter) = words.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = shorter;
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

#[test]
fn functions_are_short() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        for (name, first, lines) in functions(&text) {
            let place = format!("{path}:{name}");
            if lines > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.iter().any(|(listed, _)| *listed == place) {
                problems.push(format!("{path}:{first} {name}: {lines} lines"));
            }
        }
    }
    assert_none("functions that are too long", &problems);
}

#[test]
fn lengths_of_functions_are_measured() {
    let text = "fn one() {}\n\npub async fn two(\n    a: u8,\n) -> u8 {\n    if a > 0 {\n        1\n    } else {\n        2\n    }\n}\n";
    assert_eq!(functions(text), [("one".to_owned(), 1, 1), ("two".to_owned(), 3, 9)]);
}

#[test]
fn unsafe_code_is_only_where_it_is_listed() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let uses = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or("");
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        let allows = text.contains("allow(unsafe_code)");
        // This file names what it looks for.
        if (uses || allows) && path != "tests/tidy.rs" && !UNSAFE_FILES.contains(&path.as_str()) {
            problems.push(path);
        }
    }
    assert_none("files with unsafe code", &problems);
}

/// Artifacts come through package managers by pinned coordinates, never from an address.
#[test]
fn the_scripts_name_no_addresses() {
    let mut found = Vec::new();
    files(&root("deploy/local"), &mut found);
    let mut problems = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let addresses = line.match_indices("://").filter(|(at, _)| {
                let (before, after) = (&line[..*at], &line[at + 3..]);
                let web = before.ends_with("http") || before.ends_with("https") || before.ends_with("ftp");
                // This machine, a placeholder, and the names of XML schemas are no places to fetch from.
                let host = after.split(['/', ':', '"', '\'', ' ']).next().unwrap_or("");
                web && !matches!(host, "127.0.0.1" | "localhost" | "maven.apache.org" | "www.w3.org" | "")
                    && !host.starts_with(['$', '%'])
            });
            problems
                .extend(addresses.map(|_| format!("{}:{}: {}", relative(&path), number + 1, line.trim())));
        }
    }
    assert_none("addresses in deploy/local", &problems);
}

/// Exit codes as the code has them: variant and number.
fn exit_codes() -> Vec<(String, u32)> {
    let text = fs::read_to_string(root("crates/pipeline/halt.rs")).expect("the exit codes are in halt.rs");
    let body = text.split_once("pub enum ExitCode {").expect("enum ExitCode").1;
    let body = body.split_once("\n}").expect("its end").0;
    let codes = body.lines().filter_map(|line| {
        let (name, number) = line.trim().trim_end_matches(',').split_once(" = ")?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    codes.collect()
}

#[test]
fn exit_codes_are_documented() {
    let codes = exit_codes();
    assert!(codes.len() > 10, "the exit codes were not found: {codes:?}");
    let numbers: BTreeSet<_> = codes.iter().map(|(_, number)| number).collect();
    assert_eq!(numbers.len(), codes.len(), "two exit codes share a number");
    let Ok(document) = fs::read_to_string(root("docs/OPERATIONS.md")) else { return };
    // A row of the table begins with the number: `| 31 | …` or `| `31` | …`.
    let rows: BTreeSet<u32> = document
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('|').next()?.trim().trim_matches('`').parse().ok())
        .collect();
    let missing =
        codes.iter().filter(|(_, number)| !rows.contains(number)).map(|(name, n)| format!("{n} {name}"));
    assert_none("exit codes without a row in docs/OPERATIONS.md", &missing.collect::<Vec<_>>());
    let known: BTreeSet<u32> = codes.iter().map(|(_, number)| *number).collect();
    let stale = rows.difference(&known).map(u32::to_string);
    assert_none("rows of docs/OPERATIONS.md without an exit code", &stale.collect::<Vec<_>>());
}

/// Every `"headwater_…"` of a text.
fn metric_names(text: &str, quote: char) -> BTreeSet<String> {
    let pieces = text.split(quote).filter(|piece| {
        piece.starts_with("headwater_")
            && piece.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    });
    pieces.map(str::to_owned).collect()
}

#[test]
fn metrics_are_documented() {
    let code = fs::read_to_string(root("crates/pipeline/metrics.rs")).expect("the metrics are in metrics.rs");
    let apply = fs::read_to_string(root("crates/apply/metrics.rs")).expect("and those of apply in its own");
    let code: BTreeSet<_> = metric_names(&code, '"').union(&metric_names(&apply, '"')).cloned().collect();
    assert!(code.len() > 10, "the metrics were not found: {code:?}");
    let Ok(document) = fs::read_to_string(root("docs/METRICS.md")) else { return };
    let document = metric_names(&document, '`');
    let missing: Vec<_> = code.difference(&document).cloned().collect();
    assert_none("metrics that are not in docs/METRICS.md", &missing);
    let stale: Vec<_> = document.difference(&code).cloned().collect();
    assert_none("metrics of docs/METRICS.md that do not exist", &stale);
}
