//! Types where Debezium has no answer: generated columns that Postgres publishes, composite types, unknown types,
//! arrays of several dimensions, and Avro's own logical types, through the whole path.

use anyhow::{Context, Result, ensure};
use apache_avro::types::Value;

use crate::harness::database::PUBLICATION;
use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::servers;

/// The row images `after` of a table's records, in the order of one partition.
fn after_images(test: &Fixture, table: &str) -> Result<Vec<Value>> {
    let mut decoder = Decoder::new(&test.kafka.registry);
    let raw = test.raw_topic(&test.topic(table))?;
    tokio::task::block_in_place(|| {
        raw.iter()
            .filter_map(|raw| raw.value.as_deref())
            .map(|bytes| Ok(field(decoder.decode(bytes)?.value(), "after")?.clone()))
            .collect()
    })
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    match value {
        Value::Union(_, inner) => field(inner, name),
        Value::Record(fields) => {
            let (_, value) =
                fields.iter().find(|(field, _)| field == name).with_context(|| name.to_owned())?;
            Ok(match value {
                Value::Union(_, inner) => inner,
                value => value,
            })
        }
        _ => anyhow::bail!("no record with {name}"),
    }
}

/// Generated columns are published from Postgres 18 on, and only if asked for.
async fn avro_types(test: &mut Fixture) -> Result<()> {
    let version: u32 =
        test.database.value("show server_version_num").await?.context("a version")?.parse::<u32>()? / 10_000;
    let with = if version >= 18 { "with (publish_generated_columns = stored)" } else { "" };
    let schema = format!(
        "create type pair as (a int, b text); create extension cube;
         create table odd (id int primary key, gone int, twice int generated always as (id * 2) stored, grid int[],
           pair pair, volume cube, labels audit.hstore, at timestamptz, day date, amount numeric(10,2), free numeric,
           uid uuid, spans int4multirange, took interval, bits varbit, days date[]);
         alter table odd drop column gone;
         create publication {PUBLICATION} for table odd {with}"
    );
    test.database.execute(&schema).await?;
    test.expect_complaint("no Avro form of its own");
    test.expect_complaint("matches no published table");
    let grid = toml::Table::from_iter([
        ("tables".to_owned(), "public.od?".into()),
        ("array_handling".to_owned(), "list".into()),
    ]);
    let later = toml::Table::from_iter([
        ("tables".to_owned(), vec!["other.*", "*.odd"].into()),
        ("array_handling".to_owned(), "text".into()),
    ]);
    let config = test.config().set("topics.partitions", 1).set("records.types", "avro");
    let mut headwater = test.spawn(config.push("table", grid).push("table", later))?;
    headwater.streaming().await?;
    test.database
        .execute(
            "insert into odd (id, grid, pair, volume, labels, at, day, amount, free, uid, spans, took, bits, days)
             values (1, '[0:1][1:2]={{1,2},{3,NULL}}', (7, 'x y'), '(1,2)', 'a=>1', '1970-01-01 02:00:00.000001+02',
               '1970-01-02', 1.10, 'NaN', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{[1,3),[5,8)}', '1 day', '0010',
               '{1970-01-01}')",
        )
        .await?;
    test.database.execute("alter table odd add later text").await?;
    test.database.execute("insert into odd (id, later) values (2, 'after the change')").await?;
    test.settle().await?;
    ensure!(
        headwater.log_lines(&["no Avro form of its own", "volume", "cube"]).len() == 1,
        "warned not once"
    );
    headwater.stop().await?;

    let rows = after_images(test, "public.odd")?;
    ensure!(rows.len() == 2, "{} rows", rows.len());
    let string = |text: &str| Value::String(text.to_owned());
    for (name, expected) in [
        ("id", Value::Int(1)),
        ("grid", string("[0:1][1:2]={{1,2},{3,NULL}}")),
        ("pair", string("(7,\"x y\")")),
        ("volume", string("(1, 2)")),
        ("at", Value::TimestampMicros(1)),
        ("day", Value::Date(1)),
        ("amount", Value::Decimal(apache_avro::Decimal::from(&[110]))),
        ("free", string("NaN")),
        ("spans", string("{[1,3),[5,8)}")),
        ("took", string("P0Y0M1DT0H0M0S")),
        ("bits", string("0010")),
        ("days", string("{1970-01-01}")),
    ] {
        let found = field(&rows[0], name)?;
        ensure!(*found == expected, "{name}: {found:?}");
    }
    ensure!(matches!(field(&rows[0], "labels")?, Value::Map(pairs) if pairs.len() == 1), "labels");
    ensure!(matches!(field(&rows[0], "uid")?, Value::Uuid(_)), "uid");
    ensure!(*field(&rows[1], "later")? == string("after the change"), "later");
    match field(&rows[1], "twice") {
        Ok(twice) => ensure!(version >= 18 && *twice == Value::Int(4), "twice: {twice:?}"),
        Err(_) => ensure!(version < 18, "the generated column is missing"),
    }
    Ok(())
}

/// The error names table, column and type, and quotes no value.
async fn several_dimensions(test: &mut Fixture) -> Result<()> {
    test.capture("create table grid (id int primary key, cells int[])", &["public.grid"]).await?;
    test.expect_complaint("");
    let mut headwater = test.spawn(test.config())?;
    headwater.streaming().await?;
    test.database.execute("insert into grid values (1, '{1,2}'), (2, '{{31337,2},{3,4}}')").await?;
    headwater.exits_with(43).await?;
    let log = headwater.log_text();
    for words in ["public.grid", "\\\"cells\\\" (int4[])", "array_handling"] {
        ensure!(log.contains(words), "'{words}' is not in what it says:\n{}", headwater.log_tail());
    }
    ensure!(!log.contains("31337"), "it quotes a value");
    Ok(())
}

/// `unknown_types = "halt"` stops before the first record.
async fn unknown_refused(test: &mut Fixture) -> Result<()> {
    let table = "create extension cube; create table odd (id int primary key, volume cube)";
    test.capture(table, &["public.odd"]).await?;
    test.expect_complaint("");
    let mut headwater = test.spawn(test.config().set("records.unknown_types", "halt"))?;
    headwater.streaming().await?;
    test.database.execute("insert into odd values (1, '(1,2)')").await?;
    headwater.exits_with(46).await?;
    let log = headwater.log_text();
    ensure!(log.contains("cube") && log.contains("volume"), "it names neither:\n{}", headwater.log_tail());
    Ok(())
}

#[test]
fn avro_types_16() {
    on_shared("avro_types", avro_types);
}

#[test]
fn avro_types_18() {
    on("avro_types_18", servers::postgres(18), servers::kafka(), avro_types);
}

#[test]
fn arrays_of_several_dimensions_halt() {
    on_shared("dimensions", several_dimensions);
}

#[test]
fn unknown_types_can_be_refused() {
    on_shared("unknown_refused", unknown_refused);
}
