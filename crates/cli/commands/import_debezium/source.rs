//! Where a connector's configuration comes from: a file of JSON or of properties, or a Connect worker.
//!
//! In: what the user named. Out: keys and values, each under the name it has in the connector's own documentation
//! and under the name the user wrote. A message quotes no value: some of them are passwords.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// One key as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As the user wrote it.
    pub shown: String,
    /// Its value.
    pub value: String,
}

/// A connector's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connector {
    /// Keys of the connector by the connector's own names. A worker's keys begin with `worker.`.
    pub properties: BTreeMap<String, Given>,
}

impl Connector {
    /// The value of a property.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(|given| given.value.as_str())
    }

    fn put(&mut self, name: String, shown: String, value: String) {
        self.properties.insert(name, Given { shown, value });
    }
}

/// A Connect worker answers at once, or is busy rebalancing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// No configuration is larger.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads a connector from a path or the address of a worker, and what its worker's file adds.
pub fn read(source: &str, name: Option<&str>, worker: Option<&Path>) -> anyhow::Result<Connector> {
    let mut connector = match source.split_once("://") {
        Some(("http" | "https", _)) => super::super::block_on(ask_worker(source, name))?,
        Some((scheme, _)) => bail!(
            "{scheme}:// is no address of a Connect worker; write http:// or https://, or the path of a file"
        ),
        None => parse(&read_file(Path::new(source))?, source)?,
    };
    if let Some(path) = worker {
        let text = read_file(path)?;
        let pairs = properties(&text).with_context(|| format!("read {}", path.display()))?;
        for (key, value) in pairs {
            connector.put(format!("worker.{key}"), format!("worker: {key}"), value);
        }
    }
    if let (Some(wanted), Some(found)) = (name, connector.value("name"))
        && wanted != found
    {
        bail!("{source} holds the connector {found}, not {wanted}");
    }
    let class = connector.value("connector.class").unwrap_or_default();
    match class {
        "io.debezium.connector.postgresql.PostgresConnector" => Ok(connector),
        "" => bail!("{source} is no configuration of a connector: it has no connector.class"),
        other => bail!(
            "{source}: connector.class is {other}; only Debezium's connector for PostgreSQL \
             (io.debezium.connector.postgresql.PostgresConnector) can be replaced"
        ),
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("read {name}"))?.len();
    if size > BYTES_MAX {
        bail!("{name} has {size} bytes, too many for a configuration");
    }
    std::fs::read_to_string(path).with_context(|| format!("read {name}"))
}

fn parse(text: &str, name: &str) -> anyhow::Result<Connector> {
    if text.trim_start().starts_with('{') || name.ends_with(".json") {
        let value = serde_json::from_str(text).with_context(|| format!("{name} is not JSON"))?;
        return from_json(value).with_context(|| name.to_owned());
    }
    let pairs = properties(text).with_context(|| name.to_owned())?;
    Ok(from_properties(pairs))
}

/// `{"name": …, "config": {…}}` or the bare configuration.
fn from_json(value: Value) -> anyhow::Result<Connector> {
    let Value::Object(mut object) = value else { bail!("is no JSON object") };
    let mut connector = Connector::default();
    let config = match object.remove("config") {
        Some(Value::Object(config)) => {
            if let Some(Value::String(name)) = object.remove("name") {
                connector.put("name".to_owned(), "name".to_owned(), name);
            }
            config
        }
        Some(_) => bail!("config is no JSON object"),
        None => object,
    };
    put_all(&mut connector, config)?;
    Ok(connector)
}

fn put_all(connector: &mut Connector, config: Map<String, Value>) -> anyhow::Result<()> {
    for (key, value) in config {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                bail!("{key} is neither text nor a number nor true or false")
            }
        };
        connector.put(key.clone(), key, text);
    }
    Ok(())
}

/// A file for a standalone worker; with `debezium.source.…`, one of Debezium Server.
fn from_properties(pairs: Vec<(String, String)>) -> Connector {
    let server = pairs.iter().any(|(key, _)| key.starts_with("debezium.source."));
    let mut connector = Connector::default();
    for (key, value) in pairs {
        for name in if server { names_of_server(&key) } else { vec![key.clone()] } {
            connector.put(name, key.clone(), value.clone());
        }
    }
    if server {
        connector.properties.entry("name".to_owned()).or_insert_with(|| Given {
            shown: "debezium.source.name".to_owned(),
            // The engine's name under which Debezium Server keeps offsets.
            value: "kafka".to_owned(),
        });
    }
    connector
}

/// The names that a key of Debezium Server has in Connect.
fn names_of_server(key: &str) -> Vec<String> {
    let below = |prefix: &str| key.strip_prefix(prefix).map(str::to_owned);
    if let Some(name) = below("debezium.source.") {
        // The worker's, in Connect.
        let workers = ["offset.storage", "offset.flush"];
        return vec![if workers.iter().any(|prefix| name.starts_with(prefix)) {
            format!("worker.{name}")
        } else {
            name
        }];
    }
    if let Some(name) = below("debezium.sink.kafka.producer.") {
        return vec![format!("producer.override.{name}")];
    }
    for part in ["key", "value"] {
        if let Some(name) = below(&format!("debezium.format.{part}.")) {
            return vec![format!("{part}.converter.{name}")];
        }
        if key == format!("debezium.format.{part}") {
            return vec![format!("{part}.converter")];
        }
    }
    if let Some(name) = below("debezium.format.").filter(|name| !name.starts_with("header")) {
        return vec![format!("key.converter.{name}"), format!("value.converter.{name}")];
    }
    match key.strip_prefix("debezium.") {
        Some(name) if name.starts_with("transforms") || name.starts_with("predicates") => {
            vec![name.to_owned()]
        }
        _ => vec![key.to_owned()],
    }
}

