//! Every kind of change of every kind of table, on every version of Postgres, without any fault: so nothing twice.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on};
use crate::harness::servers;
use crate::values;

const TABLES: &str = r#"
create table item (id bigint primary key, name text, quantity int, price numeric(12,2));
create table pair (a int, b text, c int, primary key (b, a));
create table letter (id int primary key, subject text, body text, raw bytea, lines text[]);
alter table letter alter body set storage external, alter raw set storage external, alter lines set storage external;
create table letter_full (id int primary key, subject text, body text);
alter table letter_full alter body set storage external, replica identity full;
create table whole (id int primary key, v text, n numeric(10,2));
alter table whole replica identity full;
create table indexed (id int primary key, code int not null unique, v text);
alter table indexed replica identity using index indexed_code_key;
create table keyless (a int, b text);
create table keyless_full (a int, b text);
alter table keyless_full replica identity full;
create table cleared (id int primary key);
create table unpublished (id int);
create schema "Ünï code";
create table "Ünï code"."Straße $1"
  ("ID" int primary key, "with space" text, "1st" text, "dash-ed" text, "naïve" text, "select" text, "quo""te" text);
"#;

const CAPTURED: &[&str] = &[
    "public.item",
    "public.pair",
    "public.letter",
    "public.letter_full",
    "public.whole",
    "public.indexed",
    "public.keyless",
    "public.keyless_full",
    "public.cleared",
    "public.sample",
    "Ünï code.Straße $1",
];

/// Each line is sent as one message: one transaction unless it has its own begin and commit.
const CHANGES: &[&str] = &[
    // single rows, several rows, many rows, COPY
    "insert into item values (1, 'one', 1, 1.10)",
    "insert into item values (2, 'two', 2, 2.20), (3, 'three', 3, 3.30), (4, null, null, null)",
    "insert into item select g, 'row ' || g, g % 7, g / 3.0 from generate_series(100, 699) g",
    "copy item (id) from program 'seq 1000 1499'",
    "update item set quantity = quantity + 1 where id <= 3",
    "update item set name = null where id between 100 and 199",
    "delete from item where id between 600 and 649",
    "delete from item where id = 4",
    "insert into item values (4, 'four again', 4, 4.40)",
    // the key changes: alone, among others, to a key that was free a moment ago
    "update item set id = 5 where id = 4",
    "update item set id = id + 10000 where id between 1000 and 1010",
    "begin; delete from item where id = 2; update item set id = 2 where id = 3; insert into item values (3, 'new three'); commit",
    "insert into pair values (1, 'x', 10), (2, 'x', 20), (1, 'y', 30)",
    "update pair set c = 21 where a = 2",
    "update pair set a = 3 where a = 2",
    "update pair set b = 'z' where b = 'y'",
    "delete from pair where b = 'x'",
    // what is rolled back is not there
    "begin; insert into item values (90, 'rolled back'); delete from item where id < 100; rollback",
    "begin; insert into item values (91, 'kept'); savepoint s; insert into item values (92, 'rolled back');
     update item set quantity = 0; rollback to s; insert into item values (93, 'kept'); commit",
    "begin; savepoint a; insert into item values (94, 'kept'); savepoint b; insert into item values (95, 'gone');
     savepoint c; insert into item values (96, 'gone'); release c; rollback to b; release a; commit",
    "begin; savepoint a; insert into item values (97, 'gone'); rollback to a; commit",
    // one row many times in one transaction
    "begin; insert into item values (80, 'v1'); update item set name = 'v2' where id = 80; delete from item where id = 80;
     insert into item values (80, 'v3'); update item set id = 81 where id = 80; update item set name = 'v4' where id = 81; commit",
    // two phases
    "begin; insert into item values (70, 'prepared'); prepare transaction '{name}_kept'",
    "begin; insert into item values (71, 'prepared'); prepare transaction '{name}_gone'",
    "insert into item values (72, 'between')",
    "rollback prepared '{name}_gone'",
    "commit prepared '{name}_kept'",
    // unchanged TOAST, changed TOAST, a changed key with unchanged TOAST
    "insert into letter select g, 's', repeat('body' || g, 2000), decode(repeat('00ff', 3000), 'hex'),
       array_fill('line'::text, array[1500]) from generate_series(1, 3) g",
    "update letter set subject = 't'",
    "update letter set body = repeat('other', 1000) where id = 1",
    "update letter set body = 'short now' where id = 1",
    "update letter set body = null, raw = null where id = 3",
    "update letter set id = 4 where id = 2",
    "delete from letter where id = 4",
    "insert into letter_full select g, 's', repeat('body' || g, 2000) from generate_series(1, 2) g",
    "update letter_full set subject = 't'",
    "update letter_full set id = 3 where id = 2",
    "delete from letter_full where id = 1",
    // identities
    "insert into whole values (1, 'a', 1.10), (2, null, null)",
    "update whole set v = 'b' where id = 1",
    "update whole set id = 3 where id = 1",
    "delete from whole",
    "insert into indexed values (1, 100, 'a'), (2, 200, 'b')",
    "update indexed set v = 'c' where id = 1",
    "update indexed set code = 101 where id = 1",
    "update indexed set id = 9 where id = 2",
    "delete from indexed where id = 1",
    "insert into keyless values (1, 'x'), (1, 'x'), (null, null)",
    "insert into keyless_full values (1, 'x'), (1, 'x'), (2, null)",
    "update keyless_full set b = 'y' where a = 1",
    "delete from keyless_full where a = 2",
    // TRUNCATE is skipped and counted
    "insert into cleared select generate_series(1, 10)",
    "truncate cleared",
    "insert into cleared values (1)",
    // names
    r#"insert into "Ünï code"."Straße $1" values (1, 'a', 'b', 'c', 'd', 'e', 'f'), (2, null, null, null, null, null, null)"#,
    r#"update "Ünï code"."Straße $1" set "quo""te" = 'quo"te', "naïve" = 'naïve' where "ID" = 1"#,
    r#"delete from "Ünï code"."Straße $1" where "ID" = 2"#,
    // nothing that is published
    "insert into unpublished values (1)",
    "begin; commit",
    // several tables in one transaction
    "begin; insert into item values (60, 'together'); insert into keyless values (6, 'together');
     update pair set c = 60; insert into whole values (60, 'together', 6); commit",
];

async fn every_kind(test: &mut Fixture) -> Result<()> {
    test.capture(&format!("{TABLES}{}", values::TABLE), CAPTURED).await?;
    let mut headwater = test.start(test.config()).await?;
    for change in CHANGES {
        test.database.execute(&change.replace("{name}", test.prefix())).await?;
    }
    for insert in values::ROWS {
        test.database.execute(insert).await?;
    }
    test.settle().await?;
    let truncates = headwater.metric("headwater_skipped_total", &["truncate", "cleared"]);
    ensure!(truncates == Some(1.0), "TRUNCATE was counted as {truncates:?}");
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.transactions > 50 && report.samples > 0, "too little was compared: {report:?}");
    Ok(())
}

fn on_version(version: u32) {
    on(&format!("basic_{version}"), servers::postgres(version), servers::kafka(), every_kind);
}

#[test]
fn on_postgres_14() {
    on_version(14);
}

#[test]
fn on_postgres_15() {
    on_version(15);
}

#[test]
fn on_postgres_16() {
    on_version(16);
}

#[test]
fn on_postgres_17() {
    on_version(17);
}

#[test]
fn on_postgres_18() {
    on_version(18);
}
