//! The keys of `[records]`, which are also those of each `[[table]]`: one table for both.
//!
//! To add a key: a line here, a field of the same name and type in the library's table of record settings (the
//! compiler asks for it), then `headwater config-reference > docs/CONFIG.md`.

use std::path::PathBuf;

use headwater_avro::{
    AbsentBefore, ArrayHandling, BinaryHandling, ColumnList, ColumnMasks, ColumnName, ColumnNames,
    ColumnPatterns, DecimalHandling, Envelope, FlatDeletes, HstoreHandling, IntervalHandling, KeylessKey,
    MONEY_FRACTION_DIGITS_MAX, MaskSalt, MetadataFields, OnError, OnIncompatible, RecordEncoding,
    RecordNaming, RecordOverrides, RecordSettings, RowFilter, SchemaNames, SharedTopic, TimePrecision,
    TopicTemplate, TruncateHandling, TypeStyle, UnchangedToast, UnknownTypes, legal_in_topic,
};
use headwater_pg::Secret;
use headwater_pipeline::Rewriting;
use headwater_pipeline::records::{RecordRules, TableRule};
use headwater_pipeline::route::TopicRoute;

use super::as_written::{Field, Key, Section, default_text, key_name, read_field, refuse_unknown, sections};
use super::layers::Table;
use super::problem::Problems;
use super::settings::{Findings, take_secret};
use super::value::{Names, Value};

