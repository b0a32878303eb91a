//! Bytes of the feedback topic into answers: JSON, or Avro behind the registry's header, side by side on one topic.
//!
//! JSON never begins with a zero byte. A writer's schema is fetched once; it may have any fields beside those of an
//! answer, in any order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use headwater_avro::SchemaId;
use headwater_avro::reading::{FieldsReader, confluent_parts};
use headwater_avro::registry::{Registry, RegistryError};

use crate::answer::{self, Answer};

/// See the module's documentation.
pub(crate) struct AnswerReader {
    /// None where no registry is configured.
    pub(crate) registry: Option<Registry>,
    readers: HashMap<SchemaId, Result<FieldsReader, String>>,
}

impl AnswerReader {
    pub(crate) fn new(registry: Option<Registry>) -> AnswerReader {
        AnswerReader { registry, readers: HashMap::new() }
    }

    /// The answer, or why it is none.
    ///
    /// # Errors
    /// The registry can't be asked now: the record is to be read again.
    pub(crate) async fn read(
        &mut self,
        value: Option<&[u8]>,
    ) -> Result<Result<Answer, String>, RegistryError> {
        let Some(bytes) = value.filter(|bytes| bytes.first() == Some(&0)) else {
            return Ok(answer::parse(value));
        };
        let (id, body) = match confluent_parts(bytes) {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let Some(registry) = &self.registry else {
            return Ok(Err("it is Avro, and no schema registry is configured".to_owned()));
        };
        let reader = match self.readers.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                // What it does not have now it may have later: that is not remembered.
                let Some(schema) = registry.schema_by_id(id).await? else {
                    return Ok(Err(format!("the registry has no schema {}", id.0)));
                };
                let reader = FieldsReader::parse(&schema, &answer::FIELDS);
                place.insert(reader.map_err(|why| format!("its schema {}: {why}", id.0)))
            }
        };
        Ok(match reader {
            Ok(reader) => match reader.read(body) {
                Ok(fields) => answer::from_fields(fields),
                Err(error) => Err(format!("as Avro: {error}")),
            },
            Err(why) => Err(why.clone()),
        })
    }
}
