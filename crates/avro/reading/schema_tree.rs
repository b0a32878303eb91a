//! A writer's schema as a tree: shapes as Avro has them, each with the meaning that Connect or Avro writes beside it.
//!
//! In: the JSON that the registry keeps. Out: a [`Node`] in which every named type stands where it is used. A type that
//! contains itself is refused: no row of a table has one.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::cell::Unreadable;
use super::cursor::{Cursor, ReadError};

/// A type.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) shape: Shape,
    /// `connect.name`, else `logicalType`; empty if there is neither.
    pub(crate) meaning: Arc<str>,
    /// Scale of a decimal, or length of a bit string.
    pub(crate) number: Option<i64>,
    /// Precision of a decimal, where it is known.
    pub(crate) precision: Option<i64>,
    /// `connect.type`.
    pub(crate) connect_type: Option<Arc<str>>,
    /// How the source declared the column, where the producer says so (`propagate_source_type`).
    pub(crate) source_type: Option<Arc<str>>,
    /// The length it declared.
    pub(crate) source_length: Option<i64>,
}

#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Arc<[String]>),
    Record(Arc<RecordShape>),
    Array(Box<Node>),
    Map(Box<Node>),
    Union(Arc<[Node]>),
}

#[derive(Debug)]
pub(crate) struct RecordShape {
    pub(crate) name: String,
    pub(crate) fields: Vec<FieldShape>,
}

#[derive(Debug)]
pub(crate) struct FieldShape {
    pub(crate) name: String,
    pub(crate) node: Node,
    /// As the schema writes it; only writing needs it.
    pub(crate) default: Option<Box<RawValue>>,
}

/// How deep schemas may be. Debezium's have five levels; a document has two for each of its own.
const DEPTH_MAX: usize = 64;

impl Node {
    pub(crate) fn parse(json: &str) -> Result<Node, Unreadable> {
        let value: Value =
            serde_json::from_str(json).map_err(|_| Unreadable::new("the registry's schema is not JSON"))?;
        Parser { named: HashMap::new() }.node(&value, "", 0)
    }

    fn plain(shape: Shape) -> Node {
        Node {
            shape,
            meaning: "".into(),
            number: None,
            precision: None,
            connect_type: None,
            source_type: None,
            source_length: None,
        }
    }

    /// The one branch that is not null, and the index of null; for what is no union, itself.
    pub(crate) fn without_null(&self) -> Result<(&Node, Option<i64>), Unreadable> {
        let Shape::Union(branches) = &self.shape else { return Ok((self, None)) };
        let null = branches.iter().position(|branch| matches!(branch.shape, Shape::Null));
        match (&branches[..], null) {
            ([a, b], Some(null)) => Ok((if null == 0 { b } else { a }, Some(null as i64))),
            ([only], None) => Ok((only, Some(-1))),
            _ => Err(Unreadable::new("is a union of several types")),
        }
    }
}

struct Parser {
    named: HashMap<String, Node>,
}

