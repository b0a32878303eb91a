//! Whether bytes that are written by one schema mean the same when they are read by another.
//!
//! Avro's parsing canonical form is not enough: to it a decimal of scale 2 is one of scale 4, and milliseconds are
//! microseconds. So the attributes that give a value its meaning must be the same as well. What only describes
//! (doc, aliases, defaults, an enum's list of labels, versions) may differ.

use serde_json::{Map, Value};

/// The first difference that matters, as a sentence without values; `None` when there is none.
///
/// Both are schemas as JSON; one that is not JSON is a primitive's bare name, as some registries answer.
pub fn first_difference(ours: &str, theirs: &str) -> Option<String> {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    compare("", &parse(ours), &parse(theirs), "", "")
}

/// `ns` and `their_ns` are the namespaces around either.
fn compare(path: &str, ours: &Value, theirs: &Value, ns: &str, their_ns: &str) -> Option<String> {
    match (unwrapped(ours), unwrapped(theirs)) {
        (Value::Array(ours), Value::Array(theirs)) => {
            if ours.len() != theirs.len() {
                return Some(differs(path, "its union has other branches"));
            }
            ours.iter().zip(theirs).find_map(|(ours, theirs)| compare(path, ours, theirs, ns, their_ns))
        }
        (Value::Array(_), _) | (_, Value::Array(_)) => Some(differs(path, "only one of them is a union")),
        (ours, theirs) => compare_types(path, ours, theirs, ns, their_ns),
    }
}

fn compare_types(path: &str, ours: &Value, theirs: &Value, ns: &str, their_ns: &str) -> Option<String> {
    let (type_name, their_type) = (type_of(ours), type_of(theirs));
    let is_named = |name: &str| !PRIMITIVES.contains(&name) && !COMPLEX.contains(&name);
    if is_named(type_name) && is_named(their_type) {
        let same = full_name(type_name, ns) == full_name(their_type, their_ns);
        return (!same).then(|| differs(path, "it refers to another record"));
    }
    if type_name != their_type {
        return Some(differs(path, &format!("its type is {type_name}, not {their_type}")));
    }
    let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) else {
        // A bare primitive beside one with attributes: those must be none that matter.
        let attributes = ours.as_object().or(theirs.as_object());
        let meaning = attributes.and_then(|each| MEANING.iter().find(|name| each.contains_key(**name)));
        return meaning.map(|name| differs(path, &format!("only one of them has {name}")));
    };
    for name in MEANING {
        if attribute(ours, name) != attribute(theirs, name) {
            return Some(differs(path, &format!("its {name} is another")));
        }
    }
    match type_name {
        "record" | "enum" | "fixed" => compare_named(path, ours, theirs, ns, their_ns),
        "array" => compare(path, &ours["items"], &theirs["items"], ns, their_ns),
        "map" => compare(path, &ours["values"], &theirs["values"], ns, their_ns),
        _ => None,
    }
}

fn compare_named(
    path: &str,
    ours: &Map<String, Value>,
    theirs: &Map<String, Value>,
    ns: &str,
    their_ns: &str,
) -> Option<String> {
    let name_of = |schema: &Map<String, Value>, around: &str| {
        let around = schema.get("namespace").and_then(Value::as_str).unwrap_or(around);
        full_name(schema.get("name").and_then(Value::as_str).unwrap_or_default(), around)
    };
    let (name, their_name) = (name_of(ours, ns), name_of(theirs, their_ns));
    if name != their_name {
        return Some(differs(path, &format!("its name is {name}, not {their_name}")));
    }
    if ours.get("symbols") != theirs.get("symbols") || ours.get("size") != theirs.get("size") {
        return Some(differs(path, "its symbols or its size are others"));
    }
    let none = Vec::new();
    let fields = |schema: &Map<String, Value>| -> Vec<(String, Value)> {
        let fields = schema.get("fields").and_then(Value::as_array).unwrap_or(&none);
        let name = |field: &Value| field["name"].as_str().unwrap_or_default().to_owned();
        fields.iter().map(|field| (name(field), field["type"].clone())).collect()
    };
    let (fields, their_fields) = (fields(ours), fields(theirs));
    let names = |fields: &[(String, Value)]| fields.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (own_names, their_names) = (names(&fields), names(&their_fields));
    if own_names != their_names {
        let only = |names: &[String], others: &[String]| {
            names.iter().filter(|name| !others.contains(name)).cloned().collect::<Vec<_>>().join(", ")
        };
        let (more, fewer) = (only(&own_names, &their_names), only(&their_names, &own_names));
        let what = match (more.as_str(), fewer.as_str()) {
            ("", "") => "its fields are in another order".to_owned(),
            (more, "") => format!("it lacks {more}"),
            ("", fewer) => format!("it has {fewer} as well"),
            (more, fewer) => format!("it has {fewer} instead of {more}"),
        };
        return Some(differs(path, &what));
    }
    let namespace = |name: &str| name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
    let (inner, their_inner) = (namespace(&name), namespace(&their_name));
    fields.iter().zip(&their_fields).find_map(|((name, ours), (_, theirs))| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        compare(&path, ours, theirs, &inner, &their_inner)
    })
}

