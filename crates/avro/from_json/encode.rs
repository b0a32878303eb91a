//! One value in one type.

use serde_json::value::RawValue;

use super::Misfit;
use super::document::Json;
use super::moments;
use crate::binary;
use crate::reading::Unreadable;
use crate::reading::schema_tree::{FieldShape, Node, RecordShape, Shape};
use crate::types;

/// Appends a value; `is_inferred` passes over members that inferring leaves out.
pub(super) fn write(node: &Node, raw: &RawValue, is_inferred: bool, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let json = Json::open(raw).map_err(Misfit::new)?;
    if let Shape::Union(branches) = &node.shape {
        return write_union(branches, raw, &json, is_inferred, out);
    }
    match (&node.shape, json) {
        (Shape::Null, Json::Null) => {}
        (Shape::Boolean, Json::Boolean(value)) => out.push(u8::from(value)),
        (Shape::Int | Shape::Long, json) => {
            let value = whole_number(node, &json).map_err(Misfit::new)?;
            if matches!(node.shape, Shape::Int) && i32::try_from(value).is_err() {
                return Err(Misfit::new("is too large for an int"));
            }
            binary::write_long(value, out);
        }
        (Shape::Float, json) => out.extend_from_slice(&(float(&json, f32::MAX.into())? as f32).to_le_bytes()),
        (Shape::Double, json) => out.extend_from_slice(&float(&json, f64::MAX)?.to_le_bytes()),
        (Shape::Bytes | Shape::Fixed(_), json) if is_decimal(node) => decimal(node, &json, out)?,
        (Shape::Bytes, Json::Text(text)) => binary::write_bytes(&latin_1(&text)?, out),
        (Shape::Fixed(size), Json::Text(text)) => {
            let bytes = latin_1(&text)?;
            if bytes.len() != *size {
                return Err(Misfit::new("has not as many bytes as its fixed type"));
            }
            out.extend_from_slice(&bytes);
        }
        (Shape::Text, Json::Text(text)) => {
            if &*node.meaning == "uuid" && !is_uuid(&text) {
                return Err(Misfit::new("is no uuid"));
            }
            binary::write_bytes(text.as_bytes(), out);
        }
        (Shape::Enum(symbols), Json::Text(text)) => {
            let place = symbols.iter().position(|symbol| *symbol == text);
            let place = place.ok_or_else(|| Misfit::new("is none of the symbols of its enum"))?;
            binary::write_long(place as i64, out);
        }
        (Shape::Record(record), Json::Object(members)) => write_record(record, &members, is_inferred, out)?,
        (Shape::Array(item), Json::Array(items)) => {
            blocks(items.len(), out, |index, out| {
                write(item, items[index], is_inferred, out).map_err(|misfit| misfit.in_item(index))
            })?;
        }
        (Shape::Map(value), Json::Object(members)) => {
            blocks(members.len(), out, |index, out| {
                let (name, member) = &members[index];
                binary::write_bytes(name.as_bytes(), out);
                write(value, member, is_inferred, out).map_err(|misfit| misfit.in_field(name))
            })?;
        }
        (shape, _) => return Err(Misfit::new(format!("is no {}", kind(shape)))),
    }
    Ok(())
}

/// Blocks of Avro: all items in one, then the end.
fn blocks(
    count: usize,
    out: &mut Vec<u8>,
    mut item: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    if count > 0 {
        binary::write_long(count as i64, out);
        (0..count).try_for_each(|index| item(index, out))?;
    }
    binary::write_long(0, out);
    Ok(())
}

fn write_record(
    record: &RecordShape,
    members: &[(String, &RawValue)],
    is_inferred: bool,
    out: &mut Vec<u8>,
) -> Result<(), Misfit> {
    for field in &record.fields {
        let written = match members.iter().find(|(name, _)| *name == field.name) {
            Some((_, member)) => write(&field.node, member, is_inferred, out),
            None => write_missing(field, out),
        };
        written.map_err(|misfit| misfit.in_field(&field.name))?;
    }
    let unknown = |(name, member): &&(String, &RawValue)| {
        record.fields.iter().all(|field| field.name != *name) && !(is_inferred && is_left_out(member))
    };
    match members.iter().find(unknown) {
        None => Ok(()),
        Some((name, _)) => Err(Misfit::new("is none that the schema has").in_field(name)),
    }
}

/// Inferring gives no type to a null, to an empty array and to an array of nulls.
fn is_left_out(member: &RawValue) -> bool {
    match Json::open(member) {
        Ok(Json::Null) => true,
        Ok(Json::Array(items)) => items.iter().all(|item| matches!(Json::open(item), Ok(Json::Null))),
        _ => false,
    }
}

fn write_missing(field: &FieldShape, out: &mut Vec<u8>) -> Result<(), Misfit> {
    if let Some(default) = &field.default {
        return write(&field.node, default, false, out);
    }
    let Shape::Union(branches) = &field.node.shape else { return Err(Misfit::new("is missing")) };
    match branches.iter().position(|branch| matches!(branch.shape, Shape::Null)) {
        Some(null) => {
            binary::write_long(null as i64, out);
            Ok(())
        }
        None => Err(Misfit::new("is missing")),
    }
}

