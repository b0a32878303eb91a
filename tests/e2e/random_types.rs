//! Tables of random columns, rows of random values made by Postgres itself: what arrives is what it renders.

use anyhow::{Context, Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::random::Random;

const TABLES: usize = 8;
const ROWS: usize = 200;

/// A type and an expression of row number `g` with a random value of it.
#[rustfmt::skip]
const TYPES: &[(&str, &str)] = &[
    ("bool", "random() < 0.5"),
    ("int2", "(random() * 65535 - 32768)::int::int2"),
    ("int4", "(random() * 4294967295 - 2147483648)::int8::int4"),
    ("int8", "((random() - 0.5) * 1.8e19)::numeric::int8"),
    ("oid", "(random() * 4294967295)::int8::oid"),
    ("float4", "(exp(random() * 160 - 80) * sign(random() - 0.5))::float4"),
    ("float8", "exp(random() * 1200 - 600) * sign(random() - 0.5)"),
    ("numeric", "((random() - 0.5)::numeric * 1e15 * power(10::numeric, (random() * 60 - 30)::int))"),
    ("numeric(12,4)", "((random() - 0.5) * 1e8)::numeric(12,4)"),
    ("numeric(40,0)", "((random() - 0.5)::numeric * 1e39)::numeric(40,0)"),
    ("text", "(select string_agg(chr((32 + random() * 200)::int), '') from generate_series(1, (random() * 20)::int) n where g > 0)"),
    ("varchar(40)", "md5(random()::text)"),
    ("char(40)", "md5(random()::text)"),
    ("bytea", "decode(repeat(md5(random()::text), (random() * 4)::int), 'hex')"),
    ("date", "date '0001-01-01' + (random() * 3000000 - 1000000)::int"),
    ("time", "time '00:00' + random() * interval '24 hours'"),
    ("time(2)", "(time '00:00' + random() * interval '24 hours')::time(2)"),
    ("timestamp", "timestamp '2000-01-01' + (random() - 0.5) * interval '8000 years'"),
    ("timestamp(3)", "(timestamp '2000-01-01' + (random() - 0.5) * interval '8000 years')::timestamp(3)"),
    ("timestamptz", "timestamptz '2000-01-01+00' + (random() - 0.5) * interval '8000 years'"),
    ("timestamptz(1)", "(timestamptz '2000-01-01+00' + (random() - 0.5) * interval '100 years')::timestamptz(1)"),
    ("timetz", "(time '00:00' + random() * interval '24 hours')::timetz at time zone 'UTC'"),
    ("interval", "make_interval((random() * 20 - 10)::int, (random() * 30 - 15)::int, 0, (random() * 60 - 30)::int, 0, 0, (random() - 0.5) * 1e5)"),
    ("uuid", "gen_random_uuid()"),
    ("json", "to_json(array[md5(random()::text), null, (random() - 0.5)::text])"),
    ("jsonb", "jsonb_build_object(md5(random()::text), random())"),
    ("xml", "('<a b=\"' || random() || '\"/>')::xml"),
    ("bit(32)", "(random() * 2147483647)::int::bit(32)"),
    ("bit varying", "(random() * 2147483647)::int::bit(32)::bit varying"),
    ("inet", "('10.0.0.0'::inet + (random() * 16777215)::int)"),
    ("macaddr", "(substr(md5(random()::text), 1, 12))::macaddr"),
    ("point", "point(random() - 0.5, random() * 1e9)"),
    ("line", "line(point(random(), random()), point(random() + 1, random() + 1))"),
    ("lseg", "lseg(point(random(), random()), point(random(), random()))"),
    ("box", "box(point(random(), random()), point(random(), random()))"),
    ("path", "path(polygon((random() * 5 + 3)::int, circle(point(random(), random()), random() + 1)))"),
    ("polygon", "polygon((random() * 5 + 3)::int, circle(point(random(), random()), random() + 1))"),
    ("circle", "circle(point(random(), random()), random())"),
    ("int8range", "int8range((random() * 1e9)::int8, (1e9 + random() * 1e9)::int8)"),
    ("numrange", "numrange(random()::numeric, (1 + random())::numeric, '(]')"),
    ("tstzrange", "tstzrange(timestamptz '2000-01-01+00' + random() * interval '9 years', null)"),
    ("int4multirange", "int4multirange(int4range(1, (2 + random() * 9)::int), int4range((20 + random() * 9)::int, null))"),
    ("tsvector", "to_tsvector('simple', md5(random()::text) || ' ' || random())"),
    ("tsquery", "to_tsquery('simple', md5(random()::text) || ' & b')"),
    ("pg_lsn", "('0/0'::pg_lsn + (random() * 1e15)::int8::numeric)"),
    ("xid8", "((random() * 1e15)::int8)::text::xid8"),
];

/// Types whose array is compared as easily as themselves.
fn has_array(name: &str) -> bool {
    !matches!(name, "box" | "bit(32)" | "bit varying")
}

async fn random_tables(test: &mut Fixture) -> Result<()> {
    let mut random = Random::new(20_240_229);
    let mut tables = Vec::new();
    let mut rows = vec!["select setseed(0.42)".to_owned()];
    for number in 0..TABLES {
        let mut columns = vec!["id int primary key".to_owned()];
        let mut values = vec!["g".to_owned()];
        for column in 0..=random.below(12) {
            let (name, expression) = TYPES[random.below(TYPES.len() as u64) as usize];
            if has_array(name) && random.below(4) == 0 {
                columns.push(format!("c{column} {name}[]"));
                values.push(format!(
                    "case when random() < 0.9 then array[{expression}, null, {expression}]::{name}[] end"
                ));
            } else {
                columns.push(format!("c{column} {name}"));
                values.push(format!("case when random() < 0.9 then {expression} end"));
            }
        }
        let full = if number % 2 == 0 { "full" } else { "default" };
        tables.push(format!(
            "create table random_{number} ({}); alter table random_{number} replica identity {full}",
            columns.join(", ")
        ));
        let values = values.join(", ");
        rows.push(format!("insert into random_{number} select {values} from generate_series(1, {ROWS}) g"));
        rows.push(format!("delete from random_{number} where id % 7 = 0"));
    }
    let names: Vec<String> = (0..TABLES).map(|number| format!("public.random_{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    test.capture(&tables.join("; "), &names).await?;
    let mut headwater = test.start(test.config()).await?;
    for statement in rows {
        test.database.execute(&statement).await.with_context(|| statement.clone())?;
    }
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records > TABLES * ROWS, "{} records", report.records);
    Ok(())
}

#[test]
fn random_tables_of_random_types() {
    on_shared("random_types", random_tables);
}
