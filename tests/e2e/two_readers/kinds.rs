//! Postgres' types with strategies for their values: literals that Postgres accepts, and how its own text is asked for
//! where a record holds the value in another form.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;

/// `types` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Debezium's forms.
    Connect,
    /// Avro's own logical types.
    Avro,
}

/// A type.
pub struct Kind {
    /// Its name in SQL.
    pub name: &'static str,
    /// Literals.
    pub values: fn(Style) -> BoxedStrategy<String>,
    /// What is compared with a record of each style: an SQL expression of the value `x`.
    pub rendered: [&'static str; 2],
}

/// What the names below need.
pub const DEFINITIONS: &str = r#"
create type mood as enum ('sad', 'ok', 'so "so", no', 'NULL', '');
create domain positive as numeric(8,2) check (value > 0);
create type pair as (a int, b text);
"#;

/// As Postgres prints it.
const AS_IS: [&str; 2] = ["x", "x"];
/// In UTC as Debezium has it; as it is in Avro's own style.
const IN_UTC: [&str; 2] = ["x at time zone 'UTC'", "x"];
/// Every part of an interval with its own sign, where it is text.
const PARTS: [&str; 2] = [
    "x",
    "'P' || extract(year from x) || 'Y' || extract(month from x) || 'M' || extract(day from x) || 'DT' ||
     extract(hour from x) || 'H' || extract(minute from x) || 'M' || trim_scale(extract(second from x)) || 'S'",
];
const MONEY: [&str; 2] = ["x::numeric", "x::numeric"];
/// One bit is a boolean; one of a `bit varying` only to Debezium.
const BIT: [&str; 2] = ["x::int::bool", "x::int::bool"];
const VARBIT: [&str; 2] = ["x::bit(1)::int::bool", "x"];
/// The elements of other arrays are divided by commas.
const BOX: [&str; 2] = ["x::text", "x::text"];

/// All of them.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    Kind { name: "bool", values: |_| any::<bool>().prop_map(|b| b.to_string()).boxed(), rendered: AS_IS },
    Kind { name: "int2", values: |_| edges(any::<i16>(), &[i16::MIN, i16::MAX]), rendered: AS_IS },
    Kind { name: "int4", values: |_| edges(any::<i32>(), &[i32::MIN, i32::MAX]), rendered: AS_IS },
    Kind { name: "int8", values: |_| edges(any::<i64>(), &[i64::MIN, i64::MAX]), rendered: AS_IS },
    Kind { name: "oid", values: |_| edges(any::<u32>(), &[u32::MAX]), rendered: AS_IS },
    Kind { name: "float4", values: |_| proptest::num::f32::ANY.prop_map(|f| format!("{f:?}")).boxed(), rendered: AS_IS },
    Kind { name: "float8", values: |_| proptest::num::f64::ANY.prop_map(|f| format!("{f:?}")).boxed(), rendered: AS_IS },
    Kind { name: "numeric", values: numeric, rendered: AS_IS },
    Kind { name: "numeric(12,4)", values: |_| scaled(999_999_999_999, 4), rendered: AS_IS },
    Kind { name: "numeric(5)", values: |_| scaled(99_999, 0), rendered: AS_IS },
    Kind { name: "numeric(38,20)", values: |_| text("-?[0-9]{1,18}\\.[0-9]{20}"), rendered: AS_IS },
    Kind { name: "numeric(90,45)", values: |_| text("-?[0-9]{1,45}\\.[0-9]{45}"), rendered: AS_IS },
    Kind { name: "money", values: |_| scaled(9_200_000_000_000_000_000, 2), rendered: MONEY },
    Kind { name: "text", values: |_| any_text(), rendered: AS_IS },
    Kind { name: "varchar(10)", values: |_| text("\\PC{0,10}"), rendered: AS_IS },
    Kind { name: "char(8)", values: |_| text("[ -~é]{0,8}"), rendered: AS_IS },
    Kind { name: "\"char\"", values: |_| text("[ -~]"), rendered: AS_IS },
    Kind { name: "name", values: |_| text("[ -~]{0,60}"), rendered: AS_IS },
    Kind { name: "bytea", values: |_| vec(any::<u8>(), 0..40).prop_map(|b| hex(&b, "\\x", "")).boxed(), rendered: AS_IS },
    Kind { name: "date", values: |_| infinite(date(5_874_897)), rendered: AS_IS },
    Kind { name: "time", values: |_| time(6), rendered: AS_IS },
    Kind { name: "time(2)", values: |_| time(2), rendered: AS_IS },
    Kind { name: "timestamp", values: |_| infinite(timestamp(6)), rendered: AS_IS },
    Kind { name: "timestamp(3)", values: |_| infinite(timestamp(3)), rendered: AS_IS },
    Kind { name: "timestamp(0)", values: |_| infinite(timestamp(0)), rendered: AS_IS },
    Kind { name: "timestamptz", values: |_| infinite(timestamp(6)), rendered: AS_IS },
    Kind { name: "timestamptz(1)", values: |_| infinite(timestamp(1)), rendered: AS_IS },
    Kind { name: "timetz", values: |_| (clock(6), -12..=12i32).prop_map(|(t, zone)| format!("{t}{zone:+03}:30")).boxed(), rendered: IN_UTC },
    Kind { name: "interval", values: |_| interval(), rendered: PARTS },
    Kind { name: "uuid", values: |_| any::<u128>().prop_map(|n| format!("{n:032x}")).boxed(), rendered: AS_IS },
    Kind { name: "json", values: |_| json(), rendered: AS_IS },
    Kind { name: "jsonb", values: |_| json(), rendered: AS_IS },
    Kind { name: "xml", values: |_| text("<a b=\"[a-z0-9]{0,8}\">[a-zA-Z0-9 ,{}é]{0,12}</a>"), rendered: AS_IS },
    Kind { name: "bit(1)", values: |_| text("[01]"), rendered: BIT },
    Kind { name: "bit(37)", values: |_| text("[01]{37}"), rendered: AS_IS },
    Kind { name: "bit varying", values: |_| text("[01]{0,40}"), rendered: AS_IS },
    Kind { name: "bit varying(1)", values: |_| text("[01]"), rendered: VARBIT },
    Kind { name: "inet", values: |_| inet(), rendered: AS_IS },
    Kind { name: "cidr", values: |_| (0..=255u8, 8..=32u8).prop_map(|(a, m)| format!("{a}.0.0.0/{m}")).boxed(), rendered: AS_IS },
    Kind { name: "macaddr", values: |_| any::<[u8; 6]>().prop_map(|b| hex(&b, "", ":")).boxed(), rendered: AS_IS },
    Kind { name: "macaddr8", values: |_| any::<[u8; 8]>().prop_map(|b| hex(&b, "", ":")).boxed(), rendered: AS_IS },
    Kind { name: "point", values: |_| points(1..2).prop_map(|p| p.join("")).boxed(), rendered: AS_IS },
    Kind { name: "line", values: |_| (1.0..9.0f64, coordinate(), coordinate()).prop_map(|(a, b, c)| format!("{{{a},{b},{c}}}")).boxed(), rendered: AS_IS },
    Kind { name: "lseg", values: |_| points(2..3).prop_map(|p| format!("[{}]", p.join(","))).boxed(), rendered: AS_IS },
    Kind { name: "box", values: |_| points(2..3).prop_map(|p| p.join(",")).boxed(), rendered: BOX },
    Kind { name: "path", values: |_| (points(1..6), any::<bool>()).prop_map(|(p, open)| if open { format!("[{}]", p.join(",")) } else { format!("({})", p.join(",")) }).boxed(), rendered: AS_IS },
    Kind { name: "polygon", values: |_| polygon(), rendered: AS_IS },
    Kind { name: "circle", values: |_| (points(1..2), 0.0..9e9f64).prop_map(|(p, r)| format!("<{},{r}>", p[0])).boxed(), rendered: AS_IS },
    Kind { name: "int4range", values: |_| range(any::<i16>().prop_map(i64::from), |n| n.to_string()), rendered: AS_IS },
    Kind { name: "int8range", values: |_| range(any::<i32>().prop_map(i64::from), |n| n.to_string()), rendered: AS_IS },
    Kind { name: "numrange", values: |_| range(any::<i32>().prop_map(i64::from), |n| format!("{n}.50")), rendered: AS_IS },
    Kind { name: "daterange", values: |_| range(1..9999i64, |y| format!("{y:04}-02-03")), rendered: AS_IS },
    Kind { name: "tsrange", values: |_| range(1..9999i64, |y| format!("\"{y:04}-02-03 04:05:06.7\"")), rendered: AS_IS },
    Kind { name: "tstzrange", values: |_| range(1..9999i64, |y| format!("\"{y:04}-02-03 04:05:06+05\"")), rendered: AS_IS },
    Kind { name: "int4multirange", values: |_| ranges(), rendered: AS_IS },
    Kind { name: "int8multirange", values: |_| ranges(), rendered: AS_IS },
    Kind { name: "nummultirange", values: |_| ranges(), rendered: AS_IS },
    Kind { name: "tsvector", values: |_| text("[a-z]{1,6}:[1-9]A [a-z]{1,6}( '[a-z][a-z ,]{0,3}':3)?"), rendered: AS_IS },
    Kind { name: "tsquery", values: |_| text("[a-z]{1,5}( [&|] !?[a-z]{1,5}){0,3}"), rendered: AS_IS },
    Kind { name: "jsonpath", values: |_| text("\\$\\.[a-z]{1,5} \\? \\(@ > [1-9][0-9]{0,2}\\)"), rendered: AS_IS },
    Kind { name: "pg_lsn", values: |_| any::<u64>().prop_map(|n| format!("{:X}/{:X}", n >> 32, n as u32)).boxed(), rendered: AS_IS },
    Kind { name: "xid", values: |_| edges(any::<u32>(), &[u32::MAX]), rendered: AS_IS },
    Kind { name: "xid8", values: |_| edges(any::<u64>(), &[u64::MAX]), rendered: AS_IS },
    Kind { name: "tid", values: |_| (any::<u32>(), any::<u16>()).prop_map(|(b, o)| format!("({b},{o})")).boxed(), rendered: AS_IS },
    Kind { name: "pg_snapshot", values: |_| (1..99u32, 0..99u32).prop_map(|(low, more)| format!("{low}:{}:", low + more)).boxed(), rendered: AS_IS },
    Kind { name: "regtype", values: |_| text("integer|text\\[\\]|date"), rendered: AS_IS },
    Kind { name: "mood", values: |_| text("sad|ok|so \"so\", no|NULL|"), rendered: AS_IS },
    Kind { name: "positive", values: |_| (1..99_999_999i64).prop_map(|n| decimal(n, 2)).boxed(), rendered: AS_IS },
    Kind { name: "pair", values: |_| (any::<i32>(), "[a-z \"\\\\,{}]{0,6}").prop_map(|(n, t)| format!("({n},\"{}\")", t.replace(['"', '\\'], "\"\""))).boxed(), rendered: AS_IS },
];

