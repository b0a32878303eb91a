//! A JSON document as Avro, in a schema that was there before it (the registry's) or in one that is inferred from it.
//!
//! In: a writer's schema and JSON text. Out: the registry's header and the document in that schema. Invariants: no value
//! is guessed or left out: a member that the schema lacks, a value that its type can't hold exactly, a field that is
//! missing and has no default is a [`Misfit`] that names the field. No message has a value. No input panics.
//!
//! The forms are those of Avro's JSON encoding, and plain ones beside them:
//! - a union's value is plain (`"x"`) or tagged with its type's name (`{"string": "x"}`); plain, it is the first type that
//!   fits;
//! - a field that is missing has its default, or null where its type allows that;
//! - dates and times are their numbers, or ISO 8601 text; decimals are numbers or text; bytes are text whose characters
//!   are the bytes (U+0000 to U+00FF).

mod document;
mod encode;
mod infer;
mod moments;

use std::fmt;

use serde_json::value::RawValue;

use crate::binary;
use crate::plan::SchemaId;
use crate::reading::Unreadable;
use crate::reading::schema_tree::Node;

pub use self::infer::{EmptyArrays, Inference, NullFields};

/// Where a document does not fit its schema, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// As in `items[2].price`; empty for the document itself.
    path: String,
    reason: String,
}

impl Misfit {
    fn new(reason: impl Into<String>) -> Misfit {
        Misfit { path: String::new(), reason: reason.into() }
    }

    fn in_field(mut self, name: &str) -> Misfit {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }

    fn in_item(mut self, index: usize) -> Misfit {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("[{index}]{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "its field {path} {}", self.reason),
        }
    }
}

impl std::error::Error for Misfit {}

/// How documents are written in one schema.
#[derive(Debug)]
pub struct JsonPlan {
    node: Node,
    /// Whether members that inferring has left out are.
    is_inferred: bool,
}

impl JsonPlan {
    /// Takes a writer's schema.
    ///
    /// # Errors
    /// A schema that can't be read, contains itself, or has a default of another type.
    pub fn parse(schema_json: &str) -> Result<JsonPlan, Unreadable> {
        let node = Node::parse(schema_json)?;
        encode::check_defaults(&node)?;
        Ok(JsonPlan { node, is_inferred: false })
    }

    /// Infers a schema; gives its JSON too.
    ///
    /// # Errors
    /// The document is neither an object nor an array, or has no schema.
    pub fn infer(json: &[u8], inference: Inference) -> Result<(String, JsonPlan), Misfit> {
        let schema = infer::schema(&document(json)?, inference)?.to_string();
        let node = Node::parse(&schema).map_err(|why| Misfit::new(why.to_string()))?;
        Ok((schema, JsonPlan { node, is_inferred: true }))
    }

    /// Appends a document in the registry's wire format.
    ///
    /// # Errors
    /// [`Misfit`], and `out` is as it was.
    pub fn encode_into(&self, id: SchemaId, json: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
        let start = out.len();
        binary::write_header(id, out);
        let written =
            document(json).and_then(|document| encode::write(&self.node, &document, self.is_inferred, out));
        if written.is_err() {
            out.truncate(start);
        }
        written
    }
}

fn document(json: &[u8]) -> Result<Box<RawValue>, Misfit> {
    serde_json::from_slice(json).map_err(|error| {
        Misfit::new(format!("it is no JSON (line {}, column {})", error.line(), error.column()))
    })
}

#[cfg(test)]
mod tests;
