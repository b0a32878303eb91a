//! Connect's own JSON description of a schema, `{"type":"struct","fields":[…]}`: what goes beside the payload.
//!
//! It is made from the Avro schema, whose `connect.*` attributes were put there to say it; attributes come in the
//! order in which JsonConverter writes them.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::type_schema::json_string;
use crate::types::write_base64_text;

/// The description of a schema that this crate wrote.
pub(crate) fn connect_schema(avro: &Json) -> String {
    let mut json = String::new();
    write(avro, &Place::default(), &mut HashMap::new(), &mut json);
    json
}

/// A pair of a Connect map whose keys are no strings; in Avro such a map is an array of these.
pub(crate) fn is_map_entry(record: &Json) -> bool {
    record["namespace"] == "io.confluent.connect.avro"
}

/// What is said of a schema from outside.
#[derive(Default)]
struct Place<'a> {
    is_optional: bool,
    field: Option<&'a str>,
}

fn write<'a>(avro: &'a Json, place: &Place<'_>, defined: &mut HashMap<&'a str, &'a Json>, json: &mut String) {
    if let Json::Array(branches) = avro {
        let value = branches.iter().find(|branch| *branch != "null").expect("unions are with null");
        return write(value, &Place { is_optional: true, ..*place }, defined, json);
    }
    if let Some(definition) = avro.as_str().and_then(|name| defined.get(name)).copied() {
        return write(definition, place, defined, json);
    }
    let base = avro.as_str().or_else(|| avro["type"].as_str()).expect("a type has a name");
    json.push_str(r#"{"type":"#);
    match base {
        "record" => {
            let name = avro["name"].as_str().expect("a record has a name");
            write_fields(avro, defined, json);
            defined.insert(name, avro);
            if let Some(name) = avro["connect.name"].as_str() {
                defined.insert(name, avro);
            }
        }
        "array" if is_map_entry(&avro["items"]) => {
            let fields = &avro["items"]["fields"];
            json.push_str(r#""map","keys":"#);
            write(&fields[0]["type"], &Place::default(), defined, json);
            json.push_str(r#","values":"#);
            write(&fields[1]["type"], &Place::default(), defined, json);
        }
        "array" => {
            json.push_str(r#""array","items":"#);
            write(&avro["items"], &Place::default(), defined, json);
        }
        "map" => {
            json.push_str(r#""map","keys":{"type":"string","optional":false},"values":"#);
            write(&avro["values"], &Place::default(), defined, json);
        }
        base => {
            json.push('"');
            json.push_str(scalar(base, avro));
            json.push('"');
        }
    }
    write_attributes(avro, base, place, json);
    json.push('}');
}

fn write_fields<'a>(record: &'a Json, defined: &mut HashMap<&'a str, &'a Json>, json: &mut String) {
    json.push_str(r#""struct","fields":["#);
    for (index, field) in record["fields"].as_array().expect("a record has fields").iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        let place = Place { is_optional: false, field: field["name"].as_str() };
        write(&field["type"], &place, defined, json);
    }
    json.push(']');
}

fn scalar(base: &str, avro: &Json) -> &'static str {
    match base {
        "boolean" => "boolean",
        "int" if avro["connect.type"] == "int16" => "int16",
        "int" => "int32",
        "long" => "int64",
        "float" => "float",
        "double" => "double",
        "bytes" => "bytes",
        _ => "string",
    }
}

fn write_attributes(avro: &Json, base: &str, place: &Place<'_>, json: &mut String) {
    json.push_str(if place.is_optional { r#","optional":true"# } else { r#","optional":false"# });
    for (attribute, name) in [
        ("connect.name", "name"),
        ("connect.version", "version"),
        ("connect.doc", "doc"),
        ("connect.parameters", "parameters"),
    ] {
        if let Some(value) = avro.get(attribute) {
            json.push_str(&format!(r#","{name}":{value}"#));
        }
    }
    match avro.get("connect.default") {
        Some(Json::String(latin1)) if base == "bytes" => {
            // Avro writes bytes in JSON as the characters U+0000 to U+00FF.
            let bytes: Vec<u8> = latin1.chars().map(|c| c as u8).collect();
            let mut base64 = Vec::new();
            write_base64_text(&bytes, &mut base64);
            json.push_str(&format!(r#","default":"{}""#, String::from_utf8_lossy(&base64)));
        }
        Some(default) => json.push_str(&format!(r#","default":{default}"#)),
        None => {}
    }
    if let Some(field) = place.field {
        json.push_str(r#","field":"#);
        json.push_str(&json_string(field));
    }
}
