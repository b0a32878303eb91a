//! The options of Debezium's outbox router that are more than names of columns, as keys of `[[outbox]]`.
//!
//! Each option has a function that says what becomes of it, for the report; [`lines`] writes them.

use toml::{Table, Value};

use super::report::Fate;
use super::source::Given;
use super::translate::Work;

const REGEX: (&str, &str) = ("route.topic.regex", "(?<routedByValue>.*)");
const TOPIC: (&str, &str) = ("route.topic.replacement", "outbox.event.${routedByValue}");

fn carried(text: String) -> (Fate, String) {
    (Fate::Carried, text)
}

pub fn timestamp(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    carried(format!("outbox.timestamp_column = \"{}\"", given.value.trim()))
}

/// `column:header[:name]`, `column:envelope[:name]`, `column:partition`.
pub fn placement(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match placements(&given.value)
        .find(|(_, place, _)| !matches!(*place, "header" | "envelope" | "partition"))
    {
        None => carried(
            "outbox.headers, envelope and partition_column; id and eventType are always sent".to_owned(),
        ),
        Some((column, ..)) => {
            (Fate::Unsupported, format!("{column}: a place is header, envelope or partition"))
        }
    }
}

pub fn missing(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match given.value.trim() {
        "ignore" => carried("outbox.missing_columns = \"ignore\"".to_owned()),
        _ => carried("a column that is missing halts".to_owned()),
    }
}

pub fn on_update(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match update_word(&given.value) {
        Some(word) => carried(format!("outbox.on_update = \"{word}\"")),
        None => (Fate::Unsupported, "there are warn, error and fatal".to_owned()),
    }
}

fn update_word(word: &str) -> Option<&'static str> {
    match word.trim() {
        // The word is another one in the log.
        "warn" | "error" => Some("warn"),
        "fatal" => Some("halt"),
        _ => None,
    }
}

pub fn expand(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if given.value.trim() != "true" {
        return carried("the payload stays JSON text".to_owned());
    }
    if super::combined::payload_is_raw(work) {
        return (Fate::Other, "the converter passes the payload's bytes on as they are".to_owned());
    }
    if super::combined::value_converter(work).is_some_and(is_json) {
        let why = "with a JSON converter write payload = \"raw\": the payload's own text, and the key as plain text";
        return (Fate::Unsupported, why.to_owned());
    }
    carried(
        "outbox.payload = \"avro_inferred\"; a payload that can't be expanded halts, where Debezium sends its text".to_owned(),
    )
}

fn is_json(converter: &str) -> bool {
    converter.ends_with("JsonConverter")
}

pub fn null_fields(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    carried(format!("outbox.null_fields = \"{}\", where payloads are expanded", given.value.trim()))
}

pub fn empty_arrays(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    carried(format!("outbox.empty_arrays = \"{}\", where payloads are expanded", given.value.trim()))
}

pub fn regex(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    carried(format!("outbox.match = \"{}\"; a value that does not match halts", given.value))
}

pub fn topic(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    carried(format!("outbox.topic = \"{}\"", our_topic(&given.value)))
}

pub fn tombstone(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    carried(format!(
        "outbox.tombstone_on_empty = {}; a NULL payload is a null value anyway",
        given.value.trim()
    ))
}

fn our_topic(topic: &str) -> String {
    topic.replace("${routedByValue}", "${aggregatetype}")
}

