//! Avro bytes to cells: apache-avro with the schema that the registry gives for the id in front of the bytes.
//! Which text a value stands for is read from the schema's `connect.name`, as a consumer would.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use serde_json::Value as Json;

use super::cell::{Cell, hex};
use super::evidence::{Cells, Change};
use super::{http, time_text};

/// Fetches schemas by id, each once.
pub struct Decoder {
    registry: String,
    schemas: HashMap<u32, Arc<Parsed>>,
}

struct Parsed {
    schema: Schema,
    json: Json,
}

/// A decoded datum with the schema that explains it.
pub struct Datum {
    parsed: Arc<Parsed>,
    value: Value,
}

impl Decoder {
    /// A decoder for the registry at this address.
    pub fn new(registry: &str) -> Decoder {
        Decoder { registry: registry.to_owned(), schemas: HashMap::new() }
    }

    /// Decodes bytes in Confluent's wire format: 0x00, id (4 bytes, big-endian), datum. All bytes must be used.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Datum> {
        ensure!(bytes.len() >= 5 && bytes[0] == 0, "not in the registry's wire format");
        let id = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
        let parsed = self.schema(id)?;
        let mut rest = &bytes[5..];
        let reader = GenericDatumReader::builder(&parsed.schema).build().context("resolve the schema")?;
        let value = reader.read_value(&mut rest).context("decode Avro")?;
        ensure!(rest.is_empty(), "{} bytes after the datum", rest.len());
        Ok(Datum { parsed, value })
    }

    /// Decodes a record's key or value, if there is one, into plain JSON: unions are their values.
    pub fn json(&mut self, bytes: Option<&[u8]>) -> Result<Json> {
        let Some(bytes) = bytes else { return Ok(Json::Null) };
        let datum = tokio::task::block_in_place(|| self.decode(bytes))?;
        Ok(Json::try_from(datum.value)?)
    }

    fn schema(&mut self, id: u32) -> Result<Arc<Parsed>> {
        if let Some(parsed) = self.schemas.get(&id) {
            return Ok(parsed.clone());
        }
        let url = format!("{}/schemas/ids/{id}", self.registry);
        let response = http::get(&url).with_context(|| format!("get {url}"))?;
        ensure!(response.status == 200, "schema {id}: status {}", response.status);
        let body: Json = serde_json::from_str(&response.body)?;
        let text = body["schema"].as_str().context("no schema in the registry's answer")?;
        // Apicurio returns a primitive's schema without its quotes.
        let json = serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.to_owned()));
        let schema = Schema::parse(&json).with_context(|| format!("schema {id} is not Avro"))?;
        let parsed = Arc::new(Parsed { schema, json });
        self.schemas.insert(id, parsed.clone());
        Ok(parsed)
    }
}

impl Datum {
    /// The value as apache-avro sees it.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The schema that it was written with.
    pub fn schema(&self) -> &Json {
        &self.parsed.json
    }

    /// A key record's columns.
    pub fn key(&self) -> Result<Cells> {
        record(&self.parsed.json, &Names::of(&self.parsed.json), &self.value)
    }

    /// An envelope.
    pub fn change(&self) -> Result<Change> {
        let json = &self.parsed.json;
        let names = Names::of(json);
        ensure!(json["name"] == "Envelope", "the value is not an Envelope but {}", json["name"]);
        let Value::Record(fields) = &self.value else { bail!("the value is not a record") };
        let field = |name: &str| -> Result<&Value> {
            fields.iter().find(|(n, _)| n == name).map(|(_, v)| v).with_context(|| format!("no field {name}"))
        };
        let image = |name: &str| -> Result<Option<Cells>> {
            let schema = field_schema(json, name)?;
            match resolve(schema, &names, field(name)?)? {
                (_, Value::Null) => Ok(None),
                (schema, value) => record(schema, &names, value).map(Some),
            }
        };
        let Value::Record(source) = field("source")? else { bail!("source is not a record") };
        let source = |name: &str| -> Result<&Value> {
            source
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v)
                .with_context(|| format!("no field source.{name}"))
        };
        let times = [("ts_ms", 1000, 1), ("ts_us", 1, 1), ("ts_ns", 1, 1000)];
        let mut times_micros = Vec::new();
        for (name, times, by) in times {
            times_micros.push(long(source(name)?)? * times / by);
            times_micros.push(long(field(name)?)? * times / by);
        }
        Ok(Change {
            op: text(field("op")?)?,
            before: image("before")?,
            after: image("after")?,
            database: text(source("db")?)?,
            relation: format!("{}.{}", text(source("schema")?)?, text(source("table")?)?),
            xid: u32::try_from(long(source("txId")?)?)?,
            sequence: text(source("sequence")?)?,
            lsn: u64::try_from(long(source("lsn")?)?)?,
            times_micros,
        })
    }
}

