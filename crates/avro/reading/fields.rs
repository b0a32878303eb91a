//! Some fields of a record, found by their names, whatever else its schema has.

use std::sync::Arc;

use super::cell::Unreadable;
use super::cursor::{Cursor, ReadError};
use super::schema_tree::{FieldShape, Node, Shape, skip};

/// A field that is there and not null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// A string, or an enum's symbol.
    Text(String),
    /// An int or a long.
    Number(i64),
}

/// Reads the fields that were asked for out of records of one schema.
#[derive(Debug)]
pub struct FieldsReader {
    record: Node,
    /// For each field of the schema its place among those that were asked for.
    places: Vec<Option<usize>>,
    count: usize,
}

impl FieldsReader {
    /// Takes the registry's schema. A field that it lacks is never there.
    ///
    /// # Errors
    /// It is no record, or a field is neither text, enum nor a whole number, nor one of those or null.
    pub fn parse(json: &str, wanted: &[&str]) -> Result<FieldsReader, Unreadable> {
        let node = Node::parse(json)?;
        let (record, _) = node.without_null()?;
        let Shape::Record(shape) = &record.shape else { return Err(Unreadable::new("is no record")) };
        let mut places = Vec::new();
        for FieldShape { name, node, .. } in &shape.fields {
            let place = wanted.iter().position(|wanted| wanted == name);
            let (inner, _) = match place {
                None => (node, None),
                Some(_) => node.without_null().map_err(|why| why.of_field(name))?,
            };
            if place.is_some()
                && !matches!(
                    inner.shape,
                    Shape::Text | Shape::Enum(_) | Shape::Int | Shape::Long | Shape::Null
                )
            {
                return Err(Unreadable::new("is neither text nor a whole number").of_field(name));
            }
            places.push(place);
        }
        Ok(FieldsReader { places, count: wanted.len(), record: node })
    }

    /// The values in the order in which they were asked for.
    ///
    /// # Errors
    /// [`ReadError`], also when the record is null.
    pub fn read(&self, body: &[u8]) -> Result<Vec<Option<FieldValue>>, ReadError> {
        let mut cursor = Cursor::new(body);
        let (record, null) = self.record.without_null().map_err(|_| ReadError::new("is no record"))?;
        if let Some(null) = null
            && cursor.long()? == null
        {
            return Err(ReadError::new("is null"));
        }
        let Shape::Record(shape) = &record.shape else { return Err(ReadError::new("is no record")) };
        let mut values = vec![None; self.count];
        for (field, place) in shape.fields.iter().zip(&self.places) {
            match place {
                None => skip(&field.node, &mut cursor),
                Some(place) => value(&field.node, &mut cursor).map(|value| values[*place] = value),
            }
            .map_err(|error| error.in_column(&field.name))?;
        }
        if cursor.is_empty() {
            Ok(values)
        } else {
            Err(ReadError::new("goes on behind what its schema describes"))
        }
    }
}

fn value(node: &Node, cursor: &mut Cursor<'_>) -> Result<Option<FieldValue>, ReadError> {
    Ok(Some(match &node.shape {
        Shape::Null => return Ok(None),
        Shape::Text => FieldValue::Text(cursor.text()?.to_owned()),
        Shape::Int | Shape::Long => FieldValue::Number(cursor.long()?),
        Shape::Enum(symbols) => FieldValue::Text(symbol(symbols, cursor.long()?)?),
        Shape::Union(branches) => {
            let branch = usize::try_from(cursor.long()?).ok().and_then(|index| branches.get(index));
            return value(
                branch.ok_or(ReadError::new("has a union's branch that its schema does not have"))?,
                cursor,
            );
        }
        _ => return Err(ReadError::new("is neither text nor a whole number")),
    }))
}

fn symbol(symbols: &Arc<[String]>, index: i64) -> Result<String, ReadError> {
    let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
    symbol.cloned().ok_or(ReadError::new("has an enum's symbol that its schema does not have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [&str; 3] = ["id", "status", "attempt"];

    fn text(text: &str) -> Option<FieldValue> {
        Some(FieldValue::Text(text.to_owned()))
    }

    #[test]
    fn fields_are_found_by_name() {
        let schema = r#"{"type":"record","name":"R","fields":[
            {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},
            {"name":"status","type":{"type":"enum","name":"S","symbols":["SUCCESS","FAILED"]}},
            {"name":"more","type":{"type":"map","values":"double"}},
            {"name":"attempt","type":["int","null"]},
            {"name":"id","type":"string"}]}"#;
        let reader = FieldsReader::parse(schema, &WANTED).unwrap();
        let body = [2, 6, 2, 0, 0, 8, 2, b'e'];
        let values = reader.read(&body).unwrap();
        assert_eq!(values, [text("e"), text("FAILED"), Some(FieldValue::Number(4))]);
        let body_without = [0, 0, 0, 2, 2, b'e'];
        assert_eq!(reader.read(&body_without).unwrap(), [text("e"), text("SUCCESS"), None]);
        for length in 0..body.len() {
            assert!(reader.read(&body[..length]).is_err(), "cut at {length}");
        }
        assert!(reader.read(&[&body[..], &[0]].concat()).is_err());
        assert!(reader.read(&[0, 4, 0, 2, 2, b'e']).is_err(), "an unknown symbol");
        assert!(reader.read(&[4, 0, 0, 2, 2, b'e']).is_err(), "an unknown branch");
    }

    #[test]
    fn other_schemas_are_refused() {
        for schema in [
            r#""string""#,
            "{",
            r#"{"type":"record","name":"R","fields":[{"name":"id","type":"bytes"}]}"#,
            r#"{"type":"record","name":"R","fields":[{"name":"id","type":["string","int"]}]}"#,
        ] {
            assert!(FieldsReader::parse(schema, &WANTED).is_err(), "{schema}");
        }
        let empty = r#"{"type":"record","name":"R","fields":[]}"#;
        assert_eq!(FieldsReader::parse(empty, &WANTED).unwrap().read(&[]).unwrap(), [None, None, None]);
    }
}
