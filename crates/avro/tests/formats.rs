//! The type tables of `docs/FORMATS.md` say what the code does: their lines are made here from the schemas that the
//! code writes, and must stand in the document as they are.

mod support;

use headwater_avro::{
    ArrayHandling, BinaryHandling, DecimalHandling, HstoreHandling, IntervalHandling, PgType, RecordSettings,
    TimePrecision, TypeStyle, UnknownTypes, ValuePlan,
};
use serde_json::Value as Json;
use support::{column, table};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/FORMATS.md");

/// One line: Postgres' name, an example of the type, the mode in words and as settings, and what a reader should know.
struct Line {
    postgres: &'static str,
    pg_type: PgType,
    mode: &'static str,
    records: RecordSettings,
    note: &'static str,
}

fn line(postgres: &'static str, pg_type: PgType, note: &'static str) -> Line {
    Line { postgres, pg_type, mode: "", records: RecordSettings::default(), note }
}

fn with(
    mode: &'static str,
    set: impl Fn(&mut RecordSettings),
    (postgres, pg_type): (&'static str, PgType),
    note: &'static str,
) -> Line {
    let mut records = RecordSettings::default();
    set(&mut records);
    Line { postgres, pg_type, mode, records, note }
}

/// Fails to compile when a type has no line yet.
fn has_a_line(pg_type: &PgType) {
    match pg_type {
        PgType::Bool | PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => {}
        PgType::Float4 | PgType::Float8 | PgType::Numeric { .. } | PgType::NumericUnconstrained => {}
        PgType::Money | PgType::Text | PgType::Bytea | PgType::Date | PgType::Time { .. } => {}
        PgType::Timestamp { .. } | PgType::TimestampTz { .. } | PgType::TimeTz { .. } => {}
        PgType::Interval | PgType::Uuid | PgType::Json | PgType::Xml | PgType::Bits { .. } => {}
        PgType::Network | PgType::Range | PgType::Tsvector | PgType::Point | PgType::Line => {}
        PgType::Lseg | PgType::Box | PgType::Path | PgType::Polygon | PgType::Circle => {}
        PgType::Hstore | PgType::Ltree | PgType::Geometry | PgType::Geography => {}
        PgType::Vector | PgType::Halfvec | PgType::Sparsevec { .. } => {}
        PgType::Enum { .. } | PgType::Array(_) | PgType::Verbatim | PgType::Other => {}
    }
}

fn connect_lines() -> Vec<Line> {
    let numeric = ("numeric(p,s)", PgType::Numeric { precision: 10, scale: 2 });
    let free = ("numeric", PgType::NumericUnconstrained);
    let money = ("money", PgType::Money);
    let bytea = ("bytea", PgType::Bytea);
    let date = ("date", PgType::Date);
    let time = ("time", PgType::Time { precision: 6 });
    let timestamp = ("timestamp", PgType::Timestamp { precision: 6 });
    let interval = ("interval", PgType::Interval);
    let hstore = ("hstore", PgType::Hstore);
    let array = ("arrays", PgType::Array(Box::new(PgType::Int4)));
    let other = ("types that only the database knows", PgType::Other);
    let decimals = |handling| move |records: &mut RecordSettings| records.decimal_handling = handling;
    let times = |precision| move |records: &mut RecordSettings| records.time_precision = precision;
    let binary = |handling| move |records: &mut RecordSettings| records.binary_handling = handling;
    let (double, string) = ("`decimal_handling = \"double\"`", "`decimal_handling = \"string\"`");
    let (connect, iso, micros, nanos) = (
        "`time_precision = \"connect\"`",
        "`time_precision = \"isostring\"`",
        "`time_precision = \"microseconds\"`",
        "`time_precision = \"nanoseconds\"`",
    );
    vec![
        line("boolean", PgType::Bool, ""),
        line("smallint", PgType::Int2, ""),
        line("integer", PgType::Int4, ""),
        line("bigint", PgType::Int8, ""),
        line("oid", PgType::Oid, ""),
        line("real", PgType::Float4, "NaN and infinities pass"),
        line("double precision", PgType::Float8, "NaN and infinities pass"),
        line(numeric.0, numeric.1.clone(), "NaN and infinities halt"),
        line(free.0, free.1.clone(), "NaN and infinities halt; the scale without trailing zeros"),
        with(
            double,
            decimals(DecimalHandling::Double),
            ("numeric(p,s), numeric", free.1.clone()),
            "the nearest double",
        ),
        with(
            string,
            decimals(DecimalHandling::String),
            ("numeric(p,s), numeric", free.1),
            "`NAN`, `POSITIVE_INFINITY`, `NEGATIVE_INFINITY`",
        ),
        line(
            money.0,
            money.1.clone(),
            "scale `money_fraction_digits`; fewer than two round, halves away from zero",
        ),
        with(double, decimals(DecimalHandling::Double), money.clone(), ""),
        with(string, decimals(DecimalHandling::String), money, "`-1234.56`, whatever the database's locale"),
        line("text, varchar, char(n), \"char\", name, citext, isbn", PgType::Text, "char(n) is blank-padded"),
        line("uuid", PgType::Uuid, ""),
        line("json, jsonb", PgType::Json, "the text that Postgres prints"),
        line("xml", PgType::Xml, ""),
        line(
            "enum",
            PgType::Enum { labels: vec!["a".to_owned()] },
            "`allowed` lists the labels known when the version was stored",
        ),
        line("inet, cidr, macaddr, macaddr8", PgType::Network, ""),
        line(
            "int4range, int8range, numrange, tsrange, tstzrange, daterange",
            PgType::Range,
            "the text that Postgres prints in UTC",
        ),
        line("tsvector", PgType::Tsvector, ""),
        line("ltree", PgType::Ltree, ""),
        line(hstore.0, hstore.1.clone(), "a JSON object in Postgres' order"),
        with(
            "`hstore_handling = \"map\"`",
            |records| records.hstore_handling = HstoreHandling::Map,
            hstore,
            "",
        ),
        line(bytea.0, bytea.1.clone(), ""),
        with(
            "`binary_handling = \"base64\"`, `\"base64-url-safe\"`, `\"hex\"`",
            binary(BinaryHandling::Hex),
            bytea,
            "",
        ),
        line(
            "bit(1), bit varying(1)",
            PgType::Bits { length: 1, varying: false },
            "an empty `bit varying(1)` halts",
        ),
        line(
            "bit(n), bit varying(n)",
            PgType::Bits { length: 8, varying: false },
            "the lowest byte first, none behind the highest set bit: the length of a bit varying is not kept",
        ),
        line(date.0, date.1.clone(), "days since 1970-01-01; ±infinity is 2146033979 and -2147472691"),
        with(connect, times(TimePrecision::Connect), date.clone(), ""),
        with(iso, times(TimePrecision::Isostring), date, "`2024-02-29Z`; infinity is `+5877611-06-21Z`"),
        line("time(0–3)", PgType::Time { precision: 3 }, "milliseconds"),
        line("time(4–6)", time.1.clone(), "microseconds; 24:00:00 is 86400000000"),
        with(
            "`\"adaptive_time_microseconds\"`, `\"microseconds\"`",
            times(TimePrecision::AdaptiveTimeMicroseconds),
            time.clone(),
            "of any precision",
        ),
        with(nanos, times(TimePrecision::Nanoseconds), time.clone(), ""),
        with(connect, times(TimePrecision::Connect), time.clone(), "milliseconds, finer digits are cut off"),
        with(iso, times(TimePrecision::Isostring), time, "`12:34:56.5Z`"),
        line("timestamp(0–3)", PgType::Timestamp { precision: 3 }, "milliseconds"),
        line(
            "timestamp(4–6)",
            timestamp.1.clone(),
            "microseconds; ±infinity is the largest and the smallest long",
        ),
        with(micros, times(TimePrecision::Microseconds), timestamp.clone(), "of any precision"),
        with(
            nanos,
            times(TimePrecision::Nanoseconds),
            timestamp.clone(),
            "the years 1677 to 2262; others halt",
        ),
        with(
            connect,
            times(TimePrecision::Connect),
            timestamp.clone(),
            "milliseconds, rounded down; ±infinity is 9223372036825200000 and -9223372036832400000",
        ),
        with(
            iso,
            times(TimePrecision::Isostring),
            timestamp,
            "`2024-02-29T12:34:56.5Z`; infinity is `+292278994-08-16T23:00:00Z`",
        ),
        line(
            "timestamptz",
            PgType::TimestampTz { precision: 6 },
            "UTC, as many digits of a second as the column has; `infinity`, `-infinity`; years beyond 9999 with `+`, BC with `-`",
        ),
        line("timetz", PgType::TimeTz { precision: 6 }, "UTC, as many digits as needed"),
        line(interval.0, interval.1.clone(), "microseconds, 30.4375 days to a month; infinity halts"),
        with(
            "`interval_handling = \"string\"`",
            |records| records.interval_handling = IntervalHandling::String,
            interval,
            "`P1Y2M3DT4H5M6.78S`; `infinity`, `-infinity`",
        ),
        line("point", PgType::Point, ""),
        line("line", PgType::Line, ""),
        line("circle", PgType::Circle, ""),
        line(
            "lseg",
            PgType::Lseg,
            "the type's name stands in `extensions`; box as a ring of five points, polygon as a closed ring, path with `closed`",
        ),
        line("box", PgType::Box, ""),
        line("path", PgType::Path, ""),
        line("polygon", PgType::Polygon, ""),
        line("PostGIS geometry", PgType::Geometry, "the EWKB as it is; its SRID or null, in arrays too"),
        line("PostGIS geography", PgType::Geography, "the same"),
        line("pgvector vector", PgType::Vector, ""),
        line("pgvector halfvec", PgType::Halfvec, ""),
        line(
            "pgvector sparsevec",
            PgType::Sparsevec { dimensions: None },
            "indexes from 1; more than 32767 dimensions halt",
        ),
        line(
            "sparsevec(n), n > 32767",
            PgType::Sparsevec { dimensions: Some(40_000) },
            "Debezium's 16 bits don't hold it",
        ),
        line(
            array.0,
            array.1.clone(),
            "as their elements, which may be NULL; lower bounds are not kept; several dimensions halt",
        ),
        with(
            "`array_handling = \"text\"`",
            |records| records.array_handling = ArrayHandling::Text,
            array,
            "Postgres' text with dimensions and bounds",
        ),
        line(
            "composite types, multiranges, users' ranges, tsquery, pg_lsn, jsonpath, xid8, regclass, other types of Postgres itself",
            PgType::Verbatim,
            "Postgres' text; Debezium drops them",
        ),
        line(
            other.0,
            other.1.clone(),
            "Postgres' text, and a warning once per column; `unknown_types = \"halt\"` refuses them",
        ),
        with(
            "`unknown_types = \"bytes\"`",
            |records| records.unknown_types = UnknownTypes::Bytes,
            ("both of the above", PgType::Verbatim),
            "the text's bytes, in the mode of `binary_handling`",
        ),
    ]
}

fn avro_lines() -> Vec<Line> {
    let line = |postgres, pg_type, note| {
        let mut line = line(postgres, pg_type, note);
        line.records.types = TypeStyle::Avro;
        line
    };
    vec![
        line(
            "numeric(p,s)",
            PgType::Numeric { precision: 10, scale: 2 },
            "a scale that is negative or beyond the precision widens it",
        ),
        line(
            "numeric",
            PgType::NumericUnconstrained,
            "`NaN`, `Infinity`, `-Infinity`; also with `decimal_handling = \"string\"`",
        ),
        line("money", PgType::Money, ""),
        line("uuid", PgType::Uuid, ""),
        line(
            "enum",
            PgType::Enum { labels: vec!["a".to_owned()] },
            "labels come and go, an Avro enum's don't",
        ),
        line("bit(1)", PgType::Bits { length: 1, varying: false }, ""),
        line("bit(n), bit varying", PgType::Bits { length: 8, varying: true }, "the digits"),
        line("date", PgType::Date, "±infinity is the largest and the smallest int"),
        line("time", PgType::Time { precision: 3 }, "24:00:00 is 86400000000"),
        line(
            "timestamp",
            PgType::Timestamp { precision: 3 },
            "±infinity is the largest and the smallest long",
        ),
        line("timestamptz", PgType::TimestampTz { precision: 6 }, "the same"),
        line("timetz", PgType::TimeTz { precision: 6 }, "with its zone, as Postgres prints it"),
        line("interval", PgType::Interval, "`P1Y2M3DT4H5M6.78S`"),
        line("hstore", PgType::Hstore, ""),
        line("pgvector vector", PgType::Vector, ""),
        line("arrays", PgType::Array(Box::new(PgType::Date)), "as their elements"),
    ]
}

/// The columns that come out of the schema: Avro's type and Connect's name.
fn form(line: &Line) -> (String, String) {
    has_a_line(&line.pg_type);
    let table = table("t", &[], vec![column("c", line.pg_type.clone())]);
    let plan = ValuePlan::new(&table, &support::source(), &line.records).expect("a schema");
    let schema: Json = serde_json::from_str(plan.schema_json()).expect("JSON");
    let column = &schema["fields"][0]["type"][1]["fields"][0]["type"][1];
    let name = match (&column["connect.name"], &column["connect.type"]) {
        (Json::String(name), _) => format!("`{name}`"),
        (_, Json::String(kind)) => format!("(`connect.type` {kind})"),
        _ => String::new(),
    };
    (avro(column), name)
}

fn avro(schema: &Json) -> String {
    match schema {
        Json::String(name) => name.rsplit('.').next().unwrap_or_default().to_owned(),
        Json::Array(union) => format!("{}?", avro(&union[1])),
        _ => match (schema["type"].as_str().unwrap_or_default(), schema["logicalType"].as_str()) {
            ("array", _) => format!("array of {}", avro(&schema["items"])),
            ("map", _) => format!("map of {}", schema["values"].as_array().map_or("string", |_| "string?")),
            ("record", _) => {
                let fields = schema["fields"].as_array().expect("fields").iter();
                let names: Vec<_> = fields.filter_map(|field| field["name"].as_str()).collect();
                format!("record {{{}}}", names.join(", "))
            }
            (base, Some(logical)) => format!("{base}, {logical}"),
            (base, None) => base.to_owned(),
        },
    }
}

#[test]
fn the_tables_of_types_say_what_the_code_does() {
    let document = std::fs::read_to_string(DOCUMENT).expect(DOCUMENT);
    let connect = connect_lines().iter().map(connect_line).collect::<Vec<_>>().join("\n");
    let avro = avro_lines().iter().map(avro_line).collect::<Vec<_>>().join("\n");
    for expected in [connect, avro] {
        assert!(
            document.contains(&expected),
            "docs/FORMATS.md is stale; it should have these lines:\n{expected}\n"
        );
    }
}

fn connect_line(line: &Line) -> String {
    let (avro, name) = form(line);
    format!("| {} | {} | {avro} | {name} | {} |", line.postgres, line.mode, line.note)
}

fn avro_line(line: &Line) -> String {
    let (avro, name) = form(line);
    assert_eq!(name, "");
    format!("| {} | {avro} | {} |", line.postgres, line.note)
}
