//! A table changes while it streams, and Headwater is killed around it: what was sent comes again byte for byte, also
//! when today's catalog says something else.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};

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

/// A label that is added to an enum comes without any notice.
async fn enum_label_added(test: &mut Fixture) -> Result<()> {
    let schema = "create type mood as enum ('sad', 'ok'); create table item (id int primary key, mood mood, moods mood[])";
    test.capture(schema, &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database.execute("insert into item values (1, 'sad', '{ok}')").await?;
    test.settle().await?;
    test.database.execute("alter type mood add value 'happy'").await?;
    test.database.execute("insert into item values (2, 'happy', '{happy,sad}')").await?;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::None).await.map(drop)
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
fn enum_label_arrives() {
    on_shared("history_enum", enum_label_added);
}

#[test]
fn table_joins_the_publication() {
    on_shared("history_table", table_added);
}
