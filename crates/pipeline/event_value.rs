//! Key and value of an outbox event: in which form, what has to be known of its topic first, and their bytes.
//!
//! In: an [`Event`] and the topic it goes to. Out: bytes, or what is wrong with the payload: it names the field and has
//! no value. What the registry is asked is remembered with the topic, for a session.

use std::collections::HashMap;

use headwater_avro::from_json::{Inference, JsonPlan};
use headwater_avro::{
    BarePlan, ColumnDescription, EncodeError, PgType, RecordSettings, SchemaId, Subject, decode_bytea,
    namespace,
};
use headwater_pgoutput::Column;
use serde_json::{Value, json};

use crate::ask::ask;
use crate::error::StageError;
use crate::event::Origin;
use crate::halt::{ExitCode, Halt};
use crate::outbox::{Event, EventPlan, bytes_of};
use crate::resolver::Question;
use crate::row_writer::RowWriter;
use crate::settings::{OutboxRoute, PayloadFormat};

/// How many inferred schemas a topic remembers: a service that has more gives each payload one of its own.
const INFERRED_MAX: usize = 1_000;

/// How key and payload are written.
#[derive(Debug)]
pub(crate) enum EventEncoding {
    Avro(Box<AvroEvent>),
    /// The column's text, or the bytes that it stands for.
    Raw {
        is_bytea: bool,
    },
    /// For the local sinks: one JSON object with topic, key, headers and payload.
    Line,
}

/// How key and value are written as Avro.
#[derive(Debug)]
pub(crate) struct AvroEvent {
    key: BarePlan,
    value: ValueForm,
}

#[derive(Debug)]
enum ValueForm {
    /// As the payload's column.
    Column(BarePlan),
    /// A record of the payload and other columns.
    Record {
        payload: BarePlan,
        fields: Vec<(String, BarePlan)>,
        own_name: String,
    },
    /// In a schema that the registry has: this version, or the latest.
    FromJson(Option<u32>),
    Inferred(Inference),
}

/// An event topic that exists, with its registered schemas.
#[derive(Debug)]
pub(crate) struct EventTopic {
    pub(crate) partitions: i32,
    /// Zero where nothing is registered.
    key_id: SchemaId,
    value: TopicValue,
}

/// What was found of the value's schema.
#[derive(Debug)]
enum TopicValue {
    /// Nothing is registered: the bytes are the payload's own.
    Plain,
    Id(SchemaId),
    Plan(SchemaId, Box<JsonPlan>),
    Inferred(HashMap<String, SchemaId>),
}

impl EventEncoding {
    /// `beside` are the columns of the record that the payload shares, with the names of their fields. The error says
    /// why there is no such form.
    pub(crate) fn new(
        route: &OutboxRoute,
        writes_avro: bool,
        records: &RecordSettings,
        (key, payload): (&ColumnDescription, &ColumnDescription),
        beside: &[(&str, &ColumnDescription)],
        own_name: &str,
    ) -> Result<EventEncoding, String> {
        if !writes_avro {
            return Ok(EventEncoding::Line);
        }
        let bare =
            |column: &ColumnDescription| BarePlan::new(column, records).map_err(|error| error.to_string());
        let value = match route.payload {
            PayloadFormat::Raw => {
                return Ok(EventEncoding::Raw { is_bytea: payload.pg_type == PgType::Bytea });
            }
            PayloadFormat::Avro if beside.is_empty() => ValueForm::Column(bare(payload)?),
            PayloadFormat::Avro => {
                let mut fields = Vec::new();
                for (name, column) in beside {
                    fields.push(((*name).to_owned(), bare(column)?));
                }
                let own_name = own_name.to_owned();
                let form = ValueForm::Record { payload: bare(payload)?, fields, own_name };
                form.refuse_twice_named()?;
                form
            }
            PayloadFormat::AvroFromJson(version) => ValueForm::FromJson(version),
            PayloadFormat::AvroInferred(inference) => ValueForm::Inferred(inference),
        };
        Ok(EventEncoding::Avro(Box::new(AvroEvent { key: bare(key)?, value })))
    }
}

