//! When a column's type is widened: its source's type became one that holds more, and every value that is there stays
//! what it is.
//!
//! In: a column as the catalog has it, and as the schema offers it. Out: the type to alter it to. Never to a type that
//! holds less, nor to one of another kind: a column of the team's own choice stays what it is.

use headwater_avro::reading::{OfferedColumn, PgColumnType};

/// numeric's largest precision that can be declared.
const PRECISION_MAX: i64 = 1000;

/// varchar's longest.
const VARCHAR_MAX: i64 = 10_485_760;

/// The wider type, as SQL has it; none where the column is wide enough, or of another kind.
pub(crate) fn wider(have: &PgColumnType, offered: &OfferedColumn) -> Option<String> {
    let wanted = offered.created_type.as_deref().ok()?;
    let modifier = i64::from(have.modifier);
    match (have.name.as_str(), wanted) {
        ("int2", "integer" | "bigint") | ("int4", "bigint") => Some(wanted.to_owned()),
        ("float4", "double precision") => Some(wanted.to_owned()),
        ("int2" | "int4" | "int8", _) => {
            let digits = match have.name.as_str() {
                "int2" => 5,
                "int4" => 10,
                _ => 19,
            };
            Some(match declared(wanted)? {
                Some((precision, scale)) if precision - scale >= digits => wanted.to_owned(),
                _ => "numeric".to_owned(),
            })
        }
        ("numeric", _) if modifier >= 4 => wider_numeric(modifier - 4, declared(wanted)?),
        ("varchar", "text" | "varchar") if modifier >= 4 => {
            let length = offered.declared_length.filter(|length| *length <= VARCHAR_MAX)?;
            (length > modifier - 4).then(|| format!("varchar({length})"))
        }
        _ => None,
    }
}

/// Precision and scale of a numeric, the inner option none where it has none; the outer where it is no numeric.
fn declared(wanted: &str) -> Option<Option<(i64, i64)>> {
    let Some(parts) = wanted.strip_prefix("numeric(") else {
        return (wanted == "numeric").then_some(None);
    };
    let (precision, scale) = parts.strip_suffix(')')?.split_once(',')?;
    Some(Some((precision.parse().ok()?, scale.parse().ok()?)))
}

/// Digits before the point and behind it, of each the more.
fn wider_numeric(packed: i64, wanted: Option<(i64, i64)>) -> Option<String> {
    // The scale has eleven bits with a sign (PostgreSQL 15).
    let (precision, scale) = (packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 0x400) - 0x400);
    let Some((wanted_precision, wanted_scale)) = wanted else { return Some("numeric".to_owned()) };
    let (before, behind) = (precision - scale, scale);
    let (all_before, all_behind) = (before.max(wanted_precision - wanted_scale), behind.max(wanted_scale));
    if (all_before, all_behind) == (before, behind) {
        return None;
    }
    let all = all_before + all_behind;
    Some(if all <= PRECISION_MAX { format!("numeric({all},{all_behind})") } else { "numeric".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(have: (&str, i32), wanted: &str, length: Option<i64>, expected: Option<&str>) {
        let column = PgColumnType { name: have.0.to_owned(), modifier: have.1 };
        let offered = OfferedColumn {
            name: "c".to_owned(),
            created_type: Ok(wanted.to_owned()),
            declared_length: length,
        };
        assert_eq!(wider(&column, &offered).as_deref(), expected, "{have:?} to {wanted}");
    }

    fn numeric(precision: i32, scale: i32) -> (&'static str, i32) {
        ("numeric", (precision << 16 | scale & 0x7FF) + 4)
    }

    #[test]
    fn only_what_holds_more() {
        for (have, wanted, expected) in [
            (("int2", -1), "integer", Some("integer")),
            (("int2", -1), "bigint", Some("bigint")),
            (("int4", -1), "bigint", Some("bigint")),
            (("int4", -1), "smallint", None),
            (("int8", -1), "integer", None),
            (("int4", -1), "numeric(12,2)", Some("numeric(12,2)")),
            (("int4", -1), "numeric(11,2)", Some("numeric")),
            (("int8", -1), "numeric", Some("numeric")),
            (("int4", -1), "text", None),
            (("float4", -1), "double precision", Some("double precision")),
            (("float8", -1), "real", None),
            (("text", -1), "integer", None),
            (("timestamptz", -1), "timestamp", None),
            (numeric(10, 2), "numeric(12,2)", Some("numeric(12,2)")),
            (numeric(10, 2), "numeric(12,4)", Some("numeric(12,4)")),
            (numeric(10, 2), "numeric(10,4)", Some("numeric(12,4)")),
            (numeric(10, 2), "numeric(8,2)", None),
            (numeric(10, 2), "numeric", Some("numeric")),
            (numeric(1000, 2), "numeric(1000,4)", Some("numeric")),
            (("numeric", -1), "numeric(10,2)", None),
        ] {
            check(have, wanted, None, expected);
        }
    }

    #[test]
    fn texts_by_the_length_that_the_source_declared() {
        check(("varchar", 54), "varchar", Some(100), Some("varchar(100)"));
        check(("varchar", 54), "varchar", Some(50), None);
        check(("varchar", 54), "varchar", Some(20), None);
        // text, to Debezium, has 2^31 - 1.
        check(("varchar", 54), "text", Some(2_147_483_647), None);
        check(("varchar", 54), "text", None, None);
        check(("varchar", -1), "varchar", Some(100), None);
    }
}