/// Named types of one schema, so that a name can stand for a definition.
struct Names<'a>(HashMap<&'a str, &'a Json>);

impl<'a> Names<'a> {
    fn of(schema: &'a Json) -> Names<'a> {
        let mut names = Names(HashMap::new());
        names.collect(schema);
        names
    }

    fn collect(&mut self, schema: &'a Json) {
        match schema {
            Json::Array(branches) => branches.iter().for_each(|branch| self.collect(branch)),
            Json::Object(object) => {
                if let Some(name) = object.get("name").and_then(Json::as_str)
                    && object.contains_key("fields")
                {
                    self.0.insert(name, schema);
                }
                for inner in ["type", "items", "fields"] {
                    if let Some(inner) = object.get(inner) {
                        self.collect(inner);
                    }
                }
            }
            _ => {}
        }
    }
}

fn field_schema<'a>(record: &'a Json, name: &str) -> Result<&'a Json> {
    let fields = record["fields"].as_array().context("a record without fields")?;
    let field =
        fields.iter().find(|field| field["name"] == name).with_context(|| format!("no field {name}"))?;
    Ok(&field["type"])
}

/// Follows unions and names to the schema that describes this value.
fn resolve<'a, 'v>(schema: &'a Json, names: &Names<'a>, value: &'v Value) -> Result<(&'a Json, &'v Value)> {
    match (schema, value) {
        (Json::Array(branches), Value::Union(branch, inner)) => {
            resolve(branches.get(*branch as usize).context("no such branch")?, names, inner)
        }
        (Json::String(name), _) => {
            let short = name.rsplit('.').next().unwrap_or(name);
            Ok((names.0.get(short).copied().unwrap_or(schema), value))
        }
        (Json::Object(object), _) if object.get("type").is_some_and(|t| t.is_object() || t.is_array()) => {
            resolve(&object["type"], names, value)
        }
        _ => Ok((schema, value)),
    }
}

fn record(schema: &Json, names: &Names<'_>, value: &Value) -> Result<Cells> {
    let Value::Record(fields) = value else { bail!("not a record") };
    fields
        .iter()
        .map(|(name, value)| {
            let cell =
                cell(field_schema(schema, name)?, names, value).with_context(|| format!("column {name}"))?;
            Ok((name.clone(), cell))
        })
        .collect()
}

fn cell(schema: &Json, names: &Names<'_>, value: &Value) -> Result<Cell> {
    let (schema, value) = resolve(schema, names, value)?;
    let connect = schema["connect.name"].as_str().unwrap_or("");
    let logical = connect.rsplit('.').next().unwrap_or("");
    Ok(match (logical, value) {
        (_, Value::Null) => Cell::Null,
        ("Date", Value::Int(days)) => Cell::Text(time_text::date(i64::from(*days))),
        ("Time", Value::Int(millis)) => Cell::Text(time_text::time(i64::from(*millis) * 1000)),
        ("MicroTime", Value::Long(micros)) => Cell::Text(time_text::time(*micros)),
        ("Timestamp", Value::Long(millis)) => Cell::Text(time_text::timestamp_of_millis(*millis)),
        ("MicroTimestamp", Value::Long(micros)) => Cell::Text(time_text::timestamp(*micros)),
        ("ZonedTimestamp", Value::String(text)) => Cell::Text(time_text::zoned(text)?),
        ("Decimal", value) => {
            let scale = schema["connect.parameters"]["scale"].as_str().and_then(|s| s.parse().ok());
            Cell::Text(decimal_text(&unscaled(value)?, scale.context("a Decimal without scale")?)?)
        }
        ("VariableScaleDecimal", Value::Record(fields)) => {
            let [(_, Value::Int(scale)), (_, value)] = &fields[..] else {
                bail!("an odd VariableScaleDecimal")
            };
            Cell::Number(decimal_text(&unscaled(value)?, *scale)?)
        }
        ("MicroDuration", Value::Long(micros)) => Cell::Duration(*micros),
        ("Bits", Value::Bytes(bytes)) => Cell::Bits(bytes.clone()),
        ("ZonedTime", Value::String(text)) => {
            Cell::Text(format!("{}+00", text.strip_suffix('Z').context("not in UTC")?))
        }
        (_, Value::Record(fields)) => Cell::Numbers(numbers(fields)?),
        // Avro's own logical types, where the schema has nothing of Connect's.
        (_, Value::Date(days)) => Cell::Text(time_text::date(i64::from(*days))),
        (_, Value::TimeMicros(micros)) => Cell::Text(time_text::time(*micros)),
        (_, Value::LocalTimestampMicros(micros)) => Cell::Text(time_text::timestamp(*micros)),
        (_, Value::TimestampMicros(micros)) => Cell::Text(time_text::timestamptz(*micros)),
        (_, Value::Uuid(uuid)) => Cell::Text(uuid.to_string()),
        (_, Value::Decimal(_)) => {
            let scale = schema["scale"].as_i64().and_then(|scale| i32::try_from(scale).ok());
            Cell::Text(decimal_text(&unscaled(value)?, scale.unwrap_or(0))?)
        }
        // bit(1) is a boolean to Debezium.
        (_, Value::Boolean(truth)) => Cell::Text(if *truth { "t" } else { "f" }.to_owned()),
        (_, Value::Int(number)) => Cell::Text(number.to_string()),
        (_, Value::Long(number)) => Cell::Text(number.to_string()),
        (_, Value::Float(number)) => Cell::Float(*number),
        (_, Value::Double(number)) => Cell::Double(*number),
        (_, Value::String(text)) => Cell::Text(text.clone()),
        (_, Value::Bytes(bytes)) => Cell::Text(format!("\\x{}", hex(bytes))),
        (_, Value::Array(items)) => {
            let element = &schema["items"];
            Cell::Array(items.iter().map(|item| cell(element, names, item)).collect::<Result<_>>()?)
        }
        (name, value) => bail!("no text for a {name} {:?}", apache_avro::schema::SchemaKind::from(value)),
    })
}

