//! Which columns of a table's records an unchanged TOAST value leaves without their value.

use crate::description::{PgType, TableDescription};
use crate::error::SchemaError;
use crate::mask;
use crate::record_settings::RecordSettings;
use crate::schema;

/// A column whose value is written and may be an unchanged TOAST value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnchangedColumn {
    /// Its place in the tuple.
    pub index: usize,
    /// The name of its field in a record.
    pub field: String,
    /// Its text depends on the value alone: what is read today is what was written then. Names of labels, of row types'
    /// columns or of catalog objects may have changed without a row being written.
    pub text_is_stable: bool,
}

/// The columns of which a record shows the value: not those that are left out, and not those that a mask hides
/// whatever the value is.
///
/// # Errors
/// Those of the table's value schema.
pub fn unchanged_columns(
    table: &TableDescription,
    records: &RecordSettings,
) -> Result<Vec<UnchangedColumn>, SchemaError> {
    let fields = schema::value_fields(table, records)?;
    let shows = |field: &schema::Field| {
        let column = &table.columns[field.index];
        is_stored_apart(&column.pg_type) && field.masking.as_ref().and_then(mask::placeholder).is_none()
    };
    let column = |field: &schema::Field| UnchangedColumn {
        index: field.index,
        field: field.name.clone(),
        text_is_stable: text_is_stable(&table.columns[field.index].pg_type),
    };
    Ok(fields.iter().filter(|field| shows(field)).map(column).collect())
}

/// Whether a value can be in TOAST: types of a fixed length are always in the row.
fn is_stored_apart(pg_type: &PgType) -> bool {
    !matches!(
        pg_type,
        PgType::Bool
            | PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Float4
            | PgType::Float8
            | PgType::Money
            | PgType::Oid
            | PgType::Date
            | PgType::Time { .. }
            | PgType::Timestamp { .. }
            | PgType::TimestampTz { .. }
            | PgType::TimeTz { .. }
            | PgType::Interval
            | PgType::Uuid
            | PgType::Point
            | PgType::Line
            | PgType::Lseg
            | PgType::Box
            | PgType::Circle
            | PgType::Enum { .. }
    )
}

fn text_is_stable(pg_type: &PgType) -> bool {
    match pg_type {
        PgType::Array(element) => text_is_stable(element),
        PgType::Enum { .. } | PgType::Verbatim => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column_choice::{ColumnMasks, ColumnPatterns, Mask};
    use crate::description::ColumnDescription;
    use headwater_pgoutput::{RelationId, ReplicaIdentity};

    #[test]
    fn columns_whose_value_shows() {
        let labels = || PgType::Enum { labels: vec!["a".to_owned()] };
        let types = [
            ("id", PgType::Int4),
            ("body", PgType::Text),
            ("moods", PgType::Array(Box::new(labels()))),
            ("hidden", PgType::Text),
            ("hashed", PgType::Text),
            ("left_out", PgType::Bytea),
            ("odd", PgType::Verbatim),
        ];
        let column = |(name, pg_type): (&str, PgType)| ColumnDescription {
            name: name.to_owned(),
            type_name: name.to_owned(),
            pg_type,
            not_null: false,
            default: None,
            in_identity: name == "id",
            declared: None,
            key_labels: None,
        };
        let table = TableDescription {
            relation: RelationId(1),
            schema: "public".to_owned(),
            table: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: types.into_iter().map(column).collect(),
            key: vec![0],
        };
        let masks = [("hidden", Mask::Fixed("***".to_owned())), ("hashed", Mask::Hash)];
        let records = RecordSettings {
            columns_exclude: ColumnPatterns(vec!["left_*".to_owned()]),
            masks: ColumnMasks::new(masks.map(|(name, mask)| (name.to_owned(), mask))),
            ..RecordSettings::default()
        };
        let found: Vec<_> = unchanged_columns(&table, &records)
            .unwrap()
            .into_iter()
            .map(|column| (column.index, column.field, column.text_is_stable))
            .collect();
        let expected = [(1, "body", true), (2, "moods", false), (4, "hashed", true), (6, "odd", false)];
        assert_eq!(found, expected.map(|(index, field, stable)| (index, field.to_owned(), stable)));
    }
}
