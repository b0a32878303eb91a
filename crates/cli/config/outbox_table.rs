//! `[[outbox]]` and `[outbox_messages]`: which columns an event is made of, where it goes and in which form.

use headwater_avro::from_json::{EmptyArrays, Inference, NullFields};
use headwater_pipeline::Rewriting;
use headwater_pipeline::settings::{CloudEvents, OutboxRoute, OutboxTable, PayloadFormat};

use super::as_written::{Field, Outbox, OutboxMessages};
use super::problem::{Origin, did_you_mean};
use super::settings::{Findings, plain, qualified_name};
use super::value::{self, MissingColumns, Names, Properties};

/// The columns of an outbox table that may have other names.
const COLUMNS: &[&str] = &["id", "aggregatetype", "aggregateid", "type", "payload"];

/// Makes the settings of a table; what is wrong is noted in `findings`.
pub fn make(written: Outbox, findings: &mut Findings) -> Option<OutboxTable> {
    let Outbox {
        table,
        payload,
        schema_version,
        null_fields,
        empty_arrays,
        tombstone_on_empty,
        topic,
        matches,
        aggregatetypes,
        columns,
        headers,
        envelope,
        missing_columns,
        partition_column,
        timestamp_column,
        on_update,
        cloudevents_source,
        content_type,
        traceparent_column,
        tracestate_column,
        snapshot,
        headers_column,
        status,
    } = written;
    let origin = table.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    if let (Field::Missing, Some((_, origin))) = (&traceparent_column, tracestate_column.located()) {
        findings.problems.add(origin, "outbox.tracestate_column", "needs outbox.traceparent_column as well");
    }
    refuse_forms(&payload, &envelope, &null_fields, &empty_arrays, findings);
    let table = findings.require(table, "outbox.table", "table = \"public.outbox\"");
    let columns = read_columns(columns, findings);
    let column = |name: &str| columns.get(name).map_or_else(|| name.to_owned(), |(column, _)| column.clone());
    let table = table?;
    let Some((schema, table)) = qualified_name(&table) else {
        let message = format!("\"{table}\" is not schema.table; write for example \"public.outbox\"");
        return findings.wrong(&origin, "outbox.table", message);
    };
    let inference = Inference { nulls: null_fields.value()?, empty_arrays: empty_arrays.value()? };
    let payload = (payload, schema_version, inference);
    let cloudevents = make_cloudevents(cloudevents_source, content_type, findings);
    let route = make_route("outbox", topic, matches, aggregatetypes, payload, findings)?;
    Some(OutboxTable {
        schema,
        table,
        id_column: column("id"),
        aggregatetype_column: column("aggregatetype"),
        aggregateid_column: column("aggregateid"),
        type_column: column("type"),
        payload_column: column("payload"),
        headers: plain(headers).into_iter().collect(),
        envelope: plain(envelope).into_iter().collect(),
        missing_columns_are_ignored: missing_columns.value()? == MissingColumns::Ignore,
        partition_column: partition_column.value(),
        timestamp_column: timestamp_column.value(),
        on_update: on_update.value()?,
        traceparent_column: traceparent_column.value(),
        tracestate_column: tracestate_column.value(),
        route: OutboxRoute { tombstone_on_empty: tombstone_on_empty.value()?, cloudevents, ..route },
        snapshot: snapshot.value()?,
        headers_column: headers_column.value(),
        status: status.value()?,
    })
}

/// The same of messages, which have no columns.
pub fn make_messages(written: OutboxMessages, findings: &mut Findings) -> Option<OutboxRoute> {
    let OutboxMessages { payload, schema_version, topic, matches, aggregatetypes, cloudevents_source } =
        written;
    let payload = (payload, schema_version, Inference::default());
    let cloudevents = make_cloudevents(cloudevents_source, Field::Missing, findings);
    let route = make_route("outbox_messages", topic, matches, aggregatetypes, payload, findings)?;
    Some(OutboxRoute { cloudevents, ..route })
}