fn text(pattern: &'static str) -> BoxedStrategy<String> {
    proptest::string::string_regex(pattern).expect("a regular expression").boxed()
}

fn any_text() -> BoxedStrategy<String> {
    prop_oneof![text("\\PC{0,20}"), text("[ -~\n\t\r\\\\\"'{},]{0,12}"), text("(NULL|null|a{100,300})?")]
        .boxed()
}

fn edges<T>(any: impl Strategy<Value = T> + 'static, edges: &'static [T]) -> BoxedStrategy<String>
where
    T: std::fmt::Display + std::fmt::Debug + Clone + Sync + 'static,
{
    prop_oneof![4 => any, 1 => proptest::sample::select(edges)].prop_map(|n| n.to_string()).boxed()
}

/// Digits with `scale` of them behind the point.
fn decimal(unscaled: i64, scale: usize) -> String {
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn scaled(limit: i64, scale: usize) -> BoxedStrategy<String> {
    (-limit..=limit).prop_map(move |n| decimal(n, scale)).boxed()
}

/// NaN and infinities have no place in Debezium's form: there they halt, which other tests show.
fn numeric(style: Style) -> BoxedStrategy<String> {
    let finite = prop_oneof![text("-?[0-9]{1,40}(\\.[0-9]{1,30})?"), text("-?[1-9]e-?[0-9]{1,2}")];
    match style {
        Style::Connect => finite.boxed(),
        Style::Avro => prop_oneof![8 => finite, 1 => text("NaN|-?Infinity")].boxed(),
    }
}

fn hex(bytes: &[u8], start: &str, between: &str) -> String {
    let pairs: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{start}{}", pairs.join(between))
}

fn infinite(finite: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop_oneof![9 => finite, 1 => text("-?infinity")].boxed()
}

/// A year that people write, or any that Postgres knows.
fn date(last_year: i32) -> BoxedStrategy<String> {
    let year = prop_oneof![3 => 1900..2100i32, 1 => 1..=last_year, 1 => -4711..0i32];
    (year, 1..=12, 1..=28)
        .prop_map(|(year, month, day)| {
            let era = if year < 0 { " BC" } else { "" };
            format!("{:04}-{month:02}-{day:02}{era}", year.abs())
        })
        .boxed()
}

fn clock(digits: u32) -> BoxedStrategy<String> {
    let micros = prop_oneof![0..86_400_000_000i64, (0..86_400i64).prop_map(|seconds| seconds * 1_000_000)];
    let unit = 10i64.pow(6 - digits);
    micros
        .prop_map(move |micros| {
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000 / unit * unit);
            format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        })
        .boxed()
}

