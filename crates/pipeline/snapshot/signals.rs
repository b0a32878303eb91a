//! What a signal says: Debezium's verbs and their JSON, read strictly.
//!
//! In: a verb and its data, as text. Out: what is to be done, or why it is refused. Only what is listed here is
//! understood, and a field that is not understood refuses the signal: half of a command is another command.

use serde_json::{Map, Value};

use super::table_pattern::TablePattern;

/// Bytes of a signal's data at most: a command is short, and it is stored until it is carried out.
const DATA_BYTES_MAX: usize = 64 << 10;

/// Characters of an id, which goes into the log, the status and notifications.
const ID_CHARS_MAX: usize = 200;

/// Characters of what `log` says.
const MESSAGE_CHARS_MAX: usize = 1000;

/// A signal that is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// `execute-snapshot`.
    Execute { tables: Vec<TablePattern>, filters: Vec<(TablePattern, String)> },
    /// `stop-snapshot`; without tables all of it.
    Stop { tables: Vec<TablePattern> },
    /// `pause-snapshot`.
    Pause,
    /// `resume-snapshot`.
    Resume,
    /// `log`.
    Log { message: String },
    /// What Debezium writes for itself into its table of signals.
    Watermark,
}

/// Reads a signal. The error is for whoever sent it.
pub(crate) fn read(verb: &str, data: Option<&str>, allow_filters: bool) -> Result<Signal, String> {
    let known = [
        "execute-snapshot",
        "stop-snapshot",
        "pause-snapshot",
        "resume-snapshot",
        "log",
        "snapshot-window-open",
        "snapshot-window-close",
    ];
    if !known.contains(&verb) {
        return Err(format!(
            "there is no signal \"{}\"; there are execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot and log",
            short(verb, 50)
        ));
    }
    if verb.starts_with("snapshot-window-") {
        return Ok(Signal::Watermark);
    }
    let fields = fields(data)?;
    match verb {
        "execute-snapshot" => execute(fields, allow_filters),
        "stop-snapshot" => {
            let mut fields = Fields::new(fields);
            fields.incremental()?;
            let tables = fields.tables()?;
            fields.end()?;
            Ok(Signal::Stop { tables })
        }
        "log" => {
            let mut fields = Fields::new(fields);
            let message = fields.text("message")?.ok_or("log needs a message")?;
            fields.end()?;
            Ok(Signal::Log { message: short(&message, MESSAGE_CHARS_MAX) })
        }
        verb => {
            let mut fields = Fields::new(fields);
            fields.incremental()?;
            fields.end()?;
            Ok(if verb == "pause-snapshot" { Signal::Pause } else { Signal::Resume })
        }
    }
}

/// A name for log and notifications, without what would break a line.
pub(crate) fn clean_id(id: &str) -> String {
    short(id, ID_CHARS_MAX)
}

fn short(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn fields(data: Option<&str>) -> Result<Map<String, Value>, String> {
    let data = data.map(str::trim).filter(|data| !data.is_empty()).unwrap_or("{}");
    if data.len() > DATA_BYTES_MAX {
        return Err(format!("its data has {} bytes, more than {DATA_BYTES_MAX}", data.len()));
    }
    match serde_json::from_str(data) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("its data is no JSON object".to_owned()),
        // The error of a torn text names a place in it, and nothing of what stands there.
        Err(error) => Err(format!("its data is no JSON (line {}, column {})", error.line(), error.column())),
    }
}

fn execute(fields: Map<String, Value>, allow_filters: bool) -> Result<Signal, String> {
    let mut fields = Fields::new(fields);
    fields.incremental()?;
    let tables = fields.tables()?;
    if tables.is_empty() {
        return Err("execute-snapshot needs data-collections, a list of regular expressions".to_owned());
    }
    let mut filters = Vec::new();
    if let Some(conditions) = fields.take("additional-conditions") {
        for condition in conditions.as_array().ok_or("additional-conditions is no list")? {
            let condition = condition.as_object().ok_or("an additional condition is no JSON object")?;
            let mut condition = Fields::new(condition.clone());
            let table = condition.text("data-collection")?.ok_or("a condition needs its data-collection")?;
            let filter = condition.text("filter")?.ok_or("a condition needs its filter")?;
            condition.end()?;
            filters.push((TablePattern::regex(&table)?, filter));
        }
    }
    if let Some(filter) = fields.text("additional-condition")? {
        // Debezium's older form: one for all tables.
        filters.extend(tables.iter().map(|table| (table.clone(), filter.clone())));
    }
    // It chooses the order of Debezium's chunks. Ours go by the key that the stream has.
    fields.take("surrogate-key");
    fields.end()?;
    if !filters.is_empty() && !allow_filters {
        return Err(
            "conditions are SQL, and signals may carry them only with signals.allow_filters = true; \
             headwater snapshot start --where takes them from the administrator"
                .to_owned(),
        );
    }
    Ok(Signal::Execute { tables, filters })
}

/// Fields of an object that have not been looked at.
struct Fields(Map<String, Value>);

