//! What names topics otherwise, as `[[route]]`: Debezium's router of logical tables, Kafka's RegexRouter, and Debezium's
//! naming strategy that does the router's work inside the connector.

use headwater_pipeline::Rewriting;
use toml::Value;

use super::property_table::Becomes::{Other, Special};
use super::property_table::Property;
use super::report::Fate;
use super::source::Given;
use super::translate::Work;

/// How a router spells its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    /// What the topic must match, and what stands in its place.
    topic: [&'static str; 2],
    /// The options of the field in the key; none for a router that leaves keys and schemas alone.
    key: Option<KeyOptions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyOptions {
    enforce_uniqueness: &'static str,
    name: &'static str,
    name_default: &'static str,
    regex: &'static str,
    replacement: &'static str,
}

/// `io.debezium.transforms.ByLogicalTableRouter`.
pub const BY_LOGICAL_TABLE: Router = logical("__dbz__physicalTableIdentifier");

/// `io.debezium.transforms.ToLogicalTopicRouter`, its newer name.
pub const TO_LOGICAL_TOPIC: Router = logical("__dbz__sourceIdentifier");

/// `org.apache.kafka.connect.transforms.RegexRouter`.
pub const REGEX: Router = Router { topic: ["regex", "replacement"], key: None };

/// `topic.naming.strategy` with a regular expression.
pub const NAMING_STRATEGY: Router = Router {
    topic: ["topic.regex", "topic.replacement"],
    key: Some(KeyOptions {
        enforce_uniqueness: "topic.key.enforce.uniqueness",
        name: "topic.key.field.name",
        name_default: "__dbz__physicalTableIdentifier",
        regex: "topic.key.field.regex",
        replacement: "topic.key.field.replacement",
    }),
};

const fn logical(name_default: &'static str) -> Router {
    Router {
        topic: ["topic.regex", "topic.replacement"],
        key: Some(KeyOptions {
            enforce_uniqueness: "key.enforce.uniqueness",
            name: "key.field.name",
            name_default,
            regex: "key.field.regex",
            replacement: "key.field.replacement",
        }),
    }
}

const fn p(name: &'static str, becomes: super::property_table::Becomes) -> Property {
    Property { name, default: "", always: false, becomes }
}

/// The options of the routers of logical tables; the route itself is made of them by [`route`].
pub const LOGICAL_OPTIONS: &[Property] = &[
    p("topic.*", Special(in_route)),
    p("key.*", Special(in_route)),
    p("logical.*", Other("a table's topic is part of its plan")),
    p("schema.name.adjustment.mode", Other("names are made valid for Avro where records are Avro")),
];

/// The options of Kafka's.
pub const REGEX_OPTIONS: &[Property] = &[p("regex", Special(in_route)), p("replacement", Special(in_route))];

/// The strategies that name topics without a regular expression as Headwater does, and those with one.
const STRATEGIES: &[(&str, bool)] = &[
    ("io.debezium.schema.SchemaTopicNamingStrategy", false),
    ("io.debezium.schema.SchemaRegexTopicNamingStrategy", true),
];

fn in_route(_: &mut Work<'_>, _: &Given) -> (Fate, String) {
    (Fate::Carried, "in [[route]]".to_owned())
}

/// `topic.naming.strategy`.
pub fn naming_strategy(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    match STRATEGIES.iter().find(|(name, _)| *name == given.value.trim()) {
        Some((_, false)) => (Fate::Carried, "as here: <prefix>.<schema>.<table>".to_owned()),
        Some((_, true)) => route(work, "", NAMING_STRATEGY, &given.shown),
        None => (
            Fate::Unsupported,
            "topics are named <prefix>.<schema>.<table>, by records.topic or by [[route]]".to_owned(),
        ),
    }
}

/// The options of a strategy: of no meaning under another one.
pub fn naming_option(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let strategy = work.effective("topic.naming.strategy");
    match STRATEGIES.iter().find(|(name, _)| *name == strategy.trim()) {
        Some((_, false)) => (Fate::Other, "the connector's naming strategy does not look at it".to_owned()),
        Some((_, true)) if work.document.has_several("route") => in_route(work, given),
        _ => (Fate::Unsupported, "see topic.naming.strategy".to_owned()),
    }
}

/// Adds a `[[route]]`, whose options begin with this prefix.
pub fn route(work: &mut Work<'_>, prefix: &str, router: Router, origin: &str) -> (Fate, String) {
    let option = |work: &Work<'_>, name: &str| {
        work.connector.value(&format!("{prefix}{name}")).map(|value| value.trim().to_owned())
    };
    let not = |why: String| (Fate::Unsupported, why);
    if option(work, "predicate").is_some() {
        return not("routes have no predicates: name the topics in the expression".to_owned());
    }
    let [regex, replacement] = router.topic.map(|name| option(work, name));
    let (Some(regex), Some(replacement)) = (regex, replacement) else {
        return not(format!("it needs {} and {}", router.topic[0], router.topic[1]));
    };
    let mut lines =
        vec![("match", Value::from(regex.as_str())), ("topic", Value::from(replacement.as_str()))];
    let mut expressions = vec![(regex, replacement)];
    match router.key {
        None => {
            lines.push(("shared_topic", Value::from("unique_keys")));
            lines.push(("schema_names", Value::from("table")));
        }
        Some(key) if option(work, key.enforce_uniqueness).is_some_and(|value| value == "false") => {
            lines.push(("shared_topic", Value::from("unique_keys")));
        }
        Some(key) => {
            let name = option(work, key.name).unwrap_or_else(|| key.name_default.to_owned());
            if name != headwater_avro::TABLE_KEY_FIELD {
                lines.push(("table_key_field", Value::from(name)));
            }
            let regex = option(work, key.regex).filter(|regex| !regex.is_empty());
            if let (Some(regex), Some(replacement)) = (regex, option(work, key.replacement)) {
                lines.push(("table_key_match", Value::from(regex.as_str())));
                lines.push(("table_key_value", Value::from(replacement.as_str())));
                expressions.push((regex, replacement));
            }
        }
    }
    for (expression, replacement) in &expressions {
        if let Err(why) =
            java_only(expression).and_then(|()| Rewriting::new(expression, replacement).map(drop))
        {
            return not(format!("{why}; write [[route]] by hand, see docs/CONFIG.md"));
        }
    }
    let text = format!("[[route]] match = {}", Value::from(expressions[0].0.as_str()));
    work.document.push("route", lines, origin);
    (Fate::Carried, text)
}

/// Possessive quantifiers would be taken for something else here.
fn java_only(expression: &str) -> Result<(), String> {
    let unescaped = expression.replace("\\\\", "").replace("\\+", "").replace("\\*", "").replace("\\?", "");
    match ["*+", "++", "?+", "}+"].iter().find(|quantifier| unescaped.contains(**quantifier)) {
        Some(quantifier) => {
            Err(format!("\"{expression}\" has the possessive quantifier {quantifier}, which only Java has"))
        }
        None => Ok(()),
    }
}