impl ValueForm {
    /// The schema of the value, where the columns make it.
    fn schema_json(&self, aggregatetype: &str) -> Option<String> {
        match self {
            ValueForm::Column(payload) => Some(payload.schema_json().to_owned()),
            ValueForm::Record { payload, fields, own_name } => {
                let field = |name: &str, plan: &BarePlan| {
                    let kind: Value = serde_json::from_str(plan.schema_json()).unwrap_or_default();
                    match &kind[0] {
                        Value::String(null) if null == "null" => {
                            json!({ "name": name, "type": kind, "default": null })
                        }
                        _ => json!({ "name": name, "type": kind }),
                    }
                };
                let mut all = vec![field("payload", payload)];
                all.extend(fields.iter().map(|(name, plan)| field(name, plan)));
                let full = namespace(&format!("{own_name}.{aggregatetype}.Value"));
                let (space, _) = full.rsplit_once('.').unwrap_or_default();
                Some(
                    json!({
                        "type": "record", "name": "Value", "namespace": space, "fields": all, "connect.name": full,
                    })
                    .to_string(),
                )
            }
            ValueForm::FromJson(_) | ValueForm::Inferred(_) => None,
        }
    }

    /// A schema defines each name once, and the forms of columns define theirs each for itself.
    fn refuse_twice_named(&self) -> Result<(), String> {
        fn names(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(members) => {
                    if members.contains_key("fields") || members.contains_key("symbols") {
                        found.extend(members.get("name").and_then(Value::as_str).map(str::to_owned));
                    }
                    members.values().for_each(|inner| names(inner, found));
                }
                Value::Array(items) => items.iter().for_each(|inner| names(inner, found)),
                _ => {}
            }
        }
        let schema = self.schema_json("x").unwrap_or_default();
        let mut found = Vec::new();
        names(&serde_json::from_str(&schema).unwrap_or_default(), &mut found);
        found.sort_unstable();
        match found.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                Err(format!("two of the columns in its envelope have the type {} of Avro", pair[0]))
            }
        }
    }
}

/// Makes sure that an event topic exists and its schemas are registered.
pub(crate) fn resolve_topic(
    events: &EventPlan,
    topic: &str,
    aggregatetype: &str,
    origin: &Origin<'_>,
    row: &mut RowWriter<'_>,
) -> Result<EventTopic, StageError> {
    let (questions, out) = (&row.writer.questions, &mut row.writer.out);
    let name = topic.to_owned();
    let partitions = ask(questions, out, |answer| Question::Topic { topic: name, answer })?;
    let mut place = EventTopic { partitions, key_id: SchemaId(0), value: TopicValue::Plain };
    let EventEncoding::Avro(form) = &events.encoding else { return Ok(place) };
    place.key_id = register(events, Subject::for_key(topic), form.key.schema_json(), origin, row)?;
    let subject = Subject::for_value(topic);
    place.value = match &form.value {
        ValueForm::Inferred(_) => TopicValue::Inferred(HashMap::new()),
        ValueForm::FromJson(version) => {
            let (questions, out) = (&row.writer.questions, &mut row.writer.out);
            let (table, name, version) = (origin.name.to_owned(), subject.0.clone(), *version);
            let found = ask(questions, out, |answer| Question::WriterSchema {
                table,
                subject: name,
                version,
                answer,
            })?;
            match found {
                None => TopicValue::Plain,
                Some((id, schema)) => {
                    let plan =
                        JsonPlan::parse(&schema).map_err(|why| unusable(&subject.0, &why.to_string()))?;
                    TopicValue::Plan(id, Box::new(plan))
                }
            }
        }
        form => {
            let schema = form.schema_json(aggregatetype).unwrap_or_default();
            TopicValue::Id(register(events, subject, &schema, origin, row)?)
        }
    };
    Ok(place)
}

fn unusable(subject: &str, why: &str) -> StageError {
    StageError::Halt(Halt::new(
        ExitCode::OutboxInvalid,
        format!("payloads can't be written in the schema of {subject}: {why}"),
        "register a version that can be, or name one in schema_version; payload = \"avro\" and \"raw\" need none",
    ))
}

fn register(
    events: &EventPlan,
    subject: Subject,
    schema_json: &str,
    origin: &Origin<'_>,
    row: &mut RowWriter<'_>,
) -> Result<SchemaId, StageError> {
    let (questions, out) = (&row.writer.questions, &mut row.writer.out);
    let (table, schema_json, on_incompatible) =
        (origin.name.to_owned(), schema_json.to_owned(), events.on_incompatible);
    ask(questions, out, |answer| Question::Register {
        table,
        subject: subject.0,
        schema_json,
        on_incompatible,
        answer,
    })
}