/// Declares both sections and how they become settings.
macro_rules! record_keys {
    ($( $(#[doc = $doc:literal])* $key:ident: $type:ty = $default:literal, )*) => {
        sections! {
            /// How rows become records, for every table. Most keys are Debezium's options, shortened.
            "records" => pub struct Records {
                $( $(#[doc = $doc])* $key: $type = $default, )*
            }

            /// What some tables have otherwise: any key of `[records]`. May be given several times; where several
            /// name a table, the later one wins, key by key.
            "table" => pub struct Exception {
                /// Required. The tables: `schema.table` or a list of those, `*` standing for any characters and `?`
                /// for any one.
                tables: Names,
                $(
                    /// As in `[records]`, for these tables.
                    $key: $type,
                )*
            }
        }

        /// None when a key was written wrongly; that is noted already.
        fn make_all(written: Records, mask_salt: MaskSalt) -> Option<RecordSettings> {
            let Records { $( $key, )* } = written;
            Some(RecordSettings { $( $key: $key.value()?, )* mask_salt, naming: RecordNaming::default() })
        }

        fn make_exception(written: Exception, findings: &mut Findings) -> Option<TableRule> {
            let Exception { tables, $( $key, )* } = written;
            let tables = findings.require(tables, "table.tables", "tables = \"public.audit_*\"")?.0;
            let overrides = RecordOverrides { $( $key: $key.value(), )* mask_salt: None, naming: None };
            Some(TableRule { tables, overrides })
        }
    };
}

record_keys! {
    /// The Avro forms of values: `connect` is what Debezium writes with Kafka Connect's Avro converter, `avro` is
    /// Avro's own logical types without Connect's attributes (then `time_precision`, `interval_handling` and
    /// `hstore_handling` have no meaning).
    types: TypeStyle = "connect",
    /// numeric and money: `precise` is exact, as bytes; `double` is the nearest double; `string` is text. NaN and
    /// infinities have no precise form and halt.
    decimal_handling: DecimalHandling = "precise",
    /// date, time and timestamp: `adaptive` (milliseconds for up to three fractional digits, else microseconds),
    /// `adaptive_time_microseconds`, `microseconds`, `nanoseconds`, `connect` (Connect's types: milliseconds, finer
    /// digits are cut off) or `isostring` (ISO 8601). timestamptz and timetz are ISO 8601 text in each.
    time_precision: TimePrecision = "adaptive",
    /// interval: `numeric` is microseconds, in which a month counts 30.4375 days; `string` is ISO 8601.
    interval_handling: IntervalHandling = "numeric",
    /// bytea: `bytes`, `base64`, `base64-url-safe` or `hex`.
    binary_handling: BinaryHandling = "bytes",
    /// hstore: `json` is a JSON object as text, `map` a map of nullable strings.
    hstore_handling: HstoreHandling = "json",
    /// Arrays: `list` is an Avro array, in which a value of several dimensions has no form and halts; `text` is
    /// Postgres' text of every array, dimensions and bounds included.
    array_handling: ArrayHandling = "list",
    /// Digits behind the point of a precise money value. Fewer than two round.
    money_fraction_digits: u8 = "2",
    /// Columns of types that only the database knows: their `text`, their text as `bytes` (Debezium's
    /// `include.unknown.datatypes`), or `halt`.
    unknown_types: UnknownTypes = "text",
    /// Columns that an old row does not carry: `null`, with every such column nullable in the schema; or `debezium`,
    /// with NOT NULL columns not nullable and Debezium's made-up values (0, an empty string, 1970) in their place.
    absent_before: AbsentBefore = "null",
    /// The columns of the record key, one name or a list, as Debezium's `message.key.columns`. An old row must carry
    /// them (replica identity), or a delete would have no key. Default: the primary key, or the columns of the
    /// replica identity where an old row lacks the primary key. An empty list means the default.
    message_key_columns: ColumnList = "",
    /// The record key of a table that has none: `none`, or `full_row` for all columns (a row that changes is a
    /// delete of one key and a create of another, then).
    keyless_key: KeylessKey = "none",
    /// The columns whose text chooses the partition: for tables without a key, which otherwise go to one partition
    /// each, or some of the key's columns, so that what they have in common stays together. An empty list means the
    /// whole key.
    partition_columns: ColumnList = "",
    /// TRUNCATE: `skip` (counted, as Debezium's default `skipped.operations`), `emit` (a record with `op` `t`, without row
    /// or key) or `halt`.
    truncate: TruncateHandling = "skip",
    /// What stands for an unchanged TOAST value that is not at hand. After `hex:` it is bytes in hexadecimal, for
    /// bytea columns.
    unavailable_value_placeholder: String = "__debezium_unavailable_value",
    /// A TOAST value that an update left alone is not sent by Postgres. `placeholder` puts
    /// `unavailable_value_placeholder` in its place. `reselect` reads the row back by its key once the transaction is
    /// committed: a value that is provably that of the change is sent as if it had come with it; for any other the
    /// placeholder stays, and the header `headwater.unchanged` names the columns. Costs SELECT on the table. Under REPLICA
    /// IDENTITY FULL the value is in the old row, and nothing is read.
    unchanged_toast: UnchangedToast = "placeholder",
    /// With `unchanged_toast = "reselect"`: where only a later value is to be had, send that one, and name its columns in the
    /// header `headwater.reselected`.
    allow_newer: bool = "false",
    /// What becomes of a schema that the registry refuses as incompatible (409): `halt` with the registry's words, or
    /// `set_compatibility_none`, which sets the level of that one subject to NONE, warns and registers again.
    on_incompatible: OnIncompatible = "halt",
    /// What becomes of a row that can't be delivered: a value without an exact form, a schema that is refused, an outbox
    /// row that can't be routed, a record that is larger than its topic takes. `halt`; `dead_letter`, which puts it into
    /// `dead_letter.topic` with the reason and goes on; `dead_letter_and_block_key`, which puts all later changes of the
    /// same key there too, until they are replayed or dropped (`headwater dlq`), so that nobody sees a change without
    /// the one before it. What concerns everything (Kafka, registry or Postgres away, bytes that are no pgoutput) is
    /// never a matter of this.
    on_error: OnError = "halt",
    /// What a record's value is: `debezium` has `before`, `after`, `source` and `op`; `flat` is the row itself, as
    /// Debezium's transform ExtractNewRecordState leaves it. With `flat_deletes = "tombstone"`, `flat` is what
    /// compacted topics and upserting consumers want.
    envelope: Envelope = "debezium",
    /// A delete under `envelope = "flat"`: `tombstone` (and no other record), `rewrite` (the old row with
    /// `__deleted` = "true"; all rows have that field then), `rewrite-with-tombstone` or `drop`.
    flat_deletes: FlatDeletes = "tombstone",
    /// Fields behind the columns under `envelope = "flat"`: `op`, and Debezium's source fields such as `table`,
    /// `lsn`, `txId`, `source.ts_ms`. `op:operation` gives one another name.
    metadata_fields: MetadataFields = "",
    /// Goes before the names of metadata fields: `op` is `__op`.
    metadata_prefix: String = "__",
    /// How keys are written: `avro`, `json` (Connect's JsonConverter without schemas) or `json_schema_envelope`
    /// (the same with `schema` and `payload`). JSON needs no registry.
    key_encoding: RecordEncoding = "avro",
    /// How values are written, as `key_encoding`.
    value_encoding: RecordEncoding = "avro",
    /// The columns that values have, `*` standing for any characters and `?` for any one.
    columns_include: ColumnPatterns = "*",
    /// Columns that values do not have. Key columns stay in the key.
    columns_exclude: ColumnPatterns = "",
    /// Columns whose schemas say their type, length and scale in Postgres, as Debezium's
    /// `column.propagate.source.type` (parameters `__debezium.source.column.*`); `*` is every column. Values only,
    /// and not with `types = "avro"`, whose schemas have no parameters.
    propagate_source_type: ColumnPatterns = "",
    /// New names of columns in keys and values: `renames = { old = "new" }`.
    renames: ColumnNames = "",
    /// What stands in the place of values, by column pattern: `masks = { email = "hash", "card_*" = "fixed:****" }`.
    /// `hash` is HMAC-SHA-256 under `masking.salt`, in hexadecimal; `truncate:10` the first ten characters of a text;
    /// `fixed:` a text; `null` null; `none` the value after all. NULL stays NULL. A masked column is a string,
    /// whatever its type (under `null` it keeps its type). Masks hold in `before`, in `after`, in the key and in
    /// headers; in a key only `hash` is allowed. The longest pattern wins. A `[[table]]` adds to the masks of
    /// `[records]`.
    masks: ColumnMasks = "",
    /// Which rows become records: `row_filter = "status <> 'draft' and total > 10"`. Columns are compared with
    /// constants by `=`, `<>`, `<`, `<=`, `>`, `>=` and `IN`, tested by `IS NULL`, joined by `AND`, `OR`, `NOT` and
    /// parentheses. An update that brings a row in is a create, one that takes it out a delete; old rows must carry
    /// the filter's columns.
    row_filter: RowFilter = "",
    /// The topic: a name in which `{prefix}`, `{database}`, `{schema}` and `{table}` stand for what they say; in these,
    /// characters that Kafka refuses become `_`. A `[[route]]` can make another name of it.
    topic: TopicTemplate = "{prefix}.{schema}.{table}",
    /// Whether the topic may have the records of several tables: `refuse`, which halts when a second table comes to it;
    /// `table_in_key`, with a field in the key that tells the tables apart, so that rows of the same key are two rows
    /// to compaction; `unique_keys`, without it, where no key is in two of the tables. All tables of the topic must
    /// say so. Under subjects by topic their schemas must be alike: the registry judges.
    shared_topic: SharedTopic = "refuse",
    /// The name of that field, behind the key's columns. It holds `<prefix>.<schema>.<table>`.
    table_key_field: String = "__dbz__physicalTableIdentifier",
    /// What keys' and values' schemas are named after, as `<name>.Key` and `<name>.Envelope`: the `topic`, as Debezium
    /// names them, or the `table` (`<prefix>.<schema>.<table>`), so that tables of one topic have schemas, and under
    /// `record_name` subjects, of their own.
    schema_names: SchemaNames = "topic",
    /// The column with a W3C trace context that is sent along as the header `traceparent`: a traceparent, or lines of
    /// java.util.Properties with one (Debezium's column `tracingspancontext`). Tables without the column have no such
    /// header. What is no traceparent is counted and not sent. `columns_exclude` keeps the column out of values.
    traceparent_column: ColumnName = "",
    /// The column with the header `tracestate`, where it is not beside the traceparent.
    tracestate_column: ColumnName = "",
}

sections! {
    /// Makes other names of topics, as Debezium's ByLogicalTableRouter and Kafka's RegexRouter do. May be given several
    /// times: each sees the topic that the ones before it made. For topics of tables; those of outbox events have their
    /// own `topic`.
    "route" => pub struct Route {
        /// Required. The regular expression that the topic must match as a whole, `shop\\.public\\.(.*)`.
        matches as "match": String,
        /// Required. What stands in its place; `$1` is its first group, `${name}` a named one.
        topic: String,
        /// Whether the new topic may have several tables, as `records.shared_topic`. As Debezium's router, a route puts
        /// the table into the key unless it is told otherwise; for a mere renaming write `refuse`.
        shared_topic: SharedTopic = "table_in_key",
        /// The name of the field in the key.
        table_key_field: String = "__dbz__physicalTableIdentifier",
        /// A regular expression that the topic before the route must match as a whole for the field to hold what
        /// `table_key_value` makes of it. Without it, the field holds the topic before the route.
        table_key_match: String,
        /// What the field holds; `$1` is the first group.
        table_key_value: String,
        /// What schemas are named after: the new `topic`, as Debezium's router does, or still the `table` (what they
        /// were named after before), as Kafka's does.
        schema_names: SchemaNames = "topic",
    }
}

/// Makes a route, its expressions checked.
pub fn make_route(written: Route, findings: &mut Findings) -> Option<TopicRoute> {
    let Route {
        matches,
        topic,
        shared_topic,
        table_key_field,
        table_key_match,
        table_key_value,
        schema_names,
    } = written;
    for (field, key, example) in [
        (&matches, "route.match", r#"match = "shop\\.public\\.(.*)""#),
        (&topic, "route.topic", "topic = \"app.$1\""),
    ] {
        if let Field::Missing = field {
            findings.require(Field::<String>::Missing, key, example);
        }
    }
    let key_value = match (&table_key_match, &table_key_value) {
        (Field::Missing, Field::Missing) => Some(None),
        (Field::Set(_, origin), Field::Missing) => {
            findings.wrong(origin, "route.table_key_match", "needs route.table_key_value as well")
        }
        (Field::Missing, Field::Set(_, origin)) => {
            findings.wrong(origin, "route.table_key_value", "needs route.table_key_match as well")
        }
        _ => {
            let keys = ["route.table_key_match", "route.table_key_value"];
            make_rewriting(table_key_match, table_key_value, keys, findings).map(Some)
        }
    };
    let topic_at = topic.located().map_or(findings.file.clone(), |(_, origin)| origin.clone());
    let topic = make_rewriting(matches, topic, ["route.match", "route.topic"], findings)?;
    if let Some(odd) = topic.fixed_texts().flat_map(str::chars).find(|c| !legal_in_topic(*c)) {
        let message = format!("has '{odd}', which no topic can have");
        return findings.wrong(&topic_at, "route.topic", message);
    }
    Some(TopicRoute {
        topic,
        shared: shared_topic.value()?,
        key_field: table_key_field.value()?,
        key_value: key_value?,
        schema_names: schema_names.value()?,
    })
}

fn make_rewriting(
    expression: Field<String>,
    replacement: Field<String>,
    [expression_key, replacement_key]: [&str; 2],
    findings: &mut Findings,
) -> Option<Rewriting> {
    let Field::Set(expression, expression_at) = expression else { return None };
    // Alone, the expression tells whether the fault is in it or in what replaces it.
    if let Err(why) = Rewriting::new(&expression, "") {
        return findings.wrong(&expression_at, expression_key, why);
    }
    let Field::Set(replacement, replacement_at) = replacement else { return None };
    match Rewriting::new(&expression, &replacement) {
        Ok(rewriting) => Some(rewriting),
        Err(why) => findings.wrong(&replacement_at, replacement_key, why),
    }
}

sections! {
    /// What masks need.
    "masking" => pub struct Masking {
        /// The key of `hash` masks. Meant for the environment (`HEADWATER_MASKING__SALT`); in the file it is warned
        /// about. Another salt gives other hashes, and moves hashed keys to other partitions.
        salt: Secret,
        /// A file that holds the salt and nothing else. One line end is cut off.
        salt_file: PathBuf,
    }
}

/// Makes the rules; what is wrong is noted in `findings`.
pub fn make(
    records: Records,
    exceptions: Vec<Exception>,
    masking: Masking,
    findings: &mut Findings,
) -> Option<RecordRules> {
    let mask_salt = make_salt(&records, &exceptions, masking, findings);
    let digits = |field: &Field<u8>, section: &str, findings: &mut Findings| match field.located() {
        Some((&digits, origin)) if digits > MONEY_FRACTION_DIGITS_MAX => findings.problems.add(
            origin,
            &format!("{section}.money_fraction_digits"),
            format!("at most {MONEY_FRACTION_DIGITS_MAX}"),
        ),
        _ => {}
    };
    digits(&records.money_fraction_digits, Records::NAME, findings);
    for exception in &exceptions {
        digits(&exception.money_fraction_digits, Exception::NAME, findings);
        if let Some((names, origin)) = exception.tables.located() {
            for name in names.0.iter().filter(|name| !name.contains('.') && *name != "*") {
                let message = format!("\"{name}\" is not schema.table; write for example \"public.{name}\"");
                findings.problems.add(origin, "table.tables", message);
            }
        }
    }
    let placeholders =
        exceptions.iter().map(|exception| (&exception.unavailable_value_placeholder, Exception::NAME));
    for (field, section) in placeholders.chain([(&records.unavailable_value_placeholder, Records::NAME)]) {
        if let Some((text, origin)) =
            field.located().filter(|(text, _)| !headwater_avro::is_placeholder(text))
        {
            let message = format!("\"{text}\" has no hexadecimal digits, two for each byte, after hex:");
            findings.problems.add(origin, &format!("{section}.unavailable_value_placeholder"), message);
        }
    }
    let all = make_all(records, mask_salt?);
    let tables: Vec<_> =
        exceptions.into_iter().map(|exception| make_exception(exception, findings)).collect();
    Some(RecordRules { all: all?, tables: tables.into_iter().collect::<Option<Vec<_>>>()? })
}

/// The salt, which must be there where a mask hashes: without one, short values are found by trying.
fn make_salt(
    records: &Records,
    exceptions: &[Exception],
    masking: Masking,
    findings: &mut Findings,
) -> Option<MaskSalt> {
    let Masking { salt, salt_file } = masking;
    let is_written = salt.is_written() || salt_file.is_written();
    let salt = take_secret(salt, "masking.salt", salt_file, "masking.salt_file", findings);
    let fields = exceptions.iter().map(|exception| (&exception.masks, Exception::NAME));
    let hashed = fields.chain([(&records.masks, Records::NAME)]).find_map(|(field, section)| {
        let (masks, origin) = field.located()?;
        masks.hash_any().then(|| (origin.clone(), section))
    });
    match (salt, hashed) {
        (Some(salt), _) => Some(MaskSalt::new(salt.expose().as_bytes())),
        (None, _) if is_written => None,
        (None, None) => Some(MaskSalt::default()),
        (None, Some((origin, section))) => findings.wrong(
            &origin,
            &format!("{section}.masks"),
            "hash needs a salt; set HEADWATER_MASKING__SALT or masking.salt_file",
        ),
    }
}
