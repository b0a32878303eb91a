//! A value that is one column and no row: the key and the payload of an outbox event, as Kafka Connect's converter
//! writes a column that a transform put in place of the whole record.

use headwater_pgoutput::Column;

use crate::binary;
use crate::description::ColumnDescription;
use crate::error::{EncodeError, SchemaError};
use crate::plan::{ColumnPlan, SchemaId};
use crate::record_settings::RecordSettings;
use crate::schema::{self, Absence, Field};

/// One column's schema and how its bytes become bytes.
#[derive(Debug, Clone)]
pub struct BarePlan {
    schema_json: String,
    plan: ColumnPlan,
}

impl BarePlan {
    /// Compiles the plan; a nullable column has a union with null as its schema.
    ///
    /// # Errors
    /// None at present: every type has a schema.
    pub fn new(column: &ColumnDescription, records: &RecordSettings) -> Result<BarePlan, SchemaError> {
        let column = ColumnDescription { default: None, ..column.clone() };
        let field = Field::new(&column, Absence::Never, records);
        Ok(BarePlan {
            schema_json: schema::bare_json(&field, records),
            plan: ColumnPlan::new(&column, &field, records),
        })
    }

    /// The schema to register.
    pub fn schema_json(&self) -> &str {
        &self.schema_json
    }

    /// Appends the value in the registry's wire format.
    ///
    /// # Errors
    /// [`EncodeError`], and `out` is as it was.
    pub fn encode_into(
        &self,
        id: SchemaId,
        column: Column<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        binary::write_header(id, out);
        let result = self.plan.write(column, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Appends the value alone, as a field of a record.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn append(&self, column: Column<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.plan.write(column, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::PgType;

    fn column(pg_type: PgType, not_null: bool) -> ColumnDescription {
        ColumnDescription {
            name: "payload".to_owned(),
            type_name: "t".to_owned(),
            pg_type,
            not_null,
            default: Some("ignored".to_owned()),
            in_identity: false,
            declared: None,
            key_labels: None,
        }
    }

    #[test]
    fn a_column_stands_alone() {
        let key = BarePlan::new(&column(PgType::Text, true), &RecordSettings::default()).unwrap();
        assert_eq!(key.schema_json(), r#""string""#);
        let mut out = Vec::new();
        key.encode_into(SchemaId(1), Column::Text(b"o-1"), &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 0, 1, 6, b'o', b'-', b'1']);

        let value = BarePlan::new(&column(PgType::Json, false), &RecordSettings::default()).unwrap();
        assert_eq!(
            value.schema_json(),
            r#"["null",{"type":"string","connect.version":1,"connect.name":"io.debezium.data.Json"}]"#
        );
        out.clear();
        value.encode_into(SchemaId(2), Column::Text(b"{}"), &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 0, 2, 2, 4, b'{', b'}']);
        assert!(key.encode_into(SchemaId(1), Column::Null, &mut out).is_err());
        assert_eq!(out.len(), 9, "an error leaves no bytes behind");
    }
}