impl Fields {
    fn new(fields: Map<String, Value>) -> Fields {
        Fields(fields)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name} is no text")),
        }
    }

    /// The kind of snapshot: there is one.
    fn incremental(&mut self) -> Result<(), String> {
        let Some(kind) = self.text("type")? else { return Ok(()) };
        if kind.eq_ignore_ascii_case("incremental") {
            return Ok(());
        }
        if kind.eq_ignore_ascii_case("blocking") {
            return Err("a blocking snapshot would hold the stream up, and none is needed for that: \
                 send the same with type incremental (its conditions are then those of a WHERE)"
                .to_owned());
        }
        Err(format!("there is no snapshot of type \"{}\"; there is incremental", short(&kind, 50)))
    }

    fn tables(&mut self) -> Result<Vec<TablePattern>, String> {
        let Some(list) = self.take("data-collections") else { return Ok(Vec::new()) };
        let list = list.as_array().ok_or("data-collections is no list")?;
        let expression = |item: &Value| match item.as_str() {
            Some(text) => TablePattern::regex(text.trim()),
            None => Err("data-collections has something that is no text".to_owned()),
        };
        list.iter().map(expression).collect()
    }

    /// Nothing is left.
    fn end(&self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(name) => Err(format!("the field \"{}\" is not understood", short(name, 50))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(text: &str) -> TablePattern {
        TablePattern::Regex(text.to_owned())
    }

    #[test]
    fn what_is_understood() {
        let check = |verb: &str, data: Option<&str>, wanted: Signal| {
            assert_eq!(read(verb, data, true), Ok(wanted), "{verb} {data:?}");
        };
        let tables = vec![regex("public.orders"), regex(r"public\.a.*")];
        let list = r#""data-collections":["public.orders","public\\.a.*"]"#;
        let plain = Signal::Execute { tables: tables.clone(), filters: Vec::new() };
        check("execute-snapshot", Some(&format!("{{{list}}}")), plain.clone());
        check("execute-snapshot", Some(&format!(r#"{{"type":"INCREMENTAL",{list}}}"#)), plain.clone());
        let more = format!(r#"{{{list},"surrogate-key":"n","additional-conditions":null}}"#);
        check("execute-snapshot", Some(&more), plain);
        let filtered = format!(
            r#"{{{list},"additional-conditions":[{{"data-collection":"public.orders","filter":"id > 5"}}]}}"#
        );
        let filters = vec![(regex("public.orders"), "id > 5".to_owned())];
        check("execute-snapshot", Some(&filtered), Signal::Execute { tables: tables.clone(), filters });
        check("stop-snapshot", None, Signal::Stop { tables: Vec::new() });
        check("stop-snapshot", Some(&format!(r#"{{"type":"incremental",{list}}}"#)), Signal::Stop { tables });
        check("pause-snapshot", Some(""), Signal::Pause);
        check("resume-snapshot", Some("{}"), Signal::Resume);
        check("log", Some(r#"{"message":"a\nb"}"#), Signal::Log { message: "a b".to_owned() });
        check("snapshot-window-open", None, Signal::Watermark);
    }

    #[test]
    fn what_is_refused() {
        let check = |verb: &str, data: &str, words: &str| {
            let why = read(verb, Some(data), false).unwrap_err();
            assert!(why.contains(words), "{verb} {data}: {why}");
        };
        check("drop-table", "{}", "no signal \"drop-table\"");
        check("execute-snapshot", "{}", "needs data-collections");
        check("execute-snapshot", "[1]", "no JSON object");
        check("execute-snapshot", "{\"a\"", "no JSON (line 1");
        check("execute-snapshot", r#"{"data-collections":["a.b"],"sql":"x"}"#, "\"sql\" is not understood");
        check("execute-snapshot", r#"{"type":"blocking","data-collections":["a.b"]}"#, "type incremental");
        check("execute-snapshot", r#"{"type":"full","data-collections":["a.b"]}"#, "no snapshot of type");
        check("execute-snapshot", r#"{"data-collections":["(a"]}"#, "no regular expression here");
        check("execute-snapshot", r#"{"data-collections":[5]}"#, "no text");
        let filter = r#"{"data-collections":["a.b"],"additional-condition":"true"}"#;
        check("execute-snapshot", filter, "signals.allow_filters");
        let filter = r#"{"data-collections":["a.b"],"additional-conditions":[{"data-collection":"a.b","filter":"x"}]}"#;
        check("execute-snapshot", filter, "signals.allow_filters");
        check("pause-snapshot", r#"{"data-collections":["a.b"]}"#, "not understood");
        check("log", "{}", "needs a message");
    }

    #[test]
    fn a_refusal_repeats_little_of_what_was_sent() {
        let long = "x".repeat(10_000);
        assert!(read(&long, None, false).unwrap_err().len() < 300);
        assert!(
            read("log", Some(&format!("{{\"{long}\":1,\"message\":\"m\"}}")), false).unwrap_err().len() < 300
        );
        assert!(read("log", Some(&"x".repeat(100_000)), false).unwrap_err().contains("bytes"));
        assert_eq!(clean_id("a\nb"), "a b");
    }
}
