//! How the key or the value of a record that is no row is written: its schema, and Avro or JSON.

use crate::binary;
use crate::json_form::JsonForm;
use crate::plan::{SchemaId, json_form};
use crate::record_settings::RecordEncoding;

/// Compiled once per topic.
#[derive(Debug, Clone)]
pub struct PartForm {
    schema_json: String,
    /// None for Avro.
    json: Option<Box<JsonForm>>,
}

impl PartForm {
    /// From a schema of this crate.
    pub fn new(schema_json: String, encoding: RecordEncoding) -> PartForm {
        PartForm { json: json_form(&schema_json, encoding), schema_json }
    }

    /// The schema to register; none where nothing is.
    pub fn registered(&self) -> Option<&str> {
        self.json.is_none().then_some(self.schema_json.as_str())
    }

    /// Appends what `body` writes as Avro: behind the registry's header, or rendered as JSON.
    pub fn write(&self, id: SchemaId, body: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        match &self.json {
            None => {
                binary::write_header(id, out);
                body(out);
            }
            Some(json) => {
                let mut avro = Vec::new();
                body(&mut avro);
                json.write(&avro, out);
            }
        }
    }
}
