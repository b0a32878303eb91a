//! Payload and key of an outbox event: a single value, not a row.

use super::cell::{Cell, PgColumnType, Unreadable};
use super::cursor::{Cursor, ReadError};
use super::schema_tree::{Node, Shape};

/// Reads values of one schema as text.
#[derive(Debug)]
pub struct PayloadReader {
    cell: Cell,
    null: Option<i64>,
    is_bytes: bool,
}

impl PayloadReader {
    /// Takes the registry's schema: text, bytes, a number or a boolean, or one of those or null.
    ///
    /// # Errors
    /// Any other schema.
    pub fn parse(json: &str) -> Result<PayloadReader, Unreadable> {
        let node = Node::parse(json)?;
        let (inner, null) = node.without_null()?;
        let is_bytes = matches!(inner.shape, Shape::Bytes);
        let name = if is_bytes { "bytea" } else { "text" };
        let column = PgColumnType { name: name.to_owned(), modifier: -1 };
        let cell = Cell::new(inner, &column).map_err(|_| {
            Unreadable::new("the event's schema is neither text nor bytes nor a single number")
        })?;
        Ok(PayloadReader { cell, null, is_bytes })
    }

    /// The value; none for null. Bytes have to be UTF-8.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn read(&self, body: &[u8]) -> Result<Option<String>, ReadError> {
        let mut cursor = Cursor::new(body);
        if let Some(null) = self.null
            && cursor.long()? == null
        {
            return Ok(None);
        }
        if self.is_bytes {
            return cursor.text().map(|text| Some(text.to_owned()));
        }
        let text = self.cell.plain_text(&mut cursor)?;
        if cursor.is_empty() {
            Ok(Some(text))
        } else {
            Err(ReadError::new("goes on behind what its schema describes"))
        }
    }
}
