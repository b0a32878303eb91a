//! A schema inferred from one document, as Debezium's outbox router expands JSON and Connect's Avro converter writes it:
//! every field is nullable, records have the names of their paths below `payload`.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Misfit;
use super::document::Json;

/// What becomes of values that say nothing of their type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// Of null.
    pub nulls: NullFields,
    /// Of `[]`.
    pub empty_arrays: EmptyArrays,
}

/// A member that is null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NullFields {
    /// Is no field.
    #[default]
    Ignore,
    /// Is nullable bytes.
    OptionalBytes,
}

impl NullFields {
    /// As configurations write them.
    pub const WORDS: &[(&str, NullFields)] =
        &[("ignore", NullFields::Ignore), ("optional_bytes", NullFields::OptionalBytes)];
}

/// A member that is an empty array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyArrays {
    /// Is no field.
    #[default]
    Ignore,
    /// Is an array of nullable strings.
    OptionalString,
}

impl EmptyArrays {
    /// As configurations write them.
    pub const WORDS: &[(&str, EmptyArrays)] =
        &[("ignore", EmptyArrays::Ignore), ("optional_string", EmptyArrays::OptionalString)];
}

/// The name of the document's own record.
const ROOT: &str = "payload";

/// How deep documents may be.
const DEPTH_MAX: usize = 30;

pub(super) fn schema(document: &RawValue, inference: Inference) -> Result<Value, Misfit> {
    let root = match Json::open(document).map_err(Misfit::new)? {
        Json::Object(members) => Some(record(ROOT, &members, inference, 0)?),
        Json::Array(items) => array(Some(ROOT), &items, inference, 0)?,
        _ => {
            return Err(Misfit::new(
                "it is neither an object nor an array, so no schema is inferred from it",
            ));
        }
    };
    root.ok_or_else(|| Misfit::new("it is an array whose items say nothing of their type"))
}

/// The schema of a member; none if it says nothing of its type.
fn member(
    key: Option<&str>,
    raw: &RawValue,
    inference: Inference,
    depth: usize,
) -> Result<Option<Value>, Misfit> {
    if depth > DEPTH_MAX {
        return Err(Misfit::new("is nested too deeply"));
    }
    let inner = match Json::open(raw).map_err(Misfit::new)? {
        Json::Null => (inference.nulls == NullFields::OptionalBytes).then(|| json!("bytes")),
        Json::Boolean(_) => Some(json!("boolean")),
        Json::Text(_) => Some(json!("string")),
        Json::Number(text) => Some(json!(number(text)?)),
        Json::Array(items) => array(key, &items, inference, depth)?,
        Json::Object(members) => match key {
            Some(key) => Some(record(key, &members, inference, depth)?),
            None => return Err(Misfit::new("is an object in an array of arrays, which has no name")),
        },
    };
    Ok(inner.map(|inner| json!(["null", inner])))
}

fn number(text: &str) -> Result<&'static str, Misfit> {
    if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return Ok("double");
    }
    match text.parse::<i64>() {
        Ok(number) if i32::try_from(number).is_ok() => Ok("int"),
        Ok(_) => Ok("long"),
        Err(_) => Err(Misfit::new("is too large for a long")),
    }
}

fn record(
    key: &str,
    members: &[(String, &RawValue)],
    inference: Inference,
    depth: usize,
) -> Result<Value, Misfit> {
    let mut fields = Vec::new();
    for (name, raw) in members {
        if !is_avro_name(name) {
            return Err(Misfit::new("has a name that no field of Avro can have").in_field(name));
        }
        let below = format!("{key}.{name}");
        let kind = member(Some(&below), raw, inference, depth + 1).map_err(|misfit| misfit.in_field(name))?;
        fields.extend(kind.map(|kind| json!({ "name": name, "type": kind, "default": null })));
    }
    Ok(record_of(key, fields))
}

fn record_of(key: &str, fields: Vec<Value>) -> Value {
    match key.rsplit_once('.') {
        None => json!({ "type": "record", "name": key, "fields": fields, "connect.name": key }),
        Some((namespace, name)) => json!({
            "type": "record", "name": name, "namespace": namespace, "fields": fields, "connect.name": key,
        }),
    }
}

/// All items that are not null have to be of one type; objects together make one record.
fn array(
    key: Option<&str>,
    items: &[&RawValue],
    inference: Inference,
    depth: usize,
) -> Result<Option<Value>, Misfit> {
    if items.is_empty() {
        let strings = json!({ "type": "array", "items": ["null", "string"] });
        return Ok((inference.empty_arrays == EmptyArrays::OptionalString).then_some(strings));
    }
    let mut common: Option<Value> = None;
    for (index, raw) in items.iter().enumerate() {
        let json = Json::open(raw).map_err(Misfit::new)?;
        if matches!(json, Json::Null) {
            continue;
        }
        // Only an object that stands in the array itself takes the array's name.
        let key = key.filter(|_| matches!(json, Json::Object(_)));
        let Some(kind) = member(key, raw, inference, depth + 1).map_err(|misfit| misfit.in_item(index))?
        else {
            continue;
        };
        common = Some(match common {
            None => kind,
            Some(before) => merged(before, kind).map_err(|misfit| misfit.in_item(index))?,
        });
    }
    let nothing = || (inference.nulls == NullFields::OptionalBytes).then(|| json!(["null", "bytes"]));
    Ok(common.or_else(nothing).map(|items| json!({ "type": "array", "items": items })))
}

/// What two items have: the fields of both, if they are records.
fn merged(mut before: Value, kind: Value) -> Result<Value, Misfit> {
    if before == kind {
        return Ok(before);
    }
    let fields = |kind: &Value| kind[1]["fields"].as_array().cloned();
    let (Some(mut all), Some(more)) = (fields(&before), fields(&kind)) else {
        return Err(Misfit::new("is not of the type of the items before it"));
    };
    for field in more {
        match all.iter_mut().find(|known| known["name"] == field["name"]) {
            None => all.push(field),
            Some(known) if *known == field || field["type"][1] == "bytes" => {}
            Some(known) if known["type"][1] == "bytes" => *known = field,
            Some(known) => {
                let name = known["name"].as_str().unwrap_or_default().to_owned();
                let kind = merged(known["type"].take(), field["type"].clone());
                known["type"] = kind.map_err(|misfit| misfit.in_field(&name))?;
            }
        }
    }
    before[1]["fields"] = all.into();
    Ok(before)
}

fn is_avro_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
}
