//! Letters as tables for people and JSON for programs.

use comfy_table::{ContentArrangement, Table as Grid, presets};
use headwater_dead_letter::{Form, Letter};
use serde_json::{Value, json};

/// What is shown of a value that is no text.
const BYTES_SHOWN: usize = 256;

fn grid() -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    grid
}

fn json_of(letter: &Letter) -> Value {
    let cause = &letter.cause;
    json!({
        "id": letter.id.to_string(),
        "partition": letter.id.partition,
        "offset": letter.id.offset,
        "timestamp_ms": letter.timestamp_ms,
        "table": cause.table,
        "key": cause.key,
        "old_key": cause.old_key,
        "stage": cause.stage,
        "reason": cause.reason,
        "form": if cause.form == Form::Row { "row" } else { "record" },
        "attempt": cause.attempt,
        "lsn": cause.lsn,
        "topic": cause.topic,
        "source_partition": cause.place.map(|(partition, _)| partition),
        "source_offset": cause.place.map(|(_, offset)| offset),
        "consumer": cause.consumer,
        "value_bytes": letter.value_bytes,
        "done": letter.done.map(|done| done.word()),
    })
}

/// Many letters.
pub(super) fn list(letters: &[&Letter], as_json: bool) -> String {
    if as_json {
        return format!("{}\n", Value::Array(letters.iter().map(|letter| json_of(letter)).collect()));
    }
    if letters.is_empty() {
        return "no letters\n".to_owned();
    }
    let mut grid = grid();
    grid.set_header(["id", "table", "key", "stage", "attempt", "lsn", "done", "reason"]);
    for letter in letters {
        let cause = &letter.cause;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let about = cause.table.clone().or_else(|| cause.topic.clone()).unwrap_or_default();
        grid.add_row([
            letter.id.to_string(),
            about,
            text(&cause.key),
            cause.stage.clone(),
            cause.attempt.to_string(),
            text(&cause.lsn),
            letter.done.map_or_else(String::new, |done| done.word().to_owned()),
            cause.reason.clone(),
        ]);
    }
    format!("{}\n", grid.trim_fmt())
}

/// One letter with its value.
pub(super) fn show(letter: &Letter, value: Option<&[u8]>, as_json: bool) -> String {
    let mut all = json_of(letter);
    let headers: serde_json::Map<String, Value> =
        letter.headers.iter().map(|(name, value)| (name.clone(), shown(value))).collect();
    all["headers"] = Value::Object(headers);
    all["record_key"] = letter.key.as_deref().map_or(Value::Null, shown);
    all["value"] = value.map_or(Value::Null, shown);
    if as_json {
        return format!("{all}\n");
    }
    let mut grid = grid();
    for (name, value) in all.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        match value {
            Value::Object(members) if name == "headers" => {
                for (header, value) in members {
                    grid.add_row([format!("header {header}"), plain(value)]);
                }
            }
            value => {
                grid.add_row([name.clone(), plain(value)]);
            }
        }
    }
    format!("{}\n", grid.trim_fmt())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON and text as they are, anything else in hexadecimal.
fn shown(bytes: &[u8]) -> Value {
    if let Ok(json @ (Value::Object(_) | Value::Array(_))) = serde_json::from_slice(bytes) {
        return json;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.into(),
        _ => {
            let hex: String = bytes.iter().take(BYTES_SHOWN).map(|byte| format!("{byte:02x}")).collect();
            let more = if bytes.len() > BYTES_SHOWN {
                format!("… ({} bytes)", bytes.len())
            } else {
                String::new()
            };
            format!("0x{hex}{more}").into()
        }
    }
}

/// What was done.
pub(super) fn done(what: &str, lines: &[String], as_json: bool) -> String {
    if as_json {
        return format!("{}\n", json!({ what: lines }));
    }
    match lines {
        [] => format!("nothing to be {what}\n"),
        lines => lines.iter().map(|line| format!("{what}: {line}\n")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        for (bytes, expected) in [
            (&br#"{"a":1}"#[..], json!({"a": 1})),
            (b"text\nand more", json!("text\nand more")),
            (b"\0\0\0\x01", json!("0x00000001")),
            (b"7", json!("7")),
        ] {
            assert_eq!(shown(bytes), expected);
        }
    }
}