/// The key's bytes; false if there is none.
pub(crate) fn write_key(
    events: &EventPlan,
    event: &Event<'_>,
    place: &EventTopic,
    out: &mut Vec<u8>,
) -> Result<bool, EncodeError> {
    if matches!(event.key, Column::Null) {
        return Ok(false);
    }
    match &events.encoding {
        EventEncoding::Raw { .. } => out.extend_from_slice(bytes_of(event.key).unwrap_or_default()),
        EventEncoding::Line => {}
        EventEncoding::Avro(form) => form.key.encode_into(place.key_id, event.key, out)?,
    }
    Ok(true)
}

/// The value's bytes; false if there is none. A payload that is NULL has none, nor one of nothing but blanks where that
/// was asked for.
pub(crate) fn write_value(
    events: &EventPlan,
    event: &Event<'_>,
    (topic, place): (&str, &mut EventTopic),
    origin: &Origin<'_>,
    row: &mut RowWriter<'_>,
    out: &mut Vec<u8>,
) -> Result<bool, StageError> {
    let payload = bytes_of(event.payload);
    let is_blank = payload.is_some_and(|payload| payload.trim_ascii().is_empty());
    let is_null = payload.is_none() || (is_blank && events.route.tombstone_on_empty);
    let encode = |source, row: &RowWriter<'_>| StageError::Encode {
        table: origin.name.to_owned(),
        commit_lsn: row.transaction.commit_lsn,
        lsn: row.lsn,
        source,
    };
    let text = payload.unwrap_or_default();
    match (&events.encoding, &mut place.value) {
        // A record has more than its payload: only where a null value was asked for is there none.
        (EventEncoding::Avro(form), TopicValue::Id(id)) => match &form.value {
            ValueForm::Record { payload, fields, .. } if !(is_null && events.route.tombstone_on_empty) => {
                headwater_avro::write_header(*id, out);
                let columns = [event.payload].into_iter().chain(event.envelope.iter().copied());
                let plans = [payload].into_iter().chain(fields.iter().map(|(_, plan)| plan));
                for (column, plan) in columns.zip(plans) {
                    plan.append(column, out).map_err(|source| encode(source, row))?;
                }
                return Ok(true);
            }
            _ if is_null => return Ok(false),
            ValueForm::Column(plan) => {
                plan.encode_into(*id, event.payload, out).map_err(|source| encode(source, row))?;
            }
            _ => return Err(origin.error(row, "its topic has another form than its table".to_owned())),
        },
        _ if is_null => return Ok(false),
        (EventEncoding::Raw { is_bytea: true }, _) => {
            decode_bytea(text, out).map_err(|reason| origin.error(row, format!("its payload: {reason}")))?;
        }
        (EventEncoding::Raw { .. }, _) | (EventEncoding::Avro(_), TopicValue::Plain) => {
            out.extend_from_slice(text);
        }
        (EventEncoding::Avro(_), TopicValue::Plan(id, plan)) => {
            plan.encode_into(*id, text, out).map_err(|misfit| misfitting(origin, row, &misfit))?;
        }
        (EventEncoding::Avro(form), TopicValue::Inferred(known)) => {
            let ValueForm::Inferred(inference) = &form.value else { return Ok(false) };
            let inferred = JsonPlan::infer(text, *inference);
            let (schema, plan) = inferred.map_err(|misfit| misfitting(origin, row, &misfit))?;
            let id = match known.get(&schema) {
                Some(id) => *id,
                None => {
                    let id = register(events, Subject::for_value(topic), &schema, origin, row)?;
                    if known.len() >= INFERRED_MAX {
                        known.clear();
                    }
                    known.insert(schema, id);
                    id
                }
            };
            plan.encode_into(id, text, out).map_err(|misfit| misfitting(origin, row, &misfit))?;
        }
        (EventEncoding::Line, _) => return Ok(false),
    }
    Ok(true)
}

fn misfitting(
    origin: &Origin<'_>,
    row: &RowWriter<'_>,
    misfit: &headwater_avro::from_json::Misfit,
) -> StageError {
    origin.error(row, format!("its payload does not fit its schema: {misfit}"))
}

/// What the header `content-type` of CloudEvents says of a value.
pub(crate) fn content_type(events: &EventPlan, payload: &PgType) -> &'static str {
    match (&events.encoding, payload) {
        (EventEncoding::Avro(_), _) => "application/avro",
        (_, PgType::Json) => "application/json",
        (_, PgType::Bytea) => "application/octet-stream",
        (_, PgType::Xml) => "application/xml",
        _ => "text/plain; charset=utf-8",
    }
}
