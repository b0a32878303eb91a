//! A table changes while it streams, and Headwater is killed around it: what was sent comes again byte for byte, also
//! when today's catalog says something else.

use anyhow::{Context, Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::http;

const TABLE: &str = "create table item (id int primary key, name text not null, kind text default 'plain')";

async fn column_added(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item select g, 'two columns' from generate_series(1, 100) g").await?;
    test.settle().await?;
    test.database.execute("alter table item add price numeric(10,2) default 9.99").await?;
    test.database
        .execute("insert into item select g, 'three', 'k', g from generate_series(101, 200) g")
        .await?;
    headwater.metric_until("headwater_records_total", &["item"], |n| n > 100.0).await?;
    headwater.kill()?;
    test.database.execute("alter table item drop column kind").await?;
    test.database.execute("update item set name = 'kind is gone' where id < 50").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

/// Killed in the middle of a transaction whose first records Kafka has, then nullability and default change: the
/// repeated records must be what they were, so the plan can't come from today's catalog.
async fn changed_before_the_repetition(test: &mut Fixture) -> Result<()> {
    // With the whole old row sent, a NOT NULL column is not nullable in the schema.
    test.capture(&format!("{TABLE}; alter table item replica identity full"), &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database
        .execute("insert into item select g, 'sent twice' from generate_series(1, 150000) g")
        .await?;
    headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 1000.0).await?;
    headwater.kill()?;
    test.database
        .execute("alter table item alter name drop not null, alter kind set default 'other'")
        .await?;
    test.database.execute("insert into item values (200000, null, 'later')").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.duplicates > 0, "nothing was repeated, so nothing was tested");
    Ok(())
}

/// The column is gone from the catalog before Headwater ever saw the table: its rows still arrive whole.
async fn column_dropped_before_it_was_read(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    headwater.stop().await?;
    test.database.execute("insert into item values (1, 'one', 'k1'), (2, 'two', null)").await?;
    test.database.execute("alter table item drop column kind").await?;
    test.database.execute("insert into item values (3, 'three')").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 3, "{report:?}");
    Ok(())
}

/// A label that is added to an enum comes without any notice: the list in the schema grows with the first row that
/// holds it, in the midst of a transaction, and a repetition has the list of its moment.
async fn enum_label_added(test: &mut Fixture) -> Result<()> {
    // A label that is renamed is another text in the table than in its records.
    test.do_not_fold("public.item");
    let schema = "create type mood as enum ('sad', 'ok');
                  create table item (id int primary key, mood mood, moods mood[])";
    test.capture(schema, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'sad', '{ok}')").await?;
    test.settle().await?;
    test.database.execute("alter type mood add value 'happy'").await?;
    test.database
        .execute(
            "begin; insert into item select g, 'ok' from generate_series(2, 50000) g;
             insert into item values (50001, 'ok', '{happy,sad}'); update item set id = 50002, mood = 'happy' where id = 1;
             insert into item select g, 'happy' from generate_series(60000, 110000) g; commit",
        )
        .await?;
    headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 60000.0).await?;
    headwater.kill()?;
    test.database
        .execute(
            "alter type mood add value 'later' before 'ok'; alter type mood rename value 'happy' to 'glad'",
        )
        .await?;
    test.database.execute("insert into item values (200000, 'glad', '{later}')").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let allowed = allowed_lists(test)?;
    // What was listed when the row before came, with the row's own, and in the end every spelling.
    let expected = ["sad,ok", "sad,ok,happy", "sad,ok,happy,later,glad"];
    ensure!(allowed == expected, "the lists are {allowed:?}");
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.duplicates > 50000, "nothing was repeated: {report:?}");
    Ok(())
}

