//! Tables change while rows flow and transactions overlap: columns, keys, identities, names. Every record has the schema
//! of its own moment, which the audit notes with each row, and a record that is sent again after a kill has the bytes
//! that it had.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{Config, Headwater};
use crate::harness::traffic::Traffic;

const TABLE: &str =
    "create table item (id int primary key, code int not null unique, name text, kind text default 'plain');
                     create table other (id int primary key, v text)";

/// No change of these tests is refused: what a registry makes of them is another test's.
fn tolerant(test: &mut Fixture) -> Config {
    test.expect_complaint("compatibility_set_to_none");
    test.expect_complaint("key_schema_changed");
    test.config().set("records.on_incompatible", "set_compatibility_none")
}

/// Rows before and after the change in the change's own transaction, and traffic around it; `insert` makes rows with
/// the ids that are put in for `{}`.
async fn change(
    test: &Fixture,
    traffic: &Traffic,
    before: &str,
    ddl: &str,
    after: &str,
    id: i32,
) -> Result<()> {
    traffic.commits(4).await?;
    let (before, after) = (before.replace("{}", &id.to_string()), after.replace("{}", &(id + 1).to_string()));
    // A transaction of another table stays open across it.
    let open = test.database.connect().await?;
    open.batch_execute(&format!("begin; insert into other values ({id}, 'open')")).await?;
    test.database.execute(&format!("begin; {before}; {ddl}; {after}; commit")).await?;
    open.batch_execute("update other set v = 'closed'; commit").await?;
    traffic.commits(4).await
}

async fn kill(test: &mut Fixture, headwater: &mut Headwater, config: &Config) -> Result<()> {
    headwater.kill()?;
    *headwater = test.start(config.clone()).await?;
    Ok(())
}

const WRITE: &[&str] = &[
    "insert into item (id, code) values ({new}, {new})",
    "insert into item (id, code) values ({id}, {id}) on conflict (id) do update set code = excluded.code",
    "update item set code = -code where id = {id}",
    "update item set id = -id where id = {id}",
    "delete from item where id in ({id}, -{id})",
    "insert into other values ({new}, 'other')",
];

async fn columns(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLE).await?;
    test.database.capture_changing(&["public.item", "public.other"], false).await?;
    // A column takes the name of another one.
    test.do_not_fold("public.item");
    let config = tolerant(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 3, WRITE);
    let plain = "insert into item (id, code) values ({}000, {}000)";
    let named = "insert into item (id, code, name) values ({}000, {}000, 'n')";
    for (number, (ddl, before, after)) in [
        ("alter table item add column price numeric(10,2) default 9.99", named, "insert into item (id, code, price) values ({}000, {}000, 1.5)"),
        ("alter table item add column note text, add column size smallint not null default 3", plain, plain),
        ("alter table item rename column name to title", named, "insert into item (id, code, title) values ({}000, {}000, 't')"),
        ("alter table item alter column size type bigint", plain, "insert into item (id, code, size) values ({}000, {}000, 5000000000)"),
        ("alter table item alter column price type text using price::text || ' EUR'", plain, "insert into item (id, code, price) values ({}000, {}000, 'free')"),
        ("alter table item drop column kind", "insert into item (id, code, kind) values ({}000, {}000, 'k')", plain),
        // Reordered: what was second comes last.
        ("alter table item drop column title; alter table item add column title text", plain, "insert into item (id, code, title) values ({}000, {}000, 'last')"),
        ("alter table item alter column note set default 'd', alter column size drop not null, alter column size drop default", plain, plain),
        ("lock table item in access exclusive mode; update item set note = 'x' where note is null; alter table item alter column note set not null", plain, plain),
        ("alter table item rename column note to remark; alter table item rename column title to note", plain, "insert into item (id, code, note) values ({}000, {}000, 'was title')"),
    ]
    .into_iter()
    .enumerate()
    {
        change(test, &traffic, before, ddl, after, 2 * number as i32 + 100).await?;
        if number % 3 == 2 {
            kill(test, &mut headwater, &config).await?;
        }
    }
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.transactions > 80, "too little happened: {report:?}");
    Ok(())
}

async fn identities(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLE).await?;
    test.database.capture_changing(&["public.item", "public.other"], false).await?;
    // What a key was under another schema stays in the topic.
    test.do_not_fold("public.item");
    let config = tolerant(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 3, WRITE);
    let row =
        "insert into item (id, code) values ({}000, {}000); update item set name = 'u' where id = {}000";
    for (number, ddl) in [
        "alter table item replica identity full",
        "alter table item replica identity default",
        "alter table item replica identity using index item_code_key",
        "alter table item replica identity full; alter table item add column extra int not null default 1",
        "alter table item replica identity default",
        "alter table item drop constraint item_pkey, add primary key (code, id)",
        "alter table item replica identity full",
    ]
    .into_iter()
    .enumerate()
    {
        // Under FULL no message names the key: it is that of the catalog when the message is read, so the primary key
        // may change only when those messages were read, and under another identity.
        test.settle().await?;
        change(test, &traffic, row, ddl, row, 2 * number as i32 + 100).await?;
        if number % 2 == 1 {
            kill(test, &mut headwater, &config).await?;
        }
    }
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

