//! A table's Avro schemas as JSON, in one canonical spelling: no blanks, attributes in the order in which Kafka
//! Connect's Avro converter writes them. A registry compares text, so the spelling must not drift.
//!
//! ```text
//! Envelope { before: Value?, after: Value?, source: Source, transaction: block?, op, ts_ms?, ts_us?, ts_ns? }
//! Value    { one field per column }
//! Key      { one field per key column, in key order }
//! ```

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use crate::column_choice::Mask;
use crate::description::{ColumnDescription, PgType, TableDescription};
use crate::error::SchemaError;
use crate::flat;
use crate::mask::{self, Masking};
use crate::name_adjustment::{field_name, namespace, topic_name};
use crate::plan::{NullBranch, SourceSettings};
use crate::record_settings::{
    AbsentBefore, Envelope, RecordEncoding, RecordSettings, TypeStyle, UnknownTypes,
};
use crate::source_type;
use crate::type_schema::{
    Defined, default_json, json_string, nullable_json, type_json, with_parameters, without_connect,
};
use crate::types::{self, TypeRow};

/// `source.version` of every record: the version of this format, not of the program. It changes only with the
/// meaning of a field, because a record that is sent again must have the same bytes after an upgrade.
pub const FORMAT_VERSION: &str = "headwater-1";

/// A field of `Value` or `Key`.
pub(crate) struct Field {
    /// Its column's place in the tuple.
    pub(crate) index: usize,
    /// Its name in records.
    pub(crate) name: String,
    pub(crate) row: TypeRow,
    pub(crate) null: NullBranch,
    /// Avro default as JSON, unless the default is null or there is none.
    default: Option<String>,
    /// Debezium's made-up value for a column that an old row doesn't carry; none where null can stand for it.
    pub(crate) made_up: Option<Vec<u8>>,
    /// What hides the column's values.
    pub(crate) masking: Option<Masking>,
    /// What its schema says of the column in Postgres, as members of `connect.parameters`.
    source_type: Option<String>,
}

/// Whether a column can be absent from an old row, and what its schema says of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It is always there.
    Never,
    /// Null stands for it.
    IsNull,
    /// A made-up value stands for it, if it is NOT NULL.
    IsMadeUp,
}

impl Field {
    /// A column as it is.
    pub(crate) fn new(column: &ColumnDescription, absence: Absence, records: &RecordSettings) -> Field {
        let row = types::row(&column.pg_type, records);
        let shown = column.default.as_deref().filter(|_| absence != Absence::IsNull);
        let default = shown.and_then(|text| default_json(text, &row));
        let null = match &default {
            _ if column.not_null && absence != Absence::IsNull => NullBranch::None,
            None => NullBranch::First,
            Some(_) => NullBranch::Last,
        };
        let made_up = (absence == Absence::IsMadeUp && null == NullBranch::None).then(|| {
            let text = shown.filter(|_| default.is_some());
            made_up(text.unwrap_or_else(|| types::made_up(&column.pg_type, records.types)), &row)
        });
        let name = column.name.clone();
        let made_up = made_up.flatten();
        Field { index: 0, name, made_up, row, null, default, masking: None, source_type: None }
    }

    /// A column whose values are hidden. What an old row lacks of it is null: nothing is made up for a mask.
    fn masked(
        column: &ColumnDescription,
        mask: &Mask,
        masking: Masking,
        absence: Absence,
        records: &RecordSettings,
    ) -> Field {
        let null = match mask {
            Mask::Null => NullBranch::Always,
            _ if column.not_null && absence == Absence::Never => NullBranch::None,
            _ => NullBranch::First,
        };
        let row = mask::masked_row(types::row(&column.pg_type, records), mask, masking.clone());
        let name = column.name.clone();
        let masking = Some(masking);
        Field { index: 0, name, row, null, default: None, made_up: None, masking, source_type: None }
    }
}

fn made_up(text: &str, row: &TypeRow) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    row.encoding.write(text.as_bytes(), &mut bytes).ok().map(|()| bytes)
}