/// Java's properties: `key=value`, `key: value` or `key value`, `#` and `!` for comments, a backslash at the end of a
/// line to go on, `\t`, `\n`, `\uXXXX`.
fn properties(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while (logical.len() - logical.trim_end_matches('\\').len()) % 2 == 1 {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start());
        }
        let (key, value) = divide(&logical).with_context(|| format!("line {}", number + 1))?;
        pairs.retain(|(known, _)| *known != key);
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Key and value of a logical line, without their escapes.
fn divide(line: &str) -> anyhow::Result<(String, String)> {
    let mut escaped = false;
    let end = line.find(|character: char| {
        let divides = !escaped && (character.is_whitespace() || matches!(character, '=' | ':'));
        escaped = character == '\\' && !escaped;
        divides
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    Ok((unescape(key)?, unescape(value)?.trim_end().to_owned()))
}

fn unescape(text: &str) -> anyhow::Result<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0C'),
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                let code = code.and_then(char::from_u32);
                plain.push(code.context("\\u is not followed by four hexadecimal digits of a character")?);
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

/// Asks a worker for a connector's configuration; without a name, for its only one.
async fn ask_worker(address: &str, name: Option<&str>) -> anyhow::Result<Connector> {
    // Someone else may have chosen a provider first, which does as well.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build().context("prepare a request")?;
    let (base, in_path) = match address.split_once("/connectors") {
        Some((base, rest)) => {
            (base, rest.trim_start_matches('/').split('/').next().filter(|name| !name.is_empty()))
        }
        None => (address.trim_end_matches('/'), None),
    };
    let name = match name.or(in_path) {
        Some(name) => name.to_owned(),
        None => only_connector(get(&client, &format!("{base}/connectors")).await?)?,
    };
    let mut url = reqwest::Url::parse(base).context("the address of the Connect worker")?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["connectors", &name, "config"]);
    }
    let config = get(&client, url.as_str()).await.with_context(|| format!("ask for the connector {name}"))?;
    let mut connector = from_json(config).with_context(|| format!("the configuration of {name}"))?;
    connector.put("name".to_owned(), "name".to_owned(), name);
    Ok(connector)
}

fn only_connector(names: Value) -> anyhow::Result<String> {
    let names: Vec<String> = serde_json::from_value(names).context("the worker's list of connectors")?;
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("the Connect worker has no connectors"),
        several => bail!(
            "the Connect worker has several connectors: name one with --connector ({})",
            several.join(", ")
        ),
    }
}

/// Errors name the host, never the credentials that may stand in the address.
async fn get(client: &reqwest::Client, address: &str) -> anyhow::Result<Value> {
    let url = reqwest::Url::parse(address).context("the address of the Connect worker")?;
    let place = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
    let response = client.get(url).send().await.map_err(reqwest::Error::without_url);
    let response = response.with_context(|| format!("no answer from the Connect worker at {place}"))?;
    let status = response.status();
    if status == reqwest::StatusCode::NOT_FOUND {
        bail!("the Connect worker has no {place} (404): check address and --connector");
    }
    if !status.is_success() {
        bail!("the Connect worker answered {status} for {place}");
    }
    response
        .json()
        .await
        .map_err(reqwest::Error::without_url)
        .with_context(|| format!("{place} did not answer with JSON: is it a Connect worker?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_json() {
        let check = |text: &str, expected: Result<&str, &str>| match (parse(text, "c.json"), expected) {
            (Ok(connector), Ok(slot)) => assert_eq!(connector.value("slot.name"), Some(slot)),
            (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
            (result, _) => panic!("{text}: {result:?}"),
        };
        check(r#"{"name": "n", "config": {"slot.name": "a", "tasks.max": 1}}"#, Ok("a"));
        check(r#"{"slot.name": "b", "a": null}"#, Ok("b"));
        check("slot.name=a", Err("c.json is not JSON"));
        check("[]", Err("no JSON object"));
        check(r#"{"config": 5}"#, Err("config is no JSON object"));
        check(r#"{"slot.name": ["a"]}"#, Err("slot.name is neither text nor a number"));
    }

    #[test]
    fn properties_as_java_reads_them() {
        let text = "# comment\n! another\n a.b = 1 \nc:2\nd 3\ne=one,\\\n   two\nf\\:g=h\\=i\n\ni=\\u0041\\t.\nj=x\\\\\nk\na.b=4\n";
        let pairs = properties(text).expect("valid");
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("c", "2"),
            ("d", "3"),
            ("e", "one,two"),
            ("f:g", "h=i"),
            ("i", "A\t."),
            ("j", "x\\"),
            ("k", ""),
            ("a.b", "4"),
        ];
        assert_eq!(pairs, expected);
        assert!(format!("{:#}", properties("a=1\nb=\\u12").unwrap_err()).contains("line 2"));
    }

    #[test]
    fn names_of_debezium_server() {
        let check = |key: &str, names: &[&str]| assert_eq!(names_of_server(key), names, "{key}");
        check("debezium.source.slot.name", &["slot.name"]);
        check("debezium.source.offset.storage.file.filename", &["worker.offset.storage.file.filename"]);
        check("debezium.sink.type", &["debezium.sink.type"]);
        check("debezium.sink.kafka.producer.linger.ms", &["producer.override.linger.ms"]);
        check("debezium.format.value", &["value.converter"]);
        check("debezium.format.value.schemas.enable", &["value.converter.schemas.enable"]);
        check(
            "debezium.format.schema.registry.url",
            &["key.converter.schema.registry.url", "value.converter.schema.registry.url"],
        );
        check("debezium.transforms.route.type", &["transforms.route.type"]);
        check("quarkus.log.level", &["quarkus.log.level"]);
    }
}