impl Parser {
    fn node(&mut self, json: &Value, namespace: &str, depth: usize) -> Result<Node, Unreadable> {
        if depth > DEPTH_MAX {
            return Err(Unreadable::new("the schema is nested too deeply"));
        }
        match json {
            Value::String(name) => self.by_name(name, namespace),
            Value::Array(branches) => {
                let branches: Result<Vec<_>, _> =
                    branches.iter().map(|branch| self.node(branch, namespace, depth + 1)).collect();
                Ok(Node::plain(Shape::Union(branches?.into())))
            }
            Value::Object(attributes) => self.object(attributes, namespace, depth),
            _ => Err(Unreadable::new("the schema has a type that is none")),
        }
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<Node, Unreadable> {
        let shape = match name {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "int" => Shape::Int,
            "long" => Shape::Long,
            "float" => Shape::Float,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            "string" => Shape::Text,
            _ => {
                let full = full_name(name, namespace);
                let found = self.named.get(&full).or_else(|| self.named.get(name));
                return found.cloned().ok_or_else(|| {
                    Unreadable::new(format!("the schema uses the type {name} before it defines it"))
                });
            }
        };
        Ok(Node::plain(shape))
    }

    fn object(
        &mut self,
        json: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Node, Unreadable> {
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let Some(kind) = json.get("type") else {
            return Err(Unreadable::new("the schema has an object without a type"));
        };
        let below =
            |key: &str| json.get(key).ok_or_else(|| Unreadable::new(format!("the schema lacks {key}")));
        let mut node = match kind.as_str() {
            Some("array") => {
                Node::plain(Shape::Array(Box::new(self.node(below("items")?, namespace, depth + 1)?)))
            }
            Some("map") => {
                Node::plain(Shape::Map(Box::new(self.node(below("values")?, namespace, depth + 1)?)))
            }
            Some("record" | "enum" | "fixed") => {
                let own = text("namespace").unwrap_or(namespace).to_owned();
                let full = full_name(text("name").unwrap_or_default(), &own);
                let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
                let shape = match kind.as_str() {
                    Some("record") => self.record(below("fields")?, &full, &namespace, depth)?,
                    Some("enum") => Shape::Enum(symbols(below("symbols")?)?),
                    _ => Shape::Fixed(size(below("size")?)?),
                };
                let mut node = Node::plain(shape);
                annotate(&mut node, json);
                self.named.insert(full, node.clone());
                return Ok(node);
            }
            Some(name) => self.by_name(name, namespace)?,
            None => self.node(kind, namespace, depth + 1)?,
        };
        annotate(&mut node, json);
        Ok(node)
    }

    fn record(
        &mut self,
        fields: &Value,
        full: &str,
        namespace: &str,
        depth: usize,
    ) -> Result<Shape, Unreadable> {
        let fields =
            fields.as_array().ok_or_else(|| Unreadable::new("the schema has a record without fields"))?;
        let field = |field: &Value| {
            let name = field.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let Some(kind) = field.get("type") else {
                return Err(Unreadable::new(format!("the schema's field {name} has no type")));
            };
            let node = self.node(kind, namespace, depth + 1)?;
            let default = field.get("default").map(serde_json::value::to_raw_value).transpose();
            let default = default.map_err(|_| Unreadable::new("the schema has a default that is no JSON"))?;
            Ok(FieldShape { name, node, default })
        };
        let fields: Result<Vec<_>, _> = fields.iter().map(field).collect();
        Ok(Shape::Record(Arc::new(RecordShape { name: full.to_owned(), fields: fields? })))
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn symbols(json: &Value) -> Result<Arc<[String]>, Unreadable> {
    let symbols = json.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let symbols: Vec<_> = symbols.collect();
    if symbols.is_empty() {
        Err(Unreadable::new("the schema has an enum without symbols"))
    } else {
        Ok(symbols.into())
    }
}

fn size(json: &Value) -> Result<usize, Unreadable> {
    let size = json.as_u64().and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| Unreadable::new("the schema has a fixed type without a size"))
}

/// Takes what Connect and Avro write beside a type.
fn annotate(node: &mut Node, json: &Map<String, Value>) {
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    if let Some(meaning) = text("connect.name").or_else(|| text("logicalType")) {
        node.meaning = meaning.into();
    }
    node.connect_type = text("connect.type").map(Into::into).or(node.connect_type.take());
    let parameters = json.get("connect.parameters");
    let parameter = |key: &str| parameters.and_then(|all| all.get(key)).and_then(Value::as_str);
    let number = |key: &str| parameter(key).and_then(|text| text.parse().ok());
    node.number = json
        .get("scale")
        .and_then(Value::as_i64)
        .or_else(|| number("scale"))
        .or_else(|| number("length"))
        .or(node.number);
    // Connect's converter writes precision 64 where it does not know it.
    node.precision = match parameters {
        Some(_) => number("connect.decimal.precision"),
        None => json.get("precision").and_then(Value::as_i64),
    };
    node.source_type = parameter("__debezium.source.column.type").map(Into::into);
    node.source_length = number("__debezium.source.column.length");
}

/// Passes over a value.
pub(super) fn skip(node: &Node, cursor: &mut Cursor<'_>) -> Result<(), ReadError> {
    match &node.shape {
        Shape::Null => {}
        Shape::Boolean => drop(cursor.take(1)?),
        Shape::Int | Shape::Long | Shape::Enum(_) => drop(cursor.long()?),
        Shape::Float => drop(cursor.take(4)?),
        Shape::Double => drop(cursor.take(8)?),
        Shape::Bytes | Shape::Text => drop(cursor.bytes()?),
        Shape::Fixed(size) => drop(cursor.take(*size)?),
        Shape::Record(record) => record.fields.iter().try_for_each(|field| skip(&field.node, cursor))?,
        Shape::Union(branches) => {
            let branch = usize::try_from(cursor.long()?).ok().and_then(|index| branches.get(index));
            skip(
                branch.ok_or(ReadError::new("has a union's branch that its schema does not have"))?,
                cursor,
            )?;
        }
        Shape::Array(item) => blocks(cursor, |cursor| skip(item, cursor))?,
        Shape::Map(value) => blocks(cursor, |cursor| {
            cursor.bytes()?;
            skip(value, cursor)
        })?,
    }
    Ok(())
}

fn blocks(
    cursor: &mut Cursor<'_>,
    mut item: impl FnMut(&mut Cursor<'_>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    loop {
        let count = cursor.block()?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            // Items without a size in bytes could be promised without end.
            if cursor.is_empty() {
                return Err(ReadError::new("ends before its schema does"));
            }
            item(cursor)?;
        }
    }
}