/// The fields of `Value`: one per column that is not left out.
///
/// Unless the settings ask for Debezium's way, a column that an old tuple may lack is nullable and has no default of
/// its own: a reader would take the default for the absent value.
pub(crate) fn value_fields(
    table: &TableDescription,
    records: &RecordSettings,
) -> Result<Vec<Field>, SchemaError> {
    let shows_old_rows = records.envelope == Envelope::Debezium || flat::rewrites_deletes(records);
    let always_whole = table.has_full_identity() || !shows_old_rows;
    let absent = match records.absent_before {
        AbsentBefore::Null => Absence::IsNull,
        AbsentBefore::Debezium => Absence::IsMadeUp,
    };
    let field = |(index, column): (usize, &ColumnDescription)| {
        let always = always_whole || table.key.contains(&index);
        let absence = if always { Absence::Never } else { absent };
        let propagated = records.propagate_source_type.cover(&column.name);
        Ok(Field {
            source_type: if propagated { source_type::parameters(column) } else { None },
            ..new_field(table, index, column, absence, records, records.value_encoding)?
        })
    };
    let written = |(_, column): &(usize, &ColumnDescription)| {
        records.columns_include.cover(&column.name) && !records.columns_exclude.cover(&column.name)
    };
    let fields =
        table.columns.iter().enumerate().filter(written).map(field).collect::<Result<Vec<_>, _>>()?;
    check_names(table, &fields)?;
    Ok(fields)
}

/// The fields of `Key`. No choice of columns leaves one out.
pub(crate) fn key_fields(
    table: &TableDescription,
    records: &RecordSettings,
) -> Result<Vec<Field>, SchemaError> {
    let field = |&index: &usize| {
        let Some(column) = table.columns.get(index) else {
            return Err(SchemaError::KeyOutOfRange {
                table: full_name(table),
                index,
                columns: table.columns.len(),
            });
        };
        if records.masks.of(&column.name).is_some_and(|mask| !mask::keeps_rows_apart(mask)) {
            return Err(SchemaError::MaskInKey { table: full_name(table), column: column.name.clone() });
        }
        let column = ColumnDescription { pg_type: column.key_type(), ..column.clone() };
        new_field(table, index, &column, Absence::Never, records, records.key_encoding)
    };
    let fields = table.key.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    check_names(table, &fields)?;
    let mut names: HashSet<String> = fields.iter().map(|field| field.name.clone()).collect();
    for (name, _) in &records.naming.key_fields {
        let name = key_field_name(name, records);
        if !names.insert(name.clone()) {
            return Err(SchemaError::TableFieldCollides { table: full_name(table), name });
        }
    }
    Ok(fields)
}

/// Refuses a type that nobody knows, where the settings ask for that, and a mask that the type has no form for.
fn new_field(
    table: &TableDescription,
    index: usize,
    column: &ColumnDescription,
    absence: Absence,
    records: &RecordSettings,
    encoding: RecordEncoding,
) -> Result<Field, SchemaError> {
    let renamed = records.renames.of(&column.name);
    let name = match encoding {
        RecordEncoding::Avro => field_name(renamed),
        RecordEncoding::Json | RecordEncoding::JsonSchemaEnvelope => renamed.to_owned(),
    };
    if let Some(mask) = records.masks.of(&column.name) {
        let Some(masking) = Masking::new(mask, &column.pg_type, &records.mask_salt) else {
            return Err(SchemaError::MaskOfType {
                table: full_name(table),
                column: column.name.clone(),
                type_name: column.type_name.clone(),
            });
        };
        return Ok(Field { index, name, ..Field::masked(column, mask, masking, absence, records) });
    }
    if column.pg_type == PgType::Other && records.unknown_types == UnknownTypes::Halt {
        return Err(SchemaError::UnknownType {
            table: full_name(table),
            column: column.name.clone(),
            type_name: column.type_name.clone(),
        });
    }
    Ok(Field { index, name, ..Field::new(column, absence, records) })
}

fn check_names(table: &TableDescription, fields: &[Field]) -> Result<(), SchemaError> {
    let mut owners = HashMap::new();
    for field in fields {
        let column = &table.columns[field.index].name;
        if let Some(first) = owners.insert(field.name.as_str(), column) {
            return Err(SchemaError::NamesCollide {
                table: full_name(table),
                first: first.clone(),
                second: column.clone(),
                adjusted: field.name.clone(),
            });
        }
    }
    Ok(())
}

