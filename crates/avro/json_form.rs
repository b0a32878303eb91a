//! Records as JSON, in the way of Connect's JsonConverter: a second rendering of the one type table.
//!
//! A record is written as Avro first, then read back and rendered along its own schema. So there is no second table,
//! no type can differ between the two, and whatever the schema says (a record in a column, a map, a decimal's bytes)
//! has its JSON form here by its Avro type alone. The price is paid by those who ask for JSON.
//!
//! ```text
//! Avro                          JSON
//! boolean, int, long            the same
//! float, double                 a number with a point or an exponent; "NaN", "Infinity", "-Infinity" as Jackson does
//! string                        a string
//! bytes                         base64
//! union with null               null or the value
//! record, map, array            object, object, array
//! Connect's MapEntry            an array of two
//! ```

use std::collections::HashMap;
use std::io::Write;

use serde_json::Value as Json;

use crate::binary;
use crate::json::write_string;
use crate::json_schema;
use crate::types::write_base64_text;

/// How bytes of one Avro schema become JSON.
#[derive(Debug, Clone)]
pub(crate) struct JsonForm {
    node: Node,
    /// `{"schema":…,"payload":`, where the schema goes along.
    before: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Node {
    Null,
    Boolean,
    Number,
    Float,
    Double,
    Text,
    Bytes,
    Nullable {
        /// The branch byte of null.
        null: u8,
        value: Box<Node>,
    },
    /// Each field with what stands before its value: `{"id":` or `,"name":`.
    Record(Vec<(Vec<u8>, Node)>),
    /// A pair of a map whose keys are no strings.
    Entry(Box<Node>, Box<Node>),
    Array(Box<Node>),
    Map(Box<Node>),
}

impl JsonForm {
    /// Compiles a schema that this crate wrote.
    pub(crate) fn new(schema_json: &str, with_schema: bool) -> JsonForm {
        let schema: Json = serde_json::from_str(schema_json).expect("our schemas are JSON");
        let before = with_schema.then(|| {
            format!(r#"{{"schema":{},"payload":"#, json_schema::connect_schema(&schema)).into_bytes()
        });
        JsonForm { node: node(&schema, &mut HashMap::new()), before }
    }

    /// Appends the JSON of a record's Avro bytes (without the registry's header).
    pub(crate) fn write(&self, avro: &[u8], out: &mut Vec<u8>) {
        if let Some(before) = &self.before {
            out.extend_from_slice(before);
        }
        self.node.write(&mut Bytes(avro), out);
        if self.before.is_some() {
            out.push(b'}');
        }
    }
}

fn node(schema: &Json, defined: &mut HashMap<String, Node>) -> Node {
    match schema {
        Json::String(name) => match name.as_str() {
            "null" => Node::Null,
            "boolean" => Node::Boolean,
            "int" | "long" => Node::Number,
            "float" => Node::Float,
            "double" => Node::Double,
            "string" => Node::Text,
            "bytes" => Node::Bytes,
            name => defined.get(name).cloned().expect("a name is defined before it is used"),
        },
        Json::Array(branches) => {
            let null = branches.iter().position(|branch| branch == "null").expect("unions are with null");
            let value = Box::new(node(&branches[1 - null], defined));
            Node::Nullable { null: null as u8 * 2, value }
        }
        Json::Object(definition) => match definition["type"].as_str().expect("a type has a name") {
            "record" => record(schema, defined),
            "array" => Node::Array(Box::new(node(&definition["items"], defined))),
            "map" => Node::Map(Box::new(node(&definition["values"], defined))),
            base => node(&Json::from(base), defined),
        },
        _ => unreachable!("no schema is a number"),
    }
}

fn record(schema: &Json, defined: &mut HashMap<String, Node>) -> Node {
    let fields: Vec<(String, Node)> = schema["fields"]
        .as_array()
        .expect("a record has fields")
        .iter()
        .map(|field| (field["name"].as_str().unwrap_or_default().to_owned(), node(&field["type"], defined)))
        .collect();
    let name = schema["name"].as_str().expect("a record has a name");
    let made = if json_schema::is_map_entry(schema) {
        let mut nodes = fields.into_iter().map(|(_, node)| Box::new(node));
        let (key, value) = (nodes.next().expect("a key"), nodes.next().expect("a value"));
        Node::Entry(key, value)
    } else {
        let labelled = fields.into_iter().enumerate().map(|(index, (name, node))| {
            let mut label = vec![if index == 0 { b'{' } else { b',' }];
            write_string(name.as_bytes(), &mut label);
            label.push(b':');
            (label, node)
        });
        Node::Record(labelled.collect())
    };
    if let Some(namespace) = schema["namespace"].as_str() {
        defined.insert(format!("{namespace}.{name}"), made.clone());
    }
    defined.insert(name.to_owned(), made.clone());
    made
}

/// Avro bytes that are left to read; they are our own, just written.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn long(&mut self) -> i64 {
        let (number, length) = binary::read_long(self.0);
        self.take(length);
        number
    }

