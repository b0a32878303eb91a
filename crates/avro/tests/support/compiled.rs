//! Tables of one column, compiled, for every type in every mode.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::types::Value;
use headwater_avro::{
    AbsentBefore, ArrayHandling, BinaryHandling, DecimalHandling, EncodeError, HstoreHandling,
    IntervalHandling, PgType, RecordSettings, TableDescription, TimePrecision, TypeStyle, UnknownTypes,
    ValuePlan,
};

use super::{Cell, Row, SCHEMA_ID, column, table};

pub fn one_column(pg_type: &PgType) -> TableDescription {
    table("t", &[], vec![column("c", pg_type.clone())])
}

/// A table of one column, compiled, and its schema as apache-avro reads it.
pub struct Compiled {
    pub pg_type: PgType,
    pub plan: ValuePlan,
    schema: Schema,
}

impl Compiled {
    pub fn new(pg_type: &PgType) -> Compiled {
        Compiled::with(pg_type, &RecordSettings::default())
    }

    pub fn with(pg_type: &PgType, records: &RecordSettings) -> Compiled {
        let plan = ValuePlan::new(&one_column(pg_type), &super::source(), records).expect("a schema");
        let schema = super::parse(plan.schema_json());
        Compiled { pg_type: pg_type.clone(), plan, schema }
    }

    /// Encodes one value and decodes it again.
    pub fn round_trip(&self, cell: Cell<'_>) -> Result<Value, EncodeError> {
        let row = Row::new(&[cell]);
        let mut out = b"before".to_vec();
        let result = self.plan.encode_into(SCHEMA_ID, &super::create(&row.tuple()), &mut out);
        if let Err(error) = result {
            assert_eq!(out, b"before", "an error leaves no bytes behind");
            return Err(error);
        }
        let envelope = super::decode(&self.schema, &out[b"before".len()..]);
        Ok(super::field(&super::field(&envelope, "after"), "c"))
    }
}

pub fn round_trip(pg_type: &PgType, cell: Cell<'_>) -> Result<Value, EncodeError> {
    Compiled::new(pg_type).round_trip(cell)
}

/// Every type in every mode; a type that is the same in several modes comes once.
pub static COMPILED: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    let mut seen = std::collections::HashSet::new();
    let mut all = Vec::new();
    for records in all_modes() {
        for pg_type in all_types() {
            let compiled = Compiled::with(&pg_type, &records);
            if seen.insert((format!("{pg_type:?}"), compiled.plan.schema_json().to_owned())) {
                all.push(compiled);
            }
        }
    }
    all
});

pub fn all_types() -> Vec<PgType> {
    let scalars = vec![
        PgType::Bool,
        PgType::Int2,
        PgType::Int4,
        PgType::Int8,
        PgType::Oid,
        PgType::Float4,
        PgType::Float8,
        PgType::Numeric { precision: 10, scale: 2 },
        PgType::Numeric { precision: 3, scale: -2 },
        PgType::Numeric { precision: 2, scale: 5 },
        PgType::NumericUnconstrained,
        PgType::Money,
        PgType::Text,
        PgType::Bytea,
        PgType::Date,
        PgType::Time { precision: 0 },
        PgType::Time { precision: 6 },
        PgType::TimeTz { precision: 6 },
        PgType::Timestamp { precision: 3 },
        PgType::Timestamp { precision: 6 },
        PgType::TimestampTz { precision: 0 },
        PgType::TimestampTz { precision: 6 },
        PgType::Interval,
        PgType::Uuid,
        PgType::Json,
        PgType::Xml,
        PgType::Bits { length: 1, varying: false },
        PgType::Bits { length: 70, varying: true },
        PgType::Enum { labels: vec!["a,b\"".to_owned(), "ü".to_owned()] },
        PgType::Network,
        PgType::Range,
        PgType::Tsvector,
        PgType::Point,
        PgType::Line,
        PgType::Lseg,
        PgType::Box,
        PgType::Path,
        PgType::Polygon,
        PgType::Circle,
        PgType::Hstore,
        PgType::Ltree,
        PgType::Geometry,
        PgType::Geography,
        PgType::Vector,
        PgType::Halfvec,
        PgType::Sparsevec { dimensions: None },
        PgType::Sparsevec { dimensions: Some(100_000) },
        PgType::Verbatim,
        PgType::Other,
    ];
    let arrays: Vec<_> = scalars.iter().map(|element| PgType::Array(Box::new(element.clone()))).collect();
    scalars.into_iter().chain(arrays).collect()
}

/// Every word of every mode at least once, in both styles.
pub fn all_modes() -> Vec<RecordSettings> {
    let mut modes = Vec::new();
    for (_, types) in TypeStyle::WORDS {
        for turn in 0..TimePrecision::WORDS.len() {
            modes.push(RecordSettings {
                types: *types,
                decimal_handling: pick(DecimalHandling::WORDS, turn),
                time_precision: pick(TimePrecision::WORDS, turn),
                interval_handling: pick(IntervalHandling::WORDS, turn),
                binary_handling: pick(BinaryHandling::WORDS, turn),
                hstore_handling: pick(HstoreHandling::WORDS, turn),
                array_handling: if turn == 5 { ArrayHandling::Text } else { ArrayHandling::List },
                money_fraction_digits: [2, 0, 40, 1, 3, 4][turn],
                unknown_types: if turn % 2 == 1 { UnknownTypes::Bytes } else { UnknownTypes::Text },
                absent_before: pick(AbsentBefore::WORDS, turn),
                unavailable_value_placeholder: ["gone", "hex:00ff"][turn % 2].to_owned(),
                ..RecordSettings::default()
            });
        }
    }
    modes
}

fn pick<T: Copy>(words: &[(&str, T)], turn: usize) -> T {
    words[turn % words.len()].1
}