/// The numbers of a geometric type in the order of Postgres' text.
fn numbers(fields: &[(String, Value)]) -> Result<Vec<f64>> {
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    let double = |name: &str| match field(name) {
        Some(Value::Double(number)) => Ok(*number),
        _ => bail!("no double {name}"),
    };
    if let Some(Value::Record(center)) = field("center") {
        let mut all = numbers(center)?;
        all.push(double("radius")?);
        return Ok(all);
    }
    if field("a").is_some() {
        return Ok(vec![double("a")?, double("b")?, double("c")?]);
    }
    let wkb = match field("wkb") {
        Some(Value::Bytes(bytes)) => bytes,
        Some(Value::Union(_, inner)) => match &**inner {
            Value::Bytes(bytes) => bytes,
            _ => bail!("no WKB"),
        },
        _ => bail!("no WKB"),
    };
    ensure!(wkb.first() == Some(&1), "the highest byte first");
    let header = match wkb[1] {
        1 => 5,
        2 => 9,
        3 => 13,
        other => bail!("odd WKB type {other}"),
    };
    let points: Vec<f64> = wkb[header..]
        .chunks_exact(8)
        .map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight")))
        .collect();
    if wkb[1] == 1 {
        ensure!(points == [double("x")?, double("y")?], "a point's WKB is another point");
    }
    let Some(Value::Union(_, extensions)) = field("extensions") else { return Ok(points) };
    let Value::Map(extensions) = &**extensions else { bail!("no extensions") };
    Ok(match extensions.get("type") {
        // Two opposite corners of the ring.
        Some(Value::String(kind)) if kind == "box" => vec![points[0], points[1], points[4], points[5]],
        Some(Value::String(kind)) if kind == "polygon" => points[..points.len() - 2].to_vec(),
        _ => points,
    })
}

fn unscaled(value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::Decimal(decimal) => Ok(Vec::try_from(decimal)?),
        Value::Bytes(bytes) => Ok(bytes.clone()),
        _ => bail!("a decimal is neither bytes nor decimal"),
    }
}

/// A two's complement integer, big-endian, as decimal digits with `scale` of them behind the point.
fn decimal_text(bytes: &[u8], scale: i32) -> Result<String> {
    let scale = usize::try_from(scale).context("a negative scale")?;
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if negative {
        magnitude.iter_mut().for_each(|byte| *byte = !*byte);
        for byte in magnitude.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0u32;
        for byte in &mut magnitude {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 10) as u8;
            remainder = value % 10;
        }
        digits.push(b'0' + remainder as u8);
    }
    while digits.len() <= scale {
        digits.push(b'0');
    }
    digits.reverse();
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if negative { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    Ok(format!("{sign}{}{point}{}", std::str::from_utf8(whole)?, std::str::from_utf8(fraction)?))
}

/// A string, in a union or not.
pub fn text(value: &Value) -> Result<String> {
    match value {
        Value::Union(_, inner) => text(inner),
        Value::String(text) => Ok(text.clone()),
        _ => bail!("not a string"),
    }
}

fn long(value: &Value) -> Result<i64> {
    match value {
        Value::Union(_, inner) => long(inner),
        Value::Long(number) => Ok(*number),
        Value::Int(number) => Ok(i64::from(*number)),
        _ => bail!("not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_digits() {
        for (bytes, scale, expected) in [
            (&[0x30u8, 0x39][..], 2, "123.45"),
            (&[0xff], 2, "-0.01"),
            (&[0], 2, "0.00"),
            (&[0x80], 0, "-128"),
            (&[0x01, 0, 0, 0, 0, 0, 0, 0, 0], 0, "18446744073709551616"),
        ] {
            assert_eq!(decimal_text(bytes, scale).expect("valid"), expected);
        }
    }
}