const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
const COMPLEX: &[&str] = &["record", "enum", "array", "map", "fixed"];

/// Attributes without which a value would be read as another one.
const MEANING: &[&str] = &["logicalType", "precision", "scale", "connect.name", "connect.parameters"];

/// An enum's labels in Connect's parameters describe; a decimal's scale and a bit string's length give meaning.
fn attribute(schema: &Map<String, Value>, name: &str) -> Option<Value> {
    let mut value = schema.get(name)?.clone();
    if let Value::Object(parameters) = &mut value {
        parameters.remove("allowed");
        if parameters.is_empty() {
            return None;
        }
    }
    Some(value)
}

/// `{"type": {…}}` and `{"type": […]}` are what is inside.
fn unwrapped(schema: &Value) -> &Value {
    match schema.get("type") {
        Some(inner @ (Value::Object(_) | Value::Array(_))) => unwrapped(inner),
        _ => schema,
    }
}

fn type_of(schema: &Value) -> &str {
    schema.as_str().or_else(|| schema.get("type")?.as_str()).unwrap_or_default()
}

fn full_name(name: &str, namespace: &str) -> String {
    if namespace.is_empty() || name.contains('.') { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn differs(path: &str, what: &str) -> String {
    if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"R","namespace":"n","fields":[{fields}]}}"#)
    }

    #[test]
    fn only_what_changes_meaning_is_a_difference() {
        let int = r#"{"name":"a","type":"int"}"#;
        let decimal = |scale: u8| {
            record(&format!(
                r#"{{"name":"a","type":{{"type":"bytes","scale":{scale},"precision":9,"logicalType":"decimal"}}}}"#
            ))
        };
        let time = |name: &str| {
            record(&format!(r#"{{"name":"a","type":["null",{{"type":"long","connect.name":"{name}"}}]}}"#))
        };
        let enumeration = |allowed: &str| {
            record(&format!(
                r#"{{"name":"a","type":{{"type":"string","connect.parameters":{{"allowed":"{allowed}"}},"connect.name":"io.debezium.data.Enum"}}}}"#
            ))
        };
        let nested = |order: &str| {
            record(&format!(
                r#"{{"name":"a","type":{{"type":"record","name":"V","fields":[{order}]}}}},{{"name":"b","type":"V"}}"#
            ))
        };
        let (x, y) = (r#"{"name":"x","type":"int"}"#, r#"{"name":"y","type":"int"}"#);
        for (ours, theirs, expected) in [
            (record(int), record(int), None),
            (record(int), record(r#"{"name":"a","doc":"d","default":1,"type":{"type":"int"}}"#), None),
            (record(int), record(int).replace(r#""name":"R","namespace":"n""#, r#""name":"n.R""#), None),
            (record(int), record(int).replace("\"R\"", "\"S\""), Some("its name is n.R, not n.S")),
            (record(int), record(r#"{"name":"a","type":"long"}"#), Some("a: its type is int, not long")),
            (
                record(int),
                record(r#"{"name":"a","type":["null","int"]}"#),
                Some("a: only one of them is a union"),
            ),
            (record(int), record(&format!("{int},{x}")), Some("it has x as well")),
            (record(&format!("{int},{x}")), record(int), Some("it lacks x")),
            (decimal(2), decimal(2), None),
            (decimal(2), decimal(4), Some("a: its scale is another")),
            (
                time("io.debezium.time.Timestamp"),
                time("io.debezium.time.MicroTimestamp"),
                Some("a: its connect.name is another"),
            ),
            (enumeration("a,b"), enumeration("a,b,c"), None),
            (nested(&format!("{x},{y}")), nested(&format!("{x},{y}")), None),
            (
                nested(&format!("{x},{y}")),
                nested(&format!("{y},{x}")),
                Some("a: its fields are in another order"),
            ),
            (r#""string""#.to_owned(), "string".to_owned(), None),
            (
                r#""string""#.to_owned(),
                r#"{"type":"string","connect.name":"x"}"#.to_owned(),
                Some("only one of them has connect.name"),
            ),
        ] {
            assert_eq!(first_difference(&ours, &theirs).as_deref(), expected, "{ours}\n{theirs}");
        }
    }
}
