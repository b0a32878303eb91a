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
    /// How it was declared, as far as only schemas with `propagate_source_type` say it; none in versions that were
    /// stored before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<Declared>,
    /// The labels that the key's schema lists, where they aren't those of the type: a label that came without a
    /// Relation message shows in the value's schema only, since another key schema moves every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_labels: Option<Vec<String>>,
}

/// What a column's declaration says beyond its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The modifier of its type, or of the type below its domain; -1 without one.
    pub modifier: i32,
    /// Its default is the next number of a sequence.
    pub serial: bool,
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
    /// `money`
    Money,
    /// `oid`
    Oid,
    /// `text`, `varchar`, `char(n)`, `name`, and `citext` and `isbn` of the extensions
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
    /// `time(precision) with time zone`
    TimeTz {
        /// Fractional digits, 0 to 6.
        precision: u8,
    },
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`, `jsonb`
    Json,
    /// `xml`
    Xml,
    /// `bit(length)`, `bit varying(length)`
    Bits {
        /// Declared length in bits; `i32::MAX` without one.
        length: u32,
        /// True for `bit varying`.
        varying: bool,
    },
    /// `inet`, `cidr`, `macaddr`, `macaddr8`
    Network,
    /// The six ranges of Postgres itself.
    Range,
    /// `tsvector`
    Tsvector,
    /// `point`
    Point,
    /// `line`
    Line,
    /// `lseg`
    Lseg,
    /// `box`
    Box,
    /// `path`
    Path,
    /// `polygon`
    Polygon,
    /// `circle`
    Circle,
    /// `hstore` of the extension
    Hstore,
    /// `ltree` of the extension
    Ltree,
    /// PostGIS' `geometry`
    Geometry,
    /// PostGIS' `geography`
    Geography,
    /// pgvector's `vector`
    Vector,
    /// pgvector's `halfvec`
    Halfvec,
    /// pgvector's `sparsevec`
    Sparsevec {
        /// Declared dimensions, if any.
        dimensions: Option<u32>,
    },
    /// An enum type with its labels in sort order.
    Enum {
        /// Labels as the catalog had them; a value may be newer than this list.
        labels: Vec<String>,
    },
    /// An array of a type of this list. (`integer[][]` is the same type to Postgres; a value that really has more
    /// dimensions has no form as a list.)
    Array(Box<PgType>),
    /// A type that has no form but its Postgres text, and is known to: multiranges and users' ranges, row types,
    /// `tsquery`, `pg_lsn`, `jsonpath`, `xid8`, `regclass` and what else Postgres itself brings.
    Verbatim,
    /// A type that only the database knows: arrives as its Postgres text.
    Other,
}

/// Oids below this one are assigned by hand in Postgres' source and mean the same in every database
/// (`FirstGenbkiObjectId` in access/transam.h).
const FIRST_ASSIGNED_OID: u32 = 10_000;

/// Types of pg_type.dat with the types of their arrays and their names.
#[rustfmt::skip]
const BUILTINS: &[(u32, u32, &str)] = &[
    (16, 1000, "bool"), (17, 1001, "bytea"), (18, 1002, "char"), (19, 1003, "name"), (20, 1016, "int8"),
    (21, 1005, "int2"), (22, 1006, "int2vector"), (23, 1007, "int4"), (24, 1008, "regproc"),
    (25, 1009, "text"), (26, 1028, "oid"), (27, 1010, "tid"), (28, 1011, "xid"), (29, 1012, "cid"),
    (30, 1013, "oidvector"), (114, 199, "json"), (142, 143, "xml"), (600, 1017, "point"),
    (601, 1018, "lseg"), (602, 1019, "path"), (603, 1020, "box"), (604, 1027, "polygon"),
    (628, 629, "line"), (650, 651, "cidr"), (700, 1021, "float4"), (701, 1022, "float8"),
    (718, 719, "circle"), (774, 775, "macaddr8"), (790, 791, "money"), (829, 1040, "macaddr"),
    (869, 1041, "inet"), (1033, 1034, "aclitem"), (1042, 1014, "bpchar"), (1043, 1015, "varchar"),
    (1082, 1182, "date"), (1083, 1183, "time"), (1114, 1115, "timestamp"), (1184, 1185, "timestamptz"),
    (1186, 1187, "interval"), (1266, 1270, "timetz"), (1560, 1561, "bit"), (1562, 1563, "varbit"),
    (1700, 1231, "numeric"), (1790, 2201, "refcursor"), (2202, 2207, "regprocedure"),
    (2203, 2208, "regoper"), (2204, 2209, "regoperator"), (2205, 2210, "regclass"), (2206, 2211, "regtype"),
    (2950, 2951, "uuid"), (2970, 2949, "txid_snapshot"), (3220, 3221, "pg_lsn"), (3614, 3643, "tsvector"),
    (3615, 3645, "tsquery"), (3642, 3644, "gtsvector"), (3734, 3735, "regconfig"),
    (3769, 3770, "regdictionary"), (3802, 3807, "jsonb"), (3904, 3905, "int4range"),
    (3906, 3907, "numrange"), (3908, 3909, "tsrange"), (3910, 3911, "tstzrange"), (3912, 3913, "daterange"),
    (3926, 3927, "int8range"), (4072, 4073, "jsonpath"), (4089, 4090, "regnamespace"),
    (4096, 4097, "regrole"), (4191, 4192, "regcollation"), (4451, 6150, "int4multirange"),
    (4532, 6151, "nummultirange"), (4533, 6152, "tsmultirange"), (4534, 6153, "tstzmultirange"),
    (4535, 6155, "datemultirange"), (4536, 6157, "int8multirange"), (5038, 5039, "pg_snapshot"),
    (5069, 271, "xid8"),
];

impl PgType {
    /// The type behind an oid of `pg_catalog` and a column's modifier (-1 for none); `None` means that only the
    /// catalog knows (enums, domains, extensions and arrays of those).
    pub fn builtin(oid: u32, type_modifier: i32) -> Option<PgType> {
        if let Some(scalar) = PgType::scalar(oid, type_modifier) {
            return Some(scalar);
        }
        let Some((element, ..)) = BUILTINS.iter().find(|(_, array, _)| *array == oid) else {
            return (oid < FIRST_ASSIGNED_OID).then_some(PgType::Verbatim);
        };
        // An array column's modifier is that of its elements.
        let element = PgType::scalar(*element, type_modifier).unwrap_or(PgType::Verbatim);
        Some(PgType::Array(element.into()))
    }

    /// The name of a type that every database has under this oid.
    pub fn builtin_name(oid: u32) -> Option<String> {
        BUILTINS.iter().find_map(|(scalar, array, name)| match oid {
            _ if oid == *scalar => Some((*name).to_owned()),
            _ if oid == *array => Some(format!("{name}[]")),
            _ => None,
        })
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
            26 => PgType::Oid,
            114 | 3802 => PgType::Json,
            142 => PgType::Xml,
            600 => PgType::Point,
            601 => PgType::Lseg,
            602 => PgType::Path,
            603 => PgType::Box,
            604 => PgType::Polygon,
            628 => PgType::Line,
            // cidr, macaddr8, macaddr, inet
            650 | 774 | 829 | 869 => PgType::Network,
            718 => PgType::Circle,
            790 => PgType::Money,
            700 => PgType::Float4,
            701 => PgType::Float8,
            1082 => PgType::Date,
            1083 => PgType::Time { precision: fraction_digits(type_modifier) },
            1114 => PgType::Timestamp { precision: fraction_digits(type_modifier) },
            1184 => PgType::TimestampTz { precision: fraction_digits(type_modifier) },
            1186 => PgType::Interval,
            1266 => PgType::TimeTz { precision: fraction_digits(type_modifier) },
            1560 => PgType::Bits { length: bit_length(type_modifier), varying: false },
            1562 => PgType::Bits { length: bit_length(type_modifier), varying: true },
            1700 => PgType::numeric(type_modifier),
            2950 => PgType::Uuid,
            3614 => PgType::Tsvector,
            // int4range, numrange, tsrange, tstzrange, daterange, int8range
            3904 | 3906 | 3908 | 3910 | 3912 | 3926 => PgType::Range,
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

/// The modifier of bit types is their length.
fn bit_length(type_modifier: i32) -> u32 {
    u32::try_from(type_modifier).unwrap_or(i32::MAX as u32)
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
    fn a_stored_description_of_an_earlier_version_is_still_read() {
        for (json, expected) in [
            (r#""other""#, PgType::Other),
            (
                r#"{"array":{"numeric":{"precision":10,"scale":2}}}"#,
                PgType::Array(PgType::Numeric { precision: 10, scale: 2 }.into()),
            ),
            (r#"{"enum":{"labels":["a"]}}"#, PgType::Enum { labels: vec!["a".to_owned()] }),
            (r#"{"timestamp_tz":{"precision":3}}"#, PgType::TimestampTz { precision: 3 }),
        ] {
            assert_eq!(serde_json::from_str::<PgType>(json).unwrap(), expected, "{json}");
            assert_eq!(serde_json::to_string(&expected).unwrap(), json);
        }
    }

    #[test]
    fn arrays_take_the_modifier_of_their_elements() {
        assert_eq!(
            PgType::builtin(1231, (10 << 16 | 2) + 4),
            Some(PgType::Array(PgType::Numeric { precision: 10, scale: 2 }.into()))
        );
        assert_eq!(PgType::builtin(1115, 3), Some(PgType::Array(PgType::Timestamp { precision: 3 }.into())));
    }

    #[test]
    fn builtin_types_are_known_and_the_rest_is_for_the_catalog() {
        for (oid, modifier, expected) in [
            (869, -1, PgType::Network),
            (3220, -1, PgType::Verbatim),
            (3221, -1, PgType::Array(PgType::Verbatim.into())),
            (1560, 1, PgType::Bits { length: 1, varying: false }),
            (1562, -1, PgType::Bits { length: 2_147_483_647, varying: true }),
            (1563, 5, PgType::Array(PgType::Bits { length: 5, varying: true }.into())),
            (1020, -1, PgType::Array(PgType::Box.into())),
            (1266, 3, PgType::TimeTz { precision: 3 }),
            (3907, -1, PgType::Array(PgType::Range.into())),
        ] {
            assert_eq!(PgType::builtin(oid, modifier), Some(expected), "{oid}");
        }
        assert_eq!(PgType::builtin(16_385, -1), None);
        assert_eq!(PgType::builtin_name(869).as_deref(), Some("inet"));
        assert_eq!(PgType::builtin_name(1007).as_deref(), Some("int4[]"));
        assert_eq!(PgType::builtin_name(16_385), None);
        assert_eq!(PgType::builtin(1083, i32::MAX), Some(PgType::Time { precision: 6 }));
    }
}
