//! What changed between two schemas of one subject, for people: one line per field.

use serde_json::Value;

/// One line per field that is new (`+`), gone (`-`) or another (`~`); empty when nothing that is shown differs.
///
/// Fields are named by their record, `Value.price`: a row's columns appear once, though `before` and `after` have them.
pub fn field_changes(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (fields(before), fields(after));
    let in_other =
        |other: &[Field], field: &Field| other.iter().find(|known| known.path == field.path).cloned();
    let mut lines = Vec::new();
    for field in &after {
        match in_other(&before, field) {
            None => lines.push(format!("+ {}: {}", field.path, field.shown())),
            Some(old) if old.shown() != field.shown() => {
                lines.push(format!("~ {}: {} -> {}", field.path, old.shown(), field.shown()));
            }
            Some(_) => {}
        }
    }
    for field in before.iter().filter(|field| in_other(&after, field).is_none()) {
        lines.push(format!("- {}: {}", field.path, field.shown()));
    }
    let kept = |fields: &[Field], other: &[Field]| -> Vec<String> {
        let both = fields.iter().filter(|field| in_other(other, field).is_some());
        both.map(|field| field.path.clone()).collect()
    };
    if kept(&before, &after) != kept(&after, &before) {
        lines.push("~ the fields are in another order".to_owned());
    }
    lines
}

#[derive(Clone)]
struct Field {
    path: String,
    type_text: String,
    default: Option<String>,
}

impl Field {
    fn shown(&self) -> String {
        match &self.default {
            Some(default) => format!("{} = {default}", self.type_text),
            None => self.type_text.clone(),
        }
    }
}

fn fields(schema: &str) -> Vec<Field> {
    let mut found = Vec::new();
    if let Ok(schema) = serde_json::from_str(schema) {
        collect(&schema, &mut found);
    }
    found
}

fn collect(schema: &Value, found: &mut Vec<Field>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| collect(branch, found)),
        Value::Object(object) => {
            let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
            for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                found.push(Field {
                    path: format!("{name}.{}", field["name"].as_str().unwrap_or_default()),
                    type_text: type_text(&field["type"]),
                    default: field.get("default").filter(|default| !default.is_null()).map(Value::to_string),
                });
                collect(&field["type"], found);
            }
            for inner in ["type", "items", "values"] {
                if let Some(inner @ (Value::Object(_) | Value::Array(_))) = object.get(inner) {
                    collect(inner, found);
                }
            }
        }
        _ => {}
    }
}

/// `null | bytes (logicalType decimal, precision 10, scale 2)`.
fn type_text(schema: &Value) -> String {
    match schema {
        Value::String(name) => name.clone(),
        Value::Array(branches) => branches.iter().map(type_text).collect::<Vec<_>>().join(" | "),
        Value::Object(object) => {
            let base = match object.get("type").and_then(Value::as_str) {
                Some("array") => format!("array of {}", type_text(&object["items"])),
                Some("map") => format!("map of {}", type_text(&object["values"])),
                Some("record") => object["name"].as_str().unwrap_or_default().to_owned(),
                Some(name) => name.to_owned(),
                None => return object.get("type").map(type_text).unwrap_or_default(),
            };
            let mut attributes = Vec::new();
            for (name, value) in object {
                match (name.as_str(), value) {
                    ("type" | "name" | "namespace" | "fields" | "items" | "values" | "doc", _) => {}
                    ("connect.version" | "connect.default", _) => {}
                    ("connect.parameters", Value::Object(parameters)) => {
                        attributes.extend(
                            parameters.iter().map(|(name, value)| format!("{name} {}", plain(value))),
                        );
                    }
                    (name, value) => attributes.push(format!("{name} {}", plain(value))),
                }
            }
            if attributes.is_empty() { base } else { format!("{base} ({})", attributes.join(", ")) }
        }
        _ => String::new(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &str, after: &str, expected: &[&str]) {
        let envelope = |fields: &str| {
            format!(
                r#"{{"type":"record","name":"Envelope","fields":[{{"name":"before","type":["null",{{"type":"record","name":"Value","fields":[{fields}]}}],"default":null}},{{"name":"after","type":["null","Value"],"default":null}}]}}"#
            )
        };
        assert_eq!(field_changes(&envelope(before), &envelope(after)), expected, "{before}\n{after}");
    }

    #[test]
    fn changes_are_told_field_by_field() {
        let (a, b) =
            (r#"{"name":"a","type":"int"}"#, r#"{"name":"b","type":["null","string"],"default":null}"#);
        check(a, a, &[]);
        check(a, &format!("{a},{b}"), &["+ Value.b: null | string"]);
        check(&format!("{a},{b}"), b, &["- Value.a: int"]);
        check(a, r#"{"name":"a","type":"long","default":7}"#, &["~ Value.a: int -> long = 7"]);
        check(&format!("{a},{b}"), &format!("{b},{a}"), &["~ the fields are in another order"]);
        check(
            a,
            r#"{"name":"a","type":{"type":"bytes","scale":2,"logicalType":"decimal","connect.version":1,"connect.parameters":{"x":"y"}}}"#,
            &["~ Value.a: int -> bytes (x y, logicalType decimal, scale 2)"],
        );
    }
}
