//! A topic beside those of tables: of transactions, of logical messages. Made sure of at its first record.

use headwater_avro::{OnIncompatible, PartForm, RecordSettings, SchemaId, Subject};
use headwater_kafka::partition_for_key;

use crate::ask::ask;
use crate::error::StageError;
use crate::resolver::Question;
use crate::writer::Writer;

/// How the keys and values of such a topic are written on Kafka: as `[records]` says, for no `[[table]]` names it.
pub(crate) struct SideForms {
    pub(crate) key: PartForm,
    pub(crate) value: PartForm,
}

impl SideForms {
    pub(crate) fn new(key_json: String, value_json: String, records: &RecordSettings) -> SideForms {
        SideForms {
            key: PartForm::new(key_json, records.key_encoding),
            value: PartForm::new(value_json, records.value_encoding),
        }
    }
}

/// Its name, and what was found at its first record.
pub(crate) struct SideTopic {
    pub(crate) name: String,
    on_incompatible: OnIncompatible,
    place: Option<Place>,
}

/// What a record needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    partitions: i32,
    /// Zero where nothing is registered.
    pub(crate) key_id: SchemaId,
    pub(crate) value_id: SchemaId,
}

impl Place {
    pub(crate) fn partition(&self, key: &[u8]) -> i32 {
        partition_for_key(key, self.partitions)
    }
}

impl SideTopic {
    /// It stands beside all tables, so what becomes of a refused schema is what becomes of theirs.
    pub(crate) fn new(prefix: &str, name: &str, of_all: &RecordSettings) -> SideTopic {
        SideTopic::named(&format!("{prefix}.{name}"), of_all)
    }

    /// One whose whole name is configured.
    pub(crate) fn named(name: &str, of_all: &RecordSettings) -> SideTopic {
        SideTopic { name: name.to_owned(), on_incompatible: of_all.on_incompatible, place: None }
    }

    /// What [`SideTopic::place`] found in this session.
    pub(crate) fn known(&self) -> Place {
        self.place.expect("its first record asked for it")
    }

    /// Makes sure that the topic exists and, for Avro, that its schemas are registered.
    pub(crate) fn place(
        &mut self,
        forms: Option<&SideForms>,
        writer: &mut Writer,
    ) -> Result<Place, StageError> {
        if let Some(place) = self.place {
            return Ok(place);
        }
        let (questions, out) = (&writer.questions, &mut writer.out);
        let topic = self.name.clone();
        let partitions = ask(questions, out, |answer| Question::Topic { topic, answer })?;
        let mut place = Place { partitions, key_id: SchemaId(0), value_id: SchemaId(0) };
        if let Some(forms) = forms {
            let mut register = |subject: Subject, form: &PartForm| {
                let Some(schema_json) = form.registered() else { return Ok(SchemaId(0)) };
                let (table, schema_json) = (self.name.clone(), schema_json.to_owned());
                ask(questions, out, |answer| Question::Register {
                    table,
                    subject: subject.0,
                    schema_json,
                    on_incompatible: self.on_incompatible,
                    answer,
                })
            };
            place.key_id = register(Subject::for_key(&self.name), &forms.key)?;
            place.value_id = register(Subject::for_value(&self.name), &forms.value)?;
        }
        self.place = Some(place);
        Ok(place)
    }
}