/// The keys of a table, by the options that are written or have to be.
pub fn lines(
    option: impl Fn(&str, &str) -> String,
    converter: &str,
    is_raw: bool,
    lines: &mut Vec<(&'static str, Value)>,
) {
    let is_set = |name: &str| option(name, "").trim() == "true";
    let (regex, topic) = (option(REGEX.0, REGEX.1), option(TOPIC.0, TOPIC.1));
    if regex != REGEX.1 {
        lines.push(("match", Value::from(regex)));
        lines.push(("topic", Value::from(topic)));
    } else if topic != TOPIC.1 {
        lines.push(("topic", Value::from(our_topic(&topic))));
    }
    if is_raw {
        lines.push(("payload", Value::from("raw")));
    } else if is_set("table.expand.json.payload") && !is_json(converter) {
        lines.push(("payload", Value::from("avro_inferred")));
        for (name, key) in [
            ("table.json.payload.null.behavior", "null_fields"),
            ("table.json.payload.empty.array.behavior", "empty_arrays"),
        ] {
            let word = option(name, "ignore");
            if word.trim() != "ignore" {
                lines.push((key, Value::from(word.trim())));
            }
        }
    }
    if is_set("route.tombstone.on.empty.payload") {
        lines.push(("tombstone_on_empty", Value::from(true)));
    }
    if let Some(word) = update_word(&option("table.op.invalid.behavior", "")) {
        lines.push(("on_update", Value::from(word)));
    }
    let timestamp = option("table.field.event.timestamp", "");
    if !timestamp.trim().is_empty() {
        lines.push(("timestamp_column", Value::from(timestamp.trim())));
    }
    place(&option("table.fields.additional.placement", ""), is_raw, lines);
    if option("table.field.additional.missing", "").trim() == "ignore" {
        lines.push(("missing_columns", Value::from("ignore")));
    }
}

fn place(placement: &str, is_raw: bool, lines: &mut Vec<(&'static str, Value)>) {
    let (mut headers, mut envelope) = (Table::new(), Table::new());
    for (column, place, name) in placements(placement) {
        match place {
            // It is always sent.
            "header" if name == "eventType" => {}
            "header" => drop(headers.insert(column.to_owned(), Value::from(name))),
            "envelope" if !is_raw => drop(envelope.insert(column.to_owned(), Value::from(name))),
            "partition" => lines.push(("partition_column", Value::from(column))),
            _ => {}
        }
    }
    for (key, table) in [("headers", headers), ("envelope", envelope)] {
        if !table.is_empty() {
            lines.push((key, Value::Table(table)));
        }
    }
}

fn placements(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
        let mut words = part.split(':').map(str::trim);
        let column = words.next().unwrap_or_default();
        let place = words.next().unwrap_or_default();
        (column, place, words.next().unwrap_or(column))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[(&str, &str)], is_raw: bool, expected: &str) {
        let option = |name: &str, default: &str| {
            let given = options.iter().find(|(known, _)| *known == name);
            given.map_or(default, |(_, value)| value).to_owned()
        };
        let mut found = Vec::new();
        lines(option, "", is_raw, &mut found);
        let found: Table = found.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        assert_eq!(found, expected.parse::<Table>().expect(expected), "{options:?}");
    }

    #[test]
    fn options_become_keys() {
        check(&[], false, "");
        check(&[("route.topic.replacement", "e.${routedByValue}")], false, r#"topic = "e.${aggregatetype}""#);
        check(
            &[("route.topic.regex", "(?<kind>.*)-v1"), ("route.topic.replacement", "e.${kind}")],
            false,
            "match = '(?<kind>.*)-v1'\ntopic = 'e.${kind}'",
        );
        let expanded = [
            ("table.expand.json.payload", "true"),
            ("table.json.payload.null.behavior", "optional_bytes"),
            ("table.json.payload.empty.array.behavior", "optional_string"),
        ];
        let keys =
            "payload = 'avro_inferred'\nnull_fields = 'optional_bytes'\nempty_arrays = 'optional_string'";
        check(&expanded, false, keys);
        check(&expanded, true, "payload = 'raw'");
        check(
            &[
                (
                    "table.fields.additional.placement",
                    "a:header:x, type:header:eventType,b:envelope,c:partition",
                ),
                ("table.field.additional.missing", "ignore"),
                ("table.field.event.timestamp", "at"),
                ("table.op.invalid.behavior", "fatal"),
                ("route.tombstone.on.empty.payload", "true"),
            ],
            false,
            "headers = { a = 'x' }\nenvelope = { b = 'b' }\npartition_column = 'c'\nmissing_columns = 'ignore'\n\
             timestamp_column = 'at'\non_update = 'halt'\ntombstone_on_empty = true",
        );
    }
}
