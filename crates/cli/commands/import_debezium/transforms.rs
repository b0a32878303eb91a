//! Single message transforms: the table of those that come with Debezium, and of their options.
//!
//! `transforms=outbox` with `transforms.outbox.type=io.debezium.transforms.outbox.EventRouter` becomes `[[outbox]]`,
//! `ExtractNewRecordState` becomes the flat envelope. Each option is looked up in the transform's own table.

use toml::Value;

use super::combined;
use super::outbox_options;
use super::patterns;
use super::property_table::Becomes::{AsHere, Key, Not, Other, Special};
use super::property_table::{Property, find};
use super::report::Fate;
use super::routers::{self, Router};
use super::source::Given;
use super::translate::Work;

const fn p(name: &'static str, default: &'static str, becomes: super::property_table::Becomes) -> Property {
    Property { name, default, always: false, becomes }
}

const TRACING: &str = "spans are not made; a column's context is sent on as it is (traceparent_column)";

/// `io.debezium.transforms.outbox.EventRouter`: becomes `[[outbox]]`. Column names and headers are put together by
/// [`outbox_table`], so here they only get their verdict.
const EVENT_ROUTER: &[Property] = &[
    p("table.field.event.id", "id", Special(combined::outbox_column)),
    p("table.field.event.key", "aggregateid", Special(combined::outbox_column)),
    p("table.field.event.type", "type", Special(combined::outbox_column)),
    p("table.field.event.payload", "payload", Special(combined::outbox_column)),
    p("table.field.event.timestamp", "", Special(outbox_options::timestamp)),
    p(
        "table.field.event.schema.version",
        "",
        Not(
            "a payload's schema has no version by row; payload = \"avro_from_json\" takes a registered version",
        ),
    ),
    p("table.fields.additional.placement", "", Special(outbox_options::placement)),
    p("table.field.additional.missing", "error", Special(outbox_options::missing)),
    p("table.op.invalid.behavior", "warn", Special(outbox_options::on_update)),
    p("table.expand.json.payload", "false", Special(outbox_options::expand)),
    p("table.json.payload.null.behavior", "ignore", Special(outbox_options::null_fields)),
    p("table.json.payload.empty.array.behavior", "ignore", Special(outbox_options::empty_arrays)),
    p("route.by.field", "aggregatetype", Special(combined::outbox_column)),
    p("route.topic.regex", "(?<routedByValue>.*)", Special(outbox_options::regex)),
    p("route.topic.replacement", "outbox.event.${routedByValue}", Special(outbox_options::topic)),
    p("route.tombstone.on.empty.payload", "false", Special(outbox_options::tombstone)),
    p("tracing.span.context.field", "tracingspancontext", Special(outbox_tracing)),
    p("tracing.*", "", Other(TRACING)),
];

/// `io.debezium.transforms.tracing.ActivateTracingSpan`.
const ACTIVATE_TRACING_SPAN: &[Property] = &[
    p("tracing.span.context.field", "tracingspancontext", Key("records.traceparent_column")),
    p("tracing.*", "", Other(TRACING)),
];

/// `io.debezium.transforms.ExtractNewRecordState`: becomes the flat envelope.
const EXTRACT_NEW_RECORD_STATE: &[Property] = &[
    p("delete.tombstone.handling.mode", "tombstone", Key("records.flat_deletes")),
    p(
        "delete.handling.mode",
        "drop",
        Not("it is the name before 2.5: write delete.tombstone.handling.mode instead, and import again"),
    ),
    p(
        "drop.tombstones",
        "true",
        Not("it is the name before 2.5: write delete.tombstone.handling.mode instead, and import again"),
    ),
    p("add.fields", "", Special(combined::metadata_fields)),
    p("add.fields.prefix", "__", Key("records.metadata_prefix")),
    p("add.headers", "", Not("the headers are Headwater's own; metadata can be fields (add.fields)")),
    p("add.headers.prefix", "__", Other("the headers are Headwater's own")),
    p("route.by.field", "", Not("topics are not named by a column, except those of the outbox")),
    p("drop.fields.header.name", "", Not("fields are not dropped by a header")),
    p("drop.fields.from.key", "false", Not("fields are not dropped by a header")),
    p("drop.fields.keep.schema.compatible", "true", Other("fields are not dropped by a header")),
    p(
        "replace.null.with.default",
        "true",
        AsHere(
            &["false"],
            "a NULL is null",
            "a NULL is null, never its column's default: a reader can't tell a default from a value",
        ),
    ),
];