    fn text(&mut self) -> &'a [u8] {
        let length = self.long() as usize;
        self.take(length)
    }
}

impl Node {
    fn write(&self, bytes: &mut Bytes<'_>, out: &mut Vec<u8>) {
        match self {
            Node::Null => out.extend_from_slice(b"null"),
            Node::Boolean => out.extend_from_slice(if bytes.byte() == 1 { b"true" } else { b"false" }),
            Node::Number => write_display(bytes.long(), out),
            Node::Float => {
                let value = f32::from_le_bytes(bytes.take(4).try_into().expect("four bytes"));
                write_float(format_args!("{value:?}"), f64::from(value), out);
            }
            Node::Double => {
                let value = f64::from_le_bytes(bytes.take(8).try_into().expect("eight bytes"));
                write_float(format_args!("{value:?}"), value, out);
            }
            Node::Text => write_string(bytes.text(), out),
            Node::Bytes => {
                out.push(b'"');
                write_base64_text(bytes.text(), out);
                out.push(b'"');
            }
            Node::Nullable { null, value } => match bytes.byte() {
                branch if branch == *null => out.extend_from_slice(b"null"),
                _ => value.write(bytes, out),
            },
            Node::Record(fields) => {
                if fields.is_empty() {
                    out.push(b'{');
                }
                for (label, field) in fields {
                    out.extend_from_slice(label);
                    field.write(bytes, out);
                }
                out.push(b'}');
            }
            Node::Entry(key, value) => {
                out.push(b'[');
                key.write(bytes, out);
                out.push(b',');
                value.write(bytes, out);
                out.push(b']');
            }
            Node::Array(element) => {
                out.push(b'[');
                blocks(bytes, out, |bytes, out| element.write(bytes, out));
                out.push(b']');
            }
            Node::Map(value) => {
                out.push(b'{');
                blocks(bytes, out, |bytes, out| {
                    write_string(bytes.text(), out);
                    out.push(b':');
                    value.write(bytes, out);
                });
                out.push(b'}');
            }
        }
    }
}

/// The items of an array or a map, block by block: a count and the items, or a negative count, the bytes and the
/// items; a count of zero ends it.
fn blocks(bytes: &mut Bytes<'_>, out: &mut Vec<u8>, item: impl Fn(&mut Bytes<'_>, &mut Vec<u8>)) {
    let mut is_first = true;
    loop {
        let count = bytes.long();
        if count == 0 {
            return;
        }
        if count < 0 {
            bytes.long();
        }
        for _ in 0..count.unsigned_abs() {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            item(bytes, out);
        }
    }
}

fn write_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("a Vec takes everything");
}

fn write_float(digits: std::fmt::Arguments<'_>, value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(br#""NaN""#);
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { br#""Infinity""# } else { br#""-Infinity""# });
    } else {
        write_display(digits, out);
    }
}

#[cfg(test)]
mod tests;