pub(crate) fn full_name(table: &TableDescription) -> String {
    format!("{}.{}", table.schema, table.table)
}

/// The schema of a record's value.
pub(crate) fn value_json(
    table: &TableDescription,
    fields: &[Field],
    source: &SourceSettings,
    records: &RecordSettings,
) -> Result<String, SchemaError> {
    match records.envelope {
        Envelope::Debezium => Ok(envelope_json(table, fields, source, records)),
        Envelope::Flat => flat_json(table, fields, source, records),
    }
}

/// The columns and, behind them, nullable metadata.
fn flat_json(
    table: &TableDescription,
    fields: &[Field],
    source: &SourceSettings,
    records: &RecordSettings,
) -> Result<String, SchemaError> {
    let namespace = record_namespace(table, source, records, records.value_encoding);
    let mut json = format!(r#"{{"type":"record","name":"Value","namespace":"{namespace}","fields":["#);
    fields_json(fields, &mut json);
    let mut names: HashSet<String> = fields.iter().map(|field| field.name.clone()).collect();
    for (name, avro) in flat::fields(records) {
        if !json.ends_with('[') {
            json.push(',');
        }
        let name = if records.value_encoding == RecordEncoding::Avro { field_name(&name) } else { name };
        let quoted = json_string(&name);
        let _ = write!(json, r#"{{"name":{quoted},"type":["null","{avro}"],"default":null}}"#);
        if !names.insert(name.clone()) {
            return Err(SchemaError::MetadataCollides { table: full_name(table), name });
        }
    }
    let _ = write!(json, r#"],"connect.name":"{namespace}.Value"}}"#);
    Ok(in_style(json, records))
}

fn envelope_json(
    table: &TableDescription,
    fields: &[Field],
    source: &SourceSettings,
    records: &RecordSettings,
) -> String {
    let namespace = record_namespace(table, source, records, records.value_encoding);
    let mut json = String::with_capacity(4096);
    let _ = write!(
        json,
        concat!(
            r#"{{"type":"record","name":"Envelope","namespace":"{ns}","fields":["#,
            r#"{{"name":"before","type":["null",{{"type":"record","name":"Value","fields":["#
        ),
        ns = namespace
    );
    fields_json(fields, &mut json);
    let _ = write!(
        json,
        concat!(
            r#"],"connect.name":"{ns}.Value"}}],"default":null}},"#,
            r#"{{"name":"after","type":["null","Value"],"default":null}},"#,
            r#"{{"name":"source","type":{source}}},"#,
            r#"{{"name":"transaction","type":["null",{block}],"default":null}},"#,
            r#"{{"name":"op","type":"string"}},"#,
            r#"{{"name":"ts_ms","type":["null","long"],"default":null}},"#,
            r#"{{"name":"ts_us","type":["null","long"],"default":null}},"#,
            r#"{{"name":"ts_ns","type":["null","long"],"default":null}}],"#,
            r#""connect.version":2,"connect.name":"{ns}.Envelope"}}"#
        ),
        ns = namespace,
        source = SOURCE_JSON,
        block = TRANSACTION_BLOCK_JSON
    );
    in_style(json, records)
}

/// The schema of a record's key.
pub(crate) fn key_json(
    table: &TableDescription,
    fields: &[Field],
    source: &SourceSettings,
    records: &RecordSettings,
) -> String {
    let namespace = record_namespace(table, source, records, records.key_encoding);
    let mut json = format!(r#"{{"type":"record","name":"Key","namespace":"{namespace}","fields":["#);
    fields_json(fields, &mut json);
    for (name, _) in &records.naming.key_fields {
        let _ =
            write!(json, r#",{{"name":{},"type":"string"}}"#, json_string(&key_field_name(name, records)));
    }
    let _ = write!(json, r#"],"connect.name":"{namespace}.Key"}}"#);
    in_style(json, records)
}

fn key_field_name(name: &str, records: &RecordSettings) -> String {
    if records.key_encoding == RecordEncoding::Avro { field_name(name) } else { name.to_owned() }
}

/// The schema of a value that is one column and no row.
pub(crate) fn bare_json(field: &Field, records: &RecordSettings) -> String {
    let (mut json, mut defined) = (String::new(), Defined::default());
    match field.null {
        NullBranch::None => type_json(&field.row.avro, None, &mut defined, &mut json),
        NullBranch::First | NullBranch::Last | NullBranch::Always => {
            nullable_json(&field.row.avro, &mut defined, &mut json)
        }
    }
    in_style(json, records)
}

/// Avro's own style is the same schema without what Connect adds to it.
fn in_style(json: String, records: &RecordSettings) -> String {
    match records.types {
        TypeStyle::Connect => json,
        TypeStyle::Avro => without_connect(&json),
    }
}

/// Debezium's namespace of a table's records: its topic, adjusted where the names are Avro's.
fn record_namespace(
    table: &TableDescription,
    source: &SourceSettings,
    records: &RecordSettings,
    encoding: RecordEncoding,
) -> String {
    let topic = match &records.naming.schema_topic {
        Some(topic) => topic.clone(),
        None => topic_name(&source.prefix, &table.schema, &table.table),
    };
    if encoding == RecordEncoding::Avro { namespace(&topic) } else { topic }
}

pub(crate) const SOURCE_JSON: &str = concat!(
    r#"{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":["#,
    r#"{"name":"version","type":"string"},"#,
    r#"{"name":"connector","type":"string"},"#,
    r#"{"name":"name","type":"string"},"#,
    r#"{"name":"ts_ms","type":"long"},"#,
    r#"{"name":"snapshot","type":[{"type":"string","connect.version":1,"connect.parameters":{"#,
    r#""allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"#,
    r#""connect.default":"false","connect.name":"io.debezium.data.Enum"},"null"],"default":"false"},"#,
    r#"{"name":"db","type":"string"},"#,
    r#"{"name":"sequence","type":["null","string"],"default":null},"#,
    r#"{"name":"ts_us","type":["null","long"],"default":null},"#,
    r#"{"name":"ts_ns","type":["null","long"],"default":null},"#,
    r#"{"name":"schema","type":"string"},"#,
    r#"{"name":"table","type":"string"},"#,
    r#"{"name":"txId","type":["null","long"],"default":null},"#,
    r#"{"name":"lsn","type":["null","long"],"default":null},"#,
    r#"{"name":"xmin","type":["null","long"],"default":null},"#,
    r#"{"name":"origin","type":["null","string"],"default":null},"#,
    r#"{"name":"origin_lsn","type":["null","long"],"default":null}],"#,
    r#""connect.version":1,"connect.name":"io.debezium.connector.postgresql.Source"}"#
);

pub(crate) const TRANSACTION_BLOCK_JSON: &str = concat!(
    r#"{"type":"record","name":"block","namespace":"event","fields":["#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"total_order","type":"long"},"#,
    r#"{"name":"data_collection_order","type":"long"}],"#,
    r#""connect.version":1,"connect.name":"event.block"}"#
);

fn fields_json(fields: &[Field], json: &mut String) {
    let mut defined = Defined::default();
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        let connect_default = field.default.as_deref();
        let mut avro = String::new();
        type_json(&field.row.avro, connect_default, &mut defined, &mut avro);
        if let Some(parameters) = &field.source_type {
            avro = with_parameters(&avro, parameters);
        }
        let _ = write!(json, r#"{{"name":{},"type":"#, json_string(&field.name));
        let _ = match field.null {
            NullBranch::None => write!(json, "{avro}"),
            NullBranch::First | NullBranch::Always => write!(json, r#"["null",{avro}]"#),
            NullBranch::Last => write!(json, r#"[{avro},"null"]"#),
        };
        match (connect_default, field.null) {
            (Some(default), _) => json.push_str(&format!(r#","default":{default}"#)),
            (None, NullBranch::None) => {}
            (None, _) => json.push_str(r#","default":null"#),
        }
        json.push('}');
    }
}
