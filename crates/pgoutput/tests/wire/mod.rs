//! Writes messages of protocol 1 for the tests and benchmarks, from the manual and not from the decoder.

#![allow(dead_code, reason = "each test binary uses its part")]

use headwater_pgoutput::Column;

/// A message being written.
#[derive(Clone)]
pub struct Wire(Vec<u8>);

/// A column to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Value {
    pub fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    /// What a decoder must make of it.
    pub fn column(&self) -> Column<'_> {
        match self {
            Value::Null => Column::Null,
            Value::Unchanged => Column::Unchanged,
            Value::Text(value) => Column::Text(value),
            Value::Binary(value) => Column::Binary(value),
        }
    }
}

impl Wire {
    pub fn message(tag: u8) -> Wire {
        Wire(vec![tag])
    }

    pub fn u8(self, byte: u8) -> Wire {
        self.raw(&[byte])
    }

    pub fn i16(self, number: i16) -> Wire {
        self.raw(&number.to_be_bytes())
    }

    pub fn i32(self, number: i32) -> Wire {
        self.raw(&number.to_be_bytes())
    }

    pub fn u32(self, number: u32) -> Wire {
        self.raw(&number.to_be_bytes())
    }

    pub fn i64(self, number: i64) -> Wire {
        self.raw(&number.to_be_bytes())
    }

    pub fn u64(self, number: u64) -> Wire {
        self.raw(&number.to_be_bytes())
    }

    pub fn name(self, name: &str) -> Wire {
        self.raw(name.as_bytes()).u8(0)
    }

    pub fn counted(self, bytes: &[u8]) -> Wire {
        self.i32(i32::try_from(bytes.len()).expect("a test value is short")).raw(bytes)
    }

    pub fn tuple(self, values: &[Value]) -> Wire {
        let wire = self.i16(i16::try_from(values.len()).expect("a test row is narrow"));
        values.iter().fold(wire, |wire, value| match value {
            Value::Null => wire.u8(b'n'),
            Value::Unchanged => wire.u8(b'u'),
            Value::Text(value) => wire.u8(b't').counted(value),
            Value::Binary(value) => wire.u8(b'b').counted(value),
        })
    }

    pub fn raw(mut self, bytes: &[u8]) -> Wire {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}