/// A label in a key shows in the value's schema; the key's stays, and with it the bytes and partitions of all keys.
async fn enum_label_in_a_key(test: &mut Fixture) -> Result<()> {
    let schema = "create type mood as enum ('sad', 'ok');
                  create table item (mood mood, id int, v int, primary key (mood, id))";
    test.capture(schema, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item select 'sad', g from generate_series(1, 50) g").await?;
    // The table is described as it was before the label.
    test.settle().await?;
    test.database.execute("alter type mood add value 'happy'").await?;
    test.database
        .execute("begin; update item set v = 1; insert into item values ('happy', 1); update item set v = 2; commit")
        .await?;
    test.settle().await?;
    headwater.kill()?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("update item set v = 3; delete from item where mood = 'happy'").await?;
    test.settle().await?;
    headwater.stop().await?;
    let values = lists_at(test, "value", "/fields/0/type/1/fields/0/type")?;
    ensure!(values == ["sad,ok", "sad,ok,happy"], "the value's lists are {values:?}");
    let keys = lists_at(test, "key", "/fields/0/type")?;
    ensure!(keys == ["sad,ok"], "the key's lists are {keys:?}");
    test.check(Repeats::Replayed).await.map(drop)
}

/// The lists of labels in the versions of the value's subject.
fn allowed_lists(test: &Fixture) -> Result<Vec<String>> {
    lists_at(test, "value", "/fields/0/type/1/fields/1/type/1")
}

/// The lists of labels at one place of the versions of a subject.
fn lists_at(test: &Fixture, part: &str, place: &str) -> Result<Vec<String>> {
    let subject = format!("{}/subjects/{}-{part}/versions", test.kafka.registry, test.topic("public.item"));
    let versions: Vec<u32> = serde_json::from_str(&http::get(&subject)?.body)?;
    let mut lists = Vec::new();
    for version in versions {
        let body: serde_json::Value =
            serde_json::from_str(&http::get(&format!("{subject}/{version}"))?.body)?;
        let schema: serde_json::Value = serde_json::from_str(body["schema"].as_str().context("no schema")?)?;
        let mood = schema.pointer(place).context("no such place")?;
        lists.push(mood["connect.parameters"]["allowed"].as_str().context("no list")?.to_owned());
    }
    Ok(lists)
}

/// The server repeats a Relation message although the table is as it was; when it comes again after a kill, the catalog
/// says something else, and the rows behind it must still be what they were.
async fn repeated_message_changes_nothing(test: &mut Fixture) -> Result<()> {
    test.capture(&format!("{TABLE}; alter table item replica identity full"), &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database
        .execute(
            "begin; insert into item select g, 'before' from generate_series(1, 50000) g;
             alter table item set (fillfactor = 90);
             insert into item select g, 'after' from generate_series(50001, 100000) g; commit",
        )
        .await?;
    headwater.metric_until("headwater_records_acknowledged_total", &[], |n| n > 60000.0).await?;
    headwater.kill()?;
    test.database
        .execute("alter table item alter name drop not null, alter kind set default 'other'")
        .await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::Replayed).await?;
    ensure!(report.duplicates > 50000, "the second half was not repeated: {report:?}");
    Ok(())
}

/// NOT NULL is dropped while nobody reads: the first message of the next session looks as the last one did.
async fn not_null_dropped_while_stopped(test: &mut Fixture) -> Result<()> {
    test.capture(&format!("{TABLE}; alter table item replica identity full"), &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'one'), (2, 'two')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.database
        .execute(
            "alter table item alter name drop not null; insert into item values (3, 'three'), (4, null);
             update item set name = null where id = 1; update item set id = 5, name = null where id = 2; delete from item where id = 4",
        )
        .await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.kill()?;
    test.database.execute("update item set name = 'again'").await?;
    let mut headwater = test.start(test.config()).await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await.map(drop)
}

/// A second table joins the publication while it streams.
async fn table_added(test: &mut Fixture) -> Result<()> {
    test.capture(TABLE, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("create table late (id int primary key, v text)").await?;
    test.database.capture_also("public.late").await?;
    test.database.execute("insert into late values (1, 'one')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
}

#[test]
fn column_added_and_killed() {
    on_shared("history_added", column_added);
}

#[test]
fn repeated_records_are_identical_after_ddl() {
    on_shared("history_repeat", changed_before_the_repetition);
}

#[test]
fn column_dropped_before_it_was_read_is_kept() {
    on_shared("history_dropped", column_dropped_before_it_was_read);
}

#[test]
fn enum_label_arrives_in_a_key() {
    on_shared("history_enum_key", enum_label_in_a_key);
}

#[test]
fn enum_label_arrives() {
    on_shared("history_enum", enum_label_added);
}

#[test]
fn a_repeated_message_changes_nothing() {
    on_shared("history_message", repeated_message_changes_nothing);
}

#[test]
fn not_null_dropped_while_stopped_is_met() {
    on_shared("history_null", not_null_dropped_while_stopped);
}

#[test]
fn table_joins_the_publication() {
    on_shared("history_table", table_added);
}
