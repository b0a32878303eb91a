//! What a table looked like when a Relation message was resolved against the catalog.
//!
//! It is stored in the schema history as JSON and is the only input of plans, so a restart encodes with the
//! columns of then and not with those of today's catalog.

use headwater_pgoutput::{RelationId, ReplicaIdentity};
use serde::{Deserialize, Serialize};

/// A table as it was when its Relation message was resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDescription {
    /// The relation's oid, as row messages name it.
    pub relation: RelationId,
    /// Schema of the table, unquoted.
    pub schema: String,
    /// Name of the table, unquoted.
    pub table: String,
    /// What an old tuple carries.
    pub replica_identity: ReplicaIdentity,
    /// The published columns in the order of the Relation message, which is the order of every tuple.
    pub columns: Vec<ColumnDescription>,
    /// Indexes into `columns` of the record key's columns, in key order; empty means that the table has no key.
    pub key: Vec<usize>,
}

impl TableDescription {
    /// True when an old tuple carries every column.
    pub fn has_full_identity(&self) -> bool {
        self.replica_identity == ReplicaIdentity::Full
    }
}

/// One published column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDescription {
    /// Name, unquoted.
    pub name: String,
    /// The type's name as Postgres writes it; used in messages only.
    pub type_name: String,
    /// What decides the Avro type.
    pub pg_type: PgType,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// Postgres text of a constant default, already evaluated (`42`, `hi`, `2020-02-29`).
    pub default: Option<String>,
    /// Part of the replica identity: present in a key tuple.
    pub in_identity: bool,
}

/// A Postgres type, resolved as far as its Avro form needs it: domains are their base type, modifiers are parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(precision, scale)`; the scale may be negative or exceed the precision (Postgres 15 and later).
    Numeric {
        /// Decimal digits that are kept.
        precision: u16,
        /// Digits right of the point; negative rounds left of it.
        scale: i16,
    },
    /// `numeric` without a modifier: every value has its own scale.
    NumericUnconstrained,
    /// `text`, `varchar`, `char(n)`, `name`
    Text,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time(precision)` without time zone
    Time {
        /// Fractional digits, 0 to 6.
        precision: u8,
    },
    /// `timestamp(precision)` without time zone
    Timestamp {
        /// Fractional digits, 0 to 6.
        precision: u8,
    },
    /// `timestamp(precision) with time zone`
    TimestampTz {
        /// Fractional digits, 0 to 6.
        precision: u8,
    },
    /// `uuid`
    Uuid,
    /// `json`, `jsonb`
    Json,
    /// An enum type with its labels in sort order.
    Enum {
        /// Labels as the catalog had them; a value may be newer than this list.
        labels: Vec<String>,
    },
    /// A one-dimensional array of a type of this list. (`integer[][]` is the same type to Postgres; a value that
    /// really has more dimensions can't be encoded.)
    Array(Box<PgType>),
    /// Any other type: arrives as its Postgres text.
    Other,
}

/// Oids below this one are assigned by hand in Postgres' source and mean the same in every database
/// (`FirstGenbkiObjectId` in access/transam.h).
const FIRST_ASSIGNED_OID: u32 = 10_000;

impl PgType {
    /// The type behind an oid of `pg_catalog` and a column's modifier (-1 for none); `None` means that only the
    /// catalog knows (enums, domains, extensions and arrays of those).
    pub fn builtin(oid: u32, type_modifier: i32) -> Option<PgType> {
        if let Some(scalar) = PgType::scalar(oid, type_modifier) {
            return Some(scalar);
        }
        let element = match oid {
            1000 => 16,
            1001 => 17,
            1003 => 19,
            1005 => 21,
            1007 => 23,
            1009 => 25,
            1014 => 1042,
            1015 => 1043,
            1016 => 20,
            1021 => 700,
            1022 => 701,
            1115 => 1114,
            1182 => 1082,
            1183 => 1083,
            1185 => 1184,
            1231 => 1700,
            199 => 114,
            2951 => 2950,
            3807 => 3802,
            1002 => 18,
            other => return (other < FIRST_ASSIGNED_OID).then_some(PgType::Other),
        };
        // An array column's modifier is that of its elements.
        PgType::scalar(element, type_modifier).map(|element| PgType::Array(Box::new(element)))
    }

    /// Oids from Postgres' pg_type.dat.
    fn scalar(oid: u32, type_modifier: i32) -> Option<PgType> {
        Some(match oid {
            16 => PgType::Bool,
            17 => PgType::Bytea,
            // "char", name, text, bpchar, varchar
            18 | 19 | 25 | 1042 | 1043 => PgType::Text,
            20 => PgType::Int8,
            21 => PgType::Int2,
            23 => PgType::Int4,
            114 | 3802 => PgType::Json,
            700 => PgType::Float4,
            701 => PgType::Float8,
            1082 => PgType::Date,
            1083 => PgType::Time { precision: fraction_digits(type_modifier) },
            1114 => PgType::Timestamp { precision: fraction_digits(type_modifier) },
            1184 => PgType::TimestampTz { precision: fraction_digits(type_modifier) },
            1700 => PgType::numeric(type_modifier),
            2950 => PgType::Uuid,
            _ => return None,
        })
    }

    /// A numeric's modifier is `(precision << 16 | scale & 0x7ff) + 4`, the scale an 11-bit signed number
    /// (utils/adt/numeric.c). Before Postgres 15 the scale was 0 to 1000, which reads the same.
    fn numeric(type_modifier: i32) -> PgType {
        let Some(packed) = type_modifier.checked_sub(4).filter(|packed| *packed >= 0) else {
            return PgType::NumericUnconstrained;
        };
        let precision = (packed >> 16) as u16;
        let scale = ((packed & 0x7ff) ^ 1024) - 1024;
        PgType::Numeric { precision, scale: scale as i16 }
    }
}

/// The modifier of time and timestamp types is the number of fractional digits; without one it is 6.
fn fraction_digits(type_modifier: i32) -> u8 {
    u8::try_from(type_modifier).map_or(6, |digits| digits.min(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_of_numeric() {
        let numeric = |modifier| PgType::builtin(1700, modifier);
        assert_eq!(numeric(-1), Some(PgType::NumericUnconstrained));
        assert_eq!(numeric((10 << 16 | 2) + 4), Some(PgType::Numeric { precision: 10, scale: 2 }));
        assert_eq!(numeric((2 << 16 | 0x7fe) + 4), Some(PgType::Numeric { precision: 2, scale: -2 }));
        assert_eq!(numeric((1000 << 16 | 1000) + 4), Some(PgType::Numeric { precision: 1000, scale: 1000 }));
    }

    #[test]
    fn arrays_take_the_modifier_of_their_elements() {
        assert_eq!(
            PgType::builtin(1231, (10 << 16 | 2) + 4),
            Some(PgType::Array(Box::new(PgType::Numeric { precision: 10, scale: 2 })))
        );
        assert_eq!(
            PgType::builtin(1115, 3),
            Some(PgType::Array(Box::new(PgType::Timestamp { precision: 3 })))
        );
    }

    #[test]
    fn unknown_builtins_are_text_and_the_rest_is_for_the_catalog() {
        assert_eq!(PgType::builtin(869, -1), Some(PgType::Other), "inet");
        assert_eq!(PgType::builtin(16_385, -1), None);
        assert_eq!(PgType::builtin(1083, i32::MAX), Some(PgType::Time { precision: 6 }));
    }
}