fn time(digits: u32) -> BoxedStrategy<String> {
    prop_oneof![9 => clock(digits), 1 => text("24:00:00")].boxed()
}

fn timestamp(digits: u32) -> BoxedStrategy<String> {
    let last_year = 294_275;
    (date(last_year), clock(digits))
        .prop_map(|(date, clock)| match date.strip_suffix(" BC") {
            Some(date) => format!("{date} {clock} BC"),
            None => format!("{date} {clock}"),
        })
        .boxed()
}

fn interval() -> BoxedStrategy<String> {
    (-9999..9999i32, -99..99i32, -9999..9999i32, -99_999_999_999..99_999_999_999i64)
        .prop_map(|(years, months, days, micros)| {
            format!("{years} years {months} months {days} days {micros} microseconds")
        })
        .boxed()
}

fn json() -> BoxedStrategy<String> {
    let quoted = |text: String| serde_json::Value::String(text).to_string();
    let leaf = prop_oneof![
        text("-?[1-9][0-9]{0,25}\\.[0-9]{1,9}"),
        text("null|true|1e5|0"),
        text("\\PC{0,8}").prop_map(quoted)
    ];
    leaf.prop_recursive(3, 8, 3, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(" , "))),
            vec((text("[a-c\"é]{0,2}").prop_map(quoted), inner), 0..3).prop_map(|pairs| {
                let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", pairs.join(", "))
            }),
        ]
    })
    .boxed()
}