async fn tables(test: &mut Fixture) -> Result<()> {
    test.database.execute(&format!("{TABLE}; create schema shop")).await?;
    test.database.capture_changing(&["public.item", "public.other"], false).await?;
    for name in ["public.item", "public.thing", "shop.thing"] {
        test.do_not_fold(name);
    }
    let config = tolerant(test);
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(&test.database, 3, WRITE);
    let row = |table: &str| format!("insert into {table} (id, code) values ({{}}000, {{}}000)");
    let write = |table: &str| -> Vec<String> {
        WRITE
            .iter()
            .map(|sql| {
                sql.replace(" item", &format!(" {table}"))
                    .replace("item.", &format!("{}.", table.rsplit('.').next().unwrap_or(table)))
            })
            .collect()
    };
    change(test, &traffic, &row("item"), "alter table item rename to thing", &row("thing"), 100).await?;
    kill(test, &mut headwater, &config).await?;
    let statements = write("thing");
    traffic.now(&statements.iter().map(String::as_str).collect::<Vec<_>>());
    change(test, &traffic, &row("thing"), "alter table thing set schema shop", &row("shop.thing"), 102)
        .await?;
    let statements = write("shop.thing");
    traffic.now(&statements.iter().map(String::as_str).collect::<Vec<_>>());
    change(
        test,
        &traffic,
        &row("shop.thing"),
        "alter table shop.thing rename to item; alter table shop.item set schema public",
        &row("item"),
        104,
    )
    .await?;
    kill(test, &mut headwater, &config).await?;
    traffic.now(WRITE);
    // The same name, another table: other columns, another key.
    traffic.commits(6).await?;
    test.database
        .execute(
            "begin; drop table item; create table item (code text, id int, code2 int, primary key (id), unique (code));
             alter publication captured add table item;
             create trigger audit after insert or update or delete on item for each row
             execute function audit.record_moment(); commit",
        )
        .await?;
    traffic.now(&[
        "insert into item values ('a{new}', {new}, 1)",
        "update item set code2 = code2 + 1 where id > {id}",
        "insert into other values ({new}, 'other')",
    ]);
    traffic.commits(20).await?;
    kill(test, &mut headwater, &config).await?;
    traffic.commits(20).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    for topic in ["public.item", "public.thing", "shop.thing"] {
        ensure!(
            !test.raw_topic(&test.topic(topic))?.is_empty(),
            "nothing in the topic of {topic}: {report:?}"
        );
    }
    Ok(())
}

/// Killed in the middle of a transaction that changes its table, when Kafka has its first records; the table changes
/// again before the restart. What comes again must be what it was, under both versions.
async fn repeated_across_a_change(test: &mut Fixture) -> Result<()> {
    test.database.execute(TABLE).await?;
    test.database.capture(&["public.item", "public.other"]).await?;
    let config = tolerant(test);
    let mut headwater = test.start(config.clone()).await?;
    test.database
        .execute(
            "begin; insert into item select g, g, 'before' from generate_series(1, 60000) g;
             alter table item add column price numeric(10,2) default 1.5, alter column kind set default 'other';
             insert into item (id, code, price) select g, g, g / 7.0 from generate_series(60001, 120000) g; commit",
        )
        .await?;
    headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 65000.0).await?;
    headwater.kill()?;
    test.database
        .execute(
            "alter table item drop column kind, alter column price type text, alter column name set not null",
        )
        .await
        .ok();
    test.database.execute("alter table item drop column kind, alter column price type text").await?;
    test.database.execute("insert into item values (200000, 200000, 'later', '7 EUR')").await?;
    let mut headwater = test.start(config).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.duplicates > 60000, "nothing of the second half was repeated: {report:?}");
    Ok(())
}

#[test]
fn columns_change_under_load() {
    on_shared("evolve_columns", columns);
}

#[test]
fn identities_and_keys_change_under_load() {
    on_shared("evolve_identity", identities);
}

#[test]
fn tables_move_under_load() {
    on_shared("evolve_tables", tables);
}

#[test]
fn a_repetition_across_a_change_is_identical() {
    on_shared("evolve_repeat", repeated_across_a_change);
}