fn write_union(
    branches: &[Node],
    raw: &RawValue,
    json: &Json<'_>,
    is_inferred: bool,
    out: &mut Vec<u8>,
) -> Result<(), Misfit> {
    let start = out.len();
    let mut try_branch = |index: usize, raw: &RawValue| {
        binary::write_long(index as i64, out);
        let written = write(&branches[index], raw, is_inferred, out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    };
    if let Json::Object(members) = json
        && let [(name, member)] = &members[..]
        && let Some(index) = branches.iter().position(|branch| is_named(branch, name))
        && try_branch(index, member).is_ok()
    {
        return Ok(());
    }
    let mut misfits = Vec::new();
    for (index, branch) in branches.iter().enumerate() {
        match try_branch(index, raw) {
            Ok(()) => return Ok(()),
            Err(misfit) if !matches!(branch.shape, Shape::Null) => misfits.push(misfit),
            Err(_) => {}
        }
    }
    match (misfits.pop(), misfits.is_empty()) {
        (Some(only), true) => Err(only),
        _ => Err(Misfit::new("is of none of the types of its union")),
    }
}

/// What Avro's JSON encoding calls a branch.
fn is_named(branch: &Node, name: &str) -> bool {
    match &branch.shape {
        Shape::Record(record) => record.name == name,
        Shape::Null | Shape::Enum(_) | Shape::Fixed(_) | Shape::Union(_) => false,
        shape => kind(shape) == name,
    }
}

fn kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Null => "null",
        Shape::Boolean => "boolean",
        Shape::Int => "int",
        Shape::Long => "long",
        Shape::Float => "float",
        Shape::Double => "double",
        Shape::Bytes => "bytes",
        Shape::Text => "string",
        Shape::Fixed(_) => "fixed",
        Shape::Enum(_) => "enum",
        Shape::Record(_) => "record",
        Shape::Array(_) => "array",
        Shape::Map(_) => "map",
        Shape::Union(_) => "union",
    }
}

fn whole_number(node: &Node, json: &Json<'_>) -> Result<i64, &'static str> {
    match json {
        Json::Number(text) => {
            let is_whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            match text.parse() {
                Ok(number) => Ok(number),
                Err(_) if is_whole => Err("is too large for a long"),
                Err(_) => Err("is no whole number"),
            }
        }
        Json::Text(text) => moments::number(&node.meaning, text).unwrap_or(Err("is no whole number")),
        _ => Err("is no whole number"),
    }
}

fn float(json: &Json<'_>, largest: f64) -> Result<f64, Misfit> {
    let number = match json {
        Json::Number(text) => text.parse::<f64>().ok().filter(|number| number.abs() <= largest),
        Json::Text(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    number.ok_or_else(|| Misfit::new("is no number that its type can hold"))
}

fn is_decimal(node: &Node) -> bool {
    matches!(&*node.meaning, "decimal" | "org.apache.kafka.connect.data.Decimal")
}

/// The unscaled value, highest byte first; in a fixed type with the sign's bytes before it.
fn decimal(node: &Node, json: &Json<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let text = match json {
        Json::Number(text) => text,
        Json::Text(text) => text.as_str(),
        _ => return Err(Misfit::new("is no decimal number")),
    };
    let scale = i16::try_from(node.number.unwrap_or(0)).map_err(|_| Misfit::new("has a scale beyond all"))?;
    let mut number = Vec::new();
    types::write_decimal(text.as_bytes(), scale, &mut number).map_err(|reason| {
        Misfit::new(format!(
            "is no decimal number of its schema (with all digits, without an exponent): {reason}"
        ))
    })?;
    let whole = text.trim_start_matches('-').split('.').next().unwrap_or_default();
    let digits = whole.trim_start_matches('0').len() as i64 + i64::from(scale);
    if node.precision.is_some_and(|precision| digits > precision) {
        return Err(Misfit::new("has more digits than its decimal type"));
    }
    let Shape::Fixed(size) = node.shape else {
        out.extend_from_slice(&number);
        return Ok(());
    };
    let (_, header) = binary::read_long(&number);
    let number = &number[header..];
    let Some(missing) = size.checked_sub(number.len()) else {
        return Err(Misfit::new("has more digits than its decimal type"));
    };
    let sign = if number.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    out.extend(std::iter::repeat_n(sign, missing));
    out.extend_from_slice(number);
    Ok(())
}

fn latin_1(text: &str) -> Result<Vec<u8>, Misfit> {
    let bytes: Option<Vec<u8>> =
        text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect();
    bytes.ok_or_else(|| Misfit::new("has a character beyond U+00FF, which is no byte"))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A default that its own field can't hold would fail some rows and not others.
pub(super) fn check_defaults(node: &Node) -> Result<(), Unreadable> {
    match &node.shape {
        Shape::Record(record) => record.fields.iter().try_for_each(|field| {
            check_defaults(&field.node)?;
            if field.default.is_some() && write_missing(field, &mut Vec::new()).is_err() {
                return Err(Unreadable::new(format!(
                    "the schema's field {} has a default of another type",
                    field.name
                )));
            }
            Ok(())
        }),
        Shape::Array(inner) | Shape::Map(inner) => check_defaults(inner),
        Shape::Union(branches) => branches.iter().try_for_each(check_defaults),
        _ => Ok(()),
    }
}