fn read_columns(
    columns: Field<Properties>,
    findings: &mut Findings,
) -> std::collections::BTreeMap<String, (String, Origin)> {
    let columns = columns.value().unwrap_or_default().0;
    for (name, (_, origin)) in &columns {
        if !COLUMNS.contains(&name.as_str()) {
            let advice = match did_you_mean(name, COLUMNS.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are {}", COLUMNS.join(", ")),
            };
            let key = format!("outbox.columns.{name}");
            findings.problems.add(origin, &key, format!("unknown key; {advice}"));
        }
    }
    columns
}

/// What has no meaning beside the payload's form would be waited for in vain.
fn refuse_forms(
    payload: &Field<value::PayloadFormat>,
    envelope: &Field<Properties>,
    null_fields: &Field<NullFields>,
    empty_arrays: &Field<EmptyArrays>,
    findings: &mut Findings,
) {
    let Some((form, _)) = payload.located() else { return };
    if *form != value::PayloadFormat::Avro
        && let Some((_, origin)) = envelope.located()
    {
        findings.problems.add(
            origin,
            "outbox.envelope",
            "needs payload = \"avro\", whose values are of the columns' schemas",
        );
    }
    if *form != value::PayloadFormat::AvroInferred {
        for (key, origin) in [
            ("outbox.null_fields", null_fields.located().map(|(_, origin)| origin)),
            ("outbox.empty_arrays", empty_arrays.located().map(|(_, origin)| origin)),
        ] {
            if let Some(origin) = origin.filter(|origin| !matches!(origin, Origin::Default)) {
                findings.problems.add(origin, key, "has a meaning only with payload = \"avro_inferred\"");
            }
        }
    }
}

fn make_cloudevents(
    source: Field<String>,
    content_type: Field<String>,
    findings: &mut Findings,
) -> Option<CloudEvents> {
    if let (Field::Missing, Some((_, origin))) = (&source, content_type.located()) {
        findings.problems.add(origin, "outbox.content_type", "needs outbox.cloudevents_source as well");
    }
    let content_type = content_type.value().map(Into::into);
    source.value().map(|source| CloudEvents { source: source.into(), content_type })
}

fn make_route(
    section: &str,
    topic: Field<String>,
    matches: Field<String>,
    aggregatetypes: Field<Names>,
    (payload, version, inference): (Field<value::PayloadFormat>, Field<i32>, Inference),
    findings: &mut Findings,
) -> Option<OutboxRoute> {
    let payload = payload.value()?;
    let key = |name: &str| format!("{section}.{name}");
    let version = match version {
        Field::Missing => None,
        Field::Set(_, origin) if payload != value::PayloadFormat::AvroFromJson => {
            let message = "has a meaning only with payload = \"avro_from_json\"";
            return findings.wrong(&origin, &key("schema_version"), message);
        }
        Field::Set(version, origin) => match u32::try_from(version) {
            Ok(version) if version > 0 => Some(version),
            _ => return findings.wrong(&origin, &key("schema_version"), "at least 1"),
        },
        Field::Bad => return None,
    };
    let topic = topic.value()?;
    let rewriting = match matches {
        Field::Missing => None,
        Field::Bad => return None,
        Field::Set(expression, origin) => match Rewriting::new(&expression, &topic) {
            Ok(rewriting) => Some(rewriting),
            Err(why) => return findings.wrong(&origin, &key("match"), why),
        },
    };
    Some(OutboxRoute {
        topic,
        rewriting,
        aggregatetypes: aggregatetypes.value()?.0,
        payload: match payload {
            value::PayloadFormat::Avro => PayloadFormat::Avro,
            value::PayloadFormat::Raw => PayloadFormat::Raw,
            value::PayloadFormat::AvroFromJson => PayloadFormat::AvroFromJson(version),
            value::PayloadFormat::AvroInferred => PayloadFormat::AvroInferred(inference),
        },
        ..OutboxRoute::default()
    })
}