/// What becomes of a whole transform.
enum Transform {
    /// `[[outbox]]`.
    Outbox,
    /// The flat envelope.
    Flat,
    /// `[[route]]`.
    Router(Router),
    /// A column's trace context becomes a header.
    Tracing,
    /// Nothing like it is done here, because.
    Not(&'static str),
}

/// The transforms of Debezium and those of Kafka that are seen beside them; the first name that fits.
const TRANSFORMS: &[(&str, Transform, &[Property])] = &[
    ("io.debezium.transforms.outbox.EventRouter", Transform::Outbox, EVENT_ROUTER),
    ("io.debezium.transforms.ExtractNewRecordState", Transform::Flat, EXTRACT_NEW_RECORD_STATE),
    (
        "io.debezium.transforms.ByLogicalTableRouter",
        Transform::Router(routers::BY_LOGICAL_TABLE),
        routers::LOGICAL_OPTIONS,
    ),
    (
        "io.debezium.transforms.ToLogicalTopicRouter",
        Transform::Router(routers::TO_LOGICAL_TOPIC),
        routers::LOGICAL_OPTIONS,
    ),
    (
        "io.debezium.transforms.ExtractChangedRecordState",
        Transform::Not("no headers list the changed fields"),
        &[],
    ),
    (
        "io.debezium.transforms.Filter",
        Transform::Not(
            "a condition is a script; a row filter of the publication leaves rows out: CREATE PUBLICATION … WHERE (…)",
        ),
        &[],
    ),
    ("io.debezium.transforms.ContentBasedRouter", Transform::Not("a route is a script"), &[]),
    (
        "io.debezium.transforms.partitions.PartitionRouting",
        Transform::Not("the partition is Java's murmur2 of the key, so that a key stays in order"),
        &[],
    ),
    ("io.debezium.transforms.TimezoneConverter", Transform::Not("times with a zone are UTC"), &[]),
    ("io.debezium.transforms.tracing.ActivateTracingSpan", Transform::Tracing, ACTIVATE_TRACING_SPAN),
    ("io.debezium.transforms.HeaderToValue", Transform::Not("headers stay headers"), &[]),
    (
        "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent",
        Transform::Not(
            "logical messages below outbox. are JSON here as well, in another form: see docs/FORMATS.md",
        ),
        &[],
    ),
    (
        "io.debezium.connector.postgresql.transforms.timescaledb.TimescaleDb",
        Transform::Not("chunks are not joined to their hypertables"),
        &[],
    ),
    ("io.debezium.", Transform::Not("Headwater has no such transform"), &[]),
    (
        "org.apache.kafka.connect.transforms.RegexRouter",
        Transform::Router(routers::REGEX),
        routers::REGEX_OPTIONS,
    ),
    ("", Transform::Not("transforms are Java; Headwater does only what its configuration names"), &[]),
];

/// The columns of `[[outbox]]`, by the options that name them.
pub const OUTBOX_COLUMNS: &[(&str, &str, &str)] = &[
    // option, its default, our name of the column
    ("table.field.event.id", "id", "id"),
    ("route.by.field", "aggregatetype", "aggregatetype"),
    ("table.field.event.key", "aggregateid", "aggregateid"),
    ("table.field.event.type", "type", "type"),
    ("table.field.event.payload", "payload", "payload"),
];

/// Gives every key of every transform and predicate its verdict.
pub fn translate(work: &mut Work<'_>) {
    let Some(aliases) = work.connector.properties.get("transforms").cloned() else { return };
    let mut described = Vec::new();
    for alias in aliases.value.split(',').map(str::trim).filter(|alias| !alias.is_empty()) {
        described.push(one(work, alias));
    }
    work.judge("transforms", Fate::Carried, format!("see each: {}", described.join(", ")));
    let predicates: Vec<String> =
        work.connector.properties.keys().filter(|name| name.starts_with("predicates")).cloned().collect();
    for name in predicates {
        work.judge(
            &name,
            Fate::Unsupported,
            "transforms have no predicates here: tables and columns are named instead",
        );
    }
}

/// The options of one transform; gives its short class name.
fn one(work: &mut Work<'_>, alias: &str) -> String {
    let prefix = format!("transforms.{alias}.");
    let kind = work.connector.value(&format!("{prefix}type")).unwrap_or_default().to_owned();
    // Nested classes and Key/Value variants begin with the same name.
    let (name, transform, properties) =
        TRANSFORMS.iter().find(|(name, ..)| kind.starts_with(name)).expect("the last name fits all");
    let (fate, text) = match transform {
        Transform::Outbox => outbox_table(work, &prefix),
        Transform::Flat => work.emit("records.envelope", "flat", &format!("{prefix}type")),
        Transform::Router(router) => routed(work, alias, *router),
        Transform::Tracing => trace_column(work, &prefix),
        Transform::Not(why) => (Fate::Unsupported, (*why).to_owned()),
    };
    let short = kind.rsplit('.').next().unwrap_or_default().to_owned();
    work.judge(&format!("{prefix}type"), fate, format!("{short}: {text}"));
    let options: Vec<(String, Given)> = work
        .connector
        .properties
        .iter()
        .filter(|(name, _)| name.starts_with(&prefix) && !name.ends_with(".type"))
        .map(|(name, given)| (name.clone(), given.clone()))
        .collect();
    for (full, given) in options {
        let option = &full[prefix.len()..];
        let (fate, text) = match (transform, option, find(properties.iter(), option)) {
            (_, "predicate" | "negate", _) => (
                Fate::Unsupported,
                "transforms have no predicates here: tables and columns are named instead".to_owned(),
            ),
            (Transform::Not(_), ..) => (Fate::Unsupported, "its transform is not supported".to_owned()),
            // The transform itself could not be carried over, and its options with it.
            (Transform::Outbox | Transform::Flat | Transform::Router(_), ..) if fate == Fate::Unsupported => {
                (fate, "see its type".to_owned())
            }
            (_, _, Some(property)) => work.apply(property, &given),
            (_, _, None) => (Fate::Unknown, format!("no option of {name} that is known here")),
        };
        work.judge(&full, fate, text);
    }
    short
}

/// `[[route]]`, and what is otherwise about it than in Connect's chain.
fn routed(work: &mut Work<'_>, alias: &str, router: Router) -> (Fate, String) {
    let aliases = work.connector.value("transforms").unwrap_or_default().to_owned();
    let before = || aliases.split(',').map(str::trim).take_while(|other| *other != alias);
    let is_before = |class: &str| {
        before().any(|other| {
            let kind = work.connector.value(&format!("transforms.{other}.type"));
            kind.is_some_and(|kind| kind.starts_with(class))
        })
    };
    let (flattened, outbox) = (
        is_before("io.debezium.transforms.ExtractNewRecordState"),
        is_before("io.debezium.transforms.outbox.EventRouter"),
    );
    if outbox {
        let why = "events of the outbox have no routes: name their topics in [[outbox]] topic";
        return (Fate::Unsupported, why.to_owned());
    }
    match routers::route(work, &format!("transforms.{alias}."), router, &format!("transforms.{alias}.type")) {
        // Debezium's leaves values alone that are no envelopes any more.
        (Fate::Carried, text) if flattened && router != routers::REGEX => (
            Fate::Other,
            format!("{text}; the value's schema is named after the new topic too, not after the table's own"),
        ),
        outcome => outcome,
    }
}

fn trace_column(work: &mut Work<'_>, prefix: &str) -> (Fate, String) {
    let origin = format!("{prefix}type");
    let column = work.connector.value(&format!("{prefix}tracing.span.context.field"));
    let column = column.unwrap_or("tracingspancontext").to_owned();
    match work.emit("records.traceparent_column", column, &origin) {
        (Fate::Carried, text) => (Fate::Other, format!("{text}; {TRACING}")),
        outcome => outcome,
    }
}

fn outbox_tracing(_: &mut Work<'_>, given: &Given) -> (Fate, String) {
    (Fate::Other, format!("[[outbox]] traceparent_column = \"{}\"; {TRACING}", given.value.trim()))
}

/// `[[outbox]]` for every table that the connector captures, since the router takes all of them for outboxes.
fn outbox_table(work: &mut Work<'_>, prefix: &str) -> (Fate, String) {
    let tables = match outbox_tables(work) {
        Ok(tables) => tables,
        Err(why) => return (Fate::Unsupported, why),
    };
    let option = |name: &str, default: &str| {
        work.connector.value(&format!("{prefix}{name}")).unwrap_or(default).to_owned()
    };
    let mut columns = toml::Table::new();
    for (name, default, column) in OUTBOX_COLUMNS {
        let value = option(name, default);
        if value != *column {
            columns.insert((*column).to_owned(), Value::from(value));
        }
    }
    let mut lines = Vec::new();
    if !columns.is_empty() {
        lines.push(("columns", Value::Table(columns)));
    }
    let converter = combined::value_converter(work).unwrap_or_default();
    outbox_options::lines(option, converter, combined::payload_is_raw(work), &mut lines);
    // Only where it is written: the router does without the column, and a configured one must be there.
    if let Some(column) = work.connector.value(&format!("{prefix}tracing.span.context.field")) {
        lines.push(("traceparent_column", Value::from(column.trim())));
    }
    for table in &tables {
        let mut entry = vec![("table", Value::from(table.as_str()))];
        entry.extend(lines.clone());
        work.document.push("outbox", entry, &format!("{prefix}type"));
    }
    (Fate::Carried, format!("[[outbox]] {}", tables.join(", ")))
}

fn outbox_tables(work: &Work<'_>) -> Result<Vec<String>, String> {
    if !work.options.outbox_tables.is_empty() {
        return Ok(work.options.outbox_tables.to_vec());
    }
    const ADVICE: &str = "name the outbox tables with --outbox-table schema.table";
    let Some(list) = work.connector.value("table.include.list") else {
        return Err(format!("without table.include.list the outbox table is not known: {ADVICE}"));
    };
    match patterns::globs(list) {
        Ok(tables) if tables.iter().all(|table| !table.contains('*') && table.contains('.')) => Ok(tables),
        _ => Err(format!("table.include.list has patterns: {ADVICE}")),
    }
}