fn inet() -> BoxedStrategy<String> {
    let four =
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, mask)| format!("{}/{mask}", std::net::Ipv4Addr::from(a)));
    let six = any::<[u16; 8]>().prop_map(|a| std::net::Ipv6Addr::from(a).to_string());
    prop_oneof![four, six].boxed()
}

fn coordinate() -> BoxedStrategy<f64> {
    prop_oneof![-1e9..1e9f64, (-9..9i32).prop_map(f64::from)].boxed()
}

fn points(count: std::ops::Range<usize>) -> BoxedStrategy<Vec<String>> {
    vec((coordinate(), coordinate()).prop_map(|(x, y)| format!("({x},{y})")), count).boxed()
}

/// Records hold a closed ring: that the last point was already the first can't be seen in it.
fn polygon() -> BoxedStrategy<String> {
    points(2..6)
        .prop_filter("open", |points| points.first() != points.last())
        .prop_map(|points| format!("({})", points.join(",")))
        .boxed()
}

fn range(
    bound: impl Strategy<Value = i64> + Clone + 'static,
    text_of: fn(i64) -> String,
) -> BoxedStrategy<String> {
    let bounds = (bound.clone(), bound, 0..8u8).prop_map(move |(a, b, form)| {
        let (mut low, mut high) = (text_of(a.min(b)), text_of(a.max(b)));
        if form & 1 != 0 {
            low.clear();
        }
        if form & 2 != 0 {
            high.clear();
        }
        let (open, close) = if form & 4 != 0 { ('(', ']') } else { ('[', ')') };
        format!("{open}{low},{high}{close}")
    });
    prop_oneof![8 => bounds, 1 => text("empty")].boxed()
}

/// Ranges one behind the other.
fn ranges() -> BoxedStrategy<String> {
    vec((1..9u32, 1..9u32), 0..4)
        .prop_map(|steps| {
            let (mut at, mut list) = (0, String::new());
            for (gap, length) in steps {
                let comma = if list.is_empty() { "" } else { "," };
                let _ = write!(list, "{comma}[{},{})", at + gap, at + gap + length);
                at += gap + length;
            }
            format!("{{{list}}}")
        })
        .boxed()
}
