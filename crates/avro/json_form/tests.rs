//! Debezium's records in Avro, rendered by us, are Debezium's records in JSON: the same SQL was recorded both ways.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::name_adjustment::field_name;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden");

fn lines(path: &str) -> Vec<Json> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/{path}")).expect(path);
    text.lines().map(|line| serde_json::from_str(line).expect(path)).collect()
}

fn form(path: &str) -> Option<JsonForm> {
    let schema = std::fs::read_to_string(format!("{FIXTURES}/{path}")).ok()?;
    Some(JsonForm::new(&schema, false))
}

fn rendered(form: &JsonForm, record: &Json, part: &str) -> Option<Json> {
    let bytes = decode_base64(record[part].as_str()?);
    let mut out = Vec::new();
    form.write(&bytes[5..], &mut out);
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn decode_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets: Vec<u32> = text
        .bytes()
        .filter_map(|c| ALPHABET.iter().position(|known| *known == c))
        .map(|value| value as u32)
        .collect();
    let chunk = |chunk: &[u32]| {
        let bits = (0..4).fold(0, |bits, at| bits << 6 | chunk.get(at).copied().unwrap_or(0));
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    };
    sextets.chunks(4).flat_map(chunk).collect()
}

/// Avro's names for the columns, and nothing that differs from run to run.
fn comparable(row: &Json) -> Json {
    let Json::Object(fields) = row else { return row.clone() };
    // `now()` of another run; and what a later recording calls the columns that no converter knows.
    let fields = fields.iter().filter(|(name, _)| *name != "d_now");
    fields.map(|(name, value)| (field_name(name), value.clone())).collect()
}

/// JsonConverter shows the default in the place of an explicit NULL (`replace.null.with.default`); we show null.
fn without_replaced_nulls(ours: &Json, theirs: &mut Json, table: &str) {
    if table == "defaults"
        && ours["d_int4_null"].is_null()
        && let Some(value) = theirs.get_mut("d_int4_null")
    {
        *value = Json::Null;
    }
}

fn check(recording: &str, json: &str) -> usize {
    let mut wanted: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for record in lines(&format!("json/{json}.jsonl")).into_iter().filter(|record| !record["value"].is_null())
    {
        let name = format!("{} {} {}", record["table"], record["value"]["op"], comparable(&record["key"]));
        wanted.entry(name).or_default().push(record);
    }
    let mut compared = 0;
    for record in lines(&format!("{recording}events.jsonl")) {
        let table = record["table"].as_str().expect("a table");
        let schemas = |part: &str| form(&format!("{recording}schemas/{table}-{part}.json"));
        let (Some(key), Some(value)) = (schemas("key"), schemas("value")) else { continue };
        let (Some(key), Some(value)) =
            (rendered(&key, &record, "key_b64"), rendered(&value, &record, "value_b64"))
        else {
            continue;
        };
        let name = format!("{} {} {}", record["table"], record["op"], comparable(&key));
        let Some(theirs) = wanted.get_mut(&name).filter(|theirs| !theirs.is_empty()) else { continue };
        let mut theirs = theirs.remove(0)["value"].take();
        for part in ["before", "after", "op", "transaction"] {
            let mut expected = comparable(&theirs[part].take());
            without_replaced_nulls(&value[part], &mut expected, table);
            assert_eq!(comparable(&value[part]), expected, "{recording}{name}: {part}");
        }
        let names = |json: &Json| json.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
        assert_eq!(names(&value), names(&theirs), "{name}");
        assert_eq!(names(&value["source"]), names(&theirs["source"]), "{name}");
        compared += 1;
    }
    compared
}

#[test]
fn debeziums_avro_rendered_is_debeziums_json() {
    let compared: usize =
        [("", "default"), ("strings/", "strings"), ("doubles/", "doubles"), ("micros/", "micros")]
            .iter()
            .map(|(recording, json)| check(recording, json))
            .sum();
    assert!(compared >= 50, "only {compared} records were compared");
}

#[test]
fn what_no_recording_has() {
    let schema = json!({"type": "record", "name": "R", "namespace": "n", "fields": [
        {"name": "f", "type": "float"}, {"name": "d", "type": ["double", "null"]},
        {"name": "m", "type": {"type": "map", "values": ["null", "string"]}},
        {"name": "v", "type": {"type": "array", "items": {"type": "record", "name": "MapEntry",
            "namespace": "io.confluent.connect.avro",
            "fields": [{"name": "key", "type": "int"}, {"name": "value", "type": "double"}]}}},
        {"name": "q\"", "type": "string"}]});
    let form = JsonForm::new(&schema.to_string(), false);
    let mut avro = Vec::new();
    avro.extend(f32::NEG_INFINITY.to_le_bytes());
    avro.push(0);
    avro.extend(1e300_f64.to_le_bytes());
    // Two blocks of the map, the first of which says how many bytes it has.
    avro.extend([1, 6, 2, b'k', 0, 2, 2, b'l', 2, 2, b'x', 0]);
    avro.extend([2, 6]);
    avro.extend(f64::NAN.to_le_bytes());
    avro.push(0);
    avro.extend([4, b'"', 0x1f]);
    let mut out = Vec::new();
    form.write(&avro, &mut out);
    assert_eq!(
        String::from_utf8(out).expect("UTF-8"),
        r#"{"f":"-Infinity","d":1e300,"m":{"k":null,"l":"x"},"v":[[3,"NaN"]],"q\"":"\"\u001F"}"#
    );
}

/// As Connect's JsonConverter prints the same schemas.
#[test]
fn schemas_in_connects_json() {
    let schema = json!({"type": "record", "name": "Envelope", "namespace": "n", "connect.name": "n.Envelope", "connect.version": 2,
      "fields": [
        {"name": "before", "default": null, "type": ["null", {"type": "record", "name": "Value", "connect.name": "n.Value", "fields": [
            {"name": "id", "type": {"type": "int", "connect.type": "int16", "connect.default": 0}},
            {"name": "n", "type": ["null", {"type": "bytes", "scale": 2, "precision": 10, "connect.version": 1,
                "connect.parameters": {"connect.decimal.precision": "10", "scale": "2"}, "connect.default": "\u{3}ç",
                "connect.name": "org.apache.kafka.connect.data.Decimal", "logicalType": "decimal"}]},
            {"name": "a", "type": {"type": "array", "items": ["null", "long"]}},
            {"name": "m", "type": {"type": "map", "values": ["null", "string"]}}]}]},
        {"name": "after", "type": ["null", "Value"], "default": null}]});
    let value = r#"{"type":"struct","fields":[{"type":"int16","optional":false,"default":0,"field":"id"},{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"connect.decimal.precision":"10","scale":"2"},"default":"A+c=","field":"n"},{"type":"array","items":{"type":"int64","optional":true},"optional":false,"field":"a"},{"type":"map","keys":{"type":"string","optional":false},"values":{"type":"string","optional":true},"optional":false,"field":"m"}],"optional":true,"name":"n.Value","field":""#;
    let expected = format!(
        r#"{{"type":"struct","fields":[{value}before"}},{value}after"}}],"optional":false,"name":"n.Envelope","version":2}}"#
    );
    assert_eq!(json_schema::connect_schema(&schema), expected);
}
